"""Tokens: what a client gives to AUTH, and what the file ``tokens`` keeps of it (docs/security.md).

A token is ``<id>.<secret>``: the id, 8 or more of ``0-9 a-f``, names its entry, so that one slow hash is
enough to check it. The file has one JSON object a line, and of the token only a salted scrypt hash (RFC 7914)
in the PHC string form. A token of an older version of taskqd has no id; its entry ``is_bare``, and there is
one such entry at most. Randomness and times are arguments here.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from taskqd.errors import BadRequest, StartRefused
from taskqd.model.roles import Role
from taskqd.protocol.values import is_name, parse_time, timestamp

_ID_BYTES = 4
_SALT_BYTES = 16
_SECRET_BYTES = 32
_DIGEST_BYTES = 32
RANDOMNESS = _ID_BYTES + _SALT_BYTES + _SECRET_BYTES
"""So many random bytes make a token."""

_ID = re.compile("[0-9a-f]{8,64}")
_TEXT = re.compile(f"({_ID.pattern})[.](.+)", re.DOTALL)
_PHC = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43})"
)


class Cost(NamedTuple):
    """What a hash costs: 128 * r * 2**ln bytes of memory, and time in proportion to all three."""

    ln: int
    r: int
    p: int


COST = Cost(14, 8, 1)
"""Of every new hash: 16 MiB and some tens of milliseconds (docs/security.md)."""
_LEAST = COST
_MOST = Cost(17, 16, 4)
"""A file may have hashes from this to that: below, they are no protection; beyond, no machine could check
them.
"""


class Hash(NamedTuple):
    """A salted slow hash."""

    cost: Cost
    salt: bytes
    digest: bytes


class Entry(NamedTuple):
    """What is kept of a token: who has it, what they may do, and for how long.

    Times are seconds since the epoch; one that does not end has no ``expires_at``. ``queue`` is the only
    queue whose jobs it is good for.
    """

    id: str
    name: str
    role: Role
    queue: str | None
    made_at: float
    expires_at: float | None
    hash: Hash
    is_bare: bool = False

    def is_over(self, now: float) -> bool:
        """Whether the token has expired."""
        return self.expires_at is not None and now >= self.expires_at


class _Line(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry as it stands in the file."""

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


def id_of(text: str) -> str | None:
    """Return the id of the entry that a token names, None if it has not the form of a token of ours."""
    form = _TEXT.fullmatch(text)
    return form[1] if form else None


def made(
    name: str,
    role: Role,
    queue: str | None,
    now: float,
    expires_at: float | None,
    randomness: bytes,
) -> tuple[Entry, str]:
    """Return a new entry and its token, which is nowhere else; ``randomness`` has RANDOMNESS bytes.

    Raises BadRequest where there can be no such token. Takes the time of a slow hash.
    """
    if not is_name(name) or _ID.fullmatch(name):
        raise BadRequest(
            "a token's name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ - and does not look like an id, "
            f"not {_shown(name)}"
        )
    if queue is not None and role is Role.ADMIN:
        raise BadRequest("an admin's token is not for one queue alone; make it of the role submit or read")
    if queue is not None and not is_name(queue):
        raise BadRequest(f"a queue's name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ -, not {_shown(queue)}")
    if expires_at is not None and expires_at <= now:
        raise BadRequest("a token's end must be later than now")
    identity, salt, secret = _parts(randomness)
    text = f"{identity}.{urlsafe_b64encode(secret).decode('ascii').rstrip('=')}"
    until = None if expires_at is None else round(expires_at, 3)
    return Entry(identity, name, role, queue, round(now, 3), until, hashed(text, salt)), text


def adopted(text: str, now: float, randomness: bytes) -> Entry:
    """Return an entry for a token of an older version, which had one that was everybody's, and an admin's."""
    identity, salt, _ = _parts(randomness)
    return Entry(identity, "token", Role.ADMIN, None, round(now, 3), None, hashed(text, salt), is_bare=True)


def nobody(randomness: bytes, cost: Cost = COST) -> Entry:
    """Return an entry that no token has: a token without an entry is checked with it, for the same time."""
    identity, salt, digest = _parts(randomness)
    return Entry(identity, "nobody", Role.READ, None, 0.0, 0.0, Hash(cost, salt, digest))


def _parts(randomness: bytes) -> tuple[str, bytes, bytes]:
    """Return an id, a salt and a secret."""
    end = _ID_BYTES + _SALT_BYTES
    return randomness[:_ID_BYTES].hex(), randomness[_ID_BYTES:end], randomness[end:RANDOMNESS]


def hashed(text: str, salt: bytes, cost: Cost = COST) -> Hash:
    """Return the slow hash of a token: it takes tens of milliseconds, in which other threads may run."""
    return Hash(cost, salt, _digest(text, salt, cost))


