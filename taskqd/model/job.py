"""Jobs, their attempts and their statuses. Times are seconds since the epoch, UTC.

A job changes only by the events that transitions.TRANSITIONS allows.
"""

from collections.abc import Collection
from copy import copy
from enum import Enum
from typing import cast

from msgspec import Struct

from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.task_set import TaskSet


class Status(str, Enum):
    """The statuses of a job, as in docs/protocol.md §2."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    is_final: bool
    """Whether the job has ended; only a retry leads back."""
    code: int
    """A number from 1, in the order of the statuses; it is not stored."""

    def __init__(self, word: str) -> None:
        self.is_final = word not in ("PENDING", "RUNNING")
        self.code = len(type(self).__members__) + 1


class Reason(str, Enum):
    """Why a job has its status, as in docs/protocol.md §4; a completed job has no reason."""

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
    """The resource usage of an attempt, from wait4(2): CPU time in seconds, memory in bytes.

    It includes the process and those of its descendants that were waited for. ``memory`` is the largest
    resident set of any one of them, not their sum; 0 if it is unknown (execution/usage.py).
    """

    user: float = 0.0
    system: float = 0.0
    memory: int = 0


class Attempt(Struct, kw_only=True, gc=False):
    """One attempt to run a job: its process, and when it has ended, its result and the size of its output.

    ``pid_started`` is the start time of the process in clock ticks since boot, which distinguishes it from a
    later process with the same pid. ``reason`` is why the attempt ended, None if it succeeded; ``detail``
    explains it in words. ``progress`` is in percent. Of each stream, the first bytes are kept and the others
    ``dropped``; what is kept is ``inline`` in the journal or in a file of the spool. ``record`` is the
    position of the attempt's Ended in the journal, where an inline output is stored.

    ``pid_started``, ``word`` and ``runner`` (events.Started) are known only until the attempt ends: then no
    process and no runner is asked about it any more.
    """

    number: int
    started_at: float
    word: str = ""
    runner: str = ""
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

    @property
    def may_have_files(self) -> bool:
        """Whether the spool may have files with output of the attempt, which has ended."""
        is_inline = self.stdout_inline and self.stderr_inline
        return not is_inline or (self.reason is not None and self.reason is not Reason.EXIT)


class Tasks(Struct, kw_only=True, gc=False):
    """The tasks of an array: jobs ``first`` to ``first + count - 1``, and their number by status.

    ``touched`` are those that have had an event alone, by id. All others are ``untouched``; they are equal,
    and ``shared`` has the state of each of them, with the id of the array in place of theirs.
    """

    first: int
    count: int
    counts: dict[Status, int]
    untouched: TaskSet
    shared: "Job"
    touched: "dict[int, Job]" = {}

    @property
    def ids(self) -> range:
        """The ids of the tasks, by index."""
        return range(self.first, self.first + self.count)

    def get(self, job_id: int) -> "Job":
        """Return the task with an id of ``ids``; if it is untouched, a new value that nothing changes."""
        task = self.touched.get(job_id)
        if task is None:
            task = copy(self.shared)
            task.id, task.index = job_id, cast(int, self.shared.index) + job_id - self.first
        return task


class Job(Struct, kw_only=True, gc=False):
    """A job, an array of jobs, or a task of an array; only the queue state changes it, by events.

    ``unmet_dependencies`` counts those that are not satisfied yet. ``attempts`` counts all attempts;
    ``failures`` counts those that failed since the submission or the last RETRY; the limit is
    ``spec.retries``.
    ``not_before`` is the earliest start of a pending job: a time of day if it ``is_dated``, else a time on
    the monotonic clock. ``ahead`` is how far the time of day was ahead of that clock at the latest start or
    end (events.Clocked). ``cancelling`` is the signal by which a running job is being cancelled. ``attempt``
    is the latest attempt, ``past`` has the ones before it. ``schedule`` is the schedule that submitted it.
    ``spec_before_change`` is the spec of the submission if SET or RELEASE has changed it since.

    An array is a job that has ``tasks`` and never runs itself; each task is a job with its ``array`` and its
    ``index``. A job that ``is_shared`` stands for all untouched tasks of an array (Tasks.shared).
    ``output_bytes`` is the size of the kept output of all attempts, for an array that of its tasks;
    ``task_runs`` is the number of known attempts of an array's tasks.
    """

    id: int
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    owner: str
    submitted_at: float
    status: Status = Status.PENDING
    reason: Reason | None = Reason.QUEUED
    is_held: bool = False
    unmet_dependencies: int = 0
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
    spec_before_change: Spec | None = None
    output_bytes: int = 0
    task_runs: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether it is the shared state of an array's untouched tasks."""
        return self.id == self.array

    @property
    def touched(self) -> "Collection[Job]":
        """The tasks of an array that have had an event alone; of any other job, only itself."""
        return (self,) if self.tasks is None else self.tasks.touched.values()

    def count_of(self, status: Status) -> int:
        """Return how many tasks of an array have a status; of any other job, 1 if it has."""
        return int(self.status is status) if self.tasks is None else self.tasks.counts.get(status, 0)

    @property
    def runs(self) -> int:
        """The number of attempts in memory; the journal may have more."""
        return len(self.past) + (self.attempt is not None)

    @property
    def ended(self) -> float | None:
        """When it ended, on the monotonic clock; None if it has not ended."""
        return None if self.completed_at is None else self.completed_at - self.ahead

    @property
    def exit_code(self) -> int | None:
        """The exit status of a finished job, ``-N`` if signal N ended it, None if no process ended."""
        if self.attempt is None or not self.status.is_final:
            return None
        if self.attempt.signal is not None:
            return -self.attempt.signal
        return self.attempt.exit_code

    @property
    def kept_bytes(self) -> int:
        """The bytes of output, script and stdin that are kept for the job."""
        return self.output_bytes + (self.spec.script or 0) + (self.spec.stdin or 0)

    @property
    def may_have_files(self) -> bool:
        """Whether the spool may have files of the job: blocks, or output that is not in the journal.

        An attempt that did not end by itself may have left files that its record does not mention, and of
        those that are not in memory nothing is known.
        """
        spec = self.spec
        if spec.script is not None or spec.stdin is not None or spec.secrets or self.attempts > self.runs:
            return True
        attempts = (*self.past, self.attempt) if self.past else (self.attempt,)
        return any(each is not None and each.may_have_files for each in attempts)

    @property
    def original_spec(self) -> Spec:
        """The spec of the submission, before any change."""
        return self.spec_before_change or self.spec
