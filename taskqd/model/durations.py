"""Durations and times as text for people; the forms of the wire are in protocol/values.py."""

from datetime import datetime, timezone

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def format_duration(seconds: float, max_units: int = 4) -> str:
    """Return a duration, exact to a millisecond: ``10 s``, ``1.5 s``, ``2 min``, ``1 h 30 min``.

    If it has more than ``max_units`` units, the smallest ones are cut off.
    """
    rest = round(seconds, 3)
    words = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count:.0f} {unit}")
    rest = round(rest, 3)
    if rest or not words:
        words.append(f"{rest:g} s")
    return " ".join(words[:max_units])


def format_time(seconds: float) -> str:
    """Return a time (seconds since the epoch) in RFC 3339, UTC, in whole seconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
