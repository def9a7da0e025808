"""Text for terminals: relative times, bars and colours."""

import sys
from datetime import datetime

import pytest

from taskqd.cli.display import text
from tests.support.cli_calls import plain_environment  # noqa: F401 - a fixture
from tests.unit.cli.display.samples import AT, EARLIER, LATER, NOW, Stream


@pytest.mark.parametrize(
    "line,shown",
    [
        ("plain ü €", "plain ü €"),
        ("\x1b[2J", r"\x1B[2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b1m\x7f\0", r"\x9B1m\x7F\x00"),
        ("\u202egnp.exe", r"\u202Egnp.exe"),
        ("\ud800", r"\uD800"),
    ],
)
def test_sanitize_line_escapes_control_characters(line: str, shown: str) -> None:
    assert text.sanitize_line(line) == shown


@pytest.mark.parametrize(
    "at,shown",
    [
        ("1970-01-12T13:46:40.000Z", "0 s"),
        ("1970-01-12T13:46:41.500Z", "0 s"),
        ("1970-01-12T13:46:00Z", "40 s"),
        ("1970-01-12T13:00:00Z", "46 min"),
        ("1970-01-12T01:00:00Z", "12 h"),
        ("1970-01-01T00:00:00Z", "11 d"),
    ],
)
def test_age_uses_the_largest_unit(at: str, shown: str) -> None:
    assert text.age(at, NOW) == shown


@pytest.mark.parametrize(
    "at,shown",
    [
        (AT, "now"),
        ("1970-01-12T13:46:40.900Z", "now"),
        ("1970-01-12T13:46:35Z", "5 s ago"),
        (EARLIER, "3 min ago"),
        ("1970-01-12T13:46:45.500Z", "in 5 s"),
        (LATER, "in 2 h"),
        ("1970-01-12T15:46:36Z", "in 2 h"),
        ("1970-01-12T15:45:40Z", "in 1 h"),
        ("1970-01-14T13:46:40.000Z", "in 2 d"),
    ],
)
def test_relative_time_is_relative_to_now(at: str, shown: str) -> None:
    assert text.relative_time(at, NOW) == shown


def test_local_time_shows_the_date_of_another_day_only() -> None:
    noon = datetime(2026, 11, 24, 12).timestamp()  # noqa: DTZ001 - local time
    then = datetime.fromtimestamp(noon).astimezone()
    assert text.local_time(then.isoformat(), noon + 60) == "12:00:00"
    assert text.local_time(then.isoformat(), noon + 2 * 86400) == "2026-11-24 12:00:00"


@pytest.mark.parametrize(
    "part,whole,encoding,drawn",
    [
        (0, 100, "utf-8", "░░░░"),
        (50, 100, "UTF-8", "██░░"),
        (99, 100, "utf8", "███░"),
        (100, 100, "utf-8", "████"),
        (7, 4, "utf-8", "████"),
        (1, 0, "utf-8", "░░░░"),
        (1, 2, "ascii", "##--"),
    ],
)
def test_bar_is_full_only_at_the_end(
    part: int, whole: int, encoding: str, drawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(encoding))
    assert text.bar(part, whole, 4) == drawn


@pytest.mark.parametrize(
    "is_terminal,environment,expected",
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_used_on_terminals_that_support_them(
    is_terminal: bool, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert text.has_colours(Stream("utf-8", is_terminal)) is expected


@pytest.mark.parametrize(
    "job, shown",
    [
        ({"command": "make"}, "make"),
        ({"command": "\ncd /x\nmake\n"}, "cd /x …"),
        ({"command": None, "script": 4, "script_line": "make"}, "make"),
        ({"command": None, "script": 5, "script_line": "make"}, "make"),
        ({"command": None, "script": 6, "script_line": "make"}, "make …"),
        ({"command": "-j4 'a b'", "script": 90, "script_line": "make"}, "make … -j4 'a b'"),
        ({"command": "-j4", "script": 6, "script_line": "caf\xe9"}, "caf\xe9 -j4"),
        ({"command": None, "script": 99, "script_line": "a\r\x1b[2J"}, r"a\r\x1B[2J …"),
        ({"command": None, "script": 12}, "(a script of 12 bytes)"),
        ({"command": "-j4", "script": 12}, "(a script of 12 bytes) -j4"),
    ],
)
def test_command_of_a_script_is_its_line_with_an_ellipsis_for_more_and_its_arguments(
    job: dict[str, object], shown: str
) -> None:
    assert text.command_of(job) == shown


@pytest.mark.parametrize(
    "seconds, shown",
    [(0.011, "11 ms"), (2.44, "2.4 s"), (59.9, "59 s"), (320.5, "5 min 20 s"), (90061, "1 d 1 h")],
)
def test_run_time_has_two_or_three_digits(seconds: float, shown: str) -> None:
    assert text.format_run_time(seconds) == shown


@pytest.mark.parametrize(
    "facts, shown",
    [
        ({"status": "PENDING", "reason": "held", "started_at": EARLIER}, "job 7 PENDING (held)"),
        ({"status": "RUNNING", "progress": 40, "started_at": EARLIER}, "job 7 RUNNING 40%, for 3 min"),
        (
            {"status": "RUNNING", "progress": 40, "progress_text": "a\x07b", "started_at": EARLIER},
            "job 7 RUNNING 40% a\\x07b, for 3 min",
        ),
        (
            {"status": "FAILED", "exit_code": 3, "started_at": EARLIER, "completed_at": AT},
            "job 7 FAILED (exit 3) now, after 3 min",
        ),
        (
            {"status": "FAILED", "reason": "memory", "exit_code": -15, "completed_at": AT, "signal": "TERM"}
            | {"memory_used_peak": 2250 * 1024**2, "memory_max": 2 * 1024**3},
            "job 7 FAILED (memory: used 2.2 GiB of 2 GiB, signal TERM) now",
        ),
        ({"status": "CANCELLED", "completed_at": EARLIER}, "job 7 CANCELLED 3 min ago"),
    ],
)
def test_headline_says_how_a_job_ended_when_and_after_how_long(facts: dict[str, object], shown: str) -> None:
    assert text.headline({"id": 7, **facts}, NOW) == shown
