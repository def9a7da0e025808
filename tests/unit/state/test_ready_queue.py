"""ReadyQueue: order, backfilling, and that no job starves and capacity does not stand idle."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.model.job import Attempt, Job
from taskqd.model.spec import Array, Spec
from taskqd.state.backfill import FIRST_PHASE
from taskqd.state.capacity import SLOTS, Capacity, CapacityTotals, Constraint, demands_of
from taskqd.state.ready_queue import MAX_EXAMINED, ReadyQueue

BIG = 1


class Machine:
    """A ready queue with its capacity, queues and jobs, and a number as the clock."""

    def __init__(self, slots: int = 4, **limits: Any) -> None:
        self.queues: dict[str, int] = limits.pop("queues", {})
        self.capacity = Capacity(CapacityTotals(slots=slots, **limits), self.queues.get)
        self.paused: set[str] = set()
        self.ready_queue = ReadyQueue(self.capacity, lambda queue: queue in self.paused or "*" in self.paused)
        self.jobs: dict[int, Job] = {}
        self.now = 0.0

    def submit(self, job_id: int, of: int | None = None, **asked: Any) -> Job:
        spec = Spec(**asked)
        job = self.jobs[job_id] = Job(id=job_id, spec=spec, owner="ann", submitted_at=0.0, array=of)
        self.ready_queue.add(job)
        return job

    def start_all(self) -> list[int]:
        taken: list[int] = []
        while (job_id := self.ready_queue.take(self.now)) is not None:
            taken.append(job_id)
        return taken

    def end(self, *job_ids: int) -> list[int]:
        """End jobs, and start the jobs that may start then."""
        for job_id in job_ids:
            self.ready_queue.release(job_id)
        return self.start_all()


def test_ready_queue_needs_no_scheduling_until_something_changes() -> None:
    machine = Machine(slots=1)
    queue = machine.ready_queue
    assert queue.needs_scheduling
    assert machine.start_all() == []
    assert not queue.needs_scheduling
    job = machine.submit(1)
    assert queue.needs_scheduling
    assert machine.ready_queue.take(0.0) == 1
    assert queue.needs_scheduling, "there may be more jobs"
    assert machine.start_all() == []
    queue.release(2)
    queue.add(job)
    queue.remove(job)
    assert not queue.needs_scheduling, "nothing was added, removed or released"
    machine.submit(3)
    machine.start_all()
    machine.submit(4)
    assert not queue.needs_scheduling, "job 4 is behind job 3, which does not fit"
    changes: list[Callable[[], object]] = [
        lambda: queue.release(1),
        queue.unblock_all,
        lambda: machine.submit(2),
        lambda: queue.remove(machine.jobs[2]),
        lambda: queue.add_all([]),
    ]
    for change in changes:
        machine.start_all()
        machine.paused.add("*")
        assert machine.start_all() == []
        assert not queue.needs_scheduling
        change()
        assert queue.needs_scheduling


# Order.


def test_jobs_start_by_priority_then_by_id() -> None:
    machine = Machine(slots=9)
    for job_id, priority in ((5, 0), (1, -1), (4, 0), (2, 1_000_000), (3, 1), (6, -1_000_000)):
        machine.submit(job_id, priority=priority)
    assert machine.start_all() == [2, 3, 4, 5, 1, 6]


def test_order_is_the_same_across_queues_and_demands() -> None:
    machine = Machine(slots=20, resources={"gpu": 9})
    asked: list[dict[str, Any]] = [
        *({"queue": "a"}, {"slots": 2}, {"needs": {"gpu": 1}}, {"queue": "b", "priority": 1}, {})
    ]
    for job_id, options in enumerate(asked, 1):
        machine.submit(job_id, **options)
    assert machine.start_all() == [4, 1, 2, 3, 5]


def test_job_that_is_queued_or_allocated_is_not_added_twice() -> None:
    machine = Machine(slots=9)
    job = machine.submit(1)
    machine.ready_queue.add(job)
    assert machine.start_all() == [1]
    machine.ready_queue.add(job)
    assert machine.start_all() == []
    assert machine.ready_queue.is_allocated(1)
    machine.ready_queue.release(1)
    machine.ready_queue.release(1)
    machine.ready_queue.add(job)
    assert machine.start_all() == [1]


def test_remove_of_an_unknown_job_does_nothing() -> None:
    machine = Machine()
    machine.submit(2)
    for stranger in (Spec(), Spec(queue="other")):
        machine.ready_queue.remove(Job(id=1, spec=stranger, owner="ann", submitted_at=0.0))
    assert machine.start_all() == [2]


@pytest.mark.parametrize("gone, left", [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])])
def test_remove_keeps_the_order_of_the_others(gone: int, left: list[int]) -> None:
    machine = Machine()
    jobs = {job_id: machine.submit(job_id) for job_id in (2, 3, 1)}
    machine.ready_queue.remove(jobs[gone])
    assert machine.start_all() == left


def test_allocation_is_not_current_after_the_demands_changed() -> None:
    machine = Machine(resources={"gpu": 1})
    job = machine.submit(1)
    assert not machine.ready_queue.has_current_allocation(job)
    assert machine.start_all() == [1]
    assert machine.ready_queue.has_current_allocation(job)
    job.spec = Spec(needs={"gpu": 1})
    assert not machine.ready_queue.has_current_allocation(job)
    assert machine.ready_queue.is_allocated(1)


# Capacity.


def test_changed_total_of_slots_starts_what_a_fresh_queue_with_that_total_starts() -> None:
    """After each change the same jobs start as in a queue that always had those slots."""
    random = Random(1)
    for _ in range(30):
        needs = [random.choice((1, 1, 2, 3, 5)) for _ in range(12)]
        before, after = random.randint(1, 6), random.randint(1, 6)
        changed, fresh = Machine(before), Machine(after)
        for job_id, slots in enumerate(needs, 1):
            changed.submit(job_id, slots=slots)
        started = changed.start_all()
        changed.capacity.set_slots = after
        changed.ready_queue.unblock_all()
        for job_id, slots in enumerate(needs, 1):
            if job_id in started:
                fresh.capacity.allocate(demands_of(Spec(slots=slots)))
            else:
                fresh.submit(job_id, slots=slots)
        assert changed.start_all() == fresh.start_all()


def test_jobs_start_only_within_every_constraint() -> None:
    machine = Machine(slots=5, queues={"q": 1}, resources={"gpu": 2})
    limited: list[dict[str, Any]] = [{"queue": "q"}] * 2
    limited += [{"needs": {"gpu": 2}}, {"needs": {"gpu": 1}}]
    for job_id, asked in enumerate(limited, 1):
        machine.submit(job_id, **asked)
    machine.capacity.limit_array(100, 1)
    for job_id in (101, 102):
        machine.submit(job_id, of=100, array=Array(1, 2, 1))
    assert machine.start_all() == [1, 3, 101]
    assert machine.end(1) == [2]
    assert machine.end(3) == [4]
    assert machine.end(101) == [102]


def test_blocked_job_starts_before_a_later_one() -> None:
    machine = Machine(queues={"q": 1})
    machine.submit(1, queue="q")
    machine.submit(2, queue="q")
    assert machine.start_all() == [1]
    machine.submit(3)
    assert machine.end(1) == [2, 3]


def test_job_with_several_slots_is_allocated_all_of_them() -> None:
    machine = Machine(slots=4)
    for job_id in (1, 2, 3):
        machine.submit(job_id, slots=2)
    assert machine.start_all() == [1, 2]
    assert machine.capacity.available(SLOTS) == 0
    assert machine.end(2) == [3]


def test_impossible_job_does_not_delay_others_until_it_becomes_possible() -> None:
    machine = Machine(slots=4, queues={"q": 1})
    never: list[dict[str, Any]] = [{"slots": 5}, {"needs": {"tape": 1}}, {"queue": "q", "slots": 2}]
    for job_id, asked in enumerate(never, 1):
        machine.submit(job_id, **asked)
    for job_id in range(10, 30):
        machine.submit(job_id)
    assert machine.start_all() == [10, 11, 12, 13]
    for step, job_id in enumerate(range(10, 20)):
        machine.now = step * FIRST_PHASE / 2
        assert machine.end(job_id) == [job_id + 4]
    machine.queues["q"] = 2
    machine.ready_queue.unblock_all()
    assert machine.end(20, 21) == [3]


def test_paused_queue_starts_nothing_and_has_no_reservation() -> None:
    machine = Machine(slots=2)
    machine.submit(1)
    assert machine.start_all() == [1]
    machine.submit(2, queue="q", slots=2)
    machine.submit(3)
    assert machine.start_all() == [3]  # and so 2 has been overtaken
    machine.now = 1.5 * FIRST_PHASE
    machine.submit(4)
    assert machine.end(3) == []
    assert machine.ready_queue.reserved_for(machine.jobs[4], machine.now) == 2
    machine.paused.add("q")
    machine.ready_queue.unblock_all()
    assert machine.start_all() == [4]
    assert machine.end(1, 4) == []
    machine.paused.clear()
    machine.ready_queue.unblock_all()
    assert machine.start_all() == [2]


def test_holders_lists_jobs_with_an_allocation_of_a_constraint() -> None:
    machine = Machine(slots=3, resources={"gpu": 2})
    machine.submit(1, needs={"gpu": 1})
    machine.submit(2)
    machine.submit(3, queue="q")
    assert machine.start_all() == [1, 2, 3]
    assert sorted(machine.ready_queue.holders(SLOTS)) == [1, 2, 3]
    assert machine.ready_queue.holders(Constraint("resource", "gpu")) == [1]
    assert machine.ready_queue.holders(Constraint("queue", "q")) == [3]


def test_count_ahead_counts_jobs_of_the_same_queue() -> None:
    machine = Machine(slots=1)
    asked: list[dict[str, Any]] = [{}, {"queue": "q"}, {"needs": {"gpu": 1}}, {"priority": 1}, {}]
    for job_id, options in enumerate(asked, 1):
        machine.submit(job_id, **options)
    assert [machine.ready_queue.count_ahead(job) for job in machine.jobs.values()] == [1, 0, 2, 0, 3]


# Backfilling.


def _overtaken() -> Machine:
    """Return a machine on which 1 needs all slots, 2, 3 and 4 run, and 5 has overtaken 1 at 0.0."""
    machine = Machine(slots=4)
    for job_id in (2, 3, 4):
        machine.submit(job_id)
    assert machine.start_all() == [2, 3, 4]
    machine.submit(BIG, slots=4)
    machine.submit(5)
    assert machine.start_all() == [5]
    return machine


def test_overtaken_job_gets_a_reservation_after_the_open_phase() -> None:
    machine = _overtaken()
    for job_id in range(6, 12):
        machine.submit(job_id)
    assert machine.ready_queue.next_wakeup(0.0) is None
    machine.now = FIRST_PHASE - 1
    assert machine.end(5) == [6]
    machine.now = FIRST_PHASE
    assert machine.end(6) == []
    assert machine.ready_queue.next_wakeup(machine.now) == 2 * FIRST_PHASE
    assert machine.end(2) == []
    assert machine.ready_queue.reserved_for(machine.jobs[7], machine.now) == BIG
    machine.now = 2 * FIRST_PHASE
    assert machine.start_all() == [7, 8]
    assert machine.ready_queue.next_wakeup(machine.now) is None


def test_reservation_does_not_block_a_job_of_lower_rank() -> None:
    machine = _overtaken()
    machine.submit(6)
    machine.now = FIRST_PHASE
    assert machine.end(5) == []
    machine.submit(7, priority=1)
    assert machine.start_all() == [7]


def test_job_blocked_by_a_reservation_starts_once_enough_is_left() -> None:
    machine = Machine(slots=4, resources={"gpu": 1})
    machine.submit(1, needs={"gpu": 1})
    for job_id in (2, 3, 4):
        machine.submit(job_id)
    assert machine.start_all() == [1, 2, 3, 4]
    machine.submit(10, slots=2, needs={"gpu": 1})
    machine.submit(11)
    assert machine.end(2) == [11]
    machine.now = FIRST_PHASE
    machine.submit(12)
    assert machine.end(11) == []
    assert machine.end(3) == []
    assert machine.end(4) == [12]


def test_job_of_lower_rank_does_not_count_as_overtaking() -> None:
    machine = Machine(slots=2)
    machine.submit(1)
    machine.submit(5, slots=2)
    assert machine.start_all() == [1]
    machine.submit(2)
    assert machine.start_all() == [2]
    machine.now = FIRST_PHASE
    machine.submit(6)
    assert machine.end(2) == [6]


def test_reservation_ends_when_its_job_is_removed() -> None:
    machine = _overtaken()
    machine.submit(6)
    machine.now = FIRST_PHASE
    assert machine.end(5) == []
    machine.ready_queue.remove(machine.jobs[BIG])
    assert machine.start_all() == [6]


def test_job_that_leaves_room_for_the_reservation_starts() -> None:
    machine = Machine(slots=4, resources={"gpu": 2})
    machine.submit(1, needs={"gpu": 1})
    assert machine.start_all() == [1]
    machine.submit(2, needs={"gpu": 2})
    machine.submit(3, needs={"gpu": 1})
    assert machine.start_all() == [3]
    machine.now = FIRST_PHASE
    machine.submit(4, needs={"gpu": 1})
    machine.submit(5)
    assert machine.end(3) == [5]
    assert machine.ready_queue.reserved_for(machine.jobs[4], machine.now) == 2
    assert machine.ready_queue.reserved_for(machine.jobs[2], machine.now) is None


def test_job_of_a_full_queue_is_not_overtaken_by_other_queues() -> None:
    """It waits for its queue; slots that other queues use meanwhile do not delay it."""
    machine = Machine(slots=3, queues={"q": 1})
    for job_id, queue in enumerate(("q", "q", "other", "other"), 1):
        machine.submit(job_id, queue=queue)
    assert machine.start_all() == [1, 3, 4]
    machine.now = 10 * FIRST_PHASE
    machine.submit(5)
    assert machine.end(3) == [5]


def test_overtaken_job_of_lower_rank_gets_its_reservation_first() -> None:
    machine = Machine(slots=3)
    machine.submit(10)
    assert machine.start_all() == [10]
    machine.submit(20, slots=3)
    machine.submit(30)
    assert machine.start_all() == [30]
    machine.submit(15, slots=2, priority=1)
    machine.submit(40)
    machine.now = 30.0
    assert machine.start_all() == [40]
    machine.submit(50)
    machine.now = 30.0 + FIRST_PHASE
    assert machine.end(40) == []
    assert machine.ready_queue.reserved_for(machine.jobs[50], machine.now) == 15


# Simulations: a day and more of a busy machine.


class Simulation(Machine):
    """A machine on which jobs take time; ``used`` is the sum of slot-seconds."""

    def __init__(self, slots: int, **limits: Any) -> None:
        super().__init__(slots, **limits)
        self.starts: dict[int, float] = {}
        self.used = 0.0
        self._lengths: dict[int, float] = {}
        self._ends: list[tuple[float, int]] = []

    def add(self, job_id: int, seconds: float, **asked: Any) -> None:
        self._lengths[job_id] = seconds
        self.submit(job_id, **asked)

    def run(self, until: float, feed: Callable[[], None]) -> None:
        """Let time pass; ``feed`` is called before each start, to submit new jobs."""
        while self.now < until:
            feed()
            for job_id in self.start_all():
                self.starts[job_id] = self.now
                heappush(self._ends, (self.now + self._lengths[job_id], job_id))
            self._check()
            look = self.ready_queue.next_wakeup(self.now)
            following = min([until, *([self._ends[0][0]] if self._ends else []), *([look] if look else [])])
            busy = self.capacity.allocated(SLOTS)
            self.used += busy * (following - self.now)
            self.now = following
            while self._ends and self._ends[0][0] <= self.now:
                self.ready_queue.release(heappop(self._ends)[1])

    def _check(self) -> None:
        for constraint in (SLOTS, Constraint("resource", "gpu"), Constraint("queue", "default")):
            available = self.capacity.available(constraint)
            assert available is None or available >= 0


def _stream(
    simulation: Simulation, ids: Iterator[int], lengths: Callable[[], float], **asked: Any
) -> Callable[[], None]:
    """Return a function that keeps 100 small jobs waiting."""
    waiting: list[int] = []

    def feed() -> None:
        waiting[:] = [job_id for job_id in waiting if job_id not in simulation.starts]
        while len(waiting) < 100:
            waiting.append(next(ids))
            simulation.add(waiting[-1], lengths(), **asked)

    return feed


@pytest.mark.parametrize("longest", [1.0, 30.0, 60.0, 300.0, 3600.0])
@pytest.mark.parametrize("big", [{"slots": 8}, {"slots": 5}, {"needs": {"gpu": 4}}], ids=str)
def test_large_job_starts_in_the_first_round_as_long_as_the_jobs_it_waits_for(
    longest: float, big: dict[str, Any]
) -> None:
    chance = Random(1)
    simulation = Simulation(8, resources={"gpu": 4})
    ids = count(2)
    small = {"needs": {"gpu": 1}} if "needs" in big else {}
    feed = _stream(simulation, ids, lambda: chance.uniform(longest / 2, longest), **small)
    simulation.run(10.0, feed)
    simulation.add(BIG, 1.0, **big)
    length = FIRST_PHASE
    latest = 2 * FIRST_PHASE
    while length < longest:
        length *= 2
        latest += 2 * length
    simulation.run(10.0 + latest + longest, feed)
    assert BIG in simulation.starts


def test_many_large_jobs_all_start_eventually() -> None:
    chance = Random(2)
    simulation = Simulation(6, resources={"gpu": 3})
    ids = count(100)
    feed = _stream(simulation, ids, lambda: chance.uniform(1.0, 50.0))
    gpus = _stream(simulation, ids, lambda: chance.uniform(1.0, 50.0), needs={"gpu": 1})

    def both() -> None:
        feed()
        gpus()

    simulation.run(10.0, both)
    for job_id in range(1, 31):
        simulation.add(job_id, 20.0, **({"slots": job_id % 5 + 2} if job_id % 3 else {"needs": {"gpu": 3}}))
    simulation.run(30 * 5 * FIRST_PHASE, both)
    assert set(range(1, 31)) <= set(simulation.starts)


@pytest.mark.parametrize("bigs", [1, 2, 5])
def test_endless_job_leaves_small_jobs_half_of_the_time(bigs: int) -> None:
    """A service runs in one slot: a job that needs all slots never starts, and small jobs continue."""
    simulation = Simulation(4)
    simulation.add(50, 1e9)
    feed = _stream(simulation, count(100), lambda: 20.0)
    simulation.run(10.0, feed)
    for job_id in range(1, bigs + 1):
        simulation.add(job_id, 5.0, slots=4)
    for days in (0.1, 1, 2):
        simulation.run(days * 86_400, feed)
        assert simulation.used >= simulation.now * (1 + 3 / 2) * 0.99
    assert not set(range(1, bigs + 1)) & set(simulation.starts)


def test_starving_job_does_not_keep_another_large_job_from_its_round() -> None:
    """1 needs all slots, of which 50 holds one for ever; 2 needs all others and gets them."""
    simulation = Simulation(4, resources={"gpu": 1})
    simulation.add(50, 1e9)
    feed = _stream(simulation, count(100), lambda: 100.0)
    simulation.run(10.0, feed)
    simulation.add(1, 5.0, slots=4)
    simulation.add(2, 5.0, slots=3)
    simulation.run(12 * FIRST_PHASE, feed)
    assert 2 in simulation.starts
    assert 1 not in simulation.starts


def test_all_slots_are_used_if_all_jobs_fit() -> None:
    simulation = Simulation(4)
    feed = _stream(simulation, count(100), lambda: 7.0)
    simulation.run(1000.0, feed)
    assert simulation.used == pytest.approx(4 * 1000.0)


# Random steps, compared with a search of all jobs.

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["a", "b"]),
        "slots": st.integers(1, 4),
        "needs": st.dictionaries(st.sampled_from(["gpu", "tape"]), st.integers(1, 2)),
        "priority": st.integers(-1, 1),
    },
)
STEPS = st.one_of(
    *[st.tuples(st.just("submit"), OPTIONS)] * 3,
    *[st.tuples(st.just("fill"), st.integers(1, 4))] * 3,
    *[st.tuples(st.just("end"), st.integers(0, 9))] * 3,
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.sampled_from(["a", "b", "*"])),
    st.tuples(st.just("resize"), st.sampled_from(["a", "b"]), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 60.0, 130.0, -50.0])),
)


class Compared(Machine):
    """A machine whose starts are compared with a search of all waiting jobs."""

    def __init__(self) -> None:
        super().__init__(slots=4, queues={"a": 2}, resources={"gpu": 2, "tape": 1})
        self.waiting: dict[int, Job] = {}
        self.running: list[int] = []
        self.examined_at: float | None = None

    def first(self) -> int | None:
        able = [job for job in self.waiting.values() if self.may_start(job)]
        return min(able, key=lambda job: (-job.spec.priority, job.id)).id if able else None

    def may_start(self, job: Job) -> bool:
        if self.is_idle(job) or self.capacity.shortage(demands_of(job.spec)) is not None:
            return False
        reserved_for = self.ready_queue.reserved_for(job, self.now)
        return reserved_for is None or self.is_idle(self.waiting[reserved_for])

    def is_idle(self, job: Job) -> bool:
        """Whether a job would not start even if all capacity were available."""
        is_paused = bool({"*", job.spec.queue} & self.paused)
        return is_paused or self.capacity.exceeds_total(demands_of(job.spec)) is not None

    def begin(self, asked: list[dict[str, Any]]) -> None:
        """Fill the queue with jobs, as at a start of the daemon."""
        for job_id, options in enumerate(asked, 1):
            self.jobs[job_id] = Job(id=job_id, spec=Spec(**options), owner="ann", submitted_at=0.0)
        self.waiting = dict(self.jobs)
        self.ready_queue.add_all(self.jobs.values())

    def step(self, act: str, what: Any, slots: int = 0) -> None:
        if act == "submit":
            job_id = len(self.jobs) + 1
            self.waiting[job_id] = self.submit(job_id, **what)
        elif act == "fill":
            for _ in range(what):
                expected = self.first()
                taken = self.ready_queue.take(self.now)
                assert taken == expected
                self.examined_at = self.now
                if taken is not None:
                    del self.waiting[taken]
                    self.running.append(taken)
        elif act == "end" and self.running:
            self.ready_queue.release(self.running.pop(what % len(self.running)))
        elif act == "remove" and self.waiting:
            self.ready_queue.remove(self.waiting.pop(list(self.waiting)[what % len(self.waiting)]))
        elif act == "pause":
            self.paused ^= {what}
            self.ready_queue.unblock_all()
        elif act == "resize":
            self.queues[what] = slots
            self.ready_queue.unblock_all()
        elif act == "pass":
            self.now += what

    def check(self) -> None:
        """Check that no job may start if no scheduling is needed."""
        if not self.ready_queue.needs_scheduling and self.examined_at == self.now:
            assert self.first() is None


@settings(max_examples=250, deadline=None)
@given(st.lists(OPTIONS), st.lists(STEPS, max_size=10) | st.lists(STEPS, min_size=40, max_size=80))
def test_next_job_is_the_first_that_may_start_after_any_steps(
    asked: list[dict[str, Any]], steps: list[Any]
) -> None:
    machine = Compared()
    machine.begin(asked)
    for step in steps:
        machine.step(*step)
        machine.check()
    machine.now += 1e6
    machine.step("fill", len(machine.waiting) + 1)
    for job_id in machine.running:
        machine.ready_queue.release(job_id)
    assert all(
        machine.capacity.allocated(demand.constraint) == 0
        for job in machine.jobs.values()
        for demand in demands_of(job.spec)
    )


def test_starts_and_ends_examine_few_groups_among_many_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When each start and end examined all groups, 8 jobs among 30,000 demands took 5 s of CPU."""
    machine = Machine(slots=8, resources={"mem": 100_000})
    for job_id in range(1, 5001):
        machine.submit(job_id, needs={"mem": 20_000 + job_id * 7 % 5003})
    running: list[int] = []
    while machine.ready_queue.needs_scheduling:
        running += machine.start_all()
    examined = 0
    original = ReadyQueue._obstacle

    def counting(queue: ReadyQueue, group: Any, now: float) -> Any:
        nonlocal examined
        examined += 1
        return original(queue, group, now)

    monkeypatch.setattr(ReadyQueue, "_obstacle", counting)
    for step in range(200):
        machine.now += 1.0  # both open and reserved phases occur
        examined = 0
        running += machine.end(running.pop(0))
        assert examined <= 8, (step, examined)
    assert len(running) >= 3


