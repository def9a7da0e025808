"""Flow control of one connection: when its input is read, and when replies may be sent.

Reading pauses for the reasons in `PauseReason`. The bytes that have been received stay in
`FlowControl.buffer` and, for most reasons, the transport is paused as well, so that the client is slowed
down.
"""

from collections.abc import Callable
from enum import Enum, auto

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure

MAX_BUFFERED = 65_536
"""While reading yields to the reactor, the transport is paused if more than this many bytes are buffered."""


class PauseReason(Enum):
    """A reason why the input of a connection is not read."""

    CONGESTED = auto()
    """The client does not read its replies."""
    QUEUE_FULL = auto()
    """The request pipeline is full."""
    AUTHENTICATING = auto()
    """The result of an AUTH decides how the requests behind it are treated."""
    YIELDING = auto()
    """The connection has used up its time slice; the transport is paused only above MAX_BUFFERED."""


class FlowControl:
    """The flow control of one connection; `on_turn` is called when it may read on after it has yielded.

    `buffer` has the bytes that were received and not framed yet. `has_unread_input` is set if some of them
    may be whole requests, which were not read because of a pause. `unsent` is the number of bytes of replies
    that the transport has not been able to write. `is_paused` is set while there is any reason not to read,
    `is_transport_paused` while the transport does not read either.
    """

    def __init__(self, clock: IReactorTime, on_turn: Callable[[], None]) -> None:
        self.buffer = b""
        self.has_unread_input = False
        self.unsent = 0
        self.is_paused = False
        self._clock = clock
        self._on_turn = on_turn
        self._reasons: set[PauseReason] = set()
        self.is_transport_paused = False
        self._is_closed = False
        self._turn: IDelayedCall | None = None
        self._writers: list[Deferred[None]] = []

    @property
    def is_blocked(self) -> bool:
        """Whether input is not read, for another reason than to yield to the reactor."""
        return self.is_paused and len(self._reasons) > self.is_yielding

    @property
    def is_congested(self) -> bool:
        """Whether the client does not read its replies."""
        return self.is_paused and PauseReason.CONGESTED in self._reasons

    @property
    def is_yielding(self) -> bool:
        """Whether the rest of the input is left for the next reactor turn."""
        return self.is_paused and PauseReason.YIELDING in self._reasons

    @property
    def can_send(self) -> bool:
        """Whether more replies may be sent now."""
        return not self.is_congested and not self._is_closed

    @property
    def is_waited_for(self) -> bool:
        """Whether a request waits for `writable`."""
        return bool(self._writers)

    def pause(self, reason: PauseReason) -> None:
        """Add a reason not to read input."""
        self._reasons.add(reason)
        self.is_paused = True

    def resume(self, reason: PauseReason) -> None:
        """Remove a reason not to read input; for CONGESTED, fire the Deferreds of `writable`."""
        if self.is_paused:
            self._reasons.discard(reason)
            self.is_paused = bool(self._reasons)
        if reason is PauseReason.CONGESTED:
            writers, self._writers = self._writers, []
            for writer in writers:
                writer.callback(None)

    def discard_input(self) -> None:
        """Drop the buffered input."""
        self.buffer = b""
        self.has_unread_input = False

    def yield_to_reactor(self) -> None:
        """Read no more in this reactor turn."""
        self.pause(PauseReason.YIELDING)
        self._turn = self._clock.callLater(0, self._on_next_turn)

    def _on_next_turn(self) -> None:
        self.resume(PauseReason.YIELDING)
        self._on_turn()

    def apply_to(self, transport: IPushProducer, *, is_discarding: bool = False) -> None:
        """Pause or resume the transport; it is never paused while its input is discarded."""
        has_too_much = self.is_yielding and len(self.buffer) > MAX_BUFFERED
        must_pause = not is_discarding and (self.is_blocked or has_too_much)
        if must_pause == self.is_transport_paused:
            return
        self.is_transport_paused = must_pause
        if must_pause:
            transport.pauseProducing()
        else:
            transport.resumeProducing()

    def writable(self) -> "Deferred[None]":
        """Fire when more replies may be sent; fails when the connection closes. May be cancelled."""
        if self._is_closed:
            return fail(ConnectionDone())
        if not self.is_congested:
            return succeed(None)
        writer: Deferred[None] = Deferred(self._writers.remove)
        self._writers.append(writer)
        return writer

    def close(self) -> None:
        """Send nothing more; the Deferreds of `writable` fail with ConnectionDone."""
        self._is_closed = True
        self._on_turn = _ignore_turn  # the connection has this object: a cycle would remain
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.errback(Failure(ConnectionDone()))


def _ignore_turn() -> None:
    """Do nothing: the connection is closed."""
