"""The interface of the reactor that the daemon runs on."""

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
)

from taskqd.execution.runner_supervisor import IRunnerReactor
from taskqd.storage.interfaces import ICommitReactor


class IReactor(IReactorCore, ICommitReactor, IReactorFDSet, IReactorProcess, IRunnerReactor):
    """All interfaces of the reactor that the daemon uses."""
