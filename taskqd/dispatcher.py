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
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.backlog import Backlog, Position
from taskqd.errors import Draining, KeyConflict, StoreFailed, WrongState
from taskqd.events import Cancelled, Ended, Event, Retried, Spawned, Started, Submitted
from taskqd.interfaces import IExecutor, ISpool, IStore
from taskqd.job import Job, Reason, Spec, Status
from taskqd.launch import Outcome, Run
from taskqd.turns import Turns

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
        self.counters = dict.fromkeys(("submitted", "started", "retried", *_COUNTED.values()), 0)
        self._store = store
        self._spool = spool
        self._executor = executor
        self._clock = clock
        self._make_run = make_run
        self._chance = chance
        self._next_id = max(backlog.last_id + 1, store.next_id)
        self._is_stopping = False
        self._in_slots: set[int] = set()
        self._turns: Turns[int] = Turns()
        self._key_turns: Turns[str] = Turns()
        self._waiters: dict[int, set[Deferred[Job]]] = {}
        self._stopped: list[Deferred[None]] = []
        self._alarm: Any = None

    def recover(self) -> list[Job]:
        """End the attempts that a crash interrupted, before anything else; returns their jobs.

        Their processes must be gone. To be called once, before the reactor runs; blocks for one sync.
        """
        running = self.backlog.running()
        ends: list[Event] = []
        for job in running:
            stdout, stderr = self._spool.recorded(job.id, job.attempts)
            detail = "the daemon or the machine stopped while it ran"
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

    def stop(self) -> "Deferred[None]":
        """Take nothing new, end what runs, and fire when all of it is recorded."""
        self._is_stopping = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        for job_id in list(self._in_slots):
            self._executor.end(job_id, Reason.INTERRUPTED, signal.SIGTERM)
        self._tell_if_stopped()
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
        job = self.backlog.get(job_id)
        await self._turns.take(job_id)
        try:
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
        """Make a finished job PENDING again; raises NoSuchJob, WrongState and StoreFailed."""
        job = self.backlog.get(job_id)
        await self._turns.take(job_id)
        try:
            if not job.status.is_final:
                raise WrongState(f"job {job_id} has not ended: it is {job.status.value}; CANCEL would end it")
            await self._record(Retried(id=job_id, at=self._clock.seconds(), by=by))
        finally:
            self._turns.give_back(job_id)
        self.counters["retried"] += 1
        self._start_due()
        return job

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
        return {"failure": self._store.failure}

    def _record(self, event: Event) -> "Deferred[Job]":
        return self._store.append(event).addCallback(self._apply, event)

    def _apply(self, position: Position, event: Event) -> Job:
        return self.backlog.apply(event, position)

    def _accept(self, spec: Spec, owner: str, blocks: dict[str, bytes]) -> "Deferred[int]":
        if self._is_stopping:
            raise Draining("the daemon is stopping and takes nothing new; submit again once it is back")
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
        if self._is_stopping or self._store.failure is not None:
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
            self._log.error("job {id} stays {status}: {why}", id=job.id, status=job.status.value, why=why)
        finally:
            self._in_slots.discard(job.id)
            self._start_due()
            self._tell_if_stopped()

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
                return succeed(
                    Outcome(reason=Reason.INTERRUPTED, detail="the daemon stopped before it was spawned")
                )
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
        """Record the end of an attempt and tell whoever waits for it."""
        await self._turns.take(job.id)
        try:
            await self._record(self._end_of(job, outcome))
        finally:
            self._turns.give_back(job.id)
        self._spool.release(job.id)
        if job.status.is_final:
            self._tell_ended(job)

    def _end_of(self, job: Job, outcome: Outcome) -> Ended:
        """Return what an outcome means for its job, as the event."""
        now = self._clock.seconds()
        status, reason, retry_at = Status.FAILED, outcome.reason, None
        if job.cancelling is not None:
            status, reason = Status.CANCELLED, Reason.CANCELLED
        elif outcome.reason is None:
            status = Status.COMPLETED
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
            detail=outcome.detail,
            progress=self._spool.progress(job.id),
            retry_at=retry_at,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
        )

    def _tell_ended(self, job: Job) -> None:
        self.counters[_COUNTED[job.status]] += 1
        for waiter in list(self._waiters.pop(job.id, ())):
            if not waiter.called:
                waiter.callback(job)

    def _tell_if_stopped(self) -> None:
        if self._is_stopping and not self._in_slots:
            stopped, self._stopped = self._stopped, []
            for deferred in stopped:
                deferred.callback(None)

    def _broken(self, failure: Failure, job_id: int) -> None:
        if failure.check(StoreFailed) is None:  # the store has said that itself, once
            self._log.failure("job {id} met a bug of taskqd's", failure, id=job_id)


_COUNTED = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}


def _not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script or stdin of the job cannot be kept: {failure.value}")
