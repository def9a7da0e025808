"""Parses the values of `--retry-on` and `--no-retry-on`: conditions on failures (docs/protocol.md §3)."""

from taskqd.errors import BadRequest
from taskqd.model.job import Reason
from taskqd.model.retry import REASONS, signal_name
from taskqd.protocol.values import parse_integer, parse_signal

MAX_CONDITIONS = 50
"""Conditions in one option."""


_EXPECTED = "such as exit:75, signal:KILL, timeout, spawn, output, memory or interrupted"


def parse_conditions(text: str) -> tuple[str, ...]:
    """Parse `exit:75,signal:KILL,...` into normalized conditions; raises BadRequest."""
    words = text.split(",")
    if len(words) > MAX_CONDITIONS:
        raise BadRequest(f"expected at most {MAX_CONDITIONS} conditions, not {len(words)}")
    return tuple(map(_parse_condition, words))


def _parse_condition(text: str) -> str:
    reason, colon, detail = text.partition(":")
    reason = reason.lower() if reason.isascii() else reason
    if reason not in {known.value for known in REASONS}:
        raise BadRequest(f"expected a condition {_EXPECTED}, not {text[:40]!r}")
    if not colon:
        return reason
    if reason == Reason.EXIT.value:
        return f"exit:{parse_integer(detail, 1, 255)}"
    if reason == Reason.SIGNAL.value:
        return f"signal:{signal_name(parse_signal(detail))}"
    raise BadRequest(f"{reason} has no details; expected {reason} alone, not {text[:40]!r}")
