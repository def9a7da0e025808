"""The accelerated reactor: what it delegates. test_spawn.py has the processes that it starts."""

import os
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from taskqd.speedups.reactor import AcceleratedReactor


class Collector(ProcessProtocol):
    """Collects the output of a process."""

    def __init__(self) -> None:
        self.printed = b""
        self.ended: Deferred[bytes] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.printed += data

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(self.printed)


def test_accelerated_reactor_provides_the_interfaces_of_its_reactor(reactor: Any) -> None:
    accelerated = AcceleratedReactor(reactor)
    verifyObject(IReactorProcess, accelerated)
    assert IReactorTime.providedBy(accelerated)
    assert IReactorFDSet.providedBy(accelerated)


def test_accelerated_reactor_delegates_other_methods(reactor: Any) -> None:
    accelerated = AcceleratedReactor(reactor)
    call = accelerated.callLater(60, lambda: None)
    assert call in reactor.getDelayedCalls()
    call.cancel()
    with pytest.raises(AttributeError):
        accelerated.no_such_method()


@pytest.mark.parametrize("starts_sessions", [True, False])
async def test_ordinary_protocol_gets_a_process_of_the_real_reactor(
    reactor: Any, starts_sessions: bool
) -> None:
    collector = Collector()
    accelerated = AcceleratedReactor(reactor, starts_sessions=starts_sessions)
    code = "import os; print(os.getsid(0))"
    transport = accelerated.spawnProcess(collector, sys.executable, [sys.executable, "-c", code], env={})
    assert transport.pid is not None
    assert int(await collector.ended) == os.getsid(0)


def test_reactor_that_has_spawned_nothing_can_stop_spawning(reactor: Any) -> None:
    AcceleratedReactor(reactor).stop_spawning()
