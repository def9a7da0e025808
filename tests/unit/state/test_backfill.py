"""Backfill: the open and reserved phases of overtaken jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.state.backfill import FIRST_PHASE, Backfill, Phase


def _one() -> Backfill[str]:
    reservation: Backfill[str] = Backfill()
    reservation.add("big", at_front=True)
    assert reservation.phase(0.0) == Phase(False, FIRST_PHASE)
    return reservation


def test_phase_is_open_if_none_has_been_overtaken() -> None:
    reservation: Backfill[str] = Backfill()
    assert reservation.first is None
    assert reservation.phase(5.0) == Phase(False, 0.0)
    reservation.discard("big")
    assert "big" not in reservation


@pytest.mark.parametrize(
    "now, is_kept, until",
    [
        (0.0, False, 60.0),
        (59.0, False, 60.0),
        (60.0, True, 120.0),
        (119.0, True, 120.0),
        (120.0, False, 240.0),
        (239.0, False, 240.0),
        (240.0, True, 360.0),
        (360.0, False, 600.0),
        (600.0, True, 840.0),
        (839.9, True, 840.0),
        (840.0, False, 1320.0),
    ],
)
@pytest.mark.parametrize("is_looked_at_between", [True, False])
def test_open_and_reserved_phases_alternate_and_double(
    now: float, is_kept: bool, until: float, is_looked_at_between: bool
) -> None:
    reservation = _one()
    for moment in range(0, int(now), 7) if is_looked_at_between else ():
        reservation.phase(float(moment))
    phase = reservation.phase(now)
    assert phase.is_reserved is is_kept
    assert now + phase.remaining == pytest.approx(until)


def test_rounds_rotate_and_double_per_key() -> None:
    reservation = _one()
    reservation.add("other", at_front=False)
    turns = []
    for now in range(0, 1000, 20):
        is_kept = reservation.phase(float(now)).is_reserved
        turns.append((reservation.first, is_kept))
    expected = [("big", 3), ("other", 3), ("big", 6), ("other", 6)]
    assert turns[:36] == [
        (who, is_kept) for who, looks in expected for is_kept in (False, True) for _ in range(looks)
    ]


def test_key_added_at_front_starts_its_round_at_once() -> None:
    reservation = _one()
    assert reservation.phase(70.0).is_reserved
    reservation.add("bigger", at_front=True)
    assert reservation.first == "bigger"
    assert reservation.phase(80.0) == Phase(False, FIRST_PHASE)
    reservation.discard("bigger")
    assert reservation.first == "big"
    assert reservation.phase(90.0) == Phase(False, FIRST_PHASE)


def test_discard_of_a_waiting_key_does_not_change_the_current_round() -> None:
    reservation = _one()
    reservation.add("other", at_front=False)
    reservation.discard("other")
    assert reservation.phase(70.0) == Phase(True, 50.0)
    assert "other" not in reservation
    assert "big" in reservation


@pytest.mark.parametrize("before", [30.0, 70.0])
def test_round_restarts_if_the_clock_is_set_back(before: float) -> None:
    reservation = _one()
    reservation.phase(before)
    reservation.phase(-1000.0)
    assert reservation.phase(-950.0) == Phase(False, 10.0)
    assert reservation.phase(-940.0) == Phase(True, FIRST_PHASE)


@given(st.floats(0.0, 1e10), st.lists(st.floats(0.0, 4.0), max_size=10))
def test_phase_has_ended_after_its_remaining_time(now: float, steps: list[float]) -> None:
    """After the remaining time, no rest is left that the clock cannot represent."""
    reservation: Backfill[str] = Backfill()
    reservation.add("big", at_front=True)
    for step in steps:
        now += step * FIRST_PHASE
        before = reservation.phase(now)
        if before.remaining < now / 2:
            after = reservation.phase(now + before.remaining)
            assert after.is_reserved is not before.is_reserved
        now += before.remaining


@given(st.lists(st.floats(0.0, 5000.0), max_size=30))
def test_reserved_phases_take_up_to_half_of_the_time(moments: list[float]) -> None:
    """Up to the end of any reserved phase, capacity was reserved for half of the time, not more."""
    reservation = _one()
    kept = 0.0
    now = 0.0
    for _ in range(20):
        phase = reservation.phase(now)
        for moment in sorted(moments):
            if now <= moment < now + phase.remaining:
                assert reservation.phase(moment).is_reserved is phase.is_reserved
        if phase.is_reserved:
            kept += phase.remaining
        now += phase.remaining
        assert kept <= now / 2 + 1e-6
