"""Cancels jobs that have not started by the time at which they expire (``--expires``).

The queue state starts no expired job, so an end may be recorded later than at that time.
"""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.acts import OnTasksEnded
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks
from taskqd.errors import StoreFailed
from taskqd.model.actor import DAEMON_NAME
from taskqd.model.events import Cancelled
from taskqd.model.job import Job, Reason, Status
from taskqd.state.dependencies import next_batch

MAX_SLEEP = 5.0
"""Maximum seconds until the next check for expired jobs: timers stand still during a suspend."""
MAX_JOBS_PER_TURN = 1000
"""Jobs that expire per turn of the reactor: each takes a few microseconds."""


class Expirations:
    """Cancels expired jobs, in batches; ``on_ended`` and ``on_tasks_ended`` as in JobCommands."""

    _log = Logger()

    def __init__(
        self,
        event_writer: EventWriter,
        locks: JobLocks,
        on_ended: Callable[..., None],
        on_tasks_ended: OnTasksEnded,
    ) -> None:
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._expiry_queue = event_writer.queue_state.expiry_queue
        self._locks = locks
        self._clock = event_writer.clock
        self._on_ended = on_ended
        self._on_tasks_ended = on_tasks_ended
        self._timer: IDelayedCall | None = None
        self._is_busy = False
        self._is_stopped = False

    def process(self) -> None:
        """Cancel all jobs that have expired, unless that is under way, now and at the right time."""
        if not self._expiry_queue.size and not self._expiry_queue.expired and self._timer is None:
            return
        self._queue_state.withdraw_expired(self._clock.elapsed(), MAX_JOBS_PER_TURN)
        if self._expiry_queue.expired and not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._cancel_all()).addErrback(self._on_failure)
        self._set_timer()

    def stop(self) -> None:
        """Set no more timers."""
        self._is_stopped = True
        self._cancel_timer()

    def _set_timer(self) -> None:
        due = self._expiry_queue.next_due()
        if due is None or self._is_stopped:
            self._cancel_timer()
            return
        delay = min(max(due - self._clock.elapsed(), 0.0), MAX_SLEEP)
        if self._timer is None or not self._timer.active():
            self._timer = self._clock.callLater(delay, self.process)
        else:
            self._timer.reset(delay)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    async def _cancel_all(self) -> None:
        try:
            while expired := self._expiry_queue.expired:
                await self._cancel_batch(sorted(next_batch(expired, self._queue_state.jobs)))
        finally:
            self._is_busy = False

    async def _cancel_batch(self, job_ids: list[int]) -> None:
        """Cancel jobs by one batch of records; if all are locked, wait for the first."""
        jobs = [self._queue_state.jobs[job_id] for job_id in job_ids]
        locked = [job for job in jobs if self._locks.try_acquire(job)]
        if not locked:
            async with self._locks.of(jobs[0]):
                counts = await self._record([jobs[0]])
        else:
            try:
                counts = await self._record(locked)
            finally:
                for job in locked:
                    self._locks.release(job)
        self._announce(counts)

    async def _record(self, jobs: list[Job]) -> dict[int, int]:
        """Cancel those jobs that are still expired; return how many each ends, itself or tasks, by id."""
        counts = {job.id: self._queue_state.count_unstarted(job) for job in jobs}
        for job_id in [job_id for job_id in counts if not counts[job_id]]:
            self._expiry_queue.discard(job_id)  # it was started or cancelled while this waited for its lock
            del counts[job_id]
        now, by = self._clock.now(), DAEMON_NAME
        events = [Cancelled(id=job_id, at=now, by=by, signal=0, reason=Reason.EXPIRED) for job_id in counts]
        if events:
            await self._event_writer.record_all_until_durable(events)
        return counts

    def _announce(self, counts: dict[int, int]) -> None:
        ended: list[Job] = []
        for job_id, count in counts.items():
            job = self._queue_state.jobs[job_id]
            if job.tasks is None:
                ended.append(job)
            else:
                self._on_tasks_ended(job, Status.CANCELLED, count)
        if ended:
            self._on_ended(*ended)

    def _on_failure(self, failure: Failure) -> None:
        """Log a bug; if the daemon stops before the journal works again, the next start cancels the jobs."""
        if failure.check(StoreFailed) is None:
            self._log.failure("internal error while cancelling expired jobs", failure)
