"""A Compacted has the same effect on the state as its events one by one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.events import Clocked, Compacted, CompactedEvent, Ended, Event, Output, Started, Submitted
from taskqd.model.job import Job, Reason, Status, Usage
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from taskqd.protocol.documents import describe, describe_attempts
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from tests.support.events import cancelled, changed, held, removed, retried, scheduled, skipped, submitted

POSITION = (2, 77, 345)
BEFORE: list[Event] = [
    Clocked(at=50.0, boot_clock=1.0, ahead=-7200.0),
    submitted(1, after_fail=()),
    submitted(2, schedule=None),
    scheduled(7),
]

SPECS = st.builds(
    Spec,
    hold=st.booleans(),
    at=st.none() | st.just(500.0),
    key=st.none() | st.just("k"),
    stdin=st.none() | st.just(12),
    script_line=st.none() | st.just("make"),
    queue=st.sampled_from(["default", "mail"]),
    after=st.sampled_from([(), (1,)]),
    after_any=st.sampled_from([(), (2,)]),
)
SUBMITTED = st.builds(
    Submitted,
    id=st.just(3),
    at=st.just(100.0),
    owner=st.sampled_from(["ann", "bob"]),
    command=st.just("true"),
    spec=st.just(DEFAULT_SPEC) | SPECS,
    schedule=st.sampled_from([None, None, 7]),
)
OUTPUTS = st.sampled_from([Output(), Output.inline(b"hi\n"), Output(9000), Output.inline(b"x", dropped=3)])
ENDED = st.builds(
    Ended,
    id=st.just(3),
    at=st.just(103.5),
    status=st.sampled_from([Status.COMPLETED, Status.FAILED, Status.CANCELLED]),
    reason=st.sampled_from([None, Reason.EXIT, Reason.TIMEOUT]),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.sampled_from([None, None, 9]),
    detail=st.sampled_from([None, None, "it was killed"]),
    progress=st.integers(0, 100),
    is_free=st.booleans(),
    usage=st.none() | st.builds(Usage, st.just(0.5), st.just(0.25), st.sampled_from([0, 4096, 1000])),
    stdout=OUTPUTS,
    stderr=OUTPUTS,
    pid=st.none() | st.just(4242),
    ended_at=st.sampled_from([None, 102.0, 99.0, 200.0]),
)


def started(attempt: int = 1) -> Started:
    return Started(id=3, at=101.0, attempt=attempt, word="00c0ffee00c0ffee", runner="00000000000000a1")


def states(*events: CompactedEvent, is_open: bool = True) -> tuple[QueueState, QueueState]:
    """Return the states after a Compacted with these events, and after the events themselves."""
    together, apart = QueueState(is_open=is_open), QueueState(is_open=is_open)
    for queue_state in (together, apart):
        for event in BEFORE:
            queue_state.apply(event)
    record = Compacted(events=events, numbers=tuple(range(2, len(events) + 1)))
    assert together.apply(record, POSITION) is together.jobs[events[0].id]
    for each in events:
        apart.apply(each, POSITION)
    if not is_open:
        together.open()
        apart.open()
    return together, apart


def shown(job: Job) -> tuple[Any, Any]:
    return describe(job, 0, job.reason), describe_attempts(job)


def check_equal(together: QueueState, apart: QueueState) -> None:
    assert together == apart
    assert [shown(job) for job in together.jobs.values()] == [shown(job) for job in apart.jobs.values()]
    for one, other in ((together.retention_index, apart.retention_index),):
        assert (one.count, one.bytes, one.memory) == (other.count, other.bytes, other.memory)
        assert one.pop_expired(1e9, 0) == other.pop_expired(1e9, 0)
    assert together.dependencies.unsatisfiable == apart.dependencies.unsatisfiable
    queues = [list(each.describe_queues()) for each in (together, apart)]
    assert queues[0] == queues[1]
    durations = [each.queues.recent_durations("default") for each in (together, apart)]
    assert durations[0] == durations[1]


@pytest.mark.covers
@settings(max_examples=300, deadline=None)
@given(SUBMITTED, ENDED, st.booleans(), st.sampled_from([1, 1, 2]))
def test_compacted_job_with_one_attempt_is_the_same(
    event: Submitted, ended: Ended, is_open: bool, attempt: int
) -> None:
    check_equal(*states(event, started(attempt), ended, is_open=is_open))


PENDING = Ended(
    id=3, at=102.0, status=Status.PENDING, reason=Reason.EXIT, exit_code=1, retry_at=102.0, usage=Usage()
)
COMPLETED = Ended(id=3, at=104.0, status=Status.COMPLETED, exit_code=0, usage=Usage())


@pytest.mark.parametrize(
    "events",
    [
        (started(), PENDING, started(2), COMPLETED),
        (replace(started(), units={"gpu": ("0", "1")}), COMPLETED),
        (cancelled(3),),
        (started(), cancelled(3), replace(COMPLETED, status=Status.CANCELLED)),
        (skipped(3, 1),),
        (held(3), changed(3, priority=4), started(), COMPLETED),
        (held(3), started(), COMPLETED),
        (started(), PENDING),
        (started(), cancelled(3)),
        (started(), replace(COMPLETED, status=Status.FAILED, reason=Reason.EXIT, exit_code=3)),
        (started(), replace(COMPLETED, status=Status.FAILED, exit_code=3, is_free=True)),
    ],
)
def test_compacted_job_with_other_events_is_the_same(events: tuple[CompactedEvent, ...]) -> None:
    check_equal(*states(submitted(3), *events))


def test_compacted_job_of_a_schedule_is_the_same() -> None:
    check_equal(*states(submitted(3, schedule=7), started(), COMPLETED))


def test_compacted_job_with_a_key_is_the_same() -> None:
    states_with_key = states(submitted(3, key="k", queue="mail"), started(), COMPLETED)
    check_equal(*states_with_key)
    assert [[job.id for job in each.with_key("k")] for each in states_with_key] == [[3], [3]]


def test_compacted_usual_job_is_packed() -> None:
    together, _ = states(submitted(3), started(), COMPLETED)
    assert isinstance(together.jobs[3].last_attempt, bytes)


def test_compacted_job_can_be_retried_and_removed() -> None:
    together, apart = states(submitted(3), started(), COMPLETED)
    for queue_state in (together, apart):
        queue_state.apply(retried(3))
        queue_state.apply(started())
        queue_state.apply(COMPLETED, POSITION)
        queue_state.apply(removed(3))
    check_equal(together, apart)


@pytest.mark.parametrize("spec", [DEFAULT_SPEC, Spec(array=Array(1, 2))])
def test_compacted_job_that_is_known_is_refused(spec: Spec) -> None:
    queue_state = QueueState()
    queue_state.apply(submitted(3))
    record = Compacted(events=(replace(submitted(3), spec=spec), started(), COMPLETED), numbers=(2, 3))
    with pytest.raises(InvalidTransition):
        queue_state.apply(record)


def jobs_that_ended() -> st.SearchStrategy[list[Event | Compacted]]:
    """Return the records of a few jobs in the order of a snapshot: most have ended."""

    def record(job_id: int, event: Submitted, ended: Ended, kind: str) -> list[Event | Compacted]:
        begun = replace(event, id=job_id), replace(started(), id=job_id)
        if kind == "pending":
            return [begun[0]]
        if kind == "running":
            return [*begun]
        if kind == "retried":
            return [*begun, replace(ended, id=job_id), retried(job_id)]
        return [Compacted(events=(*begun, replace(ended, id=job_id)), numbers=(2, 3))]

    kinds = st.sampled_from(["pending", "running", "retried", *["ended"] * 8])
    return st.lists(st.tuples(SUBMITTED, ENDED, kinds), max_size=8).map(
        lambda jobs: [each for job_id, job in enumerate(jobs, 3) for each in record(job_id, *job)]
    )


@pytest.mark.covers
@settings(max_examples=200, deadline=None)
@given(jobs_that_ended(), st.booleans())
def test_jobs_that_ended_are_the_same_if_they_are_replayed_together(
    records: list[Event | Compacted], is_open: bool
) -> None:
    together, apart = QueueState(is_open=is_open), QueueState(is_open=is_open)
    together.apply_replayed([(event, None) for event in BEFORE])
    together.apply_replayed([(record, POSITION) for record in records])
    for event in BEFORE:
        apart.apply(event)
    for record in records:
        for each in record.events if isinstance(record, Compacted) else [record]:
            apart.apply(each, POSITION)
    for queue_state in (together, apart):
        queue_state.open()
    check_equal(together, apart)
    for status in Status:
        wanted = JobFilter(statuses=frozenset({status}))
        assert [*together.index.find(wanted, 1, 20)] == [*apart.index.find(wanted, 1, 20)]


@pytest.mark.parametrize("is_open", [False, True])
def test_job_that_had_ended_is_found_after_a_replay(is_open: bool) -> None:
    queue_state = QueueState(is_open=is_open)
    record = Compacted(events=(submitted(3), started(), COMPLETED), numbers=(2, 3))
    queue_state.apply_replayed([(record, POSITION)])
    queue_state.open()
    assert [*queue_state.index.find(JobFilter(), 1, 20)] == [3]


def test_replayed_record_that_is_not_possible_is_reported_with_its_position() -> None:
    record = Compacted(events=(submitted(3), started(), COMPLETED), numbers=(2, 3))
    queue_state = QueueState()
    with pytest.raises(InvalidTransition) as raised:
        queue_state.apply_replayed([(record, (2, 0, 76)), (record, POSITION)])
    assert raised.value.position == POSITION
    assert queue_state.jobs[3].status is Status.COMPLETED
