"""The fault sweep: a scenario with the real journal and spool, on a file system of which one call fails.

`Scenario` is the script: submissions with and without blocks, starts, ends with short and long output,
retries, cancels, removals, snapshots, a stop that requeues, a restart. `sweep` runs it once for every call of
the file system and every error. Each time it checks, after every step and after a power failure, that all
replies were true and that the state equals a replay of the files, and at the end that nothing is left undone.

The simulated disk loses data that was not synced, and all data after a failed sync. Of an overwrite that was
not synced, any sectors may survive.

``test_faults.py`` runs a sample. The whole sweep takes some minutes::

    python -m tests.support.faults
"""

import copy
import errno
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, LogPublisher, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.config.limits import UNBOUNDED
from taskqd.config.settings import Retention
from taskqd.daemon.recovery import script_file_of
from taskqd.engine.acts import NewCommand
from taskqd.engine.engine import Engine
from taskqd.engine.randomness import Randomness
from taskqd.engine.retention import RetentionTask
from taskqd.engine.submissions import NewJob
from taskqd.errors import Gone, NoSuchJob, StartRefused, StoreFailed, TaskqError, WrongState
from taskqd.execution.interfaces import IExecutor, OnSpawned
from taskqd.execution.job_inputs import Delivery
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.run import Outcome, Run
from taskqd.execution.start_message import make_start
from taskqd.model.environment import environment_of
from taskqd.model.events import NOTHING, Event, Output
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Array, Spec
from taskqd.server.handlers.job_view import JobView
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import ICommitReactor, IEventReader, IOutputWriter
from taskqd.storage.journal import compaction, segment_writer
from taskqd.storage.journal.compaction import Compactor
from taskqd.storage.journal.journal import RETRY_INTERVAL, Journal
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from taskqd.storage.spool import output_stream
from taskqd.storage.spool.output import OutputWriter
from taskqd.storage.spool.spool import Spool
from tests.fakes.clocks import MONOTONIC, FakeClocks, in_thread
from tests.fakes.deferreds import begin
from tests.fakes.engine import ACTOR
from tests.fakes.filesystem import CHECKS
from tests.fakes.processes import RUNNER, lost

CODES = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT)
SEGMENT_BYTES = 1500
MIN_SEALED_BYTES = 2000
SYNC_INTERVAL_BYTES = 2500
"""Bytes, small enough that a run has several segments and snapshots, and syncs within an output."""
PREALLOCATION, BLOCK_SIZE, MAX_SMALL_WRITE, PREALLOCATE_AFTER = 700, 100, 900, 1
"""Small enough that most segments are preallocated, some twice, and some batches are too large for it."""
TORN = 0.4
"""The share of the sectors that were not synced that a power failure loses."""
SECTOR = 512
"""Bytes that a disk writes atomically."""
LIMITS = CapacityTotals(slots=2)
KEPT = 13
"""Finished jobs that the retention keeps."""
CONSEQUENCES = (StoreFailed, WrongState, Gone, NoSuchJob)
"""Errors that a command may return after an earlier one was refused."""

_CALLS = frozenset(name for name in vars(Filesystem) if not name.startswith("_")) - CHECKS
_WRITES = frozenset({"write", "write_at"})
_NEEDS_SPACE = frozenset({*_WRITES, "create", "make_directory", "sync"})


SCRIPTS = (b"new", None, b"newer")
"""The scripts or the command that replace the command of a held job, one after the other."""
MINE, YOURS = b"A=mine\0", b"A=yours\0"
"""The environments that some jobs of the scenario have."""
AGAIN = {"script": b"#!/bin/true", "stdin": b"again", "secret": b"A=1\0"}
"""The blocks of the scenario's schedule."""


class Mode(Enum):
    """The events after a fault."""

    ONCE = "one call fails, and the run goes on"
    CRASH = "one call fails, and the daemon is killed after all replies"
    POWER_CUT = "one call fails, and the power fails after all replies"
    SUDDEN = "the power fails at that call; of a write, part is done"
    FULL = "the disk is full from that call on, for two steps, and the run goes on"


class Fault(NamedTuple):
    """The ``number``-th call fails with ``code``; if it ``is_short``, half of a write is done."""

    number: int
    code: int
    is_short: bool = False
    mode: Mode = Mode.ONCE


NO_FAULT = Fault(0, 0)


