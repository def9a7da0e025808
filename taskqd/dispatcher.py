"""The one writer: records what is to happen, applies it, and then lets it happen.

Every change of a job goes the same way: an event, durable in the store, then applied to the backlog, then
told. Whoever decides about a job holds its turn until the event is applied, so that decisions are made on
what is true. Nothing starts that is not recorded as started.
"""

import signal
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.backlog import Backlog, Position
from taskqd.errors import Draining, KeyConflict, StoreFailed, WrongState
from taskqd.events import Cancelled, Ended, Event, Removed, Retried, Spawned, Started, Submitted
from taskqd.interfaces import IExecutor, ISpool, IStore
from taskqd.job import Job, Reason, Spec, Status
from taskqd.launch import Outcome, Run
from taskqd.turns import Turns

STOPPED = "the daemon was told to stop while it ran"
"""What is said of an attempt that a stop interrupted, and not a crash."""
JITTER = 0.25
"""A retry waits longer than its delay by up to this part of it, lest many come back at once."""


class Dispatcher:
    """Submissions, starts, ends, cancels and retries, each told only once it is durable.

    ``make_run(job, attempt)`` builds what the executor takes; ``chance()`` is a number from 0 to 1; times are
    the clock's seconds since the epoch.
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
        self.slots = slots
        self.counters = dict.fromkeys(("submitted", "started", "retried", "removed", *_COUNTED.values()), 0)
        self._store = store
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._make_run = make_run
        self._chance = chance
        self._next_id = max(backlog.last_id + 1, store.next_id)
        self.is_draining = False
        self._is_stopping = False
        self._is_requeuing = False
        self._in_slots: set[int] = set()
        self._turns: Turns[int] = Turns()
        self._key_turns: Turns[str] = Turns()
        self._waiters: dict[int, set[Deferred[Job]]] = {}
        self._drained: list[Deferred[None]] = []
        self._waiting_for_store: list[Deferred[None]] = []
        self._told_of_ends: Callable[[], object] = lambda: None
        self._going_on: Deferred[None] | None = None
        self._alarm: Any = None

    def recover(self, detail: str) -> list[Job]:
        """End the attempts that a crash interrupted, before anything else; returns their jobs.

        Their processes must be gone. ``detail`` tells what the crash was. To be called once, before the
        reactor runs; blocks for one sync.
        """
        running = self.backlog.running()
        ends: list[Event] = []
        for job in running:
            stdout, stderr = self._spool.recorded(job.id, job.attempts)
            outcome = Outcome(reason=Reason.INTERRUPTED, detail=detail, stdout=stdout, stderr=stderr)
            ends.append(self._end_of(job, outcome))
        for end, position in zip(ends, self._store.append_now(ends), strict=True):
            self._apply(position, end)
        for job in running:
            self._spool.release(job.id)
        return running

    def start(self) -> None:
        """Start what is due, and go on doing so."""
        self._start_due()

    @property
    def busy(self) -> int:
        """How many slots are taken: by running jobs, and by those whose start is on its way to the disk."""
        return len(self._in_slots)

    def on_end(self, told: Callable[[], object]) -> None:
        """Have ``told`` called whenever a job has ended."""
        self._told_of_ends = told

    def drain(self) -> "Deferred[None]":
        """Take nothing new and start nothing more; fire when what runs has ended."""
        self.is_draining = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        drained: Deferred[None] = Deferred(self._drained.remove)
        self._drained.append(drained)
        self._tell_if_drained()
        return drained

    def stop(self, requeue: bool) -> "Deferred[None]":
        """End what runs, and fire when all of it is recorded, or can't be.

        With ``requeue`` the attempts that this interrupts are made up for: their jobs are PENDING again and
        the attempts do not count against their retries.
        """
        self._is_stopping, self._is_requeuing = True, requeue
        stopped = self.drain()
        for job_id in list(self._in_slots):
            self._executor.end(job_id, Reason.INTERRUPTED, signal.SIGTERM)
        for waiting in list(self._waiting_for_store):
            waiting.cancel()
        return stopped

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
            await self._record(Cancelled(id=job_id, at=self._clock.seconds(), by=by, signal=number))
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
        self._start_due()
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
            await self._record(make(at=self._clock.seconds()))
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

    def _record(self, event: Event) -> "Deferred[Job]":
        return self._store.append(event).addCallback(self._apply, event)

    def _apply(self, position: Position, event: Event) -> Job:
        return self.backlog.apply(event, position)

    def _accept(self, spec: Spec, owner: str, blocks: dict[str, bytes]) -> "Deferred[int]":
        if self.is_draining:
            raise Draining("the daemon is about to stop and takes nothing new; submit again once it is back")
        job_id = self._next_id
        self._next_id += 1
        event = Submitted(id=job_id, at=self._clock.seconds(), owner=owner, spec=spec)
        if not blocks:
            return self._record(event).addCallback(self._accepted)
        kept = self._spool.keep(job_id, blocks)
        kept.addErrback(_not_kept)
        return kept.addCallback(lambda _: self._record(event)).addCallback(self._accepted)

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
        self._start_due()
        return job.id

    def _start_due(self) -> None:
        """Fill the free slots, and see to it that the next delayed job is not forgotten."""
        if self.is_draining:
            return
        if self._store.failure is not None:
            self._go_on_later()
            return
        now = self._clock.seconds()
        while len(self._in_slots) < self.slots:
            job = self.backlog.take(now)
            if job is None:
                self._set_alarm(now)
                return
            if job.id in self._in_slots:
                continue  # cancelled and retried while it waited for its turn: whoever has the slot starts it
            self._in_slots.add(job.id)
            Deferred.fromCoroutine(self._run(job)).addErrback(self._broken, job.id)

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        due = self.backlog.next_due()
        if due is not None:
            self._alarm = self._clock.callLater(max(0.0, due - now), self._start_due)

    async def _run(self, job: Job) -> None:
        """Take a job that was given a slot from its start to its end."""
        try:
            attempt = await self._begin(job)
            if attempt is not None:
                await self._end(job, await attempt)
        except StoreFailed as why:
            status = job.status.value
            self._log.error("job {id} stays {status}: {why}", id=job.id, status=status, why=why)
            self._go_on_later()
        finally:
            self._in_slots.discard(job.id)
            self._start_due()
            self._tell_if_drained()

    def _go_on_later(self) -> None:
        """Start what is due when the store works again."""
        if self._going_on is None:
            self._going_on = self._store.recovered()
            self._going_on.addCallbacks(self._go_on, lambda failure: failure.trap(CancelledError))

    def _go_on(self, _: None) -> None:
        self._going_on = None
        self._start_due()

    async def _begin(self, job: Job) -> "Deferred[Outcome] | None":
        """Record the start and spawn; None if the job was cancelled just before."""
        await self._turns.take(job.id)
        try:
            if job.status is not Status.PENDING:
                return None
            number = job.attempts + 1
            try:
                await self._record(Started(id=job.id, at=self._clock.seconds(), attempt=number))
            except StoreFailed:
                self.backlog.put_back(job)
                raise
            self.counters["started"] += 1
            if self._is_stopping:
                return succeed(Outcome(reason=Reason.INTERRUPTED))
            recording = self._spool.record(job.id, number, job.spec.max_output)
            return self._executor.start(
                self._make_run(job, number), recording, partial(self._spawned, job.id)
            )
        finally:
            self._turns.give_back(job.id)

    def _spawned(self, job_id: int, pid: int, started: int | None) -> None:
        event = Spawned(id=job_id, at=self._clock.seconds(), pid=pid, started=started)
        self._record(event).addErrback(self._broken, job_id)

    async def _end(self, job: Job, outcome: Outcome) -> None:
        """Record the end of an attempt, as soon as that is possible, and tell whoever waits for it."""
        await self._turns.take(job.id)
        try:
            await self._record_for_sure(self._end_of(job, outcome))
        finally:
            self._turns.give_back(job.id)
        self._spool.release(job.id)
        if job.status.is_final:
            self._tell_ended(job)

    async def _record_for_sure(self, event: Event) -> None:
        """Record an event now or when the store works again; raises StoreFailed only at a stop."""
        while True:
            try:
                await self._record(event)
            except StoreFailed as why:
                if self._is_stopping:
                    raise
                waiting = self._store.recovered()
                self._waiting_for_store.append(waiting)
                try:
                    await waiting
                except CancelledError:
                    raise why from None
                finally:
                    self._waiting_for_store.remove(waiting)
            else:
                return

    def _end_of(self, job: Job, outcome: Outcome) -> Ended:
        """Return what an outcome means for its job, as the event."""
        now = self._clock.seconds()
        status, reason, retry_at, is_free = Status.FAILED, outcome.reason, None, False
        if job.cancelling is not None:
            status, reason = Status.CANCELLED, Reason.CANCELLED
        elif outcome.reason is None:
            status = Status.COMPLETED
        elif outcome.reason is Reason.INTERRUPTED and self._is_requeuing:
            status, retry_at, is_free = Status.PENDING, now, True
        elif job.is_retryable:
            status = Status.PENDING
            retry_at = now + job.spec.backoff(job.failures + 1) * (1 + JITTER * self._chance())
        return Ended(
            id=job.id,
            at=now,
            status=status,
            reason=reason,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            detail=STOPPED if outcome.reason is Reason.INTERRUPTED and self._is_stopping else outcome.detail,
            progress=self._spool.progress(job.id),
            is_free=is_free,
            retry_at=retry_at,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
        )

    def _tell_ended(self, job: Job) -> None:
        self.counters[_COUNTED[job.status]] += 1
        for waiter in list(self._waiters.pop(job.id, ())):
            if not waiter.called:
                waiter.callback(job)
        self._told_of_ends()

    def _tell_if_drained(self) -> None:
        if self.is_draining and not self._in_slots:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)

    def _broken(self, failure: Failure, job_id: int) -> None:
        if failure.check(StoreFailed) is None:  # the store has said that itself, once
            self._log.failure("job {id} met a bug of taskqd's", failure, id=job_id)


_COUNTED = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}


def _not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script or stdin of the job cannot be kept: {failure.value}")
