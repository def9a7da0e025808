"""A connection: bytes in, replies out, and no more of either than fits; its beginning and its end.

What comes is cut into requests in reading.py, how they are handled and answered is in exchange.py, when more
is read in pacing.py, who is let in in doorkeeper.py.
"""

import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
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

from taskqd.auth.principal import Principal
from taskqd.errors import AuthFailed, QueueFull, TaskqError
from taskqd.protocol import parser, replies
from taskqd.server.connection_limits import ConnectionLimits, RequestMemory
from taskqd.server.flow_control import FlowControl
from taskqd.server.framing import Reading
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IClient
from taskqd.server.pending import PendingRequest
from taskqd.server.pipeline import FEW_BYTES, RequestPipeline
from taskqd.server.submit_batching import SubmitBatcher
from taskqd.server.time_slices import TimeSlices
from taskqd.speedups import direct_write

CLOSE_TIMEOUT = 10.0
"""After its last reply a connection is kept open for up to so many seconds, for the reply to arrive."""
HANGUP_CHECK_INTERVAL = 5.0
"""A client that is not read from, since it has closed its half or asks too much, is looked after so often."""
KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 70_000),
)
"""A TCP peer that goes without a word is found out within 70 s (tcp(7)); the kernel takes two hours."""
MAX_AUTH_FAILURES = 3
"""So many failed AUTHs end a connection."""
UNIDENTIFIED_CLOSE_TIMEOUT = 1.0
"""Of who is sent away without having said who they are, the place is free again after so many seconds."""


