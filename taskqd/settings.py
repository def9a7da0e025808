"""TOML and options -> one typed Settings; an error names the file or option, the key and what was expected.

Every key of the file is an option of ``twistd taskq`` by the same name, those of a table with the table's
name before it, and the option wins. The queues and the resources have names of the operator's own: each is a
line of its table, and a ``--queue NAME=SLOTS`` or ``--resource NAME=N``. Nothing here reads a file or the
environment: text and defaults are arguments. etc/taskqd.toml shows every setting.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from taskqd.errors import BadRequest, SettingsError
from taskqd.words import is_name, parse_duration

MOST_SLOTS = 10_000
MOST_KEPT = 100_000_000
LARGEST_AMOUNT = 1_000_000_000
"""There is at most so much of a resource, which may well be megabytes."""
ON_END_QUEUE = "on_end"
"""The queue of what is run at the end of jobs; its slots come from ``[on_end]``."""


class Retention(Struct, frozen=True):
    """How long jobs that have ended are kept: for ``age`` seconds, and no more than ``count`` of them."""

    age: float = 7 * 86400.0
    count: int = 100_000


class OnEnd(Struct, frozen=True):
    """What is run when a job ends: a command, for ``timeout`` seconds at most, ``slots`` at once.

    Where it ``is_of_failures``, only when one has FAILED.
    """

    command: str
    is_of_failures: bool = False
    timeout: float = 30.0
    slots: int = 1


class Settings(Struct, frozen=True, kw_only=True):
    """How the daemon is to run.

    ``state`` is its directory, ``listen`` has its endpoint strings, ``slots`` is how many slots there are for
    jobs to run in; ``queues`` are slots by queue and ``resources`` amounts by name.
    At a stop, running jobs have ``stop_grace`` seconds to end; what is ended then is interrupted, or with
    ``requeue`` runs again after the next start.
    """

    state: str
    listen: tuple[str, ...]
    slots: int
    stop_grace: float = 10.0
    requeue: bool = False
    retention: Retention = Retention()
    queues: dict[str, int] = {}
    resources: dict[str, int] = {}
    on_end: OnEnd | None = None


class _Wrong(Exception):
    """A value is not what its setting takes; its argument, if it has one, is the part that is not."""


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


def _only(value: Any) -> bool:
    if value not in ("all", "failed"):
        raise _Wrong
    return bool(value == "failed")


def _positive_duration(value: Any) -> float:
    seconds = _duration(value)
    if seconds <= 0:
        raise _Wrong
    return seconds


def _amounts(most: int, taken: tuple[str, ...] = ()) -> Callable[[Any], dict[str, int]]:
    """Return the reader of {name: amount}, or of a command line's NAME=AMOUNT; of two alike the later counts.

    The names that are ``taken`` are nobody's.
    """

    def read(value: Any) -> dict[str, int]:
        amounts = dict(map(_pair, value)) if isinstance(value, list) else value
        for name, amount in amounts.items():
            if not is_name(name) or name in taken or type(amount) is not int or not 1 <= amount <= most:
                raise _Wrong(f"{name} = {amount!r}")
        return dict(amounts)

    return read


def _pair(text: str) -> tuple[str, Any]:
    name, equals, amount = text.rpartition("=")
    if not equals:
        raise _Wrong(repr(text))
    return name, _number(amount)


def _number(text: str) -> Any:
    """Return the whole number that ``text`` is, or ``text`` itself where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else text


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
    "queue": Setting(
        f"a name but not {ON_END_QUEUE} and a whole number of slots from 1 to {MOST_SLOTS}, such as slow=2",
        _amounts(MOST_SLOTS, (ON_END_QUEUE,)),
    ),
    "resource": Setting(
        f"a name and a whole number from 1 to {LARGEST_AMOUNT}, such as gpu=2", _amounts(LARGEST_AMOUNT)
    ),
    "on-end-command": Setting("a shell command", _text),
    "on-end-only": Setting('"all" or "failed"', _only),
    "on-end-timeout": Setting('a duration above 0, such as "30s"', _positive_duration),
    "on-end-slots": Setting(f"a whole number from 1 to {MOST_SLOTS}", _whole(1, MOST_SLOTS), is_number=True),
}
"""Every setting, by the name of its option."""

