"""The lines of a LIST: the jobs that match, as far as one request searches."""

from collections.abc import Callable, Iterator

from taskqd.model.job import Job
from taskqd.model.job_filter import JobFilter
from taskqd.protocol.requests import ListRequest
from taskqd.state.job_search import find_jobs
from taskqd.state.ordered_search import find_in_order
from taskqd.state.queue_state import QueueState

MAX_SEARCHED_JOBS = 100_000
MAX_SEARCHED_CHARACTERS = 16 * 1024**2
"""Jobs, and characters of their commands and labels, that one LIST with `--match` searches.

Searching that much takes about 0.1 s, in portions.
"""


class JobList:
    """The lines of one LIST; `wanted` is the request's filter, narrowed to what the client may see.

    `following` is the id from which another LIST has to go on: set if this one has searched its maximum.
    `counted` is the number of jobs that a request has only counted, None if it lists them.
    """

    def __init__(
        self,
        queue_state: QueueState,
        request: ListRequest,
        wanted: JobFilter,
        format_job: Callable[[Job], bytes],
    ) -> None:
        self.following: int | None = None
        self.counted = 0 if request.is_count else None
        self._request = request
        self._wanted = wanted
        self._format_job = format_job
        array = None if request.array is None else queue_state.get(request.array)
        if request.order is not None:
            self._candidates = find_in_order(queue_state, wanted, request.order)
        else:
            self._candidates = find_jobs(
                queue_state, wanted, array, request.first, request.is_reverse, request.has_tasks
            )

    def lines(self) -> Iterator[bytes | None]:
        """Yield a line for each job of the list, None for others that were examined."""
        if self.counted is not None:
            yield from self._count()
            return
        remaining = self._request.limit
        for job in self._jobs() if remaining else ():
            if job is None:
                yield None
                continue
            yield self._format_job(job)
            remaining -= 1
            if not remaining:
                return

    def _count(self) -> Iterator[None]:
        self.counted = 0
        for job in self._jobs():
            self.counted += job is not None
            yield None

    def _jobs(self) -> Iterator[Job | None]:
        return self._candidates if self._wanted.match is None else self._search()

    def _search(self) -> Iterator[Job | None]:
        """Yield the candidates that have the text, None for others, up to the maximum of one request."""
        jobs = characters = 0
        for job in self._candidates:
            if job is None:
                yield None
                continue
            if jobs >= MAX_SEARCHED_JOBS or characters >= MAX_SEARCHED_CHARACTERS:
                self.following = job.id
                return
            jobs += 1
            characters += len(job.command) + len(job.spec.label or "")
            yield job if self._wanted.has_text(job) else None
