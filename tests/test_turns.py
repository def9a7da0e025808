"""Turns: one at a time for each name, in the order of asking, and nothing kept for a free name."""

from twisted.internet.defer import Deferred

from taskqd.turns import Turns
from tests.fakes import begin


def take(turns: Turns[str], name: str) -> "Deferred[None]":
    return begin(turns.take(name))


def test_a_free_turn_is_taken_at_once_and_names_do_not_know_each_other() -> None:
    turns: Turns[str] = Turns()
    assert take(turns, "a").called
    assert take(turns, "b").called


def test_others_get_their_turn_in_the_order_of_asking() -> None:
    turns: Turns[str] = Turns()
    took = [take(turns, "a") for _ in range(4)]
    for number in range(4):
        assert [turn.called for turn in took] == [True] * (number + 1) + [False] * (3 - number)
        turns.give_back("a")


def test_who_asks_while_a_turn_is_handed_on_comes_last() -> None:
    turns: Turns[str] = Turns()
    order = []
    take(turns, "a")
    for number in (1, 2):
        take(turns, "a").addCallback(lambda _, number: order.append(number), number)
    turns.give_back("a")
    take(turns, "a").addCallback(lambda _: order.append(3))
    turns.give_back("a")
    turns.give_back("a")
    assert order == [1, 2, 3]


def test_a_free_name_costs_nothing() -> None:
    turns: Turns[str] = Turns()
    take(turns, "a")
    take(turns, "a")
    turns.give_back("a")
    turns.give_back("a")
    assert turns._waiting == {}
    assert take(turns, "a").called
