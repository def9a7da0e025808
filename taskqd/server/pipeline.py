"""The requests of one connection and their replies: handled in order, answered in the same order.

A request is handled when all before it are answered, but submissions follow each other at once, so that one
sync can cover many. What a request does is in verbs/.
"""

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import TaskqError
from taskqd.protocol import replies
from taskqd.server.connection_limits import RequestMemory
from taskqd.server.flow_control import FlowControl
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IClient
from taskqd.server.pending import PendingRequest, SubmitBatch
from taskqd.server.submit_batching import SubmitBatcher

MAX_IN_FLIGHT = 1000
"""So many submissions of one connection may be on their way to the disk at once."""
MAX_QUEUED = 1000
"""When so many requests of a connection wait to be handled, no more is read from it."""
MAX_QUEUED_BYTES = 1024**2
REQUEST_BYTES = 512
"""A request that is not answered yet takes this much memory beside the bytes of its line."""
BUSY_BYTES = 16_384
"""This many bytes are read at once from a connection that waits for a reply."""
FEW_BYTES = 4096
"""This many bytes are read at once, and may be unread, where a user has no memory left for more."""
FREE_BYTES = 8192
"""This much memory for requests every connection has without asking for it."""
LOOK_EVERY = 8
"""After this many requests it is seen whether the reactor's thread was held for too long."""


