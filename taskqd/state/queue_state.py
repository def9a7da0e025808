"""Every job in memory, and which may start next.

The backlog is a fold of the journal: ``apply`` is the only way in, and replaying the same events gives the
same jobs, queues and schedules. The indexes (keys, the line, dependencies, counts) are derived from those and
never written anywhere. Time is an argument; nothing here knows a clock, a file or a process. Submission,
start and end cost O(log n).
"""

from collections import defaultdict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from sys import intern
from typing import Any

from msgspec.structs import replace

from taskqd.errors import Gone, NoSuchJob
from taskqd.model import transitions
from taskqd.model.events import (
    Changed,
    Clocked,
    Ended,
    Event,
    JobEvent,
    Position,
    QueueEvent,
    Removed,
    Retried,
    Skipped,
    Submitted,
)
from taskqd.model.footprint import ATTEMPT_BYTES, footprint, footprint_of
from taskqd.model.job import Job, Reason, Status
from taskqd.model.job_ref import TaskId
from taskqd.model.spec_pool import SpecPool, with_known_ids, with_parts_of
from taskqd.state import arrays
from taskqd.state.capacity import Capacity, CapacityTotals, Constraint
from taskqd.state.dependencies import Dependencies, Skips
from taskqd.state.queues import Queues
from taskqd.state.ready_queue import ReadyQueue
from taskqd.state.retention_index import RetentionIndex
from taskqd.state.schedules import Schedules

UNLIMITED = CapacityTotals(slots=2**31)

_PENDING = Status.PENDING
"""By this name it is found in a fraction of the time that it takes through its class."""


class InvalidTransition(Exception):
    """An event does not fit what it is about: a bug, or a journal that was edited by hand."""


