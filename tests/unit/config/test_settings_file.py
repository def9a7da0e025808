"""The configuration file: its spelling, its tables, and the errors of invalid settings."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.config.resources import MAX_RESOURCE, NamedUnits
from taskqd.config.settings import MAX_FINISHED_JOBS, MAX_SLOTS, SETTINGS, OnStop
from taskqd.config.settings_file import read_toml
from taskqd.errors import SettingsError
from taskqd.model.rate import parse_rate
from taskqd.model.roles import Role

PER_USER = {"connections-per-user": 5, "pending-per-user": 6}
READ = [
    ("", {}),
    ("# nothing\n", {}),
    ('state = "/var/lib/taskqd"', {"state": "/var/lib/taskqd"}),
    ('listen = "unix:/run/taskq.sock"', {"listen": ("unix:/run/taskq.sock",)}),
    (
        'listen = ["unix:/a b", "tcp:7555:interface=127.0.0.1"]',
        {"listen": ("unix:/a b", "tcp:7555:interface=127.0.0.1")},
    ),
    ("slots = 1", {"slots": 1}),
    (f"slots = {MAX_SLOTS}", {"slots": MAX_SLOTS}),
    ("slots = 4\nstate = '/é'\n", {"slots": 4, "state": "/é"}),
    ('stop-grace = "5m"', {"stop-grace": 300.0}),
    ("stop-grace = 0", {"stop-grace": 0.0}),
    ("stop-grace = 2.5", {"stop-grace": 2.5}),
    ('on-stop = "requeue"', {"on-stop": OnStop.REQUEUE}),
    ('on-stop = "interrupt"', {"on-stop": OnStop.INTERRUPT}),
    ('on-stop = "leave"\nleave-for = "1h"', {"on-stop": OnStop.LEAVE, "leave-for": 3600.0}),
    ("leave_for = 0", {"leave-for": 0.0}),
    ('leave-for = "none"', {"leave-for": None}),
    ('runner = "start"', {"runner": False}),
    ('runner = "wait"', {"runner": True}),
    (
        '[retention]\nage = "1d"\ncount = 5',
        {"retention-age": 86400.0, "retention-count": 5},
    ),
    ("retention-count = 0", {"retention-count": 0}),
    ('[retention]\nsize = "10G"', {"retention-size": 10 * 1024**3}),
    ('[retention]\nmemory = "160M"', {"retention-memory": 160 * 1024**2}),
    ('retention-memory = "none"', {"retention-memory": None}),
    ("retention-size = 5000", {"retention-size": 5000}),
    ('retention_size = "none"', {"retention-size": None}),
    ("[retention]\n", {}),
    ("[queues.slow]\nslots = 2", {"queue": {"slow": 2}}),
    (
        "[queues.slow]\nslots = 2\n[queues.'gpu/1']\nslots = 10000",
        {"queue": {"slow": 2, "gpu/1": 10_000}},
    ),
    ("queues = {slow = {slots = 2}}", {"queue": {"slow": 2}}),
    ("[queues.slow]\nfair = true", {"queue-fair": {"slow": True}}),
    (
        "[queues.slow]\nslots = 2\nfair = false\nrate = '10/m'\n[queues.mail]\nrate = '1/15m'",
        {
            "queue": {"slow": 2},
            "queue-fair": {"slow": False},
            "queue-rate": {"slow": parse_rate("10/m"), "mail": parse_rate("1/15m")},
        },
    ),
    ("[queues]\n[resources]\n[on_end]\n", {}),
    ("[resources]\ngpu = 2\nmegabytes = 64000", {"resource": {"gpu": 2, "megabytes": 64_000}}),
    ("[resources]\ngpu = ['0', 'GPU-1/2']", {"resource": {"gpu": NamedUnits(("0", "GPU-1/2"))}}),
    ("[resources]\ngpu = [0, 1]", {"resource": {"gpu": NamedUnits(("0", "1"))}}),
    (
        "[resources]\ndisk = 5\n[resources.gpu]\nunits = ['a']",
        {"resource": {"disk": 5, "gpu": NamedUnits(("a",))}},
    ),
    (
        "[resources.gpu]\nunits = ['0']\nenv = 'CUDA_VISIBLE_DEVICES'",
        {"resource": {"gpu": NamedUnits(("0",), "CUDA_VISIBLE_DEVICES")}},
    ),
    (f"[resources]\ngpu = {MAX_RESOURCE}", {"resource": {"gpu": MAX_RESOURCE}}),
    ('[on_end]\ncommand = "mail ops"', {"on-end-command": "mail ops"}),
    (
        '[on_end]\nonly = "failed"\ntimeout = "1m"\nslots = 3',
        {"on-end-only": True, "on-end-timeout": 60.0, "on-end-slots": 3},
    ),
    ('[on_end]\nonly = "all"', {"on-end-only": False}),
    ('on-end-command = "mail ops"', {"on-end-command": "mail ops"}),
    ("[limits]\n[roles]\n", {}),
    (
        '[limits]\nline = "32k"\nidle-time = 60\nconnections = "none"\nsubmissions = 0.5\npriority = -3',
        {
            "limit": {
                "line": 32_768,
                "idle-time": 60.0,
                "connections": None,
                "submissions": 0.5,
                "priority": -3,
            }
        },
    ),
    (
        '[roles]\nana = "admin"\n"x/y_z-1" = "submit"\n"*" = "read"',
        {"role": {"ana": Role.ADMIN, "x/y_z-1": Role.SUBMIT, "*": Role.READ}},
    ),
    ('auth = "unix"', {"auth": ("unix",)}),
    ('auth = ["unix", "file:/a b"]', {"auth": ("unix", "file:/a b")}),
    ("auth = []", {"auth": ()}),
    ('run-as = "owner"', {"run-as": True}),
    ('run-as = "daemon"', {"run-as": False}),
    ("speedups = false", {"speedups": False}),
    ('speedups = "false"', {"speedups": False}),
    ('speedups = "true"', {"speedups": True}),
]
SPELLED = [
    ("stop_grace = 1", {"stop-grace": 1.0}),
    ("retention_age = 1\nretention-count = 2", {"retention-age": 1.0, "retention-count": 2}),
    ('run_as = "owner"', {"run-as": True}),
    ("[on-end]\ncommand = 'x'", {"on-end-command": "x"}),
    ("on_end-command = 'x'", {"on-end-command": "x"}),
    ("[limits]\nconnections_per_user = 5\npending-per_user = 6", {"limit": PER_USER}),
    ("[limits]\nconnections-per-user = 5\npending_per_user = 6", {"limit": PER_USER}),
    ("[queues.a_b]\nslots = 1\n[queues.a-b]\nslots = 2", {"queue": {"a_b": 1, "a-b": 2}}),
    ("[resources]\na_b = 1\na-b = 2", {"resource": {"a_b": 1, "a-b": 2}}),
    ("[roles]\na_b = 'read'\na-b = 'admin'", {"role": {"a_b": Role.READ, "a-b": Role.ADMIN}}),
]
"""Names of settings may be written with _ or -; in names of the operator's choice they differ."""
TWICE = [
    ("stop-grace = 1\nstop_grace = 1", "stop-grace is set twice, with - and with _; keep one of them"),
    ("run_as = 'owner'\nrun-as = 'owner'", "run-as is set twice, with - and with _"),
    ("[on_end]\ncommand = 'x'\n[on-end]\nslots = 1", "on_end is set twice, with - and with _"),
    ("[limits]\nidle-time = 1\nidle_time = 1", "limits.idle-time is set twice, with - and with _"),
    ("retention-age = 1\n[retention]\nage = 1", "retention-age is set twice, once in [retention]; keep"),
    ("on_end_slots = 1\n[on_end]\nslots = 1", "on-end-slots is set twice, once in [on_end]; keep one"),
]
LONG = "0x" + "f" * 5000
"""A number that repr() refuses because it has too many digits."""
NOT_FAIR = "x.toml: queue-fair must be a name but not on_end and true or false"
NO_RATE = "x.toml: queue-rate must be a name but not on_end and a number of starts per second, minute or hour"
REFUSED = [
    ("slots", "x.toml is not TOML: "),
    ("slots = ", "x.toml is not TOML: "),
    ("slots = 1\nslots = 2", "x.toml is not TOML: "),
    ("slots = " + "9" * 5000, "x.toml is not TOML: "),
    ("slots = " + "[" * 100_000, "x.toml is not TOML: "),
    ("slots = 2026-13-45", "x.toml is not TOML: "),
    ("sloots = 1", "x.toml: unknown setting sloots; the settings are state, listen, default-socket, slots"),
    (
        "[slots]\nslots = 1",
        f"x.toml: slots must be a whole number from 1 to {MAX_SLOTS}, not {{'slots': 1}}",
    ),
    ("[queues.q]\nfair = 1", f"{NOT_FAIR}, such as slow=true, not q = 1"),
    ("[queues.q]\nfair = 'yes'", f"{NOT_FAIR}, such as slow=true, not q = 'yes'"),
    ("[queues.on_end]\nfair = true", f"{NOT_FAIR}, such as slow=true, not on_end = True"),
    ("[queues.'a b']\nrate = '1/s'", f"{NO_RATE}, such as mail=10/m, not a b = '1/s'"),
    ("[queues.q]\nrate = '10'", f"{NO_RATE}, such as mail=10/m, not q = '10'"),
    ("[queues.q]\nrate = 10", f"{NO_RATE}, such as mail=10/m, not q = 10"),
    (
        "[queues.q]\nspeed = 1",
        "x.toml: queues.q must be a table, [queues.q], with one or more of slots, fair, rate, not {'speed'",
    ),
    ("queue-rate = 1", "x.toml: unknown setting queue-rate; "),
    ("[taskqd]\nslots = 1", "x.toml: unknown setting taskqd; "),
    ("slots = 0", "x.toml: slots must be a whole number from 1 to 10000, not 0"),
    ("slots = -1", "x.toml: slots must be"),
    (f"slots = {MAX_SLOTS + 1}", "x.toml: slots must be"),
    ("slots = 1.0", "x.toml: slots must be"),
    ("slots = true", "x.toml: slots must be a whole number from 1 to 10000, not True"),
    ('slots = "four"', "x.toml: slots must be"),
    ('slots = "4"', "x.toml: slots must be a whole number from 1 to 10000, not '4'"),
    ('slots = "-4"', "x.toml: slots must be"),
    ("stop-grace = true", "x.toml: stop-grace must be a duration"),
    ('stop-grace = "soon"', "x.toml: stop-grace must be a duration"),
    ("stop-grace = -1", "x.toml: stop-grace must be a duration"),
    ("stop-grace = [1]", "x.toml: stop-grace must be a duration"),
    ('on-stop = "kill"', 'x.toml: on-stop must be "leave", "interrupt" or "requeue"'),
    ("on-stop = true", "x.toml: on-stop must be"),
    ("on-stop = [1]", "x.toml: on-stop must be"),
    ('leave-for = "ever"', 'x.toml: leave-for must be a duration, such as "1h", or "none"'),
    ('runner = "none"', 'x.toml: runner must be "start" or "wait"'),
    ("retention = 7", "x.toml: retention must be a table"),
    ('retention = "7d"', "x.toml: retention must be a table"),
    ('[retention]\nage = "old"', "x.toml: retention-age must be a duration"),
    ("[retention]\ncount = -1", "x.toml: retention-count must be a whole number"),
    (f"[retention]\ncount = {MAX_FINISHED_JOBS + 1}", "x.toml: retention-count must be a whole number"),
    ("[retention]\nsize = -1", "x.toml: retention-size must be a size"),
    ("[retention]\nsize = true", "x.toml: retention-size must be a size"),
    ('[retention]\nsize = "10T"', "x.toml: retention-size must be a size"),
    ("[retention]\nheight = 1", "x.toml: unknown setting retention-height; "),
    ("slots = inf", "x.toml: slots must be"),
    ("queues = 2", "x.toml: queues must be a table, [queues], not 2"),
    ("resources = []", "x.toml: resources must be a table, [resources], not []"),
    ("on_end = 'mail'", "x.toml: on_end must be a table, [on_end], not 'mail'"),
    (
        "[queues]\nslow = 2",
        "x.toml: queues.slow must be a table, [queues.slow], with one or more of slots, fair, rate, not 2",
    ),
    (
        "[queues.slow]",
        "x.toml: queues.slow must be a table, [queues.slow], with one or more of slots, fair, rate, not {}",
    ),
    ("[queues.slow]\nslots = 2\ncolour = 'red'", "x.toml: queues.slow must be a table"),
    (
        "[queues.slow]\nslots = 0",
        "x.toml: queue must be a name but not on_end and a whole number of slots from 1 to 10000, such as",
    ),
    (f"[queues.slow]\nslots = {MAX_SLOTS + 1}", "x.toml: queue must be"),
    ("[queues.slow]\nslots = '2'", "x.toml: queue must be"),
    ("[queues.slow]\nslots = true", "x.toml: queue must be"),
    ("[queues.'two words']\nslots = 2", "x.toml: queue must be a name"),
    ("[queues.'']\nslots = 2", "x.toml: queue must be a name"),
    ("[queues.on_end]\nslots = 2", "x.toml: queue must be a name but not on_end"),
    ("[resources]\ngpu = 0", "x.toml: resource must be a name and a whole number from 1 to 1000000000"),
    (f"[resources]\ngpu = {MAX_RESOURCE + 1}", "x.toml: resource must be"),
    ("[resources]\ngpu = 1.5", "x.toml: resource must be"),
    ("[resources]\n'a b' = 1", "x.toml: resource must be"),
    ("[resources]\ngpu = []", "x.toml: resource must be"),
    ("[resources]\ngpu = ['0', '0']", "x.toml: resource must be a name and a whole number"),
    ("[resources]\ngpu = [0, '0']", "x.toml: resource must be"),
    ("[resources]\ngpu = ['a b']", "x.toml: resource must be"),
    ("[resources]\ngpu = [true]", "x.toml: resource must be"),
    (f"[resources]\ngpu = {list(range(257))}", "x.toml: resource must be"),
    (f"[resources]\ngpu = {[f'{n:0100}' for n in range(10)]}", "x.toml: resource must be"),
    ("[resources.gpu]\nenv = 'A'", "x.toml: resource must be"),
    ("[resources.gpu]\nunits = 2", "x.toml: resource must be"),
    ("[resources.gpu]\nunits = ['0']\nenv = ''", "x.toml: resource must be"),
    ("[resources.gpu]\nunits = ['0']\nenv = 1", "x.toml: resource must be"),
    ("[resources.gpu]\nunits = ['0']\nenv = 'TASKQ_X'", "x.toml: resource must be"),
    ("[resources.gpu]\nslots = 1", "x.toml: resource must be"),
    ("queue = {slow = 2}", "x.toml: unknown setting queue; the settings are state, listen"),
    ("resource = 2", "x.toml: unknown setting resource; "),
    ("[on_end]\ncommand = ' '", "x.toml: on-end-command must be a shell command, not ' '"),
    ("[on_end]\nonly = 'some'", 'x.toml: on-end-only must be "all" or "failed", not \'some\''),
    ("[on_end]\nonly = true", "x.toml: on-end-only must be"),
    ("[on_end]\ntimeout = 0", "x.toml: on-end-timeout must be a duration above 0"),
    ("[on_end]\ntimeout = 'long'", "x.toml: on-end-timeout must be a duration above 0"),
    ("[on_end]\nslots = 0", "x.toml: on-end-slots must be a whole number from 1"),
    ("[on_end]\nretries = 1", "x.toml: unknown setting on-end-retries; "),
    ("state = {}", "x.toml: state must be a path"),
    ('state = ""', "x.toml: state must be a path"),
    ('state = " "', "x.toml: state must be a path"),
    ('state = "/a\\u0000b"', "x.toml: state must be a path"),
    ("state = 1", "x.toml: state must be a path"),
    ('state = ["/a"]', "x.toml: state must be a path"),
    ('listen = ""', "x.toml: listen must be one endpoint string or a list of them"),
    ("listen = []", "x.toml: listen must be one endpoint string or a list of them"),
    ('listen = ["unix:/a", ""]', "x.toml: listen must be one endpoint string or a list of them"),
    ("listen = [1]", "x.toml: listen must be one endpoint string or a list of them"),
    ("listen = 7555", "x.toml: listen must be one endpoint string or a list of them"),
    ("listen = 2026-11-24", "x.toml: listen must be one endpoint string or a list of them"),
    ("limits = 5", "x.toml: limits must be a table, [limits], not 5"),
    ("roles = 'admin'", "x.toml: roles must be a table, [roles], not 'admin'"),
    ("limit = {line = 1024}", "x.toml: unknown setting limit; the settings are state, listen"),
    ("role = {ana = 'admin'}", "x.toml: unknown setting role; "),
    ("[limits]\ncolour = 1", "x.toml: limit must be one of connections, connections-per-user, "),
    (
        "[limits]\nline = 1023",
        'x.toml: limit line must be a size from 1k to 64k, such as 5000 for bytes or "64k"',
    ),
    ("[limits]\nline = true", "x.toml: limit line must be a size"),
    ("[limits.line]\nsize = 1", "x.toml: limit line must be a size"),
    (
        "[limits]\nidle_time = 0",
        'x.toml: limit idle-time must be a duration above 0, such as "1d", or "none"',
    ),
    (
        "[roles]\nana = 'root'",
        'x.toml: role must be a name or "*", for all others, and one of admin, submit, read',
    ),
    ("[roles]\nana = true", "x.toml: role must be"),
    ("[roles]\nana = ['admin']", "x.toml: role must be"),
    ("[roles]\nana = 'ADMIN'", "x.toml: role must be"),
    ("[roles]\n'an a' = 'read'", "x.toml: role must be"),
    ("[roles]\n'' = 'read'", "x.toml: role must be"),
    ("[roles]\n'a*' = 'read'", "x.toml: role must be"),
    ("auth = 5", "x.toml: auth must be one string of a checker or a list of them"),
    ("auth = ['unix', '']", "x.toml: auth must be"),
    ("auth = ['unix', 5]", "x.toml: auth must be"),
    ("run-as = 'root'", 'x.toml: run-as must be "owner" or "daemon", not \'root\''),
    ("speedups = 1", "x.toml: speedups must be true or false, not 1"),
    ("speedups = ['true']", "x.toml: speedups must be true or false"),
    ("run_as = true", "x.toml: run-as must be"),
    ("[run_as]", "x.toml: run-as must be"),
    ("colour_of_it = 1", "x.toml: unknown setting colour_of_it; "),
    (
        f"slots = {LONG}",
        "x.toml: slots must be a whole number from 1 to 10000, not a number of thousands of digits",
    ),
    (f"stop-grace = {LONG}", "x.toml: stop-grace must be a duration"),
    (f"listen = [{LONG}]", "x.toml: listen must be"),
    (f"queues = {LONG}", "x.toml: queues must be a table"),
    (f"[queues]\nslow = {LONG}", "x.toml: queues.slow must be a table"),
    (f"[queues.slow]\nslots = {LONG}", "x.toml: queue must be"),
    (f"[limits]\npending = {LONG}", "x.toml: limit pending must be"),
    (f"[roles]\nana = {LONG}", "x.toml: role must be"),
]


@pytest.mark.parametrize("text, values", READ + SPELLED)
def test_file_is_read_as_values_by_setting(text: str, values: dict[str, Any]) -> None:
    assert read_toml(text, "x.toml") == values


@pytest.mark.parametrize("text, part", REFUSED)
def test_error_names_the_file_the_key_and_what_was_expected(text: str, part: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_toml(text, "x.toml")
    assert str(refusal.value).startswith(part)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text, part", TWICE)
def test_setting_that_is_set_twice_is_refused(text: str, part: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_toml(text, "x.toml")
    assert str(refusal.value).startswith(f"x.toml: {part}")


@given(st.text() | st.text(st.sampled_from('slotaequrnd_ =1"[]{}\n.#\\\0')))
def test_any_text_is_read_or_refused_with_the_name_of_the_file(text: str) -> None:
    try:
        values = read_toml(text, "x.toml")
    except SettingsError as refusal:
        assert_names_the_file(refusal)
    else:
        assert set(values) <= set(SETTINGS)


def assert_names_the_file(refusal: SettingsError) -> None:
    assert str(refusal).startswith("x.toml")
