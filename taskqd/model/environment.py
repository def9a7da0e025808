"""The environment that a client passes on to its jobs: a block of variables, known by its SHA-256.

The block has the form of an environment (proc(5), environ): ``NAME=value`` and a NUL each. Its values are
treated as those of secrets are: a Spec, and so the journal and all replies, has only the size and the hash.
"""

import re
from hashlib import sha256

from msgspec import Struct

from taskqd.errors import BadRequest

MAX_ENVIRONMENT_SIZE = 128 * 1024
"""Bytes of a block: the longest single variable that Linux passes to a program (MAX_ARG_STRLEN)."""
OWN_PREFIX = "TASKQ_"
"""The beginning of the names that the daemon sets."""

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,199}")


class Environment(Struct, frozen=True, gc=False, omit_defaults=True):
    """The option ``--environment``: the size of a block, and its SHA-256 in hex digits.

    Until the block has arrived the hash is empty. Both are those of the block with its variables sorted.
    """

    size: int
    sha256: str = ""


def sort_block(block: bytes) -> bytes:
    """Return a valid block with its variables sorted by name, so that equal environments are equal blocks.

    Raises BadRequest, which repeats no value.
    """
    *entries, rest = block.split(b"\0")
    if rest:
        raise BadRequest("each variable of an environment ends with a NUL byte, and the last one has none")
    by_name: dict[bytes, bytes] = {}
    for number, entry in enumerate(entries, 1):
        name, equals, _ = entry.partition(b"=")
        if not equals or not _NAME.fullmatch(name):
            raise BadRequest(
                f"variable {number} of the environment is not NAME=value with a NAME of letters, digits and _"
            )
        if name.startswith(OWN_PREFIX.encode("ascii")):
            raise BadRequest(
                f"variable {number} of the environment is {name.decode('ascii')}; names that begin with "
                f"{OWN_PREFIX} are set by the daemon"
            )
        if name in by_name:
            raise BadRequest(f"the environment has two variables {name.decode('ascii')}; send one of them")
        by_name[name] = entry
    return b"".join(by_name[name] + b"\0" for name in sorted(by_name))


def environment_of(block: bytes) -> Environment:
    """Return the size and the hash of a sorted block."""
    return Environment(len(block), sha256(block).hexdigest())


def unpack_environment(block: bytes, environment: Environment) -> dict[str, str]:
    """Return the values of a sorted block by name; bytes that are not UTF-8 are surrogates (PEP 383).

    Raises ValueError if the block is not that of ``environment``.
    """
    if environment_of(block) != environment:
        raise ValueError(f"its {len(block)} bytes are not those with the SHA-256 {environment.sha256}")
    pairs = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in block.split(b"\0")[:-1])
    return {name: value for name, _, value in pairs}
