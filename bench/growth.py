"""Measures compaction: the longest pause of the reactor during a snapshot, and the size of the journal.

    python -m bench.growth pause 1000000     compact a store with a million ended jobs while a timer ticks
    python -m bench.growth size 1000000      run a million short jobs, of which the last 1,000 are kept

The daemon's engine and storage run in this process, on a temporary directory, without job processes: an
attempt ends as soon as it starts. Run it as `.venv/bin/python -m bench.growth ...`.
"""

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from taskqd.config.settings import Retention
from taskqd.daemon.clocks import Clocks
from taskqd.engine.engine import Engine
from taskqd.engine.randomness import Randomness
from taskqd.engine.retention import RetentionTask
from taskqd.engine.submissions import NewJob
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.run import Outcome
from taskqd.model import events
from taskqd.model.actor import Actor
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import DEFAULT_SPEC
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import codec
from taskqd.storage.journal.compaction import Compactor, write_snapshot
from taskqd.storage.journal.journal import SEGMENT_BYTES, Journal
from taskqd.storage.spool.spool import Spool

reactor: Any = the_reactor
BENCH = Actor("bench")
COMMAND = "echo hello world"
STDOUT = events.Output.inline(b"hello world\n")
IN_FLIGHT = 1000


@implementer(IExecutor)
class InstantExecutor:
    """An executor whose attempts succeed as soon as they start."""

    def start(self, run: Any, recording: Any, spawned: Any) -> "Deferred[Outcome]":
        return succeed(Outcome(reason=None, exit_code=0, stdout=STDOUT))

    def end(self, job_id: int, why: Reason, number: int) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""

    def kill_leftovers(self, job_id: int) -> None:
        """Nothing runs."""


class StallTimer:
    """Ticks every millisecond. ``longest`` is the longest time between two ticks, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.monotonic()
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._call = reactor.callLater(0.001, self._tick)

    def stop(self) -> None:
        """Stop ticking."""
        self._call.cancel()


class Harness:
    """Engine, journal and spool on a state directory, without sockets and processes."""

    def __init__(self, directory: str, retention: Retention) -> None:
        disk = Filesystem()
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        clocks = Clocks(reactor)
        self.journal = Journal(directory, reactor, disk, "boot", clocks, in_thread)
        spool = Spool(directory, disk, reactor, in_thread)
        self.journal.lock()
        self.queue_state = QueueState(CapacityTotals(slots=4), is_open=False)
        for batch in self.journal.replay():
            self.queue_state.apply_replayed(batch)
        self.queue_state.open()
        self.journal.start_writing(self.queue_state.last_id)
        spool.open()

        def make_run(job: Job, _: int, __: str) -> Any:
            return job

        self.engine = Engine(
            self.queue_state,
            self.journal,
            spool,
            InstantExecutor(),
            clocks,
            make_run,
            Randomness(lambda: 0.0, partial(secrets.token_hex, 8)),
        )
        self.retention_task = RetentionTask(self.engine, self.journal, retention, clocks)
        self.compactor = Compactor(
            self.journal,
            reactor,
            partial(write_snapshot, reactor),
            self.queue_state.relocate,
            in_thread,
            self.queue_state.jobs.__contains__,
        )

    @property
    def size(self) -> int:
        """The size of all files of the journal, in bytes."""
        total = 0
        for entry in os.scandir(self.journal.segments.directory):
            with suppress(FileNotFoundError):  # a snapshot has replaced it
                total += entry.stat().st_size
        return total

    async def close(self) -> None:
        """Stop everything."""
        self.retention_task.stop()
        self.compactor.stop()
        await self.engine.dispatcher.stop(requeue=False)
        await self.journal.close()


def _ended_jobs(count: int) -> Iterator[events.Event]:
    for number in range(1, count + 1):
        yield events.Submitted(id=number, at=1.0, owner="bench", command=COMMAND)
        yield events.Started(id=number, at=1.0, attempt=1)
        yield events.Ended(id=number, at=1.0, status=Status.COMPLETED, exit_code=0, stdout=STDOUT)


def _write_store(directory: str, count: int) -> None:
    """Write segments with ``count`` ended jobs, as the daemon does."""
    os.makedirs(os.path.join(directory, "journal"))
    jobs = _ended_jobs(count)
    sequence, number, event = 0, 0, next(jobs, None)
    while event is not None:
        number += 1
        with open(os.path.join(directory, "journal", f"{number:08}.journal"), "wb") as file:
            sequence += 1
            opened = events.Opened(at=1.0, format=events.FORMAT, store="bench", boot="boot", next_id=1)
            size = file.write(codec.encode(opened, sequence))
            while event is not None and size < SEGMENT_BYTES:
                sequence += 1
                size += file.write(codec.encode(event, sequence))
                event = next(jobs, None)


async def pause(count: int, directory: str) -> None:
    """Compact a store with ``count`` ended jobs, and print the longest pause of the reactor."""
    _write_store(directory, count)
    harness = Harness(directory, Retention(age=1e12, count=count))
    before = harness.size
    await deferLater(reactor, 1.0)
    stalls = StallTimer()
    begun = time.monotonic()
    harness.retention_task.start()
    harness.compactor.start()
    while not harness.journal.snapshot_bytes:
        await deferLater(reactor, 0.1)
    print(f"{count} jobs, {before / 1e6:.0f} MB of journal compacted in {time.monotonic() - begun:.1f} s;")
    print(f"the longest pause of the reactor was {stalls.longest * 1000:.1f} ms")
    stalls.stop()
    await harness.close()


async def size(count: int, directory: str) -> None:
    """Run ``count`` short jobs, keep the last 1,000, and print the journal's size."""
    harness = Harness(directory, Retention(count=1000))
    harness.retention_task.start()
    harness.compactor.start()
    harness.engine.start()
    begun, largest = time.monotonic(), 0
    for submitted in range(1, count + 1):
        last = harness.engine.submissions.submit(NewJob(COMMAND, DEFAULT_SPEC, BENCH))
        if submitted % IN_FLIGHT == 0:
            await last
            largest = max(largest, harness.size)
    while harness.engine.dispatcher.busy or harness.queue_state.counts[Status.PENDING]:
        await deferLater(reactor, 0.1)
    for _ in range(30):
        await deferLater(reactor, 0.1)
    print(f"{count} jobs in {time.monotonic() - begun:.0f} s; {len(harness.queue_state.jobs)} are kept")
    print(f"the journal has {harness.size / 1e6:.1f} MB now, and had up to {largest / 1e6:.1f} MB")
    await harness.close()


def main() -> None:
    """Run the measurement that the command line names."""
    act = {"pause": pause, "size": size}[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="taskqd-bench-") as directory:
        react(lambda _: Deferred.fromCoroutine(act(int(sys.argv[2]), os.path.join(directory, "state"))))


if __name__ == "__main__":
    main()
