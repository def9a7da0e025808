"""An executor over fake processes."""

import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.proc import Process
from taskqd.execution.run import MARK, Outcome
from taskqd.execution.start_message import make_start
from taskqd.model.job import Reason
from taskqd.runner import attempt_processes, proc_scanner, process_stopper, process_tree
from taskqd.runner import process as job_process
from taskqd.runner.executor import Executor
from taskqd.runner.memory_reader import Sum, Target
from tests.fakes.clocks import clock, in_thread
from tests.fakes.processes import FakeGroups, FakeProcess, FakeProcessReactor, make_run
from tests.fakes.spool import FakeOutputWriter

TERM, KILL, INT, STOP, CONT = (
    signal.SIGTERM,
    signal.SIGKILL,
    signal.SIGINT,
    signal.SIGSTOP,
    signal.SIGCONT,
)
LONG = 20.0
"""Seconds after which everything must be over, SIGKILL and the scans after it included."""


WORD = "0123456789abcdef"
"""The word of the attempts."""


def run(job_id: int = 1, **options: Any) -> Start:
    run = make_run(**{"id": job_id, "word": WORD, "env": {"A": "1"}, **options})
    return make_start(run, {1: "/stdout", 2: "/stderr"})


class FakeMemoryReader:
    """The memory of all attempts is ``size``."""

    def __init__(self) -> None:
        self.size = 0

    def find(self, now: float) -> None:
        """Find nothing: there are no processes."""

    def sums(self, targets: Iterable[Target]) -> Mapping[AttemptKey, Sum]:
        return {target.key: Sum(self.size, 1) for target in targets}

    def exact(self, target: Target) -> int:
        return self.size

    def clear(self) -> None:
        """Have nothing to forget."""


class Harness:
    """An executor over fake processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock()
        self.groups = FakeGroups()
        self.reactor = FakeProcessReactor(self.groups)
        self.keys: list[AttemptKey] = []
        self.cleared: list[AttemptKey] = []
        self.memory = FakeMemoryReader()
        self.executor = Executor(self.reactor, self.clock, in_thread, self.cleared.append, self.memory)
        self.output = FakeOutputWriter()
        self.spawned: list[tuple[int, int | None]] = []
        self.killed: list[tuple[int, int]] = []
        for module in (attempt_processes, job_process, proc_scanner, process_stopper, process_tree):
            monkeypatch.setattr(module, "proc", self.groups)
        monkeypatch.setattr(proc_scanner, "thread_time", lambda: 0.0)
        monkeypatch.setattr(os, "kill", lambda *args: self.killed.append(args))

    def start(self, **options: Any) -> "Deferred[Outcome]":
        start = run(**options)
        self.keys.append(start.key)
        return self.executor.start(start, self.output, self._on_spawned)

    def end(self, job_id: int, reason: Reason, number: int) -> None:
        """End the attempts of a job that run."""
        for key in [key for key in self.keys if key.id == job_id]:
            self.executor.end(key, reason, number)

    def set_suspended(self, is_suspended: bool = True) -> None:
        """Suspend or continue the latest attempt."""
        self.executor.set_suspended(self.keys[-1], is_suspended)

    def read_output(self) -> None:
        """Read what the latest attempt has printed, as a request for its output does."""
        self.executor.read_output(self.keys[-1])

    def _on_spawned(self, pid: int, started: int | None) -> None:
        self.spawned.append((pid, started))

    @property
    def process(self) -> FakeProcess:
        return self.reactor.processes[-1]

    @property
    def signals(self) -> list[int]:
        """The signals that the group of the last process got."""
        return [number for pgid, number in self.groups.sent if pgid == self.process.pid]

    def scan(self) -> None:
        """Run the scans that are due."""
        self.clock.advance(0)

    def exits(self, *args: Any, **options: Any) -> None:
        """End the last process, and run the scans that are due."""
        self.process.exits(*args, **options)
        self.scan()

    def pass_time(self, seconds: float) -> None:
        """Advance the clock in eighths of a second, which floats represent exactly."""
        self.clock.pump([0.125] * round(seconds * 8))


def member(number: int, **options: Any) -> Process:
    """Return a process with another group in the session of the first attempt."""
    return Process(number, 60, number, 5000)._replace(**options)


def marked(number: int, mark: str = "store.1.1", **options: Any) -> Process:
    """Return a process that has left its session."""
    return Process(number, 60, number, number, mark)._replace(**options)


ENV = {MARK: "store.1.1"}


def sent_to(harness: Harness, number: int) -> list[int]:
    return [signal for group, signal in harness.groups.sent if group == number]
