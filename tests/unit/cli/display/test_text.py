"""Text for terminals: relative times, bars, colours, and tables that fit."""

import io
import os
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from taskqd.cli.display import printer, tables, text
from taskqd.client import Facts
from tests.fakes.daemon import FakeDaemon, job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

NOW = 1_000_000.0
AT = "1970-01-12T13:46:40.000Z"
"""The time of NOW."""
EARLIER = "1970-01-12T13:43:40.000Z"
LATER = "1970-01-12T15:46:40.000Z"


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


class Stream(io.StringIO):
    """A stdout with a given encoding, which is a terminal or not."""

    def __init__(self, encoding: str, is_terminal: bool = True) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


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


# tables


def drawn(table: Table, width: int) -> list[str]:
    """Return the lines of a table."""
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue().splitlines()


def a_job(number: int, status: str = "COMPLETED", **more: object) -> Facts:
    facts: Facts = {"id": number, "status": status, "command": "make all", "exit_code": None}
    return {**facts, "submitted_at": EARLIER, "queue": "default", "progress": 0, "owner": "ana", **more}


JOBS = [
    a_job(7, "RUNNING", queue="nightly", label="été", started_at=AT, progress=40),
    a_job(123456, "FAILED", exit_code=-9, completed_at=EARLIER, owner="bob", command="x" * 300),
    a_job(8, "PENDING", reason="delayed", not_before=LATER),
]


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_job_table_fits_the_width_with_one_line_per_job(width: int) -> None:
    lines = drawn(tables.make_job_table(JOBS, NOW, width), width)
    assert len(lines) == 1 + len(JOBS)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    "width,titles",
    [
        (120, "id status exit when queue label owner command"),
        (95, "id status exit when queue label command"),
        (84, "id status exit when queue command"),
        (80, "id status exit when command"),
        (68, "id status exit command"),
        (56, "id status command"),
        (20, "id status command"),
    ],
)
def test_job_table_drops_columns_one_by_one(width: int, titles: str) -> None:
    table = tables.make_job_table(JOBS, NOW, width)
    assert [column.header for column in table.columns] == titles.split()


def test_job_table_omits_columns_with_default_values() -> None:
    table = tables.make_job_table([a_job(1), a_job(2)], NOW, 200)
    assert [column.header for column in table.columns] == ["id", "status", "when", "command"]


@pytest.mark.parametrize("name", ["queue", "label", "owner"])
def test_job_table_cuts_long_names(name: str) -> None:
    found = [a_job(1, **{name: "x" * 60}), a_job(2, **{name: "ü" * 12})]
    lines = drawn(tables.make_job_table(found, NOW, 100), 100)
    assert name in lines[0].split()
    assert "x" * 15 + "…" in lines[1]
    assert "ü" * 12 in lines[2]
    assert all("make all" in line for line in lines[1:])


def test_job_table_without_jobs_has_titles() -> None:
    assert drawn(tables.make_job_table([], NOW, 80), 80)[0].split() == ["id", "status", "command"]


ARRAY = {"count": 8, "completed": 2, "failed": 1, "cancelled": 0}


@pytest.mark.parametrize(
    "found,shown",
    [
        (a_job(1, "RUNNING", progress=0), "RUNNING"),
        (a_job(1, "RUNNING", progress=40), "RUNNING ████░░░░░░ 40%"),
        (a_job(1, "RUNNING", tasks=ARRAY), "RUNNING ███░░░░░░░ 3/8"),
        (a_job(1, "PENDING", reason="queued"), "PENDING"),
        (a_job(1, "PENDING", reason="held"), "PENDING held"),
        (a_job(1, "PENDING", reason="retrying", not_before=LATER), "PENDING in 2 h"),
        (a_job(1, "FAILED", reason="exit"), "FAILED"),
        (a_job(1, "FAILED", reason="timeout"), "FAILED timeout"),
        (a_job(1, "COMPLETED", progress=100), "COMPLETED"),
    ],
)
def test_status_shows_progress_or_reason(found: Facts, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stream("utf-8"))
    assert tables.status_of(found, NOW).plain == shown


def test_task_is_named_with_its_array() -> None:
    assert tables.name_of(a_job(17, array=12, index=5)) == "17 (12.5)"


