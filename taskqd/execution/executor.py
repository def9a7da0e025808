"""Attempts as processes: start, read, time, end, and leave nothing of them behind.

An attempt ends when its own process has ended. What it left in its session is then told to end, and killed
after the grace, while the job has long been reported. If the daemon itself ends an attempt, for a timeout or
a cancel, the end is reported once its session is gone, and everything that has its mark: its retry must not
meet them. For the same reason an attempt that follows another starts once nothing has the marks of those
before. docs/operations.md has the table of it, "Which processes are ended".
"""

import os
import signal
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import is_shortage
from taskqd.execution import proc
from taskqd.execution.command_line import command_line, duration, may_be_refused, refusal, sent
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.proc import Process, attempt_of
from taskqd.execution.proc_scanner import InThread, Scanner
from taskqd.execution.process_tree import Sweep, Tree
from taskqd.execution.run import MARK, Outcome, Run
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason
from taskqd.speedups.child_process import MeasuredProtocol
from taskqd.speedups.pipes import READ_BYTES, waiting
from taskqd.storage.interfaces import IOutputWriter, OutputLost

STDERR = 2
MAX_LEFTOVER_GRACE = 30.0
"""What an ended attempt left behind is killed after so many seconds, or after its --kill-after if shorter."""

MAX_COMPLAINT = 8192
"""This many bytes of stderr are looked at for why the shell could not start the command."""

SHORT_LIVED = 0.1
"""In so many seconds an attempt cannot write so much that the disk is busy with it for long."""

Spawn = Callable[[MeasuredProtocol, list[str], Mapping[str, str], int, int | None], "Deferred[Any]"]
"""Starts (protocol, command line, environment, descriptor of stdin, uid) in its own session.

What it returns fires once the process is there and the protocol knows it, or fails with OSError.

The uid is that of another user who is to be able to open its streams, None where there is no such user.
"""


