"""The request pipeline of one connection: requests are dispatched in order and answered in order.

    framing -> [queued] -> dispatch -> [in flight] -> replies

A request is dispatched once everything before it has been answered. Independent submissions are the
exception: they may be in flight together so that one sync of the journal covers many of them.

Backpressure: nothing is dispatched while the client does not read its replies (`flow.is_congested`), and the
connection stops reading while the pipeline `is_full`.
"""

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import TaskqError
from taskqd.protocol import replies
from taskqd.server.flow_control import FlowControl
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IClient
from taskqd.server.pending import PendingRequest, SubmitBatch
from taskqd.server.request_memory import ConnectionMemory
from taskqd.server.submit_batching import SubmitBatcher

MAX_IN_FLIGHT = 1000
"""Submissions of one connection that may be waiting for the journal at the same time."""
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 1024**2
"""Requests, and their bytes, that may be queued before the connection stops reading."""
REQUEST_OVERHEAD = 512
"""Bytes of memory that an unanswered request takes besides its line."""
UNCOUNTED_BYTES = 8192
"""Bytes that every connection may take without counting towards its user's share."""
BUSY_READ_SIZE = 16_384
"""Bytes read from the socket in one call while a request is unanswered."""
MIN_BUFFER_SIZE = 4096
"""Bytes read in one call, and bytes of replies that may be unsent, if the user has no memory left."""
REQUESTS_PER_CLOCK_CHECK = 8
"""After this many requests the pipeline checks whether its time slice is used up."""


