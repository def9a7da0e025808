"""What keeps the state from growing: old jobs go by age and by count, closed segments go into a snapshot."""

import signal
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

from taskqd.config.settings import Retention
from taskqd.engine import retention as housekeeping
from taskqd.engine.retention import (
    AFTER_FAILURE,
    CHECK_EVERY,
    CHECK_SOON,
    RETENTION,
    SNAPSHOT_FROM,
    RetentionTask,
)
from taskqd.engine.submissions import NewJob
from taskqd.errors import WrongState
from taskqd.execution.run import Outcome
from taskqd.model.events import Ended, Event, Output, Removed
from taskqd.model.footprint import ATTEMPT_BYTES, JOB_BYTES
from taskqd.model.spec import DEFAULT_SPEC, Array
from taskqd.state.retention_index import MAX_BATCH as EXPIRED_AT_ONCE
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal import compaction
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.clocks import Threads, in_thread
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, replayed
from tests.fakes.processes import FAILED
from tests.support.journals import portions, ran, story, submitted, write

DAY = 86_400.0


class FakeJournal:
    """The store as a housekeeper sees it: how much is closed, and what has become of it."""

    def __init__(self, directory: Path) -> None:
        self.segments = Segments(str(directory), Filesystem())
        self.failure: str | None = None
        self.last_durable_segment = 4
        self.sealed_bytes = 0
        self.snapshot_number = 0
        self.snapshot_bytes = 0
        self.taken: list[tuple[int, int]] = []

    def compacted(self, number: int, size: int) -> None:
        self.taken.append((number, size))
        self.sealed_bytes, self.snapshot_number, self.snapshot_bytes = 0, number, size


class Home:
    """A house that is kept, and whatever it takes to keep it in the hands of the test."""

    def __init__(self, directory: Path, journal: list[Event] | None = None, **retention: Any) -> None:
        self.harness = Harness(4, journal=journal)
        self.harness.engine.start()
        self.harness.settle()
        self.store = FakeJournal(directory)
        self.asked: list[tuple[str, int]] = []
        self.answer: Deferred[None] = succeed(None)
        self.threads: Any = in_thread
        self.keeper = RetentionTask(
            self.harness.engine,
            cast("Any", self.store),
            Retention(**{"age": 7 * DAY, "count": 1000, **retention}),
            self.harness.clock,
            self._condense,
            self._in_thread,
        )

    def _in_thread(self, function: Any, *args: Any) -> "Deferred[Any]":
        return cast("Deferred[Any]", self.threads(function, *args))

    def _condense(self, directory: str, number: int) -> "Deferred[None]":
        self.asked.append((directory, number))
        return self.answer

    def end(self, count: int = 1) -> None:
        """Let so many jobs come and go."""
        for _ in range(count):
            self.harness.finish(self.harness.submit())

    def advance(self, seconds: float = CHECK_EVERY) -> None:
        self.harness.clock.advance(seconds)
        self.harness.settle()

    def known(self) -> list[int]:
        return sorted(self.harness.queue_state.jobs)


@pytest.fixture(name="home")
def a_home(tmp_path: Path) -> Home:
    return Home(tmp_path)


# Retention.


def test_jobs_that_ended_long_enough_ago_are_removed_by_the_retention(tmp_path: Path) -> None:
    home = Home(tmp_path, age=DAY)
    home.end(2)
    home.advance(DAY / 2)
    home.end()
    home.keeper.start()
    home.advance(DAY / 2)
    assert home.known() == [1, 2, 3]
    home.advance(CHECK_EVERY)
    assert home.known() == [3]
    removals = [event for event in home.harness.store.events if isinstance(event, Removed)]
    assert [(event.id, event.by) for event in removals] == [(1, RETENTION.name), (2, RETENTION.name)]
    assert home.harness.spool.removed == [(1, 1), (2, 1)]


def test_no_more_finished_jobs_are_kept_than_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path, count=3)
    home.keeper.start()
    waiting = home.harness.submit()
    home.end(10)
    assert home.known() == [waiting, 9, 10, 11]


def test_no_more_output_is_kept_than_asked_for_and_replay_agrees(tmp_path: Path) -> None:
    home = Home(tmp_path, size=25)
    home.keeper.start()
    for job_id in range(1, 6):
        home.harness.submit()
        home.harness.finish(job_id, Outcome(reason=None, exit_code=0, stdout=Output(10)))
    home.harness.settle()
    assert home.known() == [4, 5]
    again = replayed(home.harness.store.events)
    assert again == home.harness.queue_state
    assert again.retention_index.bytes == home.harness.queue_state.retention_index.bytes == 20


