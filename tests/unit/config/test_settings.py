"""Settings from the file and from options, and the errors of invalid ones."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.config.limits import LIMITS, Limits
from taskqd.config.settings import (
    MAX_FINISHED_JOBS,
    MAX_RESOURCE,
    MAX_SLOTS,
    ON_END_QUEUE,
    SETTINGS,
    OnEnd,
    Retention,
    Settings,
    check,
    check_option,
    merge,
)
from taskqd.config.settings_file import read_toml
from taskqd.errors import SettingsError
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
    ('on-stop = "requeue"', {"on-stop": True}),
    ('on-stop = "interrupt"', {"on-stop": False}),
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
    ("[queues]\n[resources]\n[on_end]\n", {}),
    ("[resources]\ngpu = 2\nmegabytes = 64000", {"resource": {"gpu": 2, "megabytes": 64_000}}),
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
REFUSED = [
    ("slots", "x.toml is not TOML: "),
    ("slots = ", "x.toml is not TOML: "),
    ("slots = 1\nslots = 2", "x.toml is not TOML: "),
    ("slots = " + "9" * 5000, "x.toml is not TOML: "),
    ("slots = " + "[" * 100_000, "x.toml is not TOML: "),
    ("slots = 2026-13-45", "x.toml is not TOML: "),
    ("sloots = 1", "x.toml: unknown setting sloots; the settings are state, listen, slots"),
    (
        "[slots]\nslots = 1",
        f"x.toml: slots must be a whole number from 1 to {MAX_SLOTS}, not {{'slots': 1}}",
    ),
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
    ('on-stop = "kill"', 'x.toml: on-stop must be "interrupt" or "requeue"'),
    ("on-stop = true", "x.toml: on-stop must be"),
    ("on-stop = [1]", "x.toml: on-stop must be"),
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
        "x.toml: queues.slow must be a table, [queues.slow], with slots alone, not 2",
    ),
    ("[queues.slow]", "x.toml: queues.slow must be a table, [queues.slow], with slots alone, not {}"),
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


@pytest.mark.parametrize("text", ["0", "-1", "many", "4.0", "", "\N{ARABIC-INDIC DIGIT FOUR}", "9" * 20])
def test_number_on_the_command_line_is_converted_and_checked(text: str) -> None:
    assert check_option("slots", "4", "twistd taskq") == 4
    assert check_option("state", "4", "twistd taskq") == "4"
    assert check_option("listen", ["unix:/a"], "twistd taskq") == ("unix:/a",)
    with pytest.raises(SettingsError, match=r"^twistd taskq: slots must be a whole number"):
        check_option("slots", text, "twistd taskq")


def test_amounts_on_the_command_line_are_name_and_number() -> None:
    assert check_option("queue", ["slow=2", "x/y=3"], "twistd taskq") == {"slow": 2, "x/y": 3}
    assert check_option("queue", ["slow=2", "slow=3"], "twistd taskq") == {"slow": 3}
    assert check_option("resource", ["gpu=1000000"], "twistd taskq") == {"gpu": 1_000_000}


def test_limits_and_roles_on_the_command_line_are_name_and_value() -> None:
    assert check_option("limit", ["pending=5", "idle_time=1h", "priority=-3"], "twistd taskq") == {
        "pending": 5,
        "idle-time": 3600.0,
        "priority": -3,
    }
    assert check_option("limit", ["idle-time=1h", "idle_time=none"], "twistd taskq") == {"idle-time": None}
    assert check_option("role", ["ana=admin", "*=read", "ana=submit"], "twistd taskq") == {
        "ana": Role.SUBMIT,
        "*": Role.READ,
    }


@pytest.mark.parametrize("name", LIMITS)
def test_invalid_limit_is_named_with_what_was_expected(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        check_option("limit", ["label=5", f"{name}=many"], "twistd taskq")
    assert str(refusal.value) == (f"twistd taskq: limit {name} must be {LIMITS[name].expected}, not 'many'")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("slow", "'slow'"),
        ("slow=", "slow = ''"),
        ("=2", " = 2"),
        ("slow=0", "slow = 0"),
        ("slow=-1", "slow = '-1'"),
        ("slow=two", "slow = 'two'"),
        ("slow=1=2", "slow=1 = 2"),
        ("a b=2", "a b = 2"),
        ("slow=\N{ARABIC-INDIC DIGIT FOUR}", "slow = '\N{ARABIC-INDIC DIGIT FOUR}'"),
        ("slow=" + "9" * 5000, "slow = '999"),
    ],
)
def test_invalid_entry_of_a_table_is_named(text: str, shown: str) -> None:
    for key in ("queue", "resource"):
        with pytest.raises(SettingsError) as refusal:
            check_option(key, ["right=1", text], "twistd taskq")
        assert str(refusal.value).startswith(f"twistd taskq: {key} must be a name ")
        assert f", not {shown}" in str(refusal.value)


def test_option_is_checked_like_a_key_of_the_file() -> None:
    assert check("slots", 4, "--slots") == 4
    assert check("listen", ("unix:/a",), "--listen") == ("unix:/a",)
    with pytest.raises(SettingsError, match=r"^--slots: slots must be a whole number"):
        check("slots", 0, "--slots")


DEFAULTS = {"state": "/default", "listen": ("unix:/default",), "slots": 2}


@pytest.mark.parametrize(
    "options, file, state, slots",
    [
        ({}, {}, "/default", 2),
        ({}, {"slots": 3}, "/default", 3),
        ({"slots": 4}, {"slots": 3, "state": "/file"}, "/file", 4),
        ({"state": "/option"}, {"state": "/file"}, "/option", 2),
    ],
)
def test_option_wins_over_the_file_and_the_file_over_the_default(
    options: dict[str, Any], file: dict[str, Any], state: str, slots: int
) -> None:
    assert merge(options, file, DEFAULTS) == Settings(state=state, listen=("unix:/default",), slots=slots)


def test_default_retention_is_a_week_and_100000_jobs() -> None:
    settings = merge({}, {}, DEFAULTS)
    assert (settings.stop_grace, settings.requeue) == (10.0, False)
    assert settings.retention == Retention(age=7 * 86400.0, count=100_000)


def test_default_settings_have_no_queues_resources_or_on_end() -> None:
    settings = merge({}, {}, DEFAULTS)
    assert (settings.queues, settings.resources, settings.on_end) == ({}, {}, None)


def test_queues_and_resources_of_options_and_file_are_merged() -> None:
    file = {"queue": {"slow": 1, "fast": 2}, "resource": {"gpu": 1, "disk": 2}}
    settings = merge({"queue": {"slow": 3}, "resource": {"gpu": 4, "net": 5}}, file, DEFAULTS)
    assert settings.queues == {"slow": 3, "fast": 2}
    assert settings.resources == {"gpu": 4, "disk": 2, "net": 5}
    assert file["queue"] == {"slow": 1, "fast": 2}


def test_on_end_command_has_a_queue_with_its_slots() -> None:
    settings = merge({"on-end-command": "mail ops"}, {"queue": {"slow": 1}}, DEFAULTS)
    assert settings.on_end == OnEnd("mail ops", is_of_failures=False, timeout=30.0, slots=1)
    assert settings.queues == {"slow": 1, ON_END_QUEUE: 1}


def test_on_end_settings_of_options_and_file_are_merged() -> None:
    file = {"on-end-command": "mail ops", "on-end-timeout": 5.0, "on-end-slots": 2}
    settings = merge({"on-end-slots": 3, "on-end-only": True}, file, DEFAULTS)
    assert settings.on_end == OnEnd("mail ops", is_of_failures=True, timeout=5.0, slots=3)
    assert settings.queues == {ON_END_QUEUE: 3}


def test_on_end_settings_without_a_command_are_refused() -> None:
    with pytest.raises(SettingsError) as refusal:
        merge({"on-end-slots": 3}, {"on-end-timeout": 5.0}, DEFAULTS)
    assert str(refusal.value) == (
        "on-end-command is missing, and on-end-timeout, on-end-slots has no effect without it"
    )


def test_retention_settings_of_options_and_file_are_merged() -> None:
    settings = merge(
        {"retention-count": 3, "on-stop": True}, {"retention-age": 60.0, "stop-grace": 1.0}, DEFAULTS
    )
    assert settings.retention == Retention(age=60.0, count=3)
    assert (settings.stop_grace, settings.requeue) == (1.0, True)


def test_default_settings_have_default_limits_no_roles_and_run_as_the_daemon() -> None:
    settings = merge({}, {}, DEFAULTS)
    assert (settings.limits, settings.roles) == (Limits(), {})
    assert (settings.auth, settings.run_as_owner, settings.speedups) == ((), False, True)


def test_limits_and_roles_of_options_and_file_are_merged() -> None:
    file = {"limit": {"pending": 1, "label": 2}, "role": {"ana": Role.READ, "ben": Role.READ}}
    settings = merge({"limit": {"label": 3}, "role": {"ana": Role.ADMIN}}, file, DEFAULTS)
    assert settings.limits == Limits(pending=1, label=3)
    assert settings.roles == {"ana": Role.ADMIN, "ben": Role.READ}


def test_contradicting_limits_are_refused_even_from_different_sources() -> None:
    with pytest.raises(SettingsError, match=r"^limit block-memory must be at least limit block, which is 2"):
        merge({"limit": {"block-memory": 65_536}}, {"limit": {"block": 2**20 * 2}}, DEFAULTS)


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


@pytest.mark.parametrize("name", SETTINGS)
def test_operations_page_has_a_row_with_the_default_of_every_setting(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text("utf-8")
    row = re.search(rf"^\| `--{name} .*$", page, re.MULTILINE)
    assert row is not None
    default = SETTINGS[name].default
    assert default in ("", "the CPUs") or row[0].endswith(f"| `{default}` |")


def test_every_field_of_the_settings_is_set_by_one_setting() -> None:
    fields = [setting.field for setting in SETTINGS.values()]
    groups = {"retention": Retention, "on_end": OnEnd}
    plain = [name for name in Settings.__struct_fields__ if name not in groups]
    grouped = [f"{group}.{name}" for group, kind in groups.items() for name in kind.__struct_fields__]
    assert sorted(fields) == sorted(plain + grouped)
