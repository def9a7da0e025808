"""Schedules: when they are due, pauses, skipped runs, and clocks that are set."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.events import Paused, Resumed, Scheduled, Unscheduled
from taskqd.model.schedule import (
    MAX_CRON_LENGTH,
    MAX_SET_BACK,
    Schedule,
    check_cron,
    check_every,
    next_of_cron,
)
from taskqd.model.spec import Spec
from taskqd.model.time_zones import LOCAL
from taskqd.state.schedules import Schedules

T = 1_700_000_000.0
"""A Tuesday: 2023-11-14 22:13:20 UTC."""
HOUR = 3600.0

Known = Scheduled | Unscheduled | Paused | Resumed


def scheduled(
    number: int = 1, every: float | None = None, cron: str | None = None, at: float = T, overlap: bool = False
) -> Scheduled:
    return Scheduled(
        at=at, by="ada", schedule=number, command="work", every=every, cron=cron, overlap=overlap
    )


def paused(number: int = 1, at: float = T) -> Paused:
    return Paused(at=at, by="ada", schedule=number)


def resumed(number: int = 1, at: float = T) -> Resumed:
    return Resumed(at=at, by="ada", schedule=number)


def unscheduled(number: int = 1, at: float = T) -> Unscheduled:
    return Unscheduled(at=at, by="ada", schedule=number)


def made(*events: Known) -> Schedules:
    schedules = Schedules(timezone.utc)
    for event in events:
        schedules.apply(event)
    return schedules


def next_of(schedules: Schedules, number: int = 1) -> float | None:
    return schedules.next_run(schedules.get(number))


def text(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(" ")[:19]


# Every.


def test_every_is_due_at_multiples_of_its_period_after_creation() -> None:
    schedules = made(scheduled(every=60))
    assert next_of(schedules) == T + 60
    schedules.job_submitted(1, T + 60.25, 7)
    assert next_of(schedules) == T + 120


def test_missed_runs_of_every_are_due_once() -> None:
    schedules = made(scheduled(every=60))
    schedules.job_submitted(1, T + 60, 7)
    assert next_of(schedules) == T + 120, "due at once if that is long ago"
    schedules.job_submitted(1, T + 1000, 8)
    assert next_of(schedules) == T + 1020


def test_run_at_the_exact_time_counts_as_that_run() -> None:
    schedules = made(scheduled(every=60))
    schedules.job_submitted(1, T + 60, 7)
    schedules.job_submitted(1, T + 120, 8)
    assert next_of(schedules) == T + 180


def test_every_keeps_its_times_if_the_clock_is_set_back_before_creation() -> None:
    schedules = made(scheduled(every=60))
    schedules.set_next_run_base(1, T - 1000)
    assert next_of(schedules) == T - 960
    schedules.job_submitted(1, T - 960, 7)
    assert next_of(schedules) == T - 900


@given(
    st.floats(1e9, 4e9),
    st.floats(1, 1e9),
    st.lists(st.floats(0, 1e9), max_size=5),
    st.sampled_from([0, 0.1, 60]),
)
def test_next_run_of_every_is_the_first_multiple_after_the_last_run(
    at: float, every: float, gaps: list[float], late: float
) -> None:
    schedules = made(scheduled(every=every, at=at))
    for gap in gaps:
        ran_at = (next_of(schedules) or 0) + late + gap
        schedules.job_submitted(1, ran_at, 7)
        due = next_of(schedules)
        assert due is not None
        assert due > ran_at
        assert due - ran_at <= every * 1.001
        assert due - at == pytest.approx(round((due - at) / every) * every, rel=0, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.0, 0.999])
def test_period_below_a_second_is_refused(seconds: float) -> None:
    check_every(1.0)
    with pytest.raises(BadRequest, match=r"^expected a duration of at least 1 second, not 0"):
        check_every(seconds)
    with pytest.raises(ValueError, match="schedule 1 is invalid: expected a duration of at least 1 second"):
        made(scheduled(every=seconds))


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
    schedules = made(scheduled(cron=cron))
    due = next_of(schedules)
    assert text(due) == first
    schedules.job_submitted(1, due or 0, 7)
    assert text(next_of(schedules)) == second


def test_missed_runs_of_cron_are_due_once() -> None:
    schedules = made(scheduled(cron="0 * * * *"))
    assert text(next_of(schedules)) == "2023-11-14 23:00:00"
    schedules.job_submitted(1, T + 100 * HOUR, 7)
    assert text(next_of(schedules)) == "2023-11-19 03:00:00"


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
    with pytest.raises(ValueError, match="schedule 1 is invalid"):
        made(scheduled(cron=cron))


@given(st.text() | st.lists(st.text("0123456789*/-,#LWMONJAFEB", max_size=8), max_size=6).map(" ".join))
def test_any_text_is_a_cron_with_a_run_or_refused(cron: str) -> None:
    try:
        check_cron(cron)
    except BadRequest:
        return
    assert len(cron) <= MAX_CRON_LENGTH
    due = next_of(made(scheduled(cron=cron)))
    assert due is not None
    assert due > T


# Clocks that are put forward and back: those of Central Europe, as a TZ string that needs no zone files.

SPRING = datetime(2026, 3, 29, 1, 0, tzinfo=timezone.utc).timestamp()
"""At 02:00 clocks show 03:00."""
AUTUMN = datetime(2026, 10, 25, 1, 0, tzinfo=timezone.utc).timestamp()
"""At 03:00 clocks show 02:00."""


@pytest.fixture(name="central_europe")
def in_central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone of the process to Central Europe."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def hours(start: float, cron: str, count: int, tz: str | None = None) -> list[float]:
    """Return the next runs of a cron created at ``start``, in hours after it."""
    schedules = Schedules()
    schedules.apply(replace(scheduled(cron=cron, at=start), spec=Spec(tz=tz)))
    runs: list[float] = []
    for job_id in range(count):
        due = schedules.next_run(schedules.by_id[1])
        assert due is not None
        runs.append((due - start) / HOUR)
        schedules.job_submitted(1, due, job_id + 1)
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


def test_range_of_weekdays_may_end_with_sunday() -> None:
    schedules = made(scheduled(1, cron="0 0 * * FRI-SUN"), scheduled(2, cron="0 0 * * 5-7"))
    schedules.apply(scheduled(3, cron="0 0 * * mon,fri-sun"))
    assert next_of(schedules, 1) == next_of(schedules, 2) == next_of(schedules, 3)
    assert schedules.by_id[1].cron == "0 0 * * FRI-SUN"


def test_schedule_with_an_unknown_time_zone_has_no_next_run() -> None:
    schedules = made(replace(scheduled(cron="0 0 * * *"), spec=Spec(tz="Mars/Olympus")))
    assert next_of(schedules) is None
    assert schedules.next_due() is None


@pytest.mark.usefixtures("central_europe")
@given(st.integers(int(SPRING - 50 * HOUR), int(AUTUMN + 50 * HOUR)))
def test_local_time_is_that_of_the_c_library(seconds: int) -> None:
    for moment in (seconds, int(SPRING) + seconds % 7200 - 3600, int(AUTUMN) + seconds % 14400 - 7200):
        local = datetime.fromtimestamp(moment, LOCAL)
        assert local.timestamp() == moment
        assert local.timetuple()[:6] == time.localtime(moment)[:6]


def test_local_zone_has_no_name() -> None:
    now = datetime.fromtimestamp(T, LOCAL)
    assert (now.tzname(), now.dst()) == (None, None)


# Pauses and skipped runs.


def test_paused_schedule_has_no_next_run() -> None:
    schedules = made(scheduled(every=60), paused())
    assert schedules.get(1).is_paused
    assert next_of(schedules) is None
    assert schedules.next_due() is None


def test_runs_missed_in_a_pause_are_not_made_up_for() -> None:
    schedules = made(scheduled(every=60), paused(at=T + 10), resumed(at=T + 1000))
    assert next_of(schedules) == T + 1020


def test_pause_without_missed_runs_changes_nothing() -> None:
    schedules = made(scheduled(every=60), paused(at=T + 10), paused(at=T + 11), resumed(at=T + 20))
    schedules.apply(resumed(at=T + 21))
    assert next_of(schedules) == T + 60


def test_skipped_run_is_not_made_up_for() -> None:
    schedules = made(scheduled(every=60))
    schedules.set_next_run_base(1, T + 60)
    assert next_of(schedules) == T + 120
    schedules.job_submitted(1, T + 120, 7)
    assert next_of(schedules) == T + 180


def test_failed_run_is_due_again() -> None:
    schedules = made(scheduled(every=60))
    schedules.set_next_run_base(1, T + 60)
    schedules.set_next_run_base(1, None)
    assert next_of(schedules) == T + 60


def test_earlier_run_does_not_restore_a_later_skipped_one() -> None:
    schedules = made(scheduled(every=60))
    schedules.set_next_run_base(1, T + 120)
    schedules.job_submitted(1, T + 60, 7)
    assert next_of(schedules) == T + 180


def test_resume_resets_skipped_runs() -> None:
    schedules = made(scheduled(every=60))
    schedules.set_next_run_base(1, T + 5000)
    schedules.apply(resumed(at=T + 60))
    assert next_of(schedules) == T + 120


@pytest.mark.parametrize("dropped", [1, 2, 3])
def test_only_the_latest_pause_or_resume_counts(dropped: int) -> None:
    """A snapshot keeps only the latest one."""
    words: list[Known] = [
        scheduled(every=60),
        paused(at=T + 70),
        resumed(at=T + 90),
        paused(at=T + 200),
        resumed(at=T + 400),
    ]
    whole, compacted = made(*words), made(words[0], *words[1 + dropped :])
    assert whole == compacted
    assert next_of(whole) == T + 420
    assert made(*words[:4]) == made(words[0], words[3])


# Applying events.


def test_next_due_returns_schedules_in_the_order_of_their_next_runs() -> None:
    schedules = made(scheduled(1, every=60), scheduled(2, every=20), scheduled(3, cron="* * * * *"))
    found: list[tuple[float, int]] = []
    for job_id in range(1, 6):
        upcoming = schedules.next_due()
        assert upcoming is not None
        at, schedule = upcoming
        found.append((at - T, schedule.id))
        schedules.job_submitted(schedule.id, at, job_id)
    assert found == [(20, 2), (40, 2), (40, 3), (60, 1), (60, 2)]


def test_schedule_records_its_last_run() -> None:
    schedules = made(scheduled(every=60, overlap=True))
    assert schedules.get(1) == Schedule(
        id=1,
        owner="ada",
        command="work",
        created_at=T,
        next_run_base=T,
        every=60,
        overlap=True,
    )
    schedules.job_submitted(1, T + 60, 7)
    schedules.job_submitted(1, T + 120, 9)
    assert (schedules.get(1).last_run_at, schedules.get(1).last_job) == (T + 120, 9)
    assert [schedules.is_latest_run(job_id) for job_id in (7, 8, 9)] == [False, False, True]


def test_ended_schedule_is_gone_and_its_number_is_not_reused() -> None:
    schedules = made(scheduled(1, every=60), scheduled(2, every=60))
    schedules.job_submitted(2, T + 60, 7)
    schedules.apply(unscheduled(2))
    assert list(schedules.by_id) == [1]
    assert schedules.last_id == 2
    assert not schedules.is_latest_run(7)
    with pytest.raises(NoSuchJob, match=r"^there is no schedule 2; SCHEDULES lists"):
        schedules.get(2)


def test_run_of_an_ended_schedule_is_ignored() -> None:
    schedules = made(scheduled(every=60), unscheduled())
    schedules.job_submitted(1, T + 60, 7)
    schedules.set_next_run_base(1, T + 60)
    schedules.set_next_run_base(1, None)
    assert schedules == made(scheduled(every=60), unscheduled())
    assert not schedules.is_latest_run(7)
    assert schedules.next_due() is None


@pytest.mark.parametrize(
    "event, part",
    [
        (scheduled(1, every=60), "scheduled is not possible for schedule 1, which is there already"),
        (paused(2), "paused is not possible for schedule 2, which is unknown"),
        (resumed(2), "resumed is not possible for schedule 2"),
        (unscheduled(2), "unscheduled is not possible for schedule 2"),
        (Paused(at=T, by="ada", queue="default"), "paused is not possible for schedule None"),
        (scheduled(2), "schedule 2 is invalid: expected either a duration or a cron expression"),
        (scheduled(2, every=60, cron="@daily"), "schedule 2 is invalid: expected either"),
    ],
)
def test_impossible_event_is_refused_and_changes_nothing(event: Known, part: str) -> None:
    schedules = made(scheduled(every=60))
    with pytest.raises(ValueError, match=part):
        schedules.apply(event)
    assert schedules == made(scheduled(every=60))


def test_schedules_are_equal_if_their_persistent_parts_are() -> None:
    one, other = made(scheduled(every=60)), made(scheduled(every=60))
    one.set_next_run_base(1, T + 60)
    assert one == other
    assert one.__eq__(1) is False
    one.job_submitted(1, T + 120, 7)
    assert one != other
    assert made(scheduled(1, every=60), unscheduled(1)) != made()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["scheduled", "unscheduled", "paused", "resumed", "ran", "left out"]),
            st.integers(1, 4),
            st.floats(0, 300),
        ),
        max_size=40,
    )
)
def test_next_due_is_the_first_of_all_next_runs(acts: list[tuple[str, int, float]]) -> None:
    schedules, now = made(), T
    events: dict[str, Callable[[int, float], Known]] = {
        "unscheduled": unscheduled,
        "paused": paused,
        "resumed": resumed,
    }
    for job_id, (act, number, seconds) in enumerate(acts, 1):
        now += seconds
        if act == "ran":
            schedules.job_submitted(number, now, job_id)
        elif act == "left out":
            schedules.set_next_run_base(number, now)
        elif act == "scheduled" and number not in schedules.by_id:
            schedules.apply(scheduled(number, every=60.0 * number, at=now))
        elif act in events and number in schedules.by_id:
            schedules.apply(events[act](number, now))
        runs = [(schedules.next_run(one), one.id) for one in schedules.by_id.values()]
        due = sorted((at, number) for at, number in runs if at is not None)
        upcoming = schedules.next_due()
        assert (upcoming and (upcoming[0], upcoming[1].id)) == (due[0] if due else None)


def test_cost_of_a_run_does_not_grow_with_the_schedules() -> None:
    schedules = made(*(scheduled(number, every=3600.0 + number) for number in range(1, 3001)))
    schedules.next_due()
    before = time.perf_counter()
    for job_id in range(1, 3001):
        upcoming = schedules.next_due()
        assert upcoming is not None
        schedules.job_submitted(upcoming[1].id, upcoming[0], job_id)
    assert time.perf_counter() - before < 2.0, "a scan per run would take ten times as long"


def test_next_run_of_a_cron_is_computed_fast() -> None:
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for cron in ("0 0 29 2 *", "0 0 * 2 MON#5", "* * 29 2 *", "59 23 31 12 7"):
        before = time.perf_counter()
        made(scheduled(cron=cron, at=(start + timedelta(days=1)).timestamp())).next_due()
        assert time.perf_counter() - before < 1.0


def clock_set(schedules: Schedules, at: float, ahead: float) -> None:
    schedules.set_time(at, ahead)


def test_setting_the_clock_moves_cron_but_not_every() -> None:
    schedules = made(scheduled(1, every=HOUR), scheduled(2, cron="0 * * * *"))
    clock_set(schedules, T + 24 * HOUR, 24 * HOUR)
    assert next_of(schedules, 1) == T + 25 * HOUR
    upcoming = schedules.next_due()
    assert upcoming is not None
    assert (upcoming[1].id, upcoming[0]) == (2, at("2023-11-14T23:00") - 24 * HOUR)
    schedules.apply(resumed(1, at=T + 24.5 * HOUR))
    assert next_of(schedules, 1) == T + 25 * HOUR
    schedules.set_next_run_base(2, T)
    assert next_of(schedules, 2) == at("2023-11-15T23:00")


def test_cron_restarts_if_the_clock_is_set_back_by_more_than_a_minute() -> None:
    schedules = made(scheduled(1, cron="0 * * * *"), scheduled(2, cron="0 * * * *", at=T - 48 * HOUR))
    schedules.set_next_run_base(1, T + 2 * HOUR)
    schedules.set_next_run_base(2, T - 47 * HOUR)
    clock_set(schedules, T - MAX_SET_BACK, -MAX_SET_BACK)
    assert schedules.by_id[1].next_run_base == T
    clock_set(schedules, T - 24 * HOUR, -24 * HOUR)
    assert schedules.by_id[1].next_run_base == T - 24 * HOUR
    assert next_of(schedules, 1) == at("2023-11-13T23:00")
    assert next_of(schedules, 2) == at("2023-11-13T00:00")


def test_cron_without_a_match_in_50_years_has_no_next_run() -> None:
    assert next_of_cron("0 0 */31 * MON#3", T, timezone.utc) is None
