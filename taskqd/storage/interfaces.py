"""The interfaces of the storage; each has one implementation here, and a fake in ``tests/fakes``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import Attribute, Interface

from taskqd.model.environment import Environment
from taskqd.model.events import Event, Output, Record, RecordPosition
from taskqd.model.progress import Progress
from taskqd.model.schedule import ScheduleBlocks

InThread = Callable[..., "Deferred[Any]"]
"""``in_thread(function, *args)`` calls a blocking function in another thread; fires with its result."""
OnDurable = Callable[[int, Sequence[Event]], object]
"""``on_durable(sequence, events)``: events are durable; ``sequence`` is the number of the first one."""


class ICommitObserver(Protocol):
    """Hears of the commits of a journal."""

    def commit_started(self) -> None:
        """The Deferreds of the events of a commit are about to fire."""

    def commit_ended(self) -> None:
        """They have fired."""


class IJournal(Interface):
    """The journal: the durable sequence of events, numbered from 1."""

    failure: str | None = Attribute("Why nothing can be appended now; None if appending works.")

    next_id: int = Attribute("The first job id that no appended event has used.")

    last_sequence: int = Attribute("The number of the last durable record that observers were notified of.")

    def append(event: Event, may_wait: bool = False) -> "Deferred[RecordPosition]":
        """Append an event; fires with its position once it is durable.

        Deferreds fire in the order of the calls. If the Deferred fails (with StoreFailed), the event is not
        in the journal and never will be. An event that ``may_wait`` may be synced a few milliseconds later,
        together with others.
        """

    def append_all(events: "Sequence[Event]", may_wait: bool = False) -> "Deferred[RecordPosition]":
        """Append one or more events atomically; fires with the position of the first one.

        As ``append``, but for all: if the Deferred fails, none of them is or ever will be in the journal.
        """

    def append_now(events: "list[Event]") -> "list[RecordPosition]":
        """Append events before the reactor runs, and block until they are durable; return their positions.

        Observers are notified of each event separately before this returns. Raises StartRefused; the daemon
        must not start then, because some of the events may be in the journal.
        """

    def add_observer(on_durable: OnDurable) -> None:
        """Call ``on_durable`` for all events of one append together, after its Deferred has fired."""

    def when_writable() -> "Deferred[None]":
        """Return a Deferred that fires when appending works, at once if it works now; may be cancelled."""

    def read(position: RecordPosition) -> Record:
        """Return the record at a position; raises StoreFailed if it cannot be read."""

    def events_since(sequence: int) -> "IEventReader":
        """Return a reader of all events from a number on."""

    def events_of(*job_ids: int) -> "IEventReader":
        """Return a reader of the events of some jobs that are durable now."""

    def sizes() -> "dict[str, int]":
        """Return the sizes that STATS reports, in bytes; ``segment`` is the number of the last segment."""

    def close() -> "Deferred[None]":
        """Commit the events in progress, then close all files and release the lock."""


class IEventReader(Interface):
    """Reads events of the journal in batches, for one caller."""

    next_sequence: int = Attribute("The number of the first record that has not been read.")

    def read_batch() -> "Deferred[list[tuple[int, Event]]]":
        """Return (sequence, event) of the next events; an empty list if there are no more now.

        After an empty list from ``IJournal.events_since``, all later events are those that observers are
        notified of from now on.

        Fails with Lagged if a snapshot has replaced the events, as it does not have all of them, and with
        StoreFailed if they cannot be read. May be cancelled. The reader must not be used after a failure.
        """


class OutputLost(OSError):
    """Output could not be made durable; ``kept`` is (stdout, stderr), NOTHING for a stream that is lost."""

    def __init__(self, text: str, kept: tuple[Output, Output]) -> None:
        super().__init__(text)
        self.kept = kept


class IOutputWriter(Interface):
    """The output of one attempt. Streams are numbered like their descriptors: 1 is stdout, 2 is stderr."""

    order: str | None = Attribute("After ``close``: the order of the output if it is in no file, else None.")

    def write(stream: int, data: bytes) -> None:
        """Append output; bytes over the limit are counted and dropped. Does not raise: see set_callbacks."""

    def set_callbacks(on_backpressure: Callable[[bool], None], on_failure: Callable[[str], None]) -> None:
        """Set the callbacks of the process that produces the output.

        ``on_backpressure(True)`` asks it to stop reading from the process, ``on_backpressure(False)`` to go
        on. ``on_failure(reason)`` is called once if output cannot be stored; later output is dropped.
        """

    def close() -> "Deferred[tuple[Output, Output]]":
        """Return (stdout, stderr) once both are durable.

        Fails with OutputLost if one cannot be made durable; that one is then not referred to by any record.
        """


class IEnvironmentFiles(Interface):
    """The environments that clients pass on to jobs, each stored once."""

    def exists(environment: Environment) -> bool:
        """Whether there is a file of an environment; raises OSError."""

    def store(environment: Environment, block: bytes) -> "Deferred[None]":
        """Store a block, and replace one that was damaged. Fires once it is durable; fails with OSError."""

    def read(environment: Environment) -> "Mapping[str, str]":
        """Return the values by name; raises OSError, and ValueError if the file has others."""

    def remove(sha256: str) -> "Deferred[None]":
        """Remove the file of an environment, if there is one; fails with OSError."""


class ISpool(Interface):
    """The files of jobs: the blocks that they are given, and the output that their attempts print."""

    environments: IEnvironmentFiles = Attribute("The environments that jobs share.")

    def store_blocks(job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        """Store the blocks of a submission by name (``script``, ``stdin``, ``secret``).

        Fires once they are durable. After an OSError some may be there; ``remove_jobs`` removes them, and so
        does the next start.
        """

    def link_blocks(job_id: int, blocks: ScheduleBlocks) -> "Deferred[None]":
        """Give a job of a schedule the blocks of that, as ``store_blocks`` would store them."""

    def store_schedule(
        blocks: ScheduleBlocks, contents: "Mapping[str, bytes]", before: ScheduleBlocks
    ) -> "Deferred[str | None]":
        """Store the blocks of a schedule; those that ``contents`` lacks are those of the version ``before``.

        Fires once they are durable, with the SHA-256 of script and stdin, in hex digits; None without both.
        After an OSError some may be there.
        """

    def read_schedule_block(blocks: ScheduleBlocks, name: str) -> bytes:
        """Return the content of a small block of a schedule; raises OSError."""

    def remove_schedule(blocks: ScheduleBlocks) -> "Deferred[None]":
        """Remove the files of a schedule's blocks; fails with OSError. The files of its jobs stay."""

    def digest(blocks: "Sequence[bytes]") -> "Deferred[str]":
        """Return the SHA-256 of the concatenated blocks, in hex digits."""

    def read_block(job_id: int, name: str) -> bytes:
        """Return the content of a small block; raises OSError."""

    def replace_script(
        job_id: int, file: int, script: bytes | None, has_stdin: bool
    ) -> "Deferred[str | None]":
        """Store the new script of a job, if it has one, in its file of this number, 0 or 1.

        Fires once it is durable, with the SHA-256 of script and stdin, in hex digits; None without both.
        After an OSError the file may be there; ``remove_script`` removes it, and so does the next start.
        """

    def remove_script(job_id: int, file: int) -> "Deferred[None]":
        """Remove the file of this number with a script of a job; fails with OSError."""

    def read_script(job_id: int, file: int, offset: int, length: int) -> "Deferred[bytes]":
        """Return a part of the script of a job; fails with StoreFailed."""

    def path(job_id: int, name: str, file: int = 0) -> str:
        """Return the path of a job's ``script``, ``stdin``, ``secret`` or ``progress``.

        ``file`` is the number of the file with the script.
        """

    def output_paths(job_id: int, attempt: int) -> dict[int, str]:
        """Return the paths of the files for the output of an attempt, by stream."""

    def order_path(job_id: int, attempt: int) -> str:
        """Return the path of the file for the order of the output of an attempt."""

    def open_attempt(job_id: int, attempt: int) -> None:
        """Note that an attempt runs, whose output a runner writes."""

    def note_output(job_id: int, attempt: int, dropped: tuple[int, int]) -> None:
        """Note that a running attempt has printed, and how much of stdout and stderr was not kept."""

    def close_attempt(job_id: int) -> None:
        """Forget the open attempt of a job: its end is durable. Removes its progress and its user files."""

    def output_on_disk(job_id: int, attempt: int) -> tuple[Output, Output]:
        """Return (stdout, stderr) of an attempt that a crash has interrupted, as found on disk."""

    def output_sizes(job_id: int) -> "dict[str, int] | None":
        """Return the output sizes of a job's open attempt, named as in its JSON; None if it has none."""

    def read_output(job_id: int, attempt: int, stream: int, offset: int, length: int) -> "Deferred[bytes]":
        """Return part of the output of an attempt that is open or in a file; fails with StoreFailed."""

    def read_order(job_id: int, attempt: int, offset: int, length: int) -> bytes:
        """Return part of the file with the order of an attempt's output; nothing if there is none.

        Raises StoreFailed.
        """

    def output_written_at(job_id: int, attempt: int, stream: int) -> float | None:
        """Return the time of day when the file of a stream was last written; None if there is none."""

    def flush_output(job_id: int) -> "Deferred[None]":
        """Fire when the files have what the open attempt of a job has printed; may be cancelled.

        Fires at once if there is no open attempt, or no runner to ask.
        """

    def read_progress(job_id: int) -> Progress:
        """Return the progress that the running job last reported, 0 % if it reported none."""

    def remove_jobs(attempts: "Mapping[int, int]") -> "Deferred[None]":
        """Remove all files of some jobs, whose numbers of attempts are given by id.

        Fails with OSError if some could not be removed, and may then be repeated.
        """

    def add_output_observer(job_id: int, on_output: Callable[[], None]) -> Callable[[], None]:
        """Call ``on_output`` when a job prints, and when an attempt is opened or closed.

        Returns a function that removes the observer; call it once.
        """


class ICommitReactor(IReactorTime, IReactorFromThreads):
    """The part of the reactor that the journal uses."""


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
