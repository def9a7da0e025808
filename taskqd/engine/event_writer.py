"""From an event to the state that it makes: first into the store, then into the backlog, never otherwise."""

from collections.abc import Sequence
from typing import Any, cast

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from taskqd.errors import StoreFailed
from taskqd.model.events import Clocked, Ended, JobEvent, Position, QueueEvent
from taskqd.model.job import Job
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IJournal


class EventWriter:
    """Makes events durable in ``store`` and applies them to ``queue_state``."""

    def __init__(self, store: IJournal, queue_state: QueueState, clock: Any) -> None:
        self.store = store
        self.queue_state = queue_state
        self._clock = clock
        self._is_last_chance = False
        self._waiting: list[Deferred[None]] = []

    @property
    def is_behind(self) -> bool:
        """Whether something that has happened waits for the store to work again."""
        return bool(self._waiting)

    def check(self) -> None:
        """Raise StoreFailed if nothing can be recorded now: nobody should wait for turns in vain."""
        if self.store.failure is not None:
            raise StoreFailed(self.store.failure)

    def record(self, event: JobEvent, may_wait: bool = False) -> "Deferred[Job]":
        """Fire with the changed job once the event is durable and applied; fails with StoreFailed.

        One that ``may_wait`` waits for company: see IJournal.append.
        """
        return self.store.append(event, may_wait).addCallback(self._apply, event)

    def record_all(self, events: Sequence[JobEvent]) -> "Deferred[None]":
        """Fire once events are durable and applied, all or none; fails with StoreFailed.

        They are of a kind of which nobody asks where it stands.
        """
        return self.store.append_all(events).addCallback(self._apply_all, events)

    def record_other(self, event: QueueEvent | Clocked) -> "Deferred[None]":
        """Fire once an event that is about no job is durable and applied; fails with StoreFailed."""
        return self.store.append(event).addCallback(self._apply_other, event)

    def record_now(self, events: list[JobEvent]) -> None:
        """Record before the reactor runs; blocks, and raises StartRefused."""
        for event, position in zip(events, self.store.append_now(list(events)), strict=True):
            self._apply(position, event)

    def record_until_durable(self, event: JobEvent) -> "Deferred[Job]":
        """Record an event now or when the store works again; fails with StoreFailed only at a stop.

        Its times must have been read just now.
        """
        return self.record(event).addErrback(self._record_later, event, self._clock.ahead)

    def _record_later(self, failure: Failure, event: JobEvent, ahead: float) -> "Deferred[Job]":
        why = failure.value
        if self._is_last_chance or not isinstance(why, StoreFailed):
            failure.raiseException()
        return Deferred.fromCoroutine(self._record_again(event, ahead, why))

    async def _record_again(self, event: JobEvent, ahead: float, why: StoreFailed) -> Job:
        await self._wait_for_store(why)
        return await self.record_until_durable(_moved(event, self._clock.ahead - ahead))

    def give_up(self) -> None:
        """From now on what cannot be recorded at once is given up: the daemon stops."""
        self._is_last_chance = True
        for waiting in list(self._waiting):
            waiting.cancel()

    async def _wait_for_store(self, why: StoreFailed) -> None:
        waiting = self.store.when_writable()
        self._waiting.append(waiting)
        try:
            await waiting
        except CancelledError:
            raise why from None
        finally:
            self._waiting.remove(waiting)

    def _apply(self, position: Position, event: JobEvent) -> Job:
        return cast("Job", self.queue_state.apply(event, position))

    def _apply_all(self, _: Position, events: Sequence[JobEvent]) -> None:
        for event in events:
            self.queue_state.apply(event)

    def _apply_other(self, _: Position, event: QueueEvent | Clocked) -> None:
        self.queue_state.apply(event)


def _moved(event: JobEvent, jump: float) -> JobEvent:
    """Return an event with its times as the time of day has them since it was set by ``jump`` seconds."""
    if not jump:
        return event
    if isinstance(event, Ended) and event.retry_at is not None:
        return replace(event, at=event.at + jump, retry_at=event.retry_at + jump)
    return replace(event, at=event.at + jump)
