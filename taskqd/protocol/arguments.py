"""Options on a request line: ``--name`` and ``--name=value``, with quoted values (docs/protocol.md §2).

``scan`` cuts a line into options and what follows them, knowing no verb; ``read`` checks the options of one
verb against the table of those that it takes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from taskqd.errors import BadRequest
from taskqd.protocol.values import take_quoted

_OPTION = re.compile(r"--([a-z][a-z-]{0,39})(=?)")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_SPACE = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^ \t]*")

Table: TypeAlias = Mapping[str, tuple[str, Callable[[str], Any]]]
"""The options of one verb: by name, the field of its argument that each sets, and the reader of its value."""


VARIABLES = ("env", "secret")
"""The options whose value is NAME=value, with the value quoted if need be; they may be repeated."""
BYTES = (*VARIABLES, "cwd")
"""The options whose quoted value may hold bytes that are not UTF-8."""
MOST_NAMED = 12
"""A refusal names the options of a verb if there are no more than so many."""


class Option(NamedTuple):
    """One option as it stands on the line; ``value`` is None where there is no ``=``."""

    name: str
    value: str | None


class Scanned(NamedTuple):
    """The options that begin a text, and the text behind them, verbatim."""

    options: list[Option]
    rest: str


def skip_space(text: str, start: int = 0) -> int:
    """Return the index of the first character from ``start`` on that is no blank."""
    space = _SPACE.match(text, start)
    return space.end() if space else start


def scan(text: str) -> Scanned:
    """Cut ``text`` into its leading options and the rest; a lone ``--`` ends the options and is dropped.

    Raises BadRequest where an option has no proper form or a quoted value does not end.
    """
    options: list[Option] = []
    at = skip_space(text)
    while text.startswith("--", at):
        if text[at + 2 : at + 3] in ("", " ", "\t"):
            at = skip_space(text, at + 2)
            break
        option, at = _take_option(text, at)
        options.append(option)
        at = skip_space(text, at)
    return Scanned(options, text[at:])


def _take_option(text: str, start: int) -> tuple[Option, int]:
    head = _OPTION.match(text, start)
    if not head:
        raise BadRequest(
            f"expected an option such as --name=value, not {_word(text, start)[:40]!r}; "
            "a command that begins with -- follows a lone --"
        )
    name, at = head[1], head.end()
    if not head[2]:
        if _word(text, at):
            raise BadRequest(f"expected a space or = after --{name}, not {_word(text, at)[:20]!r}")
        return Option(name, None), at
    before = ""
    if name in VARIABLES:
        equals = text.find("=", at)
        if equals >= 0 and _ENV_NAME.fullmatch(text, at, equals):
            before, at = text[at : equals + 1], equals + 1
    if text[at : at + 1] != '"':
        value = _word(text, at)
        return Option(name, before + value), at + len(value)
    quoted, end = take_quoted(text, at)
    if _word(text, end):
        what_came = "" if name == "secret" else f", not {_word(text, end)[:20]!r}"
        raise BadRequest(f"expected a space after the value of --{name}{what_came}")
    return Option(name, before + _text(name, quoted)), end


def _word(text: str, start: int) -> str:
    word = _WORD.match(text, start)
    return word[0] if word else ""


def _text(name: str, quoted: bytes) -> str:
    """Return a quoted value as text; bytes that are not UTF-8, where allowed, become surrogates (PEP 383)."""
    try:
        value = quoted.decode("utf-8", "surrogateescape" if name in BYTES else "strict")
    except UnicodeDecodeError:
        raise BadRequest(f"the value of --{name} is not UTF-8") from None
    if "\0" in value:
        raise BadRequest(f"the value of --{name} has a NUL byte in it")
    return value


def read(verb: str, options: list[Option], table: Table) -> dict[str, Any]:
    """Return {field: value} of the options of ``verb``.

    Only those of VARIABLES may be repeated; their values are gathered in a dict each. Raises BadRequest.
    """
    values: dict[str, Any] = {}
    for name, text in options:
        if name not in table:
            raise BadRequest(f"--{name} is no option of {verb}{_known(verb, table)}")
        field, reader = table[name]
        if field in values and name not in VARIABLES:
            raise BadRequest(f"--{name} is given twice")
        if text is None and reader is not flag:
            raise BadRequest(f"--{name} needs a value: --{name}=...")
        try:
            value = reader(text or "")
        except BadRequest as why:
            raise BadRequest(f"--{name}: {why}") from None
        values[field] = {**values.get(field, {}), **value} if name in VARIABLES else value
    return values


def _known(verb: str, table: Table) -> str:
    if len(table) > MOST_NAMED:
        return f"; HELP {verb} lists those that it takes"
    return f", which takes {' '.join(f'--{option}' for option in table) or 'none'}"


def flag(text: str) -> bool:
    """Read an option that has no value."""
    if text:
        raise BadRequest(f"takes no value, not {text[:40]!r}")
    return True


def parse_env(text: str) -> dict[str, str]:
    """Return {NAME: value} of one ``--env=NAME=value``; TASKQ_ names are the daemon's own."""
    name, equals, value = text.partition("=")
    if not equals or not _ENV_NAME.fullmatch(name):
        raise BadRequest(f"expected NAME=value with a NAME of letters, digits and _, not {text[:60]!r}")
    return {_allowed(name): value}


def parse_secret(text: str) -> dict[str, str]:
    """Return {NAME: value} of one ``--secret=NAME=value``; what is refused is not repeated, it may be one."""
    name, equals, value = text.partition("=")
    if not equals or not _ENV_NAME.fullmatch(name):
        raise BadRequest("expected NAME=value with a NAME of letters, digits and _")
    return {_allowed(name): value}


def _allowed(name: str) -> str:
    """Return the name of a variable that a job may have from its submission."""
    if name.startswith("TASKQ_"):
        raise BadRequest(f"names that begin with TASKQ_ are set by the daemon; choose another than {name}")
    return name
