"""A sorted set of ranks of ready jobs, in which many tasks of an array take a byte each.

The tasks of one array with the same priority have successive ranks. They form a *run*: a TaskSet that is
added or removed in one step. So do many similar jobs that were submitted together. The key of a run is the
rank before that of the first id of its range; of an array, that is the rank that the array itself would have.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

from sortedcontainers import SortedDict, SortedList

from taskqd.model.job import Job
from taskqd.model.task_set import TaskSet
from taskqd.state.group_index import ID_BITS

MIN_RUN = 64
"""Jobs submitted together that form a run. A run takes up to 400 bytes besides its ids, a single rank 8."""
MAX_PORTION = 256
"""Ranks that ``walk`` reads at a time; it begins with fewer, since few may be needed."""

_NO_RUNS: SortedDict[int, TaskSet] = SortedDict()
"""The runs of all sets that have none: most have none, and each dictionary takes a kilobyte."""


def rank_of(job: Job) -> int:
    """Return the job's sort key: the job with the lowest rank starts first."""
    priority = job.spec.priority
    return job.id - (priority << ID_BITS) if priority else job.id


def id_of(rank: int) -> int:
    """Return the id of the job with a rank."""
    return rank % (1 << ID_BITS)


def run_of(job: Job, ids: TaskSet) -> int:
    """Return the key of the run ``ids``, whose jobs have the same priority as a job."""
    return rank_of(job) - job.id + ids.ids.start - 1


