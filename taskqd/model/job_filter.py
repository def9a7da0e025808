"""Filters of jobs, as in LIST: by status, queue, owner, label, key, and text; and the orders of a LIST."""

from enum import Enum

from msgspec import Struct

from taskqd.model.job import Job, Status


class JobFilter(Struct, frozen=True, kw_only=True):
    """The jobs to select. A field that is None admits every job.

    ``match`` is text that the command or the label contains, in any case; it must be casefolded.
    """

    statuses: frozenset[Status] | None = None
    queue: str | None = None
    owner: str | None = None
    label: str | None = None
    key: str | None = None
    match: str | None = None

    def admits(self, job: Job) -> bool:
        """Whether a job matches in all but its text."""
        spec = job.spec
        return (
            (self.statuses is None or job.status in self.statuses)
            and (self.queue is None or self.queue == spec.queue)
            and (self.owner is None or self.owner == job.owner)
            and (self.label is None or self.label == spec.label)
            and (self.key is None or self.key == spec.key)
        )

    def has_text(self, job: Job) -> bool:
        """Whether the command or the label of a job contains the text."""
        match, label = self.match, job.spec.label
        if match is None or match in job.command.casefold():
            return True
        return label is not None and match in label.casefold()


class ListOrder(Enum):
    """An order other than that of the ids: of starts, or of ends, the latest first."""

    START = "start"
    ENDED = "ended"

    @property
    def statuses(self) -> frozenset[Status]:
        """The statuses of the jobs that have a place in it."""
        if self is ListOrder.START:
            return frozenset({Status.PENDING})
        return frozenset(status for status in Status if status.is_final)
