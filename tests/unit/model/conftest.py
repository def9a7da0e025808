"""A fixture for local time."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture(name="central_europe")
def in_central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone of the process to Central Europe."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
