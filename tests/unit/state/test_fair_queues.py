"""ReadyQueue: owners take turns in fair queues, the slots of a user, and start rates."""

from collections import defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.config.settings import ON_END_QUEUE
from taskqd.model.job import Job
from taskqd.model.rate import parse_rate
from taskqd.model.spec import Array, Spec
from taskqd.model.task_set import TaskSet
from taskqd.state.backfill import FIRST_PHASE
from taskqd.state.capacity import SLOTS, Capacity, CapacityTotals, Constraint
from taskqd.state.rank_set import MIN_RUN
from taskqd.state.ready_queue import MAX_REGROUPED, MAX_UNBLOCKED, ReadyQueue

FAIR = "fair"
FAIR_SPEC = Spec(queue=FAIR)


class Machine:
    """A ready queue with its capacity and jobs, and a number as the clock; the queue `fair` is fair."""

    def __init__(self, slots: int = 4, fair: tuple[str, ...] = (FAIR,), **totals: Any) -> None:
        self.rates = {queue: parse_rate(text) for queue, text in totals.pop("rates", {}).items()}
        self.queues: dict[str, int] = totals.pop("queues", {})
        self.fair = set(fair)
        self.capacity = Capacity(CapacityTotals(slots=slots, rates=self.rates, **totals), self.queues.get)
        self.ready_queue = ReadyQueue(self.capacity, lambda _: False, lambda queue: queue in self.fair)
        self.jobs: dict[int, Job] = {}
        self.now = 0.0

    def submit(self, job_id: int, owner: str = "ann", of: int | None = None, **asked: Any) -> Job:
        spec = Spec(**{"queue": FAIR, **asked})
        job = self.jobs[job_id] = Job(id=job_id, spec=spec, owner=owner, submitted_at=0.0, array=of)
        self.ready_queue.add(job)
        return job

    def take(self) -> int | None:
        """Take a job, and record its start at once."""
        job_id = self.ready_queue.take(self.now)
        if job_id is not None:
            self.ready_queue.record_start(self.jobs[job_id], self.now)
        return job_id

    def start_all(self) -> list[int]:
        started: list[int] = []
        while (job_id := self.take()) is not None:
            started.append(job_id)
        return started

    def end(self, *job_ids: int) -> list[int]:
        """End jobs, and start the jobs that may start then."""
        for job_id in job_ids:
            self.ready_queue.release(job_id)
        return self.start_all()

    def run_one_by_one(self) -> list[int]:
        """Return the order of all jobs, each ended before the next one starts."""
        order: list[int] = []
        while (job_id := self.take()) is not None:
            order.append(job_id)
            self.ready_queue.release(job_id)
        return order

    def set_fair(self, is_fair: bool) -> None:
        (self.fair.add if is_fair else self.fair.discard)(FAIR)
        self.ready_queue.regroup(FAIR, self.jobs)


# Turns.


def test_owners_take_turns_in_a_fair_queue() -> None:
    machine = Machine()
    for job_id, owner in enumerate(["ann", "ann", "ann", "ann", "bob", "bob", "cat"], 1):
        machine.submit(job_id, owner)
    assert machine.run_one_by_one() == [1, 5, 7, 2, 6, 3, 4]


def test_queue_that_is_not_fair_starts_jobs_by_id() -> None:
    machine = Machine(fair=())
    for job_id, owner in enumerate(["ann", "ann", "bob", "cat", "bob"], 1):
        machine.submit(job_id, owner)
    assert machine.run_one_by_one() == [1, 2, 3, 4, 5]


def test_priority_comes_before_turns() -> None:
    machine = Machine()
    for job_id, owner, priority in (
        (1, "ann", 0),
        (2, "ann", 5),
        (3, "bob", 0),
        (4, "ann", 5),
        (5, "bob", -1),
    ):
        machine.submit(job_id, owner, priority=priority)
    assert machine.run_one_by_one() == [2, 4, 3, 1, 5]


def test_owner_who_returns_keeps_the_turn() -> None:
    """Otherwise an owner who submits one job at a time would be a new one each time, and go first."""
    machine = Machine(slots=1)
    machine.submit(1, "ann")
    machine.submit(2, "bob")
    assert machine.start_all() == [1]
    machine.submit(3, "ann")
    assert machine.end(1) == [2]
    machine.submit(4, "bob")
    assert machine.end(2) == [3]


