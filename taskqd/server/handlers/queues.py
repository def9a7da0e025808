"""Queues and schedules: QUEUES, SET-QUEUE, PAUSE, RESUME, SCHEDULE, SCHEDULES, UNSCHEDULE."""

from collections.abc import Iterator

from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.model.submission import ScheduleRequest
from taskqd.protocol import documents, replies
from taskqd.protocol.requests import Pause, QueueChange
from taskqd.server.handlers.base import Handler, HandlerGroup, Reply, send_all
from taskqd.server.interfaces import IClient


class QueueHandlers(HandlerGroup):
    """Tells of queues and schedules, and changes what holds for all jobs of one."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {
            "QUEUES": self._queues,
            "SET-QUEUE": self._set_queue,
            "PAUSE": self._pause,
            "RESUME": self._resume,
            "SCHEDULE": self._schedule,
            "SCHEDULES": self._schedules,
            "UNSCHEDULE": self._unschedule,
        }

    def _queues(self, client: IClient, _: None) -> Reply:
        lines = (replies.as_json("QUEUE", queue) for queue in self._queue_state.describe_queues())
        return Deferred.fromCoroutine(send_all(client, lines))

    def _set_queue(self, client: IClient, asked: QueueChange) -> Reply:
        resized = self._engine.queue_commands.resize(client.principal.actor, asked.queue, asked.slots)
        return Deferred.fromCoroutine(resized).addCallback(
            lambda _: replies.as_json("QUEUE", self._queue_state.describe_queue(asked.queue))
        )

    def _pause(self, client: IClient, asked: Pause) -> Reply:
        paused = self._engine.queue_commands.pause(client.principal.actor, asked.queue, asked.schedule)
        return Deferred.fromCoroutine(paused).addCallback(lambda _: replies.OK)

    def _resume(self, client: IClient, asked: Pause) -> Reply:
        resumed = self._engine.queue_commands.resume(client.principal.actor, asked.queue, asked.schedule)
        return Deferred.fromCoroutine(resumed).addCallback(lambda _: replies.OK)

    def _schedule(self, client: IClient, asked: ScheduleRequest) -> Reply:
        who = client.principal
        spec = self._authorizer.authorize_schedule(who, asked.command, asked.spec)
        made = self._engine.queue_commands.schedule(
            asked.command, spec, who.actor, asked.every, asked.cron, asked.overlap
        )
        return Deferred.fromCoroutine(made).addCallback(lambda number: replies.ok(str(number)))

    def _schedules(self, client: IClient, _: None) -> Reply:
        return Deferred.fromCoroutine(send_all(client, self._shown_schedules(client.principal)))

    def _shown_schedules(self, who: Principal) -> Iterator[bytes | None]:
        """Yield a line for each schedule, None for one that is not shown or has ended meanwhile."""
        known = self._queue_state.schedules
        for number in list(known.by_id):
            schedule = known.by_id.get(number)
            if schedule is None or not self._authorizer.can_see_schedule(who, schedule):
                yield None
            else:
                yield replies.as_json("SCHEDULE", documents.schedule(schedule, known.next_run(schedule)))

    def _unschedule(self, client: IClient, number: int) -> Reply:
        ended = self._engine.queue_commands.unschedule(number, client.principal.actor)
        return Deferred.fromCoroutine(ended).addCallback(lambda _: replies.OK)