def test_ended_jobs_take_no_more_memory_than_asked_for_and_replay_agrees(tmp_path: Path) -> None:
    one = JOB_BYTES + ATTEMPT_BYTES + 100
    home = Home(tmp_path, memory=2 * one)
    home.keeper.start()
    home.end(5)
    home.harness.settle()
    assert home.known() == [4, 5]
    again = replayed(home.harness.store.events)
    assert again == home.harness.queue_state
    assert again.retention_index.memory == home.harness.queue_state.retention_index.memory <= 2 * one


def test_never_fewer_are_kept_than_asked_for_while_removals_are_on_their_way(tmp_path: Path) -> None:
    home = Home(tmp_path, count=3)
    home.keeper.start()
    for _ in range(4):
        home.harness.submit()
    for job_id in (1, 2, 3, 4):
        home.harness.executor.finish(job_id)
    home.harness.store.sync(4)
    assert [event.id for event in home.harness.store.pending if isinstance(event, Removed)] == [1]
    for _ in range(3):
        home.harness.asked()
    home.harness.settle()
    for job_id in (5, 6, 7):
        home.harness.executor.finish(job_id)
    home.harness.settle()
    assert home.known() == [5, 6, 7]


def test_with_a_count_of_none_nothing_that_has_ended_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, count=0)
    home.keeper.start()
    home.end(3)
    assert home.known() == []


def test_a_retried_job_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, age=DAY)
    home.end(2)
    home.advance(DAY)
    home.harness.retry(1)
    home.harness.settle()
    home.keeper.start()
    home.advance()
    assert home.known() == [1]
    home.harness.finish(1, FAILED)
    home.advance(DAY - 1)
    assert home.known() == [1]
    home.advance(DAY)
    assert home.known() == []


def test_a_job_whose_retry_is_on_its_way_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, count=0, age=DAY)
    home.end()
    retried = home.harness.retry(1)
    home.keeper.start()
    home.harness.settle()
    result_of(retried)
    assert home.known() == [1]
    home.harness.finish(1)
    home.advance()
    assert home.known() == []


def test_many_are_removed_a_few_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.end(2 * EXPIRED_AT_ONCE + 1)
    home.keeper._retention = Retention(age=7 * DAY, count=0)
    home.keeper.start()
    home.harness.settle()
    assert len(home.known()) == EXPIRED_AT_ONCE + 1
    home.advance(CHECK_SOON)
    assert len(home.known()) == 1
    home.advance(CHECK_SOON)
    assert home.known() == []
    home.advance(CHECK_SOON)
    home.end()
    assert home.known() == []


def test_a_batch_of_ends_begins_no_more_removals_than_one(tmp_path: Path) -> None:
    home = Home(tmp_path, age=1.0)
    home.end(3 * EXPIRED_AT_ONCE)
    home.harness.clock.advance(2)
    for _ in range(5):
        assert home.keeper.remove_expired()
        assert len(home.harness.store.pending) == EXPIRED_AT_ONCE
    home.harness.settle()
    assert home.keeper.remove_expired()
    assert len(home.harness.store.pending) == EXPIRED_AT_ONCE


def test_what_a_failed_store_cannot_remove_is_removed_when_it_works_again(tmp_path: Path) -> None:
    home = Home(tmp_path, age=DAY)
    home.end(3)
    home.advance(DAY + 1)
    home.keeper.start()
    assert len(home.harness.store.pending) == 3
    home.harness.store.fail()
    home.store.failure = home.harness.store.failure
    home.advance()
    assert home.known() == [1, 2, 3]
    home.harness.store.recover()
    home.store.failure = None
    home.advance()
    assert home.known() == []
    removals = [event.id for event in home.harness.store.events if isinstance(event, Removed)]
    assert removals == [1, 2, 3]


def test_after_a_restart_what_ended_before_expires_too(tmp_path: Path) -> None:
    home = Home(tmp_path, journal=[submitted(1), *ran(1), submitted(2), *ran(2)], age=DAY)
    home.keeper.start()
    home.advance(2 * DAY)
    assert home.known() == []


def test_nothing_begins_after_a_stop(tmp_path: Path) -> None:
    home = Home(tmp_path, count=0)
    home.keeper.stop()
    home.keeper.start()
    home.end()
    assert home.known() == [1]
    home.keeper.stop()
    home.store.sealed_bytes = 2 * SNAPSHOT_FROM
    home.advance(10)
    assert home.asked == []
    assert home.harness.clock.getDelayedCalls() == []