def test_owner_whose_jobs_do_not_fit_is_passed_over_and_keeps_the_place() -> None:
    machine = Machine(slots=2, resources={"gpu": 1})
    machine.submit(1, "ann", needs={"gpu": 1})
    machine.submit(2, "bob", needs={"gpu": 1})
    for job_id in (3, 4, 5):
        machine.submit(job_id, "cat")
    assert machine.start_all() == [1, 3]
    machine.submit(6, "ann")
    assert machine.end(3) == [6]
    assert machine.end(1) == [2]
    assert machine.end(6) == [4]


def test_jobs_of_a_fair_queue_start_in_the_places_of_the_queue() -> None:
    machine = Machine()
    machine.submit(1, "ann")
    machine.submit(2, "ann")
    machine.submit(3, "cat", queue="other")
    machine.submit(4, "bob")
    machine.submit(5, "cat", queue="other")
    assert machine.run_one_by_one() == [1, 4, 2, 3, 5]


def test_one_owner_in_a_fair_queue_starts_by_priority_and_id() -> None:
    machine = Machine(resources={"gpu": 1})
    asked: list[dict[str, Any]] = [{}, {"slots": 2}, {"priority": 1}, {"needs": {"gpu": 1}}]
    for job_id, options in enumerate(asked, 1):
        machine.submit(job_id, **options)
    assert machine.run_one_by_one() == [3, 1, 2, 4]


def test_tasks_of_arrays_take_the_turns_of_their_owner() -> None:
    machine = Machine(slots=9)
    machine.capacity.limit_array(1, 2)
    for job_id in (2, 3, 4):
        machine.submit(job_id, "ann", of=1, array=Array(1, 3, 2))
    for job_id in (5, 6):
        machine.submit(job_id, "bob")
    assert machine.start_all() == [2, 5, 3, 6]
    assert machine.end(2) == [4]


def test_queue_that_becomes_fair_and_ceases_to_be_changes_the_order() -> None:
    machine = Machine(fair=(), slots=1)
    for job_id, owner in enumerate(["ann", "ann", "ann", "bob", "bob"], 1):
        machine.submit(job_id, owner)
    machine.submit(6, "cat", queue="other")
    assert machine.start_all() == [1]
    machine.set_fair(True)
    assert machine.end(1) == [2]
    assert machine.end(2) == [4]
    machine.set_fair(False)
    assert machine.end(4) == [3]
    assert machine.end(3) == [5]
    assert machine.end(5) == [6]


def _interleaved(count: int) -> Machine:
    """Return a machine with jobs of ann and bob in turn, in a queue that is not fair, and one that runs."""
    machine = Machine(fair=(), slots=1)
    for job_id in range(1, count + 1):
        machine.submit(job_id, "ann" if job_id % 4 else "bob")
    assert machine.start_all() == [1]
    return machine


def test_jobs_are_grouped_again_in_portions_and_start_after_the_last() -> None:
    machine = _interleaved(2 * MAX_REGROUPED + 2)
    machine.set_fair(True)
    machine.ready_queue.release(1)
    for _ in range(2):
        assert machine.take() is None
        assert machine.ready_queue.needs_scheduling
        assert machine.ready_queue.next_wakeup(machine.now) == machine.now
    order = machine.run_one_by_one()
    assert order[:6] == [2, 4, 3, 8, 5, 12]
    assert len(order) == 2 * MAX_REGROUPED + 1


def test_job_that_is_changed_while_jobs_are_grouped_again_is_here_once_or_not_at_all() -> None:
    machine = _interleaved(3 * MAX_REGROUPED)
    queue = machine.ready_queue
    machine.set_fair(True)
    assert machine.take() is None
    for job_id in (2, 3, 2 * MAX_REGROUPED, 3 * MAX_REGROUPED):
        queue.remove(machine.jobs[job_id])
    for job_id in (3, 3 * MAX_REGROUPED, 3 * MAX_REGROUPED - 1, 6):
        queue.add(machine.jobs[job_id])
    machine.set_fair(False)
    machine.set_fair(True)
    while machine.take() is None and queue.next_wakeup(machine.now) is not None:
        pass
    queue.release(1)
    order = machine.run_one_by_one()
    assert sorted(order) == [
        job_id for job_id in range(3, 3 * MAX_REGROUPED + 1) if job_id != 2 * MAX_REGROUPED
    ]
    assert order[:5] == [3, 4, 5, 8, 6]