def is_right(entry: Entry, text: str) -> bool:
    """Whether a token is that of an entry; takes as long as making its hash, whatever the answer is."""
    cost, salt, digest = entry.hash
    return hmac.compare_digest(_digest(text, salt, cost), digest)


def _digest(text: str, salt: bytes, cost: Cost) -> bytes:
    return hashlib.scrypt(
        text.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=2**cost.ln,
        r=cost.r,
        p=cost.p,
        maxmem=128 * cost.r * (2**cost.ln + cost.p + 2) + 2**20,
        dklen=_DIGEST_BYTES,
    )


def joined(entries: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the entries with one more; raises BadRequest where that one may not be beside the others.

    Several tokens of one name may be there at once, so that a client can be given a new one before the old
    one is revoked; but what somebody may do must not depend on which of their tokens they use.
    """
    for other in entries:
        if other.name == entry.name and (other.role, other.queue) != (entry.role, entry.queue):
            raise BadRequest(
                f"{entry.name} has a token already, {other.id}, of the role {other.role.value}"
                f"{f' for the queue {other.queue}' if other.queue else ''}: another one must be alike; "
                "revoke it first, or take another name"
            )
    return [*entries, entry]


def parted(entries: Sequence[Entry], which: str) -> tuple[list[Entry], list[Entry]]:
    """Return the entries that are of this id or name, and the others; raises BadRequest if there is none."""
    found = [entry for entry in entries if which in (entry.id, entry.name)]
    if not found:
        raise BadRequest(f"there is no token {_shown(which)}; `taskq token list` shows those that there are")
    return found, [entry for entry in entries if entry not in found]


def write(entries: Iterable[Entry]) -> bytes:
    """Return the text of a file with these entries."""
    return b"".join(_ENCODER.encode(_line(entry)) + b"\n" for entry in entries)


def _line(entry: Entry) -> _Line:
    return _Line(
        entry.id,
        entry.name,
        entry.role,
        str(timestamp(entry.made_at)),
        _phc(entry.hash),
        entry.queue,
        timestamp(entry.expires_at),
        entry.is_bare,
    )


def read(text: bytes, path: str) -> list[Entry]:
    """Return the entries of a file's text; raises StartRefused, naming the line, if any cannot be right.

    ``path`` is the file's name for a person. Of a wrong line no hash and no name is told.
    """
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _entry(_DECODER.decode(line))
            _check_beside(entry, entries)
        except (msgspec.DecodeError, UnicodeDecodeError, BadRequest, RecursionError) as why:
            raise StartRefused(
                f"{path}, line {number} is no token's: {why}; mend or remove the line, or make the token "
                "anew with `taskq token add`"
            ) from None
        entries[entry.id] = entry
    return list(entries.values())


def _check_beside(entry: Entry, others: dict[str, Entry]) -> None:
    if entry.id in others:
        raise BadRequest("its id is there already")
    if entry.is_bare and any(other.is_bare for other in others.values()):
        raise BadRequest("a bare one is there already")


def _entry(line: _Line) -> Entry:
    """Return the entry of a line; raises BadRequest."""
    if not _ID.fullmatch(line.id):
        raise BadRequest("its id must be 8 to 64 of 0-9 a-f")
    if not is_name(line.name):
        raise BadRequest("its name must be 1 to 200 of A-Z a-z 0-9 . _ + / : @ -")
    if line.queue is not None and (line.role is Role.ADMIN or not is_name(line.queue)):
        raise BadRequest("its queue must be a name, and there is none for an admin")
    return Entry(
        line.id,
        line.name,
        line.role,
        line.queue,
        _moment(line.made_at),
        None if line.expires_at is None else _moment(line.expires_at),
        _hash(line.hash),
        line.bare,
    )


def _moment(text: str) -> float:
    """Return a time in milliseconds' steps, as they are made and written."""
    return round(parse_time(text), 3)


def _phc(value: Hash) -> str:
    (ln, r, p), salt, digest = value
    return f"$scrypt$ln={ln},r={r},p={p}${_base64(salt)}${_base64(digest)}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii").rstrip("=")


def _hash(text: str) -> Hash:
    """Return the hash that a PHC string has; raises BadRequest."""
    form = _PHC.fullmatch(text)
    cost = Cost(*map(int, form.group(1, 2, 3))) if form else None
    if form is None or cost is None or not _is_payable(cost):
        raise BadRequest(f"its hash must be one of scrypt, from {_phc_cost(_LEAST)} to {_phc_cost(_MOST)}")
    salt, digest = (b64decode(part + "=" * (-len(part) % 4)) for part in form.group(4, 5))
    return Hash(cost, salt, digest)


def _is_payable(cost: Cost) -> bool:
    bounds = zip(_LEAST, cost, _MOST, strict=True)
    return all(least <= each <= most for least, each, most in bounds)


def _phc_cost(cost: Cost) -> str:
    return f"ln={cost.ln},r={cost.r},p={cost.p}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
