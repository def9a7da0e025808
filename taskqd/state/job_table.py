"""All jobs by id. Untouched tasks of arrays are not kept as objects; each lookup makes one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, overload

from sortedcontainers import SortedList

from taskqd.model.job import Job, Tasks

Default = TypeVar("Default")

CHUNK_BITS = 8
CHUNK_SIZE = 1 << CHUNK_BITS
"""Ids per list: 2 KiB, which the last job of these ids still takes.

One dictionary of all jobs would take five times as much per job, and hold the reactor for 20 or 40 ms when
it grows beyond 700,000 or 1.4 million jobs.
"""
_OFFSETS = CHUNK_SIZE - 1


class _Chunk:
    """The jobs and arrays of CHUNK_SIZE successive ids, by offset, and how many there are."""

    __slots__ = ("count", "jobs")

    def __init__(self) -> None:
        self.count = 0
        self.jobs: list[Job | None] = [None] * CHUNK_SIZE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Chunk) and self.jobs == other.jobs

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value


class JobTable(Mapping[int, Job]):
    """The jobs, arrays and tasks by id.

    A task that is untouched (model/job.py, Tasks) is a new object at each lookup, which later events do not
    change.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, _Chunk] = {}
        self._array_ids: SortedList[int] = SortedList()
        self._count = 0  # of all, with tasks

    def __eq__(self, other: object) -> bool:
        return self._chunks == other._chunks if isinstance(other, JobTable) else super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for job in self.whole():
            yield job.id
            yield from job.tasks.ids if job.tasks else ()

    def __contains__(self, job_id: object) -> bool:
        return self._whole(job_id) is not None or self._tasks_with(job_id) is not None  # type: ignore[arg-type]

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
        chunk = self._chunks.get(job_id >> CHUNK_BITS)
        if chunk is not None and (job := chunk.jobs[job_id & _OFFSETS]) is not None:
            return job
        tasks = self._tasks_with(job_id)
        return default if tasks is None else tasks.get(job_id)

    def _whole(self, job_id: int) -> Job | None:
        """Return a job or an array, None if there is none with this id."""
        chunk = self._chunks.get(job_id >> CHUNK_BITS)
        return None if chunk is None else chunk.jobs[job_id & _OFFSETS]

    def _tasks_with(self, job_id: int) -> Tasks | None:
        """Return the tasks of the array that a task belongs to, None if there is no such task."""
        index = self._array_ids.bisect_left(job_id) - 1
        array = self._whole(self._array_ids[index]) if index >= 0 else None
        tasks = None if array is None else array.tasks
        return tasks if tasks is not None and job_id in tasks.ids else None

    def whole_of(self, job: Job) -> Job:
        """Return the array that a job is a task of, else the job itself."""
        return job if job.array is None else self[job.array]

    def has_any(self, ids: range) -> bool:
        """Whether any of some ids is that of a job."""
        if any(self._whole(job_id) is not None for job_id in ids):
            return True
        return self._tasks_with(ids.start) is not None  # an array that begins later is one of these jobs

    def objects(self) -> Iterator[Job]:
        """Yield the jobs, arrays and touched tasks: everything that may be running."""
        for job in self.whole():
            yield job
            if job.tasks is not None:
                yield from job.tasks.touched.values()

    def whole(self) -> Iterator[Job]:
        """Yield the jobs and arrays by id, without tasks."""
        for number in sorted(self._chunks):
            yield from filter(None, self._chunks[number].jobs)

    def arrays(self) -> Iterator[Job]:
        """Yield the arrays, by id."""
        return filter(None, map(self._whole, self._array_ids))

    def add(self, job: Job) -> None:
        """Add a job, or an array with its tasks."""
        self.add_all((job,))
        if job.tasks is not None:
            self._array_ids.add(job.id)
            self._count += job.tasks.count

    def add_all(self, jobs: Sequence[Job]) -> None:
        """Add jobs that are no arrays."""
        number, chunk = -1, None
        for job in jobs:
            job_id = job.id
            if chunk is None or job_id >> CHUNK_BITS != number:
                number = job_id >> CHUNK_BITS
                chunk = self._chunks.get(number)
                if chunk is None:
                    chunk = self._chunks[number] = _Chunk()
            chunk.jobs[job_id & _OFFSETS] = job
            chunk.count += 1
        self._count += len(jobs)

    def touch(self, task: Job) -> None:
        """Keep a task that ``get`` has made: from now on ``get`` returns this one. Other jobs are kept."""
        tasks = None if task.array is None else self[task.array].tasks
        if tasks is not None and task.id in tasks.untouched:
            tasks.untouched.discard(task.id)
            tasks.touched[task.id] = task

    def remove(self, job: Job) -> None:
        """Remove a job, or an array with its tasks."""
        number = job.id >> CHUNK_BITS
        chunk = self._chunks[number]
        chunk.count -= 1
        if chunk.count:
            chunk.jobs[job.id & _OFFSETS] = None
        else:
            del self._chunks[number]
        self._count -= 1
        if job.tasks is not None:
            self._array_ids.remove(job.id)
            self._count -= job.tasks.count
