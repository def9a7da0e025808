"""Measures what the index of the order of both streams costs the runner, with jobs that need none.

``python -m bench.order TURNS JOBS`` prints the CPU time of each turn as JSON. A turn runs jobs as the runner
does, in one process: each kind of job with the index, and with one that notes nothing, in alternating order.
Processes vary by more than the index costs, so a turn also repeats the calls that a job makes of its index.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, react

from bench.bench import Bench
from bench.place import CHECKOUT, Failed
from bench.results import Goal, Measured, Row
from taskqd.execution.messages import Start
from taskqd.runner.admission import TrustedDaemon
from taskqd.runner.executor import Executor
from taskqd.runner.session_reactor import SessionReactor
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.spool import output
from taskqd.storage.spool.output_order import OrderIndex

TURNS, JOBS, SLOTS = 12, 300, 4
CALLS = 20_000
"""Times that the calls of a job are repeated in a turn."""
COMMANDS = ("true", "echo hello")
LITTLE = Goal(0.01, is_most=True)
WITH, WITHOUT, ALONE = "with", "without", "calls alone"


class NoIndex:
    """Takes the place of an index, and notes nothing."""

    must_write = False

    def __init__(self, *_: object) -> None:
        """Do nothing."""

    def add(self, stream: int, size: int) -> None:
        """Do nothing."""

    def write(self) -> None:
        """Do nothing."""

    def close_inline(self) -> None:
        """Return None."""

    def close(self, in_thread: object) -> "Deferred[None]":
        """Return a Deferred that has fired."""
        return succeed(None)


KINDS: dict[str, Any] = {WITH: OrderIndex, WITHOUT: NoIndex}


def measure(bench: Bench) -> Measured:
    """Measure both kinds of jobs, and return a row for each."""
    words = [str(bench.many(TURNS, 1)), str(bench.many(JOBS, 20))]
    printed = subprocess.run(
        [sys.executable, "-m", "bench.order", *words], cwd=CHECKOUT, stdout=subprocess.PIPE, check=True
    ).stdout
    found = json.loads(printed)
    note = f"{words[0]} turns of {words[1]} jobs"
    title = "CPU time of the runner per `{}` job, with the index of the order of its output"
    alone = "CPU time of the calls that a `{}` job makes of the index"
    return Measured(
        [
            row
            for command, of in found.items()
            for row in (
                Row(title.format(command), "without an index", "µs", of[WITH], of[WITHOUT], note=note),
                Row(
                    alone.format(command), "the job without", "µs", of[ALONE], of[WITHOUT], LITTLE, note=note
                ),
            )
        ]
    )


def calls_alone(command: str, place: str) -> float:
    """Return the microseconds of the calls that a job makes of its index."""
    filesystem, clock = Filesystem(), Clock()
    before = time.process_time()
    for _ in range(CALLS):
        index = OrderIndex(place, filesystem, clock)
        if command != "true":
            index.add(1, 6)
            if index.must_write:
                raise Failed("the index of a short job must not be written")
        index.close_inline()
    return 1e6 * (time.process_time() - before) / CALLS


class Jobs:
    """Runs ``count`` jobs of a command, SLOTS at once; ``ended`` fires then."""

    def __init__(self, executor: Executor, admission: TrustedDaemon, place: str, command: str, count: int):
        self.ended: Deferred[None] = Deferred()
        self._executor = executor
        self._admission = admission
        self._place = place
        self._argv = ["/bin/sh", "-c", command]
        self._unstarted = self._running = count
        for _ in range(SLOTS):
            self._start()

    def _start(self) -> None:
        if not self._unstarted:
            return
        number = self._unstarted
        self._unstarted -= 1
        paths = {name: f"{self._place}/{number}.1.{name}" for name in ("stdout", "stderr", "order")}
        environment = {"PATH": os.environ["PATH"]}
        message = Start(id=number, attempt=1, word="0" * 16, argv=self._argv, env=environment, **paths)
        start, writer = self._admission.admit(message, (), "s")
        self._executor.start(start, writer, _ignore).addCallback(self._on_end)

    def _on_end(self, _: object) -> None:
        self._running -= 1
        if self._running:
            reactor.callLater(0, self._start)  # type: ignore[attr-defined]
        else:
            self.ended.callback(None)


def _ignore(*_: object) -> None:
    pass


async def _measure(turns: int, jobs: int) -> None:
    """Print the microseconds per job of all turns."""
    found: dict[str, dict[str, list[float]]] = {
        command: {kind: [] for kind in (*KINDS, ALONE)} for command in COMMANDS
    }
    sessions = SessionReactor(reactor)  # type: ignore[arg-type]
    clock: Any = reactor
    executor = Executor(sessions, clock, _in_place)
    admission = TrustedDaemon(Filesystem(), clock, _in_place)
    with tempfile.TemporaryDirectory() as place:
        await Jobs(executor, admission, place, "true", jobs).ended
        for turn in range(turns):
            for command in COMMANDS:
                for kind in (WITH, WITHOUT) if turn % 2 else (WITHOUT, WITH):
                    output.OrderIndex = KINDS[kind]  # type: ignore[misc]
                    before = time.process_time()
                    await Jobs(executor, admission, place, command, jobs).ended
                    found[command][kind].append(1e6 * (time.process_time() - before) / jobs)
                found[command][ALONE].append(calls_alone(command, place))
    print(json.dumps(found))


def _in_place(function: Callable[..., object], *arguments: object) -> "Deferred[Any]":
    return succeed(function(*arguments))


def main() -> None:
    """Measure, and print the result."""
    turns, jobs = (int(word) for word in sys.argv[1:])
    react(lambda _: Deferred.fromCoroutine(_measure(turns, jobs)))


if __name__ == "__main__":
    main()
