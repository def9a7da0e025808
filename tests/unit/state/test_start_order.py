"""The order of ReadyQueue.walk is that in which the queue gives its jobs out."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.model.job import Job
from taskqd.model.spec import Array, Spec
from taskqd.model.task_set import TaskSet
from taskqd.state import start_order
from tests.unit.state.test_fair_queues import FAIR, Machine


def walked(machine: Machine, queue: str | None = None) -> list[int]:
    walk = machine.ready_queue.walk(lambda job_id: machine.jobs[job_id].array is not None, queue)
    return [job_id for job_id in walk if job_id is not None]


@settings(deadline=None)
@given(st.integers(0, 40), st.randoms(use_true_random=False))
def test_walk_has_the_order_of_starts(count: int, random: Random) -> None:
    machine = Machine(slots=100, fair=(FAIR, "fair too"))
    for owner in "ab":  # they have had turns before
        machine.now += 1
        machine.submit(1, owner)
        machine.run_one_by_one()
    for job_id in range(2, count + 2):
        machine.submit(
            job_id,
            random.choice("abc"),
            queue=random.choice([FAIR, "fair too", "plain"]),
            priority=random.choice([0, 0, 5, -5]),
            slots=random.choice([1, 1, 2]),
        )
    before = walked(machine)
    by_queue = {queue: walked(machine, queue) for queue in (FAIR, "fair too", "plain")}
    machine.now += 1
    assert before == machine.run_one_by_one()
    for queue, ids in by_queue.items():
        assert ids == [job_id for job_id in before if machine.jobs[job_id].spec.queue == queue]


def test_walk_has_the_first_task_of_each_array() -> None:
    machine = Machine(fair=())
    array = machine.submit(1, of=0, array=Array(1, 3))
    machine.ready_queue.remove(array)
    task = machine.submit(2, of=1, array=Array(1, 3))
    machine.ready_queue.add_tasks(task, TaskSet(range(2, 5)))
    machine.submit(5)
    machine.submit(6, priority=1)
    assert walked(machine) == [6, 2, 5]


def test_walk_has_all_jobs_that_were_submitted_together() -> None:
    machine = Machine(fair=())
    spec = Spec(queue="plain")
    jobs = [Job(id=job_id, spec=spec, owner="ann", submitted_at=0.0) for job_id in range(1, 101)]
    machine.jobs = {job.id: job for job in jobs}
    machine.ready_queue.add_similar(jobs)
    machine.ready_queue.remove(jobs[49])
    expected = [*range(1, 50), *range(51, 101)]
    assert walked(machine) == expected
    machine.ready_queue.add(jobs[49])
    assert walked(machine) == list(range(1, 101))


def test_walk_puts_paused_queues_last() -> None:
    machine = Machine(fair=())
    machine.submit(1, queue="a")
    machine.submit(2, queue="b")
    machine.ready_queue._is_paused = lambda queue: queue == "a"
    assert walked(machine) == [2, 1]


def test_walk_goes_on_while_jobs_start_and_come() -> None:
    machine = Machine(slots=990, fair=())
    for job_id in range(1, 1000):
        machine.submit(job_id)
    walk = machine.ready_queue.walk(lambda _: False)
    found = [next(walk) for _ in range(500)]
    machine.start_all()
    for job_id in range(1000, 1010):
        machine.submit(job_id)
    rest = [job_id for job_id in walk if job_id is not None]
    assert found == list(range(1, 501))
    assert rest[-19:] == list(range(991, 1010))
    assert rest == sorted(set(rest))


def test_walk_yields_none_after_many_groups() -> None:
    machine = Machine(fair=(FAIR,))
    count = start_order.GROUPS_PER_STEP + 1
    for job_id in range(1, count + 1):
        machine.submit(job_id, f"user {job_id}")
        machine.submit(job_id + count, queue=f"q{job_id}")
    steps = list(machine.ready_queue.walk(lambda _: False))
    assert steps.count(None) == 3
    assert sorted(filter(None, steps)) == list(range(1, 2 * count + 1))
