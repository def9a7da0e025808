"""Slow hashes: one at a time, once for what many ask, and remembered without the token."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from taskqd.auth import hash_cache, tokens
from taskqd.auth.hash_cache import Busy, Hashes
from taskqd.auth.tokens import Entry
from taskqd.model.roles import Role
from tests.fakes.clocks import START, Threads
from tests.fakes.deferreds import error_of, result_of
from tests.support.authenticators import cheap
from tests.support.leaks import LeakWatch

ENTRY = Entry("0123abcd", "ci", Role.READ, None, START, None, cheap("right", b"salt" * 4))
OTHER = ENTRY._replace(id="0123abce", hash=cheap("other", b"salt" * 4))


class Watched(Hashes):
    """Hashes whose threads the test runs."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.begun: list[str] = []
        super().__init__(self._begin, b"k" * 32)

    def _begin(self, function: Any, entry: Entry, text: str) -> "Deferred[Any]":
        self.begun.append(text)
        return self.threads(function, entry, text)


@pytest.fixture(name="hashes")
def some_hashes() -> Watched:
    return Watched()


def test_one_at_a_time_in_the_order_asked(hashes: Watched) -> None:
    asked = [hashes.check(ENTRY, text) for text in ("a", "right", "b")]
    asked.append(hashes.check(OTHER, "other"))
    assert hashes.begun == ["a"]
    assert len(hashes.threads.waiting) == 1
    hashes.threads.run()
    assert hashes.begun == ["a", "right", "b", "other"]
    assert [result_of(each) for each in asked] == [False, True, False, True]


def test_the_same_question_is_asked_once_and_another_entry_is_another_question(hashes: Watched) -> None:
    asked = [hashes.check(ENTRY, "right") for _ in range(3)] + [hashes.check(OTHER, "right")]
    assert hashes.is_cheap(ENTRY, "right")
    hashes.threads.run()
    assert [result_of(each) for each in asked] == [True, True, True, False]
    assert hashes.begun == ["right", "right"]


def test_only_what_was_right_is_remembered(hashes: Watched) -> None:
    for text in ("right", "wrong"):
        hashes.check(ENTRY, text)
        hashes.threads.run()
    assert hashes.is_cheap(ENTRY, "right")
    assert result_of(hashes.check(ENTRY, "right"))
    for entry, text in ((ENTRY, "wrong"), (ENTRY, "right "), (OTHER, "right")):
        assert not hashes.is_cheap(entry, text)
    assert len(hashes.begun) == 2


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"role": Role.ADMIN}, {"expires_at": 1.0}, {"id": "0123abcf"}]
)
def test_it_is_forgotten_as_its_entry_changes(hashes: Watched, change: dict[str, Any]) -> None:
    hashes.check(ENTRY, "right")
    hashes.threads.run()
    assert not hashes.is_cheap(ENTRY._replace(**change), "right")


def test_it_is_forgotten_with_its_entry(hashes: Watched) -> None:
    for entry, text in ((ENTRY, "right"), (OTHER, "other")):
        hashes.check(entry, text)
    hashes.threads.run()
    hashes.forget({OTHER.id: OTHER})
    assert not hashes.is_cheap(ENTRY, "right")
    assert hashes.is_cheap(OTHER, "other")


def test_no_token_is_kept(hashes: Watched) -> None:
    hashes.check(ENTRY, "right")
    hashes.threads.run()
    assert "right" not in repr(vars(hashes)["_known"]) + repr(vars(hashes)["_asking"])
    assert not hashes._waiting


def test_what_nobody_waits_for_any_more_is_not_begun(hashes: Watched) -> None:
    first, second, third = (hashes.check(ENTRY, text) for text in ("a", "b", "right"))
    second.cancel()
    assert isinstance(error_of(second), CancelledError)
    first.cancel()
    assert isinstance(error_of(first), CancelledError)
    hashes.threads.run()
    assert result_of(third)
    assert hashes.begun == ["a", "right"]
    assert hashes._asking == {}


def test_a_question_that_was_given_up_may_be_asked_again(hashes: Watched) -> None:
    hashes.check(ENTRY, "a")
    given_up = hashes.check(ENTRY, "right")
    given_up.cancel()
    assert isinstance(error_of(given_up), CancelledError)
    again = hashes.check(ENTRY, "right")
    hashes.threads.run()
    assert result_of(again)
    assert hashes.begun == ["a", "right"]


def test_who_is_answered_may_give_up_for_others(hashes: Watched) -> None:
    first = hashes.check(ENTRY, "right")
    second = hashes.check(ENTRY, "right")
    first.addCallback(lambda _: second.cancel())
    hashes.threads.run()
    assert isinstance(error_of(second), CancelledError)


def test_so_many_wait_and_no_more(hashes: Watched) -> None:
    asked = [hashes.check(ENTRY, str(number)) for number in range(hash_cache.MOST_WAITING + 1)]
    assert isinstance(error_of(hashes.check(ENTRY, "one more")), Busy)
    joined = hashes.check(ENTRY, "7")
    hashes.threads.run()
    assert [result_of(each) for each in (*asked, joined)] == [False] * (hash_cache.MOST_WAITING + 2)
    assert not hashes.threads.waiting


def test_a_failure_is_told_to_whoever_waits_and_the_next_is_begun(
    hashes: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: Entry, text: str) -> bool:
        if text == "right":
            return True
        raise MemoryError

    monkeypatch.setattr(tokens, "is_right", fail)
    first, again, second = hashes.check(ENTRY, "a"), hashes.check(ENTRY, "a"), hashes.check(ENTRY, "right")
    hashes.threads.run()
    assert isinstance(error_of(first), MemoryError)
    assert isinstance(error_of(again), MemoryError)
    assert result_of(second)
    assert not hashes.is_cheap(ENTRY, "a")


def test_a_failure_for_which_nobody_waits_is_logged(
    hashes: Watched, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def fail(*_: Any) -> bool:
        raise MemoryError

    monkeypatch.setattr(tokens, "is_right", fail)
    asked = hashes.check(ENTRY, "a")
    asked.cancel()
    assert isinstance(error_of(asked), CancelledError)
    hashes.threads.run()
    assert len(logged_errors.flush(MemoryError)) == 1