def test_tasks_are_grouped_again_with_their_array() -> None:
    machine = Machine(fair=(), slots=1)
    queue = machine.ready_queue
    arrays = {"ann": range(2, 6), "bob": range(11, 14)}
    for owner, ids in arrays.items():
        for job_id in ids:
            machine.submit(job_id, owner, of=ids.start - 1, array=Array(1, len(ids)))
    assert machine.start_all() == [2]
    machine.set_fair(True)
    gone, back = TaskSet(arrays["ann"], is_full=False), TaskSet(arrays["bob"], is_full=False)
    gone.add_all([4, 5])
    back.add_all([12, 13])
    queue.remove_tasks(machine.jobs[3], gone)
    queue.add_tasks(machine.jobs[12], back)
    queue.release(2)
    assert machine.run_one_by_one() == [3, 11, 12, 13]


def test_turns_are_restored_from_starts_in_any_order() -> None:
    machine = Machine(rates={"mail": "1/h"})
    jobs = [machine.submit(job_id, owner) for job_id, owner in ((1, "ann"), (2, "bob"), (3, "cat"))]
    for job, at in ((jobs[0], 30.0), (jobs[1], 20.0), (jobs[0], 10.0)):
        machine.ready_queue.restore_start(job, at)
    machine.ready_queue.restore_start(machine.submit(4, queue="mail"), 35.0)
    machine.now = 40.0
    assert machine.run_one_by_one() == [3, 2, 1]
    machine.now = 35.0 + 3600.0
    assert machine.start_all() == [4]


def test_count_ahead_counts_the_jobs_that_start_before_by_turns() -> None:
    machine = Machine(slots=1)
    owners = ["ann", "ann", "ann", "ann", "bob", "bob", "cat"]
    for job_id, owner in enumerate(owners, 1):
        machine.submit(job_id, owner)
    machine.submit(8, "dan", priority=1)
    machine.submit(9, "dan", priority=-1)
    machine.submit(10, "ann", queue="other")
    ahead = {job_id: machine.ready_queue.count_ahead(job) for job_id, job in machine.jobs.items()}
    assert ahead.pop(10) == 0
    order = [job_id for job_id in machine.run_one_by_one() if job_id != 10]
    assert {job_id: order.index(job_id) for job_id in order} == ahead


def test_count_ahead_takes_the_turns_of_owners_into_account() -> None:
    machine = Machine(slots=1)
    machine.submit(1, "ann")
    assert machine.start_all() == [1]
    machine.submit(2, "ann")
    machine.submit(3, "bob")
    assert [machine.ready_queue.count_ahead(machine.jobs[job_id]) for job_id in (2, 3)] == [1, 0]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob", "cat"]),
            st.sampled_from(["a", "b"]),
            st.integers(1, 4),
            st.integers(0, 1),  # of the resource
            st.integers(-1, 1),  # priority
            st.sampled_from([0.0, 10.0, 70.0, 300.0]),  # seconds until the next step
            st.integers(0, 2),  # jobs that end
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_order_does_not_depend_on_owners_without_fair_queues_and_slots_per_user(
    steps: list[tuple[str, str, int, int, int, float, int]],
) -> None:
    several, one = (Machine(slots=5, fair=(), queues={"a": 4}, resources={"gpu": 2}) for _ in range(2))
    running: list[int] = []
    for job_id, (owner, queue, slots, gpus, priority, wait, ends) in enumerate(steps, 1):
        asked: dict[str, Any] = {
            "queue": queue,
            "slots": slots,
            "needs": {"gpu": gpus} if gpus else {},
            "priority": priority,
        }
        several.submit(job_id, owner, **asked)
        one.submit(job_id, "ann", **asked)
        ended, running = running[:ends], running[ends:]
        started = several.end(*ended)
        assert started == one.end(*ended)
        running += started
        assert several.ready_queue.next_wakeup(several.now) == one.ready_queue.next_wakeup(one.now)
        several.now = one.now = one.now + wait


