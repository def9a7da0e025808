"""Clocks and threads that a test controls, so that no test waits for time."""

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
"""The initial time of day, in seconds since the epoch."""


MONOTONIC = 1_000.0
"""The initial monotonic clock, in seconds."""


BOOT = 5_000.0
"""The initial boot clock, in seconds since the machine was started."""


TURN_TIMEOUT = 10.0
"""Seconds that a test waits for another thread before it fails."""


class FakeClocks(Clock, Clocks):
    """The clocks of the daemon; `advance` moves all three."""

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
        """Set the time of day, as a user or NTP does; the other clocks do not move."""
        self._boot_time = time_of_day - self._read_boot()

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: the monotonic clock does not advance."""
        self._suspended += seconds


def clock() -> FakeClocks:
    """Return clocks at the time of day START."""
    return FakeClocks()


def in_thread(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
    """Run a blocking function at once, in this thread."""
    return maybeDeferred(function, *args)


class Threads:
    """A thread pool whose calls wait until `run`."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: _chain(maybeDeferred(function, *args), done))
        return done

    def run(self) -> None:
        """Run all waiting calls, also those that they add."""
        while self.waiting:
            self.waiting.pop(0)()


def _chain(first: "Deferred[Any]", second: "Deferred[Any]") -> None:
    first.chainDeferred(second)


@implementer(ICommitReactor)
class ThreadReactor(FakeClocks):
    """A clock with calls from other threads, which `turn` makes."""

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
        """Make the next call from another thread; waits for one."""
        self._calls.get(timeout=TURN_TIMEOUT)()

    def until(self, deferred: "Deferred[Value]") -> Value:
        """Call `turn` until a Deferred has fired; return its result or raise its error."""
        fired: list[Any] = []

        def remember(result: Any) -> Any:
            fired.append(result)
            return result

        deferred.addBoth(remember)
        while not fired:
            self.turn()
        return result_of(deferred)
