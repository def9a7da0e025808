"""What is decided about queues and schedules: pauses, slots, and what is run again and again."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from taskqd.engine.admission import check_room
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import KeyedLock
from taskqd.model.actor import Actor
from taskqd.model.events import Paused, QueueEvent, Resized, Resumed, Scheduled, Unscheduled
from taskqd.model.schedule import check_cron, check_every
from taskqd.model.spec import Spec


class QueueCommands:
    """Each decision is told only once it is durable; ``fill`` is called when more may start by it.

    All raise StoreFailed, and NoSuchJob for a schedule that is not there.
    """

    def __init__(self, recorder: EventWriter, clock: Any, fill: Callable[[], None]) -> None:
        self._recorder = recorder
        self._queue_state = recorder.queue_state
        self._clock = clock
        self._fill = fill
        self._turns: KeyedLock[int] = KeyedLock()
        self._next_schedule = self._queue_state.schedules.last_id + 1
        self._told_of_schedules: Callable[[], object] = lambda: None

    def on_schedules(self, told: Callable[[], object]) -> None:
        """Have ``told`` called whenever a schedule is made, ends, is paused or goes on."""
        self._told_of_schedules = told

    async def pause(self, by: Actor, queue: str | None = None, schedule: int | None = None) -> None:
        """Start nothing new: of a queue, of a schedule, or where neither is named, of anything.

        From the call on no start is recorded, so that none comes after the pause.
        """
        event = Paused(at=self._now(), by=by.name, origin=by.origin, queue=queue, schedule=schedule)
        if schedule is not None:
            await self._decide(event, schedule)
            return
        self._queue_state.queues.closing.append(queue)
        try:
            await self._recorder.record_other(event)
        finally:
            self._queue_state.queues.closing.remove(queue)
            self._queue_state.line.unblock_all()
            self._fill()

    async def resume(self, by: Actor, queue: str | None = None, schedule: int | None = None) -> None:
        """End the pause of a queue, of a schedule, or where neither is named, the one of everything."""
        await self._decide(
            Resumed(at=self._now(), by=by.name, origin=by.origin, queue=queue, schedule=schedule), schedule
        )

    async def resize(self, by: Actor, queue: str, slots: int | None) -> None:
        """Give a queue slots: a number, 0 for no limit of its own, None for what the settings say."""
        await self._decide(
            Resized(at=self._now(), by=by.name, origin=by.origin, queue=queue, slots=slots), None
        )

    async def schedule(
        self, command: str, spec: Spec, by: Actor, every: float | None, cron: str | None, overlap: bool
    ) -> int:
        """Submit a job again and again, and return the schedule's number; raises as ``submit`` does.

        Either ``every`` or ``cron`` is given.
        """
        check_room(self._queue_state, spec)
        if every is not None:
            check_every(every)
        if cron is not None:
            check_cron(cron)
        number = self._next_schedule
        self._next_schedule += 1
        event = Scheduled(
            schedule=number,
            at=self._now(),
            by=by.name,
            origin=by.origin,
            command=command,
            spec=spec,
            every=every,
            cron=cron,
            overlap=overlap,
        )
        await self._recorder.record_other(event)
        self._told_of_schedules()
        return number

    async def unschedule(self, number: int, by: Actor) -> None:
        """End a schedule; what it has submitted goes on."""
        await self._decide(Unscheduled(schedule=number, at=self._now(), by=by.name, origin=by.origin), number)

    async def _decide(self, event: QueueEvent, schedule: int | None) -> None:
        if schedule is None:
            await self._recorder.record_other(event)
            self._fill()
            return
        await self._turns.take(schedule)
        try:
            self._queue_state.schedules.get(schedule)  # it may have ended while its turn was waited for
            await self._recorder.record_other(replace(event, at=self._now()))
        finally:
            self._turns.give_back(schedule)
        self._told_of_schedules()

    def _now(self) -> float:
        now: float = self._clock.now()
        return now
