"""Ready jobs of a queue that has become fair or ceased to be: they are grouped again, in portions."""

from collections.abc import Mapping
from typing import NamedTuple

from taskqd.model.job import Job
from taskqd.model.task_set import TaskSet
from taskqd.state.rank_set import RankSet


class Portion(NamedTuple):
    """Jobs by rank, and runs of tasks."""

    ranks: list[int]
    runs: list[TaskSet]


class Ungrouped:
    """The jobs that are in no group yet; ``jobs`` has them by id."""

    def __init__(self) -> None:
        self.jobs: Mapping[int, Job] = {}
        self._sets: list[RankSet] = []

    def __bool__(self) -> bool:
        return bool(self._sets)

    def add(self, ranks: RankSet) -> None:
        """Add the jobs of a group, which are no longer in it."""
        self._sets.append(ranks)

    def discard(self, rank: int) -> None:
        """Remove a job if it is here."""
        for ranks in self._sets:
            if rank in ranks:
                ranks.discard(rank)

    def discard_tasks(self, run: int, ids: TaskSet) -> None:
        """Remove the tasks of a run that are here."""
        for ranks in self._sets:
            ranks.discard_tasks(run, ids)

    def pop(self, count: int) -> Portion:
        """Remove and return up to ``count`` jobs and runs."""
        portion = Portion([], [])
        while self._sets and len(portion.ranks) + len(portion.runs) < count:
            ranks, runs = self._sets[-1].pop(count - len(portion.ranks) - len(portion.runs))
            portion.ranks.extend(ranks)
            portion.runs.extend(runs)
            if not self._sets[-1]:
                self._sets.pop()
        return portion
