"""A connection: bytes in, requests in order, replies in the same order, and no more of either than fits.

Lines and blocks come through LineReceiver, telnet's sequences are answered where a line would begin. A
request is handled when all before it are answered, but submissions follow each other at once, so that one
sync can cover many. What a request does is in verbs/, when more is read in pacing.py.
"""

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd import replies, telnet, wire
from taskqd.access import Principal
from taskqd.blocks import BlockReader
from taskqd.errors import AuthFailed, BadRequest, LineTooLong, TaskqError
from taskqd.interfaces import ICaller
from taskqd.pacing import Pacing
from taskqd.verbs import Verbs

MOST_SUBMISSIONS = 1000
"""So many submissions of one connection may be on their way to the disk at once."""
MOST_WAITING = 1000
"""When so many requests of a connection wait to be handled, no more is read from it."""
MOST_WAITING_BYTES = 1024**2
LINES_AT_ONCE = 250
"""So many lines of a connection are read in one turn of the reactor: then others have theirs."""
LINGER = 10.0
"""After its last reply a connection is kept open for up to so many seconds, for the reply to arrive."""
LOOK_FOR_HANGUP = 5.0
"""A client that has closed its half and waits for a reply is looked after every so many seconds."""
LINGER_AT_STOP = 2.0
"""When the daemon stops, a client has so many seconds to take what it was answered."""
MOST_FAILURES = 3
"""So many failed AUTHs end a connection."""


