"""Slow cache: one at a time, once for what many ask, and remembered without the token."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from taskqd.auth import hash_cache, tokens
from taskqd.auth.hash_cache import Busy, HashCache
from taskqd.auth.tokens import Entry
from taskqd.model.roles import Role
from tests.fakes.clocks import START, Threads
from tests.fakes.deferreds import error_of, result_of
from tests.support.authenticators import cheap
from tests.support.leaks import LeakWatch

ENTRY = Entry("0123abcd", "ci", Role.READ, None, START, None, cheap("right", b"salt" * 4))
OTHER = ENTRY._replace(id="0123abce", hash=cheap("other", b"salt" * 4))


class ManualCache(HashCache):
    """A HashCache whose threads the test runs; `started` has the tokens that were hashed."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.started: list[str] = []
        super().__init__(self._start, b"k" * 32)

    def _start(self, function: Any, entry: Entry, text: str) -> "Deferred[Any]":
        self.started.append(text)
        return self.threads(function, entry, text)


@pytest.fixture(name="cache")
def a_cache() -> ManualCache:
    return ManualCache()


def test_one_at_a_time_in_the_order_asked(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, text) for text in ("a", "right", "b")]
    asked.append(cache.check(OTHER, "other"))
    assert cache.started == ["a"]
    assert len(cache.threads.waiting) == 1
    cache.threads.run()
    assert cache.started == ["a", "right", "b", "other"]
    assert [result_of(each) for each in asked] == [False, True, False, True]


def test_the_same_question_is_asked_once_and_another_entry_is_another_question(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, "right") for _ in range(3)] + [cache.check(OTHER, "right")]
    assert cache.is_cheap(ENTRY, "right")
    cache.threads.run()
    assert [result_of(each) for each in asked] == [True, True, True, False]
    assert cache.started == ["right", "right"]


def test_only_what_was_right_is_remembered(cache: ManualCache) -> None:
    for text in ("right", "wrong"):
        cache.check(ENTRY, text)
        cache.threads.run()
    assert cache.is_cheap(ENTRY, "right")
    assert result_of(cache.check(ENTRY, "right"))
    for entry, text in ((ENTRY, "wrong"), (ENTRY, "right "), (OTHER, "right")):
        assert not cache.is_cheap(entry, text)
    assert len(cache.started) == 2


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"role": Role.ADMIN}, {"expires_at": 1.0}, {"id": "0123abcf"}]
)
def test_it_is_forgotten_as_its_entry_changes(cache: ManualCache, change: dict[str, Any]) -> None:
    cache.check(ENTRY, "right")
    cache.threads.run()
    assert not cache.is_cheap(ENTRY._replace(**change), "right")


def test_it_is_forgotten_with_its_entry(cache: ManualCache) -> None:
    for entry, text in ((ENTRY, "right"), (OTHER, "other")):
        cache.check(entry, text)
    cache.threads.run()
    cache.forget_all_but({OTHER.id: OTHER})
    assert not cache.is_cheap(ENTRY, "right")
    assert cache.is_cheap(OTHER, "other")


def test_no_token_is_kept(cache: ManualCache) -> None:
    cache.check(ENTRY, "right")
    cache.threads.run()
    cache.started.clear()
    assert "right" not in repr(vars(cache))
    assert cache.waiting_count == 0


def test_what_nobody_waits_for_any_more_is_not_begun(cache: ManualCache) -> None:
    first, second, third = (cache.check(ENTRY, text) for text in ("a", "b", "right"))
    second.cancel()
    assert isinstance(error_of(second), CancelledError)
    first.cancel()
    assert isinstance(error_of(first), CancelledError)
    cache.threads.run()
    assert result_of(third)
    assert cache.started == ["a", "right"]
    assert cache.waiting_count == 0


def test_a_question_that_was_given_up_may_be_asked_again(cache: ManualCache) -> None:
    cache.check(ENTRY, "a")
    given_up = cache.check(ENTRY, "right")
    given_up.cancel()
    assert isinstance(error_of(given_up), CancelledError)
    again = cache.check(ENTRY, "right")
    cache.threads.run()
    assert result_of(again)
    assert cache.started == ["a", "right"]


def test_who_is_answered_may_give_up_for_others(cache: ManualCache) -> None:
    first = cache.check(ENTRY, "right")
    second = cache.check(ENTRY, "right")
    first.addCallback(lambda _: second.cancel())
    cache.threads.run()
    assert isinstance(error_of(second), CancelledError)


def test_so_many_wait_and_no_more(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, str(number)) for number in range(hash_cache.MAX_QUEUED_CHECKS + 1)]
    assert isinstance(error_of(cache.check(ENTRY, "one more")), Busy)
    joined = cache.check(ENTRY, "7")
    cache.threads.run()
    assert [result_of(each) for each in (*asked, joined)] == [False] * (hash_cache.MAX_QUEUED_CHECKS + 2)
    assert not cache.threads.waiting


def test_a_failure_is_told_to_whoever_waits_and_the_next_is_begun(
    cache: ManualCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: Entry, text: str) -> bool:
        if text == "right":
            return True
        raise MemoryError

    monkeypatch.setattr(tokens, "matches", fail)
    first, again, second = cache.check(ENTRY, "a"), cache.check(ENTRY, "a"), cache.check(ENTRY, "right")
    cache.threads.run()
    assert isinstance(error_of(first), MemoryError)
    assert isinstance(error_of(again), MemoryError)
    assert result_of(second)
    assert not cache.is_cheap(ENTRY, "a")


def test_a_failure_for_which_nobody_waits_is_logged(
    cache: ManualCache, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def fail(*_: Any) -> bool:
        raise MemoryError

    monkeypatch.setattr(tokens, "matches", fail)
    asked = cache.check(ENTRY, "a")
    asked.cancel()
    assert isinstance(error_of(asked), CancelledError)
    cache.threads.run()
    assert len(logged_errors.flush(MemoryError)) == 1
