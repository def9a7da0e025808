"""TOML and options -> one typed Settings; an error names the file or option, the key and what was expected.

Every key of the file is an option of ``twistd taskq`` by the same name, those of a table with the table's
name before it, and the option wins. Nothing here reads a file or the environment: text and defaults are
arguments. etc/taskqd.toml shows every setting.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from taskqd.errors import BadRequest, SettingsError
from taskqd.words import parse_duration

MOST_SLOTS = 10_000
MOST_KEPT = 100_000_000


class Retention(Struct, frozen=True):
    """How long jobs that have ended are kept: for ``age`` seconds, and no more than ``count`` of them."""

    age: float = 7 * 86400.0
    count: int = 100_000


class Settings(Struct, frozen=True, kw_only=True):
    """How the daemon is to run.

    ``state`` is its directory, ``listen`` has its endpoint strings, ``slots`` is how many jobs run at once.
    At a stop, running jobs have ``stop_grace`` seconds to end; what is ended then is interrupted, or with
    ``requeue`` runs again after the next start.
    """

    state: str
    listen: tuple[str, ...]
    slots: int
    stop_grace: float = 10.0
    requeue: bool = False
    retention: Retention = Retention()


class _Wrong(Exception):
    """A value is not what its setting takes."""


class Setting(NamedTuple):
    """One setting: what its value must be, for a person, and the reader of its value in TOML."""

    expected: str
    read: Callable[[Any], Any]
    is_number: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _Wrong
    return value


def _endpoints(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values:
        raise _Wrong
    return tuple(map(_text, values))


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _Wrong
        return value

    return read


def _duration(value: Any) -> float:
    if type(value) not in (int, float, str):
        raise _Wrong
    try:
        return parse_duration(str(value))
    except BadRequest:
        raise _Wrong from None


def _on_stop(value: Any) -> bool:
    if value not in ("interrupt", "requeue"):
        raise _Wrong
    return bool(value == "requeue")


SETTINGS: dict[str, Setting] = {
    "state": Setting('a path, such as "/var/lib/taskqd"', _text),
    "listen": Setting(
        'one endpoint string or a list of them, such as "unix:/run/taskqd/taskq.sock"', _endpoints
    ),
    "slots": Setting(f"a whole number from 1 to {MOST_SLOTS}", _whole(1, MOST_SLOTS), is_number=True),
    "stop-grace": Setting('a duration, such as "10s" or "5m"', _duration),
    "on-stop": Setting('"interrupt" or "requeue"', _on_stop),
    "retention-age": Setting('a duration, such as "7d"', _duration),
    "retention-count": Setting(f"a whole number from 0 to {MOST_KEPT}", _whole(0, MOST_KEPT), is_number=True),
}
"""Every setting, by the name of its option."""

_TABLES = ("retention",)


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the settings in the text of a file called ``name``, by option; raises SettingsError."""
    try:
        document = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as why:
        raise SettingsError(f"{name} is not TOML: {why}") from None
    values = {key: value for key, value in document.items() if key not in _TABLES}
    for table in _TABLES:
        content = document.get(table, {})
        if not isinstance(content, dict):
            raise SettingsError(f"{name}: {table} must be a table, [{table}], not {content!r}")
        values.update({f"{table}-{key}": value for key, value in content.items()})
    return {key: check(key, value, name) for key, value in values.items()}


def check(key: str, value: Any, source: str) -> Any:
    """Return a setting's value in its own type; ``source`` is where it comes from. Raises SettingsError."""
    if key not in SETTINGS:
        raise SettingsError(f"{source}: {key} is no setting; there are {', '.join(SETTINGS)}")
    try:
        return SETTINGS[key].read(value)
    except _Wrong:
        raise SettingsError(f"{source}: {key} must be {SETTINGS[key].expected}, not {value!r}") from None


def check_option(key: str, text: str | list[str], source: str) -> Any:
    """Return the value of a setting that was given as text on a command line; raises SettingsError."""
    value: Any = text
    if (
        SETTINGS[key].is_number
        and isinstance(text, str)
        and text.isascii()
        and text.isdigit()
        and len(text) < 18
    ):
        value = int(text)
    return check(key, value, source)


def merge(options: Mapping[str, Any], file: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Return the settings: an option where one was given, else the file's, else the default."""
    values = {**defaults, **file, **options}
    retention = {key: values[f"retention-{key}"] for key in ("age", "count") if f"retention-{key}" in values}
    more = {
        field: values[key]
        for field, key in (("stop_grace", "stop-grace"), ("requeue", "on-stop"))
        if key in values
    }
    return Settings(
        state=values["state"],
        listen=values["listen"],
        slots=values["slots"],
        retention=Retention(**retention),
        **more,
    )