def test_take_examines_a_limited_number_of_groups_per_call() -> None:
    machine = Machine(slots=4, resources={"mem": 10_000})
    for job_id in range(1, 2 * MAX_EXAMINED + 11):
        machine.submit(job_id, needs={"mem": 9_000 + job_id % 1000})
    machine.submit(5000, needs={"mem": 1})
    assert machine.start_all() == [1]
    assert machine.ready_queue.needs_scheduling
    assert machine.ready_queue.next_wakeup(7.0) == 7.0, "the rest is examined in the next turn"
    assert machine.start_all() == []
    assert machine.ready_queue.next_wakeup(7.0) == 7.0
    assert machine.start_all() == [5000]
    assert not machine.ready_queue.needs_scheduling
    assert machine.ready_queue.next_wakeup(7.0) is None


def test_job_that_runs_already_holds_those_of_its_units_that_are_still_in_the_settings() -> None:
    names = {"gpu": ("a", "b"), "tape": ("0",)}
    machine = Machine(slots=9, resources={"gpu": 2, "tape": 1, "disk": 4}, units=names)
    spec = Spec(needs={"gpu": 2, "tape": 1, "disk": 3, "net": 1})
    attempt = Attempt(number=1, started_at=0.0, units="gpu=b,c net=x tape=1")
    machine.ready_queue.allocate_running(
        Job(id=1, spec=spec, owner="ann", submitted_at=0.0, last_attempt=attempt)
    )
    held = {name: machine.capacity.allocated(Constraint("resource", name)) for name in spec.needs}
    assert held == {"gpu": 1, "tape": 0, "disk": 3, "net": 1}
    machine.submit(2, needs={"gpu": 1, "tape": 1})
    machine.submit(3, needs={"gpu": 1})
    assert machine.start_all() == [2]
    assert machine.capacity.units.assign(2, {"gpu": 1, "tape": 1}) == {"gpu": ("a",), "tape": ("0",)}
    assert machine.capacity.resources()["gpu"] == {"total": 2, "busy": 2, "units": {"a": 2, "b": 1, "c": 1}}
    assert machine.end(1) == [3]


def test_job_that_runs_already_holds_its_capacity_even_beyond_the_total() -> None:
    machine = Machine(slots=1)
    for job_id in (1, 2):
        attempt = Attempt(number=1, started_at=0.0)
        job = Job(id=job_id, spec=Spec(), owner="ann", submitted_at=0.0, last_attempt=attempt)
        machine.ready_queue.allocate_running(job)
        assert machine.ready_queue.has_current_allocation(job)
    machine.submit(3)
    assert machine.start_all() == []
    assert machine.end(1) == []
    assert machine.end(2) == [3]
