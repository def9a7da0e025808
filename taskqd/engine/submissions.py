"""Jobs come in: each is checked, counted and recorded, and one that has a key is taken once.

What the dispatcher does for submissions; how many may be pending is counted in intake.py, who may submit what
is decided before, in verbs/gate.
"""

from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, NamedTuple, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine import admission
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import KeyedLock
from taskqd.errors import Draining, KeyConflict, StoreFailed, TaskqError
from taskqd.model import submission
from taskqd.model.actor import Actor
from taskqd.model.events import Submitted
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.model.submission import Submission
from taskqd.state.pending_quota import PendingQuota
from taskqd.storage.interfaces import ISpool


class SubmissionBatch(NamedTuple):
    """What somebody submits together: orders that were let in, or why one was not.

    ``most_pending`` is how much they may have pending.
    """

    by: Actor
    orders: Sequence[Submission | TaskqError]
    most_pending: PendingLimit = UNBOUNDED


class Submissions:
    """Takes jobs in, and gives each a number: the first is ``next_id``.

    ``is_draining()`` tells whether nothing is taken any more, ``accepted(count)`` is called when so many jobs
    are there, and ``purge(job)`` removes what was kept of one that is not. ``most_pending`` is
    how much may be pending at once.
    """

    def __init__(
        self,
        recorder: EventWriter,
        spool: ISpool,
        clock: Any,
        next_id: int,
        most_pending: PendingLimit,
        is_draining: Callable[[], bool],
        accepted: Callable[[int], None],
        purge: Callable[[int], None],
    ) -> None:
        self._recorder = recorder
        self._queue_state = recorder.queue_state
        self._spool = spool
        self._clock = clock
        self._next_id = next_id
        self._intake = PendingQuota(recorder.queue_state, most_pending)
        self._is_draining = is_draining
        self._told_accepted = accepted
        self._purge = purge
        self._key_turns: KeyedLock[tuple[str, str]] = KeyedLock()

    def submit(
        self,
        command: str,
        spec: Spec,
        by: Actor,
        blocks: dict[str, bytes],
        schedule: int | None = None,
        most_pending: PendingLimit = UNBOUNDED,
    ) -> "Deferred[int]":
        """Accept a job of somebody's and fire with its id once it is durable.

        ``blocks`` are its script, stdin and secret, ``schedule`` is the one that submits it, and
        ``most_pending`` how much they may have pending. Raises or fails with NoSuchJob, Gone,
        BadRequest, Draining, QueueFull, KeyConflict or StoreFailed, and then nothing was accepted.
        """
        spec = admission.resolved(self._queue_state, spec)
        hashed = [content for name, content in blocks.items() if name != submission.BLOCK]
        if not hashed:
            return self._submit(command, spec, by, blocks, schedule, most_pending)
        digest = self._spool.digest(hashed)
        return digest.addCallback(
            lambda found: self._submit(
                command, replace(spec, blocks=found), by, blocks, schedule, most_pending
            )
        )

    def _submit(
        self,
        command: str,
        spec: Spec,
        by: Actor,
        blocks: dict[str, bytes],
        schedule: int | None,
        most_pending: PendingLimit,
    ) -> "Deferred[int]":
        """Accept a job of which the blocks are hashed."""
        if spec.key is None:
            return self._accept(command, spec, by, blocks, schedule, most_pending)
        return Deferred.fromCoroutine(self._accept_once(command, spec, spec.key, by, blocks, most_pending))

    def submit_all(self, batches: Sequence[SubmissionBatch]) -> "Deferred[list[list[int | TaskqError]]]":
        """Accept jobs that bring neither a key nor blocks, and look at no others.

        Fires with the id of each job of each batch, or why it was refused. They become durable together,
        which costs less than one by one.
        """
        events: list[Submitted] = []
        try:
            results = [self._take_in(batch, events) for batch in batches]
            if not events:
                return succeed(results)
            recorded = self._recorder.record_all(events)
        except BaseException:
            self._intake.arrived(*events)
            raise
        return recorded.addCallbacks(
            self._all_accepted, self._none_accepted, (events, results), errbackArgs=(events, results)
        )

    def _take_in(self, batch: SubmissionBatch, events: list[Submitted]) -> list[int | TaskqError]:
        """Add the events of a batch to others, and return their jobs' ids, or why there is none."""
        by, orders, most_pending = batch
        results: list[int | TaskqError] = []
        checked = None
        for order in orders:
            if isinstance(order, TaskqError):
                results.append(order)
                continue
            command, spec = order
            try:
                if spec is not checked:
                    self._check(spec)
                    checked = spec
                self._intake.take(by.name, command, spec, most_pending)
            except TaskqError as why:
                results.append(why)
            else:
                event = self._submission(command, spec, by)
                results.append(event.id)
                events.append(event)
        return results

    def _accept(
        self,
        command: str,
        spec: Spec,
        by: Actor,
        blocks: dict[str, bytes],
        schedule: int | None,
        most_pending: PendingLimit,
    ) -> "Deferred[int]":
        self._check(spec)
        self._intake.take(by.name, command, spec, most_pending)
        event = self._submission(command, spec, by, schedule)
        if not blocks:
            recorded = self._recorder.record(event)
        else:
            kept = self._spool.store_blocks(event.id, blocks).addErrback(_not_kept)
            recorded = kept.addCallback(lambda _: self._recorder.record(replace(event, at=self._clock.now())))
        return recorded.addCallbacks(
            self._accepted, self._not_accepted, callbackArgs=(event,), errbackArgs=(event,)
        )

    def _check(self, spec: Spec) -> None:
        """Raise why nothing that is asked for in this way can be accepted now."""
        if self._is_draining():
            raise Draining("the daemon is about to stop and takes nothing new; submit again once it is back")
        admission.check(self._queue_state, spec)

    def _submission(self, command: str, spec: Spec, by: Actor, schedule: int | None = None) -> Submitted:
        """Return the event of a submission that is accepted, with its job's number."""
        event = Submitted(
            id=self._next_id,
            at=self._clock.now(),
            owner=by.name,
            origin=by.origin,
            command=command,
            spec=spec,
            schedule=schedule,
        )
        self._next_id = event.last_id + 1
        return event

    async def _accept_once(
        self,
        command: str,
        spec: Spec,
        key: str,
        by: Actor,
        blocks: dict[str, bytes],
        most_pending: PendingLimit,
    ) -> int:
        turn = (by.name, key)
        await self._key_turns.take(turn)
        try:
            known = self._queue_state.by_key(key, by.name)
            if known is None:
                return await self._accept(command, spec, by, blocks, None, most_pending)
            is_same = (known.command, known.submission) == (command, spec)
            if not is_same or not self._has_secret(known, blocks.get(submission.BLOCK)):
                raise KeyConflict(
                    f"job {known.id} has the key {key} and is another submission; choose another key"
                )
            return known.id
        finally:
            self._key_turns.give_back(turn)

    def _all_accepted(
        self, _: None, events: list[Submitted], results: list[list[int | TaskqError]]
    ) -> list[list[int | TaskqError]]:
        self._intake.arrived(*events)
        self._told_accepted(len(events))
        return results

    def _none_accepted(
        self, failure: Failure, events: list[Submitted], results: list[list[int | TaskqError]]
    ) -> list[list[int | TaskqError]]:
        failure.trap(StoreFailed)
        self._intake.arrived(*events)
        why = cast("StoreFailed", failure.value)
        return [[why if isinstance(result, int) else result for result in batch] for batch in results]

    def _accepted(self, job: Job, event: Submitted) -> int:
        self._intake.arrived(event)
        self._told_accepted(1)
        return job.id

    def _not_accepted(self, failure: Failure, event: Submitted) -> Failure:
        self._intake.arrived(event)
        if event.spec.secrets:  # other blocks may lie there until the next start
            self._purge(event.id)
        return failure

    def _has_secret(self, job: Job, block: bytes | None) -> bool:
        """Whether a job that has the same spec has the same secrets too; raises StoreFailed."""
        if block is None:
            return True
        try:
            return compare_digest(self._spool.read_block(job.id, submission.BLOCK), block)
        except OSError as why:
            raise StoreFailed(
                f"whether this is the same as job {job.id} cannot be told: its secrets cannot be read: {why}"
            ) from None


def _not_kept(failure: Failure) -> None:
    failure.trap(OSError)
    raise StoreFailed(f"the script, stdin or secrets of the job cannot be kept: {failure.value}")
