"""Accepts jobs: each is checked, counted against the quotas, given an id and recorded.

The server has already decided who may submit what (auth/authorization.py).
"""

from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from types import MappingProxyType
from typing import NamedTuple, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine import admission
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import KeyedLock
from taskqd.errors import Draining, KeyConflict, LabelInUse, StoreFailed, TaskqError
from taskqd.model.actor import Actor
from taskqd.model.events import Submitted
from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, Submission
from taskqd.state.job_search import find_jobs
from taskqd.state.pending_quota import PendingQuota
from taskqd.storage.interfaces import ISpool

NO_BLOCKS: Mapping[str, bytes] = MappingProxyType({})
"""The blocks of a submission that has none."""

_UNFINISHED = frozenset({Status.PENDING, Status.RUNNING})


class NewJob(NamedTuple):
    """A job to accept.

    ``blocks`` are its script, stdin and secrets by name, ``schedule`` is the number of the schedule that
    submits it, and ``max_pending`` is the limit of pending jobs of its owner.
    """

    command: str
    spec: Spec
    by: Actor
    blocks: Mapping[str, bytes] = NO_BLOCKS
    schedule: int | None = None
    max_pending: PendingLimit = UNBOUNDED


class SubmissionBatch(NamedTuple):
    """Submissions of one user, or the errors with which they were refused.

    ``max_pending`` is the limit of pending jobs of this user.
    """

    by: Actor
    submissions: Sequence[Submission | TaskqError]
    max_pending: PendingLimit = UNBOUNDED


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
        self._key_locks: KeyedLock[tuple[str, str]] = KeyedLock()
        self._condition_locks: KeyedLock[str] = KeyedLock()  # of owners

    def submit(self, new: NewJob) -> "Deferred[int]":
        """Accept a job; fire with its id when it is durable.

        Raises or fails with NoSuchJob, Gone, BadRequest, Draining, QueueFull, KeyConflict, LabelInUse or
        StoreFailed; the job was not accepted then.
        """
        new = new._replace(spec=admission.resolve_dependencies(self._queue_state, new.spec))
        to_hash = [content for name, content in new.blocks.items() if name != SECRET_BLOCK]
        if not to_hash:
            return self._submit(new)
        digest = self._spool.digest(to_hash)
        return digest.addCallback(
            lambda found: self._submit(new._replace(spec=replace(new.spec, blocks=found)))
        )

    def _submit(self, new: NewJob) -> "Deferred[int]":
        """Accept a job whose spec has the digest of its blocks."""
        if new.spec.key is None:
            return self._accept_if_unused(new)
        return Deferred.fromCoroutine(self._accept_once(new, new.spec.key))

    def submit_all(self, batches: Sequence[SubmissionBatch]) -> "Deferred[list[list[int | TaskqError]]]":
        """Accept jobs that have no keys and no blocks, and do not observe other jobs.

        Fires with the id of each job of each batch, or the error that refused it. The jobs become durable
        together, which costs less than one by one.
        """
        events: list[Submitted] = []
        try:
            results = [self._admit(batch, events) for batch in batches]
            if not events:
                return succeed(results)
            recorded = self._event_writer.record_all(events)
        except BaseException:
            self.quota.release(*events)
            raise
        return recorded.addCallbacks(
            self._all_accepted, self._none_accepted, (events, results), errbackArgs=(events, results)
        )

    def _admit(self, batch: SubmissionBatch, events: list[Submitted]) -> list[int | TaskqError]:
        """Append the events of a batch to ``events``; return the ids of its jobs, or the errors."""
        by, submissions, max_pending = batch
        results: list[int | TaskqError] = []
        checked, now = None, self._clock.now()
        for each in submissions:
            if isinstance(each, TaskqError):
                results.append(each)
                continue
            command, spec = each
            try:
                if spec is not checked:
                    self._check(spec)
                    checked = spec
                self.quota.reserve(by.name, command, spec, max_pending)
            except TaskqError as why:
                results.append(why)
            else:
                event = self._make_event(command, spec, by, now)
                results.append(event.id)
                events.append(event)
        return results

    def _accept(self, new: NewJob) -> "Deferred[int]":
        self._check(new.spec)
        self.quota.reserve(new.by.name, new.command, new.spec, new.max_pending)
        event = self._make_event(new.command, new.spec, new.by, self._clock.now(), new.schedule)
        if not new.blocks:
            recorded = self._event_writer.record(event)
        else:
            kept = self._spool.store_blocks(event.id, dict(new.blocks)).addErrback(_raise_not_kept)
            recorded = kept.addCallback(
                lambda _: self._event_writer.record(replace(event, at=self._clock.now()))
            )
        return recorded.addCallbacks(
            self._accepted, self._not_accepted, callbackArgs=(event,), errbackArgs=(event,)
        )

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
                    f"nothing was submitted: job {job.id} with the label {label} is {job.status.value}; "
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
            is_same = (known.command, known.original_spec) == (new.command, new.spec)
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

    def _make_event(
        self, command: str, spec: Spec, by: Actor, now: float, schedule: int | None = None
    ) -> Submitted:
        """Return the event of an accepted job, with the next free id."""
        event = Submitted(
            id=self._next_id,
            at=now,
            owner=by.name,
            origin=by.origin,
            command=command,
            spec=spec,
            schedule=schedule,
        )
        self._next_id = event.last_id + 1
        return event

    def _all_accepted(
        self, _: None, events: list[Submitted], results: list[list[int | TaskqError]]
    ) -> list[list[int | TaskqError]]:
        self.quota.release(*events)
        self._on_accepted(len(events))
        return results

    def _none_accepted(
        self, failure: Failure, events: list[Submitted], results: list[list[int | TaskqError]]
    ) -> list[list[int | TaskqError]]:
        failure.trap(StoreFailed)
        self.quota.release(*events)
        why = cast("StoreFailed", failure.value)
        return [[why if isinstance(result, int) else result for result in batch] for batch in results]

    def _accepted(self, job: Job, event: Submitted) -> int:
        self.quota.release(event)
        self._on_accepted(1)
        return job.id

    def _not_accepted(self, failure: Failure, event: Submitted) -> Failure:
        self.quota.release(event)
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


def _raise_not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script, stdin or secrets of the job cannot be written: {failure.value}")
