"""All processes of one attempt, and the signals to them."""

import os
import signal
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.execution import proc
from taskqd.execution.messages import Start
from taskqd.execution.proc import Process
from taskqd.runner.proc_scanner import ProcScanner
from taskqd.runner.process_stopper import ProcessStopper
from taskqd.runner.process_tree import ProcessTree, Termination


class AttemptProcesses:
    """Signals the processes of an attempt: its first process, its session, and those with its mark.

    Most attempts end without a signal and leave nothing behind, so a Termination is made only on first use.
    ``on_gone`` is called once with the processes that are left, which are those that no signal ends.
    """

    _log = Logger()

    def __init__(
        self,
        start: Start,
        scanner: ProcScanner,
        clock: IReactorTime,
        on_gone: Callable[[list[Process]], None],
    ) -> None:
        self._start = start
        self._scanner = scanner
        self._clock = clock
        self._on_gone = on_gone
        self._pid: int | None = None
        self._started: int | None = None
        self._has_exited = False
        self._tree: ProcessTree | None = None
        self._termination: Termination | None = None
        self._stopper: ProcessStopper | None = None

    def first_process_started(self, pid: int, started: int | None) -> None:
        """Set the first process, and its start time if it is known."""
        self._pid, self._started = pid, started

    def first_process_exited(self) -> bool:
        """Note that the first process has exited; return whether processes of its session may be left."""
        self._has_exited = True
        if self._stopper is not None:
            self._stopper.tree.reaped = proc.clock_ticks()
        return self._pid is not None and proc.is_id_in_use(self._pid)

    def stop(self) -> None:
        """Stop all processes, also those that have the mark but have left the session."""
        self._get_stopper().stop()

    def resume(self) -> None:
        """Continue all processes after ``stop``."""
        self._get_stopper().resume()

    def withdraw_stop(self) -> None:
        """Stop no further process: the attempt is being ended."""
        if self._stopper is not None:
            self._stopper.withdraw()

    def _get_stopper(self) -> ProcessStopper:
        if self._stopper is None:
            tree = ProcessTree(self._start.mark, self._start.uid)
            tree.leader, tree.includes_marked = self._pid, True
            self._stopper = ProcessStopper(
                self._start.id, tree, self._signal_group, self._started or 0, self._scanner, self._clock
            )
        return self._stopper

    def signal(self, number: int) -> None:
        """Signal the session, and kill it after the ``kill_after`` of the job."""
        if number == signal.SIGKILL:
            self.kill()
        else:
            self._get_termination().signal(number)
            self._get_termination().kill_after(self._start.kill_after)

    def kill(self) -> None:
        """Kill all processes."""
        self._get_termination().kill()

    def include_marked(self) -> None:
        """From now on, signal also the processes that have the mark but have left the session."""
        self._get_tree().includes_marked = True
        self._get_termination().since = self._started or 0

    def end_leftovers(self, grace: float) -> None:
        """End all processes that the first one has left, and kill them after ``grace`` seconds."""
        termination = self._get_termination()
        self._get_tree().reaped = proc.clock_ticks()
        termination.kill_after(grace)
        if termination.number is None:
            termination.signal(signal.SIGTERM)
        termination.wait()

    def finish(self) -> None:
        """Report that nothing is left."""
        if self._termination is None:
            self._on_gone([])
        else:
            self._termination.finish([])

    def _get_termination(self) -> Termination:
        if self._termination is None:
            find = self._get_tree().find
            self._termination = Termination(
                self._start.id, find, self._signal_group, self._scanner, self._clock
            )
            self._termination.gone.addCallback(self._on_gone)
        return self._termination

    def _get_tree(self) -> ProcessTree:
        if self._tree is None:
            self._tree = ProcessTree(self._start.mark, self._start.uid)
        self._tree.leader = self._pid
        return self._tree

    def _signal_group(self, number: int) -> int:
        """Signal the process group of the first process, and return its number (see Termination)."""
        if self._pid is None or self._has_exited:
            return 0  # another process may have the pid by now; a scan finds what is left
        try:
            if not proc.signal_group(self._pid, number):
                os.kill(self._pid, number)  # setsid(1) has not run yet, so the group does not exist
        except OSError as why:
            self._log.warn("job {id} cannot be signalled: {why}", id=self._start.id, why=why)
        return self._pid
