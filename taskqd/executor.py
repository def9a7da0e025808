"""Attempts as processes: start, read, time, end, and leave nothing of them behind.

An attempt ends when its own process has ended. What it left in its process group is then told to end, and
killed after the grace, while the job has long been reported. Only where the daemon itself ends an attempt,
for a timeout or a cancel, is the end reported once the whole group is gone: its retry must not meet it.
"""

import os
import signal
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd import processes
from taskqd.children import MeasuredProtocol
from taskqd.events import NOTHING, Output
from taskqd.interfaces import IExecutor, IRecording
from taskqd.job import Reason
from taskqd.launch import (
    Outcome,
    Run,
    command_line,
    duration,
    may_be_refused,
    refusal,
    sent,
)
from taskqd.pipes import waiting
from taskqd.shortage import is_shortage

STDERR = 2
FIRST_LOOK, LAST_LOOK = 0.01, 0.5
"""It is looked whether a group that was told to end is gone after so many seconds, and then less often."""
LOOKS_AFTER_KILL = 8
"""A killed group is looked at so many times more: a process in the kernel's hands may stay for ever."""

MAX_COMPLAINT = 8192
"""So many bytes of stderr are looked at for why the shell could not start the command."""

YOUNG = 0.1
"""In so many seconds an attempt cannot write so much that the disk is busy with it for long."""

Spawn = Callable[[MeasuredProtocol, list[str], Mapping[str, str], int, int | None], "Deferred[Any]"]
"""Starts (protocol, command line, environment, descriptor of stdin, uid) in its own session.

What it returns fires once the process is there and the protocol knows it, or fails with OSError.

The uid is that of another user who is to be able to open its streams, None where there is no such user.
"""


class Silence:
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
    """One attempt's process, from its spawn to the last of its group.

    ``outcome`` fires once, with how it ended; ``gone`` when nothing of it is left, which may be later.
    """

    _log = Logger()
    transport: Any

    def __init__(self, run: Run, recording: IRecording, clock: Any) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self.pid: int | None = None
        self._run = run
        self._recording = recording
        self._clock = clock
        self._why: Reason | None = None
        self._said: dict[Reason, str] = {}
        self._exit: BaseException | None = None
        self._complaint: bytearray | None = bytearray() if may_be_refused(run) else None
        self._is_reported = False
        self._looks_left = LOOKS_AFTER_KILL
        self._awaited: int | None = None
        self._running: Deferred[None] | None = None
        self._silence: Silence | None = None
        self._kill: Any = None
        self._look: Any = None
        self._pause = FIRST_LOOK
        recording.watch(self._choke, self._fail)

    @property
    def has_exited(self) -> bool:
        """Whether the process that was started is gone."""
        return self._exit is not None

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        if self._awaited is not None:
            self._signal(self._awaited)
        if self._run.timeout is not None:
            self._running = Deferred()
            self._running.addTimeout(self._run.timeout, self._clock).addErrback(self._time_is_up)
        if self._run.idle_timeout is not None:
            self._silence = Silence(self._run.idle_timeout, self._clock, self._was_silent)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if self._silence is not None:
            self._silence.heard()
        self._keep(childFD, data)

    def _keep(self, stream: int, data: bytes) -> None:
        if self._complaint is not None and stream == STDERR and len(self._complaint) < MAX_COMPLAINT:
            self._complaint += data[:MAX_COMPLAINT]
        self._recording.write(stream, data)

    def never_started(self, failure: Failure) -> None:
        """Take note of why there is no process, and will be none."""
        if not failure.check(OSError, ValueError, MemoryError):
            self._log.failure("the start of job {id} met a bug of taskqd's", failure, id=self._run.id)
        self._is_reported = True
        self._recording.close()
        detail = f"could not be started: {failure.value}"
        lacks = is_shortage(failure.value)
        self.outcome.callback(Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=lacks))
        self._finish()

    def processExited(self, reason: Failure) -> None:
        self._exit = reason.value
        if self._silence is not None:
            self._silence.stop()
        self._drain()
        if self._running is not None and not self._running.called:
            self._running.callback(None)
        if self._why is None:
            self._report()
            if not self._signal(signal.SIGTERM):
                self._finish()  # as of nearly all: nothing is left of it
                return
        self._until_gone()

    def end(self, why: Reason, number: int, detail: str | None = None) -> None:
        """Signal the whole group, and kill it after the grace; the first reason to end an attempt stands."""
        if self._exit is not None or self._why is not None:
            return
        self._why = why
        if detail is not None:
            self._said[why] = detail
        self._signal(number)
        if number != signal.SIGKILL:
            self._kill_later()

    def kill(self) -> None:
        """Kill whatever is there of it, without any further grace."""
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        self._kill_group()

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

    def _kill_later(self) -> None:
        if self._kill is None:
            self._kill = self._clock.callLater(self._run.kill_after, self._kill_group)

    def _kill_group(self) -> None:
        self._signal(signal.SIGKILL)
        self._pause = FIRST_LOOK
        if self._look is not None and self._look.active():
            self._look.reset(self._pause)

    def _until_gone(self) -> None:
        """Look at the group again and again until it is gone, for a little while also after the kill."""
        if self._looks_left and self.pid is not None and processes.group_lives(self.pid):
            self._kill_later()
            self._looks_left -= not self._kill.active()
            self._look = self._clock.callLater(self._pause, self._until_gone)
            self._pause = min(2 * self._pause, LAST_LOOK)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        self._report()
        self.gone.callback(None)

    def _signal(self, number: int) -> bool:
        """Send a signal to whatever is there of it, or soon will be; tell whether there may be anything."""
        if self.pid is None:
            self._awaited = number
            return False
        try:
            if processes.signal_group(self.pid, number):
                return True
            if self._exit is None:
                os.kill(self.pid, number)  # setsid(1) has not run yet: there is no such group
                return True
        except PermissionError as why:
            self._log.warn("job {id} cannot be signalled: {why}", id=self._run.id, why=why)
            return True
        return False

    def _drain(self) -> None:
        """Take what is in the pipes and close them: whoever else holds them must not delay the end."""
        for stream, reader in list(self.transport.pipes.items()):
            left = waiting(reader)
            while left > 0 and (data := os.read(reader.fileno(), left)):
                self._keep(stream, data)
                left -= len(data)
            reader.loseConnection()

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
        closed = self._recording.close().addErrback(self._output_lost)
        closed.addCallback(self._judge).chainDeferred(self.outcome)

    def _output_lost(self, failure: Failure) -> tuple[Output, Output]:
        failure.trap(OSError)
        self._why = self._why or Reason.OUTPUT
        self._said.setdefault(Reason.OUTPUT, f"its output could not be kept: {failure.value}")
        return NOTHING, NOTHING

    def _judge(self, outputs: tuple[Output, Output]) -> Outcome:
        end = self._exit
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        why = self._why
        if why is None and number is not None:
            why = Reason.SIGNAL
        stdout, stderr = outputs
        refused = None if why or self._complaint is None else refusal(self._run, code, bytes(self._complaint))
        if refused is not None:
            detail = f"could not be started: {refused}"
            return Outcome(reason=Reason.SPAWN, detail=detail, stdout=stdout, stderr=stderr)
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
        )


