"""Times as a person types them, made into those of the protocol (docs/protocol.md §2)."""

import re
from datetime import datetime, timedelta

from taskqd.errors import BadRequest
from taskqd.words import parse_time

_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
)


def next_time(text: str, now: datetime) -> str:
    """Return the time of RFC 3339 that is meant by one, by a local one, or by a time of the day.

    ``now`` is a local time without a zone, and local is what this machine takes for it. A time of the day,
    ``7:00``, is the next one. Raises BadRequest for anything else.
    """
    if _CLOCK.fullmatch(text):
        hour, minute = map(int, text.split(":"))
        moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        return _written(moment if moment > now else moment + timedelta(days=1))
    if _DATE.fullmatch(text):
        try:
            return _written(datetime.fromisoformat(text.upper().replace(" ", "T")))
        except ValueError:
            raise BadRequest(f"there is no such day or time as {text!r}") from None
    try:
        parse_time(text)
    except BadRequest:
        raise BadRequest(
            f"expected a time such as 7:00, '2026-11-24 07:00' or 2026-11-24T07:00:00Z, not {text[:60]!r}"
        ) from None
    return text


def _written(moment: datetime) -> str:
    return moment.astimezone().isoformat(timespec="seconds")
