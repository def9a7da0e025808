"""The messages between the daemon and a runner: one JSON object per line, tagged by ``t``.

docs/runner.md specifies the conversation. Hello, Welcome, Refused, Ended, Ack, End and Retire are the base
protocol, which every version understands and which never changes; later versions may add fields to them,
which older ones ignore. The others belong to version 1, unless they say that version 2 added them.

An attempt is named by its job's id, its number, and ``word``, the random 64 bits (16 hex digits) in its
``Started`` record: after a restored backup the journal gives ids out again.
"""

from enum import Enum
from typing import NamedTuple

from msgspec import Struct, json

from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Usage

VERSIONS = (1, 2)
"""The versions of the protocol, besides the base protocol, that this release speaks."""
MIN_START_VERSION = 2
"""The lowest version of a runner that gets starts; one that speaks less finishes what it runs."""
MEASURED_VERSION = 2
"""The lowest version of a daemon that is sent Measured."""
UTF_8 = "utf-8"
"""The encoding of a Start's strings, unless some of the bytes are not UTF-8."""
MAX_SEND = 65_536
"""Bytes of a Send: as many as a pipe holds (pipe(7))."""
MAX_LINE = 1 << 28
"""The longest line in bytes. Environments and inline output make up most of it."""


class AttemptKey(NamedTuple):
    """Names one attempt, also across a restored backup."""

    id: int
    attempt: int
    word: str


class Message(Struct, frozen=True, omit_defaults=True, tag_field="t", gc=False):
    """A message of either side."""


class AttemptMessage(Message, frozen=True, kw_only=True):
    """A message about one attempt."""

    id: int
    attempt: int
    word: str

    @property
    def key(self) -> AttemptKey:
        """The name of the attempt."""
        return AttemptKey(self.id, self.attempt, self.word)


# The base protocol. From the daemon:


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """The first line of the daemon.

    ``store`` is the name of the store whose jobs the runner runs, ``release`` that of the daemon.
    ``leave_for`` is how many seconds jobs may run without a daemon: 0 ends them when the connection ends,
    None never.
    """

    store: str
    versions: tuple[int, ...]
    release: str = ""
    leave_for: float | None = None


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """The ends of these attempts are durable in the journal: the runner can forget them."""

    ends: list[AttemptKey]


class End(AttemptMessage, frozen=True, kw_only=True, tag="end"):
    """Signal all processes of an attempt with ``number``, and kill them after its ``kill_after``.

    ``why`` is a value of ``model.job.Reason``, which its Ended repeats. Ignored for an unknown attempt.
    """

    why: str
    number: int


class Retire(Message, frozen=True, tag="retire"):
    """Accept no starts from now on, make room for another runner, and exit when the last end is acked."""


# From the runner:


class Running(Struct, frozen=True, omit_defaults=True, gc=False):
    """An attempt that runs; ``pid`` is None before the spawn, ``started`` in clock ticks since boot.

    Version 2 added ``suspended``: its processes are stopped.
    """

    id: int
    attempt: int
    word: str
    pid: int | None = None
    started: int | None = None
    suspended: bool = False

    @property
    def key(self) -> AttemptKey:
        """The name of the attempt."""
        return AttemptKey(self.id, self.attempt, self.word)


class Base(Struct, frozen=True, omit_defaults=True, gc=False):
    """The state that every process of a runner starts with; a Start's own shell changes the rest.

    ``limits`` has the soft and the hard limit of each resource by its number (getrlimit(2)), -1 for none.
    """

    umask: int = 0o022
    oom_score_adj: int = 0
    limits: dict[int, tuple[int, int]] = {}


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The first line of the runner, with all that it knows.

    ``runner`` is its random name, ``version`` the highest version that both speak, 0 for the base protocol
    alone; ``base`` is what its processes start with. An Ended follows for each of ``ended``, the attempts
    whose end is not acked. ``leftovers`` are acked attempts of which processes still run. ``is_retiring``
    means that it accepts no starts, ``stays`` that it does not exit when it is idle. ``changes_users`` means
    that it runs each attempt as the ``user`` of its Start and opens no path of the daemon's.
    """

    runner: str
    pid: int
    version: int
    release: str = ""
    base: Base = Base()
    running: list[Running] = []
    ended: list[AttemptKey] = []
    leftovers: list[AttemptKey] = []
    is_retiring: bool = False
    stays: bool = False
    changes_users: bool = False


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The connection is refused and closed: another daemon is connected, or ``is_other_store`` is set."""

    why: str
    is_other_store: bool = False
    versions: tuple[int, ...] = ()


