"""A job: what was asked of it, what is known of it, and the moves that it may make.

The table TRANSITIONS is the life of a job; nothing else decides whether a change is legal. Times are seconds
since the epoch, UTC.
"""

from enum import Enum

from msgspec import Struct

from taskqd.model.spec import DEFAULT_SPEC, Spec


class Status(str, Enum):
    """Where a job stands; the words of docs/protocol.md §2."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    is_final: bool
    """Whether the job has ended and, unless it is retried, stays so."""

    def __init__(self, word: str) -> None:
        self.is_final = word not in ("PENDING", "RUNNING")


class Reason(str, Enum):
    """Why a job is where it is; the words of docs/protocol.md §4. A completed job needs none."""

    QUEUED = "queued"
    HELD = "held"
    DELAYED = "delayed"
    AFTER = "after"
    RETRYING = "retrying"
    PAUSED = "paused"
    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    SPAWN = "spawn"
    DEPENDENCY = "dependency"
    INTERRUPTED = "interrupted"
    OUTPUT = "output"
    CANCELLED = "cancelled"


class Usage(Struct, frozen=True, gc=False, omit_defaults=True):
    """What an attempt has used, as wait4(2) tells: CPU time in seconds, memory in bytes.

    Counted are its process and those of its descendants that were waited for. ``memory`` is the largest
    resident set that any one of them had, not their sum; 0 where the system does not tell (spawn.py).
    """

    user: float = 0.0
    system: float = 0.0
    memory: int = 0


class Attempt(Struct, kw_only=True, gc=False):
    """One run of a job: its process while it lives, its end and what it printed afterwards.

    ``record`` is where its Ended stands in the journal, for the output that lies there; ``pid_started`` is
    the process's start time in clock ticks since boot, which tells it from a later one of the same pid.
    ``reason`` is why it ended, None where it did well.
    """

    number: int
    started_at: float
    pid: int | None = None
    pid_started: int | None = None
    ended_at: float | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    progress: int = 0
    usage: Usage | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    stdout_inline: bool = True
    stderr_inline: bool = True
    record: tuple[int, int, int] | None = None


class Tasks(Struct, kw_only=True, gc=False):
    """The tasks of an array: jobs ``first`` to ``first + count - 1``, and how many are in which status."""

    first: int
    count: int
    counts: dict[Status, int]

    @property
    def ids(self) -> range:
        """The ids of the tasks, in the order of their indexes."""
        return range(self.first, self.first + self.count)


class Job(Struct, kw_only=True, gc=False):
    """All that is known of a job. Only the backlog changes it, and only by an event.

    ``failures`` counts the attempts that failed since the submission or the last RETRY, against
    ``spec.retries``; ``not_before`` is when a pending job may start at the earliest: a time of day if it
    ``is_dated``, else a time on the clock of waits. ``ahead`` is how far the time of day was ahead of that
    clock at the latest start or end (events.Clocked). ``cancelling`` is the
    signal by which a running one is being cancelled; ``attempt`` is the latest one, ``past`` has those before
    it. ``waiting`` is how many of the jobs that it comes after have not ended as they should.

    An array is a job that has ``tasks`` and never runs itself; each task is a job of its own that has its
    ``array`` and its ``index`` there. ``schedule`` is the one that submitted it. ``asked`` is the spec of the
    submission where it has been changed since. ``output_bytes`` is what is kept of the output of all
    attempts, of an array that of its tasks; ``task_runs`` is how many attempts of its tasks are known.
    """

    id: int
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    owner: str
    submitted_at: float
    status: Status = Status.PENDING
    reason: Reason | None = Reason.QUEUED
    is_held: bool = False
    waiting: int = 0
    attempts: int = 0
    failures: int = 0
    not_before: float | None = None
    is_dated: bool = False
    ahead: float = 0.0
    completed_at: float | None = None
    cancelling: int | None = None
    attempt: Attempt | None = None
    past: tuple[Attempt, ...] = ()
    array: int | None = None
    index: int | None = None
    tasks: Tasks | None = None
    schedule: int | None = None
    asked: Spec | None = None
    output_bytes: int = 0
    task_runs: int = 0

    @property
    def runs(self) -> int:
        """How many attempts are known, of those that the journal has."""
        return len(self.past) + (self.attempt is not None)

    @property
    def ended(self) -> float | None:
        """When it ended, on the clock of waits and ages; None if it has not."""
        return None if self.completed_at is None else self.completed_at - self.ahead

    @property
    def exit_code(self) -> int | None:
        """The exit status of a finished job, ``-N`` if signal N ended it, None if there is none."""
        if self.attempt is None or not self.status.is_final:
            return None
        if self.attempt.signal is not None:
            return -self.attempt.signal
        return self.attempt.exit_code

    @property
    def kept_bytes(self) -> int:
        """How many bytes of output, script and stdin are kept for a job."""
        return self.output_bytes + (self.spec.script or 0) + (self.spec.stdin or 0)

    @property
    def submission(self) -> Spec:
        """The spec with which it was submitted, whatever has been changed since."""
        return self.asked or self.spec
