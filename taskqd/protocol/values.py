"""The values of the protocol: quoted bytes, durations, sizes, times, names, signals (docs/protocol.md §2).

Each has one parser here, and a formatter if the server or the client writes it. Parsers raise BadRequest.
Only small modules are imported, because every start of `taskq` loads this one.
"""

import re
import signal
from datetime import datetime, timezone
from functools import cache
from typing import NoReturn

from taskqd.errors import BadRequest
from taskqd.model.rate import NO_RATE, parse_rate

_PLAIN = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}
_ESCAPES = {"\\": 0x5C, '"': 0x22, "n": 0x0A, "r": 0x0D, "t": 0x09}
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")
_LETTERS = r" !#-\[\]-~\xa0-\ud7ff\ue000-\U0010ffff"
"""Characters that a quoted value may contain unescaped: all but control characters, `"` and backslash."""
_QUOTED = rf""""([{_LETTERS}]*(?:\\(?:[\\"nrt]|x[0-9A-Fa-f]{{2}})[{_LETTERS}]*)*)"""
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,15})([kMG])?")
_OCTAL = re.compile("0?[0-7]{1,3}")
_NAME = re.compile(r"[A-Za-z0-9._+/:@-]{1,200}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]((?:[01][0-9]|2[0-3]):[0-5][0-9]):([0-5][0-9]|60)(\.[0-9]{1,9})?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)

_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {None: 1, "k": 1024, "M": 1024**2, "G": 1024**3}

MAX_DURATION = 100 * 365.25 * 86400.0
"""The longest duration, in seconds: a hundred years."""
MAX_SIZE = 2**63 - 1
"""The largest size, in bytes: that of a file, a signed 64-bit integer."""
END_OF_TIMES = 253370764800.0
"""Every time is before this, in seconds since the epoch: the end of 9998, so that a time plus a duration is
still a valid datetime.
"""


def _escaped(byte: int) -> str:
    if byte in _PLAIN:
        return chr(byte)
    for letter, value in _ESCAPES.items():
        if value == byte:
            return "\\" + letter
    return f"\\x{byte:02X}"


_ESCAPED = [_escaped(byte).encode("ascii") for byte in range(256)]


@cache
def _quoted_value() -> re.Pattern[str]:
    """Return the pattern of a quoted value. Compiling it takes 3 ms, and most starts of `taskq` need none."""
    return re.compile(_QUOTED + '"')


def quote(data: bytes) -> str:
    """Return bytes as a `<quoted>` value, with the quotation marks."""
    return quoted(data).decode("ascii")


def quoted(data: bytes) -> bytes:
    """Return bytes as a `<quoted>` value in ASCII, with the quotation marks."""
    return b'"' + escaped(data) + b'"'


def escaped(data: bytes) -> bytes:
    """Return bytes as a `<quoted>` value without the quotation marks; fast for text, linear for all bytes."""
    text = data.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    text = text.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")
    if _UNPRINTABLE.search(text):
        text = b"".join(map(_ESCAPED.__getitem__, data))
    return text


def parse_quoted(text: str, start: int) -> tuple[bytes, int]:
    """Parse the `<quoted>` value at `start`; return its bytes and the index after it.

    Raises BadRequest if it has no end or an invalid character.
    """
    match = _quoted_value().match(text, start)
    if match is None:
        raise _quoting_error(text, start)
    # Python decodes the escapes that match as the protocol does, and other bytes unchanged.
    return match[1].encode("utf-8").decode("unicode_escape").encode("latin-1"), match.end()


def _quoting_error(text: str, start: int) -> BadRequest:
    """Return the error of an invalid quoted value."""
    if text[start : start + 1] != '"':
        return BadRequest(f'expected a quoted value beginning with " at {text[start : start + 20]!r}')
    valid = re.compile(_QUOTED).match(text, start)
    rest = text[valid.end() : valid.end() + 2] if valid else ""
    if rest.startswith("\\"):
        return BadRequest(f'expected one of \\\\ \\" \\n \\r \\t \\xHH in a quoted value, not {rest}')
    if rest:
        return BadRequest("a quoted value holds printable characters only: write every other byte as \\xHH")
    return BadRequest('a quoted value does not end: its closing " is missing')


def _refuse(expected: str, text: str) -> NoReturn:
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise BadRequest(f"expected {expected}, not {shown!r}")


def parse_duration(text: str) -> float:
    """Return the seconds of a `<duration>`: a number with the unit `ms`, `s` (default), `m`, `h` or `d`."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else MAX_DURATION + 1
    if seconds > MAX_DURATION:
        _refuse("a duration such as 1.5, 500ms, 10m, 2h or 1d, at most 36525d", text)
    return seconds


def parse_time(text: str) -> float:
    """Return the seconds since the epoch of a `<time>` (RFC 3339 §5.6), which must have its offset."""
    match = _TIME.fullmatch(text)
    seconds = _seconds_since_epoch(*match.groups("")) if match else None
    if seconds is None or not 0 <= seconds < END_OF_TIMES:
        _refuse("a time such as 2026-11-24T07:00:00Z or 2026-11-24T08:00:00+01:00, from 1970 to 9998", text)
    return seconds


def _seconds_since_epoch(date: str, minute: str, second: str, fraction: str, offset: str) -> float | None:
    """Return the seconds since the epoch, None if the date does not exist.

    A leap second, `:60`, is the first second of the minute after it.
    """
    try:
        start = datetime.fromisoformat(f"{date}T{minute}:00{offset.upper().replace('Z', '+00:00')}")
    except ValueError:
        return None
    return start.timestamp() + int(second) + float(fraction or 0)


def parse_size(text: str) -> int:
    """Return the bytes of a `<size>`: a whole number, optionally with the unit `k`, `M` or `G` (1024)."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _BYTES[match[2]] if match else MAX_SIZE + 1
    if size > MAX_SIZE:
        _refuse("a size such as 4096, 64k, 1M or 2G, of at most 15 digits", text)
    return size


def parse_integer(text: str, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`."""
    value = int(text) if _INTEGER.fullmatch(text) else most + 1
    if not least <= value <= most:
        _refuse(f"a whole number from {least} to {most}", text)
    return value


def parse_start_rate(text: str) -> str:
    """Return the text of a `<rate>`, the start rate of a queue, such as `10/m`, or `none`."""
    if text == NO_RATE:
        return text
    try:
        return parse_rate(text).text
    except ValueError as why:
        raise BadRequest(f"{why}; or none for no limit") from None


def parse_octal(text: str) -> int:
    """Return a file mode creation mask, octal from 0 to 777."""
    if not _OCTAL.fullmatch(text):
        _refuse("an octal mask such as 022 or 077", text)
    return int(text, 8)


def capitals(text: str) -> str:
    """Return a keyword of the protocol in capitals; text that is not ASCII is unchanged.

    `str.upper` alone would convert `\N{LATIN SMALL LETTER LONG S}TATUS` to STATUS.
    """
    return text.upper() if text.isascii() else text


def is_utf8(text: str) -> bool:
    """Whether text was decoded from UTF-8; other bytes have become lone surrogates (PEP 383)."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_name(text: str) -> bool:
    """Whether a text is a `<name>`: 1 to 200 of `A-Z a-z 0-9 . _ + / : @ -`."""
    return _NAME.fullmatch(text) is not None


def parse_name(text: str) -> str:
    """Return the text if it is a `<name>`."""
    if not is_name(text):
        _refuse("a name of 1 to 200 of A-Z a-z 0-9 . _ + / : @ -", text)
    return text


def timestamp(seconds: float | None) -> str | None:
    """Return a time (seconds since the epoch) in the format of RFC 3339, in UTC with milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds + 0.0005, timezone.utc)  # isoformat truncates, so this rounds
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_signal(text: str) -> int:
    """Return the number of a signal by its name, with or without SIG."""
    name = capitals(text).removeprefix("SIG")
    number = getattr(signal.Signals, "SIG" + name, None)
    if not isinstance(number, signal.Signals):
        raise BadRequest(f"expected the name of a signal such as TERM, INT or KILL, not {text[:40]!r}")
    return int(number)
