"""Random walks over all commands of the engine, in any order, with failures and crashes."""

from collections import Counter
from collections.abc import Callable
from itertools import chain, product
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed

from taskqd.engine.submissions import NewJob
from taskqd.errors import TaskqError
from taskqd.model.events import Event, Removed, Scheduled, Started
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array
from taskqd.model.transitions import attempt_of
from taskqd.model.units import unpack_units
from taskqd.state.capacity import Constraint
from taskqd.state.queue_state import QueueState
from tests.fakes.engine import ACTOR, Harness, replayed
from tests.fakes.processes import COMPLETED, FAILED, lost

SLOTS, QUEUES, RESOURCES = 3, {"small": 1}, {"gpu": 2}
UNITS: dict[str, tuple[str, ...]] = {"gpu": ("a", "b")}
FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

NUMBERS = st.integers(0, 7)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["small", "other"]),
        "priority": st.integers(-1, 1),
        "slots": st.integers(1, 2),
        "needs": st.fixed_dictionaries({"gpu": st.integers(1, 2)}),
        "retries": st.integers(1, 2),
        "delay": st.sampled_from([0.0, 3.0]),
        "hold": st.just(True),
        "array": st.builds(Array, st.just(1), st.integers(1, 4), st.sampled_from([None, 1, 2])),
    },
)
AFTER = st.dictionaries(st.sampled_from(["after", "after_any", "after_fail"]), st.lists(NUMBERS, max_size=2))
SUBMISSIONS = st.tuples(st.just("submit"), OPTIONS, AFTER)
ENDS = st.tuples(st.sampled_from(["complete", "fail"]), NUMBERS)
STEPS = st.one_of(
    SUBMISSIONS,
    SUBMISSIONS,
    SUBMISSIONS,
    ENDS,
    ENDS,
    ENDS,
    st.tuples(st.just("keyed"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["cancel", "cascade", "retry", "remove", "hold", "release"]), NUMBERS),
    st.tuples(
        st.just("change"),
        NUMBERS,
        st.fixed_dictionaries(
            {},
            optional={
                "queue": st.sampled_from(["small", "other"]),
                "priority": st.integers(-1, 1),
                "slots": st.integers(1, 3),
                "delay": st.sampled_from([None, 2.0]),
            },
        ),
    ),
    st.tuples(st.sampled_from(["pause", "resume"]), st.sampled_from([None, "small", "other"])),
    st.tuples(st.just("resize"), st.sampled_from(["small", "other"]), st.sampled_from([None, 0, 1, 2])),
    st.tuples(
        st.just("set queue"),
        st.sampled_from(["small", "other"]),
        st.sampled_from(
            [{"fair": True}, {"fair": None}, {"rate": "2/m"}, {"rate": "1/s"}, {"rate": None, "fair": False}]
        ),
    ),
    st.tuples(
        st.sampled_from(["schedule", "unschedule", "pause schedule", "resume schedule", "run"]), NUMBERS
    ),
    st.tuples(st.just("sync"), st.integers(1, 4)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("advance"), st.sampled_from([1, 5, 70])),
    st.tuples(st.sampled_from(["fail the journal", "recover", "crash"])),
)


