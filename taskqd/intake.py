"""How many jobs may be pending, in all and of one owner, with those that are on their way to the disk."""

from taskqd.backlog import Backlog
from taskqd.errors import QueueFull
from taskqd.events import Submitted
from taskqd.job import Spec, Status


def size(spec: Spec) -> int:
    """Return how many pending jobs a submission makes: of an array, its tasks."""
    return 1 if spec.array is None else spec.array.count


class Intake:
    """Counts what was let in and is not in ``backlog`` yet.

    At most ``most`` jobs are pending; None is no limit, here and below.
    """

    def __init__(self, backlog: Backlog, most: int | None) -> None:
        self._backlog = backlog
        self._most = most
        self._coming = 0
        self._coming_of: dict[str, int] = {}

    def take(self, owner: str, spec: Spec, most: int | None) -> None:
        """Let a submission in, of an owner who may have ``most`` pending jobs; raises QueueFull."""
        count = size(spec)
        if self._most is not None:
            pending = self._backlog.counts[Status.PENDING] + self._coming
            if pending + count > self._most:
                raise QueueFull(
                    f"{_jobs(pending)} pending, and with {count} more there would be more than {self._most}, "
                    "which is the most; retry when some have started"
                )
        if most is not None:
            pending = self._backlog.pending_of(owner) + self._coming_of.get(owner, 0)
            if pending + count > most:
                raise QueueFull(
                    f"{_jobs(pending)} pending of {owner}, and with {count} more there would be more than "
                    f"{most}, which is the most for one user; retry when some have started"
                )
        self._coming += count
        self._coming_of[owner] = self._coming_of.get(owner, 0) + count

    def arrived(self, *events: Submitted) -> None:
        """Forget submissions that are in the backlog now, or were refused after all."""
        coming_of = self._coming_of
        for event in events:
            count, owner = size(event.spec), event.owner
            self._coming -= count
            coming_of[owner] -= count
            if not coming_of[owner]:
                del coming_of[owner]


def _jobs(count: int) -> str:
    return f"{count} job is" if count == 1 else f"{count} jobs are"
