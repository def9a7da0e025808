"""What a job waits for, in a sentence for a person."""

from typing import Any

import pytest

from taskqd.model.events import Event
from taskqd.model.job import Status
from taskqd.state.capacity import CapacityTotals
from taskqd.state.explain import why
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    ended,
    fold,
    held,
    line,
    paused,
    ran,
    resized,
    retried,
    started,
    submitted,
)

LIMITS = CapacityTotals(slots=4, queues={"build": 2}, resources={"gpu": 1, "disk": 5})
NOW = 1000.0
LATER = NOW + 90.0
THEN = "1970-01-01T00:18:10Z, in 1.5 min"


def _queue_state(*events: Event) -> QueueState:
    return fold(*events, limits=LIMITS)


def _why(queue_state: QueueState, job_id: int, now: float = NOW) -> str:
    return why(queue_state, queue_state.get(job_id), now)


RETRYING = (submitted(1), started(1), ended(1, Status.PENDING, retry_at=LATER))
TEN: tuple[Event, ...] = tuple(submitted(n) for n in range(1, 11))


@pytest.mark.parametrize(
    "events, job_id, text",
    [
        ((submitted(1), started(1)), 1, "it waits for nothing: it runs"),
        ((submitted(1), *ran(1)), 1, "it waits for nothing: it has ended, COMPLETED"),
        ((submitted(1), *ran(1, Status.FAILED)), 1, "it waits for nothing: it has ended, FAILED (exit)"),
        ((submitted(1), cancelled(1)), 1, "it waits for nothing: it has ended, CANCELLED (cancelled)"),
        ((submitted(1, hold=True),), 1, "it is held; RELEASE 1 lets it start"),
        ((submitted(1, at=LATER),), 1, f"it is delayed until {THEN}; RELEASE 1 lets it start before"),
        (RETRYING, 1, f"attempt 1 has ended (exit) and the next is due at {THEN}"),
        ((submitted(1), paused()), 1, "everything is paused; RESUME ends that"),
        ((submitted(1), paused(), paused("default")), 1, "everything is paused; RESUME ends that"),
        ((submitted(1), paused("default")), 1, "queue default is paused; RESUME default ends that"),
        ((submitted(1),), 1, "there is room for it; it is the next of queue default"),
        (TEN, 3, "there is room for it; 2 before it in queue default"),
        (
            (submitted(1, slots=3), resized("default", 2)),
            1,
            "it can never start: it wants 3 slots of queue default, and there are 2 in all",
        ),
        (
            (submitted(1, needs={"tape": 1}),),
            1,
            "it can never start: it wants 1 tape, and there are 0 in all",
        ),
        (
            (submitted(1), submitted(2, after=(1,))),
            2,
            "it comes after job 1 (PENDING, --after)",
        ),
        (
            (*TEN, started(1), *ran(2), cancelled(3), submitted(11, after=(1, 2), after_fail=(3,))),
            11,
            "it comes after job 1 (RUNNING, --after), 3 (CANCELLED, --after-fail)",
        ),
        (
            (*TEN, submitted(11, after_any=tuple(range(1, 9)))),
            11,
            (
                "it comes after job 1 (PENDING, --after-any), 2 (PENDING, --after-any), "
                "3 (PENDING, --after-any), 4 (PENDING, --after-any), 5 (PENDING, --after-any) and 3 more"
            ),
        ),
    ],
)
def test_what_a_job_waits_for_is_told(events: tuple[Event, ...], job_id: int, text: str) -> None:
    assert _why(_queue_state(*events), job_id) == text


@pytest.mark.parametrize(
    "first, then, text",
    [
        ({"slots": 4}, {}, "it wants 1 slot; none of 4 is free, the rest is taken by job 1"),
        ({"slots": 3}, {"slots": 2}, "it wants 2 slots; 1 of 4 is free, the rest is taken by job 1"),
        ({"slots": 2}, {"slots": 3}, "it wants 3 slots; 2 of 4 are free, the rest is taken by job 1"),
        (
            {"queue": "build", "slots": 2},
            {"queue": "build"},
            "it wants 1 slot of queue build; none of 2 is free, the rest is taken by job 1",
        ),
        (
            {"needs": {"disk": 3}},
            {"needs": {"disk": 4}},
            "it wants 4 disk; 2 of 5 are free, the rest is taken by job 1",
        ),
    ],
)
def test_what_is_lacking_is_told_with_who_has_it(
    first: dict[str, Any], then: dict[str, Any], text: str
) -> None:
    queue_state = _queue_state(submitted(1, **first), submitted(2, **then))
    assert line(queue_state) == [1]
    assert _why(queue_state, 2) == f"{text}; it is the next of queue {then.get('queue', 'default')}"
    assert _why(queue_state, 1) == "its start is being recorded"


def test_what_runs_on_where_a_limit_was_lowered_leaves_none() -> None:
    queue_state = _queue_state(*(submitted(n, queue="build") for n in (1, 2, 3)))
    assert line(queue_state) == [1, 2]
    queue_state.apply(resized("build", 1))
    assert _why(queue_state, 3).startswith(
        "it wants 1 slot of queue build; none of 1 is free, the rest is taken by"
    )


def test_many_that_have_what_is_lacking_are_counted() -> None:
    queue_state = fold(*TEN, limits=CapacityTotals(slots=8))
    assert len(line(queue_state)) == 8
    assert "taken by job 1, 2, 3, 4, 5 and 3 more; it is the next of queue default" in _why(queue_state, 9)


