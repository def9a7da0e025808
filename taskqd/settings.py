"""TOML and options -> one typed Settings; an error names the file or option, the key and what was expected.

Every key of the file is an option of ``twistd taskq`` by the same name, and the option wins. Nothing here
reads a file or the environment: text and defaults are arguments. etc/taskqd.toml shows every setting.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from taskqd.errors import SettingsError

MOST_SLOTS = 10_000


class Settings(Struct, frozen=True, kw_only=True):
    """How the daemon is to run: its state directory, its endpoint strings, and how many jobs run at once."""

    state: str
    listen: tuple[str, ...]
    slots: int


_EXPECTED = {
    "state": 'a path, such as "/var/lib/taskqd"',
    "listen": 'one endpoint string or a list of them, such as "unix:/run/taskqd/taskq.sock"',
    "slots": f"a whole number from 1 to {MOST_SLOTS}",
}


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the settings in the text of a file called ``name``; raises SettingsError."""
    try:
        values = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as why:
        raise SettingsError(f"{name} is not TOML: {why}") from None
    for key in values:
        if key not in _EXPECTED:
            raise SettingsError(f"{name}: {key} is no setting; there are {', '.join(_EXPECTED)}")
    return {key: check(key, value, name) for key, value in values.items()}


def check(key: str, value: Any, source: str) -> Any:
    """Return a setting's value in its own type; ``source`` is where it comes from. Raises SettingsError."""
    if key == "listen" and isinstance(value, str):
        value = [value]
    if key == "listen" and isinstance(value, list | tuple) and value and all(map(_is_text, value)):
        return tuple(value)
    if key == "state" and _is_text(value):
        return value
    if key == "slots" and type(value) is int and 1 <= value <= MOST_SLOTS:
        return value
    raise SettingsError(f"{source}: {key} must be {_EXPECTED[key]}, not {value!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and "\0" not in value


def merge(options: Mapping[str, Any], file: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Return the settings: an option where one was given, else the file's, else the default."""
    return Settings(**{**defaults, **file, **options})
