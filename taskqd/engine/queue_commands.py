"""The commands for queues and schedules: pause, resume, resize, schedule, unschedule."""

from collections.abc import Callable, Mapping
from typing import cast

from msgspec.structs import replace

from taskqd.config.limits import DESCRIPTORS_PER_SLOT
from taskqd.engine.admission import check_capacity
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import KeyedLock
from taskqd.engine.schedule_blocks import ScheduleBlockStore
from taskqd.engine.submissions import NO_BLOCKS
from taskqd.errors import BadRequest, StoreFailed
from taskqd.model.actor import Actor
from taskqd.model.events import (
    Configured,
    Paused,
    QueueEvent,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    ScheduleContent,
    Scheduled,
    Unscheduled,
)
from taskqd.model.output_files import check_outputs
from taskqd.model.schedule import Schedule, ScheduleBlocks, check_cron, check_every
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, RescheduleRequest
from taskqd.storage.interfaces import ISpool

AcceptSchedule = Callable[[Schedule, str, Spec, int], Spec]
"""``accept(schedule, command, spec, secret_size)`` returns the accepted spec of a changed schedule.

It gets the new command and spec, and the size of all secrets in bytes; what it raises is raised.
"""


class QueueCommands:
    """Changes queues and schedules; ``start_due_jobs`` is called when more jobs may be able to start.

    ``schedule_locks`` are held during changes of schedules.
    Each command returns when its event is durable and applied. All raise StoreFailed, and NoSuchJob for a
    schedule that does not exist.
    """

    def __init__(
        self,
        event_writer: EventWriter,
        spool: ISpool,
        schedule_locks: KeyedLock[int],
        start_due_jobs: Callable[[], None],
    ) -> None:
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._clock = event_writer.clock
        self._start_due_jobs = start_due_jobs
        self._schedule_locks = schedule_locks
        self._block_store = ScheduleBlockStore(spool)
        self._next_schedule = self._queue_state.schedules.last_id + 1
        self._schedule_observers: list[Callable[[], object]] = []
        self._slots_observers: list[Callable[[], object]] = []

    def add_schedule_observer(self, on_schedules_changed: Callable[[], object]) -> None:
        """Call ``on_schedules_changed`` when a schedule has been made, changed, ended, paused or resumed."""
        self._schedule_observers.append(on_schedules_changed)

    def add_slots_observer(self, on_slots_changed: Callable[[], object]) -> None:
        """Call ``on_slots_changed`` when the slots of the daemon have changed."""
        self._slots_observers.append(on_slots_changed)

    async def pause(self, by: Actor, queue: str | None = None, schedule: int | None = None) -> None:
        """Pause a queue or a schedule; without either, all queues.

        From the call on no start is recorded, so that no start follows the pause in the journal.
        """
        event = Paused(at=self._clock.now(), by=by.name, origin=by.origin, queue=queue, schedule=schedule)
        if schedule is not None:
            await self._record_for_schedule(event, schedule)
            return
        self._queue_state.queues.pausing.append(queue)
        try:
            await self._event_writer.record_other(event)
        finally:
            self._queue_state.queues.pausing.remove(queue)
            self._queue_state.ready_queue.unblock_all()
            self._start_due_jobs()

    async def resume(self, by: Actor, queue: str | None = None, schedule: int | None = None) -> None:
        """End the pause of a queue or a schedule; without either, the pause of all queues."""
        event = Resumed(at=self._clock.now(), by=by.name, origin=by.origin, queue=queue, schedule=schedule)
        if schedule is not None:
            await self._record_for_schedule(event, schedule)
            return
        await self._event_writer.record_other(event)
        self._start_due_jobs()

    async def change(self, by: Actor, queue: str, values: Mapping[str, int | bool | str | None]) -> None:
        """Change settings of a queue, ``slots``, ``fair`` and ``rate``; None restores that of the settings.

        0 slots are no limit. ``rate`` is the text of a rate, or "none" for no limit.
        """
        now = self._clock.now()
        events: list[QueueEvent] = []
        for setting, value in values.items():
            if setting == "slots":
                slots = cast("int | None", value)
                events.append(Resized(at=now, by=by.name, origin=by.origin, queue=queue, slots=slots))
            else:
                switch = cast("bool | str | None", value)
                events.append(
                    Configured(
                        at=now, by=by.name, origin=by.origin, queue=queue, setting=setting, value=switch
                    )
                )
        await self._event_writer.record_all(events)
        self._start_due_jobs()

    async def resize(self, by: Actor, queue: str, slots: int | None) -> None:
        """Set the slots of a queue; 0 removes the limit, None restores the value of the settings."""
        await self.change(by, queue, {"slots": slots})

    async def set_slots(self, by: Actor, slots: int | None) -> int:
        """Set the slots of the daemon, None for those of the settings; return their number.

        Raises BadRequest if the machine does not allow that many.
        """
        capacity = self._queue_state.capacity
        if slots is not None and slots > capacity.totals.max_slots:
            raise BadRequest(
                f"the daemon cannot have {slots} slots: each takes up to {DESCRIPTORS_PER_SLOT} descriptors, "
                f"and the limit of its process (ulimit -Hn, or LimitNOFILE of the unit) allows "
                f"{capacity.totals.max_slots} slots; ask for fewer, or raise that limit and restart it"
            )
        event = Rescaled(at=self._clock.now(), by=by.name, origin=by.origin, slots=slots)
        await self._event_writer.record_other(event)
        for on_slots_changed in self._slots_observers:
            on_slots_changed()
        self._start_due_jobs()
        return capacity.slots

    async def schedule(
        self,
        command: str,
        spec: Spec,
        by: Actor,
        every: float | None,
        cron: str | None,
        overlap: bool,
        blocks: Mapping[str, bytes] = NO_BLOCKS,
    ) -> int:
        """Make a schedule that submits a job repeatedly, and return its number; raises BadRequest.

        Either ``every``, in seconds, or ``cron`` is given. ``blocks`` are the script, stdin and secrets of
        its jobs, by name.
        """
        check_capacity(self._queue_state, spec)
        if every is not None:
            check_every(every)
        if cron is not None:
            check_cron(cron)
        number = self._next_schedule
        self._next_schedule += 1
        event = Scheduled(
            schedule=number,
            at=self._clock.now(),
            by=by.name,
            origin=by.origin,
            command=command,
            spec=spec,
            every=every,
            cron=cron,
            overlap=overlap,
            version=1 if blocks else 0,
        )
        if blocks:
            await self._record_with_blocks(event, blocks, ScheduleBlocks(number, 0, ()))
        else:
            await self._event_writer.record_other(event)
        self._notify_schedules_changed()
        return number

    async def reschedule(
        self,
        request: RescheduleRequest,
        by: Actor,
        accept: AcceptSchedule,
        blocks: Mapping[str, bytes] = NO_BLOCKS,
    ) -> None:
        """Change a schedule, which keeps its number, owner, pause and last job; raises BadRequest.

        ``blocks`` are the new ones; of secrets, those that the request has.
        """
        number = request.schedule
        await self._schedule_locks.acquire(number)
        try:
            schedule = self._queue_state.schedules.get(number)
            command, spec = request.change_command(schedule.command), request.change(schedule.spec)
            given = request.values.get("secrets", ())
            blocks = self._block_store.merge_secrets(schedule, spec, blocks, given)
            spec = accept(schedule, command, spec, len(blocks.get(SECRET_BLOCK, b"")))
            check_outputs(spec)
            check_capacity(self._queue_state, spec)
            before = schedule.blocks
            has_new_blocks = bool(blocks) or spec.block_names != before.names
            is_new_timing = request.every is not None or request.cron is not None
            event = Rescheduled(
                schedule=number,
                at=self._clock.now(),
                by=by.name,
                origin=by.origin,
                command=command,
                spec=spec,
                every=request.every if is_new_timing else schedule.every,
                cron=request.cron if is_new_timing else schedule.cron,
                overlap=schedule.overlap if request.overlap is None else request.overlap,
                version=before.version + has_new_blocks,
            )
            if has_new_blocks:
                await self._record_with_blocks(event, blocks, before)
                self._block_store.remove(before)
            else:
                await self._event_writer.record_other(event)
        finally:
            self._schedule_locks.release(number)
        self._notify_schedules_changed()

    async def unschedule(self, number: int, by: Actor) -> None:
        """End a schedule; the jobs that it has submitted are left alone."""
        event = Unscheduled(schedule=number, at=self._clock.now(), by=by.name, origin=by.origin)
        self._block_store.remove(await self._record_for_schedule(event, number))

    async def _record_for_schedule(self, event: QueueEvent, number: int) -> ScheduleBlocks:
        """Record an event about a schedule; return the blocks that this has."""
        await self._schedule_locks.acquire(number)
        try:
            # It may have ended while this waited for the lock.
            blocks = self._queue_state.schedules.get(number).blocks
            await self._event_writer.record_other(replace(event, at=self._clock.now()))
        finally:
            self._schedule_locks.release(number)
        self._notify_schedules_changed()
        return blocks

    async def _record_with_blocks(
        self, event: ScheduleContent, contents: Mapping[str, bytes], before: ScheduleBlocks
    ) -> None:
        """Record the content of a schedule when its blocks are durable; those not given are the last ones."""
        blocks = ScheduleBlocks(event.schedule, event.version, event.spec.block_names)
        spec = await self._block_store.store(blocks, event.spec, contents, before)
        try:
            await self._event_writer.record_other(replace(event, at=self._clock.now(), spec=spec))
        except StoreFailed:
            await self._block_store.remove(blocks)  # before these names are used again
            raise

    def _notify_schedules_changed(self) -> None:
        for on_schedules_changed in self._schedule_observers:
            on_schedules_changed()
