"""The daemon put together, and the order of its start and its stop.

All that can refuse a start happens in ``startService``, before the reactor runs: lock, replay, recovery,
listeners. At a stop the daemon answers to the last: it takes nothing new, lets running jobs end for a while,
ends them, and records all that.
"""

import gc
import os
import pwd
import random
import signal
import sys
from functools import partial
from types import TracebackType
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from taskqd import listeners, processes, spawn
from taskqd.access import Access, read_token, user_name
from taskqd.backlog import Backlog, IllegalMove
from taskqd.capacity import Limits
from taskqd.disk import Disk
from taskqd.dispatcher import Dispatcher
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.executor import Executor
from taskqd.feed import Feed
from taskqd.housekeeping import Housekeeper, condense
from taskqd.job import Job, Status
from taskqd.launch import Run, environment
from taskqd.notices import Notices
from taskqd.protocol import TaskqFactory
from taskqd.results import Results
from taskqd.scheduler import Scheduler
from taskqd.settings import Settings
from taskqd.spool import Spool
from taskqd.store import Store
from taskqd.verbs import Verbs

SPOOL_THREADS = 4
STOP_PATIENCE = 10.0
"""What is ended at a stop has so many seconds to end, or its --kill-after if that is shorter."""
KILL_PATIENCE = 5.0
"""What a crash left running is waited for, once killed, for up to so many seconds a process."""
KILLED = "the daemon was killed while it ran"
REBOOTED = "the machine was restarted while it ran"
"""What is said of attempts that a crash interrupted."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A job's PATH, unless its submission brings one."""


class TaskqService(Service):
    """One daemon; ``owner`` is the (uid, gid) that twistd is going to drop to, None where it does not."""

    _log = Logger()
    name = "taskq"

    def __init__(
        self, settings: Settings, reactor: Any, owner: tuple[int, int] | None, is_daemon: bool
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._owner = owner
        self._is_daemon = is_daemon
        self._ports: list[Any] = []
        self._threads = ThreadPool(0, SPOOL_THREADS, "taskqd-spool")
        disk = Disk()
        self._in_thread = partial(deferToThreadPool, reactor, self._threads)
        self._boot = processes.boot_id()
        self._store = Store(settings.state, reactor, disk, self._boot, reactor.seconds, self._in_thread)
        self._spool = Spool(settings.state, disk, reactor, self._in_thread)
        self._executor = Executor(partial(spawn.spawn, reactor), reactor)
        self._dispatcher: Dispatcher | None = None
        self._housekeeper: Housekeeper | None = None
        self._scheduler: Scheduler | None = None

    def privilegedStartService(self) -> None:
        """Make the directories that only root can make, for the user that twistd drops to."""
        sockets = filter(None, map(listeners.socket_path, self._settings.listen))
        try:
            for directory in (self._settings.state, *map(os.path.dirname, sockets)):
                if directory and not os.path.isdir(directory):
                    os.makedirs(directory, 0o700)
                    if self._owner is not None:
                        os.chown(directory, *self._owner)
        except OSError as why:
            self._refuse(StartRefused(f"a directory cannot be made: {why}"))

    def startService(self) -> None:
        try:
            self._start()
        except StartRefused as why:
            self._refuse(why)
        super().startService()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _start(self) -> None:
        spawn.close_on_exec()
        self._store.lock()
        token = read_token(self._settings.state)
        backlog = self._replay()
        self._store.begin(backlog.last_id)
        try:
            self._spool.open()
            swept = self._spool.sweep(lambda job_id: _attempts(backlog, job_id))
        except OSError as why:
            raise StartRefused(f"the state directory {self._settings.state} cannot be used: {why}") from None
        if swept:
            self._log.info("removed {count} files of jobs that are not known any more", count=swept)
        self._end_leftovers(backlog)
        dispatcher = self._dispatcher = self._make_dispatcher(backlog)
        interrupted = dispatcher.recover(KILLED if self._store.last_boot == self._boot else REBOOTED)
        for job in interrupted:
            self._log.warn("job {id} was interrupted and is {status} now", id=job.id, status=job.status.value)
        results = Results(self._store, self._spool, lambda job: backlog.reason(job, self._reactor.seconds()))
        self._listen(dispatcher, results, Access(token))
        self._threads.start()
        self._scheduler = Scheduler(dispatcher, self._reactor)
        if self._settings.on_end is not None:
            notices = Notices(dispatcher, results, self._settings.on_end)
            dispatcher.on_end(notices.told)
            for job in {backlog.whole(job).id: backlog.whole(job) for job in interrupted}.values():
                if job.status.is_final:
                    notices.told(job)
        dispatcher.start()
        self._scheduler.start()
        self._housekeeper = Housekeeper(
            dispatcher,
            self._store,
            self._settings.retention,
            self._reactor,
            partial(condense, self._reactor),
            self._in_thread,
        )
        self._housekeeper.start()

    def _replay(self) -> Backlog:
        settings = self._settings
        backlog = Backlog(Limits(settings.slots, settings.queues, settings.resources), is_open=False)
        for event, position in self._store.replay():
            try:
                backlog.apply(event, position)
            except IllegalMove as why:
                raise JournalDamaged(
                    f"{self._store.segments.locate(position)} cannot be right: {why}"
                ) from None
        backlog.last_id = max(backlog.last_id, self._store.next_id - 1)
        backlog.open()
        gc.freeze()
        self._log.info("{state}: {count} jobs known", state=self._settings.state, count=len(backlog.jobs))
        return backlog

    def _end_leftovers(self, backlog: Backlog) -> None:
        """Kill what a crash left running, before anything else runs."""
        pids = {one.pid for one in processes.marked(self._store.name) if _is_leftover(one, backlog)}
        attempts = [job.attempt for job in backlog.running()] if self._store.last_boot == self._boot else []
        for attempt in attempts:
            if attempt and attempt.pid and processes.start_time(attempt.pid) == attempt.pid_started:
                pids.add(attempt.pid)
        for pid in processes.kill_all(sorted(pids), KILL_PATIENCE):
            self._log.error("process {pid} of an interrupted job does not end", pid=pid)

    def _make_dispatcher(self, backlog: Backlog) -> Dispatcher:
        mask = os.umask(0)
        os.umask(mask)
        return Dispatcher(
            backlog,
            self._store,
            self._spool,
            self._executor,
            self._reactor,
            partial(_make_run, self._spool, self._store, _base_environment(), mask),
            random.SystemRandom().random,
        )

    def _listen(self, dispatcher: Dispatcher, results: Results, access: Access) -> None:
        feed = Feed(self._store, dispatcher.backlog)
        verbs = Verbs(
            dispatcher, results, access, feed, self._reactor, lambda: len(self._factory.connections)
        )
        factory = self._factory = TaskqFactory(verbs, self._reactor)
        refusals: list[Failure] = []
        for endpoint in self._settings.listen:
            listening = listeners.listen(self._reactor, endpoint, factory)
            listening.addCallbacks(self._ports.append, refusals.append)
        for failure in refusals:
            failure.raiseException()
        self._log.info("listening on {listen}", listen=" ".join(self._settings.listen))

    async def _stop(self) -> None:
        if self._dispatcher is not None and self._housekeeper is not None and self._scheduler is not None:
            self._scheduler.stop()
            self._housekeeper.stop()
            await self._end_jobs(self._dispatcher)
            await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
            await self._factory.close()
            await self._store.close()
            self._threads.stop()

    async def _end_jobs(self, dispatcher: Dispatcher) -> None:
        """Let running jobs end for the grace, then end them; a second signal to stop takes all grace away."""
        drained = dispatcher.drain()
        hurried = self._take_hurry(drained)
        drained.addTimeout(self._settings.stop_grace, self._reactor)
        try:
            await drained
        except (defer.TimeoutError, defer.CancelledError):
            self._log.info("ending what still runs")
        stopped = dispatcher.stop(self._settings.requeue)
        if hurried.called:
            self._executor.kill()
        else:
            hurried.addCallback(lambda _: self._executor.kill())
        patience = self._reactor.callLater(STOP_PATIENCE, self._executor.kill)
        await stopped
        if patience.active():
            patience.cancel()
        self._executor.kill()

    def _take_hurry(self, drained: "Deferred[None]") -> "Deferred[None]":
        """Return what fires at a second signal to stop, which also ends the waiting for ``drained``."""
        hurried: Deferred[None] = Deferred()

        def hurry() -> None:
            drained.cancel()
            if not hurried.called:
                hurried.callback(None)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(hurry))
        return hurried

    def _refuse(self, why: StartRefused) -> None:
        """End the start: twistd removes its pid file and exits with 1, and we say why in one line."""
        if self._is_daemon:
            self._log.critical("the start is refused: {why}", why=why)
        for port in self._ports:
            port.stopReading()
            port.connectionLost(Failure(why))  # what stopListening has the reactor do, which will not run
        sys.excepthook = _say_in_one_line
        raise why


