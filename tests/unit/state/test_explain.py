"""explain says in one sentence what a job waits for, and when it may start."""

from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.model.events import Event
from taskqd.model.job import Status
from taskqd.model.rate import parse_rate
from taskqd.state.capacity import CapacityTotals
from taskqd.state.explain import explain
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    ended,
    fold,
    held,
    next_jobs,
    paused,
    ran,
    rescaled,
    resized,
    retried,
    started,
    submitted,
)

LIMITS = CapacityTotals(slots=4, queues={"build": 2}, resources={"gpu": 1, "disk": 5})
NOW = 1000.0
LATER = NOW + 90.0
THEN = "1970-01-01T00:18:10Z (in 1 min 30 s)"


def _queue_state(*events: Event) -> QueueState:
    return fold(*events, totals=LIMITS)


def _explain(queue_state: QueueState, job_id: int, now: float = NOW) -> str:
    return explain(queue_state, queue_state.get(job_id), now)


RETRYING = (submitted(1), started(1), ended(1, Status.PENDING, retry_at=LATER))
TEN: tuple[Event, ...] = tuple(submitted(n) for n in range(1, 11))


@pytest.mark.parametrize(
    "events, job_id, text",
    [
        ((submitted(1), started(1)), 1, "not waiting: it is running"),
        ((submitted(1), *ran(1)), 1, "not waiting: it has ended, COMPLETED"),
        ((submitted(1), *ran(1, Status.FAILED)), 1, "not waiting: it has ended, FAILED (exit)"),
        ((submitted(1), cancelled(1)), 1, "not waiting: it has ended, CANCELLED (cancelled)"),
        ((submitted(1, hold=True),), 1, "held; RELEASE 1 lets it start"),
        ((submitted(1, at=LATER),), 1, f"delayed until {THEN}; RELEASE 1 lets it start now"),
        (RETRYING, 1, f"attempt 1 has ended (exit); the next one is due at {THEN}"),
        ((submitted(1), paused()), 1, "everything is paused; RESUME ends the pause"),
        ((submitted(1), paused(), paused("default")), 1, "everything is paused; RESUME ends the pause"),
        ((submitted(1), paused("default")), 1, "queue default is paused; RESUME default ends the pause"),
        ((submitted(1),), 1, "capacity is available; first in queue default"),
        (TEN, 3, "capacity is available; 2 jobs ahead in queue default"),
        (
            (submitted(1, slots=3), resized("default", 2)),
            1,
            "can never start: needs 3 slots of queue default, the total is 2",
        ),
        (
            (submitted(1, needs={"tape": 1}),),
            1,
            "can never start: needs 1 tape, the total is 0",
        ),
        (
            (submitted(1), submitted(2, after=(1,))),
            2,
            "waits for job 1 (PENDING, --after)",
        ),
        (
            (*TEN, started(1), *ran(2), cancelled(3), submitted(11, after=(1, 2), after_fail=(3,))),
            11,
            "waits for jobs 1 (RUNNING, --after) and 3 (CANCELLED, --after-fail)",
        ),
        (
            (*TEN, submitted(11, after_any=tuple(range(1, 9)))),
            11,
            (
                "waits for jobs 1 (PENDING, --after-any), 2 (PENDING, --after-any), "
                "3 (PENDING, --after-any), 4 (PENDING, --after-any), 5 (PENDING, --after-any) and 3 more"
            ),
        ),
    ],
)
def test_explain_names_what_the_job_waits_for(events: tuple[Event, ...], job_id: int, text: str) -> None:
    assert _explain(_queue_state(*events), job_id) == text


