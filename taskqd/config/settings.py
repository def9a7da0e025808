"""TOML and options -> one typed Settings; an error names the file or option, the key and what was expected.

Every key of the file is an option of ``twistd taskq`` by the same name, those of a table with the table's
name before it, and the option wins; in the file it may be written with ``_`` or with ``-``. The queues, the
resources and the roles have names of the operator's own: each is a line of its table, and a
``--queue NAME=SLOTS``, ``--resource NAME=N`` or ``--role NAME=ROLE``; the limits are a ``--limit NAME=VALUE``
each, of the names that ``quotas`` has. Nothing here reads a file or the environment: text and defaults are
arguments. etc/taskqd.toml shows every setting.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from taskqd.config import converters
from taskqd.config.converters import InvalidValue, shown
from taskqd.config.limits import LIMITS, Limits, quotas_of
from taskqd.errors import BadRequest, SettingsError
from taskqd.model import roles as roles_module
from taskqd.model.roles import Role

MOST_SLOTS = 10_000
MOST_KEPT = 100_000_000
LARGEST_AMOUNT = 1_000_000_000
"""There is at most so much of a resource, which may well be megabytes."""
ON_END_QUEUE = "on_end"
"""The queue of what is run at the end of jobs; its slots come from ``[on_end]``."""


class Retention(Struct, frozen=True):
    """How long jobs that have ended are kept: for ``age`` seconds, and no more than ``count`` of them.

    ``size`` is how many bytes of output, scripts and stdin are kept with them, ``memory`` how many bytes of
    the daemon's memory they take (footprint.py); None for no limit.
    """

    age: float = 7 * 86400.0
    count: int = 100_000
    size: int | None = 10 * 1024**3
    memory: int | None = 128 * 1024**2


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
    ``limits`` is how much anybody may take, ``roles`` what those of a name may do, ``auth`` names further
    checkers (strings of twisted.cred's strcred); with ``run_as_owner`` a job runs as who submitted it.
    Without ``speedups`` the daemon uses Twisted's own processes and sockets only.
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
    limits: Limits = Limits()
    roles: dict[str, Role] = {}
    auth: tuple[str, ...] = ()
    run_as_owner: bool = False
    speedups: bool = True


class Setting(NamedTuple):
    """One setting: what its value must be, for a person, and the reader of its value in TOML."""

    expected: str
    read: Callable[[Any], Any]
    is_number: bool = False


SETTINGS: dict[str, Setting] = {
    "state": Setting('a path, such as "/var/lib/taskqd"', converters.text),
    "listen": Setting(
        'one endpoint string or a list of them, such as "unix:/run/taskqd/taskq.sock"', converters.text_list
    ),
    "slots": Setting(
        f"a whole number from 1 to {MOST_SLOTS}", converters.whole(1, MOST_SLOTS), is_number=True
    ),
    "stop-grace": Setting('a duration, such as "10s" or "5m"', converters.duration),
    "on-stop": Setting('"interrupt" or "requeue"', converters.either("interrupt", "requeue")),
    "retention-age": Setting('a duration, such as "7d"', converters.duration),
    "retention-count": Setting(
        f"a whole number from 0 to {MOST_KEPT}", converters.whole(0, MOST_KEPT), is_number=True
    ),
    "retention-size": Setting('a size, such as "10G", or "none"', converters.size_or_none),
    "retention-memory": Setting('a size, such as "128M", or "none"', converters.size_or_none),
    "queue": Setting(
        f"a name but not {ON_END_QUEUE} and a whole number of slots from 1 to {MOST_SLOTS}, such as slow=2",
        converters.amounts(MOST_SLOTS, (ON_END_QUEUE,)),
    ),
    "resource": Setting(
        f"a name and a whole number from 1 to {LARGEST_AMOUNT}, such as gpu=2",
        converters.amounts(LARGEST_AMOUNT),
    ),
    "limit": Setting(f"one of {', '.join(LIMITS)} and its value, such as pending=1000", converters.limits),
    "role": Setting(
        f'a name or "{roles_module.ANY_NAME}", for all others, and one of {", ".join(converters.ROLES)}, '
        "as ana=admin",
        converters.roles,
    ),
    "auth": Setting(
        'one string of a checker or a list of them, such as "file:/etc/taskqd/users"', converters.texts
    ),
    "run-as": Setting('"owner" or "daemon"', converters.either("daemon", "owner")),
    "speedups": Setting("true or false", converters.boolean),
    "on-end-command": Setting("a shell command", converters.text),
    "on-end-only": Setting('"all" or "failed"', converters.either("all", "failed")),
    "on-end-timeout": Setting('a duration above 0, such as "30s"', converters.positive_duration),
    "on-end-slots": Setting(
        f"a whole number from 1 to {MOST_SLOTS}", converters.whole(1, MOST_SLOTS), is_number=True
    ),
}
"""Every setting, by the name of its option."""

_TABLES = {"retention": "retention-", "on_end": "on-end-"}
"""The tables whose keys are settings, and what stands before them in the options' names."""
_NAMED = {"queues": "queue", "resources": "resource", "limits": "limit", "roles": "role"}
"""The tables whose lines are an option each, NAME=VALUE; but for the limits, the names are the operator's."""


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the settings in the text of a file called ``name``, by option; raises SettingsError."""
    try:
        document = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as why:
        raise SettingsError(f"{name} is not TOML: {why}") from None
    document = _spelled(document, [*SETTINGS, *_TABLES], "", name)
    tables = {table: _table(document.pop(table, {}), table, name) for table in (*_TABLES, *_NAMED)}
    for key in _NAMED.values():
        if key in document:
            raise _no_setting(key, name)
    for table, before in _TABLES.items():
        for key, value in _spelled(tables[table], _keys_of(before), f"{table}.", name).items():
            if before + key in document:
                raise _twice(name, before + key, f"once in [{table}]")
            document[before + key] = value
    tables["queues"] = {queue: _slots(table, queue, name) for queue, table in tables["queues"].items()}
    tables["limits"] = _spelled(tables["limits"], LIMITS, "limits.", name)
    document.update({key: tables[table] for table, key in _NAMED.items() if tables[table]})
    return {key: check(key, value, name) for key, value in document.items()}


def _keys_of(before: str) -> list[str]:
    return [key.removeprefix(before) for key in SETTINGS if key.startswith(before)]


def _spelled(table: Mapping[str, Any], keys: Collection[str], where: str, name: str) -> dict[str, Any]:
    """Return a table whose keys are spelled as in ``keys``, whether they were written with ``_`` or ``-``.

    Raises SettingsError if one is there in both spellings. What is no key stays as it is.
    """
    spellings = {key.replace("_", "-"): key for key in keys}
    spelled: dict[str, Any] = {}
    for written, value in table.items():
        key = spellings.get(written.replace("_", "-"), written)
        if key in spelled:
            raise _twice(name, where + key, "with - and with _")
        spelled[key] = value
    return spelled


def _twice(source: str, key: str, how: str) -> SettingsError:
    return SettingsError(f"{source}: {key} is there twice, {how}; keep one of them")


def _table(content: Any, table: str, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SettingsError(f"{name}: {table} must be a table, [{table}], not {shown(content)}")
    return content


def _slots(content: Any, queue: str, name: str) -> Any:
    """Return what stands for slots in the table of a queue, in which nothing else may stand."""
    if not isinstance(content, dict) or set(content) != {"slots"}:
        raise SettingsError(
            f"{name}: queues.{queue} must be a table, [queues.{queue}], with slots alone, "
            f"not {shown(content)}"
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
    except InvalidValue as wrong:
        part = shown(value) if wrong.part is None else wrong.part
        what = f"{key} {wrong.name}" if wrong.name else key
        must_be = wrong.expected or SETTINGS[key].expected
        raise SettingsError(f"{source}: {what} must be {must_be}, not {part}") from None


def check_option(key: str, text: str | list[str], source: str) -> Any:
    """Return the value of a setting that was given as text on a command line; raises SettingsError."""
    value = converters.number(text) if SETTINGS[key].is_number and isinstance(text, str) else text
    return check(key, value, source)


def merge(options: Mapping[str, Any], file: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Return the settings: an option where one was given, else the file's, else the default.

    Raises SettingsError where it is said how something is run at the end of jobs, but not what, and for
    limits that cannot be beside each other.
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
        limits=_quotas({**file.get("limit", {}), **options.get("limit", {})}),
        roles={**file.get("role", {}), **options.get("role", {})},
        **_fields(values, _PLAIN),
    )


def _quotas(limits: dict[str, float | None]) -> Limits:
    try:
        return quotas_of(limits)
    except BadRequest as why:
        raise SettingsError(str(why)) from None


_PLAIN = {
    "stop_grace": "stop-grace",
    "requeue": "on-stop",
    "auth": "auth",
    "run_as_owner": "run-as",
    "speedups": "speedups",
}
_RETENTION = {key: f"retention-{key}" for key in ("age", "count", "size", "memory")}
_ON_END = {
    "command": "on-end-command",
    "is_of_failures": "on-end-only",
    "timeout": "on-end-timeout",
    "slots": "on-end-slots",
}


def _fields(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that are there by the names of the fields that they are for."""
    return {field: values[key] for field, key in names.items() if key in values}
