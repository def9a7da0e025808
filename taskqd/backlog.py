"""Every job in memory, and which may start next.

The backlog is a fold of the journal: ``apply`` is the only way in, and replaying the same events gives the
same jobs. The indexes (keys, order, counts) are derived from the jobs and never written anywhere. Time is an
argument; nothing here knows a clock, a file or a process. Submission, start and end cost O(log n).
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, ClassVar, cast

from taskqd.errors import Gone, NoSuchJob
from taskqd.events import (
    Cancelled,
    Ended,
    Event,
    JobEvent,
    Output,
    Removed,
    Retried,
    Spawned,
    Started,
    Submitted,
)
from taskqd.job import MOVES, Attempt, Job, Reason, Status

EXPIRED_AT_ONCE = 50
"""``expired`` returns so many jobs at most."""

Position = tuple[int, int, int]
"""Where a record stands in the journal: (segment, offset, length), the latter two in bytes."""


class IllegalMove(Exception):
    """An event does not fit the job it is for: a bug, or a journal that was edited by hand."""


class Backlog:
    """The jobs by id, with what is needed to find the next one to start.

    ``_ready`` is a heap of ids and ``_delayed`` one of (time, id). A job that is cancelled leaves its entry
    behind, to be passed over when it comes up; ``_lined_up`` has the ids in ``_ready``, so that one which is
    retried meanwhile does not get a second entry. ``_ended_at`` is a heap of (time, id) of those that have
    ended, and ``_expiring`` has the ids of those that are about to be removed.
    """

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.last_id = 0
        self._keys: dict[str, int] = {}
        self._ready: list[int] = []
        self._delayed: list[tuple[float, int]] = []
        self._lined_up: set[int] = set()
        self._ended_at: list[tuple[float, int]] = []
        self._expiring: set[int] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backlog) and (self.jobs, self.counts, self.last_id, self._keys) == (
            other.jobs,
            other.counts,
            other.last_id,
            other._keys,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def get(self, job_id: int) -> Job:
        """Return the job of that id; raises NoSuchJob, or Gone if it was removed."""
        job = self.jobs.get(job_id)
        if job is None and 0 < job_id <= self.last_id:
            raise Gone(f"job {job_id} has been removed, with its output")
        if job is None:
            raise NoSuchJob(f"there is no job {job_id}: the newest is {self.last_id}")
        return job

    def by_key(self, key: str) -> Job | None:
        """Return the job that was submitted under ``key``, or None."""
        job_id = self._keys.get(key)
        return None if job_id is None else self.jobs[job_id]

    def walk(self, first: int, backwards: bool = False) -> Iterator[Job]:
        """Yield the jobs from id ``first`` on, by id upwards or downwards, as they are when reached."""
        ids = range(min(first, self.last_id), 0, -1) if backwards else range(max(first, 1), self.last_id + 1)
        return filter(None, map(self.jobs.get, ids))

    def running(self) -> list[Job]:
        """Return the jobs that are RUNNING."""
        return [job for job in self.jobs.values() if job.status is Status.RUNNING]

    def take(self, now: float) -> Job | None:
        """Take the next job that may start at ``now`` out of the line, or return None if there is none.

        The taker either records its start or puts it back.
        """
        while self._delayed and self._delayed[0][0] <= now:
            due_at, job_id = heappop(self._delayed)
            job = self.jobs.get(job_id)
            if job is not None and job.not_before == due_at:
                self._line_up(job_id)
        while self._ready:
            job_id = heappop(self._ready)
            self._lined_up.discard(job_id)
            job = self.jobs.get(job_id)
            if job is not None and job.status is Status.PENDING:
                if job.not_before is None or job.not_before <= now:
                    return job
                self._delay(job, job.not_before)  # the clock was set back since it came into line
        return None

    def put_back(self, job: Job) -> None:
        """Put a job that was taken, and was not started after all, back into the line."""
        self._line_up(job.id)

    def expired(self, before: float, most: int) -> list[int]:
        """Return the ids of jobs that ended before a time or are more than ``most`` ended ones, oldest first.

        At most EXPIRED_AT_ONCE of them. Those that are returned are taken for removed from now on, until they
        are, or are given back by ``keep``.
        """
        ids: list[int] = []
        while self._ended_at and len(ids) < EXPIRED_AT_ONCE:
            ended_at, job_id = self._ended_at[0]
            if self._is_stale(ended_at, job_id):
                heappop(self._ended_at)
            elif ended_at < before or self._finished() - len(self._expiring) > most:
                heappop(self._ended_at)
                self._expiring.add(job_id)
                ids.append(job_id)
            else:
                break
        return ids

    def keep(self, job_id: int) -> None:
        """Take back that a job has expired: it was not removed."""
        self._expiring.discard(job_id)
        job = self.jobs.get(job_id)
        if job is not None and job.completed_at is not None:
            heappush(self._ended_at, (job.completed_at, job_id))

    def _is_stale(self, ended_at: float, job_id: int) -> bool:
        job = self.jobs.get(job_id)
        return job is None or job.completed_at != ended_at

    def _finished(self) -> int:
        return sum(self.counts[status] for status in Status if status.is_final)

    def relocate(self, job_id: int, attempt: int, upto: int, position: Position) -> None:
        """Tell where an attempt's Ended stands now: if it is the latest and was in a file up to ``upto``."""
        job = self.jobs.get(job_id)
        if job is None or job.attempt is None or job.attempt.number != attempt:
            return
        record = job.attempt.record
        if record is not None and record[0] <= upto:
            job.attempt.record = position

    def next_due(self) -> float | None:
        """Return when the next delayed job may start, or None if none is delayed."""
        while self._delayed:
            due_at, job_id = self._delayed[0]
            job = self.jobs.get(job_id)
            if job is not None and job.not_before == due_at:
                return due_at
            heappop(self._delayed)
        return None

    def apply(self, event: Event, position: Position | None = None) -> Job:
        """Change the one job that ``event`` is about and return it; the event is already on disk.

        ``position`` is where. Raises IllegalMove, having changed nothing, if the table of moves has it not.
        """
        if type(event) is Submitted:
            return self._submitted(event)
        job = self.jobs.get(event.id)
        after = _status_after(event, job)
        if job is None or after not in MOVES.get((job.status, event.name), ()):
            state = "is unknown" if job is None else f"is {job.status.value}"
            raise IllegalMove(f"{event.name} cannot happen to job {event.id}, which {state}")
        self.counts[job.status] -= 1
        self.counts[after] += 1
        job.status = after
        self._changes[type(event)](self, job, event)
        if after.is_final and type(event) is not Removed:
            heappush(self._ended_at, (event.at, job.id))
        if type(event) is Ended:
            _attempt(job).record = position
        return job

    def _submitted(self, event: Submitted) -> Job:
        if event.id in self.jobs:
            raise IllegalMove(f"job {event.id} was submitted twice")
        job = Job(id=event.id, spec=event.spec, owner=event.owner, submitted_at=event.at)
        self.jobs[job.id] = job
        self.last_id = max(self.last_id, job.id)
        self.counts[Status.PENDING] += 1
        if job.spec.key is not None:
            self._keys[job.spec.key] = job.id
        self._line_up(job.id)
        return job

    def _started(self, job: Job, event: Started) -> None:
        job.reason = None
        job.not_before = None
        job.attempts = event.attempt
        job.attempt = Attempt(number=event.attempt, started_at=event.at)

    def _spawned(self, job: Job, event: Spawned) -> None:
        attempt = _attempt(job)
        attempt.pid, attempt.pid_started = event.pid, event.started

    def _cancelled(self, job: Job, event: Cancelled) -> None:
        if job.status is Status.RUNNING:
            job.cancelling = event.signal
            return
        job.reason = Reason.CANCELLED
        job.not_before = None
        job.completed_at = event.at

    def _ended(self, job: Job, event: Ended) -> None:
        _finish(_attempt(job), event)
        job.cancelling = None
        job.failures += event.status in (Status.FAILED, Status.PENDING) and not event.is_free
        if event.status is Status.PENDING:
            job.reason = Reason.RETRYING
            self._delay(job, event.at if event.retry_at is None else event.retry_at)
        else:
            job.reason = event.reason
            job.completed_at = event.at

    def _retried(self, job: Job, event: Retried) -> None:
        job.reason = Reason.QUEUED
        job.failures = 0
        job.completed_at = None
        self._line_up(job.id)

    def _removed(self, job: Job, event: Removed) -> None:
        self.counts[job.status] -= 1
        self._expiring.discard(job.id)
        del self.jobs[job.id]
        if job.spec.key is not None and self._keys.get(job.spec.key) == job.id:
            del self._keys[job.spec.key]

    def _delay(self, job: Job, until: float) -> None:
        job.not_before = until
        heappush(self._delayed, (until, job.id))

    def _line_up(self, job_id: int) -> None:
        if job_id not in self._lined_up:
            self._lined_up.add(job_id)
            heappush(self._ready, job_id)

    _changes: ClassVar[dict[type, Callable[["Backlog", Job, Any], None]]] = {
        Started: _started,
        Spawned: _spawned,
        Cancelled: _cancelled,
        Ended: _ended,
        Retried: _retried,
        Removed: _removed,
    }


def _status_after(event: JobEvent, job: Job | None) -> Status:
    if isinstance(event, Ended):
        return event.status
    if isinstance(event, Removed) and job is not None:
        return job.status
    if isinstance(event, Cancelled):
        return Status.RUNNING if job is not None and job.status is Status.RUNNING else Status.CANCELLED
    return Status.PENDING if isinstance(event, Retried) else Status.RUNNING


def _attempt(job: Job) -> Attempt:
    """Return the attempt of a job that was started, as the table of moves makes sure."""
    return cast(Attempt, job.attempt)


def _finish(attempt: Attempt, event: Ended) -> None:
    attempt.ended_at = event.at
    attempt.exit_code, attempt.signal, attempt.detail = event.exit_code, event.signal, event.detail
    attempt.progress = event.progress
    attempt.stdout_bytes, attempt.stdout_dropped, attempt.stdout_inline = _measured(event.stdout)
    attempt.stderr_bytes, attempt.stderr_dropped, attempt.stderr_inline = _measured(event.stderr)


def _measured(output: Output) -> tuple[int, int, bool]:
    return output.size, output.dropped, output.data is not None