@pytest.mark.parametrize(
    "first, then, text",
    [
        ({"slots": 4}, {}, "needs 1 slot, none of 4 is available; job 1 holds all"),
        ({"slots": 3}, {"slots": 2}, "needs 2 slots, 1 of 4 is available; job 1 holds the others"),
        ({"slots": 2}, {"slots": 3}, "needs 3 slots, 2 of 4 are available; job 1 holds the others"),
        (
            {"queue": "build", "slots": 2},
            {"queue": "build"},
            "needs 1 slot of queue build, none of 2 is available; job 1 holds all",
        ),
        (
            {"needs": {"disk": 3}},
            {"needs": {"disk": 4}},
            "needs 4 disk, 2 of 5 are available; job 1 holds the others",
        ),
    ],
)
def test_explain_names_missing_capacity_and_the_jobs_that_hold_it(
    first: dict[str, Any], then: dict[str, Any], text: str
) -> None:
    queue_state = _queue_state(submitted(1, **first), submitted(2, **then))
    assert next_jobs(queue_state) == [1]
    assert _explain(queue_state, 2) == f"{text}; first in queue {then.get('queue', 'default')}"
    assert _explain(queue_state, 1) == "its start is being recorded"


def test_explain_names_the_units_of_the_jobs_that_hold_a_resource() -> None:
    totals = CapacityTotals(slots=9, resources={"gpu": 3}, units={"gpu": ("a", "b", "c")})
    queue_state = fold(*(submitted(n, needs={"gpu": n}) for n in (1, 2, 3)), totals=totals)
    for job_id in next_jobs(queue_state):
        queue_state.capacity.units.assign(job_id, {"gpu": job_id})
    assert _explain(queue_state, 3).startswith(
        "needs 3 gpu, none of 3 is available; jobs 1 (a) and 2 (b, c) hold all"
    )


def test_explain_counts_none_available_if_a_lowered_limit_is_exceeded() -> None:
    queue_state = _queue_state(*(submitted(n, queue="build") for n in (1, 2, 3)))
    assert next_jobs(queue_state) == [1, 2]
    queue_state.apply(resized("build", 1))
    assert _explain(queue_state, 3).startswith(
        "needs 1 slot of queue build, none of 1 is available; jobs 1 and 2 hold 2 until they end, since the "
        "limit was lowered"
    )


def test_explain_names_the_command_that_gives_the_daemon_enough_slots() -> None:
    queue_state = fold(submitted(1, slots=3), rescaled(2), totals=CapacityTotals(slots=4, max_slots=8))
    assert _explain(queue_state, 1) == "needs 3 slots, the daemon has 2; SET-SLOTS 3 lets it start"
    beyond = fold(submitted(1, slots=9), totals=CapacityTotals(slots=4, max_slots=8))
    assert _explain(beyond, 1) == "can never start: needs 9 slots, the total is 4"


def test_explain_names_five_holders_and_counts_the_others() -> None:
    queue_state = fold(*TEN, totals=CapacityTotals(slots=8))
    assert len(next_jobs(queue_state)) == 8
    assert "jobs 1, 2, 3, 4, 5 and 3 more hold all; first in queue default" in _explain(queue_state, 9)


def test_explain_names_the_job_that_capacity_is_reserved_for() -> None:
    queue_state = _queue_state(
        *(submitted(n) for n in (1, 2, 3)), submitted(4, slots=4), *map(submitted, (5, 6, 7))
    )
    assert next_jobs(queue_state, NOW) == [1, 2, 3, 5]
    for job_id in (1, 2):
        apply_all(queue_state, ran(job_id))
        queue_state.release(job_id)
    assert "capacity is available; 1 job ahead" in _explain(queue_state, 6, NOW + 59)
    assert _explain(queue_state, 6, NOW + 60) == (
        "capacity is reserved for job 4, which needs more and has been overtaken; "
        "1 job ahead in queue default"
    )
    assert next_jobs(queue_state, NOW + 60) == []
    assert "needs 4 slots, 2 of 4 are available; jobs 3 and 5 hold the others" in _explain(
        queue_state, 4, NOW + 60
    )


# Arrays.


