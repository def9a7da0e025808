"""All jobs by id. Untouched tasks of arrays are not kept as objects; each lookup makes one."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar, overload

from sortedcontainers import SortedList

from taskqd.model.job import Job, Tasks

Default = TypeVar("Default")
_ID = attrgetter("id")


class JobTable(Mapping[int, Job]):
    """The jobs, arrays and tasks by id, in the order of their submission.

    A task that is untouched (model/job.py, Tasks) is a new object at each lookup, which later events do not
    change.
    """

    def __init__(self) -> None:
        self._whole: dict[int, Job] = {}
        self._array_ids: SortedList[int] = SortedList()
        self._task_count = 0

    def __eq__(self, other: object) -> bool:
        return self._whole == other._whole if isinstance(other, JobTable) else super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def __len__(self) -> int:
        return len(self._whole) + self._task_count

    def __iter__(self) -> Iterator[int]:
        for job in self._whole.values():
            yield job.id
            yield from job.tasks.ids if job.tasks else ()

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._whole or self._tasks_with(job_id) is not None  # type: ignore[arg-type]

    def __getitem__(self, job_id: int) -> Job:
        job = self.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    @overload
    def get(self, job_id: int, /) -> Job | None: ...

    @overload
    def get(self, job_id: int, default: Job | Default, /) -> Job | Default: ...

    def get(self, job_id: int, default: Default | None = None, /) -> Job | Default | None:
        """Return a job, ``default`` if it is not known."""
        job = self._whole.get(job_id)
        if job is not None:
            return job
        tasks = self._tasks_with(job_id)
        return default if tasks is None else tasks.get(job_id)

    def _tasks_with(self, job_id: int) -> Tasks | None:
        """Return the tasks of the array that a task belongs to, None if there is no such task."""
        index = self._array_ids.bisect_left(job_id) - 1
        tasks = self._whole[self._array_ids[index]].tasks if index >= 0 else None
        return tasks if tasks is not None and job_id in tasks.ids else None

    def has_any(self, ids: range) -> bool:
        """Whether any of some ids is that of a job."""
        if not self._whole.keys().isdisjoint(ids):
            return True
        return self._tasks_with(ids.start) is not None  # an array that begins later is in `_whole`

    def objects(self) -> Iterator[Job]:
        """Yield the jobs, arrays and touched tasks: everything that may be running."""
        for job in self._whole.values():
            yield job
            if job.tasks is not None:
                yield from job.tasks.touched.values()

    def whole(self) -> Iterator[Job]:
        """Yield the jobs and arrays, without tasks."""
        return iter(self._whole.values())

    def arrays(self) -> Iterator[Job]:
        """Yield the arrays, by id."""
        return (self._whole[array_id] for array_id in self._array_ids)

    def add(self, job: Job) -> None:
        """Add a job, or an array with its tasks."""
        self._whole[job.id] = job
        if job.tasks is not None:
            self._array_ids.add(job.id)
            self._task_count += job.tasks.count

    def add_all(self, jobs: Sequence[Job]) -> None:
        """Add jobs that are no arrays."""
        self._whole.update(zip(map(_ID, jobs), jobs, strict=True))

    def touch(self, task: Job) -> None:
        """Keep a task that ``get`` has made: from now on ``get`` returns this one. Other jobs are kept."""
        tasks = self._whole[task.array].tasks if task.array is not None else None
        if tasks is not None and task.id in tasks.untouched:
            tasks.untouched.discard(task.id)
            tasks.touched[task.id] = task

    def remove(self, job: Job) -> None:
        """Remove a job, or an array with its tasks."""
        del self._whole[job.id]
        if job.tasks is not None:
            self._array_ids.remove(job.id)
            self._task_count -= job.tasks.count
