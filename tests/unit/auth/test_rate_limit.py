import pytest

from taskqd.auth.rate_limit import Buckets


def test_a_burst_goes_through_and_then_so_many_a_second() -> None:
    buckets = Buckets(rate=2.0, burst=3.0)
    assert [buckets.take("ann", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("ann", 10.25) == 0.25
    assert buckets.take("ann", 10.5) == 0.0
    assert buckets.take("ann", 10.5) == 0.5


def test_who_is_told_to_wait_gets_one_after_that_time() -> None:
    buckets = Buckets(rate=3.0, burst=1.0)
    assert buckets.take("ann", 0.0) == 0.0
    wait = buckets.take("ann", 0.1)
    assert buckets.take("ann", 0.1 + wait + 1e-9) == 0.0


def test_each_name_has_its_own() -> None:
    buckets = Buckets(rate=1.0, burst=1.0)
    assert [buckets.take(name, 0.0) for name in ("ann", "bob", "ann")] == [0.0, 0.0, 1.0]


def test_it_never_holds_more_than_the_burst() -> None:
    buckets = Buckets(rate=10.0, burst=2.0)
    buckets.take("ann", 0.0)
    assert [buckets.take("ann", 1000.0) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_a_clock_that_is_set_back_neither_fills_nor_empties_it() -> None:
    buckets = Buckets(rate=1.0, burst=2.0)
    buckets.take("ann", 100.0)
    assert [buckets.take("ann", 0.0) for _ in range(2)] == [0.0, 1.0]
    assert buckets.take("ann", 1.0) == 0.0


def test_full_ones_are_forgotten_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buckets, "FORGET_AT", 3)
    buckets = Buckets(rate=1.0, burst=5.0)
    for _ in range(5):
        buckets.take("greedy", 0.0)
    for number in range(50):
        buckets.take(f"user {number}", 2.0 * number / 50)
    assert len(buckets._buckets) <= 60
    for number in range(50):
        buckets.take(f"late {number}", 3.0 + number / 100)
    assert len(buckets._buckets) < 100
    assert buckets.take("greedy", 3.5) == 0.0
    assert [buckets.take("greedy", 3.5) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_what_is_owed_comes_first() -> None:
    buckets = Buckets(rate=10.0, burst=5.0)
    assert buckets.take("ann", 0.0, 25) == 0.0
    assert buckets.take("ann", 0.0) == 2.1
    assert buckets.take("ann", 2.0) == pytest.approx(0.1)
    assert buckets.take("ann", 2.2) == 0.0
