"""What becomes of jobs that came after one which did not end as it had to: each is skipped, by its own event.

They are skipped some at a time, so that thousands of them do not keep everybody else waiting.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks, gather_results
from taskqd.errors import StoreFailed
from taskqd.model.events import Skipped
from taskqd.model.job import Status
from taskqd.state.dependencies import portion


class DependencyFailures:
    """Records what dooms jobs; ``told_ended`` is called with a job that has ended so, or an array's tasks."""

    _log = Logger()

    def __init__(
        self, recorder: EventWriter, turns: JobLocks, clock: Any, told_ended: Callable[..., None]
    ) -> None:
        self._recorder = recorder
        self._doomed = recorder.queue_state.dependencies.unsatisfiable
        self._turns = turns
        self._clock = clock
        self._told_ended = told_ended
        self._is_busy = False

    def skip(self) -> None:
        """Skip what is doomed, unless that is being done."""
        if self._doomed and not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._skip_all()).addErrback(self._given_up)

    async def _skip_all(self) -> None:
        try:
            while self._doomed:
                some = portion(self._doomed, self._recorder.queue_state.jobs)
                skips = [Deferred.fromCoroutine(self._skip(one, self._doomed[one])) for one in some]
                for result in await gather_results(skips):
                    if isinstance(result, Failure):
                        result.raiseException()
        finally:
            self._is_busy = False

    async def _skip(self, job_id: int, because: int) -> None:
        job = self._recorder.queue_state.get(job_id)
        async with self._turns.of(job):
            if self._doomed.get(job_id) != because:
                return  # it was cancelled while its turn was waited for
            parts = self._recorder.queue_state.tasks(job) or [job]
            pending = [part for part in parts if part.status is Status.PENDING]
            event = Skipped(id=job_id, at=self._clock.now(), dependency=because)
            await self._recorder.record_until_durable(event)
        self._told_ended(*pending)

    def _given_up(self, failure: Failure) -> None:
        """Leave it to the next start, where the daemon stops before the store works again."""
        if failure.check(StoreFailed) is None:
            self._log.failure("jobs that came after others met a bug of taskqd's", failure)
