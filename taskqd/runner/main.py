"""The program ``taskqd-runner``: runs the jobs of one state directory, for a daemon that may come and go."""

import argparse
import fcntl
import gc
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from twisted.internet import unix
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from taskqd import __version__
from taskqd.config.paths import NO_HOME, default_state
from taskqd.execution import proc
from taskqd.execution.messages import VERSIONS, Start
from taskqd.execution.orphan_reaper import OrphanReaper
from taskqd.execution.runner_directory import ACTIVE_LOCK, RunnerDirectory
from taskqd.runner import systemd
from taskqd.runner.executor import Executor
from taskqd.runner.notes import NotesFile
from taskqd.runner.process_base import set_base
from taskqd.runner.protocol import DaemonFactory, default_users
from taskqd.runner.runner import Identity, Runner
from taskqd.runner.session_reactor import SessionReactor
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.io_threads import IOThreads
from taskqd.storage.spool.output import OutputWriter

LOCK_TIMEOUT = 2.0
"""Seconds for which a start tries to get the lock: a runner that retires releases it after its last start."""
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
    name = secrets.token_hex(8)
    _make_own_lock(directory, name)
    reactor = _reactor()
    sessions = SessionReactor(reactor)
    threads = IOThreads(reactor)
    filesystem = Filesystem()

    def open_output(start: Start) -> OutputWriter:
        paths = {1: os.fsdecode(start.stdout.encode(start.encoding))}
        paths[2] = os.fsdecode(start.stderr.encode(start.encoding))
        return OutputWriter(paths, filesystem, reactor, threads.run, start.max_output, [])

    is_stopping = False

    def on_retire() -> None:
        os.close(active_lock)
        if options.stay:
            _start_successor(state)

    def on_exit() -> None:
        directory_socket.remove()
        with suppress(FileNotFoundError):
            os.unlink(directory.file(f"{name}.lock"))
        _stop_when_alone(reactor, directory, name, waits=options.stay and is_stopping)

    def stop() -> None:
        nonlocal is_stopping
        is_stopping = True
        if options.stay:  # a unit signals its main process only
            for other in directory.names():
                if other != name:
                    directory.signal(other, signal.SIGTERM)
        runner.stop()

    runner = Runner(
        Identity(name, os.getpid(), __version__, VERSIONS, base, stays=options.stay),
        lambda on_cleared: Executor(sessions, reactor, threads.run, on_cleared),
        open_output,
        NotesFile(directory.notes_path(name)),
        reactor,
        on_retire,
        on_exit,
    )
    directory_socket = _Socket(directory, name, DaemonFactory(runner, default_users()), reactor)
    directory_socket.open()
    _write_lock(active_lock, f"{os.getpid()} {name}\n")
    orphans = OrphanReaper(reactor, sessions.children)
    orphans.start()
    threads.start()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    reactor.callWhenRunning(_handle_signals, reactor, stop, directory_socket.reopen)
    reactor.addSystemEventTrigger("after", "shutdown", threads.stop)
    _log.info("runner {name} of {state} runs as process {pid}", name=name, state=state, pid=os.getpid())
    _log.info("{how}", how=sessions.description)
    reactor.run(installSignalHandlers=True)


class _Socket:
    """The listening socket of this runner; somebody may remove its file."""

    def __init__(self, directory: RunnerDirectory, name: str, factory: DaemonFactory, reactor: Any) -> None:
        self._path = directory.file(f"{name}.sock")
        self._address = directory.socket_address(name)
        self._factory = factory
        self._reactor = reactor
        self._port: Any = None

    def open(self) -> None:
        """Listen; the file is accessible to this user only."""
        self._port = unix.Port(self._address.encode(), self._factory, 5, 0o600, self._reactor)
        self._port.startListening()

    def reopen(self) -> None:
        """Listen on a new socket: the file of the old one was removed."""
        self.remove()
        self.open()

    def remove(self) -> None:
        """Stop listening, and remove the file."""
        port, self._port = self._port, None
        if port is not None:
            port.stopReading()
            port.connectionLost(None)
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def _handle_signals(reactor: Any, stop: Callable[[], None], reopen: Callable[[], None]) -> None:
    for number, handler in {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: reopen}.items():
        signal.signal(number, lambda *_, handler=handler: reactor.callFromThread(handler))


def _start_successor(state: str) -> None:
    """Start the runner that accepts the next starts, in the control group of this one, and tell systemd."""
    program = [sys.executable, "-m", "taskqd.runner", "--state", state, "--stay"]
    try:
        successor = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    except OSError as why:
        _log.error("the next runner cannot be started: {why}; start it: systemctl restart", why=why)
        return
    systemd.notify(f"MAINPID={successor.pid}")


def _stop_when_alone(reactor: Any, directory: RunnerDirectory, name: str, *, waits: bool) -> None:
    """Stop the reactor; if it ``waits``, when all other runners have ended."""
    others = [other for other in directory.names() if other != name and directory.is_alive(other)]
    if waits and others:
        reactor.callLater(OTHERS_INTERVAL, partial(_stop_when_alone, reactor, directory, name, waits=True))
    else:
        reactor.stop()


def _reactor() -> Any:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    the_reactor = cast("Any", reactor)
    the_reactor.seconds = time.monotonic
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
            return _lock(directory.file(ACTIVE_LOCK))
        except BlockingIOError:
            if time.monotonic() >= deadline:
                active = directory.active()
                who = "another runner" if active is None else f"runner {active.name}, process {active.pid},"
                sys.exit(f"taskqd-runner: {who} runs the jobs of this state directory")
            time.sleep(0.01)


def _make_own_lock(directory: RunnerDirectory, name: str) -> None:
    """Lock NAME.lock until this process ends; nobody ever sees the file without the lock."""
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