class Walk:
    """A harness, the ends that it has announced, and the results of the commands."""

    def __init__(self) -> None:
        self.answers: list[Deferred[Any]] = []
        self.numbers: list[int] = []
        self._open([])

    def _open(self, journal: list[Event]) -> None:
        self.harness = Harness(SLOTS, events=journal, queues=QUEUES, units=UNITS)
        self.announced: Counter[tuple[int, Status]] = Counter()
        self.limits: dict[str, int | None] = {"small": 1, "other": None}
        self.allocated: dict[str, int] = {}
        self.harness.engine.add_end_observer(lambda job: self.announced.update([(job.id, job.status)]))
        self.harness.engine.dispatcher.recover(lost(self.harness.engine, "it was killed"))
        self.since = len(self.harness.journal.events)
        self.harness.engine.start()

    def crash(self) -> None:
        """Start again with the events that are durable."""
        self.die()
        self._open(list(self.harness.journal.events))

    def die(self) -> None:
        """Make the journal fail for good, and cancel everything that waits for it."""
        self.harness.journal.fail("the daemon is dead")
        self.harness.engine.dispatcher.stop(requeue=False)

    def job(self, number: int) -> int:
        """Return the id of a known job, chosen by a number."""
        ids = list(self.harness.queue_state.jobs) or [1]
        return ids[number % len(ids)]

    def step(self, act: str, *details: Any) -> None:
        """Perform one step; a refused command is not an error."""
        answer = self._acts[act](self, *details)
        self.answers.append((answer or succeed(None)).addErrback(lambda failure: failure.trap(TaskqError)))

    def _submit(self, options: dict[str, Any], after: dict[str, list[int]]) -> "Deferred[Any]":
        if self.harness.queue_state.jobs:
            options = {**options, **{kind: tuple(map(self.job, which)) for kind, which in after.items()}}
        return self.harness.begin_submit(**options)

    def _keyed(self, number: int) -> "Deferred[Any]":
        return self.harness.begin_submit(f"echo {number // 2}", key=f"k{number % 2}")

    def _end(self, outcome: Any, number: int) -> None:
        running = sorted(self.harness.executor.running)
        if running:
            self.harness.executor.finish(running[number % len(running)], outcome)

    def _schedule(self, _: int) -> "Deferred[Any]":
        return self.harness.schedule(5.0).addCallback(self.numbers.append)

    def _run_of_schedule(self, number: int) -> "Deferred[Any]":
        schedules = list(self.harness.queue_state.schedules.by_id.values())
        if not schedules:
            return succeed(None)
        schedule = schedules[number % len(schedules)]
        return self.harness.engine.submissions.submit(
            NewJob(schedule.command, schedule.spec, ACTOR, schedule=schedule.id)
        )

    def _sync(self, count: int) -> None:
        for _ in range(count):
            if self.harness.journal.pending:
                self.harness.journal.sync()

    _acts: ClassVar[dict[str, Callable[..., Any]]] = {
        "submit": _submit,
        "keyed": _keyed,
        "cancel": lambda self, number: self.harness.cancel(self.job(number)),
        "cascade": lambda self, number: self.harness.cancel(self.job(number), cascade=True),
        "retry": lambda self, number: self.harness.retry(self.job(number)),
        "remove": lambda self, number: self.harness.remove(self.job(number)),
        "hold": lambda self, number: self.harness.hold(self.job(number)),
        "release": lambda self, number: self.harness.release(self.job(number)),
        "change": lambda self, number, values: self.harness.change(self.job(number), **values),
        "complete": lambda self, number: self._end(COMPLETED, number),
        "fail": lambda self, number: self._end(FAILED, number),
        "pause": lambda self, queue: self.harness.pause(queue),
        "resume": lambda self, queue: self.harness.resume(queue),
        "resize": lambda self, queue, slots: self.harness.resize(queue, slots),
        "set queue": lambda self, queue, values: self.harness.set_queue(queue, values),
        "schedule": _schedule,
        "unschedule": lambda self, number: self.harness.unschedule(number),
        "pause schedule": lambda self, number: self.harness.pause(schedule=number),
        "resume schedule": lambda self, number: self.harness.resume(schedule=number),
        "run": _run_of_schedule,
        "sync": _sync,
        "settle": lambda self: self.harness.settle(),
        "advance": lambda self, seconds: self.harness.clock.advance(seconds),
        "fail the journal": lambda self: self.harness.journal.fail(),
        "recover": lambda self: self.harness.journal.recover(),
        "crash": lambda self: self.crash(),
    }

    # Invariants.

    def check(self) -> None:
        """Check the invariants that hold at any moment."""
        queue_state, running = self.harness.queue_state, self.harness.executor.running
        assert queue_state == replayed(self.harness.journal.events, queue_state.capacity.totals)
        jobs = [queue_state.jobs[job_id] for job_id in running]
        assert all(job.status is Status.RUNNING for job in jobs)
        assert sum(job.spec.slots for job in jobs) <= SLOTS
        for name, total in RESOURCES.items():
            assert sum(job.spec.needs.get(name, 0) for job in jobs) <= total
        used_units = [unpack_units(attempt_of(job).units).get("gpu", ()) for job in jobs]
        assert [len(names) for names in used_units] == [job.spec.needs.get("gpu", 0) for job in jobs]
        assert len(set(chain(*used_units))) == sum(map(len, used_units))
        for name in ("small", "other"):
            used = sum(job.spec.slots for job in jobs if job.spec.queue == name)
            limit, allocated = (
                queue_state.queues.limit(name),
                queue_state.capacity.allocated(Constraint("queue", name)),
            )
            limits = limit, self.limits.get(name)
            assert used <= allocated
            assert None in limits or allocated <= max(self.allocated.get(name, 0), *filter(None, limits))
            self.limits[name], self.allocated[name] = limit, allocated
        for array in [job for job in queue_state.jobs.values() if job.spec.array and job.tasks]:
            at_once = array.spec.array.at_once if array.spec.array else None
            assert at_once is None or sum(job.array == array.id for job in jobs) <= at_once
        assert all(queue_state.jobs[job_id].status is Status.PENDING for job_id in self._unskipped())

    def _unskipped(self) -> list[int]:
        """Return the jobs to be skipped, without arrays, some tasks of which may have been cancelled."""
        unsatisfiable = self.harness.queue_state.dependencies.unsatisfiable
        return [job_id for job_id in unsatisfiable if self.harness.queue_state.jobs[job_id].tasks is None]

    def check_quiet(self) -> None:
        """Check that nothing is left to be done, when all events are durable."""
        queue_state, now = self.harness.queue_state, self.harness.clock.elapsed()
        assert not queue_state.dependencies.unsatisfiable
        holders = set(queue_state.capacity.units.describe("gpu").values())
        assert holders <= {None, *self.harness.executor.running}
        for job in queue_state.jobs.values():
            if job.tasks is not None or queue_state.reason(job, now) is not Reason.QUEUED:
                continue
            queue_state.capacity.rates.set_time(now)
            demands = queue_state.capacity.demands_of(job.spec, job.owner, job.array)
            can_start = queue_state.capacity.shortage(
                demands
            ) is None and not queue_state.capacity.exceeds_total(demands)
            assert not can_start or queue_state.ready_queue.reserved_for(job, now) is not None, (
                f"job {job.id} could start and does not"
            )
        assert self.announced == ends(self.harness.journal.events, self.since)

    def finish(self) -> None:
        """Let all jobs end."""
        self.harness.journal.recover()
        self.harness.settle()
        for queue in (None, "small", "other"):
            self.harness.resume(queue)
            self.harness.settle()
        for queue in ("small", "other"):
            self.harness.resize(queue, 0)
        self.harness.settle()
        for job in list(self.harness.queue_state.jobs.values()):
            if job.status is Status.PENDING and (job.array is None or job.is_held):
                self.harness.release(job.id)
        self.harness.settle()
        for _ in range(10_000):
            if self.harness.executor.running:
                self.harness.finish(min(self.harness.executor.running))
            elif any(not job.status.is_final for job in self.harness.queue_state.jobs.values()):
                assert self.harness.clock.getDelayedCalls(), "jobs are pending, and no timer is set"
                self.harness.clock.advance(3600)
                self.harness.settle()
            else:
                return
        raise AssertionError("the jobs do not end")