@given(
    jobs=st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob", "cat", "dan"]),  # owner
            st.integers(1, 3),  # slots
            st.booleans(),  # whether it needs the resource
            st.integers(0, 5),  # how long it runs, in starts of others
        ),
        max_size=60,
    ),
    slots=st.integers(3, 8),
)
@settings(deadline=None)
def test_owner_with_a_job_that_fits_waits_for_at_most_one_start_of_each_other(
    jobs: list[tuple[str, int, bool, int]], slots: int
) -> None:
    machine = Machine(slots=slots, resources={"gpu": 2})
    machine_jobs: dict[int, tuple[str, int]] = {}
    overtaken_by: defaultdict[str, list[str]] = defaultdict(list)
    running: dict[int, int] = {}
    waiting = list(enumerate(jobs, 1))
    while waiting or running or machine_jobs.keys() - running.keys():
        for job_id, (owner, asked, has_gpu, length) in waiting[:5]:
            machine.submit(job_id, owner, slots=asked, needs={"gpu": 1} if has_gpu else {})
            machine_jobs[job_id] = owner, length
        del waiting[:5]
        fitting = {
            machine.jobs[job_id].owner
            for job_id in machine_jobs.keys() - running.keys()
            if machine.capacity.shortage(machine.capacity.demands_of(machine.jobs[job_id].spec, "")) is None
        }
        started = machine.take()
        if started is None:
            assert not fitting
            for job_id in list(running)[:1]:
                machine.ready_queue.release(job_id)
                del running[job_id], machine_jobs[job_id]
            continue
        starter = machine.jobs[started].owner
        assert starter in fitting
        for owner in list(overtaken_by):
            if owner not in fitting or owner == starter:
                del overtaken_by[owner]
        for owner in fitting - {starter}:
            overtaken_by[owner].append(starter)
            assert len(set(overtaken_by[owner])) == len(overtaken_by[owner]), (
                "no other owner goes twice before"
            )
        running[started] = machine_jobs[started][1]
        for job_id in list(running):
            running[job_id] -= 1
            if running[job_id] < 0:
                machine.ready_queue.release(job_id)
                del running[job_id], machine_jobs[job_id]


# The slots of a user.


def test_jobs_of_a_user_run_on_up_to_their_slots() -> None:
    machine = Machine(slots=9, fair=(), slots_per_user=3)
    for job_id, queue in ((1, "a"), (2, "b"), (3, "a"), (4, "b")):
        machine.submit(job_id, "ann", queue=queue)
    machine.submit(5, "ann", slots=2)
    machine.submit(6, "bob", slots=3)
    machine.submit(7, "bob")
    assert machine.start_all() == [1, 2, 3, 6]
    assert machine.end(2) == [4]
    assert machine.end(1, 3) == [5]
    assert machine.end(6) == [7]


def test_jobs_of_the_end_hook_do_not_use_the_slots_of_a_user() -> None:
    machine = Machine(slots=9, slots_per_user=1)
    for job_id in (1, 2):
        machine.submit(job_id, "[on_end]", queue=ON_END_QUEUE)
    assert machine.start_all() == [1, 2]


def test_job_that_needs_more_than_the_slots_of_a_user_never_starts() -> None:
    machine = Machine(slots=9, slots_per_user=2)
    machine.submit(1, slots=3)
    machine.submit(2, slots=2)
    assert machine.start_all() == [2]


def test_user_at_the_limit_reserves_no_capacity() -> None:
    machine = Machine(slots=8, fair=(), slots_per_user=4)
    for job_id in (1, 2):
        machine.submit(job_id, "ann")
    for job_id in range(3, 9):
        machine.submit(job_id, f"user{job_id}")
    assert machine.start_all() == [1, 2, 3, 4, 5, 6, 7, 8]
    machine.submit(9, "ann", slots=4)
    machine.submit(10, "cat")
    assert machine.end(3) == [10]  # and so 9 has been overtaken
    machine.now = FIRST_PHASE
    machine.submit(11, "ann")
    machine.submit(12, "cat")
    assert machine.end(4) == [12], "but the slots of ann are reserved for her larger job"
    assert machine.ready_queue.reserved_for(machine.jobs[11], machine.now) == 9
    assert machine.end(1) == []
    assert machine.end(2) == []
    machine.submit(13, "dan")
    assert machine.end(5) == [], "now that she has the slots, those of the machine are reserved too"
    assert machine.end(6) == [9]
    assert machine.end(7) == [13]