class QueueState:
    """The jobs by id, with what is needed to find the next one to start.

    Times that are handed in are on the clock of waits and ages, which the time of day is ``ahead`` of (see
    events.Clocked). One that ``is_open`` keeps them in line as they come. A replay is faster without:
    ``open`` lines up all that is there at its end.
    """

    def __init__(self, limits: CapacityTotals = UNLIMITED, is_open: bool = True) -> None:
        self.jobs: dict[int, Job] = {}
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.last_id = 0
        self.ahead = 0.0
        self.queues = Queues(limits.queues)
        self.schedules = Schedules()
        self.capacity = Capacity(limits, self.queues.limit)
        self.line = ReadyQueue(self.capacity, self.queues.is_closed)
        self.dependencies = Dependencies()
        self.skips = Skips()
        self.expiry = RetentionIndex(self.jobs, lambda job_id: self.reason_to_keep(job_id) is not None)
        self._specs = SpecPool()
        self._is_open = is_open
        self._keys: dict[str, tuple[int, ...]] = {}
        self._pending_of: defaultdict[str, int] = defaultdict(int)
        self.pending_bytes = 0
        self._pending_bytes_of: defaultdict[str, int] = defaultdict(int)
        self._waiting: dict[bool, list[tuple[float, int]]] = {False: [], True: []}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueueState) and self._compared() == other._compared()

    def _compared(self) -> tuple[Any, ...]:
        known = self.jobs, self.counts, self.last_id, self.ahead, self.queues, self.schedules
        counts = self._pending_of, self._pending_bytes_of
        pending = [{owner: count for owner, count in each.items() if count} for each in counts]
        return *known, self._keys, pending, self.pending_bytes

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def open(self) -> None:
        """Line up all that may start; from now on what comes is lined up at once."""
        if not self._is_open:
            self._is_open = True
            self.line.fill(self._ready())
            for heap in self._waiting.values():
                heapify(heap)

    def _ready(self) -> Iterator[Job]:
        """Yield the jobs that wait for nothing but room, while noting those that wait for their time."""
        for job in self.jobs.values():
            if job.tasks is None and self._is_free(job):
                if job.not_before is None:
                    yield job
                else:
                    self._waiting[job.is_dated].append((job.not_before, job.id))

    # What is known.

    def get(self, which: int | TaskId) -> Job:
        """Return a job, or an array's task by its index; raises NoSuchJob, or Gone if it was removed."""
        job_id = which.array if isinstance(which, TaskId) else which
        job = self.jobs.get(job_id)
        if job is None and 0 < job_id <= self.last_id:
            raise Gone(f"job {job_id} has been removed, with its output")
        if job is None:
            raise NoSuchJob(f"there is no job {job_id}: the newest is {self.last_id}")
        return self.jobs[arrays.task_id(job, which)] if isinstance(which, TaskId) else job

    def by_key(self, key: str, owner: str) -> Job | None:
        """Return the job that somebody has submitted under a key, or None: keys are each owner's own."""
        return next((job for job in self.with_key(key) if job.owner == owner), None)

    def with_key(self, key: str) -> list[Job]:
        """Return the jobs that were submitted under ``key``, by id: at most one of each owner."""
        return [self.jobs[job_id] for job_id in self._keys.get(key, ())]

    def pending_of(self, owner: str) -> int:
        """Return how many jobs of somebody are PENDING; of arrays, the tasks."""
        return self._pending_of.get(owner, 0)

    def pending_bytes_of(self, owner: str) -> int:
        """Return how many bytes the jobs of somebody take: PENDING ones, and arrays until they have ended."""
        return self._pending_bytes_of.get(owner, 0)

    def walk(self, first: int, backwards: bool = False) -> Iterator[Job]:
        """Yield the jobs from id ``first`` on, by id upwards or downwards, as they are when reached."""
        ids = range(min(first, self.last_id), 0, -1) if backwards else range(max(first, 1), self.last_id + 1)
        return filter(None, map(self.jobs.get, ids))

    def tasks(self, array: Job) -> list[Job]:
        """Return the tasks of an array, by index; none of another job."""
        return [self.jobs[job_id] for job_id in array.tasks.ids] if array.tasks else []

    def whole(self, job: Job) -> Job:
        """Return the array that a job is a task of, or the job itself."""
        return job if job.array is None else self.jobs[job.array]

    def walk_after(self, job_id: int) -> Iterator[Job]:
        """Yield the jobs that wait for one, directly or not, each once; the backlog may change meanwhile."""
        found: set[int] = set()
        looked_at = [job_id]
        while looked_at:
            job = self.jobs.get(looked_at.pop())
            if job is None:
                continue
            for one in (job.id, *(job.tasks.ids if job.tasks else ())):
                for waiting in self.dependencies.after(one):
                    if waiting not in found and waiting in self.jobs:
                        found.add(waiting)
                        looked_at.append(waiting)
                        yield self.jobs[waiting]

    def running(self) -> list[Job]:
        """Return the jobs that are RUNNING; of arrays, the tasks."""
        return [job for job in self.jobs.values() if job.status is Status.RUNNING and job.tasks is None]

    def reason(self, job: Job, now: float) -> Reason | None:
        """Return why a job is where it is at a moment; of several that keep it waiting the gravest."""
        if job.status is not Status.PENDING:
            return job.reason
        if job.is_held:
            return Reason.HELD
        if self.whole(job).waiting:
            return Reason.AFTER
        if self.wait(job, now) > 0:
            return Reason.RETRYING if job.reason is Reason.RETRYING else Reason.DELAYED
        return Reason.PAUSED if self.queues.is_closed(job.spec.queue) else Reason.QUEUED

    def wait(self, job: Job, now: float) -> float:
        """Return for how many seconds a pending job must still wait for its time, 0 or less if no longer."""
        if job.not_before is None:
            return 0.0
        return job.not_before - (now + self.ahead if job.is_dated else now)

    def not_before(self, job: Job) -> float | None:
        """Return the time of day before which a job does not start, as far as is known now."""
        if job.not_before is None or job.is_dated:
            return job.not_before
        return job.not_before + self.ahead

    def reason_to_keep(self, job_id: int) -> str | None:
        """Return why a job that has ended cannot be removed yet, None if it can."""
        if self.schedules.is_latest(job_id):
            return "it is the latest run of its schedule, which UNSCHEDULE would end"
        if self.dependencies.is_cause(job_id):
            return "a job that came after it has not been told of its end yet"
        return None

    def describe_queues(self) -> Iterator[dict[str, Any]]:
        """Yield what QUEUES tells of each queue; they may change meanwhile."""
        return self.queues.describe(self._busy)

    def describe_queue(self, name: str) -> dict[str, Any]:
        """Return what QUEUES tells of one."""
        return self.queues.describe_one(name, self._busy(name))

    def _busy(self, queue: str) -> int:
        return self.capacity.taken(Constraint("queue", queue))

    # What is next.

    @property
    def is_quiescent(self) -> bool:
        """Whether nobody could be taken, and nothing has changed since but the time."""
        return self.line.is_quiescent

    def take(self, now: float) -> Job | None:
        """Take the next job that may start at ``now`` out of the line, or return None if there is none.

        It has what it wants from then on, until it is given back, whether it was started or not.
        """
        for is_dated, heap in self._waiting.items():
            upto = now + self.ahead if is_dated else now
            while heap and heap[0][0] <= upto:
                job = self._job_due(is_dated, *heappop(heap))
                if job is not None:
                    self.line.add(job)
        while (taken := self.line.take(now)) is not None:
            job = self.jobs[taken]
            if self.wait(job, now) <= 0:
                return job
            self.give_back(taken)  # the time of day was set back since it came into line
        return None

    def _job_due(self, is_dated: bool, due_at: float, job_id: int) -> Job | None:
        """Return the job that an entry of a heap is about, None if the entry is out of date."""
        job = self.jobs.get(job_id)
        if job is None or (job.not_before, job.is_dated) != (due_at, is_dated) or not self._is_free(job):
            return None
        return job

    def is_due(self, job: Job, now: float) -> bool:
        """Whether a job that was taken may still start, whatever has happened to it since."""
        return (
            self._is_free(job)
            and self.wait(job, now) <= 0
            and self.line.has_taken(job)
            and not self.queues.is_closed(job.spec.queue)
        )

    def give_back(self, job_id: int) -> None:
        """Give back what a job that was taken has; it comes into line again if it is to start again."""
        self.line.give_back(job_id)
        job = self.jobs.get(job_id)
        if job is not None and job.status is _PENDING:
            self._place(job)

    def next_due(self, now: float) -> float | None:
        """Return when something may start that may not now, though nothing else happens; None if never."""
        look = self.line.next_look(now)
        due = [] if look is None else [look]
        for is_dated, heap in self._waiting.items():
            while heap and self._job_due(is_dated, *heap[0]) is None:
                heappop(heap)
            if heap:
                due.append(heap[0][0] - (self.ahead if is_dated else 0.0))
        return min(due, default=None)

    def relocate(self, job_id: int, attempt: int, upto: int, position: Position) -> None:
        """Tell where an attempt's Ended stands now, if it was in a file up to ``upto``."""
        job = self.jobs.get(job_id)
        for one in () if job is None or job.attempt is None else (job.attempt, *job.past):
            if one.number == attempt and one.record is not None and one.record[0] <= upto:
                one.record = position

    # What happens.

    def apply(self, event: Event, position: Position | None = None) -> Job | None:
        """Make an event that is on disk true, and return the job that it is about, if it is about one.

        ``position`` is where it stands. Raises InvalidTransition, having changed nothing, if it cannot be.
        """
        if type(event) is Submitted:
            return self._submitted(event)
        if isinstance(event, QueueEvent | Clocked):
            self._apply_other(event)
            return None
        job = self.jobs.get(event.id)
        if job is None:
            raise InvalidTransition(f"{event.name} cannot happen to job {event.id}, which is unknown")
        if type(event) is Changed:
            event = replace(event, spec=with_parts_of(job.spec, event.spec))
        if job.tasks is not None:
            self._apply_to_array(job, event)
        else:
            self._move(job, event)
        if type(event) is Ended and not event.is_void:
            transitions.attempt_of(job).record = position
        elif type(event) is Skipped:
            because = self.jobs.get(event.dependency)
            if because is not None:  # it may have been removed since, and its events with it
                self.skips.add(job.id, self.whole(because).id)
        elif isinstance(event, Retried | Removed):
            self.skips.discard(job.id)
        return job

    def _apply_other(self, event: QueueEvent | Clocked) -> None:
        if isinstance(event, Clocked):
            self.ahead = event.ahead
            self.schedules.set_time(event.at, event.ahead)
            self.line.is_quiescent = False  # what waits for a time of day may be due now
        elif (schedule := getattr(event, "schedule", None)) is not None:
            self._apply_to_schedule(schedule, event)
        else:
            self.queues.apply(event)
            self.line.unblock_all()

    def _apply_to_schedule(self, schedule: int, event: QueueEvent) -> None:
        latest = self._latest_run(schedule)
        try:
            self.schedules.apply(event)
        except ValueError as why:
            raise InvalidTransition(str(why)) from None
        if latest is not None:
            self.expiry.reconsider(latest)

    def _latest_run(self, schedule: int) -> int | None:
        known = self.schedules.by_id.get(schedule)
        return None if known is None else known.last_job

    def _submitted(self, event: Submitted) -> Job:
        spec = self._specs.shared(with_known_ids(event.spec, self.jobs))
        is_known = event.id in self.jobs
        if is_known or (spec.array and not self.jobs.keys().isdisjoint(range(event.id, event.last_id + 1))):
            raise InvalidTransition(f"job {event.id} was submitted twice")
        job = Job(
            id=event.id,
            command=event.command,
            spec=spec,
            owner=intern(event.owner),
            submitted_at=event.at,
            is_held=spec.hold,
            not_before=spec.at if spec.delay is None else event.at - self.ahead + spec.delay,
            is_dated=spec.delay is None and spec.at is not None,
            schedule=event.schedule,
        )
        self.jobs[job.id] = job
        self._count_bytes(job, footprint(job.command, spec))
        self.last_id = max(self.last_id, job.id if spec.array is None else event.last_id)
        if spec.key is not None:
            others = (one.id for one in self.with_key(spec.key) if one.owner != job.owner)
            self._keys[spec.key] = (*others, job.id)
        if event.schedule is not None:
            latest = self._latest_run(event.schedule)
            self.schedules.ran(event.schedule, event.at, job.id)
            if latest is not None:
                self.expiry.reconsider(latest)
        if spec.array is None:
            self._come_in(job)
        else:
            self.capacity.limit_array(job.id, spec.array.at_once)
            for task in arrays.make_tasks(job, event, spec.array):
                self.jobs[task.id] = task
                self._come_in(task)
        if spec.after or spec.after_any or spec.after_fail:
            job.waiting = self.dependencies.add(job, self.jobs)
        if self._is_open:
            self._place_all(job)
        return job

    def _come_in(self, job: Job) -> None:
        self.counts[_PENDING] += 1
        self._pending_of[job.owner] += 1
        self.queues.job_added(job.spec.queue)

    def _count_bytes(self, job: Job, more: int) -> None:
        self.pending_bytes += more
        self._pending_bytes_of[job.owner] += more

    def _move(self, job: Job, event: JobEvent) -> None:
        """Make an event true for one job that is no array, and for whatever depends on that."""
        before, after = job.status, transitions.next_status(event, job)
        if after is None:
            raise InvalidTransition(f"{event.name} cannot happen to job {event.id}, which is {before.value}")
        if before is _PENDING and self._is_open:
            self.line.remove(job)
        queue, runs = job.spec.queue, job.runs
        if before is _PENDING and job.array is None:
            self._count_bytes(job, -footprint_of(job))
        job.status = after
        transitions.apply_event(job, event, self.whole(job).spec, self.ahead)
        if type(event) is Removed:
            self._forget(job)
            return
        if type(event) is Ended:
            self._note_run(job, event, queue)
        elif type(event) is Retried and job.array is None:
            job.waiting = self.dependencies.add(job, self.jobs)
        self._count(job, queue, before, after)
        if after is _PENDING:
            self._place(job)
        self._note_end(job, before)
        if job.array is not None:
            self._note_move_in(self.jobs[job.array], job, before, event, job.runs - runs)
        elif after is _PENDING:
            self._count_bytes(job, footprint_of(job))

    def _count(self, job: Job, queue: str, before: Status, after: Status) -> None:
        """Count a job, which was in a queue and a status before, as what it is."""
        self.counts[before] -= 1
        self.counts[after] += 1
        if before is not after and _PENDING in (before, after):
            self._pending_of[job.owner] += 1 if after is _PENDING else -1
        if queue == job.spec.queue:
            self.queues.count(queue, before, after)
        else:
            self.queues.count(job.spec.queue, None, after)
            self.queues.count(queue, before, None)

    def _note_move_in(self, array: Job, task: Job, before: Status, event: JobEvent, more_runs: int) -> None:
        """See to what depends on whether an array has ended; until then it counts as pending in bytes."""
        had_ended = array.status
        array.task_runs += more_runs
        if not had_ended.is_final:
            self._count_bytes(array, ATTEMPT_BYTES * more_runs)
        if type(event) is Ended:
            array.output_bytes += event.stdout.size + event.stderr.size
        arrays.note_move(array, task, before, event.at, self.jobs)
        if array.status.is_final is not had_ended.is_final:
            self._count_bytes(array, footprint_of(array) if had_ended.is_final else -footprint_of(array))
        self._note_end(array, had_ended)

    def _note_run(self, job: Job, event: Ended, queue: str) -> None:
        """Take in how long an attempt lasted; the time of day may have been set meanwhile."""
        if not event.is_void:
            lasted = (event.at - self.ahead) - (transitions.attempt_of(job).started_at - job.ahead)
            self.queues.record_duration(queue, max(0.0, lasted))

    def _note_end(self, job: Job, before: Status) -> None:
        """See to what depends on whether a job has ended, which it had not, or the other way round."""
        if job.status.is_final and not before.is_final:
            job.ahead = self.ahead
            self.expiry.add(job)
            if job.waiting:
                job.waiting = 0
                blameless = self.dependencies.discard(job)
                if blameless is not None:
                    self.expiry.reconsider(blameless)
            for job_id in list(self.dependencies.settle(job)):
                waiting = self.jobs[job_id]
                waiting.waiting -= 1
                self._place_all(waiting)
        elif before.is_final and not job.status.is_final:
            self.expiry.discard(job)

    def _apply_to_array(self, array: Job, event: JobEvent) -> None:
        tasks = self.tasks(array)
        affected = arrays.affected(event, tasks)
        is_whole = array.status.is_final or not isinstance(event, Removed | Retried)
        if not affected or not is_whole or not event.applies_to_arrays:
            raise InvalidTransition(
                f"{event.name} cannot happen to array {array.id}, which is {array.status.value}"
            )
        if isinstance(event, Retried):
            array.waiting = self.dependencies.add(array, self.jobs)
        for task in affected:
            self._move(task, event)
        if isinstance(event, Removed):
            self.capacity.limit_array(array.id, None)
            self._forget(array)
        else:
            size = footprint_of(array)
            arrays.note_change(array, event, self.ahead)
            if not array.status.is_final:
                self._count_bytes(array, footprint_of(array) - size)

    def _forget(self, job: Job) -> None:
        if job.tasks is None:
            self.counts[job.status] -= 1
            self.queues.count(job.spec.queue, job.status, None)
        self.expiry.discard(job)
        del self.jobs[job.id]
        if job.spec.key is not None:
            left = tuple(job_id for job_id in self._keys.pop(job.spec.key, ()) if job_id != job.id)
            if left:
                self._keys[job.spec.key] = left

    # Who is where.

    def _is_free(self, job: Job) -> bool:
        """Whether nothing but time, room and a pause keeps a job from its start."""
        if job.status is not _PENDING or job.is_held:
            return False
        return not self.whole(job).waiting

    def _place(self, job: Job) -> None:
        """Put a pending job into line, or where it waits for its time, if that is all that it waits for."""
        if self._is_open and self._is_free(job):
            if job.not_before is not None:
                heappush(self._waiting[job.is_dated], (job.not_before, job.id))
                self.line.is_quiescent = False  # when to look again may have changed
            else:
                self.line.add(job)

    def _place_all(self, job: Job) -> None:
        """Place a job, or all tasks of an array."""
        if job.tasks is None:
            self._place(job)
        elif self._is_open and not job.waiting:
            for task in self.tasks(job):
                self._place(task)
