import pytest

from taskqd.auth.rate_limit import RateLimiter


def test_a_burst_goes_through_and_then_so_many_a_second() -> None:
    limiter = RateLimiter(rate=2.0, burst=3.0)
    assert [limiter.consume("ann", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.consume("ann", 10.25) == 0.25
    assert limiter.consume("ann", 10.5) == 0.0
    assert limiter.consume("ann", 10.5) == 0.5


def test_who_is_told_to_wait_gets_one_after_that_time() -> None:
    limiter = RateLimiter(rate=3.0, burst=1.0)
    assert limiter.consume("ann", 0.0) == 0.0
    wait = limiter.consume("ann", 0.1)
    assert limiter.consume("ann", 0.1 + wait + 1e-9) == 0.0


def test_each_name_has_its_own() -> None:
    limiter = RateLimiter(rate=1.0, burst=1.0)
    assert [limiter.consume(name, 0.0) for name in ("ann", "bob", "ann")] == [0.0, 0.0, 1.0]


def test_it_never_holds_more_than_the_burst() -> None:
    limiter = RateLimiter(rate=10.0, burst=2.0)
    limiter.consume("ann", 0.0)
    assert [limiter.consume("ann", 1000.0) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_a_clock_that_is_set_back_neither_fills_nor_empties_it() -> None:
    limiter = RateLimiter(rate=1.0, burst=2.0)
    limiter.consume("ann", 100.0)
    assert [limiter.consume("ann", 0.0) for _ in range(2)] == [0.0, 1.0]
    assert limiter.consume("ann", 1.0) == 0.0


def test_full_ones_are_forgotten_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateLimiter, "MIN_SWEEP_SIZE", 3)
    limiter = RateLimiter(rate=1.0, burst=5.0)
    for _ in range(5):
        limiter.consume("greedy", 0.0)
    for number in range(50):
        limiter.consume(f"user {number}", 2.0 * number / 50)
    assert len(limiter) <= 60
    for number in range(50):
        limiter.consume(f"late {number}", 3.0 + number / 100)
    assert len(limiter) < 100
    assert limiter.consume("greedy", 3.5) == 0.0
    assert [limiter.consume("greedy", 3.5) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_what_is_owed_comes_first() -> None:
    limiter = RateLimiter(rate=10.0, burst=5.0)
    assert limiter.consume("ann", 0.0, 25) == 0.0
    assert limiter.consume("ann", 0.0) == 2.1
    assert limiter.consume("ann", 2.0) == pytest.approx(0.1)
    assert limiter.consume("ann", 2.2) == 0.0
