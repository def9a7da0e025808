"""Adds submitted jobs and arrays to the state, and jobs that a snapshot has with their end."""

from collections.abc import Sequence
from sys import intern
from typing import cast

from taskqd.model.events import JobEvent, QueueEvent, Submitted
from taskqd.model.footprint import footprint, footprint_of_all
from taskqd.model.job import NO_EXTRAS, Job
from taskqd.model.spec import DEFAULT_SPEC
from taskqd.model.spec_pool import SpecPool, with_known_ids
from taskqd.state import arrays
from taskqd.state.capacity import Capacity
from taskqd.state.errors import InvalidTransition
from taskqd.state.job_counts import JobCounts
from taskqd.state.job_index import JobIndex
from taskqd.state.job_keys import JobKeys
from taskqd.state.job_table import JobTable
from taskqd.state.retention_index import RetentionIndex
from taskqd.state.schedules import Schedules
from taskqd.state.waiting_jobs import WaitingJobs


class NewJobs:
    """Adds jobs to ``jobs``; the arguments are the parts of QueueState that it changes.

    ``last_id`` is the highest id of a job or task so far.
    """

    def __init__(
        self,
        jobs: JobTable,
        keys: JobKeys,
        counts: JobCounts,
        capacity: Capacity,
        waiting: WaitingJobs,
        schedules: Schedules,
        index: JobIndex,
        retention_index: RetentionIndex,
    ) -> None:
        self.last_id = 0
        self._jobs = jobs
        self._keys = keys
        self._counts = counts
        self._capacity = capacity
        self._waiting = waiting
        self._schedules = schedules
        self._index = index
        self._retention_index = retention_index
        self._specs = SpecPool()

    def add(self, event: Submitted) -> Job:
        """Add a job, or an array with its tasks; raises InvalidTransition."""
        job = self._new_job(event)
        if event.spec.array is not None:
            arrays.make_tasks(job, event, event.spec.array)
        self._add_job(job)
        if event.schedule is not None:
            self._add_run(job, event.schedule)
        spec = job.spec
        if spec.array is not None:
            self._capacity.limit_array(job.id, spec.array.at_once)
        self._counts.add_pending(job, footprint(job.command, spec))
        self._counts.add_new(job, 1 if spec.array is None else spec.array.count)
        if spec.environment is not None:
            self._counts.environments.add(spec.environment)
        if spec.expires is not None:
            self._waiting.expiry_queue.add(job.id, job.submitted_at - self._waiting.ahead + spec.expires)
        if spec.has_dependencies:
            job.unmet_dependencies = self._waiting.dependencies.add(job, self._jobs)
        if self._waiting.is_open:
            self._index.add(job)
            self.index_untouched(job)
            self._waiting.enqueue_all(job)
        return job

    def add_similar(self, events: Sequence[Submitted]) -> None:
        """Add the jobs of similar submissions; the result is the same as that of ``add`` for each."""
        first, *others = events
        job = self._new_job(first)
        spec, owner = job.spec, job.owner
        jobs = [
            job,
            *[
                Job(id=event.id, command=event.command, spec=spec, owner=owner, submitted_at=event.at)
                for event in others
            ],
        ]
        self._jobs.add_all(jobs)
        self.last_id = jobs[-1].id
        size = footprint_of_all([event.command for event in events], spec)
        self._counts.add_pending(job, size, len(jobs))
        self._counts.add_new(job, len(jobs))
        if spec.environment is not None:
            self._counts.environments.add(spec.environment, len(jobs))
        if self._waiting.is_open:
            self._index.add_similar(jobs)
            self._waiting.ready_queue.add_similar(jobs)

    def add_ended(self, jobs: list[Job]) -> None:
        """Add new jobs that ended with their first attempt, by ascending id.

        This has the same effect as to apply their events. It does not touch what depends on jobs that have
        not ended, and so takes a fourth of the time.
        """
        if not jobs:
            return
        self._jobs.add_all(jobs)
        self.last_id = jobs[-1].id
        by_queue: dict[str, list[Job]] = {}
        for job in jobs:
            if job.spec is not DEFAULT_SPEC:
                job.spec = self._specs.intern(job.spec)
                if job.spec.key is not None:
                    self._keys.add(job, job.spec.key)
                if job.spec.environment is not None:
                    self._counts.environments.add(job.spec.environment)
            if job.extras is not NO_EXTRAS and job.schedule is not None:
                self._add_run(job, job.schedule)
            by_queue.setdefault(job.spec.queue, []).append(job)
        for queue, some in by_queue.items():
            for status, count in self._counts.queues.jobs_ended(queue, some).items():
                self._counts.by_status[status] += count
        self._retention_index.add_ended(jobs)
        if self._waiting.is_open:
            self._index.fill(jobs)

    def _new_job(self, event: Submitted) -> Job:
        """Return a new job, which is not known yet."""
        spec = event.spec
        if spec is not DEFAULT_SPEC:
            spec = self._specs.intern(with_known_ids(spec, self._jobs))
        if event.id <= self.last_id and self._jobs.has_any(range(event.id, event.last_id + 1)):
            raise InvalidTransition(f"job {event.id} was submitted twice")
        return Job(
            id=event.id,
            command=event.command,
            spec=spec,
            owner=intern(event.owner),
            submitted_at=event.at,
            is_held=spec.hold,
            not_before=spec.at if spec.delay is None else event.at - self._waiting.ahead + spec.delay,
            is_dated=spec.delay is None and spec.at is not None,
        )

    def _add_job(self, job: Job) -> None:
        """Add a new job to the indexes that do not depend on its status."""
        spec = job.spec
        self._jobs.add(job)
        last_id = job.id if spec.array is None else job.id + spec.array.count
        self.last_id = max(self.last_id, last_id)
        if spec.key is not None:
            self._keys.add(job, spec.key)

    def _add_run(self, job: Job, schedule: int) -> None:
        """Note that a schedule has submitted a job."""
        job.schedule = schedule
        latest = self._schedules.latest_run(schedule)
        self._schedules.job_submitted(schedule, job.submitted_at, job.id)
        if latest is not None:
            self._retention_index.reconsider(latest)

    def index_untouched(self, job: Job) -> None:
        """Add the untouched tasks of an array to the index; does nothing for any other job."""
        if job.tasks is not None:
            self._index.put_tasks(job.tasks.shared, job.tasks.untouched, are_new=True)


def is_plain(event: Submitted) -> bool:
    """Whether a job is ready when it is submitted, is no array, and nothing refers to it or from it."""
    spec = event.spec
    refers = spec.has_dependencies or spec.key is not None
    waits = spec.hold or spec.expires is not None or spec.delay is not None or spec.at is not None
    return not (refers or waits or spec.array is not None or event.schedule is not None)


def end_of_similar(events: Sequence[JobEvent | QueueEvent], start: int) -> int:
    """Return where the events end that submit similar jobs.

    They differ from the plain one at ``start`` only in time and command, and have the ids that follow.
    """
    first = cast(Submitted, events[start])
    spec, owner, offset = first.spec, first.owner, first.id - start
    for at in range(start + 1, len(events)):
        event = events[at]
        if (
            type(event) is not Submitted
            or event.spec is not spec
            or event.id != at + offset
            or event.owner != owner
            or event.schedule is not None
        ):
            return at
    return len(events)
