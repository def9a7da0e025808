"""A connection: bytes in, requests out of them, and no more of either than fits.

Lines and blocks come through LineReceiver, telnet's sequences are answered where a line would begin. How
requests are handled and answered is in exchange.py, when more is read in pacing.py, who is let in in
doorkeeper.py.
"""

import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd import replies, sending, telnet, wire
from taskqd.access import Principal
from taskqd.asked import Asked
from taskqd.blocks import BlockReader
from taskqd.doorkeeper import Doorkeeper
from taskqd.errors import AuthFailed, BadRequest, LineTooLong, QueueFull, TaskqError
from taskqd.exchange import Exchange
from taskqd.interfaces import ICaller
from taskqd.pacing import Pacing
from taskqd.verbs import Verbs

LINES_AT_ONCE = 250
"""So many lines of a connection are read in one turn of the reactor: then others have theirs."""
LINGER = 10.0
"""After its last reply a connection is kept open for up to so many seconds, for the reply to arrive."""
LOOK_FOR_HANGUP = 5.0
"""A client that is not read from, since it has closed its half or asks too much, is looked after so often."""
KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 70_000),
)
"""A TCP peer that goes without a word is found out within 70 s (tcp(7)); the kernel takes two hours."""
MOST_FAILURES = 3
"""So many failed AUTHs end a connection."""
LINGER_OF_STRANGERS = 1.0
"""Of who is sent away without having said who they are, the place is free again after so many seconds."""


