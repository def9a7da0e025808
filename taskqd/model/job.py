"""Jobs, their attempts and their statuses. Times are seconds since the epoch, UTC.

A job changes only by the events that transitions.TRANSITIONS allows.
"""

from collections.abc import Collection
from copy import copy
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from taskqd.model.attempt import Attempt, Reason, Usage
from taskqd.model.packed_attempt import PACKED_NUMBER, ended_at, pack, relocated, started_at, unpack
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.task_set import TaskSet

__all__ = ("Attempt", "Job", "JobExtras", "Reason", "Status", "Tasks", "Usage")


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


class JobExtras(Struct, frozen=True, gc=False):
    """Values of a Job that few jobs have; the others share NO_EXTRAS, which saves memory."""

    unmet_dependencies: int = 0
    failures: int = 0
    cancelling: int | None = None
    suspended_at: float | None = None
    past: tuple[Attempt, ...] = ()
    schedule: int | None = None
    spec_before_change: Spec | None = None
    task_runs: int = 0
    command_before_change: str | None = None


NO_EXTRAS = JobExtras()
Value = TypeVar("Value")


class _Extra(Generic[Value]):
    """An attribute of a Job that is a field of its ``extras``.

    It is a property made of C functions, for speed; the type checker sees this class.
    """

    def __new__(cls, name: str) -> "_Extra[Value]":
        get = attrgetter(f"extras.{name}")

        def set_value(job: "Job", value: Value) -> None:
            if get(job) != value:
                extras = replace(job.extras, **{name: value})
                job.extras = NO_EXTRAS if extras == NO_EXTRAS else extras

        return cast("_Extra[Value]", property(get, set_value))

    if TYPE_CHECKING:

        def __get__(self, job: "Job", _: type) -> Value: ...
        def __set__(self, job: "Job", value: Value) -> None: ...


class Job(Struct, kw_only=True, gc=False):
    """A job, an array of jobs, or a task of an array; only the queue state changes it, by events.

    ``unmet_dependencies`` counts those that are not satisfied yet. ``attempts`` counts all attempts;
    ``failures`` counts those that failed since the submission or the last RETRY; the limit is
    ``spec.retries``.
    ``not_before`` is the earliest start of a pending job: a time of day if it ``is_dated``, else a time on
    the monotonic clock. ``ahead`` is how far the time of day was ahead of that clock at the latest start or
    end (events.Clocked). ``cancelling`` is the signal by which a running job is being cancelled.
    ``suspended_at`` is when a running job was suspended, or an array that has not ended, None if it is not.
    ``attempt`` is the latest attempt, ``past`` has the ones before it. ``schedule`` is the schedule that
    submitted it.
    ``spec_before_change`` is the spec of the submission if SET or RELEASE has changed it since,
    ``command_before_change`` its command if the job has a key and SET has changed it. What few jobs have is
    in ``extras``. ``last_attempt`` is the latest attempt, packed if possible once the job has ended,
    and ``end`` is when the job ended, None if that is in the packed attempt.

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
    attempts: int = 0
    not_before: float | None = None
    is_dated: bool = False
    ahead: float = 0.0
    end: float | None = None
    last_attempt: Attempt | bytes | None = None
    array: int | None = None
    index: int | None = None
    tasks: Tasks | None = None
    output_bytes: int = 0
    extras: JobExtras = NO_EXTRAS

    unmet_dependencies = _Extra[int]("unmet_dependencies")
    failures = _Extra[int]("failures")
    cancelling = _Extra[int | None]("cancelling")
    suspended_at = _Extra[float | None]("suspended_at")
    past = _Extra[tuple[Attempt, ...]]("past")
    schedule = _Extra[int | None]("schedule")
    spec_before_change = _Extra[Spec | None]("spec_before_change")
    task_runs = _Extra[int]("task_runs")
    command_before_change = _Extra[str | None]("command_before_change")

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt; a new value, which must not be changed, once the job has ended."""
        last = self.last_attempt
        return unpack(last) if isinstance(last, bytes) else last

    @attempt.setter
    def attempt(self, attempt: Attempt | None) -> None:
        self.last_attempt = attempt

    @property
    def started_at(self) -> float | None:
        """When the latest attempt started, None if there was none."""
        last = self.last_attempt
        if isinstance(last, bytes):
            return started_at(last)
        return None if last is None else last.started_at

    @property
    def completed_at(self) -> float | None:
        """When it ended; None if it has not ended."""
        last = self.last_attempt
        if self.end is None and isinstance(last, bytes) and self.status.is_final:
            return ended_at(last)
        return self.end

    @completed_at.setter
    def completed_at(self, time: float | None) -> None:
        self.end = time

    def pack_attempt(self) -> None:
        """Store the latest attempt in less memory if possible; the job has ended with it."""
        last = self.last_attempt
        packed = pack(last) if isinstance(last, Attempt) else None
        if packed is not None:
            if self.end == ended_at(packed):
                self.end = None
            self.last_attempt = packed

    def relocate(self, attempt: int, upto: int, position: tuple[int, int, int]) -> None:
        """Set the new position of an attempt's Ended, if the old one is in a segment up to ``upto``.

        ``attempt`` is 0 for all attempts of which that is true.
        """
        last = self.last_attempt
        if isinstance(last, bytes):
            if attempt in (0, PACKED_NUMBER):
                self.last_attempt = relocated(last, upto, position)
            last = None
        for known in (*self.past, last):
            if known is None or known.record is None or attempt not in (0, known.number):
                continue
            if known.record[0] <= upto:
                known.record = position

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
        return len(self.extras.past) + (self.last_attempt is not None)

    @property
    def ended(self) -> float | None:
        """When it ended, on the monotonic clock; None if it has not ended."""
        end = self.completed_at
        return None if end is None else end - self.ahead

    @property
    def exit_code(self) -> int | None:
        """The exit status of a finished job, ``-N`` if signal N ended it, None if no process ended."""
        if self.attempt is None or not self.status.is_final:
            return None
        if self.attempt.signal is not None:
            return -self.attempt.signal
        return self.attempt.exit_code

    @property
    def input_bytes(self) -> int:
        """The bytes of script and stdin that are kept for the job."""
        return (self.spec.script or 0) + (self.spec.stdin or 0)

    @property
    def kept_bytes(self) -> int:
        """The bytes of output, script and stdin that are kept for the job."""
        return self.output_bytes + self.input_bytes

    @property
    def may_have_files(self) -> bool:
        """Whether the spool may have files of the job: blocks, or output that is not in the journal.

        An attempt that did not end by itself may have left files that its record does not mention, and of
        those that are not in memory nothing is known.
        """
        spec = self.spec
        if spec.script is not None or spec.stdin is not None or spec.secrets or self.attempts > self.runs:
            return True
        if isinstance(self.last_attempt, bytes) and not self.past:
            return False  # only attempts without files are packed
        attempts = (*self.past, self.attempt) if self.past else (self.attempt,)
        return any(each is not None and each.may_have_files for each in attempts)

    @property
    def original_spec(self) -> Spec:
        """The spec of the submission, before any change."""
        return self.spec_before_change or self.spec

    @property
    def original_command(self) -> str:
        """The command of the submission, before any change; of a job without a key, the current one."""
        before = self.command_before_change
        return self.command if before is None else before

    def change(self, command: str, spec: Spec) -> None:
        """Replace the command and the spec; those of the submission are kept."""
        self.spec_before_change = self.original_spec
        if self.spec.key is not None:
            self.command_before_change = self.original_command
        self.command, self.spec = command, spec
