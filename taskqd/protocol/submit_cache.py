"""Parses frequent SUBMIT lines with one regular expression and a cache of their options.

A client that submits many jobs repeats the same options, so the Spec of these options is parsed once and
shared. Lines with quoted or secret values, lines that are not ASCII and invalid lines are left to submit.py.
"""

import re
from functools import lru_cache
from typing import NamedTuple, cast

from taskqd.errors import TaskqError
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.submission import SimilarSubmissions, Submission, observes_other_jobs
from taskqd.protocol.submit import block_sizes, parse_submission

_LINE = (
    r'SUBMIT ((?:[ \t]*--[a-z][a-z-]{0,39}(?:=[^\0 \t\r\n"\x80-\xff]*)?(?=[ \t]))*)[ \t]*'
    r"([^\0\- \t\r\n\x80-\xff][^\0\r\n\x80-\xff]*)"
)
"""A frequent line: its options and its command."""
_SUBMIT = re.compile(_LINE)
_FREQUENT_LINES = re.compile(rf"^{_LINE}\r?\n", re.MULTILINE)
_OTHER_LINE = re.compile(rf"^(?!{_LINE}\r?\n)", re.MULTILINE)
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


def parse_batchable(lines: str, count: int) -> tuple[list[SimilarSubmissions], int]:
    """Return the submissions of the first lines, up to one that cannot be part of a batch, and their number.

    `lines` are `count` whole lines, decoded as Latin-1. Those that `parse_cached` does not parse are in none.
    """
    found = _FREQUENT_LINES.findall(lines)
    if len(found) != count:
        other = cast("re.Match[str]", _OTHER_LINE.search(lines))
        found = _FREQUENT_LINES.findall(lines, 0, other.start())
    submissions: list[SimilarSubmissions] = []
    latest: str | None = None
    commands: list[str] = []
    for number, (options, command) in enumerate(found):
        if options != latest:
            cached = _look_up(options)
            if cached is None or not cached.is_batchable:
                return submissions, number
            latest, commands = options, []
            submissions.append(SimilarSubmissions(cached.spec, commands))
        commands.append(command)
    return submissions, len(found)


def parse_cached(line: bytes) -> tuple[Submission, tuple[int, ...]] | None:
    """Return the submission of a SUBMIT line and the sizes of its blocks; None if submit.py must parse it."""
    match = _SUBMIT.fullmatch(line.decode("latin-1"))
    if match is None:
        return None
    options, command = match.groups()
    cached = _look_up(options)
    return None if cached is None else (Submission(command, cached.spec), cached.blocks)


def _look_up(options: str) -> CachedOptions | None:
    if not options:
        return _NO_OPTIONS
    if len(options) > _MAX_OPTIONS_LENGTH or "--secret" in options:
        return None
    try:
        return _parse_options(options)
    except TaskqError:
        return None


@lru_cache(_CACHE_SIZE)
def _parse_options(options: str) -> CachedOptions:
    text = f"{options} :"
    spec, blocks = parse_submission(text).spec, block_sizes(text)
    return CachedOptions(spec, blocks, not blocks and spec.key is None and not observes_other_jobs(spec))
