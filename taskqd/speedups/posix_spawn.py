"""posix_spawn(3), called so that other threads run meanwhile.

Whoever spawns waits until the child has got a processor and has executed its program: on a busy machine that
takes milliseconds, and Python's own os.posix_spawn keeps all threads waiting. So the C library's is called
by ctypes, which lets them run. What is prepared for it is done by calls that keep the GIL, as they take less
time than to pass it on. The flags are those of <spawn.h>, alike in glibc and musl, and the C library's
structures are handed to it as it has filled them.
"""

import ctypes
import os
import signal
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import finalize

from taskqd.speedups.descriptor_table import borrowed

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_NAMES = (
    *("posix_spawnp", "posix_spawnattr_init", "posix_spawnattr_setflags", "posix_spawnattr_setsigdefault"),
    *("posix_spawnattr_setsigmask", "posix_spawn_file_actions_init", "posix_spawn_file_actions_adddup2"),
    *("posix_spawn_file_actions_destroy", "sigemptyset", "sigfillset", "sigdelset"),
)
"""What is called of the C library."""
_HAS_ITS_SESSION = b'read -r _ _ _ _ _ session _ <"/proc/$$/stat"; [ $$ = $session ]'
_KEPT = 256
"""So many sets of streams are kept prepared."""
_ROOM = 1024
"""No C library's attributes, file actions or sets of signals have as many bytes."""

_slow, _quick = ctypes.CDLL(None), ctypes.PyDLL(None)


class Spawning:
    """A spawn that is prepared: of the program ``argv[0]``, in a session of its own.

    ``environ`` has NAME=value, ``streams`` are what the process gets as its descriptors 0, 1 and 2. It
    ignores and blocks no signal. Raises ValueError of what has a NUL in it.
    """

    def __init__(self, argv: Sequence[bytes], environ: Sequence[bytes], streams: Sequence[int]) -> None:
        self._argv, self._environ = _array(argv), _array(environ)
        self._streams = streams

    def spawn(self) -> int:
        """Start it, and return its pid once it has its program; raises OSError."""
        pid, argv = ctypes.c_int(), self._argv
        with borrowed(self._streams) as streams:
            actions = _actions(streams).made
            _check(_slow.posix_spawnp(ctypes.byref(pid), argv[0], actions, _ATTRIBUTES, argv, self._environ))
        return pid.value


class _Actions:
    """What gives a process its streams: descriptors of ours, as its own from 0 on."""

    def __init__(self, streams: Sequence[int]) -> None:
        self.made = ctypes.create_string_buffer(_ROOM)
        _check(_quick.posix_spawn_file_actions_init(self.made))
        for theirs, ours in enumerate(streams):
            _check(_quick.posix_spawn_file_actions_adddup2(self.made, ours, theirs))
        finalize(self, _quick.posix_spawn_file_actions_destroy, self.made).atexit = False


_actions = lru_cache(_KEPT)(_Actions)
"""Descriptors come again and again, and to prepare this takes twelve calls of the kernel."""


def _check(error: int) -> None:
    """Raise OSError if something was refused; posix_spawn(3) and what it takes return errno's numbers."""
    if error:
        raise OSError(error, os.strerror(error))


def _array(texts: Sequence[bytes]) -> Any:
    """Return texts as C has them, a NULL behind the last; raises ValueError of what C would cut short."""
    if b"\0" in b"".join(texts):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(texts) + 1))(*texts)


def _attributes() -> Any:
    """Return what asks for a new session, and for all signals as they are by default."""
    attributes, none, every = (ctypes.create_string_buffer(_ROOM) for _ in range(3))
    _quick.posix_spawnattr_init(attributes)
    _quick.sigemptyset(none)
    _quick.sigfillset(every)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        _quick.sigdelset(every, number)
    _quick.posix_spawnattr_setsigmask(attributes, none)
    _quick.posix_spawnattr_setsigdefault(attributes, every)
    _quick.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))
    return attributes


def is_known() -> bool:
    """Whether this C library has what is called here, and starts a process in a session of its own."""
    if _ATTRIBUTES is None:
        return False
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent left it so: no child would have an end
    try:
        pid = Spawning([b"/bin/sh", b"-c", _HAS_ITS_SESSION], [], ()).spawn()
    except OSError:
        return False
    return os.waitpid(pid, 0)[1] == 0


def _has_all(library: Any) -> bool:
    return all(hasattr(library, name) for name in _NAMES)


_ATTRIBUTES = _attributes() if _has_all(_quick) else None
