"""Fakes of the executor, of processes and their reactor, and of process groups."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.engine.engine import Engine
from taskqd.execution import proc
from taskqd.execution.interfaces import IExecutor, OnSpawned
from taskqd.execution.job_inputs import Delivery
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.proc import Process
from taskqd.execution.run import Outcome, Run
from taskqd.execution.start_message import make_start
from taskqd.model.events import Output
from taskqd.model.job import Job, Reason
from taskqd.model.spec import Spec
from taskqd.runner.process import JobProcess

COMPLETED = Outcome(reason=None, exit_code=0)


RUNNER = "00000000000000a1"
"""The name of the runner of a FakeExecutor."""
FAILED = Outcome(reason=Reason.EXIT, exit_code=3)
LARGE = Outcome(reason=None, exit_code=0, stdout=Output(5000))
"""The outcome of an attempt whose output is in a file."""


@implementer(IExecutor)
class FakeExecutor:
    """Starts no process: an attempt runs until ``finish``, or ends at once with the outcome ``at_once``."""

    def __init__(self) -> None:
        self.runner = RUNNER
        self.unready_detail: str | None = None
        self.make_start: Callable[[AttemptKey], Start] | None = None
        self.on_ready: Callable[[], object] = lambda: None
        self.runs: list[Start] = []
        self.runners: list[str] = []
        self.adopted: list[tuple[AttemptKey, str]] = []
        self.newest: int | None = None
        self.acknowledged: list[int] = []
        self.signals: list[tuple[int, Reason, int]] = []
        self.suspensions: list[tuple[int, bool]] = []
        self.obstacles: dict[int, str] = {}
        self.running: dict[int, Deferred[Outcome]] = {}
        self.on_spawned: dict[int, OnSpawned] = {}
        self.at_once: Outcome | None = None
        self.most = 0
        self.is_killed = False
        self.inputs: list[tuple[int, bytes, bool, float]] = []
        self.delivered: Deferred[Delivery] = Deferred()
        self.leftovers: dict[int, Deferred[None]] = {}

    def start(self, start: Start, runner: str, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        assert start.id not in self.running, f"job {start.id} runs twice"
        self.runs.append(start)
        self.runners.append(runner)
        if self.at_once is not None and self.at_once.reason is Reason.SPAWN:
            return succeed(self.at_once)
        on_spawned(1000 + start.id, 77)
        if self.at_once is not None:
            return succeed(self.at_once)
        return self._run(start.id, on_spawned)

    def adopt(
        self, key: AttemptKey, runner: str, on_spawned: OnSpawned, is_newest: bool = False
    ) -> "Deferred[Outcome]":
        self.adopted.append((key, runner))
        if is_newest:
            self.newest = key.id
        return self._run(key.id, on_spawned)

    def _run(self, job_id: int, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        self.running[job_id] = Deferred()
        self.on_spawned[job_id] = on_spawned
        self.most = max(self.most, len(self.running))
        return self.running[job_id]

    def acknowledge(self, job_id: int) -> None:
        self.acknowledged.append(job_id)

    def end(self, job_id: int, reason: Reason, number: int) -> None:
        self.signals.append((job_id, reason, number))

    def set_suspended(self, job_id: int, is_suspended: bool) -> None:
        self.suspensions.append((job_id, is_suspended))

    def runner_obstacle(self, job_id: int) -> str | None:
        return self.obstacles.get(job_id)

    def send(self, job_id: int, data: bytes, is_eof: bool, timeout: float) -> "Deferred[Delivery]":
        self.inputs.append((job_id, data, is_eof, timeout))
        self.delivered = Deferred()
        return self.delivered

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        return self.leftovers.get(job_id)

    def kill(self) -> "Deferred[None]":
        self.is_killed = True
        return succeed(None)

    def lose_runner(self) -> None:
        """Let no runner accept starts."""
        self.runner, self.unready_detail = "", "no runner is connected"

    def get_runner(self, name: str) -> None:
        """Let a runner accept starts."""
        self.runner, self.unready_detail = name, None
        self.on_ready()

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt."""
        self.running.pop(job_id).callback(outcome)


def start_of(job: Job, attempt: int, word: str) -> Start:
    """Return the message for an attempt of a job, as the daemon makes it."""
    run = Run(id=job.id, attempt=attempt, word=word, spec=job.spec, command=job.command, env=job.spec.env)
    return make_start(run, {1: f"/output/{job.id}.{attempt}.1", 2: f"/output/{job.id}.{attempt}.2"})


def lost(engine: Engine, detail: str) -> dict[int, Outcome]:
    """Return the outcomes of all running jobs after their runner was killed."""
    outcome = Outcome(reason=Reason.INTERRUPTED, detail=detail, is_lost=True)
    return {job.id: outcome for job in engine.queue_state.running()}


