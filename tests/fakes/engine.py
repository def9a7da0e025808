"""An engine on top of fakes for journal, spool and executor."""

import signal
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.config.limits import UNBOUNDED, Limits
from taskqd.config.settings import OnStop
from taskqd.engine.dispatcher import MakeStart
from taskqd.engine.engine import Engine
from taskqd.engine.queue_commands import AcceptSchedule
from taskqd.engine.randomness import Randomness
from taskqd.engine.submissions import NO_BLOCKS, NewJob
from taskqd.execution.run import Outcome
from taskqd.model.actor import Actor
from taskqd.model.events import Event
from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec
from taskqd.model.submission import RescheduleRequest
from taskqd.server.connection_limits import ConnectionLimits
from taskqd.server.factory import TaskqFactory
from taskqd.server.handlers.event_stream import EventStream
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IShutdown
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import UNLIMITED, QueueState
from tests.fakes.clocks import FakeClocks, clock
from tests.fakes.connections import FakeAuthenticator, FakePort
from tests.fakes.deferreds import begin, result_of
from tests.fakes.journal import FakeJournal
from tests.fakes.processes import COMPLETED, FakeExecutor, start_of
from tests.fakes.spool import FakeSpool

ACTOR = Actor("ada")


@implementer(IShutdown)
class FakeShutdown:
    """Records the stops that are requested; ``stopped`` fires when the jobs are as a stop leaves them."""

    def __init__(self) -> None:
        self.stop_mode = OnStop.LEAVE
        self.leave_obstacle: str | None = None
        self.requests: list[bool | None] = []
        self.stopped: Deferred[None] = Deferred()

    def request_stop(self, ends_jobs: bool | None) -> "Deferred[None]":
        self.requests.append(ends_jobs)
        if ends_jobs:
            self.stop_mode = OnStop.INTERRUPT
        return self.stopped


def totals_of(resources: dict[str, int] | None, units: dict[str, tuple[str, ...]] | None) -> dict[str, int]:
    """Return the totals of resources, of which some have named units."""
    return {**(resources or {}), **{name: len(names) for name, names in (units or {}).items()}}