@implementer(ICaller, IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Connection(LineReceiver):
    """One client. It is its own transport's producer: reading stops while too many replies are unread."""

    _log = Logger()
    transport: Any
    delimiter = b"\n"

    def __init__(
        self,
        verbs: Verbs,
        keeper: Doorkeeper,
        clock: Any,
        opened: Callable[["Connection"], object],
        lost: Callable[["Connection"], object],
    ) -> None:
        self.principal: Principal | None = None
        self.MAX_LENGTH = keeper.quotas.line + 1
        self._verbs = verbs
        self._keeper = keeper
        self._clock = clock
        self._opened = opened
        self._lost = lost
        self._heard_at = clock.seconds()
        self._pacing = Pacing(clock, self._read_on)
        self._origin: str | None = None
        self._is_first_line = True
        self._is_reading = False
        self._is_deaf = False
        self._is_encrypted = False
        self._is_expelled = False
        self._is_gone = False
        self._is_eof = False
        self._is_finishing = False
        self._is_identifying = False
        self._failures = 0
        self._exchange = Exchange(verbs, self, lambda: self._pacing.is_choked, self._go_on, self._release)
        self._block: tuple[Asked, BlockReader] | None = None
        self._held: set[Deferred[Any]] = set()
        self._linger: Any = None
        self._lookout: Any = None

    # What Twisted calls.

    def connectionMade(self) -> None:
        self._opened(self)
        self._keeper.came(self)
        below = self._below()
        below.bufferSize = self._keeper.quotas.replies
        handle = below.getHandle()
        if handle.family != socket.AF_UNIX:
            for level, option, value in KEEP_ALIVE:
                handle.setsockopt(level, option, value)
        if not self._is_tls():
            # An interrupt's data mark comes as urgent data: out of line it would tear its sequence apart.
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.transport.registerProducer(self, True)
        peer = None if self._is_tls() else self._verbs.peer(self.transport)
        if peer is None:
            self._keeper.settle()
        else:
            self._origin = peer.origin
            self._introduce(peer)

    def handshakeCompleted(self) -> None:
        self._is_encrypted = True
        certified = self._verbs.certificate(self.transport)
        if certified is not None:
            self._introduce(certified)

    def _introduce(self, principal: Principal) -> None:
        """Take somebody for who the system says that they are."""
        try:
            self._keeper.known(self, principal)
            self.principal = principal
        except QueueFull as why:
            self.expel(why)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost(self)
        self._keeper.left(self)
        self._is_gone = self._is_deaf = True
        self._exchange.end()
        self._forget_block()
        for timer in (self._linger, self._lookout):
            if timer is not None and timer.active():
                timer.cancel()
        for deferred in list(self._held):
            deferred.cancel()
        self._pacing.end()

    def readConnectionLost(self) -> None:
        self._is_eof = True
        if self._linger is not None:
            self._close()
        self._exchange.advance()
        if self._lookout is None:
            self._look_for_hangup()

    def _look_for_hangup(self) -> None:
        """Notice that a client that is not read from has gone altogether: nothing comes that would tell.

        A UNIX socket hangs up when its peer closes; on TCP, keep-alive probes find out.
        """
        self._lookout = None
        if self._is_gone or not (self._is_eof or self.paused):
            return
        poll = select.poll()
        poll.register(self._below().getHandle(), 0)
        if poll.poll(0):
            self.transport.abortConnection()
        else:
            self._lookout = self._clock.callLater(LOOK_FOR_HANGUP, self._look_for_hangup)

    def _below(self) -> Any:
        """Return the transport that has the socket: TLS is on top of another."""
        return getattr(self.transport, "transport", self.transport)

    def writeConnectionLost(self) -> None:
        """Our own half of the connection was closed, by ourselves."""

    def pauseProducing(self) -> None:
        self._pacing.choke()
        self._pace()

    def resumeProducing(self) -> None:
        self._heard_at = self._clock.seconds()
        self._pacing.relieve()
        self._exchange.advance()

    def stopProducing(self) -> None:
        self._pacing.choke()

    def dataReceived(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._heard_at = self._clock.seconds()
        pacing = self._pacing
        pacing.ahead = pacing.ahead + data if pacing.ahead else data
        if self._is_reading:
            return
        if not pacing.is_breathing:
            self._is_reading = True
            try:
                self._read_ahead()
                self._exchange.advance()
            finally:
                self._is_reading = False
        if pacing.is_breathing or pacing.is_held:
            self._pace()
        self._end_if_done()

    def _read_on(self) -> None:
        self.dataReceived(b"")
        self._pace()

    def _is_tls(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    def _read_ahead(self) -> None:
        """Hand what has come to LineReceiver, a line or a piece of a block at a time."""
        data, at, pieces = self._pacing.ahead, 0, 0
        while at < len(data) and not self.paused and not self._is_deaf:
            if pieces == LINES_AT_ONCE:
                self._pacing.breathe()
                break
            if self._block is not None:
                end = at + self._block[1].wanted
            elif data[at] == telnet.IAC and not self._buffer:
                sequence = telnet.read(data, at)
                if sequence is None:
                    break
                self.transport.write(sequence.answer)
                at = sequence.end
                continue
            else:
                end = data.find(b"\n", at) + 1
                if end and not self._buffer:
                    pieces += 1
                    line, at = data[at : end - 1], end
                    self.lineReceived(line)
                    continue
                end = end or len(data)
            pieces += 1
            piece, at = data[at:end], min(end, len(data))
            super().dataReceived(piece)
        self._pacing.ahead = b"" if self._is_deaf else data[at:]

    def lineReceived(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        if len(line) > self._keeper.quotas.line:
            self.lineLengthExceeded(line)
            return
        if self._is_first_line and wire.is_http(line):
            self._is_deaf = True
            self._close()
            return
        self._is_first_line = False
        self._exchange.followed()
        if line.strip():
            self._line_came(self._read(line), len(line))

    def _read(self, line: bytes) -> wire.Request:
        try:
            return wire.read_line(line)
        except Exception:  # noqa: BLE001 - whatever a bug of ours raises, the client gets an answer
            self._log.failure("a line of {length} bytes met a bug of taskqd's", length=len(line))
            why = TaskqError("this line met a bug of taskqd's; the daemon's log has it")
            return wire.Request("", None, why, is_lost=True)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up(
            LineTooLong(
                f"a request line has at most {self._keeper.quotas.line} bytes; send more with --script"
            )
        )

    def rawDataReceived(self, data: bytes) -> None:
        if self._block is None:
            return
        asked, reader = self._block
        try:
            reader.feed(data)
        except BadRequest as why:
            self._forget_block()
            self._give_up(why)
            return
        if not reader.wanted:
            self._block = None
            self.setLineMode()
            if asked.request.error is None:
                asked.blocks = reader.blocks
                self._exchange.ask(asked)

    # What the handlers call.

    def identify(self, authenticating: "Deferred[Principal]") -> "Deferred[Principal]":
        return self.while_connected(authenticating).addBoth(self._identified)

    def _identified(self, result: Any) -> Any:
        """Take note of who it is; what came behind the AUTH is read only now, in the light of it."""
        self._is_identifying = False
        if isinstance(result, Failure):
            self._failures += result.check(AuthFailed) is not None
            if self._failures >= MOST_FAILURES:
                self.finish()
        elif not self._is_gone:
            self._keeper.known(self, result)
            self.principal = result
        return result

    @property
    def address(self) -> str:
        if self._origin is not None:
            return self._origin
        peer = self.transport.getPeer()
        # Behind a proxy at a UNIX socket it may be that nobody knows.
        return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else "unix"

    def send(self, data: bytes) -> None:
        if not self._is_expelled:
            sending.write(self.transport, data)

    def room(self) -> "Deferred[None]":
        return self._pacing.room()

    def next_line(self) -> "Deferred[None]":
        return self._exchange.next_line()

    def while_connected(self, deferred: "Deferred[Any]") -> "Deferred[Any]":
        def let_go(result: Any) -> Any:
            self._held.discard(deferred)
            return result

        self._held.add(deferred)
        return deferred.addBoth(let_go)

    def finish(self) -> None:
        self._is_deaf = True
        self._is_finishing = True
        self._exchange.drop()

    # What the service and the doorkeeper call.

    def end(self) -> None:
        """Read no more and close once all is written that was answered."""
        self._is_deaf = True
        self._close()

    def is_idle(self, since: float) -> bool:
        """Whether it waits for nothing, or does not read it, and nothing was heard of it since a time."""
        return self._heard_at <= since and (self._exchange.is_quiet or self._pacing.is_choked)

    def expel(self, why: TaskqError) -> None:
        """Say why, in place of all that is unanswered, and close."""
        if self._is_gone or self._is_expelled:
            return
        self._is_expelled = self._is_deaf = True
        if self._is_tls() and not self._is_encrypted:
            self.transport.abortConnection()
            return
        self.transport.write(replies.error(why))
        self._exchange.end()
        self._forget_block()
        for deferred in list(self._held):
            deferred.cancel()
        if self.principal is None:
            self._cut_off_in(LINGER_OF_STRANGERS)
        self._close()

    # From a line to a request.

    def _line_came(self, request: wire.Request, size: int) -> None:
        if request.is_lost:
            self._give_up(request.error)
        elif not request.blocks:
            if request.verb == "AUTH" and request.error is None:
                self._is_identifying = True  # whether blocks behind it are wanted is told by who it is then
            self._exchange.ask(Asked(request, size, []))
        else:
            asked = self._expect(request, size)
            is_kept = asked.request.error is None
            self._block = (asked, BlockReader(request.blocks, is_kept))
            self.setRawMode()
            if not is_kept:
                self._exchange.ask(asked)

    def _expect(self, request: wire.Request, size: int) -> Asked:
        """Return a request whose blocks are on their way, with memory for them unless they are refused."""
        request = self._verbs.expect(self, request)
        more = sum(request.blocks)
        if request.error is None and self.principal is not None:
            try:
                self._keeper.reserve(self.principal, more)
            except QueueFull as why:
                return Asked(request._replace(error=why), size, [])
            return Asked(request, size + more, [], (self.principal, more))
        return Asked(request, size, [])

    def _release(self, asked: Asked) -> None:
        """Give back the memory that was set aside for a request's blocks."""
        if asked.reserved is not None:
            self._keeper.give_back(*asked.reserved)
            asked.reserved = None

    def _forget_block(self) -> None:
        if self._block is not None:
            self._release(self._block[0])
            self._block = None

    def _give_up(self, why: TaskqError | None) -> None:
        """Answer with an error once all before it is answered, and end: what follows can't be understood."""
        self._is_deaf = True
        self._exchange.followed()
        self._exchange.ask(Asked(wire.Request("", None, why, is_lost=True), 0, []))

    def _go_on(self) -> None:
        """Read on and close as what was answered allows."""
        self._pace()
        self._end_if_done()

    def _pace(self) -> None:
        """Read on, or not, as there is room for replies and for requests."""
        is_full = self._exchange.is_full or self._is_identifying
        self.paused = (self._pacing.is_choked or is_full) and not self._is_deaf
        if not self._is_eof:
            self._pacing.hold(self.transport, self.paused, self._is_deaf)
            if self.paused and self._lookout is None:
                self._lookout = self._clock.callLater(LOOK_FOR_HANGUP, self._look_for_hangup)
        if self._pacing.ahead and not self.paused and not self._pacing.is_breathing:
            self.dataReceived(b"")

    def _end_if_done(self) -> None:
        if self._is_gone or self._is_reading or not self._exchange.is_quiet:
            return
        is_more_to_read = self._pacing.is_breathing or (self._pacing.ahead and self.paused)
        if not self._is_finishing and (not self._is_eof or is_more_to_read):
            return
        if self._is_eof or self._is_tls():
            self._close()
        elif self._linger is None:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
            self._cut_off_in(LINGER)

    def _close(self) -> None:
        """Close once all is written; a transport that has a producer would ask it for more instead."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if self._linger is None:
            self._cut_off_in(LINGER)

    def _cut_off_in(self, seconds: float) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._clock.callLater(seconds, self.transport.abortConnection)
