"""Runs attempts as processes, and ends them with everything that they have started."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.execution.command_line import command_line, process_environment
from taskqd.execution.interfaces import IExecutor, ISessionSpawner, OnSpawned
from taskqd.execution.proc import Process, parse_mark
from taskqd.execution.run import MARK, Outcome, Run
from taskqd.model.job import Reason
from taskqd.runner.proc_scanner import ProcScanner
from taskqd.runner.process import MAX_LEFTOVER_GRACE, JobProcess
from taskqd.runner.process_tree import Termination
from taskqd.storage.interfaces import InThread, IOutputWriter

SHORT_LIVED = 0.1
"""A process younger than this (seconds) cannot have queued enough writes to stall a sync."""


@implementer(IExecutor)
class Executor:
    """Runs each attempt as a ``JobProcess`` that ``reactor`` spawns, each in a new session.

    Unless the reactor is an ISessionSpawner, setsid(1) starts the session. Until that has run, for about a
    millisecond, a signal to the daemon's process group, such as Ctrl-C on its terminal, reaches the job, too;
    and the resource usage of attempts is unknown. ``in_thread`` runs the scans of /proc, which may block.
    """

    def __init__(self, reactor: IReactorProcess, clock: IReactorTime, in_thread: InThread) -> None:
        self._reactor = reactor
        self._starts_sessions = ISessionSpawner.providedBy(reactor)
        self._clock = clock
        self._scanner = ProcScanner(clock, in_thread)
        self._running: dict[int, JobProcess] = {}
        self._present: dict[JobProcess, float] = {}  # with the time of its start, oldest first
        self._leftovers: dict[int, JobProcess] = {}
        self._terminations: set[Termination] = set()

    def start(self, run: Run, output: IOutputWriter, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        process = JobProcess(run, output, self._clock, self._scanner, on_spawned)
        predecessors = None if run.attempt == 1 else process.start_after(self._end_predecessors(run))
        self._running[run.id] = process
        self._present[process] = self._clock.seconds()
        process.gone.addCallback(lambda _: self._on_gone(process))
        if predecessors is None:
            self._spawn(process, run)
        else:
            predecessors.addCallbacks(lambda _: self._spawn(process, run), process.processNotStarted)
        return process.outcome.addBoth(self._forget, process)

    def _spawn(self, process: JobProcess, run: Run) -> None:
        try:
            argv = command_line(run)
            if not self._starts_sessions:
                argv = ["setsid", *argv]  # Twisted cannot start a session
            words = [_encode(word) for word in argv]
            environment = {_encode(name): _encode(value) for name, value in process_environment(run).items()}
            with _stdin(run) as stdin:
                self._reactor.spawnProcess(
                    process, words[0], words, env=environment, childFDs={0: stdin, 1: "r", 2: "r"}
                )
        except Exception:  # noqa: BLE001 - an attempt that cannot be started has an outcome, too
            process.processNotStarted(Failure())
            return
        if not self._starts_sessions:  # Twisted has connected the protocol before it returns
            process.give_pipes_to_owner()
            process.processRunning()

    def _end_predecessors(self, run: Run) -> "Deferred[None]":
        """End what is left of the job's earlier attempts; fails with OSError if a process does not end."""
        ended: Deferred[None] = Deferred()
        termination = Termination(
            run.id, partial(_of_earlier_attempts, run), lambda _: 0, self._scanner, self._clock
        )
        termination.since = 0
        self._terminations.add(termination)

        def on_gone(left: list[Process]) -> None:
            self._terminations.discard(termination)
            if ended.called:
                return
            if left:
                ended.errback(OSError(f"process {left[0].pid} of an earlier attempt does not end"))
            else:
                ended.callback(None)

        def begin(_: object) -> None:
            termination.gone.addCallback(on_gone)
            termination.kill_after(min(run.spec.kill_after, MAX_LEFTOVER_GRACE))
            termination.signal(signal.SIGTERM)
            termination.wait()

        sessions = [process.gone for process in self._present if process.job_id == run.id]
        DeferredList(sessions).addCallback(begin)
        return ended

    def end(self, job_id: int, reason: Reason, number: int) -> None:
        if job_id in self._running:
            self._running[job_id].end(reason, number)

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        process = self._leftovers.get(job_id)
        if process is None:
            return None
        gone: Deferred[None] = Deferred()
        process.gone.addCallback(lambda _: gone.callback(None))
        process.kill()
        return gone

    def only_short_lived_processes(self) -> bool:
        """Whether all processes, leftovers included, are of attempts that have started just now."""
        oldest = next(iter(self._present.values()), None)
        return oldest is None or 0 <= self._clock.seconds() - oldest < SHORT_LIVED

    def kill(self) -> "Deferred[None]":
        gone: list[Deferred[None]] = []
        everything: list[JobProcess | Termination] = [*self._present, *self._terminations]
        for present in everything:
            gone.append(Deferred())
            present.gone.addCallback(_fire, gone[-1])
            present.kill()
        self._scanner.scan_now()
        return DeferredList(gone).addCallback(lambda _: None)

    def _forget(self, outcome: Outcome, process: JobProcess) -> Outcome:
        del self._running[process.job_id]
        if process in self._present:
            self._leftovers[process.job_id] = process
        return outcome

    def _on_gone(self, process: JobProcess) -> None:
        del self._present[process]
        if self._leftovers.get(process.job_id) is process:
            del self._leftovers[process.job_id]


def _fire(result: Any, deferred: "Deferred[None]") -> Any:
    deferred.callback(None)
    return result


def _of_earlier_attempts(run: Run, processes: list[Process]) -> list[Process]:
    """Return the processes that have the mark of an earlier attempt of the same job."""
    store, uid = run.env.get(MARK, "").partition(".")[0], run.uid
    candidates = [each for each in processes if each.mark and uid in (None, each.uid)]
    marks = [(each, parse_mark(each.mark, store)) for each in candidates]
    return [each for each, of in marks if of is not None and of[0] == run.id and of[1] < run.attempt]


def _encode(text: str) -> bytes:
    """Return the bytes that the client sent; they do not depend on the daemon's locale."""
    return text.encode("utf-8", "surrogateescape")


@contextmanager
def _stdin(run: Run) -> Iterator[int]:
    """Open the stdin of an attempt."""
    if run.stdin is None:
        yield _null()
        return
    descriptor = _open(run.stdin)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@cache
def _null() -> int:
    """Open /dev/null, once for all attempts without stdin."""
    return _open(os.devnull)


def _open(path: str) -> int:
    """Open a file that a process will read, without waiting for a lease.

    The file may belong to the job's user, who can hold a lease on it (fcntl(2), F_SETLEASE).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
