"""All jobs, queues and schedules in memory, and which job may start next.

The state is a fold of the journal's events: it changes only by ``apply``, and replaying the same events gives
an equal state. The indexes (keys, ready jobs, delays, dependencies, counts) are derived from the events and
not persistent. Time is an argument. Submitting, starting and ending a job cost O(log n).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from taskqd.errors import Gone, NoSuchJob
from taskqd.model import transitions
from taskqd.model.ended_job import make_ended_job
from taskqd.model.events import (
    Clocked,
    Compacted,
    Configured,
    Ended,
    JobEvent,
    QueueEvent,
    RecordPosition,
    Removed,
    Replayed,
    Rescaled,
    Retried,
    Skipped,
    Submitted,
)
from taskqd.model.job import Job, Reason, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.model.spec import Spec
from taskqd.state import arrays
from taskqd.state.capacity import Capacity, CapacityTotals, Constraint
from taskqd.state.dependencies import Skips
from taskqd.state.errors import InvalidTransition
from taskqd.state.job_changes import JobChanges
from taskqd.state.job_counts import JobCounts
from taskqd.state.job_index import JobIndex
from taskqd.state.job_keys import JobKeys
from taskqd.state.job_table import JobTable
from taskqd.state.new_jobs import NewJobs, end_of_similar, is_plain
from taskqd.state.queues import Queues
from taskqd.state.retention_index import RetentionIndex
from taskqd.state.schedules import Schedules
from taskqd.state.start_rates import StartRates
from taskqd.state.waiting_jobs import WaitingJobs, is_unstarted

UNLIMITED = CapacityTotals(slots=2**31)
"""More slots than jobs can use: for states that do not start jobs, such as an offline replay."""

_RUNNING_JOBS = JobFilter(statuses=frozenset({Status.RUNNING}))
_PENDING = Status.PENDING
"""A global of the module, which is several times faster to read than a member of an Enum."""


class QueueState:
    """The jobs by id, the queues and the schedules, and the indexes over them.

    Arguments called ``now`` are times on the monotonic clock; the time of day is ``ahead`` seconds ahead of
    it (see events.Clocked). Until it is open, as during a replay, no job is added to the ready queue, the
    delay queue or the ``index``; ``open`` then adds all at once, which is faster.
    """

    def __init__(self, totals: CapacityTotals = UNLIMITED, is_open: bool = True) -> None:
        self.jobs = JobTable()
        self.queues = Queues(totals.queues, totals.fair, totals.rates)
        self.schedules = Schedules()
        self.capacity = Capacity(totals, self.queues.limit, StartRates(self.queues.rate))
        self.waiting = WaitingJobs(self.jobs, self.queues, self.capacity, is_open)
        self.ready_queue = self.waiting.ready_queue
        self.dependencies = self.waiting.dependencies
        self.expiry_queue = self.waiting.expiry_queue
        self.skips = Skips()
        self.index = JobIndex()
        self.retention_index = RetentionIndex(
            self.jobs, lambda job_id: self.reason_to_keep(job_id) is not None
        )
        self._keys = JobKeys(self.jobs)
        self._counts = JobCounts(self.queues)
        self.counts = self._counts.by_status
        self.environments = self._counts.environments
        self._new_jobs = NewJobs(
            self.jobs,
            self._keys,
            self._counts,
            self.capacity,
            self.waiting,
            self.schedules,
            self.index,
            self.retention_index,
        )
        self._changes = JobChanges(
            self.jobs,
            self._keys,
            self._counts,
            self.capacity,
            self.waiting,
            self.index,
            self.retention_index,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueueState) and self._compared() == other._compared()

    def _compared(self) -> tuple[Any, ...]:
        known = self.jobs, self.last_id, self.ahead, self.queues, self.schedules, self.capacity.set_slots
        return *known, self._keys, self._counts

    @property
    def last_id(self) -> int:
        """The highest id of a job or task so far."""
        return self._new_jobs.last_id

    @last_id.setter
    def last_id(self, job_id: int) -> None:
        self._new_jobs.last_id = job_id

    @property
    def ahead(self) -> float:
        """How many seconds the time of day is ahead of the monotonic clock."""
        return self.waiting.ahead

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def open(self) -> None:
        """Add all jobs to the index, and those that may start to the ready queue or the delay queue.

        From now on new jobs are added too.
        """
        if not self.waiting.is_open:
            self.index.fill(self.jobs.objects())
            for array in self.jobs.arrays():
                self._new_jobs.index_untouched(array)
            self.waiting.open()

    # Lookups.

    def get(self, ref: JobRef) -> Job:
        """Return a job, or the task of an array; raises NoSuchJob, or Gone if it was removed."""
        job_id = ref.array if isinstance(ref, TaskId) else ref
        job = self.jobs.get(job_id)
        if job is None and 0 < job_id <= self.last_id:
            raise Gone(f"job {job_id} has been removed, with its output")
        if job is None:
            raise NoSuchJob(f"there is no job {job_id}: the newest is {self.last_id}")
        return self.jobs[arrays.task_id(job, ref)] if isinstance(ref, TaskId) else job

    def by_key(self, key: str, owner: str) -> Job | None:
        """Return the job that an owner submitted with a key, None if there is none. Keys are per owner."""
        return next((job for job in self.with_key(key) if job.owner == owner), None)

    def with_key(self, key: str) -> list[Job]:
        """Return the jobs that were submitted with a key, by id: at most one per owner."""
        return self._keys.with_key(key)

    def pending_of(self, owner: str) -> int:
        """Return how many jobs of an owner are PENDING; of an array, its tasks count."""
        return self._counts.pending_of(owner)

    def pending_bytes_of(self, owner: str) -> int:
        """Return the footprint of an owner's PENDING jobs and unfinished arrays, in bytes."""
        return self._counts.pending_bytes_of(owner)

    def has_group(self, owner: str, spec: Spec) -> bool:
        """Whether a pending job of an owner already has the group of the ready queue that a spec needs."""
        return self._counts.has_group(owner, spec)

    @property
    def pending_bytes(self) -> int:
        """The footprint of all PENDING jobs and unfinished arrays, in bytes."""
        return self._counts.pending_bytes

    def walk(self, first: int, backwards: bool = False) -> Iterator[Job]:
        """Yield the jobs from id ``first`` on, by id, ascending or descending; jobs may change meanwhile."""
        ids = range(min(first, self.last_id), 0, -1) if backwards else range(max(first, 1), self.last_id + 1)
        return filter(None, map(self.jobs.get, ids))

    def tasks(self, array: Job) -> list[Job]:
        """Return the tasks of an array, by index; an empty list for any other job."""
        return [self.jobs[job_id] for job_id in array.tasks.ids] if array.tasks else []

    def pending_states(self, array: Job) -> Iterator[Job]:
        """Yield the pending tasks of an array; one object stands for all that are untouched."""
        tasks = array.tasks
        if tasks is not None and tasks.untouched and tasks.shared.status is _PENDING:
            yield tasks.shared
        yield from (task for task in array.touched if task.status is _PENDING)

    def array_of(self, job: Job) -> Job:
        """Return the array that a job is a task of, else the job itself."""
        return self.jobs.whole_of(job)

    def dependents_of(self, job_id: int) -> Iterator[Job | None]:
        """Yield the jobs that depend on a job, directly or not, each once; they may change meanwhile.

        None is yielded after each of these jobs whose dependents were looked up: it took time.
        """
        found: set[int] = set()
        to_visit = [job_id]
        while to_visit:
            job = self.jobs.get(to_visit.pop())
            if job is None:
                continue
            for each in (job.id, *(self.dependencies.awaited_among(job.tasks.ids) if job.tasks else ())):
                for dependent in self.dependencies.waiting_for(each):
                    if dependent not in found and dependent in self.jobs:
                        found.add(dependent)
                        to_visit.append(dependent)
                        yield self.jobs[dependent]
            yield None

    def running(self, array: Job | None = None) -> list[Job]:
        """Return the jobs that are RUNNING, by id; of an array, its tasks. With ``array`` only its tasks."""
        tasks = None if array is None else array.tasks
        first, last = (1, self.last_id) if tasks is None else (tasks.ids[0], tasks.ids[-1])
        ids = self.index.find(_RUNNING_JOBS, first, last)
        jobs = [self.jobs[job_id] for job_id in ids if job_id is not None]
        return [job for job in jobs if job.tasks is None]

    def reason_to_keep(self, job_id: int) -> str | None:
        """Return why a finished job cannot be removed yet, None if it can."""
        if self.schedules.is_latest_run(job_id):
            return "it is the latest run of its schedule; UNSCHEDULE ends the schedule"
        if self.dependencies.is_cause(job_id):
            return "a job that depends on it has not been failed yet"
        return None

    def describe_queues(self) -> Iterator[dict[str, Any]]:
        """Yield the description of each queue for QUEUES; queues may change meanwhile."""
        return self.queues.describe(self._busy)

    def describe_queue(self, name: str) -> dict[str, Any]:
        """Return the description of one queue for QUEUES."""
        return self.queues.describe_one(name, self._busy(name))

    def _busy(self, queue: str) -> int:
        return self.capacity.allocated(Constraint("queue", queue))

    # Scheduling.

    @property
    def needs_scheduling(self) -> bool:
        """Whether ``next_job`` may find a job; False if it found none and only time has passed since."""
        return self.ready_queue.needs_scheduling

    def next_job(self, now: float) -> Job | None:
        """See WaitingJobs.next_job."""
        return self.waiting.next_job(now)

    def may_start(self, job: Job, now: float) -> bool:
        """See WaitingJobs.may_start."""
        return self.waiting.may_start(job, now)

    def release(self, job_id: int) -> None:
        """See WaitingJobs.release."""
        self.waiting.release(job_id)

    def next_due(self, now: float) -> float | None:
        """See WaitingJobs.next_due."""
        return self.waiting.next_due(now)

    def next_to_start(self, queue: str | None = None) -> Iterator[int | None]:
        """See WaitingJobs.next_to_start."""
        return self.waiting.next_to_start(queue)

    def allocate_running(self, job: Job) -> None:
        """Allocate the capacity of a job that has been running since before the start of the daemon."""
        self.ready_queue.allocate_running(job)

    # Pending jobs.

    def reason(self, job: Job, now: float) -> Reason | None:
        """See WaitingJobs.reason."""
        return self.waiting.reason(job, now)

    def remaining_delay(self, job: Job, now: float) -> float:
        """See WaitingJobs.remaining_delay."""
        return self.waiting.remaining_delay(job, now)

    def earliest_start(self, job: Job) -> float | None:
        """See WaitingJobs.earliest_start."""
        return self.waiting.earliest_start(job)

    def has_expired(self, job: Job) -> bool:
        """See WaitingJobs.has_expired."""
        return self.waiting.has_expired(job)

    def expires_at(self, job: Job) -> float | None:
        """See WaitingJobs.expires_at."""
        return self.waiting.expires_at(job)

    def withdraw_expired(self, now: float, limit: int) -> None:
        """See WaitingJobs.withdraw_expired."""
        self.waiting.withdraw_expired(now, limit)

    def count_unstarted(self, job: Job) -> int:
        """Return how many tasks of an array are pending and have not started; for any other job, 1 if so."""
        tasks = job.tasks
        untouched = len(tasks.untouched) if tasks is not None and tasks.shared.status is _PENDING else 0
        return untouched + sum(map(is_unstarted, job.touched))

    def relocate(self, job_id: int, attempt: int, upto: int, position: RecordPosition) -> None:
        """Set the new position of an attempt's Ended, if the old one is in a segment up to ``upto``.

        ``attempt`` is 0 for all attempts of which that is true.
        """
        job = self.jobs.get(job_id)
        if job is not None:
            job.relocate(attempt, upto, position)

    # Applying events.

    def apply(
        self, event: Replayed, position: RecordPosition | None = None, in_portions: bool = False
    ) -> Job | None:
        """Apply a durable event, or all of a Compacted, and return its job, if it is about a job.

        ``position`` is where the journal has it. Raises InvalidTransition, having changed nothing, if the
        event is not possible. An event of an array that moves many touched tasks is applied as a whole, or
        ``in_portions``: then only the first is moved now, and ``continue_change`` moves the others. Likewise
        ``resolve_portion`` then resolves the jobs that wait for a job that ends, if they are many.
        """
        if type(event) is Submitted:
            return self._new_jobs.add(event)
        if isinstance(event, Compacted):
            return self._apply_compacted(event, position)
        if isinstance(event, QueueEvent | Clocked):
            self._apply_queue_event(event)
            return None
        job = self.jobs.get(event.id)
        if job is None:
            raise InvalidTransition(f"{event.name} is not possible for job {event.id}, which is unknown")
        if self._changes.are_under_way:
            self._changes.finish(self.array_of(job).id)
        if self.dependencies.has_unresolved:
            self.waiting.resolve_now(self.array_of(job))
        self._changes.apply(job, event)
        if not in_portions:
            if self._changes.are_under_way:
                self._changes.finish(job.id)
            while self.dependencies.has_unresolved:
                self.resolve_portion()
        self._applied(job, event, position)
        return job

    def apply_all(self, events: Sequence[JobEvent | QueueEvent]) -> None:
        """Apply durable events as ``apply`` does, in portions; successive similar submissions in one step."""
        at = 0
        while at < len(events):
            event = events[at]
            if type(event) is Submitted and event.id > self.last_id and is_plain(event):
                similar = cast("Sequence[Submitted]", events[at : end_of_similar(events, at)])
                self._new_jobs.add_similar(similar)
                at += len(similar)
            else:
                self.apply(event, in_portions=True)
                at += 1

    def _applied(self, job: Job, event: JobEvent, position: RecordPosition | None) -> None:
        if type(event) is Ended and not event.is_void:
            transitions.attempt_of(job).record = position
            if job.status.is_final:
                job.pack_attempt()
        elif type(event) is Skipped:
            dependency = self.jobs.get(event.dependency)
            if dependency is not None:  # it may have been removed since, and its events with it
                self.skips.add(job.id, self.array_of(dependency).id)
        elif isinstance(event, Retried | Removed):
            self.skips.discard(job.id)

    @property
    def has_changes(self) -> bool:
        """Whether ``is_changing`` is true of any array."""
        return self._changes.are_under_way

    def is_changing(self, array_id: int) -> bool:
        """Whether an event of an array has not been applied to all its tasks yet."""
        return self._changes.is_under_way(array_id)

    def continue_change(self, array_id: int) -> bool:
        """Apply the event of an array to more tasks; return whether it must be called again."""
        return self._changes.advance(array_id)

    def resolve_portion(self) -> bool:
        """See JobChanges.resolve_portion."""
        return self._changes.resolve_portion()

    def apply_replayed(self, records: Iterable[tuple[Replayed, RecordPosition | None]]) -> None:
        """Apply records with their positions as ``apply`` does; successive jobs that have ended in one step.

        The ``position`` of an InvalidTransition is that of its record; the records before it are applied.
        """
        ended: list[Job] = []
        last_id = self.last_id
        for record, position in records:
            if type(record) is Compacted:
                job = make_ended_job(record, self.ahead, position)
                if job is not None and job.id > last_id:
                    last_id = job.id
                    ended.append(job)
                    continue
            if ended:
                self._new_jobs.add_ended(ended)
                ended = []
            try:
                self.apply(record, position)
            except InvalidTransition as why:
                why.position = position
                raise
            last_id = self.last_id
        self._new_jobs.add_ended(ended)

    def _apply_compacted(self, record: Compacted, position: RecordPosition | None) -> Job:
        job = make_ended_job(record, self.ahead, position)
        if job is not None and job.id > self.last_id:
            self._new_jobs.add_ended([job])
            return job
        for event in record.events:
            self.apply(event, position)
        return self.jobs[record.id]

    def _apply_queue_event(self, event: QueueEvent | Clocked) -> None:
        if isinstance(event, Clocked):
            self.waiting.ahead = event.ahead
            self.schedules.set_time(event.at, event.ahead)
            self.ready_queue.needs_scheduling = True  # dated jobs may be due now
        elif (schedule := getattr(event, "schedule", None)) is not None:
            self._apply_to_schedule(schedule, event)
        elif isinstance(event, Configured):
            self._configure(event)
        elif isinstance(event, Rescaled):
            self.capacity.set_slots = event.slots
            self.ready_queue.unblock_all()
        else:
            self.queues.apply(event)
            self.ready_queue.unblock_all()

    def _configure(self, event: Configured) -> None:
        queue = event.queue
        was_fair = self.queues.is_fair(queue)
        self.queues.apply(event)
        if self.queues.is_fair(queue) is not was_fair:
            self.ready_queue.regroup(queue, self.jobs)
        self.ready_queue.update_rate(queue)
        self.ready_queue.unblock_all()

    def _apply_to_schedule(self, schedule: int, event: QueueEvent) -> None:
        latest = self.schedules.latest_run(schedule)
        try:
            self.schedules.apply(event)
        except ValueError as why:
            raise InvalidTransition(str(why)) from None
        if latest is not None:
            self.retention_index.reconsider(latest)
