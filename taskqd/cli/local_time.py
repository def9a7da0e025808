"""Converts local times on the command line to those of the protocol (docs/protocol.md §2)."""

import re
from datetime import datetime, timedelta, tzinfo

from taskqd.errors import BadRequest
from taskqd.model.time_zones import LOCAL, at_or_after
from taskqd.protocol.values import parse_time

_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
)


def next_time(text: str, now: datetime, zone: tzinfo = LOCAL) -> str:
    """Convert a local time, a time of day, a time of at(1), or an RFC 3339 time to RFC 3339 text.

    ``now`` is the current local time in ``zone``, without a tzinfo. A time of day, ``7:00``, is its next
    occurrence. A time that a change of the clocks skips becomes the first one after it. Raises BadRequest for
    any other text.
    """
    if _CLOCK.fullmatch(text):
        hour, minute, second = map(int, f"{text}:0".split(":")[:3])
        now_seconds = now.replace(tzinfo=zone).timestamp()
        local = now.replace(hour=hour, minute=minute, second=second, microsecond=0, fold=0)
        days = (local, local + timedelta(days=1))
        candidates = [moment for day in days for moment in at_or_after(day, zone) if moment > now_seconds]
        return _format(candidates[0], zone)
    if _DATE.fullmatch(text):
        try:
            local = datetime.fromisoformat(text.upper().replace(" ", "T"))
            return _format(at_or_after(local, zone)[0], zone)
        except ValueError:
            raise BadRequest(f"there is no such day or time: {text!r}") from None
    try:
        parse_time(text)
    except BadRequest:
        from taskqd.cli.at_time import parse_at  # noqa: PLC0415 - only needed for these forms

        return _format(parse_at(text, now, zone), zone)
    return text


def _format(moment: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(moment, zone).isoformat(timespec="seconds")
