"""An executor, processes and process groups that a test starts and ends."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.execution.interfaces import IExecutor
from taskqd.execution.proc import Process
from taskqd.execution.run import Outcome, Run
from taskqd.model.job import Job, Reason, Usage
from taskqd.speedups.child_process import MeasuredProtocol
from taskqd.storage.interfaces import IOutputWriter

COMPLETED = Outcome(reason=None, exit_code=0)


FAILED = Outcome(reason=Reason.EXIT, exit_code=3)


@implementer(IExecutor)
class FakeExecutor:
    """Starts nothing: an attempt runs until the test ends it. ``at_once`` is the outcome of every start."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.signals: list[tuple[int, Reason, int]] = []
        self.running: dict[int, Deferred[Outcome]] = {}
        self.at_once: Outcome | None = None
        self.most = 0
        self.is_killed = False
        self.leftovers: dict[int, Deferred[None]] = {}

    def start(
        self, run: Run, recording: IOutputWriter, spawned: Callable[[int, int | None], None]
    ) -> "Deferred[Outcome]":
        assert run.id not in self.running, f"job {run.id} runs twice"
        self.runs.append(run)
        if self.at_once is not None and self.at_once.reason is Reason.SPAWN:
            return succeed(self.at_once)
        spawned(1000 + run.id, 77)
        if self.at_once is not None:
            return succeed(self.at_once)
        self.running[run.id] = Deferred()
        self.most = max(self.most, len(self.running))
        return self.running[run.id]

    def end(self, job_id: int, why: Reason, number: int) -> None:
        self.signals.append((job_id, why, number))

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        return self.leftovers.get(job_id)

    def kill(self) -> "Deferred[None]":
        self.is_killed = True
        return succeed(None)

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt."""
        self.running.pop(job_id).callback(outcome)


def run_of(job: Job, attempt: int) -> Run:
    """Return a plain attempt of a job, in the place of the service's function."""
    spec = job.spec
    return Run(
        id=job.id,
        attempt=attempt,
        command=job.command,
        script=None,
        interpreter=(),
        stdin=None,
        cwd=spec.cwd,
        env=spec.env,
        umask=None,
        nice=spec.nice,
        timeout=spec.timeout,
        kill_after=spec.kill_after,
    )


class FakeGroups:
    """The process groups of this machine, in the place of ``taskqd.execution.proc``.

    ``deadly`` says which signals end a process; ``sent`` what was sent, by the number of the group. What is
    not in ``alive`` is no group; each has one process, besides its leader. ``others`` are all the other
    processes.
    """

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.others: list[Process] = []
        self.deadly: set[int] = {signal.SIGKILL}
        self.sent: list[tuple[int, int]] = []
        self.refuses = False
        self.scans: list[int | None] = []
        self.now = 100

    def start_time(self, pid: int) -> int | None:
        return 4711

    def ticks(self) -> int:
        return self.now

    def is_number_used(self, pid: int) -> bool:
        return pid in self.alive or any(pid in (one.pid, one.group, one.session) for one in self.others)

    def signal_group(self, pgid: int, number: int) -> bool:
        if pgid not in self.alive:
            return False
        if self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.sent.append((pgid, number))
        if number in self.deadly:
            self.alive.discard(pgid)
        return True

    def scan(self, since: int | None) -> list[Process]:
        self.scans.append(since)
        return [Process(pgid + 10_000, 50, pgid, pgid) for pgid in sorted(self.alive)] + self.others

    def signal_process(self, one: Process, number: int) -> None:
        if one not in self.others:
            self.signal_group(one.group, number)
            return
        self.sent.append((one.group, number))
        if number in self.deadly:
            self.others.remove(one)


