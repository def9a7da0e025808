"""The inherited environments that jobs have: many jobs share one, whose file is kept for the last of them."""

from collections.abc import Callable

from taskqd.model.environment import Environment


class EnvironmentUses:
    """How many jobs have each environment; ``bytes`` is the size of all environments, each counted once.

    ``on_unused`` is called with the hash of an environment that no job has any more.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.on_unused: Callable[[str], object] = lambda _: None
        self._counts: dict[str, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnvironmentUses) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._counts

    @property
    def hashes(self) -> frozenset[str]:
        """The hashes of all environments."""
        return frozenset(self._counts)

    def add(self, environment: Environment, jobs: int = 1) -> None:
        """Count more jobs that have an environment."""
        count = self._counts.get(environment.sha256, 0)
        self._counts[environment.sha256] = count + jobs
        if not count:
            self.bytes += environment.size

    def discard(self, environment: Environment) -> None:
        """Count one job less that has an environment."""
        count = self._counts[environment.sha256]
        if count > 1:
            self._counts[environment.sha256] = count - 1
        else:
            del self._counts[environment.sha256]
            self.bytes -= environment.size
            self.on_unused(environment.sha256)
