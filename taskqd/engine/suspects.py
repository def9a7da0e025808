"""Suspects a job of killing its runner if it was the newest to start at that runner's death.

The detail of the attempt's end says so, in the journal and in memory: a restart of the daemon forgets none.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from taskqd.execution.attempt_ends import SUSPECTED
from taskqd.model.events import Ended
from taskqd.model.job import Job, Status

MAX_RUNNER_DEATHS = 3
"""Deaths of runners while one job was the newest to start, after which that job is held."""
HELD = (
    f"its runner was killed {MAX_RUNNER_DEATHS} times while this was the newest job to start, so it is held"
)
"""The detail of the attempt after which the job is held."""


def newest_start(jobs: Iterable[Job]) -> int | None:
    """Return the job that was the last to start, whether it has ended or not; None if none has started.

    It looks at all jobs, which takes half a second per million: call it only if some job runs.
    """
    starts = ((job.started_at, job.id) for job in jobs if job.last_attempt is not None)
    return max(starts, default=(None, None))[1]


def with_verdict(job: Job, ended: Ended) -> Ended:
    """Return the end of a job's attempt, with the detail HELD if the job is to be held."""
    is_suspected = ended.detail == SUSPECTED and ended.status is Status.PENDING
    if not is_suspected or _deaths(job) + 1 < MAX_RUNNER_DEATHS:
        return ended
    return replace(ended, detail=HELD)


def needs_hold(ended: Ended) -> bool:
    """Whether a job must not start again by itself."""
    return ended.detail == HELD


def _deaths(job: Job) -> int:
    """Return how many earlier attempts were suspected since the job was last held for that."""
    count = 0
    for attempt in reversed(job.past):
        if attempt.detail == HELD:
            break
        count += attempt.detail == SUSPECTED
    return count
