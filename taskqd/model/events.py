"""The facts that the journal keeps, in the order in which they became true.

An event is frozen, carries its own time (seconds since the epoch) and says all that replay needs; whatever
was decided by chance or by the clock, such as when a retry is due, is in it as decided. docs/journal.md shows
each as the line that it becomes.
"""

from msgspec import Struct, field

from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import DEFAULT_SPEC, Spec

FORMAT = 5
"""The version of the journal's format, written into every segment's first record."""


def _tag(name: str) -> str:
    return name.lower()


class Opened(Struct, frozen=True, omit_defaults=True, tag=_tag, kw_only=True):
    """A segment begins: who wrote it, and in which boot of the machine.

    ``store`` is a random name that this store keeps for ever and that marks its processes; ``boot`` is the
    kernel's boot id; ``next_id`` is the first job number that was free. What an earlier segment has from this
    record's number on was refused and does not count. ``identity`` is that of the directory ``journal`` in
    that boot, as ``<device>:<inode>``; a journal of format 4 or older has none. ``boot_clock`` is what the
    boot clock showed at ``at``, None before format 5; ``ahead`` is that of Clocked.
    """

    at: float
    format: int
    store: str
    boot: str
    next_id: int
    identity: str = ""
    boot_clock: float | None = None
    ahead: float = 0.0


class Snapshot(Struct, frozen=True, omit_defaults=True, tag=_tag, kw_only=True):
    """A snapshot begins: the records of the jobs that were still known, out of all up to this one's number.

    The fields are those of the last Opened among them; ``records`` is how many lines follow.
    """

    at: float
    format: int
    store: str
    boot: str
    next_id: int
    records: int
    identity: str = ""
    boot_clock: float | None = None
    ahead: float = 0.0


class JobEvent(Struct, frozen=True, gc=False, omit_defaults=True, tag=_tag):
    """Something that happened to one job."""

    id: int
    at: float

    @property
    def name(self) -> str:
        """The event's name, as in the table of moves and in the journal's ``type``."""
        return str(self.__struct_config__.tag)