class RequestPipeline:
    """Dispatches the requests of `client` to `router`, batchable submissions through `batcher`.

    `on_progress()` is called after requests were dispatched or answered; `release(pending)` when the memory
    reserved for a request's blocks is no longer needed. `memory` counts what unanswered requests and unread
    replies take.
    """

    _log = Logger()

    def __init__(
        self,
        router: Router,
        batcher: SubmitBatcher,
        client: IClient,
        flow: FlowControl,
        on_progress: Callable[[], None],
        release: Callable[[PendingRequest], None],
        memory: ConnectionMemory,
    ) -> None:
        self._router = router
        self._batcher = batcher
        self._client = client
        self._flow = flow
        self._on_progress = on_progress
        self._release = release
        self._memory = memory
        self._is_processing = False
        self._is_yielding = False
        self._is_closed = False
        self._dispatched_count = 0
        self._queued: deque[PendingRequest] = deque()
        self._queued_count = 0
        self._queued_bytes = 0
        self._in_flight: deque[PendingRequest] = deque()
        self._in_flight_count = 0
        self._in_flight_bytes = 0
        self._next_line_waiters: list[Deferred[None]] = []

    @property
    def is_full(self) -> bool:
        """Whether the queue has reached a limit, or all connections of the user together have.

        A connection without unanswered requests may always send one, and one with a WATCH may always end it.
        """
        if not self._queued and not self._in_flight:
            return False
        if self._queued_count >= MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
            return True
        return self._memory.is_used_up and not self._next_line_waiters

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered."""
        return not self._in_flight and not self._queued

    @property
    def is_waiting_for_line(self) -> bool:
        """Whether a request waits for the next line."""
        return bool(self._next_line_waiters)

    # Input.

    def enqueue(self, pending: PendingRequest) -> None:
        """Add the next request.

        A submit batch stays queued until `process` is called, so that batches of the same read are joined.
        """
        if not self.is_idle:
            self.note_next_line()
        self._queued_count += pending.count
        self._queued_bytes += pending.size
        if not isinstance(pending, SubmitBatch):
            self._queued.append(pending)
            self.process()
            if self._queued:
                pending.compact()
        elif self._queued and isinstance(last := self._queued[-1], SubmitBatch):
            last.extend(pending)
        else:
            self._queued.append(pending)

    def note_next_line(self) -> None:
        """Record that another line, possibly an empty one, has arrived after the latest request."""
        if self._queued:
            self._queued[-1].is_followed = True
        elif self._in_flight:
            self._in_flight[-1].is_followed = True
            if self._next_line_waiters:
                waiters, self._next_line_waiters = self._next_line_waiters, []
                for waiter in waiters:
                    waiter.callback(None)

    def next_line(self) -> "Deferred[None]":
        """See IClient.next_line."""
        if self._in_flight[-1].is_followed:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._next_line_waiters.remove)
        self._next_line_waiters.append(waiter)
        return waiter

    # Processing.

    def process(self) -> None:
        """Dispatch queued requests and send finished replies, as far as either is possible now."""
        if self._is_processing or self._is_closed:  # a reply may arrive while its request is being dispatched
            return
        self._is_processing = True
        try:
            while True:
                if self._in_flight and self._in_flight[0].reply is not None:
                    self._send_replies()
                if not self._queued or not self._can_dispatch(self._queued[0]):
                    break
                self._dispatch(self._dequeue())
        finally:
            self._is_processing = False
        self.count_memory()
        self._on_progress()

    def _can_dispatch(self, pending: PendingRequest) -> bool:
        if self._flow.is_congested or self._is_yielding:
            return False
        if not self._in_flight:
            return True
        has_room = self._in_flight_count < MAX_IN_FLIGHT
        return has_room and pending.can_overlap and self._in_flight[-1].can_overlap

    def _dequeue(self) -> PendingRequest:
        """Move the next request to those in flight; of a submit batch, up to MAX_IN_FLIGHT submissions."""
        pending = self._queued[0]
        room = MAX_IN_FLIGHT - self._in_flight_count
        if isinstance(pending, SubmitBatch) and pending.count > room:
            pending = pending.split_off(room)
        else:
            self._queued.popleft()
        count, size = pending.count, pending.size
        self._queued_count -= count
        self._queued_bytes -= size
        self._in_flight.append(pending)
        self._in_flight_count += count
        self._in_flight_bytes += size
        return pending

    def _dispatch(self, pending: PendingRequest) -> None:
        if isinstance(pending, SubmitBatch):
            self._batcher.add(self._client, pending, self._complete)
            return
        request = pending.request
        if request.is_lost:
            self._client.finish()
        try:
            reply = self._router.handle(self._client, request, pending.blocks)
        except TaskqError as error:
            pending.reply = replies.error(error)
        except Exception:  # noqa: BLE001 - a bug in a handler must not leave the client without a reply
            pending.reply = self._internal_error(Failure(), pending)
        else:
            if isinstance(reply, bytes):
                pending.reply = reply
            else:
                pending.discard_content()
                reply.addErrback(self._error_reply, pending).addCallback(self._complete, pending)
        self._dispatched_count += 1
        if self._is_closed:
            return
        if not self._dispatched_count % REQUESTS_PER_CLOCK_CHECK and not self._client.can_send:
            self._yield()

    def _yield(self) -> None:
        """Dispatch nothing more until the reactor has read from other clients."""
        self._is_yielding = True
        self._client.writable().addCallbacks(self._resume, _ignore_end)

    def _resume(self, _: None) -> None:
        self._is_yielding = False
        self.process()

    def _complete(self, reply: bytes, pending: PendingRequest) -> None:
        pending.reply = reply
        self.process()

    def _send_replies(self) -> None:
        """Send the replies at the head of those in flight, up to the first one that is missing."""
        ready: list[bytes] = []
        in_flight = self._in_flight
        while in_flight and (reply := in_flight[0].reply) is not None:
            ready.append(reply)
            pending = in_flight.popleft()
            self._in_flight_count -= pending.count
            self._in_flight_bytes -= pending.size
            if pending.reserved is not None:
                self._release(pending)
        self._client.send(b"".join(ready))

    def _error_reply(self, failure: Failure, pending: PendingRequest) -> bytes:
        if isinstance(failure.value, TaskqError):
            return replies.error(failure.value)
        return b"" if self._is_closed else self._internal_error(failure, pending)

    def _internal_error(self, failure: Failure, pending: PendingRequest) -> bytes:
        verb = pending.request.verb
        self._log.failure("internal error in {verb}", failure, verb=verb)
        return replies.error(TaskqError(f"internal error in {verb}; see the daemon's log"))

    # Memory.

    def buffer_sizes(self, limit: int) -> tuple[int, int]:
        """Return how many bytes of replies may be unsent, and how many bytes may be read in one call.

        Both are `limit`, less if the user has no memory left. Less is read while a request is unanswered.
        """
        if self._memory.is_used_up_for(self._client.principal):
            limit = min(limit, MIN_BUFFER_SIZE)
        return limit, min(limit, BUSY_READ_SIZE) if self._in_flight or self._queued else limit

    def count_memory(self) -> None:
        """Count the unanswered requests, the input that is not framed yet, and the unsent replies."""
        if self._is_closed:
            return
        requests = self._queued_count + self._in_flight_count
        size = self._queued_bytes + self._in_flight_bytes + requests * REQUEST_OVERHEAD
        size += len(self._flow.buffer) + self._flow.unsent
        self._memory.update(self._client.principal, max(0, size - UNCOUNTED_BYTES))

    # The end of the connection.

    def discard_queued(self) -> None:
        """Drop the requests that have not been dispatched."""
        for pending in self._queued:
            self._release(pending)
        self._queued.clear()
        self._queued_count = self._queued_bytes = 0
        self.count_memory()

    def close(self) -> None:
        """Dispatch and send nothing more: the connection is gone."""
        self._is_closed = True
        self.discard_queued()
        for pending in self._in_flight:
            self._release(pending)
        self._in_flight.clear()
        self._in_flight_count = self._in_flight_bytes = 0
        self._memory.update(None, 0)

    def disconnect(self) -> None:
        """Drop the references to the connection, which has this object: a cycle would remain."""
        del self._client
        self._on_progress = _ignore_progress


def _ignore_progress() -> None:
    """Do nothing: the connection is gone."""


def _ignore_end(failure: Failure) -> None:
    failure.trap(ConnectionDone, CancelledError)
