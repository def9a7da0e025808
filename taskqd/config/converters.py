"""Converters of settings: a value from TOML or from the command line -> its own type.

A converter gets the value in TOML, or the text of an option, or a list of texts if the option is repeatable.
It raises InvalidValue, which says only what is wrong with the value; ``settings`` adds the setting's name and
where it comes from.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from taskqd.config.limits import LIMITS, NONE, parse_limit
from taskqd.errors import BadRequest
from taskqd.model.rate import Rate, parse_rate
from taskqd.model.roles import ANY_NAME, Role
from taskqd.protocol.values import is_name, parse_duration, parse_size

ROLES = tuple(role.value for role in Role)
E = TypeVar("E", bound=Enum)


class InvalidValue(Exception):
    """A value is invalid for its setting.

    ``part`` is the invalid part, None if all of it is. If the setting is a table whose entries have different
    types, ``name`` is that of the entry and ``expected`` its description.
    """

    def __init__(self, part: str | None = None, name: str = "", expected: str = "") -> None:
        super().__init__(part, name, expected)
        self.part = part
        self.name = name
        self.expected = expected


def text(value: Any) -> str:
    """Convert a text that is not blank."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidValue
    return value


def path_or_none(value: Any) -> str | None:
    """Convert an absolute path; "none" is None."""
    if value == NONE:
        return None
    if not text(value).startswith("/"):
        raise InvalidValue
    return text(value)


def texts(value: Any) -> tuple[str, ...]:
    """Convert a text or a list of texts, which may be empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise InvalidValue
    return tuple(map(text, values))


def text_list(value: Any) -> tuple[str, ...]:
    """Convert a text or a list of at least one."""
    found = texts(value)
    if not found:
        raise InvalidValue
    return found


def boolean(value: Any) -> bool:
    """Convert true or false, which is a text on a command line."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidValue
    return bool(value == "true")


def integer(low: int, high: int) -> Callable[[Any], int]:
    """Return the converter of a whole number from ``low`` to ``high``."""

    def convert(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise InvalidValue
        return value

    return convert


def duration(value: Any) -> float:
    """Convert a duration to seconds; a number is in seconds."""
    if type(value) not in (int, float, str):
        raise InvalidValue
    try:
        return parse_duration(f"{value}")
    except (BadRequest, ValueError):  # ValueError: str() refuses a number of thousands of digits
        raise InvalidValue from None


def size_or_none(value: Any) -> int | None:
    """Convert a size to bytes; a number is in bytes, "none" is None."""
    if value == NONE:
        return None
    if type(value) not in (int, str):
        raise InvalidValue
    try:
        return parse_size(f"{value}")
    except (BadRequest, ValueError):  # as above
        raise InvalidValue from None


def positive_duration(value: Any) -> float:
    """Convert a duration above 0 to seconds."""
    seconds = duration(value)
    if seconds <= 0:
        raise InvalidValue
    return seconds


def duration_or_none(value: Any) -> float | None:
    """Convert a duration to seconds; a number is in seconds, "none" is None."""
    return None if value == NONE else duration(value)


def member(kind: type[E]) -> Callable[[Any], E]:
    """Return the converter of a word to the member of an enum that has it as its value."""

    def convert(value: Any) -> E:
        try:
            return kind(value)
        except ValueError:
            raise InvalidValue from None

    return convert


def choice(no: str, yes: str) -> Callable[[Any], bool]:
    """Return the converter of one of two words to whether it is the second one."""

    def convert(value: Any) -> bool:
        if value not in (no, yes):
            raise InvalidValue
        return bool(value == yes)

    return convert


def amounts(high: int, reserved: tuple[str, ...] = ()) -> Callable[[Any], dict[str, int]]:
    """Return the converter of {name: amount}, or of a list of NAME=AMOUNT in which the last of a name counts.

    Names that are ``reserved`` are invalid.
    """

    def convert(value: Any) -> dict[str, int]:
        pairs = pairs_of(value, number)
        for name, amount in pairs.items():
            if not is_name(name) or name in reserved or type(amount) is not int or not 1 <= amount <= high:
                raise InvalidValue(f"{name} = {shown(amount)}")
        return pairs

    return convert


def switches(reserved: tuple[str, ...] = ()) -> Callable[[Any], dict[str, bool]]:
    """Return the converter of {name: true or false}, or of a list of NAME=true or NAME=false."""

    def convert(value: Any) -> dict[str, bool]:
        found = {}
        for name, switch in pairs_of(value).items():
            try:
                found[_name(name, reserved)] = boolean(switch)
            except InvalidValue:
                raise InvalidValue(f"{name} = {shown(switch)}") from None
        return found

    return convert


def rates(reserved: tuple[str, ...] = ()) -> Callable[[Any], dict[str, Rate]]:
    """Return the converter of {name: rate}, or of a list of NAME=RATE."""

    def convert(value: Any) -> dict[str, Rate]:
        found = {}
        for name, rate in pairs_of(value).items():
            try:
                found[_name(name, reserved)] = parse_rate(text(rate))
            except (InvalidValue, ValueError):
                raise InvalidValue(f"{name} = {shown(rate)}") from None
        return found

    return convert


def _name(name: str, reserved: tuple[str, ...]) -> str:
    if not is_name(name) or name in reserved:
        raise InvalidValue
    return name


def roles(value: Any) -> dict[str, Role]:
    """Convert {name: role}, or a list of NAME=ROLE."""
    pairs = pairs_of(value)
    for name, role in pairs.items():
        if not (is_name(name) or name == ANY_NAME) or role not in ROLES:
            raise InvalidValue(f"{name} = {shown(role)}")
    return {name: Role(role) for name, role in pairs.items()}


def limits(value: Any) -> dict[str, float | None]:
    """Convert {name: limit}, or a list of NAME=LIMIT; names may have ``_`` or ``-``."""
    found: dict[str, float | None] = {}
    for written, limit in pairs_of(value).items():
        name = written.replace("_", "-")
        if name not in LIMITS:
            raise InvalidValue(repr(written))
        try:
            found[name] = parse_limit(name, limit)
        except (BadRequest, ValueError):  # as above
            raise InvalidValue(shown(limit), name, LIMITS[name].expected) from None
    return found


def pairs_of(value: Any, convert: Callable[[str], Any] = str) -> dict[str, Any]:
    """Return the pairs of a table, or those of a list of NAME=VALUE with converted values."""
    if not isinstance(value, list):
        return dict(value)
    pairs = {}
    for pair in value:
        name, equals, text_of_value = pair.rpartition("=")
        if not equals:
            raise InvalidValue(repr(pair))
        pairs[name] = convert(text_of_value)
    return pairs


def number(word: str) -> Any:
    """Return a word as a whole number, or the word itself if it is not one."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 18 else word


def shown(value: Any) -> str:
    """Return a value as an error shows it; repr() refuses a number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"