def ends(journal: list[Event], since: int) -> Counter[tuple[int, Status]]:
    """Count the ends that are announced by job and status, in the events from index ``since`` on.

    Those of tasks that end by an event of their array are not announced.
    """
    queue_state = QueueState()
    found: Counter[tuple[int, Status]] = Counter()
    for number, event in enumerate(journal):
        before = {job.id: job.status for job in queue_state.jobs.values()}
        queue_state.apply(event)
        if number >= since:
            for job in queue_state.jobs.values():
                if job.array is not None and job.id != getattr(event, "id", None):
                    continue
                if job.status.is_final and not before.get(job.id, Status.PENDING).is_final:
                    found[job.id, job.status] += 1
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=10) | st.lists(STEPS, min_size=20, max_size=100))
def test_walk_loses_no_job_announces_each_end_once_and_respects_all_limits(steps: list[Any]) -> None:
    walk = Walk()
    for act in steps:
        walk.step(*act)
        walk.check()
        if walk.harness.journal.failure is None and not walk.harness.journal.pending:
            walk.check_quiet()
    walk.finish()
    walk.check()
    walk.check_quiet()
    journal = walk.harness.journal.events
    starts = [(event.id, event.attempt) for event in journal if isinstance(event, Started)]
    assert len(set(starts)) == len(starts)
    scheduled = [event.schedule for event in journal if isinstance(event, Scheduled)]
    assert len(set(scheduled)) == len(scheduled)
    assert len(set(walk.numbers)) == len(walk.numbers)
    gone = {event.id for event in journal if isinstance(event, Removed)}
    assert not gone & set(walk.harness.queue_state.jobs)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=50), st.lists(STEPS, max_size=10))
