"""The output of one attempt: both streams, and flow control for the process that prints."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from taskqd.model.events import NOTHING, Output
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread, IOutputWriter, OutputLost
from taskqd.storage.spool.output_order import OrderIndex
from taskqd.storage.spool.output_stream import OutputStream

FLUSH_TIMEOUT = 0.1
"""Seconds after the first byte when output is written to its file; a shorter attempt needs no file."""
REOPEN_INTERVAL = 0.5
"""Seconds between two attempts to open a file while the machine lacks descriptors."""

OutputObservers = list[Callable[[], None]]
"""Functions that are called when there is new output."""

_log = Logger()


def notify(observers: OutputObservers) -> None:
    """Call each observer. One that raises is removed, so that the job and other observers go on."""
    for observer in tuple(observers):
        try:
            observer()
        except Exception:  # noqa: BLE001 - see above
            _log.failure("internal error in an observer of a job's output; it is not called again")
            if observer in observers:
                observers.remove(observer)


@implementer(IOutputWriter)
class OutputWriter:
    """Writes both streams of an attempt, to the files at ``paths`` if they need any.

    With ``files``, descriptors by stream, it writes to these, and the paths are names for messages.
    ``streams`` are by number. ``observers`` are called when there is new output; the spool changes the list.
    The order of the output goes to the file at ``order_path``, or stays in memory. ``order`` is what is in no
    file of it when the writer is closed, None for nothing.
    """

    def __init__(
        self,
        paths: dict[int, str],
        filesystem: Filesystem,
        clock: IReactorTime,
        in_thread: InThread,
        limit: int,
        observers: OutputObservers,
        files: Mapping[int, int] = MappingProxyType({}),
        order_path: str | None = None,
    ) -> None:
        self.order: str | None = None
        self.streams = {
            number: OutputStream(path, filesystem, in_thread, limit, self._on_synced, files.get(number))
            for number, path in paths.items()
        }
        self.observers = observers
        self._index = OrderIndex(order_path, filesystem, clock)
        self._clock = clock
        self._in_thread = in_thread
        self._timer: IDelayedCall | None = None
        self._has_failed = False
        self._has_backpressure = False
        self._on_backpressure: Callable[[bool], None] = lambda _: None
        self._on_failure: Callable[[str], None] = lambda _: None

    def set_callbacks(
        self, on_backpressure: Callable[[bool], None], on_failure: Callable[[str], None]
    ) -> None:
        self._on_backpressure, self._on_failure = on_backpressure, on_failure

    def write(self, stream: int, data: bytes) -> None:
        if self._has_failed:
            self.streams[stream].count_dropped(data)
            return
        target = self.streams[stream]
        before = target.size
        try:
            target.write(data)
        except OSError as error:
            self._fail(error)
        if target.size > before:
            self._index.add(stream, target.size - before)
            if self._index.must_write and self._has_file:
                self._index.write()
        if self._timer is None:
            self._timer = self._clock.callLater(FLUSH_TIMEOUT, self._flush)
        self._schedule_reopen()
        self._check_backpressure()
        notify(self.observers)

    @property
    def dropped(self) -> tuple[int, int]:
        """The bytes of stdout and stderr that were not kept."""
        out, err = self.streams.values()
        return out.dropped, err.dropped

    def write_through(self) -> None:
        """Write what is in memory to the files, and from now on all output at once."""
        if self._timer is not None and any(stream.head is not None for stream in self.streams.values()):
            self._flush()
        if self._has_file:
            self._index.write()

    @property
    def _has_file(self) -> bool:
        return any(stream.has_file for stream in self.streams.values())

    def close(self) -> "Deferred[tuple[Output, Output]]":
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        out, err = self.streams.values()
        if not any(stream.has_file or stream.lacks_descriptor for stream in (out, err)):
            out.close_unused_file()
            err.close_unused_file()
            self.order = self._index.close_inline()
            return succeed((out.inline_output(), err.inline_output()))
        closing = self._index.close(self._in_thread).addCallback(self._set_order)
        return Deferred.fromCoroutine(_gather_outputs(out.close(), err.close(), closing))

    def _set_order(self, order: str | None) -> None:
        self.order = order

    def _flush(self) -> None:
        try:
            for stream in self.streams.values():
                stream.flush()
                if not stream.lacks_descriptor:
                    stream.head = None
        except OSError as error:
            self._fail(error)
        self._schedule_reopen()
        self._check_backpressure()

    def _schedule_reopen(self) -> None:
        """Try later to open the files that could not be opened; until then no more output is read."""
        is_scheduled = self._timer is not None and self._timer.active()
        if any(stream.lacks_descriptor for stream in self.streams.values()) and not is_scheduled:
            self._timer = self._clock.callLater(REOPEN_INTERVAL, self._flush)

    def _on_synced(self, error: OSError | None) -> None:
        if error is not None:
            self._fail(error)
        self._check_backpressure()

    def _check_backpressure(self) -> None:
        has_backpressure = any(stream.has_backlog for stream in self.streams.values())
        if has_backpressure != self._has_backpressure:
            self._has_backpressure = has_backpressure
            self._on_backpressure(has_backpressure)

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._on_failure(str(error))


async def _gather_outputs(
    stdout: "Deferred[Output]", stderr: "Deferred[Output]", order: "Deferred[None]"
) -> tuple[Output, Output]:
    """Return both outputs; raises OutputLost, but only after both streams and the index have been closed."""
    outputs: list[Output] = []
    errors: list[str] = []
    for closed in (stdout, stderr):
        try:
            outputs.append(await closed)
        except OSError as error:
            outputs.append(NOTHING)
            errors.append(str(error))
    await order
    out, err = outputs
    if errors:
        raise OutputLost("; ".join(errors), (out, err))
    return out, err