def test_slots_of_a_user_free_all_their_groups_even_if_there_are_many() -> None:
    for groups in (2, MAX_UNBLOCKED + 5):
        machine = Machine(slots=100, fair=(), slots_per_user=1, resources={"gpu": 1000})
        for job_id in range(1, groups + 2):
            machine.submit(job_id, needs={"gpu": job_id})
        assert machine.start_all() == [1]
        for job_id in range(1, groups + 1):
            assert machine.end(job_id) == [job_id + 1]


# Start rates.


def test_queue_starts_as_many_jobs_as_its_rate_within_any_period() -> None:
    machine = Machine(slots=99, fair=(), rates={"mail": "2/m"})
    for job_id in range(1, 6):
        machine.submit(job_id, queue="mail")
    machine.submit(6, queue="other")
    assert machine.start_all() == [1, 2, 6]
    assert machine.ready_queue.next_wakeup(machine.now) == 60.0
    machine.now = 59.0
    assert machine.end(1, 2) == []
    machine.now = 60.0
    assert machine.start_all() == [3, 4]
    assert machine.ready_queue.next_wakeup(machine.now) == 120.0
    machine.now = 120.0
    assert machine.start_all() == [5]
    assert machine.ready_queue.next_wakeup(machine.now) is None, "no job waits for the rate"


def test_start_that_is_not_recorded_does_not_count() -> None:
    machine = Machine(slots=99, rates={FAIR: "1/m"})
    first = machine.submit(1)
    machine.submit(2)
    assert machine.ready_queue.take(0.0) == 1
    assert machine.start_all() == []
    assert machine.end(1) == [2]
    machine.ready_queue.add(first)
    assert machine.start_all() == []


def test_start_counts_from_when_it_is_recorded() -> None:
    machine = Machine(slots=99, rates={FAIR: "1/m"})
    first = machine.submit(1)
    machine.submit(2)
    assert machine.ready_queue.take(0.0) == 1
    machine.ready_queue.record_start(first, 5.0)
    assert machine.start_all() == []
    for machine.now in (60.0, 64.9):
        assert machine.start_all() == []
        assert machine.ready_queue.next_wakeup(machine.now) == 65.0
    machine.now = 65.0
    assert machine.start_all() == [2]


def test_start_that_is_undone_lets_another_job_start() -> None:
    machine = Machine(slots=99, rates={FAIR: "1/m"})
    first = machine.submit(1)
    machine.submit(2)
    assert machine.start_all() == [1]
    machine.ready_queue.undo_start(first, 0.0)
    assert machine.end(1) == [2]


def test_rate_that_is_changed_counts_for_waiting_jobs() -> None:
    machine = Machine(slots=99)
    for job_id in range(1, 8):
        machine.submit(job_id)
    machine.submit(8, queue="other")
    for text, started in (("2/m", [1, 2, 8]), ("3/m", [3]), (None, [4, 5, 6, 7])):
        machine.rates.pop(FAIR, None)
        if text:
            machine.rates[FAIR] = parse_rate(text)
        machine.ready_queue.update_rate(FAIR)
        machine.ready_queue.unblock_all()
        assert machine.start_all() == started


def test_job_that_waits_for_its_rate_reserves_no_capacity() -> None:
    machine = Machine(slots=4, fair=(), rates={"mail": "1/h"})
    for job_id, queue in ((1, "mail"), (2, "a"), (3, "a"), (4, "a")):
        machine.submit(job_id, queue=queue)
    assert machine.start_all() == [1, 2, 3, 4]
    machine.submit(5, queue="mail", slots=4)
    machine.submit(6, queue="a")
    assert machine.end(2) == [6]
    machine.now = FIRST_PHASE
    machine.submit(7, queue="a")
    assert machine.end(3) == [7]


