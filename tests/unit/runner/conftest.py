"""An executor over fake processes, and one over real ones."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskqd.runner.executor import Executor
from taskqd.runner.session_reactor import SessionReactor
from tests.fakes.clocks import in_thread
from tests.fakes.runner import Harness
from tests.support.sessions import WAYS, Starter


@pytest.fixture(name="harness")
def a_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(monkeypatch)
    yield harness
    harness.scan()
    harness.reactor.close()
    assert not harness.executor._running
    assert not harness.executor._present
    assert harness.clock.getDelayedCalls() == [], "an ended attempt leaves no delayed call"


@pytest.fixture(name="real", params=["session", pytest.param("setsid", marks=pytest.mark.needs("setsid"))])
def a_real_executor(reactor: Any, request: pytest.FixtureRequest) -> Executor:
    sessions = SessionReactor(reactor, starts_sessions=request.param == "session")
    return Executor(sessions, reactor, in_thread)


@pytest.fixture(
    name="start",
    params=["pidfd", "sigchld", pytest.param("setsid", marks=pytest.mark.needs("setsid"))],
)
def each_way(request: pytest.FixtureRequest, reactor: Any) -> Starter:
    return Starter(reactor, **WAYS[request.param])


@pytest.fixture(name="session", params=["pidfd", "sigchld"])
def each_way_with_sessions(request: pytest.FixtureRequest, reactor: Any) -> Starter:
    return Starter(reactor, **WAYS[request.param])


@pytest.fixture(name="fast")
def the_way_with_pidfds(reactor: Any) -> Starter:
    return Starter(reactor, **WAYS["pidfd"])