class Decision(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """Something that somebody decided about a job; ``origin`` is from where, ``from`` in the journal."""

    by: str
    origin: str | None = field(default=None, name="from")


class Submitted(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """A job was accepted; ``schedule`` is the one that submitted it, ``origin`` from where somebody did.

    Where the spec has an array, its tasks are accepted with it, under the ids that follow.
    """

    owner: str
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    schedule: int | None = None
    origin: str | None = field(default=None, name="from")

    @property
    def last_id(self) -> int:
        """The highest job number that this has given away."""
        return self.id + (self.spec.array.count if self.spec.array else 0)


class Started(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """An attempt is about to be spawned; the spawn comes only after this is on disk."""

    attempt: int


class Spawned(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """The attempt has a process; ``started`` is its start time in clock ticks since boot, None if unknown."""

    pid: int
    started: int | None = None


class Cancelled(Decision, frozen=True, kw_only=True, tag=_tag):
    """Somebody cancelled the job: a pending one has ended by it, a running one ends once its process has."""

    signal: int


class Skipped(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """A pending job has failed without a start: job ``because``, which it came after, did not end so."""

    because: int


class Held(Decision, frozen=True, kw_only=True, tag=_tag):
    """Somebody has a pending job not start until it is released."""


class Released(Decision, frozen=True, kw_only=True, tag=_tag):
    """Somebody let a pending job start, though it was held or delayed."""


class Changed(Decision, frozen=True, kw_only=True, tag=_tag):
    """Somebody changed how a pending job is to be run; ``spec`` is what holds from now on.

    With ``is_delay`` its ``at`` is the end of a delay, and is not moved by a change of the time of day.
    """

    command: str = ""
    spec: Spec = DEFAULT_SPEC
    is_delay: bool = False


class Retried(Decision, frozen=True, kw_only=True, tag=_tag):
    """Somebody asked for a finished job to run again."""


class Removed(Decision, frozen=True, kw_only=True, tag=_tag):
    """A finished job was forgotten, by somebody or by the retention."""


class Output(Struct, frozen=True, gc=False, omit_defaults=True):
    """What one stream of an attempt printed: its size in bytes, how many more were dropped, and the bytes.

    A short output stands here, as text where it is UTF-8 and as base64 where not; a longer one, for which
    both are missing, is in a file of the spool.
    """

    size: int = 0
    dropped: int = 0
    text: str | None = None
    base64: bytes | None = None

    @classmethod
    def inline(cls, data: bytes, dropped: int = 0) -> "Output":
        """Return an output that carries its bytes with it."""
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
        """Whether it carries its bytes with it."""
        return self.text is not None or self.base64 is not None or self.size == 0


NOTHING = Output()
"""The output of an attempt that printed nothing."""


class Ended(JobEvent, frozen=True, kw_only=True, tag=_tag):
    """An attempt ended, and the job with it unless ``status`` is PENDING: then it runs again at ``retry_at``.

    ``reason`` is why this attempt ended, also where the job is to be retried. ``detail`` tells a person more,
    such as why the spawn failed. An attempt that ``is_free`` does not count against the job's retries. With
    ``is_void`` there was no attempt: the machine lacked what a start takes, and the start is taken back.
    ``pid`` is the number of the attempt's session if processes were left in it, so that they are found after
    a crash.
    """

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


class QueueEvent(Struct, frozen=True, omit_defaults=True, kw_only=True, tag=_tag):
    """Something that somebody decided about a queue, about a schedule, or about all queues."""

    at: float
    by: str
    origin: str | None = field(default=None, name="from")

    @property
    def name(self) -> str:
        """The event's name, as in the journal's ``type``."""
        return str(self.__struct_config__.tag)


class Resized(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A queue was given slots: a number, 0 for no limit of its own, None for what the settings say."""

    queue: str
    slots: int | None = None


class Paused(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """Nothing new starts from now on: in a queue, of a schedule, or where neither is named, at all."""

    queue: str | None = None
    schedule: int | None = None


class Resumed(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A pause is over: that of a queue, of a schedule, or where neither is named, the one of all."""

    queue: str | None = None
    schedule: int | None = None


class Scheduled(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A schedule was made: a job again and again, ``every`` so many seconds or as ``cron`` says.

    Where ``overlap`` is not set, none is submitted while the one before has not ended.
    """

    schedule: int
    command: str = ""
    spec: Spec = DEFAULT_SPEC
    every: float | None = None
    cron: str | None = None
    overlap: bool = False


class Unscheduled(QueueEvent, frozen=True, kw_only=True, tag=_tag):
    """A schedule has ended; its jobs go on."""

    schedule: int


class Clocked(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag=_tag):
    """The clocks were read: from here on the time of day is ``ahead`` of the clock of waits and ages.

    That clock is the boot clock, continued from one boot of the machine to the next. So ``at - ahead`` of any
    later record is when it was on that clock. ``boot_clock`` is what the boot clock showed, in seconds.
    """

    at: float
    boot_clock: float
    ahead: float = 0.0

    @property
    def name(self) -> str:
        """The event's name, as in the journal's ``type``."""
        return str(self.__struct_config__.tag)


JobEventType = (
    Submitted
    | Started
    | Spawned
    | Cancelled
    | Skipped
    | Held
    | Released
    | Changed
    | Retried
    | Removed
    | Ended
)
"""What happens to one job; of an array, to those of its tasks that it can happen to."""
QueueEventType = Resized | Paused | Resumed | Scheduled | Unscheduled
"""What is decided about queues and schedules."""
Event = JobEventType | QueueEventType | Clocked
Record = Opened | Snapshot | Event


Position = tuple[int, int, int]
"""Where a record stands in the journal: (segment, offset, length), the latter two in bytes."""
