"""The variables of ``--env`` and ``--env-file``: given, or copied from the environment of ``taskq``."""

import os

from taskqd.errors import BadRequest

MAX_FILE_BYTES = 1024 * 1024
"""Bytes of a file with variables; a request takes far fewer."""

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$", "`": "`"}


def parse_variable(text: str) -> tuple[str, str]:
    """Return the variable of ``NAME=VALUE``, or of ``NAME``, which is copied from the environment."""
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise BadRequest(f"{name[:60]!r} is not in your environment; export it, or give NAME=VALUE")
    return name, os.environ[name]


def read_variables(path: str) -> dict[str, str]:
    """Return the variables in a file (``parse_line``); errors name the file and the line."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as why:
        raise BadRequest(f"cannot read {path}: {why.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise BadRequest(f"{path} has more than {MAX_FILE_BYTES} bytes")
    variables: dict[str, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            variables |= parse_line(os.fsdecode(line))
        except BadRequest as why:
            raise BadRequest(f"{path}, line {number}: {why}") from None
    return variables


def parse_line(line: str) -> dict[str, str]:
    r"""Return the variable of a line, none for an empty line and for one that begins with #.

    A value is taken unchanged, without the blanks around it. In single quotes it keeps all characters; in
    double quotes ``\n \r \t \" \\ \$ \``` are escapes. No error repeats a value.
    """
    text = line.strip(" \t\r")
    if not text or text.startswith("#"):
        return {}
    name, equals, value = (part.strip(" \t") for part in text.partition("="))
    if not name.isidentifier() or not name.isascii():
        raise BadRequest("expected NAME=VALUE or NAME, with a NAME of letters, digits and _")
    return dict([parse_variable(f"{name}={_unquoted(value)}" if equals else name)])


def _unquoted(value: str) -> str:
    quote = value[:1]
    if quote not in ("'", '"'):
        return value
    result, at = "", 1
    while at < len(value) and value[at] != quote:
        if value[at] == "\\" and quote == '"':
            at += 1
            if value[at : at + 1] not in _ESCAPES:
                raise BadRequest(r"after a \ in double quotes there must be one of n r t " + r'" \ $ `')
            result += _ESCAPES[value[at]]
        else:
            result += value[at]
        at += 1
    if at != len(value) - 1:
        raise BadRequest(f"expected a second {quote} at the end of the line, and no other before it")
    return result