class _File:
    """The state of a file that decides what survives a power failure.

    ``overwritten`` has (offset, previous bytes) of the overwrites that were not synced, oldest first.
    """

    def __init__(self) -> None:
        self.size = self.synced = 0
        self.has_name = self.is_lost = False
        self.overwritten: list[tuple[int, bytes]] = []

    def written(self, offset: int, before: bytes, length: int) -> None:
        """Note a write that has overwritten ``before``."""
        self.size = max(self.size, offset + length)
        if before:
            self.overwritten.append((offset, before))

    def sync(self) -> None:
        """Note a sync; it has no effect if an earlier sync has failed."""
        if not self.is_lost:
            self.synced = self.size
            self.overwritten.clear()

    def linked(self) -> "_File":
        """Return the state of another name of this file, which was synced before."""
        other = _File()
        other.size, other.synced = self.size, self.synced
        return other

    def cut(self, size: int) -> None:
        """Note a durable truncation."""
        self.size, self.synced = size, min(self.synced, size)
        self.overwritten = [(offset, before[: size - offset]) for offset, before in self.overwritten]
        self.overwritten = [(offset, before) for offset, before in self.overwritten if before]

    def tear(self, content: bytearray, chance: random.Random) -> None:
        """Restore some of the overwritten sectors, at random."""
        for offset, before in reversed(self.overwritten):
            for sector in range(offset // SECTOR, (offset + len(before) - 1) // SECTOR + 1):
                start = max(offset, sector * SECTOR)
                end = min(offset + len(before), (sector + 1) * SECTOR)
                if chance.random() < TORN:
                    content[start:end] = before[start - offset : end - offset]


class FaultyFilesystem(Filesystem):
    """The real file system, of which one call fails; syncs are only recorded, not done."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.has_failed = False
        self.is_full = False
        self.is_dead = self.is_off = False
        self._fault = fault
        self._open: dict[int, str] = {}
        self._files: dict[str, _File] = {}
        self._made: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._called, name, found) if name in _CALLS else found

    def _called(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if self.is_dead or self.is_off:
            if name == "close" and not self.is_dead:
                self._close(call, *args)
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.calls.append(name)
        is_hit = len(self.calls) == self._fault.number
        if is_hit:
            self.has_failed = True
            self.is_full = self._fault.mode is Mode.FULL
            self.is_off = self._fault.mode is Mode.SUDDEN
        if is_hit or (self.is_full and name in _NEEDS_SPACE):
            self._fail(name, call, *args)
        before = dict(self._open)
        self._note_write(name, *args)
        try:
            result = None if name in {"sync", "sync_directory"} else call(*args)
        finally:
            if name in {"read_file", "map_file"}:
                self._open = before  # it closes by itself what it has opened
        self._note(name, result, *args)
        return result

    def _fail(self, name: str, call: Callable[..., Any], *args: Any) -> None:
        if name in _WRITES and (self._fault.is_short or self._fault.mode is Mode.SUDDEN):
            written = args[1][: len(args[1]) // 2] if self._fault.is_short else args[1]
            self._note_write(name, args[0], written, *args[2:])
            call(args[0], written, *args[2:])
        if name == "sync" and args[0] in self._open:
            self._files[self._open[args[0]]].is_lost = True
        if name == "close":
            self._close(call, *args)
        raise OSError(self._fault.code, os.strerror(self._fault.code))

    def _close(self, call: Callable[..., Any], descriptor: int) -> None:
        """Close a descriptor although close(2) fails, as Linux does."""
        call(descriptor)
        self._open.pop(descriptor, None)

    def _note(self, name: str, result: Any, *args: Any) -> None:
        if name == "create":
            self._open[result] = args[0]
            self._files[args[0]] = _File()
        elif name == "open":
            self._open[result] = args[0]
        elif name == "close":
            self._open.pop(args[0], None)
        elif name == "sync":
            self._files[self._open[args[0]]].sync()
        elif name == "truncate" and args[0] in self._files:
            self._files[args[0]].cut(args[1])
        elif name == "rename":
            self._files[args[1]] = self._files.pop(args[0])
        elif name == "link_with_parents":
            self._files[args[1]] = self._files[args[0]].linked()
        else:
            self._note_name(name, *args)

    def _note_write(self, name: str, *args: Any) -> None:
        """Note a write, and the bytes that it overwrites."""
        if name not in _WRITES:
            return
        path = self._open[args[0]]
        file = self._files[path]
        offset = file.size if name == "write" else args[2]
        with open(path, "rb") as before:
            before.seek(offset)
            file.written(offset, before.read(len(args[1])), len(args[1]))

    def _note_name(self, name: str, *args: Any) -> None:
        if name == "remove":
            self._files.pop(args[0], None)
        elif name == "make_directory":
            pass
        elif name == "sync_directory":
            self._made = {path for path in self._made if os.path.dirname(path) != args[0]}
            for path, file in self._files.items():
                file.has_name = file.has_name or os.path.dirname(path) == args[0]

    def make_directory(self, path: str, levels: int | None = None) -> None:
        if not os.path.isdir(path):
            self._made.add(path)
        super().make_directory(path, levels)

    def cut_power(self) -> None:
        """Simulate a power failure: lose data that was not synced."""
        chance = random.Random(self._fault.number)
        for path, file in self._files.items():
            if os.path.exists(path):
                if file.has_name:
                    with open(path, "r+b") as cut:
                        content = bytearray(cut.read(file.synced))
                        file.tear(content, chance)
                        cut.seek(0)
                        cut.write(content[: file.synced])
                        cut.truncate()
                    file.cut(file.synced)
                    file.overwritten.clear()
                else:
                    os.unlink(path)
        for path in self._made:
            shutil.rmtree(path, ignore_errors=True)

    def let_go(self) -> "FaultyFilesystem":
        """Close the files of a daemon that was killed, and return the file system for the next one.

        What is left of the dead one, which the collector of garbage may wake, can do nothing more to it.
        """
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()
        following = copy.copy(self)
        following._open = {}
        following.is_off = False
        self.is_dead = True
        return following


@implementer(ICommitReactor)
class Reactor(FakeClocks):
    """A clock, and the calls of other threads, which wait for `turn`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], Any]] = []

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - IReactorFromThreads has this name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.append(partial(callable, *args, **kwargs))

    def turn(self) -> None:
        """Make all waiting calls, and those that they add."""
        while self._calls:
            self._calls.pop(0)()