@implementer(IExecutor)
class Executor:
    """The attempts that run, by job."""

    _log = Logger()

    def __init__(self, spawn: Spawn, clock: Any) -> None:
        self._spawn = spawn
        self._clock = clock
        self._running: dict[int, JobProcess] = {}
        self._present: dict[JobProcess, float] = {}

    def start(
        self, run: Run, recording: IRecording, spawned: Callable[[int, int | None], None]
    ) -> "Deferred[Outcome]":
        process = JobProcess(run, recording, self._clock)
        self._running[run.id] = process
        self._present[process] = self._clock.seconds()
        process.gone.addCallback(lambda _: self._present.pop(process))
        launching = maybeDeferred(self._launch, process, run)
        told = launching.addCallbacks(_tell_spawned, process.never_started, (process, spawned))
        told.addErrback(self._bug, run.id)
        return process.outcome.addBoth(self._forget, run.id)

    def end(self, job_id: int, why: Reason, number: int) -> None:
        if job_id in self._running:
            self._running[job_id].end(why, number)

    def is_calm(self) -> bool:
        """Whether whatever runs, or was left by an ended attempt, began so lately that it is young."""
        oldest = next(iter(self._present.values()), None)
        return oldest is None or 0 <= self._clock.seconds() - oldest < YOUNG

    def kill(self) -> None:
        for process in list(self._present):
            process.kill()

    def _launch(self, process: JobProcess, run: Run) -> "Deferred[Any]":
        line = command_line(run)
        uid = None if run.owner is None else run.owner.uid
        if run.stdin is None:
            return self._spawn(process, line, sent(run), _nothing(), uid)
        stdin = _open(run.stdin)
        return maybeDeferred(self._spawn, process, line, sent(run), stdin, uid).addBoth(_closed, stdin)

    def _bug(self, failure: Failure, job_id: int) -> None:
        self._log.failure("to tell of the process of job {id} met a bug of taskqd's", failure, id=job_id)

    def _forget(self, outcome: Outcome, job_id: int) -> Outcome:
        del self._running[job_id]
        return outcome


def _tell_spawned(_: object, process: JobProcess, spawned: Callable[[int, int | None], None]) -> None:
    """Tell of the process that is there, unless it is gone already."""
    if process.pid is not None and not process.has_exited:
        started = process.started
        spawned(process.pid, processes.start_time(process.pid) if started is None else started)


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
