"""When schedules are due: periods, cron expressions, and clocks that are put forward or back."""

import time
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest
from taskqd.model.schedule import (
    MAX_CRON_LENGTH,
    TIME_TOLERANCE,
    check_cron,
    check_every,
    next_of_cron,
    next_of_every,
)
from taskqd.model.time_zones import LOCAL, named
from tests.unit.model.samples import AUTUMN, HOUR, SPRING, T


def text(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(" ")[:19]


# Every.


@given(
    st.floats(1e9, 4e9),
    st.floats(1, 1e9),
    st.lists(st.floats(0, 1e9), max_size=5),
    st.sampled_from([0, 0.1, 60]),
)
def test_next_run_of_every_is_the_first_multiple_after_the_last_run(
    at: float, every: float, gaps: list[float], late: float
) -> None:
    due = next_of_every(at, every, at + TIME_TOLERANCE)
    for gap in gaps:
        ran_at = due + late + gap
        due = next_of_every(at, every, ran_at + TIME_TOLERANCE)
        assert due > ran_at
        assert due - ran_at <= every * 1.001
        assert due - at == pytest.approx(round((due - at) / every) * every, rel=0, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.0, 0.999])
def test_period_below_a_second_is_refused(seconds: float) -> None:
    check_every(1.0)
    with pytest.raises(BadRequest, match=r"^expected a duration of at least 1 second, not 0"):
        check_every(seconds)


# Cron.

RUNS = [
    ("* * * * *", "2023-11-14 22:14:00", "2023-11-14 22:15:00"),
    ("*/15 * * * *", "2023-11-14 22:15:00", "2023-11-14 22:30:00"),
    ("30 4 * * *", "2023-11-15 04:30:00", "2023-11-16 04:30:00"),
    ("0 9-17/4 * * mon-fri", "2023-11-15 09:00:00", "2023-11-15 13:00:00"),
    ("0 0 1,15 * *", "2023-11-15 00:00:00", "2023-12-01 00:00:00"),
    ("0 0 13 * FRI", "2023-11-17 00:00:00", "2023-11-24 00:00:00"),
    ("0 0 29 2 *", "2024-02-29 00:00:00", "2028-02-29 00:00:00"),
    ("0 0 * 2 MON#5", "2044-02-29 00:00:00", "2072-02-29 00:00:00"),
    ("0 0 L * *", "2023-11-30 00:00:00", "2023-12-31 00:00:00"),
    ("\t0  12 * * 7 ", "2023-11-19 12:00:00", "2023-11-26 12:00:00"),
    ("@hourly", "2023-11-14 23:00:00", "2023-11-15 00:00:00"),
    (" @Daily", "2023-11-15 00:00:00", "2023-11-16 00:00:00"),
    ("@weekly", "2023-11-19 00:00:00", "2023-11-26 00:00:00"),
    ("@monthly", "2023-12-01 00:00:00", "2024-01-01 00:00:00"),
    ("@yearly", "2024-01-01 00:00:00", "2025-01-01 00:00:00"),
]


@pytest.mark.parametrize("cron, first, second", RUNS)
def test_cron_is_due_when_crontab_5_says(cron: str, first: str, second: str) -> None:
    check_cron(cron)
    due = next_of_cron(cron, T, timezone.utc)
    assert text(due) == first
    assert text(next_of_cron(cron, due or 0, timezone.utc)) == second


