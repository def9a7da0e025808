"""Tables of jobs, queues and schedules, which fit the width of the terminal."""

import io
import re
import sys

import pytest
from rich.console import Console
from rich.table import Table

from taskqd.cli.display import tables
from taskqd.client import Facts
from tests.support.cli_calls import plain_environment  # noqa: F401 - a fixture
from tests.unit.cli.display.samples import AT, EARLIER, LATER, NOW, Stream


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
        (120, "id status exit when ran queue label owner command"),
        (101, "id status exit when ran queue label command"),
        (94, "id status exit when ran queue command"),
        (85, "id status exit when ran command"),
        (78, "id status exit when command"),
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
        (a_job(1, "RUNNING", progress=40, suspended_at=AT), "RUNNING suspended 40%"),
        (a_job(1, "RUNNING", suspended_at=AT, progress_text="begun"), "RUNNING suspended"),
        (a_job(1, "RUNNING", suspended_at=AT, tasks=ARRAY), "RUNNING suspended 3/8"),
        (a_job(1, "RUNNING", progress=0, progress_text="begun"), "RUNNING begun"),
        (a_job(1, "RUNNING", progress=40, progress_text="a\x1b[2J"), "RUNNING ████░░░░░░ 40% a\\x1B[2J"),
        (a_job(1, "RUNNING", progress_text="x" * 30), f"RUNNING {'x' * 23}…"),
        (a_job(1, "COMPLETED", progress=100, progress_text="x"), "COMPLETED"),
        (a_job(1, "RUNNING", tasks=ARRAY), "RUNNING ███░░░░░░░ 3/8"),
        (a_job(1, "RUNNING", tasks={**ARRAY, "completed": 0, "failed": 0}), "RUNNING ░░░░░░░░░░ 0/8"),
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
    assert tables.status_of(found, NOW, 120).plain == shown


def test_status_leaves_room_for_other_columns_on_a_narrow_terminal() -> None:
    found = a_job(1, "RUNNING", progress_text="epoch 5 of 100, step 3 of 7")
    assert tables.status_of(found, NOW, 99).plain == "RUNNING epoch 5 of 10…"


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
