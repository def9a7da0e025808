"""Leaves the running jobs at a stop of the daemon, or ends them after a grace period."""

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.config.settings import OnStop
from taskqd.daemon.recovery import KILL_TIMEOUT
from taskqd.daemon.stop_request import StopRequests
from taskqd.engine.dispatcher import Dispatcher
from taskqd.execution.interfaces import IExecutor

STOP_TIMEOUT = 10.0
"""Seconds between SIGTERM and SIGKILL for jobs at a stop, or their --kill-after if that is shorter."""
LEFTOVERS_TIMEOUT = 2.0
"""Seconds that a stop waits for the processes that ended jobs left behind and that were killed."""

_log = Logger()


async def stop_jobs(
    dispatcher: Dispatcher, executor: IExecutor, clock: IReactorTime, grace: float, requests: StopRequests
) -> None:
    """Start nothing more, and leave or end the running jobs, as the request says."""
    if requests.begin().mode is OnStop.LEAVE:
        _log.info("{count} running jobs are left to go on", count=dispatcher.busy)
        dispatcher.leave()
    else:
        await _end_jobs(dispatcher, executor, clock, grace, requests)


async def _end_jobs(
    dispatcher: Dispatcher, executor: IExecutor, clock: IReactorTime, grace: float, requests: StopRequests
) -> None:
    """Let running jobs end for ``grace`` seconds, then end them; kill them at once if that is requested."""
    drained = dispatcher.drain(is_stopping=True)
    urgent = requests.when_urgent()
    urgent.addCallback(lambda _: drained.cancel())
    drained.addTimeout(grace, clock)
    try:
        await drained
    except (defer.TimeoutError, defer.CancelledError):
        _log.info("ending the jobs that still run: {count}", count=dispatcher.busy)
    stopped = dispatcher.stop(requests.begin().mode is OnStop.REQUEUE)
    stopped.addTimeout(STOP_TIMEOUT + KILL_TIMEOUT, clock)
    urgent.addCallback(lambda _: executor.kill())
    kill_timer = clock.callLater(STOP_TIMEOUT, executor.kill)
    try:
        await stopped
    except defer.TimeoutError:
        _log.error("some jobs do not end though they were killed; the next start looks for them")
    if kill_timer.active():
        kill_timer.cancel()
    gone = executor.kill().addTimeout(LEFTOVERS_TIMEOUT, clock)
    await gone.addErrback(lambda failure: failure.trap(defer.TimeoutError))
