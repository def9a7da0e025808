"""The ended attempts of which processes are left, as runners report them."""

from collections.abc import Iterable

from twisted.internet.defer import Deferred

from taskqd.execution.messages import AttemptKey


class Leftovers:
    """Notes which runner is ending the leftovers of which attempts, and who waits for that."""

    def __init__(self) -> None:
        self._runners: dict[AttemptKey, str] = {}
        self._waiters: dict[int, list[Deferred[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._runners)

    def add(self, key: AttemptKey, runner: str) -> None:
        """Note that processes of an attempt are left."""
        self._runners[key] = runner

    def runners_of(self, job_id: int) -> set[str]:
        """Return the runners that are ending leftovers of a job."""
        return {runner for key, runner in self._runners.items() if key.id == job_id}

    def has_runner(self, runner: str) -> bool:
        """Whether a runner is ending leftovers."""
        return runner in self._runners.values()

    def when_gone(self, job_id: int) -> "Deferred[None]":
        """Fire when nothing is left of a job's attempts, or no signal ends what is left."""
        gone: Deferred[None] = Deferred()
        self._waiters.setdefault(job_id, []).append(gone)
        return gone

    def remove(self, *keys: AttemptKey) -> None:
        """Note that nothing is left of some attempts."""
        for key in keys:
            self._runners.pop(key, None)
        for job_id in {key.id for key in keys} - {key.id for key in self._runners}:
            _fire(self._waiters.pop(job_id, ()))

    def remove_runner(self, runner: str) -> None:
        """Note that a runner is dead, and its leftovers were ended."""
        self.remove(*[key for key, name in self._runners.items() if name == runner])


def _fire(waiters: "Iterable[Deferred[None]]") -> None:
    for waiter in waiters:
        waiter.callback(None)
