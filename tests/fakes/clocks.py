"""Clocks and threads that a test moves: no test waits for time."""

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from zope.interface import implementer

from taskqd.daemon.clocks import Clocks
from taskqd.storage.interfaces import ICommitReactor
from tests.fakes.deferreds import Value, result_of

START = 1_700_000_000.0
"""The fakes' time of day begins here, in seconds since the epoch."""


MONOTONIC = 1_000.0
"""Their monotonic clock begins here, in seconds."""


BOOT = 5_000.0
"""Their boot clock begins here, in seconds since the machine was started."""


TURN_TIMEOUT = 10.0
"""A test waits for so many seconds for another thread before it fails."""


class FakeClocks(Clock, Clocks):
    """The clocks of the daemon in the test's hands: `advance` moves all three."""

    def __init__(self, time_of_day: float = START, boot: float = BOOT) -> None:
        Clock.__init__(self)
        self.rightNow = MONOTONIC
        self._suspended = boot - MONOTONIC
        self._boot_time = time_of_day - boot
        Clocks.__init__(self, self, self._read_boot, self._read_time_of_day)

    def _read_boot(self) -> float:
        return self.rightNow + self._suspended

    def _read_time_of_day(self) -> float:
        return self._read_boot() + self._boot_time

    def set_time(self, time_of_day: float) -> None:
        """Set the time of day, as a person or NTP does; the two other clocks do not move."""
        self._boot_time = time_of_day - self._read_boot()

    def suspend(self, seconds: float) -> None:
        """Suspend the machine for a time: the monotonic clock stands still."""
        self._suspended += seconds


def clock() -> FakeClocks:
    """Return clocks of which the time of day is START."""
    return FakeClocks()


def in_thread(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
    """Run a blocking function at once, in the place of another thread."""
    return maybeDeferred(function, *args)


class Threads:
    """A thread pool in the test's hands: what is handed over waits until ``run``."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: _chain(maybeDeferred(function, *args), done))
        return done

    def run(self) -> None:
        """Run all that waits, and what comes of it."""
        while self.waiting:
            self.waiting.pop(0)()


def _chain(first: "Deferred[Any]", second: "Deferred[Any]") -> None:
    first.chainDeferred(second)


@implementer(ICommitReactor)
class ThreadReactor(FakeClocks):
    """A clock to which another thread can hand calls; they are made when the test lets it turn."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - IReactorFromThreads has this name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put(partial(callable, *args, **kwargs))

    def turn(self) -> None:
        """Make the next call that another thread asks for, waiting until there is one."""
        self._calls.get(timeout=TURN_TIMEOUT)()

    def until(self, deferred: "Deferred[Value]") -> Value:
        """Turn until a Deferred has fired, and return its result or raise its error."""
        fired: list[Any] = []

        def remember(result: Any) -> Any:
            fired.append(result)
            return result

        deferred.addBoth(remember)
        while not fired:
            self.turn()
        return result_of(deferred)
