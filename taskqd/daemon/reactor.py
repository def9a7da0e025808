"""The interface of the reactor that the daemon runs on."""

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
    IReactorUNIX,
)


class IReactor(IReactorCore, IReactorTime, IReactorFromThreads, IReactorFDSet, IReactorProcess, IReactorUNIX):
    """All interfaces of the reactor that the daemon uses."""
