"""Ends the running jobs when the daemon stops."""

import signal

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from taskqd.daemon.reactor import IReactor
from taskqd.daemon.recovery import KILL_TIMEOUT
from taskqd.engine.dispatcher import Dispatcher
from taskqd.runner.executor import Executor

STOP_TIMEOUT = 10.0
"""Seconds between SIGTERM and SIGKILL for jobs at a stop, or their --kill-after if that is shorter."""
LEFTOVERS_TIMEOUT = 2.0
"""Seconds that a stop waits for the processes that ended jobs left behind and that were killed."""

_log = Logger()


async def end_jobs(
    dispatcher: Dispatcher, executor: Executor, reactor: IReactor, grace: float, requeue: bool
) -> None:
    """Let running jobs end for ``grace`` seconds, then end them; a second signal kills them at once."""
    drained = dispatcher.drain()
    second_signal = _await_second_signal(reactor, drained)
    drained.addTimeout(grace, reactor)
    try:
        await drained
    except (defer.TimeoutError, defer.CancelledError):
        _log.info("ending what still runs: {count} jobs", count=dispatcher.busy)
    stopped = dispatcher.stop(requeue)
    stopped.addTimeout(STOP_TIMEOUT + KILL_TIMEOUT, reactor)
    if second_signal.called:
        executor.kill()
    else:
        second_signal.addCallback(lambda _: executor.kill())
    kill_timer = reactor.callLater(STOP_TIMEOUT, executor.kill)
    try:
        await stopped
    except defer.TimeoutError:
        _log.error("some jobs do not end though they were killed; the next start looks for them")
    if kill_timer.active():
        kill_timer.cancel()
    gone = executor.kill().addTimeout(LEFTOVERS_TIMEOUT, reactor)
    await gone.addErrback(lambda failure: failure.trap(defer.TimeoutError))


def _await_second_signal(reactor: IReactor, drained: "Deferred[None]") -> "Deferred[None]":
    """Return a Deferred that fires at the next SIGTERM or SIGINT, which also cancels ``drained``."""
    received: Deferred[None] = Deferred()

    def on_signal() -> None:
        drained.cancel()
        if not received.called:
            received.callback(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reactor.callFromThread(on_signal))
    return received
