"""The subreaper flag of this process: with it, the kernel gives it its orphaned descendants (prctl(2)).

Python has no function for it, so the C library is called.
"""

import ctypes
import os

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37


def set_child_subreaper(is_subreaper: bool) -> None:
    """Set or clear the flag; raises OSError."""
    _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(is_subreaper))


def is_child_subreaper() -> bool:
    """Whether the flag is set."""
    flag = ctypes.c_int()
    _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(flag))
    return bool(flag.value)


def _prctl(option: int, argument: object) -> None:
    zero = ctypes.c_ulong(0)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, argument, zero, zero, zero):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")
