"""Runs jobs inside the daemon, until the runner does."""

from twisted.internet.defer import Deferred
from zope.interface import implementer

from taskqd.execution.interfaces import IExecutor, OnSpawned
from taskqd.execution.run import Outcome, Run
from taskqd.execution.start_message import make_start
from taskqd.runner.executor import Executor
from taskqd.storage.interfaces import IOutputWriter


@implementer(IExecutor)
class InProcessExecutor(Executor):
    """An executor for the dispatcher."""

    def start(  # type: ignore[override]
        self, run: Run, output: IOutputWriter, on_spawned: OnSpawned
    ) -> "Deferred[Outcome]":
        return super().start(make_start(run, {1: "", 2: ""}), output, on_spawned)