@pytest.mark.parametrize(
    "events, job_id, text",
    [
        ((array(1, 2, hold=True),), 1, "held; RELEASE 1 lets it start"),
        ((array(1, 2, hold=True),), 2, "held; RELEASE 2 lets it start"),
        (
            (array(1, 2),),
            1,
            ("no task is running; job 2, the first: capacity is available; first in queue default"),
        ),
        (
            (array(1, 2), held(2)),
            1,
            "no task is running; job 2, the first: held; RELEASE 2 lets it start",
        ),
        (
            (array(1, 2), cancelled(2), paused()),
            1,
            "no task is running; job 3, the first: everything is paused; RESUME ends the pause",
        ),
        ((array(1, 2, at=LATER),), 1, f"delayed until {THEN}; RELEASE 1 lets it start now"),
        ((submitted(9), array(1, 2, after=(9,))), 1, "waits for job 9 (PENDING, --after)"),
        ((submitted(9), array(1, 2, after=(9,))), 3, "waits for job 9 (PENDING, --after)"),
        ((array(1, 2), started(2)), 1, "not waiting: it is running"),
    ],
)
def test_explain_describes_arrays_by_their_first_pending_task(
    events: tuple[Event, ...], job_id: int, text: str
) -> None:
    assert _explain(_queue_state(*events), job_id) == text


def test_explain_names_the_limit_of_running_tasks_of_an_array() -> None:
    queue_state = _queue_state(array(1, 3, at_once=1))
    assert next_jobs(queue_state) == [2]
    assert _explain(queue_state, 3) == (
        "needs a place in the limit of array 1, none of 1 is available; job 2 holds all; "
        "first in queue default"
    )


# Turns, the slots of a user, and start rates.


def _shared(*events: Event, **totals: Any) -> QueueState:
    return fold(*events, totals=CapacityTotals(slots=9, **totals))


def test_explain_counts_the_jobs_ahead_by_turns_in_a_fair_queue() -> None:
    queue_state = _shared(*TEN, replace(submitted(11), owner="bob"), fair={"default": True})
    assert _explain(queue_state, 11) == (
        "capacity is available; 1 job ahead in queue default, whose users take turns"
    )


def test_explain_names_the_jobs_of_a_user_at_the_limit() -> None:
    queue_state = _shared(*TEN[:3], submitted(4, slots=2), slots_per_user=2)
    assert next_jobs(queue_state) == [1, 2]
    limit = "user ann runs jobs on 2 of 2 slots, the limit for one user: jobs 1 and 2"
    assert _explain(queue_state, 3) == f"{limit}; first in queue default"
    assert _explain(queue_state, 4) == f"{limit}; this job needs 2; 1 job ahead in queue default"


def test_explain_says_that_a_job_needs_more_slots_than_a_user_has() -> None:
    queue_state = _shared(submitted(1, slots=3), slots_per_user=2)
    assert _explain(queue_state, 1) == "can never start: needs 3 slots for one user, the total is 2"


def test_explain_says_when_a_queue_with_a_rate_may_start_the_next_job() -> None:
    queue_state = _shared(*TEN, rates={"default": parse_rate("2/m")})
    assert next_jobs(queue_state, NOW) == [1, 2]
    apply_all(queue_state, (started(1, at=NOW), started(2, at=NOW + 5.0)))
    opens = "queue default starts up to 2 per minute; the next may start at 1970-01-01T00:17:40Z (in 50 s)"
    assert _explain(queue_state, 3, NOW + 10.0) == f"{opens}; first in queue default"
    assert _explain(queue_state, 8, NOW + 10.0) == (
        f"{opens}; 5 jobs ahead in queue default; at 2 per minute it may start in about 2 min 50 s"
    )
    assert _explain(queue_state, 4, NOW + 60.0) == "capacity is available; 1 job ahead in queue default"


# When it may start.


