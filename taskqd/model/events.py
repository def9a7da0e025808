"""The events of the journal: what happened to jobs, queues and schedules.

An event is immutable. It has its time (seconds since the epoch) and all that replay needs: a result that
depended on chance or on the clock, such as when a retry is due, is recorded and not computed again.
docs/journal.md shows each event as the line that it becomes.

A new event is one class here, one row in transitions.TRANSITIONS, the command that records it, and how the
client shows it. Each class states two rules about itself: ``in_snapshot`` (which of these events a snapshot
keeps), and for events of jobs ``applies_to_arrays`` (whether one can happen to an array as a whole).
"""

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, TypeVar

from msgspec import Struct, field

from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import DEFAULT_SPEC, Spec

FORMAT = 9
"""The version of the journal's format, written into the first record of each segment."""


class InSnapshot(Enum):
    """Which records of a type a snapshot keeps; it keeps none about jobs that have been removed."""

    ALWAYS = "always"
    LATEST = "latest"
    """The latest one of each ``subject``, until its schedule ends."""
    UNLESS_SUPERSEDED = "unless superseded"
    """Unless later events make it redundant (storage/journal/superseded.py)."""
    WHILE_RUNNING = "while running"
    """While the attempt that it is about has not ended."""
    ON_CHANGE = "on change"
    """If it changes how the times of the records after it are read."""
    NEVER = "never"


def _tag(name: str) -> str:
    return name.lower()


class Opened(Struct, frozen=True, omit_defaults=True, tag=_tag, kw_only=True):
    """The first record of a segment: who wrote it, and in which boot of the machine.

    ``store`` is a random name that this state directory keeps for ever and that marks its processes;
    ``boot`` is the kernel's boot id. ``next_id`` is the first job id that was free: records of earlier
    segments from this record's own number on were rejected and do not count. ``identity`` is that of the
    directory ``journal`` in that boot, as ``<device>:<inode>``, empty up to format 4. ``boot_clock`` is the
    boot clock at ``at``, None before format 5; ``ahead`` is that of Clocked.
    """

    in_snapshot: ClassVar = InSnapshot.NEVER

    at: float
    format: int
    store: str
    boot: str
    next_id: int
    identity: str = ""
    boot_clock: float | None = None
    ahead: float = 0.0


class Snapshot(Struct, frozen=True, omit_defaults=True, tag=_tag, kw_only=True):
    """The first record of a snapshot, which replaces all segments up to its number.

    ``records`` is the number of lines that follow. The other fields are those of the last Opened among the
    replaced records.
    """

    in_snapshot: ClassVar = InSnapshot.NEVER

    at: float
    format: int
    store: str
    boot: str
    next_id: int
    records: int
    identity: str = ""
    boot_clock: float | None = None
    ahead: float = 0.0


class _Named(Struct, frozen=True, omit_defaults=True, tag=_tag):
    """An event; ``name`` is its name in the journal's ``type``."""

    in_snapshot: ClassVar[InSnapshot]

    @property
    def name(self) -> str:
        """The class's name in lower case."""
        return str(self.__struct_config__.tag)


class JobEvent(_Named, frozen=True, gc=False, tag=_tag):
    """Something that happened to one job."""

    applies_to_arrays: ClassVar[bool]

    id: int
    at: float