class InlineCommitThread:
    """Replaces the commit thread and commits in the caller's thread, so that a run is deterministic.

    When the reactor waits, four of five commits finish while it waits; every fifth is late.
    """

    def __init__(self, group_commit: Any, reactor: Reactor) -> None:
        self._commit = group_commit.thread._commit
        self._on_committed = group_commit.finish
        self._reactor = reactor
        self._count = 0

    def start(self) -> None:
        pass

    def submit(self, batch: Any) -> None:
        self._count += 1
        self._reactor.callFromThread(self._on_committed, batch, self._try_commit(batch))

    def submit_and_wait(self, batch: Any) -> tuple[bool, Exception | None]:
        error = self._try_commit(batch)
        self._count += 1
        if self._count % 5:
            return True, error
        self._reactor.callFromThread(self._on_committed, batch, error)
        return False, None

    def stop(self) -> None:
        pass

    def _try_commit(self, batch: Any) -> Exception | None:
        try:
            self._commit(batch)
        except OSError as error:
            return error
        return None


class _Attempt:
    def __init__(self, output: IOutputWriter) -> None:
        self.output = output
        self.ended: Deferred[Outcome] = Deferred()
        self.why: Reason | None = None
        self.printed = b""


@implementer(IExecutor)
class Attempts:
    """A runner whose attempts print and end when the scenario says so, and which dies with the daemon.

    It writes output to ``filesystem``. ``started`` is called with each attempt that it starts, and
    ``acknowledged`` with each that it may forget.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        clock: FakeClocks,
        started: Callable[[Start], None],
        acknowledged: Callable[[int, int], None],
    ) -> None:
        self.runner = RUNNER
        self.unready_detail: str | None = None
        self.make_start: Callable[[AttemptKey], Start] | None = None
        self.on_ready: Callable[[], object] = lambda: None
        self.running: dict[int, _Attempt] = {}
        self.printed: dict[tuple[int, int], bytes] = {}
        self._filesystem = filesystem
        self._clock = clock
        self._started = started
        self._acknowledged = acknowledged
        self._numbers: dict[int, int] = {}

    def start(self, start: Start, runner: str, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        key = (start.id, start.attempt)
        assert start.id not in self.running, f"job {start.id} runs twice"
        assert key not in self.printed, f"attempt {start.attempt} of job {start.id} ran already"
        assert runner == self.runner, f"attempt {start.attempt} of job {start.id} is meant for {runner}"
        self._started(start)
        paths = {1: start.stdout, 2: start.stderr}
        output = OutputWriter(
            *(paths, self._filesystem, self._clock, in_thread, start.max_output, []), order_path=start.order
        )
        attempt = self.running[start.id] = _Attempt(output)
        self.printed[key] = b""
        self._numbers[start.id] = start.attempt
        output.set_callbacks(lambda _: None, lambda _: self.end(start.id, Reason.OUTPUT, 15))
        on_spawned(1000 + start.id, 77)
        return attempt.ended

    def adopt(
        self, key: AttemptKey, runner: str, on_spawned: OnSpawned, is_newest: bool = False
    ) -> "Deferred[Outcome]":
        raise NotImplementedError

    def send(self, job_id: int, data: bytes, is_eof: bool, timeout: float) -> "Deferred[Delivery]":
        raise NotImplementedError

    def acknowledge(self, job_id: int) -> None:
        if job_id in self._numbers:  # else it was not started
            self._acknowledged(job_id, self._numbers[job_id])

    def end(self, job_id: int, why: Reason, number: int) -> None:
        if job_id in self.running:
            self.running[job_id].why = self.running[job_id].why or why

    def set_suspended(self, job_id: int, is_suspended: bool) -> None:
        """Do nothing: no scenario suspends a job."""

    def runner_obstacle(self, job_id: int) -> str | None:
        return None

    def kill_leftovers(self, job_id: int) -> None:
        return None

    def kill(self) -> "Deferred[None]":
        raise NotImplementedError

    def prints(self, job_id: int, data: bytes) -> None:
        if job_id in self.running:
            self.running[job_id].output.write(1, data)
            self.running[job_id].output.write(2, b".")  # so that there is an index of the order
            self.printed[job_id, self._numbers[job_id]] += data

    def finish(self, job_id: int, code: int = 0) -> None:
        """End a running attempt."""
        attempt = self.running.pop(job_id, None)
        if attempt is None:
            return
        lost: list[Failure] = []
        closed = attempt.output.close()

        def lose(failure: Failure) -> tuple[Output, Output]:
            failure.trap(OSError)
            lost.append(failure)
            return NOTHING, NOTHING

        def judge(outputs: tuple[Output, Output]) -> Outcome:
            why = attempt.why or (Reason.OUTPUT if lost else None) or (Reason.EXIT if code else None)
            return Outcome(reason=why, exit_code=code, stdout=outputs[0], stderr=outputs[1])

        closed.addErrback(lose).addCallback(judge).chainDeferred(attempt.ended)


class RuleViolation(AssertionError):
    """A rule of the sweep does not hold."""


class PowerCut(Exception):
    """The run cannot go on."""


@implementer(ILogObserver)
class Scenario:
    """Daemons one after the other in ``directory``, on a file system with a fault."""

    def __init__(self, directory: str, fault: Fault) -> None:
        self.directory = directory
        self.fault = fault
        self.filesystem = self.faulty = FaultyFilesystem(fault)
        self.counts: Counter[str] = Counter()
        self.reactor = Reactor()
        self._asked: list[tuple[str, Deferred[Any]]] = []
        self._waits: list[tuple[int, Deferred[Job]]] = []
        self._bugs: list[str] = []
        self._blocks: dict[int, dict[str, bytes]] = {}
        self._printed: dict[tuple[int, int], bytes] = {}
        self._cut_off: set[tuple[int, int]] = set()
        self._acts_since_full = 0
        self._is_on = False
        self._replayed: tuple[dict[str, bytes], int | None, QueueState] | None = None

    # The daemon.

    def start(self) -> None:
        """Start as taskqd.daemon does; raises StartRefused."""
        passed = self.reactor.seconds() - MONOTONIC + 1.0
        self.reactor = Reactor()
        self.reactor.advance(passed)
        now = self.reactor.elapsed()
        self.executor = Attempts(self.filesystem, self.reactor, self._started, self._acknowledged)
        self.executor.printed.update(self._printed)
        now_and_then = partial(_is_idle, self.executor)
        self.journal = Journal(
            self.directory, self.reactor, self.filesystem, "boot", self.reactor, in_thread, now_and_then
        )
        self.journal.segment_bytes = SEGMENT_BYTES
        group_commit: Any = self.journal._group_commit
        group_commit.now = lambda: 0.0  # no commit is slow, on however busy a machine this runs
        group_commit.thread = InlineCommitThread(group_commit, self.reactor)
        self.journal.lock()
        queue_state = QueueState(LIMITS, is_open=False)
        for batch in self.journal.replay():
            queue_state.apply_replayed(batch)
        queue_state.last_id = max(queue_state.last_id, self.journal.next_id - 1)
        queue_state.open()
        self.journal.start_writing(queue_state.last_id)
        self.spool = Spool(self.directory, self.filesystem, in_thread)
        try:
            self.spool.open()
            running = {job.id for job in queue_state.running()}
            self.spool.sweep(
                lambda job_id: _attempts(queue_state, job_id),
                running,
                queue_state.schedules.file_names(),
                lambda job_id: script_file_of(queue_state, job_id),
                queue_state.environments.hashes,
            )
        except OSError as why:
            raise StartRefused(str(why)) from None
        self.engine = Engine(
            queue_state,
            self.journal,
            self.spool,
            self.executor,
            self.reactor,
            self._make_start,
            Randomness(lambda: 0.0, lambda: "00c0ffee00c0ffee"),
        )
        self.results = JobView(
            self.journal,
            self.spool,
            lambda job: queue_state.reason(job, now),
            queue_state.earliest_start,
            lambda pid, started: False,
        )
        self.engine.dispatcher.recover(lost(self.engine, "the runner was killed"))
        self.engine.start()
        self.retention_task = RetentionTask(self.engine, self.journal, Retention(1e9, KEPT), self.reactor)
        self.retention_task.start()
        self.compactor = Compactor(
            self.journal,
            self.reactor,
            self._write_snapshot,
            queue_state.relocate,
            in_thread,
            queue_state.jobs.__contains__,
        )
        self.compactor.start()
        self._is_on = True

    def _write_snapshot(self, directory: str, number: int) -> "Deferred[None]":
        try:
            SnapshotWriter(Segments(directory, self.filesystem), self.filesystem, number).write()
        except (OSError, StartRefused) as why:
            return fail(OSError(str(why)))
        return succeed(None)

    def _make_start(self, job: Job, attempt: int, word: str) -> Start:
        run = Run(id=job.id, attempt=attempt, word=word, spec=job.spec, command=job.command, env={})
        return make_start(
            run, self.spool.output_paths(job.id, attempt), self.spool.order_path(job.id, attempt)
        )

    def _started(self, start: Start) -> None:
        """Check that the start of a spawned attempt is durable."""
        job = self.replayed().jobs.get(start.id)
        if job is None or (job.status, job.attempts) != (Status.RUNNING, start.attempt):
            raise RuleViolation(
                f"attempt {start.attempt} of job {start.id} is spawned, but its start is not durable"
            )

    def _acknowledged(self, job_id: int, attempt: int) -> None:
        """Check that the end of an attempt that the runner forgets is durable."""
        job = self.replayed().jobs.get(job_id)
        if job is not None and (job.status, job.attempts) == (Status.RUNNING, attempt):
            raise RuleViolation(f"the runner forgets attempt {attempt} of job {job_id}, which has no end")

    def die(self) -> None:
        """End as a killed daemon does."""
        if self._is_on:
            self._printed = dict(self.executor.printed)
            self._cut_off |= {(job.id, job.attempts) for job in self.engine.queue_state.running()}
        self._is_on = False
        self._asked.clear()
        self._waits.clear()
        is_off = self.filesystem.is_off
        self.filesystem = self.filesystem.let_go()
        if is_off:
            self.filesystem.cut_power()
        for descriptor in self.journal._locks:
            with suppress(OSError):  # its close may be the call that failed
                os.close(descriptor)
        self.journal._locks = ()

    def restart(self) -> None:
        """Start again; twice if the fault refused the first start."""
        try:
            self.start()
        except StartRefused:
            if not self.filesystem.has_failed:
                raise
            self.counts["start refused"] += 1
            self.die()
            self.filesystem.is_full = False
            self.start()

    # Checks.

    def replayed(self, upto: int | None = None) -> QueueState:
        """Return the state that the files give up to a record, read without faults.

        It is the state of the previous call if the files are still the same, as half of the time.
        """
        journal = Path(self.directory, "journal")
        files = {path.name: path.read_bytes() for path in journal.iterdir()}
        if self._replayed is None or self._replayed[:2] != (files, upto):
            self._replayed = files, upto, self._replay(upto)
        return self._replayed[2]

    def _replay(self, upto: int | None) -> QueueState:
        queue_state = QueueState(LIMITS, is_open=False)
        segments = Segments(os.path.join(self.directory, "journal"), Filesystem())
        reading = Replay()
        for batch in segments.replay(segments.layout(), reading):
            if upto is None or reading.sequence <= upto:
                queue_state.apply_replayed(batch)
        last_id = reading.opened.next_id - 1 if reading.opened else 0
        queue_state.last_id = max(queue_state.last_id, last_id)
        return queue_state

    def check(self) -> None:
        """Compare the replies, the daemon's state and the files."""
        if self._bugs:
            raise RuleViolation(f"logged: {self._bugs}")
        for what, answer in self._asked:
            if not answer.called:
                raise RuleViolation(f"{what} has no reply")
        self._asked.clear()
        if self.fault.mode is Mode.ONCE and self.journal.failure is not None:
            raise RuleViolation(f"the journal does not retry: {self.journal.failure}")
        mine = self.engine.queue_state
        compare(plain(mine), plain(self.replayed()))
        self._check_environments()
        if self.journal.failure is None and not self.filesystem.is_full:
            self._check_nothing_is_left()
        for job_id, waiting in self._waits:
            job = mine.jobs.get(job_id)
            has_run = job is not None and (job.attempts or job.tasks is not None)
            if waiting.called and job is not None and not job.status.is_final and not has_run:
                raise RuleViolation(f"job {job_id} was reported as ended, but has not ended")

    def _check_environments(self) -> None:
        """Check that the file of each environment exists that a job has."""
        directory = Path(self.directory, "input", "environments")
        for name in self.engine.queue_state.environments.hashes:
            if environment_of((directory / name).read_bytes()).sha256 != name:
                raise RuleViolation(f"the environment {name} of a job is damaged")

    def _check_nothing_is_left(self) -> None:
        now = self.reactor.elapsed()
        for job in self.engine.queue_state.jobs.values():
            if job.tasks is None and job.status is Status.RUNNING and job.id not in self.executor.running:
                raise RuleViolation(f"the end of job {job.id} is not recorded")
            is_due = self.engine.queue_state.reason(job, now) is Reason.QUEUED and job.tasks is None
            has_room = len(self.executor.running) < LIMITS.slots and job.spec.array is None
            if is_due and has_room and not self.engine.dispatcher.is_draining:
                raise RuleViolation(f"job {job.id} is due and does not start, although a slot is available")

    def check_output(self) -> None:
        """Check that all output can be read or is reported as missing."""
        for job in self.engine.queue_state.jobs.values():
            if job.attempt is None or not job.status.is_final:
                continue
            printed = self.executor.printed.get((job.id, job.attempt.number), b"")
            kept = printed[: len(printed) - job.attempt.stdout_dropped]
            if job.attempt.stdout_bytes != len(kept) and not self._is_cut_off(job):
                raise RuleViolation(
                    f"{job.attempt.stdout_bytes} bytes of job {job.id} are recorded, expected {len(kept)}"
                )
            self._asked.append(("RESULT", self._read(job, kept)))

    def _is_cut_off(self, job: Job) -> bool:
        """Whether output of a job may be missing: it is reported so, or a crash preceded its end."""
        return job.reason is Reason.OUTPUT or (job.id, job.attempts) in self._cut_off

    def _read(self, job: Job, kept: bytes) -> "Deferred[None]":
        has_failed = self.filesystem.has_failed

        def compare_it(found: tuple[bytes, bytes]) -> None:
            if found[0] != (kept[: len(found[0])] if self._is_cut_off(job) else kept):
                raise RuleViolation(f"job {job.id} printed {kept[:30]!r}, but {found[0][:30]!r} is read")

        def refused(failure: Failure) -> None:
            failure.trap(StoreFailed)
            if self.filesystem.is_off:
                return
            if has_failed or not self.filesystem.has_failed:
                raise RuleViolation(f"the output of job {job.id} is lost: {failure.getErrorMessage()}")

        read = begin(self.results.read_both_streams(job)).addCallbacks(compare_it, refused)
        return read.addErrback(lambda failure: self._bugs.append(failure.getErrorMessage()))

    # Steps.

    def ask(self, what: str, answer: "Deferred[Any]") -> "Deferred[Any]":
        """Note a command, whose reply must be true or a refusal."""
        self.counts[what] += 1

        def refused(failure: Failure) -> None:
            failure.trap(TaskqError)
            self.counts[f"{what} refused"] += 1
            allowed = CONSEQUENCES if self.filesystem.has_failed else ()
            if not isinstance(failure.value, allowed):
                raise RuleViolation(f"{what}: {failure.value!r}")

        answer.addErrback(refused).addErrback(lambda failure: self._bugs.append(failure.getErrorMessage()))
        self._asked.append((what, answer))
        return answer

    def submit(
        self,
        command: str,
        blocks: dict[str, bytes] | None = None,
        environment: bytes | None = None,
        **options: Any,
    ) -> list[int]:
        """Submit; the list gets the job's id when it is acknowledged, and the job must be durable by then."""
        ids: list[int] = []
        sizes: dict[str, Any] = {name: len(content) for name, content in (blocks or {}).items()}
        spec = Spec(
            **options, **sizes, environment=None if environment is None else environment_of(environment)
        )
        new = NewJob(command, spec, ACTOR, blocks or {}, environment)
        submitted = self.engine.submissions.submit(new)
        self.ask("SUBMIT", submitted.addCallback(self._accepted, command, blocks or {}, ids))
        return ids

    def _accepted(self, job_id: int, command: str, blocks: dict[str, bytes], ids: list[int]) -> int:
        job = self.replayed().jobs.get(job_id)
        if job is None or job.command != command:
            raise RuleViolation(f"job {job_id} is acknowledged, but not durable")
        ids.append(job_id)
        self._blocks[job_id] = blocks
        self._waits.append((job_id, self.engine.wait(job_id)))
        return job_id

    def schedule(self) -> None:
        """Make a schedule with blocks."""
        spec = Spec(script=len(AGAIN["script"]), stdin=len(AGAIN["stdin"]), secrets=("A",))
        commands = self.engine.queue_commands
        self.decide("SCHEDULE", commands.schedule("again", spec, ACTOR, 3600.0, None, False, AGAIN))

    def run_schedule(self) -> None:
        """Submit a job of the schedule, if there is one."""
        if 1 in self.engine.queue_state.schedules.by_id:
            submitted = self.engine.run_schedule(1, None, UNBOUNDED)
            self.ask("SUBMIT", submitted.addCallback(self._accepted, "again", AGAIN, []))

    def cancel(self, ids: list[int]) -> None:
        for job_id in ids:
            self.ask("CANCEL", begin(self.engine.job_commands.cancel(job_id, ACTOR, 15)))

    def retry(self, ids: list[int]) -> None:
        for job_id in ids:
            self.ask("RETRY", begin(self.engine.job_commands.retry(job_id, ACTOR)))

    def remove(self, ids: list[int]) -> None:
        for job_id in ids:
            self.ask("REMOVE", begin(self.engine.job_commands.remove(job_id, ACTOR)))

    def decide(self, what: str, decision: "Coroutine[Deferred[Any], Any, Any]") -> None:
        """Change a job, a queue or a schedule."""
        self.ask(what, begin(decision))

    def history(self, ids: list[int]) -> None:
        for job_id in ids:
            self.ask("HISTORY", begin(_read_all(self.results.history(job_id))))

    def end(self, ids: list[int], data: bytes = b"", code: int = 0) -> None:
        for job_id in ids:
            self.executor.prints(job_id, data)
            self.executor.finish(job_id, code)

    def end_all(self) -> None:
        """Run and end all jobs."""
        for _ in range(200):
            if not self.executor.running:
                return
            self.end(list(self.executor.running)[:1], b"x")
            self.settle()
        raise RuleViolation("the jobs do not end")

    def settle(self, seconds: float = 0.0) -> None:
        """Advance the clock and run all calls; if the journal has failed, until it retries."""
        self.reactor.turn()
        for pause in (0.0, seconds, 0.0):
            self.reactor.advance(pause)
            self.reactor.turn()
        if self.journal.failure and self.fault.mode in (Mode.ONCE, Mode.FULL):
            for _ in range(2):
                self.reactor.advance(RETRY_INTERVAL)
                self.reactor.turn()
        if self.filesystem.is_off:
            raise PowerCut

    def acts(self) -> Iterator[None]:  # noqa: PLR0915 - a day is long
        """Run the scenario; all checks must hold at each yield."""
        first = self.submit("first")
        yield
        script = self.submit("", {"script": b"#!/bin/sh\n" + b"#" * 5000, "stdin": b"in"})
        keyed = self.submit("keyed", key="k")
        yield
        self.history(first)
        self.end(first, b"short\n")
        yield
        self.end(script)
        self.submit("keyed", key="k")
        yield
        long = self.submit("long", retries=1)
        yield
        self.end(keyed)
        for job_id in long:
            self.executor.prints(job_id, b"0" * 3000)
        self.settle(0.2)
        for job_id in long:
            self.executor.prints(job_id, b"1" * 3000)
        self.end(long, b"2" * 3000, code=3)
        yield
        self.settle(2.0)
        self.end(long, b"3" * 5000)
        yield
        self.retry(first)
        running = [*self.submit("running"), *self.submit("running too")]
        yield
        waiting = self.submit("waiting", {"stdin": b"never read"}, MINE)
        yield
        self.cancel(waiting)
        self.end(first, b"again" * 2000)
        running = list(self.executor.running)
        self.cancel(running[:1])
        yield
        self.end(running, b"\xff")
        yield
        yield from self._change_their_minds()
        many = [self.submit(f"one of many {number}") for number in range(8)]
        yield
        self.check_output()
        self.end_all()
        yield
        self.settle(2.0)  # the compactor makes a snapshot
        yield
        self.check_output()
        self.remove(long)
        self.remove([job_id for ids in (*many[:2], waiting) for job_id in ids])
        yield
        late = [
            *self.submit("late", {"script": b"exit"}, MINE),
            *self.submit("later", None, YOURS, retries=2),
        ]
        yield
        self.history(late)
        for job_id in late:
            self.executor.prints(job_id, b"so far")
        self.settle(0.5)
        yield
        yield from self._stop_and_start()
        self.end(late[:1], b"whole")
        yield
        for number in range(KEPT):
            self.submit(f"in the evening {number}")
        yield
        self.end_all()
        self.settle(2.0)
        yield
        self.settle(70.0)
        self.check_output()
        yield

    def _change_their_minds(self) -> Iterator[None]:
        """Use arrays, dependencies, queues and schedules, and change jobs that have not started."""
        changes, controls = self.engine.job_commands, self.engine.queue_commands
        self.decide("PAUSE", controls.pause(ACTOR, "slow"))
        self.decide("SET-QUEUE", controls.resize(ACTOR, "slow", 1))
        yield
        slow = self.submit("slow", queue="slow", hold=True)
        after = (
            [self.submit("after", after=tuple(slow)), self.submit("in vain", after_fail=tuple(slow))]
            if slow
            else []
        )
        array = self.submit("array", array=Array(1, 3, 1), priority=5)
        yield
        for job_id in slow:
            self.decide("SET", changes.change(job_id, ACTOR, {"priority": 7, "label": "changed"}))
            for new in SCRIPTS:
                self.decide(
                    "SET", self.engine.command_changes.change(job_id, ACTOR, {}, NewCommand("x", new))
                )
            self.decide("RELEASE", changes.release(job_id, ACTOR))
        self.decide("RESUME", controls.resume(ACTOR, "slow"))
        self.schedule()
        yield
        self.run_schedule()
        yield
        self.end_all()
        yield
        for job_id in array:
            self.retry([job_id])
            self.decide("HOLD", changes.hold(job_id, ACTOR))
            self.cancel([job_id])
        yield
        self.decide("UNSCHEDULE", controls.unschedule(1, ACTOR))
        self.end_all()
        yield
        self.remove([*array, *slow, *(job_id for ids in after for job_id in ids)])
        yield

    def _stop_and_start(self) -> Iterator[None]:
        self.retention_task.stop()
        self.compactor.stop()
        stopped = self.engine.dispatcher.stop(requeue=True)
        self.end(list(self.executor.running), b" and so far")
        self.settle()
        if not stopped.called:
            raise RuleViolation("the stop does not finish")
        before = plain(self.engine.queue_state)
        closed = self.journal.close()
        self.reactor.turn()
        if not closed.called:
            raise RuleViolation("the journal does not close")
        compare(before, plain(self.replayed()))
        self.die()
        self.restart()
        yield

    def run_scenario(self) -> Counter[str]:
        """Run the scenario and the checks after it; raises Untrue."""
        globalLogPublisher.addObserver(self)
        try:
            with (
                mock.patch.object(compaction, "MIN_SEALED_BYTES", MIN_SEALED_BYTES),
                mock.patch.object(output_stream, "SYNC_INTERVAL_BYTES", SYNC_INTERVAL_BYTES),
                mock.patch.multiple(
                    segment_writer,
                    PREALLOCATION=PREALLOCATION,
                    BLOCK_SIZE=BLOCK_SIZE,
                    MAX_SMALL_WRITE=MAX_SMALL_WRITE,
                    PREALLOCATE_AFTER=PREALLOCATE_AFTER,
                ),
            ):
                self._run()
        finally:
            globalLogPublisher.removeObserver(self)
            self.filesystem.let_go()
        return self.counts

    def _run(self) -> None:
        with suppress(PowerCut):
            self._work()
        self._next_morning()

    def _work(self) -> None:
        self.restart()
        for _ in self.acts():
            self.settle()
            self.check()
            if self.filesystem.has_failed and self.fault.mode in (Mode.CRASH, Mode.POWER_CUT, Mode.SUDDEN):
                break
            if self.filesystem.is_full:
                self._acts_since_full += 1
                if self._acts_since_full == 2:
                    self.filesystem.is_full = False
                    self.settle()
                    self.check()

    def _next_morning(self) -> None:
        """After the end of a daemon all that was acknowledged is there, nothing else, and work goes on.

        Of what was on its way when the power was cut some may be there.
        """
        before = plain(self.engine.queue_state)
        last = self.journal.last_sequence if self.filesystem.is_off else None
        self.die()
        if self.fault.mode is Mode.POWER_CUT:
            self.filesystem.cut_power()
        compare(before, plain(self.replayed(last)))
        self.filesystem = FaultyFilesystem(NO_FAULT)
        self.start()
        self._check_files()
        self.check_output()
        job = self.submit("in the morning")
        self.settle()
        self.check()
        self.end_all()
        if not job or self.engine.queue_state.get(job[0]).status is not Status.COMPLETED:
            raise RuleViolation("the daemon does not work after the restart")
        self.die()

    def _check_files(self) -> None:
        """Check that the blocks of all jobs and schedules exist, and no files of unknown ones."""
        jobs = self.engine.queue_state.jobs
        for job_id in jobs:
            for name, content in self._blocks.get(job_id, {}).items():
                with open(self.spool.path(job_id, name), "rb") as file:
                    if file.read() != content:
                        raise RuleViolation(f"the {name} of job {job_id} differs from the one that was sent")
            self._check_script(jobs[job_id])
        for directory, _, names in os.walk(self.directory):
            is_of_jobs = "/output/" in directory or "/input/" in directory
            for name in names:
                if is_of_jobs and not directory.endswith(("/schedules", "/environments")):
                    number = int(name.split(".")[0])
                    if number not in jobs:
                        raise RuleViolation(f"{name} of unknown job {number} is left")
        self._check_schedules()
        self._check_environments()
        kept = Path(self.directory, "input", "environments")
        hashes = self.engine.queue_state.environments.hashes
        if set(os.listdir(kept) if kept.is_dir() else ()) != hashes:
            raise RuleViolation(f"expected the environments {sorted(hashes)}")

    def _check_script(self, job: Job) -> None:
        """Check that a job without stdin has the script that its spec names, and no other."""
        files = [Path(self.spool.path(job.id, "script", number)) for number in (0, 1)]
        found = {number: file.read_bytes() for number, file in enumerate(files) if file.exists()}
        if job.array is None and set(found) - {job.spec.script_file}:
            raise RuleViolation(f"job {job.id} has the scripts {set(found)}")
        if job.spec.script_line in ("new", "newer"):
            expected = {job.spec.script_file: job.spec.blocks}
            if {number: sha256(content).hexdigest() for number, content in found.items()} != expected:
                raise RuleViolation(f"the script of job {job.id} is not the one that its spec names")

    def _check_schedules(self) -> None:
        schedules = self.engine.queue_state.schedules
        directory = Path(self.directory, "input", "schedules")
        if set(os.listdir(directory) if directory.is_dir() else ()) != schedules.file_names():
            raise RuleViolation(f"expected the files {schedules.file_names()} of schedules")
        for schedule in schedules.by_id.values():
            for name in schedule.blocks.names:
                if self.spool.read_schedule_block(schedule.blocks, name) != AGAIN[name]:
                    raise RuleViolation(f"the {name} of schedule {schedule.id} is not the one that was sent")

    def __call__(self, event: LogEvent) -> None:
        """Collect errors that are logged."""
        if "log_failure" in event:
            self._bugs.append(event["log_failure"].getTraceback())


