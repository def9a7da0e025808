"""The limit of descriptors: raised for the daemon, and what it allows."""

import resource
from typing import Any

import pytest

from taskqd.config.limits import Limits
from taskqd.daemon import descriptor_limit


class FakeLimits:
    """The limits of a process, which the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        self.now = (soft, hard)
        self.error: Exception | None = None
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, _: int, limits: Any) -> None:
        if self.error is not None:
            raise self.error
        self.now = limits


def test_soft_limit_is_raised_and_the_old_one_returned_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = FakeLimits(monkeypatch, 1024, 65_536)
    assert descriptor_limit.raise_limit() == 1024
    assert (limits.now, descriptor_limit.limit()) == ((65_536, 65_536), 65_536)


def test_soft_limit_that_equals_the_hard_limit_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLimits(monkeypatch, 65_536, 65_536)
    assert descriptor_limit.raise_limit() is None


@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("no")])
def test_limit_that_cannot_be_raised_is_not_changed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    limits = FakeLimits(monkeypatch, 1024, 65_536)
    limits.error = error
    assert descriptor_limit.raise_limit() is None
    assert descriptor_limit.limit() == 1024


@pytest.mark.parametrize("slots, usable", [(10, 10), (100, 10)])
def test_slots_are_reduced_to_what_the_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slots: int, usable: int
) -> None:
    FakeLimits(monkeypatch, 130, 130)
    assert descriptor_limit.usable_slots(slots) == usable
    assert (f"{usable} slots in place of slots = {slots}" in caplog.text) is (usable < slots)


@pytest.mark.parametrize("configured, usable", [(20, 20), (1000, 916), (None, 916)])
def test_connections_are_reduced_to_what_the_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, configured: int | None, usable: int
) -> None:
    FakeLimits(monkeypatch, 1000, 1000)
    assert descriptor_limit.usable_connections(Limits(connections=configured), 4) == usable
    assert ("at most 916 connections" in caplog.text) is (configured != usable)
