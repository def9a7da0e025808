"""Options and job references on a request line (docs/protocol.md §2).

`split_options` splits a line into its options and the rest, for any verb; `parse_options` checks the options
against the table of one verb.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol.values import parse_quoted

_OPTION = re.compile(r"--([a-z][a-z-]{0,39})(=?)")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_SPACE = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^ \t]*")

_MAX_ID_DIGITS = 18
"""Digits of a job id or a task index, so that it fits into a signed 64-bit integer."""

VARIABLE_OPTIONS = ("env", "secret")
"""Options with the value NAME=value, whose value part may be quoted; they may be repeated."""
BYTES_OPTIONS = (*VARIABLE_OPTIONS, "cwd")
"""Options whose quoted value may have bytes that are not UTF-8."""
MAX_LISTED_OPTIONS = 12
"""An error message lists the options of a verb if it has up to this many; otherwise it refers to HELP."""


class OptionType(Struct, frozen=True):
    """An option of a verb: the field that it sets, and the parser of its value.

    `usage` is the syntax of the value for HELP, None if there is no value.
    """

    field: str
    parse: Callable[[str], Any]
    usage: str | None = None


Table: TypeAlias = Mapping[str, OptionType]
"""The options of a verb, by name."""


class Option(NamedTuple):
    """An option as given on a line; `value` is None if it has no `=`."""

    name: str
    value: str | None


class SplitLine(NamedTuple):
    """The options at the start of a text, and the unchanged text after them."""

    options: list[Option]
    rest: str


def skip_space(text: str, start: int = 0) -> int:
    """Return the index of the first character from `start` on that is neither space nor tab."""
    space = _SPACE.match(text, start)
    return space.end() if space else start


def split_options(text: str) -> SplitLine:
    """Split a text into its leading options and the rest; a `--` alone ends the options and is dropped.

    Raises BadRequest for an option that is not well-formed and for an unterminated quoted value.
    """
    options: list[Option] = []
    at = skip_space(text)
    while text.startswith("--", at):
        if text[at + 2 : at + 3] in ("", " ", "\t"):
            at = skip_space(text, at + 2)
            break
        option, at = _parse_option(text, at)
        options.append(option)
        at = skip_space(text, at)
    return SplitLine(options, text[at:])


class SplitWords(NamedTuple):
    """The words of a text, and the options between them."""

    words: list[str]
    options: list[Option]


def split_words(text: str, most: int | None = None) -> SplitWords:
    """Split a text into words and options, which may come in any order; stop behind `most` words and one.

    Raises as `split_options` does.
    """
    words: list[str] = []
    options: list[Option] = []
    while text and (most is None or len(words) <= most):
        leading, text = split_options(text)
        options += leading
        if text:
            end = len(_word_at(text, 0))
            words.append(text[:end])
            text = text[skip_space(text, end) :]
    return SplitWords(words, options)


def _parse_option(text: str, start: int) -> tuple[Option, int]:
    """Return the option at `start` and the index after it."""
    head = _OPTION.match(text, start)
    if not head:
        raise BadRequest(
            f"expected an option such as --name=value, not {_word_at(text, start)[:40]!r}; "
            "put -- before a command that begins with --"
        )
    name, at = head[1], head.end()
    if not head[2]:
        if _word_at(text, at):
            raise BadRequest(f"expected a space or = after --{name}, not {_word_at(text, at)[:20]!r}")
        return Option(name, None), at
    variable = ""
    if name in VARIABLE_OPTIONS:
        equals = text.find("=", at)
        if equals >= 0 and _ENV_NAME.fullmatch(text, at, equals):
            variable, at = text[at : equals + 1], equals + 1
    if text[at : at + 1] != '"':
        value = _word_at(text, at)
        return Option(name, variable + value), at + len(value)
    quoted, end = parse_quoted(text, at)
    if _word_at(text, end):
        found = "" if name == "secret" else f", not {_word_at(text, end)[:20]!r}"
        raise BadRequest(f"expected a space after the value of --{name}{found}")
    return Option(name, variable + _decode(name, quoted)), end


def _word_at(text: str, start: int) -> str:
    word = _WORD.match(text, start)
    return word[0] if word else ""


def _decode(name: str, quoted: bytes) -> str:
    """Return a quoted value as text; bytes that are not UTF-8 become surrogates (PEP 383) where allowed."""
    try:
        value = quoted.decode("utf-8", "surrogateescape" if name in BYTES_OPTIONS else "strict")
    except UnicodeDecodeError:
        raise BadRequest(f"the value of --{name} is not UTF-8") from None
    if "\0" in value:
        raise BadRequest(f"the value of --{name} has a NUL byte in it")
    return value


def parse_options(verb: str, options: list[Option], table: Table) -> dict[str, Any]:
    """Return the values of the options of `verb`, by field.

    Only VARIABLE_OPTIONS may be repeated; their values are merged into one dictionary per option. Raises
    BadRequest.
    """
    values: dict[str, Any] = {}
    for name, text in options:
        option = table.get(name)
        if option is None:
            raise BadRequest(f"--{name} is not an option of {verb}{_list_options(verb, table)}")
        field, parse = option.field, option.parse
        if field in values and name not in VARIABLE_OPTIONS:
            raise BadRequest(f"--{name} is given twice")
        if text is None and parse not in (parse_flag, parse_switch):
            raise BadRequest(f"--{name} needs a value: --{name}=...")
        try:
            value = parse(text or "")
        except BadRequest as error:
            raise BadRequest(f"--{name}: {error}") from None
        values[field] = {**values.get(field, {}), **value} if name in VARIABLE_OPTIONS else value
    return values


def _list_options(verb: str, table: Table) -> str:
    if len(table) > MAX_LISTED_OPTIONS:
        return f"; HELP {verb} lists those that it takes"
    return f", which takes {' '.join(f'--{name}' for name in table) or 'none'}"


def parse_flag(text: str) -> bool:
    """Parse an option that has no value."""
    if text:
        raise BadRequest(f"takes no value, not {text[:40]!r}")
    return True


def parse_switch(text: str) -> bool:
    """Parse an option that is true without a value, and may have the value true or false."""
    if text not in ("", "true", "false"):
        raise BadRequest(f"expected true or false, not {text[:40]!r}")
    return text != "false"


def parse_env(text: str) -> dict[str, str]:
    """Parse `NAME=value`, the value of `--env`, into {NAME: value}."""
    name, equals, value = text.partition("=")
    if not equals or not _ENV_NAME.fullmatch(name):
        raise BadRequest(f"expected NAME=value with a NAME of letters, digits and _, not {text[:60]!r}")
    return {_check_env_name(name): value}


def parse_secret(text: str) -> dict[str, str]:
    """Parse `NAME=value`, the value of `--secret`. An error does not repeat the text, which may be secret."""
    name, equals, value = text.partition("=")
    if not equals or not _ENV_NAME.fullmatch(name):
        raise BadRequest("expected NAME=value with a NAME of letters, digits and _")
    return {_check_env_name(name): value}


def _check_env_name(name: str) -> str:
    """Return the name of a variable if a submission may set it."""
    if name.startswith("TASKQ_"):
        raise BadRequest(f"names that begin with TASKQ_ are set by the daemon; choose another than {name}")
    return name


def parse_job_id(text: str) -> int:
    """Return a job's id. Raises BadRequest, or NoSuchJob if no job can have such a large id."""
    digits = text.lstrip("0")
    if not text.isascii() or not digits.isdigit():
        raise BadRequest(f"expected a job's id, a whole number from 1, not {text[:40]!r}")
    if len(digits) > _MAX_ID_DIGITS:
        raise NoSuchJob(f"there is no job {digits[:40]}")
    return int(digits)


def parse_job_ref(text: str) -> JobRef:
    """Return a job by its id, or a task by its array and index (`7.3`). Raises as `parse_job_id` does."""
    array, dot, index = text.partition(".")
    if not dot:
        return parse_job_id(text)
    if not array.isascii() or not array.lstrip("0").isdigit() or not index.isascii() or not index.isdigit():
        raise BadRequest(f"expected a job's id such as 7, or 7.3 for a task of an array, not {text[:40]!r}")
    if len(index.lstrip("0")) > _MAX_ID_DIGITS:
        raise NoSuchJob(f"there is no task {text[:40]}")
    return TaskId(parse_job_id(array), int(index.lstrip("0") or "0"))
