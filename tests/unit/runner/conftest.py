"""An executor over fake processes, and one over real ones."""

from collections.abc import Iterator
from typing import Any

import pytest
from zope.interface import alsoProvides

from taskqd.execution.interfaces import ISessionSpawner
from taskqd.runner.executor import Executor
from taskqd.speedups.reactor import AcceleratedReactor
from tests.fakes.clocks import in_thread
from tests.fakes.runner import Harness


@pytest.fixture(name="harness")
def a_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(monkeypatch)
    yield harness
    harness.scan()
    harness.reactor.close()
    assert not harness.executor._running
    assert not harness.executor._present
    assert harness.clock.getDelayedCalls() == [], "an ended attempt leaves no delayed call"


@pytest.fixture(name="plain")
def a_plain_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(monkeypatch, starts_sessions=False)
    yield harness
    harness.reactor.close()


@pytest.fixture(name="real", params=["accelerated", pytest.param("plain", marks=pytest.mark.needs("setsid"))])
def a_real_executor(reactor: Any, request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "plain":
        yield Executor(reactor, reactor, in_thread)
        return
    accelerated = AcceleratedReactor(reactor)
    alsoProvides(accelerated, ISessionSpawner)
    yield Executor(accelerated, reactor, in_thread)
    accelerated.stop_spawning()
