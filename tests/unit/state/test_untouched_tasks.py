"""Counted tasks behave as tasks that are objects do: both states get the same random events, and agree.

In ``counted`` a task becomes an object by its first event, as always. In ``objects`` all tasks are touched
when they are submitted, so that each event is applied to each task alone.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Configured,
    Continued,
    Ended,
    Event,
    Held,
    JobEvent,
    Paused,
    Released,
    Removed,
    Resumed,
    Retried,
    Skipped,
    Spawned,
    Started,
    Submitted,
    Suspended,
)
from taskqd.model.job import Job, Reason, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Array, Spec
from taskqd.state import job_changes
from taskqd.state.capacity import CapacityTotals
from taskqd.state.errors import InvalidTransition
from taskqd.state.explain import explain
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.support import journals

LIMITS = CapacityTotals(slots=3, queues={"q": 2}, resources={"gpu": 2})
QUEUES = ("default", "q", "r")
FILTERS = [
    *(JobFilter(statuses=frozenset({status})) for status in Status),
    *(JobFilter(queue=queue) for queue in QUEUES),
    JobFilter(owner="bob", statuses=frozenset({Status.PENDING})),
    JobFilter(label="x"),
]
CHANGES: list[dict[str, Any]] = [
    {"queue": "r"},
    {"queue": "q"},
    {"priority": 9},
    {"priority": -9},
    {"slots": 2},
    {"needs": {"gpu": 1}},
    {"label": "x"},
    {"at": 8.0, "delay": None},
    {"at": None, "delay": None},
]
ARRAYS = st.builds(Array, st.just(3), st.integers(3, 8), st.sampled_from([None, None, 1, 2]))
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "array": ARRAYS,
        "queue": st.sampled_from(QUEUES),
        "priority": st.sampled_from([0, 0, 5]),
        "hold": st.booleans(),
        "delay": st.just(3.0),
        "needs": st.just({"gpu": 1}),
        "after": st.tuples(st.integers(1, 15)),
        "after_fail": st.tuples(st.integers(1, 15)),
    },
)
ACTS = (Held, Released, Suspended, Continued, Cancelled, Retried, Removed, Changed, Skipped)
ACT = st.tuples(st.sampled_from(ACTS), st.integers(0, 40))
RUN = st.tuples(st.just("run"), st.sampled_from([None, None, *Status]))
STEP = st.one_of(
    st.tuples(st.just("submit"), SPECS),
    *[ACT] * 4,
    *[RUN] * 4,
    st.tuples(st.just("void"), st.none()),
    st.tuples(st.just("time"), st.sampled_from([1, 4, 70, -5])),
    st.tuples(st.just("queue"), st.integers(0, 5)),
)
STEPS = st.lists(STEP, max_size=10) | st.lists(STEP, min_size=30, max_size=60)
DECISIONS: list[Event] = [
    Paused(at=1.0, by="bob", queue="q"),
    Resumed(at=1.0, by="bob", queue="q"),
    Configured(at=1.0, by="bob", queue="default", setting="fair", value=True),
    Configured(at=1.0, by="bob", queue="default", setting="fair", value=None),
    Configured(at=1.0, by="bob", queue="q", setting="rate", value="3/m"),
    Configured(at=1.0, by="bob", queue="q", setting="rate", value=None),
]


def known(queue_state: QueueState) -> dict[int, Any]:
    """Return all jobs by id; of an array, only what can be seen of its tasks."""
    jobs: dict[int, Any] = {}
    for job_id, job in queue_state.jobs.items():
        tasks = job.tasks and {status: count for status, count in job.tasks.counts.items() if count}
        jobs[job_id] = replace(job, tasks=None, ahead=0.0), tasks, job.ended if job.array is None else None
    return jobs


def refusal(queue_state: QueueState, event: Event) -> str | None:
    """Apply an event; return why that is not possible, None if it is."""
    try:
        queue_state.apply(event)
    except InvalidTransition as why:
        return str(why)
    return None


class Pair:
    """Both states, and the events that they got."""

    def __init__(self) -> None:
        self.counted, self.objects = QueueState(LIMITS), QueueState(LIMITS)
        self.events: list[Event] = []
        self.now = 0.0
        self.running: list[int] = []

    @property
    def both(self) -> tuple[QueueState, QueueState]:
        return self.counted, self.objects

    def apply(self, event: Event) -> bool:
        """Apply an event to both states; return whether it was possible."""
        errors = [refusal(queue_state, event) for queue_state in self.both]
        assert errors[0] == errors[1]
        self.touch_all(self.objects)
        if errors[0] is None:
            self.events.append(event)
        return errors[0] is None

    @staticmethod
    def touch_all(queue_state: QueueState) -> None:
        for array in list(queue_state.jobs.arrays()):
            assert array.tasks is not None
            for task in list(array.tasks.untouched):
                queue_state.jobs.touch(queue_state.jobs[task])
                queue_state.release(task)  # adds it to the delay queue

    def submit(self, options: dict[str, Any]) -> None:
        owner = "bob" if options.get("priority") else "ann"
        last_id = self.counted.last_id
        for kind in ("after", "after_fail"):  # only jobs that exist can be named
            options = {**options, kind: tuple(each for each in options.get(kind, ()) if each <= last_id)}
        event = Submitted(id=last_id + 1, at=self.now, owner=owner, spec=Spec(**options))
        assert self.apply(event)

    def act(self, kind: type[JobEvent], number: int) -> None:
        """Act on a job; mostly on one to which the act is possible, and often on an array."""
        jobs = list(self.counted.jobs.values())
        if number % 4:
            is_final = kind in (Retried, Removed)
            jobs = [job for job in jobs if job.status.is_final is is_final] or jobs
        if number % 3:
            jobs = [job for job in jobs if job.tasks is not None] or jobs
        if not jobs:
            return
        job = jobs[number % len(jobs)]
        more: dict[str, Any] = {"by": "bob"}
        if kind is Changed:
            if job.array is not None:
                return
            more["spec"] = replace(job.spec, **CHANGES[number % len(CHANGES)])
        elif kind is Cancelled:
            more["signal"] = 15
        elif kind is Skipped:
            cause = self.counted.dependencies.unsatisfiable.get(job.id)
            if cause is None:
                return
            more = {"dependency": cause}
        elif kind is Removed and (job.array is not None or self.counted.reason_to_keep(job.id) is not None):
            return
        self.apply(kind(id=job.id, at=self.now, **more))

    def run(self, end: Status | None) -> None:
        """Start the next job if there is one, and let the one end that has run for the longest time."""
        jobs = [queue_state.next_job(self.now) for queue_state in self.both]
        assert [job and job.id for job in jobs] == [jobs[0] and jobs[0].id] * 2
        if jobs[0] is not None:
            self._start(jobs[0])
        if end not in (None, Status.RUNNING) and self.running:
            self._end(Ended(id=self.running[0], at=self.now, status=end, reason=Reason.EXIT, exit_code=3))

    def void(self, _: None) -> None:
        if self.running:
            self._end(Ended(id=self.running[-1], at=self.now, status=Status.PENDING, is_void=True))

    def _start(self, job: Job) -> None:
        may_start = [queue_state.may_start(queue_state.jobs[job.id], self.now) for queue_state in self.both]
        assert may_start[0] == may_start[1]
        if may_start[0] and job.id % 5:
            attempt = self.counted.jobs[job.id].attempts + 1
            assert self.apply(Started(id=job.id, at=self.now, attempt=attempt))
            assert self.apply(Spawned(id=job.id, at=self.now, pid=job.id))
            self.running.append(job.id)
        else:  # it is not started after all
            for queue_state in self.both:
                queue_state.release(job.id)
            self.now += 1.0 if job.id % 5 == 0 and self.counted.jobs[job.id].is_held else 0.0

    def _end(self, event: Ended) -> None:
        if event.status is Status.PENDING and not event.is_void:
            event = replace(event, retry_at=self.now + 2.0)
        assert self.apply(event)
        self.running.remove(event.id)
        for queue_state in self.both:
            queue_state.release(event.id)

    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    def decide(self, number: int) -> None:
        self.apply(replace(DECISIONS[number], at=self.now))

    def check(self) -> None:
        """Check that all that can be seen of both states is the same."""
        counted, objects = self.both
        assert known(counted) == known(objects)
        for name in ("counts", "last_id", "pending_bytes", "queues", "schedules"):
            assert getattr(counted, name) == getattr(objects, name), name
        for owner in ("ann", "bob"):
            assert counted.pending_of(owner) == objects.pending_of(owner)
            assert counted.pending_bytes_of(owner) == objects.pending_bytes_of(owner)
        # Which of several failed dependencies is named depends on the order in which tasks are changed.
        assert counted.dependencies.unsatisfiable.keys() == objects.dependencies.unsatisfiable.keys()
        assert counted.needs_scheduling or not objects.needs_scheduling
        assert counted.next_due(self.now) == objects.next_due(self.now)
        assert [self._retained(each) for each in self.both] == [self._retained(counted)] * 2
        for wanted in FILTERS:
            assert self._found(counted, wanted) == self._found(objects, wanted)
        for job_id in counted.jobs.keys() - counted.dependencies.unsatisfiable.keys():
            assert self._explained(counted, job_id) == self._explained(objects, job_id)

    def _explained(self, queue_state: QueueState, job_id: int) -> object:
        job = queue_state.jobs[job_id]
        return explain(queue_state, job, self.now), queue_state.reason(job, self.now)

    @staticmethod
    def _retained(queue_state: QueueState) -> tuple[int, int, int]:
        index = queue_state.retention_index
        return index.count, index.bytes, index.memory

    @staticmethod
    def _found(queue_state: QueueState, wanted: JobFilter) -> list[int]:
        """Return the jobs that match, and check that the index finds them all."""
        found = [job_id for job_id in queue_state.index.find(wanted, 1, queue_state.last_id) if job_id]
        matching = [job_id for job_id, job in queue_state.jobs.items() if wanted.admits(job)]
        assert [job_id for job_id in found if wanted.admits(queue_state.jobs[job_id])] == sorted(matching)
        return matching

    def check_replay(self) -> None:
        """Check that a replay of the journal, and of a snapshot of it, gives the same state."""
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            journals.write(directory, self.events, [])
            assert journals.fold(journals.replay(directory)) == self.counted
            segments = Segments(str(directory), Filesystem())
            SnapshotWriter(segments, Filesystem(), 1).write()
            compacted = journals.fold(journals.replay(directory))
            assert self._without_pids(compacted) == self._without_pids(self.counted)

    @staticmethod
    def _without_pids(queue_state: QueueState) -> dict[int, Any]:
        """Return all jobs without the pids of attempts, of which a snapshot omits some."""
        jobs = {}
        for job_id, (job, *others) in known(queue_state).items():
            attempts = [each and replace(each, pid=None) for each in (*job.past, job.attempt)]
            jobs[job_id] = (
                replace(job, extras=replace(job.extras, past=()), last_attempt=None),
                attempts,
                others,
            )
        return jobs

    def drain(self) -> Iterator[tuple[int | None, int | None]]:
        """Yield what both states start next, until both have started all."""
        while True:
            first, second = (queue_state.next_job(self.now) for queue_state in self.both)
            yield None if first is None else first.id, None if second is None else second.id
            if first is None and second is None:
                return


STEP_METHODS: dict[str, Callable[[Pair, Any], object]] = {
    "submit": Pair.submit,
    "run": Pair.run,
    "void": Pair.void,
    "time": Pair.pass_time,
    "queue": Pair.decide,
}


@settings(max_examples=50, deadline=None)
@given(st.lists(SPECS, min_size=1, max_size=3), STEPS)
def test_counted_tasks_agree_with_tasks_that_are_objects(
    first: list[dict[str, Any]], steps: list[tuple[Any, Any]]
) -> None:
    pair = Pair()
    for options in first:
        pair.submit(options)
    for what, value in steps:
        if isinstance(what, str):
            STEP_METHODS[what](pair, value)
        else:
            pair.act(what, value)
        pair.check()
    pair.check_replay()
    for mine, theirs in pair.drain():
        assert mine == theirs


# Portions.


def test_act_on_many_touched_tasks_is_applied_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_changes, "PORTION_COST", 2 * (job_changes.MOVE_COST + 1))
    pair = Pair()
    pair.submit({"array": Array(1, 6)})
    for task in range(2, 7):
        pair.apply(Cancelled(id=task, at=1.0, by="bob", signal=15))
    counted, retried = pair.counted, Retried(id=1, at=2.0, by="bob")
    with pytest.raises(InvalidTransition):
        counted.apply(retried, in_portions=True)
    held = Held(id=1, at=2.0, by="bob")
    pair.apply(Cancelled(id=1, at=2.0, by="bob", signal=15))
    counted.apply(retried, in_portions=True)
    pending: list[int] = []
    while counted.is_changing(1):
        pending.append(counted.get(1).count_of(Status.PENDING))
        counted.continue_change(1)
    assert pending == [3, 5], "the untouched task and two others, then two more"
    assert not counted.continue_change(1)
    assert not counted.has_changes
    assert counted.get(1).count_of(Status.PENDING) == 6
    pair.objects.apply(retried)
    pair.check()
    counted.apply(held, in_portions=True)
    assert counted.is_changing(1)
    assert counted.has_changes
    assert not counted.jobs[6].is_held
    counted.apply(Released(id=4, at=3.0, by="bob"))
    assert not counted.is_changing(1), "an event of a task completes the change first"
    assert counted.jobs[6].is_held
    for event in (held, Released(id=4, at=3.0, by="bob")):
        pair.objects.apply(event)
    pair.check()
