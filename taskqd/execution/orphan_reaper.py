"""Reaps orphans: processes that the kernel gives to this one when their parents have ended.

The kernel does that if this process is process 1 of a container, or a child subreaper. An orphan becomes a
child of the main thread, so children that another thread has started are not looked at. Children of the main
thread are known: by Twisted's table, or by ``children``.
"""

import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from twisted.internet import process
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskqd.execution.child_subreaper import is_child_subreaper

REAP_INTERVAL = 1.0
"""Seconds from a SIGCHLD to the search for orphans: that asks the kernel to look at each running child."""

_WNOTHREAD = 0x20000000
"""Wait for children of the calling thread only (wait(2))."""


class Child(Protocol):
    """A process that something else reaps."""

    def reapProcess(self) -> None:
        """Reap the process if it has exited."""


_handlers: dict[int, Child] = getattr(process, "reapProcessHandlers", {})
"""Objects whose reapProcess Twisted calls when a child has exited, by pid."""


def is_reaper() -> bool:
    """Whether orphans become children of this process."""
    return os.getpid() == 1 or is_child_subreaper()


class OrphanReaper:
    """Reaps orphans soon after they have exited; for the main thread.

    ``children`` are the children of this process that are not in Twisted's table, by pid. With
    ``mutes_signal`` SIGCHLD is ignored from one to the search, unless Twisted reaps a child: each one costs a
    turn of the reactor. ``unmute`` must be called when Twisted gets a child.
    """

    def __init__(
        self,
        clock: IReactorTime,
        children: Mapping[int, Child] = MappingProxyType({}),
        *,
        mutes_signal: bool = False,
    ) -> None:
        self._clock = clock
        self._children = children
        self._mutes_signal = mutes_signal
        self._handler: Any = None  # of SIGCHLD, while that is muted
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Reap from now on, if this process gets orphans at all."""
        if is_reaper():
            _handlers[id(self)] = self  # no pid is as large as that
            self._reap()

    def stop(self) -> None:
        """Reap no more."""
        _handlers.pop(id(self), None)
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.unmute()

    def reapProcess(self) -> None:
        """Search for orphans after the interval; Twisted calls this at each SIGCHLD."""
        if self._call is None:
            self._call = self._clock.callLater(REAP_INTERVAL, self._reap)
        if self._mutes_signal and self._handler is None and len(_handlers) == 1:
            self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def unmute(self) -> None:
        """Have Twisted hear of SIGCHLD again."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)
            signal.siginterrupt(signal.SIGCHLD, False)
            self._handler = None

    def _reap(self) -> None:
        """Reap all orphans that have exited.

        waitid shows one child at a time, so known children that it shows are reaped as well.
        """
        self._call = None
        self.unmute()
        options = os.WEXITED | os.WNOHANG | _WNOTHREAD
        last = 0
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, options | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            if exited.si_pid == last:  # it is reaped later
                self.reapProcess()
                return
            last = exited.si_pid
            known = self._children.get(exited.si_pid) or _handlers.get(exited.si_pid)
            if known is None:
                os.waitid(os.P_PID, exited.si_pid, options)
            else:
                known.reapProcess()
