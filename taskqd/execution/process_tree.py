"""The processes of one attempt: which they are, and how all of them are ended."""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.execution.proc_scanner import Scanner

FIRST_LOOK, LAST_LOOK = 0.01, 1.0
"""Processes that were told to end are looked for after this many seconds, and then less often."""
LOOKS_AFTER_KILL = 8
"""What was killed is looked for this many times more: a process in the kernel's hands may stay for ever."""

Find = Callable[[list[Process]], list[Process]]
"""Picks those of a scan that are to be ended."""


class Tree:
    """Tells which processes of a scan are of one attempt: by its session, and by its mark.

    The session is that of the ``leader``, the attempt's first process. Once that was reaped, another process
    can get its number as soon as the session has no member left. So what is in a session of that number is of
    the attempt only if one there was found before, or started before the leader was ``reaped`` (in clock
    ticks since boot), or has the mark (docs/decisions/0031).

    The mark counts if it ``is_marked_too``, of processes whose user is ``uid`` unless that is None: others
    could set it.
    """

    def __init__(self, mark: str, uid: int | None) -> None:
        self.leader: int | None = None
        self.reaped: int | None = None
        self.is_marked_too = False
        self._mark = mark
        self._uid = uid
        self._known: set[tuple[int, int]] = set()

    def find(self, table: list[Process]) -> list[Process]:
        """Return those of a scan that are of the attempt."""
        session = self._session(table)
        found = [one for one in table if one in session or (self.is_marked_too and self._has_mark(one))]
        self._known = {one.name for one in session}
        return found

    def _session(self, table: list[Process]) -> set[Process]:
        session = {one for one in table if one.session == self.leader}
        if self.reaped is None:
            return session
        if any(one.pid == self.leader for one in session):
            return set()  # another process has the number
        return session if any(map(self._is_proof, session)) else set()

    def _is_proof(self, one: Process) -> bool:
        has_been_there = self.reaped is not None and one.started <= self.reaped
        return has_been_there or one.name in self._known or self._has_mark(one)

    def _has_mark(self, one: Process) -> bool:
        return bool(self._mark) and one.mark == self._mark and self._uid in (None, one.uid)


class Sweep:
    """Ends the processes that ``find`` picks: by a signal, and by SIGKILL after a grace.

    ``gone`` fires once, with those that are left: none, or what no signal ends. ``signal_group`` sends a
    signal to those that can be reached without a scan, and returns the number of their process group, 0 for
    none, or None if there is no process yet and so nothing to look for. ``since`` is what ``Scanner.ask``
    takes.
    """

    _log = Logger()

    def __init__(
        self,
        job_id: int,
        find: Find,
        signal_group: Callable[[int], int | None],
        scanner: Scanner,
        clock: Any,
    ) -> None:
        self.gone: Deferred[list[Process]] = Deferred()
        self.since: int | None = None
        self.number: int | None = None
        self._job_id = job_id
        self._find = find
        self._signal_group = signal_group
        self._scanner = scanner
        self._clock = clock
        self._reached: int = 0
        self._sent: set[tuple[int, int]] = set()
        self._kill: Any = None
        self._is_killing = False
        self._is_waiting = False
        self._asked = 0
        self._looks_left = LOOKS_AFTER_KILL
        self._pause = FIRST_LOOK
        self._is_refused = False

    def signal(self, number: int) -> None:
        """Send a signal to all that are there, and to those that a later scan finds; none after SIGKILL."""
        if self._is_killing and number != signal.SIGKILL:
            return
        self.number = number
        self._sent.clear()
        reached = self._signal_group(number)
        if reached is not None:
            self._reached = reached
            self._ask(0.0)

    def kill_within(self, seconds: float) -> None:
        """Kill all that are there after this many seconds, unless that is due before."""
        if self._is_killing:
            return
        if self._kill is None:
            self._kill = self._clock.callLater(seconds, self.kill)
        elif self._kill.getTime() > self._clock.seconds() + seconds:
            self._kill.reset(seconds)

    def kill(self) -> None:
        """Kill all that are there now, and those that a later scan finds."""
        self._stop_timer()
        self._is_killing = True
        self._pause = FIRST_LOOK
        if not self.gone.called:
            self.signal(signal.SIGKILL)

    def wait(self) -> None:
        """Look for them from now on until they are gone, or given up."""
        self._is_waiting = True
        self._ask(0.0)

    def finish(self, left: list[Process]) -> None:
        """Do nothing more."""
        if not self.gone.called:
            self._stop_timer()
            self.gone.callback(left)

    def _stop_timer(self) -> None:
        if self._kill is not None and self._kill.active():
            self._kill.cancel()

    def _ask(self, delay: float) -> None:
        self._asked += 1
        self._scanner.ask(partial(self._heard, self._asked), self.since, delay)

    def _heard(self, asked: int, table: list[Process] | None) -> None:
        if self.gone.called or asked != self._asked:  # else another scan was asked for since
            return
        found = None if table is None else self._find(table)
        is_sent = found is not None and [*map(self._send, found)].count(False) == 0
        if found is not None:
            self._reached = 0
        if not self._is_waiting:
            return
        if found is not None and is_sent:  # else the machine lacked what a look takes: it does not count
            if not found or (self._is_killing and not self._looks_left):
                self.finish(found)
                return
            self._looks_left -= self._is_killing
        self._ask(self._pause)
        self._pause = min(2 * self._pause, LAST_LOOK)

    def _send(self, one: Process) -> bool:
        """Send the signal, unless that was done; False if it could not be sent this time."""
        if self.number is None or one.name in self._sent:
            return True
        self._sent.add(one.name)
        if self._reached and self._reached in (one.group, one.pid):
            return True
        try:
            proc.signal_process(one, self.number)
        except OSError as why:
            if not self._is_refused:
                self._is_refused = True
                self._log.warn(
                    "process {pid} of job {id} cannot be signalled: {why}",
                    pid=one.pid,
                    id=self._job_id,
                    why=why,
                )
            if not isinstance(why, PermissionError):
                self._sent.discard(one.name)
                return False
        return True
