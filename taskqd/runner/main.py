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
from functools import partial
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from taskqd import __version__
from taskqd.config.paths import NO_HOME, default_state
from taskqd.execution import proc
from taskqd.execution.messages import VERSIONS, Base, Start
from taskqd.execution.orphan_reaper import OrphanReaper
from taskqd.execution.runner_directory import ACTIVE_LOCK, RunnerDirectory
from taskqd.runner import systemd
from taskqd.runner.executor import Executor
from taskqd.runner.interfaces import IRunnerReactor
from taskqd.runner.notes import NotesFile
from taskqd.runner.process_base import set_base
from taskqd.runner.protocol import DaemonFactory, default_users
from taskqd.runner.runner import Identity, Runner
from taskqd.runner.session_reactor import SessionReactor
from taskqd.runner.socket_file import RunnerSocket
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread
from taskqd.storage.io_threads import IOThreads
from taskqd.storage.spool.output import OutputWriter

LOCK_TIMEOUT = 2.0
"""Seconds for which a start tries to get the lock: a runner that retires releases it after its last start."""
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
    state = os.path.abspath(options.state or _default_state())
    directory = RunnerDirectory(os.path.join(state, "runner"))
    proc.set_close_on_exec()
    base = set_base()
    try:
        directory.open()
        active_lock = _lock_active(directory)
    except OSError as why:
        sys.exit(f"taskqd-runner: {directory.path} cannot be used: {why}")
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    _Program(directory, active_lock, base, stays=options.stay).run(_reactor())


class _Program:
    """The parts of the runner's process, and its life from the first lock to its exit."""

    def __init__(self, directory: RunnerDirectory, active_lock: int, base: Base, *, stays: bool) -> None:
        self._directory = directory
        self._active_lock = active_lock
        self._base = base
        self._stays = stays
        self._name = secrets.token_hex(8)
        self._is_stopping = False

    def run(self, reactor: IRunnerReactor) -> None:
        """Listen, and run the reactor until the runner exits."""
        directory, name = self._directory, self._name
        _make_own_lock(directory, name)
        self._reactor = reactor
        sessions = SessionReactor(reactor)
        threads = IOThreads(reactor)
        runner = self._runner = Runner(
            Identity(name, os.getpid(), __version__, VERSIONS, self._base, stays=self._stays),
            lambda on_cleared: Executor(sessions, reactor, threads.run, on_cleared),
            partial(_open_output, Filesystem(), reactor, threads.run),
            NotesFile(directory.address(f"{name}.ends")),
            reactor,
            self._on_retire,
            self._on_exit,
        )
        self._socket = RunnerSocket(directory, name, DaemonFactory(runner, default_users()), reactor)
        self._socket.open()
        _write_lock(self._active_lock, f"{os.getpid()} {name}\n")
        OrphanReaper(reactor, sessions.children).start()
        threads.start()
        _keep_source_closed()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        reactor.callWhenRunning(self._handle_signals)
        reactor.callLater(DIRECTORY_CHECK_INTERVAL, self._check_directory)
        reactor.addSystemEventTrigger("after", "shutdown", threads.stop)
        state, pid = directory.state, os.getpid()
        _log.info("runner {name} of {state} runs as process {pid}", name=name, state=state, pid=pid)
        _log.info("{how}", how=sessions.description)
        reactor.run()

    def _handle_signals(self) -> None:
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
            self._reactor.callLater(DIRECTORY_CHECK_INTERVAL, self._check_directory)

    def _stop(self) -> None:
        """End all attempts and exit; under a unit, which signals its main process only, all runners do."""
        self._is_stopping = True
        if self._stays:
            for other in self._others():
                self._directory.signal(other, signal.SIGTERM)
        self._runner.stop()

    def _on_retire(self) -> None:
        """Make room for another runner, and start it if this one is of a unit."""
        os.close(self._active_lock)
        if self._stays:
            _start_successor(self._directory.state)

    def _on_exit(self) -> None:
        self._socket.remove()
        with suppress(FileNotFoundError):
            os.unlink(self._directory.address(f"{self._name}.lock"))
        self._exit()

    def _exit(self) -> None:
        """Stop the reactor; at the stop of a unit, when all other runners have ended."""
        if self._stays and self._is_stopping and self._others():
            self._reactor.callLater(OTHERS_INTERVAL, self._exit)
        else:
            self._reactor.stop()

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


def _open_output(
    filesystem: Filesystem, clock: IReactorTime, in_thread: InThread, start: Start
) -> OutputWriter:
    paths = {
        stream: os.fsdecode(path.encode(start.encoding))
        for stream, path in ((1, start.stdout), (2, start.stderr))
    }
    return OutputWriter(paths, filesystem, clock, in_thread, start.max_output, [])


def _start_successor(state: str) -> None:
    """Start the runner that accepts the next starts, in the control group of this one, and tell systemd."""
    program = [sys.executable, "-m", "taskqd.runner", "--state", state, "--stay"]
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
    parser.add_argument("--version", action="version", version=f"taskqd-runner {__version__}")
    return parser.parse_args(arguments)


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
            descriptor = _lock(directory.file(ACTIVE_LOCK))
        except BlockingIOError:
            if time.monotonic() >= deadline:
                active = directory.active()
                who = "another runner" if active is None else f"runner {active.name}, process {active.pid},"
                sys.exit(f"taskqd-runner: {who} runs the jobs of this state directory")
            time.sleep(0.01)
        else:
            os.ftruncate(descriptor, 0)  # the name in it is that of a dead runner
            return descriptor


def _make_own_lock(directory: RunnerDirectory, name: str) -> None:
    """Lock NAME.lock until this process ends; the file never exists without the lock."""
    path = directory.file(f"{name}.new")
    _write_lock(_lock(path), f"{os.getpid()}\n")
    os.rename(path, directory.file(f"{name}.lock"))


def _lock(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_lock(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("ascii"), 0)
