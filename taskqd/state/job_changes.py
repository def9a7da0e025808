"""Applies events to jobs and arrays that are known, and updates everything that depends on them."""

from collections.abc import Iterator
from typing import cast

from msgspec.structs import replace

from taskqd.model import transitions
from taskqd.model.events import Changed, Continued, Ended, JobEvent, Removed, Retried, Suspended
from taskqd.model.footprint import ATTEMPT_BYTES, footprint_of
from taskqd.model.job import Job, Status, Tasks
from taskqd.model.spec_pool import with_parts_of
from taskqd.state import arrays
from taskqd.state.capacity import Capacity
from taskqd.state.errors import InvalidTransition
from taskqd.state.job_counts import JobCounts
from taskqd.state.job_index import JobIndex
from taskqd.state.job_keys import JobKeys
from taskqd.state.job_table import JobTable
from taskqd.state.retention_index import RetentionIndex
from taskqd.state.waiting_jobs import WaitingJobs

MOVE_COST = 24
"""The cost of changing a touched task of an array, up to 20 µs, in that of looking at one."""
PORTION_COST = 5_000
"""The cost after which an event that changes many touched tasks yields: 200 of them, in up to 5 ms."""

_END = object()
_PENDING = Status.PENDING
"""A global of the module, which is several times faster to read than a member of an Enum."""


