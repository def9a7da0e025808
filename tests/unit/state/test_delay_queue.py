"""The delay queue: which delayed jobs are due, on the monotonic clock and by the time of day."""

import pytest

from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.state.delay_queue import DelayQueue

AHEAD = 1000.0


class Delays:
    """A delay queue with its jobs; ``not_ready`` are the ids of jobs that wait for something else too."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.not_ready: set[int] = set()
        self.queue = DelayQueue(self.jobs, lambda job: job.id not in self.not_ready)

    def make(self, job_id: int, not_before: float, is_dated: bool = False) -> Job:
        job = Job(
            id=job_id, spec=Spec(), owner="ann", submitted_at=0.0, not_before=not_before, is_dated=is_dated
        )
        self.jobs[job_id] = job
        return job

    def pop(self, now: float) -> list[int]:
        return [job.id for job in self.queue.pop_due(now, now + AHEAD)]


@pytest.mark.parametrize("is_filled", [False, True])
def test_jobs_are_due_at_their_time_on_their_clock(is_filled: bool) -> None:
    delays = Delays()
    jobs = [delays.make(1, 20.0), delays.make(2, 10.0), delays.make(3, AHEAD + 15.0, is_dated=True)]
    if is_filled:
        delays.queue.add_all(jobs)
    else:
        for job in jobs:
            delays.queue.add(job)
    assert (delays.queue.next_due(AHEAD), delays.pop(9.0)) == (10.0, [])
    assert (delays.pop(10.0), delays.queue.next_due(AHEAD)) == ([2], 15.0)
    assert delays.pop(30.0) == [1, 3]
    assert delays.queue.next_due(AHEAD) is None


def test_setting_the_clock_moves_dated_jobs_only() -> None:
    delays = Delays()
    delays.queue.add_all([delays.make(1, 20.0), delays.make(2, AHEAD + 20.0, is_dated=True)])
    assert delays.queue.next_due(AHEAD + 15.0) == 5.0
    assert delays.queue.next_due(AHEAD - 15.0) == 20.0


def test_outdated_entries_are_dropped() -> None:
    delays = Delays()
    delays.queue.add_all([delays.make(job_id, 10.0) for job_id in (1, 2, 3, 4)])
    del delays.jobs[1]
    delays.jobs[2].not_before = 50.0
    delays.not_ready.add(3)
    delays.queue.add(delays.jobs[2])
    assert delays.queue.next_due(AHEAD) == 10.0
    assert delays.pop(10.0) == [4]
    assert delays.queue.next_due(AHEAD) == 50.0


def test_first_jobs_are_those_that_are_due_first_on_either_clock() -> None:
    delays = Delays()
    for job_id, at in enumerate((50.0, 20.0, 40.0, 10.0, 30.0), 1):
        delays.queue.add(delays.make(job_id, at))
    delays.queue.add(delays.make(6, AHEAD + 25.0, is_dated=True))
    delays.not_ready.add(2)
    assert delays.queue.first(9, AHEAD) == [4, 6, 5, 3, 1]
    assert delays.queue.first(3, AHEAD) == [4, 6]
    assert Delays().queue.first(3, AHEAD) == []
