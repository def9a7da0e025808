"""Parses frequent SUBMIT lines with one regular expression and a cache of their options.

A client that submits many jobs repeats the same options, so the Spec of these options is parsed once and
shared. Lines with quoted or secret values, lines that are not ASCII and invalid lines are left to submit.py.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from taskqd.errors import TaskqError
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.submission import Submission, observes_other_jobs
from taskqd.protocol.submit import block_sizes, parse_submission

_SUBMIT = re.compile(
    rb'SUBMIT ((?:[ \t]*--[a-z][a-z-]{0,39}(?:=[^\0 \t"\x80-\xff]*)?(?=[ \t]))*)[ \t]*'
    rb"([^\0\- \t\x80-\xff][^\0\x80-\xff]*)"
)
_MAX_OPTIONS_LENGTH = 2000
"""Bytes of options that are cached. A PATH among them may have hundreds."""
_CACHE_SIZE = 256
"""Number of different option texts that are cached."""


class CachedOptions(NamedTuple):
    """The Spec and the sizes of the blocks that the options of a SUBMIT describe.

    `is_batchable` if the submission has no blocks and no key, and does not observe other jobs.
    """

    spec: Spec
    blocks: tuple[int, ...]
    is_batchable: bool


_NO_OPTIONS = CachedOptions(DEFAULT_SPEC, (), is_batchable=True)


def parse_batchable(data: bytes, at: int, end: int) -> Submission | None:
    """Return the submission of the line `data[at:end]` if it can be part of a batch, otherwise None.

    None also if `parse_cached` does not parse the line.
    """
    match = _SUBMIT.fullmatch(data, at, end)
    if match is None:
        return None
    options, command = match.groups()
    if not options:
        return Submission(command.decode("ascii"), DEFAULT_SPEC)
    cached = _look_up(options)
    if cached is None or not cached.is_batchable:
        return None
    return Submission(command.decode("ascii"), cached.spec)


def parse_cached(line: bytes) -> tuple[Submission, tuple[int, ...]] | None:
    """Return the submission of a SUBMIT line and the sizes of its blocks; None if submit.py must parse it."""
    match = _SUBMIT.fullmatch(line)
    if match is None:
        return None
    options, command = match.groups()
    cached = _look_up(options) if options else _NO_OPTIONS
    return None if cached is None else (Submission(command.decode("ascii"), cached.spec), cached.blocks)


def _look_up(options: bytes) -> CachedOptions | None:
    if len(options) > _MAX_OPTIONS_LENGTH or b"--secret" in options:
        return None
    try:
        return _parse_options(options)
    except TaskqError:
        return None


@lru_cache(_CACHE_SIZE)
def _parse_options(options: bytes) -> CachedOptions:
    text = f"{options.decode('ascii')} :"
    spec, blocks = parse_submission(text).spec, block_sizes(text)
    return CachedOptions(spec, blocks, not blocks and spec.key is None and not observes_other_jobs(spec))