class FakePipe:
    """The reader of a pipe; the bytes in it that nobody has read are those that the test has put there."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        fcntl.fcntl(self._read, fcntl.F_SETFL, os.O_NONBLOCK)
        self.is_closed = False

    def put(self, data: bytes) -> None:
        os.write(self._write, data)

    def fileno(self) -> int:
        return self._read

    def loseConnection(self) -> None:
        if not self.is_closed:
            os.close(self._read)
            os.close(self._write)
        self.is_closed = True


@implementer(IProcessTransport)
class FakeProcess:
    """The transport of one process; the test lets it print and exit."""

    def __init__(self, protocol: MeasuredProtocol, pid: int, groups: FakeGroups) -> None:
        self.pid = pid
        self.pipes = {1: FakePipe(), 2: FakePipe()}
        self.is_reading = True
        self._protocol = protocol
        self._groups = groups

    def begin(self, started: int | None) -> None:
        """Tell of the process."""
        self._protocol.started = started
        cast("Any", self._protocol).makeConnection(self)

    def prints(self, stream: int, data: bytes) -> None:
        """Let the reactor read what the process prints."""
        self._protocol.childDataReceived(stream, data)

    def exits(
        self,
        code: int = 0,
        number: int | None = None,
        leaves: bool = False,
        usage: Usage | None = None,
    ) -> None:
        """End the process; unless it ``leaves`` something in its group, the group is gone too."""
        if not leaves:
            self._groups.alive.discard(self.pid)
        self._protocol.usage = usage
        failed = ProcessTerminated(code if number is None else None, number)
        self._protocol.processExited(Failure(failed if code or number else ProcessDone(0)))

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True

    def loseConnection(self) -> None:
        for pipe in self.pipes.values():
            pipe.loseConnection()

    def closeStdin(self) -> None:
        raise NotImplementedError

    def closeStdout(self) -> None:
        raise NotImplementedError

    def closeStderr(self) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writeSequence(self, data: Iterable[bytes]) -> None:
        raise NotImplementedError

    def getPeer(self) -> Any:
        raise NotImplementedError

    def getHost(self) -> Any:
        raise NotImplementedError

    def closeChildFD(self, childFD: int) -> None:
        self.pipes[childFD].loseConnection()

    def writeToChild(self, childFD: int, data: bytes) -> None:
        raise NotImplementedError

    def signalProcess(self, signalID: str | int) -> None:
        raise NotImplementedError


class FakeSpawn:
    """Spawns FakeProcesses; ``error`` is how it fails, ``at_once`` is done to each before it is told of.

    ``started`` is the start time that it knows of each.

    If it ``is_slow`` there is no process before ``go_on``; ``spawning`` is what the last call returned.
    """

    def __init__(self, groups: FakeGroups) -> None:
        self.processes: list[FakeProcess] = []
        self.lines: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.inputs: list[bytes] = []
        self.uids: list[int | None] = []
        self.error: Exception | None = None
        self.at_once: Callable[[FakeProcess], None] = lambda _: None
        self.has_group = True
        self.is_slow = False
        self.spawning: Deferred[FakeProcess] = Deferred()
        self.started: int | None = None
        self._groups = groups

    def __call__(
        self,
        protocol: MeasuredProtocol,
        line: list[str],
        environment: Mapping[str, str],
        stdin: int,
        uid: int | None,
    ) -> "Deferred[FakeProcess]":
        if self.error is not None:
            return fail(self.error)
        self.lines.append(line)
        self.uids.append(uid)
        self.environments.append(environment)
        self.inputs.append(os.read(stdin, 4096))
        process = FakeProcess(protocol, 5000 + len(self.processes), self._groups)
        self.processes.append(process)
        self.spawning = Deferred()
        if not self.is_slow:
            self.go_on()
        return self.spawning

    def go_on(self) -> None:
        """Have the process that was asked for last."""
        process = self.processes[-1]
        if self.has_group:
            self._groups.alive.add(process.pid)
        process.begin(self.started)
        self.at_once(process)
        self.spawning.callback(process)

    def close(self) -> None:
        """Close the pipes of all processes."""
        for process in self.processes:
            process.loseConnection()
