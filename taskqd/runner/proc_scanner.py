"""Scans of /proc; one scan serves all requests that are due at the same time."""

from collections.abc import Callable
from time import thread_time
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.storage.interfaces import InThread

OnScan = Callable[[list[Process] | None], None]
"""Called with the living processes, or None if /proc could not be read this time."""

BACKOFF_FACTOR = 9.0
"""After a scan, wait for this many times its CPU time, so that scans use up to a tenth of a CPU."""


class _Request(NamedTuple):
    due: float
    on_scan: OnScan
    since: int | None


class ProcScanner:
    """Scans /proc in a thread, since reading the environment of a hanging process may block."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, in_thread: InThread) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._requests: list[_Request] = []
        self._timer: IDelayedCall | None = None
        self._is_scanning = False
        self._is_failing = False
        self._not_before = 0.0

    def request(self, on_scan: OnScan, since: int | None, delay: float = 0.0) -> None:
        """Call ``on_scan`` after the next scan, which starts within ``delay`` seconds.

        It starts later if scans have just used much CPU time. Marks are read of processes that started at
        ``since`` or later, in clock ticks since boot; of none if that is None.
        """
        self._requests.append(_Request(self._clock.seconds() + delay, on_scan, since))
        self._schedule()

    def scan_now(self) -> None:
        """Do the requested scan in this thread: the daemon is about to stop."""
        if self._requests:
            requests = self._pop_requests()
            try:
                processes = proc.scan(_earliest(requests))
            except OSError:
                self._log_failure(Failure())
                self._notify(requests, None)
            else:
                self._notify(requests, processes)

    def _schedule(self) -> None:
        if self._is_scanning or not self._requests:
            return
        now = self._clock.seconds()
        delay = max(0.0, max(min(request.due for request in self._requests), self._not_before) - now)
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._scan)
        elif self._timer.getTime() > now + delay:
            self._timer.reset(delay)

    def _pop_requests(self) -> list[_Request]:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        requests, self._requests = self._requests, []
        return requests

    def _scan(self) -> None:
        requests = self._pop_requests()
        self._is_scanning = True
        self._in_thread(_timed_scan, _earliest(requests)).addBoth(self._on_scanned, requests)

    def _on_scanned(self, result: Any, requests: list[_Request]) -> None:
        self._is_scanning = False
        if isinstance(result, Failure):
            self._log_failure(result)
            self._notify(requests, None)
        else:
            self._is_failing = False
            processes, cpu_time = result
            self._not_before = self._clock.seconds() + BACKOFF_FACTOR * cpu_time
            self._notify(requests, processes)
        self._schedule()

    def _log_failure(self, failure: Failure) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.error("the processes in /proc cannot be read: {why}", why=failure.value)

    def _notify(self, requests: list[_Request], processes: list[Process] | None) -> None:
        for request in requests:
            try:
                request.on_scan(processes)
            except Exception:  # noqa: BLE001 - the others must still be notified
                self._log.failure("unexpected error in handling a scan of /proc")


def _timed_scan(since: int | None) -> tuple[list[Process], float]:
    """Return the living processes, and the CPU time of the scan in seconds."""
    started = thread_time()
    processes = proc.scan(since)
    return processes, thread_time() - started


def _earliest(requests: list[_Request]) -> int | None:
    return min((request.since for request in requests if request.since is not None), default=None)