class _Asked:
    """A request that waits to be handled, and then for its reply.

    It ``is_followed`` once another line has come, be it an empty one.
    """

    __slots__ = ("blocks", "is_followed", "reply", "request", "size")

    def __init__(self, request: wire.Request, size: int, blocks: list[bytes]) -> None:
        self.request = request
        self.size = size
        self.blocks = blocks
        self.reply: bytes | None = None
        self.is_followed = False

    @property
    def may_follow(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        return self.request.error is not None or (self.request.verb == "SUBMIT" and not self.blocks)


@implementer(ICaller, IHalfCloseableProtocol, IPushProducer)
class Connection(LineReceiver):
    """One client. It is its own transport's producer: reading stops while too many replies are unread."""

    _log = Logger()
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = wire.LONGEST_LINE + 1

    def __init__(self, verbs: Verbs, clock: Any, keeper: "TaskqFactory") -> None:
        self.principal: Principal | None = None
        self._keeper = keeper
        self._verbs = verbs
        self._clock = clock
        self._pacing = Pacing(clock, self._read_on)
        self._is_first_line = True
        self._is_reading = False
        self._is_handling = False
        self._is_deaf = False
        self._is_gone = False
        self._is_eof = False
        self._is_finishing = False
        self._failures = 0
        self._waiting: deque[_Asked] = deque()
        self._waiting_bytes = 0
        self._unanswered: deque[_Asked] = deque()
        self._block: tuple[wire.Request, int, BlockReader] | None = None
        self._held: set[Deferred[Any]] = set()
        self._listening: list[Deferred[None]] = []
        self._linger: Any = None
        self._lookout: Any = None

    # What Twisted calls.

    def connectionMade(self) -> None:
        if not self._is_tls():
            handle = self.transport.getHandle()
            # An interrupt's data mark comes as urgent data: out of line it would tear its sequence apart.
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.principal = self._verbs.peer(handle)
        self.transport.registerProducer(self, True)
        self._keeper.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._keeper.lost(self)
        self._is_gone = self._is_deaf = True
        self._waiting.clear()
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
        self._advance()
        self._look_for_hangup()

    def _look_for_hangup(self) -> None:
        """Notice that a client that said its last has gone altogether: nothing is read that would tell.

        A UNIX socket hangs up when its peer closes; on TCP, keep-alive probes find out.
        """
        if self._is_gone or self._is_tls():
            return
        poll = select.poll()
        poll.register(self.transport.getHandle(), 0)
        if poll.poll(0):
            self.transport.abortConnection()
        else:
            self._lookout = self._clock.callLater(LOOK_FOR_HANGUP, self._look_for_hangup)

    def writeConnectionLost(self) -> None:
        """Our own half of the connection was closed, by ourselves."""

    def pauseProducing(self) -> None:
        self._pacing.choke()
        self._pace()

    def resumeProducing(self) -> None:
        self._pacing.relieve()
        self._advance()

    def stopProducing(self) -> None:
        self._pacing.choke()

    def dataReceived(self, data: bytes) -> None:
        if self._is_deaf:
            return
        pacing = self._pacing
        pacing.ahead = pacing.ahead + data if pacing.ahead else data
        if self._is_reading:
            return
        if not pacing.is_breathing:
            self._is_reading = True
            try:
                self._read_ahead()
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
                end = at + self._block[2].wanted
            elif data[at] == telnet.IAC and not self._buffer:
                sequence = telnet.read(data, at)
                if sequence is None:
                    break
                self.transport.write(sequence.answer)
                at = sequence.end
                continue
            else:
                end = data.find(b"\n", at) + 1 or len(data)
            pieces += 1
            piece, at = data[at:end], min(end, len(data))
            super().dataReceived(piece)
        self._pacing.ahead = b"" if self._is_deaf else data[at:]

    def lineReceived(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        if len(line) > wire.LONGEST_LINE:
            self.lineLengthExceeded(line)
            return
        if self._is_first_line and wire.is_http(line):
            self._is_deaf = True
            self._close()
            return
        self._is_first_line = False
        self._followed()
        if line.strip():
            self._line_came(wire.read_line(line), len(line))

    def _followed(self) -> None:
        """Take note that another line has come behind the last request, and tell whoever listens for it."""
        if self._waiting:
            self._waiting[-1].is_followed = True
        elif self._unanswered:
            self._unanswered[-1].is_followed = True
            listening, self._listening = self._listening, []
            for deferred in listening:
                deferred.callback(None)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up(
            LineTooLong(f"a request line has at most {wire.LONGEST_LINE} bytes; send more with --script")
        )

    def rawDataReceived(self, data: bytes) -> None:
        if self._block is None:
            return
        request, size, reader = self._block
        try:
            reader.feed(data)
        except BadRequest as why:
            self._block = None
            self._give_up(why)
            return
        if not reader.wanted:
            self._block = None
            self.setLineMode()
            if request.error is None and self.principal is not None:
                self._ask(_Asked(request, size, reader.blocks))

    # What the handlers call.

    def identify(self, authenticate: Callable[[], Principal]) -> Principal:
        try:
            principal = authenticate()
        except AuthFailed:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self.finish()
            raise
        self.principal = self.principal or principal
        return self.principal

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def room(self) -> "Deferred[None]":
        return self._pacing.room()

    def next_line(self) -> "Deferred[None]":
        if self._unanswered[-1].is_followed:
            return succeed(None)
        listening: Deferred[None] = Deferred(self._listening.remove)
        self._listening.append(listening)
        return listening

    def while_connected(self, deferred: "Deferred[Any]") -> "Deferred[Any]":
        def let_go(result: Any) -> Any:
            self._held.discard(deferred)
            return result

        self._held.add(deferred)
        return deferred.addBoth(let_go)

    def finish(self) -> None:
        self._is_deaf = True
        self._is_finishing = True
        self._waiting.clear()

    # What the service calls at a stop.

    def end(self) -> None:
        """Read no more and close once all is written that was answered."""
        self._is_deaf = True
        self._close()

    # From a line to its reply.

    def _line_came(self, request: wire.Request, size: int) -> None:
        if request.is_lost:
            self._give_up(request.error)
        elif not request.blocks:
            self._ask(_Asked(request, size, []))
        else:
            is_kept = request.error is None and self.principal is not None
            self._block = (request, size + sum(request.blocks), BlockReader(request.blocks, is_kept))
            self.setRawMode()
            if not is_kept:
                self._ask(_Asked(request, size, []))

    def _give_up(self, why: TaskqError | None) -> None:
        """Answer with an error once all before it is answered, and end: what follows can't be understood."""
        self._is_deaf = True
        self._followed()
        self._ask(_Asked(wire.Request("", None, why, is_lost=True), 0, []))

    def _ask(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._waiting_bytes += asked.size
        self._advance()

    def _advance(self) -> None:
        """Handle what may be handled and send what may be sent, until nothing more can be done now."""
        if self._is_handling or self._is_gone:
            return
        self._is_handling = True
        try:
            self._send_replies()
            while self._waiting and self._may_handle(self._waiting[0]):
                asked = self._waiting.popleft()
                self._waiting_bytes -= asked.size
                self._handle(asked)
                self._send_replies()
        finally:
            self._is_handling = False
        self._pace()
        self._end_if_done()

    def _may_handle(self, asked: _Asked) -> bool:
        if self._pacing.is_choked:
            return False
        return not self._unanswered or (
            asked.may_follow and len(self._unanswered) < MOST_SUBMISSIONS and self._unanswered[-1].may_follow
        )

    def _handle(self, asked: _Asked) -> None:
        self._unanswered.append(asked)
        if asked.request.is_lost:
            self.finish()
        try:
            reply = self._verbs.handle(self, asked.request, asked.blocks)
        except TaskqError as why:
            asked.reply = replies.error(why)
        except Exception:  # noqa: BLE001 - whatever a bug of ours raises, the client gets an answer
            asked.reply = self._bug(Failure(), asked)
        else:
            if isinstance(reply, bytes):
                asked.reply = reply
            else:
                reply.addErrback(self._refused, asked).addCallback(self._answered, asked)

    def _refused(self, failure: Failure, asked: _Asked) -> bytes:
        if isinstance(failure.value, TaskqError):
            return replies.error(failure.value)
        return b"" if self._is_gone else self._bug(failure, asked)

    def _bug(self, failure: Failure, asked: _Asked) -> bytes:
        self._log.failure("{verb} met a bug of taskqd's", failure, verb=asked.request.verb)
        return replies.error(
            TaskqError(f"{asked.request.verb} met a bug of taskqd's; the daemon's log has it")
        )

    def _answered(self, reply: bytes, asked: _Asked) -> None:
        asked.reply = reply
        self._advance()

    def _send_replies(self) -> None:
        ready = []
        while self._unanswered and (reply := self._unanswered[0].reply) is not None:
            ready.append(reply)
            self._unanswered.popleft()
        if ready:
            self.transport.write(b"".join(ready))

    def _pace(self) -> None:
        """Read on, or not, as there is room for replies and for requests."""
        is_full = len(self._waiting) >= MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES
        self.paused = (self._pacing.is_choked or is_full) and not self._is_deaf
        if not self._is_eof:
            self._pacing.hold(self.transport, self.paused, self._is_deaf)
        if self._pacing.ahead and not self.paused and not self._pacing.is_breathing:
            self.dataReceived(b"")

    def _end_if_done(self) -> None:
        if self._is_gone or self._is_reading or self._unanswered or self._waiting:
            return
        is_more_to_read = self._pacing.is_breathing or (self._pacing.ahead and self.paused)
        if not self._is_finishing and (not self._is_eof or is_more_to_read):
            return
        if self._is_eof or self._is_tls():
            self._close()
        elif self._linger is None:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
            self._linger = self._clock.callLater(LINGER, self.transport.abortConnection)

    def _close(self) -> None:
        """Close once all is written; a transport that has a producer would ask it for more instead."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class TaskqFactory(Factory):
    """Makes a Connection for each client; ``connections`` has those that are open."""

    noisy = False

    def __init__(self, verbs: Verbs, clock: Any) -> None:
        self.connections: set[Connection] = set()
        self._verbs = verbs
        self._clock = clock
        self._closed: Deferred[None] | None = None
        self._patience: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._verbs, self._clock, self)

    def opened(self, connection: Connection) -> None:
        """Count a connection in."""
        self.connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self._tell_if_closed()

    def close(self) -> "Deferred[None]":
        """End all connections and fire when they are; what does not read its replies is cut off."""
        closed = self._closed = Deferred()
        self._patience = self._clock.callLater(LINGER_AT_STOP, self._cut_off)
        for connection in list(self.connections):
            connection.end()
        self._tell_if_closed()
        return closed

    def _cut_off(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def _tell_if_closed(self) -> None:
        if self._closed is not None and not self.connections:
            closed, self._closed = self._closed, None
            if self._patience.active():
                self._patience.cancel()
            closed.callback(None)
