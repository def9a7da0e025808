"""What one attempt prints, from its start to its end: a little in memory for a moment, the rest in files.

A stream's first bytes wait for up to FLUSH_TIMEOUT seconds: an attempt that has ended by then and printed
little needs no file, its output stands in the journal. Everything else is written as it comes. So that a
large output does not delay the journal's next sync, it is synced every SYNC_INTERVAL_BYTES
in another thread, and the attempt is not read from while more than MAX_UNSYNCED bytes wait for that.
"""

from collections.abc import Callable
from os import path
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import is_shortage
from taskqd.model.events import NOTHING, Output
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread, IOutputWriter, OutputLost

MAX_INLINE_BYTES = 4096
"""A stream of up to so many bytes can stand in the journal."""
FLUSH_TIMEOUT = 0.1
"""So many seconds after the first byte, the output is written to its file at the latest."""
SYNC_INTERVAL_BYTES = 8 * 1024**2
MAX_UNSYNCED = 32 * 1024**2
REOPEN_INTERVAL = 0.5
"""This many seconds after the machine had no descriptor for a file, it is tried again."""

OutputObservers = list[Callable[[], None]]
"""Who wants to be called when something was printed."""

_log = Logger()


def notify(followers: OutputObservers) -> None:
    """Call each follower; one that raises is dropped, so that the job's output goes on."""
    for follower in tuple(followers):
        try:
            follower()
        except Exception:  # noqa: BLE001 - the job that prints, and other followers, must not suffer from it
            _log.failure("a follower of a job's output raised an error: it is not called again")
            if follower in followers:
                followers.remove(follower)


class OutputStream:
    """One stream of an attempt, to be written to the file at ``path`` once it needs one.

    ``head`` is what waits in memory, None from the first write on. ``synced`` is called when a sync under way
    has ended, with the error that it met or None.
    """

    def __init__(
        self,
        path: str,
        filesystem: Filesystem,
        in_thread: InThread,
        limit: int,
        synced: Callable[[OSError | None], None],
    ) -> None:
        self.size = 0
        self.dropped = 0
        self.head: bytearray | None = bytearray()
        self._path = path
        self._filesystem = filesystem
        self._in_thread = in_thread
        self._limit = limit
        self._report = synced
        self._descriptor: int | None = None
        self._unsynced = 0
        self._syncing: Deferred[None] | None = None
        self._error: OSError | None = None
        self._is_whole = True
        self.lacks_descriptor = False

    @property
    def has_backlog(self) -> bool:
        """Whether so much waits to be synced, or for its file, that no more should be read."""
        return self._unsynced > MAX_UNSYNCED or self.lacks_descriptor

    def write(self, data: bytes) -> None:
        """Keep as much of ``data`` as the limit allows and count the rest; raises OSError if that fails."""
        kept = data[: max(0, self._limit - self.size)]
        self.dropped += len(data) - len(kept)
        self.size += len(kept)
        if self.head is not None and len(self.head) + len(kept) <= MAX_INLINE_BYTES:
            self.head += kept
        elif kept and self._open():
            self.flush()
            self.head = None
            self._write(kept)
        elif kept:
            self.head = (self.head or bytearray()) + kept
        if self._unsynced >= SYNC_INTERVAL_BYTES and (self._syncing is None or self._syncing.called):
            self._sync()

    def flush(self) -> None:
        """Write what waits in memory to the file, if that can be opened now; raises OSError."""
        if self.head and self._open():
            self._write(bytes(self.head))
            self.head = None

    def count_dropped(self, data: bytes) -> None:
        """Count what can't be kept."""
        self.dropped += len(data)

    @property
    def has_file(self) -> bool:
        """Whether it was written to its file."""
        return self._descriptor is not None

    def inline_output(self) -> Output:
        """Return the output of a stream that has no file."""
        if not self.size and not self.dropped:
            return NOTHING
        head = bytes(self.head or b"")
        return Output.inline(head, self.dropped + self.size - len(head))

    def close(self) -> "Deferred[Output]":
        """Return the output once it is durable; fails with OSError if it could not be made so.

        Where it could not all be written, what is in the file counts and the rest is dropped.
        """
        try:
            if self.head and len(self.head) > MAX_INLINE_BYTES:
                self.flush()
                if self.lacks_descriptor:
                    raise OSError(f"{self._path} cannot be opened: the machine lacks descriptors")
        except OSError as why:
            return fail(why)
        descriptor = self._descriptor
        if descriptor is None:
            return succeed(self.inline_output())
        syncing = succeed(None) if self._syncing is None else self._syncing
        return syncing.addCallback(lambda _: self._in_thread(self._finish, descriptor))

    def _open(self) -> bool:
        """Have the file open; False if the machine lacks descriptors, which is no fault of the job's."""
        self.lacks_descriptor = False
        if self._descriptor is None:
            try:
                self._descriptor = self._filesystem.create_with_parents(self._path)
            except OSError as why:
                if not is_shortage(why):
                    raise
                self.lacks_descriptor = True
        return not self.lacks_descriptor

    def _write(self, data: bytes) -> None:
        try:
            self._filesystem.write(cast("int", self._descriptor), data)
        except OSError:
            self._is_whole = False  # what was written of it counts
            raise
        self._unsynced += len(data)

    def _sync(self) -> None:
        self._syncing = self._in_thread(self._filesystem.sync, self._descriptor).addBoth(
            self._synced, self._unsynced
        )

    def _synced(self, result: object, covered: int) -> None:
        if isinstance(result, Failure):
            result.trap(OSError)
            self._error = self._error or OSError(str(result.value))
        self._unsynced -= covered
        self._report(self._error)

    def _finish(self, descriptor: int) -> Output:
        """Make the file durable and close it; runs in a thread."""
        try:
            if self._error is not None:
                raise self._error
            self._filesystem.sync(descriptor)
            self._filesystem.sync_directory(path.dirname(self._path))
            size = self._filesystem.size(self._path)
            if size is None or (self._is_whole and size < self.size):
                raise _lost(self._path, size, self.size)
            return Output(size, self.dropped + self.size - size)
        finally:
            self._filesystem.close(descriptor)


