"""One attempt's process: its output, its timeouts, its signals, and its end.

An attempt ends when its first process has exited, and its end is reported at once. What it leaves in its
session gets SIGTERM, and SIGKILL after a grace. If the daemon ends an attempt (a timeout, a cancel), the end
is reported when its session and all processes with its mark are gone, since a retry must not run beside them.
docs/operations.md has the table, "Which processes are ended".
"""

import os
import signal
from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import is_shortage
from taskqd.execution import proc
from taskqd.execution.interfaces import OnSpawned
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.proc import Process
from taskqd.execution.run import Outcome
from taskqd.model.durations import format_duration
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason
from taskqd.model.sizes import format_size
from taskqd.runner.attempt_processes import AttemptProcesses
from taskqd.runner.idle_timer import IdleTimer
from taskqd.runner.interfaces import ChildTransport, ISessionProtocol
from taskqd.runner.proc_scanner import ProcScanner
from taskqd.runner.refusal import may_be_refused, refusal
from taskqd.runner.session_process import UNKNOWN_STATUS
from taskqd.runner.usage import Rusage, least_known_peak, usage_of
from taskqd.storage.interfaces import IOutputWriter, OutputLost

STDERR = 2
"""The descriptor of stderr in the process."""
MAX_LEFTOVER_GRACE = 30.0
"""Seconds from SIGTERM to SIGKILL for what an attempt leaves behind, if its ``kill_after`` is not shorter."""
MEMORY_KILL_FACTOR = 2
"""An attempt is killed at once if it uses this many times the memory that it may use."""
MAX_COMPLAINT = 8192
"""Bytes of stderr that are searched for the reason why the shell could not start the command."""
MAX_READ = 65_536
"""Bytes per read when the pipes are drained."""


