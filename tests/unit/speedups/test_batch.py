"""Batches and their observers."""

from typing import Any

from taskqd.speedups.batch import BatchScope


class Observer:
    """Records what it is called with; ``error`` is raised at the end of each batch."""

    def __init__(self, name: str, calls: list[str], error: BaseException | None = None) -> None:
        self._name = name
        self._calls = calls
        self._error = error

    def batch_started(self) -> None:
        self._calls.append(f"{self._name} started")

    def batch_ended(self) -> None:
        self._calls.append(f"{self._name} ended")
        if self._error is not None:
            raise self._error


def test_batch_scope_notifies_of_the_end_in_reverse_order() -> None:
    calls: list[str] = []
    batches = BatchScope(Observer("one", calls))
    batches.add(Observer("two", calls))
    batches.begin()
    batches.end()
    assert calls == ["one started", "two started", "two ended", "one ended"]


def test_batch_scope_logs_an_error_and_notifies_the_others(logged_errors: Any) -> None:
    calls: list[str] = []
    batches = BatchScope(Observer("one", calls), Observer("two", calls, ZeroDivisionError("a bug")))
    batches.begin()
    batches.end()
    assert calls[2:] == ["two ended", "one ended"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