class Harness:
    """An engine and a server over fakes; ``events`` are those recorded before."""

    def __init__(
        self,
        slots: int = 2,
        events: list[Event] | None = None,
        chance: float = 0.0,
        next_id: int = 1,
        queues: dict[str, int] | None = None,
        resources: dict[str, int] | None = None,
        limits: Limits | None = None,
        max_connections: int = 1000,
        clocks: FakeClocks | None = None,
        make_start: MakeStart = start_of,
        make_word: Callable[[], str] = lambda: "",
        units: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.clock = clocks or clock()
        self.journal = FakeJournal(events, next_id)
        self.spool = FakeSpool()
        self.executor = FakeExecutor()
        self.engine = Engine(
            replayed(
                self.journal.events,
                CapacityTotals(slots, queues or {}, totals_of(resources, units), units=units or {}),
            ),
            self.journal,
            self.spool,
            self.executor,
            self.clock,
            make_start,
            Randomness(lambda: chance, make_word),
            limits.pending_limit if limits else UNBOUNDED,
        )
        self.authenticator = FakeAuthenticator()
        self.stopped_processes: set[tuple[int, int | None]] = set()
        self.memory_uses: dict[int, tuple[int, int]] = {}
        self.limits = Limits() if limits is None else limits
        self.authorizer = Authorizer(self.queue_state, self.limits, self.clock, self.check_run)
        self.job_view = JobView(
            self.journal,
            self.spool,
            lambda job: self.queue_state.reason(job, self.clock.elapsed()),
            self.queue_state.earliest_start,
            lambda pid, started: (pid, started) in self.stopped_processes,
            self.memory_uses.get,
        )
        self.shutdown = FakeShutdown()
        self.accept: AcceptSchedule = lambda _, _command, spec, _size: spec
        self.event_stream = EventStream(self.journal, self.queue_state, self.clock)
        self.router = Router(
            self.engine,
            self.job_view,
            cast("Any", self.authenticator),
            self.event_stream,
            self.clock,
            self.authorizer,
            lambda: len(self.factory.connections),
            self.shutdown,
        )
        self.ports: list[FakePort] = [FakePort()]
        self.connection_limits = ConnectionLimits(
            self.limits, max_connections, self.clock, self.authenticator.is_valid, self.ports
        )
        self.factory = TaskqFactory(self.router, self.connection_limits, self.clock)

    def check_run(self, who: Principal, spec: Spec) -> Spec:
        """Allow every user to run any job."""
        return spec

    @property
    def queue_state(self) -> QueueState:
        """The engine's state."""
        return self.engine.queue_state

    def job(self, job_id: int) -> Job:
        """Return a job."""
        return self.queue_state.get(job_id)

    def statuses(self) -> list[Status]:
        """Return the statuses of all jobs, in the order of their ids."""
        return [job.status for job in self.queue_state.walk(1)]

    def settle(self) -> None:
        """Make all events durable, including those that follow from them."""
        self.journal.sync_all()

    def begin_submit(
        self, command: str = "true", blocks: dict[str, bytes] | None = None, **options: Any
    ) -> "Deferred[int]":
        """Submit a job as ada, without making it durable; return the Deferred."""
        spec = Spec(**options)
        return maybeDeferred(self.engine.submissions.submit, NewJob(command, spec, ACTOR, blocks or {}))

    def submit(self, command: str = "true", **options: Any) -> int:
        """Submit a job as ada, make everything durable, and return its id."""
        accepted = self.begin_submit(command, **options)
        self.settle()
        return result_of(accepted)

    def cancel(self, job_id: int, number: int = signal.SIGTERM, cascade: bool = False) -> "Deferred[Job]":
        """Return the Deferred of a cancel."""
        return begin(self._cancel(job_id, number, cascade))

    async def _cancel(self, job_id: int, number: int, cascade: bool) -> Job:
        before = await self.engine.job_commands.dependents_of(job_id) if cascade else ()
        return await self.engine.job_commands.cancel(job_id, ACTOR, number, before)

    def hold(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a hold."""
        return begin(self.engine.job_commands.hold(job_id, ACTOR))

    def release(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a release."""
        return begin(self.engine.job_commands.release(job_id, ACTOR))

    def suspend(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a suspension."""
        return begin(self.engine.job_commands.suspend(job_id, ACTOR))

    def continue_(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a continuation."""
        return begin(self.engine.job_commands.continue_(job_id, ACTOR))

    def change(self, job_id: int, **values: Any) -> "Deferred[Job]":
        """Return the Deferred of a change."""
        return begin(self.engine.job_commands.change(job_id, ACTOR, values))

    def pause(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a pause."""
        return begin(self.engine.queue_commands.pause(ACTOR, queue, schedule))

    def resume(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a resume."""
        return begin(self.engine.queue_commands.resume(ACTOR, queue, schedule))

    def resize(self, queue: str, slots: int | None) -> "Deferred[None]":
        """Return the Deferred of a resize."""
        return begin(self.engine.queue_commands.resize(ACTOR, queue, slots))

    def set_slots(self, slots: int | None) -> "Deferred[int]":
        """Return the Deferred of a change of the daemon's slots."""
        return begin(self.engine.queue_commands.set_slots(ACTOR, slots))

    def set_queue(self, queue: str, values: Mapping[str, int | bool | str | None]) -> "Deferred[None]":
        """Return the Deferred of a change of a queue's settings."""
        return begin(self.engine.queue_commands.change(ACTOR, queue, values))

    def schedule(
        self, every: float = 60.0, blocks: Mapping[str, bytes] = NO_BLOCKS, **options: Any
    ) -> "Deferred[int]":
        """Return the Deferred of a new schedule."""
        command, spec = options.pop("command", "true"), Spec(**options)
        return begin(self.engine.queue_commands.schedule(command, spec, ACTOR, every, None, False, blocks))

    def reschedule(
        self, number: int = 1, blocks: Mapping[str, bytes] = NO_BLOCKS, **changes: Any
    ) -> "Deferred[None]":
        """Return the Deferred of a change of a schedule, which is accepted unless ``accept`` raises."""
        request = RescheduleRequest(schedule=number, **changes)
        return begin(self.engine.queue_commands.reschedule(request, ACTOR, self.accept, blocks))

    def unschedule(self, number: int) -> "Deferred[None]":
        """Return the Deferred of an unschedule."""
        return begin(self.engine.queue_commands.unschedule(number, ACTOR))

    def retry(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a retry."""
        return begin(self.engine.job_commands.retry(job_id, ACTOR))

    def remove(self, job_id: int) -> "Deferred[None]":
        """Return the Deferred of a removal."""
        return begin(self.engine.job_commands.remove(job_id, ACTOR))

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt, and make everything durable."""
        self.executor.finish(job_id, outcome)
        self.settle()


def opened(slots: int = 2, **options: Any) -> Harness:
    """Return a harness whose engine has started."""
    harness = Harness(slots, **options)
    harness.engine.start()
    return harness


def running(harness: Harness) -> list[int]:
    """Return the ids of the running jobs, in ascending order."""
    return sorted(harness.executor.running)


def watchers(feed: EventStream) -> int:
    """Return the number of subscribers of an event stream."""
    return feed.subscriber_count


def replayed(events: list[Event], limits: CapacityTotals = UNLIMITED) -> QueueState:
    """Return the state after a replay of events."""
    queue_state = QueueState(limits, is_open=False)
    for number, event in enumerate(events):
        queue_state.apply(event, (1, number, 1))
    queue_state.open()
    return queue_state
