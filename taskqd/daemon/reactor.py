"""The interface of the reactor that the daemon runs on."""

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorUNIX,
)

from taskqd.storage.interfaces import ICommitReactor


class IReactor(IReactorCore, ICommitReactor, IReactorFDSet, IReactorProcess, IReactorUNIX):
    """All interfaces of the reactor that the daemon uses."""
