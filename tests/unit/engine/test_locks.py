"""Turns: one at a time for each name, in the order of asking, and nothing kept for a free name."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from taskqd.engine.locks import JobLocks, KeyedLock, gather_results
from taskqd.model.job import Job, Tasks
from taskqd.model.spec import Spec
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of


def take(turns: KeyedLock[str], name: str) -> "Deferred[None]":
    return begin(turns.acquire(name))


def test_a_free_turn_is_taken_at_once_and_names_do_not_know_each_other() -> None:
    turns: KeyedLock[str] = KeyedLock()
    assert take(turns, "a").called
    assert take(turns, "b").called


def test_others_get_their_turn_in_the_order_of_asking() -> None:
    turns: KeyedLock[str] = KeyedLock()
    took = [take(turns, "a") for _ in range(4)]
    for number in range(4):
        assert [turn.called for turn in took] == [True] * (number + 1) + [False] * (3 - number)
        turns.release("a")


def test_who_asks_while_a_turn_is_handed_on_comes_last() -> None:
    turns: KeyedLock[str] = KeyedLock()
    order = []
    take(turns, "a")
    for number in (1, 2):
        take(turns, "a").addCallback(lambda _, number: order.append(number), number)
    turns.release("a")
    take(turns, "a").addCallback(lambda _: order.append(3))
    turns.release("a")
    turns.release("a")
    assert order == [1, 2, 3]


def test_a_free_name_costs_nothing() -> None:
    turns: KeyedLock[str] = KeyedLock()
    take(turns, "a")
    take(turns, "a")
    turns.release("a")
    turns.release("a")
    assert turns.locked_count == 0
    assert take(turns, "a").called


# The turns of jobs.

ALONE = Job(id=9, spec=Spec(), owner="ada", submitted_at=START)
ARRAY = Job(id=1, spec=Spec(), owner="ada", submitted_at=START, tasks=Tasks(first=2, count=3, counts={}))
FIRST, SECOND, THIRD = (
    Job(id=1 + index, spec=Spec(), owner="ada", submitted_at=START, array=1, index=index)
    for index in (1, 2, 3)
)


class Holding:
    """Somebody who asks for a job's turn and keeps it until told."""

    def __init__(self, turns: JobLocks, job: Job) -> None:
        self.has_it = False
        self._leaving: Deferred[None] = Deferred()
        self._held = begin(self._hold(turns, job))

    async def _hold(self, turns: JobLocks, job: Job) -> None:
        async with turns.of(job):
            self.has_it = True
            await self._leaving

    def leave(self) -> None:
        """Give the turn back, or not take it when it comes."""
        self._leaving.callback(None)


def leave(holders: list[Holding]) -> None:
    for holder in holders:
        holder.leave()


def test_tasks_of_an_array_do_not_wait_for_each_other() -> None:
    turns = JobLocks()
    holders = [Holding(turns, job) for job in (FIRST, SECOND, THIRD, ALONE)]
    assert all(holder.has_it for holder in holders)
    leave(holders)


def test_a_task_waits_for_who_decides_about_its_array() -> None:
    turns = JobLocks()
    whole = Holding(turns, ARRAY)
    tasks = [Holding(turns, task) for task in (THIRD, FIRST)]
    assert whole.has_it
    assert not any(task.has_it for task in tasks)
    whole.leave()
    assert [task.has_it for task in tasks] == [True, True]
    leave(tasks)


def test_who_decides_about_an_array_waits_for_those_of_its_tasks_that_are_being_decided_about() -> None:
    turns = JobLocks()
    first, third = Holding(turns, FIRST), Holding(turns, THIRD)
    whole = Holding(turns, ARRAY)
    late = Holding(turns, SECOND)
    third.leave()
    assert not whole.has_it
    first.leave()
    assert whole.has_it
    assert not late.has_it, "it asked after the whole did"
    whole.leave()
    assert late.has_it
    leave([late])


def test_of_one_task_whoever_asked_first_comes_first_and_the_array_in_between() -> None:
    turns = JobLocks()
    holders = [Holding(turns, job) for job in (FIRST, FIRST, ARRAY, FIRST, ARRAY, SECOND)]
    for number, holder in enumerate(holders):
        assert [one.has_it for one in holders] == [True] * (number + 1) + [False] * (5 - number)
        holder.leave()
    assert turns.locked_count == 0


def test_a_turn_is_given_back_whatever_happens_in_it() -> None:
    turns = JobLocks()

    async def fail_in(job: Job) -> None:
        async with turns.of(job):
            raise ZeroDivisionError

    for job in (FIRST, ARRAY, ALONE):
        assert isinstance(error_of(begin(fail_in(job))), ZeroDivisionError)
    assert turns.locked_count == 0


@given(
    st.lists(st.sampled_from([ARRAY, FIRST, SECOND, ALONE]), max_size=8),
    st.lists(st.integers(0, 7), min_size=8, max_size=8),
)
def test_nobody_waits_for_ever_and_no_two_decide_about_the_same(jobs: list[Job], order: list[int]) -> None:
    turns = JobLocks()
    holders = {number: Holding(turns, job) for number, job in enumerate(jobs)}
    while holders:
        decided = [jobs[number].id for number, holder in holders.items() if holder.has_it]
        assert len(set(decided)) == len(decided) > 0
        assert ARRAY.id not in decided or not {FIRST.id, SECOND.id} & set(decided)
        deciding = [number for number, holder in holders.items() if holder.has_it]
        holders.pop(deciding[order.pop() % len(deciding)]).leave()
    assert turns.locked_count == 0


# Several at once.


def test_settled_waits_for_all_and_has_each_with_its_result_or_its_failure() -> None:
    slow: Deferred[int] = Deferred()
    all_of_them = begin(gather_results([succeed(1), fail(ZeroDivisionError()), slow]))
    assert not all_of_them.called
    slow.callback(3)
    one, failure, three = result_of(all_of_them)
    assert (one, three) == (1, 3)
    assert isinstance(failure, Failure)
    assert failure.check(ZeroDivisionError)


def test_however_many_wait_and_are_done_at_once_none_is_within_another() -> None:
    turns: KeyedLock[str] = KeyedLock()
    done: list[int] = []

    async def come(number: int) -> None:
        await turns.acquire("a")
        done.append(number)
        turns.release("a")

    begin(turns.acquire("a"))
    for number in range(5000):
        begin(come(number))
    turns.release("a")
    assert done == list(range(5000))
    assert not turns.is_locked("a")
