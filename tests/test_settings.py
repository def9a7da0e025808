"""Settings: the file's text and the options -> one value; what is wrong is named with its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import SettingsError
from taskqd.settings import (
    MOST_KEPT,
    MOST_SLOTS,
    SETTINGS,
    Retention,
    Settings,
    check,
    check_option,
    merge,
    read_toml,
)

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
    (f"slots = {MOST_SLOTS}", {"slots": MOST_SLOTS}),
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
    ("[retention]\n", {}),
]
REFUSED = [
    ("slots", "x.toml is not TOML: "),
    ("slots = ", "x.toml is not TOML: "),
    ("slots = 1\nslots = 2", "x.toml is not TOML: "),
    ("slots = " + "9" * 5000, "x.toml is not TOML: "),
    ("slots = " + "[" * 100_000, "x.toml is not TOML: "),
    ("slots = 2026-13-45", "x.toml is not TOML: "),
    ("sloots = 1", "x.toml: sloots is no setting; there are state, listen, slots"),
    (
        "[slots]\nslots = 1",
        f"x.toml: slots must be a whole number from 1 to {MOST_SLOTS}, not {{'slots': 1}}",
    ),
    ("[taskqd]\nslots = 1", "x.toml: taskqd is no setting"),
    ("slots = 0", "x.toml: slots must be a whole number from 1 to 10000, not 0"),
    ("slots = -1", "x.toml: slots must be"),
    (f"slots = {MOST_SLOTS + 1}", "x.toml: slots must be"),
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
    (f"[retention]\ncount = {MOST_KEPT + 1}", "x.toml: retention-count must be a whole number"),
    ("[retention]\nsize = 1", "x.toml: retention-size is no setting"),
    ("slots = inf", "x.toml: slots must be"),
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
]


@pytest.mark.parametrize("text, values", READ)
def test_the_files_text_becomes_its_values(text: str, values: dict[str, Any]) -> None:
    assert read_toml(text, "x.toml") == values


@pytest.mark.parametrize("text, part", REFUSED)
def test_an_error_names_the_file_the_key_and_what_was_expected(text: str, part: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_toml(text, "x.toml")
    assert str(refusal.value).startswith(part)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["0", "-1", "many", "4.0", "", "\N{ARABIC-INDIC DIGIT FOUR}", "9" * 20])
def test_a_number_on_the_command_line_is_read_and_checked(text: str) -> None:
    assert check_option("slots", "4", "twistd taskq") == 4
    assert check_option("state", "4", "twistd taskq") == "4"
    assert check_option("listen", ["unix:/a"], "twistd taskq") == ("unix:/a",)
    with pytest.raises(SettingsError, match=r"^twistd taskq: slots must be a whole number"):
        check_option("slots", text, "twistd taskq")


def test_an_option_is_checked_like_a_key_of_the_file() -> None:
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
def test_an_option_wins_over_the_file_and_the_file_over_the_default(
    options: dict[str, Any], file: dict[str, Any], state: str, slots: int
) -> None:
    assert merge(options, file, DEFAULTS) == Settings(state=state, listen=("unix:/default",), slots=slots)


def test_without_a_word_what_is_over_a_week_old_or_over_100000_jobs_is_not_kept() -> None:
    settings = merge({}, {}, DEFAULTS)
    assert (settings.stop_grace, settings.requeue) == (10.0, False)
    assert settings.retention == Retention(age=7 * 86400.0, count=100_000)


def test_each_setting_of_a_table_comes_from_wherever_it_was_given() -> None:
    settings = merge(
        {"retention-count": 3, "on-stop": True}, {"retention-age": 60.0, "stop-grace": 1.0}, DEFAULTS
    )
    assert settings.retention == Retention(age=60.0, count=3)
    assert (settings.stop_grace, settings.requeue) == (1.0, True)


@given(st.text() | st.text(st.sampled_from('slotae =1"[]\n.#\\\0')))
def test_any_text_is_read_or_refused_with_its_file(text: str) -> None:
    try:
        values = read_toml(text, "x.toml")
    except SettingsError as refusal:
        assert_names_the_file(refusal)
    else:
        assert set(values) <= set(SETTINGS)


def assert_names_the_file(refusal: SettingsError) -> None:
    assert str(refusal).startswith("x.toml")
