"""Of the holds, releases and changes of a job a snapshot keeps what still counts, and no more."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.model.events import Event, JobEvent
from taskqd.model.job import Status
from taskqd.state.queue_state import InvalidTransition, QueueState
from taskqd.storage.journal.superseded import Superseded
from tests.support.events import array, cancelled, changed, ended, held, released, retried, started, submitted

TIMES: tuple[dict[str, Any], ...] = ({}, {"at": 50.0}, {"at": 60.0}, {"delay": 7.0})


def kept(events: Sequence[Event]) -> list[Event]:
    superseded = Superseded()
    for sequence, event in enumerate(events):
        assert isinstance(event, JobEvent)
        superseded.add(sequence, event)
    return [event for sequence, event in enumerate(events) if sequence not in superseded.sequences]


def test_a_thousand_changes_of_a_held_job_become_one() -> None:
    events: list[Event] = [
        submitted(1, hold=True),
        *(changed(1, label=str(number)) for number in range(1000)),
    ]
    assert kept(events) == [events[0], events[-1]]


def test_holds_and_releases_by_turns_become_the_last_of_each() -> None:
    events: list[Event] = [submitted(1), *(event for _ in range(500) for event in (held(1), released(1)))]
    assert kept(events) == [events[0], released(1)]
    assert kept([*events, held(1)]) == [events[0], released(1), held(1)]


def test_changes_between_two_starts_are_kept_apart() -> None:
    events: list[Event] = [
        submitted(1),
        *(changed(1, label="a"), changed(1, label="b"), started(1)),
        *(ended(1, Status.PENDING, retry_at=300.0), changed(1, label="c"), changed(1, label="d")),
    ]
    assert kept(events) == [events[0], *events[2:5], events[6]]


def test_a_change_that_takes_the_times_back_leaves_one_in_between() -> None:
    events: list[Event] = [
        *(submitted(1), started(1), ended(1, Status.PENDING, retry_at=300.0)),
        *(changed(1, at=50.0), changed(1, at=60.0), changed(1), changed(1, label="x")),
    ]
    left = kept(events)
    assert left == [*events[:3], events[4], events[6]]
    assert _fold(left) == _fold(events)


@pytest.mark.parametrize("job_id", [1, 2])
def test_a_thousand_changes_by_turns_of_an_array_and_a_task_become_a_few(job_id: int) -> None:
    events: list[Event] = [array(1, 2)]
    for number in range(500):
        events += [changed(1, label=str(number)), held(2), released(job_id)]
    left = kept(events)
    assert len(left) <= 6
    assert _fold(left) == _fold(events)


@pytest.mark.parametrize("is_back", [False, True])
def test_changes_of_the_times_of_an_array_around_a_release_of_a_task_are_kept(is_back: bool) -> None:
    events: list[Event] = [array(1, 2), changed(1, at=50.0)]
    events += [changed(1, label="back")] if is_back else []
    events += [released(2), changed(1, at=50.0, label="x"), changed(1, at=50.0, label="y")]
    left = kept(events)
    assert left == [*events[:-2], events[-1]]
    assert _fold(left) == _fold(events)


_IDS = st.sampled_from([1, 2, 3, 5])
_STEPS = st.one_of(
    st.builds(held, _IDS),
    st.builds(released, _IDS),
    st.builds(
        lambda job_id, times, label: changed(job_id, **times, label=label),
        st.sampled_from([1, 5]),
        st.sampled_from(TIMES),
        st.sampled_from(["a", "b"]),
    ),
    st.builds(started, _IDS),
    st.builds(lambda job_id, status: ended(job_id, status, retry_at=300.0), _IDS, st.sampled_from([*Status])),
    st.builds(cancelled, _IDS),
    st.builds(retried, _IDS),
)


@settings(max_examples=200)
@given(
    st.sampled_from(TIMES),
    st.lists(st.one_of(_STEPS, st.lists(_STEPS, min_size=4, max_size=8)), max_size=25),
)
def test_what_is_kept_says_the_same_as_all(times: dict[str, Any], steps: list[Any]) -> None:
    """Job 1 is an array of the tasks 2 to 4, and 5 stands alone."""
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
    assert _fold(left) == queue_state
    assert _fold(kept(left)) == queue_state, "and so does a snapshot of the snapshot"


def _fold(events: Sequence[Event]) -> QueueState:
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


def test_a_time_that_was_set_and_taken_back_leaves_no_trace() -> None:
    events: list[Event] = [*(array(1, 3), released(1), changed(1, at=50.0, label="a"), changed(1, label="a"))]
    assert _fold(kept(events)) == _fold(events)