WRONG = [
    ("", "expected the 5 fields of a cron expression, minute, hour,"),
    ("* * * *", "expected the 5 fields"),
    ("0 * * * * *", "expected the 5 fields"),
    ("@reboot", "expected the 5 fields"),
    ("daily", "expected the 5 fields"),
    ("60 * * * *", ", not '60 * * * *': "),
    ("* 24 * * *", ", not '* 24 * * *': "),
    ("* * 0 * *", ", not '* * 0 * *': "),
    ("* * * 13 *", ", not '* * * 13 *': "),
    ("* * * * 8", ", not '* * * * 8': "),
    ("* * * * MON#6", ", not '* * * * MON#6': "),
    ("*/0 * * * *", ", not '*/0 * * * *': "),
    ("9-5 * * * *", ": 9-5 ends before it begins; use two ranges"),
    ("0 0 * * SAT-MON", ": SAT-MON ends before it begins"),
    ("0 0 * * sun-5,FRI-tue", ": FRI-TUE ends before it begins"),
    ("0 0 * NOV-FEB *", ": NOV-FEB ends before it begins"),
    ("@every 5m", "@every is not a cron expression; use --every=5m in place of --cron"),
    (" @EVERY  1h", "use --every=1h"),
    ("@every", "use --every=5m"),
    ("0 0 30 2 *", ", not '0 0 30 2 *': "),
    ("0 0 31 2,4,6 *", ", not '0 0 31 2,4,6 *': "),
    ("0 0 */31 * MON#3", "expected a cron expression that matches some day; '0 0 */31 * MON#3' never"),
    ("1" * 999 + " * * * *", "expected the 5 fields"),
    ("\N{ARABIC-INDIC DIGIT FOUR} * * * *", ", not '\N{ARABIC-INDIC DIGIT FOUR} * * * *': "),
]


