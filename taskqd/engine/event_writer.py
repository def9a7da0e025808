"""Makes an event durable in the journal, then applies it to the state. The state has no other writer."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar, cast

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskqd.errors import StoreFailed
from taskqd.model.events import Clocked, Ended, JobEvent, QueueEvent, RecordPosition
from taskqd.model.job import Job
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IClock, IJournal

Result = TypeVar("Result")
Record: TypeAlias = Callable[[Sequence[JobEvent]], Deferred[Result]]
"""Records events; fires when they are durable and applied."""


class EventWriter:
    """Appends events to ``journal`` and applies them to ``queue_state``, in the same order."""

    def __init__(self, journal: IJournal, queue_state: QueueState, clock: IClock) -> None:
        self.journal = journal
        self.queue_state = queue_state
        self.clock = clock
        self._has_given_up = False
        self._waiting: list[Deferred[None]] = []

    @property
    def has_unwritten(self) -> bool:
        """Whether an event that has happened waits for the journal to be writable again."""
        return bool(self._waiting)

    def check_writable(self) -> None:
        """Raise StoreFailed if the journal cannot be written: a command need not wait for a lock then."""
        if self.journal.failure is not None:
            raise StoreFailed(self.journal.failure)

    def record(self, event: JobEvent, may_wait: bool = False) -> "Deferred[Job]":
        """Fire with the changed job when the event is durable and applied; fail with StoreFailed.

        An event of an array that moves many of its tasks is applied in portions, one per turn of the reactor.
        ``may_wait`` allows the journal to delay the event for a larger batch (IJournal.append).
        """
        return self.journal.append(event, may_wait).addCallback(self._apply_in_portions, event)

    def record_all(self, events: Sequence[JobEvent | QueueEvent], may_wait: bool = False) -> "Deferred[None]":
        """Fire when events are durable and applied, all or none; fail with StoreFailed.

        Their positions in the journal are not kept, so they must be events that are never read again. Events
        of arrays are applied as by ``record``. ``may_wait`` is that of ``record``.
        """
        return self.journal.append_all(events, may_wait).addCallback(self._apply_all, events)

    def record_other(self, event: QueueEvent | Clocked) -> "Deferred[None]":
        """Fire when an event that concerns no single job is durable and applied; fail with StoreFailed."""
        return self.journal.append(event).addCallback(self._apply_other, event)

    def record_now(self, events: list[JobEvent]) -> None:
        """Record events before the reactor runs: block until they are durable; raise StartRefused."""
        for event, position in zip(events, self.journal.append_now(list(events)), strict=True):
            self._apply(position, event)

    def record_until_durable(self, event: JobEvent) -> "Deferred[Job]":
        """Record an event, again and again while the journal fails; fail with StoreFailed only at a stop.

        The event's times must have been read from the clock just now.
        """
        return self.record(event).addErrback(
            self._record_later, (event,), self.clock.ahead, lambda events: self.record_until_durable(*events)
        )

    def record_all_until_durable(self, events: Sequence[JobEvent]) -> "Deferred[None]":
        """Record events as ``record_all`` does, again and again as ``record_until_durable`` does."""
        return self.record_all(events).addErrback(
            self._record_later, events, self.clock.ahead, self.record_all_until_durable
        )

    def _record_later(
        self, failure: Failure, events: Sequence[JobEvent], ahead: float, record: "Record[Result]"
    ) -> "Deferred[Result]":
        why = failure.value
        if self._has_given_up or not isinstance(why, StoreFailed):
            failure.raiseException()
        return Deferred.fromCoroutine(self._record_again(events, ahead, why, record))

    async def _record_again(
        self, events: Sequence[JobEvent], ahead: float, why: StoreFailed, record: "Record[Result]"
    ) -> Result:
        await self._wait_for_journal(why)
        jump = self.clock.ahead - ahead
        return await record([_shifted(event, jump) for event in events])

    def give_up(self) -> None:
        """Fail all events that wait for the journal, and from now on those that it cannot write at once."""
        self._has_given_up = True
        for waiting in list(self._waiting):
            waiting.cancel()

    async def _wait_for_journal(self, why: StoreFailed) -> None:
        waiting = self.journal.when_writable()
        self._waiting.append(waiting)
        try:
            await waiting
        except CancelledError:
            raise why from None
        finally:
            self._waiting.remove(waiting)

    def _apply_in_portions(self, position: RecordPosition, event: JobEvent) -> "Job | Deferred[Job]":
        job = cast("Job", self.queue_state.apply(event, position, in_portions=True))
        rest = self._apply_rest([event])
        return job if rest is None else rest.addCallback(lambda _: job)

    def _apply_rest(self, events: Iterable[JobEvent | QueueEvent]) -> "Deferred[None] | None":
        """Apply the other portions of events of arrays; None if there are none."""
        if not self.queue_state.has_changes:
            return None
        ids = [event.id for event in events if isinstance(event, JobEvent)]
        changing = [job_id for job_id in ids if self.queue_state.is_changing(job_id)]
        return Deferred.fromCoroutine(self._continue_changes(changing)) if changing else None

    async def _continue_changes(self, arrays: list[int]) -> None:
        await deferLater(self.clock, 0)
        for array_id in arrays:
            while self.queue_state.continue_change(array_id):
                await deferLater(self.clock, 0)

    def _apply(self, position: RecordPosition, event: JobEvent) -> Job:
        return cast("Job", self.queue_state.apply(event, position))

    def _apply_all(
        self, _: RecordPosition, events: Sequence[JobEvent | QueueEvent]
    ) -> "Deferred[None] | None":
        self.queue_state.apply_all(events)
        return self._apply_rest(events)

    def _apply_other(self, _: RecordPosition, event: QueueEvent | Clocked) -> None:
        self.queue_state.apply(event)


def _shifted(event: JobEvent, jump: float) -> JobEvent:
    """Return an event whose times follow the time of day, which was set by ``jump`` seconds since."""
    if not jump:
        return event
    names = ("at", "retry_at", "ended_at") if isinstance(event, Ended) else ("at",)
    times = {name: getattr(event, name) for name in names}
    return replace(event, **{name: time + jump for name, time in times.items() if time is not None})
