"""The settings: one table row each. TOML and command-line options -> one ``Settings`` value.

A setting has the same name as an option of ``twistd taskq`` and as a key of the configuration file
(settings_file.py); the option wins. Four settings are tables whose entries have names: the queues, the
resources and the roles with names of the operator's choice, and the limits with those of limits.py. Nothing
here reads a file or the environment. etc/taskqd.toml shows every setting.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from msgspec import Struct

from taskqd.config import converters
from taskqd.config.converters import InvalidValue, shown
from taskqd.config.limits import LIMITS, Limits, make_limits
from taskqd.config.resources import (
    MAX_RESOURCE,
    MAX_UNIT_CHARACTERS,
    MAX_UNITS,
    NamedUnits,
    resources,
    units_of,
)
from taskqd.errors import BadRequest, SettingsError
from taskqd.model.rate import Rate
from taskqd.model.roles import ANY_NAME, Role

MAX_SLOTS = 10_000
MAX_FINISHED_JOBS = 100_000_000
ON_END_QUEUE = "on_end"
"""The queue of the jobs that run the ``on_end`` command; its slots are ``on-end-slots``."""


class Retention(Struct, frozen=True):
    """How long finished jobs are kept: for ``age`` seconds, and up to ``count`` of them.

    ``size`` is the limit of the output, scripts and stdin kept with them, ``memory`` that of the memory that
    they take in the daemon (footprint.py), both in bytes; None is no limit.
    """

    age: float = 7 * 86400.0
    count: int = 100_000
    size: int | None = 10 * 1024**3
    memory: int | None = 128 * 1024**2


class OnEnd(Struct, frozen=True):
    """The command that runs when a job has ended, or if ``is_of_failures``, when one has failed.

    It runs for up to ``timeout`` seconds, and ``slots`` of them run at the same time.
    """

    command: str
    is_of_failures: bool = False
    timeout: float = 30.0
    slots: int = 1


class OnStop(Enum):
    """The ways of a stop of the daemon: LEAVE does nothing to running jobs, the others end them.

    They have a grace period then. Jobs that have not ended after it are interrupted, or with REQUEUE run
    again after the next start.
    """

    LEAVE = "leave"
    INTERRUPT = "interrupt"
    REQUEUE = "requeue"


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a daemon, in the types that it uses.

    ``state`` is the state directory, ``listen`` has the endpoint strings. If none of them is a UNIX socket,
    the daemon listens on its default one as well, unless ``default_socket`` is false. ``slots``, ``queues``
    and ``resources`` are the total capacity; ``fair_queues`` and ``queue_rates`` are by queue too. A stop
    that ends running jobs gives them ``stop_grace`` seconds. Jobs that it leaves are ended after
    ``leave_for`` seconds without a daemon, never if that is None. The daemon starts a runner if there is
    none, unless it ``waits_for_runner``. ``roles`` are by user name, ``auth`` has further checkers (strings
    of twisted.cred's strcred). With ``run_as_owner`` a job runs as the user who submitted it;
    ``runner_directory`` is then that of root's runner, None if the daemon is root. Without ``speedups`` only
    Twisted's own sockets are used.
    """

    state: str
    listen: tuple[str, ...]
    slots: int
    default_socket: bool = True
    stop_grace: float = 10.0
    on_stop: OnStop = OnStop.LEAVE
    leave_for: float | None = None
    waits_for_runner: bool = False
    retention: Retention = Retention()
    queues: dict[str, int] = {}
    fair_queues: dict[str, bool] = {}
    queue_rates: dict[str, Rate] = {}
    resources: dict[str, int | NamedUnits] = {}
    on_end: OnEnd | None = None
    limits: Limits = Limits()
    roles: dict[str, Role] = {}
    auth: tuple[str, ...] = ()
    run_as_owner: bool = False
    runner_directory: str | None = None
    speedups: bool = True


class Setting(NamedTuple):
    """One setting.

    ``field`` is where its value goes in Settings; ``convert`` makes the value from TOML, or raises
    InvalidValue; ``expected`` describes it in errors, ``help`` and ``default`` in ``twistd taskq --help``.
    The option of one that ``is_repeatable`` may be given several times. The value of one that ``is_table`` is
    a mapping, in which options replace single entries of the file.
    """

    field: str
    convert: Callable[[Any], Any]
    expected: str
    help: str
    default: str = ""
    is_number: bool = False
    is_repeatable: bool = False
    is_table: bool = False

    @property
    def is_boolean(self) -> bool:
        """Whether the value is true or false, so that there is an option ``--no-NAME``."""
        return self.convert is converters.boolean


def _integer(field: str, low: int, high: int, text: str, default: str) -> Setting:
    convert, expected = converters.integer(low, high), f"a whole number from {low} to {high}"
    return Setting(field, convert, expected, text, default, is_number=True)


def _list(field: str, convert: Callable[[Any], Any], expected: str, text: str) -> Setting:
    return Setting(field, convert, expected, text, is_repeatable=True)


