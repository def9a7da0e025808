"""The state of ``taskq top``: the daemon's data, the selection and the visible view."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from taskqd.cli.display.text import seconds_run
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
    SUSPEND = "suspended"
    CONTINUE = "continued"
    RETRY = "pending again"
    PAUSE = "paused"
    RESUME = "resumed"


class Sort(Enum):
    """The order of the jobs within each section; the value is its name on the screen."""

    DEFAULT = "by time"
    QUEUE = "by queue"
    OWNER = "by owner"
    LABEL = "by label"
    RUN_TIME = "by run time"


class Action(NamedTuple):
    """A request about jobs, a queue, or, without either, all queues."""

    verb: Verb
    jobs: tuple[Ref, ...] = ()
    queue: str | None = None

    @property
    def subject(self) -> str:
        """The target of the action for messages."""
        if self.jobs:
            return f"job {self.jobs[0]}" if len(self.jobs) == 1 else f"{len(self.jobs)} jobs"
        return "everything" if self.queue is None else f"queue {self.queue}"

    @property
    def question(self) -> str:
        """The question before the action."""
        return f"{self.verb.name.capitalize()} {self.subject}?"


DETAILS = "details"
VIEWS = (DETAILS, "stdout", "stderr")
"""Views of a job: its fields with the reason for its status and the end of its output, and its streams."""


class OutputView(NamedTuple):
    """A job and the view of it that is shown: one of VIEWS."""

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


_SEARCHED = ("command", "script_line", "label", "queue", "owner")
_SORT_KEYS: dict[Sort, Callable[[Facts], Any]] = {
    Sort.DEFAULT: lambda _: 0,
    Sort.QUEUE: lambda job: str(job.get("queue")),
    Sort.OWNER: lambda job: str(job.get("owner")),
    Sort.LABEL: lambda job: job.get("label") or "",
    Sort.RUN_TIME: lambda job: -(seconds_run(job, time.time()) or 0.0),
}


@dataclass
class State:
    """The whole state.

    ``sections`` are the running, pending and ended jobs that the filter admits, in their order, and ``jobs``
    all of them. ``selected`` is the id of the selected job and ``index`` its position in ``jobs``; ``marked``
    are ids of jobs to act on together.
    """

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
    sections: tuple[list[Facts], list[Facts], list[Facts]] = field(default_factory=lambda: ([], [], []))
    jobs: list[Facts] = field(default_factory=list)
    marked: set[int] = field(default_factory=set)
    filter: str = ""
    """Text that the command, label, queue or owner of the shown jobs contains, in any case."""
    is_typing: bool = False
    """Whether keys are added to the filter."""
    sort: Sort = Sort.DEFAULT

    def update(self, snapshot: Snapshot) -> None:
        """Store a snapshot; the selection stays on the same job."""
        self.snapshot = snapshot
        self.error = ""
        self.arrange()

    def arrange(self) -> None:
        """Filter and sort the jobs of the snapshot again."""
        if self.snapshot is None:
            return
        running, pending, ended = self.snapshot.running, self.snapshot.pending, self.snapshot.ended
        self.sections = (self._arranged(running), self._arranged(pending), self._arranged(ended))
        self.jobs = [job for section in self.sections for job in section]
        ids = [job["id"] for job in self.jobs]
        self.marked.intersection_update(ids)
        if self.selected in ids:
            self.index = ids.index(self.selected)
        self._select(self.index)

    def _arranged(self, jobs: Sequence[Facts]) -> list[Facts]:
        text = self.filter.lower()
        found = [job for job in jobs if any(text in (job.get(name) or "").lower() for name in _SEARCHED)]
        return sorted(found, key=_SORT_KEYS[self.sort])

    @property
    def targets(self) -> list[Facts]:
        """The jobs to act on: the marked ones, else the selected one."""
        marked = [job for job in self.jobs if job["id"] in self.marked]
        return marked or ([] if self.job is None else [self.job])

    def toggle_mark(self) -> None:
        """Mark the selected job or unmark it, and select the next one."""
        if self.selected is not None:
            self.marked ^= {self.selected}
            self.move(1)

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
