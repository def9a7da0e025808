"""Reaps orphans: processes that the kernel gives to this one when their parents have ended.

The kernel does that if the daemon is process 1 of a container, or a "child subreaper" (prctl(2)). An orphan
becomes a child of the main thread, and with speedups a job is a child of the thread that spawned it. So the
main thread waits for its own children only, and takes no job's exit status. Twisted's own children, which the
main thread has forked, are known by their pids.
"""

import ctypes
import os
from typing import Any

from twisted.internet import process
from twisted.internet.interfaces import IReactorTime

_WNOTHREAD = 0x20000000
"""Wait for children of the calling thread only (wait(2))."""
_GET_CHILD_SUBREAPER = 37

_handlers: dict[int, Any] = getattr(process, "reapProcessHandlers", {})
"""Objects whose reapProcess Twisted calls when a child has exited, by pid."""


def is_reaper() -> bool:
    """Whether orphans become children of this process."""
    is_subreaper = ctypes.c_int()
    ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(is_subreaper), 0, 0, 0)
    return os.getpid() == 1 or bool(is_subreaper.value)


class OrphanReaper:
    """Reaps orphans that have exited, whenever Twisted looks for exited children; for the main thread."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def start(self) -> None:
        """Reap from now on, before Twisted reaps its own children, if this process gets orphans at all."""
        if is_reaper():
            others = dict(_handlers)
            _handlers.clear()
            _handlers[id(self)] = self  # no pid is as large as that
            _handlers.update(others)
            self.reapProcess()

    def stop(self) -> None:
        """Reap no more."""
        _handlers.pop(id(self), None)

    def reapProcess(self) -> None:
        """Reap all orphans that have exited.

        waitid shows one child at a time. If that is Twisted's, Twisted reaps it next, and this runs again
        then.
        """
        options = os.WEXITED | os.WNOHANG | _WNOTHREAD
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, options | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            if exited.si_pid in _handlers:
                self._clock.callLater(0, self.reapProcess)
                return
            os.waitid(os.P_PID, exited.si_pid, options)
