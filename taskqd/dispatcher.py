"""The one writer: records what is to happen, applies it, and then lets it happen.

Every change of a job goes the same way: an event, durable in the store, then applied to the backlog, then
told. Whoever decides about a job holds its turn until the event is applied, so that decisions are made on
what is true. What becomes of a job once it is due is in slots.py.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.backlog import Backlog
from taskqd.errors import Draining, KeyConflict, StoreFailed, WrongState
from taskqd.events import Cancelled, Event, Removed, Retried, Submitted
from taskqd.interfaces import IExecutor, ISpool, IStore
from taskqd.job import Job, Reason, Spec, Status
from taskqd.launch import Run
from taskqd.recorder import Recorder
from taskqd.slots import Slots
from taskqd.turns import Turns


class Dispatcher:
    """Submissions, cancels, retries and removals, each told only once it is durable, and the slots.

    ``make_run`` and ``chance`` are those of Slots; times are the clock's seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        backlog: Backlog,
        store: IStore,
        spool: ISpool,
        executor: IExecutor,
        clock: Any,
        slots: int,
        make_run: Callable[[Job, int], Run],
        chance: Callable[[], float],
    ) -> None:
        self.backlog = backlog
        self.counters = dict.fromkeys(("submitted", "started", "retried", "removed", *_COUNTED.values()), 0)
        self._store = store
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._next_id = max(backlog.last_id + 1, store.next_id)
        self._recorder = Recorder(store, backlog)
        self._turns: Turns[int] = Turns()
        self._key_turns: Turns[str] = Turns()
        self._waiters: dict[int, set[Deferred[Job]]] = {}
        self._told_of_ends: Callable[[], object] = lambda: None
        self._slots = Slots(slots, self._recorder, self._turns, spool, executor, clock, make_run, chance)
        self._slots.listen(self._count_started, self._tell_ended)

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return self._slots.count

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return self._slots.busy

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is taken or started any more."""
        return self._slots.is_draining

    def recover(self, detail: str) -> list[Job]:
        """See Slots.recover."""
        return self._slots.recover(detail)

    def start(self) -> None:
        """Start what is due, and go on doing so."""
        self._slots.fill()

    def drain(self) -> "Deferred[None]":
        """See Slots.drain; nothing new is taken any more."""
        return self._slots.drain()

    def stop(self, requeue: bool) -> "Deferred[None]":
        """See Slots.stop; nothing new is taken any more."""
        return self._slots.stop(requeue)

    def on_end(self, told: Callable[[], object]) -> None:
        """Have ``told`` called whenever a job has ended."""
        self._told_of_ends = told

    def submit(self, spec: Spec, owner: str, blocks: dict[str, bytes]) -> "Deferred[int]":
        """Accept a job and fire with its id once it is durable; ``blocks`` are its script and stdin.

        Fails with Draining, KeyConflict or StoreFailed, and then nothing was accepted.
        """
        if blocks:
            spec = replace(spec, blocks=sha256(b"".join(blocks.values())).hexdigest())
        if spec.key is None:
            return self._accept(spec, owner, blocks)
        return Deferred.fromCoroutine(self._accept_once(spec, spec.key, owner, blocks))

    async def cancel(self, job_id: int, by: str, number: int) -> Job:
        """Cancel a job by a signal and return it once that is decided; asking again changes nothing.

        Raises NoSuchJob, WrongState if it has ended otherwise, and StoreFailed.
        """
        self.backlog.get(job_id)
        await self._turns.take(job_id)
        try:
            job = self.backlog.get(job_id)  # it may have been removed while its turn was waited for
            if job.status is Status.CANCELLED or job.cancelling is not None:
                return job
            if job.status.is_final:
                raise WrongState(
                    f"job {job_id} has already ended: {job.status.value}; RETRY would run it again"
                )
            await self._recorder.record(Cancelled(id=job_id, at=self._clock.seconds(), by=by, signal=number))
        finally:
            self._turns.give_back(job_id)
        if job.status is Status.RUNNING:
            self._executor.end(job_id, Reason.CANCELLED, number)
        else:
            self._tell_ended(job)
        return job

    async def retry(self, job_id: int, by: str) -> Job:
        """Make a finished job PENDING again; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = await self._record_of_ended(job_id, partial(Retried, id=job_id, by=by))
        self.counters["retried"] += 1
        self._slots.fill()
        return job

    async def remove(self, job_id: int, by: str) -> None:
        """Forget a finished job and its output; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = await self._record_of_ended(job_id, partial(Removed, id=job_id, by=by))
        self.counters["removed"] += 1
        self._spool.purge(job_id, job.attempts).addErrback(self._left_behind, job_id)

    async def _record_of_ended(self, job_id: int, make: Callable[..., Event]) -> Job:
        """Record an event that only a job which has ended can have, made with the time of its turn."""
        self.backlog.get(job_id)
        await self._turns.take(job_id)
        try:
            job = self.backlog.get(job_id)  # as in cancel
            if not job.status.is_final:
                raise WrongState(f"job {job_id} has not ended: it is {job.status.value}; CANCEL would end it")
            await self._recorder.record(make(at=self._clock.seconds()))
        finally:
            self._turns.give_back(job_id)
        return job

    def _left_behind(self, failure: Failure, job_id: int) -> None:
        failure.trap(OSError)
        self._log.warn("files of job {id} are left for the next start: {why}", id=job_id, why=failure.value)

    def wait(self, job_id: int) -> "Deferred[Job]":
        """Fire with the job when it has ended; may be cancelled. Raises NoSuchJob."""
        job = self.backlog.get(job_id)
        if job.status.is_final:
            return succeed(job)
        waiters = self._waiters.setdefault(job_id, set())
        waiter: Deferred[Job] = Deferred(waiters.discard)
        waiters.add(waiter)
        return waiter

    def store_state(self) -> dict[str, Any]:
        """Return what STATS tells of the store."""
        return {"failure": self._store.failure, **self._store.sizes()}

    def _accept(self, spec: Spec, owner: str, blocks: dict[str, bytes]) -> "Deferred[int]":
        if self.is_draining:
            raise Draining("the daemon is about to stop and takes nothing new; submit again once it is back")
        job_id = self._next_id
        self._next_id += 1
        event = Submitted(id=job_id, at=self._clock.seconds(), owner=owner, spec=spec)
        if not blocks:
            return self._recorder.record(event).addCallback(self._accepted)
        kept = self._spool.keep(job_id, blocks)
        kept.addErrback(_not_kept)
        return kept.addCallback(lambda _: self._recorder.record(event)).addCallback(self._accepted)

    async def _accept_once(self, spec: Spec, key: str, owner: str, blocks: dict[str, bytes]) -> int:
        await self._key_turns.take(key)
        try:
            known = self.backlog.by_key(key)
            if known is None:
                return await self._accept(spec, owner, blocks)
            if known.spec != spec:
                raise KeyConflict(
                    f"job {known.id} has the key {key} and is another submission; choose another key"
                )
            return known.id
        finally:
            self._key_turns.give_back(key)

    def _accepted(self, job: Job) -> int:
        self.counters["submitted"] += 1
        self._slots.fill()
        return job.id

    def _count_started(self) -> None:
        self.counters["started"] += 1

    def _tell_ended(self, job: Job) -> None:
        self.counters[_COUNTED[job.status]] += 1
        for waiter in list(self._waiters.pop(job.id, ())):
            if not waiter.called:
                waiter.callback(job)
        self._told_of_ends()


_COUNTED = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}


def _not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script or stdin of the job cannot be kept: {failure.value}")
