"""Group commit: what a round of clients or a turn of the reactor brings is made durable by one sync.

A thread of its own commits each batch, so that a disk that stands still keeps no reader from an answer. The
reactor waits up to MAX_WAIT seconds for it, since that is quicker than to be called back; it does not wait
while a stall is to be expected, and the next batch gathers meanwhile (decision 0039).

A failed write or sync is final: the kernel may have dropped the pages that it could not write, so nothing
that comes after could be trusted to stand on what came before.
"""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

Item = TypeVar("Item")

SLOW_SYNC = 0.001
"""A commit for which the reactor waits this many seconds or more is slow; two in a row are too many,"""
STALLED_SYNC = 0.005
"""and so is a single one of so many: less may have been spent waiting for a processor, not for the disk."""
BACKOFF_FACTOR = 50
"""After that the reactor waits for none for this many times as long, so that little time is lost to such."""
MAX_WAIT = 0.005
"""The reactor waits this many seconds for a commit of the thread: a disk that stands still stops nobody."""
MAX_DELAY = 0.005
"""What is in no hurry waits for so many seconds at most for others to be committed with."""


class GroupCommit(Generic[Item]):
    """Takes items one by one, and passes them to ``commit`` in batches, in order, never two at a time.

    ``commit(items)`` returns when they are durable or raises; then ``done(items, error)`` is called
    in the reactor's thread, in the order of the batches. Neither is called before ``put`` has returned.

    ``may_block(items)`` is asked whether the reactor may wait for a batch. It does not if commits were slow
    lately. ``is_busy`` tells whether any batch is under way.
    """

    def __init__(
        self,
        reactor: Any,
        commit: Callable[[list[Item]], None],
        done: Callable[[list[Item], Exception | None], None],
        may_block: Callable[[list[Item]], bool],
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._reactor = reactor
        self._commit = commit
        self._on_committed = done
        self._may_block = may_block
        self._now = seconds
        self._pending: list[Item] = []
        self.is_committing = False
        self._is_in_batch = False
        self._backoff_until = 0.0
        self._was_slow = False
        self._batches: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        self._lock = Lock()
        self._is_waiting = False
        self._idle: Deferred[None] | None = None
        self._thread: Thread | None = None
        self._must_flush = False
        self._delay_timer: Any = None

    @property
    def has_pending(self) -> bool:
        """Whether something waits that the next item will be committed with."""
        return bool(self._pending)

    def start(self) -> None:
        """Start the thread; it is made only now, since twistd forks before."""
        self._thread = Thread(target=self._run, name="taskqd-journal", daemon=True)
        self._thread.start()

    def submit(self, item: Item, may_wait: bool = False) -> None:
        """Have an item committed with whatever else comes in the round of clients that is under way.

        Between rounds it is what else comes in the reactor's turn, or in the one behind it. An item that
        ``may_wait`` is committed with the next one that is not, or a little later by itself.
        """
        self._pending.append(item)
        if not may_wait:
            self._must_flush = True
            if not self.is_committing and not self._is_in_batch:
                self._schedule_flush()
        elif self._delay_timer is None and not self.is_committing:
            self._delay_timer = self._reactor.callLater(MAX_DELAY, self._flush_delayed)

    def _flush_delayed(self) -> None:
        self._delay_timer = None
        if self._pending and not self.is_committing:
            self._schedule_flush()

    def batch_started(self) -> None:
        """Take note that clients are about to be served, all that are ready."""
        self._is_in_batch = True

    def batch_ended(self) -> None:
        """Commit what they have brought, unless a batch is under way that it goes behind."""
        self._is_in_batch = False
        if self._must_flush and not self.is_committing:
            self.is_committing = True
            self._flush()

    def stop(self) -> "Deferred[None]":
        """Commit what has gathered, end the thread, and fire."""
        idle: Deferred[None] = Deferred()
        idle.addCallback(self._join)
        if self._delay_timer is not None:
            self._delay_timer.cancel()
            self._delay_timer = None
        if self._pending and not self.is_committing:
            self._schedule_flush()
        if self.is_committing:
            self._idle = idle
        else:
            idle.callback(None)
        return idle

    def _join(self, _: None) -> None:
        self._batches.put(None)
        if self._thread is not None:
            self._thread.join()

    def _schedule_flush(self) -> None:
        self.is_committing = True
        self._reactor.callFromThread(self._end_turn)

    def _end_turn(self) -> None:
        if len(self._pending) > 1:  # where some ask at once, others are about to: one more turn
            self._reactor.callFromThread(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        batch, self._pending, self._must_flush = self._pending, [], False
        now = self._now()
        if now < self._backoff_until or not self._may_block(batch):
            self._batches.put(batch)
            return
        is_done, error = self._wait_for(batch)
        took = self._now() - now
        is_slow = took >= SLOW_SYNC
        if took >= STALLED_SYNC or (is_slow and self._was_slow):
            self._backoff_until = now + took + BACKOFF_FACTOR * took
        self._was_slow = is_slow
        if is_done:
            self._finish(batch, error)

    def _wait_for(self, batch: list[Item]) -> tuple[bool, Exception | None]:
        """Have the thread commit a batch, and wait a little for it; return whether that was enough."""
        self._is_waiting = True
        self._batches.put(batch)
        try:
            return True, self._outcomes.get(timeout=MAX_WAIT)
        except Empty:
            with self._lock:
                is_late, self._is_waiting = self._is_waiting, False
        return (False, None) if is_late else (True, self._outcomes.get())

    def _finish(self, batch: list[Item], error: Exception | None) -> None:
        self.is_committing = False
        if self._pending:
            self._schedule_flush()
        self._on_committed(batch, error)
        if self._idle is not None and not self.is_committing:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _try(self, batch: list[Item]) -> Exception | None:
        try:
            self._commit(batch)
        except Exception as why:  # noqa: BLE001 - a thread that dies would leave everybody waiting
            return why
        return None

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            error = self._try(batch)
            with self._lock:
                is_awaited, self._is_waiting = self._is_waiting, False
            if is_awaited:
                self._outcomes.put(error)
            else:
                self._reactor.callFromThread(self._finish, batch, error)