def test_an_array_goes_as_one_job_with_all_its_tasks_once_it_has_ended(tmp_path: Path) -> None:
    home = Home(tmp_path, count=1)
    home.keeper.start()
    array = home.harness.submit(array=Array(1, 3))
    assert array == 1
    for task in (2, 3):
        home.harness.finish(task)
    home.end(2)
    assert home.known() == [1, 2, 3, 4, 6]
    home.advance()
    home.harness.finish(4)
    assert home.known() == [1, 2, 3, 4]
    home.advance()
    home.end()
    assert home.known() == [7]
    assert [event.id for event in home.harness.store.events if isinstance(event, Removed)] == [5, 6, 1]
    assert sorted(home.harness.spool.removed) == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]
    assert home.harness.engine.counters["removed"] == 3


def test_of_an_array_that_has_ended_no_task_that_runs_again_is_removed(tmp_path: Path) -> None:
    home = Home(tmp_path, age=DAY)
    home.harness.submit(array=Array(1, 2))
    home.harness.finish(2)
    home.harness.finish(3)
    home.harness.retry(3)
    home.harness.settle()
    home.keeper.start()
    home.advance(DAY + 1)
    home.advance()
    assert home.known() == [1, 2, 3]
    home.harness.finish(3)
    home.advance(DAY + 1)
    home.advance()
    assert home.known() == []


def test_the_latest_run_of_a_schedule_stays_until_there_is_a_later_one_or_the_schedule_ends(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path, count=0)
    home.keeper.start()
    home.harness.schedule()
    home.harness.settle()
    home.harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    home.harness.settle()
    home.harness.finish(1)
    home.end()
    home.advance()
    assert home.known() == [1]
    home.harness.engine.submissions.submit(NewJob("true", DEFAULT_SPEC, ACTOR, schedule=1))
    home.harness.settle()
    home.advance()
    assert home.known() == [3]
    home.harness.finish(3)
    home.advance()
    assert home.known() == [3]
    assert isinstance(error_of(home.harness.remove(3)), WrongState)
    home.harness.unschedule(1)
    home.advance()
    home.advance()
    assert home.known() == []


@pytest.mark.parametrize("is_task", [False, True])
def test_a_job_because_of_which_others_are_skipped_goes_after_they_are_and_is_not_forgotten(
    tmp_path: Path, is_task: bool
) -> None:
    home = Home(tmp_path, count=0)
    home.keeper.start()
    harness = home.harness
    first = harness.submit(array=Array(1, 1)) + 1 if is_task else harness.submit()
    for _ in range(3):
        harness.submit(after=(first,))
    harness.executor.finish(first, FAILED)
    harness.settle()
    home.advance()
    home.advance()
    kinds = [event.name for event in harness.store.events]
    assert kinds.count("skipped") == 3
    last = len(kinds) - 1 - kinds[::-1].index("skipped")
    assert "removed" not in kinds[:last]
    assert home.known() == []


# Snapshots.


@pytest.mark.parametrize(
    "closed, last, is_due",
    [
        (0, 0, False),
        (SNAPSHOT_FROM, 0, False),
        (SNAPSHOT_FROM + 1, 0, True),
        (SNAPSHOT_FROM + 1, SNAPSHOT_FROM + 1, False),
        (SNAPSHOT_FROM + 2, SNAPSHOT_FROM + 1, True),
    ],
)
def test_a_snapshot_is_made_of_the_closed_segments_when_they_outgrow_the_last_one(
    home: Home, closed: int, last: int, is_due: bool
) -> None:
    home.store.sealed_bytes, home.store.snapshot_bytes = closed, last
    home.answer = Deferred()
    home.keeper.start()
    assert home.asked == ([(home.store.segments.directory, 3)] if is_due else [])
    home.keeper.stop()


def test_one_snapshot_is_made_at_a_time_and_none_while_the_store_has_failed(home: Home) -> None:
    home.store.sealed_bytes = SNAPSHOT_FROM + 1
    home.store.failure = "full"
    home.answer = Deferred()
    home.keeper.start()
    assert home.asked == []
    home.store.failure = None
    home.advance()
    home.advance()
    assert len(home.asked) == 1


def test_a_snapshot_that_fails_is_told_once_and_tried_again_later(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.store.sealed_bytes = SNAPSHOT_FROM + 1
    home.answer = fail(OSError("no space left"))
    home.keeper.start()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "no snapshot could be made: no space left"
    ]
    home.advance(AFTER_FAILURE - 1)
    assert len(home.asked) == 1
    home.answer = Deferred()
    home.advance(1)
    assert len(home.asked) == 2
    assert home.store.taken == []


