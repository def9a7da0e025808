"""What is done to jobs that are there: CANCEL, RETRY, REMOVE, HOLD, RELEASE, SET."""

from contextlib import suppress

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.errors import Gone, NoSuchJob, WrongState
from taskqd.model.job import Job
from taskqd.model.job_ref import JobRef
from taskqd.protocol import replies
from taskqd.protocol.requests import Cancellation, Change, Retrial
from taskqd.server.handlers.base import Handler, HandlerGroup, Reply
from taskqd.server.interfaces import IClient


class ControlHandlers(HandlerGroup):
    """Changes what becomes of a job; each answers when it is decided and durable."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {
            "CANCEL": self._cancel,
            "RETRY": self._retry,
            "REMOVE": self._remove,
            "HOLD": self._hold,
            "RELEASE": self._release,
            "SET": self._set,
        }

    def _cancel(self, client: IClient, asked: Cancellation) -> Reply:
        return Deferred.fromCoroutine(self._cancelled(client.principal, asked)).addCallback(self._status)

    async def _cancelled(self, who: Principal, asked: Cancellation) -> Job:
        """Cancel a job; before anything is changed, see that all others may be cancelled too."""
        job = self._queue_state.get(asked.id)
        after: list[Job] = []
        if asked.is_cascade:
            after = await self._engine.job_commands.dependents_of(
                job.id, lambda one: self._authorizer.check_after(who, one)
            )
            self._authorizer.charge(who, (job, *after))
        return await self._engine.job_commands.cancel(
            job.id, who.actor, asked.signal, [one.id for one in after]
        )

    def _retry(self, client: IClient, asked: JobRef | Retrial) -> Reply:
        if isinstance(asked, Retrial):
            retried = self._retry_all(client.principal, self._id(asked.id))
        else:
            retried = self._engine.job_commands.retry(self._id(asked), client.principal.actor)
        return Deferred.fromCoroutine(retried).addCallback(lambda job: replies.job_id(job.id))

    async def _retry_all(self, who: Principal, job_id: int) -> Job:
        """Retry a job, and then those that were skipped because of it, from the oldest on.

        After an error the older ones of them are retried, and the others are as they were.
        """
        job = self._queue_state.get(job_id)
        skipped = await self._engine.job_commands.skipped_because_of(
            job_id, lambda one: self._authorizer.check_skipped(who, one)
        )
        self._authorizer.charge(who, (job, *skipped))
        await self._engine.job_commands.retry(job_id, who.actor)
        for one in skipped:
            with suppress(WrongState, NoSuchJob, Gone):  # somebody else has retried or removed it meanwhile
                self._authorizer.check_retry(who, one)
                await self._engine.job_commands.retry(one.id, who.actor)
        return job

    def _remove(self, client: IClient, ref: JobRef) -> Reply:
        removed = Deferred.fromCoroutine(
            self._engine.job_commands.remove(self._id(ref), client.principal.actor)
        )
        return removed.addCallback(lambda _: replies.OK)

    def _hold(self, client: IClient, ref: JobRef) -> Reply:
        held = self._engine.job_commands.hold(self._id(ref), client.principal.actor)
        return Deferred.fromCoroutine(held).addCallback(self._status)

    def _release(self, client: IClient, ref: JobRef) -> Reply:
        released = self._engine.job_commands.release(self._id(ref), client.principal.actor)
        return Deferred.fromCoroutine(released).addCallback(self._status)

    def _set(self, client: IClient, asked: Change) -> Reply:
        by, job_id = client.principal.actor, self._id(asked.id)
        changed = self._engine.job_commands.change(job_id, by, asked.values)
        return Deferred.fromCoroutine(changed).addCallback(self._described)
