"""Finds a record in a file of the journal by its number, in a few reads."""

from collections.abc import Callable

PROBE_BYTES = 4096
"""Bytes read at a time; also the size of the part of a file that is read from its beginning."""

Read = Callable[[int, int], bytes]
"""``read(length, offset)`` returns a part of the file, shorter only at its end."""


def find_record(read: Read, size: int, number: int) -> int:
    """Return the offset of the first record with ``number`` or a higher one, ``size`` if there is none.

    The first line of the file is ignored: that of a snapshot has the number of its last record. Otherwise
    numbers ascend. Lines without a number, after all others, count as higher.
    """
    low = _next_line(read, size, 0)
    high = size
    while high - low > PROBE_BYTES:
        middle = (low + high) // 2
        start = _next_line(read, high, middle)
        if start < high and _is_below(read, start, number):
            low = start
        else:
            high = middle
    while low < size and _is_below(read, low, number):
        low = _next_line(read, size, low)
    return low


def _next_line(read: Read, limit: int, offset: int) -> int:
    """Return the offset of the first line after ``offset``, ``limit`` if none begins before that."""
    while offset < limit:
        chunk = read(PROBE_BYTES, offset)
        found = chunk.find(b"\n")
        if found >= 0:
            return min(offset + found + 1, limit)
        if not chunk:
            break
        offset += len(chunk)
    return limit


def _is_below(read: Read, offset: int, number: int) -> bool:
    """Whether the line at ``offset`` has a number below ``number``."""
    words = read(64, offset).split(b" ", 2)
    digits = words[1].removeprefix(b"+") if len(words) == 3 else b""
    return digits.isdigit() and int(digits) < number
