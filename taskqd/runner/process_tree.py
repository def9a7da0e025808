"""The processes of one attempt: which they are, and how all of them are ended."""

import signal
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.runner.proc_scanner import ProcScanner

MIN_SCAN_INTERVAL, MAX_SCAN_INTERVAL = 0.01, 1.0
"""Seconds between scans for processes that are being ended; each interval is twice the one before it."""
MAX_SCANS_AFTER_KILL = 8
"""Scans for processes after SIGKILL: one that is stuck in a system call may stay forever."""

Find = Callable[[list[Process]], list[Process]]
"""Selects the processes of a scan that must be ended."""


class ProcessTree:
    """Finds the processes of one attempt in a scan, by its session and by its mark.

    The session is that of the ``leader``, the attempt's first process. Once the leader is ``reaped`` (set to
    the time, in clock ticks since boot) and the session has no member left, another process can get its
    number. So a session of that number belongs to the attempt only if a member was found in it before, or
    started before the leader was reaped, or has the mark (docs/decisions/0031).

    The mark counts only with ``includes_marked``, and only for processes whose user is ``uid`` if that is not
    None: other users could set it.
    """

    def __init__(self, mark: str, uid: int | None) -> None:
        self.leader: int | None = None
        self.reaped: int | None = None
        self.includes_marked = False
        self._mark = mark
        self._uid = uid
        self._known: set[tuple[int, int]] = set()

    def find(self, processes: list[Process]) -> list[Process]:
        """Return the processes of a scan that belong to the attempt."""
        session = self._session(processes)
        marked = filter(self._has_mark, processes) if self.includes_marked else ()
        members = session.union(marked)
        found = [each for each in processes if each in members]
        self._known = {each.identity for each in session}
        return found

    def _session(self, processes: list[Process]) -> set[Process]:
        session = {each for each in processes if each.session == self.leader}
        if self.reaped is None:
            return session
        if any(each.pid == self.leader for each in session):
            return set()  # another process has the leader's pid
        return session if any(map(self._is_proof, session)) else set()

    def _is_proof(self, process: Process) -> bool:
        """Whether a member proves that the session is still the attempt's."""
        is_older = self.reaped is not None and process.started <= self.reaped
        return is_older or process.identity in self._known or self._has_mark(process)

    def _has_mark(self, process: Process) -> bool:
        return bool(self._mark) and process.mark == self._mark and self._uid in (None, process.uid)


class Termination:
    """Ends the processes that ``find`` selects: by a signal, and by SIGKILL after a grace.

    ``gone`` fires once with the processes that are left: none, or those that no signal ends.
    ``signal_group(number)`` sends a signal to the processes that can be reached without a scan. It returns
    the number of their process group, 0 for none. ``since`` is passed to ``ProcScanner.request``.
    """

    _log = Logger()

    def __init__(
        self,
        job_id: int,
        find: Find,
        signal_group: Callable[[int], int],
        scanner: ProcScanner,
        clock: IReactorTime,
    ) -> None:
        self.gone: Deferred[list[Process]] = Deferred()
        self.since: int | None = None
        self.number: int | None = None
        self._job_id = job_id
        self._find = find
        self._signal_group = signal_group
        self._scanner = scanner
        self._clock = clock
        self._group: int = 0  # has just been signalled as a whole
        self._signalled: set[tuple[int, int]] = set()
        self._kill_timer: IDelayedCall | None = None
        self._is_killing = False
        self._is_waiting = False
        self._last_request = 0
        self._scans_left = MAX_SCANS_AFTER_KILL
        self._interval = MIN_SCAN_INTERVAL
        self._has_logged = False

    def signal(self, number: int) -> None:
        """Send a signal to all processes, and to those that later scans find; ignored after SIGKILL."""
        if self._is_killing and number != signal.SIGKILL:
            return
        self.number = number
        self._signalled.clear()
        self._group = self._signal_group(number)
        self._request_scan(0.0)

    def kill_after(self, seconds: float) -> None:
        """Kill all processes after a time, unless that is due earlier."""
        if self._is_killing:
            return
        if self._kill_timer is None:
            self._kill_timer = self._clock.callLater(seconds, self.kill)
        elif self._kill_timer.getTime() > self._clock.seconds() + seconds:
            self._kill_timer.reset(seconds)

    def kill(self) -> None:
        """Kill all processes, and those that later scans find."""
        self._cancel_kill_timer()
        self._is_killing = True
        self._interval = MIN_SCAN_INTERVAL
        if not self.gone.called:
            self.signal(signal.SIGKILL)

    def wait(self) -> None:
        """Scan from now on until all processes are gone, or MAX_SCANS_AFTER_KILL is reached."""
        self._is_waiting = True
        self._request_scan(0.0)

    def finish(self, left: list[Process]) -> None:
        """Stop, and report the processes that are left."""
        if not self.gone.called:
            self._cancel_kill_timer()
            self.gone.callback(left)

    def _cancel_kill_timer(self) -> None:
        if self._kill_timer is not None and self._kill_timer.active():
            self._kill_timer.cancel()

    def _request_scan(self, delay: float) -> None:
        self._last_request += 1
        self._scanner.request(partial(self._on_scan, self._last_request), self.since, delay)

    def _on_scan(self, request: int, processes: list[Process] | None) -> None:
        if self.gone.called or request != self._last_request:
            return
        found = None if processes is None else self._find(processes)
        is_signalled = found is not None and [*map(self._send, found)].count(False) == 0
        if found is not None:
            self._group = 0
        if not self._is_waiting:
            return
        # A scan does not count if the machine lacked the resources for it.
        if found is not None and is_signalled:
            if not found or (self._is_killing and not self._scans_left):
                self.finish(found)
                return
            self._scans_left -= self._is_killing
        self._request_scan(self._interval)
        self._interval = min(2 * self._interval, MAX_SCAN_INTERVAL)

    def _send(self, process: Process) -> bool:
        """Send the signal, if the process has not got it; return False to try again after the next scan."""
        if self.number is None or process.identity in self._signalled:
            return True
        self._signalled.add(process.identity)
        if self._group and self._group in (process.group, process.pid):
            return True
        try:
            proc.signal_process(process, self.number)
        except OSError as why:
            if not self._has_logged:
                self._has_logged = True
                self._log.warn(
                    "process {pid} of job {id} cannot be signalled: {why}",
                    pid=process.pid,
                    id=self._job_id,
                    why=why,
                )
            if not isinstance(why, PermissionError):
                self._signalled.discard(process.identity)
                return False
        return True