class RequestPipeline:
    """What ``caller`` asks of ``verbs``; plain submissions go through ``submit_batcher``.

    Nothing is handled while its ``pacing`` is choked; ``on_progress`` is called when something was handled or
    answered, ``release`` with what needs the memory for its blocks no longer. ``memory`` counts what the
    requests take that are not answered yet.
    """

    _log = Logger()

    def __init__(
        self,
        verbs: Router,
        submit_batcher: SubmitBatcher,
        caller: IClient,
        pacing: FlowControl,
        on_progress: Callable[[], None],
        release: Callable[[PendingRequest], None],
        memory: RequestMemory,
    ) -> None:
        self._verbs = verbs
        self._batcher = submit_batcher
        self._caller = caller
        self._pacing = pacing
        self._on_progress = on_progress
        self._release = release
        self._memory = memory
        self._is_resting = False
        self._handled = 0
        self._is_processing = False
        self._is_closed = False
        self._queued: deque[PendingRequest] = deque()
        self._queued_count = 0
        self._queued_bytes = 0
        self._in_flight: deque[PendingRequest] = deque()
        self._in_flight_count = 0
        self._in_flight_bytes = 0
        self._next_line_waiters: list[Deferred[None]] = []

    @property
    def is_full(self) -> bool:
        """Whether as much waits to be handled as may wait, here or on all connections of who asks.

        One that is quiet may always ask, and one that watches may always end that.
        """
        if self._queued_count >= MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
            return True
        return self._memory.is_used_up and not self.is_idle and not self._next_line_waiters

    @property
    def is_idle(self) -> bool:
        """Whether all that was asked is answered."""
        return not self._in_flight and not self._queued

    def ask(self, asked: PendingRequest) -> None:
        """Take what was asked next. Plain submissions wait for ``advance``, so that they go together."""
        self.followed()
        self._queued_count += asked.count
        self._queued_bytes += asked.size
        if not isinstance(asked, SubmitBatch):
            self._queued.append(asked)
            self.advance()
            if self._queued:
                asked.shrink()
        elif self._queued and isinstance(last := self._queued[-1], SubmitBatch):
            last.join(asked)
        else:
            self._queued.append(asked)

    def followed(self) -> None:
        """Take note that another line has come behind the last request, and tell whoever listens for it."""
        if self._queued:
            self._queued[-1].is_followed = True
        elif self._in_flight:
            self._in_flight[-1].is_followed = True
            if self._next_line_waiters:
                self._tell_followed()

    def _tell_followed(self) -> None:
        listening, self._next_line_waiters = self._next_line_waiters, []
        for deferred in listening:
            deferred.callback(None)

    def next_line(self) -> "Deferred[None]":
        """See IClient."""
        if self._in_flight[-1].is_followed:
            return succeed(None)
        listening: Deferred[None] = Deferred(self._next_line_waiters.remove)
        self._next_line_waiters.append(listening)
        return listening

    def advance(self) -> None:
        """Handle what may be handled and send what may be sent, until nothing more can be done now."""
        if self._is_processing or self._is_closed:
            return
        self._is_processing = True
        try:
            while True:
                if self._in_flight and self._in_flight[0].reply is not None:
                    self._send_replies()
                if not self._queued or not self._may_handle(self._queued[0]):
                    break
                asked = self._dequeue()
                if isinstance(asked, SubmitBatch):
                    self._batcher.put(self._caller, asked, self._complete)
                else:
                    self._handle(asked)
        finally:
            self._is_processing = False
        self.count_memory()
        self._on_progress()

    def most_unread(self, most: int) -> int:
        """Return how many bytes of replies may be unread: ``most``, fewer where memory is used up."""
        who = self._caller.principal
        return min(most, FEW_BYTES) if who is not None and self._memory.is_used_up_for(who) else most

    def most_read(self, most: int) -> int:
        """Return how many bytes are read at once: fewer while something is unanswered."""
        return min(self.most_unread(most), most if self.is_idle else BUSY_BYTES)

    def count_memory(self) -> None:
        """Count what is not answered, what is not read yet, and what the client has not read."""
        if self._is_closed:
            return
        requests = self._queued_count + self._in_flight_count
        taken = self._queued_bytes + self._in_flight_bytes + requests * REQUEST_BYTES
        taken += len(self._pacing.ahead) + self._pacing.unread
        self._memory.take(self._caller.principal, max(0, taken - FREE_BYTES))

    def drop(self) -> None:
        """Handle nothing of what waits."""
        for asked in self._queued:
            self._release(asked)
        self._queued.clear()
        self._queued_count = self._queued_bytes = 0
        self.count_memory()

    def end(self) -> None:
        """Handle and send nothing more: there is nobody who would read it."""
        self._is_closed = True
        self.drop()
        for asked in self._in_flight:
            self._release(asked)
        self._in_flight.clear()
        self._in_flight_count = self._in_flight_bytes = 0
        self._memory.take(None, 0)

    def _may_handle(self, asked: PendingRequest) -> bool:
        if self._pacing.is_choked or self._is_resting:
            return False
        return not self._in_flight or (
            asked.can_overlap and self._in_flight_count < MAX_IN_FLIGHT and self._in_flight[-1].can_overlap
        )

    def _dequeue(self) -> PendingRequest:
        """Take what is next; of plain submissions as many as may be on their way."""
        asked = self._queued[0]
        room = MAX_IN_FLIGHT - self._in_flight_count
        if isinstance(asked, SubmitBatch) and asked.count > room:
            asked = asked.split(room)
        else:
            del self._queued[0]
        self._queued_count -= asked.count
        self._queued_bytes -= asked.size
        self._in_flight.append(asked)
        self._in_flight_count += asked.count
        self._in_flight_bytes += asked.size
        return asked

    def _handle(self, asked: PendingRequest) -> None:
        request = asked.request
        if request.is_lost:
            self._caller.finish()
        try:
            reply = self._verbs.handle(self._caller, request, asked.blocks)
        except TaskqError as why:
            asked.reply = replies.error(why)
        except Exception:  # noqa: BLE001 - whatever a bug of ours raises, the client gets an answer
            asked.reply = self._bug(Failure(), asked)
        else:
            if isinstance(reply, bytes):
                asked.reply = reply
            else:
                asked.forget()
                reply.addErrback(self._refused, asked).addCallback(self._complete, asked)
        self._handled += 1
        if not self._handled % LOOK_EVERY and not self._caller.can_send:
            self._rest()

    def _rest(self) -> None:
        """Handle nothing more until the reactor has time again: others' requests are read meanwhile."""
        self._is_resting = True
        self._caller.writable().addCallbacks(self._rested, _ignore_end)

    def _rested(self, _: None) -> None:
        self._is_resting = False
        self.advance()

    def _refused(self, failure: Failure, asked: PendingRequest) -> bytes:
        if isinstance(failure.value, TaskqError):
            return replies.error(failure.value)
        return b"" if self._is_closed else self._bug(failure, asked)

    def _bug(self, failure: Failure, asked: PendingRequest) -> bytes:
        self._log.failure("{verb} met a bug of taskqd's", failure, verb=asked.request.verb)
        return replies.error(
            TaskqError(f"{asked.request.verb} met a bug of taskqd's; the daemon's log has it")
        )

    def _complete(self, reply: bytes, asked: PendingRequest) -> None:
        asked.reply = reply
        self.advance()

    def _send_replies(self) -> None:
        """Send the replies that are there, as far as none is missing before them."""
        ready: list[bytes] = []
        unanswered = self._in_flight
        while unanswered and (reply := unanswered[0].reply) is not None:
            ready.append(reply)
            asked = unanswered.popleft()
            self._in_flight_count -= asked.count
            self._in_flight_bytes -= asked.size
            if asked.reserved is not None:
                self._release(asked)
        self._caller.send(b"".join(ready))


def _ignore_end(failure: Failure) -> None:
    failure.trap(ConnectionDone, CancelledError)
