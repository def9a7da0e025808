"""The hash cache runs one slow hash at a time, shares it between equal checks, and keeps no token."""

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


def test_hash_cache_checks_one_at_a_time_in_order(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, text) for text in ("a", "right", "b")]
    asked.append(cache.check(OTHER, "other"))
    assert cache.started == ["a"]
    assert len(cache.threads.waiting) == 1
    cache.threads.run()
    assert cache.started == ["a", "right", "b", "other"]
    assert [result_of(each) for each in asked] == [False, True, False, True]


def test_equal_checks_share_one_hash(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, "right") for _ in range(3)] + [cache.check(OTHER, "right")]
    assert cache.is_cheap(ENTRY, "right")
    cache.threads.run()
    assert [result_of(each) for each in asked] == [True, True, True, False]
    assert cache.started == ["right", "right"]


def test_hash_cache_remembers_only_tokens_that_matched(cache: ManualCache) -> None:
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
def test_hash_cache_forgets_token_of_changed_entry(cache: ManualCache, change: dict[str, Any]) -> None:
    cache.check(ENTRY, "right")
    cache.threads.run()
    assert not cache.is_cheap(ENTRY._replace(**change), "right")


def test_hash_cache_forgets_token_of_removed_entry(cache: ManualCache) -> None:
    for entry, text in ((ENTRY, "right"), (OTHER, "other")):
        cache.check(entry, text)
    cache.threads.run()
    cache.forget_all_but({OTHER.id: OTHER})
    assert not cache.is_cheap(ENTRY, "right")
    assert cache.is_cheap(OTHER, "other")


def test_hash_cache_does_not_keep_tokens(cache: ManualCache) -> None:
    cache.check(ENTRY, "right")
    cache.threads.run()
    cache.started.clear()
    assert "right" not in repr(vars(cache))
    assert cache.waiting_count == 0


def test_cancelled_check_is_not_started(cache: ManualCache) -> None:
    first, second, third = (cache.check(ENTRY, text) for text in ("a", "b", "right"))
    second.cancel()
    assert isinstance(error_of(second), CancelledError)
    first.cancel()
    assert isinstance(error_of(first), CancelledError)
    cache.threads.run()
    assert result_of(third)
    assert cache.started == ["a", "right"]
    assert cache.waiting_count == 0


def test_cancelled_check_can_be_repeated(cache: ManualCache) -> None:
    cache.check(ENTRY, "a")
    given_up = cache.check(ENTRY, "right")
    given_up.cancel()
    assert isinstance(error_of(given_up), CancelledError)
    again = cache.check(ENTRY, "right")
    cache.threads.run()
    assert result_of(again)
    assert cache.started == ["a", "right"]


def test_callback_may_cancel_other_waiters(cache: ManualCache) -> None:
    first = cache.check(ENTRY, "right")
    second = cache.check(ENTRY, "right")
    first.addCallback(lambda _: second.cancel())
    cache.threads.run()
    assert isinstance(error_of(second), CancelledError)


def test_full_queue_of_checks_is_busy(cache: ManualCache) -> None:
    asked = [cache.check(ENTRY, str(number)) for number in range(hash_cache.MAX_QUEUED_CHECKS + 1)]
    assert isinstance(error_of(cache.check(ENTRY, "one more")), Busy)
    joined = cache.check(ENTRY, "7")
    cache.threads.run()
    assert [result_of(each) for each in (*asked, joined)] == [False] * (hash_cache.MAX_QUEUED_CHECKS + 2)
    assert not cache.threads.waiting


def test_failed_check_fails_its_waiters_and_the_next_starts(
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


def test_failed_check_without_waiters_is_logged(
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
