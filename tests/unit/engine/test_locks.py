"""Locks by key: one holder at a time, waiters in order, and no memory for a free key."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from taskqd.engine.locks import JobLocks, KeyedLock, gather_results
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.support.tasks import some_tasks


def acquire(locks: KeyedLock[str], key: str) -> "Deferred[None]":
    return begin(locks.acquire(key))


def test_free_lock_is_acquired_at_once_and_keys_are_independent() -> None:
    locks: KeyedLock[str] = KeyedLock()
    assert acquire(locks, "a").called
    assert acquire(locks, "b").called


def test_waiters_acquire_the_lock_in_order() -> None:
    locks: KeyedLock[str] = KeyedLock()
    acquired = [acquire(locks, "a") for _ in range(4)]
    for number in range(4):
        assert [waiter.called for waiter in acquired] == [True] * (number + 1) + [False] * (3 - number)
        locks.release("a")


def test_waiter_added_during_a_release_is_last() -> None:
    locks: KeyedLock[str] = KeyedLock()
    order = []
    acquire(locks, "a")
    for number in (1, 2):
        acquire(locks, "a").addCallback(lambda _, number: order.append(number), number)
    locks.release("a")
    acquire(locks, "a").addCallback(lambda _: order.append(3))
    locks.release("a")
    locks.release("a")
    assert order == [1, 2, 3]


def test_free_key_takes_no_memory() -> None:
    locks: KeyedLock[str] = KeyedLock()
    acquire(locks, "a")
    acquire(locks, "a")
    locks.release("a")
    locks.release("a")
    assert locks.locked_count == 0
    assert acquire(locks, "a").called


# Locks of jobs.

ALONE = Job(id=9, spec=Spec(), owner="ada", submitted_at=START)
ARRAY = Job(id=1, spec=Spec(), owner="ada", submitted_at=START, tasks=some_tasks(2, 3))
FIRST, SECOND, THIRD = (
    Job(id=1 + index, spec=Spec(), owner="ada", submitted_at=START, array=1, index=index)
    for index in (1, 2, 3)
)


class Holder:
    """Acquires the lock of a job and holds it until `leave`."""

    def __init__(self, locks: JobLocks, job: Job) -> None:
        self.is_held = False
        self._leaving: Deferred[None] = Deferred()
        self._held = begin(self._hold(locks, job))

    async def _hold(self, locks: JobLocks, job: Job) -> None:
        async with locks.of(job):
            self.is_held = True
            await self._leaving

    def leave(self) -> None:
        """Release the lock, at once or when it has been acquired."""
        self._leaving.callback(None)


def leave(holders: list[Holder]) -> None:
    for holder in holders:
        holder.leave()


def test_tasks_of_an_array_do_not_wait_for_each_other() -> None:
    locks = JobLocks()
    holders = [Holder(locks, job) for job in (FIRST, SECOND, THIRD, ALONE)]
    assert all(holder.is_held for holder in holders)
    leave(holders)


def test_task_waits_for_the_lock_of_its_array() -> None:
    locks = JobLocks()
    array = Holder(locks, ARRAY)
    tasks = [Holder(locks, task) for task in (THIRD, FIRST)]
    assert array.is_held
    assert not any(task.is_held for task in tasks)
    array.leave()
    assert [task.is_held for task in tasks] == [True, True]
    leave(tasks)


def test_array_waits_for_locked_tasks() -> None:
    locks = JobLocks()
    first, third = Holder(locks, FIRST), Holder(locks, THIRD)
    array = Holder(locks, ARRAY)
    late = Holder(locks, SECOND)
    third.leave()
    assert not array.is_held
    first.leave()
    assert array.is_held
    assert not late.is_held, "it waits behind the array"
    array.leave()
    assert late.is_held
    leave([late])


def test_task_and_its_array_acquire_the_lock_in_order() -> None:
    locks = JobLocks()
    holders = [Holder(locks, job) for job in (FIRST, FIRST, ARRAY, FIRST, ARRAY, SECOND)]
    for number, holder in enumerate(holders):
        assert [one.is_held for one in holders] == [True] * (number + 1) + [False] * (5 - number)
        holder.leave()
    assert locks.locked_count == 0


def test_lock_is_released_after_an_exception() -> None:
    locks = JobLocks()

    async def fail_in(job: Job) -> None:
        async with locks.of(job):
            raise ZeroDivisionError

    for job in (FIRST, ARRAY, ALONE):
        assert isinstance(error_of(begin(fail_in(job))), ZeroDivisionError)
    assert locks.locked_count == 0


@given(
    st.lists(st.sampled_from([ARRAY, FIRST, SECOND, ALONE]), max_size=8),
    st.lists(st.integers(0, 7), min_size=8, max_size=8),
)
def test_every_waiter_acquires_the_lock_and_no_two_hold_the_same(jobs: list[Job], order: list[int]) -> None:
    locks = JobLocks()
    holders = {number: Holder(locks, job) for number, job in enumerate(jobs)}
    while holders:
        locked = [jobs[number].id for number, holder in holders.items() if holder.is_held]
        assert len(set(locked)) == len(locked) > 0
        assert ARRAY.id not in locked or not {FIRST.id, SECOND.id} & set(locked)
        holding = [number for number, holder in holders.items() if holder.is_held]
        holders.pop(holding[order.pop() % len(holding)]).leave()
    assert locks.locked_count == 0


# Several Deferreds.


def test_gather_results_returns_each_result_or_failure() -> None:
    slow: Deferred[int] = Deferred()
    gathered = begin(gather_results([succeed(1), fail(ZeroDivisionError()), slow]))
    assert not gathered.called
    slow.callback(3)
    one, failure, three = result_of(gathered)
    assert (one, three) == (1, 3)
    assert isinstance(failure, Failure)
    assert failure.check(ZeroDivisionError)


def test_many_waiters_are_resumed_without_recursion() -> None:
    locks: KeyedLock[str] = KeyedLock()
    done: list[int] = []

    async def acquire_and_release(number: int) -> None:
        await locks.acquire("a")
        done.append(number)
        locks.release("a")

    begin(locks.acquire("a"))
    for number in range(5000):
        begin(acquire_and_release(number))
    locks.release("a")
    assert done == list(range(5000))
    assert not locks.is_locked("a")
