"""Spawns processes in new sessions, and reaps each by its pidfd (pidfd_open(2)).

Twisted asks each of its children at every SIGCHLD whether it has exited, which costs 1.6 ms per exit beside
2,000 running ones. A pidfd becomes readable when its process has exited, so an exit costs the same beside any
number of them.
"""

import os
import select
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

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

    ``on_unwatched()`` is called when a process is left to Twisted, which reaps it at SIGCHLD. ``batch()``
    returns a context for all exits of one poll.

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
        self.batch: Callable[[], AbstractContextManager[object]] = nullcontext
        self.on_unwatched: Callable[[], object] = lambda: None
        self._poller: ExitPoller | None = None
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
        descriptors = {0: "r", 1: "r"} if childFDs is None else childFDs
        process = SessionProcess(
            IReactorFDSet(self._reactor), executable, args, environment, protocol, descriptors
        )
        if self._has_pidfds:
            self._watch(process)
        else:
            self._leave_to_twisted(process)
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
        try:
            if self._poller is None:
                self._poller = ExitPoller(
                    IReactorFDSet(self._reactor), self.children, self._leave_to_twisted, self.batch
                )
            self._poller.add(process)
        except OSError as why:
            self._log.warn("process {pid} is reaped by Twisted: {why}", pid=process.pid, why=why)
            self._leave_to_twisted(process)

    def _leave_to_twisted(self, process: SessionProcess) -> None:
        """Have Twisted reap a process, and reap it now if it has exited."""
        reapProcessHandlers[cast(int, process.pid)] = process
        self.on_unwatched()
        process.reapProcess()


@implementer(IReadDescriptor)
class ExitPoller:
    """Reaps processes when they exit; until then each is one of ``children``, and not in Twisted's table.

    They share an epoll(7), which is one descriptor for the reactor: the reactor's own costs more per process.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        children: dict[int, SessionProcess],
        leave: Callable[[SessionProcess], object],
        batch: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._batch = batch
        self._reactor = reactor
        self._children = children
        self._leave = leave
        self._epoll = select.epoll()
        self._watched: dict[int, SessionProcess] = {}  # by pidfd

    def add(self, process: SessionProcess) -> None:
        """Watch a process; raises OSError if no descriptor is free."""
        pid = cast(int, process.pid)
        descriptor = os.pidfd_open(pid)
        try:
            self._epoll.register(descriptor, select.EPOLLIN)
            if not self._watched:
                self._reactor.addReader(self)
        except OSError:
            os.close(descriptor)
            raise
        self._watched[descriptor] = self._children[pid] = process
        process.on_reaped = partial(self._remove, descriptor, pid)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "exits of processes"

    def doRead(self) -> None:
        with self._batch():
            for descriptor, _ in self._epoll.poll(0):
                process = self._watched.get(descriptor)
                if process is None:  # something else has just reaped it
                    continue
                try:
                    process.reapProcess()
                except Exception:  # noqa: BLE001 - the exits of the others must be reported
                    self._log.failure("internal error in reaping process {pid}", pid=process.pid)

    def connectionLost(self, reason: Failure) -> None:
        """Leave all processes to Twisted: the reactor watches the descriptor no more."""
        for descriptor, process in list(self._watched.items()):
            self._remove(descriptor, cast(int, process.pid))
            process.on_reaped = None
            self._leave(process)

    def _remove(self, descriptor: int, pid: int) -> None:
        del self._watched[descriptor], self._children[pid]
        self._epoll.unregister(descriptor)
        os.close(descriptor)
        if not self._watched:
            self._reactor.removeReader(self)


def _has_pidfds() -> bool:
    """Whether this kernel has them, and Python was built to use them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True
