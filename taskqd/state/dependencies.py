"""Dependencies: which jobs wait for which others, and which can never start because of them.

A spec names jobs that must complete (``after``), end (``after_any``) or fail (``after_fail``) first. Only
existing jobs can be named, so there are no cycles. The end of a job costs O(1) per job that waits for it; if
these are many, they are resolved in portions. A job whose dependency did not end as required is
unsatisfiable: the engine fails it by a Skipped event. A job that has been removed is no longer waited for.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice

from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec

MAX_JOBS_PER_BATCH = 250
"""Jobs that are failed or changed by one batch of records, in one turn of the reactor, at 20 µs each."""
MAX_DEPENDENCIES_PER_BATCH = 5_000
"""Dependencies of all jobs of a batch together, at 1 µs each."""
MAX_RESOLVED_PER_EVENT = 20
"""Waiting jobs that are resolved at once when a job ends; 250 jobs may end in one turn of the reactor."""
MAX_RESOLVED_PER_PORTION = 1000
"""Waiting jobs that are resolved in one turn of the reactor otherwise, at 2 µs each."""
TASK_WEIGHT = 10
"""The dependencies that one touched task of an array counts as: its change takes 5 to 10 µs."""


class Kind(Enum):
    """How a job must end for those that depend on it; the value is the option of SUBMIT."""

    COMPLETED = "after"
    ENDED = "after-any"
    FAILED = "after-fail"

    def accepts(self, status: Status) -> bool:
        """Whether a job with this final status satisfies the dependency."""
        return self is Kind.ENDED or status.value == self.name


_KINDS = tuple(Kind)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_KIND_BITS = 2
"""A waiting job is stored as one number: its id, followed by the bits of the kind."""
_KIND_MASK = (1 << _KIND_BITS) - 1


def _coded(kind: Kind, job_id: int) -> int:
    return job_id << _KIND_BITS | _CODES[kind]


def dependencies_of(spec: Spec) -> Iterator[tuple[Kind, int]]:
    """Yield the dependencies of a spec as (kind, id)."""
    for kind, ids in (
        (Kind.COMPLETED, spec.after),
        (Kind.ENDED, spec.after_any),
        (Kind.FAILED, spec.after_fail),
    ):
        for job_id in ids:
            yield kind, job_id


def next_batch(job_ids: Iterable[int], jobs: Mapping[int, Job]) -> list[int]:
    """Return the first of these jobs, as many as one turn of the reactor may fail or change."""
    found: list[int] = []
    dependencies = 0
    for job_id in islice(job_ids, MAX_JOBS_PER_BATCH):
        if job_id in jobs:
            job = jobs[job_id]
            dependencies += sum(map(len, (job.spec.after, job.spec.after_any, job.spec.after_fail)))
            dependencies += TASK_WEIGHT * (len(job.tasks.touched) if job.tasks else 0)
        if found and dependencies > MAX_DEPENDENCIES_PER_BATCH:
            break
        found.append(job_id)
    return found


class Skips:
    """Skipped jobs by the job or array because of which they failed, until they are retried or removed."""

    def __init__(self) -> None:
        self._by_cause: dict[int, set[int]] = {}
        self._cause_of: dict[int, int] = {}

    def add(self, job_id: int, cause: int) -> None:
        """Record that a job was skipped because of another job or array."""
        self._by_cause.setdefault(cause, set()).add(job_id)
        self._cause_of[job_id] = cause

    def discard(self, job_id: int) -> None:
        """Remove a job; does nothing if it was not skipped."""
        cause = self._cause_of.pop(job_id, None)
        if cause is not None:
            self._by_cause[cause].remove(job_id)
            if not self._by_cause[cause]:
                del self._by_cause[cause]

    def count(self, job_id: int) -> int:
        """Return how many jobs were skipped because of a job or array."""
        return len(self._by_cause.get(job_id, ()))

    def of(self, job_id: int) -> list[int]:
        """Return the ids of the jobs that were skipped because of a job or array, sorted."""
        return sorted(self._by_cause.get(job_id, ()))


class _EndedJob:
    """The end of a job: its id, that of its array or its own, and its status then.

    ``waiting`` has those that have not been resolved of the jobs that waited for it. Ends are numbered.
    """

    __slots__ = ("_accepted", "id", "number", "waiting", "whole")

    def __init__(self, job: Job, waiting: "array[int] | None" = None) -> None:
        self.id = job.id
        self.whole = job.id if job.array is None else job.array
        self.number = 0
        self.waiting = array("q") if waiting is None else waiting
        self._accepted = {_CODES[kind] for kind in _KINDS if kind.accepts(job.status)}

    def accepts(self, code: int) -> bool:
        """Whether the end satisfies the dependency of a waiting job."""
        return code & _KIND_MASK in self._accepted


class Dependencies:
    """The jobs that wait for others.

    ``unsatisfiable`` maps each job that can never start, and has not been skipped yet, to the job that is the
    cause. ``_causes`` maps it to the cause too, but to the array if the cause is a task. ``_unresolved`` has
    the ends of jobs for which many wait, oldest first; a job may end again before all are resolved.
    ``_cause_counts`` is the number of unsatisfiable jobs per cause, and of such ends.
    """

    def __init__(self) -> None:
        self.unsatisfiable: dict[int, int] = {}
        self._causes: dict[int, int] = {}
        self._cause_counts: Counter[int] = Counter()
        self._waiting: dict[int, array[int]] = {}
        self._unresolved: deque[_EndedJob] = deque()
        self._unresolved_by_id: defaultdict[int, list[_EndedJob]] = defaultdict(list)
        self._end_count = 0

    def add(self, job: Job, jobs: Mapping[int, Job]) -> int:
        """Make a job wait for its dependencies, and return how many are not satisfied."""
        count = 0
        for kind, job_id in dict.fromkeys(dependencies_of(job.spec)):
            other = jobs.get(job_id)
            if other is None:
                continue
            if not other.status.is_final:
                self._wait(kind, job.id, job_id)
                count += 1
            elif not kind.accepts(other.status):
                self._mark_unsatisfiable((job.id,), _EndedJob(other))
                count += 1
        return count

    def discard(self, job: Job) -> int | None:
        """Stop waiting for the dependencies of a job that has ended without a start.

        Return the id of the job or array that is no longer the cause of any unsatisfiable job, if any.
        """
        for kind, job_id in dependencies_of(job.spec):
            self._stop_waiting(kind, job.id, job_id)
        if self.unsatisfiable.pop(job.id, None) is None:
            return None
        return self._discard_cause(self._causes.pop(job.id))

    def resolve(self, job: Job) -> list[int]:
        """Return the ids of the jobs for which the end of a job satisfies a dependency; mark the others.

        If more than MAX_RESOLVED_PER_EVENT wait for it, all of them are left to ``resolve_portion``.
        """
        waiting = self._waiting.pop(job.id, None)
        if waiting is None:
            return []
        ended = _EndedJob(job, waiting)
        if len(waiting) <= MAX_RESOLVED_PER_EVENT:
            return self._resolve(ended, waiting)
        self._end_count += 1
        ended.number = self._end_count
        self._unresolved.append(ended)
        self._unresolved_by_id[job.id].append(ended)
        self._cause_counts[ended.whole] += 1  # it may be the cause of some
        return []

    def _resolve(self, ended: "_EndedJob", codes: Iterable[int]) -> list[int]:
        satisfied: list[int] = []
        unsatisfied: list[int] = []
        for code in codes:
            (satisfied if ended.accepts(code) else unsatisfied).append(code >> _KIND_BITS)
        self._mark_unsatisfiable(unsatisfied, ended)
        return satisfied

    @property
    def has_unresolved(self) -> bool:
        """Whether jobs wait for a job that has ended, until they are resolved."""
        return bool(self._unresolved)

    def resolve_portion(self) -> tuple[list[int], int | None]:
        """Resolve up to MAX_RESOLVED_PER_PORTION more jobs, and return what ``resolve`` does for them.

        The second value is the id of the job or array that is no longer the cause of any unsatisfiable job.
        """
        ended = self._unresolved[0]
        codes = ended.waiting[:MAX_RESOLVED_PER_PORTION]
        del ended.waiting[:MAX_RESOLVED_PER_PORTION]
        satisfied = self._resolve(ended, codes)
        if ended.waiting:
            return satisfied, None
        self._unresolved.popleft()
        of_job = self._unresolved_by_id[ended.id]
        of_job.remove(ended)
        if not of_job:
            del self._unresolved_by_id[ended.id]
        return satisfied, self._discard_cause(ended.whole)

    def resolve_now(self, job: Job) -> int:
        """Resolve a waiting job before its turn; return how many of its dependencies are satisfied."""
        satisfied = 0
        for ended, code in self._unresolved_of(job):
            del ended.waiting[bisect_left(ended.waiting, code)]
            satisfied += len(self._resolve(ended, (code,)))
        return satisfied

    def count_satisfied(self, job: Job) -> int:
        """Return how many dependencies of a job are satisfied, though they are not resolved yet."""
        return sum(ended.accepts(code) for ended, code in self._unresolved_of(job))

    def _unresolved_of(self, job: Job) -> "list[tuple[_EndedJob, int]]":
        """Return the ends that a job waits to be resolved for, oldest first, with its code there."""
        found: list[tuple[_EndedJob, int]] = []
        if self._unresolved:
            for kind, job_id in dict.fromkeys(dependencies_of(job.spec)):
                code = _coded(kind, job.id)
                found += [
                    (ended, code)
                    for ended in self._unresolved_by_id.get(job_id, ())
                    if _index_of(code, ended.waiting) is not None
                ]
        return sorted(found, key=lambda each: each[0].number)

    def _mark_unsatisfiable(self, job_ids: Iterable[int], ended: "_EndedJob") -> None:
        count = 0
        for job_id in job_ids:
            if job_id not in self.unsatisfiable:
                self.unsatisfiable[job_id] = ended.id
                self._causes[job_id] = ended.whole
                count += 1
        if count:
            self._cause_counts[ended.whole] += count

    def _discard_cause(self, cause: int) -> int | None:
        """Count a cause once less; return it if it is no longer one."""
        self._cause_counts[cause] -= 1
        if self._cause_counts[cause]:
            return None
        del self._cause_counts[cause]
        return cause

    def is_cause(self, job_id: int) -> bool:
        """Whether a job, or a task of an array, makes a job unsatisfiable that has not been skipped yet."""
        return job_id in self._cause_counts

    def awaited(self, job: Job) -> Iterator[tuple[Kind, int]]:
        """Yield the dependencies that keep a job from starting, as (kind, id)."""
        cause = self.unsatisfiable.get(job.id)
        if cause is None:
            unmet = (ended.id for ended, code in self._unresolved_of(job) if not ended.accepts(code))
            cause = next(unmet, None)
        for kind, job_id in dict.fromkeys(dependencies_of(job.spec)):
            if job_id == cause or self._index(kind, job.id, job_id) is not None:
                yield kind, job_id

    def waiting_for(self, job_id: int) -> Iterator[int]:
        """Yield the ids of the jobs that waited for a job when the iteration began."""
        for code in self._waiting.get(job_id, ())[:]:
            yield code >> _KIND_BITS

    def awaited_among(self, ids: range) -> list[int]:
        """Return those of some ids for which a job waits, sorted."""
        if len(self._waiting) < len(ids):
            return sorted(job_id for job_id in self._waiting if job_id in ids)
        return [job_id for job_id in ids if job_id in self._waiting]

    # ``_waiting`` maps a job to those that wait for it: sorted numbers of 8 bytes each (see _KIND_BITS).

    def _wait(self, kind: Kind, job_id: int, other: int) -> None:
        code, waiting = _coded(kind, job_id), self._waiting.get(other)
        if waiting is None:
            self._waiting[other] = array("q", (code,))
        elif code > waiting[-1]:  # the common case
            waiting.append(code)
        else:
            waiting.insert(bisect_left(waiting, code), code)

    def _stop_waiting(self, kind: Kind, job_id: int, other: int) -> None:
        index = self._index(kind, job_id, other)
        if index is not None:
            del self._waiting[other][index]
            if not self._waiting[other]:
                del self._waiting[other]

    def _index(self, kind: Kind, job_id: int, other: int) -> int | None:
        """Return the index of a job among those that wait for another, None if it does not wait."""
        return _index_of(_coded(kind, job_id), self._waiting.get(other, ()))


def _index_of(code: int, waiting: Sequence[int]) -> int | None:
    """Return the index of a code in a sorted sequence, None if it is not there."""
    index = bisect_left(waiting, code)
    return index if index < len(waiting) and waiting[index] == code else None