class JobChanges:
    """Applies events to ``jobs``; the arguments are the parts of QueueState that it changes.

    A change of an array that has many touched tasks is made in portions, and is under way meanwhile.
    """

    def __init__(
        self,
        jobs: JobTable,
        keys: JobKeys,
        counts: JobCounts,
        capacity: Capacity,
        waiting: WaitingJobs,
        index: JobIndex,
        retention_index: RetentionIndex,
    ) -> None:
        self._jobs = jobs
        self._keys = keys
        self._counts = counts
        self._capacity = capacity
        self._waiting = waiting
        self._ready_queue = waiting.ready_queue
        self._dependencies = waiting.dependencies
        self._index = index
        self._retention_index = retention_index
        self._under_way: dict[int, Iterator[None]] = {}  # by array

    def apply(self, job: Job, event: JobEvent) -> None:
        """Apply an event to a job, or the first portion of one to an array; raises InvalidTransition."""
        if type(event) is Changed:
            command = job.command if job.command == event.command else event.command
            event = replace(event, command=command, spec=with_parts_of(job.spec, event.spec))
        if job.tasks is None:
            self._move(job, event)
        else:
            if isinstance(event, Suspended | Continued) and not job.status.is_final:
                self._under_way[job.id] = self._suspend_tasks(job, job.tasks, event)
            else:
                self._under_way[job.id] = self._apply_to_array(job, job.tasks, event)
            self.advance(job.id)

    # Changes of arrays that are under way.

    @property
    def are_under_way(self) -> bool:
        """Whether any change is under way."""
        return bool(self._under_way)

    def is_under_way(self, array_id: int) -> bool:
        """Whether an event of an array has not been applied to all its tasks yet."""
        return array_id in self._under_way

    def advance(self, array_id: int) -> bool:
        """Apply the event of an array to more tasks; return whether it must be called again."""
        change = self._under_way.pop(array_id, None)
        if change is None or next(change, _END) is _END:
            return False
        self._under_way[array_id] = change
        return True

    def finish(self, array_id: int) -> None:
        """Apply the event of an array to all its tasks, if that is under way."""
        while self.advance(array_id):
            pass

    # Jobs and touched tasks.

    def _move(self, job: Job, event: JobEvent) -> None:
        """Apply an event to a job that is not an array, and update everything that depends on the job."""
        before, after = job.status, transitions.next_status(event, job)
        if after is None:
            raise InvalidTransition(
                f"{event.name} is not possible for job {event.id}, which is {before.value}"
            )
        self._jobs.touch(job)
        if before is _PENDING and self._waiting.is_open:
            self._ready_queue.remove(job)
        queue, runs = job.spec.queue, job.runs
        self._waiting.count_start(job, event)
        if before is _PENDING and job.array is None:
            self._counts.remove_pending(job, footprint_of(job))
        job.status = after
        transitions.apply_event(job, event, self._jobs.whole_of(job).spec, self._waiting.ahead)
        if type(event) is Removed:
            self._remove(job)
            return
        if type(event) is Ended:
            self._record_duration(job, event, queue)
        elif type(event) is Retried and job.array is None:
            job.unmet_dependencies = self._dependencies.add(job, self._jobs)
        self._counts.move(job, queue, before, after)
        self._reindex(job, before, event)
        self._waiting.update_expiry(job, event)
        if after is _PENDING:
            self._waiting.enqueue(job)
        self._status_changed(job, before)
        if job.array is not None:
            self._task_moved(self._jobs[job.array], event, before, after, job.runs - runs)
        elif after is _PENDING:
            self._counts.add_pending(job, footprint_of(job))

    def _reindex(self, job: Job, before: Status, event: JobEvent) -> None:
        """Update the index if an event has changed the status of a job, its queue or its label."""
        if self._waiting.is_open and (job.status is not before or type(event) is Changed):
            self._index.update(job)

    def _record_duration(self, job: Job, event: Ended, queue: str) -> None:
        """Record how long an attempt ran, without the time for which it was suspended.

        This is measured on the monotonic clock: the system clock may have been set.
        """
        if not event.is_void:
            attempt = transitions.attempt_of(job)
            ended_at = event.at if attempt.ended_at is None else attempt.ended_at
            duration = (ended_at - self._waiting.ahead) - (attempt.started_at - job.ahead) - event.suspended
            self._counts.queues.record_duration(queue, max(0.0, duration))

    def _status_changed(self, job: Job, before: Status) -> None:
        """Update the indexes if a job has ended, or runs again after it had ended."""
        if job.status.is_final and not before.is_final:
            job.ahead = self._waiting.ahead
            self._retention_index.add(job)
            if job.unmet_dependencies:
                job.unmet_dependencies = 0
                no_longer_cause = self._dependencies.discard(job)
                if no_longer_cause is not None:
                    self._retention_index.reconsider(no_longer_cause)
            self._resolve_dependencies(job)
        elif before.is_final and not job.status.is_final:
            self._retention_index.discard(job)

    def _resolve_dependencies(self, job: Job) -> None:
        """Enqueue the jobs that waited only for a job that has ended, unless these are many."""
        for job_id in self._dependencies.resolve(job):
            self._waiting.dependency_satisfied(self._jobs[job_id])

    def resolve_portion(self) -> bool:
        """Resolve more of many jobs that waited for one that has ended; return whether any are left.

        To be called only if ``dependencies.has_unresolved``.
        """
        satisfied, no_longer_cause = self._dependencies.resolve_portion()
        for job_id in satisfied:
            self._waiting.dependency_satisfied(self._jobs[job_id])
        if no_longer_cause is not None:
            self._retention_index.reconsider(no_longer_cause)
        self._ready_queue.needs_scheduling = True  # next_job has returned None meanwhile
        return self._dependencies.has_unresolved

    # Arrays.

    def _apply_to_array(self, array: Job, tasks: Tasks, event: JobEvent) -> Iterator[None]:
        """Apply an event to an array: to its untouched tasks in one step, then to the touched ones.

        Yields after every PORTION_COST; nothing else may change the array until the iteration has ended.
        """
        statuses = arrays.affected(event, tasks)
        is_whole = array.status.is_final or not isinstance(event, Removed | Retried)
        if not statuses or not is_whole or not event.applies_to_arrays:
            raise InvalidTransition(
                f"{event.name} is not possible for array {array.id}, which is {array.status.value}"
            )
        if isinstance(event, Removed):
            self._remove_array(array, tasks)
            return
        if isinstance(event, Retried):
            array.unmet_dependencies = self._dependencies.add(array, self._jobs)
        if tasks.untouched and tasks.shared.status in statuses:
            self._move_untouched(array, tasks, event)
        cost = 0
        for job_id in sorted(tasks.touched):
            task, cost = tasks.touched[job_id], cost + 1
            if task.status in statuses and not (arrays.is_expiry(event) and task.attempts):
                self._move(task, event)
                cost += MOVE_COST
            if cost >= PORTION_COST:
                cost = 0
                yield
        if arrays.is_expiry(event):
            self._waiting.expiry_queue.discard(array.id)
        size, spec = footprint_of(array), array.spec
        arrays.apply_event(array, event, self._waiting.ahead)
        self._reindex(array, array.status, event)
        if not array.status.is_final:
            self._counts.add_bytes(array, footprint_of(array) - size)
            self._counts.change_group(array, spec)

    def _suspend_tasks(self, array: Job, tasks: Tasks, event: Suspended | Continued) -> Iterator[None]:
        """Suspend the running tasks of an array, and let no other task start; or let them go on.

        Yields as ``_apply_to_array`` does. Of a pending task only its place in the queues changes.
        """
        arrays.apply_event(array, event, self._waiting.ahead)
        if array.suspended_at is not None:
            self._waiting.dequeue_untouched(tasks)
        cost = 0
        for job_id in sorted(tasks.touched):
            task, cost = tasks.touched[job_id], cost + 1
            if task.status is Status.RUNNING:
                self._move(task, event)
                cost += MOVE_COST
            elif task.status is _PENDING and array.suspended_at is not None:
                self._waiting.dequeue(task)
                cost += MOVE_COST
            if cost >= PORTION_COST:
                cost = 0
                yield
        if array.suspended_at is None:
            self._waiting.enqueue_all(array)

    def _move_untouched(self, array: Job, tasks: Tasks, event: JobEvent) -> None:
        """Apply an event of an array to its untouched tasks, in one step."""
        shared, count = tasks.shared, len(tasks.untouched)
        before, queue = shared.status, shared.spec.queue
        if before is _PENDING and self._waiting.is_open:
            self._ready_queue.remove_tasks(shared, tasks.untouched)
        shared.status = after = cast(Status, transitions.next_status(event, shared))
        transitions.apply_event(shared, event, array.spec, self._waiting.ahead)
        self._counts.move(shared, queue, before, after, count)
        if self._waiting.is_open and (after is not before or type(event) is Changed):
            self._index.put_tasks(shared, tasks.untouched)
        if after is _PENDING:
            self._waiting.enqueue_untouched(tasks)
        if after.is_final:
            shared.ahead = self._waiting.ahead
            for job_id in self._dependencies.awaited_among(tasks.ids):
                if job_id in tasks.untouched:
                    self._resolve_dependencies(tasks.get(job_id))
        self._tasks_moved(array, before, after, count, event)

    def _task_moved(self, array: Job, event: JobEvent, before: Status, after: Status, more_runs: int) -> None:
        """Update the array of a task that an event has moved."""
        array.task_runs += more_runs
        if not array.status.is_final:
            self._counts.add_bytes(array, ATTEMPT_BYTES * more_runs)
        if type(event) is Ended:
            array.output_bytes += event.stdout.size + event.stderr.size
        self._tasks_moved(array, before, after, 1, event)

    def _tasks_moved(self, array: Job, before: Status, after: Status, count: int, event: JobEvent) -> None:
        """Update the array of tasks that have moved; its bytes count as pending until the array has ended."""
        previous = array.status
        arrays.tasks_moved(array, cast(Tasks, array.tasks), before, after, count, event)
        self._reindex(array, previous, event)
        if array.status.is_final:
            self._waiting.expiry_queue.discard(array.id)
        if array.status.is_final is not previous.is_final:
            change = self._counts.add_pending if previous.is_final else self._counts.remove_pending
            change(array, footprint_of(array))
        self._status_changed(array, previous)

    # Removal.

    def _remove_array(self, array: Job, tasks: Tasks) -> None:
        self._capacity.limit_array(array.id, None)
        for (queue, status), count in arrays.counts_by_queue(array, tasks).items():
            self._counts.remove(queue, status, count)
        if self._waiting.is_open:
            self._index.remove_tasks(tasks.ids)
        self._remove(array)

    def _remove(self, job: Job) -> None:
        if job.tasks is None:
            self._counts.remove(job.spec.queue, job.status)
        self._retention_index.discard(job)
        if self._waiting.is_open:
            self._index.remove(job.id)
        self._jobs.remove(job)
        self._keys.discard(job)
        if job.spec.environment is not None:
            self._counts.environments.discard(job.spec.environment)