def _after_attempts(*seconds: float, since: float = NOW) -> QueueState:
    """Return a state with these durations of earlier attempts, jobs 1 to 4 running and the others pending."""
    runs = [
        event
        for job_id, length in enumerate(seconds, 100)
        for event in (submitted(job_id), started(job_id, at=0.0), ended(job_id, at=length))
    ]
    queue_state = _queue_state(*TEN, *runs)
    assert next_jobs(queue_state) == [1, 2, 3, 4]
    apply_all(queue_state, (started(job_id, at=since) for job_id in (1, 2, 3, 4)))
    return queue_state


def test_explain_makes_no_estimate_that_all_running_jobs_contradict() -> None:
    assert "may start" not in _explain(_after_attempts(4.0, 4.0, 4.0, since=NOW - 10.0), 5)
    assert "may start" in _explain(_after_attempts(4.0, 4.0, 4.0, since=NOW - 3.0), 5)


def test_explain_makes_no_estimate_from_fewer_than_three_attempts() -> None:
    assert "may start" not in _explain(_after_attempts(5.0, 7.0), 7)


@pytest.mark.parametrize(
    "job_id, seconds, text",
    [
        (
            5,
            (4.0, 4.0, 4.0),
            "in about 1 s: the last 3 attempts in this queue took 4 s on average, 4 at a time",
        ),
        (7, (4.0, 5.0, 7.0), "in about 4 s: the last 3 attempts in this queue took 5.3 s on average, 4"),
        (6, (60.0,) * 4, "in about 30 s: the last 4 attempts in this queue took 1 min on average, 4"),
        (8, (3600.0,) * 60, "in about 1 h: the last 50 attempts in this queue took 1 h on average, 4"),
        (
            10,
            (86_400.0,) * 50,
            "in about 1 d 12 h: the last 50 attempts in this queue took 1 d on average, 4",
        ),
        (9, (59.96,) * 3, "in about 1 min 15 s: the last 3 attempts in this queue took 1 min on average, 4"),
    ],
)
def test_explain_estimates_the_start_from_the_latest_attempts_in_the_queue(
    job_id: int, seconds: tuple[float, ...], text: str
) -> None:
    assert f"; may start {text}" in _explain(_after_attempts(*seconds), job_id)


def test_explain_assumes_one_job_at_a_time_if_none_is_running() -> None:
    queue_state = _queue_state(*TEN, *(event for job_id in (1, 2, 3) for event in ran(job_id)))
    assert _explain(queue_state, 5) == (
        "capacity is available; 1 job ahead in queue default; may start in about 3 min 20 s: "
        "the last 3 attempts in this queue took 1 min 40 s on average, 1 at a time"
    )


def test_explain_makes_no_estimate_for_a_job_that_waits_for_more_than_capacity() -> None:
    queue_state = _after_attempts(4.0, 4.0, 4.0)
    queue_state.apply(held(7))
    assert "may start" not in _explain(queue_state, 7)


def test_explain_counts_the_jobs_ahead_by_rank_rather_than_id() -> None:
    queue_state = _queue_state(*TEN[:5], submitted(6, priority=1))
    apply_all(queue_state, (cancelled(1), retried(1)))
    assert _explain(queue_state, 6) == "capacity is available; first in queue default"
    assert _explain(queue_state, 1) == "capacity is available; 1 job ahead in queue default"


def test_explain_names_a_shortage_of_the_machine_only_if_capacity_is_available() -> None:
    queue_state = _queue_state(
        *TEN, *(submitted(number, slots=9) for number in (11,)), submitted(12, hold=True)
    )
    text = explain(queue_state, queue_state.get(1), NOW, "the machine lacks processes")
    assert text.startswith(
        "capacity is available, but no job can start at present: the machine lacks processes; first in"
    )
    for job_id in (11, 12):
        assert "lacks processes" not in explain(
            queue_state, queue_state.get(job_id), NOW, "the machine lacks processes"
        )
