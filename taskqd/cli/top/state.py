"""The state of ``taskq top``: the daemon's data, the selection and the visible view."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from taskqd.client import Facts, Ref


class Mode(Enum):
    """The visible view."""

    JOBS = "jobs"
    OUTPUT = "output"
    HELP = "help"


class Verb(Enum):
    """A request that a key sends; the value is the message about its result."""

    CANCEL = "cancelled"
    HOLD = "held"
    RELEASE = "released"
    RETRY = "pending again"
    PAUSE = "paused"
    RESUME = "resumed"


class Action(NamedTuple):
    """A request about a job, a queue, or, without either, all queues."""

    verb: Verb
    job: Ref | None = None
    queue: str | None = None

    @property
    def subject(self) -> str:
        """The target of the action for messages."""
        if self.job is not None:
            return f"job {self.job}"
        return "everything" if self.queue is None else f"queue {self.queue}"


class OutputView(NamedTuple):
    """The output that is shown."""

    job: Ref
    stream: str = "stdout"


def ref(job: Facts) -> Ref:
    """Return the reference of a job: its id, or its array and index."""
    return int(job["id"]) if job.get("array") is None else f"{job['array']}.{job['index']}"


class Snapshot(NamedTuple):
    """The replies of the daemon to one round of queries."""

    stats: Facts
    queues: Sequence[Facts]
    running: Sequence[Facts]
    pending: Sequence[Facts]
    ended: Sequence[Facts]
    output: bytes | None = None


@dataclass
class State:
    """The whole state. ``selected`` is the id of the selected job and ``index`` its position in ``jobs``."""

    address: str = ""
    snapshot: Snapshot | None = None
    error: str = ""
    """Why the snapshot is not current, or empty."""
    message: str = ""
    """The result of the last action."""
    mode: Mode = Mode.JOBS
    output_view: OutputView | None = None
    scroll: int = 0
    """Number of lines that the output is scrolled back."""
    question: Action | None = None
    """The action that needs confirmation."""
    selected: int | None = None
    index: int = 0
    jobs: list[Facts] = field(default_factory=list)

    def update(self, snapshot: Snapshot) -> None:
        """Store a snapshot; the selection stays on the same job."""
        self.snapshot = snapshot
        self.error = ""
        self.jobs = [*snapshot.running, *snapshot.pending, *snapshot.ended]
        ids = [job["id"] for job in self.jobs]
        if self.selected in ids:
            self.index = ids.index(self.selected)
        self._select(self.index)

    def move(self, by: int) -> None:
        """Move the selection down by ``by`` jobs."""
        self._select(self.index + by)

    def _select(self, index: int) -> None:
        self.index = max(0, min(index, len(self.jobs) - 1))
        self.selected = self.jobs[self.index]["id"] if self.jobs else None

    @property
    def job(self) -> Facts | None:
        """The selected job."""
        return self.jobs[self.index] if self.jobs else None

    def is_paused(self, queue: str | None) -> bool:
        """Whether a queue is paused individually; without a name, whether all queues are paused."""
        if self.snapshot is None:
            return False
        if queue is None:
            return bool(self.snapshot.stats["paused"])
        return any(each["paused"] for each in self.snapshot.queues if each["name"] == queue)