@implementer(ISessionProtocol)
class JobProcess(ProcessProtocol):
    """One attempt, from the spawn of its first process until all of its processes are gone.

    ``outcome`` fires once, with how the attempt ended; ``gone`` fires when none of its processes is left,
    which may be later. ``report_spawned`` must be called after the spawn, or ``report_failed_spawn``.
    """

    _log = Logger()

    def __init__(
        self,
        start: Start,
        output: IOutputWriter,
        clock: IReactorTime,
        scanner: ProcScanner,
        on_spawned: OnSpawned,
    ) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self.key: AttemptKey = start.key
        self.job_id = start.id
        self.pid: int | None = None
        self.started: int | None = None
        self.rusage: Rusage | None = None
        self._start = start
        self._output = output
        self._clock = clock
        self._on_spawned = on_spawned
        self._child: ChildTransport | None = None
        self._least_peak = 0
        self._end_reason: Reason | None = None
        self._details: dict[Reason, str] = {}
        self._exit: BaseException | None = None
        self._is_paused = False  # reading
        self._complaint: bytearray | None = bytearray() if may_be_refused(start) else None
        self._is_reported = False
        self._has_leftovers = True
        self._predecessors: Deferred[None] | None = None
        self._timeout: IdleTimer | None = None
        self._suspended_since: float | None = None
        self._suspended_for = 0.0
        self._idle_timer: IdleTimer | None = None
        self._processes = AttemptProcesses(start, scanner, clock, self._finish)
        output.set_callbacks(self._on_backpressure, self._on_output_failure)

    # The start.

    def start_after(self, predecessors: "Deferred[None]") -> "Deferred[None]":
        """Wait for ``predecessors`` before the spawn; ending the attempt meanwhile cancels that Deferred."""
        self._predecessors = predecessors
        return predecessors.addBoth(self._on_predecessors_gone)

    def _on_predecessors_gone(self, result: Any) -> Any:
        self._predecessors = None
        return result

    def connectionMade(self) -> None:
        self._child = cast(ChildTransport, self.transport)
        self.pid = self._child.pid
        self._processes.first_process_started(self.pid, self.started)
        if self._start.timeout is not None:
            self._timeout = IdleTimer(self._start.timeout, self._clock, self._on_timeout)
        if self._start.idle_timeout is not None:
            self._idle_timer = IdleTimer(self._start.idle_timeout, self._clock, self._on_idle)
        if self._suspended_since is not None:
            self._update_timers()
            self._processes.stop()

    def pipesOpened(self, descriptors: Sequence[int]) -> None:
        """Let the job's user open the pipes by their names, such as /dev/stdout."""
        self._least_peak = least_known_peak()
        if self._start.uid is None:
            return
        try:
            for descriptor in descriptors:
                os.fchown(descriptor, self._start.uid, -1)  # both ends of a pipe are one inode
        except OSError as why:
            self._log.warn("job {id} cannot open /dev/stdout and /dev/stderr: {why}", id=self.job_id, why=why)

    def report_spawned(self) -> None:
        """Report the pid, unless the process has exited already."""
        if self.pid is None or self._exit is not None:
            return
        try:
            started = proc.start_time(self.pid) if self.started is None else self.started
            self._on_spawned(self.pid, started)
        except Exception:  # noqa: BLE001 - the process runs, and its end will be reported
            self._log.failure("unexpected error in reporting the pid of job {id}", id=self.job_id)

    def report_failed_spawn(self, failure: Failure) -> None:
        """Report that the process could not be started, and why."""
        reason, detail = Reason.SPAWN, f"could not be started: {failure.value}"
        if failure.check(CancelledError) and self._end_reason is not None:
            reason, detail = self._end_reason, "it was ended before it started"
        elif not failure.check(OSError, ValueError, MemoryError):
            self._log.failure("unexpected error in starting job {id}", failure, id=self.job_id)
        self._is_reported = True
        maybeDeferred(self._output.close).addErrback(self._log_end_failure)
        has_shortage = reason is Reason.SPAWN and is_shortage(failure.value)
        self.outcome.callback(Outcome(reason=reason, detail=detail, is_shortage=has_shortage))
        self._processes.finish()

    # Output.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if self._idle_timer is not None:
            self._idle_timer.reset()
        try:
            self._write(childFD, data)
        except Exception as why:  # noqa: BLE001 - the reactor would close the pipe
            self._log.failure("unexpected error in writing the output of job {id}", id=self.job_id)
            self._on_output_failure(str(why))

    def _write(self, stream: int, data: bytes) -> None:
        if self._complaint is not None and stream == STDERR and len(self._complaint) < MAX_COMPLAINT:
            self._complaint += data[:MAX_COMPLAINT]
        self._output.write(stream, data)

    @property
    def is_running(self) -> bool:
        """Whether the process has been spawned and has not exited."""
        return self._child is not None and self._exit is None

    def start_reading(self) -> None:
        """Read what the process prints, from now on."""
        if self._child is not None and self._exit is None and not self._is_paused:
            self._child.resumeProducing()

    def read_output(self) -> None:
        """Read what the process has printed until now, as far as the output can be kept, and from now on."""
        if self._child is None or self._exit is not None:
            return
        self.start_reading()
        for stream, pipe in list(self._child.pipes.items()):
            left = proc.unread_bytes(pipe.fileno())
            while left > 0 and not self._is_paused and (data := _read(pipe.fileno(), left)):
                self.childDataReceived(stream, data)
                left -= len(data)

    def _on_backpressure(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        if self._exit is not None or self._child is None:
            return
        self._update_timers()
        if is_paused:
            self._child.pauseProducing()
        else:
            self._child.resumeProducing()

    def _on_output_failure(self, why: str) -> None:
        self._details[Reason.OUTPUT] = f"its output cannot be kept: {why}"
        if self._exit is not None:
            self._end_reason = self._end_reason or Reason.OUTPUT
        self.end(Reason.OUTPUT, signal.SIGTERM)

    # Suspending the attempt.

    def suspend(self) -> None:
        """Stop all processes and the timeouts; one that has no process yet is stopped when it has one."""
        if self._exit is not None or self._end_reason is not None:
            return
        if self._suspended_since is None:
            self._suspended_since = self._clock.seconds()
            self._update_timers()
        if self.is_running:
            self._processes.stop()

    def resume(self) -> None:
        """Continue all processes, and the timeouts with the time that was left."""
        if self._suspended_since is None:
            return
        self._end_suspension()
        self._update_timers()
        if self._child is not None:
            self._processes.resume()

    def _end_suspension(self) -> None:
        if self._suspended_since is not None:
            self._suspended_for += self._clock.seconds() - self._suspended_since
            self._suspended_since = None

    def _update_timers(self) -> None:
        """Let the timeouts stand still, or run."""
        is_suspended = self._suspended_since is not None
        if self._timeout is not None:
            self._timeout.set_paused(is_suspended)
        if self._idle_timer is not None:
            self._idle_timer.set_paused(is_suspended or self._is_paused)

    # Ending the attempt.

    def end(self, reason: Reason, number: int, detail: str | None = None) -> None:
        """Signal all processes of the attempt, and kill them after ``kill_after``.

        The first reason stands. A cancel still sends its signal if the attempt is being ended already.
        """
        if self._end_reason is not None and reason is Reason.CANCELLED and not self._is_reported:
            self._processes.signal(number)
        if self._exit is not None or self._end_reason is not None:
            return
        self._end_reason = reason
        if detail is not None:
            self._details[reason] = detail
        self._end_suspension()
        if self._predecessors is not None:
            self._predecessors.cancel()
            return
        self._processes.withdraw_stop()
        self._processes.include_marked()
        self._processes.signal(number)

    def on_memory(self, used: int) -> None:
        """End the attempt, which uses more memory than it may: with SIGKILL if it is twice as much.

        Then there is no time for SIGTERM: the attempt may fill the machine's memory before it reacts.
        """
        limit = self._start.memory_max or used
        self.end(Reason.MEMORY, signal.SIGTERM, f"it used {format_size(used)} of {format_size(limit)}")
        if used >= MEMORY_KILL_FACTOR * limit:
            self._processes.kill()

    def kill(self) -> None:
        """Kill all that is left of the attempt; one that waits for its predecessors does not start."""
        if self._predecessors is not None:
            self.end(Reason.INTERRUPTED, signal.SIGKILL)
        else:
            self._processes.kill()

    def _on_timeout(self) -> None:
        detail = f"it ran for longer than {format_duration(self._start.timeout or 0)}"
        self.end(Reason.TIMEOUT, signal.SIGTERM, detail)

    def _on_idle(self) -> None:
        if self._idle_timer is not None and self._has_unread_output():
            self._idle_timer.start()  # the reactor was too busy to read it
        else:
            detail = f"it printed nothing for {format_duration(self._start.idle_timeout or 0)}"
            self.end(Reason.TIMEOUT, signal.SIGTERM, detail)

    def _has_unread_output(self) -> bool:
        return self._child is not None and any(
            proc.unread_bytes(pipe.fileno()) for pipe in self._child.pipes.values()
        )

    # The exit of the first process.

    def processExited(self, reason: Failure) -> None:
        self._exit = reason.value
        if self._has_unknown_status():
            self._end_reason = self._end_reason or Reason.INTERRUPTED
            self._details[Reason.INTERRUPTED] = "its exit code is unknown: something else has reaped it"
        try:
            self._on_exit()
        except Exception:  # noqa: BLE001 - the attempt has ended, and its slot must become free
            failure = Failure()
            self._log_end_failure(failure)
            self._note_lost_output(failure.value)
            self._report()
            self._end_leftovers()

    def _on_exit(self) -> None:
        self._has_leftovers = self._processes.first_process_exited()
        self.resume()
        if self._idle_timer is not None:
            self._idle_timer.stop()
        self._drain_pipes()
        if self._timeout is not None:
            self._timeout.stop()
        if self._end_reason is None:
            self._report()
        self._end_leftovers()

    def _has_unknown_status(self) -> bool:
        return isinstance(self._exit, ProcessTerminated) and self._exit.status == UNKNOWN_STATUS

    def _drain_pipes(self) -> None:
        """Read what is in the pipes, and close them: leftovers that hold them must not delay the end.

        A pipe may have less than it says, since the process may read it as well; an empty read ends it.
        """
        failure: Exception | None = None
        pipes = {} if self._child is None else self._child.pipes
        for stream, pipe in list(pipes.items()):
            try:
                data = _read(pipe.fileno(), MAX_READ)
                left = proc.unread_bytes(pipe.fileno()) if data else 0
                while data:
                    self._write(stream, data)
                    data = _read(pipe.fileno(), left) if left > 0 else b""
                    left -= len(data)
            except Exception as why:  # noqa: BLE001 - the other pipe must be drained as well
                failure = why
            pipe.loseConnection()
        if failure is not None:
            raise failure

    def _end_leftovers(self) -> None:
        if self._end_reason is not None:
            self._processes.include_marked()
            self._processes.end_leftovers(self._start.kill_after)
        elif self._has_leftovers:
            self._processes.end_leftovers(min(self._start.kill_after, MAX_LEFTOVER_GRACE))
        else:
            self._processes.finish()

    def _finish(self, left: list[Process]) -> None:
        self._has_leftovers = bool(left)
        self._report()
        self.gone.callback(None)

    # The outcome.

    def _report(self) -> None:
        if self._is_reported:
            return
        self._is_reported = True
        try:
            closing = self._output.close()
        except Exception:  # noqa: BLE001 - the attempt has ended all the same
            closing = fail()
        closing.addErrback(self._on_output_lost).addCallback(self._make_outcome).chainDeferred(self.outcome)

    def _on_output_lost(self, failure: Failure) -> tuple[Output, Output]:
        if not failure.check(OSError):
            self._log_end_failure(failure)
        self._note_lost_output(failure.value)
        return failure.value.kept if isinstance(failure.value, OutputLost) else (NOTHING, NOTHING)

    def _note_lost_output(self, why: BaseException | None) -> None:
        self._end_reason = self._end_reason or Reason.OUTPUT
        self._details.setdefault(Reason.OUTPUT, f"its output could not be kept: {why}")

    def _log_end_failure(self, failure: Failure) -> None:
        self._log.failure("unexpected error at the end of job {id}", failure, id=self.job_id)

    def _make_outcome(self, outputs: tuple[Output, Output]) -> Outcome:
        exit_ = self._exit
        code, number = (exit_.exitCode, exit_.signal) if isinstance(exit_, ProcessTerminated) else (0, None)
        if self._has_unknown_status():
            code, number = None, None
        reason = self._end_reason
        if reason is None and number is not None:
            reason = Reason.SIGNAL
        stdout, stderr = outputs
        pid = self.pid if self._has_leftovers else None
        if reason is None and self._complaint is not None:
            refused = refusal(self._start, code, bytes(self._complaint))
            if refused is not None:
                detail = f"could not be started: {refused}"
                order = self._output.order
                return Outcome(
                    reason=Reason.SPAWN, detail=detail, stdout=stdout, stderr=stderr, pid=pid, order=order
                )
        if reason is None and code:
            reason = Reason.EXIT
        return Outcome(
            reason=reason,
            exit_code=code,
            signal=number,
            detail="; ".join(self._details.values()) or None,
            stdout=stdout,
            stderr=stderr,
            suspended=round(self._suspended_for, 3),
            usage=None if self.rusage is None else usage_of(self.rusage, self._least_peak),
            pid=pid,
            order=self._output.order,
        )


def _read(descriptor: int, length: int) -> bytes:
    """Return what can be read from a pipe without waiting, nothing if it is empty."""
    try:
        return os.read(descriptor, min(length, MAX_READ))
    except BlockingIOError:
        return b""