def test_one_from_which_room_is_kept_is_told_for_whom() -> None:
    queue_state = _queue_state(
        *(submitted(n) for n in (1, 2, 3)), submitted(4, slots=4), *map(submitted, (5, 6, 7))
    )
    assert line(queue_state, NOW) == [1, 2, 3, 5]
    for job_id in (1, 2):
        apply_all(queue_state, ran(job_id))
        queue_state.release(job_id)
    assert "there is room for it; 1 before it" in _why(queue_state, 6, NOW + 59)
    assert _why(queue_state, 6, NOW + 60) == (
        "room is kept for job 4, which wants more and was passed by others; 1 before it in queue default"
    )
    assert line(queue_state, NOW + 60) == []
    assert "it wants 4 slots; 2 of 4 are free" in _why(queue_state, 4, NOW + 60)


# Arrays.


@pytest.mark.parametrize(
    "events, job_id, text",
    [
        ((array(1, 2, hold=True),), 1, "it is held; RELEASE 1 lets it start"),
        ((array(1, 2, hold=True),), 2, "it is held; RELEASE 2 lets it start"),
        (
            (array(1, 2),),
            1,
            (
                "none of its tasks runs; of the first that waits, 2: "
                "there is room for it; it is the next of queue default"
            ),
        ),
        (
            (array(1, 2), held(2)),
            1,
            "none of its tasks runs; of the first that waits, 2: it is held; RELEASE 2 lets it start",
        ),
        (
            (array(1, 2), cancelled(2), paused()),
            1,
            "none of its tasks runs; of the first that waits, 3: everything is paused; RESUME ends that",
        ),
        ((array(1, 2, at=LATER),), 1, f"it is delayed until {THEN}; RELEASE 1 lets it start before"),
        ((submitted(9), array(1, 2, after=(9,))), 1, "it comes after job 9 (PENDING, --after)"),
        ((submitted(9), array(1, 2, after=(9,))), 3, "it comes after job 9 (PENDING, --after)"),
        ((array(1, 2), started(2)), 1, "it waits for nothing: it runs"),
    ],
)
def test_what_an_array_and_its_tasks_wait_for_is_told(
    events: tuple[Event, ...], job_id: int, text: str
) -> None:
    assert _why(_queue_state(*events), job_id) == text


def test_a_task_that_its_array_s_own_limit_keeps_is_told() -> None:
    queue_state = _queue_state(array(1, 3, at_once=1))
    assert line(queue_state) == [2]
    assert _why(queue_state, 3) == (
        "it wants one of the places at once of array 1; none of 1 is free, the rest is taken by job 2; "
        "it is the next of queue default"
    )


# When it may start.


def _after_runs(*seconds: float) -> QueueState:
    """Return the backlog of a queue whose runs took so long, with 7 to 10 waiting and four running."""
    runs = [
        event
        for job_id, length in enumerate(seconds, 100)
        for event in (submitted(job_id), started(job_id, at=0.0), ended(job_id, at=length))
    ]
    queue_state = _queue_state(*TEN, *runs)
    assert line(queue_state) == [1, 2, 3, 4]
    apply_all(queue_state, map(started, (1, 2, 3, 4)))
    return queue_state


def test_no_start_is_estimated_from_fewer_than_three_runs() -> None:
    assert "may start" not in _why(_after_runs(5.0, 7.0), 7)


@pytest.mark.parametrize(
    "job_id, seconds, text",
    [
        (5, (4.0, 4.0, 4.0), "in about 1 s: the last 3 runs there took 4 s on average, and 4 go on at once"),
        (7, (4.0, 5.0, 7.0), "in about 4 s: the last 3 runs there took 5.3 s on average, and 4"),
        (6, (60.0,) * 4, "in about 30 s: the last 4 runs there took 1 min on average, and 4"),
        (8, (3600.0,) * 60, "in about 1 h: the last 50 runs there took 1 h on average, and 4"),
        (10, (86_400.0,) * 50, "in about 1.5 d: the last 50 runs there took 1 d on average, and 4"),
        (9, (59.96,) * 3, "in about 1.2 min: the last 3 runs there took 1 min on average, and 4"),
    ],
)
def test_a_start_is_estimated_from_the_latest_runs_of_the_queue(
    job_id: int, seconds: tuple[float, ...], text: str
) -> None:
    assert f"; it may start {text}" in _why(_after_runs(*seconds), job_id)


def test_it_is_estimated_as_for_one_at_once_where_none_runs_now() -> None:
    queue_state = _queue_state(*TEN, *(event for job_id in (1, 2, 3) for event in ran(job_id)))
    assert _why(queue_state, 5) == (
        "there is room for it; 1 before it in queue default; it may start in about 3.3 min: "
        "the last 3 runs there took 1.7 min on average, and 1 go on at once"
    )


def test_no_start_is_estimated_for_one_that_waits_for_anything_but_room() -> None:
    queue_state = _after_runs(4.0, 4.0, 4.0)
    queue_state.apply(held(7))
    assert "may start" not in _why(queue_state, 7)


def test_the_order_counts_and_not_the_id() -> None:
    queue_state = _queue_state(*TEN[:5], submitted(6, priority=1))
    apply_all(queue_state, (cancelled(1), retried(1)))
    assert _why(queue_state, 6) == "there is room for it; it is the next of queue default"
    assert _why(queue_state, 1) == "there is room for it; 1 before it in queue default"


def test_a_shortage_of_the_machine_s_is_told_of_what_has_room_and_of_nothing_else() -> None:
    queue_state = _queue_state(
        *TEN, *(submitted(number, slots=9) for number in (11,)), submitted(12, hold=True)
    )
    text = why(queue_state, queue_state.get(1), NOW, "the machine lacks processes")
    assert text.startswith(
        "there is room for it, but no job starts for now: the machine lacks processes; it is"
    )
    for job_id in (11, 12):
        assert "lacks processes" not in why(
            queue_state, queue_state.get(job_id), NOW, "the machine lacks processes"
        )
