"""The program ``taskqd-runner``: runs the jobs of one state directory, for a daemon that may come and go."""

import argparse
import fcntl
import gc
import linecache
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from taskqd import __version__
from taskqd.config.paths import NO_HOME, PRIVILEGED_RUNNER, default_state
from taskqd.errors import StartRefused
from taskqd.execution import proc
from taskqd.execution.messages import VERSIONS, Base
from taskqd.execution.orphan_reaper import OrphanReaper
from taskqd.execution.runner_directory import ACTIVE_LOCK, SHARED, RunnerDirectory
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import Users
from taskqd.runner import daemon_user, systemd
from taskqd.runner.admission import Admission, TrustedDaemon
from taskqd.runner.attempt_files import AttemptFiles
from taskqd.runner.daemon_user import DaemonUser
from taskqd.runner.executor import Executor
from taskqd.runner.input_pipe import InputPipes
from taskqd.runner.interfaces import IRunnerReactor
from taskqd.runner.notes import NotesFile
from taskqd.runner.process_base import set_base
from taskqd.runner.protocol import DaemonFactory, default_users
from taskqd.runner.runner import Identity, Runner
from taskqd.runner.session_reactor import SessionReactor
from taskqd.runner.socket_file import RunnerSocket
from taskqd.runner.untrusted_daemon import UntrustedDaemon
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.io_threads import IOThreads

LOCK_TIMEOUT = 2.0
"""Seconds for which a start tries to get a lock whose holder has no name: it retires, or is just starting."""
DIRECTORY_CHECK_INTERVAL = 5.0
"""Seconds between two looks whether the directory of this runner is still there."""
OTHERS_INTERVAL = 0.1
"""Seconds between two looks whether the runners that retire have ended."""
GC_THRESHOLD = 5_000
"""Number of new objects after which Python collects garbage; its default is 700."""

