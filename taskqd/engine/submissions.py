"""Accepts jobs: each is checked, counted against the quotas, given an id and recorded.

The server has already decided who may submit what (auth/authorization.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hmac import compare_digest
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine import admission
from taskqd.engine.admission import resolve_named
from taskqd.engine.environments import Environments, Pin
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import KeyedLock
from taskqd.errors import BlocksLost, Draining, KeyConflict, LabelInUse, StoreFailed, TaskqError
from taskqd.model.actor import Actor
from taskqd.model.events import Submitted
from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.schedule import ScheduleBlocks
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, Refusal, SimilarSubmissions, first_line_of
from taskqd.state.job_search import find_jobs
from taskqd.state.pending_quota import PendingQuota, Reservation
from taskqd.storage.interfaces import ISpool

NO_BLOCKS: Mapping[str, bytes] = MappingProxyType({})
"""The blocks of a submission that has none."""

_UNFINISHED = frozenset({Status.PENDING, Status.RUNNING})


class NewJob(NamedTuple):
    """A job to accept.

    ``blocks`` are its script, stdin and secrets by name, ``environment`` is the sorted block of the
    environment that its spec has, None if that is stored. ``schedule`` is the number of the schedule that
    submits it, whose ``schedule_blocks`` it gets, and ``max_pending`` is the limit of pending jobs of its
    owner. If a ``queue`` is given, labels and keys of dependencies mean only jobs in that.
    """

    command: str
    spec: Spec
    by: Actor
    blocks: Mapping[str, bytes] = NO_BLOCKS
    environment: bytes | None = None
    schedule: int | None = None
    schedule_blocks: ScheduleBlocks | None = None
    max_pending: PendingLimit = UNBOUNDED
    queue: str | None = None


class SubmissionBatch(NamedTuple):
    """Submissions of one user, or the errors with which they were refused.

    ``max_pending`` is the limit of pending jobs of this user.
    """

    by: Actor
    submissions: Sequence[SimilarSubmissions | Refusal]
    max_pending: PendingLimit = UNBOUNDED


class _NewJobs(NamedTuple):
    """Jobs that become durable together; ``results`` has the ids of each batch, or the errors.

    The ``pins`` keep their environments until then.
    """

    events: list[Submitted]
    reservations: list[Reservation]
    results: list[list[range | Refusal]]
    pins: list[Pin]


class Submissions:
    """Accepts jobs, the first with the id ``next_id``; ``max_pending`` is the limit for all users together.

    ``is_draining()`` tells whether new jobs are refused, ``on_accepted(count)`` is called after jobs have
    been accepted, and ``purge(job_id)`` removes the files of a job that could not be recorded.
    """

    def __init__(
        self,
        event_writer: EventWriter,
        spool: ISpool,
        next_id: int,
        max_pending: PendingLimit,
        is_draining: Callable[[], bool],
        on_accepted: Callable[[int], None],
        purge: Callable[[int], None],
        environments: Environments,
    ) -> None:
        self.quota = PendingQuota(event_writer.queue_state, max_pending)
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._spool = spool
        self._clock = event_writer.clock
        self._next_id = next_id
        self._is_draining = is_draining
        self._on_accepted = on_accepted
        self._purge = purge
        self._environments = environments
        self._key_locks: KeyedLock[tuple[str, str]] = KeyedLock()
        self._condition_locks: KeyedLock[str] = KeyedLock()  # of owners

    def submit(self, new: NewJob) -> "Deferred[int]":
        """Accept a job; fire with its id when it is durable.

        Raises or fails with NoSuchJob, Gone, BadRequest, Draining, QueueFull, KeyConflict, LabelInUse or
        StoreFailed; the job was not accepted then.
        """
        new = new._replace(spec=admission.resolve_dependencies(self._queue_state, new.spec))
        if new.spec.environment is None:
            return self._submit_hashed(new)
        pin = self._environments.pin(new.spec.environment)
        try:
            return self._submit_hashed(new).addBoth(_release, pin)
        except BaseException:
            pin.release()
            raise

    def _submit_hashed(self, new: NewJob) -> "Deferred[int]":
        """Accept a job, with the digest of its blocks in its spec."""
        to_hash = [content for name, content in new.blocks.items() if name != SECRET_BLOCK]
        if not to_hash:
            return self._submit(new)
        script = new.blocks.get("script")
        line = None if script is None else first_line_of(script)
        digest = self._spool.digest(to_hash)
        return digest.addCallback(
            lambda found: self._submit(new._replace(spec=replace(new.spec, blocks=found, script_line=line)))
        )

    def _submit(self, new: NewJob) -> "Deferred[int]":
        """Accept a job whose spec has the digest of its blocks."""
        if new.spec.key is None:
            return self._accept_if_unused(new)
        return Deferred.fromCoroutine(self._accept_once(new, new.spec.key))

    def submit_all(self, batches: Sequence[SubmissionBatch]) -> "Deferred[list[list[range | Refusal]]]":
        """Accept jobs that have no keys and no blocks, and do not observe other jobs.

        Fires with the ids of the jobs of each batch, or the errors that refused them. The jobs become durable
        together, which costs less than one by one.
        """
        new = _NewJobs([], [], [], [])
        try:
            for batch in batches:
                new.results.append(self._admit(batch, batch.submissions, new))
            if not new.events:
                return succeed(new.results)
            recorded = self._event_writer.record_all(new.events)
        except BaseException:
            self._forget(new)
            raise
        return recorded.addCallbacks(self._all_accepted, self._none_accepted, (new,), errbackArgs=(new,))

    def _admit(
        self, batch: SubmissionBatch, submissions: Iterable[SimilarSubmissions | Refusal], new: "_NewJobs"
    ) -> list[range | Refusal]:
        """Add submissions of a batch to ``new``; return the ids of their jobs, or the errors.

        If similar ones cannot all be accepted, they are admitted one by one.
        """
        results: list[range | Refusal] = []
        for similar in submissions:
            if isinstance(similar, Refusal):
                results.append(similar)
                continue
            spec, commands = similar
            try:
                self._check(spec)
                reservation = self.quota.reserve(batch.by.name, commands, spec, batch.max_pending)
            except TaskqError as why:
                results += [Refusal(why)] if len(commands) == 1 else self._admit(batch, similar.each(), new)
            else:
                new.reservations.append(reservation)
                if spec.environment is not None:
                    new.pins.append(self._environments.pin(spec.environment))
                ids = self._allocate_ids(spec, len(commands))
                results.append(ids)
                (owner, origin), now = batch.by, self._clock.now()
                for job_id, command in zip(ids, commands, strict=True):
                    new.events.append(
                        Submitted(id=job_id, at=now, owner=owner, origin=origin, command=command, spec=spec)
                    )
        return results

    def _allocate_ids(self, spec: Spec, count: int) -> range:
        """Return the next free ids for jobs; tasks of an array get those behind the id of the array."""
        ids_per_job = 1 if spec.array is None else 1 + spec.array.count
        first, self._next_id = self._next_id, self._next_id + ids_per_job * count
        return range(first, self._next_id, ids_per_job)

    def _accept(self, new: NewJob) -> "Deferred[int]":
        new = new._replace(spec=resolve_named(self._queue_state, new.spec, new.by.name, new.queue))
        self._check(new.spec)
        reservation = self.quota.reserve(new.by.name, [new.command], new.spec, new.max_pending)
        event = Submitted(
            id=self._allocate_ids(new.spec, 1).start,
            at=self._clock.now(),
            owner=new.by.name,
            origin=new.by.origin,
            command=new.command,
            spec=new.spec,
            schedule=new.schedule,
        )
        kept = self._store_blocks(event.id, new)
        if kept is None:
            recorded = self._event_writer.record(event)
        else:
            recorded = kept.addErrback(_raise_not_kept).addCallback(
                lambda _: self._event_writer.record(replace(event, at=self._clock.now()))
            )
        return recorded.addCallbacks(
            self._accepted, self._not_accepted, (reservation,), errbackArgs=(event, reservation)
        )

    def _store_blocks(self, job_id: int, new: NewJob) -> "Deferred[None] | None":
        if new.environment is not None:
            return Deferred.fromCoroutine(self._store_with_environment(job_id, new))
        if new.schedule_blocks is not None:
            linked = self._spool.link_blocks(job_id, new.schedule_blocks)
            return linked.addErrback(_raise_lost, new.schedule_blocks.schedule)
        return self._spool.store_blocks(job_id, dict(new.blocks)) if new.blocks else None

    async def _store_with_environment(self, job_id: int, new: NewJob) -> None:
        if new.environment is not None and new.spec.environment is not None:
            await self._environments.store(new.spec.environment, new.environment)
        if new.blocks:
            await self._spool.store_blocks(job_id, dict(new.blocks))

    def _accept_if_unused(self, new: NewJob) -> "Deferred[int]":
        """Accept a job, unless its spec has an ``unless`` and a job with that label is pending or running."""
        if new.spec.unless is None:
            return self._accept(new)
        return Deferred.fromCoroutine(self._accept_unless(new, new.spec.unless))

    async def _accept_unless(self, new: NewJob, label: str) -> int:
        """Accept a job if no job of its owner with this label is pending or running.

        Such submissions of one owner are accepted one after the other, so that each sees the one before.
        """
        owner = new.by.name
        await self._condition_locks.acquire(owner)
        try:
            wanted = JobFilter(statuses=_UNFINISHED, owner=owner, label=label)
            job = next(filter(None, find_jobs(self._queue_state, wanted)), None)
            if job is not None:
                raise LabelInUse(
                    f"nothing was submitted: job {job.id} with the label {label!r} is {job.status.value}; "
                    "submit when it has ended"
                )
            return await self._accept(new)
        finally:
            self._condition_locks.release(owner)

    async def _accept_once(self, new: NewJob, key: str) -> int:
        """Accept a job that has a key, or return the id of the same job that was accepted before."""
        locked = (new.by.name, key)
        await self._key_locks.acquire(locked)
        try:
            known = self._queue_state.by_key(key, new.by.name)
            if known is None:
                return await self._accept_if_unused(new)
            # A store of 0.8 or older lacks the line of the script, which the digest of the blocks includes.
            spec = replace(known.original_spec.as_given, script_line=new.spec.script_line)
            is_same = (known.original_command, spec) == (new.command, new.spec)
            if not is_same or not self._has_secrets(known, new.blocks.get(SECRET_BLOCK)):
                raise KeyConflict(
                    f"the key {key} cannot be used: job {known.id} has it and is a different submission; "
                    "choose another key"
                )
            return known.id
        finally:
            self._key_locks.release(locked)

    def _check(self, spec: Spec) -> None:
        """Raise if no job with this spec can be accepted now."""
        if self._is_draining():
            raise Draining("the daemon is stopping and accepts no new jobs; submit again when it is back")
        admission.check(self._queue_state, spec)

    def _forget(self, new: "_NewJobs") -> None:
        """Release what was reserved for jobs that are durable now, or will not be."""
        self.quota.release(*new.reservations)
        for pin in new.pins:
            pin.release()

    def _all_accepted(self, _: None, new: "_NewJobs") -> list[list[range | Refusal]]:
        self._forget(new)
        self._on_accepted(len(new.events))
        return new.results

    def _none_accepted(self, failure: Failure, new: "_NewJobs") -> list[list[range | Refusal]]:
        failure.trap(StoreFailed)
        self._forget(new)
        why = cast("StoreFailed", failure.value)
        return [
            [Refusal(why, len(result)) if isinstance(result, range) else result for result in batch]
            for batch in new.results
        ]

    def _accepted(self, job: Job, reservation: Reservation) -> int:
        self.quota.release(reservation)
        self._on_accepted(1)
        return job.id

    def _not_accepted(self, failure: Failure, event: Submitted, reservation: Reservation) -> Failure:
        self.quota.release(reservation)
        if event.spec.secrets:  # files without secrets can stay until the next start
            self._purge(event.id)
        return failure

    def _has_secrets(self, job: Job, block: bytes | None) -> bool:
        """Whether a job that has the same spec also has the same secrets; raises StoreFailed."""
        if block is None:
            return True
        try:
            return compare_digest(self._spool.read_block(job.id, SECRET_BLOCK), block)
        except OSError as why:
            raise StoreFailed(
                f"the submission cannot be compared with job {job.id}, which has the same key: the secrets "
                f"of that job cannot be read: {why}"
            ) from None


def _raise_lost(failure: Failure, schedule: int) -> None:
    failure.trap(FileNotFoundError)
    raise BlocksLost(
        f"the script, stdin or secrets of schedule {schedule} are gone: {failure.value}; UNSCHEDULE it, and "
        "make another"
    )


def _raise_not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(
        f"the script, stdin, secrets or environment of the job cannot be written: {failure.value}"
    )


def _release(result: Any, pin: Pin) -> Any:
    pin.release()
    return result