@implementer(IClient, IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Connection(LineReceiver):
    """One client. It is its own transport's producer: reading stops while too many replies are unread.

    Submissions that come together are taken together, out of the bytes; every other line is received alone.
    """

    _log = Logger()
    transport: Any
    delimiter = b"\n"

    def __init__(
        self,
        router: Router,
        submit_batcher: SubmitBatcher,
        connection_limits: ConnectionLimits,
        clock: Any,
        time_slices: TimeSlices,
        opened: Callable[["Connection"], object],
        lost: Callable[["Connection", Failure], object],
    ) -> None:
        self.principal: Principal | None = None
        self._router = router
        self._connection_limits = connection_limits
        self._clock = clock
        self._time_slices = time_slices
        self._opened = opened
        self._lost = lost
        self._heard_at = clock.seconds()
        self._flow = FlowControl(clock, self._read_on)
        self._origin: str | None = None
        self._is_reading = False
        self._is_encrypted = False
        self._is_expelled = False
        self._is_gone = False
        self._is_eof = False
        self._is_finishing = False
        self._is_within_line = False
        self._postponed = b""
        self._failures = 0
        self._pipeline = RequestPipeline(
            router,
            submit_batcher,
            self,
            self._flow,
            self._go_on,
            self.release,
            RequestMemory(connection_limits),
        )
        self._reading = Reading(self, self._pipeline, self._flow, connection_limits.limits.line)
        self._held: set[Deferred[Any]] = set()
        self._linger: Any = None
        self._lookout: Any = None

    # What Twisted calls.

    def connectionMade(self) -> None:
        self._opened(self)
        self._connection_limits.opened(self)
        below = self._below()
        below.bufferSize = min(
            FEW_BYTES, self._connection_limits.limits.replies
        )  # more once something has come
        handle = below.getHandle()
        if handle.family != socket.AF_UNIX:
            for level, option, value in KEEP_ALIVE:
                handle.setsockopt(level, option, value)
        if not self._is_tls():
            # An interrupt's data mark comes as urgent data: out of line it would tear its sequence apart.
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.transport.registerProducer(self, True)
        peer = None if self._is_tls() else self._router.identify_peer(self.transport)
        if peer is None:
            self._connection_limits.evict_unidentified()
        else:
            self._origin = peer.origin
            self._identify_peer(peer)

    def handshakeCompleted(self) -> None:
        self._is_encrypted = True
        certified = self._router.identify_certificate(self.transport)
        if certified is not None:
            self._identify_peer(certified)

    def _identify_peer(self, principal: Principal) -> None:
        """Take somebody for who the system says that they are."""
        try:
            self._connection_limits.identified(self, principal)
            self.principal = principal
        except QueueFull as why:
            self.close_with_error(why)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost(self, reason)
        self._connection_limits.closed(self)
        self._is_gone = self._reading.is_deaf = True
        self._pipeline.end()
        self._reading.forget_block()
        for timer in (self._linger, self._lookout):
            if timer is not None and timer.active():
                timer.cancel()
        for deferred in list(self._held):
            deferred.cancel()
        self._flow.end()
        self._flow.ahead = b""
        direct_write.forget(self._below())

    def readConnectionLost(self) -> None:
        self._is_eof = True
        if self._linger is not None:
            self._close()
        self._pipeline.advance()
        if self._lookout is None:
            self._look_for_hangup()

    def _look_for_hangup(self) -> None:
        """Notice that a client that is not read from has gone altogether: nothing comes that would tell.

        A UNIX socket hangs up when its peer closes; on TCP, keep-alive probes find out.
        """
        self._lookout = None
        if self._is_gone or not (self._is_eof or self._reading.is_paused):
            return
        poll = select.poll()
        poll.register(self._below().getHandle(), 0)
        if poll.poll(0):
            self.transport.abortConnection()
        else:
            self._lookout = self._clock.callLater(HANGUP_CHECK_INTERVAL, self._look_for_hangup)

    def _below(self) -> Any:
        """Return the transport that has the socket: TLS is on top of another."""
        return getattr(self.transport, "transport", self.transport)

    def writeConnectionLost(self) -> None:
        """Our own half of the connection was closed, by ourselves."""

    def pauseProducing(self) -> None:
        self._flow.choke()
        self._pace()

    def resumeProducing(self) -> None:
        self._heard_at = self._clock.seconds()
        self._flow.unread = 0
        self._flow.relieve()
        self._pipeline.advance()

    def stopProducing(self) -> None:
        self._flow.choke()

    def dataReceived(self, data: bytes) -> None:
        if not self._reading.is_deaf:
            self._flow.ahead += data
            self._below().bufferSize = self._pipeline.most_read(self._connection_limits.limits.replies)
            self._read_on()

    def _read_on(self) -> None:
        """Read what is ahead; what is left of it is read on when nothing keeps it back any more."""
        self._heard_at = self._clock.seconds()
        if self._is_reading:
            return
        if self._flow.is_breathing:
            self._pipeline.count_memory()
            self._pace()
            return
        self._is_reading = True
        try:
            self._reading.read()
        finally:
            self._is_reading = False
        self._pipeline.advance()

    def lineReceived(self, line: bytes) -> None:
        self._reading.take(line)

    def _is_tls(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    # What the handlers call.

    def identify(self, authenticating: "Deferred[Principal]") -> "Deferred[Principal]":
        return self.while_connected(authenticating).addBoth(self._identified)

    def _identified(self, result: Any) -> Any:
        """Take note of who it is; what came behind the AUTH is read only now, in the light of it."""
        self._reading.is_identifying = False
        if isinstance(result, Failure):
            self._failures += result.check(AuthFailed) is not None
            if self._failures >= MAX_AUTH_FAILURES:
                self.finish()
        elif not self._is_gone:
            self._connection_limits.identified(self, result)
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
            data, self._postponed = data + self._postponed, b""
            self._is_within_line = False
            self._write(data)

    def send_part(self, data: bytes) -> None:
        if not self._is_expelled:
            self._is_within_line = True
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Write and count what is unread then."""
        below, flow, most = self._below(), self._flow, self._connection_limits.limits.replies
        # Twisted has one bound for what is read at once and for what may be unread.
        below.bufferSize = self._pipeline.most_unread(most)
        direct_write.write(self.transport, data)
        below.bufferSize = self._pipeline.most_read(most)
        unread = direct_write.unread(below)
        if unread != flow.unread:
            flow.unread = unread
            self._pipeline.count_memory()

    @property
    def can_send(self) -> bool:
        flow = self._flow
        return not flow.is_choked and not flow.is_over and not self._time_slices.is_spent

    def writable(self) -> "Deferred[None]":
        if self.can_send:
            return succeed(None)
        return Deferred.fromCoroutine(self._room_and_turn())

    async def _room_and_turn(self) -> None:
        await self._flow.room()
        while self._time_slices.is_spent:
            await self.while_connected(self._time_slices.turn())
            await self._flow.room()

    def abort(self, why: str) -> None:
        self._log.warn(
            "{address}: a reply was broken off and its connection closed: {why}",
            address=self.address,
            why=why,
        )
        self.transport.abortConnection()

    def next_line(self) -> "Deferred[None]":
        return self._pipeline.next_line()

    def while_connected(self, deferred: "Deferred[Any]") -> "Deferred[Any]":
        def let_go(result: Any) -> Any:
            self._held.discard(deferred)
            return result

        self._held.add(deferred)
        return deferred.addBoth(let_go)

    def finish(self) -> None:
        self._reading.is_deaf = True
        self._is_finishing = True
        self._pipeline.drop()

    # What the service and the doorkeeper call.

    def end(self) -> None:
        """Read no more and close once all is written that was answered."""
        self._reading.is_deaf = True
        self._close()

    def is_idle(self, since: float) -> bool:
        """Whether it waits for nothing, or does not read it, and nothing was heard of it since a time."""
        return self._heard_at <= since and (self._pipeline.is_idle or self._flow.is_choked)

    def close_with_error(self, why: TaskqError) -> None:
        """Say why, in place of all that is unanswered, and close."""
        if self._is_gone or self._is_expelled:
            return
        self._is_expelled = self._reading.is_deaf = True
        if self._is_within_line or (self._is_tls() and not self._is_encrypted):
            self.transport.abortConnection()
            return
        self.transport.write(replies.error(why))
        self._pipeline.end()
        self._reading.forget_block()
        for deferred in list(self._held):
            deferred.cancel()
        self._flow.end()
        if self.principal is None:
            self._cut_off_in(UNIDENTIFIED_CLOSE_TIMEOUT)
        self._close()

    # What Reading and Exchange call.

    @property
    def is_late(self) -> bool:
        return self._time_slices.is_spent

    def answer(self, data: bytes) -> None:
        """Answer a sequence of telnet's: between two replies or their lines, never within one."""
        if self._is_within_line:
            self._postponed += data
        else:
            self.transport.write(data)

    def expect(self, request: parser.Request, line: bytes) -> PendingRequest:
        """Return a request whose blocks are on their way, with memory for them unless they are refused."""
        request = self._router.check_before_blocks(self, request)
        size, reserved = len(line), None
        if request.error is None and self.principal is not None:
            more = sum(request.blocks)
            try:
                self._connection_limits.reserve(self.principal, more)
                size, reserved = size + more, (self.principal, more)
            except QueueFull as why:
                request = request._replace(error=why)
        asked = PendingRequest(request, size, reserved, line)
        asked.shrink()  # its blocks may take their time
        return asked

    def release(self, asked: PendingRequest) -> None:
        if asked.reserved is not None:
            self._connection_limits.give_back(*asked.reserved)
            asked.reserved = None

    def _go_on(self) -> None:
        """Read on and close as what was answered allows."""
        self._pace()
        self._end_if_done()

    def _pace(self) -> None:
        """Read on, or not, as there is room for replies and for requests."""
        reading, flow = self._reading, self._flow
        is_full = reading.is_identifying or self._pipeline.is_full
        reading.is_paused = (flow.is_choked or is_full) and not reading.is_deaf
        if not self._is_eof and (reading.is_paused or flow.is_held or flow.is_breathing):
            flow.hold(self.transport, reading.is_paused, reading.is_deaf)
            if reading.is_paused and self._lookout is None:
                self._lookout = self._clock.callLater(HANGUP_CHECK_INTERVAL, self._look_for_hangup)
        if reading.is_behind and not reading.is_paused and not flow.is_breathing:
            self._read_on()

    def _end_if_done(self) -> None:
        if not (self._is_eof or self._is_finishing):
            return
        if self._is_gone or self._is_reading or not self._pipeline.is_idle:
            return
        if not self._is_finishing and (self._flow.is_breathing or self._reading.is_behind):
            return
        if self._is_eof or self._is_tls():
            self._close()
        elif self._linger is None:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
            self._cut_off_in(CLOSE_TIMEOUT)

    def _close(self) -> None:
        """Close once all is written; a transport that has a producer would ask it for more instead."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if self._linger is None:
            self._cut_off_in(CLOSE_TIMEOUT)

    def _cut_off_in(self, seconds: float) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._clock.callLater(seconds, self.transport.abortConnection)
