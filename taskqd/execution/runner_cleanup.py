"""The end of what dead runners have left: done by the daemon itself, or requested from root's runner."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from taskqd.execution.messages import Settled, Sweep, Swept
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.runner_link import RunnerLink


class SweepInterrupted(Exception):
    """The connection to the runner that sweeps was lost; the sweep must be requested again."""


class RunnerCleanup(Protocol):
    """Ends the processes of dead runners, and removes their files."""

    def names(self, listed: Iterable[str]) -> list[str]:
        """Return the runners to look at; ``listed`` are those that have a file."""

    def can_sweep(self) -> bool:
        """Whether ``sweep`` may be called now."""

    def sweep(self, name: str) -> "Deferred[Any]":
        """Kill what a killed runner has left; fires when that is gone."""

    def remove(self, name: str) -> None:
        """Remove the files of a dead runner: the journal has what they say."""

    def on_connected(self, link: RunnerLink) -> None:
        """Note a runner that is connected."""

    def on_lost(self, link: RunnerLink) -> None:
        """Note that a connection is lost."""


class OwnCleanup:
    """The cleanup after runners of the daemon's own user; ``sweep()`` ends the processes of all dead ones."""

    def __init__(self, directory: RunnerDirectory, sweep: "Callable[[], Deferred[Any]]") -> None:
        self._directory = directory
        self._sweep = sweep

    def names(self, listed: Iterable[str]) -> list[str]:
        return list(listed)

    def can_sweep(self) -> bool:
        return True

    def sweep(self, name: str) -> "Deferred[Any]":
        return self._sweep()

    def remove(self, name: str) -> None:
        self._directory.remove(name)

    def on_connected(self, link: RunnerLink) -> None:
        """Do nothing."""

    def on_lost(self, link: RunnerLink) -> None:
        """Do nothing."""


class RequestedCleanup:
    """The cleanup after root's runners, which only the next runner of root's can do.

    ``runners()`` are the runners that have attempts: also one without files may have left processes.
    """

    def __init__(self, runners: Callable[[], Iterable[str]]) -> None:
        self._runners = runners
        self._link: RunnerLink | None = None
        self._sweeping: dict[str, Deferred[None]] = {}
        self._removed: set[str] = set()

    def names(self, listed: Iterable[str]) -> list[str]:
        present = set(listed)
        self._removed &= present
        return sorted((present | set(self._runners())) - self._removed)

    def can_sweep(self) -> bool:
        return self._link is not None

    def sweep(self, name: str) -> "Deferred[Any]":
        if not name:  # an attempt of a release before 0.7, whose runner was the daemon
            return succeed(None)
        self._sweeping[name] = Deferred()
        self._send(Sweep(runner=name))
        return self._sweeping[name]

    def on_swept(self, swept: Swept) -> None:
        """Report that nothing is left of a dead runner."""
        done = self._sweeping.pop(swept.runner, None)
        if done is not None:
            done.callback(None)

    def remove(self, name: str) -> None:
        self._removed.add(name)
        self._send(Settled(runner=name))

    def on_connected(self, link: RunnerLink) -> None:
        if link.accepts_starts:
            self._link = link
            for name in sorted(self._removed):
                self._send(Settled(runner=name))

    def on_lost(self, link: RunnerLink) -> None:
        if link is not self._link:
            return
        self._link = None
        sweeping, self._sweeping = self._sweeping, {}
        for done in sweeping.values():
            done.errback(SweepInterrupted())

    def _send(self, message: Sweep | Settled) -> None:
        if self._link is not None:
            self._link.send(message)