class Ended(AttemptMessage, frozen=True, kw_only=True, tag="ended"):
    """An attempt has ended; sent again after each Welcome until it is acked.

    ``at`` is the time of day of the end, in seconds since the epoch. The other fields are those of
    ``run.Outcome``. Version 2 added ``order``.
    """

    at: float
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING
    usage: Usage | None = None
    is_shortage: bool = False
    is_void: bool = False
    pid: int | None = None
    order: str | None = None
    suspended: float = 0.0


class Gone(Message, frozen=True, kw_only=True, tag="gone"):
    """The last line of the notes of a runner that has exited in order: it ran nothing that they lack."""

    runner: str


# Version 1. From the daemon:


class File(NamedTuple):
    """A descriptor that is sent with a Start: ``kind`` is stdout, stderr, script or stdin.

    The numbers of its device and inode (fstat(2)) show that the descriptor is the one that is meant.
    """

    kind: str
    device: int
    inode: int


class Start(AttemptMessage, frozen=True, kw_only=True, tag="start"):
    """Run an attempt; its Started is durable. Ignored if the runner knows the attempt.

    ``argv`` and ``env`` are what is executed; all strings are encoded by ``encoding``: "utf-8", or "latin-1"
    if some of the bytes are not UTF-8. ``mark`` is the value of TASKQ_RUN in ``env``. ``stdin`` is the path
    of a file, None for no input; ``stdout`` and ``stderr`` are the paths of the files for output that does
    not fit into an Ended. ``order``, which version 2 added, is the path of the file for the order of such
    output, None if that is not to be in a file. ``max_output`` is in bytes per stream. ``timeout``,
    ``idle_timeout`` and ``kill_after`` are in seconds. ``uid`` is the user of the processes, None if it is
    the runner's own. ``cwd``, ``interpreter`` and ``redirects`` (added by version 2) are set if a shell
    enters, executes or opens them for output first, whose complaint then explains why the attempt could not
    be started.

    With ``interactive`` (version 2) stdin is a pipe, into which Sends are written.

    A runner that changes users takes ``user``, a name, and ``files``, for each of which a descriptor is sent
    (SCM_RIGHTS, unix(7)), in place of ``mark``, ``uid`` and the four paths.
    """

    argv: list[str]
    env: dict[str, str]
    encoding: str = UTF_8
    mark: str = ""
    stdin: str | None = None
    stdout: str = ""
    stderr: str = ""
    order: str | None = None
    max_output: int = 1 << 30
    timeout: float | None = None
    idle_timeout: float | None = None
    kill_after: float = 5.0
    uid: int | None = None
    cwd: str | None = None
    interpreter: str | None = None
    redirects: list[str] = []
    user: str | None = None
    files: list[File] = []
    interactive: bool = False
    memory_max: int | None = None


class Follow(AttemptMessage, frozen=True, kw_only=True, tag="follow"):
    """Write the output of an attempt to its files at once, and report each new piece of it, or stop that."""

    on: bool = True


class Send(AttemptMessage, frozen=True, kw_only=True, tag="send"):
    """Write ``data`` into the stdin of an interactive attempt, and close that if ``eof`` is set (version 2).

    Sent is the answer, with the same ``number``. The daemon sends the next Send of an attempt after it.
    """

    number: int
    data: bytes = b""
    eof: bool = False


class Withdraw(AttemptMessage, frozen=True, kw_only=True, tag="withdraw"):
    """Write nothing more of a Send that has no answer yet, and answer it (version 2)."""

    number: int


class KillLeftovers(Message, frozen=True, kw_only=True, tag="kill_leftovers"):
    """Kill the processes that ended attempts of a job have left."""

    id: int


