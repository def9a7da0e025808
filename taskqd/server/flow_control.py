"""When a connection is read from and when not: as there is room for replies, and as others have their turn.

Three things keep what a client sends where it is: replies that it does not read, more requests than may wait,
and the turn of the reactor that others want to have too. Only the first is told to those who send.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

MAX_BUFFERED = 65_536
"""When so many bytes that came are still unread, no more are taken from the connection."""


class FlowControl:
    """The pace of one connection; ``read_on`` is called when a breath is over.

    ``ahead`` is what came and was not read yet, ``unread`` how many bytes its client has not read. The
    connection ``is_choked`` while that is too much, and nothing is taken from it while it ``is_held``.
    Nothing more is sent once it ``is_over``.
    """

    def __init__(self, clock: Any, read_on: Callable[[], None]) -> None:
        self.ahead = b""
        self.unread = 0
        self.is_choked = False
        self.is_held = False
        self.is_over = False
        self._clock = clock
        self._read_on = read_on
        self._breath: Any = None
        self._rooms: list[Deferred[None]] = []

    @property
    def is_breathing(self) -> bool:
        """Whether the rest of what came is left for the next turn of the reactor."""
        return self._breath is not None

    def yield_to_reactor(self) -> None:
        """Let others have their turn, and read on then."""
        self._breath = self._clock.callLater(0, self._breathed)

    def _breathed(self) -> None:
        self._breath = None
        self._read_on()

    def choke(self) -> None:
        """Take note that nothing more should be sent for now."""
        self.is_choked = True

    def relieve(self) -> None:
        """Take note that there is room again, and tell who waits for it."""
        self.is_choked = False
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            room.callback(None)

    def room(self) -> "Deferred[None]":
        """Fire when more can be sent; fails when the connection is over. May be cancelled."""
        if self.is_over:
            return fail(ConnectionDone())
        if not self.is_choked:
            return succeed(None)
        room: Deferred[None] = Deferred(self._rooms.remove)
        self._rooms.append(room)
        return room

    def hold(self, transport: Any, is_paused: bool, is_deaf: bool) -> None:
        """Take from the transport, or not: no more while reading ``is_paused``, or too much is ahead of it.

        Of one that ``is_deaf`` everything is taken, to be thrown away.
        """
        is_behind = self.is_breathing and len(self.ahead) > MAX_BUFFERED and not is_deaf
        is_held = is_paused or is_behind
        if is_held != self.is_held:
            self.is_held = is_held
            if is_held:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    def end(self) -> None:
        """End with the connection: who waits for room gets none."""
        self.is_over = True
        if self._breath is not None and self._breath.active():
            self._breath.cancel()
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            room.errback(Failure(ConnectionDone()))