class RankSet:
    """The ranks of jobs, and of tasks in runs."""

    __slots__ = ("_runs", "_singles")

    def __init__(self, ranks: Iterable[int] = ()) -> None:
        self._singles: SortedList[int] = SortedList(ranks)
        self._runs: SortedDict[int, TaskSet] = _NO_RUNS

    def __bool__(self) -> bool:
        return bool(self._singles or self._runs)

    def __contains__(self, rank: int) -> bool:
        found = self._run_with(rank)
        return rank in self._singles or (found is not None and _id_in(found[0], rank) in found[1])

    def __iter__(self) -> Iterator[int]:
        """Yield the ranks, ascending."""
        runs = (rank_in(run, job_id) for run, ids in self._runs.items() for job_id in ids)
        return merge(self._singles, runs)

    def walk(self, is_task: Callable[[int], bool]) -> Iterator[int]:
        """Yield the ranks, but of a run of tasks only the first, ascending; they may change meanwhile.

        ``is_task(job_id)`` tells whether a job of a run is a task of an array.
        """
        singles = _in_portions(lambda last: self._singles.irange(minimum=last, inclusive=(False, True)))
        return merge(singles, self._walk_runs(is_task))

    def _walk_runs(self, is_task: Callable[[int], bool]) -> Iterator[int]:
        for run in _in_portions(lambda last: self._runs.irange(minimum=last, inclusive=(False, True))):
            ids = self._runs.get(run)
            job_id = ids.first if ids else None
            while ids is not None and job_id is not None:
                yield rank_in(run, job_id)
                job_id = None if is_task(job_id) else ids.first_from(job_id + 1)

    @property
    def first(self) -> int:
        """The lowest rank."""
        if not self._runs:
            rank: int = self._singles[0]
            return rank
        run, ids = self._runs.peekitem(0)
        first = rank_in(run, ids.first)
        return min(first, self._singles[0]) if self._singles else first

    def first_from(self, rank: int) -> int | None:
        """Return the lowest rank that is not lower than a rank, None if there is none."""
        found: list[int] = list(islice(self._singles.irange(minimum=rank), 1))
        found += [rank_in(run, self._runs[run].first) for run in islice(self._runs.irange(minimum=rank), 1)]
        within = self._run_with(rank)
        job_id = None if within is None else within[1].first_from(_id_in(within[0], rank))
        if within is not None and job_id is not None:
            found.append(rank_in(within[0], job_id))
        return min(found, default=None)

    def count_before(self, rank: int) -> int:
        """Return how many ranks are lower."""
        count: int = self._singles.bisect_left(rank)
        if self._runs:
            keys = list(self._runs.irange(maximum=rank, inclusive=(True, False)))
            count += sum(len(self._runs[key]) for key in keys[:-1])
            count += sum(self._runs[key].count_before(_id_in(key, rank)) for key in keys[-1:])
        return count

    def append(self, job: Job) -> bool:
        """Add a job that ranks behind another one, and is no task; return False if it does not."""
        rank = rank_of(job)
        if job.array is not None or not self._singles or rank <= self._singles[-1]:
            return False
        self._singles.add(rank)
        return True

    def add(self, job: Job) -> None:
        """Add a job, or a task to its run."""
        if job.array is None or job.spec.array is None:
            self._singles.add(rank_of(job))
            return
        first = job.array + 1
        ids = TaskSet(range(first, first + job.spec.array.count), is_full=False)
        run = run_of(job, ids)
        if run not in self._runs:
            self.add_tasks(run, ids)
        self._runs[run].add(job.id)

    def add_similar(self, jobs: Sequence[Job]) -> None:
        """Add jobs with consecutive ids and the same priority that are no tasks, and not here."""
        if len(jobs) < MIN_RUN:
            for job in jobs:
                self._singles.add(rank_of(job))
        else:
            ids = TaskSet(range(jobs[0].id, jobs[-1].id + 1))
            self.add_tasks(run_of(jobs[0], ids), ids)

    def update(self, ranks: Iterable[int]) -> None:
        """Add the ranks of jobs that are no tasks, and not here."""
        self._singles.update(ranks)

    def discard(self, rank: int) -> None:
        """Remove a rank that is here."""
        if rank in self._singles:
            self._singles.remove(rank)
            return
        run, ids = self._runs.peekitem(self._runs.bisect_left(rank) - 1)
        ids.discard(_id_in(run, rank))
        if not ids:
            del self._runs[run]

    def pop(self, count: int) -> tuple[list[int], list[TaskSet]]:
        """Remove and return up to ``count`` lowest ranks of jobs, then runs."""
        ranks = list(islice(self._singles, count))
        del self._singles[: len(ranks)]
        runs = [self._runs.popitem(0)[1] for _ in range(min(count - len(ranks), len(self._runs)))]
        return ranks, runs

    def add_tasks(self, run: int, ids: TaskSet) -> None:
        """Add tasks to a run; the set keeps and changes ``ids``."""
        if self._runs is _NO_RUNS:
            self._runs = SortedDict()
        if run in self._runs:
            self._runs[run].update(ids)
        else:
            self._runs[run] = ids

    def discard_tasks(self, run: int, ids: TaskSet) -> None:
        """Remove tasks of a run; those that are not here are skipped."""
        found = self._runs.get(run)
        if found is not None:
            found.difference_update(ids)
            if not found:
                del self._runs[run]

    def is_first_in(self, run: int, ids: TaskSet) -> bool:
        """Whether the first rank is that of one of these tasks of a run."""
        found, job_id = self._runs.get(run), _id_in(run, self.first)
        return found is not None and job_id in found and job_id in ids

    def _run_with(self, rank: int) -> tuple[int, TaskSet] | None:
        """Return the only run that may have a rank, with its key; None if there is none."""
        index = self._runs.bisect_left(rank) - 1 if self._runs else -1
        return None if index < 0 else self._runs.peekitem(index)


def _in_portions(find: Callable[[int | None], Iterator[int]]) -> Iterator[int]:
    """Yield sorted numbers; ``find(last)`` returns those above ``last``, and is called for each portion."""
    last, size = None, 4
    while portion := list(islice(find(last), size)):
        yield from portion
        last, size = portion[-1], min(2 * size, MAX_PORTION)


def rank_in(run: int, job_id: int) -> int:
    """Return the rank of a task of a run."""
    return run - id_of(run) + job_id


def _id_in(run: int, rank: int) -> int:
    """Return the id that a rank has if it is that of a task of a run."""
    return rank - run + id_of(run)