class IdleTimer:
    """How long nothing was heard; ``over`` is called once that is ``limit`` seconds.

    What is heard only notes the time: the timer looks at it when it fires, and runs on for what is left.
    While nobody listens, no time passes.
    """

    def __init__(self, limit: float, clock: Any, over: Callable[[], None]) -> None:
        self._limit = limit
        self._clock = clock
        self._over = over
        self._lasted = 0.0
        self.begin()

    def begin(self) -> None:
        """Count from now."""
        self.heard()
        self._timer: Any = self._clock.callLater(self._limit, self._look)

    def heard(self) -> None:
        """Note that something is heard now."""
        self._since = self._clock.seconds()

    def listen(self, is_listening: bool) -> None:
        """Go on, or let no time pass until it goes on."""
        self.stop()
        now = self._clock.seconds()
        if is_listening:
            self._since = now - self._lasted
            self._look()
        else:
            self._lasted = now - self._since

    def stop(self) -> None:
        """Call nobody any more."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        left = self._since + self._limit - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._over()


class JobProcess(MeasuredProtocol):
    """One attempt's process, from its spawn to the last of its session.

    ``outcome`` fires once, with how it ended; ``gone`` when nothing of it is left, which may be later.
    """

    _log = Logger()
    transport: Any

    def __init__(self, run: Run, recording: IOutputWriter, clock: Any, scanner: Scanner) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self.job_id = run.id
        self.pid: int | None = None
        self._run = run
        self._recording = recording
        self._clock = clock
        self._why: Reason | None = None
        self._said: dict[Reason, str] = {}
        self._exit: BaseException | None = None
        self._complaint: bytearray | None = bytearray() if may_be_refused(run) else None
        self._is_reported = False
        self._has_left = True
        self._awaited: int | None = None
        self._clearing: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self._silence: IdleTimer | None = None
        self._scanner = scanner
        self._tree: Tree | None = None
        self._made_sweep: Sweep | None = None
        recording.set_callbacks(self._choke, self._fail)

    @property
    def has_exited(self) -> bool:
        """Whether the process that was started is gone."""
        return self._exit is not None

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        if self._awaited is not None:
            self._sweep().signal(self._awaited)
        if self._run.timeout is not None:
            self._running = Deferred()
            self._running.addTimeout(self._run.timeout, self._clock).addErrback(self._time_is_up)
        if self._run.idle_timeout is not None:
            self._silence = IdleTimer(self._run.idle_timeout, self._clock, self._was_silent)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if self._silence is not None:
            self._silence.heard()
        try:
            self._keep(childFD, data)
        except Exception as why:  # noqa: BLE001 - raised to the reactor, it would close the job's pipe
            self._log.failure("the output of job {id} met an unexpected error", id=self._run.id)
            self._fail(str(why))

    def _keep(self, stream: int, data: bytes) -> None:
        if self._complaint is not None and stream == STDERR and len(self._complaint) < MAX_COMPLAINT:
            self._complaint += data[:MAX_COMPLAINT]
        self._recording.write(stream, data)

    def clear_first(self, clearing: "Deferred[None]") -> "Deferred[None]":
        """Do not start before ``clearing`` fires; an attempt that is ended before that never starts."""
        self._clearing = clearing
        return clearing.addBoth(self._cleared)

    def _cleared(self, result: Any) -> Any:
        self._clearing = None
        return result

    def never_started(self, failure: Failure) -> None:
        """Report why there is no process, and will be none."""
        why, detail = Reason.SPAWN, f"could not be started: {failure.value}"
        if failure.check(CancelledError) and self._why is not None:
            why, detail = self._why, "it was ended before it started"
        elif not failure.check(OSError, ValueError, MemoryError):
            self._log.failure("the start of job {id} met a bug of taskqd's", failure, id=self._run.id)
        self._is_reported = True
        maybeDeferred(self._recording.close).addErrback(self._log_failure)
        lacks = why is Reason.SPAWN and is_shortage(failure.value)
        self.outcome.callback(Outcome(reason=why, detail=detail, is_shortage=lacks))
        self._leave_nothing()

    def processExited(self, reason: Failure) -> None:
        self._exit = reason.value
        try:
            self._take_exit()
        except Exception:  # noqa: BLE001 - whatever it is, the attempt has ended and its slot is free
            failure = Failure()
            self._log_failure(failure)
            self._say_lost(failure.value)
            self._report()
            self._end_rest()

    def _take_exit(self) -> None:
        self._has_left = self.pid is not None and proc.is_number_used(self.pid)
        if self._silence is not None:
            self._silence.stop()
        self._drain()
        if self._running is not None and not self._running.called:
            self._running.callback(None)
        if self._why is None:
            self._report()
        self._end_rest()

    def _end_rest(self) -> None:
        """End what is left of it; of nearly all nothing is."""
        if self._why is None and self.pid is not None and not self._has_left:
            self._leave_nothing()
            return
        sweep = self._sweep()
        self._of_it().reaped = proc.ticks()
        grace = self._run.kill_after
        if self._why is None:
            grace = min(grace, MAX_LEFTOVER_GRACE)
        else:
            self._take_marked()
        sweep.kill_within(grace)
        if sweep.number is None:
            sweep.signal(signal.SIGTERM)
        sweep.wait()

    def _sweep(self) -> Sweep:
        """Return what ends all of it; most attempts end without."""
        if self._made_sweep is None:
            find = self._of_it().find
            self._made_sweep = Sweep(self.job_id, find, self._signal_group, self._scanner, self._clock)
            self._made_sweep.gone.addCallback(self._finish)
        return self._made_sweep

    def _of_it(self) -> Tree:
        if self._tree is None:
            self._tree = Tree(self._run.env.get(MARK, ""), _uid(self._run))
        self._tree.leader = self.pid
        return self._tree

    def end(self, why: Reason, number: int, detail: str | None = None) -> None:
        """Signal the whole tree, and kill it after the grace; the first reason to end an attempt stands.

        A cancel while it is being ended for another reason sends its own signal all the same.
        """
        if self._why is not None and why is Reason.CANCELLED and not self._is_reported:
            self._send(number)
        if self._exit is not None or self._why is not None:
            return
        self._why = why
        if detail is not None:
            self._said[why] = detail
        if self._clearing is not None:
            self._clearing.cancel()
            return
        self._take_marked()
        self._send(number)

    def _send(self, number: int) -> None:
        if number == signal.SIGKILL:
            self._sweep().kill()
        else:
            self._sweep().signal(number)
            self._sweep().kill_within(self._run.kill_after)

    def kill(self) -> None:
        """Kill whatever is there of it, without any further grace."""
        self._sweep().kill()

    def _time_is_up(self, failure: Failure) -> None:
        failure.trap(defer.TimeoutError)
        detail = f"it ran for longer than {duration(self._run.timeout or 0)}"
        self.end(Reason.TIMEOUT, signal.SIGTERM, detail)

    def _was_silent(self) -> None:
        if self._silence is not None and any(map(waiting, self.transport.pipes.values())):
            self._silence.begin()  # it has printed, and the reactor was too busy to read it
        else:
            detail = f"it printed nothing for {duration(self._run.idle_timeout or 0)}"
            self.end(Reason.TIMEOUT, signal.SIGTERM, detail)

    def _take_marked(self) -> None:
        """Have what has its mark ended, too."""
        self._of_it().is_marked_too = True
        self._sweep().since = self.started or 0

    def _leave_nothing(self) -> None:
        if self._made_sweep is None:
            self._finish([])
        else:
            self._made_sweep.finish([])

    def _finish(self, left: list[Process]) -> None:
        self._has_left = bool(left)
        self._report()
        self.gone.callback(None)

    def _signal_group(self, number: int) -> int | None:
        """Send a signal to the group of the process that runs; soon, if there is none yet."""
        if self.pid is None:
            self._awaited = number
            return None
        if self._exit is not None:
            return 0  # its number may be another one's: what is left is found by a scan
        try:
            if not proc.signal_group(self.pid, number):
                os.kill(self.pid, number)  # setsid(1) has not run yet: there is no such group
        except OSError as why:
            self._log.warn("job {id} cannot be signalled: {why}", id=self._run.id, why=why)
        return self.pid

    def _drain(self) -> None:
        """Take what is in the pipes and close them: whoever else holds them must not delay the end.

        That so much is in a pipe is no promise: others may read it, too. What finds nothing there is the end.
        """
        failure: Exception | None = None
        for stream, reader in list(self.transport.pipes.items()):
            try:
                left = waiting(reader)
                while left > 0 and (data := _read(reader.fileno(), left)):
                    self._keep(stream, data)
                    left -= len(data)
            except Exception as why:  # noqa: BLE001 - the other pipe must be closed as well
                failure = why
            reader.loseConnection()
        if failure is not None:
            raise failure

    def _choke(self, is_choked: bool) -> None:
        if self._exit is not None or self.transport is None:
            return
        if self._silence is not None:
            self._silence.listen(not is_choked)
        if is_choked:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def _fail(self, why: str) -> None:
        self._said[Reason.OUTPUT] = f"its output cannot be kept: {why}"
        if self._exit is not None:
            self._why = self._why or Reason.OUTPUT
        self.end(Reason.OUTPUT, signal.SIGTERM)

    def _report(self) -> None:
        if self._is_reported:
            return
        self._is_reported = True
        try:
            closing = self._recording.close()
        except Exception:  # noqa: BLE001 - whatever it is, the attempt has ended
            closing = fail()
        closing.addErrback(self._output_lost).addCallback(self._make_outcome).chainDeferred(self.outcome)

    def _output_lost(self, failure: Failure) -> tuple[Output, Output]:
        if not failure.check(OSError):
            self._log_failure(failure)
        self._say_lost(failure.value)
        return failure.value.kept if isinstance(failure.value, OutputLost) else (NOTHING, NOTHING)

    def _say_lost(self, why: BaseException | None) -> None:
        self._why = self._why or Reason.OUTPUT
        self._said.setdefault(Reason.OUTPUT, f"its output could not be kept: {why}")

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("the end of job {id} met a bug of taskqd's", failure, id=self._run.id)

    def _make_outcome(self, outputs: tuple[Output, Output]) -> Outcome:
        end = self._exit
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        why = self._why
        if why is None and number is not None:
            why = Reason.SIGNAL
        left = self.pid if self._has_left else None
        stdout, stderr = outputs
        refused = None if why or self._complaint is None else refusal(self._run, code, bytes(self._complaint))
        if refused is not None:
            detail = f"could not be started: {refused}"
            return Outcome(reason=Reason.SPAWN, detail=detail, stdout=stdout, stderr=stderr, pid=left)
        if why is None and code:
            why = Reason.EXIT
        return Outcome(
            reason=why,
            exit_code=code,
            signal=number,
            detail="; ".join(self._said.values()) or None,
            stdout=stdout,
            stderr=stderr,
            usage=self.usage,
            pid=left,
        )


@implementer(IExecutor)
class Executor:
    """The attempts that run, by job."""

    _log = Logger()

    def __init__(self, spawn: Spawn, clock: Any, in_thread: InThread) -> None:
        self._spawn = spawn
        self._clock = clock
        self._scanner = Scanner(clock, in_thread)
        self._running: dict[int, JobProcess] = {}
        self._present: dict[JobProcess, float] = {}
        self._leftovers: dict[int, JobProcess] = {}
        self._sweeps: set[Sweep] = set()

    def start(
        self, run: Run, recording: IOutputWriter, spawned: Callable[[int, int | None], None]
    ) -> "Deferred[Outcome]":
        process = JobProcess(run, recording, self._clock, self._scanner)
        clear = None if run.attempt == 1 else process.clear_first(self._clear(run))
        self._running[run.id] = process
        self._present[process] = self._clock.seconds()
        process.gone.addCallback(lambda _: self._gone(process))
        if clear is None:
            launching = maybeDeferred(self._launch, process, run)
        else:
            launching = clear.addCallback(lambda _: self._launch(process, run))
        told = launching.addCallbacks(_tell_spawned, process.never_started, (process, spawned))
        told.addErrback(self._bug, run.id)
        return process.outcome.addBoth(self._forget, process)

    def _clear(self, run: Run) -> "Deferred[None]":
        """Fire once nothing is left of the job's earlier attempts; fails with OSError if something stays."""
        cleared: Deferred[None] = Deferred()
        sweep = Sweep(run.id, partial(_earlier, run), lambda _: 0, self._scanner, self._clock)
        sweep.since = 0
        self._sweeps.add(sweep)

        def gone(left: list[Process]) -> None:
            self._sweeps.discard(sweep)
            if cleared.called:
                return
            if left:
                cleared.errback(OSError(f"process {left[0].pid} of an earlier attempt does not end"))
            else:
                cleared.callback(None)

        def begin(_: object) -> None:
            sweep.gone.addCallback(gone)
            sweep.kill_within(min(run.kill_after, MAX_LEFTOVER_GRACE))
            sweep.signal(signal.SIGTERM)
            sweep.wait()

        sessions = [process.gone for process in self._present if process.job_id == run.id]
        DeferredList(sessions).addCallback(begin)
        return cleared

    def end(self, job_id: int, why: Reason, number: int) -> None:
        if job_id in self._running:
            self._running[job_id].end(why, number)

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        process = self._leftovers.get(job_id)
        if process is None:
            return None
        gone: Deferred[None] = Deferred()
        process.gone.addCallback(lambda _: gone.callback(None))
        process.kill()
        return gone

    def only_short_lived_processes(self) -> bool:
        """Whether whatever runs, or was left by an ended attempt, began so lately that it is young."""
        oldest = next(iter(self._present.values()), None)
        return oldest is None or 0 <= self._clock.seconds() - oldest < SHORT_LIVED

    def kill(self) -> "Deferred[None]":
        gone: list[Deferred[None]] = []
        everything: list[JobProcess | Sweep] = [*self._present, *self._sweeps]
        for present in everything:
            gone.append(Deferred())
            present.gone.addCallback(_fire, gone[-1])
            present.kill()
        self._scanner.scan_now()
        return DeferredList(gone).addCallback(lambda _: None)

    def _launch(self, process: JobProcess, run: Run) -> "Deferred[Any]":
        line = command_line(run)
        uid = _uid(run)
        if run.stdin is None:
            return self._spawn(process, line, sent(run), _nothing(), uid)
        stdin = _open(run.stdin)
        return maybeDeferred(self._spawn, process, line, sent(run), stdin, uid).addBoth(_closed, stdin)

    def _bug(self, failure: Failure, job_id: int) -> None:
        self._log.failure("to tell of the process of job {id} met a bug of taskqd's", failure, id=job_id)

    def _forget(self, outcome: Outcome, process: JobProcess) -> Outcome:
        del self._running[process.job_id]
        if process in self._present:
            self._leftovers[process.job_id] = process
        return outcome

    def _gone(self, process: JobProcess) -> None:
        del self._present[process]
        if self._leftovers.get(process.job_id) is process:
            del self._leftovers[process.job_id]


