"""The daemon put together, and the order of its start and its stop.

All that can refuse a start happens in ``startService``, before the reactor runs: lock, replay, recovery,
listeners. At a stop the daemon answers to the last: it takes nothing new, lets running jobs end for a while,
ends them, and records all that.
"""

import gc
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from taskqd.auth.authenticator import Authenticator, make_access
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.config.limits import DESCRIPTORS_A_SLOT, max_connections, slots_within
from taskqd.config.settings import Settings
from taskqd.daemon import descriptor_limit, pid_file, signals
from taskqd.daemon.address_files import Addresses
from taskqd.daemon.audit_log import Audit
from taskqd.daemon.clocks import Clocks
from taskqd.daemon.log_output import LogOutput
from taskqd.engine import clock_jumps
from taskqd.engine.end_hook import EndHook
from taskqd.engine.engine import Engine
from taskqd.engine.recurring import RecurringSubmitter
from taskqd.engine.retention import RetentionTask
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.execution import proc
from taskqd.execution.executor import Executor
from taskqd.execution.orphan_reaper import Orphans
from taskqd.execution.proc import Process, attempt_of
from taskqd.execution.run_as import RunAs
from taskqd.execution.run_builder import Runs
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import Users
from taskqd.model.events import Event
from taskqd.model.job import Status
from taskqd.model.spec import Spec
from taskqd.server import endpoints
from taskqd.server.connection_limits import ConnectionLimits
from taskqd.server.factory import TaskqFactory
from taskqd.server.handlers.event_stream import EventStream
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.router import Router
from taskqd.server.unix_port import SocketWatch
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.client_poller import make_client_poller
from taskqd.speedups.spawn import Spawner, close_on_exec
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import InvalidTransition, QueueState
from taskqd.storage.filesystem import Disk
from taskqd.storage.journal.compaction import condense
from taskqd.storage.journal.journal import Journal
from taskqd.storage.private_files import check_directory
from taskqd.storage.spool.spool import Spool
from taskqd.storage.spool.user_files import UserFiles

SPOOL_THREADS = 4
STOP_PATIENCE = 10.0
"""What is ended at a stop has so many seconds to end, or its --kill-after if that is shorter."""
KILL_PATIENCE = 5.0
"""What a crash left running is waited for, once killed, for up to so many seconds a process."""
GONE_TIMEOUT = 2.0
"""A stop waits up to this many seconds until what ended jobs left behind, and was killed, is gone."""
CHECK_INTERVAL = 2.0
"""The files of the sockets and the journal are looked at every this many seconds."""
GARBAGE_AFTER = 5_000
"""Garbage is looked for each time that so many more objects are there; by default that is 700."""
KILLED = "the daemon was killed while it ran"
REBOOTED = "the machine was restarted while it ran"
COPIED = "this is a copy or was moved: the daemon that ran it had the state directory elsewhere"
"""What is said of attempts that a crash interrupted."""