def _table(field: str, convert: Callable[[Any], Any], expected: str, text: str) -> Setting:
    return Setting(field, convert, expected, text, is_repeatable=True, is_table=True)


SETTINGS: dict[str, Setting] = {
    "state": Setting(
        "state",
        converters.text,
        'a path, such as "/var/lib/taskqd"',
        "Directory of the journal, of output and of the tokens.",
    ),
    "listen": _list(
        "listen",
        converters.text_list,
        'one endpoint string or a list of them, such as "unix:/run/taskqd/taskq.sock"',
        "Endpoint string to listen on: unix:PATH:mode=660 or tcp:9500:interface=127.0.0.1; repeatable.",
    ),
    "default-socket": Setting(
        "default_socket",
        converters.boolean,
        "true or false",
        "true: listen on the default UNIX socket as well, if --listen names no UNIX socket.",
        "true",
    ),
    "slots": _integer(
        "slots", 1, MAX_SLOTS, "Slots: jobs that run at the same time, if each needs one.", "the CPUs"
    ),
    "on-stop": Setting(
        "on_stop",
        converters.member(OnStop),
        '"leave", "interrupt" or "requeue"',
        "leave: running jobs go on at a stop; interrupt: they are ended; requeue: ended, and run again.",
        "leave",
    ),
    "stop-grace": Setting(
        "stop_grace",
        converters.duration,
        'a duration, such as "10s" or "5m"',
        "Time that running jobs have to end at a stop that ends them.",
        "10s",
    ),
    "leave-for": Setting(
        "leave_for",
        converters.duration_or_none,
        'a duration, such as "1h", or "none"',
        "End jobs that a stop has left if no daemon starts within this time, or none.",
        "none",
    ),
    "runner": Setting(
        "waits_for_runner",
        converters.choice("start", "wait"),
        '"start" or "wait"',
        "start: start the process that runs the jobs, if there is none; wait: another program starts it.",
        "start",
    ),
    "retention-age": Setting(
        "retention.age",
        converters.duration,
        'a duration, such as "7d"',
        "Remove jobs that ended longer ago than this.",
        "7d",
    ),
    "retention-count": _integer(
        "retention.count", 0, MAX_FINISHED_JOBS, "Keep up to this number of ended jobs.", "100000"
    ),
    "retention-size": Setting(
        "retention.size",
        converters.size_or_none,
        'a size, such as "10G", or "none"',
        "Keep output, scripts and stdin of ended jobs up to this size, or none.",
        "10G",
    ),
    "retention-memory": Setting(
        "retention.memory",
        converters.size_or_none,
        'a size, such as "128M", or "none"',
        "Keep ended jobs up to this size in the daemon's memory, or none.",
        "128M",
    ),
    "queue": _table(
        "queues",
        converters.amounts(MAX_SLOTS, reserved=(ON_END_QUEUE,)),
        f"a name but not {ON_END_QUEUE} and a whole number of slots from 1 to {MAX_SLOTS}, such as slow=2",
        "NAME=SLOTS: the slot limit of a queue; repeatable. Other queues have no limit but --slots.",
    ),
    "queue-fair": _table(
        "fair_queues",
        converters.switches(reserved=(ON_END_QUEUE,)),
        f"a name but not {ON_END_QUEUE} and true or false, such as slow=true",
        "NAME=true: the users of a queue's jobs take turns; NAME=false: they do not; repeatable.",
    ),
    "queue-rate": _table(
        "queue_rates",
        converters.rates(reserved=(ON_END_QUEUE,)),
        f"a name but not {ON_END_QUEUE} and a number of starts per second, minute or hour, such as mail=10/m",
        "NAME=RATE: the start rate of a queue, such as 5/s, 10/m, 100/h or 1/15m; repeatable.",
    ),
    "resource": _table(
        "resources",
        resources,
        f"a name and a whole number from 1 to {MAX_RESOURCE}, such as gpu=2, or up to {MAX_UNITS} different "
        f"names of units with up to {MAX_UNIT_CHARACTERS} characters, such as gpu=0,1, or a table with these "
        "as units and a variable as env",
        "NAME=N or NAME=UNIT,UNIT: a resource of which jobs get amounts by --need=NAME:1; repeatable.",
    ),
    "limit": _table(
        "limits",
        converters.limits,
        f"one of {', '.join(LIMITS)} and its value, such as pending=1000",
        "NAME=VALUE: a limit, or none; repeatable. etc/taskqd.toml has every NAME.",
    ),
    "role": _table(
        "roles",
        converters.roles,
        f'a name or "{ANY_NAME}", for all others, and one of {", ".join(converters.ROLES)}, as ana=admin',
        "NAME=ROLE: what the users of a name may do: admin, submit or read; repeatable.",
    ),
    "auth": _list(
        "auth",
        converters.texts,
        'one string of a checker or a list of them, such as "file:/etc/taskqd/users"',
        "Another checker of names and passwords, such as file:PATH; repeatable.",
    ),
    "run-as": Setting(
        "run_as_owner",
        converters.choice("daemon", "owner"),
        '"owner" or "daemon"',
        "daemon: jobs run as the daemon's user; owner: as the user who submitted them, for root.",
        "daemon",
    ),
    "runner-directory": Setting(
        "runner_directory",
        converters.path_or_none,
        'an absolute path, such as "/var/lib/taskqd-runner", or "none"',
        "With run-as = owner: the --directory of root's runner; none: the daemon itself is root.",
        "none",
    ),
    "speedups": Setting(
        "speedups",
        converters.boolean,
        "true or false",
        "true: faster sockets for clients than Twisted's; false: Twisted's own.",
        "true",
    ),
    "on-end-command": Setting(
        "on_end.command",
        converters.text,
        "a shell command",
        "Run this command as a job when a job has ended; stdin is the ended job as JSON.",
    ),
    "on-end-only": Setting(
        "on_end.is_of_failures",
        converters.choice("all", "failed"),
        '"all" or "failed"',
        "all: run it when any job has ended; failed: when one has failed.",
        "all",
    ),
    "on-end-timeout": Setting(
        "on_end.timeout",
        converters.positive_duration,
        'a duration above 0, such as "30s"',
        "End that command after this time.",
        "30s",
    ),
    "on-end-slots": _integer(
        "on_end.slots", 1, MAX_SLOTS, "Number of those commands that run at the same time.", "1"
    ),
}
"""Every setting, by the name of its option."""


