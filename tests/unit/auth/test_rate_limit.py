import pytest

from taskqd.auth.rate_limit import RateLimiter


def test_rate_limiter_allows_burst_then_rate() -> None:
    limiter = RateLimiter(rate=2.0, burst=3.0)
    assert [limiter.consume("ann", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.consume("ann", 10.25) == 0.25
    assert limiter.consume("ann", 10.5) == 0.0
    assert limiter.consume("ann", 10.5) == 0.5


def test_rate_limiter_allows_one_after_the_returned_wait() -> None:
    limiter = RateLimiter(rate=3.0, burst=1.0)
    assert limiter.consume("ann", 0.0) == 0.0
    wait = limiter.consume("ann", 0.1)
    assert limiter.consume("ann", 0.1 + wait + 1e-9) == 0.0


def test_rate_limiter_counts_names_separately() -> None:
    limiter = RateLimiter(rate=1.0, burst=1.0)
    assert [limiter.consume(name, 0.0) for name in ("ann", "bob", "ann")] == [0.0, 0.0, 1.0]


def test_rate_limiter_never_exceeds_the_burst() -> None:
    limiter = RateLimiter(rate=10.0, burst=2.0)
    limiter.consume("ann", 0.0)
    assert [limiter.consume("ann", 1000.0) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_rate_limiter_ignores_a_clock_that_is_set_back() -> None:
    limiter = RateLimiter(rate=1.0, burst=2.0)
    limiter.consume("ann", 100.0)
    assert [limiter.consume("ann", 0.0) for _ in range(2)] == [0.0, 1.0]
    assert limiter.consume("ann", 1.0) == 0.0


def test_rate_limiter_drops_full_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_rate_limiter_waits_for_a_negative_balance() -> None:
    limiter = RateLimiter(rate=10.0, burst=5.0)
    assert limiter.consume("ann", 0.0, 25) == 0.0
    assert limiter.consume("ann", 0.0) == 2.1
    assert limiter.consume("ann", 2.0) == pytest.approx(0.1)
    assert limiter.consume("ann", 2.2) == 0.0
