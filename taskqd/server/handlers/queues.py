"""Handlers for queues and schedules.

QUEUES, SET-QUEUE, SET-SLOTS, PAUSE, RESUME, SCHEDULE, SCHEDULES, UNSCHEDULE.
"""

from collections.abc import Iterator, Mapping

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.model.submission import RescheduleRequest, RunNowRequest, ScheduleRequest
from taskqd.protocol import documents, replies
from taskqd.protocol.requests import (
    EmptyRequest,
    PauseRequest,
    SchedulesRequest,
    SetQueueRequest,
    SetSlotsRequest,
    UnscheduleRequest,
)
from taskqd.server.handlers.base import HandlerGroup, Reply, handles, send_lines
from taskqd.server.handlers.with_blocks import WithBlocks
from taskqd.server.interfaces import IClient

MAX_NEXT_RUNS = 5
"""Next runs that SCHEDULES of one schedule shows."""


class QueueHandlers(HandlerGroup):
    """Lists and changes queues and schedules."""

    @handles("QUEUES")
    def _queues(self, client: IClient, _: EmptyRequest) -> Reply:
        lines = (replies.as_json("QUEUE", queue) for queue in self._queue_state.describe_queues())
        return Deferred.fromCoroutine(send_lines(client, lines))

    @handles("SET-QUEUE")
    def _set_queue(self, client: IClient, request: SetQueueRequest) -> Reply:
        changed = self._engine.queue_commands.change(client.principal.actor, request.queue, request.values)
        return Deferred.fromCoroutine(changed).addCallback(
            lambda _: replies.as_json("QUEUE", self._queue_state.describe_queue(request.queue))
        )

    @handles("SET-SLOTS")
    def _set_slots(self, client: IClient, request: SetSlotsRequest) -> Reply:
        changed = self._engine.queue_commands.set_slots(client.principal.actor, request.slots)
        return Deferred.fromCoroutine(changed).addCallback(lambda slots: replies.ok(str(slots)))

    @handles("PAUSE")
    def _pause(self, client: IClient, request: PauseRequest) -> Reply:
        paused = self._engine.queue_commands.pause(client.principal.actor, request.queue, request.schedule)
        return Deferred.fromCoroutine(paused).addCallback(lambda _: replies.OK)

    @handles("RESUME")
    def _resume(self, client: IClient, request: PauseRequest) -> Reply:
        resumed = self._engine.queue_commands.resume(client.principal.actor, request.queue, request.schedule)
        return Deferred.fromCoroutine(resumed).addCallback(lambda _: replies.OK)

    @handles("SCHEDULE")
    def _schedule(
        self, client: IClient, given: WithBlocks[ScheduleRequest | RunNowRequest | RescheduleRequest]
    ) -> Reply:
        principal, request, blocks = client.principal, given.request, given.blocks
        if isinstance(request, RescheduleRequest):
            return self._reschedule(principal, request, blocks)
        if isinstance(request, RunNowRequest):
            self._authorizer.authorize_run(principal, request.schedule)
            max_pending = self._authorizer.max_pending(principal)
            submitted = self._engine.run_schedule(request.schedule, principal.actor.origin, max_pending)
            return submitted.addCallback(replies.job_id)
        spec = self._authorizer.authorize_schedule(
            principal, request.command, request.spec, given.secret_size
        )
        made = self._engine.queue_commands.schedule(
            request.command, spec, principal.actor, request.every, request.cron, request.overlap, blocks
        )
        return Deferred.fromCoroutine(made).addCallback(lambda number: replies.ok(str(number)))

    def _reschedule(
        self, principal: Principal, request: RescheduleRequest, blocks: Mapping[str, bytes]
    ) -> Reply:
        self._authorizer.authorize_schedule_change(principal, request)
        changed = self._engine.queue_commands.reschedule(
            request,
            principal.actor,
            lambda schedule, command, spec, secret_size: self._authorizer.authorize_changed_schedule(
                principal, schedule, command, spec, secret_size
            ),
            blocks,
        )
        return Deferred.fromCoroutine(changed).addCallback(lambda _: replies.ok(str(request.schedule)))

    @handles("SCHEDULES")
    def _schedules(self, client: IClient, request: SchedulesRequest) -> Reply:
        if request.schedule is not None:
            lines = self._lines_of_schedule(client.principal, request.schedule)
        else:
            lines = self._schedule_lines(client.principal)
        return Deferred.fromCoroutine(send_lines(client, lines))

    def _lines_of_schedule(self, principal: Principal, number: int) -> Iterator[bytes | None]:
        """Return the line for one schedule, with its next runs; raises NoSuchJob."""
        schedules = self._queue_state.schedules
        schedule = schedules.get(number)
        if not self._authorizer.can_see_schedule(principal, schedule):
            return iter(())
        runs = schedules.next_runs(schedule, MAX_NEXT_RUNS)
        document = documents.describe_schedule(schedule, schedules.next_run(schedule), runs)
        return iter([replies.as_json("SCHEDULE", document)])

    def _schedule_lines(self, principal: Principal) -> Iterator[bytes | None]:
        """Yield a line for each schedule, None for one that is not visible or was deleted meanwhile."""
        schedules = self._queue_state.schedules
        for number in list(schedules.by_id):
            schedule = schedules.by_id.get(number)
            if schedule is None or not self._authorizer.can_see_schedule(principal, schedule):
                yield None
            else:
                document = documents.describe_schedule(schedule, schedules.next_run(schedule))
                yield replies.as_json("SCHEDULE", document)

    @handles("UNSCHEDULE")
    def _unschedule(self, client: IClient, request: UnscheduleRequest) -> Reply:
        ended = self._engine.queue_commands.unschedule(request.schedule, client.principal.actor)
        return Deferred.fromCoroutine(ended).addCallback(lambda _: replies.OK)
