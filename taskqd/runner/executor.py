"""Runs attempts as processes, and ends them with everything that they have started."""

import os
import signal
from collections.abc import Callable, Container
from functools import cache, partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution.interfaces import OnSpawned
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.proc import Process, parse_mark
from taskqd.execution.run import Outcome
from taskqd.model.job import Reason
from taskqd.runner.memory_reader import MemoryReader, Target
from taskqd.runner.memory_watch import MemoryWatch, Reader
from taskqd.runner.proc_scanner import ProcScanner
from taskqd.runner.process import MAX_LEFTOVER_GRACE, JobProcess
from taskqd.runner.process_tree import Termination
from taskqd.storage.interfaces import InThread, IOutputWriter

READ_DELAY = 0.01
"""Seconds from its spawn until the pipes of a process are watched.

Most jobs are shorter: their pipes are read once, at the exit. More than a pipe's 64 KiB waits.
"""

READ_RETRY_INTERVAL = 0.5
"""Seconds between two attempts to watch the pipes of a process, if the kernel refuses it."""


class Executor:
    """Runs each attempt as a ``JobProcess`` that ``reactor``, a SessionReactor, spawns in a new session.

    ``in_thread`` runs the scans of /proc, which may block. ``on_cleared(key)`` is called when no process of
    an ended attempt is left, if there was one at its end. ``memory`` watches the attempts with a limit of
    memory.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorProcess,
        clock: IReactorTime,
        in_thread: InThread,
        on_cleared: Callable[[AttemptKey], object] = lambda _: None,
        memory_reader: Reader | None = None,
    ) -> None:
        self._on_cleared = on_cleared
        self._reactor = reactor
        self._clock = clock
        self._scanner = ProcScanner(clock, in_thread)
        self.memory = MemoryWatch(clock, in_thread, memory_reader or MemoryReader())
        self._running: dict[AttemptKey, JobProcess] = {}
        self._present: set[JobProcess] = set()
        self._leftovers: dict[AttemptKey, JobProcess] = {}
        self._terminations: set[Termination] = set()
        self._unread: dict[JobProcess, float] = {}  # and when to read their pipes
        self._read_call: IDelayedCall | None = None

    def start(
        self,
        start: Start,
        output: IOutputWriter,
        on_spawned: OnSpawned,
        stdin: int | None = None,
    ) -> "Deferred[Outcome]":
        """Start an attempt; the Deferred fires when it has ended, and never fails.

        An attempt that cannot be started has an outcome, too. ``on_spawned`` is not called for a process
        that has exited before it could be reported. ``stdin`` is a descriptor for the process, which the
        caller closes, in place of the Start's file.
        """
        process = JobProcess(start, output, self._clock, self._scanner, on_spawned)
        predecessors = None if start.attempt == 1 else process.start_after(self._end_predecessors(start))
        self._running[start.key] = process
        self._present.add(process)
        process.gone.addCallback(lambda _: self._on_gone(process))
        if predecessors is None:
            self._spawn(process, start, stdin)
        else:
            predecessors.addCallbacks(
                lambda _: self._spawn(process, start, stdin), process.report_failed_spawn
            )
        return process.outcome.addBoth(self._forget, process)

    def _spawn(self, process: JobProcess, start: Start, stdin: int | None) -> None:
        try:
            words = [word.encode(start.encoding) for word in start.argv]
            environment = {
                name.encode(start.encoding): value.encode(start.encoding) for name, value in start.env.items()
            }
            file = None
            if stdin is None and start.stdin is not None:
                stdin = file = _open(start.stdin.encode(start.encoding))
            try:
                descriptors: dict[int, int | str] = {0: _null() if stdin is None else stdin, 1: "r", 2: "r"}
                self._reactor.spawnProcess(process, words[0], words, env=environment, childFDs=descriptors)
            finally:
                if file is not None:
                    os.close(file)
        except Exception:  # noqa: BLE001 - an attempt that cannot be started has an outcome, too
            process.report_failed_spawn(Failure())
            return
        process.report_spawned()
        if process.is_running:
            self._read_later(process)
            if start.memory_max is not None and process.pid is not None:
                target = Target(start.key, process.pid, start.mark, start.uid)
                self.memory.add(target, start.memory_max, process.on_memory)

    def _read_later(self, process: JobProcess) -> None:
        """Read the pipes of a process if it still runs after READ_DELAY."""
        self._unread[process] = self._clock.seconds() + READ_DELAY
        if self._read_call is None:
            self._read_call = self._clock.callLater(READ_DELAY, self._start_reading)

    def _start_reading(self) -> None:
        """Read the pipes of the processes for which that is due, from now on."""
        self._read_call = None
        now = self._clock.seconds()
        for process in [process for process, due in self._unread.items() if due <= now]:
            try:
                process.start_reading()
            except OSError as why:  # the kernel watches no more descriptors: epoll_ctl(2), ENOSPC
                self._log.warn("the output of job {id} is read later: {why}", id=process.job_id, why=why)
                self._unread[process] = now + READ_RETRY_INTERVAL
            else:
                del self._unread[process]
        if self._unread:
            delay = max(0.0, min(self._unread.values()) - now)
            self._read_call = self._clock.callLater(delay, self._start_reading)

    def _read_no_more(self, process: JobProcess) -> None:
        self._unread.pop(process, None)
        if self._read_call is not None and not self._unread:
            self._read_call.cancel()
            self._read_call = None

    def _end_predecessors(self, start: Start) -> "Deferred[None]":
        """End what is left of the job's other attempts; fails with OSError if a process does not end."""
        ended: Deferred[None] = Deferred()
        termination = Termination(
            start.id, partial(_of_other_attempts, start), lambda _: 0, self._scanner, self._clock
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
            termination.kill_after(min(start.kill_after, MAX_LEFTOVER_GRACE))
            termination.signal(signal.SIGTERM)
            termination.wait()

        sessions = [process.gone for process in self._present if process.job_id == start.id]
        DeferredList(sessions).addCallback(begin)
        return ended

    def end(self, key: AttemptKey, reason: Reason, number: int) -> None:
        """Signal all processes of a running attempt, and kill them after its ``kill_after``."""
        if key in self._running:
            self._running[key].end(reason, number)

    def set_suspended(self, key: AttemptKey, is_suspended: bool) -> None:
        """Stop all processes of a running attempt and its timeouts, or let them go on."""
        process = self._running.get(key)
        if process is not None and is_suspended:
            process.suspend()
        elif process is not None:
            process.resume()

    def read_output(self, key: AttemptKey) -> None:
        """Read what a running attempt has printed until now."""
        if key in self._running:
            self._running[key].read_output()

    def end_all(self, reason: Reason, detail: str) -> None:
        """Signal all attempts with SIGTERM, and kill each after its ``kill_after``."""
        for process in list(self._running.values()):
            process.end(reason, signal.SIGTERM, detail)

    def kill_leftovers(self, job_id: int) -> None:
        """Kill the processes that ended attempts of a job left in their sessions."""
        for key, process in list(self._leftovers.items()):
            if key.id == job_id:
                process.kill()

    @property
    def leftovers(self) -> Container[AttemptKey]:
        """The ended attempts of which processes are left."""
        return self._leftovers

    def kill(self) -> "Deferred[None]":
        """Kill all attempts and all that ended ones left behind, at once.

        The Deferred fires when they are gone or no signal ends them.
        """
        gone: list[Deferred[None]] = []
        everything: list[JobProcess | Termination] = [*self._present, *self._terminations]
        for present in everything:
            gone.append(Deferred())
            present.gone.addCallback(_fire, gone[-1])
            present.kill()
        self._scanner.scan_now()
        return DeferredList(gone).addCallback(lambda _: None)

    def _forget(self, outcome: Outcome, process: JobProcess) -> Outcome:
        del self._running[process.key]
        self._read_no_more(process)
        peak = self.memory.remove(process.key)
        if peak and outcome.usage is not None:
            outcome = replace(outcome, usage=replace(outcome.usage, memory_used_peak=peak))
        if process in self._present:
            self._leftovers[process.key] = process
        return outcome

    def _on_gone(self, process: JobProcess) -> None:
        self._present.discard(process)
        if self._leftovers.pop(process.key, None) is not None:
            self._on_cleared(process.key)


def _fire(result: Any, deferred: "Deferred[None]") -> Any:
    deferred.callback(None)
    return result


def _of_other_attempts(start: Start, processes: list[Process]) -> list[Process]:
    """Return the processes that have the mark of another attempt of the same job.

    Usually that is an earlier one. After the journal was restored from an older copy it may have the same or
    a higher number, but not the same word.
    """
    store, uid = start.mark.partition(".")[0], start.uid
    candidates = [each for each in processes if each.mark and uid in (None, each.uid)]
    marks = [(each, parse_mark(each.mark, store)) for each in candidates]
    return [each for each, of in marks if of and of.id == start.id and of != start.key]


@cache
def _null() -> int:
    """Open /dev/null, once for all attempts without stdin."""
    return _open(os.devnull)


def _open(path: str | bytes) -> int:
    """Open a file that a process will read, without waiting for a lease.

    The file may belong to the job's user, who can hold a lease on it (fcntl(2), F_SETLEASE).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