def test_a_snapshot_that_a_stop_cuts_off_is_nobody_s_business(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.store.sealed_bytes = SNAPSHOT_FROM + 1
    home.answer = Deferred()
    home.keeper.start()
    home.keeper.stop()
    home.answer.errback(OSError("terminated"))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def told(tmp_path: Path) -> Home:
    """Return a house whose jobs ended as in a journal, of whose first three segments a snapshot is due."""
    events = story(40)
    write(tmp_path, *portions(events, 4))
    segments = Segments(str(tmp_path), Filesystem())
    home = Home(tmp_path)
    for event, position in segments.replay(segments.layout(), Replay()):
        home.harness.queue_state.apply(event, position)
    home.store.sealed_bytes = SNAPSHOT_FROM + 1
    return home


def ends(home: Home) -> dict[int, tuple[Any, Any]]:
    """Return by job where the last end stands, and what is read there."""
    jobs = home.harness.queue_state.jobs.values()
    positions = {job.id: job.attempt.record for job in jobs if job.attempt and job.attempt.record}
    return {job: (position, home.store.segments.read(position)) for job, position in positions.items()}


def test_ends_are_read_in_the_snapshot_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[Deferred[None]] = []

    def pause(clock: Any, seconds: float) -> "Deferred[None]":
        pauses.append(Deferred())
        return pauses[-1]

    monkeypatch.setattr(compaction, "RELOCATIONS_PER_TURN", 10)
    monkeypatch.setattr(housekeeping, "deferLater", pause)
    home = told(tmp_path)
    threads = home.threads = Threads()
    before = ends(home)
    assert {position[0] for position, _ in before.values()} == {1, 2, 3, 4}
    home.answer = Deferred()
    home.keeper.start()
    home.keeper._timer.cancel()
    SnapshotWriter(home.store.segments, Filesystem(), 3).write()
    home.answer.callback(None)
    threads.run()
    turns = 0
    while pauses:
        after = ends(home)
        assert {job: end for job, (_, end) in after.items()} == {job: end for job, (_, end) in before.items()}
        pauses.pop().callback(None)
        turns += 1
    assert turns >= 3
    assert home.store.taken == []
    threads.run()
    [(number, size)] = home.store.taken
    assert (number, size) == (3, (tmp_path / "00000003.snapshot").stat().st_size)
    home.store.segments.close_replaced(3)
    after = ends(home)
    assert {position[0] for position, _ in after.values()} == {-3, 4}
    assert {job: end for job, (_, end) in after.items()} == {job: end for job, (_, end) in before.items()}
    assert all(isinstance(end, Ended) for _, end in after.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003.snapshot", "00000004.journal"]
    home.store.segments.close()


def test_after_one_snapshot_comes_the_next(tmp_path: Path) -> None:
    home = told(tmp_path)
    SnapshotWriter(home.store.segments, Filesystem(), 3).write()
    home.keeper.start()
    home.advance(0)
    assert len(home.store.taken) == 1
    home.advance()
    assert len(home.asked) == 1
    home.store.sealed_bytes = SNAPSHOT_FROM + 1
    home.advance()
    assert len(home.asked) == 1, "all that is durable has been condensed"
    home.store.last_durable_segment += 1
    home.advance()
    assert len(home.asked) == 2
    home.keeper.stop()


# The process that makes it.


class OneProcess:
    """A reactor that spawns nothing; the test says how it went."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.line: list[str] = []
        self.environment: dict[str, str] = {}

    def spawnProcess(self, protocol: Any, path: str, line: list[str], env: dict[str, str]) -> Any:
        self.protocol, self.line, self.environment = protocol, line, env
        assert path == line[0]


def test_the_snapshot_is_made_by_this_python_without_the_daemon_s_directory() -> None:
    reactor = OneProcess()
    made = compaction.condense(reactor, "/j", 7)
    assert reactor.line[0] == sys.executable
    assert reactor.line[-2:] == ["/j", "7"]
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
def test_what_the_process_said_is_why_there_is_no_snapshot(said: bytes, why: str) -> None:
    reactor = OneProcess()
    made = compaction.condense(reactor, "/j", 7)
    errors: list[Any] = []
    made.addErrback(errors.append)
    for at in range(0, len(said), 700):
        reactor.protocol.errReceived(said[at : at + 700])
    reactor.protocol.processEnded(Failure(ProcessTerminated(None, signal.SIGKILL)))
    [failure] = errors
    assert failure.check(OSError)
    assert why in failure.getErrorMessage()
    assert len(failure.getErrorMessage()) < 1100


async def test_a_real_process_makes_a_real_snapshot(reactor: Any, tmp_path: Path) -> None:
    write(tmp_path, *portions(story(20), 2))
    await compaction.condense(reactor, str(tmp_path), 1)
    assert (tmp_path / "00000001.snapshot").exists()
    with pytest.raises(OSError, match=r"00000003\.journal"):
        await compaction.condense(reactor, str(tmp_path), 2)
