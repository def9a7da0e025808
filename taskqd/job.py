"""A job: what was asked of it, what is known of it, and the moves that it may make.

The table MOVES is the life of a job; nothing else decides whether a change is legal. Times are seconds since
the epoch, UTC.
"""

from enum import Enum

from msgspec import Struct


class Status(str, Enum):
    """Where a job stands; the words of docs/protocol.md §2."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended and, unless it is retried, stays so."""
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Reason(str, Enum):
    """Why a job is where it is; the words of docs/protocol.md §4. A completed job needs none."""

    QUEUED = "queued"
    RETRYING = "retrying"
    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    SPAWN = "spawn"
    INTERRUPTED = "interrupted"
    OUTPUT = "output"
    CANCELLED = "cancelled"


MOVES: dict[tuple[Status, str], frozenset[Status]] = {
    (Status.PENDING, "started"): frozenset({Status.RUNNING}),
    (Status.PENDING, "cancelled"): frozenset({Status.CANCELLED}),
    (Status.RUNNING, "spawned"): frozenset({Status.RUNNING}),
    (Status.RUNNING, "cancelled"): frozenset({Status.RUNNING}),
    (Status.RUNNING, "ended"): frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.PENDING}),
    (Status.COMPLETED, "retried"): frozenset({Status.PENDING}),
    (Status.FAILED, "retried"): frozenset({Status.PENDING}),
    (Status.CANCELLED, "retried"): frozenset({Status.PENDING}),
    (Status.COMPLETED, "removed"): frozenset({Status.COMPLETED}),
    (Status.FAILED, "removed"): frozenset({Status.FAILED}),
    (Status.CANCELLED, "removed"): frozenset({Status.CANCELLED}),
}
"""(status, event) -> the statuses that the event may lead to; what is not here cannot happen."""

LONGEST_RETRY_DELAY = 3600.0
"""No retry waits longer than this, in seconds, however often the delay was doubled."""


class Spec(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What was asked: the command and the options of its SUBMIT, as they came.

    Durations are seconds, sizes bytes. ``script`` and ``stdin`` are the sizes of the blocks that came with
    the submission and lie in the spool, ``blocks`` the SHA-256 of the two in that order, so that equal specs
    are equal submissions; a job has either a command or a script. ``env_base64`` has the variables whose
    values are no text.
    """

    command: str = ""
    script: int | None = None
    stdin: int | None = None
    blocks: str | None = None
    timeout: float | None = None
    kill_after: float = 5.0
    retries: int = 0
    retry_delay: float = 1.0
    key: str | None = None
    label: str | None = None
    cwd: str | None = None
    env: dict[str, str] = {}
    env_base64: dict[str, bytes] = {}
    umask: int = 0o022
    nice: int | None = None
    max_output: int = 256 * 1024**2

    def backoff(self, failures: int) -> float:
        """Return the seconds to wait after the ``failures``-th failure in a row, before any jitter."""
        return float(min(self.retry_delay * 2.0 ** min(failures - 1, 64), LONGEST_RETRY_DELAY))


class Attempt(Struct, kw_only=True, gc=False):
    """One run of a job: its process while it lives, its end and what it printed afterwards.

    ``record`` is where its Ended stands in the journal, for the output that lies there; ``pid_started`` is
    the process's start time in clock ticks since boot, which tells it from a later one of the same pid.
    """

    number: int
    started_at: float
    pid: int | None = None
    pid_started: int | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    progress: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    stdout_inline: bool = True
    stderr_inline: bool = True
    record: tuple[int, int, int] | None = None


class Job(Struct, kw_only=True, gc=False):
    """All that is known of a job. Only the backlog changes it, and only by an event.

    ``failures`` counts the attempts that failed since the submission or the last RETRY, against
    ``spec.retries``; ``not_before`` is when a pending job may start at the earliest; ``cancelling`` is the
    signal by which a running one is being cancelled; ``attempt`` is the latest one.
    """

    id: int
    spec: Spec
    owner: str
    submitted_at: float
    status: Status = Status.PENDING
    reason: Reason | None = Reason.QUEUED
    attempts: int = 0
    failures: int = 0
    not_before: float | None = None
    completed_at: float | None = None
    cancelling: int | None = None
    attempt: Attempt | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit status of a finished job, ``-N`` if signal N ended it, None if there is none."""
        if self.attempt is None or not self.status.is_final:
            return None
        if self.attempt.signal is not None:
            return -self.attempt.signal
        return self.attempt.exit_code

    @property
    def is_retryable(self) -> bool:
        """Whether the running attempt may be followed by another of the daemon's own accord if it fails."""
        return self.cancelling is None and self.failures < self.spec.retries
