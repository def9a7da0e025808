"""What is done to jobs that are there: CANCEL, RETRY, REMOVE, HOLD, RELEASE, SET."""

from twisted.internet.defer import Deferred

from taskqd import replies
from taskqd.access import Principal
from taskqd.interfaces import ICaller
from taskqd.job import Job
from taskqd.refs import Ref
from taskqd.requests import Cancellation, Change
from taskqd.verbs.room import Handler, Reply, Room


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

    def _retry(self, caller: ICaller, ref: Ref) -> Reply:
        retried = self._dispatcher.retry(self._id(ref), caller.principal.actor)
        return Deferred.fromCoroutine(retried).addCallback(lambda job: replies.job_id(job.id))

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
