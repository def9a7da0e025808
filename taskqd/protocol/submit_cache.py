"""SUBMIT lines that are read the short way: of the last kinds, in plain ASCII.

Whoever submits much does it with the same options again and again: what they mean is known then, and their
spec is one object. A value that is quoted or secret is nothing for this, nor what is no ASCII or would be
refused: submission.py reads all of those.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from taskqd.errors import TaskqError
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.submission import Submission, names_other_jobs
from taskqd.protocol.submit import block_sizes, parse_submission

_PLAIN = re.compile(
    rb'SUBMIT ((?:[ \t]*--[a-z][a-z-]{0,39}(?:=[^\0 \t"\x80-\xff]*)?(?=[ \t]))*)[ \t]*'
    rb"([^\0\- \t\x80-\xff][^\0\x80-\xff]*)"
)
_LONGEST_PLAIN = 2000
"""Options of more bytes are nothing for this; a PATH among them may have hundreds."""
_PLAIN_KNOWN = 256
"""The options of so many kinds of late are known."""


class Plain(NamedTuple):
    """What the options that begin a SUBMIT ask for, and the sizes of its blocks.

    It ``is_alone`` if nothing comes with it, and it looks at no other job.
    """

    spec: Spec
    blocks: tuple[int, ...]
    is_alone: bool


_ALONE = Plain(DEFAULT_SPEC, (), is_alone=True)


def parse_batchable(data: bytes, at: int, end: int) -> Submission | None:
    """Return the order of a SUBMIT that stands in ``data`` from ``at`` to ``end``, which others may go with.

    None for any other line, and wherever ``parse_cached`` returns it.
    """
    form = _PLAIN.fullmatch(data, at, end)
    if form is None:
        return None
    options, command = form.groups()
    if not options:
        return Submission(command.decode("ascii"), DEFAULT_SPEC)
    plain = _plain(options)
    return Submission(command.decode("ascii"), plain.spec) if plain is not None and plain.is_alone else None


def parse_cached(line: bytes) -> tuple[Submission, tuple[int, ...]] | None:
    """Return the order and the blocks' sizes of a SUBMIT that is read the short way, None for another."""
    form = _PLAIN.fullmatch(line)
    if form is None:
        return None
    options, command = form.groups()
    plain = _plain(options) if options else _ALONE
    return None if plain is None else (Submission(command.decode("ascii"), plain.spec), plain.blocks)


def _plain(options: bytes) -> Plain | None:
    if len(options) > _LONGEST_PLAIN or b"--secret" in options:
        return None
    try:
        return _read_options(options)
    except TaskqError:
        return None


@lru_cache(_PLAIN_KNOWN)
def _read_options(options: bytes) -> Plain:
    whole = f"{options.decode('ascii')} :"
    spec, blocks = parse_submission(whole).spec, block_sizes(whole)
    return Plain(spec, blocks, not blocks and spec.key is None and not names_other_jobs(spec))
