"""The daemon as a service of twistd: the order of its start and of its stop.

Everything that can refuse a start happens in ``startService``, before the reactor runs: the lock, the replay
of the journal, the recovery from a crash, the ports. During a stop the daemon goes on answering clients until
the end: it accepts no new jobs, and leaves the running jobs or ends them, as the request to stop says.
"""

import os
import sys
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorUNIX
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.authenticator import Authenticator
from taskqd.config.resources import totals_of, units_of
from taskqd.config.settings import OnStop, Settings
from taskqd.daemon import descriptor_limit, pid_file, signals, wiring
from taskqd.daemon.garbage_collection import GarbageCollection
from taskqd.daemon.leave_check import LeaveCheck, find_obstacle
from taskqd.daemon.log_output import LogOutput
from taskqd.daemon.reactor import IReactor
from taskqd.daemon.recovery import REBOOTED, Recovery, attempts_of, script_file_of
from taskqd.daemon.shutdown import stop_jobs
from taskqd.daemon.stop_request import StopRequests
from taskqd.daemon.wiring import Components, Server
from taskqd.engine.end_hook import EndHook
from taskqd.engine.engine import Engine
from taskqd.engine.recurring import RecurringSubmitter
from taskqd.engine.retention import RetentionTask
from taskqd.errors import StartRefused
from taskqd.execution import proc
from taskqd.execution.runner_supervisor import RunnerSupervisor
from taskqd.model.job import Job
from taskqd.server import endpoints
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IShutdown
from taskqd.server.unix_port import SocketWatch
from taskqd.state.capacity import Capacity, CapacityTotals
from taskqd.state.queue_state import QueueState
from taskqd.storage.io_threads import is_thread_shortage
from taskqd.storage.journal.compaction import Compactor

CHECK_INTERVAL = 2.0
"""Seconds between two checks that the files of the sockets and of the journal are still there."""


class Running(NamedTuple):
    """The parts of a daemon that has started, for its stop."""

    engine: Engine
    authenticator: Authenticator
    server: Server
    recurring: RecurringSubmitter
    retention: RetentionTask
    compactor: Compactor
    supervisor: RunnerSupervisor
    garbage_collection: GarbageCollection


