"""Group commit: one fdatasync for all events of a poll cycle or reactor turn.

A thread commits each batch. The reactor waits for it for a few milliseconds, because that is faster than to
be called back, unless syncs have been slow lately; meanwhile the next batch collects
(docs/decisions/0039).
"""

from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from taskqd.storage.interfaces import ICommitReactor
from taskqd.storage.journal.commit_thread import CommitThread

Item = TypeVar("Item")

SLOW_SYNC = 0.001
"""Seconds. If the reactor has waited this long for two commits in a row, it backs off."""
STALLED_SYNC = 0.005
"""Seconds. If the reactor has waited this long for one commit, it backs off.

A shorter wait may have been for a processor rather than the disk, so it takes two of them.
"""
BACKOFF_FACTOR = 50
"""After a slow commit the reactor does not wait for 50 times as long as that took: it loses at most 2 %."""
MAX_DELAY = 0.005
"""Seconds that an item that may wait stays uncommitted, if no other item is submitted."""


class GroupCommit(Generic[Item]):
    """Collects items, and commits them in batches in their order, one batch at a time.

    ``commit(items)`` is called in the commit thread; it returns when the items are durable, or raises. Then
    ``on_committed(items, error)`` is called in the reactor's thread. Neither is called before ``submit`` has
    returned. ``may_block(items)`` tells whether the reactor may wait for a batch.

    An error is reported and not retried: whether later items may be committed is up to ``commit``.
    """

    def __init__(
        self,
        reactor: ICommitReactor,
        commit: Callable[[list[Item]], None],
        on_committed: Callable[[list[Item], Exception | None], None],
        may_block: Callable[[list[Item]], bool],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.now = now
        self.thread = CommitThread[Item](reactor, commit, self.finish)
        self.is_committing = False
        self._reactor = reactor
        self._on_committed = on_committed
        self._may_block = may_block
        self._pending: list[Item] = []
        self._must_flush = False  # an item is pending that may not wait
        self._is_in_batch = False
        self._delay_timer: IDelayedCall | None = None
        self._was_slow = False
        self._backoff_until = 0.0
        self._idle: Deferred[None] | None = None

    @property
    def has_pending(self) -> bool:
        """Whether items are pending, with which the next item will be committed."""
        return bool(self._pending)

    def start(self) -> None:
        """Start the commit thread."""
        self.thread.start()

    def submit(self, item: Item, may_wait: bool = False) -> None:
        """Commit an item together with all others of this poll cycle, or of this or the next reactor turn.

        An item that ``may_wait`` is committed together with the next one that may not, or after MAX_DELAY.
        """
        self._pending.append(item)
        if not may_wait:
            self._must_flush = True
            if not self.is_committing and not self._is_in_batch:
                self._schedule_flush()
        elif self._delay_timer is None and not self.is_committing:
            self._delay_timer = self._reactor.callLater(MAX_DELAY, self._flush_delayed)

    def batch_started(self) -> None:
        """Note that a poll cycle has started: items are committed together when it ends."""
        self._is_in_batch = True

    def batch_ended(self) -> None:
        """Commit the items of the poll cycle, unless a commit is in progress, after which they follow."""
        self._is_in_batch = False
        if self._must_flush and not self.is_committing:
            self.is_committing = True
            self._flush()

    def stop(self) -> "Deferred[None]":
        """Commit the pending items, end the thread, and fire."""
        idle: Deferred[None] = Deferred()
        idle.addCallback(lambda _: self.thread.stop())
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

    def _schedule_flush(self) -> None:
        self.is_committing = True
        self._reactor.callFromThread(self._end_turn)

    def _end_turn(self) -> None:
        if len(self._pending) > 1:  # several clients are submitting: others probably follow in the next turn
            self._reactor.callFromThread(self._flush)
        else:
            self._flush()

    def _flush_delayed(self) -> None:
        self._delay_timer = None
        if self._pending and not self.is_committing:
            self._schedule_flush()

    def _flush(self) -> None:
        batch, self._pending, self._must_flush = self._pending, [], False
        now = self.now()
        if now < self._backoff_until or not self._may_block(batch):
            self.thread.submit(batch)
            return
        is_finished, error = self.thread.submit_and_wait(batch)
        duration = self.now() - now
        is_slow = duration >= SLOW_SYNC
        if duration >= STALLED_SYNC or (is_slow and self._was_slow):
            self._backoff_until = now + duration + BACKOFF_FACTOR * duration
        self._was_slow = is_slow
        if is_finished:
            self.finish(batch, error)

    def finish(self, batch: list[Item], error: Exception | None) -> None:
        """Handle the outcome of a batch; the commit thread calls this in the reactor's thread."""
        self.is_committing = False
        if self._pending:
            self._schedule_flush()
        self._on_committed(batch, error)
        if self._idle is not None and not self.is_committing:
            idle, self._idle = self._idle, None
            idle.callback(None)
