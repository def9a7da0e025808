"""posix_spawn(3) in a new session, called without the GIL.

posix_spawn returns when the child has got a processor and has executed its program, which takes milliseconds
on a busy machine. os.posix_spawn holds the GIL meanwhile, so the C library is called through ctypes, which
releases it. The calls that prepare a spawn keep the GIL: they take less time than to release it. The flags
are those of <spawn.h>, which are the same in glibc and musl; the C library's structures are opaque here.
"""

import ctypes
import os
import signal
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import finalize

from taskqd.speedups.descriptor_table import borrow

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_NAMES = (
    *("posix_spawnp", "posix_spawnattr_init", "posix_spawnattr_setflags", "posix_spawnattr_setsigdefault"),
    *("posix_spawnattr_setsigmask", "posix_spawn_file_actions_init", "posix_spawn_file_actions_adddup2"),
    *("posix_spawn_file_actions_destroy", "sigemptyset", "sigfillset", "sigdelset"),
)
"""The functions that the C library must have."""
_CHECK_SESSION = b'read -r _ _ _ _ _ session _ <"/proc/$$/stat"; [ $$ = $session ]'
"""A shell script that exits with 0 if its shell is the leader of a session."""
_CACHE_SIZE = 256
"""Sets of streams whose file actions are kept."""
_STRUCT_SIZE = 1024
"""Bytes for each of the C library's structures: more than any of them has."""

_libc, _libc_with_gil = ctypes.CDLL(None), ctypes.PyDLL(None)


class Spawning:
    """A prepared spawn of the program ``argv[0]`` as the leader of a new session.

    ``environ`` has NAME=value; ``streams`` become the process's descriptors 0, 1 and 2. All its signals have
    their default action, and none is blocked. Raises ValueError if a text contains a NUL.
    """

    def __init__(self, argv: Sequence[bytes], environ: Sequence[bytes], streams: Sequence[int]) -> None:
        self._argv, self._environ = _array(argv), _array(environ)
        self._streams = streams

    def spawn(self) -> int:
        """Start the process; return its pid once it has executed its program. Raises OSError."""
        pid, argv = ctypes.c_int(), self._argv
        with borrow(self._streams) as streams:
            actions = _file_actions(streams).struct
            _check(_libc.posix_spawnp(ctypes.byref(pid), argv[0], actions, _ATTRIBUTES, argv, self._environ))
        return pid.value


class _FileActions:
    """The file actions that duplicate descriptors of this process to 0, 1, ... in the child."""

    def __init__(self, streams: Sequence[int]) -> None:
        self.struct = ctypes.create_string_buffer(_STRUCT_SIZE)
        _check(_libc_with_gil.posix_spawn_file_actions_init(self.struct))
        for in_child, descriptor in enumerate(streams):
            _check(_libc_with_gil.posix_spawn_file_actions_adddup2(self.struct, descriptor, in_child))
        finalize(self, _libc_with_gil.posix_spawn_file_actions_destroy, self.struct).atexit = False


_file_actions = lru_cache(_CACHE_SIZE)(_FileActions)
"""The same descriptors come again and again, and preparing their file actions takes twelve system calls."""


def _check(error: int) -> None:
    """Raise OSError for an error number as posix_spawn(3) and its relatives return it."""
    if error:
        raise OSError(error, os.strerror(error))


def _array(texts: Sequence[bytes]) -> Any:
    """Return an array of C strings that ends with NULL; raises ValueError if a text contains a NUL."""
    if b"\0" in b"".join(texts):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(texts) + 1))(*texts)


def _attributes() -> Any:
    """Return the attributes for a new session, no blocked signals, and default actions for all signals."""
    attributes, none, every = (ctypes.create_string_buffer(_STRUCT_SIZE) for _ in range(3))
    _libc_with_gil.posix_spawnattr_init(attributes)
    _libc_with_gil.sigemptyset(none)
    _libc_with_gil.sigfillset(every)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        _libc_with_gil.sigdelset(every, number)
    _libc_with_gil.posix_spawnattr_setsigmask(attributes, none)
    _libc_with_gil.posix_spawnattr_setsigdefault(attributes, every)
    _libc_with_gil.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))
    return attributes


def is_supported() -> bool:
    """Whether this C library has all functions that are needed, and can start a process in a new session."""
    if _ATTRIBUTES is None:
        return False
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as inherited: the kernel would reap children
    try:
        pid = Spawning([b"/bin/sh", b"-c", _CHECK_SESSION], [], ()).spawn()
    except OSError:
        return False
    return os.waitpid(pid, 0)[1] == 0


def _has_all(library: Any) -> bool:
    return all(hasattr(library, name) for name in _NAMES)


_ATTRIBUTES = _attributes() if _has_all(_libc_with_gil) else None