_TABLES = {"retention": "retention-", "on_end": "on-end-"}
"""The tables whose keys are settings, and what stands before them in the options' names."""
_NAMED = {"queues": "queue", "resources": "resource"}
"""The tables whose keys are names of the operator's, and the option that has one of them."""


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the settings in the text of a file called ``name``, by option; raises SettingsError."""
    try:
        document = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as why:
        raise SettingsError(f"{name} is not TOML: {why}") from None
    tables = {table: _table(document.pop(table, {}), table, name) for table in (*_TABLES, *_NAMED)}
    for key in _NAMED.values():
        if key in document:
            raise _no_setting(key, name)
    for table, before in _TABLES.items():
        document.update({before + key: value for key, value in tables[table].items()})
    slots = {queue: _slots(table, queue, name) for queue, table in tables["queues"].items()}
    named = {"queue": slots, "resource": tables["resources"]}
    document.update({key: content for key, content in named.items() if content})
    return {key: check(key, value, name) for key, value in document.items()}


def _table(content: Any, table: str, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SettingsError(f"{name}: {table} must be a table, [{table}], not {content!r}")
    return content


def _slots(content: Any, queue: str, name: str) -> Any:
    """Return what stands for slots in the table of a queue, in which nothing else may stand."""
    if not isinstance(content, dict) or set(content) != {"slots"}:
        raise SettingsError(
            f"{name}: queues.{queue} must be a table, [queues.{queue}], with slots alone, not {content!r}"
        )
    return content["slots"]


def _no_setting(key: str, source: str) -> SettingsError:
    tables = ", ".join(f"[{table}]" for table in _NAMED)
    known = ", ".join(key for key in SETTINGS if key not in _NAMED.values())
    return SettingsError(f"{source}: {key} is no setting; there are {known}, and the tables {tables}")


def check(key: str, value: Any, source: str) -> Any:
    """Return a setting's value in its own type; ``source`` is where it comes from. Raises SettingsError."""
    if key not in SETTINGS:
        raise _no_setting(key, source)
    try:
        return SETTINGS[key].read(value)
    except _Wrong as wrong:
        part = wrong.args[0] if wrong.args else repr(value)
        raise SettingsError(f"{source}: {key} must be {SETTINGS[key].expected}, not {part}") from None


def check_option(key: str, text: str | list[str], source: str) -> Any:
    """Return the value of a setting that was given as text on a command line; raises SettingsError."""
    value = _number(text) if SETTINGS[key].is_number and isinstance(text, str) else text
    return check(key, value, source)


def merge(options: Mapping[str, Any], file: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Return the settings: an option where one was given, else the file's, else the default.

    Raises SettingsError where it is said how something is run at the end of jobs, but not what.
    """
    values = {**defaults, **file, **options}
    queues = {**file.get("queue", {}), **options.get("queue", {})}
    on_end = None
    if how := _fields(values, _ON_END):
        if "command" not in how:
            given = ", ".join(key for key in _ON_END.values() if key in values)
            raise SettingsError(f"on-end-command is missing: without it there is nothing that {given} is for")
        on_end = OnEnd(**how)
        queues[ON_END_QUEUE] = on_end.slots
    return Settings(
        state=values["state"],
        listen=values["listen"],
        slots=values["slots"],
        retention=Retention(**_fields(values, _RETENTION)),
        queues=queues,
        resources={**file.get("resource", {}), **options.get("resource", {})},
        on_end=on_end,
        **_fields(values, _STOP),
    )


_STOP = {"stop_grace": "stop-grace", "requeue": "on-stop"}
_RETENTION = {"age": "retention-age", "count": "retention-count"}
_ON_END = {
    "command": "on-end-command",
    "is_of_failures": "on-end-only",
    "timeout": "on-end-timeout",
    "slots": "on-end-slots",
}


def _fields(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that are there by the names of the fields that they are for."""
    return {field: values[key] for field, key in names.items() if key in values}
