"""The backlog: a fold of the journal, and the line of those that wait, beside a model that looks at all."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskqd.backlog import EXPIRED_AT_ONCE, Backlog, IllegalMove, Position
from taskqd.errors import Gone, NoSuchJob
from taskqd.events import (
    Cancelled,
    Ended,
    Event,
    Opened,
    Output,
    Removed,
    Retried,
    Snapshot,
    Spawned,
    Started,
    Submitted,
)
from taskqd.job import MOVES, Job, Reason, Spec, Status
from taskqd.journal import Replay, encode


def _submitted(job_id: int, **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=float(job_id), owner="ann", spec=Spec(command="true", **spec))


def _started(job_id: int, attempt: int = 1) -> Started:
    return Started(id=job_id, at=100.0, attempt=attempt)


def _ended(job_id: int, status: Status, retry_at: float | None = None) -> Ended:
    return Ended(id=job_id, at=200.0, status=status, reason=Reason.EXIT, exit_code=3, retry_at=retry_at)


def _cancelled(job_id: int) -> Cancelled:
    return Cancelled(id=job_id, at=300.0, by="bob", signal=15)


def _retried(job_id: int) -> Retried:
    return Retried(id=job_id, at=400.0, by="bob")


def _removed(job_id: int) -> Removed:
    return Removed(id=job_id, at=500.0, by="bob")


def _fold(*events: Event) -> Backlog:
    backlog = Backlog()
    for event in events:
        backlog.apply(event)
    return backlog


def _line(backlog: Backlog, now: float) -> list[int]:
    """Take all that may start at ``now``, and return their ids in the order in which they came."""
    taken: list[int] = []
    while (job := backlog.take(now)) is not None:
        taken.append(job.id)
    return taken


# A job's life.

WAYS: dict[Status, tuple[Event, ...]] = {
    Status.PENDING: (_submitted(1),),
    Status.RUNNING: (_submitted(1), _started(1)),
    Status.COMPLETED: (_submitted(1), _started(1), _ended(1, Status.COMPLETED)),
    Status.FAILED: (_submitted(1), _started(1), _ended(1, Status.FAILED)),
    Status.CANCELLED: (_submitted(1), _cancelled(1)),
}
"""How a job comes to each status."""

EVENTS: list[Event] = [
    _started(1),
    Spawned(id=1, at=5.0, pid=9, started=8),
    _cancelled(1),
    _retried(1),
    _removed(1),
    *(_ended(1, status, retry_at=9.0) for status in Status),
]


def _outcome(status: Status, event: Event) -> Status | None:
    """Return where the table of moves lets an event lead, None if it forbids it."""
    allowed = MOVES.get((status, event.name), frozenset())
    if isinstance(event, Ended):
        return event.status if event.status in allowed else None
    (after,) = allowed or [None]
    return after


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: getattr(event, "status", event.name))
@pytest.mark.parametrize("status", Status)
def test_a_job_moves_as_the_table_has_it_and_no_other_way(status: Status, event: Event) -> None:
    backlog = _fold(*WAYS[status])
    after = _outcome(status, event)
    if after is None:
        with pytest.raises(
            IllegalMove, match=f"{event.name} cannot happen to job 1, which is {status.value}"
        ):
            backlog.apply(event)
        assert backlog == _fold(*WAYS[status])
        assert _line(backlog, 1000.0) == _line(_fold(*WAYS[status]), 1000.0)
    else:
        assert backlog.apply(event).status is after
        is_there = not isinstance(event, Removed)
        assert backlog.counts == {**dict.fromkeys(Status, 0), after: int(is_there)}
        assert bool(backlog.jobs) is is_there


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: getattr(event, "status", event.name))
def test_nothing_happens_to_a_job_that_is_not_there(event: Event) -> None:
    backlog = _fold(_submitted(2))
    with pytest.raises(IllegalMove, match=f"{event.name} cannot happen to job 1, which is unknown"):
        backlog.apply(event)
    assert backlog == _fold(_submitted(2))


def test_an_id_is_given_to_one_job_only() -> None:
    backlog = _fold(_submitted(1, key="k"))
    with pytest.raises(IllegalMove, match="job 1 was submitted twice"):
        backlog.apply(_submitted(1, key="other"))
    assert backlog == _fold(_submitted(1, key="k"))
    assert _line(backlog, 0.0) == [1]


def _known(backlog: Backlog, **expected: Any) -> None:
    job = backlog.get(1)
    assert {name: getattr(job, name) for name in expected} == expected


def test_what_is_known_of_a_job_follows_its_events() -> None:
    backlog = _fold(_submitted(1))
    _known(backlog, status=Status.PENDING, reason=Reason.QUEUED, submitted_at=1.0, attempt=None)
    _known(backlog, attempts=0, failures=0, not_before=None, completed_at=None, cancelling=None)
    backlog.apply(_started(1))
    _known(backlog, status=Status.RUNNING, reason=None, attempts=1, failures=0)
    backlog.apply(Spawned(id=1, at=101.0, pid=9, started=8))
    attempt = backlog.get(1).attempt
    assert attempt is not None
    assert (attempt.number, attempt.started_at, attempt.pid, attempt.pid_started) == (1, 100.0, 9, 8)
    backlog.apply(_ended(1, Status.PENDING, retry_at=250.0), (1, 0, 9))
    _known(
        backlog, status=Status.PENDING, reason=Reason.RETRYING, not_before=250.0, failures=1, exit_code=None
    )
    assert (attempt.exit_code, attempt.signal, attempt.progress, attempt.record) == (3, None, 0, (1, 0, 9))
    backlog.apply(_started(1, attempt=2))
    _known(backlog, not_before=None, attempts=2, completed_at=None)
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
    backlog.apply(end, (1, 10, 20))
    _known(backlog, status=Status.FAILED, reason=Reason.SIGNAL, completed_at=200.0, failures=2, exit_code=-9)
    attempt = backlog.get(1).attempt
    assert attempt is not None
    assert (attempt.number, attempt.ended_at, attempt.detail, attempt.progress) == (2, 200.0, "why", 42)
    assert (attempt.stdout_bytes, attempt.stdout_dropped, attempt.stdout_inline) == (2, 3, True)
    assert (attempt.stderr_bytes, attempt.stderr_dropped, attempt.stderr_inline) == (9000, 4, False)
    assert attempt.record == (1, 10, 20)
    backlog.apply(_retried(1))
    _known(backlog, status=Status.PENDING, reason=Reason.QUEUED, attempts=2, failures=0, completed_at=None)


def test_a_retry_without_a_time_is_due_at_once() -> None:
    backlog = _fold(_submitted(1), _started(1), _ended(1, Status.PENDING))
    _known(backlog, not_before=200.0)


def test_a_running_job_that_is_cancelled_runs_until_its_process_has_ended() -> None:
    backlog = _fold(_submitted(1), _started(1), _cancelled(1))
    _known(backlog, status=Status.RUNNING, cancelling=15, is_retryable=False)
    backlog.apply(_ended(1, Status.CANCELLED))
    _known(backlog, status=Status.CANCELLED, cancelling=None, failures=0, completed_at=200.0)


def test_a_pending_job_that_is_cancelled_has_ended() -> None:
    backlog = _fold(_submitted(1), _started(1), _ended(1, Status.PENDING, retry_at=500.0), _cancelled(1))
    _known(backlog, status=Status.CANCELLED, reason=Reason.CANCELLED, not_before=None, completed_at=300.0)


# Finding jobs.


def test_a_job_is_found_by_its_id_or_there_was_none() -> None:
    backlog = _fold(_submitted(2), _submitted(1))
    assert backlog.get(1).id == 1
    for job_id in (0, -1, 3, 10**30):
        with pytest.raises(NoSuchJob, match=f"there is no job {job_id}: the newest is 2"):
            backlog.get(job_id)


def test_a_job_that_was_removed_is_gone_and_its_key_is_free() -> None:
    backlog = _fold(
        _submitted(1, key="k"), _submitted(2), _started(1), _ended(1, Status.COMPLETED), _removed(1)
    )
    with pytest.raises(Gone, match="job 1 has been removed"):
        backlog.get(1)
    assert backlog.by_key("k") is None
    assert [job.id for job in backlog.walk(1)] == [2]
    backlog.apply(_submitted(3, key="k"))
    assert backlog.by_key("k") is backlog.get(3)


def test_the_removal_of_a_job_leaves_the_key_to_whoever_has_it_now() -> None:
    backlog = _fold(_submitted(1, key="k"), _cancelled(1), _submitted(2, key="k"), _removed(1))
    assert backlog.by_key("k") is backlog.get(2)


def test_a_removed_job_is_in_nobody_s_way() -> None:
    delayed = (_started(1), _ended(1, Status.PENDING, retry_at=250.0), _cancelled(1), _removed(1))
    backlog = _fold(_submitted(1), *delayed, _submitted(2))
    assert backlog.next_due() is None
    assert _line(backlog, 1000.0) == [2]
    backlog = _fold(_submitted(1), _cancelled(1), _removed(1))
    assert _line(backlog, 1000.0) == []
    assert _line(_fold(_submitted(1), *delayed), 1000.0) == []


# What has expired.


def _finished(count: int) -> Backlog:
    """Return a backlog of jobs that ended at 1.0, 2.0 and so on."""
    backlog = Backlog()
    for job_id in range(1, count + 1):
        backlog.apply(_submitted(job_id))
        backlog.apply(Cancelled(id=job_id, at=float(job_id), by="bob", signal=15))
    return backlog


def _remove(backlog: Backlog, ids: list[int]) -> list[int]:
    for job_id in ids:
        backlog.apply(_removed(job_id))
    return ids


@pytest.mark.parametrize(
    "before, most, ids",
    [
        (0.0, 10, []),
        (0.0, 5, []),
        (0.0, 4, [1]),
        (0.0, 0, [1, 2, 3, 4, 5]),
        (3.0, 10, [1, 2]),
        (3.5, 10, [1, 2, 3]),
        (3.0, 1, [1, 2, 3, 4]),
        (9.0, 10, [1, 2, 3, 4, 5]),
    ],
)
def test_jobs_expire_by_age_and_by_count_oldest_first(before: float, most: int, ids: list[int]) -> None:
    backlog = _finished(5)
    assert _remove(backlog, backlog.expired(before, most)) == ids
    assert backlog.expired(before, most) == []


def test_so_many_jobs_expire_at_once_and_no_more() -> None:
    backlog = _finished(EXPIRED_AT_ONCE + 3)
    assert len(_remove(backlog, backlog.expired(0.0, 0))) == EXPIRED_AT_ONCE
    assert len(_remove(backlog, backlog.expired(0.0, 0))) == 3
    assert backlog.expired(0.0, 0) == []


def test_a_retried_job_expires_by_its_last_end() -> None:
    backlog = _finished(2)
    backlog.apply(_retried(1))
    assert backlog.expired(9.0, 0) == [2]
    backlog.apply(Cancelled(id=1, at=7.0, by="bob", signal=15))
    backlog.apply(_removed(2))
    assert backlog.expired(7.0, 10) == []
    assert backlog.expired(7.5, 10) == [1]


def test_a_job_that_could_not_be_removed_expires_again() -> None:
    backlog = _finished(2)
    [job_id] = backlog.expired(0.0, 1)
    assert backlog.expired(0.0, 1) == []
    backlog.keep(job_id)
    assert backlog.expired(0.0, 1) == [job_id]
    backlog.apply(_retried(1))
    backlog.keep(1)
    assert backlog.expired(0.0, 1) == []


def test_jobs_on_their_way_out_do_not_count_twice() -> None:
    backlog = _finished(11)
    assert backlog.expired(0.0, 10) == [1]
    backlog.apply(_submitted(12))
    backlog.apply(Cancelled(id=12, at=12.0, by="bob", signal=15))
    assert backlog.expired(0.0, 10) == [2]


# Where ends stand.


@pytest.mark.parametrize(
    "record, attempt, moved",
    [
        ((3, 5, 9), 1, True),
        ((-2, 5, 9), 1, True),
        ((4, 5, 9), 1, False),
        ((3, 5, 9), 2, False),
    ],
)
def test_the_end_of_the_latest_attempt_moves_with_the_file_it_was_in(
    record: Position, attempt: int, moved: bool
) -> None:
    backlog = _fold(_submitted(1), _started(1))
    backlog.apply(_ended(1, Status.FAILED), record)
    backlog.relocate(1, attempt, 3, (-3, 0, 9))
    found = backlog.get(1).attempt
    assert found is not None
    assert found.record == ((-3, 0, 9) if moved else record)


def test_what_has_no_end_or_is_not_there_does_not_move() -> None:
    backlog = _fold(_submitted(1), _submitted(2), _started(2))
    for job_id in (1, 2, 3):
        backlog.relocate(job_id, 1, 3, (-3, 0, 9))
    attempt = backlog.get(2).attempt
    assert attempt is not None
    assert attempt.record is None


def test_an_attempt_that_is_free_does_not_count_against_the_retries() -> None:
    end = Ended(
        id=1, at=200.0, status=Status.PENDING, reason=Reason.INTERRUPTED, is_free=True, retry_at=200.0
    )
    backlog = _fold(_submitted(1), _started(1), end)
    _known(backlog, status=Status.PENDING, reason=Reason.RETRYING, failures=0, not_before=200.0)


def test_a_job_is_found_by_its_key() -> None:
    backlog = _fold(_submitted(1, key="k"), _submitted(2))
    assert backlog.by_key("k") is backlog.get(1)
    assert backlog.by_key("K") is None


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
def test_jobs_are_walked_by_id_in_both_directions(first: int, backwards: bool, ids: list[int]) -> None:
    backlog = _fold(_submitted(1), _submitted(4), _submitted(2))
    assert [job.id for job in backlog.walk(first, backwards)] == ids


def test_a_walk_shows_jobs_as_they_are_when_it_reaches_them() -> None:
    backlog = _fold(_submitted(1), _submitted(2))
    walk = backlog.walk(1)
    next(walk)
    backlog.apply(_cancelled(2))
    assert next(walk).status is Status.CANCELLED


def test_those_that_run_are_told() -> None:
    backlog = _fold(_submitted(1), _submitted(2), _submitted(3), _started(3), _started(1))
    assert sorted(job.id for job in backlog.running()) == [1, 3]


def test_backlogs_are_compared_by_what_is_known_and_not_by_their_line() -> None:
    backlog, other = _fold(_submitted(1)), _fold(_submitted(1))
    backlog.take(0.0)
    assert backlog == other
    other.apply(_started(1))
    assert backlog != other
    assert backlog != "a backlog"
    with pytest.raises(TypeError):
        hash(backlog)


# The line.


def test_the_lowest_id_is_first_whatever_came_first() -> None:
    assert _line(_fold(_submitted(3), _submitted(1), _submitted(2)), 0.0) == [1, 2, 3]


def test_a_replay_leaves_only_those_in_line_that_still_wait() -> None:
    backlog = _fold(
        *(_submitted(job_id) for job_id in range(1, 7)),
        *(_started(job_id) for job_id in (1, 2, 3)),
        _ended(1, Status.COMPLETED),
        _ended(2, Status.FAILED),
        _cancelled(4),
        _cancelled(5),
        _retried(5),
    )
    assert _line(backlog, 1000.0) == [5, 6]


def test_a_job_that_was_put_back_comes_again() -> None:
    backlog = _fold(_submitted(1), _submitted(2))
    job = backlog.take(0.0)
    assert job is not None
    backlog.put_back(job)
    assert _line(backlog, 0.0) == [1, 2]


def test_a_job_that_was_cancelled_while_taken_does_not_come_back_with_its_taker() -> None:
    backlog = _fold(_submitted(1))
    job = backlog.take(0.0)
    assert job is not None
    backlog.apply(_cancelled(1))
    backlog.put_back(job)
    assert _line(backlog, 0.0) == []
    backlog.apply(_retried(1))
    assert _line(backlog, 0.0) == [1]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_job_that_was_cancelled_and_retried_comes_once(times: int) -> None:
    backlog = _fold(_submitted(1), _submitted(2))
    for _ in range(times):
        backlog.apply(_cancelled(1))
        backlog.apply(_retried(1))
    assert _line(backlog, 0.0) == [1, 2]


RETRYING = (_submitted(1), _started(1), _ended(1, Status.PENDING, retry_at=500.0))


@pytest.mark.parametrize("now, ids", [(0.0, []), (499.999, []), (500.0, [1]), (1e9, [1])])
def test_a_delayed_job_comes_when_its_time_has_come(now: float, ids: list[int]) -> None:
    assert _line(_fold(*RETRYING), now) == ids


def test_a_delayed_job_that_was_cancelled_and_retried_does_not_wait() -> None:
    backlog = _fold(*RETRYING, _cancelled(1), _retried(1))
    assert _line(backlog, 0.0) == [1]
    assert _line(backlog, 1000.0) == []


def test_a_delayed_job_that_failed_again_for_the_same_moment_comes_once() -> None:
    again = (_cancelled(1), _retried(1), _started(1, 2), _ended(1, Status.PENDING, retry_at=500.0))
    backlog = _fold(*RETRYING, *again)
    assert _line(backlog, 499.0) == []
    assert _line(backlog, 500.0) == [1]


def test_a_delayed_job_is_not_lost_when_the_clock_is_set_back() -> None:
    backlog = _fold(*RETRYING, _submitted(2))
    backlog.apply(_cancelled(2))
    backlog.apply(_retried(2))
    assert backlog.take(600.0) is backlog.get(1)
    backlog.put_back(backlog.get(1))
    assert _line(backlog, 400.0) == [2]
    assert backlog.next_due() == 500.0
    assert _line(backlog, 500.0) == [1]


@pytest.mark.parametrize(
    "events, due",
    [
        ((), None),
        ((_submitted(1),), None),
        (RETRYING, 500.0),
        ((*RETRYING, _cancelled(1)), None),
        ((*RETRYING, _cancelled(1), _retried(1)), None),
        ((*RETRYING, _started(1, 2)), None),
        ((*RETRYING, _started(1, 2), _ended(1, Status.PENDING, retry_at=700.0)), 700.0),
        ((*RETRYING, _started(1, 2), _ended(1, Status.PENDING, retry_at=300.0)), 300.0),
        ((*RETRYING, _submitted(2), _started(2), _ended(2, Status.PENDING, retry_at=400.0)), 400.0),
    ],
)
def test_the_next_delayed_job_is_told_and_no_other(events: tuple[Event, ...], due: float | None) -> None:
    assert _fold(*events).next_due() == due


# Any legal walk, beside a model that keeps no order and looks at every job.


def _replayed(entries: Iterable[tuple[Event, Position | None]]) -> Backlog:
    """Write events as a journal does, and read them back into a new backlog, with their places."""
    events = list(entries)
    opened = Opened(at=0.0, format=1, store="s", boot="b", next_id=1)
    content = encode(opened, 1) + b"".join(
        encode(event, number) for number, (event, _) in enumerate(events, 2)
    )
    records = [record for record, _, _ in Replay().read("segment", content, None)][1:]
    backlog = Backlog()
    for record, (_, position) in zip(records, events, strict=True):
        assert not isinstance(record, Opened | Snapshot)
        backlog.apply(record, position)
    return backlog


class Walk(RuleBasedStateMachine):
    """Everything that a dispatcher may do to a backlog, by a clock that may be set back."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.events: list[tuple[Event, Position | None]] = []
        self.now = 0
        self.taken: dict[int, Job] = {}
        self.statuses: dict[int, Status] = {}
        self.not_before: dict[int, int] = {}

    def happen(self, event: Event, after: Status) -> None:
        position = (1, len(self.events), 1) if isinstance(event, Ended) else None
        self.backlog.apply(event, position)
        self.events.append((event, position))
        self.statuses[event.id] = after

    def of(self, *statuses: Status) -> list[int]:
        return sorted(job_id for job_id, status in self.statuses.items() if status in statuses)

    def waiting(self) -> list[int]:
        """The ids that may start now, looked for in the slow and sure way."""
        pending = (job_id for job_id in self.of(Status.PENDING) if job_id not in self.taken)
        return [job_id for job_id in pending if self.not_before.get(job_id, self.now) <= self.now]

    @rule(seconds=st.sampled_from([1, 2, 3, 10, -1, -4]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(job_id=st.integers(1, 40), key=st.none() | st.sampled_from(["a", "b"]))
    def submit(self, job_id: int, key: str | None) -> None:
        used = {event.id for event, _ in self.events}
        if job_id not in used and (key is None or self.backlog.by_key(key) is None):
            spec = Spec(command="true", key=key)
            self.happen(Submitted(id=job_id, at=self.now, owner="ann", spec=spec), Status.PENDING)

    @rule()
    def take(self) -> None:
        job = self.backlog.take(self.now)
        waiting = self.waiting()
        assert (job.id if job else None) == (waiting[0] if waiting else None)
        if job:
            self.taken[job.id] = job

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.taken)))
        attempt = self.taken.pop(job_id).attempts + 1
        self.not_before.pop(job_id, None)
        self.happen(Started(id=job_id, at=self.now, attempt=attempt), Status.RUNNING)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.taken)))
        self.backlog.put_back(self.taken.pop(job_id))

    @precondition(lambda self: self.of(Status.RUNNING))
    @rule(data=st.data(), pid=st.integers(2, 9))
    def spawn(self, data: st.DataObject, pid: int) -> None:
        job_id = data.draw(st.sampled_from(self.of(Status.RUNNING)))
        self.happen(Spawned(id=job_id, at=self.now, pid=pid), Status.RUNNING)

    @precondition(lambda self: self.of(Status.RUNNING))
    @rule(
        data=st.data(),
        after=st.sampled_from([Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.PENDING]),
        delay=st.integers(-1, 4),
    )
    def end(self, data: st.DataObject, after: Status, delay: int) -> None:
        job_id = data.draw(st.sampled_from(self.of(Status.RUNNING)))
        retry_at = self.now + delay if after is Status.PENDING else None
        if retry_at is not None:
            self.not_before[job_id] = retry_at
        output = Output.inline(b"x" * max(0, delay))
        self.happen(Ended(id=job_id, at=self.now, status=after, retry_at=retry_at, stdout=output), after)

    @precondition(lambda self: self.of(Status.RUNNING, Status.PENDING))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a job; the one who had taken it out of the line has it no more."""
        job_id = data.draw(st.sampled_from(self.of(Status.RUNNING, Status.PENDING)))
        is_running = self.statuses[job_id] is Status.RUNNING
        after = Status.RUNNING if is_running else Status.CANCELLED
        self.happen(Cancelled(id=job_id, at=self.now, by="bob", signal=15), after)
        self.not_before.pop(job_id, None)
        self.taken.pop(job_id, None)

    @precondition(lambda self: self.of(Status.COMPLETED, Status.FAILED, Status.CANCELLED))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ended = self.of(Status.COMPLETED, Status.FAILED, Status.CANCELLED)
        job_id = data.draw(st.sampled_from(ended))
        self.happen(Retried(id=job_id, at=self.now, by="bob"), Status.PENDING)

    @precondition(lambda self: self.of(Status.COMPLETED, Status.FAILED, Status.CANCELLED))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        ended = self.of(Status.COMPLETED, Status.FAILED, Status.CANCELLED)
        job_id = data.draw(st.sampled_from(ended))
        self.happen(Removed(id=job_id, at=self.now, by="bob"), Status.COMPLETED)
        del self.statuses[job_id]

    @invariant()
    def jobs_are_where_the_model_has_them(self) -> None:
        assert {job.id: job.status for job in self.backlog.walk(1)} == self.statuses
        assert {job.id: job.not_before for job in self.backlog.walk(1) if job.not_before is not None} == (
            self.not_before
        )

    @invariant()
    def counts_are_what_a_recount_gives(self) -> None:
        recount = Counter(job.status for job in self.backlog.jobs.values())
        assert self.backlog.counts == {status: recount[status] for status in Status}
        assert self.backlog.last_id == max((event.id for event, _ in self.events), default=0)

    @invariant()
    def the_backlog_is_what_a_replay_of_the_journal_gives(self) -> None:
        assert self.backlog == _replayed(self.events)

    def teardown(self) -> None:
        """Whatever happened, both the backlog and its replay have just the right jobs in line."""
        replayed = _replayed(self.events)
        self._check_line(self.backlog)
        self.taken.clear()
        self._check_line(replayed)

    def _check_line(self, backlog: Backlog) -> None:
        due_now = self.waiting()
        assert _line(backlog, self.now) == due_now
        later = [at for job_id, at in self.not_before.items() if job_id not in self.taken and at > self.now]
        assert backlog.next_due() == min(later, default=None)
        for job_id in due_now:
            backlog.put_back(backlog.get(job_id))
        self.now += 1000
        assert _line(backlog, self.now) == self.waiting()
        assert backlog.next_due() is None
        self.now -= 1000


def test_every_legal_walk_agrees_with_the_model_and_with_its_replay() -> None:
    run_state_machine_as_test(
        Walk, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
