"""The one writer: records what is to happen, applies it, and then lets it happen.

Every change of a job goes the same way: an event, durable in the store, then applied to the backlog, then
told. Whoever decides about a job holds its turn until the event is applied, so that decisions are made on
what is true. What becomes of a job once it is due is in slots.py.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd import admission
from taskqd.backlog import Backlog
from taskqd.changes import Changes
from taskqd.controls import Controls
from taskqd.errors import Draining, KeyConflict, StoreFailed, WrongState
from taskqd.events import AboutJob, Cancelled, Removed, Retried, Submitted
from taskqd.interfaces import IExecutor, ISpool, IStore
from taskqd.job import Job, Reason, Spec, Status
from taskqd.launch import Run
from taskqd.recorder import Recorder
from taskqd.skipping import Skipping
from taskqd.slots import Slots
from taskqd.turns import JobTurns, Turns, settled


class Dispatcher:
    """Submissions, cancels, retries and removals, each told only once it is durable.

    The rest has rooms of its own: what runs (slots), ``changes`` of pending jobs, ``controls`` of queues and
    schedules. ``make_run`` and ``chance`` are those of Slots; times are the clock's seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        backlog: Backlog,
        store: IStore,
        spool: ISpool,
        executor: IExecutor,
        clock: Any,
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
        self._turns = JobTurns()
        self._key_turns: Turns[str] = Turns()
        self._waiters: dict[int, set[Deferred[Job]]] = {}
        self._told_of_ends: list[Callable[[Job], object]] = []
        self._slots = Slots(self._recorder, self._turns, spool, executor, clock, make_run, chance)
        self._slots.listen(self._count_started, self._tell_ended)
        self._skipping = Skipping(self._recorder, self._turns, clock, self._tell_ended)
        self.changes = Changes(self._recorder, self._turns, clock, self._slots.fill)
        self.controls = Controls(self._recorder, clock, self._slots.fill)

    @property
    def slots(self) -> int:
        """How many slots there are in all."""
        return self.backlog.capacity.limits.slots

    @property
    def busy(self) -> int:
        """How many jobs run, or are about to."""
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
        self._skipping.skip()
        self._slots.fill()

    def drain(self) -> "Deferred[None]":
        """See Slots.drain; nothing new is taken any more."""
        return self._slots.drain()

    def stop(self, requeue: bool) -> "Deferred[None]":
        """See Slots.stop; nothing new is taken any more."""
        return self._slots.stop(requeue)

    def on_end(self, told: Callable[[Job], object]) -> None:
        """Have ``told`` called with each job that has ended, with an array after the last of its tasks."""
        self._told_of_ends.append(told)

    def submit(
        self, spec: Spec, owner: str, blocks: dict[str, bytes], schedule: int | None = None
    ) -> "Deferred[int]":
        """Accept a job and fire with its id once it is durable; ``blocks`` are its script and stdin.

        ``schedule`` is the one that submits it. Raises or fails with NoSuchJob, Gone, BadRequest, Draining,
        KeyConflict or StoreFailed, and then nothing was accepted.
        """
        spec = admission.resolved(self.backlog, spec)
        if blocks:
            spec = replace(spec, blocks=sha256(b"".join(blocks.values())).hexdigest())
        if spec.key is None:
            return self._accept(spec, owner, blocks, schedule)
        return Deferred.fromCoroutine(self._accept_once(spec, spec.key, owner, blocks))

    async def cancel(self, job_id: int, by: str, number: int, cascade: bool = False) -> Job:
        """Cancel a job by a signal and return it once that is decided; asking again changes nothing.

        With ``cascade`` the pending jobs that come after it are cancelled too, and those that come after
        them, these first. Raises NoSuchJob, Gone, WrongState if it has ended otherwise, and StoreFailed.
        """
        self.backlog.get(job_id)
        which = [*(self._all_after(job_id) if cascade else ()), job_id]
        cancels = [Deferred.fromCoroutine(self._cancel(one, by, number)) for one in which]
        *others, job = await settled(cancels)
        for result in (*others, job):
            # Another one may have started and ended by now; the one that was asked for is to be told of.
            if isinstance(result, Failure) and (result is job or not result.check(WrongState)):
                result.raiseException()
        return cast("Job", job)

    def _all_after(self, job_id: int) -> list[int]:
        """Return all jobs that wait for one, directly or not, each before those that it waits for itself.

        A job waits only for older ones, so these are the ids downwards.
        """
        found: set[int] = set()
        looked_at = [job_id]
        while looked_at:
            job = self.backlog.get(looked_at.pop())
            for one in (job.id, *(job.tasks.ids if job.tasks else ())):
                new = set(self.backlog.dependencies.after(one)) - found
                found |= new
                looked_at += new
        return sorted(found, reverse=True)

    async def _cancel(self, job_id: int, by: str, number: int) -> Job:
        job = self.backlog.get(job_id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self.backlog.get(job_id)  # it may have been removed while its turn was waited for
            parts = self.backlog.tasks(job) or [job]
            pending = [part for part in parts if part.status is Status.PENDING]
            running = [part for part in parts if part.status is Status.RUNNING and part.cancelling is None]
            if job.status.is_final and job.status is not Status.CANCELLED:
                raise WrongState(
                    f"job {job_id} has already ended: {job.status.value}; RETRY would run it again"
                )
            if not pending and not running:
                return job
            await self._recorder.record(Cancelled(id=job_id, at=self._clock.seconds(), by=by, signal=number))
        for part in running:
            self._executor.end(part.id, Reason.CANCELLED, number)
        if pending:
            self._tell_ended(*pending)
        return job

    async def retry(self, job_id: int, by: str) -> Job:
        """Make a finished job PENDING again; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = await self._record_of_ended(job_id, partial(Retried, id=job_id, by=by))
        self.counters["retried"] += 1
        self._skipping.skip()
        self._slots.fill()
        return job

    async def remove(self, job_id: int, by: str) -> None:
        """Forget a finished job and its output; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = self.backlog.get(job_id)
        if job.array is not None:
            raise WrongState(
                f"job {job_id} is a task of array {job.array}: REMOVE {job.array} removes them all"
            )
        tasks = self.backlog.tasks(job)
        await self._record_of_ended(job_id, partial(Removed, id=job_id, by=by), self._refuse_if_needed)
        self.counters["removed"] += 1
        for part in (job, *(task for task in tasks if task.attempts)):
            self._spool.purge(part.id, part.attempts).addErrback(self._left_behind, part.id)

    def _refuse_if_needed(self, job: Job) -> None:
        why = self.backlog.needed_for(job.id)
        if why is not None:
            raise WrongState(f"job {job.id} cannot be removed: {why}")

    async def _record_of_ended(
        self, job_id: int, make: Callable[..., AboutJob], check: Callable[[Job], None] = lambda _: None
    ) -> Job:
        """Record an event that only a job which has ended can have, made with the time of its turn."""
        job = self.backlog.get(job_id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self.backlog.get(job_id)  # as in _cancel
            if not job.status.is_final:
                raise WrongState(f"job {job_id} has not ended: it is {job.status.value}; CANCEL would end it")
            check(job)
            await self._recorder.record(make(at=self._clock.seconds()))
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

    def _accept(
        self, spec: Spec, owner: str, blocks: dict[str, bytes], schedule: int | None = None
    ) -> "Deferred[int]":
        if self.is_draining:
            raise Draining("the daemon is about to stop and takes nothing new; submit again once it is back")
        admission.check(self.backlog, spec)
        job_id = self._next_id
        event = Submitted(id=job_id, at=self._clock.seconds(), owner=owner, spec=spec, schedule=schedule)
        self._next_id = event.last_id + 1
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
            if known.submission != spec:
                raise KeyConflict(
                    f"job {known.id} has the key {key} and is another submission; choose another key"
                )
            return known.id
        finally:
            self._key_turns.give_back(key)

    def _accepted(self, job: Job) -> int:
        self.counters["submitted"] += 1
        self._skipping.skip()
        self._slots.fill()
        return job.id

    def _count_started(self) -> None:
        self.counters["started"] += 1

    def _tell_ended(self, *ended: Job) -> None:
        """Tell whoever waits for them that jobs have ended, all of one array if there are more than one.

        Of the array itself it is told once, when it has ended with them.
        """
        for job in ended:
            self.counters[_COUNTED[job.status]] += 1
            self._answer(job)
        whole = self.backlog.whole(ended[0])
        if whole.tasks is not None and whole.status.is_final:
            self._answer(whole)
        self._skipping.skip()
        self._slots.fill()

    def _answer(self, job: Job) -> None:
        for waiter in list(self._waiters.pop(job.id, ())):
            if not waiter.called:
                waiter.callback(job)
        for told in self._told_of_ends:
            try:
                told(job)
            except Exception:  # noqa: BLE001 - whoever listens must not keep the next job from its slot
                self._log.failure("telling of the end of job {id} met a bug of taskqd's", id=job.id)


_COUNTED = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}


def _not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script or stdin of the job cannot be kept: {failure.value}")