class TaskqService(Service):
    """One daemon; ``owner`` is the (uid, gid) that twistd is going to drop to, None where it does not."""

    _log = Logger()
    name = "taskq"

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        owner: tuple[int, int] | None,
        is_daemon: bool,
        pid_file: str | None = None,
        log_output: LogOutput | None = None,
    ) -> None:
        self._log_output = log_output
        self._pid_file = pid_file
        self._settings = settings
        self._reactor = reactor
        self._clocks = Clocks(reactor)
        self._owner = owner
        self._is_daemon = is_daemon
        self._ports: list[Any] = []
        self._threads = ThreadPool(0, SPOOL_THREADS, "taskqd-spool")
        self._lacks_threads = False
        disk = Disk()
        self._boot = proc.boot_id()
        together = BatchScope()
        self._spawner = Spawner(reactor, together)
        self._executor = Executor(self._spawner.spawn, reactor, self._in_thread)
        self._store = Journal(
            settings.state,
            reactor,
            disk,
            self._boot,
            self._clocks,
            self._in_thread,
            self._executor.only_short_lived_processes,
        )
        together.add(self._store)
        self._run_as = RunAs(settings.run_as_owner, Users(reactor.seconds), UserLimits())
        beside = os.path.abspath(settings.state) + ".jobs"
        self._handover = UserFiles(beside) if settings.run_as_owner else None
        self._spool = Spool(settings.state, disk, reactor, self._in_thread, self._handover)
        self._orphans = Orphans(reactor)
        self._open_files: int | None = None
        self._addresses = Addresses()
        self._access: Authenticator | None = None
        self._engine: Engine | None = None
        self._housekeeper: RetentionTask | None = None
        self._scheduler: RecurringSubmitter | None = None
        self._loops: list[LoopingCall] = []

    def setServiceParent(self, parent: Any) -> None:
        """Become a part of twistd's application, and have that write the log to our output."""
        super().setServiceParent(parent)
        if self._log_output is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log_output)

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        """Return a Deferred of what a blocking function returns that is called in a thread of the pool.

        If the machine has no room for a thread, this thread calls it: slow is better than not at all.
        """
        try:
            called = deferToThreadPool(self._reactor, self._threads, function, *args)
        except RuntimeError as why:
            if not _is_of_threads(why):
                raise
            # A thread that did not start cannot be joined when the pool stops.
            self._threads.threads[:] = [one for one in self._threads.threads if one.ident is not None]
            if not self._lacks_threads:
                self._log.warn("no thread can be started, so the daemon itself waits: {why}", why=why)
            self._lacks_threads = True
            return maybeDeferred(function, *args)
        self._lacks_threads = False
        return called

    def privilegedStartService(self) -> None:
        """Make the directories that only root can make, for the user that twistd drops to."""
        if self._pid_file:
            pid_file.hold(self._pid_file)
        sockets = filter(None, map(endpoints.socket_path, self._settings.listen))
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
        except RuntimeError as why:
            if not _is_of_threads(why):
                raise
            self._refuse(StartRefused(f"there is no room for the daemon's own threads: {why} (ulimit -u)"))
        except OSError as why:
            self._refuse(StartRefused(f"the state directory {self._settings.state} cannot be used: {why}"))
        super().startService()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _start(self) -> None:
        signals.reset()
        signals.on_hangup(self._reactor, self._hung_up)
        self._open_files = descriptor_limit.raise_limit()
        self._bound_slots()
        close_on_exec()
        self._orphans.start()
        self._run_as.open()
        self._store.lock()
        access = self._access = self._make_access()
        queue_state = self._replay()
        self._store.begin(queue_state.last_id)
        self._note_clocks(queue_state)
        try:
            self._spool.open()
            swept = self._spool.sweep(lambda job_id: _attempts(queue_state, job_id))
        except OSError as why:
            raise StartRefused(f"the state directory {self._settings.state} cannot be used: {why}") from None
        if swept:
            self._log.info("removed {count} files of jobs that are not known any more", count=swept)
        self._end_leftovers(queue_state)
        self._open_handover()
        engine = self._engine = self._make_dispatcher(queue_state)
        interrupted = engine.recover(self._cause_of_interruption())
        for job in interrupted:
            self._log.warn("job {id} was interrupted and is {status} now", id=job.id, status=job.status.value)
        results = JobView(
            self._store,
            self._spool,
            lambda job: queue_state.reason(job, self._clocks.elapsed()),
            queue_state.not_before,
        )
        self._listen(engine, results, access)
        access.start()
        self._threads.start()
        self._scheduler = RecurringSubmitter(
            engine, self._clocks, self._settings.limits.most_pending_per_user
        )
        if self._settings.on_end is not None:
            notices = EndHook(engine, results.describe, self._settings.on_end)
            engine.on_end(notices.told)
            for job in {queue_state.whole(job).id: queue_state.whole(job) for job in interrupted}.values():
                if job.status.is_final:
                    notices.told(job)
        engine.start()
        self._scheduler.start()
        engine.jumps.start()
        self._housekeeper = RetentionTask(
            engine,
            self._store,
            self._settings.retention,
            self._clocks,
            partial(condense, self._reactor),
            self._in_thread,
        )
        self._housekeeper.start()
        self._watch()

    def _watch(self) -> None:
        """Look every few seconds at what others may remove: the files of the sockets, the journal."""
        sockets = SocketWatch(self._ports, self._in_thread, endpoints.remove_stale_socket)
        for look in (sockets.look, self._store.look):
            loop = LoopingCall(look)
            loop.clock = self._reactor
            loop.start(CHECK_INTERVAL, now=False).addErrback(self._stopped_looking)
            self._loops.append(loop)

    def _stopped_looking(self, failure: Failure) -> None:
        self._log.failure("the look at sockets or journal met a bug and has stopped", failure)

    def _bound_slots(self) -> None:
        """Have no more slots than there are descriptors for."""
        slots, most = self._settings.slots, slots_within(descriptor_limit.limit())
        if slots > most:
            self._log.warn(
                "{most} slots in place of slots = {slots}: each takes up to {each} descriptors, and this "
                "process may have {limit} (ulimit -Hn, or LimitNOFILE of the unit); raise that",
                most=most,
                slots=slots,
                each=DESCRIPTORS_A_SLOT,
                limit=descriptor_limit.limit(),
            )
            self._settings = replace(self._settings, slots=most)

    def _hung_up(self) -> None:
        """Stop as at a TERM: the terminal is gone."""
        with suppress(ReactorNotRunning):  # it stops already
            self._reactor.stop()

    def _replay(self) -> QueueState:
        settings = self._settings
        queue_state = QueueState(
            CapacityTotals(settings.slots, settings.queues, settings.resources), is_open=False
        )
        gc.disable()  # all that is made here stays
        try:
            self._read(queue_state)
            queue_state.open()
        finally:
            gc.enable()
        gc.freeze()
        gc.set_threshold(GARBAGE_AFTER)
        queue_state.last_id = max(queue_state.last_id, self._store.next_id - 1)
        self._log.info("{state}: {count} jobs known", state=self._settings.state, count=len(queue_state.jobs))
        return queue_state

    def _read(self, queue_state: QueueState) -> None:
        event: Event | None = None
        for event, position in self._store.replay():
            try:
                queue_state.apply(event, position)
            except InvalidTransition as why:
                where = self._store.segments.locate(position)
                raise JournalDamaged(f"{where} cannot be right: {why}") from None
        at = 0.0 if event is None else event.at
        self._clocks.resume(self._store.last_opened, self._boot, at, at - queue_state.ahead)

    def _note_clocks(self, queue_state: QueueState) -> None:
        """Record how the time of day stands to the clock of waits and ages, if that has changed."""
        if self._clocks.ahead != queue_state.ahead:
            self._log.warn("{jump}", jump=clock_jumps.described(self._clocks.ahead - queue_state.ahead))
            clocked = clock_jumps.clocked(self._clocks)
            self._store.append_now([clocked])
            queue_state.apply(clocked)

    def _end_leftovers(self, queue_state: QueueState) -> None:
        """Kill what a crash left running, before anything else runs."""
        if self._store.is_copy:
            return  # they are the original's
        try:
            table = proc.scan(since=0)
        except OSError as why:
            raise StartRefused(f"the processes in /proc cannot be read: {why}") from None
        found = _leftovers(table, self._store.name, queue_state, self._store.last_boot == self._boot)
        for one in proc.kill_all(found, KILL_PATIENCE):
            self._log.error("process {pid} of an interrupted job does not end", pid=one.pid)

    def _cause_of_interruption(self) -> str:
        if self._store.is_copy:
            return COPIED
        return KILLED if self._store.last_boot == self._boot else REBOOTED

    def _make_access(self) -> Authenticator:
        """Read who may come in, and say so where a port is open to nobody."""
        settings, uid = self._settings, os.geteuid()
        check_directory(settings.state, uid)
        access = make_access(
            settings.state,
            self._clocks,
            self._in_thread,
            uid=uid,
            roles=settings.roles,
            auth=settings.auth,
            has_ca=any(map(endpoints.has_ca, settings.listen)),
        )
        if not access.accepts_remote_clients and not all(map(endpoints.is_local, settings.listen)):
            self._log.warn(
                "there is no token yet, so nobody can use a port: make one with `taskq token add NAME "
                "--role submit --state {state}`",
                state=settings.state,
            )
        return access

    def _open_handover(self) -> None:
        """Make room for what jobs of other users open, once nobody is left who uses what is there."""
        if self._handover is not None:
            try:
                self._handover.open()
            except OSError as why:
                raise StartRefused(f"files cannot be handed over to the jobs' owners: {why}") from None

    def _make_dispatcher(self, queue_state: QueueState) -> Engine:
        mask = os.umask(0)
        os.umask(mask)
        return Engine(
            queue_state,
            self._store,
            self._spool,
            self._executor,
            self._clocks,
            Runs(
                *(self._spool, self._store.name, mask, self._run_as, self._handover, self._open_files),
                self._addresses.of_job,
            ).make,
            random.SystemRandom().random,
            self._settings.limits.most_pending,
        )

    def _listen(self, engine: Engine, results: JobView, access: Authenticator) -> None:
        feed, limits = EventStream(self._store, engine.queue_state, self._reactor), self._settings.limits
        keeper = ConnectionLimits(
            limits, self._most_connections(), self._reactor, access.is_valid, self._ports
        )
        gate = Authorizer(engine.queue_state, limits, self._reactor, self._check_run)
        verbs = Router(engine, results, access, feed, self._clocks, gate, lambda: len(keeper.guests))
        factory = self._factory = TaskqFactory(verbs, keeper, self._reactor)
        access.changed(keeper.close_expired)
        self._audit = Audit(self._store, self._reactor)
        refusals: list[Failure] = []

        def opened(port: Any) -> None:
            endpoints.accept_within(port, lambda: keeper.room)
            self._ports.append(port)

        rounds = make_client_poller(self._reactor, self._store, factory.gathering)
        for endpoint in self._settings.listen:
            listening = endpoints.listen(self._reactor, endpoint, factory, rounds)
            listening.addCallbacks(opened, refusals.append)
        for failure in refusals:
            failure.raiseException()
        self._tell_address()
        self._log.info("listening on {listen}", listen=" ".join(self._settings.listen))

    def _tell_address(self) -> None:
        """Tell jobs and ``taskq`` at which socket this daemon is; without the file it may not be found."""
        for port in self._ports:
            self._addresses.add(port)
        try:
            self._addresses.write(self._settings.state)
        except OSError as why:
            self._log.warn("the file with the daemon's address cannot be written: {why}", why=why)

    def _most_connections(self) -> int:
        """Return how many there may be with the descriptors that this process may have."""
        limit, limits = descriptor_limit.limit(), self._settings.limits
        most = max_connections(limits, limit, self._settings.slots)
        if limits.connections is None or most < limits.connections:
            self._log.info(
                "at most {most} connections, since this process may open {descriptors} files (ulimit -n)",
                most=most,
                descriptors=limit,
            )
        return most

    def _check_run(self, who: Principal, spec: Spec) -> Spec:
        """Return a submission as it is to be run; raises Forbidden where no job of theirs could be."""
        return self._run_as.check(who.name, who.uid == 0, spec)

    async def _stop(self) -> None:
        if self._engine is not None and self._housekeeper is not None and self._scheduler is not None:
            self._scheduler.stop()
            self._housekeeper.stop()
            for loop in self._loops:
                if loop.running:
                    loop.stop()
            self._engine.jumps.stop()
            await self._end_jobs(self._engine)
            await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
            await self._factory.close()
            if self._access is not None:
                self._access.stop()
            self._audit.stop()
            await self._store.close()
            self._spawner.stop()
            self._orphans.stop()
            self._threads.stop()
            if self._handover is not None:
                self._handover.close()
        if self._log_output is not None:
            self._log_output.end()

    async def _end_jobs(self, engine: Engine) -> None:
        """Let running jobs end for the grace, then end them; a second signal to stop takes all grace away."""
        drained = engine.drain()
        hurried = self._take_hurry(drained)
        drained.addTimeout(self._settings.stop_grace, self._reactor)
        try:
            await drained
        except (defer.TimeoutError, defer.CancelledError):
            self._log.info("ending what still runs")
        stopped = engine.stop(self._settings.requeue)
        stopped.addTimeout(STOP_PATIENCE + KILL_PATIENCE, self._reactor)
        if hurried.called:
            self._executor.kill()
        else:
            hurried.addCallback(lambda _: self._executor.kill())
        patience = self._reactor.callLater(STOP_PATIENCE, self._executor.kill)
        try:
            await stopped
        except defer.TimeoutError:
            self._log.error("some jobs do not end though they were killed; the next start looks for them")
        if patience.active():
            patience.cancel()
        gone = self._executor.kill().addTimeout(GONE_TIMEOUT, self._reactor)
        await gone.addErrback(lambda failure: failure.trap(defer.TimeoutError))

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

    def _refuse(self, why: StartRefused) -> NoReturn:
        """End the start: twistd removes its pid file and exits with 1, and we say why in one line."""
        if self._is_daemon:
            self._log.critical("the start is refused: {why}", why=why)
        if self._log_output is not None:
            self._log_output.end()
        for port in self._ports:
            port.stopReading()
            port.connectionLost(Failure(why))  # what stopListening has the reactor do, which will not run
        sys.excepthook = _say_in_one_line
        raise why


