"""Sealed segments are replaced by a snapshot, and known positions stay readable meanwhile."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

from taskqd.model.events import Compacted, Ended, RecordPosition
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import compaction
from taskqd.storage.journal.compaction import CHECK_INTERVAL, MIN_SEALED_BYTES, RETRY_INTERVAL, Compactor
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import FakeClocks, Threads, in_thread
from tests.fakes.deferreds import result_of
from tests.support.journals import split_events, story, write


class StubJournal:
    """The properties of a journal that a compactor uses; ``snapshots`` has the calls of `compacted`."""

    def __init__(self, directory: Path) -> None:
        self.segments = Segments(str(directory), Filesystem())
        self.failure: str | None = None
        self.last_durable_segment = 4
        self.sealed_bytes = 0
        self.snapshot_number = 0
        self.snapshot_bytes = 0
        self.snapshots: list[tuple[int, int]] = []
        self.forgotten: list[int] = []

    def compacted(self, number: int, size: int) -> None:
        self.snapshots.append((number, size))
        self.sealed_bytes, self.snapshot_number, self.snapshot_bytes = 0, number, size

    def forget_jobs(self, is_known: Callable[[int], bool]) -> Iterator[None]:
        for job_id in range(1, 10):
            if not is_known(job_id):
                self.forgotten.append(job_id)
            yield


class Bench:
    """A compactor; ``requests`` are the snapshots that it asked for, ``answer`` is what they get."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClocks()
        self.journal = StubJournal(directory)
        self.queue_state = QueueState()
        self.requests: list[tuple[str, int]] = []
        self.answer: Deferred[None] = succeed(None)
        self.threads: Any = in_thread
        self.compactor = Compactor(
            cast("Any", self.journal),
            self.clock,
            self._write_snapshot,
            self.queue_state.relocate,
            self._in_thread,
            self.queue_state.jobs.__contains__,
        )

    def _in_thread(self, function: Any, *args: Any) -> "Deferred[Any]":
        return cast("Deferred[Any]", self.threads(function, *args))

    def _write_snapshot(self, directory: str, number: int) -> "Deferred[None]":
        self.requests.append((directory, number))
        return self.answer

    def advance(self, seconds: float = CHECK_INTERVAL) -> None:
        self.clock.advance(seconds)


@pytest.fixture(name="bench")
def make_bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    "closed, last, is_due",
    [
        (0, 0, False),
        (MIN_SEALED_BYTES, 0, False),
        (MIN_SEALED_BYTES + 1, 0, True),
        (MIN_SEALED_BYTES + 1, MIN_SEALED_BYTES + 1, False),
        (MIN_SEALED_BYTES + 2, MIN_SEALED_BYTES + 1, True),
    ],
)
def test_snapshot_is_due_when_sealed_segments_outgrow_the_last_one(
    bench: Bench, closed: int, last: int, is_due: bool
) -> None:
    bench.journal.sealed_bytes, bench.journal.snapshot_bytes = closed, last
    bench.answer = Deferred()
    bench.compactor.start()
    assert bench.requests == ([(bench.journal.segments.directory, 3)] if is_due else [])
    bench.compactor.stop()


def test_snapshots_are_made_one_at_a_time_and_not_while_the_journal_has_failed(bench: Bench) -> None:
    bench.journal.sealed_bytes = MIN_SEALED_BYTES + 1
    bench.journal.failure = "full"
    bench.answer = Deferred()
    bench.compactor.start()
    assert bench.requests == []
    bench.journal.failure = None
    bench.advance()
    bench.advance()
    assert len(bench.requests) == 1


def test_failed_snapshot_is_logged_and_retried_later(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.journal.sealed_bytes = MIN_SEALED_BYTES + 1
    bench.answer = fail(OSError("no space left"))
    bench.compactor.start()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"snapshot of {bench.journal.segments.directory} failed: no space left; the next attempt is in 60 s"
    ]
    bench.advance(RETRY_INTERVAL - 1)
    assert len(bench.requests) == 1
    bench.answer = Deferred()
    bench.advance(1)
    assert len(bench.requests) == 2
    assert bench.journal.snapshots == []


def test_snapshot_that_fails_after_stop_is_not_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.journal.sealed_bytes = MIN_SEALED_BYTES + 1
    bench.answer = Deferred()
    bench.compactor.start()
    bench.compactor.stop()
    bench.answer.errback(OSError("terminated"))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def filled(tmp_path: Path) -> Bench:
    """Return a bench with the jobs of a journal, when a snapshot of its first three segments is due."""
    events = story(40)
    write(tmp_path, *split_events(events, 4))
    segments = Segments(str(tmp_path), Filesystem())
    bench = Bench(tmp_path)
    for batch in segments.replay(segments.layout(), Replay()):
        bench.queue_state.apply_replayed(batch)
    bench.journal.sealed_bytes = MIN_SEALED_BYTES + 1
    return bench


def ends(bench: Bench) -> dict[int, tuple[Any, Any]]:
    """Return the position of each job's last end, and the record that is read there."""
    jobs = bench.queue_state.jobs.values()
    positions = {job.id: job.attempt.record for job in jobs if job.attempt and job.attempt.record}
    return {job: (position, end(bench, job, position)) for job, position in positions.items()}


