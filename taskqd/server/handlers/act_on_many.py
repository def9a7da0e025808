"""Acts on many jobs: CANCEL, HOLD, SET and others with filters in place of an id.

The ids of the jobs that match are collected when the request comes. Then the act is carried out in portions,
each with one batch of records, and other requests are served in between. A job that no longer matches when
its portion comes is left alone. The act ends early if the client disconnects.
"""

from array import array
from collections.abc import Iterable, Sequence

from msgspec.structs import replace
from twisted.internet.task import deferLater

from taskqd.auth.authorization import Authorizer
from taskqd.auth.submission_limits import count_changes
from taskqd.engine.acts import Act, Change, checked
from taskqd.engine.engine import Engine
from taskqd.engine.locks import KeyedLock
from taskqd.errors import Gone, NoSuchJob, StoreFailed, TaskqError, WrongState
from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.protocol import replies
from taskqd.protocol.act_requests import ManyRequest, SetManyRequest
from taskqd.protocol.verbs import VERBS
from taskqd.server.interfaces import IClient
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH, next_batch
from taskqd.state.job_search import find_jobs
from taskqd.storage.interfaces import IClock

MIN_DELAY = 0.001
"""Seconds to wait at least for the rate of a user: a delay may be too short for the clock to change."""
PROGRESS_INTERVAL = 0.1
"""Seconds between two lines about the progress of an act, and before the first of them."""

_ENDED = frozenset(status for status in Status if status.is_final)
_NOT_ENDED = frozenset(Status) - _ENDED


class ActOnMany:
    """Carries out acts on many jobs; one at a time for each user, as each takes memory for its ids."""

    def __init__(self, engine: Engine, authorizer: Authorizer, clock: IClock) -> None:
        self._queue_state = engine.queue_state
        self._commands = engine.job_commands
        self._authorizer = authorizer
        self._clock = clock
        self._locks: KeyedLock[str] = KeyedLock()

    async def carry_out(self, client: IClient, verb: str, request: ManyRequest, act: Act) -> int:
        """Carry out an act on all jobs that a request selects, and return how many it has changed.

        If it has changed none, and one was refused for another reason than its status, raise that error.
        StoreFailed has the number of those that were changed before.
        """
        wanted = self._authorizer.narrow(client.principal, request.wanted)
        if wanted is None:
            return 0
        statuses = _ENDED if VERBS[verb].is_for_ended else _NOT_ENDED
        wanted = replace(wanted, statuses=statuses & (wanted.statuses or statuses))
        name = client.principal.name
        await self._locks.acquire(name)
        try:
            job_ids = await self._find(client, wanted, is_reverse=verb == "CANCEL")
            return await self._change(client, verb, request, job_ids, act, wanted)
        finally:
            self._locks.release(name)

    async def _find(self, client: IClient, wanted: JobFilter, is_reverse: bool) -> Sequence[int]:
        """Return the ids of the jobs that match: ascending, or for a cancel descending.

        A job is then cancelled before those that it depends on, whose cancel would fail it.
        """
        await client.writable()  # it may have disconnected meanwhile
        found = array("q")
        for job in find_jobs(self._queue_state, wanted, is_reverse=is_reverse):
            if job is not None and wanted.has_text(job):
                found.append(job.id)
            if not client.can_send:
                await client.writable()
        return found

    async def _change(
        self,
        client: IClient,
        verb: str,
        request: ManyRequest,
        job_ids: Sequence[int],
        act: Act,
        wanted: JobFilter,
    ) -> int:
        changed = done = 0
        refusal: TaskqError | None = None
        next_report = self._clock.elapsed() + PROGRESS_INTERVAL
        while done < len(job_ids):
            await client.writable()
            if request.has_progress and self._clock.elapsed() >= next_report:
                client.send(replies.progress(done, len(job_ids)))
                next_report = self._clock.elapsed() + PROGRESS_INTERVAL
            portion = next_batch(job_ids[done : done + MAX_JOBS_PER_BATCH], self._queue_state.jobs)
            done += len(portion)
            await self._wait_for_rate(client, portion)
            values = request.values if isinstance(request, SetManyRequest) else None
            check = self._authorizer.portion_check(client.principal, verb, values)
            try:
                outcome = await self._commands.carry_out_all(
                    portion, _matching(checked(act, check), wanted), is_removal=verb == "REMOVE"
                )
            except StoreFailed as why:
                raise StoreFailed(f"{why}; {changed} jobs were changed before, repeat it later") from None
            changed += outcome.changed
            refusal = refusal or _first_refusal(outcome.refusals.values())
        if refusal is not None and not changed:
            raise refusal
        return changed

    async def _wait_for_rate(self, client: IClient, portion: Sequence[int]) -> None:
        """Wait until the client's user may change some jobs; raises an error if the client disconnects."""
        jobs = self._queue_state.jobs
        count = count_changes(jobs[job_id] for job_id in portion if job_id in jobs)
        limits = self._authorizer.submission_limits
        while delay := limits.delay_of_acts(client.principal, count):
            await client.while_connected(deferLater(self._clock, max(delay, MIN_DELAY)))


def _matching(act: Act, wanted: JobFilter) -> Act:
    """Return an act that leaves jobs alone that do not match."""

    def act_if_matching(job: Job) -> Change | None:
        return act(job) if wanted.admits(job) and wanted.has_text(job) else None

    return act_if_matching


def _first_refusal(errors: Iterable[TaskqError]) -> TaskqError | None:
    """Return the first error that does not just say that the act is not for a job with this status."""
    return next((why for why in errors if not isinstance(why, WrongState | NoSuchJob | Gone)), None)