_log = Logger()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until nothing is left to do, or a signal says so."""
    options = _parse(arguments)
    directory = _make_directory(options)
    try:
        user = None if options.daemon_user is None else daemon_user.find_daemon_user(options.daemon_user)
        proc.set_close_on_exec()
        base = set_base()
        if user is None:
            directory.open()
        else:
            daemon_user.open_directory(directory, user)
        active_lock = _lock_active(directory)
    except StartRefused as why:
        sys.exit(f"taskqd-runner: {why}")
    except OSError as why:
        sys.exit(f"taskqd-runner: {directory.path} cannot be used: {why}")
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    _Program(directory, active_lock, base, user, stays=options.stay).run(_reactor())


class _Program:
    """The parts of the runner's process, and its life from the first lock to its exit."""

    def __init__(
        self,
        directory: RunnerDirectory,
        active_lock: int,
        base: Base,
        user: DaemonUser | None = None,
        *,
        stays: bool,
    ) -> None:
        self._user = user
        self._directory = directory
        self._active_lock = active_lock
        self._base = base
        self._stays = stays
        self._name = secrets.token_hex(8)
        self._is_stopping = False
        self._has_exited = False
        self._exited: Deferred[None] | None = None  # fires when the runner has exited in order

    def run(self, reactor: IRunnerReactor) -> None:
        """Listen, and run the reactor until the runner exits."""
        directory, name = self._directory, self._name
        _make_own_lock(directory, name)
        self._reactor = reactor
        sessions = SessionReactor(reactor)
        threads = IOThreads(reactor)
        users = default_users() if self._user is None else frozenset((self._user.uid,))
        runner = self._runner = Runner(
            Identity(name, os.getpid(), __version__, VERSIONS, self._base, stays=self._stays),
            lambda on_cleared: Executor(sessions, reactor, threads.run, on_cleared),
            self._make_admission(reactor, threads),
            InputPipes(IReactorFDSet(reactor)),
            NotesFile(directory.address(f"{name}.ends"), directory.access.file),
            reactor,
            self._on_retire,
            self._on_exit,
        )
        sessions.batch = runner.batch
        self._socket = RunnerSocket(
            directory, name, DaemonFactory(runner, users), reactor, receives_files=self._user is not None
        )
        self._socket.open()
        self._handle_signals()
        _write_lock(self._active_lock, f"{os.getpid()} {name}\n")
        orphans = OrphanReaper(reactor, sessions.children, mutes_signal=True)
        sessions.on_unwatched = orphans.unmute
        orphans.start()
        threads.start()
        _keep_source_closed()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        reactor.callWhenRunning(self._handle_signals)  # again, since the reactor has its own handlers
        self._directory_check = reactor.callLater(DIRECTORY_CHECK_INTERVAL, self._check_directory)
        reactor.addSystemEventTrigger("before", "shutdown", self._before_shutdown)
        reactor.addSystemEventTrigger("after", "shutdown", threads.stop)
        place = directory.state if self._user is None else directory.path
        _log.info("runner {name} of {place} runs as process {pid}", name=name, place=place, pid=os.getpid())
        _log.info("{how}", how=sessions.description)
        reactor.run()

    def _make_admission(self, reactor: IRunnerReactor, threads: IOThreads) -> Admission:
        """Return what admits the daemon's starts; exits if root's directory for jobs cannot be used."""
        user, directory, filesystem = self._user, self._directory, Filesystem()
        if user is None:
            return TrustedDaemon(filesystem, reactor, threads.run)
        files = AttemptFiles(f"{directory.path}.jobs", self._name, user.gid, proc.boot_id())
        try:
            files.open()
        except (StartRefused, OSError) as why:
            sys.exit(f"taskqd-runner: {why}")
        return UntrustedDaemon(
            directory,
            files,
            self._name,
            Users(reactor.seconds),
            UserLimits(),
            filesystem,
            reactor,
            threads.run,
        )

    def _handle_signals(self) -> None:
        """Have the reactor act on signals, also on those that come before it runs."""
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGUSR1: self._socket.reopen,
        }
        for number, handler in handlers.items():
            signal.signal(number, lambda *_, handler=handler: self._reactor.callFromThread(handler))

    def _check_directory(self) -> None:
        """Stop if the state directory was removed: no daemon will ever connect, or hear of the jobs."""
        if self._runner.is_alone and not os.path.exists(self._directory.address(f"{self._name}.lock")):
            _log.error("the directory {path} was removed, so the runner stops", path=self._directory.path)
            self._runner.stop()
        else:
            self._directory_check = self._reactor.callLater(DIRECTORY_CHECK_INTERVAL, self._check_directory)

    def _stop(self) -> None:
        """End all attempts and exit; under a unit, which signals its main process only, all runners do."""
        self._is_stopping = True
        if self._stays:
            for other in self._others():
                self._directory.signal(other, signal.SIGTERM)
        self._runner.stop()

    def _on_retire(self) -> None:
        """Make room for another runner, and start it if this one is of a unit.

        A process that is between fork(2) and execve(2) holds the lock a moment longer. Without a name in it,
        the next runner waits for that.
        """
        os.ftruncate(self._active_lock, 0)
        os.close(self._active_lock)
        if self._stays:
            _start_successor(self._successor_options())

    def _successor_options(self) -> list[str]:
        if self._user is None:
            return ["--state", self._directory.state]
        return ["--daemon-user", self._user.name, "--directory", self._directory.path]

    def _on_exit(self) -> None:
        if self._directory_check.active():
            self._directory_check.cancel()
        self._socket.remove()
        with suppress(FileNotFoundError):
            os.unlink(self._directory.address(f"{self._name}.lock"))
        self._exit()

    def _before_shutdown(self) -> "Deferred[None] | None":
        """Exit in order also if the reactor's own handler has got a signal, as it may before ours are set."""
        if self._has_exited:
            return None
        self._exited = Deferred()
        self._stop()
        return self._exited

    def _exit(self) -> None:
        """Stop the reactor; at the stop of a unit, when all other runners have ended."""
        if self._stays and self._is_stopping and self._others():
            self._reactor.callLater(OTHERS_INTERVAL, self._exit)
        else:
            self._has_exited = True
            if self._exited is None:
                self._reactor.stop()
            else:
                self._exited.callback(None)

    def _others(self) -> list[str]:
        """Return the names of the other runners that live: they retire."""
        try:
            names = [name for name in self._directory.names() if name != self._name]
        except FileNotFoundError:  # the state directory was removed
            return []
        return [name for name in names if self._directory.is_alive(name)]


