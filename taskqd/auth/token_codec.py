"""The content of the token file: entries <-> lines.

Each line is a JSON object. It has a salted scrypt hash (RFC 7914) of the token in the PHC string format.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from taskqd.auth.tokens import COST, TOKEN_ID, Cost, Entry, Hash
from taskqd.errors import BadRequest, StartRefused
from taskqd.model.roles import Role
from taskqd.protocol.values import is_name, parse_time, timestamp

_PHC = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43})"
)
_MIN_COST = COST
"""The lowest cost in a file; cheaper hashes do not protect the tokens."""
_MAX_COST = Cost(17, 16, 4)
"""The highest cost in a file; more expensive hashes would block the daemon."""


class _Line(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry as a line of the file."""

    id: str
    name: str
    role: Role
    made_at: str
    hash: str
    queue: str | None = None
    expires_at: str | None = None
    bare: bool = False


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Line)


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Return the content of a file with these entries."""
    return b"".join(_ENCODER.encode(_encode_entry(entry)) + b"\n" for entry in entries)


def _encode_entry(entry: Entry) -> _Line:
    return _Line(
        entry.id,
        entry.name,
        entry.role,
        str(timestamp(entry.made_at)),
        _format_phc(entry.hash),
        entry.queue,
        timestamp(entry.expires_at),
        entry.is_bare,
    )


def decode_entries(text: bytes, path: str) -> list[Entry]:
    """Return the entries of a file; raises StartRefused, which names `path` and the line, if one is invalid.

    The error contains neither hashes nor names.
    """
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _decode_entry(_DECODER.decode(line))
            _check_unique(entry, entries)
        except (msgspec.DecodeError, UnicodeDecodeError, BadRequest, RecursionError) as error:
            raise StartRefused(
                f"{path}: line {number} is not a valid token: {error}; correct or remove the line, or add a "
                "new token with `taskq token add`"
            ) from None
        entries[entry.id] = entry
    return list(entries.values())


def _check_unique(entry: Entry, others: dict[str, Entry]) -> None:
    if entry.id in others:
        raise BadRequest("another line has the same id")
    if entry.is_bare and any(other.is_bare for other in others.values()):
        raise BadRequest("another line has a bare token")


def _decode_entry(line: _Line) -> Entry:
    """Return the entry of a line; raises BadRequest if it is invalid."""
    if not TOKEN_ID.fullmatch(line.id):
        raise BadRequest("its id must be 8 to 64 of 0-9 a-f")
    if not is_name(line.name):
        raise BadRequest("its name must be 1 to 200 of A-Z a-z 0-9 . _ + / : @ -")
    if line.queue is not None and (line.role is Role.ADMIN or not is_name(line.queue)):
        raise BadRequest("its queue must be a name, and a token of the role admin has none")
    return Entry(
        line.id,
        line.name,
        line.role,
        line.queue,
        _parse_time(line.made_at),
        None if line.expires_at is None else _parse_time(line.expires_at),
        _parse_hash(line.hash),
        line.bare,
    )


def _parse_time(text: str) -> float:
    """Return a time in seconds, rounded to the milliseconds of the file."""
    return round(parse_time(text), 3)


def _format_phc(value: Hash) -> str:
    (ln, r, p), salt, digest = value
    return f"$scrypt$ln={ln},r={r},p={p}${_base64(salt)}${_base64(digest)}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii").rstrip("=")


def _parse_hash(text: str) -> Hash:
    """Return the hash of a PHC string; raises BadRequest."""
    match = _PHC.fullmatch(text)
    cost = Cost(*map(int, match.group(1, 2, 3))) if match else None
    if match is None or cost is None or not _is_allowed(cost):
        costs = f"{_format_cost(_MIN_COST)} to {_format_cost(_MAX_COST)}"
        raise BadRequest(f"its hash must be one of scrypt, with a cost from {costs}")
    salt, digest = (b64decode(part + "=" * (-len(part) % 4)) for part in match.group(4, 5))
    return Hash(cost, salt, digest)


def _is_allowed(cost: Cost) -> bool:
    bounds = zip(_MIN_COST, cost, _MAX_COST, strict=True)
    return all(least <= each <= most for least, each, most in bounds)


def _format_cost(cost: Cost) -> str:
    return f"ln={cost.ln},r={cost.r},p={cost.p}"