@implementer(IShutdown)
class TaskqService(Service):
    """One daemon. ``owner`` is the (uid, gid) that twistd switches to, None if it keeps its user."""

    _log = Logger()
    name = "taskq"

    def __init__(
        self,
        settings: Settings,
        reactor: IReactor,
        owner: tuple[int, int] | None,
        is_daemon: bool,
        pid_file: str | None = None,
        log_output: LogOutput | None = None,
    ) -> None:
        self.settings = settings
        self.owner = owner
        self.is_daemon = is_daemon
        self.components = Components(settings, reactor)
        self._reactor = reactor
        self._pid_file = pid_file
        self._log_output = log_output
        self._ports: list[Any] = []  # ports of Twisted, with more methods than IListeningPort has
        self._checks: list[LoopingCall] = []
        self._running: Running | None = None
        self._stop_requests = StopRequests(settings.on_stop)
        find = partial(find_obstacle, self.components.threads.run)
        self._leave_check = LeaveCheck(self._stop_requests, find)
        self._settled: list[Deferred[None]] | None = []  # None when the jobs are as the stop leaves them

    def setServiceParent(self, parent: Any) -> None:
        """Become a part of twistd's application, and have it write the log to our output."""
        super().setServiceParent(parent)
        if self._log_output is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log_output)

    # Start.

    def privilegedStartService(self) -> None:
        """Make the directories that only root can make, for the user that twistd switches to."""
        if self._pid_file:
            pid_file.lock(self._pid_file)
        sockets = filter(None, map(endpoints.socket_path, self.settings.listen))
        try:
            for directory in (self.settings.state, *map(os.path.dirname, sockets)):
                if directory and not os.path.isdir(directory):
                    os.makedirs(directory, 0o700)
                    if self.owner is not None:
                        os.chown(directory, *self.owner)
        except OSError as why:
            self._refuse(
                StartRefused(
                    f"a directory cannot be made: {why}; make it, or choose another with --state or --listen"
                )
            )

    def startService(self) -> None:
        try:
            self._start()
        except StartRefused as why:
            self._refuse(why)
        except RuntimeError as why:
            if not is_thread_shortage(why):
                raise
            self._refuse(
                StartRefused(
                    f"the daemon's threads cannot be started: {why}; raise the limit of processes "
                    "(ulimit -u, or TasksMax of the unit)"
                )
            )
        except OSError as why:
            self._refuse(self._state_directory_error(why))
        super().startService()

    def _start(self) -> None:
        parts = self.components
        signals.reset()
        signals.on_stop_signal(self._reactor, self._on_stop_signal)
        signals.on_hangup(self._reactor, self.request_stop)
        open_files = descriptor_limit.raise_limit()
        self.settings = replace(self.settings, slots=descriptor_limit.usable_slots(self.settings.slots))
        proc.set_close_on_exec()
        parts.orphans.start()
        parts.run_as.open()
        parts.journal.lock()
        if parts.run_as.by_runner:
            self._check_own_runners()
        parts.runners.open()
        if not self.settings.waits_for_runner:
            parts.launch_early()
        authenticator = self._make_authenticator()
        recovery = Recovery(parts.journal, parts.clocks, parts.boot)
        queue_state = self._recover(recovery)
        engine = wiring.make_engine(parts, queue_state, open_files)
        ended = self._record_ends(recovery, engine)
        job_view = wiring.make_job_view(parts, queue_state)
        server = self._listen(engine, job_view, authenticator)
        authenticator.start()
        parts.threads.start()
        recurring = RecurringSubmitter(engine, parts.clocks, self.settings.limits.pending_limit_per_user)
        self._start_end_hook(engine, job_view, ended)
        engine.start()
        supervisor = wiring.make_supervisor(parts, recovery, queue_state, self._leave_check.start)
        supervisor.start()
        if not self.settings.waits_for_runner:
            self._leave_check.start(None)
        recurring.start()
        engine.clock_jumps.start()
        retention = wiring.make_retention_task(parts, engine)
        retention.start()
        compactor = wiring.make_compactor(parts, queue_state)
        compactor.start()
        self._start_checks()
        garbage_collection = GarbageCollection(
            self._reactor, lambda: len(queue_state.jobs), lambda: len(server.connections.connections)
        )
        garbage_collection.start()
        self._running = Running(
            engine,
            authenticator,
            server,
            recurring,
            retention,
            compactor,
            supervisor,
            garbage_collection,
        )

    def _check_own_runners(self) -> None:
        """Refuse the start if a runner of before ``runner-directory`` still runs: its jobs would be lost."""
        runners = self.components.own_runners
        with suppress(FileNotFoundError):
            alive = [name for name in runners.names() if runners.is_alive(name)]
            if alive:
                raise StartRefused(
                    f"runner {alive[0]} in {runners.path} still runs, and was started without "
                    "runner-directory: end its jobs without that first (`taskq shutdown --end --wait`)"
                )

    def _make_authenticator(self) -> Authenticator:
        authenticator = wiring.make_authenticator(self.components)
        listen = self.settings.listen
        if not authenticator.accepts_remote_clients and not all(map(endpoints.is_local, listen)):
            self._log.warn(
                "there is no token yet, so no client can use a TCP port: make one with `taskq token add NAME "
                "--role submit --state {state}`",
                state=self.settings.state,
            )
        return authenticator

    def _recover(self, recovery: Recovery) -> QueueState:
        """Replay the journal, remove files of unknown jobs, and end processes that a crash left running."""
        parts, settings = self.components, self.settings
        queue_state = recovery.replay(
            CapacityTotals(
                slots=settings.slots,
                max_slots=descriptor_limit.max_usable_slots(),
                queues=settings.queues,
                resources=totals_of(settings.resources),
                units={name: each.names for name, each in units_of(settings.resources).items()},
                fair=settings.fair_queues,
                rates=settings.queue_rates,
                slots_per_user=settings.limits.slots_per_user,
            )
        )
        self._log_set_slots(queue_state.capacity)
        self._log.info("{state}: {count} jobs known", state=settings.state, count=len(queue_state.jobs))
        parts.journal.start_writing(queue_state.last_id)
        recovery.record_clock_jump(queue_state)
        try:
            parts.spool.open()
            running = {job.id: job.attempt for job in queue_state.running() if job.attempt is not None}
            removed = parts.spool.sweep(
                lambda job_id: attempts_of(queue_state, job_id),
                running,
                queue_state.schedules.file_names(),
                lambda job_id: script_file_of(queue_state, job_id),
                environments := queue_state.environments.hashes,
            )
            missing = parts.spool.environments.missing(environments)
        except OSError as why:
            raise self._state_directory_error(why) from None
        if removed:
            self._log.info("removed {count} files of jobs that are not known any more", count=removed)
        if missing:
            self._log.warn(
                "{count} environments of jobs are missing in {state}/input/environments, and these jobs "
                "cannot be started; stop the daemon and restore the files from the copy that has them",
                count=missing,
                state=settings.state,
            )
        if not parts.run_as.by_runner:
            recovery.end_leftovers(queue_state, parts.runners)
        if parts.user_files is not None:
            try:
                parts.user_files.open({(job_id, it.number, it.word) for job_id, it in running.items()})
            except OSError as why:
                raise StartRefused(
                    f"the directory for the files of other users' jobs cannot be used: {why}; check the disk "
                    "and the permissions beside the state directory"
                ) from None
        return queue_state

    def _log_set_slots(self, capacity: Capacity) -> None:
        """Log the slots that SET-SLOTS has set, as they win over those of the settings."""
        if capacity.set_slots is not None:
            self._log.info(
                "{slots} slots, as {set} were set by `taskq slots`; the settings have {settings}",
                slots=capacity.slots,
                set=capacity.set_slots,
                settings=self.settings.slots,
            )

    def _record_ends(self, recovery: Recovery, engine: Engine) -> list[Job]:
        """Record the ends of attempts whose runners are dead and return their jobs; adopt the others.

        All attempts of root's runners are adopted, unless this is a copy: the next runner must first end what
        a dead one has left.
        """
        runners = self.components.runners
        if self.components.run_as.by_runner and not self.components.journal.is_copy:
            if recovery.is_rebooted:
                self.components.executor.adopted_detail = REBOOTED
            engine.dispatcher.adopt_running()
            return []
        dead = [name for name in runners.names() if not runners.is_alive(name)]
        ended = engine.dispatcher.recover(recovery.outcomes(engine.queue_state, runners))
        for job in ended:
            status = job.status.value
            self._log.info(
                "job {id} has ended while no daemon ran; it is {status} now", id=job.id, status=status
            )
        for name in dead:
            runners.remove(name)
        engine.dispatcher.adopt_running()
        return ended

    def _listen(self, engine: Engine, job_view: JobView, authenticator: Authenticator) -> Server:
        settings = self.settings
        capacity = engine.queue_state.capacity
        max_clients = descriptor_limit.usable_connections(settings.limits, capacity.slots)
        server = wiring.make_server(
            self.components, engine, job_view, authenticator, max_clients, self._ports, self
        )
        engine.queue_commands.add_slots_observer(
            lambda: server.connections.set_max_connections(
                descriptor_limit.usable_connections(settings.limits, capacity.slots)
            )
        )
        refusals: list[Failure] = []

        def opened(port: Any) -> None:
            endpoints.limit_accepts(port, lambda: server.connections.available)
            self._ports.append(port)

        reactor = IReactorUNIX(self.components.accelerated or self._reactor)
        for endpoint in settings.listen:
            listening = endpoints.listen(reactor, endpoint, server.factory)
            listening.addCallbacks(opened, refusals.append)
        for failure in refusals:
            failure.raiseException()
        self._write_address_file()
        self._log.info("listening on {listen}", listen=" ".join(settings.listen))
        return server

    def _write_address_file(self) -> None:
        """Let jobs and ``taskq`` find the daemon's socket; without the file they may not."""
        addresses = self.components.addresses
        for port in self._ports:
            addresses.add(port)
        try:
            addresses.write_file(self.settings.state)
        except OSError as why:
            self._log.warn(
                "the file with the daemon's address cannot be written: {why}; `taskq` may need --address",
                why=why,
            )

    def _start_end_hook(self, engine: Engine, job_view: JobView, ended: list[Job]) -> None:
        """Run the ``on_end`` command from now on, first for the jobs that ended without a daemon."""
        if self.settings.on_end is None:
            return
        hook = EndHook(engine.submissions, job_view.describe, self.settings.on_end)
        engine.add_end_observer(hook.on_job_ended)
        queue_state = engine.queue_state
        for job in {queue_state.array_of(job).id: queue_state.array_of(job) for job in ended}.values():
            if job.status.is_final:
                hook.on_job_ended(job)

    def _start_checks(self) -> None:
        """Check every few seconds the files that others may remove: those of the sockets and the journal."""
        sockets = SocketWatch(self._ports, self.components.threads.run, endpoints.remove_stale_socket)
        for check in (sockets.check, self.components.journal.check_location):
            loop = LoopingCall(check)
            loop.clock = self._reactor
            loop.start(CHECK_INTERVAL, now=False).addErrback(self._on_check_failed)
            self._checks.append(loop)

    def _on_check_failed(self, failure: Failure) -> None:
        self._log.failure(
            "internal error: the files of the sockets or of the journal are not checked any more", failure
        )

    def _state_directory_error(self, why: OSError) -> StartRefused:
        return StartRefused(
            f"the state directory {self.settings.state} cannot be used: {why}; check its permissions and "
            "its disk"
        )

    def _refuse(self, why: StartRefused) -> NoReturn:
        """End the start: twistd removes its pid file and exits with 1; the reason is printed in one line."""
        if self.is_daemon:
            self._log.critical("the start is refused: {why}", why=why)
        if self._log_output is not None:
            self._log_output.end()
        for port in self._ports:
            port.stopReading()
            port.connectionLost(Failure(why))  # as stopListening would later, but the reactor will not run
        sys.excepthook = print_refusal
        raise why

    # Stop.

    @property
    def stop_mode(self) -> OnStop:
        """The fate of running jobs at the requested stop; if none was requested, at a SIGTERM."""
        return self._stop_requests.mode

    @property
    def leave_obstacle(self) -> str | None:
        """Why a stop ends running jobs, though the setting ``on-stop`` is "leave"; else None."""
        return self._stop_requests.obstacle if self.settings.on_stop is OnStop.LEAVE else None

    def request_stop(self, ends_jobs: bool | None = None) -> "Deferred[None]":
        """Stop the daemon, and end running jobs or leave them; None does what ``on-stop`` says.

        The Deferred fires before the connections close: when all jobs have ended and that is recorded, or
        when they are left. If they cannot outlive the daemon, each stop ends them.
        """
        self._stop_requests.add(ends_jobs)
        self._stop_reactor()
        if self._settled is None:
            return succeed(None)
        settled: Deferred[None] = Deferred()
        self._settled.append(settled)
        return settled

    def _on_stop_signal(self, number: int, stop_by_signal: signals.Handler | None) -> None:
        is_first = self._stop_requests.request is None
        self._stop_requests.add_signal(number)
        if stop_by_signal is None:
            self._stop_reactor()
        elif is_first:
            stop_by_signal(number, None)

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):  # it is stopping already
            self._reactor.stop()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        self._stop_requests.begin()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._running is not None:
            for check in self._checks:
                if check.running:
                    check.stop()
            await self._end(self._running)
        if self._log_output is not None:
            self._log_output.end()

    async def _end(self, running: Running) -> None:
        """Stop each part after those that still need it."""
        running.recurring.stop()
        running.retention.stop()
        running.compactor.stop()
        running.engine.clock_jumps.stop()
        running.engine.expirations.stop()
        running.garbage_collection.stop()
        await self._leave_check.finished()
        await stop_jobs(
            running.engine.dispatcher,
            self.components.executor,
            self._reactor,
            self.settings.stop_grace,
            self._stop_requests,
        )
        settled, self._settled = self._settled or [], None
        for waiter in settled:
            waiter.callback(None)
        await running.supervisor.stop()
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        await running.server.factory.close()
        running.authenticator.stop()
        running.server.audit_log.stop()
        await self.components.close()


def print_refusal(kind: type[BaseException], why: BaseException, traceback: TracebackType | None) -> None:
    """Print a refused start in one line, any other exception with its traceback (``sys.excepthook``)."""
    if isinstance(why, StartRefused):
        print(f"taskqd: {why}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, why, traceback)
