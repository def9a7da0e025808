"""The expiry queue: which jobs have expired, and when the next one does."""

from taskqd.state.expiry_queue import MIN_SWEPT, ExpiryQueue


def filled(**times: float) -> ExpiryQueue:
    """Return a queue with the job N for the keyword ``jobN``."""
    queue = ExpiryQueue()
    for name, time in times.items():
        queue.add(int(name.removeprefix("job")), time)
    return queue


def test_jobs_expire_at_their_times_up_to_a_limit() -> None:
    queue = filled(job1=30.0, job2=10.0, job3=20.0)
    assert (queue.next_due(), queue.pop_due(9.0, 5)) == (10.0, [])
    assert queue.pop_due(30.0, 2) == [2, 3]
    assert (queue.expired, queue.next_due()) == ({2, 3}, 30.0)
    assert queue.pop_due(30.0, 2) == [1]
    assert queue.next_due() is None


def test_job_that_has_started_does_not_expire() -> None:
    queue = filled(job1=10.0, job2=20.0)
    queue.discard(1)
    queue.discard(1)
    assert (queue.time_of(1), queue.time_of(2), queue.next_due()) == (None, 20.0, 20.0)
    assert queue.pop_due(20.0, 5) == [2]
    queue.discard(2)
    assert queue.expired == set()


def test_outdated_entry_is_not_due() -> None:
    queue = filled(job1=10.0)
    queue.add(1, 20.0)
    assert queue.pop_due(10.0, 5) == []
    assert queue.next_due() == 20.0


def test_job_has_expired_when_it_is_due() -> None:
    queue = filled(job1=10.0)
    assert [queue.has_expired(1, now) for now in (9.0, 10.0)] == [False, True]
    assert not queue.has_expired(2, 10.0)
    queue.expire(1)
    assert queue.has_expired(1, 0.0)
    assert queue.time_of(1) is None


def test_job_that_was_expired_early_is_not_popped_again() -> None:
    queue = filled(job1=10.0)
    queue.expire(1)
    assert queue.pop_due(10.0, 5) == []


def test_entries_of_started_jobs_are_removed_when_they_are_most_of_all() -> None:
    queue = ExpiryQueue()
    count = 2 * MIN_SWEPT
    for job_id in range(count + 1):
        queue.add(job_id, float(job_id))
    for job_id in range(count):
        queue.discard(job_id)
    assert queue.size < MIN_SWEPT + 10
    assert queue.next_due() == float(count)
