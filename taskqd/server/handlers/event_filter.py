"""The filter of WATCH."""

from collections.abc import Mapping

from msgspec import Struct

from taskqd.model.events import Clocked, Event, JobEvent
from taskqd.model.job import Job


class EventFilter(Struct, frozen=True):
    """Selects events: of the jobs in `ids`, of one queue. None selects all.

    `owner` and `token_queue` restrict the events to jobs and schedules that the client may see; events of
    jobs that are no longer known are then left out.
    """

    ids: tuple[range, ...] | None = None
    queue: str | None = None
    owner: str | None = None
    token_queue: str | None = None

    @classmethod
    def of_job(cls, job: Job, queue: str | None = None) -> "EventFilter":
        """Return a filter for the events of a job; of an array and its tasks; of a task and its array."""
        ids = [range(job.id, job.id + 1)]
        if job.tasks is not None:
            ids.append(job.tasks.ids)
        if job.array is not None:
            ids.append(range(job.array, job.array + 1))
        return cls(tuple(ids), queue)

    def matches(self, event: Event, jobs: Mapping[int, Job]) -> bool:
        """Whether an event is selected. A job that is not in `jobs` may have been in any queue."""
        if isinstance(event, Clocked):
            return False
        if (self.owner is not None or self.token_queue is not None) and not self._is_visible(event, jobs):
            return False
        if not isinstance(event, JobEvent):
            return self.ids is None and (self.queue is None or _affects_queue(event, self.queue))
        if self.ids is not None and not any(event.id in ids for ids in self.ids):
            return False
        if self.queue is None:
            return True
        job = jobs.get(event.id)
        spec = getattr(event, "spec", None) or (job.spec if job is not None else None)
        return spec is None or bool(spec.queue == self.queue)

    def _is_visible(self, event: Event, jobs: Mapping[int, Job]) -> bool:
        if not isinstance(event, JobEvent):
            is_own = self.owner in (None, getattr(event, "by", None))
            return is_own and (self.token_queue is None or _affects_queue(event, self.token_queue))
        job = jobs.get(event.id)
        if job is None:
            return False
        return self.owner in (None, job.owner) and self.token_queue in (None, job.spec.queue)


def _affects_queue(event: Event, name: str) -> bool:
    """Whether an event is about a queue, or about all queues."""
    return getattr(event, "schedule", None) is None and getattr(event, "queue", None) in (None, name)
