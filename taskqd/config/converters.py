"""The value of a setting, from TOML or from a command line -> its own type: a reader for each kind.

A reader takes what TOML had, or a command line's text, or the texts of an option that is repeated. It raises
Wrong, which tells only what is wrong with the value: ``settings`` knows what it is for, and where it is from.
"""

from collections.abc import Callable
from typing import Any

from taskqd.config.limits import LIMITS, NONE, read_limit
from taskqd.errors import BadRequest
from taskqd.model.roles import ANY_NAME, Role
from taskqd.protocol.values import is_name, parse_duration, parse_size

ROLES = tuple(role.value for role in Role)


class InvalidValue(Exception):
    """A value is not what its setting takes.

    ``part`` is the part that is not, None where that is all of it. Where a setting has several by name, each
    with something else that it must be, ``name`` and ``expected`` tell which and what.
    """

    def __init__(self, part: str | None = None, name: str = "", expected: str = "") -> None:
        super().__init__(part, name, expected)
        self.part = part
        self.name = name
        self.expected = expected


def text(value: Any) -> str:
    """Read a text that says something."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidValue
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Read a text or a list of them, which may be empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise InvalidValue
    return tuple(map(text, values))


def text_list(value: Any) -> tuple[str, ...]:
    """Read a text or a list with one at least."""
    found = texts(value)
    if not found:
        raise InvalidValue
    return found


def boolean(value: Any) -> bool:
    """Read true or false, which is text on a command line."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidValue
    return bool(value == "true")


def whole(least: int, most: int) -> Callable[[Any], int]:
    """Return the reader of a whole number between two, both included."""

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise InvalidValue
        return value

    return read


def duration(value: Any) -> float:
    """Read a duration, in seconds where it is a number."""
    if type(value) not in (int, float, str):
        raise InvalidValue
    try:
        return parse_duration(f"{value}")
    except (BadRequest, ValueError):  # ValueError: Python makes no text of a number of thousands of digits.
        raise InvalidValue from None


def size_or_none(value: Any) -> int | None:
    """Read a size, in bytes where it is a number, or the word for none."""
    if value == NONE:
        return None
    if type(value) not in (int, str):
        raise InvalidValue
    try:
        return parse_size(f"{value}")
    except (BadRequest, ValueError):  # as above
        raise InvalidValue from None


def positive_duration(value: Any) -> float:
    """Read a duration above 0."""
    seconds = duration(value)
    if seconds <= 0:
        raise InvalidValue
    return seconds


def either(no: str, yes: str) -> Callable[[Any], bool]:
    """Return the reader of one of two words, which tells whether it is the second."""

    def read(value: Any) -> bool:
        if value not in (no, yes):
            raise InvalidValue
        return bool(value == yes)

    return read


def amounts(most: int, taken: tuple[str, ...] = ()) -> Callable[[Any], dict[str, int]]:
    """Return the reader of {name: amount}, or of a command line's NAME=AMOUNT; of two alike the later counts.

    The names that are ``taken`` are nobody's.
    """

    def read(value: Any) -> dict[str, int]:
        pairs = _pairs(value, number)
        for name, amount in pairs.items():
            if not is_name(name) or name in taken or type(amount) is not int or not 1 <= amount <= most:
                raise InvalidValue(f"{name} = {shown(amount)}")
        return pairs

    return read


def roles(value: Any) -> dict[str, Role]:
    """Read {name: role}, or a command line's NAME=ROLE."""
    pairs = _pairs(value)
    for name, role in pairs.items():
        if not (is_name(name) or name == ANY_NAME) or role not in ROLES:
            raise InvalidValue(f"{name} = {shown(role)}")
    return {name: Role(role) for name, role in pairs.items()}


def limits(value: Any) -> dict[str, float | None]:
    """Read {name: limit}, or a command line's NAME=LIMIT, whose names may have ``_`` or ``-``."""
    found: dict[str, float | None] = {}
    for written, limit in _pairs(value).items():
        name = written.replace("_", "-")
        if name not in LIMITS:
            raise InvalidValue(repr(written))
        try:
            found[name] = read_limit(name, limit)
        except (BadRequest, ValueError):  # ValueError: as above.
            raise InvalidValue(shown(limit), name, LIMITS[name].expected) from None
    return found


def _pairs(value: Any, read: Callable[[str], Any] = str) -> dict[str, Any]:
    """Return the pairs of a table, or of texts NAME=VALUE, whose values are then ``read``."""
    if not isinstance(value, list):
        return dict(value)
    pairs = {}
    for pair in value:
        name, equals, behind = pair.rpartition("=")
        if not equals:
            raise InvalidValue(repr(pair))
        pairs[name] = read(behind)
    return pairs


def number(word: str) -> Any:
    """Return the whole number that a word is, or the word itself where it is none."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 18 else word


def shown(value: Any) -> str:
    """Return a value as an error shows it; Python makes no text of a number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"
