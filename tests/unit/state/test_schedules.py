"""Schedules: when they are due, pauses, skipped runs, and clocks that are set."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.errors import NoSuchJob
from taskqd.model.events import Paused, Rescheduled, Resumed, Scheduled, Unscheduled
from taskqd.model.schedule import (
    MAX_SET_BACK,
    Schedule,
)
from taskqd.model.spec import Spec
from taskqd.state.schedules import Schedules

T = 1_700_000_000.0
"""A Tuesday: 2023-11-14 22:13:20 UTC."""
HOUR = 3600.0

Known = Scheduled | Rescheduled | Unscheduled | Paused | Resumed


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


# Changes.


def rescheduled(at: float, every: float | None = None, cron: str | None = None) -> Rescheduled:
    return Rescheduled(at=at, by="eve", schedule=1, command="other", every=every, cron=cron)


def test_files_of_schedules_are_those_of_their_latest_versions() -> None:
    first = replace(scheduled(1, every=60), spec=Spec(script=1, stdin=2, secrets=("A",)), version=1)
    second = replace(scheduled(2, every=60), spec=Spec(stdin=2), version=1)
    schedules = made(first, second, scheduled(3, every=60))
    assert schedules.file_names() == {"1.1.script", "1.1.stdin", "1.1.secret", "2.1.stdin"}
    schedules.apply(replace(rescheduled(T, every=90), spec=Spec(secrets=("A",)), version=2))
    assert schedules.file_names() == {"1.2.secret", "2.1.stdin"}


def test_changed_period_counts_from_the_creation() -> None:
    schedules = made(scheduled(every=60), rescheduled(T + 100, every=90))
    assert next_of(schedules) == T + 180
    assert (schedules.get(1).command, schedules.get(1).owner, schedules.get(1).created_at) == (
        "other",
        "ada",
        T,
    )


def test_schedule_changed_between_cron_and_every_is_due_by_the_new_one_only() -> None:
    schedules = made(scheduled(every=60), rescheduled(T + 100, cron="0 * * * *"))
    assert text(next_of(schedules)) == "2023-11-14 23:00:00"
    schedules.apply(rescheduled(T + 200, every=60))
    assert next_of(schedules) == T + 240


def test_change_keeps_the_pause_and_the_last_run_and_makes_up_for_nothing() -> None:
    schedules = made(scheduled(every=60))
    schedules.job_submitted(1, T + 60, 7)
    schedules.set_next_run_base(1, T + 30)
    schedules.apply(rescheduled(T + 1000, every=60))
    assert (next_of(schedules), schedules.get(1).last_job) == (T + 1020, 7)
    schedules.apply(paused(at=T + 1001))
    schedules.apply(rescheduled(T + 1002, every=60))
    assert (schedules.get(1).is_paused, next_of(schedules)) == (True, None)


@pytest.mark.parametrize("wrong", [{}, {"every": 60.0, "cron": "@daily"}, {"every": 0.5}, {"cron": "x"}])
def test_change_that_no_schedule_can_have_is_refused(wrong: dict[str, Any]) -> None:
    schedules = made(scheduled(every=60))
    with pytest.raises(ValueError, match="schedule 1 is invalid"):
        schedules.apply(rescheduled(T + 1, **wrong))
    with pytest.raises(ValueError, match="not possible for schedule 1, which is unknown"):
        made(rescheduled(T, every=60))
    assert schedules == made(scheduled(every=60))


# Cron.


def test_missed_runs_of_cron_are_due_once() -> None:
    schedules = made(scheduled(cron="0 * * * *"))
    assert text(next_of(schedules)) == "2023-11-14 23:00:00"
    schedules.job_submitted(1, T + 100 * HOUR, 7)
    assert text(next_of(schedules)) == "2023-11-19 03:00:00"


def at(text: str) -> float:
    """Return a time in UTC as seconds since the epoch."""
    return datetime.fromisoformat(text + ":00+00:00").timestamp()


def test_cron_keeps_the_text_of_its_event() -> None:
    assert made(scheduled(cron="0 0 * * FRI-SUN")).get(1).cron == "0 0 * * FRI-SUN"


@pytest.mark.parametrize("tz, due", [(None, "2023-11-15 01:15:00"), ("UTC", "2023-11-15 07:00:00")])
def test_cron_is_due_in_the_time_zone_of_its_spec_or_else_the_daemons(tz: str | None, due: str) -> None:
    schedules = Schedules(ZoneInfo("Asia/Kathmandu"))
    schedules.apply(replace(scheduled(cron="0 7 * * *"), spec=Spec(tz=tz)))
    assert text(next_of(schedules)) == due


def test_schedule_with_an_unknown_time_zone_has_no_next_run() -> None:
    schedules = made(replace(scheduled(cron="0 0 * * *"), spec=Spec(tz="Mars/Olympus")))
    assert next_of(schedules) is None
    assert schedules.next_due() is None


# Pauses and skipped runs.


def test_paused_schedule_has_no_next_run() -> None:
    schedules = made(scheduled(every=60), paused())
    assert schedules.get(1).is_paused
    assert next_of(schedules) is None
    assert schedules.next_due() is None


@pytest.mark.parametrize("every, cron", [(3600.0, None), (None, "0 * * * *")])
def test_next_runs_are_the_first_times_from_the_next_run_on(every: float | None, cron: str | None) -> None:
    schedules = made(scheduled(every=every, cron=cron))
    schedule = schedules.get(1)
    first = schedules.next_run(schedule)
    assert first is not None
    assert schedules.next_runs(schedule, 3) == [first, first + 3600.0, first + 7200.0]
    assert schedules.next_runs(schedule, 0) == []


def test_paused_schedule_has_no_next_runs() -> None:
    schedules = made(scheduled(every=60.0), paused())
    assert schedules.next_runs(schedules.get(1), 5) == []


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
        (scheduled(2, every=0.5), "schedule 2 is invalid: expected a duration of at least 1 second"),
        (scheduled(2, cron="0 0 30 2 *"), "schedule 2 is invalid: expected minute, hour"),
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
