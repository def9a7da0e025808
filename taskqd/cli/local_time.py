"""Times as a person types them, made into those of the protocol (docs/protocol.md §2)."""

import re
from datetime import datetime, timedelta, tzinfo

from taskqd.errors import BadRequest
from taskqd.model.time_zones import LOCAL, at_or_after
from taskqd.protocol.values import parse_time

_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
)


def next_time(text: str, now: datetime, zone: tzinfo = LOCAL) -> str:
    """Return the time of RFC 3339 that is meant by one, by a local one, or by a time of the day.

    ``now`` is what clocks show in ``zone`` now, without it. A time of the day, ``7:00``, is the next one. A
    time that clocks leave out is the first after it. Raises BadRequest for anything else.
    """
    if _CLOCK.fullmatch(text):
        hour, minute = map(int, text.split(":"))
        since = now.replace(tzinfo=zone).timestamp()
        shown = now.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        days = (shown, shown + timedelta(days=1))
        found = [moment for day in days for moment in at_or_after(day, zone) if moment > since]
        return _written(found[0], zone)
    if _DATE.fullmatch(text):
        try:
            shown = datetime.fromisoformat(text.upper().replace(" ", "T"))
            return _written(at_or_after(shown, zone)[0], zone)
        except ValueError:
            raise BadRequest(f"there is no such day or time as {text!r}") from None
    try:
        parse_time(text)
    except BadRequest:
        raise BadRequest(
            f"expected a time such as 7:00, '2026-11-24 07:00' or 2026-11-24T07:00:00Z, not {text[:60]!r}"
        ) from None
    return text


def _written(moment: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(moment, zone).isoformat(timespec="seconds")
