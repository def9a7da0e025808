"""Orphans: the processes that the kernel gives to this one when their parents have ended, to be reaped by it.

That is so where the daemon is process 1 of a container, or a "child subreaper" (prctl(2)). An orphan becomes
a child of the main thread, while what the daemon spawns is a child of the thread that spawned it (spawn.py).
So the main thread waits for its own children alone, and takes no end of a job from anybody; what Twisted has
forked there is known by its pid.
"""

import ctypes
import os
from typing import Any

from twisted.internet import process

_WNOTHREAD = 0x20000000
"""Only children of the thread that waits: wait(2)."""
_GET_CHILD_SUBREAPER = 37

_handlers: dict[int, Any] = getattr(process, "reapProcessHandlers", {})


def is_reaper() -> bool:
    """Whether orphans become children of this process."""
    is_subreaper = ctypes.c_int()
    ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(is_subreaper), 0, 0, 0)
    return os.getpid() == 1 or bool(is_subreaper.value)


class Orphans:
    """Reaps those that have ended, whenever Twisted hears that a child has.

    To be used by the main thread.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def start(self) -> None:
        """Reap from now on, before Twisted reaps what is its own, if orphans come here at all."""
        if is_reaper():
            others = dict(_handlers)
            _handlers.clear()
            _handlers[id(self)] = self  # no pid is as large as that
            _handlers.update(others)
            self.reapProcess()

    def stop(self) -> None:
        """Reap nothing more."""
        _handlers.pop(id(self), None)

    def reapProcess(self) -> None:
        """Reap all orphans that have ended; what stands in the way is somebody else's, who reaps it next."""
        options = os.WEXITED | os.WNOHANG | _WNOTHREAD
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, options | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in _handlers:
                self._reactor.callLater(0, self.reapProcess)
                return
            os.waitid(os.P_PID, ended.si_pid, options)