def _is_idle(executor: Attempts) -> bool:
    """Whether the reactor waits for commits; a run has commits of both kinds."""
    return not executor.running


async def _read_all(reading: IEventReader) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    while batch := await reading.read_batch():
        found += batch
    return found


def _attempts(queue_state: QueueState, job_id: int) -> int | None:
    job = queue_state.jobs.get(job_id)
    return None if job is None else job.attempts


def plain(queue_state: QueueState) -> dict[str, Any]:
    """Return the state of all jobs, without positions and without the pids of ended attempts."""
    jobs: dict[str, dict[str, Any]] = {}
    for known in queue_state.jobs.values():
        tasks = known.tasks and (known.tasks.ids, {s: n for s, n in known.tasks.counts.items() if n})
        job = jobs[str(known.id)] = {**msgspec.to_builtins(replace(known, tasks=None)), "tasks": tasks}
        is_running = known.status is Status.RUNNING and known.tasks is None
        job["attempts_in_memory"] = attempts = []
        job["last_attempt"] = job["extras"]["past"] = None
        job["end"] = known.completed_at
        for each in (*known.past, known.attempt):
            if each is not None:
                attempt = msgspec.to_builtins(each)
                attempt["record"] = None
                if not is_running or each is not known.attempt:
                    attempt["pid"] = attempt["pid_started"] = None
                attempts.append(attempt)
    keys = {
        key: [job.id for job in queue_state.with_key(key)]
        for key in {known.spec.key for known in queue_state.jobs.values()}
        if key is not None
    }
    counts = {status.value: count for status, count in queue_state.counts.items()}
    others: dict[str, Any] = {
        "queues": list(queue_state.describe_queues()),
        "paused": queue_state.queues.is_paused,
        "schedules": msgspec.to_builtins(queue_state.schedules.by_id),
    }
    for queue in others["queues"]:
        queue["busy"] = None  # that is of those that run here
    return {"jobs": jobs, "counts": counts, "keys": keys, "others": others}