class Kill(Message, frozen=True, tag="kill"):
    """Kill all attempts and all leftovers."""


class Sweep(Message, frozen=True, kw_only=True, tag="sweep"):
    """Kill all that a dead runner that changes users has left; Swept is the answer."""

    runner: str


class Settled(Message, frozen=True, kw_only=True, tag="settled"):
    """Remove the files of a dead runner: all that its notes say is durable in the journal."""

    runner: str


# Version 2. From the daemon:


class Suspend(AttemptMessage, frozen=True, kw_only=True, tag="suspend"):
    """Stop all processes of an attempt, and its timeouts; ignored for an unknown attempt or one that ends."""


class Continue(AttemptMessage, frozen=True, kw_only=True, tag="continue"):
    """Continue the processes and timeouts of an attempt that is suspended."""


# Version 1. From the runner:


class Spawned(AttemptMessage, frozen=True, kw_only=True, tag="spawned"):
    """An attempt has a process that runs; not sent for a process that has exited at once."""

    pid: int
    started: int | None = None


class Printed(AttemptMessage, frozen=True, kw_only=True, tag="printed"):
    """An attempt that is followed has printed, or any attempt has dropped output beyond ``max_output``.

    ``dropped`` has the bytes of stdout and stderr that were not kept.
    """

    dropped: tuple[int, int] = (0, 0)


class SendError(str, Enum):
    """Why a Send was not carried out, or not completely."""

    CLOSED = "closed"
    """No process has the other end of the pipe any more."""
    EOF = "eof"
    """A Send before has closed it."""
    ENDED = "ended"
    """The attempt has ended, or is not interactive."""
    WITHDRAWN = "withdrawn"
    BUSY = "busy"
    """Another Send of the attempt is not answered."""
    TOO_LARGE = "too_large"
    UNWATCHED = "unwatched"
    """The kernel watches no more descriptors, so the runner cannot wait for the pipe."""


class Sent(AttemptMessage, frozen=True, kw_only=True, tag="sent"):
    """The answer to a Send: it was written, or there is an ``error`` after ``written`` bytes (version 2)."""

    number: int
    written: int = 0
    error: SendError | None = None


class MemoryUse(NamedTuple):
    """The memory that the processes of an attempt use together, and its peak, in bytes."""

    id: int
    attempt: int
    word: str
    used: int
    peak: int

    @property
    def key(self) -> AttemptKey:
        """The name of the attempt."""
        return AttemptKey(self.id, self.attempt, self.word)


class Measured(Message, frozen=True, kw_only=True, tag="measured"):
    """The memory of attempts with a ``memory_max``; since version 2.

    Sent after Welcome for all of them, and then for those whose use has changed by more than 5 %, at most
    once per second for each.
    """

    uses: list[MemoryUse]


class Cleared(AttemptMessage, frozen=True, kw_only=True, tag="cleared"):
    """No process of an attempt whose Ended had a ``pid`` is left, or no signal ends those that are."""


class Swept(Message, frozen=True, kw_only=True, tag="swept"):
    """No process of a dead runner's attempts is left, or no signal ends those that are."""

    runner: str


ToRunner = (
    Hello
    | Ack
    | End
    | Retire
    | Start
    | Follow
    | Send
    | Withdraw
    | KillLeftovers
    | Kill
    | Sweep
    | Settled
    | Suspend
    | Continue
)
ToDaemon = Welcome | Refused | Ended | Gone | Spawned | Printed | Measured | Sent | Cleared | Swept

_encoder = json.Encoder()
_to_runner = json.Decoder(ToRunner)
_to_daemon = json.Decoder(ToDaemon)


def encode(message: Message) -> bytes:
    """Return a message as a line, with its end."""
    return _encoder.encode(message) + b"\n"


def decode_to_runner(line: bytes) -> ToRunner:
    """Return the message of a daemon's line; raises msgspec.DecodeError if it is none of ours."""
    return _to_runner.decode(line)


def decode_to_daemon(line: bytes) -> ToDaemon:
    """Return the message of a runner's line; raises msgspec.DecodeError if it is none of ours."""
    return _to_daemon.decode(line)
