"""Stops all processes of one attempt by SIGSTOP, and continues them by SIGCONT."""

import signal
from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.runner.proc_scanner import ProcScanner
from taskqd.runner.process_tree import MAX_SCAN_INTERVAL, MIN_SCAN_INTERVAL, ProcessTree

MAX_SCANS = 20
"""Scans for processes that still run: one that is stuck in a system call stops when that returns."""
MAX_SIGNALS_PER_TURN = 100
"""Processes that are signalled per turn of the reactor, at 30 µs each."""


class ProcessStopper:
    """Signals the processes that ``tree`` finds: the first one's group at once, all others after scans.

    A process that has not stopped yet may fork, or continue another one. So scans are repeated until one
    finds no process that runs; then nothing forks any more. A process that no signal interrupts now, such as
    one that waits in vfork(2) for a child that is stopped, is signalled once, and stops before it runs again.
    A process is continued once: it may stop itself.
    ``signal_group(number)`` signals the processes that can be reached without a scan. ``since`` is passed to
    ``ProcScanner.request``.
    """

    _log = Logger()

    def __init__(
        self,
        job_id: int,
        tree: ProcessTree,
        signal_group: Callable[[int], object],
        since: int,
        scanner: ProcScanner,
        clock: IReactorTime,
    ) -> None:
        self.tree = tree
        self._job_id = job_id
        self._signal_group = signal_group
        self._since = since
        self._scanner = scanner
        self._clock = clock
        self._number = 0
        self._request = 0
        self._interval = MIN_SCAN_INTERVAL
        self._scans_left = 0
        self._stopped: set[tuple[int, int]] = set()  # those that were sent SIGSTOP
        self._continued: set[tuple[int, int]] = set()
        self._refusing: set[tuple[int, int]] = set()  # processes of other users

    def stop(self) -> None:
        """Stop all processes, and those that they start meanwhile."""
        self._stopped.clear()
        self._begin(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue all processes."""
        self._continued.clear()
        self._begin(signal.SIGCONT)

    def withdraw(self) -> None:
        """Signal nothing from now on."""
        self._request += 1

    def _begin(self, number: int) -> None:
        self._number = number
        self._interval, self._scans_left = MIN_SCAN_INTERVAL, MAX_SCANS
        self._signal_group(number)
        self._request_scan(0.0)

    def _request_scan(self, delay: float) -> None:
        self._request += 1
        self._scanner.request(partial(self._on_scan, self._request), self._since, delay)

    def _on_scan(self, request: int, processes: list[Process] | None) -> None:
        if request != self._request:
            return
        self._scans_left -= 1
        found = (
            None if processes is None else list(filter(self._must_be_signalled, self.tree.find(processes)))
        )
        if found is not None and not found:
            return
        if not self._scans_left:
            self._log.warn(
                "{count} processes of job {id} cannot be stopped or continued, such as {pid}; look at them "
                "with `ps`",
                count=len(found or ()),
                id=self._job_id,
                pid=found[0].pid if found else None,
            )
            return
        self._signal(request, found or [])

    def _must_be_signalled(self, process: Process) -> bool:
        if process.identity in self._refusing:
            return False
        was_stopped = process.identity in self._stopped
        if self._number == signal.SIGSTOP:
            return not process.is_stopped and not (was_stopped and process.is_uninterruptible)
        return (process.is_stopped or was_stopped) and process.identity not in self._continued

    def _signal(self, request: int, processes: list[Process]) -> None:
        """Signal processes, in portions, and scan again."""
        if request != self._request:
            return
        signalled = self._stopped if self._number == signal.SIGSTOP else self._continued
        for process in processes[:MAX_SIGNALS_PER_TURN]:
            signalled.add(process.identity)
            try:
                proc.signal_process(process, self._number)
            except PermissionError:
                self._refusing.add(process.identity)
                self._log.warn(
                    "process {pid} of job {id} has another user, so it is neither stopped nor continued",
                    pid=process.pid,
                    id=self._job_id,
                )
            except OSError:  # no descriptor is free; the next scan finds it again
                signalled.discard(process.identity)
        if len(processes) > MAX_SIGNALS_PER_TURN:
            self._clock.callLater(0, self._signal, request, processes[MAX_SIGNALS_PER_TURN:])
            return
        self._request_scan(self._interval)
        self._interval = min(2 * self._interval, MAX_SCAN_INTERVAL)
