"""What keeps the state from growing: the removal of old jobs, and snapshots in place of old segments.

Both go on beside everything else, a little at a time: a removal for each end of a job, at most fifty at
once; a snapshot in a process of its own, whose outcome is taken in a thousand lines a turn of the reactor.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import Retention
from taskqd.engine.engine import Engine
from taskqd.errors import TaskqError
from taskqd.model.actor import Actor
from taskqd.state.retention_index import MAX_BATCH
from taskqd.storage.journal.compaction import _portions, _read_lines
from taskqd.storage.journal.journal import Journal

CHECK_EVERY, CHECK_SOON = 1.0, 0.02
"""Every so many seconds it is looked whether anything is to be done, soon where there was a lot."""
SNAPSHOT_FROM = 16 * 1024**2
"""A snapshot is made when so many bytes stand in closed segments, or more if the last one is larger."""
AFTER_FAILURE = 60.0
"""When no snapshot could be made, the next is tried after so many seconds."""
RETENTION = Actor("retention")
"""Who removed a job, where nobody asked for it."""


class RetentionTask:
    """Removes what ``retention`` lets go, and condenses what the ``store`` has closed.

    ``condense(directory, number)`` makes a snapshot and fires when it is there.
    """

    _log = Logger()

    def __init__(
        self,
        engine: Engine,
        store: Journal,
        retention: Retention,
        clock: Any,
        condense: Callable[[str, int], "Deferred[None]"],
        in_thread: Callable[..., "Deferred[Any]"],
    ) -> None:
        self._engine = engine
        self._store = store
        self._retention = retention
        self._clock = clock
        self._condense = condense
        self._in_thread = in_thread
        self._timer: Any = None
        self._is_condensing = False
        self._not_before = 0.0
        self._is_stopped = False
        self._removals = 0

    def start(self) -> None:
        """Look after everything, now and again."""
        self._engine.add_end_observer(lambda _: self.remove_expired())
        self._check()

    def stop(self) -> None:
        """Begin nothing new; a snapshot under way ends by itself, or does not count."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        is_more = self.remove_expired()
        if self._is_snapshot_due():
            self._is_condensing = True
            Deferred.fromCoroutine(self._make_snapshot()).addErrback(self._no_snapshot)
        if not self._is_stopped:
            self._timer = self._clock.callLater(CHECK_SOON if is_more else CHECK_EVERY, self._check)

    def _is_snapshot_due(self) -> bool:
        if self._is_condensing or self._store.failure is not None or self._clock.seconds() < self._not_before:
            return False
        is_anything_new = self._store.last_durable_segment - 1 > self._store.snapshot_number
        return is_anything_new and self._store.sealed_bytes > max(SNAPSHOT_FROM, self._store.snapshot_bytes)

    def remove_expired(self) -> bool:
        """Remove some of what has expired, unless enough is under way; tell whether there may be more."""
        if self._is_stopped or self._store.failure is not None:
            return False
        if self._removals >= MAX_BATCH:
            return True
        keep = self._retention
        before = self._clock.elapsed() - keep.age
        expired = self._engine.queue_state.retention_index.pop_expired(
            before, keep.count, keep.size, keep.memory
        )
        for job_id in expired:
            self._removals += 1
            removal = Deferred.fromCoroutine(self._engine.job_commands.remove(job_id, RETENTION))
            removal.addErrback(self._not_removed, job_id).addBoth(self._over)
        return bool(expired)

    def _over(self, result: Any) -> Any:
        self._removals -= 1
        return result

    def _not_removed(self, failure: Failure, job_id: int) -> None:
        failure.trap(TaskqError)  # somebody retried or removed it first, or the store failed and has said so
        self._engine.queue_state.retention_index.retain(job_id)

    async def _make_snapshot(self) -> None:
        segments, number = self._store.segments, self._store.last_durable_segment - 1
        try:
            await self._condense(segments.directory, number)
            for lines in _portions(await self._in_thread(_read_lines, segments.relocations_path(number))):
                for line in lines:
                    job_id, attempt, offset, length = map(int, line.split())
                    self._engine.queue_state.relocate(job_id, attempt, number, (-number, offset, length))
                await deferLater(self._clock, 0)
            self._store.compacted(number, await self._in_thread(segments.remove_obsolete, number))
        finally:
            self._is_condensing = False

    def _no_snapshot(self, failure: Failure) -> None:
        self._not_before = self._clock.seconds() + AFTER_FAILURE
        if not self._is_stopped:
            self._log.error("no snapshot could be made: {why}", why=failure.getErrorMessage())