def _fire(result: Any, deferred: "Deferred[None]") -> Any:
    deferred.callback(None)
    return result


def _uid(run: Run) -> int | None:
    """Return the user that an attempt is run as, None where it is the daemon's own."""
    return None if run.owner is None else run.owner.uid


def _earlier(run: Run, table: list[Process]) -> list[Process]:
    """Return the processes that have the mark of an attempt of the job before this one."""
    store, uid = run.env.get(MARK, "").partition(".")[0], _uid(run)
    marks = [(one, attempt_of(one.mark, store)) for one in table if one.mark and uid in (None, one.uid)]
    return [one for one, of in marks if of is not None and of[0] == run.id and of[1] < run.attempt]


def _read(descriptor: int, length: int) -> bytes:
    """Return what can be read of a pipe at once, nothing where nothing is there."""
    try:
        return os.read(descriptor, min(length, READ_BYTES))
    except BlockingIOError:
        return b""


def _tell_spawned(_: object, process: JobProcess, spawned: Callable[[int, int | None], None]) -> None:
    """Tell of the process that is there, unless it is gone already."""
    if process.pid is not None and not process.has_exited:
        started = process.started
        spawned(process.pid, proc.start_time(process.pid) if started is None else started)


def _closed(result: Any, descriptor: int) -> Any:
    """Close a descriptor whatever has come of that for which it was open."""
    os.close(descriptor)
    return result


@cache
def _nothing() -> int:
    """Open, once for all, what those read who are given nothing to read."""
    return _open(os.devnull)


def _open(path: str) -> int:
    """Open a file for a process to read.

    It may be its user's own, who may hold a lease on it (fcntl(2)): that is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
