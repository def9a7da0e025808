"""RangeMinimum finds the smallest item with an amount within a range, and looks at few branches for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.state import range_minimum
from taskqd.state.range_minimum import MAX_AMOUNT, RangeMinimum

AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, MAX_AMOUNT))


@given(st.lists(st.tuples(AMOUNTS, st.booleans()), max_size=60), AMOUNTS, AMOUNTS)
def test_first_is_smallest_item_within_range_after_any_additions_and_removals(
    steps: list[tuple[int, bool]], one: int, other: int
) -> None:
    least, most = sorted((one, other))
    found: RangeMinimum[int] = RangeMinimum()
    there: dict[int, int] = {}
    for item, (amount, is_new) in enumerate(steps):
        if is_new or not there:
            found.add(amount, -item)
            there[-item] = amount
        else:
            gone = min(there, key=lambda known: (abs(there[known] - amount), known))
            found.remove(there.pop(gone), gone)
        for low, high in ((least, most), (0, most), (least, MAX_AMOUNT), (most, least - 1)):
            within = [known for known, amount_of in there.items() if low <= amount_of <= high]
            assert found.first(low, high) == min(within, default=None)
    assert sorted(found) == sorted(there)
    assert bool(found) == bool(there)


def test_amount_above_maximum_counts_as_maximum() -> None:
    found: RangeMinimum[int] = RangeMinimum()
    found.add(MAX_AMOUNT + 5, 1)
    assert found.first(MAX_AMOUNT + 9, MAX_AMOUNT + 9) == 1
    found.remove(MAX_AMOUNT + 7, 1)
    assert not found


@pytest.mark.parametrize("amounts", [(), (2,)])
def test_remove_of_unknown_amount_raises_value_error(amounts: tuple[int, ...]) -> None:
    found: RangeMinimum[int] = RangeMinimum()
    for amount in amounts:
        found.add(amount, amount)
    with pytest.raises(ValueError, match="no item has the amount 3"):
        found.remove(3, 3)


def test_search_among_30000_amounts_visits_few_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    original = range_minimum._range

    def counting(branch: range_minimum._Branch[int]) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return original(branch)

    found: RangeMinimum[int] = RangeMinimum()
    for number in range(30_000):
        found.add(number * 7919 % 1_000_003, number)
    monkeypatch.setattr(range_minimum, "_range", counting)
    for most in range(0, 1_000_003, 10_007):
        looks = 0
        found.first(0, most)
        assert looks <= 60
