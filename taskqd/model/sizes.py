"""Sizes as text for people; the form of the wire is in protocol/values.py."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def format_size(size: int) -> str:
    """Return a size with up to three digits and a unit of 1024: ``512 bytes``, ``2.05 GiB``, ``1000 MiB``."""
    value, exponent = float(size), 0
    while value >= 1023.5 and exponent + 1 < len(_UNITS):
        value /= 1024
        exponent += 1
    digits = f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
    return f"{digits} {_UNITS[exponent]}"
