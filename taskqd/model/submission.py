"""The values of a job's secrets as one block, which is kept beside its script and its stdin.

The form is that of an environment (proc(5), environ): ``NAME=value`` and a NUL each, sorted by name, so that
equal secrets are equal blocks. Only the names are in the Spec, and so in the journal and in what is shown.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from taskqd.model.spec import DEFAULT_SPEC, Spec

BLOCK = "secret"
"""The name of the block."""


def packed(values: Mapping[str, str]) -> bytes:
    """Return the block that has these values; bytes that are no text come as surrogates (PEP 383)."""
    return b"".join(_encoded(f"{name}={value}\0") for name, value in sorted(values.items()))


def unpacked(block: bytes, names: Iterable[str]) -> dict[str, str]:
    """Return the values by name; raises ValueError where the block is not whole, or not that of ``names``."""
    *whole, rest = block.split(b"\0")
    pairs = [each.decode("utf-8", "surrogateescape").partition("=") for each in whole]
    if rest or [name for name, _, _ in pairs] != sorted(names) or not all(equals for _, equals, _ in pairs):
        raise ValueError(f"expected the values of {', '.join(sorted(names))}, and the file has others")
    return {name: value for name, _, value in pairs}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


BLOCKS = ("script", "stdin")
"""The options that announce a block, in the order in which the blocks follow."""


class Submission(NamedTuple):
    """What a SUBMIT asks for: a command, and how it is to be run."""

    command: str
    spec: Spec


class ScheduleRequest(Struct, frozen=True, kw_only=True):
    """What SCHEDULE asks for: a job every so many seconds, or whenever cron's five fields say so.

    Where ``overlap`` is not set, none is submitted while the one before has not ended.
    """

    command: str
    spec: Spec = DEFAULT_SPEC
    every: float | None = None
    cron: str | None = None
    overlap: bool = False


def names_other_jobs(spec: Spec) -> bool:
    """Whether what is asked is about other jobs too."""
    return bool(spec.after or spec.after_any or spec.after_fail)
