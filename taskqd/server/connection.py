"""One client's connection, from its first byte to its end.

    bytes -> [telnet sequences removed] -> framing -> requests -> RequestPipeline -> replies -> ReplyWriter

The framing is LineReceiver's: `lineReceived` gets each request line, and raw mode the blocks that follow some
lines. FlowControl decides when bytes are framed, and ConnectionState what is still read and sent.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.principal import Principal
from taskqd.engine.environments import Pin
from taskqd.errors import AuthFailed, BadRequest, LineTooLong, QueueFull, TaskqError
from taskqd.model.environment import Environment
from taskqd.model.submission import SimilarSubmissions
from taskqd.protocol import parser, replies
from taskqd.protocol.telnet import IAC
from taskqd.server.block_receiver import BlockReceiver
from taskqd.server.connection_limits import ConnectionLimits
from taskqd.server.connection_state import ALLOWED, TRANSITIONS, ConnectionEvent, ConnectionState
from taskqd.server.flow_control import FlowControl, PauseReason
from taskqd.server.handlers.router import Router
from taskqd.server.hangup_monitor import HangupMonitor
from taskqd.server.interfaces import IClient
from taskqd.server.pending import PendingRequest, SubmitBatch, is_batchable
from taskqd.server.pipeline import MIN_BUFFER_SIZE, RequestPipeline
from taskqd.server.plain_submissions import read_plain_submissions, starts_plain_submission
from taskqd.server.reply_writer import ReplyWriter
from taskqd.server.request_memory import ConnectionMemory
from taskqd.server.submit_batching import SubmitBatcher
from taskqd.server.telnet_filter import TelnetFilter
from taskqd.server.time_slices import TimeSlices
from taskqd.server.transport import (
    IClientTransport,
    free_buffers,
    is_tls,
    set_socket_options,
)
from taskqd.server.transport_closer import TransportCloser

T = TypeVar("T")

MAX_AUTH_FAILURES = 3
"""Failed AUTHs after which the connection ends."""
LINES_PER_TURN = 250
"""Lines and pieces of blocks that are read from one connection in one turn of the reactor."""
LINES_PER_CLOCK_CHECK = 8
LONG_LINE = 256
"""The time slice is checked after this many lines, and after each line of at least this many bytes."""
MAX_FRAMED_BYTES = 65_536
"""Bytes handed to LineReceiver in one call: it copies the rest of its buffer for each line."""


@implementer(IClient, IHalfCloseableProtocol, IHandshakeListener)
class Connection(LineReceiver):
    """The protocol of one client, and the IClient that handlers send their replies to."""

    _log = Logger()
    transport: IClientTransport
    delimiter = b"\n"  # lineReceived removes a CR before it

    def __init__(
        self,
        router: Router,
        submit_batcher: SubmitBatcher,
        connection_limits: ConnectionLimits,
        clock: IReactorTime,
        time_slices: TimeSlices,
        on_opened: Callable[["Connection"], object],
        on_lost: Callable[["Connection", Failure], object],
    ) -> None:
        self.principal: Principal | None = None
        self._set_state(ConnectionState.OPEN)
        self._router = router
        self._limits = connection_limits
        self._clock = clock
        self._time_slices = time_slices
        self._on_opened = on_opened
        self._on_lost = on_lost
        self._last_received = clock.seconds()
        self._origin: str | None = None
        self._auth_failures = 0
        self._flow = FlowControl(clock, self._frame_input)
        self._blocks = BlockReceiver(connection_limits.memory)
        memory = ConnectionMemory(connection_limits.memory)
        self._pipeline = RequestPipeline(
            router, submit_batcher, self, self._flow, self._on_progress, self._blocks.release, memory
        )
        self._writer: ReplyWriter  # these three are made with the transport
        self._closer: TransportCloser
        self._telnet: TelnetFilter
        self._max_line = connection_limits.limits.line
        self.MAX_LENGTH = self._max_line + 1  # with a CR; lineReceived checks the line without it
        self._is_framing = False
        self._is_first_line = True
        self._lines_left = LINES_PER_TURN
        self._while_connected: set[Deferred[Any]] = set()
        self._environment: Pin | None = None
        self._hangup_monitor = HangupMonitor(clock, self._must_check_for_hangup)

    # Connecting.

    def connectionMade(self) -> None:
        if is_tls(self.transport):
            self._set_state(ConnectionState.HANDSHAKE)
        self._writer = ReplyWriter(
            self.transport,
            self._flow,
            self._pipeline,
            self._limits.limits.replies,
            on_paused=self._update_flow,
            on_resumed=self._on_replies_read,
        )
        self._closer = TransportCloser(self.transport, self._writer, self._clock)
        self._telnet = TelnetFilter(self._writer.send_between_lines, lambda: self.paused)
        self._on_opened(self)
        self._limits.opened(self)
        set_socket_options(self.transport)
        self._writer.start(MIN_BUFFER_SIZE)  # more once the client has sent something
        peer = None if is_tls(self.transport) else self._router.identify_peer(self.transport)
        if peer is None:
            self._limits.evict_unidentified()
        else:
            self._origin = peer.origin
            self._identify_peer(peer)

    def handshakeCompleted(self) -> None:
        self._change_state(ConnectionEvent.HANDSHAKE_COMPLETED)
        principal = self._router.identify_certificate(self.transport)
        if principal is not None:
            self._identify_peer(principal)

    def _identify_peer(self, principal: Principal) -> None:
        """Accept the principal that the system or a certificate vouches for."""
        try:
            self._limits.identified(self, principal)
            self.principal = principal
        except QueueFull as error:
            self.close_with_error(error)

    def _change_state(self, event: ConnectionEvent) -> bool:
        """Change the state, and return whether the event does that."""
        state = TRANSITIONS[self.state].get(event)
        if state is None:
            return False
        self._set_state(state)
        if not self._allowed.reading:
            self.paused = True
            self._flow.discard_input()
            self.clearLineBuffer()
        return True

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._allowed = ALLOWED[state]

    # Input: from the transport to the framing.

    def dataReceived(self, data: bytes) -> None:
        if self._is_framing:
            super().dataReceived(data)  # setLineMode returns the bytes behind a block to the framing
        elif self._allowed.reading:
            self._flow.buffer += data
            self._writer.set_read_size()
            self._frame_input()

    def _frame_input(self) -> None:
        """Frame the buffered input until reading pauses, and dispatch its requests."""
        self._last_received = self._clock.seconds()
        if self._is_framing:
            return
        if self._flow.is_yielding:
            self._pipeline.count_memory()
            self._update_flow()
            return
        self._is_framing = True
        try:
            self._frame(self._flow.buffer)
        finally:
            self._is_framing = False
        self._pipeline.process()

    def _frame(self, data: bytes) -> None:
        flow = self._flow
        self.paused = flow.is_paused
        self._lines_left = LINES_PER_TURN
        position, is_line_start = 0, True
        while position < len(data) and not self.paused:
            if is_line_start and self.line_mode:
                if data[position] == IAC:
                    position = self._telnet.skip(data, position)
                    if position == len(data) or data[position] == IAC:
                        break
                if starts_plain_submission(data, position):
                    start, position = position, self._enqueue_plain_submissions(data, position)
                    if position != start:
                        continue
            if self.line_mode:
                end = self._telnet.find_next(data, position, position + MAX_FRAMED_BYTES)
            else:
                end = position + self._blocks.wanted
            super().dataReceived(data[position:end])
            is_line_start = data.endswith(b"\n", position, end)
            position = end
        unframed = self.clearLineBuffer() + data[position:]
        if not self._allowed.reading:
            return
        flow.buffer = unframed
        flow.has_unread_input = bool(unframed) and flow.is_blocked
        if unframed and self._lines_left <= 0 and not flow.is_paused:
            flow.yield_to_reactor()

    def _enqueue_plain_submissions(self, data: bytes, position: int) -> int:
        submissions, count, end = read_plain_submissions(data, position, self._max_line, self._lines_left)
        if submissions:
            self._is_first_line = False
            self._pipeline.enqueue(SubmitBatch(submissions, count, end - position))
            self._count_lines(count)
        return end

    def _count_lines(self, count: int = 1) -> None:
        """Pause the framing when the maximum number of lines per turn of the reactor was read."""
        self._lines_left -= count
        if self._lines_left <= 0:
            self.paused = True

    # Input: from the framing to the pipeline.

    def lineReceived(self, line: bytes) -> None:
        is_long = len(line) >= LONG_LINE
        line = line.removesuffix(b"\r")
        if len(line) > self._max_line:
            self.lineLengthExceeded(line)
            return
        is_first, self._is_first_line = self._is_first_line, False
        request = self._parse(line)
        if request is None:
            self._pipeline.note_next_line()
        elif request.is_lost:
            self._give_up(request.error)
        elif is_first and parser.is_http(line):
            self.close()
        elif request.blocks:
            self._receive_blocks(request, line)
        elif is_batchable(request):
            command, spec = request.argument
            self._pipeline.enqueue(SubmitBatch([SimilarSubmissions(spec, [command])], 1, len(line)))
        else:
            if request.verb == "AUTH" and request.error is None:
                self._flow.pause(PauseReason.AUTHENTICATING)
                self.paused = True
            self._pipeline.enqueue(PendingRequest(request, len(line), line=line))
        self._count_lines()
        if (is_long or not self._lines_left % LINES_PER_CLOCK_CHECK) and self._time_slices.is_spent:
            self._count_lines(self._lines_left)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up(
            LineTooLong(f"a request line has at most {self._max_line} bytes; send more with --script")
        )

    def rawDataReceived(self, data: bytes) -> None:
        while data and (wanted := self._blocks.wanted):
            piece, data = data[:wanted], data[wanted:]
            try:
                pending = self._blocks.feed(piece)
            except BadRequest as error:
                self._give_up(error)
                return
            if pending is not None:
                self._pipeline.enqueue(pending)
            self._count_lines()
        if not self._blocks.wanted:
            self.setLineMode(data)

    def _parse(self, line: bytes) -> parser.Request | None:
        """Return the request of a line, None for an empty line."""
        if not line.strip():
            return None
        try:
            return parser.parse_line(line)
        except Exception:  # noqa: BLE001 - a bug in a parser must not leave the client without a reply
            self._log.failure("internal error in a line of {length} bytes", length=len(line))
            return _unreadable(TaskqError("internal error in this line; see the daemon's log"))

    def _receive_blocks(self, request: parser.Request, line: bytes) -> None:
        """Receive the blocks of a request before it is dispatched; if it is refused, dispatch it at once."""
        self._pipeline.note_next_line()
        pending = self._blocks.start(self._router.check_before_blocks(self, request), line, self.principal)
        self.setRawMode()
        if pending.request.error is None:
            pending.compact()
        else:
            self._pipeline.enqueue(pending)

    def _give_up(self, error: TaskqError | None) -> None:
        """Answer with an error and end the connection: where the next request begins is unknown."""
        self._change_state(ConnectionEvent.LAST_REQUEST)
        self._pipeline.enqueue(PendingRequest(_unreadable(error), 0))

    # Flow control.

    def _on_progress(self) -> None:
        self._update_flow()
        if self._allowed.finishing:
            self._close_if_done()

    def _on_replies_read(self) -> None:
        self._last_received = self._clock.seconds()
        self._pipeline.process()

    def _update_flow(self) -> None:
        """Pause or resume the framing and the transport."""
        flow, allowed = self._flow, self._allowed
        if self._pipeline.is_full:
            flow.pause(PauseReason.QUEUE_FULL)
        elif flow.is_paused:
            flow.resume(PauseReason.QUEUE_FULL)
        self.paused = flow.is_paused or self._lines_left <= 0 or not allowed.reading
        if allowed.receiving and (flow.is_paused or flow.is_transport_paused):
            flow.apply_to(self.transport, is_discarding=not allowed.reading)
            if allowed.reading and flow.is_blocked:
                self._hangup_monitor.start(self.transport)
        if allowed.reading and flow.has_unread_input and not flow.is_paused:
            self._frame_input()

    # IClient, for the handlers.

    def identify(self, authenticating: "Deferred[Principal]") -> "Deferred[Principal]":
        return self.while_connected(authenticating).addBoth(self._on_authenticated)

    def _on_authenticated(self, result: Principal | Failure) -> Principal | Failure:
        self._flow.resume(PauseReason.AUTHENTICATING)  # the requests behind the AUTH are read only now
        if isinstance(result, Failure):
            self._auth_failures += result.check(AuthFailed) is not None
            if self._auth_failures >= MAX_AUTH_FAILURES:
                self.finish()
        elif self.state is not ConnectionState.CLOSED:
            self._limits.identified(self, result)
            self.principal = result
        return result

    @property
    def address(self) -> str:
        if self._origin is not None:
            return self._origin
        peer = self.transport.getPeer()
        # The peer of a proxy at a UNIX socket may be unknown.
        return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else "unix"

    @property
    def host(self) -> str:
        # The peer of a UNIX socket has no address.
        return getattr(self.transport.getPeer(), "host", "unix")

    @property
    def is_local(self) -> bool:
        return self._origin is not None

    @property
    def environment(self) -> Environment | None:
        return None if self._environment is None else self._environment.environment

    def keep_environment(self, pin: Pin) -> None:
        before, self._environment = self._environment, pin
        if before is not None:
            before.release()
        if self.state is ConnectionState.CLOSED:
            self._release_environment()

    def _release_environment(self) -> None:
        if self._environment is not None:
            self._environment.release()
            self._environment = None

    def send(self, data: bytes) -> None:
        if self._allowed.sending:
            self._writer.send(data)

    def send_part(self, data: bytes) -> None:
        if self._allowed.sending:
            self._writer.send_part(data)

    @property
    def can_send(self) -> bool:
        return self._flow.can_send and not self._time_slices.is_spent

    @property
    def is_congested(self) -> bool:
        return not self._flow.can_send

    def next_slice(self) -> "Deferred[None]":
        return self.while_connected(self._time_slices.next_slice())

    def writable(self) -> "Deferred[None]":
        if self.can_send:
            return succeed(None)
        return Deferred.fromCoroutine(self._wait_until_writable())

    async def _wait_until_writable(self) -> None:
        await self._flow.writable()
        while self._time_slices.is_spent:
            await self.while_connected(self._time_slices.next_slice())
            await self._flow.writable()

    def next_line(self) -> "Deferred[None]":
        return self._pipeline.next_line()

    def while_connected(self, deferred: "Deferred[T]") -> "Deferred[T]":
        def forget(result: T) -> T:
            self._while_connected.discard(deferred)
            return result

        self._while_connected.add(deferred)
        return deferred.addBoth(forget)

    @property
    def is_awaited(self) -> bool:
        """Whether a handler waits for anything on this connection."""
        return bool(self._while_connected) or self._flow.is_waited_for or self._pipeline.is_waiting_for_line

    def abort(self, why: str) -> None:
        self._log.warn(
            "{address}: a reply could not be completed, so the connection was closed: {why}",
            address=self.address,
            why=why,
        )
        self.transport.abortConnection()

    def finish(self) -> None:
        self._change_state(ConnectionEvent.LAST_REQUEST)
        self._pipeline.discard_queued()

    # Closing.

    def is_idle(self, since: float) -> bool:
        """Whether nothing was received since a time, and no request is in progress or its reply is unread."""
        return self._last_received <= since and (self._pipeline.is_idle or self._flow.is_congested)

    def close(self) -> None:
        """Read no more, and close once everything is written."""
        if self._change_state(ConnectionEvent.CLOSE):
            self._closer.close()

    def close_with_error(self, error: TaskqError) -> None:
        """Send an error in place of all outstanding replies, and close."""
        is_encrypting = self.state is ConnectionState.HANDSHAKE
        if not self._change_state(ConnectionEvent.REJECT):
            return
        if self._writer.is_within_line or is_encrypting:
            self.transport.abortConnection()
            return
        self.transport.write(replies.error(error))
        self._end_requests()
        if self.principal is None:
            self._closer.close_unidentified()
        else:
            self._closer.close()

    def _end_requests(self) -> None:
        self._pipeline.close()
        self._blocks.cancel()
        for deferred in list(self._while_connected):
            deferred.cancel()
        self._flow.close()

    def _close_if_done(self) -> None:
        """Close if the client or a request has ended the input, and every request is answered."""
        if self._is_framing or not self._pipeline.is_idle:
            return
        if self.state is ConnectionState.INPUT_ENDED and (
            self._flow.is_yielding or self._flow.has_unread_input
        ):
            return
        if self.state is ConnectionState.FINISHING and not is_tls(self.transport):
            self._change_state(ConnectionEvent.WE_CLOSED_OUR_HALF)
            self._closer.close_our_half()
        else:
            self.close()

    def readConnectionLost(self) -> None:
        """Answer what was received, and close then; called when the client has closed its half."""
        self._change_state(ConnectionEvent.CLIENT_CLOSED_ITS_HALF)
        if self.state is ConnectionState.CLOSING:
            self._closer.close()
        self._pipeline.process()
        self._hangup_monitor.check_now(self.transport)

    def writeConnectionLost(self) -> None:
        """Do nothing: our half was closed by ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._on_lost(self, reason)
        self._limits.closed(self)
        self._change_state(ConnectionEvent.LOST)
        self._hangup_monitor.stop()
        self._closer.stop()
        self._end_requests()
        self._release_environment()
        free_buffers(self.transport)
        self._break_cycles()

    def _break_cycles(self) -> None:
        """Remove the references to parts that refer to this object, so that all are freed at once.

        The garbage collector does not free what has lived for long (docs/decisions/0065).
        """
        self._pipeline.disconnect()
        self._writer.stop()
        del self._writer, self._closer, self._telnet

    def _must_check_for_hangup(self) -> bool:
        allowed = self._allowed
        has_input_ended = allowed.finishing and not allowed.receiving
        return has_input_ended or (allowed.reading and self._flow.is_blocked)


def _unreadable(error: TaskqError | None) -> parser.Request:
    return parser.Request("", None, error, is_lost=True)
