"""QueueState: what has started counts for turns and rates, live and after a restart."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.events import Clocked, Ended, Event, Started
from taskqd.model.job import Status
from taskqd.model.rate import parse_rate
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    changed,
    configured,
    ended,
    fold,
    next_jobs,
    ran,
    removed,
    started,
    submitted,
)

FAIR = CapacityTotals(slots=1, fair={"default": True})
RATED = CapacityTotals(slots=9, rates={"default": parse_rate("2/m")})


def _of(owner: str, job_id: int, **options: Any) -> Event:
    return replace(submitted(job_id, **options), owner=owner)


def _restarted(events: list[Event], totals: CapacityTotals) -> QueueState:
    """Return the state of a daemon that has replayed events."""
    queue_state = QueueState(totals, is_open=False)
    apply_all(queue_state, events)
    queue_state.open()
    return queue_state


def _void(job_id: int, at: float) -> Ended:
    return replace(ended(job_id, Status.PENDING, at=at), is_void=True, is_free=True)


def test_turns_go_on_after_a_restart() -> None:
    jobs = [_of(owner, job_id) for job_id, owner in enumerate(["ann", "bob", "ann", "bob", "cat"], 1)]
    ends: list[Event] = [started(2, at=10.0), ended(2, at=11.0), started(1, at=12.0), ended(1, at=13.0)]
    queue_state = _restarted([*jobs, *ends], FAIR)
    for job_id in (5, 4, 3):
        assert next_jobs(queue_state) == [job_id]
        apply_all(queue_state, ran(job_id))
        queue_state.release(job_id)


def test_starts_count_against_the_rate_after_a_restart() -> None:
    events: list[Event] = [*map(submitted, range(1, 6)), *ran(1), started(2, at=130.0), started(3, at=139.0)]
    queue_state = _restarted(events, RATED)
    assert next_jobs(queue_state, 150.0) == []
    assert queue_state.next_due(150.0) == 190.0
    assert next_jobs(queue_state, 190.0) == [4]


def test_starts_of_removed_jobs_and_of_other_queues_do_not_count_after_a_restart() -> None:
    events: list[Event] = [*map(submitted, range(1, 6)), submitted(6, queue="other")]
    events += [*ran(1), removed(1), *ran(6), *ran(2)]
    assert next_jobs(_restarted(events, RATED), 120.0) == [3]


def test_every_attempt_is_a_start() -> None:
    events: list[Event] = [submitted(1, retries=9), submitted(2)]
    for attempt in (1, 2):
        events += [started(1, attempt, at=100.0), ended(1, Status.PENDING, retry_at=101.0, at=101.0)]
    for queue_state in (fold(*events, totals=RATED), _restarted(events, RATED)):
        assert next_jobs(queue_state, 159.0) == []
        assert next_jobs(queue_state, 160.0) == [1, 2]


def test_start_that_the_machine_refused_does_not_count() -> None:
    events: list[Event] = [*map(submitted, (1, 2, 3)), started(1), _void(1, 101.0)]
    for queue_state in (fold(*events, totals=RATED), _restarted(events, RATED)):
        assert next_jobs(queue_state, 110.0) == [1, 2]


def test_rate_follows_the_monotonic_clock_when_the_time_of_day_is_set() -> None:
    jump = Clocked(at=5000.0, boot_clock=100.0, ahead=4900.0)
    events: list[Event] = [*map(submitted, (1, 2, 3, 4)), jump, started(1, at=5001.0), started(2, at=5002.0)]
    for queue_state in (fold(*events, totals=RATED), _restarted(events, RATED)):
        assert next_jobs(queue_state, 160.0) == []
        assert next_jobs(queue_state, 161.0) == [3]


def test_queue_that_becomes_fair_keeps_its_jobs_and_their_turns_begin() -> None:
    events = [_of(owner, job_id) for job_id, owner in enumerate(["ann", "ann", "ann", "bob", "bob"], 1)]
    queue_state = fold(*events, configured("default", "fair", True), totals=CapacityTotals(slots=1))
    order: list[int] = []
    while (job := queue_state.next_job(1000.0)) is not None:
        order.append(job.id)
        apply_all(queue_state, ran(job.id))
        queue_state.release(job.id)
    assert order == [1, 4, 2, 5, 3]


def test_tasks_and_single_jobs_take_turns_and_are_rated_alike() -> None:
    totals = CapacityTotals(slots=9, fair={"default": True}, rates={"default": parse_rate("3/m")})
    queue_state = fold(array(1, 3), _of("bob", 5), totals=totals)
    assert next_jobs(queue_state) == [2, 5, 3]
    assert next_jobs(queue_state, 2000.0) == [], "their starts are being recorded"


def test_rate_that_is_set_and_removed_takes_effect_at_once() -> None:
    queue_state = fold(*map(submitted, range(1, 8)), totals=CapacityTotals(slots=9))
    queue_state.apply(configured("default", "rate", "1/m"))
    assert next_jobs(queue_state) == [1]
    queue_state.apply(configured("default", "rate", "2/m"))
    assert next_jobs(queue_state) == [2]
    queue_state.apply(configured("default", "rate", None))
    assert next_jobs(queue_state) == [3, 4, 5, 6, 7]


def test_job_that_moves_to_another_queue_takes_the_turns_there() -> None:
    jobs = [_of("ann", 1), _of("ann", 2), _of("bob", 3, queue="other")]
    queue_state = fold(*jobs, totals=CapacityTotals(slots=1, fair={"default": True, "other": True}))
    assert next_jobs(queue_state) == [1]
    queue_state.apply(changed(3))
    apply_all(queue_state, ran(1))
    queue_state.release(1)
    assert next_jobs(queue_state) == [3]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(["ann", "bob", "cat"]), st.sampled_from("ab")),
        st.tuples(st.just("run"), st.floats(0.0, 20.0), st.booleans()),
        st.tuples(st.just("set"), st.sampled_from("ab"), st.sampled_from([True, False, "1/m", "2/m", None])),
    ),
    max_size=50,
)


@given(STEPS)
@settings(deadline=None)
def test_replay_gives_the_same_state_and_the_same_next_jobs(steps: list[tuple[Any, ...]]) -> None:
    totals = CapacityTotals(slots=2, fair={"a": True}, rates={"a": parse_rate("3/m")}, slots_per_user=1)
    live = QueueState(totals)
    events: list[Event] = []
    now, running = 100.0, list[int]()

    def record(event: Event) -> None:
        events.append(event)
        live.apply(event)

    for kind, first, second in steps:
        if kind == "submit":
            record(_of(first, live.last_id + 1, queue=second))
        elif kind == "set":
            record(configured(first, "rate" if isinstance(second, str) else "fair", second))
        else:
            now += first
            for job_id in running if second else ():
                record(ended(job_id, at=now))
                live.release(job_id)
            running = [] if second else running
            while (job := live.next_job(now)) is not None:
                record(Started(id=job.id, at=now, attempt=1))
                running.append(job.id)
    again = _restarted(events, totals)
    assert again == live
    for job_id in running:
        again.allocate_running(again.jobs[job_id])
    if not any(kind == "set" for kind, *_ in steps):  # what has started before a change is not counted live
        assert next_jobs(again, now) == next_jobs(live, now)
        assert next_jobs(again, now + 60.0) == next_jobs(live, now + 60.0)


@pytest.mark.parametrize("is_fair", [True, False])
def test_queue_that_is_set_to_what_it_is_keeps_its_order(is_fair: bool) -> None:
    totals = CapacityTotals(slots=9, fair={"default": is_fair})
    queue_state = fold(_of("ann", 1), _of("ann", 2), _of("bob", 3), totals=totals)
    queue_state.apply(configured("default", "fair", is_fair))
    assert next_jobs(queue_state) == ([1, 3, 2] if is_fair else [1, 2, 3])
