"""Retention: removes jobs that ended long ago, or that exceed the configured count, size or memory."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import Retention
from taskqd.engine.engine import Engine
from taskqd.errors import TaskqError
from taskqd.model.actor import Actor
from taskqd.state.retention_index import MAX_BATCH
from taskqd.storage.interfaces import IClock, IJournal

CHECK_INTERVAL = 1.0
"""Seconds between two checks for jobs to remove; an end of a job is checked at once as well."""
BUSY_CHECK_INTERVAL = 0.02
"""Seconds between two checks while there may be more to remove than one check removes."""
RETENTION = Actor("retention")
"""The actor of the removals."""


class RetentionTask:
    """Removes the jobs that exceed ``retention``, in batches of up to MAX_BATCH."""

    _log = Logger()

    def __init__(self, engine: Engine, journal: IJournal, retention: Retention, clock: IClock) -> None:
        self._engine = engine
        self._journal = journal
        self._retention = retention
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._is_stopped = False
        self._removals = 0

    def start(self) -> None:
        """Check from now on, at each end of a job and periodically."""
        self._engine.add_end_observer(lambda _: self.remove_expired())
        self._check()

    def stop(self) -> None:
        """Remove no more jobs."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        may_have_more = self.remove_expired()
        if not self._is_stopped:
            self._timer = self._clock.callLater(
                BUSY_CHECK_INTERVAL if may_have_more else CHECK_INTERVAL, self._check
            )

    def remove_expired(self) -> bool:
        """Remove expired jobs, up to the limit of removals in progress; return whether there may be more."""
        if self._is_stopped or self._journal.failure is not None:
            return False
        if self._removals >= MAX_BATCH:
            return True
        limits = self._retention
        before = self._clock.elapsed() - limits.age
        expired = self._engine.queue_state.retention_index.pop_expired(
            before, limits.count, limits.size, limits.memory
        )
        for job_id in expired:
            self._removals += 1
            removal = Deferred.fromCoroutine(self._engine.job_commands.remove(job_id, RETENTION))
            removal.addErrback(self._on_failure, job_id).addBoth(self._on_finished)
        return bool(expired)

    def _on_finished(self, result: Any) -> Any:
        self._removals -= 1
        return result

    def _on_failure(self, failure: Failure, job_id: int) -> None:
        failure.trap(TaskqError)  # a user retried or removed the job first, or the journal failed
        self._engine.queue_state.retention_index.retain(job_id)