def end(bench: Bench, job_id: int, position: RecordPosition) -> object:
    """Return the end of a job's latest attempt, which is read from a position."""
    record, attempt = bench.journal.segments.read(position), bench.queue_state.jobs[job_id].attempt
    assert attempt is not None
    return record.end_of(attempt.number) if isinstance(record, Compacted) else record


def test_positions_stay_readable_while_they_move_into_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[Deferred[None]] = []

    def pause(clock: Any, seconds: float) -> "Deferred[None]":
        pauses.append(Deferred())
        return pauses[-1]

    monkeypatch.setattr(compaction, "RELOCATION_BYTES", 150)
    monkeypatch.setattr(compaction, "deferLater", pause)
    bench = filled(tmp_path)
    threads = bench.threads = Threads()
    before = ends(bench)
    assert {position[0] for position, _ in before.values()} == {1, 2, 3, 4}
    bench.answer = Deferred()
    bench.compactor.start()
    bench.compactor.stop()
    SnapshotWriter(bench.journal.segments, Filesystem(), 3).write()
    bench.answer.callback(None)
    threads.run()
    turns = 0
    while pauses:
        after = ends(bench)
        assert {job: end for job, (_, end) in after.items()} == {job: end for job, (_, end) in before.items()}
        pauses.pop().callback(None)
        threads.run()
        turns += 1
    assert turns >= 3
    [(number, size)] = bench.journal.snapshots
    assert (number, size) == (3, (tmp_path / "00000003.snapshot").stat().st_size)
    bench.journal.segments.close_replaced(3)
    after = ends(bench)
    assert {position[0] for position, _ in after.values()} == {-3, 4}
    assert {job: end for job, (_, end) in after.items()} == {job: end for job, (_, end) in before.items()}
    assert all(isinstance(end, Ended) for _, end in after.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003.snapshot", "00000004.journal"]
    bench.journal.segments.close()


def test_next_snapshot_waits_for_new_durable_segments(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    SnapshotWriter(bench.journal.segments, Filesystem(), 3).write()
    bench.compactor.start()
    bench.advance(0)
    assert len(bench.journal.snapshots) == 1
    bench.advance()
    assert len(bench.requests) == 1
    bench.journal.sealed_bytes = MIN_SEALED_BYTES + 1
    bench.advance()
    assert len(bench.requests) == 1, "all durable segments are in the snapshot"
    bench.journal.last_durable_segment += 1
    bench.advance()
    assert len(bench.requests) == 2
    bench.compactor.stop()


def test_removed_jobs_are_forgotten_after_a_snapshot(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    SnapshotWriter(bench.journal.segments, Filesystem(), 3).write()
    bench.compactor.start()
    bench.advance(0)
    assert bench.journal.forgotten == [4]
    bench.compactor.stop()


def test_compactor_starts_no_snapshot_after_stop(bench: Bench) -> None:
    bench.compactor.start()
    bench.compactor.stop()
    bench.journal.sealed_bytes = 2 * MIN_SEALED_BYTES
    bench.advance(10)
    bench.compactor.start()
    assert bench.requests == []
    assert bench.clock.getDelayedCalls() == []


# The process that writes it.


class StubReactor:
    """A reactor that records a spawn and starts no process."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.argv: list[str] = []
        self.environment: dict[str, str] = {}

    def spawnProcess(self, protocol: Any, path: str, argv: list[str], env: dict[str, str]) -> Any:
        self.protocol, self.argv, self.environment = protocol, argv, env
        assert path == argv[0]


def test_snapshot_process_runs_the_same_python_with_directory_and_number() -> None:
    reactor: Any = StubReactor()
    made = compaction.write_snapshot(reactor, "/j", 7)
    assert reactor.argv[0] == sys.executable
    assert reactor.argv[-2:] == ["/j", "7"]
    reactor.protocol.processEnded(Failure(ProcessDone(0)))
    result_of(made)


@pytest.mark.parametrize(
    "said, why",
    [
        (b"", "process ended by signal "),  # how it is named depends on the version of Python
        (b"the disk is full\n", "the disk is full"),
        (b"x" * 5000 + b" \xff the end", "the end"),
    ],
)
def test_snapshot_process_that_fails_raises_the_end_of_its_stderr(said: bytes, why: str) -> None:
    reactor: Any = StubReactor()
    made = compaction.write_snapshot(reactor, "/j", 7)
    errors: list[Any] = []
    made.addErrback(errors.append)
    for at in range(0, len(said), 700):
        reactor.protocol.errReceived(said[at : at + 700])
    reactor.protocol.processEnded(Failure(ProcessTerminated(None, signal.SIGKILL)))
    [failure] = errors
    assert failure.check(OSError)
    assert why in failure.getErrorMessage()
    assert len(failure.getErrorMessage()) < 1100


async def test_snapshot_process_writes_a_snapshot(reactor: Any, tmp_path: Path) -> None:
    write(tmp_path, *split_events(story(20), 2))
    await compaction.write_snapshot(reactor, str(tmp_path), 1)
    assert (tmp_path / "00000001.snapshot").exists()
    with pytest.raises(OSError, match=r"00000003\.journal"):
        await compaction.write_snapshot(reactor, str(tmp_path), 2)