def test_failed_journal_changes_nothing(before: list[Any], after: list[Any]) -> None:
    walk = Walk()
    for act in before:
        walk.step(*act)
    walk.harness.journal.recover()
    walk.harness.journal.fail()
    starts = len(walk.harness.executor.runs)
    known = replayed(walk.harness.journal.events)
    assert walk.harness.queue_state == known
    for act in after:
        if act[0] not in ("recover", "crash"):
            walk.step(*act)
    assert walk.harness.queue_state == known
    assert len(walk.harness.executor.runs) == starts
    walk.die()


# Two commands beside an array of two tasks in one slot, at every moment between its events.

ARRAY: tuple[Any, ...] = ("submit", {"array": Array(1, 2), "slots": 3}, {})
COMMANDS: list[tuple[Any, ...]] = [
    *((act, number) for act in ("cancel", "hold", "release", "retry", "remove") for number in (0, 1)),
    ("change", 0, {"slots": 2}),
    ("cascade", 0),
    ("complete", 0),
    ("fail", 0),
    ("pause", None),
    ("resume", None),
]


SAMPLE_STEP = 12
"""Every n-th pair of commands is tried, starting at another one for each first command; 1 tries all."""


@pytest.mark.parametrize("first", COMMANDS, ids=str)
@pytest.mark.parametrize("has_ended", [False, True])
def test_two_concurrent_commands_both_take_effect_or_are_refused(
    first: tuple[Any, ...], has_ended: bool
) -> None:
    pairs = list(product(COMMANDS, range(7), range(3)))
    for second, place, gap in pairs[COMMANDS.index(first) % SAMPLE_STEP :: SAMPLE_STEP]:
        cross(first, second, place, place + gap, has_ended)


def cross(first: tuple[Any, ...], second: tuple[Any, ...], place: int, later: int, has_ended: bool) -> None:
    """Give two commands, each after a number of durable events, and check the invariants."""
    walk = Walk()
    walk.step(*ARRAY)
    walk.step("submit", {}, {"after": [0]})
    if has_ended:
        walk.harness.settle()
        walk.harness.finish(2)
        walk.harness.finish(3, FAILED)
        walk.step("retry", 2)
    for synced in range(9):
        if synced == place:
            walk.step(*first)
        if synced == later:
            walk.step(*second)
        walk.step("sync", 1)
        walk.check()
    walk.harness.settle()
    walk.check_quiet()
    assert all(answer.called for answer in walk.answers)
    walk.finish()
    walk.check()
    walk.check_quiet()
