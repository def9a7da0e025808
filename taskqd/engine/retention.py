"""Retention: removes jobs that ended long ago, or that exceed the configured count, size or memory."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import Retention
from taskqd.engine.engine import Engine
from taskqd.engine.job_commands import Outcome
from taskqd.errors import TaskqError
from taskqd.model.actor import Actor
from taskqd.model.job import Job
from taskqd.state.retention_index import MAX_BATCH
from taskqd.storage.interfaces import IClock, IJournal

CHECK_INTERVAL = 1.0
"""Seconds between two periodic checks for jobs to remove."""
BUSY_CHECK_INTERVAL = 0.02
"""Seconds between two checks while there may be more to remove than one check removes."""
EXCESS_FRACTION = 0.001
"""Jobs above the configured count that are removed together, as a part of it: one by one costs more."""
MAX_SMALL_BYTES = 65_536
"""Bytes of output and input of a job. The end of a job with more is followed by a check at once."""
RETENTION = Actor("retention")
"""The actor of the removals."""


class RetentionTask:
    """Removes the jobs that exceed ``retention``, in batches of up to MAX_BATCH.

    So there are up to EXCESS_FRACTION more ended jobs than the configured count, for up to CHECK_INTERVAL.
    """

    _log = Logger()

    def __init__(self, engine: Engine, journal: IJournal, retention: Retention, clock: IClock) -> None:
        self._engine = engine
        self._journal = journal
        self._retention = retention
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._is_stopped = False
        self._removals = 0
        self._ends = 0  # since the last check
        self._max_ends = max(1, min(MAX_BATCH, int(retention.count * EXCESS_FRACTION)))

    def start(self) -> None:
        """Check from now on, after ends of jobs and periodically."""
        self._engine.add_end_observer(self._on_ended)
        self._check()

    def stop(self) -> None:
        """Remove no more jobs."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _on_ended(self, job: Job) -> None:
        self._ends += 1
        if self._ends >= self._max_ends or job.kept_bytes > MAX_SMALL_BYTES:
            self.remove_expired()

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
        self._ends = 0
        limits = self._retention
        before = self._clock.elapsed() - limits.age
        index = self._engine.queue_state.retention_index
        expired = index.pop_expired(before, limits.count, limits.size, limits.memory)
        if expired:
            self._remove(expired)
        return index.may_have_more

    def _remove(self, job_ids: list[int]) -> None:
        """Remove jobs; their records go with the next batch of the journal."""
        self._removals += len(job_ids)
        commands = self._engine.job_commands
        removal = Deferred.fromCoroutine(
            commands.carry_out_all(job_ids, commands.acts.remove(RETENTION), is_removal=True, may_wait=True)
        )
        removal.addCallbacks(self._on_removed, self._on_failure, errbackArgs=(job_ids,))
        removal.addBoth(self._on_finished, len(job_ids))

    def _on_finished(self, result: Any, count: int) -> Any:
        self._removals -= count
        return result

    def _on_removed(self, outcome: Outcome) -> None:
        for job_id in outcome.refusals:  # a user retried or removed it first
            self._engine.queue_state.retention_index.retain(job_id)

    def _on_failure(self, failure: Failure, job_ids: list[int]) -> None:
        failure.trap(TaskqError)  # the journal failed
        for job_id in job_ids:
            self._engine.queue_state.retention_index.retain(job_id)
