"""Tracks running jobs and the latest ends by events.

The lists are requested once, after a watch has started; from then on, events show which jobs must be queried.
"""

from collections.abc import Iterable, Sequence

from taskqd.cli.statuses import FINISHED
from taskqd.client import Facts


class JobTracker:
    """The running jobs and the latest ends according to the events so far, with their facts if known.

    If ``may_have_pending`` is False, no job is pending. There are no events for the start and end of
    an array; those of its tasks are used.
    """

    def __init__(self, max_ended: int) -> None:
        self.may_have_pending = True
        self._max_ended = max_ended
        self._running: dict[int, Facts | None] = {}
        self._ended: dict[int, Facts | None] = {}

    def load(self, jobs: Iterable[Facts]) -> None:
        """Add the jobs of a list."""
        for job in jobs:
            self.update(job)

    def on_event(self, event: Facts) -> None:
        """Update the jobs by an event of a watch."""
        job: int | None = event.get("id")
        if job is None:
            return
        kind = event["type"]
        if kind in ("submitted", "retried") or event.get("status") == "PENDING":
            self._ended.pop(job, None)
            self.may_have_pending = True
        if kind == "started":
            self._running[job] = None
        elif kind == "removed":
            self.forget(job)
        elif kind in ("ended", "skipped") or (kind == "cancelled" and job not in self._running):
            self._running.pop(job, None)
            if event.get("status") != "PENDING":
                self._add_ended(job, None)

    def jobs_to_query(self, max_running: int) -> Sequence[int]:
        """Return the ids of up to ``max_running`` running jobs, and of jobs that have ended since."""
        return [
            *sorted(self._running)[:max_running],
            *(job for job, facts in self._ended.items() if facts is None),
        ]

    def update(self, job: Facts) -> None:
        """Store the current facts of a job according to its status."""
        number = job["id"]
        if job["status"] == "RUNNING":
            self._running[number] = job
            self._ended.pop(number, None)
            if job.get("array") is not None:
                self._running.setdefault(job["array"], None)
            return
        self._running.pop(number, None)
        if job["status"] not in FINISHED:
            self._ended.pop(number, None)
            self.may_have_pending = True
        elif number in self._ended:
            self._ended[number] = job
        else:
            self._add_ended(number, job)

    def forget(self, job: int) -> None:
        """Remove a job that no longer exists."""
        self._running.pop(job, None)
        self._ended.pop(job, None)

    @property
    def running(self) -> Sequence[Facts]:
        """The running jobs by id whose facts are known."""
        return [job for _, job in sorted(self._running.items()) if job is not None]

    @property
    def ended(self) -> Sequence[Facts]:
        """The jobs that ended last, the latest first."""
        known = (job for job in self._ended.values() if job is not None)
        return sorted(known, key=lambda job: (job.get("completed_at") or "", job["id"]), reverse=True)

    def _add_ended(self, job: int, facts: Facts | None) -> None:
        self._ended.pop(job, None)
        self._ended[job] = facts
        while len(self._ended) > self._max_ended:
            del self._ended[next(iter(self._ended))]
