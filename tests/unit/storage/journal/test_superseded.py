"""Superseded holds, releases and changes are omitted, and a fold of the others gives the same jobs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.model.events import Event, JobEvent
from taskqd.model.job import Status
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from taskqd.storage.journal.superseded import Superseded
from tests.support.events import (
    array,
    cancelled,
    changed,
    continued,
    ended,
    held,
    released,
    retried,
    started,
    submitted,
    suspended,
)

TIMES: tuple[dict[str, Any], ...] = ({}, {"at": 50.0}, {"at": 60.0}, {"delay": 7.0})
CHANGED_TIMES = (*TIMES, {"at": 50.0, "is_delay": True}, {"at": 70.0, "is_delay": True})


def kept(events: Sequence[Event]) -> list[Event]:
    superseded = Superseded()
    for sequence, event in enumerate(events):
        assert isinstance(event, JobEvent)
        superseded.add(sequence, event)
    return [event for sequence, event in enumerate(events) if sequence not in superseded.sequences]


def test_changes_of_a_held_job_are_superseded_by_the_last() -> None:
    events: list[Event] = [
        submitted(1, hold=True),
        *(changed(1, label=str(number)) for number in range(1000)),
    ]
    assert kept(events) == [events[0], events[-1]]


def test_alternating_holds_and_releases_are_superseded_by_the_last_of_each() -> None:
    events: list[Event] = [submitted(1), *(event for _ in range(500) for event in (held(1), released(1)))]
    assert kept(events) == [events[0], released(1)]
    assert kept([*events, held(1)]) == [events[0], released(1), held(1)]


def test_changes_before_and_after_an_attempt_do_not_supersede_each_other() -> None:
    events: list[Event] = [
        submitted(1),
        *(changed(1, label="a"), changed(1, label="b"), started(1)),
        *(ended(1, Status.PENDING, retry_at=300.0), changed(1, label="c"), changed(1, label="d")),
    ]
    assert kept(events) == [events[0], *events[2:5], events[6]]


def test_changes_that_set_the_times_back_keep_one_with_other_times() -> None:
    events: list[Event] = [
        *(submitted(1), started(1), ended(1, Status.PENDING, retry_at=300.0)),
        *(changed(1, at=50.0), changed(1, at=60.0), changed(1), changed(1, label="x")),
    ]
    left = kept(events)
    assert left == [*events[:3], events[4], events[6]]
    assert fold(left) == fold(events)


@pytest.mark.parametrize("job_id", [1, 2])
def test_alternating_changes_of_an_array_and_a_task_keep_a_few_records(job_id: int) -> None:
    events: list[Event] = [array(1, 2)]
    for number in range(500):
        events += [changed(1, label=str(number)), held(2), released(job_id)]
    left = kept(events)
    assert len(left) <= 6
    assert fold(left) == fold(events)


@pytest.mark.parametrize("is_back", [False, True])
def test_changes_of_the_times_of_an_array_around_a_release_of_a_task_are_kept(is_back: bool) -> None:
    events: list[Event] = [array(1, 2), changed(1, at=50.0)]
    events += [changed(1, label="back")] if is_back else []
    events += [released(2), changed(1, at=50.0, label="x"), changed(1, at=50.0, label="y")]
    left = kept(events)
    assert left == [*events[:-2], events[-1]]
    assert fold(left) == fold(events)


def test_suspensions_are_superseded_by_the_last_and_by_the_end() -> None:
    toggled = [event for number in range(500) for event in (suspended(1, 300.0 + number), continued(1))]
    events: list[Event] = [submitted(1), started(1), *toggled, suspended(1)]
    assert kept(events) == [*events[:2], events[-1]]
    assert kept([*events, ended(1)]) == [*events[:2], ended(1)]


def test_suspensions_leave_holds_superseded() -> None:
    toggled = [event for _ in range(500) for event in (suspended(1), held(1), continued(1), released(1))]
    events: list[Event] = [array(1, 2), started(2), *toggled]
    assert kept(events) == [*events[:2], *events[-2:]]


_IDS = st.sampled_from([1, 2, 3, 5])
_STEPS = st.one_of(
    st.builds(held, _IDS),
    st.builds(released, _IDS),
    st.builds(
        lambda job_id, times, label: changed(job_id, **times, label=label),
        st.sampled_from([1, 5]),
        st.sampled_from(CHANGED_TIMES),
        st.sampled_from(["a", "b"]),
    ),
    st.builds(started, _IDS),
    st.builds(lambda job_id, status: ended(job_id, status, retry_at=300.0), _IDS, st.sampled_from([*Status])),
    st.builds(cancelled, _IDS),
    st.builds(suspended, _IDS, st.sampled_from([310.0, 320.0])),
    st.builds(continued, _IDS),
    st.builds(retried, _IDS),
)


@settings(max_examples=200)
@given(
    st.sampled_from(TIMES),
    st.lists(st.one_of(_STEPS, st.lists(_STEPS, min_size=4, max_size=8)), max_size=25),
)
def test_fold_of_the_kept_records_equals_the_fold_of_all(times: dict[str, Any], steps: list[Any]) -> None:
    """Job 1 is an array with the tasks 2 to 4; job 5 is a single job."""
    events: list[Event] = [array(1, 3, **times), submitted(5, **times)]
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    for event in (one for step in steps for one in (step if isinstance(step, list) else [step])):
        try:
            queue_state.apply(event)
        except InvalidTransition:
            continue
        events.append(event)
    left = kept(events)
    assert fold(left) == queue_state
    assert fold(kept(left)) == queue_state, "a snapshot of the snapshot gives the same"


def fold(events: Sequence[Event]) -> QueueState:
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


def test_delay_is_kept_when_a_later_change_has_the_same_times() -> None:
    events: list[Event] = [
        *(submitted(1), changed(1, at=50.0, is_delay=True)),
        *(changed(1, at=50.0, label="a"), changed(1, at=50.0, label="b")),
    ]
    left = kept(events)
    assert left == [*events[:2], events[3]]
    assert fold(left) == fold(events)
    again = [*events, changed(1)]
    assert fold(kept(again)) == fold(again)
    assert len(kept(again)) <= 3


def test_time_that_was_set_and_set_back_on_a_released_array_gives_the_same_jobs() -> None:
    events: list[Event] = [*(array(1, 3), released(1), changed(1, at=50.0, label="a"), changed(1, label="a"))]
    assert fold(kept(events)) == fold(events)