def _is_of_threads(why: RuntimeError) -> bool:
    """Whether Python says that the system has no room for another thread."""
    return "can't start new thread" in str(why)


def _attempts(queue_state: QueueState, job_id: int) -> int | None:
    job = queue_state.jobs.get(job_id)
    return None if job is None else job.attempts


def _leftovers(
    table: list[Process], store: str, queue_state: QueueState, is_same_boot: bool
) -> list[Process]:
    """Return the processes that are to be ended before anything else runs.

    Of an interrupted job they are those that have its mark, and its session. Of a job that has ended, they
    are those that are still in its session. A session is known by its leader, if the start time is the same,
    or by a member that has the mark: its number alone may be that of another one by now. Processes that have
    the mark of a job that was removed live on: they have left its session, or it would not have been.
    """
    marks = {one: attempt_of(one.mark, store) for one in table}
    sessions = {one.session for one, of in marks.items() if of and one.session == _pid(queue_state, of[0])}
    if is_same_boot:
        attempts = (job.attempt for job in queue_state.running())
        leaders = {(attempt.pid, attempt.pid_started) for attempt in attempts if attempt is not None}
        sessions |= {one.pid for one in table if one.name in leaders}
    return [
        one
        for one, of in marks.items()
        if one.session in sessions or (of is not None and _is_interrupted(queue_state, of[0]))
    ]


def _pid(queue_state: QueueState, job_id: int) -> int | None:
    """Return the pid of a job's latest attempt, as far as it is known."""
    job = queue_state.jobs.get(job_id)
    return None if job is None or job.attempt is None else job.attempt.pid


def _is_interrupted(queue_state: QueueState, job_id: int) -> bool:
    """Whether a job ran when the daemon was killed; or the journal has not got its start, or the job."""
    job = queue_state.jobs.get(job_id)
    if job is None:
        return job_id > queue_state.last_id
    return job.attempt is None or job.status is Status.RUNNING


def _say_in_one_line(kind: type[BaseException], why: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(why, StartRefused):
        print(f"taskqd: {why}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, why, traceback)
