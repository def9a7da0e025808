"""Identifies files by statx(2), which Python 3.11 lacks, without reading their times.

From Linux 6.13 on, stat(2) marks the times of a file as seen. The next write then has to store new ones, and
its sync writes the inode as well, which takes half as long again (docs/decisions/0069).
"""

import ctypes
import os
import struct
from typing import Any, NamedTuple

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_STATX_NLINK, _STATX_INO = 0x4, 0x100
_SIZE = 256
"""Bytes of a struct statx."""
_FIELDS = struct.Struct("=16xI12xQ96xII")
"""The fields of a struct statx that are used: nlink at 16, ino at 32, dev_major and dev_minor at 136."""


class FileIdentity(NamedTuple):
    """Which file a path or a descriptor leads to, and how many names it has."""

    device: int
    inode: int
    links: int

    def is_same_file(self, other: "FileIdentity") -> bool:
        """Whether both are one file."""
        return self[:2] == other[:2]


def identify(file: int | str) -> FileIdentity:
    """Return the identity of an open file, or of the file that a path leads to; raises OSError."""
    if _statx is None:
        return _identify_by_stat(file)
    if isinstance(file, str):
        directory, path, flags = _AT_FDCWD, os.fsencode(file), 0
    else:
        directory, path, flags = file, b"", _AT_EMPTY_PATH
    result = ctypes.create_string_buffer(_SIZE)
    if _statx(directory, path, flags, _STATX_NLINK | _STATX_INO, result):
        return _identify_by_stat(file)  # the same error, or a kernel or a sandbox without statx(2)
    links, inode, major, minor = _FIELDS.unpack_from(result)
    return FileIdentity(os.makedev(major, minor), inode, links)


def _identify_by_stat(file: int | str) -> FileIdentity:
    status = os.stat(file) if isinstance(file, str) else os.fstat(file)
    return FileIdentity(status.st_dev, status.st_ino, status.st_nlink)


def _find_statx() -> Any:
    """Return the function of the C library, None if it has none."""
    function = getattr(ctypes.CDLL(None), "statx", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    return function


_statx = _find_statx()
