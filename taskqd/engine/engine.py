"""The single writer: a command becomes an event, which is made durable, applied to the state, and acted on.

``Engine`` connects the parts: submissions, commands for jobs and for queues, the dispatcher that runs jobs.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from taskqd.config.limits import UNBOUNDED, PendingLimit
from taskqd.engine.clock_jumps import ClockJumps
from taskqd.engine.command_changes import CommandChanges
from taskqd.engine.dependency_failures import DependencyFailures
from taskqd.engine.dependency_resolution import DependencyResolution
from taskqd.engine.dispatcher import Dispatcher, MakeStart
from taskqd.engine.environments import Environments
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.expirations import Expirations
from taskqd.engine.job_commands import JobCommands
from taskqd.engine.job_input import JobInput
from taskqd.engine.locks import JobLocks, KeyedLock
from taskqd.engine.queue_commands import QueueCommands
from taskqd.engine.randomness import Randomness
from taskqd.engine.schedule_runs import ScheduleRuns
from taskqd.engine.submissions import Submissions
from taskqd.errors import WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.model.job import Job, Status, Tasks
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IClock, IJournal, ISpool

OnJobEnded = Callable[[Job], object]
"""Called with a job that has ended."""

_COUNTERS = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}
"""The counters of the jobs that have ended, by status."""


class Engine:
    """Constructs the parts of the engine, and notifies observers of the ends of jobs.

    ``make_start`` and ``random`` are those of Dispatcher, ``max_pending`` is the limit of pending jobs of all
    users together. ``counters`` counts since the start of the daemon.
    """

    _log = Logger()

    def __init__(
        self,
        queue_state: QueueState,
        journal: IJournal,
        spool: ISpool,
        executor: IExecutor,
        clock: IClock,
        make_start: MakeStart,
        random: Randomness,
        max_pending: PendingLimit = UNBOUNDED,
    ) -> None:
        self.queue_state = queue_state
        self.counters = dict.fromkeys(("submitted", "started", "retried", "removed", *_COUNTERS.values()), 0)
        self._journal = journal
        self._end_observers: list[OnJobEnded] = []
        self._waiters: dict[int, set[OnJobEnded]] = {}
        event_writer = EventWriter(journal, queue_state, clock)
        locks = JobLocks()
        self.environments = Environments(spool.environments, queue_state.environments)
        self.dispatcher = Dispatcher(
            event_writer,
            locks,
            spool,
            executor,
            make_start,
            random,
            self._on_started,
            self._on_ended,
        )
        self._dependency_resolution = DependencyResolution(event_writer, self._act_on_changes)
        self._dependency_failures = DependencyFailures(
            event_writer, locks, self._on_ended, self._on_tasks_ended
        )
        self.expirations = Expirations(event_writer, locks, self._on_ended, self._on_tasks_ended)
        self.job_commands = JobCommands(
            event_writer,
            locks,
            spool,
            executor,
            self.counters,
            self._act_on_changes,
            self._on_ended,
            self._on_tasks_ended,
        )
        self.command_changes = CommandChanges(
            event_writer, locks, spool, self.job_commands.acts, self._act_on_changes
        )
        self.job_input = JobInput(queue_state, executor)
        schedule_locks: KeyedLock[int] = KeyedLock()
        self.queue_commands = QueueCommands(
            event_writer, spool, schedule_locks, self.dispatcher.start_due_jobs
        )
        self.submissions = Submissions(
            event_writer,
            spool,
            max(queue_state.last_id + 1, journal.next_id),
            max_pending,
            lambda: self.dispatcher.is_draining,
            self._on_accepted,
            lambda job_id: self.job_commands.purge({job_id: 0}),
            self.environments,
        )
        self.schedule_runs = ScheduleRuns(queue_state.schedules, self.submissions, schedule_locks)
        self.clock_jumps = ClockJumps(event_writer)
        self.clock_jumps.add_observer(self.dispatcher.start_due_jobs)

    def start(self) -> None:
        """Start due jobs, now and from now on."""
        self._act_on_changes()

    def _act_on_changes(self) -> None:
        """Resolve dependencies, fail and cancel jobs that can no longer start, and start due jobs."""
        self._dependency_resolution.process()
        self._dependency_failures.process()
        self.expirations.process()
        self.dispatcher.start_due_jobs()

    def _on_accepted(self, count: int) -> None:
        self.counters["submitted"] += count
        self._act_on_changes()

    def _on_started(self) -> None:
        self.counters["started"] += 1

    def run_schedule(self, number: int, origin: str | None, max_pending: PendingLimit) -> "Deferred[int]":
        """Submit a job of a schedule now, for its owner; fire with the job's id when it is durable.

        ``origin`` is where the user is. Raises and fails as ``Submissions.submit`` does, and with NoSuchJob,
        and WrongState while the job of the last run has not ended, unless the schedule has an ``overlap``.
        """
        schedule = self.queue_state.schedules.get(number)
        job = self.queue_state.jobs.get(schedule.last_job or 0)
        if job is not None and not job.status.is_final and not schedule.overlap:
            raise WrongState(
                f"nothing was submitted: job {job.id}, the last one of schedule {number}, is "
                f"{job.status.value}; run it when that has ended"
            )
        return self.schedule_runs.submit(schedule, origin, max_pending)

    def journal_stats(self) -> dict[str, Any]:
        """Return the journal's state as STATS shows it."""
        return {"failure": self._journal.failure, **self._journal.sizes()}

    # Ends of jobs.

    def add_end_observer(self, on_ended: OnJobEnded) -> None:
        """Call ``on_ended`` with each job that ends; with an array when its last task has ended.

        Tasks that an event of their array ends without a start are not announced here.
        """
        self._end_observers.append(on_ended)

    def wait(self, job_id: int) -> "Deferred[Job]":
        """Fire with a job when it has ended; may be cancelled. Raises NoSuchJob and Gone."""
        job = self.queue_state.get(job_id)
        if job.status.is_final:
            return succeed(job)
        waiter: Deferred[Job] = Deferred(lambda waiter: self._unsubscribe((job_id,), waiter.callback))
        self.subscribe_to_ends((job_id,), waiter.callback)
        return waiter

    def subscribe_to_ends(self, job_ids: Iterable[int], on_ended: OnJobEnded) -> Callable[[], None]:
        """Call ``on_ended`` with each of these jobs when it ends; none of them has ended yet.

        Returns a function that ends the subscription.
        """
        for job_id in job_ids:
            self._waiters.setdefault(job_id, set()).add(on_ended)
        return partial(self._unsubscribe, job_ids, on_ended)

    def _unsubscribe(self, job_ids: Iterable[int], on_ended: OnJobEnded) -> None:
        for job_id in job_ids:
            waiters = self._waiters.get(job_id)
            if waiters is not None:
                waiters.discard(on_ended)
                if not waiters:
                    del self._waiters[job_id]

    @property
    def waiter_count(self) -> int:
        """The number of subscriptions, counted once for each of their jobs."""
        return sum(map(len, self._waiters.values()))

    def _on_ended(self, *ended: Job) -> None:
        """Announce jobs that have ended; an array is announced once, when it has ended with some of them."""
        arrays: dict[int, Job] = {}
        for job in ended:
            self.counters[_COUNTERS[job.status]] += 1
            self._notify_ended(job)
            if job.array is not None:
                arrays[job.array] = self.queue_state.array_of(job)
        for array in arrays.values():
            if array.status.is_final:
                self._notify_ended(array)
        self._act_on_changes()

    def _on_tasks_ended(self, array: Job, status: Status, count: int) -> None:
        """Announce that pending tasks of an array have ended, and the array if it has ended with them."""
        self.counters[_COUNTERS[status]] += count
        ids = cast(Tasks, array.tasks).ids
        for job in [self.queue_state.jobs[job_id] for job_id in self._waiters if job_id in ids]:
            if job.status.is_final:
                self._notify_waiters(job)
        if array.status.is_final:
            self._notify_ended(array)
        self._act_on_changes()

    def _notify_waiters(self, job: Job) -> None:
        waiters = self._waiters.get(job.id)
        while waiters:
            waiters.pop()(job)  # this may end the subscriptions of others
        self._waiters.pop(job.id, None)

    def _notify_ended(self, job: Job) -> None:
        self._notify_waiters(job)
        for on_ended in self._end_observers:
            try:
                on_ended(job)
            except Exception:  # noqa: BLE001 - an observer must not keep the next job from its capacity
                self._log.failure("internal error in an observer of the end of job {id}", id=job.id)
