"""The smallest item with an amount within a range, and how little is looked at for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.state import minima
from taskqd.state.minima import MAX_AMOUNT, Minima

AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, MAX_AMOUNT))


@given(st.lists(st.tuples(AMOUNTS, st.booleans()), max_size=60), AMOUNTS, AMOUNTS)
def test_first_is_the_smallest_item_within_the_range_whatever_came_and_went(
    steps: list[tuple[int, bool]], one: int, other: int
) -> None:
    least, most = sorted((one, other))
    found: Minima[int] = Minima()
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


def test_an_amount_beyond_the_largest_counts_as_the_largest() -> None:
    found: Minima[int] = Minima()
    found.add(MAX_AMOUNT + 5, 1)
    assert found.first(MAX_AMOUNT + 9, MAX_AMOUNT + 9) == 1
    found.remove(MAX_AMOUNT + 7, 1)
    assert not found


@pytest.mark.parametrize("amounts", [(), (2,)])
def test_remove_of_an_amount_that_is_not_there_is_refused(amounts: tuple[int, ...]) -> None:
    found: Minima[int] = Minima()
    for amount in amounts:
        found.add(amount, amount)
    with pytest.raises(ValueError, match="nothing has the amount 3"):
        found.remove(3, 3)


def test_a_search_among_thirty_thousand_amounts_looks_at_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    original = minima._range

    def counting(branch: minima._Branch[int]) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return original(branch)

    found: Minima[int] = Minima()
    for number in range(30_000):
        found.add(number * 7919 % 1_000_003, number)
    monkeypatch.setattr(minima, "_range", counting)
    for most in range(0, 1_000_003, 10_007):
        looks = 0
        found.first(0, most)
        assert looks <= 60
