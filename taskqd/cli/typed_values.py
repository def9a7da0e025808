"""Durations and sizes as people type them, converted to the forms of the protocol (docs/protocol.md §2).

Forms that the protocol has too are passed on as typed.
"""

import re

from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration, parse_size

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*[a-z]+[\s,]*)+", re.IGNORECASE)
_DURATION_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)", re.IGNORECASE)
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgt])?(?:i?b|bytes?)?", re.IGNORECASE)

_SECONDS = {
    **dict.fromkeys(("ms", "msec", "millisecond"), 0.001),
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("m", "min", "minute"), 60.0),
    **dict.fromkeys(("h", "hr", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
    **dict.fromkeys(("w", "week"), 7 * 86400.0),
}
_EXPONENTS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_duration(text: str) -> str:
    """Return a duration such as ``90``, ``1h30m``, ``10min``, ``2 days`` or ``1w`` in the protocol's form."""
    try:
        parse_duration(text)
    except BadRequest:
        seconds = _seconds(text.strip())
        if seconds is None:
            raise BadRequest(
                f"expected a duration such as 90, 500ms, 10m, 1h30m, 2d or 1w, not {text[:60]!r}"
            ) from None
        text = f"{seconds:.3f}".rstrip("0").rstrip(".")
        parse_duration(text)  # it may be too long
    return text


def _seconds(text: str) -> float | None:
    """Return the sum of the parts of a duration, None if one has no known unit."""
    if not _DURATION.fullmatch(text):
        return None
    seconds = 0.0
    for number, unit in _DURATION_PART.findall(text):
        word = unit.lower()
        size = _SECONDS.get(word) or _SECONDS.get(word.removesuffix("s"))
        if size is None:
            return None
        seconds += float(number) * size
    return seconds


def read_size(text: str) -> str:
    """Return a size such as ``4096``, ``64k``, ``1.5G``, ``2GB`` or ``512 MiB`` in the protocol's form.

    Each unit is 1024 of the one before it, whether or not it is written with an i.
    """
    try:
        parse_size(text)
    except BadRequest:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise BadRequest(
                f"expected a size such as 4096, 64k, 1.5G or 2GB (powers of 1024), not {text[:60]!r}"
            ) from None
        text = f"{float(match[1]) * 1024 ** _EXPONENTS[(match[2] or '').lower()]:.0f}"
        parse_size(text)  # it may be too large
    return text
