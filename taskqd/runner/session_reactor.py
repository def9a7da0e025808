"""Spawns processes in new sessions, and reaps each by its pidfd (pidfd_open(2)).

Twisted asks each of its children at every SIGCHLD whether it has exited, which costs 1.6 ms per exit beside
2,000 running ones. A pidfd becomes readable when its process has exited, so an exit costs the same beside any
number of them.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import (
    IProcessProtocol,
    IReactorFDSet,
    IReactorProcess,
    IReadDescriptor,
)
from twisted.internet.process import reapProcessHandlers
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.runner import session_process
from taskqd.runner.interfaces import ISessionProtocol
from taskqd.runner.session_process import SessionProcess


@implementer(IReactorProcess)
class SessionReactor:
    """Has its own ``spawnProcess`` over ``reactor``; ``children`` are those that it reaps itself, by pid.

    If this Twisted or C library is unknown, ``reactor`` spawns setsid(1) in front of the program, which
    starts the session about a millisecond later, and no resource usage is known. Twisted reaps those
    processes, and all if there are no pidfds (Linux 5.3); the log says which.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorProcess,
        *,
        starts_sessions: bool | None = None,
        has_pidfds: bool | None = None,
    ) -> None:
        self.children: dict[int, SessionProcess] = {}
        self._reactor = reactor
        self._starts_sessions = starts_sessions
        self._has_pidfds = has_pidfds
        if starts_sessions is None:
            self._starts_sessions = session_process.is_supported()
        if has_pidfds is None:
            self._has_pidfds = _has_pidfds() and IReactorFDSet.providedBy(reactor)
        if not (self._starts_sessions and self._has_pidfds):
            self._log.warn("{description}, which costs more", description=self.description)

    @property
    def description(self) -> str:
        """How processes are started, and what reaps them."""
        if not self._starts_sessions:
            return "processes are started by setsid(1) and Twisted, which reaps them at SIGCHLD"
        reaper = "reaped by their pidfds" if self._has_pidfds else "reaped by Twisted at SIGCHLD"
        return f"processes are started by posix_spawn(3) and {reaper}"

    def spawnProcess(  # noqa: PLR0913, PLR0917 - as IReactorProcess has it
        self,
        processProtocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str] = (),
        env: Mapping[Any, Any] | None = None,
        path: bytes | str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: object = 0,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> Any:
        """Start a program, by its path, as the leader of a new session.

        The protocol is an ISessionProtocol, and its process may have exited when this returns. Raises OSError
        if it cannot be started, and ValueError for ``path``, ``uid``, ``gid`` and ``usePTY``.
        """
        protocol = ISessionProtocol(processProtocol)
        if usePTY or not (path is None is uid is gid):
            raise ValueError("a process in a session has no path, uid, gid and terminal")
        if not self._starts_sessions:
            return self._spawn_setsid(protocol, executable, args, env, childFDs)
        environment = os.environ if env is None else env
        process = SessionProcess(
            self._reactor, executable, args, environment, None, protocol, None, None, childFDs
        )
        if self._has_pidfds:
            self._watch(process)
        return process

    def _spawn_setsid(
        self,
        protocol: ISessionProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str],
        env: Mapping[Any, Any] | None,
        childFDs: Mapping[int, int | str] | None,
    ) -> Any:
        words = [b"setsid", executable, *args[1:]]
        process: Any = self._reactor.spawnProcess(protocol, b"setsid", words, env=env, childFDs=childFDs)
        protocol.pipesOpened([pipe.fileno() for pipe in process.pipes.values()])  # setsid(1) still executes
        return process

    def _watch(self, process: SessionProcess) -> None:
        """Reap a process by its pidfd in place of Twisted, which goes on if no descriptor is free."""
        pid = process.pid
        if pid is None:  # it has exited already
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as why:
            self._log.warn("process {pid} is reaped by Twisted: {why}", pid=pid, why=why)
            return
        ExitWatch(IReactorFDSet(self._reactor), process, pid, descriptor, self.children)


@implementer(IReadDescriptor)
class ExitWatch:
    """Reaps a process when it exits; until then it is one of ``children``, and not in Twisted's table."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        process: SessionProcess,
        pid: int,
        descriptor: int,
        children: dict[int, SessionProcess],
    ) -> None:
        self._reactor = reactor
        self._process = process
        self._pid = pid
        self._descriptor = descriptor
        self._children = children
        children[pid] = process
        process.on_reaped = self._stop
        reapProcessHandlers.pop(pid, None)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "exit of a process"

    def doRead(self) -> None:
        self._process.reapProcess()

    def connectionLost(self, reason: Failure) -> None:
        """Leave the process to Twisted: the reactor watches the descriptor no more."""
        self._stop()
        self._process.on_reaped = None
        reapProcessHandlers[self._pid] = self._process
        self._process.reapProcess()

    def _stop(self) -> None:
        self._reactor.removeReader(self)
        del self._children[self._pid]
        os.close(self._descriptor)


def _has_pidfds() -> bool:
    """Whether this kernel has them, and Python was built to use them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True
