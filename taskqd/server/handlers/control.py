"""What is done to jobs that are there: CANCEL, RETRY, REMOVE, HOLD, RELEASE, SET."""

from contextlib import suppress

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.errors import Gone, NoSuchJob, WrongState
from taskqd.model.job import Job
from taskqd.model.job_ref import Ref
from taskqd.protocol import replies
from taskqd.protocol.requests import Cancellation, Change, Retrial
from taskqd.server.handlers.base import Handler, Reply, Room
from taskqd.server.interfaces import ICaller


class Acts(Room):
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

    def _cancel(self, caller: ICaller, asked: Cancellation) -> Reply:
        return Deferred.fromCoroutine(self._cancelled(caller.principal, asked)).addCallback(self._status)

    async def _cancelled(self, who: Principal, asked: Cancellation) -> Job:
        """Cancel a job; before anything is changed, see that all others may be cancelled too."""
        job = self._backlog.get(asked.id)
        after: list[Job] = []
        if asked.is_cascade:
            after = await self._dispatcher.all_after(job.id, lambda one: self._gate.check_after(who, one))
            self._gate.charge(who, (job, *after))
        return await self._dispatcher.cancel(job.id, who.actor, asked.signal, [one.id for one in after])

    def _retry(self, caller: ICaller, asked: Ref | Retrial) -> Reply:
        if isinstance(asked, Retrial):
            retried = self._retry_all(caller.principal, self._id(asked.id))
        else:
            retried = self._dispatcher.retry(self._id(asked), caller.principal.actor)
        return Deferred.fromCoroutine(retried).addCallback(lambda job: replies.job_id(job.id))

    async def _retry_all(self, who: Principal, job_id: int) -> Job:
        """Retry a job, and then those that were skipped because of it, from the oldest on.

        After an error the older ones of them are retried, and the others are as they were.
        """
        job = self._backlog.get(job_id)
        skipped = await self._dispatcher.all_skipped(job_id, lambda one: self._gate.check_skipped(who, one))
        self._gate.charge(who, (job, *skipped))
        await self._dispatcher.retry(job_id, who.actor)
        for one in skipped:
            with suppress(WrongState, NoSuchJob, Gone):  # somebody else has retried or removed it meanwhile
                self._gate.check_retry(who, one)
                await self._dispatcher.retry(one.id, who.actor)
        return job

    def _remove(self, caller: ICaller, ref: Ref) -> Reply:
        removed = Deferred.fromCoroutine(self._dispatcher.remove(self._id(ref), caller.principal.actor))
        return removed.addCallback(lambda _: replies.OK)

    def _hold(self, caller: ICaller, ref: Ref) -> Reply:
        held = self._dispatcher.changes.hold(self._id(ref), caller.principal.actor)
        return Deferred.fromCoroutine(held).addCallback(self._status)

    def _release(self, caller: ICaller, ref: Ref) -> Reply:
        released = self._dispatcher.changes.release(self._id(ref), caller.principal.actor)
        return Deferred.fromCoroutine(released).addCallback(self._status)

    def _set(self, caller: ICaller, asked: Change) -> Reply:
        by, job_id = caller.principal.actor, self._id(asked.id)
        changed = self._dispatcher.changes.change(job_id, by, asked.values)
        return Deferred.fromCoroutine(changed).addCallback(self._described)
