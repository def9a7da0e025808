"""Settings: the file's text and the options -> one value; what is wrong is named with its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import SettingsError
from taskqd.settings import MOST_SLOTS, Settings, check, merge, read_toml

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
    ('slots = "4"', "x.toml: slots must be"),
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


@given(st.text() | st.text(st.sampled_from('slotae =1"[]\n.#\\\0')))
def test_any_text_is_read_or_refused_with_its_file(text: str) -> None:
    try:
        values = read_toml(text, "x.toml")
    except SettingsError as refusal:
        assert_names_the_file(refusal)
    else:
        assert set(values) <= set(DEFAULTS)


def assert_names_the_file(refusal: SettingsError) -> None:
    assert str(refusal).startswith("x.toml")
