"""The words of the protocol: quoted bytes, durations, sizes, names, integers (docs/protocol.md §2).

Each form has one reader here, and a writer where the server or the client writes it. Nothing here knows a
verb or a connection, and nothing is imported that would cost a command-line client its start.
"""

import re
import signal
from datetime import datetime, timezone
from typing import NoReturn

from taskqd.errors import BadRequest

_PLAIN = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}
_ESCAPES = {"\\": 0x5C, '"': 0x22, "n": 0x0A, "r": 0x0D, "t": 0x09}
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")
_LETTERS = r" !#-\[\]-~\xa0-\ud7ff\ue000-\U0010ffff"
"""What a quoted word may hold as itself when it is read: text without control characters."""
_QUOTED_START = re.compile(rf""""([{_LETTERS}]*(?:\\(?:[\\"nrt]|x[0-9A-Fa-f]{{2}})[{_LETTERS}]*)*)""")
_QUOTED_FORM = re.compile(_QUOTED_START.pattern + '"')
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
"""No duration may be longer: a hundred years, in seconds."""
MAX_SIZE = 2**63 - 1
"""No size may be larger, in bytes: what a file may have, and what every reader of JSON can hold."""
TIMES_END = 253370764800.0
"""Every time is before the year 9999, in seconds since the epoch: a little later is still a date."""


def _escaped(byte: int) -> str:
    if byte in _PLAIN:
        return chr(byte)
    for letter, value in _ESCAPES.items():
        if value == byte:
            return "\\" + letter
    return f"\\x{byte:02X}"


_QUOTED = [_escaped(byte).encode("ascii") for byte in range(256)]


def quote(data: bytes) -> str:
    """Return ``data`` as a ``<quoted>`` word, its quotation marks included."""
    return quoted(data).decode("ascii")


def quoted(data: bytes) -> bytes:
    """Return ``data`` as a ``<quoted>`` word in ASCII bytes."""
    return b'"' + escaped(data) + b'"'


def escaped(data: bytes) -> bytes:
    """Return what stands between the quotation marks for ``data``; fast for text, linear for everything."""
    text = data.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    text = text.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")
    if _UNPRINTABLE.search(text):
        text = b"".join(map(_QUOTED.__getitem__, data))
    return text


def parse_quoted(text: str, start: int) -> tuple[bytes, int]:
    """Read the ``<quoted>`` word that begins at ``start``; return its bytes and the index behind it.

    Raises BadRequest where it does not end or holds what a quoted word may not.
    """
    form = _QUOTED_FORM.match(text, start)
    if form is None:
        raise _flaw(text, start)
    # Every escape that the form lets through means the same to Python; each other byte stands for itself.
    return form[1].encode("utf-8").decode("unicode_escape").encode("latin-1"), form.end()


def _flaw(text: str, start: int) -> BadRequest:
    """Say what is wrong with a word that is not of the quoted form."""
    if text[start : start + 1] != '"':
        return BadRequest(f'expected a quoted value beginning with " at {text[start : start + 20]!r}')
    at = _QUOTED_START.match(text, start)
    rest = text[at.end() : at.end() + 2] if at else ""
    if rest.startswith("\\"):
        return BadRequest(f'expected one of \\\\ \\" \\n \\r \\t \\xHH in a quoted value, not {rest}')
    if rest:
        return BadRequest("a quoted value holds printable characters only: write every other byte as \\xHH")
    return BadRequest('a quoted value does not end: its closing " is missing')


def _refuse(expected: str, text: str) -> NoReturn:
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise BadRequest(f"expected {expected}, not {shown!r}")


def parse_duration(text: str) -> float:
    """Return the seconds of a ``<duration>``: a number, and ``ms s m h d`` or nothing (seconds) behind it."""
    form = _DURATION.fullmatch(text)
    seconds = float(form[1]) * _SECONDS[form[2]] if form else MAX_DURATION + 1
    if seconds > MAX_DURATION:
        _refuse("a duration such as 1.5, 500ms, 10m, 2h or 1d, at most 36525d", text)
    return seconds


def parse_time(text: str) -> float:
    """Return the seconds since the epoch of a ``<time>`` (RFC 3339 §5.6), which must have its offset."""
    form = _TIME.fullmatch(text)
    seconds = _moment(*form.groups("")) if form else None
    if seconds is None or not 0 <= seconds < TIMES_END:
        _refuse("a time such as 2026-11-24T07:00:00Z or 2026-11-24T08:00:00+01:00, from 1970 to 9998", text)
    return seconds


def _moment(date: str, minute: str, second: str, fraction: str, offset: str) -> float | None:
    """Return the seconds since the epoch, None where there is no such day.

    A leap second, ``:60``, is the first second of the minute after it.
    """
    try:
        start = datetime.fromisoformat(f"{date}T{minute}:00{offset.upper().replace('Z', '+00:00')}")
    except ValueError:
        return None
    return start.timestamp() + int(second) + float(fraction or 0)


def parse_size(text: str) -> int:
    """Return the bytes of a ``<size>``: a whole number, and ``k M G`` (1024) or nothing (bytes) behind it."""
    form = _SIZE.fullmatch(text)
    size = int(form[1]) * _BYTES[form[2]] if form else MAX_SIZE + 1
    if size > MAX_SIZE:
        _refuse("a size such as 4096, 64k, 1M or 2G, of at most 15 digits", text)
    return size


def parse_integer(text: str, least: int, most: int) -> int:
    """Return a whole number between ``least`` and ``most``, both included."""
    value = int(text) if _INTEGER.fullmatch(text) else most + 1
    if not least <= value <= most:
        _refuse(f"a whole number from {least} to {most}", text)
    return value


def parse_octal(text: str) -> int:
    """Return a file mode mask written in octal: 0 to 777."""
    if not _OCTAL.fullmatch(text):
        _refuse("an octal mask such as 022 or 077", text)
    return int(text, 8)


def capitals(text: str) -> str:
    """Return a verb or another word of the protocol in capitals; only ASCII has two cases here.

    ``str.upper`` alone would take ``\N{LATIN SMALL LETTER LONG S}TATUS`` for STATUS.
    """
    return text.upper() if text.isascii() else text


def is_utf8(text: str) -> bool:
    """Whether ``text`` came from UTF-8: other bytes were decoded to lone surrogates (PEP 383)."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_name(text: str) -> bool:
    """Whether ``text`` is a ``<name>``: 1 to 200 of ``A-Z a-z 0-9 . _ + / : @ -``."""
    return _NAME.fullmatch(text) is not None


def parse_name(text: str) -> str:
    """Return ``text`` if it is a ``<name>``."""
    if not is_name(text):
        _refuse("a name of 1 to 200 of A-Z a-z 0-9 . _ + / : @ -", text)
    return text


def timestamp(seconds: float | None) -> str | None:
    """Return a time (seconds since the epoch) in RFC 3339, UTC with milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds + 0.0005, timezone.utc)  # what follows cuts off, and rounds so
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_signal(text: str) -> int:
    """Return the number of a signal by its name, with or without SIG before it."""
    name = capitals(text).removeprefix("SIG")
    number = getattr(signal.Signals, "SIG" + name, None)
    if not isinstance(number, signal.Signals):
        raise BadRequest(f"expected the name of a signal such as TERM, INT or KILL, not {text[:40]!r}")
    return int(number)