def compare(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise Untrue with the difference unless the two are equal."""
    if mine == theirs:
        return
    differing = {
        job_id: (mine["jobs"].get(job_id), theirs["jobs"].get(job_id))
        for job_id in {*mine["jobs"], *theirs["jobs"]}
        if mine["jobs"].get(job_id) != theirs["jobs"].get(job_id)
    }
    raise RuleViolation(f"state and replay differ: {differing or (mine, theirs)}")


def run_scenario(fault: Fault) -> Scenario:
    """Run the scenario in a new directory and return it; raises Untrue with the fault."""
    directory = tempfile.mkdtemp(
        prefix="taskqd-faults-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    )
    scenario = Scenario(directory, fault)
    try:
        scenario.run_scenario()
    except Exception as why:
        gc.collect()  # logs unhandled errors of Deferreds now, not in the next run
        call = scenario.faulty.calls[fault.number - 1] if scenario.faulty.calls[fault.number - 1 :] else "?"
        raise RuleViolation(f"{fault}, which is a {call}: {type(why).__name__}: {why}") from why
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return scenario


def faults(calls: list[str]) -> Iterator[Fault]:
    """Yield every fault: each call, each error, short writes, and each mode."""
    for mode in Mode:
        for number, name in enumerate(calls, 1):
            for code in CODES:
                if mode is Mode.FULL and code not in (errno.ENOSPC, errno.EDQUOT):
                    continue
                if mode is Mode.SUDDEN and code != errno.EIO:
                    continue
                yield Fault(number, code, False, mode)
                if name in _WRITES:
                    yield Fault(number, code, True, mode)


class Sweep(NamedTuple):
    """The result of a sweep."""

    calls: int
    tried: int
    counts: Counter[str]
    untrue: list[str]

    def __str__(self) -> str:
        return f"{self.calls} calls, {self.tried} faults, {len(self.untrue)} not held; {dict(self.counts)}"


def sweep(step: int = 1, first: int = 0) -> Sweep:
    """Run the scenario with every fault, or with every ``step``-th from ``first`` on."""
    calls = run_scenario(NO_FAULT).faulty.calls
    counts: Counter[str] = Counter()
    untrue: list[str] = []
    tried = 0
    for fault in list(faults(calls))[first::step]:
        tried += 1
        try:
            counts.update(run_scenario(fault).counts)
        except RuleViolation as why:
            untrue.append(str(why))
    return Sweep(len(calls), tried, counts, untrue)


def main() -> None:
    """Run the sweep, or every N-th fault if a number is given, and print the result."""
    began = time.monotonic()
    globalLogBeginner.beginLoggingTo([LogPublisher()], redirectStandardIO=False, discardBuffer=True)
    found = sweep(*map(int, sys.argv[1:]))
    print("".join(f"{each}\n" for each in found.untrue), end="")
    print(f"{found} in {time.monotonic() - began:.0f} s")
    sys.exit(bool(found.untrue))


if __name__ == "__main__":
    main()
