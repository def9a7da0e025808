"""Tokens: the text that a client sends with AUTH, and the entry that is kept of it (docs/security.md).

A token is `<id>.<secret>`. The id, 8 or more of `0-9 a-f`, names its entry, so one slow hash is enough to
check a token. A token of taskqd 0.2 or older has no id; its entry `is_bare`, and there is at most one
such entry. Randomness and times are arguments.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple

from taskqd.errors import BadRequest
from taskqd.model.roles import Role
from taskqd.protocol.values import is_name

_ID_BYTES = 4
_SALT_BYTES = 16
_SECRET_BYTES = 32
_DIGEST_BYTES = 32
RANDOMNESS = _ID_BYTES + _SALT_BYTES + _SECRET_BYTES
"""Random bytes that a token is made of."""

TOKEN_ID = re.compile("[0-9a-f]{8,64}")
_TEXT = re.compile(f"({TOKEN_ID.pattern})[.](.+)", re.DOTALL)


class Cost(NamedTuple):
    """Parameters of scrypt: 128 * r * 2**ln bytes of memory, and time proportional to all three."""

    ln: int
    r: int
    p: int


COST = Cost(14, 8, 1)
"""The cost of a new hash: 16 MiB and some tens of milliseconds (docs/security.md)."""


class Hash(NamedTuple):
    """A salted slow hash of a token."""

    cost: Cost
    salt: bytes
    digest: bytes


class Entry(NamedTuple):
    """The entry of a token: its owner's name and role, its hash, and its limits.

    Times are seconds since the epoch; `expires_at` is None for a token that does not expire. If `queue` is
    set, the token is valid only for jobs of that queue.
    """

    id: str
    name: str
    role: Role
    queue: str | None
    made_at: float
    expires_at: float | None
    hash: Hash
    is_bare: bool = False

    def is_expired(self, now: float) -> bool:
        """Whether the token has expired."""
        return self.expires_at is not None and now >= self.expires_at


def parse_token_id(text: str) -> str | None:
    """Return the id of a token, None if the text does not have the format of a token."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else None


def make_token(
    name: str,
    role: Role,
    queue: str | None,
    now: float,
    expires_at: float | None,
    randomness: bytes,
) -> tuple[Entry, str]:
    """Return a new entry and the text of its token, which is not stored; `randomness` has RANDOMNESS bytes.

    Takes the time of a slow hash. Raises BadRequest if no such token is allowed.
    """
    if not is_name(name) or TOKEN_ID.fullmatch(name):
        raise BadRequest(
            "a token's name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ - and does not look like an id, "
            f"not {_shorten(name)}"
        )
    if queue is not None and role is Role.ADMIN:
        raise BadRequest(
            "a token of the role admin cannot be restricted to a queue; choose the role submit or read"
        )
    if queue is not None and not is_name(queue):
        raise BadRequest(f"a queue's name has 1 to 200 of A-Z a-z 0-9 . _ + / : @ -, not {_shorten(queue)}")
    if expires_at is not None and expires_at <= now:
        raise BadRequest("a token cannot expire in the past; choose a later time")
    identity, salt, secret = _parts(randomness)
    text = f"{identity}.{urlsafe_b64encode(secret).decode('ascii').rstrip('=')}"
    until = None if expires_at is None else round(expires_at, 3)
    return Entry(identity, name, role, queue, round(now, 3), until, hash_token(text, salt)), text


def make_bare_entry(text: str, now: float, randomness: bytes) -> Entry:
    """Return an entry for the token of an older version, which was shared by all users and had all rights."""
    identity, salt, _ = _parts(randomness)
    return Entry(
        identity, "token", Role.ADMIN, None, round(now, 3), None, hash_token(text, salt), is_bare=True
    )


def placeholder_entry(randomness: bytes, cost: Cost = COST) -> Entry:
    """Return an entry that no token matches, to check tokens without an entry in the same time."""
    identity, salt, digest = _parts(randomness)
    return Entry(identity, "placeholder", Role.READ, None, 0.0, 0.0, Hash(cost, salt, digest))


def _parts(randomness: bytes) -> tuple[str, bytes, bytes]:
    """Return the id, the salt and the secret."""
    end = _ID_BYTES + _SALT_BYTES
    return randomness[:_ID_BYTES].hex(), randomness[_ID_BYTES:end], randomness[end:RANDOMNESS]


def hash_token(text: str, salt: bytes, cost: Cost = COST) -> Hash:
    """Return the slow hash of a token. Takes tens of milliseconds, in which other threads can run."""
    return Hash(cost, salt, _digest(text, salt, cost))


def matches(entry: Entry, text: str) -> bool:
    """Whether a token is that of an entry. Takes the time of a slow hash, whatever the answer is."""
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


def add_entry(entries: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the entries with one more; raises BadRequest if it contradicts one of the others.

    A name may have several tokens, so that a client gets a new one before the old one is revoked. All of
    them must have the same rights.
    """
    for other in entries:
        if other.name == entry.name and (other.role, other.queue) != (entry.role, entry.queue):
            raise BadRequest(
                f"{entry.name} already has token {other.id} with the role {other.role.value}"
                f"{f' for queue {other.queue}' if other.queue else ''}, and all tokens of a name must "
                "have the same rights; revoke it first, or choose another name"
            )
    return [*entries, entry]


def split_entries(entries: Sequence[Entry], which: str) -> tuple[list[Entry], list[Entry]]:
    """Return the entries with an id or a name, and the others; raises BadRequest if no entry has it."""
    found = [entry for entry in entries if which in (entry.id, entry.name)]
    if not found:
        raise BadRequest(f"there is no token {_shorten(which)}; `taskq token list` lists all tokens")
    return found, [entry for entry in entries if entry not in found]


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
