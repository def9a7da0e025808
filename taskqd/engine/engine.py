"""The one writer: records what is to happen, applies it, and then lets it happen.

Every change of a job goes the same way: an event, durable in the store, then applied to the backlog, then
told. Whoever decides about a job holds its turn until the event is applied, so that decisions are made on
what is true. How a job comes in is in reception.py, what becomes of it once it is due in slots.py.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine.clock_jumps import Jumps
from taskqd.engine.dependency_failures import DependencyFailures
from taskqd.engine.dispatcher import Dispatcher
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.job_commands import JobCommands
from taskqd.engine.locks import JobLocks, gather_results
from taskqd.engine.queue_commands import QueueCommands
from taskqd.engine.submissions import SubmissionBatch, Submissions
from taskqd.errors import Gone, TaskqError, WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.run import Run
from taskqd.model.actor import Actor
from taskqd.model.events import Cancelled, JobEvent, Removed, Retried
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Spec
from taskqd.state.dependencies import portion
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IJournal, ISpool

MAX_LOOKS_PER_TURN = 1000
"""Jobs that one request looks at in one turn of the reactor: each takes one to five microseconds."""


class Engine:
    """Submissions, cancels, retries and removals, each told only once it is durable.

    Most has rooms of its own: what comes in (reception), what runs (slots), ``changes`` of pending jobs,
    ``controls`` of queues and schedules. ``make_run`` and ``chance`` are those of Slots; times are the
    clock's seconds since the epoch. ``most_pending`` is how much may be pending at once.
    """

    _log = Logger()

    def __init__(
        self,
        queue_state: QueueState,
        store: IJournal,
        spool: ISpool,
        executor: IExecutor,
        clock: Any,
        make_run: Callable[[Job, int], Run],
        chance: Callable[[], float],
        most_pending: PendingLimit = UNBOUNDED,
    ) -> None:
        self.queue_state = queue_state
        self.counters = dict.fromkeys(("submitted", "started", "retried", "removed", *_COUNTED.values()), 0)
        self._store = store
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._recorder = EventWriter(store, queue_state, clock)
        self._turns = JobLocks()
        self._waiters: dict[int, set[Callable[[Job], object]]] = {}
        self._told_of_ends: list[Callable[[Job], object]] = []
        self._slots = Dispatcher(self._recorder, self._turns, spool, executor, clock, make_run, chance)
        self._slots.listen(self._count_started, self._tell_ended)
        self._skipping = DependencyFailures(self._recorder, self._turns, clock, self._tell_ended)
        self._reception = Submissions(
            self._recorder,
            spool,
            clock,
            max(queue_state.last_id + 1, store.next_id),
            most_pending,
            lambda: self.is_draining,
            self._accepted,
            self._purge,
        )
        self.changes = JobCommands(self._recorder, self._turns, clock, self._slots.fill)
        self.controls = QueueCommands(self._recorder, clock, self._slots.fill)
        self.jumps = Jumps(self._recorder, clock, self._slots.fill)

    @property
    def slots(self) -> int:
        """How many slots there are in all."""
        return self.queue_state.capacity.limits.slots

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
        self,
        command: str,
        spec: Spec,
        by: Actor,
        blocks: dict[str, bytes],
        schedule: int | None = None,
        most_pending: PendingLimit = UNBOUNDED,
    ) -> "Deferred[int]":
        """See Reception.submit."""
        return self._reception.submit(command, spec, by, blocks, schedule, most_pending)

    def submit_all(self, batches: Sequence[SubmissionBatch]) -> "Deferred[list[list[int | TaskqError]]]":
        """See Reception.submit_all."""
        return self._reception.submit_all(batches)

    async def dependents_of(self, job_id: int, look: Callable[[Job], object] = lambda _: None) -> list[Job]:
        """Return the jobs that wait for one, directly or not, each before those that it waits for itself.

        A job waits only for older ones, so these are the ids downwards. ``look`` is called with each, and
        ends this by what it raises. Others have their turn of the reactor after each portion.
        """
        found: list[Job] = []
        for count, job in enumerate(self.queue_state.walk_after(job_id), 1):
            look(job)
            found.append(job)
            if count % MAX_LOOKS_PER_TURN == 0:
                await deferLater(self._clock, 0)
        return sorted(found, key=lambda job: job.id, reverse=True)

    async def all_skipped(self, job_id: int, look: Callable[[Job], object] = lambda _: None) -> list[Job]:
        """Return the jobs that were skipped because of one, directly or not, each behind those before it.

        ``look`` is called with each, and ends this by what it raises. Others have their turn of the reactor
        after each portion.
        """
        found: dict[int, Job] = {}
        left = [job_id]
        while left:
            for one in self.queue_state.skips.of(left.pop()):
                job = self.queue_state.jobs.get(one)
                if job is None or one in found:
                    continue
                look(job)
                found[one] = job
                left.append(one)
                if len(found) % MAX_LOOKS_PER_TURN == 0:
                    await deferLater(self._clock, 0)
        return [found[one] for one in sorted(found)]

    async def cancel(self, job_id: int, by: Actor, number: int, before: Sequence[int] = ()) -> Job:
        """Cancel a job by a signal and return it once that is decided; asking again changes nothing.

        The jobs ``before`` it, which come after it (``dependents_of``), are cancelled first, a portion per
        turn
        of the reactor: after an error some of them are. Raises NoSuchJob, Gone, WrongState if it has ended
        otherwise, and StoreFailed.
        """
        job = self.queue_state.get(job_id)
        if before:
            self._check_cancellable(job)
        which = [*before, job_id]
        at = 0
        while at < len(which):
            if at:
                await deferLater(self._clock, 0)
            some = portion(islice(which, at, None), self.queue_state.jobs)
            at += len(some)
            cancels = [Deferred.fromCoroutine(self._cancel(one, by, number)) for one in some]
            results = await gather_results(cancels)
            for one, result in zip(some, results, strict=True):
                # Another one may have started and ended by now, or be removed.
                if isinstance(result, Failure) and (one == job_id or not result.check(WrongState, Gone)):
                    result.raiseException()
        return job

    def _check_cancellable(self, job: Job) -> None:
        if job.status.is_final and job.status is not Status.CANCELLED:
            raise WrongState(f"job {job.id} has already ended: {job.status.value}; RETRY would run it again")

    async def _cancel(self, job_id: int, by: Actor, number: int) -> Job:
        job = self.queue_state.get(job_id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self.queue_state.get(job_id)  # it may have been removed while its turn was waited for
            parts = self.queue_state.tasks(job) or [job]
            pending = [part for part in parts if part.status is Status.PENDING]
            running = [part for part in parts if part.status is Status.RUNNING and part.cancelling is None]
            self._check_cancellable(job)
            if not pending and not running:
                return job
            await self._recorder.record(
                Cancelled(id=job_id, at=self._clock.now(), by=by.name, origin=by.origin, signal=number)
            )
        for part in running:
            self._executor.end(part.id, Reason.CANCELLED, number)
        if pending:
            self._tell_ended(*pending)
        return job

    async def retry(self, job_id: int, by: Actor) -> Job:
        """Make a finished job PENDING again; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = await self._record_of_ended(job_id, partial(Retried, id=job_id, by=by.name, origin=by.origin))
        self.counters["retried"] += 1
        self._skipping.skip()
        self._slots.fill()
        return job

    async def remove(self, job_id: int, by: Actor) -> None:
        """Forget a finished job and its output; raises NoSuchJob, Gone, WrongState and StoreFailed."""
        job = self.queue_state.get(job_id)
        if job.array is not None:
            raise WrongState(
                f"job {job_id} is a task of array {job.array}: REMOVE {job.array} removes them all"
            )
        tasks = self.queue_state.tasks(job)
        removed = partial(Removed, id=job_id, by=by.name, origin=by.origin)
        if job.status.is_final and self.queue_state.reason_to_keep(job_id) is None:
            await self._end_leftovers(tasks or [job])
        await self._record_of_ended(job_id, removed, self._refuse_if_needed)
        self.counters["removed"] += 1
        for part in (job, *(task for task in tasks if task.attempts)):
            self._purge(part.id, part.attempts)

    async def _end_leftovers(self, parts: Sequence[Job]) -> None:
        """End what jobs left in their sessions: once they are removed, no record tells whose it is."""
        for part in parts:
            killing = self._executor.kill_leftovers(part.id)
            if killing is not None:
                await killing

    def _refuse_if_needed(self, job: Job) -> None:
        why = self.queue_state.reason_to_keep(job.id)
        if why is not None:
            raise WrongState(f"job {job.id} cannot be removed: {why}")

    async def _record_of_ended(
        self, job_id: int, make: Callable[..., JobEvent], check: Callable[[Job], None] = lambda _: None
    ) -> Job:
        """Record an event that only a job which has ended can have, made with the time of its turn."""
        job = self.queue_state.get(job_id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self.queue_state.get(job_id)  # as in _cancel
            if not job.status.is_final:
                raise WrongState(f"job {job_id} has not ended: it is {job.status.value}; CANCEL would end it")
            check(job)
            await self._recorder.record(make(at=self._clock.now()))
        return job

    def _purge(self, job_id: int, attempts: int = 0) -> None:
        self._spool.remove_job(job_id, attempts).addErrback(self._left_behind, job_id)

    def _left_behind(self, failure: Failure, job_id: int) -> None:
        failure.trap(OSError)
        self._log.warn("files of job {id} are left for the next start: {why}", id=job_id, why=failure.value)

    def wait(self, job_id: int) -> "Deferred[Job]":
        """Fire with the job when it has ended; may be cancelled. Raises NoSuchJob."""
        job = self.queue_state.get(job_id)
        if job.status.is_final:
            return succeed(job)
        waiter: Deferred[Job] = Deferred(lambda waiter: self._leave((job_id,), waiter.callback))
        self.tell_end((job_id,), waiter.callback)
        return waiter

    def shortage(self) -> dict[str, Any] | None:
        """Return what STATS tells of a shortage of the machine's, None while there is none."""
        shortage, now = self._slots.shortage, self._clock.elapsed()
        if shortage.detail is None:
            return None
        seconds = round(now - shortage.began_at, 3)
        return {
            "detail": shortage.detail,
            "seconds": seconds,
            "next_try_in": round(shortage.next_try(now), 3),
        }

    def lack(self) -> str | None:
        """Return in words for WHY that the machine lacks what a start takes, None while it does not."""
        shortage = self._slots.shortage
        if shortage.detail is None:
            return None
        left = shortage.next_try(self._clock.elapsed())
        return (
            f"the machine lacks what a start takes ({shortage.detail}), and it is tried again in {left:.1f} s"
        )

    def tell_end(self, job_ids: Iterable[int], told: Callable[[Job], object]) -> Callable[[], None]:
        """Have ``told`` called with each of some jobs, none of which has ended, when it ends.

        Returns what ends that.
        """
        for job_id in job_ids:
            self._waiters.setdefault(job_id, set()).add(told)
        return partial(self._leave, job_ids, told)

    def _leave(self, job_ids: Iterable[int], told: Callable[[Job], object]) -> None:
        for job_id in job_ids:
            waiters = self._waiters.get(job_id)
            if waiters is not None:
                waiters.discard(told)
                if not waiters:
                    del self._waiters[job_id]

    def store_state(self) -> dict[str, Any]:
        """Return what STATS tells of the store."""
        return {"failure": self._store.failure, **self._store.sizes()}

    def _accepted(self, count: int) -> None:
        self.counters["submitted"] += count
        self._skipping.skip()
        self._slots.fill()

    def _count_started(self) -> None:
        self.counters["started"] += 1

    def _tell_ended(self, *ended: Job) -> None:
        """Tell whoever waits for them that jobs have ended, all of one array if there are more than one.

        Of the array itself it is told once, when it has ended with them.
        """
        for job in ended:
            self.counters[_COUNTED[job.status]] += 1
            self._answer(job)
        whole = self.queue_state.whole(ended[0])
        if whole.tasks is not None and whole.status.is_final:
            self._answer(whole)
        self._skipping.skip()
        self._slots.fill()

    def _answer(self, job: Job) -> None:
        waiters = self._waiters.get(job.id)
        while waiters:
            waiters.pop()(job)  # which may end the waiting of others
        self._waiters.pop(job.id, None)
        for told in self._told_of_ends:
            try:
                told(job)
            except Exception:  # noqa: BLE001 - whoever listens must not keep the next job from its slot
                self._log.failure("telling of the end of job {id} met a bug of taskqd's", id=job.id)


_COUNTED = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}
