"""The accelerated reactor: what it delegates."""

from typing import Any

import pytest
from twisted.internet.interfaces import IReactorFDSet, IReactorProcess, IReactorTime

from taskqd.speedups.reactor import AcceleratedReactor


def test_accelerated_reactor_provides_the_interfaces_of_its_reactor(reactor: Any) -> None:
    accelerated = AcceleratedReactor(reactor)
    assert IReactorProcess.providedBy(accelerated)
    assert IReactorTime.providedBy(accelerated)
    assert IReactorFDSet.providedBy(accelerated)


def test_accelerated_reactor_delegates_other_methods(reactor: Any) -> None:
    accelerated = AcceleratedReactor(reactor)
    call = accelerated.callLater(60, lambda: None)
    assert call in reactor.getDelayedCalls()
    call.cancel()
    with pytest.raises(AttributeError):
        accelerated.no_such_method()