def test_status_time_depends_on_status() -> None:
    assert tables.status_time(a_job(1, "RUNNING", started_at=AT), NOW) == "now"
    assert tables.status_time(a_job(1, "PENDING", started_at=AT), NOW) == "3 min ago"
    assert tables.status_time(a_job(1, "FAILED", completed_at=AT), NOW) == "now"
    assert tables.status_time({"status": "FAILED"}, NOW) == ""


def a_queue(name: str, **more: object) -> Facts:
    counts = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)
    return {"name": name, "slots": None, "busy": 0, "paused": False, **counts, **more}


@pytest.mark.parametrize("width", [120, 80, 50, 30])
def test_queue_table_fits_the_width(width: int) -> None:
    queues = [a_queue("default"), a_queue("nightly\x1b", slots=2, busy=1, paused=True)]
    lines = drawn(tables.make_queue_table(queues, width), width)
    assert max(map(len, lines)) <= width
    assert lines[2].startswith(r"nightly\x1B")
    assert lines[2].rstrip().endswith("paused")


@pytest.mark.parametrize(
    "schedule,shown",
    [
        ({"every": 600.0}, "every 10 min"),
        ({"every": 90.0}, "every 90 s"),
        ({"every": 86400.0}, "every 1 d"),
        ({"every": None, "cron": "@daily"}, "@daily"),
        ({"every": None, "cron": "@daily", "tz": "Asia/Tokyo"}, "@daily (Asia/Tokyo)"),
        ({"every": 90.0, "tz": "Asia/Tokyo"}, "every 90 s"),
    ],
)
def test_describe_recurrence_shows_interval_or_cron(schedule: Facts, shown: str) -> None:
    assert tables.describe_recurrence(schedule) == shown


def test_schedule_table_shows_next_run_relative_to_now() -> None:
    plain = {"schedule": 3, "every": 600.0, "paused": False, "next_run_at": LATER, "command": "x"}
    paused = {**plain, "paused": True, "next_run_at": None, "last_run_at": EARLIER, "last_job": 7}
    never = {**plain, "next_run_at": None}
    lines = drawn(tables.make_schedule_table([plain, paused, never], NOW, 100), 100)
    assert re.search(r"3 +every 10 min +in 2 h .* x", lines[1])
    assert re.search(r"paused +3 min ago +7 +x", lines[2])
    assert re.search(r"every 10 min +- +x", lines[3])


def test_table_on_terminal_without_size_is_80_columns_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(printer, "get_terminal_size", lambda: os.terminal_size((0, 0)))  # as on Python 3.10
    printer.print_jobs([{"id": 7, "status": "FAILED", "command": "x" * 200}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].strip().startswith("7 ")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("colours", [True, False])
def test_list_has_colours_on_a_terminal_but_not_with_no_color(tmp_path: Path, colours: bool) -> None:
    found = job(7, "FAILED", 1, submitted_at=EARLIER, queue="default", reason="exit")
    environment = {} if colours else {"NO_COLOR": "1"}
    with (
        FakeDaemon(replies({"LIST": found + b"END 1\r\n"}), tmp_path) as daemon,
        Process(daemon.address, "list", on_terminal=("stdout",), has_stdin=True, **environment) as process,
    ):
        shown = process.end().terminal
    assert (b"\x1b[31mFAILED" in shown) is colours


@pytest.mark.parametrize("verb", ["queues", "schedules"])
def test_piped_lists_are_tab_separated(serve: Serve, call: Call, verb: str) -> None:
    queue = b'QUEUE {"name":"q","slots":2,"busy":1,"paused":false,"pending":0,"running":1,"completed":0,'
    queue += b'"failed":0,"cancelled":0}\r\nEND 1\r\n'
    schedule = b'SCHEDULE {"schedule":3,"every":60,"paused":true,"command":"x"}\r\nEND 1\r\n'
    serve(replies({"QUEUES": queue, "SCHEDULES": schedule}))
    assert b"\t" in call(verb).stdout


def test_table_fits_a_dumb_terminal(tmp_path: Path) -> None:
    found = job(7, "PENDING", None, submitted_at=EARLIER, queue="default", command="x" * 300)
    with (
        FakeDaemon(replies({"LIST": found + b"END 1\r\n"}), tmp_path) as daemon,
        Process(daemon.address, "list", on_terminal=("stdout",), TERM="dumb", COLUMNS="50") as process,
    ):
        lines = process.end().terminal.decode().splitlines()
    assert [len(line.rstrip()) for line in lines if "x" in line] == [50]
