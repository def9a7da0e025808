"""Settings from options, how they are merged with those of the file, and the table of settings."""

import re
from pathlib import Path
from typing import Any

import pytest

from taskqd.config.limits import LIMITS, Limits
from taskqd.config.resources import NamedUnits, totals_of, units_of
from taskqd.config.settings import (
    ON_END_QUEUE,
    SETTINGS,
    OnEnd,
    OnStop,
    Retention,
    Settings,
    check,
    check_option,
    merge,
)
from taskqd.errors import SettingsError
from taskqd.model.rate import parse_rate
from taskqd.model.roles import Role


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
    assert (settings.stop_grace, settings.on_stop) == (10.0, OnStop.LEAVE)
    assert (settings.leave_for, settings.waits_for_runner) == (None, False)
    assert settings.retention == Retention(age=7 * 86400.0, count=100_000)


def test_default_settings_have_no_queues_resources_or_on_end() -> None:
    settings = merge({}, {}, DEFAULTS)
    assert (settings.queues, settings.resources, settings.on_end) == ({}, {}, None)


def test_units_of_a_resource_on_the_command_line_are_separated_by_commas() -> None:
    assert check_option("resource", ["gpu=0,1", "tape=left,", "disk=5"], "twistd taskq") == {
        "gpu": NamedUnits(("0", "1")),
        "tape": NamedUnits(("left",)),
        "disk": 5,
    }


def test_total_of_a_resource_with_named_units_is_their_number() -> None:
    gpu = NamedUnits(("0", "1"), "CUDA_VISIBLE_DEVICES")
    file = {"resource": {"gpu": gpu, "disk": 2}}
    given = merge({}, file, DEFAULTS).resources
    assert (totals_of(given), units_of(given)) == ({"gpu": 2, "disk": 2}, {"gpu": gpu})
    given = merge({"resource": {"gpu": 4}}, file, DEFAULTS).resources
    assert (totals_of(given), units_of(given)) == ({"gpu": 4, "disk": 2}, {})


@pytest.mark.parametrize(
    "resources, variable",
    [
        ({"a-b": NamedUnits(("0",)), "a_b": NamedUnits(("0",))}, "TASKQ_NEED_A_B"),
        ({"a": NamedUnits(("0",), "X"), "b": NamedUnits(("0",), "X")}, "X"),
    ],
)
def test_two_resources_with_units_have_different_variables(
    resources: dict[str, NamedUnits], variable: str
) -> None:
    with pytest.raises(SettingsError, match=f"the same variable, {variable}; change the name"):
        merge({"resource": resources}, {}, DEFAULTS)


def test_queues_and_resources_of_options_and_file_are_merged() -> None:
    file = {"queue": {"slow": 1, "fast": 2}, "resource": {"gpu": 1, "disk": 2}}
    settings = merge({"queue": {"slow": 3}, "resource": {"gpu": 4, "net": 5}}, file, DEFAULTS)
    assert settings.queues == {"slow": 3, "fast": 2}
    assert settings.resources == {"gpu": 4, "disk": 2, "net": 5}
    assert file["queue"] == {"slow": 1, "fast": 2}


def test_turns_and_rates_of_options_and_file_are_merged() -> None:
    one, other = parse_rate("10/m"), parse_rate("1/s")
    file = {"queue-fair": {"slow": True, "fast": True}, "queue-rate": {"slow": one}}
    settings = merge({"queue-fair": {"slow": False}, "queue-rate": {"slow": other}}, file, DEFAULTS)
    assert settings.fair_queues == {"slow": False, "fast": True}
    assert settings.queue_rates == {"slow": other}


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
    assert str(refusal.value) == ("on-end-command is missing: it is needed by on-end-timeout, on-end-slots")


def test_retention_settings_of_options_and_file_are_merged() -> None:
    settings = merge(
        {"retention-count": 3, "on-stop": OnStop.REQUEUE},
        {"retention-age": 60.0, "stop-grace": 1.0},
        DEFAULTS,
    )
    assert settings.retention == Retention(age=60.0, count=3)
    assert (settings.stop_grace, settings.on_stop) == (1.0, OnStop.REQUEUE)


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


def test_directory_of_root_s_runner_implies_that_another_program_starts_it() -> None:
    settings = merge({"runner-directory": "/r", "run-as": True}, {}, DEFAULTS)
    assert (settings.runner_directory, settings.waits_for_runner) == ("/r", True)
    assert merge({"runner-directory": "/r"}, {"run-as": True, "runner": True}, DEFAULTS).waits_for_runner


@pytest.mark.parametrize("value", ["r", "", " ", 3])
def test_directory_of_root_s_runner_is_an_absolute_path_or_none(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"^x: runner-directory must be an absolute path, such as .*none"):
        check("runner-directory", value, "x")
    assert check("runner-directory", "/r", "x") == "/r"
    assert check("runner-directory", "none", "x") is None
    assert not merge({"runner-directory": None}, {}, DEFAULTS).waits_for_runner


@pytest.mark.parametrize(
    "given, text",
    [
        ({"runner-directory": "/r"}, 'runner-directory is for run-as = "owner": set that too'),
        ({"runner-directory": "/r", "run-as": False}, 'runner-directory is for run-as = "owner"'),
        (
            {"runner-directory": "/r", "run-as": True, "runner": False},
            'runner = "start" is not possible with runner-directory',
        ),
    ],
)
def test_directory_of_root_s_runner_is_refused_with_contradicting_settings(
    given: dict[str, Any], text: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        merge(given, {}, DEFAULTS)
    assert str(refusal.value).startswith(text)


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


def test_settings_that_are_true_or_false_are_known() -> None:
    assert {name for name, setting in SETTINGS.items() if setting.is_boolean} == {
        "default-socket",
        "speedups",
    }