class Decision(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """A user's decision about a job, made from ``origin`` (in the journal, ``from``)."""

    by: str
    origin: str | None = field(default=None, name="from")


class Submitted(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """A job was accepted, from the user at ``origin`` or from a schedule.

    If the spec has an array, its tasks are accepted with it and get the ids that follow.
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = False

    owner: str
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    schedule: int | None = None
    origin: str | None = field(default=None, name="from")

    @property
    def last_id(self) -> int:
        """The highest job id that this uses: its own, or that of its last task."""
        return self.id + (self.spec.array.count if self.spec.array else 0)


class Started(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """An attempt is about to be spawned; this is durable before the spawn.

    ``word`` is 16 random hex digits that no other attempt has, also if the journal gives the same id and
    number out again after it was restored from an older copy. ``runner`` is the name of the runner that gets
    the attempt. Both are empty before format 6. ``units`` are the named units of resources that the attempt
    has, by resource (since format 9).
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = False

    attempt: int
    word: str = ""
    runner: str = ""
    units: dict[str, tuple[str, ...]] = {}


class Spawned(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """The attempt has a process; ``started`` is its start time in clock ticks since boot, None if unknown."""

    in_snapshot: ClassVar = InSnapshot.WHILE_RUNNING
    applies_to_arrays: ClassVar = False

    pid: int
    started: int | None = None


class Cancelled(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user cancelled the job: a pending job has ended, a running job ends when its process does.

    If the ``reason`` is EXPIRED, the daemon has cancelled it, as it had not started in time; of an array, the
    tasks that had not started.
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = True

    signal: int
    reason: Reason = Reason.CANCELLED


class Skipped(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """A pending job failed without a start because its dependency can no longer be met.

    ``dependency`` is the job that did not end as required (``because`` in the journal).
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = True

    dependency: int = field(name="because")


class Held(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user held a pending job: it does not start until it is released."""

    in_snapshot: ClassVar = InSnapshot.UNLESS_SUPERSEDED
    applies_to_arrays: ClassVar = True


class Released(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user released a pending job that was held or delayed."""

    in_snapshot: ClassVar = InSnapshot.UNLESS_SUPERSEDED
    applies_to_arrays: ClassVar = True


class Suspended(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user suspended a running job, or an array, of which no task starts then; since format 9.

    A job that is being cancelled is not suspended by it.
    """

    in_snapshot: ClassVar = InSnapshot.UNLESS_SUPERSEDED
    applies_to_arrays: ClassVar = True


class Continued(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user continued a suspended job, or an array and all of its tasks; since format 9."""

    in_snapshot: ClassVar = InSnapshot.UNLESS_SUPERSEDED
    applies_to_arrays: ClassVar = True


class Changed(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user changed a pending job; ``command`` and ``spec`` replace the previous ones.

    With ``is_delay`` the spec's ``at`` is the end of a delay, which setting the system clock does not move.
    """

    in_snapshot: ClassVar = InSnapshot.UNLESS_SUPERSEDED
    applies_to_arrays: ClassVar = True

    command: str = ""
    spec: Spec = DEFAULT_SPEC
    is_delay: bool = False


class Retried(Decision, frozen=True, kw_only=True, tag=_tag):
    """A user retried a finished job: it is pending again."""

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = True


class Removed(Decision, frozen=True, kw_only=True, tag=_tag):
    """A finished job was removed, by a user or because it was older than the retention."""

    in_snapshot: ClassVar = InSnapshot.NEVER
    applies_to_arrays: ClassVar = True


class Output(Struct, frozen=True, gc=False, omit_defaults=True):
    """The output of an attempt on one stream: bytes kept, bytes dropped beyond the quota, and the content.

    A short output is stored here, as text if it is valid UTF-8 and else as base64. A longer one, which has
    neither, is in a file of the spool.
    """

    size: int = 0
    dropped: int = 0
    text: str | None = None
    base64: bytes | None = None

    @classmethod
    def inline(cls, data: bytes, dropped: int = 0) -> "Output":
        """Return an output that contains its bytes."""
        try:
            text: str | None = data.decode("utf-8")
        except UnicodeDecodeError:
            return cls(len(data), dropped, None, data)
        return cls(len(data), dropped, text) if data or dropped else NOTHING

    @property
    def data(self) -> bytes | None:
        """The bytes, or None if they are in a file."""
        if self.text is not None:
            return self.text.encode("utf-8")
        if self.base64 is not None or self.size == 0:
            return self.base64 or b""
        return None

    @property
    def is_inline(self) -> bool:
        """Whether it contains its bytes."""
        return self.text is not None or self.base64 is not None or self.size == 0


NOTHING = Output()
"""The output of an attempt that printed nothing."""


class Ended(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """An attempt ended, and the job with it unless ``status`` is PENDING: then it is retried at ``retry_at``.

    ``reason`` is why this attempt ended, even if the job is retried; ``detail`` says more, such as why the
    spawn failed. An attempt that ``is_free`` does not count against the job's retries. ``is_void`` means that
    the machine lacked the resources to start a process: the start is undone, as if there had been no attempt.
    ``pid`` is the session id of the attempt if processes remain in it, so that a restart can find them.
    ``ended_at`` is the time of day when the attempt ended if this is recorded later, as after a time without
    a daemon; ``at`` is then the time of the record. ``order`` is the order in which the output was read, if
    that is in no file (storage/spool/output_order.py). ``progress_text`` is what the job last reported behind
    its percentage, unless it is COMPLETED. ``suspended`` is for how many seconds
    it was suspended (these three since format 9).
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS
    applies_to_arrays: ClassVar = False

    status: Status
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    progress: int = 0
    is_free: bool = False
    is_void: bool = False
    retry_at: float | None = None
    usage: Usage | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING
    pid: int | None = None
    ended_at: float | None = None
    order: str | None = None
    progress_text: str = ""
    suspended: float = 0.0

    @property
    def counts_against_retries(self) -> bool:
        """Whether the attempt, if it failed, uses up one of the job's retries."""
        return not self.is_free


class QueueEvent(_Named, frozen=True, kw_only=True, tag=_tag):
    """A user's decision about a queue, about a schedule, or about all queues."""

    in_snapshot: ClassVar = InSnapshot.LATEST

    at: float
    by: str
    origin: str | None = field(default=None, name="from")

    @property
    def subject(self) -> tuple[object, ...]:
        """The setting that this event decides; a later event with the same subject replaces it."""
        return self.name, getattr(self, "queue", None), getattr(self, "schedule", None)


class Resized(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """The slot limit of a queue was changed: 0 for no limit, None for that of the settings."""

    queue: str
    slots: int | None = None


class Configured(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A setting of a queue, ``fair`` or ``rate``, was changed; None restores the value of the settings.

    The value of ``rate`` is its text (rate.py), or "none" for no limit.
    """

    queue: str
    setting: str
    value: bool | str | None = None

    @property
    def subject(self) -> tuple[object, ...]:
        return "configured", self.queue, self.setting


class Rescaled(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """The slots of the daemon were changed; None restores the value of the settings. Since format 9."""

    slots: int | None = None


class _PauseEvent(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """The start or end of a pause: of a queue, of a schedule, or of everything if neither is named."""

    queue: str | None = None
    schedule: int | None = None

    @property
    def subject(self) -> tuple[object, ...]:
        return "pause", self.queue, self.schedule


class Paused(_PauseEvent, frozen=True, kw_only=True, tag=_tag):
    """No job of a queue starts any more, or a schedule submits none; if neither is named, no job starts."""


class Resumed(_PauseEvent, frozen=True, kw_only=True, tag=_tag):
    """The pause of a queue or schedule has ended; if neither is named, the pause of all queues."""


class ScheduleContent(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """The content of a schedule: it submits a job every ``every`` seconds, or whenever ``cron`` matches.

    Unless ``overlap`` is set, a run is skipped while the job of the previous run has not ended. ``version``
    (since format 8) counts how often the blocks were set; the names of their files contain it.
    """

    schedule: int
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    every: float | None = None
    cron: str | None = None
    overlap: bool = False
    version: int = 0


class Scheduled(ScheduleContent, frozen=True, kw_only=True, tag=_tag):
    """A schedule was created; ``by`` is its owner."""


class Rescheduled(ScheduleContent, frozen=True, kw_only=True, tag=_tag):
    """A schedule was changed; all that this has replaces the previous content. Since format 8.

    The schedule keeps its owner, its creation, its pause and its last job. No run before this is made up for.
    """


class Unscheduled(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A schedule was ended; the jobs that it submitted are not affected."""

    schedule: int


class Clocked(_Named, frozen=True, gc=False, kw_only=True, tag=_tag):
    """The clocks were read: from here on the time of day is ``ahead`` seconds ahead of the monotonic clock.

    The monotonic clock, by which delays and ages are measured, is the boot clock, continued from one boot of
    the machine to the next: ``at - ahead`` of any later record is its time on that clock. ``boot_clock`` is
    what the boot clock showed, in seconds.
    """

    in_snapshot: ClassVar = InSnapshot.ON_CHANGE

    at: float
    boot_clock: float
    ahead: float = 0.0


CompactedEvent = Submitted | Started | Cancelled | Skipped | Held | Released | Changed | Ended
"""The events that a Compacted may have."""


class Compacted(Struct, frozen=True, gc=False, kw_only=True, tag=_tag):
    """All kept events of a job that has ended, as one record of a snapshot; since format 7.

    The record has the number of the first event, which is the Submitted; ``numbers`` are those of the others.
    The time of day was not set between any two of the events.
    """

    in_snapshot: ClassVar = InSnapshot.ALWAYS

    events: tuple[CompactedEvent, ...]
    numbers: tuple[int, ...]

    @property
    def id(self) -> int:
        """The id of the job."""
        return self.events[0].id

    @property
    def at(self) -> float:
        """The time of the last event."""
        return self.events[-1].at

    def end_of(self, attempt: int) -> Ended | None:
        """Return the end of an attempt, None if that is not among the events."""
        found, current = None, 0
        for event in self.events:
            if isinstance(event, Started):
                current = event.attempt
            elif isinstance(event, Ended) and current == attempt:
                found = event  # a start that was undone may have had the same number before
        return found

    def numbered(self, number: int) -> Sequence[tuple[int, CompactedEvent]]:
        """Return the events with their numbers, of a record with this number."""
        return list(zip((number, *self.numbers), self.events, strict=True))


Event = JobEvent | QueueEvent | Clocked
Replayed = Event | Compacted
"""A record that a replay yields."""
Record = Opened | Snapshot | Replayed

Base = TypeVar("Base")


def _concrete(base: type[Base]) -> tuple[type[Base], ...]:
    """Return the classes under a base that have no subclasses, in the order of their definition."""
    subclasses = base.__subclasses__()
    return tuple(leaf for each in subclasses for leaf in _concrete(each)) if subclasses else (base,)


JOB_EVENTS = _concrete(JobEvent)
QUEUE_EVENTS = _concrete(QueueEvent)
EVENTS: tuple[type[Event], ...] = (*JOB_EVENTS, *QUEUE_EVENTS, Clocked)
RECORDS: tuple[type[Record], ...] = (Opened, Snapshot, Compacted, *EVENTS)
"""The types that may be in a journal, for its decoder."""

RecordPosition = tuple[int, int, int]
"""The place of a record in the journal: (segment, offset, length), the latter two in bytes."""
