"""The start rate of a queue: how many of its jobs start within any period of one length."""

import re
from functools import lru_cache
from typing import NamedTuple

MAX_STARTS = 10_000
"""The highest number of starts per period: the time of each is kept, with 32 bytes."""
MAX_PERIOD = 86_400.0
"""The longest period, in seconds."""
NO_RATE = "none"
"""The text that means no limit."""

_FORM = re.compile(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})?([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAMES = {"s": "second", "m": "minute", "h": "hour", "d": "day"}


class Rate(NamedTuple):
    """Up to ``starts`` starts within any ``period`` seconds; ``text`` is the rate as it was written."""

    starts: int
    period: float
    text: str

    def __str__(self) -> str:
        """Return the rate in words: ``10 per minute``, ``1 per 15 minutes``."""
        starts, _, period = self.text.partition("/")
        count, name = period[:-1], _NAMES[period[-1]]
        return f"{starts} per {name}" if count in ("", "1") else f"{starts} per {count} {name}s"


@lru_cache(maxsize=1000)
def parse_rate(text: str) -> Rate:
    """Return the rate of a text such as ``10/m``, ``5/s`` or ``100/15m``; raises ValueError."""
    match = _FORM.fullmatch(text)
    starts = int(match[1]) if match else 0
    period = float(int(match[2] or 1) * _SECONDS[match[3]]) if match else 0.0
    if not 1 <= starts <= MAX_STARTS or not 0 < period <= MAX_PERIOD:
        raise ValueError(
            f"expected a rate of 1 to {MAX_STARTS} starts per second, minute or hour, such as 5/s, 10/m, "
            f"100/h, or per several of them, such as 1/15m, at most 1d, not {text[:40]!r}"
        )
    return Rate(starts, period, text)