def _keep_source_closed() -> None:
    """Log tracebacks without source lines: an upgrade may have replaced or removed the files."""
    linecache.updatecache = lambda *_: []


def _start_successor(options: list[str]) -> None:
    """Start the runner that accepts the next starts, in the control group of this one, and tell systemd."""
    program = [sys.executable, "-m", "taskqd.runner", *options, "--stay"]
    try:
        successor = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    except OSError as why:
        _log.error("the next runner cannot be started: {why}; start it: systemctl restart", why=why)
        return
    systemd.notify(f"MAINPID={successor.pid}")


def _reactor() -> IRunnerReactor:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    the_reactor = cast("IRunnerReactor", reactor)
    the_reactor.seconds = time.monotonic  # type: ignore[method-assign] # Twisted's hook
    return the_reactor


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="taskqd-runner",
        description="Runs the jobs of a taskqd daemon, and goes on when the daemon stops. The daemon starts "
        "it by itself; start it only if the daemon has the setting runner = wait.",
    )
    parser.add_argument("--state", metavar="DIR", help="the state directory of the daemon")
    parser.add_argument("--stay", action="store_true", help="do not exit when there is nothing to do")
    parser.add_argument(
        "--daemon-user",
        metavar="USER",
        help="be root's runner for the daemon of this user, and run each job as its owner",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        help=f"the directory of a runner with --daemon-user, which the daemon has as runner-directory  "
        f"[default: {PRIVILEGED_RUNNER}]",
    )
    parser.add_argument("--version", action="version", version=f"taskqd-runner {__version__}")
    options = parser.parse_args(arguments)
    if options.daemon_user is None and options.directory is not None:
        parser.error("--directory needs --daemon-user; without it the directory is below --state")
    if options.daemon_user is not None and options.state is not None:
        parser.error("--state cannot be used with --daemon-user: that runner opens no state directory")
    return options


def _make_directory(options: argparse.Namespace) -> RunnerDirectory:
    if options.daemon_user is not None:
        return RunnerDirectory(options.directory or PRIVILEGED_RUNNER, SHARED)
    state = os.path.abspath(options.state or _default_state())
    return RunnerDirectory(os.path.join(state, "runner"))


def _default_state() -> str:
    state = default_state(os.environ, os.geteuid())
    if not os.path.isabs(state):
        sys.exit(f"taskqd-runner: {NO_HOME.format(uid=os.geteuid())}")
    return state


def _lock_active(directory: RunnerDirectory) -> int:
    """Return the descriptor of the lock of the runner that accepts starts; exit if another one has it."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            descriptor = _lock(directory.file(ACTIVE_LOCK), directory.access.file)
        except BlockingIOError:
            active = directory.active()
            if active is not None or time.monotonic() >= deadline:
                who = "another runner" if active is None else f"runner {active.name}, process {active.pid},"
                sys.exit(f"taskqd-runner: {who} runs the jobs of this state directory")
            time.sleep(0.01)
        else:
            os.ftruncate(descriptor, 0)  # the name in it is that of a dead runner
            return descriptor


def _make_own_lock(directory: RunnerDirectory, name: str) -> None:
    """Lock NAME.lock until this process ends; the file never exists without the lock."""
    path = directory.file(f"{name}.new")
    _write_lock(_lock(path, directory.access.file), f"{os.getpid()}\n")
    os.rename(path, directory.file(f"{name}.lock"))


def _lock(path: str, mode: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_lock(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("ascii"), 0)
