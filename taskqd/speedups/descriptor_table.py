"""Gives a thread a descriptor table that it does not share, so that its children inherit a small one.

A child gets a copy of its parent's descriptor table, and the kernel closes each descriptor when the child
executes its program. With thousands of connected clients that takes as long as a short program. A thread can
leave the shared table (unshare(2)), and then fetch single descriptors from it (pidfd_getfd(2)).
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
"""The number of the system call, on all architectures but Alpha; the C library has no wrapper for it."""
_FIRST = 3
"""The descriptor that `unshare` keeps; 0 to 2 stay as well."""

_libc = ctypes.PyDLL(None, use_errno=True)
"""Called with the GIL: these calls take less time than to release it."""


class _ThreadState(threading.local):
    is_unshared = False
    pidfd: int | None = None


_thread = _ThreadState()


def unshare(kept: int) -> int:
    """Give the calling thread its own descriptor table, with 0 to 2 and `kept`; return the latter's number.

    The thread blocks all signals from now on, since Python's handler writes to a descriptor of the shared
    table. Raises OSError if the system refuses; then nothing else has changed.
    """
    if not hasattr(os, "pidfd_open"):
        raise OSError(errno.ENOSYS, "this Python has no os.pidfd_open")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(_fetch(pidfd, kept))  # raises if the system has no pidfd_getfd
    finally:
        os.close(pidfd)
    if _libc.unshare(_CLONE_FILES):
        raise _error()
    if kept != _FIRST:
        os.dup2(kept, _FIRST, inheritable=False)
    os.closerange(_FIRST + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    _thread.is_unshared = True
    return _FIRST


@contextmanager
def borrow(descriptors: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Duplicate descriptors of the shared table into this thread's, for the duration of the context.

    In a thread that has not called `unshare` they are returned unchanged. Raises OSError if a descriptor does
    not exist or the table is full.
    """
    if not _thread.is_unshared:
        yield tuple(descriptors)
        return
    if _thread.pidfd is None:
        _thread.pidfd = os.pidfd_open(os.getpid())
    borrowed: list[int] = []
    try:
        for descriptor in descriptors:
            borrowed += (_fetch(_thread.pidfd, descriptor),)
        yield tuple(borrowed)
    finally:
        for descriptor in borrowed:
            os.close(descriptor)


def _fetch(pidfd: int, descriptor: int) -> int:
    """Return a duplicate of a process's descriptor; it is close-on-exec."""
    duplicate: int = _libc.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    if duplicate < 0:
        raise _error()
    return duplicate


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
