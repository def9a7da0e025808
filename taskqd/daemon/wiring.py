"""Constructs the objects of a daemon and connects them."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred

from taskqd import __version__
from taskqd.auth.authenticator import Authenticator, open_authenticator
from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.config.resources import units_of
from taskqd.config.settings import Settings
from taskqd.daemon.address_files import SocketAddresses
from taskqd.daemon.audit_log import AuditLog
from taskqd.daemon.clocks import Clocks
from taskqd.daemon.reactor import IReactor
from taskqd.daemon.recovery import Recovery
from taskqd.daemon.runner_launcher import launch_runner
from taskqd.engine.engine import Engine
from taskqd.engine.randomness import Randomness
from taskqd.engine.retention import RetentionTask
from taskqd.execution import proc
from taskqd.execution.messages import VERSIONS, Hello, Start
from taskqd.execution.orphan_reaper import OrphanReaper
from taskqd.execution.privileged_directory import PrivilegedRunnerDirectory
from taskqd.execution.run_as import RunAs
from taskqd.execution.run_builder import RunBuilder
from taskqd.execution.runner_cleanup import OwnCleanup, RequestedCleanup, RunnerCleanup
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.runner_executor import RunnerExecutor
from taskqd.execution.runner_link import RunnerLink
from taskqd.execution.runner_supervisor import IRunnerReactor, Launch, RunnerSupervisor
from taskqd.execution.start_message import make_start
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import Users
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.server import endpoints
from taskqd.server.connection_limits import ConnectionLimits
from taskqd.server.factory import TaskqFactory
from taskqd.server.handlers.event_stream import EventStream
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IShutdown
from taskqd.speedups.reactor import AcceleratedReactor
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.io_threads import IOThreads
from taskqd.storage.journal.compaction import Compactor, write_snapshot
from taskqd.storage.journal.journal import Journal
from taskqd.storage.spool.runner_files import RunnerFiles
from taskqd.storage.spool.spool import Spool
from taskqd.storage.spool.user_files import IUserFiles, UserFiles
from taskqd.storage.state_directory import check_permissions


class Components:
    """The objects that need nothing but the settings and the reactor. Constructing them opens nothing."""

    def __init__(self, settings: Settings, reactor: IReactor) -> None:
        self.settings = settings
        self.reactor = reactor
        self.clocks = Clocks(reactor)
        self.threads = IOThreads(reactor)
        self.boot = proc.boot_id()
        filesystem = Filesystem()
        self.accelerated = AcceleratedReactor(reactor) if settings.speedups else None
        self.executor = RunnerExecutor(reactor)
        state, root_s = (
            settings.state,
            settings.runner_directory and os.path.normpath(settings.runner_directory),
        )
        self.own_runners = RunnerDirectory(os.path.join(state, "runner"))
        self.runners = self.own_runners if root_s is None else PrivilegedRunnerDirectory(root_s)
        self.launched: Launch | None = None
        self.journal = Journal(
            settings.state,
            reactor,
            filesystem,
            self.boot,
            self.clocks,
            self.threads.run,
            self.executor.only_short_lived_processes,
        )
        if self.accelerated is not None:
            self.accelerated.batches.add(self.journal)
        self.run_as = RunAs(
            settings.run_as_owner, Users(reactor.seconds), UserLimits(), by_runner=root_s is not None
        )
        self.user_files: IUserFiles | None = None
        if root_s is not None:
            self.user_files = RunnerFiles(f"{root_s}.jobs")
        elif settings.run_as_owner:
            self.user_files = UserFiles(os.path.abspath(state) + ".jobs")
        self.spool = Spool(settings.state, filesystem, self.threads.run, self.user_files)
        self.spool.on_followed = self.executor.follow
        self.executor.on_output = lambda key, dropped: self.spool.note_output(key.id, key.attempt, dropped)
        if root_s is not None:
            self.executor.finish_output = lambda key: self.spool.finish_output(key.id, key.attempt)
        self.orphans = OrphanReaper(reactor)
        self.addresses = SocketAddresses()

    def launch_runner(self) -> int:
        """Start a runner and return its pid; raises OSError."""
        return launch_runner(self.settings.state, self.runners)

    def launch_early(self) -> None:
        """Start a runner if none lives, so that it is there when this daemon has started; raises OSError."""
        if not self.runners.has_active():
            self.launched = Launch(self.reactor.seconds(), self.launch_runner())

    async def close(self) -> None:
        """Close the files, and end the threads and what they have under way."""
        await self.journal.close()
        self.orphans.stop()
        self.threads.stop()
        if self.user_files is not None:
            self.user_files.close()


class Server(NamedTuple):
    """The objects that serve clients."""

    factory: TaskqFactory
    connections: ConnectionLimits
    audit_log: AuditLog


def make_authenticator(components: Components) -> Authenticator:
    """Read the tokens; raises StartRefused, also if others can use the state directory."""
    settings, uid = components.settings, os.geteuid()
    check_permissions(settings.state, uid)
    return open_authenticator(
        settings.state,
        components.clocks,
        components.threads.run,
        uid=uid,
        roles=settings.roles,
        auth=settings.auth,
        has_ca=any(map(endpoints.has_ca, settings.listen)),
    )


def _open_files(spool: Spool, queue_state: QueueState, start: Start) -> list[int]:
    """Open the files that are sent with a Start; raises OSError."""
    job = queue_state.jobs[start.id]
    opened: list[int] = []
    try:
        for file in start.files:
            if file.kind in ("stdout", "stderr"):
                opened.append(spool.create_output(job.id, start.attempt, file.kind))
            else:
                number = job.spec.script_file if file.kind == "script" else 0
                opened.append(spool.open_block(job.array or job.id, file.kind, number))
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def make_engine(components: Components, queue_state: QueueState, open_files: int | None) -> Engine:
    """Make the engine; ``open_files`` is the soft limit of descriptors for jobs, None for the daemon's."""
    units = units_of(components.settings.resources)
    run_builder = RunBuilder(
        components.spool,
        components.journal.name,
        components.run_as,
        components.user_files,
        open_files,
        components.addresses.for_job,
        lambda: components.executor.base,
        {name: each.variable for name, each in units.items() if each.variable is not None},
    )

    components.executor.open_files = partial(_open_files, components.spool, queue_state)

    def make_start_of(job: Job, attempt: int, word: str) -> Start:
        run = run_builder.build(job, attempt, word)
        spool = components.spool
        return make_start(run, spool.output_paths(job.id, attempt), spool.order_path(job.id, attempt))

    engine = Engine(
        queue_state,
        components.journal,
        components.spool,
        components.executor,
        components.clocks,
        make_start_of,
        Randomness(),
        components.settings.limits.pending_limit,
    )
    components.journal.add_commit_observer(engine.dispatcher)
    return engine


