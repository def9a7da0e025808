"""The pending jobs: what each waits for, and which one starts next.

A job waits for its release, its dependencies, its time, and then in the ready queue for capacity. Until it is
open, as during a replay, no job is added to the ready queue or the delay queue; ``open`` then adds all at
once, which is faster.
"""

from collections.abc import Iterator

from taskqd.model import transitions
from taskqd.model.events import Ended, JobEvent, Started
from taskqd.model.job import Job, Reason, Status, Tasks
from taskqd.model.task_set import TaskSet
from taskqd.state.capacity import Capacity
from taskqd.state.delay_queue import DelayQueue
from taskqd.state.dependencies import Dependencies
from taskqd.state.expiry_queue import ExpiryQueue
from taskqd.state.job_table import JobTable
from taskqd.state.queues import Queues
from taskqd.state.ready_queue import ReadyQueue

MAX_DELAYED = 5000
"""Delayed jobs that ``next_to_start`` looks up, at 2 µs each."""

_PENDING = Status.PENDING
"""A global of the module, which is several times faster to read than a member of an Enum."""


class WaitingJobs:
    """The queues and indexes of those of ``jobs`` that are pending; see QueueState for the times."""

    def __init__(self, jobs: JobTable, queues: Queues, capacity: Capacity, is_open: bool) -> None:
        self.ahead = 0.0
        self.is_open = is_open
        self.ready_queue = ReadyQueue(capacity, queues.has_pause, queues.is_fair)
        self.dependencies = Dependencies()
        self.expiry_queue = ExpiryQueue()
        self._jobs = jobs
        self._queues = queues
        self._delays = DelayQueue(jobs, self._is_ready)

    def open(self) -> None:
        """Add all jobs that may start to the ready queue or the delay queue, and from now on new ones."""
        self.is_open = True
        self._restore_starts()
        delayed: list[Job] = []
        self.ready_queue.add_all(self._ready_jobs(delayed))
        self._delays.add_all(delayed)
        for array in self._jobs.arrays():
            self.enqueue_all(array)

    def _restore_starts(self) -> None:
        """Restore the turns of owners and the counts of start rates from the attempts of known jobs."""
        queues = self._queues.with_starts()
        for job in self._jobs.objects() if queues else ():
            if job.attempt is not None and job.spec.queue in queues:
                for attempt in (job.attempt, *job.past):
                    self.ready_queue.restore_start(job, attempt.started_at - job.ahead)

    def _ready_jobs(self, delayed: list[Job]) -> Iterator[Job]:
        """Yield the jobs that wait only for capacity; append those that wait for their time to a list."""
        for job in self._jobs.whole():
            if job.tasks is None and self._is_ready(job):
                if job.not_before is None:
                    yield job
                else:
                    delayed.append(job)

    # What a job waits for.

    def reason(self, job: Job, now: float) -> Reason | None:
        """Return why a job has its status; for a pending job, the reason that would last longest."""
        if job.status is not Status.PENDING:
            return job.reason
        if job.is_held:
            return Reason.HELD
        if self._jobs.whole_of(job).suspended_at is not None:
            return Reason.SUSPENDED
        if self._has_unmet(self._jobs.whole_of(job)):
            return Reason.AFTER
        if self.remaining_delay(job, now) > 0:
            return Reason.RETRYING if job.reason is Reason.RETRYING else Reason.DELAYED
        return Reason.PAUSED if self._queues.has_pause(job.spec.queue) else Reason.QUEUED

    def _has_unmet(self, job: Job) -> bool:
        """Whether a dependency of a job or array is not satisfied; it may be resolved only later."""
        unmet = job.unmet_dependencies
        return bool(unmet) and unmet > self.dependencies.count_satisfied(job)

    def remaining_delay(self, job: Job, now: float) -> float:
        """Return the seconds until a pending job is due; 0 or less if it is due."""
        if job.not_before is None:
            return 0.0
        return job.not_before - (now + self.ahead if job.is_dated else now)

    def earliest_start(self, job: Job) -> float | None:
        """Return the time of day at which a delayed job is due, None for any other job."""
        if job.not_before is None or job.is_dated:
            return job.not_before
        return job.not_before + self.ahead

    def _is_ready(self, job: Job) -> bool:
        """Whether a job waits only for its time, for capacity, or for the end of a pause.

        No task of a suspended array is ready.
        """
        if job.status is not _PENDING or job.is_held:
            return False
        if self.has_expired(job):
            return False
        whole = self._jobs.whole_of(job)
        return not whole.unmet_dependencies and whole.suspended_at is None

    # Adding jobs.

    def enqueue(self, job: Job) -> None:
        """Add a job to the ready queue or the delay queue, unless it waits for something else too."""
        if self.is_open and self._is_ready(job):
            if job.not_before is not None:
                self._delays.add(job)
                self.ready_queue.needs_scheduling = True  # next_due may have changed
            else:
                self.ready_queue.add(job)

    def enqueue_untouched(self, tasks: Tasks) -> None:
        """Enqueue the untouched tasks of an array in one step."""
        if self.is_open and tasks.untouched and self._is_ready(tasks.shared):
            if tasks.shared.not_before is not None:
                self._delays.add(tasks.shared)
                self.ready_queue.needs_scheduling = True
            else:
                self._enqueue_due(tasks.shared)

    def _enqueue_due(self, job: Job) -> None:
        """Add a job to the ready queue, or the untouched tasks of an array if it is their shared state."""
        tasks = self._jobs[job.id].tasks if job.is_shared else None
        if tasks is None:
            self.ready_queue.add(job)
        else:
            self.ready_queue.add_tasks(job, tasks.untouched.copy())

    def enqueue_all(self, job: Job) -> None:
        """Enqueue a job, or all tasks of an array."""
        if job.tasks is None:
            self.enqueue(job)
        elif self.is_open and not job.unmet_dependencies and job.suspended_at is None:
            self.enqueue_untouched(job.tasks)
            self._enqueue_touched(job.tasks)

    def _enqueue_touched(self, tasks: Tasks) -> None:
        """Enqueue the touched tasks of an array, those with the same spec in one step."""
        by_spec: dict[int, list[Job]] = {}
        for task in tasks.touched.values():
            if task.status is _PENDING and not task.is_held:
                if task.not_before is not None:
                    self.enqueue(task)
                else:
                    by_spec.setdefault(id(task.spec), []).append(task)
        for ready in by_spec.values():
            ids = TaskSet(tasks.ids, is_full=False)
            ids.add_all(task.id for task in ready)
            self.ready_queue.add_tasks(ready[0], ids)

    def dequeue(self, task: Job) -> None:
        """Take a pending task of a suspended array out of the ready queue, if it is there."""
        if self.is_open:
            self.ready_queue.remove(task)

    def dequeue_untouched(self, tasks: Tasks) -> None:
        """Take the untouched tasks of a suspended array out of the ready queue, in one step."""
        if self.is_open and tasks.untouched and tasks.shared.status is _PENDING:
            self.ready_queue.remove_tasks(tasks.shared, tasks.untouched)

    def dependency_satisfied(self, job: Job, count: int = 1) -> None:
        job.unmet_dependencies -= count
        self.enqueue_all(job)

    def resolve_now(self, job: Job) -> None:
        """Resolve a job before an event changes it, as if all had been resolved when its dependency ended."""
        if job.unmet_dependencies:
            count = self.dependencies.resolve_now(job)
            if count:
                self.dependency_satisfied(job, count)

    # Choosing the next job.

    def next_to_start(self, queue: str | None = None) -> Iterator[int | None]:
        """Yield the ids of jobs in the order of their starts: of the ready ones, then of delayed ones.

        Only those of one ``queue`` are complete if that is given. Of delayed jobs, up to MAX_DELAYED are
        there. Jobs may change meanwhile. None means that time has passed without a job.
        """
        yield from self.ready_queue.walk(lambda job_id: self._jobs[job_id].array is not None, queue)
        yield from self._delays.first(MAX_DELAYED, self.ahead)

    def next_job(self, now: float) -> Job | None:
        """Allocate capacity to the next job that may start and return it; None if there is none.

        There is none while dependencies are unresolved: a job that goes first may be among the waiting ones.
        The caller must ``release`` the job when it no longer runs, or if it is not started after all.
        """
        if self.dependencies.has_unresolved:
            return None
        for job in self._delays.pop_due(now, now + self.ahead):
            self._enqueue_due(job)
        while (job_id := self.ready_queue.take(now)) is not None:
            job = self._jobs[job_id]
            if job.spec.expires is not None and self._has_expired(job, now):
                self._withdraw(self._jobs.whole_of(job))
                self.release(job_id)
                continue
            if self.remaining_delay(job, now) <= 0:
                return job
            # The system clock was set back after the job became ready.
            tasks = self._jobs.whole_of(job).tasks
            if tasks is not None and job_id in tasks.untouched:
                self.ready_queue.remove_tasks(tasks.shared, tasks.untouched)
            self.release(job_id)
        return None

    def may_start(self, job: Job, now: float) -> bool:
        """Whether a job that ``next_job`` returned may still start; events may have been applied since."""
        return (
            self._is_ready(job)
            and self.remaining_delay(job, now) <= 0
            and self.ready_queue.has_current_allocation(job)
            and not self._queues.has_pause(job.spec.queue)
        )

    def release(self, job_id: int) -> None:
        """Release the capacity of a job, and queue the job again if it is pending."""
        self.ready_queue.release(job_id)
        job = self._jobs.get(job_id)
        if job is None or job.status is not _PENDING:
            return
        tasks = self._jobs.whole_of(job).tasks
        if job.not_before is not None and tasks is not None and job_id in tasks.untouched:
            self.enqueue_untouched(tasks)  # their time is the same
        else:
            self.enqueue(job)

    def next_due(self, now: float) -> float | None:
        """Return when the next job becomes due if no event is applied before, None if none does.

        The time is on the monotonic clock.
        """
        times = (self.ready_queue.next_wakeup(now), self._delays.next_due(self.ahead))
        return min((time for time in times if time is not None), default=None)

    def count_start(self, job: Job, event: JobEvent) -> None:
        """Count a start for the rate and the turns of its queue; to be called before the event is applied."""
        if not self.is_open:
            return
        if type(event) is Started:
            self.ready_queue.record_start(job, event.at - self.ahead)
        elif type(event) is Ended and event.is_void:
            self.ready_queue.undo_start(job, transitions.attempt_of(job).started_at - job.ahead)

    # Expiry.

    def withdraw_expired(self, now: float, limit: int) -> None:
        """Let up to ``limit`` jobs whose time has come expire; they do not start any more."""
        for job_id in self.expiry_queue.pop_due(now, limit):
            self._withdraw(self._jobs[job_id])

    def _withdraw(self, job: Job) -> None:
        """Take an expired job, or those tasks of an array that have not started, out of the ready queue."""
        self.expiry_queue.expire(job.id)
        if job.tasks is None:
            self.ready_queue.remove(job)
            return
        if job.tasks.untouched and job.tasks.shared.status is _PENDING:
            self.ready_queue.remove_tasks(job.tasks.shared, job.tasks.untouched)
        for task in job.touched:
            if is_unstarted(task):
                self.ready_queue.remove(task)

    def has_expired(self, job: Job) -> bool:
        """Whether a job has expired and its end is yet to be recorded."""
        expired = self.expiry_queue.expired
        return bool(expired) and not job.attempts and self._jobs.whole_of(job).id in expired

    def _has_expired(self, job: Job, now: float) -> bool:
        return not job.attempts and self.expiry_queue.has_expired(self._jobs.whole_of(job).id, now)

    def expires_at(self, job: Job) -> float | None:
        """Return the time of day at which a job expires if it has not started, None if it does not."""
        time = None if job.attempts else self.expiry_queue.time_of(self._jobs.whole_of(job).id)
        return None if time is None else time + self.ahead

    def update_expiry(self, job: Job, event: JobEvent) -> None:
        """Update when a job expires that has started or ended, or whose start was undone."""
        expires = job.spec.expires
        if expires is None:
            return
        if type(event) is Ended and event.is_void and is_unstarted(job):
            whole = self._jobs.whole_of(job)
            self.expiry_queue.add(whole.id, whole.submitted_at - self.ahead + expires)
        elif job.array is None and not is_unstarted(job):
            self.expiry_queue.discard(job.id)


def is_unstarted(job: Job) -> bool:
    """Whether a job is pending and has not started."""
    return job.status is _PENDING and not job.attempts
