"""What ``taskq top`` knows and shows: the daemon's answers, what is selected, and what is in front."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from taskqd.client import Facts, Ref


class Mode(Enum):
    """What is in front."""

    JOBS = "jobs"
    OUTPUT = "output"
    HELP = "help"


class Verb(Enum):
    """What can be asked of the daemon by a key; the value is what is said once it is done."""

    CANCEL = "cancelled"
    HOLD = "held"
    RELEASE = "released"
    RETRY = "pending again"
    PAUSE = "paused"
    RESUME = "resumed"


class Act(NamedTuple):
    """Something to be done: to the job that is named, to a queue, or where neither is named to all queues."""

    verb: Verb
    job: Ref | None = None
    queue: str | None = None

    @property
    def subject(self) -> str:
        """What it is done to, as a person says it."""
        if self.job is not None:
            return f"job {self.job}"
        return "everything" if self.queue is None else f"queue {self.queue}"


class Look(NamedTuple):
    """Which output is looked into."""

    job: Ref
    stream: str = "stdout"


def ref(job: Facts) -> Ref:
    """Return how a job is named: by its id, or as a task of its array."""
    return int(job["id"]) if job.get("array") is None else f"{job['array']}.{job['index']}"


class News(NamedTuple):
    """What the daemon has answered, all at one moment."""

    stats: Facts
    queues: Sequence[Facts]
    running: Sequence[Facts]
    pending: Sequence[Facts]
    ended: Sequence[Facts]
    output: bytes | None = None


@dataclass
class State:
    """All of it. ``index`` is where the selection is in ``jobs``, kept by the id of ``selected``."""

    address: str = ""
    news: News | None = None
    trouble: str = ""
    """Why there is no news, nothing where there is."""
    message: str = ""
    """What the last act has come to."""
    mode: Mode = Mode.JOBS
    look: Look | None = None
    back: int = 0
    """How many lines the output is scrolled back."""
    question: Act | None = None
    """What is done if it is answered by y."""
    selected: int | None = None
    index: int = 0
    jobs: list[Facts] = field(default_factory=list)

    def learn(self, news: News) -> None:
        """Take in what the daemon has answered; the selection stays with its job wherever that is now."""
        self.news = news
        self.trouble = ""
        self.jobs = [*news.running, *news.pending, *news.ended]
        ids = [job["id"] for job in self.jobs]
        if self.selected in ids:
            self.index = ids.index(self.selected)
        self._select(self.index)

    def move(self, by: int) -> None:
        """Select another job, so many further down."""
        self._select(self.index + by)

    def _select(self, index: int) -> None:
        self.index = max(0, min(index, len(self.jobs) - 1))
        self.selected = self.jobs[self.index]["id"] if self.jobs else None

    @property
    def job(self) -> Facts | None:
        """The selected job."""
        return self.jobs[self.index] if self.jobs else None

    def is_paused(self, queue: str | None) -> bool:
        """Whether a queue is paused by itself; without a name, whether all are."""
        if self.news is None:
            return False
        if queue is None:
            return bool(self.news.stats["paused"])
        return any(each["paused"] for each in self.news.queues if each["name"] == queue)