@implementer(IOutputWriter)
class OutputWriter:
    """Both streams of an attempt; ``paths`` are those of their files, should they need any.

    Each of ``followers`` is called when there is more to be read; the list is the spool's, which changes it.
    """

    def __init__(
        self,
        paths: dict[int, str],
        filesystem: Filesystem,
        clock: Any,
        in_thread: InThread,
        limit: int,
        followers: OutputObservers,
    ) -> None:
        self.streams = {
            number: OutputStream(path, filesystem, in_thread, limit, self._synced)
            for number, path in paths.items()
        }
        self._clock = clock
        self.observers = followers
        self._timer: Any = None
        self._is_failed = False
        self._has_backpressure = False
        self._on_backpressure: Callable[[bool], None] = lambda _: None
        self._on_failure: Callable[[str], None] = lambda _: None

    def set_callbacks(self, choked: Callable[[bool], None], failed: Callable[[str], None]) -> None:
        self._on_backpressure, self._on_failure = choked, failed

    def write(self, stream: int, data: bytes) -> None:
        if self._is_failed:
            self.streams[stream].count_dropped(data)
            return
        try:
            self.streams[stream].write(data)
        except OSError as why:
            self._fail(why)
        if self._timer is None:
            self._timer = self._clock.callLater(FLUSH_TIMEOUT, self._flush)
        self._schedule_reopen()
        self._check_backpressure()
        notify(self.observers)

    def close(self) -> "Deferred[tuple[Output, Output]]":
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        out, err = self.streams.values()
        if not any(stream.has_file or stream.lacks_descriptor for stream in (out, err)):
            return succeed((out.inline_output(), err.inline_output()))
        return Deferred.fromCoroutine(_both(out.close(), err.close()))

    def _flush(self) -> None:
        try:
            for stream in self.streams.values():
                stream.flush()
                if not stream.lacks_descriptor:
                    stream.head = None
        except OSError as why:
            self._fail(why)
        self._schedule_reopen()
        self._check_backpressure()

    def _schedule_reopen(self) -> None:
        """Try again what had no descriptor; until then nothing more is read."""
        if any(stream.lacks_descriptor for stream in self.streams.values()) and not self._timer.active():
            self._timer = self._clock.callLater(REOPEN_INTERVAL, self._flush)

    def _synced(self, error: OSError | None) -> None:
        if error is not None:
            self._fail(error)
        self._check_backpressure()

    def _check_backpressure(self) -> None:
        is_choked = any(stream.has_backlog for stream in self.streams.values())
        if is_choked != self._has_backpressure:
            self._has_backpressure = is_choked
            self._on_backpressure(is_choked)

    def _fail(self, why: OSError) -> None:
        if not self._is_failed:
            self._is_failed = True
            self._on_failure(str(why))


def _lost(path: str, size: int | None, written: int) -> OSError:
    """Return the error of a file that somebody else has removed or cut while it was written."""
    if size is None:
        return OSError(f"{path} was removed while the job ran")
    return OSError(f"{path} was cut to {size} bytes while the job ran, which had printed {written}")


async def _both(stdout: "Deferred[Output]", stderr: "Deferred[Output]") -> tuple[Output, Output]:
    """Return both outputs; raises OutputLost, with what is kept, once both closings are over."""
    outputs: list[Output] = []
    lost: list[str] = []
    for closing in (stdout, stderr):
        try:
            outputs.append(await closing)
        except OSError as why:
            outputs.append(NOTHING)
            lost.append(str(why))
    out, err = outputs
    if lost:
        raise OutputLost("; ".join(lost), (out, err))
    return out, err