@pytest.mark.parametrize("cron, part", WRONG)
def test_invalid_or_impossible_cron_is_refused_with_the_reason(cron: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        check_cron(cron)
    assert part in str(refusal.value)
    assert len(str(refusal.value)) < 300


@given(st.text() | st.lists(st.text("0123456789*/-,#LWMONJAFEB", max_size=8), max_size=6).map(" ".join))
def test_any_text_is_a_cron_with_a_run_or_refused(cron: str) -> None:
    try:
        check_cron(cron)
    except BadRequest:
        return
    assert len(cron) <= MAX_CRON_LENGTH
    due = next_of_cron(cron, T, timezone.utc)
    assert due is not None
    assert due > T


def test_next_run_of_a_cron_is_computed_fast() -> None:
    start = datetime(2026, 1, 2, tzinfo=timezone.utc).timestamp()
    for cron in ("0 0 29 2 *", "0 0 * 2 MON#5", "* * 29 2 *", "59 23 31 12 7"):
        before = time.perf_counter()
        next_of_cron(cron, start, timezone.utc)
        assert time.perf_counter() - before < 1.0


def test_cron_without_a_match_in_50_years_has_no_next_run() -> None:
    assert next_of_cron("0 0 */31 * MON#3", T, timezone.utc) is None


def test_range_of_weekdays_may_end_with_sunday() -> None:
    crons = ("0 0 * * FRI-SUN", "0 0 * * 5-7", "0 0 * * mon,fri-sun")
    assert len({next_of_cron(cron, T, timezone.utc) for cron in crons}) == 1


# Clocks that are put forward and back.


def hours(start: float, cron: str, count: int, tz: str | None = None) -> list[float]:
    """Return the next runs of a cron after ``start``, in hours after it."""
    zone = LOCAL if tz is None else named(tz)
    runs: list[float] = []
    after = start
    for _ in range(count):
        due = next_of_cron(cron, after + TIME_TOLERANCE, zone)
        assert due is not None
        runs.append((due - start) / HOUR)
        after = due
    return runs


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(
    "start, cron, runs",
    [
        (SPRING - 24 * HOUR, "30 1 * * *", [23.5, 46.5]),
        (SPRING - 24 * HOUR, "30 2 * * *", [0.5, 24.0, 47.5]),
        (SPRING - 24 * HOUR, "0,30 2 * * *", [0.5, 24.0, 47.0]),
        (SPRING - 24 * HOUR, "0 3 * * *", [1.0, 24.0, 48.0]),
        (SPRING - HOUR, "0 * * * *", [1.0, 2.0, 3.0]),
        (SPRING - HOUR, "*/30 2 * * *", [24.0, 24.5, 48.0]),
        (AUTUMN - 2 * HOUR, "30 2 * * *", [1.5, 26.5]),
        (AUTUMN - 2 * HOUR, "30 1-3 * * *", [0.5, 1.5, 3.5, 25.5]),
        (AUTUMN - 2 * HOUR, "0 * * * *", [1.0, 2.0, 3.0, 4.0]),
        (AUTUMN - 2 * HOUR, "*/30 2 * * *", [1.0, 1.5, 2.0, 2.5, 26.0]),
    ],
)
def test_cron_follows_debian_when_clocks_are_put_forward_or_back(
    start: float, cron: str, runs: list[float]
) -> None:
    assert hours(start, cron, len(runs)) == runs


@pytest.mark.usefixtures("central_europe")
def test_cron_created_in_the_second_of_a_doubled_hour_is_not_due_in_the_first() -> None:
    assert hours(AUTUMN + HOUR / 6, "30 2 * * *", 2) == [24 + 1 / 3, 48 + 1 / 3]


def at(text: str) -> float:
    """Return a time in UTC as seconds since the epoch."""
    return datetime.fromisoformat(text + ":00+00:00").timestamp()


SANTIAGO = at("2026-09-05T12:00")
"""At midnight between the 5th, a Saturday, and the 6th clocks show 01:00: 04:00 of UTC."""
LORD_HOWE = at("2026-10-03T12:30")
"""At 02:00 of the 4th clocks show 02:30: 15:30 of UTC."""
BACK = at("2026-04-04T12:00")
"""At 02:00 of the 5th Lord Howe's clocks show 01:30: 15:00 of UTC."""


@pytest.mark.parametrize(
    "start, tz, cron, runs",
    [
        (SANTIAGO, "America/Santiago", "*/20 0 * * SUN", [183.0, 183 + 1 / 3, 183 + 2 / 3]),
        (SANTIAGO, "America/Santiago", "0,20 0 * * SUN", [16.0, 183.0, 183 + 1 / 3]),
        (SANTIAGO, "America/Santiago", "0 */3 * * *", [1.0, 4.0, 7.0, 10.0, 13.0, 18.0]),
        (SANTIAGO, "America/Santiago", "@daily", [16.0, 39.0]),
        (LORD_HOWE, "Australia/Lord_Howe", "0 */3 * * *", [1.0, 3.5, 6.5]),
        (LORD_HOWE, "Australia/Lord_Howe", "* 10 * * *", [10.5, 10.5 + 1 / 60]),
        (LORD_HOWE, "Australia/Lord_Howe", "10 2 * * *", [3.0, 26 + 4 / 6]),
        (BACK, "Australia/Lord_Howe", "*/30 1 * * *", [2.0, 2.5, 3.0, 26.5]),
        (BACK, "Australia/Lord_Howe", "45 1 * * *", [2.75, 27.25]),
        (SPRING - HOUR, "UTC", "30 2 * * *", [2.5, 26.5]),
        (SPRING - HOUR, "Asia/Kathmandu", "0 7 * * *", [1.25, 25.25]),
    ],
)
def test_cron_with_a_time_zone_is_due_at_each_time_that_exists(
    start: float, tz: str, cron: str, runs: list[float]
) -> None:
    assert hours(start, cron, len(runs), tz) == pytest.approx(runs)


FIELD = st.sampled_from(["*", "*/20", "0", "30", "15,45", "5-50/15"])
HOURS = st.sampled_from(["*", "*/3", "0", "1", "2", "3", "0-3", "10", "1,2"])


@given(
    st.sampled_from([SPRING - 30 * HOUR, AUTUMN - 30 * HOUR, SANTIAGO, LORD_HOWE, BACK]),
    st.sampled_from(["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "UTC"]),
    FIELD,
    HOURS,
)
def test_cron_with_a_star_is_due_at_each_matching_minute_that_clocks_show(
    start: float, tz: str, minute: str, hour: str
) -> None:
    start -= start % 60
    cron, zone = f"{minute} {hour} * * *", ZoneInfo(tz)
    shown = [datetime.fromtimestamp(start + 60 * at, zone) for at in range(1, 49 * 60)]
    matching = {
        (run.hour, run.minute)
        for run, _ in zip(CronSim(cron, datetime(2026, 1, 1, tzinfo=timezone.utc)), range(1440), strict=False)
    }
    runs = [moment for moment in shown if (moment.hour, moment.minute) in matching]
    if "*" not in minute[:1] + hour[:1]:
        first: dict[object, datetime] = {}
        for run in runs:
            first.setdefault((run.date(), run.hour, run.minute), run)
        found = {start + HOUR * run for run in hours(start, cron, 3, tz)}
        assert {run.timestamp() for run in [*first.values()][:2]} <= {round(run) for run in found}
        return
    expected = [(one.timestamp() - start) / HOUR for one in runs[:20]]
    assert hours(start, cron, len(expected), tz) == pytest.approx(expected)
