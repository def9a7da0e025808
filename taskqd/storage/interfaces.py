"""The interfaces of what the engine uses: each has one implementation, and a fake in ``tests/fakes``."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from taskqd.model.events import Event, Output

InThread = Callable[..., "Deferred[Any]"]
"""Calls a function with arguments in a thread; fires with what it returns."""


class IJournal(Interface):
    """The journal on disk."""

    failure: str | None = Attribute("Why nothing can be recorded any more, or None while all is well.")

    next_id: int = Attribute("The first job number that the journal has not given away.")

    last_sequence: int = Attribute("The number of the last record that is durable and was told.")

    def append(event: Event, may_wait: bool = False) -> "Deferred[tuple[int, int, int]]":
        """Put an event into the journal and return a Deferred of its position.

        One that ``may_wait`` may wait for a moment, for others to become durable with.

        It fires once the event is durable, and in the order of the calls. It fails with StoreFailed if the
        event could not be written or synced; then it is not in the journal and never will be.
        """

    def append_all(events: "Sequence[Event]") -> "Deferred[tuple[int, int, int]]":
        """Put some events into the journal together, at least one, and fire with the first one's position.

        As ``append``, for all of them or for none.
        """

    def sizes() -> "dict[str, int]":
        """Return what STATS tells of the journal's size, in bytes but for the segment's number."""

    def when_writable() -> "Deferred[None]":
        """Fire when something can be recorded again, at once where that is so; may be cancelled."""

    def append_now(events: "list[Event]") -> "list[tuple[int, int, int]]":
        """Append before the reactor runs: block until all are durable; raises StartRefused."""

    def read(position: tuple[int, int, int]) -> Any:
        """Return the record at a position; raises StoreFailed if it cannot be read."""

    def events_of(*job_ids: int) -> "IEventReader":
        """Return a reading of all that the journal has of some jobs at this moment."""

    def add_observer(told: "Callable[[int, Sequence[Event]], object]") -> None:
        """Have ``told(sequence, events)`` called for what was appended together, once its Deferred has fired.

        ``sequence`` is the first one's number. Events of ``append_now`` are told each by itself, before it
        returns, so before they are applied.
        """

    def events_since(sequence: int) -> "IEventReader":
        """Return a reading of all events from a number on."""

    def close() -> "Deferred[None]":
        """Wait for what is under way, then give up the files and the lock."""


class IEventReader(Interface):
    """The events of a store, from a number on or of some jobs, for one reader, a portion at a time."""

    next_sequence: int = Attribute("The number of the first record that has not been read.")

    def read_batch() -> "Deferred[list[tuple[int, Event]]]":
        """Return (sequence, event) of those that follow, none if all that was told has been read.

        Of a reading from a number on, nothing was told since then: what is told from now on is all that
        follows. Fails with Lagged where
        events are not there any more, since a snapshot has taken their place and has not all, and with
        StoreFailed. May be cancelled, and is not used after a failure.
        """


class OutputLost(OSError):
    """Output could not be made durable; ``kept`` is stdout and stderr, each NOTHING if it is the lost one."""

    def __init__(self, text: str, kept: tuple[Output, Output]) -> None:
        super().__init__(text)
        self.kept = kept


class IOutputWriter(Interface):
    """What one attempt prints, from its start to its end. Streams are named by number: 1 stdout, 2 stderr."""

    def write(stream: int, data: bytes) -> None:
        """Take what the attempt printed; what is over the quota is counted and dropped."""

    def set_callbacks(choked: Callable[[bool], None], failed: Callable[[str], None]) -> None:
        """Have ``choked`` told when to stop and go on reading, and ``failed`` why output can't be kept."""

    def close() -> "Deferred[tuple[Output, Output]]":
        """Return both outputs once they are durable; fails with OutputLost if one can't be made so."""


class ISpool(Interface):
    """What jobs print and are given to read, on disk."""

    def store_blocks(job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        """Keep a submission's blocks by name (``script stdin secret``); fires when they are durable."""

    def digest(blocks: "Sequence[bytes]") -> "Deferred[str]":
        """Return the SHA-256 of some blocks, one after the other, in hex digits."""

    def read_block(job_id: int, name: str) -> bytes:
        """Return a block that was kept, a small one; raises OSError."""

    def path(job_id: int, name: str) -> str:
        """Return the path of a job's ``script``, ``stdin``, ``secret`` or ``progress``."""

    def open_output(job_id: int, attempt: int, limit: int) -> IOutputWriter:
        """Begin to record an attempt; ``limit`` is in bytes a stream."""

    def output_on_disk(job_id: int, attempt: int) -> tuple[Output, Output]:
        """Return what is on disk of an attempt whose recording was cut off."""

    def output_sizes(job_id: int) -> "dict[str, int] | None":
        """Return the four sizes of what is being recorded, named as in a job's JSON; None if nothing is."""

    def read_output(job_id: int, attempt: int, stream: int, offset: int, length: int) -> "Deferred[bytes]":
        """Return a piece of what an attempt printed, whether it is being recorded or lies in a file."""

    def read_progress(job_id: int) -> int:
        """Return the whole percentage that the job last reported, 0 if it reported none."""

    def remove_job(job_id: int, attempts: int) -> "Deferred[None]":
        """Remove all files of a job that is no longer known; fails with OSError."""

    def add_output_observer(job_id: int, told: Callable[[], None]) -> Callable[[], None]:
        """Have ``told`` called when a job prints something, and when an attempt is recorded or released.

        Returns what ends that, which is to be called once.
        """

    def close_attempt(job_id: int) -> None:
        """Let go of the attempt that was recorded: its end is on disk. What it reported is dropped."""


class IClock(IReactorTime):
    """The clocks of the daemon, and the timers of the reactor (daemon/clocks.py)."""

    ahead: float = Attribute("Seconds by which the time of day is ahead of ``elapsed``.")

    def now() -> float:
        """Return the time of day, in seconds since the epoch: for time stamps, ``--at`` and ``--cron``."""

    def elapsed() -> float:
        """Return the clock of waits and ages, in seconds; it goes on while the machine is suspended."""

    def boot() -> float:
        """Return the seconds since the machine was started."""

    def measured() -> float:
        """Return how far the system's time of day is ahead of ``elapsed`` now."""
