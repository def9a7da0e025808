"""Together: who gathers is told of each round."""

from typing import Any

from taskqd.speedups.batch import BatchScope


class IBatchObserver:
    """Notes what it is told; ``error`` is what its end of a round raises."""

    def __init__(self, name: str, told: list[str], error: BaseException | None = None) -> None:
        self._name = name
        self._told = told
        self._error = error

    def batch_started(self) -> None:
        self._told.append(f"{self._name} begins")

    def batch_ended(self) -> None:
        self._told.append(f"{self._name} ends")
        if self._error is not None:
            raise self._error


def test_the_last_one_is_told_of_the_end_first() -> None:
    told: list[str] = []
    together = BatchScope(IBatchObserver("one", told))
    together.add(IBatchObserver("two", told))
    together.begin()
    together.end()
    assert told == ["one begins", "two begins", "two ends", "one ends"]


def test_a_bug_of_one_is_logged_and_keeps_no_other_from_its_end(logged_errors: Any) -> None:
    told: list[str] = []
    together = BatchScope(
        IBatchObserver("one", told), IBatchObserver("two", told, ZeroDivisionError("a bug"))
    )
    together.begin()
    together.end()
    assert told[2:] == ["two ends", "one ends"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
