"""Scans of /proc, of which one serves all who ask in the same moment."""

from collections.abc import Callable
from time import thread_time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.execution.proc import Process

Heard = Callable[[list[Process] | None], None]
"""Takes the living processes, or None if they could not be read this time."""
InThread = Callable[..., "Deferred[Any]"]
"""Runs a blocking function with its arguments in another thread."""

REST = 9.0
"""After a scan none begins for this many times its processor time: scans use up to a tenth of a processor."""


class Scanner:
    """Scans in a thread, since the environment of a process that hangs may be waited for."""

    _log = Logger()

    def __init__(self, clock: Any, in_thread: InThread) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._asked: list[tuple[float, Heard, int | None]] = []
        self._timer: Any = None
        self._is_scanning = False
        self._is_failing = False
        self._rests_until = 0.0

    def ask(self, heard: Heard, since: int | None, delay: float = 0.0) -> None:
        """Call ``heard`` after the next scan, which is made after ``delay`` seconds at the latest.

        If scans have just used much time, it is later. The marks of processes that have started ``since``
        then are read, of none for None.
        """
        self._asked.append((self._clock.seconds() + delay, heard, since))
        self._arrange()

    def scan_now(self) -> None:
        """Make the scan that was asked for at once, and wait for it: the daemon is about to stop."""
        if self._asked:
            asked = self._take()
            try:
                table = proc.scan(_earliest(asked))
            except OSError:
                self._scan_failed(Failure())
                self._tell(asked, None)
            else:
                self._tell(asked, table)

    def _arrange(self) -> None:
        if self._is_scanning or not self._asked:
            return
        now = self._clock.seconds()
        delay = max(0.0, max(min(due for due, _, _ in self._asked), self._rests_until) - now)
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._scan)
        elif self._timer.getTime() > now + delay:
            self._timer.reset(delay)

    def _take(self) -> list[tuple[float, Heard, int | None]]:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        asked, self._asked = self._asked, []
        return asked

    def _scan(self) -> None:
        asked = self._take()
        self._is_scanning = True
        self._in_thread(_scan, _earliest(asked)).addBoth(self._scanned, asked)

    def _scanned(self, result: Any, asked: list[tuple[float, Heard, int | None]]) -> None:
        self._is_scanning = False
        if isinstance(result, Failure):
            self._scan_failed(result)
            self._tell(asked, None)
        else:
            self._is_failing = False
            table, used = result
            self._rests_until = self._clock.seconds() + REST * used
            self._tell(asked, table)
        self._arrange()

    def _scan_failed(self, failure: Failure) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.error("the processes in /proc cannot be read: {why}", why=failure.value)

    def _tell(self, asked: list[tuple[float, Heard, int | None]], table: list[Process] | None) -> None:
        for _, heard, _ in asked:
            try:
                heard(table)
            except Exception:  # noqa: BLE001 - it must not keep the others from hearing of it
                self._log.failure("to take what a scan of /proc found met a bug")


def _scan(since: int | None) -> tuple[list[Process], float]:
    """Return what a scan finds, and the seconds of processor time that it took."""
    begun = thread_time()
    found = proc.scan(since)
    return found, thread_time() - begun


def _earliest(asked: list[tuple[float, Heard, int | None]]) -> int | None:
    return min((since for _, _, since in asked if since is not None), default=None)
