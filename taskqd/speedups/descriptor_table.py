"""A thread with a table of descriptors of its own, which is all that its children get a copy of.

A child gets a copy of all descriptors that there are, and closes each as it executes its program: where
thousands of clients are connected, that takes as long as a short program does. A thread may leave the table
that the others share (unshare(2)), and take out of that what it needs for a moment (pidfd_getfd(2)).
"""

import ctypes
import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CLONE_FILES = 0x400
_PIDFD_GETFD = 438
"""Its number among the system calls, on all machines but Alphas; the C library has no name for it."""
_FIRST = 3
"""0 to 2 stay what they are."""

_quick = ctypes.PyDLL(None, use_errno=True)
"""Calls that take less time than to let another thread run meanwhile."""


class _Here(threading.local):
    is_own = False
    process: int | None = None


_here = _Here()


def leave(kept: int) -> int:
    """Give the thread that calls it a table of its own, in which beside 0 to 2 there is only ``kept``.

    Returns which one that is there. The thread handles no signal from now on: Python's handlers write into
    a descriptor of the others'. Raises OSError, having changed nothing else, where the system refuses.
    """
    if not hasattr(os, "pidfd_open"):
        raise OSError(errno.ENOSYS, "this Python knows no pidfd_open")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    process = os.pidfd_open(os.getpid())
    try:
        os.close(_take(process, kept))
    finally:
        os.close(process)
    if _quick.unshare(_CLONE_FILES):
        raise _error()
    if kept != _FIRST:
        os.dup2(kept, _FIRST, inheritable=False)
    os.closerange(_FIRST + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    _here.is_own = True
    return _FIRST


@contextmanager
def borrowed(descriptors: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Have descriptors of the process in this thread's table; in a thread that shares it they are there.

    Raises OSError where there is no such descriptor, or no room for it.
    """
    if not _here.is_own:
        yield tuple(descriptors)
        return
    if _here.process is None:
        _here.process = os.pidfd_open(os.getpid())
    taken: list[int] = []
    try:
        for descriptor in descriptors:
            taken += (_take(_here.process, descriptor),)
        yield tuple(taken)
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _take(process: int, descriptor: int) -> int:
    """Return a duplicate of a process's descriptor, one that its children do not get."""
    taken: int = _quick.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if taken < 0:
        raise _error()
    return taken


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
