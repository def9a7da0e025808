"""Random legal walks over the queue state, compared with a simple model without indexes or order."""

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
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
from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Continued,
    Ended,
    Event,
    Held,
    JobEvent,
    Opened,
    Output,
    Paused,
    RecordPosition,
    Released,
    Removed,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Snapshot,
    Spawned,
    Started,
    Submitted,
    Suspended,
    Unscheduled,
)
from taskqd.model.footprint import GROUP_BYTES, footprint_of, footprint_of_kept, group_of
from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Array, Spec
from taskqd.state.capacity import CapacityTotals
from taskqd.state.dependencies import Kind, dependencies_of
from taskqd.state.errors import InvalidTransition
from taskqd.state.job_search import find_jobs
from taskqd.state.queue_state import QueueState
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.replay import Replay

LIMITS = CapacityTotals(slots=3, queues={"q": 2}, resources={"gpu": 2})
OWNERS = ["ann", "bob"]
QUEUES = ("default", "q", "r")

P, R, C, F, X = Status
ENDS = (C, F, X, P)
FILTERS = [
    JobFilter(),
    JobFilter(statuses=frozenset({P})),
    JobFilter(statuses=frozenset({R, F, X})),
    JobFilter(owner="ann", statuses=frozenset({P, C})),
    JobFilter(owner="bob", queue="r"),
    JobFilter(queue="default"),
    JobFilter(label="x"),
    JobFilter(label="x", queue="q", owner="ann", statuses=frozenset({R})),
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


def _replayed(entries: Iterable[tuple[Event, RecordPosition | None]], is_open: bool = True) -> QueueState:
    """Encode and decode events like the journal, and apply them to a new state, with their positions."""
    events = list(entries)
    opened = Opened(at=0.0, format=2, store="s", boot="b", next_id=1)
    content = encode(opened, 1) + b"".join(
        encode(event, number) for number, (event, _) in enumerate(events, 2)
    )
    _, *split_events = Replay().read_segment("segment", content, None)
    records = [record for portion in split_events for record in portion.records]
    queue_state = QueueState(LIMITS, is_open)
    for record, (_, position) in zip(records, events, strict=True):
        assert not isinstance(record, Opened | Snapshot)
        queue_state.apply(record, position)
    queue_state.open()
    return queue_state


@dataclass
class Model:
    """A job, a task or an array in the model."""

    id: int
    spec: Spec
    status: Status = P
    is_held: bool = False
    not_before: float | None = None
    started_at: float = 0.0
    completed_at: float | None = None
    array: "Model | None" = None
    tasks: list["Model"] = field(default_factory=list)
    open: set[tuple[Kind, int]] = field(default_factory=set)
    failed: set[tuple[Kind, int]] = field(default_factory=set)
    cause: int | None = None
    suspended_at: float | None = None
    is_cancelling: bool = False

    @property
    def parts(self) -> list["Model"]:
        return self.tasks or [self]

    @property
    def whole(self) -> "Model":
        return self.array or self

    @property
    def is_ready(self) -> bool:
        is_blocked = self.whole.waiting or self.whole.suspended_at is not None
        return self.status is P and not self.is_held and not is_blocked

    @property
    def waiting(self) -> int:
        return len(self.open) + len(self.failed)

    @property
    def rank(self) -> tuple[int, int]:
        return -self.spec.priority, self.id

    @property
    def demands(self) -> Counter[str]:
        at_once = self.spec.array.at_once if self.spec.array else None
        return Counter(
            {
                "slots": self.spec.slots,
                f"queue {self.spec.queue}": self.spec.slots,
                **self.spec.needs,
                **({f"array {self.whole.id} {at_once}": 1} if at_once else {}),
            }
        )

    def aggregate(self) -> Status:
        """Return the status of an array by the rule in docs/protocol.md."""
        present = {task.status for task in self.tasks}
        if present <= {P, X} and P in present:
            return P
        if present & {P, R}:
            return R
        return F if F in present else X if X in present else C


def _counts_as_pending(job: Job) -> bool:
    """Whether the bytes of a job or array count as pending, by the rule in docs/security.md."""
    if job.tasks is not None:
        return not job.status.is_final
    return job.array is None and job.status is P


class Walk(RuleBasedStateMachine):
    """All that the engine may do with a queue state, with a clock that may be set back."""

    def __init__(self) -> None:
        super().__init__()
        self.queue_state = QueueState(LIMITS)
        self.events: list[tuple[Event, RecordPosition | None]] = []
        self.now = 0.0
        self.models: dict[int, Model] = {}
        self.allocated: dict[int, Counter[str]] = {}
        self.last_id = 0
        self.paused: set[str | None] = set()
        self.resized: dict[str, int | None] = {}
        self.slots = LIMITS.slots
        self.schedules: dict[int, int | None] = {}
        self.last_schedule = 0
        self.next_wakeup: float | None = None

    # The model.

    def happen(self, event: Event) -> None:
        position = (1, len(self.events), 1) if isinstance(event, Ended) else None
        job = self.queue_state.apply(event, position)
        assert (job.id if job else None) == (event.id if isinstance(event, JobEvent) else None)
        self.events.append((event, position))

    def units(self, *statuses: Status) -> list[Model]:
        """Return the jobs and tasks with one of some statuses."""
        return [one for one in self.models.values() if not one.tasks and one.status in statuses]

    def wholes(self) -> list[Model]:
        return [one for one in self.models.values() if one.array is None]

    def ended(self) -> list[Model]:
        """Return the jobs and arrays that have ended, in the order of their ends."""
        ended = [one for one in self.wholes() if one.completed_at is not None]
        return sorted(ended, key=lambda one: (one.completed_at, one.id))

    def unsatisfiable(self) -> dict[int, int]:
        return {one.id: one.cause for one in self.models.values() if one.cause is not None}

    def is_needed(self, one: Model) -> bool:
        ids = {one.id, *(task.id for task in one.tasks)}
        return one.id in self.schedules.values() or any(other.cause in ids for other in self.models.values())

    def is_paused(self, queue: str) -> bool:
        return None in self.paused or queue in self.paused

    def limit(self, name: str) -> int | None:
        kind, _, rest = name.partition(" ")
        if kind == "queue":
            resized = self.resized.get(rest)
            return LIMITS.queues.get(rest) if resized is None else resized or None
        return int(rest.split()[1]) if kind == "array" else {"slots": self.slots, "gpu": 2}[kind]

    def used(self) -> Counter[str]:
        used: Counter[str] = Counter()
        for wanted in self.allocated.values():
            used.update(wanted)
        return used

    def fits(self, one: Model) -> bool:
        used = self.used()
        limits = {name: self.limit(name) for name in one.demands}
        return all(limits[n] is None or used[n] + amount <= limits[n] for n, amount in one.demands.items())  # type: ignore[operator]

    def ready(self, now: float) -> list[Model]:
        """Return what waits only for capacity, by rank."""
        found = [
            one
            for one in self.units(P)
            if one.id not in self.allocated
            and one.is_ready
            and (one.not_before is None or one.not_before <= now)
            and not self.is_paused(one.spec.queue)
        ]
        return sorted(found, key=lambda one: one.rank)

    def add_dependencies(self, one: Model) -> None:
        """Make a job wait for its dependencies that exist."""
        self.forget(one)
        for kind, job_id in dependencies_of(one.spec):
            other = self.models.get(job_id)
            if other is None:
                continue
            if not other.status.is_final:
                one.open.add((kind, job_id))
            elif not kind.accepts(other.status):
                self.fail(one, kind, other)

    def fail(self, one: Model, kind: Kind, other: Model) -> None:
        """Make a job unsatisfiable because of another, whatever that one does later."""
        one.failed.add((kind, other.id))
        if one.cause is None:
            one.cause = other.id

    def forget(self, one: Model) -> None:
        one.open, one.failed, one.cause = set(), set(), None

    def move(self, one: Model, after: Status, at: float | None = None, **known: Any) -> None:
        """Change the status of a job or task, now or earlier, and what depends on it."""
        before, one.status = one.status, after
        for name, value in known.items():
            setattr(one, name, value)
        self.settle(one, before, self.now if at is None else at)
        if one.array is not None:
            before, one.array.status = one.array.status, one.array.aggregate()
            ends = [task.completed_at for task in one.array.tasks if task.completed_at is not None]
            self.settle(one.array, before, min(self.now, max(ends, default=self.now)))

    def settle(self, one: Model, before: Status, at: float) -> None:
        one.completed_at = at if one.status.is_final else None
        if one.status.is_final or (one.status is P and not one.tasks):
            one.suspended_at, one.is_cancelling = None, False
        if not one.status.is_final or before.is_final:
            return
        self.forget(one)
        for other in self.models.values():
            for kind in Kind:
                if (kind, one.id) in other.open:
                    other.open.discard((kind, one.id))
                    if not kind.accepts(one.status):
                        self.fail(other, kind, one)

    # Rules: what may happen.

    @rule(seconds=st.sampled_from([1, 2, 3, 10, 50, 70, -1, -4]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        data=st.data(),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 0, -1, 5]),
        slots=st.sampled_from([1, 1, 1, 2, 3]),
        gpu=st.sampled_from([0, 0, 1, 2]),
        time=st.sampled_from([{}, {}, {"hold": True}, {"delay": 3.0}, {"at": 4.0}]),
        array=st.none() | st.builds(Array, st.just(3), st.integers(3, 5), st.sampled_from([None, 1, 2])),
    )
    def submit(self, data: st.DataObject, **asked: Any) -> None:
        owner = data.draw(st.sampled_from(OWNERS))
        spec = self._spec(data, owner, **asked)
        job_id = self.last_id + data.draw(st.integers(1, 2))
        schedule = data.draw(st.sampled_from([None, None, 7, *self.schedules]))
        event = Submitted(id=job_id, at=self.now, owner=owner, spec=spec, schedule=schedule)
        self.last_id = event.last_id
        self.happen(event)
        if schedule in self.schedules:
            self.schedules[schedule] = job_id
        at = spec.at if spec.delay is None else self.now + spec.delay
        one = self.models[job_id] = Model(job_id, spec, is_held=spec.hold, not_before=at)
        for task_id in range(job_id + 1, event.last_id + 1):
            task = Model(task_id, spec, is_held=spec.hold, not_before=at, array=one)
            self.models[task_id] = task
            one.tasks.append(task)
        self.add_dependencies(one)

    def _spec(self, data: st.DataObject, owner: str, gpu: int, time: dict[str, Any], **asked: Any) -> Spec:
        known = sorted(self.models)
        after: dict[str, Any] = {}
        if known:
            some = st.lists(st.sampled_from(known), max_size=2).map(tuple)
            kinds = data.draw(st.sampled_from([(), (), ("after",), ("after_any",), ("after_fail", "after")]))
            after = {kind: data.draw(some) for kind in kinds}
        key = data.draw(st.sampled_from([None, "a", "b"]))
        needs = {"gpu": gpu} if gpu else {}
        is_unused = key is None or self.queue_state.by_key(key, owner) is None
        return Spec(key=key if is_unused else None, needs=needs, **asked, **time, **after)

    @rule(ends=st.lists(st.sampled_from([None, *ENDS]), min_size=1, max_size=4))
    def go_on(self, ends: list[Status | None]) -> None:
        """Allocate and start one job after the other, and end some of them."""
        for end in ends:
            one = self._next_job(self.queue_state, self.now)
            if one is not None:
                self._start(one)
                if end is not None and one.status is R:
                    self._end(one, end, 1, None)
                    self._release(one.id)

    @rule()
    def allocate(self) -> None:
        self._next_job(self.queue_state, self.now)

    def _next_job(self, queue_state: QueueState, now: float) -> Model | None:
        """The next job is the first by rank that fits and is not blocked by a reservation."""
        fitting = [one for one in self.ready(now) if self.fits(one)]
        job = queue_state.next_job(now)
        for one in fitting:
            if job is not None and one.id == job.id:
                self.allocated[one.id] = one.demands
                return one
            self._check_is_blocked(one, queue_state, now)
        assert job is None
        self.next_wakeup = queue_state.next_due(now)
        return None

    def _check_is_blocked(self, one: Model, queue_state: QueueState, now: float) -> None:
        """A reservation blocks a job only for one of lower rank that does not fit and shares a constraint."""
        reserved_for = queue_state.ready_queue.reserved_for(queue_state.get(one.id), now)
        assert reserved_for is not None, f"{one.id} waits though capacity is available"
        other = self.models[reserved_for]
        assert other.rank < one.rank
        assert other in self.ready(now)
        assert not self.fits(other)
        assert set(other.demands) & set(one.demands)

    @precondition(lambda self: self.allocated)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        one = self.models.get(data.draw(st.sampled_from(sorted(self.allocated))))
        if one is not None and one.status is P:
            self._start(one)

    def _start(self, one: Model) -> None:
        """Start an allocated job, unless an event prevents it."""
        is_due = (
            one.is_ready
            and (one.not_before is None or one.not_before <= self.now)
            and self.allocated[one.id] == one.demands
            and not self.is_paused(one.spec.queue)
        )
        job = self.queue_state.get(one.id)
        assert self.queue_state.may_start(job, self.now) == is_due
        if is_due:
            self.happen(Started(id=one.id, at=self.now, attempt=job.attempts + 1))
            self.move(one, R, not_before=None, started_at=self.now)

    @precondition(lambda self: self.allocated)
    @rule(data=st.data())
    def release_allocation(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.allocated)))
        one = self.models.get(job_id)
        if one is None or one.status is not R:
            self._release(job_id)

    def _release(self, job_id: int) -> None:
        self.queue_state.release(job_id)
        del self.allocated[job_id]

    @precondition(lambda self: self.units(R))
    @rule(data=st.data(), pid=st.integers(2, 9))
    def spawn(self, data: st.DataObject, pid: int) -> None:
        one = data.draw(st.sampled_from(self.units(R)))
        self.happen(Spawned(id=one.id, at=self.now, pid=pid))

    @precondition(lambda self: self.units(R))
    @rule(
        data=st.data(),
        after=st.sampled_from(ENDS),
        delay=st.integers(-1, 4),
        late=st.none() | st.integers(-1, 4),
        is_back=st.booleans(),
    )
    def end(self, data: st.DataObject, after: Status, delay: int, late: int | None, is_back: bool) -> None:
        one = data.draw(st.sampled_from(self.units(R)))
        self._end(one, after, delay, late)
        if is_back:
            self._release(one.id)

    def _end(self, one: Model, after: Status, delay: int, late: int | None) -> None:
        """End an attempt, which is recorded as many seconds late."""
        retry_at = self.now + delay if after is P else None
        output = Output.inline(b"x" * max(0, delay))
        ended_at = None if late is None else self.now - late
        times = {"retry_at": retry_at, "ended_at": ended_at}
        self.happen(replace(Ended(id=one.id, at=self.now, status=after, stdout=output), **times))
        at = self.now if ended_at is None else min(self.now, max(ended_at, one.started_at))
        self.move(one, after, at, not_before=retry_at)

    def of_some(self, *statuses: Status) -> list[Model]:
        """Return all jobs, and the arrays with at least one task, with one of some statuses."""
        return [one for one in self.models.values() if any(part.status in statuses for part in one.parts)]

    @precondition(lambda self: self.units(P, R))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.of_some(P, R)))
        self.happen(Cancelled(id=one.id, at=self.now, by="bob", signal=15))
        for part in one.parts:
            if part.status is P:
                self.move(part, X, is_held=False, not_before=None)
            elif part.status is R:
                part.suspended_at, part.is_cancelling = None, True

    @precondition(lambda self: self.units(R))
    @rule(data=st.data(), is_suspension=st.booleans())
    def suspend(self, data: st.DataObject, is_suspension: bool) -> None:
        one = data.draw(st.sampled_from(self.of_some(R)))
        kind = Suspended if is_suspension else Continued
        self.happen(kind(id=one.id, at=self.now, by="bob"))
        for part in (one, *one.tasks):
            if part.tasks or (part.status is R and not part.is_cancelling):
                part.suspended_at = self.now if is_suspension else None

    @precondition(lambda self: self.unsatisfiable())
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.unsatisfiable())))
        self.happen(Skipped(id=job_id, at=self.now, dependency=self.unsatisfiable()[job_id]))
        for part in self.models[job_id].parts:
            if part.status is P:
                self.move(part, F, is_held=False, not_before=None)

    @precondition(lambda self: self.units(P))
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.of_some(P)))
        self.happen(Held(id=one.id, at=self.now, by="bob"))
        for part in one.parts:
            part.is_held = part.is_held or part.status is P

    @precondition(lambda self: self.units(P))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.of_some(P)))
        self.happen(Released(id=one.id, at=self.now, by="bob"))
        for part in one.parts:
            if part.status is P:
                part.is_held, part.not_before = False, None
                part.spec = replace(part.spec, at=None, delay=None)
        one.spec = replace(one.spec, at=None, delay=None)

    @precondition(lambda self: self.units(P))
    @rule(
        data=st.data(),
        changes=st.sampled_from(CHANGES),
    )
    def change(self, data: st.DataObject, changes: dict[str, Any]) -> None:
        one = data.draw(st.sampled_from([one for one in self.of_some(P) if one.array is None]))
        spec = replace(one.spec, **changes)
        self.happen(Changed(id=one.id, at=self.now, by="bob", spec=spec))
        is_other_time = (spec.at, spec.delay) != (one.spec.at, one.spec.delay)
        for part in one.parts:
            if part.status is P:
                if is_other_time:
                    part.not_before = spec.at
                part.spec = spec
        one.spec = spec

    @precondition(lambda self: self.units(C, F, X))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([one for one in self.models.values() if one.status.is_final]))
        self.happen(Retried(id=one.id, at=self.now, by="bob"))
        if one.array is None:
            self.add_dependencies(one)
        for part in [part for part in one.parts if part.status is not C] or one.parts:
            self.move(part, P)

    @precondition(lambda self: self.ended())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.ended()))
        assert (self.queue_state.reason_to_keep(one.id) is not None) == self.is_needed(one)
        if not self.is_needed(one):
            self._remove(one)

    def _remove(self, one: Model) -> None:
        self.happen(Removed(id=one.id, at=self.now, by="bob"))
        for part in (one, *one.tasks):
            del self.models[part.id]

    @precondition(lambda self: self.ended())
    @rule(age=st.sampled_from([0, 3, 1000]), most=st.integers(0, 3), data=st.data())
    def expire(self, age: int, most: int, data: st.DataObject) -> None:
        expected: list[int] = []
        before, ended = self.now - age, self.ended()
        for one in ended:
            if self.is_needed(one):
                continue
            assert one.completed_at is not None
            if one.completed_at >= before and len(ended) - len(expected) <= most:
                break
            expected.append(one.id)
        assert self.queue_state.retention_index.pop_expired(before, most) == expected
        for job_id in expected:
            if data.draw(st.booleans()):
                self._remove(self.models[job_id])
            else:
                self.queue_state.retention_index.retain(job_id)

    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        """Pause or resume, resize a queue or the daemon, or change a schedule."""
        data.draw(st.sampled_from([self._pause, self._resize, self._rescale, self._change_schedule]))(data)

    def _pause(self, data: st.DataObject) -> None:
        for queue in sorted(self.paused, key=str):
            self.happen(Resumed(at=self.now, by="bob", queue=queue))
            self.paused.discard(queue)
            return
        queue = data.draw(st.sampled_from([None, *QUEUES]))
        self.happen(Paused(at=self.now, by="bob", queue=queue))
        self.paused.add(queue)

    def _resize(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from(QUEUES))
        slots = data.draw(st.sampled_from([None, 0, 1, 2, 3]))
        self.happen(Resized(at=self.now, by="bob", queue=queue, slots=slots))
        self.resized[queue] = slots

    def _rescale(self, data: st.DataObject) -> None:
        slots = data.draw(st.sampled_from([None, 1, 2, 4]))
        self.happen(Rescaled(at=self.now, by="bob", slots=slots))
        self.slots = slots or LIMITS.slots

    def _change_schedule(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([None, *self.schedules]))
        if number is None:
            number = self.last_schedule = self.last_schedule + 1
            self.happen(Scheduled(at=self.now, by="bob", schedule=number, command="true", every=60.0))
            self.schedules[number] = None
            return
        kind = data.draw(st.sampled_from([Paused, Resumed, Rescheduled, Unscheduled]))
        if kind is Rescheduled:
            when: dict[str, Any] = data.draw(st.sampled_from([{"every": 30.0}, {"cron": "@daily"}]))
            self.happen(
                Rescheduled(at=self.now, by="bob", schedule=number, command="false", overlap=True, **when)
            )
            return
        self.happen(kind(at=self.now, by="bob", schedule=number))
        if kind is Unscheduled:
            del self.schedules[number]

    @rule(data=st.data(), job_id=st.integers(0, 40))
    def impossible_events_change_nothing(self, data: st.DataObject, job_id: int) -> None:
        """An impossible event changes nothing."""
        other = _replayed(self.events)
        event = data.draw(st.sampled_from(_any_event(job_id)))
        try:
            other.apply(event)
        except InvalidTransition:
            assert other == self.queue_state
            assert _line(other, self.now) == _line(_replayed(self.events), self.now)

    # Invariants.

    @invariant()
    def jobs_agree_with_the_model(self) -> None:
        assert list(self.queue_state.walk(1)) == sorted(
            self.queue_state.jobs.values(), key=lambda job: job.id
        )
        assert set(self.queue_state.jobs) == set(self.models)
        for one in self.models.values():
            job = self.queue_state.get(one.id)
            found = (job.status, job.spec, job.unmet_dependencies, job.completed_at, job.array)
            whole = one.array.id if one.array else None
            assert found == (one.status, one.spec, one.waiting, one.completed_at, whole)
            assert job.suspended_at == one.suspended_at
            if one.tasks:
                recount = Counter(task.status for task in one.tasks)
                assert job.tasks is not None
                assert Counter({s: n for s, n in job.tasks.counts.items() if n}) == recount
            else:
                assert (job.is_held, job.not_before) == (one.is_held, one.not_before)

    @invariant()
    def lists_agree_with_a_scan(self) -> None:
        """A search finds the jobs that a look at each job finds."""
        jobs = list(self.queue_state.walk(1))
        for wanted in FILTERS:
            found = find_jobs(self.queue_state, wanted, has_tasks=True)
            expected = [job for job in jobs if wanted.admits(job)]
            assert [job for job in found if job is not None] == expected

    @invariant()
    def unsatisfiable_jobs_agree_with_the_model(self) -> None:
        assert self.queue_state.dependencies.unsatisfiable == self.unsatisfiable()

    @invariant()
    def counts_agree_with_a_recount(self) -> None:
        units = self.units(*Status)
        recount = Counter(one.status for one in units)
        assert self.queue_state.counts == {status: recount[status] for status in Status}
        jobs = self.queue_state.jobs.values()
        of = Counter(job.owner for job in jobs if job.tasks is None and job.status is P)
        assert {owner: self.queue_state.pending_of(owner) for owner in OWNERS} == {o: of[o] for o in OWNERS}
        pending = [job for job in jobs if _counts_as_pending(job)]
        sizes = [(job.owner, footprint_of(job)) for job in pending]
        groups = {(job.owner, group_of(job.spec)) for job in pending if group_of(job.spec) is not None}
        sizes += [(owner, GROUP_BYTES) for owner, _ in groups]
        assert self.queue_state.pending_bytes == sum(size for _, size in sizes)
        for owner in OWNERS:
            assert self.queue_state.pending_bytes_of(owner) == sum(
                size for whose, size in sizes if whose == owner
            )
        assert self.queue_state.last_id == self.last_id
        assert self.queue_state.retention_index.count == len(self.ended())
        whole = [job for job in jobs if job.array is None]
        assert self.queue_state.retention_index.memory == sum(
            footprint_of_kept(job) for job in whole if job.status.is_final
        )
        for job in whole:
            assert job.task_runs == sum(task.runs for task in self.queue_state.tasks(job))
        by_queue = Counter((one.spec.queue, one.status.value.lower()) for one in units)
        busy = self.used()
        for described in self.queue_state.describe_queues():
            name = described["name"]
            assert {s: described[s] for s in map(str.lower, Status.__members__)} == {
                s: by_queue.pop((name, s), 0) for s in map(str.lower, Status.__members__)
            }
            limit, paused = self.limit(f"queue {name}"), name in self.paused
            assert (described["slots"], described["busy"], described["paused"]) == (
                limit,
                busy[f"queue {name}"],
                paused,
            )
        assert not by_queue

    @invariant()
    def no_job_may_start_before_the_next_wakeup(self) -> None:
        if not self.queue_state.needs_scheduling and (
            self.next_wakeup is None or self.now < self.next_wakeup
        ):
            for one in self.ready(self.now):
                if self.fits(one):
                    self._check_is_blocked(one, self.queue_state, self.now)

    @invariant()
    def replay_gives_an_equal_state(self) -> None:
        assert self.queue_state == _replayed(self.events, is_open=False)

    def teardown(self) -> None:
        """No queued job is lost or duplicated, here and after a replay."""
        for job_id in list(self.allocated):
            one = self.models.get(job_id)
            if one is None or one.status is not R:
                self.queue_state.release(job_id)
                del self.allocated[job_id]
        later = [
            one.not_before
            for one in self.units(P)
            if one.is_ready and one.not_before is not None and one.not_before > self.now
        ]
        replayed = _replayed(self.events, is_open=False)
        assert replayed.next_due(self.now) in ({min(later, default=None)} | self._due_before())
        models = deepcopy(self.models)
        self._drain(self.queue_state)
        self.models, self.allocated = models, {}
        for one in list(self.units(R)):
            replayed.apply(Ended(id=one.id, at=self.now, status=X))  # as at a start of the daemon
            self.move(one, X)
        self._drain(replayed)

    def _due_before(self) -> set[float | None]:
        """Return the times of delayed jobs that are due and not allocated yet."""
        return {
            one.not_before
            for one in self.units(P)
            if one.not_before is not None and one.not_before <= self.now
        }

    def _drain(self, queue_state: QueueState) -> None:
        """Allocate, cancel and release every ready job, without pauses."""
        for queue in (None, *QUEUES):
            queue_state.apply(Resumed(at=self.now, by="bob", queue=queue))
        self.paused.clear()
        for now in (self.now, self.now + 100_000):
            while (one := self._next_job(queue_state, now)) is not None:
                queue_state.apply(Cancelled(id=one.id, at=now, by="bob", signal=15))
                queue_state.release(one.id)
                del self.allocated[one.id]
                self.move(one, X)


def _line(queue_state: QueueState, now: float) -> list[int]:
    def taken() -> Iterator[Job]:
        while (job := queue_state.next_job(now)) is not None:
            yield job

    return [job.id for job in taken()]


def _any_event(job_id: int) -> list[JobEvent]:
    common: dict[str, Any] = {"id": job_id, "at": 1.0}
    return [
        Submitted(**common, owner="ann", command="true", spec=Spec(array=Array(1, 3))),
        Started(**common, attempt=1),
        Spawned(**common, pid=2),
        Skipped(**common, dependency=1),
        Held(**common, by="bob"),
        Released(**common, by="bob"),
        Suspended(**common, by="bob"),
        Continued(**common, by="bob"),
        Changed(**common, by="bob", command="false"),
        Cancelled(**common, by="bob", signal=15),
        Retried(**common, by="bob"),
        Removed(**common, by="bob"),
        *(Ended(**common, status=status) for status in Status),
    ]


@pytest.mark.hypothesis
def test_every_legal_walk_agrees_with_the_model_and_with_its_replay() -> None:
    run_state_machine_as_test(
        Walk, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
