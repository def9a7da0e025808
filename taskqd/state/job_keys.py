"""The keys that jobs were submitted with (SUBMIT --key); each owner has separate ones."""

from taskqd.model.job import Job
from taskqd.state.job_table import JobTable


class JobKeys:
    """The ids of ``jobs`` by key: at most one per owner."""

    def __init__(self, jobs: JobTable) -> None:
        self._jobs = jobs
        self._ids: dict[str, tuple[int, ...]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobKeys) and self._ids == other._ids

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def with_key(self, key: str) -> list[Job]:
        """Return the jobs with a key, by id."""
        return [self._jobs[job_id] for job_id in self._ids.get(key, ())]

    def add(self, job: Job, key: str) -> None:
        """Add a job, which replaces the one of the same owner."""
        others = (one.id for one in self.with_key(key) if one.owner != job.owner)
        self._ids[key] = (*others, job.id)

    def discard(self, job: Job) -> None:
        """Remove a job; does nothing if it has no key, or if another one has replaced it."""
        key = job.spec.key
        if key is None or key not in self._ids:
            return
        left = tuple(job_id for job_id in self._ids.pop(key) if job_id != job.id)
        if left:
            self._ids[key] = left