def test_start_is_reserved_for_an_overtaken_job_of_the_queue() -> None:
    machine = Machine(slots=3, fair=(), rates={"mail": "1/m"}, resources={"gpu": 1})
    machine.submit(1, queue="a", needs={"gpu": 1})
    assert machine.start_all() == [1]
    machine.submit(2, queue="mail", needs={"gpu": 1})
    machine.submit(3, queue="mail")
    assert machine.start_all() == [3]  # and so 2 has been overtaken
    machine.submit(4, queue="mail")
    machine.now = FIRST_PHASE
    assert machine.end(3) == []
    assert machine.ready_queue.reserved_for(machine.jobs[4], machine.now) == 2
    assert machine.end(1) == [2]
    machine.now = 2 * FIRST_PHASE
    assert machine.start_all() == [4]


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 4)), max_size=60), st.integers(1, 4))
@settings(deadline=None)
def test_rate_is_never_exceeded_within_any_period(steps: list[tuple[float, int]], starts: int) -> None:
    machine = Machine(slots=99, rates={FAIR: f"{starts}/m"}, slots_per_user=5)
    times: list[float] = []
    ids = iter(range(1, 1000))
    for wait, count in steps:
        machine.now += wait
        for _ in range(count):
            job_id = next(ids)
            machine.submit(job_id, f"user{job_id % 3}")
        while (taken := machine.ready_queue.take(machine.now)) is not None:
            machine.now += 0.25  # the record takes a moment
            machine.ready_queue.record_start(machine.jobs[taken], machine.now)
            times.append(machine.now)
            machine.ready_queue.release(taken)
    assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[starts:], strict=False))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
@settings(deadline=None)
def test_rate_leaves_no_start_unused(counts: list[int]) -> None:
    """Waking only when the ready queue says so, jobs start as early as the rate allows."""
    machine = Machine(slots=999, fair=(), rates={"mail": "3/m"})
    ids = iter(range(1, 10_000))
    for count in counts[:10]:
        for _ in range(count):
            machine.submit(next(ids), queue="mail")
    times: list[float] = []
    while len(times) < len(machine.jobs):
        times += [machine.now] * len(machine.start_all())
        wakeup = machine.ready_queue.next_wakeup(machine.now)
        assert wakeup is not None or len(times) == len(machine.jobs)
        machine.now = machine.now if wakeup is None else wakeup
    assert times == [60.0 * (number // 3) for number in range(len(times))]


def test_jobs_submitted_together_take_turns_once_their_queue_is_fair() -> None:
    machine = Machine(1, fair=())
    count = MIN_RUN + 1
    for owner, first in (("ann", 1), ("bob", 1 + count)):
        jobs = [
            Job(id=job_id, spec=FAIR_SPEC, owner=owner, submitted_at=0.0)
            for job_id in range(first, first + count)
        ]
        machine.jobs.update((job.id, job) for job in jobs)
        machine.ready_queue.add_similar(jobs)
    machine.ready_queue.remove(machine.jobs[2])
    machine.set_fair(True)
    machine.ready_queue.remove(machine.jobs[4])
    bob = range(1 + count, 1 + 2 * count)
    order = machine.run_one_by_one()
    assert order[:6] == [1, bob[0], 3, bob[1], 5, bob[2]]
    assert sorted(order) == [job_id for job_id in machine.jobs if job_id not in (2, 4)]


# All of it together.


@pytest.mark.parametrize("seed", range(20))
def test_nothing_starves_and_no_limit_is_exceeded(seed: int) -> None:
    chance = Random(seed)
    machine = Machine(
        slots=6,
        queues={"small": 2},
        slots_per_user=4,
        rates={"mail": "5/m"},
        resources={"gpu": 2},
        fair=(FAIR, "mail"),
    )
    running: list[int] = []
    for job_id in range(1, 301):
        needs = {"gpu": chance.randint(1, 2)} if chance.random() < 0.2 else {}
        queue, owner = chance.choice([FAIR, "mail", "small", "other"]), chance.choice("abc")
        slots = chance.choice([1, 1, 1, 2]) if queue == "small" else chance.choice([1, 1, 1, 2, 4])
        machine.submit(
            job_id, owner, queue=queue, slots=slots, needs=needs, priority=chance.choice([0, 0, 1])
        )
    times: list[float] = []
    started: set[int] = set()
    while len(started) < 300:
        for job_id in machine.start_all():
            running.append(job_id)
            started.add(job_id)
            if machine.jobs[job_id].spec.queue == "mail":
                times.append(machine.now)
        for owner in "abc":
            assert machine.capacity.allocated(Constraint("user", owner)) <= 4
        assert machine.capacity.allocated(SLOTS) <= 6
        wakeup = machine.ready_queue.next_wakeup(machine.now)
        assert running or wakeup is not None, "something runs, or time lets something start"
        if running and (wakeup is None or chance.random() < 0.7):
            machine.now += chance.random() * 20
            machine.ready_queue.release(running.pop(chance.randrange(len(running))))
        elif wakeup is not None:
            machine.now = wakeup
    assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[5:], strict=False))
