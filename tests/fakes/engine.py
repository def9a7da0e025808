"""An engine on top of fakes for journal, spool and executor."""

import signal
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred

from taskqd.auth.authorization import Gate
from taskqd.auth.principal import Principal
from taskqd.config.limits import UNBOUNDED, Quotas
from taskqd.engine.engine import Dispatcher
from taskqd.execution.run import Outcome
from taskqd.model.actor import Actor
from taskqd.model.events import Event
from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec
from taskqd.server.connection_limits import Doorkeeper
from taskqd.server.factory import TaskqFactory
from taskqd.server.handlers.event_stream import Feed
from taskqd.server.handlers.job_view import Results
from taskqd.server.handlers.router import Verbs
from taskqd.state.capacity import Limits
from taskqd.state.queue_state import UNLIMITED, Backlog
from tests.fakes.clocks import FakeClocks, clock
from tests.fakes.connections import FakeAccess, FakePort
from tests.fakes.deferreds import begin, result_of
from tests.fakes.journal import FakeStore
from tests.fakes.processes import COMPLETED, FakeExecutor, run_of
from tests.fakes.spool import FakeSpool

ACTOR = Actor("ada")


class House:
    """A dispatcher over fakes of everything below it; ``journal`` is what was recorded before."""

    def __init__(
        self,
        slots: int = 2,
        journal: list[Event] | None = None,
        chance: float = 0.0,
        next_id: int = 1,
        queues: dict[str, int] | None = None,
        resources: dict[str, int] | None = None,
        quotas: Quotas | None = None,
        most_connections: int = 1000,
        clocks: FakeClocks | None = None,
    ) -> None:
        self.clock = clocks or clock()
        self.store = FakeStore(journal, next_id)
        self.spool = FakeSpool()
        self.executor = FakeExecutor()
        self.dispatcher = Dispatcher(
            replayed(self.store.journal, Limits(slots, queues or {}, resources or {})),
            self.store,
            self.spool,
            self.executor,
            self.clock,
            run_of,
            lambda: chance,
            quotas.most_pending if quotas else UNBOUNDED,
        )
        self.access = FakeAccess()
        self.quotas = Quotas() if quotas is None else quotas
        self.gate = Gate(self.backlog, self.quotas, self.clock, self.check_run)
        self.results = Results(
            self.store,
            self.spool,
            lambda job: self.backlog.reason(job, self.clock.elapsed()),
            self.backlog.not_before,
        )
        self.feed = Feed(self.store, self.backlog, self.clock)
        self.verbs = Verbs(
            self.dispatcher,
            self.results,
            cast("Any", self.access),
            self.feed,
            self.clock,
            self.gate,
            lambda: len(self.factory.connections),
        )
        self.ports: list[FakePort] = [FakePort()]
        self.keeper = Doorkeeper(self.quotas, most_connections, self.clock, self.access.is_valid, self.ports)
        self.factory = TaskqFactory(self.verbs, self.keeper, self.clock)

    def check_run(self, who: Principal, spec: Spec) -> Spec:
        """Let everybody run everything."""
        return spec

    @property
    def backlog(self) -> Backlog:
        """The dispatcher's backlog."""
        return self.dispatcher.backlog

    def job(self, job_id: int) -> Job:
        """Return a job as it is."""
        return self.backlog.get(job_id)

    def statuses(self) -> list[Status]:
        """Return the jobs' statuses by id."""
        return [job.status for job in self.backlog.walk(1)]

    def settle(self) -> None:
        """Make durable whatever is on its way, and what comes of it."""
        self.store.sync_all()

    def asked(
        self, command: str = "true", blocks: dict[str, bytes] | None = None, **options: Any
    ) -> "Deferred[int]":
        """Return the Deferred of a submission by ada, of which nothing is durable yet."""
        spec = Spec(**options)
        return maybeDeferred(self.dispatcher.submit, command, spec, ACTOR, blocks or {})

    def submit(self, command: str = "true", **options: Any) -> int:
        """Return the id of a new job, once all is durable."""
        accepted = self.asked(command, **options)
        self.settle()
        return result_of(accepted)

    def cancel(self, job_id: int, number: int = signal.SIGTERM, cascade: bool = False) -> "Deferred[Job]":
        """Return the Deferred of a cancel."""
        return begin(self._cancel(job_id, number, cascade))

    async def _cancel(self, job_id: int, number: int, cascade: bool) -> Job:
        before = [job.id for job in await self.dispatcher.all_after(job_id)] if cascade else ()
        return await self.dispatcher.cancel(job_id, ACTOR, number, before)

    def hold(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a hold."""
        return begin(self.dispatcher.changes.hold(job_id, ACTOR))

    def release(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a release."""
        return begin(self.dispatcher.changes.release(job_id, ACTOR))

    def change(self, job_id: int, **values: Any) -> "Deferred[Job]":
        """Return the Deferred of a change of a spec's fields."""
        return begin(self.dispatcher.changes.change(job_id, ACTOR, values))

    def pause(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a pause."""
        return begin(self.dispatcher.controls.pause(ACTOR, queue, schedule))

    def resume(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a pause's end."""
        return begin(self.dispatcher.controls.resume(ACTOR, queue, schedule))

    def resize(self, queue: str, slots: int | None) -> "Deferred[None]":
        """Return the Deferred of a change of a queue's slots."""
        return begin(self.dispatcher.controls.resize(ACTOR, queue, slots))

    def schedule(self, every: float = 60.0, **options: Any) -> "Deferred[int]":
        """Return the Deferred of a new schedule."""
        command, spec = options.pop("command", "true"), Spec(**options)
        return begin(self.dispatcher.controls.schedule(command, spec, ACTOR, every, None, False))

    def unschedule(self, number: int) -> "Deferred[None]":
        """Return the Deferred of a schedule's end."""
        return begin(self.dispatcher.controls.unschedule(number, ACTOR))

    def retry(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a retry."""
        return begin(self.dispatcher.retry(job_id, ACTOR))

    def remove(self, job_id: int) -> "Deferred[None]":
        """Return the Deferred of a removal."""
        return begin(self.dispatcher.remove(job_id, ACTOR))

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt, durably."""
        self.executor.finish(job_id, outcome)
        self.settle()


def opened(slots: int = 2, **options: Any) -> House:
    """Return a house that has started."""
    house = House(slots, **options)
    house.dispatcher.start()
    return house


def running(house: House) -> list[int]:
    """Return the ids of the jobs that run, upwards."""
    return sorted(house.executor.running)


def watchers(feed: Feed) -> int:
    """Return how many watchers of a feed have caught up."""
    return sum(len(group.watchers) for group in feed._groups.values())


def replayed(events: list[Event], limits: Limits = UNLIMITED) -> Backlog:
    """Return what the journal says, as a start reads it."""
    backlog = Backlog(limits, is_open=False)
    for number, event in enumerate(events):
        backlog.apply(event, (1, number, 1))
    backlog.open()
    return backlog
