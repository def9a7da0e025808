"""Which jobs run and which ended last, as events tell it: so that no list is read again and again.

A list costs the daemon a look at every job that it passes by, and there may be a hundred thousand. It is read
once, when a watch has begun; from then on the events say which jobs are worth a question.
"""

from collections.abc import Iterable, Sequence

from taskqd.client import Facts

FINAL = ("COMPLETED", "FAILED", "CANCELLED")


class Tracks:
    """The jobs that run and the latest ends, as far as the events so far tell, with what is known of each.

    ``first_pending`` is an id below which nothing is pending. Of an array, whose own start and end no event
    tells, its tasks tell.
    """

    def __init__(self, most_ended: int) -> None:
        self.first_pending: int | None = 1
        self._most_ended = most_ended
        self._running: dict[int, Facts | None] = {}
        self._ended: dict[int, Facts | None] = {}

    def begin(self, jobs: Iterable[Facts]) -> None:
        """Take in the jobs that a list told."""
        for job in jobs:
            self.settle(job)

    def take(self, event: Facts) -> None:
        """Take in an event of a watch."""
        job: int | None = event.get("id")
        if job is None:
            return
        kind = event["type"]
        if kind in ("submitted", "retried") or event.get("status") == "PENDING":
            self._ended.pop(job, None)
            self._wait(job)
        if kind == "started":
            self._running[job] = None
        elif kind == "removed":
            self.forget(job)
        elif kind in ("ended", "skipped") or (kind == "cancelled" and job not in self._running):
            self._running.pop(job, None)
            if event.get("status") != "PENDING":
                self._end(job, None)

    def questions(self, most: int) -> Sequence[int]:
        """Return the ids to be asked about: ``most`` of those that run, and what has ended since."""
        return [*sorted(self._running)[:most], *(job for job, facts in self._ended.items() if facts is None)]

    def settle(self, job: Facts) -> None:
        """Take in what the daemon says of a job now: it belongs where its status says."""
        number = job["id"]
        if job["status"] == "RUNNING":
            self._running[number] = job
            self._ended.pop(number, None)
            if job.get("array") is not None:
                self._running.setdefault(job["array"], None)
            return
        self._running.pop(number, None)
        if job["status"] not in FINAL:
            self._ended.pop(number, None)
            self._wait(number)
        elif number in self._ended:
            self._ended[number] = job
        else:
            self._end(number, job)

    def forget(self, job: int) -> None:
        """Take note that a job is gone."""
        self._running.pop(job, None)
        self._ended.pop(job, None)

    @property
    def running(self) -> Sequence[Facts]:
        """What runs, by id, as far as it is known."""
        return [job for _, job in sorted(self._running.items()) if job is not None]

    @property
    def ended(self) -> Sequence[Facts]:
        """What ended last, the latest end first."""
        known = (job for job in self._ended.values() if job is not None)
        return sorted(known, key=lambda job: (job.get("completed_at") or "", job["id"]), reverse=True)

    def _wait(self, job: int) -> None:
        self.first_pending = job if self.first_pending is None else min(job, self.first_pending)

    def _end(self, job: int, facts: Facts | None) -> None:
        self._ended.pop(job, None)
        self._ended[job] = facts
        while len(self._ended) > self._most_ended:
            del self._ended[next(iter(self._ended))]