def make_run(**options: Any) -> Run:
    """Return an attempt; the options are fields of Run, and of its Spec."""
    fields = {name: options.pop(name) for name in Run.__struct_fields__ if name in options}
    return Run(**{"id": 1, "attempt": 1, "command": "true", "env": {}, "spec": Spec(**options), **fields})


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
        self.stopped: set[int] = set()
        self.refuses = False
        self.ignored: set[int] = set()  # signals
        self.scans: list[int | None] = []
        self.now = 100

    def start_time(self, pid: int) -> int | None:
        return 4711

    def clock_ticks(self) -> int:
        return self.now

    def is_id_in_use(self, pid: int) -> bool:
        return pid in self.alive or any(pid in (one.pid, one.group, one.session) for one in self.others)

    def unread_bytes(self, pipe: int) -> int:
        return proc.unread_bytes(pipe)

    def signal_group(self, pgid: int, number: int) -> bool:
        if pgid not in self.alive:
            return False
        if self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.sent.append((pgid, number))
        if number == signal.SIGSTOP:
            self.stopped.add(pgid)
        else:
            self.stopped.discard(pgid)
        if number in self.deadly:
            self.alive.discard(pgid)
        return True

    def scan(self, since: int | None) -> list[Process]:
        self.scans.append(since)
        groups = [
            Process(pgid + 10_000, 50, pgid, pgid, state="T" if pgid in self.stopped else "")
            for pgid in sorted(self.alive)
        ]
        return groups + self.others

    def signal_process(self, one: Process, number: int) -> None:
        if one not in self.others:
            self.signal_group(one.group, number)
            return
        self.sent.append((one.group, number))
        if number in self.deadly:
            self.others.remove(one)
        elif (number == signal.SIGSTOP or one.is_stopped) and number not in self.ignored:
            state = "T" if number == signal.SIGSTOP else "S"
            self.others[self.others.index(one)] = one._replace(state=state)


class FakePipe:
    """Our end of a pipe, with the bytes that the test has put into it."""

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


class FakeRusage(NamedTuple):
    """The part of a resource usage that is read (getrusage(2))."""

    ru_utime: float
    ru_stime: float
    ru_maxrss: int


@implementer(IProcessTransport)
class FakeProcess:
    """The transport of one process; the test lets it print and exit."""

    def __init__(self, protocol: JobProcess, pid: int, groups: FakeGroups) -> None:
        self.pid = pid
        self.pipes = {1: FakePipe(), 2: FakePipe()}
        self.is_reading = False
        self.watch_error: OSError | None = None
        self.protocol = protocol
        self._groups = groups

    def connect(self, started: int | None) -> None:
        """Connect the protocol, as a spawner does that may know the start time."""
        self.protocol.started = started
        cast("Any", self.protocol).makeConnection(self)

    def prints(self, stream: int, data: bytes) -> None:
        """Let the reactor read what the process prints."""
        self.protocol.childDataReceived(stream, data)

    def exits(
        self,
        code: int = 0,
        number: int | None = None,
        leaves: bool = False,
        rusage: FakeRusage | None = None,
    ) -> None:
        """End the process; unless it ``leaves`` something in its group, the group is gone too."""
        if not leaves:
            self._groups.alive.discard(self.pid)
        self.protocol.rusage = rusage
        failed = ProcessTerminated(code if number is None else None, number)
        self.protocol.processExited(Failure(failed if code or number else ProcessDone(0)))

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        if self.watch_error is not None:
            raise self.watch_error
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


@implementer(IReactorProcess)
class FakeProcessReactor:
    """Spawns FakeProcesses as a SessionReactor does.

    ``error`` is raised by the next spawn. ``on_connected`` is called with each process when its protocol is
    connected, before the spawn returns. ``started`` is the start time that is known.
    """

    def __init__(self, groups: FakeGroups) -> None:
        self.processes: list[FakeProcess] = []
        self.lines: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.inputs: list[bytes] = []
        self.error: Exception | None = None
        self.on_connected: Callable[[FakeProcess], None] = lambda _: None
        self.has_group = True
        self.started: int | None = None
        self._groups = groups

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: Any,
        args: Any = (),
        env: Any = None,
        path: Any = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: object = 0,
        childFDs: Any = None,
    ) -> Any:
        if self.error is not None:
            raise self.error
        assert executable == args[0]
        assert (childFDs[1], childFDs[2]) == ("r", "r")
        self.lines.append([word.decode("utf-8", "surrogateescape") for word in args])
        self.environments.append({name.decode(): value.decode() for name, value in env.items()})
        self.inputs.append(os.read(childFDs[0], 4096))
        process = FakeProcess(processProtocol, 5000 + len(self.processes), self._groups)
        self.processes.append(process)
        processProtocol.pipesOpened([pipe.fileno() for pipe in process.pipes.values()])
        if self.has_group:
            self._groups.alive.add(process.pid)
        process.connect(self.started)
        self.on_connected(process)
        return process

    def close(self) -> None:
        """Close the pipes of all processes."""
        for process in self.processes:
            process.loseConnection()