def _attempts(backlog: Backlog, job_id: int) -> int | None:
    job = backlog.jobs.get(job_id)
    return None if job is None else job.attempts


def _is_leftover(one: processes.Marked, backlog: Backlog) -> bool:
    """Whether a process is to be ended: of an interrupted attempt, or still in the group of an ended one.

    What left the group of a job that has ended, by setsid(1) for instance, is nobody's business any more. Of
    an earlier attempt of an interrupted job, what has lost the leader of its group is taken for a leftover.
    """
    job = backlog.jobs.get(one.job_id)
    if job is None or job.attempt is None or one.group == job.attempt.pid:
        return True
    if job.status is not Status.RUNNING:
        return False
    return one.attempt == job.attempts or processes.start_time(one.group) is None


def _say_in_one_line(kind: type[BaseException], why: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(why, StartRefused):
        print(f"taskqd: {why}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, why, traceback)


def _base_environment() -> dict[str, str]:
    """Return what every job's environment begins with: that of the daemon's user, small and clean."""
    uid = os.geteuid()
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = "/"
    lang = os.environ.get("LANG", "C.UTF-8")
    return {"PATH": PATH, "HOME": home, "LANG": lang, "USER": user_name(uid), "SHELL": "/bin/sh"}


def _make_run(spool: Spool, store: Store, base: dict[str, str], mask: int, job: Job, attempt: int) -> Run:
    """Build what the executor takes for an attempt; ``mask`` is the daemon's own umask."""
    spec, brought_with = job.spec, job.array or job.id
    script = None if spec.script is None else spool.path(brought_with, "script")
    return Run(
        id=job.id,
        attempt=attempt,
        command=spec.command or None,
        script=script,
        is_executable=script is not None and os.access(script, os.X_OK),
        stdin=None if spec.stdin is None else spool.path(brought_with, "stdin"),
        cwd=spec.cwd,
        env=environment(base, job, attempt, store.name, spool.path(job.id, "progress")),
        umask=None if spec.umask == mask else spec.umask,
        nice=spec.nice,
        timeout=spec.timeout,
        kill_after=spec.kill_after,
        idle_timeout=spec.idle_timeout,
        memory=spec.memory,
        cpu_time=spec.cpu_time,
        nofile=spec.nofile,
    )
