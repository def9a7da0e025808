"""The limit of descriptors: raised for the daemon, and given back to its jobs."""

import resource
from typing import Any

import pytest

from taskqd.daemon import descriptor_limit


class CapacityTotals:
    """The limits of a process in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        self.now = (soft, hard)
        self.error: Exception | None = None
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, _: int, limits: Any) -> None:
        if self.error is not None:
            raise self.error
        self.now = limits


def test_the_soft_limit_is_raised_and_known_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = CapacityTotals(monkeypatch, 1024, 65_536)
    assert descriptor_limit.raise_limit() == 1024
    assert (limits.now, descriptor_limit.limit()) == ((65_536, 65_536), 65_536)


def test_a_soft_limit_that_is_the_hard_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    CapacityTotals(monkeypatch, 65_536, 65_536)
    assert descriptor_limit.raise_limit() is None


@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("no")])
def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    limits = CapacityTotals(monkeypatch, 1024, 65_536)
    limits.error = error
    assert descriptor_limit.raise_limit() is None
    assert descriptor_limit.limit() == 1024
