"""QueueState: applying events, lookups, scheduling and clocks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.errors import BadRequest, Gone, NoSuchJob
from taskqd.model.events import (
    Clocked,
    Ended,
    Event,
    JobEvent,
    Output,
    RecordPosition,
    Removed,
    Spawned,
    Started,
    Submitted,
)
from taskqd.model.job import Reason, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import Array, Spec
from taskqd.model.transitions import MAX_PAST_ATTEMPTS, TRANSITIONS
from taskqd.state.capacity import CapacityTotals
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    changed,
    ended,
    fold,
    held,
    next_jobs,
    paused,
    released,
    removed,
    resumed,
    retried,
    scheduled,
    skipped,
    started,
    submitted,
    unscheduled,
)

# Transitions of a job.

WAYS: dict[Status, tuple[Event, ...]] = {
    Status.PENDING: (submitted(1),),
    Status.RUNNING: (submitted(1), started(1)),
    Status.COMPLETED: (submitted(1), started(1), ended(1, Status.COMPLETED)),
    Status.FAILED: (submitted(1), started(1), ended(1, Status.FAILED)),
    Status.CANCELLED: (submitted(1), cancelled(1)),
}
"""Events that lead to each status."""

EVENTS: list[JobEvent] = [
    started(1),
    Spawned(id=1, at=5.0, pid=9, started=8),
    cancelled(1),
    skipped(1, dependency=9),
    held(1),
    released(1),
    changed(1, priority=3),
    retried(1),
    removed(1),
    *(ended(1, status, retry_at=9.0) for status in Status),
]


def _outcome(status: Status, event: JobEvent) -> Status | None:
    """Return the status that the table allows after an event, None if it does not allow the event."""
    allowed = TRANSITIONS[type(event)].statuses.get(status, ())
    if isinstance(event, Ended):
        return event.status if event.status in allowed else None
    return allowed[0] if allowed else None


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: getattr(event, "status", event.name))
@pytest.mark.parametrize("status", Status)
def test_job_accepts_exactly_the_events_of_the_transition_table(status: Status, event: JobEvent) -> None:
    queue_state = fold(*WAYS[status])
    after = _outcome(status, event)
    if after is None:
        with pytest.raises(
            InvalidTransition, match=f"{event.name} is not possible for job 1, which is {status.value}"
        ):
            queue_state.apply(event)
        assert queue_state == fold(*WAYS[status])
        assert next_jobs(queue_state, 1000.0) == next_jobs(fold(*WAYS[status]), 1000.0)
    else:
        job = queue_state.apply(event)
        assert job is not None
        assert job.status is after
        is_there = not isinstance(event, Removed)
        assert queue_state.counts == {**dict.fromkeys(Status, 0), after: int(is_there)}
        assert bool(queue_state.jobs) is is_there


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: getattr(event, "status", event.name))
def test_event_of_an_unknown_job_is_refused(event: JobEvent) -> None:
    queue_state = fold(submitted(2))
    with pytest.raises(InvalidTransition, match=f"{event.name} is not possible for job 1, which is unknown"):
        queue_state.apply(event)
    assert queue_state == fold(submitted(2))


def test_id_that_is_in_use_is_refused() -> None:
    queue_state = fold(submitted(1, key="k"))
    with pytest.raises(InvalidTransition, match="job 1 was submitted twice"):
        queue_state.apply(submitted(1, key="other"))
    assert queue_state == fold(submitted(1, key="k"))
    assert next_jobs(queue_state, 0.0) == [1]


@pytest.mark.parametrize("job_id", [1, 2, 3])
def test_array_with_ids_that_are_in_use_is_refused(job_id: int) -> None:
    queue_state = fold(array(1, 2))
    with pytest.raises(InvalidTransition, match=f"job {job_id} was submitted twice"):
        queue_state.apply(submitted(job_id))
    with pytest.raises(InvalidTransition, match="job 0 was submitted twice"):
        queue_state.apply(array(0, 3))
    assert queue_state == fold(array(1, 2))


def _known(queue_state: QueueState, **expected: Any) -> None:
    job = queue_state.get(1)
    assert {name: getattr(job, name) for name in expected} == expected


def test_job_follows_from_its_events() -> None:
    queue_state = fold(submitted(1))
    _known(queue_state, status=Status.PENDING, reason=Reason.QUEUED, submitted_at=1.0, attempt=None)
    _known(queue_state, attempts=0, failures=0, not_before=None, completed_at=None, cancelling=None)
    queue_state.apply(started(1))
    _known(queue_state, status=Status.RUNNING, reason=None, attempts=1, failures=0)
    queue_state.apply(Spawned(id=1, at=101.0, pid=9, started=8))
    attempt = queue_state.get(1).attempt
    assert attempt is not None
    assert (attempt.number, attempt.started_at, attempt.pid, attempt.pid_started) == (1, 100.0, 9, 8)
    queue_state.apply(ended(1, Status.PENDING, retry_at=250.0), (1, 0, 9))
    _known(
        queue_state,
        status=Status.PENDING,
        reason=Reason.RETRYING,
        not_before=250.0,
        failures=1,
        exit_code=None,
    )
    assert (attempt.exit_code, attempt.signal, attempt.progress, attempt.record) == (3, None, 0, (1, 0, 9))
    queue_state.apply(started(1, attempt=2))
    _known(queue_state, not_before=None, attempts=2, completed_at=None)
    end = Ended(
        id=1,
        at=200.0,
        status=Status.FAILED,
        reason=Reason.SIGNAL,
        signal=9,
        detail="why",
        progress=42,
        stdout=Output.inline(b"hi", 3),
        stderr=Output(9000, 4),
    )
    queue_state.apply(end, (1, 10, 20))
    _known(
        queue_state, status=Status.FAILED, reason=Reason.SIGNAL, completed_at=200.0, failures=2, exit_code=-9
    )
    attempt = queue_state.get(1).attempt
    assert attempt is not None
    assert (attempt.number, attempt.ended_at, attempt.detail, attempt.progress) == (2, 200.0, "why", 42)
    assert (attempt.stdout_bytes, attempt.stdout_dropped, attempt.stdout_inline) == (2, 3, True)
    assert (attempt.stderr_bytes, attempt.stderr_dropped, attempt.stderr_inline) == (9000, 4, False)
    assert attempt.record == (1, 10, 20)
    queue_state.apply(retried(1))
    _known(
        queue_state, status=Status.PENDING, reason=Reason.QUEUED, attempts=2, failures=0, completed_at=None
    )


def test_retry_without_a_time_is_due_at_once() -> None:
    queue_state = fold(submitted(1), started(1), ended(1, Status.PENDING))
    _known(queue_state, not_before=200.0)


def test_cancelled_running_job_is_running_until_its_process_ends() -> None:
    queue_state = fold(submitted(1), started(1), cancelled(1))
    _known(queue_state, status=Status.RUNNING, cancelling=15)
    queue_state.apply(ended(1, Status.CANCELLED))
    _known(queue_state, status=Status.CANCELLED, cancelling=None, failures=0, completed_at=200.0)


def test_cancelled_pending_job_has_ended() -> None:
    queue_state = fold(submitted(1), started(1), ended(1, Status.PENDING, retry_at=500.0), cancelled(1))
    _known(queue_state, status=Status.CANCELLED, reason=Reason.CANCELLED, not_before=None, completed_at=300.0)


@pytest.mark.parametrize(
    "at, ended_at, shown",
    [
        (200.0, None, 200.0),
        (200.0, 150.0, 150.0),
        (200.0, 99.0, 100.0),  # the clock of the runner was behind, or was set
        (200.0, 201.0, 200.0),
        (90.0, None, 90.0),
        (90.0, 95.0, 90.0),  # the time of day was set back since the start
    ],
)
def test_end_that_is_recorded_late_is_between_its_start_and_its_record(
    at: float, ended_at: float | None, shown: float
) -> None:
    queue_state = fold(submitted(1), started(1), ended(1, at=at, ended_at=ended_at))
    attempt = queue_state.get(1).attempt
    assert attempt is not None
    assert (attempt.ended_at, queue_state.get(1).completed_at) == (shown, shown)


@pytest.mark.parametrize(
    "jump, ended_at, shown", [(1000.0, 150.0, 1100.0), (-60.0, 95.0, 95.0), (-60.0, 30.0, 40.0)]
)
def test_start_bounds_a_late_end_by_the_clock_that_is_never_set(
    jump: float, ended_at: float, shown: float
) -> None:
    clocked = Clocked(at=150.0 + jump, boot_clock=1.0, ahead=jump)
    end = ended(1, at=200.0 + jump, ended_at=ended_at)
    queue_state = fold(submitted(1), started(1), clocked, end)
    job = queue_state.get(1)
    assert (job.completed_at, job.ended) == (shown, shown - jump)
    assert queue_state.queues.recent_durations("default") == [shown - jump - 100.0]


def test_duration_of_an_attempt_that_is_recorded_late_is_that_until_its_end() -> None:
    queue_state = fold(submitted(1), started(1), ended(1, ended_at=130.0))
    assert queue_state.queues.recent_durations("default") == [30.0]


def test_attempt_has_the_word_and_the_runner_of_its_start_until_it_ends() -> None:
    start = Started(id=1, at=100.0, attempt=1, word="00c0ffee00c0ffee", runner="0123456789abcdef")
    queue_state = fold(submitted(1), start, Spawned(id=1, at=101.0, pid=9, started=8))
    attempt = queue_state.get(1).attempt
    assert attempt is not None
    assert (attempt.word, attempt.runner) == ("00c0ffee00c0ffee", "0123456789abcdef")
    queue_state.apply(ended(1))
    assert (attempt.word, attempt.runner, attempt.pid, attempt.pid_started) == ("", "", 9, None)


def test_attempts_share_the_name_of_their_runner() -> None:
    starts = [Started(id=n, at=100.0, attempt=1, runner="".join("abc")) for n in (1, 2)]
    queue_state = fold(submitted(1), submitted(2), *starts)
    first, second = (queue_state.get(n).attempt for n in (1, 2))
    assert first is not None
    assert second is not None
    assert first.runner is second.runner


# Lookups.


def test_get_finds_a_job_by_id_or_raises_no_such_job() -> None:
    queue_state = fold(submitted(2), submitted(1))
    assert queue_state.get(1).id == 1
    for job_id in (0, -1, 3, 10**30):
        with pytest.raises(NoSuchJob, match=f"there is no job {job_id}: the newest is 2"):
            queue_state.get(job_id)


def test_get_finds_a_task_by_its_index() -> None:
    queue_state = fold(submitted(1, array=Array(0, 2)), submitted(5))
    assert [queue_state.get(TaskId(1, index)).id for index in (0, 1, 2)] == [2, 3, 4]
    with pytest.raises(NoSuchJob, match="array 1 has the indexes 0 to 2, not 3"):
        queue_state.get(TaskId(1, 3))
    for job_id in (5, 4):  # not an array, and a task
        with pytest.raises(BadRequest, match=rf"job {job_id} is not an array; it has no task {job_id}\.0"):
            queue_state.get(TaskId(job_id, 0))
    with pytest.raises(NoSuchJob, match="there is no job 9"):
        queue_state.get(TaskId(9, 0))


def test_key_of_an_array_finds_the_array() -> None:
    queue_state = fold(array(1, 2, key="k"), cancelled(1))
    assert queue_state.by_key("k", "ann") is queue_state.get(1)
    queue_state.apply(removed(1))
    assert queue_state.by_key("k", "ann") is None
    assert not queue_state.jobs


def test_removed_job_is_gone_and_its_key_is_free() -> None:
    queue_state = fold(
        submitted(1, key="k"), submitted(2), started(1), ended(1, Status.COMPLETED), removed(1)
    )
    with pytest.raises(Gone, match="job 1 has been removed"):
        queue_state.get(1)
    assert queue_state.by_key("k", "ann") is None
    assert [job.id for job in queue_state.walk(1)] == [2]
    queue_state.apply(submitted(3, key="k"))
    assert queue_state.by_key("k", "ann") is queue_state.get(3)


def test_removal_leaves_the_key_to_its_present_job() -> None:
    queue_state = fold(submitted(1, key="k"), cancelled(1), submitted(2, key="k"), removed(1))
    assert queue_state.by_key("k", "ann") is queue_state.get(2)


def test_removed_job_is_in_no_index() -> None:
    delayed = (started(1), ended(1, Status.PENDING, retry_at=250.0), cancelled(1), removed(1))
    queue_state = fold(submitted(1), *delayed, submitted(2))
    assert queue_state.next_due(0.0) is None
    assert next_jobs(queue_state, 1000.0) == [2]
    queue_state = fold(submitted(1), cancelled(1), removed(1))
    assert next_jobs(queue_state, 1000.0) == []
    assert next_jobs(fold(submitted(1), *delayed), 1000.0) == []


# Reasons.

AFTER = (submitted(2), submitted(1, after=(2,)))


@pytest.mark.parametrize(
    "events, reason",
    [
        ((submitted(1),), Reason.QUEUED),
        ((submitted(1, hold=True),), Reason.HELD),
        ((submitted(1), held(1)), Reason.HELD),
        ((submitted(1, hold=True), released(1)), Reason.QUEUED),
        ((submitted(1, delay=499.0),), Reason.DELAYED),
        ((submitted(1, delay=99.0),), Reason.QUEUED),
        ((submitted(1, at=500.0),), Reason.DELAYED),
        ((submitted(1), changed(1, at=500.0)), Reason.DELAYED),
        ((submitted(1, delay=499.0), changed(1)), Reason.QUEUED),
        ((submitted(1, delay=499.0), changed(1, delay=499.0, priority=2)), Reason.DELAYED),
        ((submitted(1, delay=499.0), released(1)), Reason.QUEUED),
        ((submitted(1), started(1), ended(1, Status.PENDING, retry_at=500.0)), Reason.RETRYING),
        ((submitted(1), started(1), ended(1, Status.PENDING, retry_at=400.0)), Reason.QUEUED),
        ((submitted(1), started(1), ended(1, Status.PENDING, retry_at=500.0), released(1)), Reason.QUEUED),
        (AFTER, Reason.AFTER),
        ((*AFTER, paused()), Reason.AFTER),
        ((*AFTER, held(1)), Reason.HELD),
        ((*AFTER, released(1)), Reason.AFTER),
        ((submitted(2), submitted(1, after=(2,), delay=999.0)), Reason.AFTER),
        ((*AFTER, started(2), ended(2)), Reason.QUEUED),
        ((submitted(1), paused()), Reason.PAUSED),
        ((submitted(1), paused("default")), Reason.PAUSED),
        ((submitted(1, delay=499.0), paused()), Reason.DELAYED),
        ((submitted(1), paused("other")), Reason.QUEUED),
        ((submitted(1), paused("default"), resumed()), Reason.PAUSED),
        ((submitted(1), paused(), resumed("default")), Reason.PAUSED),
        ((submitted(1), paused(), resumed()), Reason.QUEUED),
        ((submitted(1, queue="q"), paused("q"), changed(1, queue="r")), Reason.QUEUED),
        ((submitted(1), started(1), paused()), None),
        ((submitted(1), started(1), ended(1)), None),
        ((submitted(1, hold=True), cancelled(1)), Reason.CANCELLED),
        ((*AFTER, skipped(1, 2)), Reason.DEPENDENCY),
        ((submitted(1), started(1), ended(1, Status.FAILED)), Reason.EXIT),
    ],
)
def test_reason_is_the_one_that_would_last_longest(events: tuple[Event, ...], reason: Reason | None) -> None:
    queue_state = fold(*(replace(event, at=1.0) if event.name == "submitted" else event for event in events))
    assert queue_state.reason(queue_state.get(1), now=450.0) is reason
    assert (1 in next_jobs(queue_state, 450.0)) == (reason is Reason.QUEUED)


def test_cancelled_job_is_not_held_or_delayed_any_more() -> None:
    queue_state = fold(submitted(1, hold=True, delay=999.0), cancelled(1), retried(1))
    _known(queue_state, is_held=False, not_before=None)
    assert next_jobs(queue_state, 450.0) == [1]


# Changes.


def test_changed_job_has_the_new_spec_and_keeps_the_original() -> None:
    queue_state = fold(submitted(1, priority=1, label="a"), changed(1, priority=2), changed(1, priority=3))
    job = queue_state.get(1)
    assert (job.spec.priority, job.spec.label) == (3, None)
    assert (job.original_spec.priority, job.original_spec.label) == (1, "a")


def test_changed_job_is_queued_by_its_new_priority() -> None:
    queue_state = fold(
        submitted(1), submitted(2), submitted(3), changed(3, priority=1), changed(1, priority=-1)
    )
    assert next_jobs(queue_state) == [3, 2, 1]


def test_job_that_changes_its_queue_is_counted_in_the_new_one() -> None:
    queue_state = fold(submitted(1), changed(1, queue="other"))
    described = {queue["name"]: queue["pending"] for queue in queue_state.describe_queues()}
    assert described == {"default": 0, "other": 1}
    assert queue_state.describe_queue("other")["pending"] == 1


# Jobs that must be kept.


def test_latest_run_of_a_schedule_is_kept_until_a_later_one() -> None:
    queue_state = fold(scheduled(), submitted(1, schedule=1), started(1), ended(1))
    assert (
        queue_state.reason_to_keep(1) == "it is the latest run of its schedule; UNSCHEDULE ends the schedule"
    )
    queue_state.apply(submitted(2, schedule=1))
    assert queue_state.reason_to_keep(1) is None
    queue_state.apply(unscheduled())
    assert queue_state.reason_to_keep(2) is None


def test_cause_of_unsatisfiable_jobs_is_kept_until_they_are_skipped() -> None:
    queue_state = fold(array(1, 2), submitted(9), *(submitted(n, after=(2, 9)) for n in (4, 5)))
    apply_all(queue_state, (started(2), ended(2, Status.FAILED), started(3), ended(3)))
    assert queue_state.reason_to_keep(1) == "a job that depends on it has not been failed yet"
    assert queue_state.reason_to_keep(9) is None
    queue_state.apply(skipped(4, 2))
    assert queue_state.reason_to_keep(1) is not None
    queue_state.apply(cancelled(5))
    assert queue_state.reason_to_keep(1) is None


# Queues and schedules.


def test_queue_event_has_no_job() -> None:
    queue_state = fold()
    for event in (paused(), paused("q"), resumed(), scheduled(), paused(schedule=1), unscheduled()):
        assert queue_state.apply(event) is None


@pytest.mark.parametrize(
    "event",
    [scheduled(), paused(schedule=2), resumed(schedule=2), unscheduled(2), scheduled(2, every=0.1)],
    ids=lambda event: event.name,
)
def test_impossible_event_of_a_schedule_changes_nothing(event: Event) -> None:
    queue_state = fold(scheduled())
    with pytest.raises(InvalidTransition, match="schedule"):
        queue_state.apply(event)
    assert queue_state == fold(scheduled())


def test_job_of_an_ended_schedule_is_accepted() -> None:
    assert next_jobs(fold(submitted(1, schedule=7))) == [1]


# Positions of records.


@pytest.mark.parametrize(
    "record, attempt, moved",
    [
        ((3, 5, 9), 1, True),
        ((-2, 5, 9), 1, True),
        ((4, 5, 9), 1, False),
        ((3, 5, 9), 2, False),
    ],
)
def test_relocate_moves_the_record_of_the_latest_attempt(
    record: RecordPosition, attempt: int, moved: bool
) -> None:
    queue_state = fold(submitted(1), started(1))
    queue_state.apply(ended(1, Status.FAILED), record)
    queue_state.relocate(1, attempt, 3, (-3, 0, 9))
    found = queue_state.get(1).attempt
    assert found is not None
    assert found.record == ((-3, 0, 9) if moved else record)


def test_relocate_moves_the_record_of_an_earlier_attempt() -> None:
    queue_state = fold(submitted(1))
    for number in (1, 2, 3):
        queue_state.apply(started(1, number))
        queue_state.apply(ended(1, Status.PENDING), (number, 0, 9))
    queue_state.relocate(1, 2, 3, (-3, 0, 9))
    job = queue_state.get(1)
    assert job.attempt is not None
    assert [one.record for one in (*job.past, job.attempt)] == [(1, 0, 9), (-3, 0, 9), (3, 0, 9)]


def test_only_the_latest_attempts_are_kept() -> None:
    queue_state = fold(submitted(1))
    for number in range(1, MAX_PAST_ATTEMPTS + 10):
        queue_state.apply(started(1, number))
        queue_state.apply(ended(1, Status.PENDING))
    assert [one.number for one in queue_state.get(1).past] == list(range(9, MAX_PAST_ATTEMPTS + 9))


def test_relocate_ignores_unknown_jobs_and_unfinished_attempts() -> None:
    queue_state = fold(submitted(1), submitted(2), started(2))
    for job_id in (1, 2, 3):
        queue_state.relocate(job_id, 1, 3, (-3, 0, 9))
    attempt = queue_state.get(2).attempt
    assert attempt is not None
    assert attempt.record is None


def test_free_attempt_does_not_count_against_the_retries() -> None:
    end = Ended(
        id=1, at=200.0, status=Status.PENDING, reason=Reason.INTERRUPTED, is_free=True, retry_at=200.0
    )
    queue_state = fold(submitted(1), started(1), end)
    _known(queue_state, status=Status.PENDING, reason=Reason.RETRYING, failures=0, not_before=200.0)


def test_by_key_finds_a_job() -> None:
    queue_state = fold(submitted(1, key="k"), submitted(2))
    assert queue_state.by_key("k", "ann") is queue_state.get(1)
    assert queue_state.by_key("K", "ann") is None


@pytest.mark.parametrize(
    "first, backwards, ids",
    [
        (1, False, [1, 2, 4]),
        (-5, False, [1, 2, 4]),
        (3, False, [4]),
        (5, False, []),
        (10**18, False, []),
        (4, True, [4, 2, 1]),
        (3, True, [2, 1]),
        (0, True, []),
        (-5, True, []),
        (10**18, True, [4, 2, 1]),
    ],
)
def test_walk_yields_jobs_by_id_in_both_directions(first: int, backwards: bool, ids: list[int]) -> None:
    queue_state = fold(submitted(1), submitted(4), submitted(2))
    assert [job.id for job in queue_state.walk(first, backwards)] == ids


def test_walk_yields_jobs_as_they_are_when_reached() -> None:
    queue_state = fold(submitted(1), submitted(2))
    walk = queue_state.walk(1)
    next(walk)
    queue_state.apply(cancelled(2))
    assert next(walk).status is Status.CANCELLED


def test_running_lists_running_jobs_and_tasks() -> None:
    queue_state = fold(submitted(1), submitted(2), submitted(3), started(3), started(1))
    assert sorted(job.id for job in queue_state.running()) == [1, 3]


def test_states_are_equal_if_their_persistent_parts_are() -> None:
    queue_state, other = fold(submitted(1)), fold(submitted(1))
    queue_state.next_job(0.0)
    assert queue_state == other
    other.apply(started(1))
    assert queue_state != other
    assert queue_state != "a backlog"
    with pytest.raises(TypeError):
        hash(queue_state)


def test_dependents_of_yields_direct_and_indirect_dependents_once() -> None:
    queue_state = fold(
        submitted(1),
        submitted(2, after=(1,)),
        array(3, 2, after_any=(2,)),
        submitted(6),
        submitted(7, after=(6, 3)),
        submitted(8, after_fail=(4, 1)),
    )
    assert _after(queue_state, 1) == [8, 7, 3, 2]
    assert _after(queue_state, 2) == [8, 7, 3], (
        "a dependent of a task depends on the array's dependencies too"
    )
    assert _after(queue_state, 6) == [7]
    assert _after(queue_state, 8) == []


# Scheduling.


@pytest.mark.parametrize("is_open", [False, True])
def test_opening_before_or_after_the_replay_queues_the_same_jobs(is_open: bool) -> None:
    queue_state = QueueState(is_open=is_open)
    apply_all(queue_state, [submitted(2), array(3, 2), submitted(1, delay=498.0), submitted(6), started(6)])
    if not is_open:
        assert queue_state.next_job(1000.0) is None, "no job is queued before the state is open"
    for _ in range(2):
        queue_state.open()
    queue_state.apply(submitted(7))
    assert next_jobs(queue_state, 1000.0) == [1, 2, 4, 5, 7]


def test_lowest_id_is_first_in_any_order_of_submission() -> None:
    assert next_jobs(fold(submitted(3), submitted(1), submitted(2)), 0.0) == [1, 2, 3]


def test_replay_queues_only_jobs_that_still_wait() -> None:
    queue_state = fold(
        *(submitted(job_id) for job_id in range(1, 7)),
        *(started(job_id) for job_id in (1, 2, 3)),
        ended(1, Status.COMPLETED),
        ended(2, Status.FAILED),
        cancelled(4),
        cancelled(5),
        retried(5),
    )
    assert next_jobs(queue_state, 1000.0) == [5, 6]


def test_released_pending_job_is_queued_again() -> None:
    queue_state = fold(submitted(1), submitted(2))
    job = queue_state.next_job(0.0)
    assert job is not None
    queue_state.release(job.id)
    assert next_jobs(queue_state, 0.0) == [1, 2]


def test_job_cancelled_while_allocated_is_not_queued_on_release() -> None:
    queue_state = fold(submitted(1))
    job = queue_state.next_job(0.0)
    assert job is not None
    queue_state.apply(cancelled(1))
    queue_state.release(job.id)
    assert next_jobs(queue_state, 0.0) == []
    queue_state.apply(retried(1))
    assert next_jobs(queue_state, 0.0) == [1]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_cancelled_and_retried_job_is_queued_once(times: int) -> None:
    queue_state = fold(submitted(1), submitted(2))
    for _ in range(times):
        queue_state.apply(cancelled(1))
        queue_state.apply(retried(1))
    assert next_jobs(queue_state, 0.0) == [1, 2]


RETRYING = (submitted(1), started(1), ended(1, Status.PENDING, retry_at=500.0))


@pytest.mark.parametrize("now, ids", [(0.0, []), (499.999, []), (500.0, [1]), (1e9, [1])])
def test_delayed_job_is_next_when_it_is_due(now: float, ids: list[int]) -> None:
    assert next_jobs(fold(*RETRYING), now) == ids


def test_queue_state_needs_no_scheduling_until_something_changes() -> None:
    queue_state = fold(*RETRYING, submitted(2))
    assert queue_state.needs_scheduling
    assert next_jobs(queue_state, 0.0) == [2]
    assert not queue_state.needs_scheduling
    queue_state.apply(submitted(3, delay=5.0))
    assert queue_state.needs_scheduling, "the next wakeup has changed"
    assert next_jobs(queue_state, 0.0) == []
    queue_state.apply(started(2))
    assert not queue_state.needs_scheduling
    queue_state.apply(ended(2, Status.COMPLETED))
    assert not queue_state.needs_scheduling, "its capacity has been released"
    queue_state.release(2)
    assert queue_state.needs_scheduling


def test_allocated_job_may_start_until_an_event_prevents_it() -> None:
    for event in (paused(None), held(1), changed(1, at=600.0), cancelled(1)):
        queue_state = fold(submitted(1))
        job = queue_state.get(1)
        assert not queue_state.may_start(job, 500.0), "it has no allocation"
        assert queue_state.next_job(500.0) is job
        assert queue_state.may_start(job, 500.0)
        queue_state.apply(event)
        assert not queue_state.may_start(job, 500.0)


def test_delayed_job_that_was_cancelled_and_retried_is_not_delayed() -> None:
    queue_state = fold(*RETRYING, cancelled(1), retried(1))
    assert next_jobs(queue_state, 0.0) == [1]
    assert next_jobs(queue_state, 1000.0) == []


def test_job_delayed_twice_until_the_same_time_is_queued_once() -> None:
    again = (cancelled(1), retried(1), started(1, 2), ended(1, Status.PENDING, retry_at=500.0))
    queue_state = fold(*RETRYING, *again)
    assert next_jobs(queue_state, 499.0) == []
    assert next_jobs(queue_state, 500.0) == [1]


def test_delayed_job_is_not_lost_if_the_clock_is_set_back() -> None:
    queue_state = fold(*RETRYING, submitted(2))
    queue_state.apply(cancelled(2))
    queue_state.apply(retried(2))
    assert queue_state.next_job(600.0) is queue_state.get(1)
    queue_state.release(1)
    assert next_jobs(queue_state, 400.0) == [2]
    assert queue_state.next_due(0.0) == 500.0
    assert next_jobs(queue_state, 500.0) == [1]


def test_ready_dated_job_is_delayed_again_if_the_clock_is_set_back() -> None:
    queue_state = fold(submitted(1), submitted(2, delay=498.0), totals=CapacityTotals(slots=1))
    assert next_jobs(queue_state, 600.0) == [1]
    queue_state.apply(cancelled(1))
    queue_state.release(1)
    assert next_jobs(queue_state, 400.0) == []
    assert queue_state.next_due(400.0) == 500.0
    assert next_jobs(queue_state, 500.0) == [2]


@pytest.mark.parametrize(
    "events, due",
    [
        ((), None),
        ((submitted(1),), None),
        (RETRYING, 500.0),
        ((*RETRYING, cancelled(1)), None),
        ((*RETRYING, cancelled(1), retried(1)), None),
        ((*RETRYING, started(1, 2)), None),
        ((*RETRYING, started(1, 2), ended(1, Status.PENDING, retry_at=700.0)), 700.0),
        ((*RETRYING, started(1, 2), ended(1, Status.PENDING, retry_at=300.0)), 300.0),
        ((*RETRYING, submitted(2), started(2), ended(2, Status.PENDING, retry_at=400.0)), 400.0),
    ],
)
def test_next_due_is_that_of_the_first_delayed_job(events: tuple[Event, ...], due: float | None) -> None:
    assert fold(*events).next_due(0.0) == due


def test_keys_are_per_owner() -> None:
    queue_state = fold(
        submitted(1, key="k"), Submitted(id=2, at=2.0, owner="bob", command="x", spec=Spec(key="k"))
    )
    assert (queue_state.by_key("k", "ann"), queue_state.by_key("k", "bob")) == (
        queue_state.get(1),
        queue_state.get(2),
    )
    assert [job.id for job in queue_state.with_key("k")] == [1, 2]
    assert queue_state.by_key("k", "cecil") is None
    for event in (cancelled(1), removed(1)):
        queue_state.apply(event)
    assert (queue_state.by_key("k", "ann"), queue_state.by_key("k", "bob")) == (None, queue_state.get(2))


def test_pending_jobs_are_counted_per_owner() -> None:
    queue_state = fold(array(1, 3), Submitted(id=5, at=5.0, owner="bob", command="x"))
    assert [queue_state.pending_of(owner) for owner in ("ann", "bob", "cecil")] == [3, 1, 0]
    queue_state.apply(cancelled(5))
    assert queue_state.pending_of("bob") == 0


def _after(queue_state: QueueState, job_id: int) -> list[int]:
    return sorted((job.id for job in queue_state.dependents_of(job_id) if job is not None), reverse=True)


def test_dependents_of_leaves_out_jobs_that_are_removed_meanwhile() -> None:
    queue_state = fold(
        submitted(1), submitted(2, after=(1,)), submitted(3, after=(1,)), submitted(4, after=(2,))
    )
    walk = queue_state.dependents_of(1)
    first = next(walk)
    assert first is not None
    assert first.id == 2
    for job_id in (4, 2, 3):
        queue_state.apply(cancelled(job_id))
        queue_state.apply(removed(job_id))
    assert list(walk) == [None]


@pytest.mark.parametrize("before", [(), (started(1), ended(1, Status.PENDING, retry_at=9.0))])
def test_void_start_leaves_the_job_as_it_was(before: tuple[Event, ...]) -> None:
    as_before = fold(submitted(1, retries=3), *before)
    number = as_before.get(1).attempts + 1
    taken_back = Ended(id=1, at=10.0, status=Status.PENDING, reason=Reason.SPAWN, is_free=True, is_void=True)
    begun = Started(id=1, at=10.0, attempt=number)
    queue_state = fold(submitted(1, retries=3), *before, begun)
    queue_state.apply(taken_back, (1, 2, 3))
    job, was = queue_state.get(1), as_before.get(1)
    assert (job.status, job.reason) == (Status.PENDING, Reason.QUEUED)
    assert (job.attempts, job.failures, job.past) == (was.attempts, was.failures, was.past)
    assert job.attempt == was.attempt, "it has no other record"
    assert queue_state.queues.recent_durations("default") == as_before.queues.recent_durations("default"), (
        "that was no run"
    )
    taken = queue_state.next_job(10.0)
    assert taken is not None
    assert taken.id == 1


# Setting the clock: from record `SET` on, the time of day is 1000 s ahead of the monotonic clock.

SET = Clocked(at=1300.0, boot_clock=1.0, ahead=1000.0)


def test_delays_are_monotonic_and_start_times_follow_the_system_clock() -> None:
    queue_state = fold(
        submitted(1, delay=500.0),
        submitted(2, at=1600.0),
        submitted(3, delay=1.0),
        SET,
        replace(changed(3, at=1800.0), at=1300.0, is_delay=True),
        replace(submitted(4, delay=400.0), at=1300.0),
        submitted(5),
        started(5, at=1310.0),
        replace(ended(5, Status.PENDING, retry_at=1900.0), at=1320.0),
    )
    waits = {
        job_id: queue_state.remaining_delay(queue_state.get(job_id), 300.0) for job_id in (1, 2, 3, 4, 5)
    }
    assert waits == {1: 201.0, 2: 300.0, 3: 500.0, 4: 400.0, 5: 600.0}
    assert [queue_state.earliest_start(queue_state.get(job_id)) for job_id in (1, 2)] == [1501.0, 1600.0]
    assert queue_state.next_due(300.0) == 501.0
    assert next_jobs(queue_state, 501.0) == [1]
    assert next_jobs(queue_state, 600.0) == [2]


def test_setting_the_clock_back_keeps_a_dated_job_waiting() -> None:
    queue_state = fold(SET, submitted(1, at=1600.0), Clocked(at=300.0, boot_clock=1.0))
    assert (next_jobs(queue_state, 600.0), queue_state.next_due(600.0)) == ([], 1600.0)


def test_ended_job_keeps_its_age_if_the_clock_is_set() -> None:
    queue_state = fold(submitted(1), started(1), ended(1), SET, submitted(2), started(2, at=1300.0))
    queue_state.apply(ended(2, at=1400.0))
    assert [queue_state.get(job_id).ended for job_id in (1, 2)] == [200.0, 400.0]
    assert queue_state.retention_index.pop_expired(300.0, 10) == [1]
    assert list(queue_state.queues.recent_durations("default")) == [100.0, 100.0]


def test_states_with_another_clock_offset_are_not_equal() -> None:
    assert fold(SET) != fold()


def test_attempt_that_left_processes_has_their_session_id() -> None:
    attempt = fold(submitted(1), started(1), replace(ended(1), pid=4242)).jobs[1].attempt
    assert attempt is not None
    assert attempt.pid == 4242


def test_running_job_of_a_former_daemon_holds_its_capacity_until_it_is_released() -> None:
    state = QueueState(CapacityTotals(slots=1), is_open=False)
    for number, event in enumerate((submitted(1), started(1), submitted(2))):
        state.apply(event, (1, number, 1))
    state.open()
    state.allocate_running(state.jobs[1])
    assert state.next_job(0.0) is None
    state.release(1)
    assert state.next_job(0.0) is state.jobs[2]


# Several events at once.

SPECS = [
    Spec(),
    Spec(priority=1),
    Spec(priority=-1),
    Spec(queue="other", slots=2, label="x"),
    Spec(hold=True),
    Spec(delay=5.0),
    Spec(at=2000.0),
    Spec(key="k"),
    Spec(after=(1,)),
    Spec(after_any=(1,)),
    Spec(after_fail=(1,)),
    Spec(array=Array(0, 2)),
]
SUBMISSION = st.tuples(
    st.sampled_from(["ada", "bob"]),
    st.one_of(st.just(SPECS[0]), st.sampled_from(SPECS)),
    st.sampled_from([None, None, None, 1]),
)


@pytest.mark.covers
@given(
    is_open=st.booleans(),
    submissions=st.lists(st.one_of(SUBMISSION, st.just("hold")), max_size=12),
    gap=st.integers(1, 5000),
)
def test_events_applied_together_give_the_state_of_each_applied_alone(
    is_open: bool, submissions: list[Any], gap: int
) -> None:
    events: list[Any] = [submitted(1)]
    for each in submissions:
        if each == "hold":
            events.append(held(events[0].id))
            continue
        owner, spec, schedule = each
        job_id = max(event.last_id for event in events if isinstance(event, Submitted)) + gap
        events.append(
            Submitted(
                id=job_id, at=1000.0 + job_id, owner=owner, command="é" * gap, spec=spec, schedule=schedule
            )
        )
    alone, together = QueueState(is_open=is_open), QueueState(is_open=is_open)
    for state in (alone, together):
        state.apply(scheduled(1))
    for event in events:
        alone.apply(event)
    together.apply_all(events)
    assert together == alone
    for state in (alone, together):
        state.open()
    for wanted in (
        JobFilter(owner="bob"),
        JobFilter(queue="other"),
        JobFilter(statuses=frozenset({Status.PENDING})),
    ):
        assert list(together.index.find(wanted, 1, 100_000)) == list(alone.index.find(wanted, 1, 100_000))
    assert next_jobs(together, 9e5) == next_jobs(alone, 9e5)


def test_job_submitted_twice_among_others_is_refused() -> None:
    queue_state = fold(submitted(5))
    with pytest.raises(InvalidTransition, match="job 6 was submitted twice"):
        queue_state.apply_all([submitted(6), submitted(7), submitted(6)])
    assert next_jobs(queue_state, 0.0) == [5, 6, 7]


def test_job_with_a_lower_id_is_submitted_after_others() -> None:
    queue_state = fold(submitted(5))
    queue_state.apply_all([submitted(8), submitted(7), submitted(3)])
    assert next_jobs(queue_state, 0.0) == [3, 5, 7, 8]


def test_similar_jobs_are_ordered_among_those_of_another_priority() -> None:
    shared = Spec(priority=1)
    queue_state = fold(submitted(1), submitted(2, priority=2))
    queue_state.apply_all([replace(submitted(job_id), spec=shared) for job_id in (3, 4, 6, 5)])
    assert next_jobs(queue_state, 0.0) == [2, 3, 4, 5, 6, 1]


def test_last_id_can_be_raised_to_that_of_a_job_whose_records_are_gone() -> None:
    queue_state = fold(submitted(5))
    queue_state.last_id = 9
    with pytest.raises(Gone, match="job 7 has been removed"):
        queue_state.get(7)


def test_next_to_start_has_ready_jobs_before_delayed_ones() -> None:
    queue_state = fold(submitted(1, delay=5.0), submitted(2), submitted(3, priority=1))
    assert [job_id for job_id in queue_state.next_to_start() if job_id is not None] == [3, 2, 1]
