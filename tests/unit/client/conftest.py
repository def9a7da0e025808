"""Fixtures for the tests of the client."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskqd.client import Client, reconnect
from tests.fakes.daemon import FakeDaemon, Request
from tests.unit.client.samples import Serve


@pytest.fixture(name="serve")
def a_client_of(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a daemon with scripted replies; it returns a client and the requests."""
    with ExitStack() as opened:

        def serve(*replies: bytes | Iterable[bytes] | None) -> tuple[Client, list[Request]]:
            left = iter(replies)
            daemon = opened.enter_context(FakeDaemon(lambda _: next(left, None), tmp_path))
            return opened.enter_context(Client(daemon.address)), daemon.requests

        yield serve


@pytest.fixture(name="quick")
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without delay."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)
