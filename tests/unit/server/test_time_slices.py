"""Time slices: how long a reply may be produced, and when the next one continues."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from taskqd.server.time_slices import ITERATION_BUDGET, SLICE_LENGTH, TimeSlices
from tests.fakes.clocks import clock
from tests.fakes.deferreds import error_of, result_of


class Replies:
    """Replies that are produced in steps of some seconds each, as by coroutines."""

    def __init__(self) -> None:
        self.clock: Clock = clock()
        self.slices = TimeSlices(self.clock)
        self.made: list[str] = []

    async def produce(self, name: str, steps: int, seconds: float) -> None:
        for _ in range(steps):
            while self.slices.is_spent:
                await self.slices.next_slice()
            self.made.append(name)
            self.clock.rightNow += seconds

    def begin(self, name: str, steps: int, seconds: float) -> "Deferred[None]":
        return Deferred.fromCoroutine(self.produce(name, steps, seconds))

    def turn(self) -> list[str]:
        """Run one turn of the reactor, and return what was produced."""
        self.made = []
        calls, self.clock.calls = self.clock.calls, []
        for call in calls:
            call.func()
        return self.made


@pytest.fixture(name="replies")
def some_replies() -> Replies:
    return Replies()


def test_short_reply_is_produced_at_once(replies: Replies) -> None:
    result_of(replies.begin("a", 10, SLICE_LENGTH / 20))
    assert replies.made == ["a"] * 10


def test_long_reply_continues_in_later_iterations_of_the_reactor(replies: Replies) -> None:
    reply = replies.begin("a", 9, SLICE_LENGTH * 0.6)
    assert replies.made == ["a"] * 2
    turns = [replies.turn() for _ in range(4)]
    assert turns == [["a"] * 2] * 3 + [["a"]]
    result_of(reply)


def test_replies_get_slices_in_order(replies: Replies) -> None:
    for name in "abc":
        replies.begin(name, 4, SLICE_LENGTH * 0.6)
    assert replies.made == ["a", "a"]
    assert replies.turn() == ["a", "a", "b", "b", "c", "c"]
    assert replies.turn() == ["b", "b", "c", "c"]
    assert replies.turn() == []


def test_no_slice_is_granted_after_the_budget_of_an_iteration(replies: Replies) -> None:
    most = round(ITERATION_BUDGET / SLICE_LENGTH)
    count = 3 * most
    for number in range(count + 1):
        replies.begin(str(number), 1, SLICE_LENGTH * 1.01)
    assert replies.made == ["0"]
    seen = [len(replies.turn()) for _ in range(4)]
    assert seen == [most, most, most, 0]


def test_new_reply_waits_behind_those_that_wait(replies: Replies) -> None:
    for number in range(20):
        replies.begin(str(number), 1, SLICE_LENGTH * 2)
    replies.turn()
    late = replies.begin("late", 1, 0)
    turns = 0
    while not late.called:
        replies.turn()
        turns += 1
    assert turns > 1


def test_cancelled_slice_is_skipped(replies: Replies) -> None:
    gone, stays = replies.slices.next_slice(), replies.slices.next_slice()
    gone.cancel()
    assert isinstance(error_of(gone), CancelledError)
    replies.turn()
    result_of(stays)


def test_slice_may_cancel_others(replies: Replies) -> None:
    first, second = replies.slices.next_slice(), replies.slices.next_slice()
    first.addCallback(lambda _: second.cancel())
    replies.turn()
    result_of(first)
    assert isinstance(error_of(second), CancelledError)
    assert not replies.clock.getDelayedCalls()
