"""Similar submissions that are applied in one step: the result is that of each alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.model.events import Submitted
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from taskqd.state import rank_set
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from tests.support.events import cancelled

SPECS = (
    *(DEFAULT_SPEC, Spec(priority=3), Spec(queue="q"), Spec(label="l"), Spec(hold=True)),
    *(Spec(delay=5.0), Spec(array=Array(1, 3)), Spec(key="k")),
)
BLOCKS = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from(SPECS), st.sampled_from(["ann", "bob"])), max_size=6
)


@pytest.fixture(autouse=True)
def _four_jobs_are_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_set, "MIN_RUN", 4)


def submissions(blocks: list[tuple[int, Spec, str]]) -> list[Submitted]:
    events: list[Submitted] = []
    for count, spec, owner in blocks:
        for _ in range(count):
            job_id = events[-1].last_id + 1 if events else 1
            command = "écho" * (job_id % 3)
            events.append(Submitted(id=job_id, at=10.0 + job_id, owner=owner, command=command, spec=spec))
    return events


def order(queue_state: QueueState) -> list[int]:
    return [job.id for job in iter(lambda: queue_state.next_job(100.0), None)]


def found(queue_state: QueueState, **wanted: Any) -> list[int | None]:
    return list(queue_state.index.find(JobFilter(**wanted), 1, queue_state.last_id))


@settings(max_examples=60)
@given(BLOCKS, st.lists(st.integers(1, 40), max_size=5))
def test_similar_submissions_in_one_step_are_the_same_as_one_by_one(
    blocks: list[tuple[int, Spec, str]], ended: list[int]
) -> None:
    events, totals = submissions(blocks), CapacityTotals(slots=1000)
    together, alone = QueueState(totals), QueueState(totals)
    together.apply_all(events)
    for event in events:
        alone.apply(event)
    for queue_state in (together, alone):
        for job_id in {event.id for event in events}.intersection(ended):
            queue_state.apply(cancelled(job_id))
    assert together == alone
    for wanted in ({}, {"owner": "bob"}, {"queue": "q"}, {"label": "l"}):
        assert found(together, **wanted) == found(alone, **wanted)
    assert order(together) == order(alone)