def make_supervisor(
    components: Components, recovery: Recovery, queue_state: QueueState, on_runner: Callable[[int], None]
) -> RunnerSupervisor:
    """Make what keeps the daemon connected to its runners; ``on_runner`` is called with their pids."""
    settings, runners, accelerated = components.settings, components.runners, components.accelerated
    hello = Hello(
        store=components.journal.name,
        versions=VERSIONS,
        release=__version__,
        leave_for=settings.leave_for,
    )
    in_thread = components.threads.run
    reactor = accelerated or components.reactor
    cleanup: RunnerCleanup
    options: dict[str, Any] = {}
    if accelerated is not None:
        options["batch"] = accelerated.batches.batch
    if settings.runner_directory is not None:
        cleanup = RequestedCleanup(components.executor.runners)
        components.executor.on_sweep_done = cleanup.on_swept
        reactor = components.reactor  # the other's sockets send no descriptors
        options |= {"user": 0, "changes_users": True}
    else:
        cleanup = OwnCleanup(
            runners, lambda: Deferred.fromCoroutine(recovery.sweep(queue_state, runners, in_thread))
        )
    return RunnerSupervisor(
        runners,
        components.executor,
        hello,
        cast("IRunnerReactor", reactor),
        None if settings.waits_for_runner else components.launch_runner,
        cleanup,
        components.launched,
        partial(RunnerLink, **options),
        on_runner,
    )


def make_job_view(components: Components, queue_state: QueueState) -> JobView:
    """Make the view of jobs for clients and the ``on_end`` command."""
    return JobView(
        components.journal,
        components.spool,
        lambda job: queue_state.reason(job, components.clocks.elapsed()),
        queue_state.earliest_start,
        proc.is_stopped,
        components.executor.memory_use,
    )


def make_retention_task(components: Components, engine: Engine) -> RetentionTask:
    """Make the task that removes old jobs."""
    return RetentionTask(engine, components.journal, components.settings.retention, components.clocks)


def make_compactor(components: Components, queue_state: QueueState) -> Compactor:
    """Make the task that compacts the journal."""
    return Compactor(
        components.journal,
        components.clocks,
        partial(write_snapshot, components.reactor),
        queue_state.relocate,
        components.threads.run,
        queue_state.jobs.__contains__,
    )


def make_server(
    components: Components,
    engine: Engine,
    job_view: JobView,
    authenticator: Authenticator,
    max_clients: int,
    ports: list[Any],
    shutdown: IShutdown,
) -> Server:
    """Make the factory of connections, of which up to ``max_clients`` may be open.

    ``ports`` are the listening ports, which the caller adds later. ``shutdown`` stops the daemon.
    """
    limits, reactor = components.settings.limits, components.reactor
    connections = ConnectionLimits(limits, max_clients, reactor, authenticator.is_valid, ports)
    router = Router(
        engine,
        job_view,
        authenticator,
        EventStream(components.journal, engine.queue_state, reactor),
        components.clocks,
        Authorizer(engine.queue_state, limits, reactor, _check_run(components.run_as)),
        lambda: len(connections.connections),
        shutdown,
    )
    factory = TaskqFactory(router, connections, reactor)
    authenticator.add_observer(connections.close_expired)
    if components.accelerated is not None:
        components.accelerated.batches.add(factory.submit_batcher)
    audit_log = AuditLog(components.journal, reactor)
    engine.job_input.add_observer(audit_log.on_input)
    return Server(factory, connections, audit_log)


def _check_run(run_as: RunAs) -> Callable[[Principal, Spec], Spec]:
    """Return the check that the user of a submission may run it; it raises Forbidden."""
    return lambda who, spec: run_as.check(who.name, who.uid == 0, spec)
