"""The memory that the C library keeps after it was freed (malloc_trim(3)).

Python has no function for it, so the C library is called.
"""

import ctypes


def trim_heap() -> None:
    """Give freed memory back to the kernel; does nothing if the C library cannot do that, as musl."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
