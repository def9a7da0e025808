"""Durations as text for people."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def format_duration(seconds: float) -> str:
    """Return a duration with its units: ``10 s``, ``1.5 s``, ``2 min``, ``1 h 30 min``."""
    left = round(seconds, 3)
    words = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            words.append(f"{count:.0f} {unit}")
    left = round(left, 3)
    if left or not words:
        words.append(f"{left:g} s")
    return " ".join(words)