def unknown_setting(name: str, source: str) -> SettingsError:
    """Return the error for a setting that does not exist; ``source`` is where it comes from."""
    known = ", ".join(name for name, setting in SETTINGS.items() if not setting.is_table)
    tables = ", ".join(f"[{setting.field}]" for setting in SETTINGS.values() if setting.is_table)
    return SettingsError(
        f"{source}: unknown setting {name}; the settings are {known}, and the tables {tables}"
    )


def check(name: str, value: Any, source: str) -> Any:
    """Convert the value of a setting from TOML; raises SettingsError with the ``source`` of the value."""
    if name not in SETTINGS:
        raise unknown_setting(name, source)
    try:
        return SETTINGS[name].convert(value)
    except InvalidValue as invalid:
        part = shown(value) if invalid.part is None else invalid.part
        what = f"{name} {invalid.name}" if invalid.name else name
        must_be = invalid.expected or SETTINGS[name].expected
        raise SettingsError(f"{source}: {what} must be {must_be}, not {part}") from None


def check_option(name: str, text: str | list[str], source: str) -> Any:
    """Convert the value of a setting from the command line; raises SettingsError."""
    value = converters.number(text) if SETTINGS[name].is_number and isinstance(text, str) else text
    return check(name, value, source)


def merge(options: Mapping[str, Any], file: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Make the Settings from values by name: options win over the file, the file over the defaults.

    Raises SettingsError if settings of ``on_end`` are given without a command, if the runner of root's cannot
    be used with the others, if limits contradict each other, or if two resources have the same variable.
    """
    groups: dict[str, dict[str, Any]] = {"": {}, "retention": {}, "on_end": {}}
    for name, value in {**defaults, **file, **options}.items():
        setting = SETTINGS[name]
        group, _, field = setting.field.rpartition(".")
        is_table = setting.is_table
        groups[group][field] = {**file.get(name, {}), **options.get(name, {})} if is_table else value
    fields, on_end = groups[""], groups["on_end"]
    if on_end:
        fields["on_end"] = _make_on_end(on_end)
        fields["queues"] = {**fields.get("queues", {}), ON_END_QUEUE: fields["on_end"].slots}
    units_of(fields.get("resources", {}))
    if fields.get("runner_directory") is not None:
        _check_root_s_runner(fields)
        fields["waits_for_runner"] = True
    try:
        fields["limits"] = make_limits(fields.get("limits", {}))
    except BadRequest as why:
        raise SettingsError(str(why)) from None
    return Settings(retention=Retention(**groups["retention"]), **fields)


def _check_root_s_runner(fields: Mapping[str, Any]) -> None:
    if not fields.get("run_as_owner"):
        raise SettingsError(
            'runner-directory is for run-as = "owner": set that too, or leave runner-directory out'
        )
    if not fields.get("waits_for_runner", True):
        raise SettingsError(
            'runner = "start" is not possible with runner-directory: only root can start that runner; leave '
            "runner out, and start taskqd-runner --daemon-user"
        )


def _make_on_end(fields: dict[str, Any]) -> OnEnd:
    if "command" not in fields:
        paths = {f"on_end.{field}" for field in fields}
        names = ", ".join(name for name, setting in SETTINGS.items() if setting.field in paths)
        raise SettingsError(f"on-end-command is missing: it is needed by {names}")
    return OnEnd(**fields)
