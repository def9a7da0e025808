"""Old jobs are removed by age, count, size and memory, a few at a time."""

from collections.abc import Sequence
from typing import Any

import pytest

from taskqd.config.settings import Retention
from taskqd.engine.retention import (
    BUSY_CHECK_INTERVAL,
    CHECK_INTERVAL,
    MAX_SMALL_BYTES,
    RETENTION,
    RetentionTask,
)
from taskqd.engine.submissions import NewJob
from taskqd.errors import WrongState
from taskqd.execution.run import Outcome
from taskqd.model.events import Event, Output, Removed
from taskqd.model.footprint import ATTEMPT_BYTES, JOB_BYTES
from taskqd.model.spec import DEFAULT_SPEC, Array
from taskqd.state.retention_index import MAX_BATCH
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, replayed
from tests.fakes.processes import COMPLETED, FAILED, LARGE
from tests.support.journals import ran, submitted

DAY = 86_400.0


class Home:
    """An engine with fakes, and a retention task, driven by the test."""

    def __init__(self, journal: list[Event] | None = None, **retention: Any) -> None:
        self.harness = Harness(4, events=journal)
        self.harness.engine.start()
        self.harness.settle()
        self.task = RetentionTask(
            self.harness.engine,
            self.harness.journal,
            Retention(**{"age": 7 * DAY, "count": 1000, **retention}),
            self.harness.clock,
        )

    def end(self, count: int = 1, outcome: Outcome = COMPLETED) -> None:
        """Submit and finish ``count`` jobs."""
        for _ in range(count):
            self.harness.finish(self.harness.submit(), outcome)

    def advance(self, seconds: float = CHECK_INTERVAL) -> None:
        self.harness.clock.advance(seconds)
        self.harness.settle()

    def known(self) -> list[int]:
        return sorted(self.harness.queue_state.jobs)


def test_retention_removes_jobs_that_ended_before_the_age_limit() -> None:
    home = Home(age=DAY)
    home.end(2, LARGE)
    home.advance(DAY / 2)
    home.end()
    home.task.start()
    home.advance(DAY / 2)
    assert home.known() == [1, 2, 3]
    home.advance(CHECK_INTERVAL)
    assert home.known() == [3]
    removals = [event for event in home.harness.journal.events if isinstance(event, Removed)]
    assert [(event.id, event.by) for event in removals] == [(1, RETENTION.name), (2, RETENTION.name)]
    assert home.harness.spool.removed == [(1, 1), (2, 1)]


def test_retention_keeps_up_to_count_finished_jobs() -> None:
    home = Home(count=3)
    home.task.start()
    waiting = home.harness.submit()
    home.end(10)
    assert home.known() == [waiting, 9, 10, 11]


def test_retention_removes_jobs_above_a_large_count_together() -> None:
    home = Home(count=3000)
    home.task._retention = Retention(age=7 * DAY, count=2)
    appended: list[Sequence[Event]] = []
    home.harness.journal.add_observer(lambda _, events: appended.append(events))
    home.end(2)
    home.task.start()
    home.end(2)
    assert home.known() == [1, 2, 3, 4]
    home.end()
    assert home.known() == [4, 5]
    together = [events for events in appended if len(events) > 1]
    assert [[event.id for event in events if isinstance(event, Removed)] for events in together] == [
        [1, 2, 3]
    ]
    assert home.harness.spool.removed == [], "their output is in the journal"
    home.end()
    assert home.known() == [4, 5, 6]
    home.advance()
    assert home.known() == [5, 6]


def test_retention_is_checked_at_once_after_a_job_with_much_output() -> None:
    home = Home(count=3000, size=MAX_SMALL_BYTES)
    home.task.start()
    for _ in range(2):
        home.end(outcome=Outcome(reason=None, exit_code=0, stdout=Output(MAX_SMALL_BYTES + 1)))
    assert home.known() == [2]
    assert home.harness.spool.removed == [(1, 1)]


def test_retention_keeps_up_to_size_bytes_of_output_as_does_replay() -> None:
    home = Home(size=25)
    home.task.start()
    for job_id in range(1, 6):
        home.harness.submit()
        home.harness.finish(job_id, Outcome(reason=None, exit_code=0, stdout=Output(10)))
    home.harness.settle()
    assert home.known() == [4, 5]
    again = replayed(home.harness.journal.events)
    assert again == home.harness.queue_state
    assert again.retention_index.bytes == home.harness.queue_state.retention_index.bytes == 20


def test_retention_keeps_up_to_memory_bytes_of_ended_jobs_as_does_replay() -> None:
    one = JOB_BYTES + ATTEMPT_BYTES + 100
    home = Home(memory=2 * one)
    home.task.start()
    home.end(5)
    home.harness.settle()
    assert home.known() == [4, 5]
    again = replayed(home.harness.journal.events)
    assert again == home.harness.queue_state
    assert again.retention_index.memory == home.harness.queue_state.retention_index.memory <= 2 * one


def test_retention_keeps_count_jobs_while_removals_are_in_progress() -> None:
    home = Home(count=3)
    home.task.start()
    for _ in range(4):
        home.harness.submit()
    for job_id in (1, 2, 3, 4):
        home.harness.executor.finish(job_id)
    home.harness.journal.sync(4)
    assert [event.id for event in home.harness.journal.pending if isinstance(event, Removed)] == [1]
    for _ in range(3):
        home.harness.begin_submit()
    home.harness.settle()
    for job_id in (5, 6, 7):
        home.harness.executor.finish(job_id)
    home.harness.settle()
    assert home.known() == [5, 6, 7]


def test_retention_with_count_zero_keeps_no_ended_job() -> None:
    home = Home(count=0)
    home.task.start()
    home.end(3)
    assert home.known() == []


def test_retention_keeps_a_retried_job_until_its_new_end_expires() -> None:
    home = Home(age=DAY)
    home.end(2)
    home.advance(DAY)
    home.harness.retry(1)
    home.harness.settle()
    home.task.start()
    home.advance()
    assert home.known() == [1]
    home.harness.finish(1, FAILED)
    home.advance(DAY - 1)
    assert home.known() == [1]
    home.advance(DAY)
    assert home.known() == []


def test_retention_keeps_a_job_whose_retry_is_not_durable_yet() -> None:
    home = Home(count=0, age=DAY)
    home.end()
    retried = home.harness.retry(1)
    home.task.start()
    home.harness.settle()
    result_of(retried)
    assert home.known() == [1]
    home.harness.finish(1)
    home.advance()
    assert home.known() == []


def test_retention_removes_many_jobs_in_several_checks() -> None:
    home = Home()
    home.end(2 * MAX_BATCH + 1)
    home.task._retention = Retention(age=7 * DAY, count=0)
    home.task.start()
    home.harness.settle()
    assert len(home.known()) == MAX_BATCH + 1
    home.advance(BUSY_CHECK_INTERVAL)
    assert len(home.known()) == 1
    home.advance(BUSY_CHECK_INTERVAL)
    assert home.known() == []
    home.advance(BUSY_CHECK_INTERVAL)
    home.end()
    assert home.known() == []


def test_retention_that_has_removed_all_at_once_removes_the_next_ones_together() -> None:
    home = Home(count=3000)
    home.task._retention = Retention(age=7 * DAY, count=2)
    home.end(3)
    home.task.start()
    home.harness.settle()
    assert home.known() == [2, 3]
    home.end()
    home.advance(BUSY_CHECK_INTERVAL)
    home.end()
    home.advance(BUSY_CHECK_INTERVAL)
    assert home.known() == [2, 3, 4, 5]
    home.end()
    assert home.known() == [5, 6]


def test_retention_limits_removals_in_progress_over_all_checks() -> None:
    home = Home(age=1.0)
    home.end(3 * MAX_BATCH)
    home.harness.clock.advance(2)
    for _ in range(5):
        assert home.task.remove_expired()
        assert len(home.harness.journal.pending) == MAX_BATCH
    home.harness.settle()
    assert home.task.remove_expired()
    assert len(home.harness.journal.pending) == MAX_BATCH


def test_retention_resumes_when_the_journal_is_writable_again() -> None:
    home = Home(age=DAY)
    home.end(3)
    home.advance(DAY + 1)
    home.task.start()
    assert len(home.harness.journal.pending) == 3
    home.harness.journal.fail()
    home.advance()
    assert home.known() == [1, 2, 3]
    home.harness.journal.recover()
    home.advance()
    assert home.known() == []
    removals = [event.id for event in home.harness.journal.events if isinstance(event, Removed)]
    assert removals == [1, 2, 3]


def test_retention_removes_jobs_that_ended_before_a_restart() -> None:
    home = Home(journal=[submitted(1), *ran(1), submitted(2), *ran(2)], age=DAY)
    home.task.start()
    home.advance(2 * DAY)
    assert home.known() == []


def test_retention_removes_nothing_after_stop() -> None:
    home = Home(count=0)
    home.task.stop()
    home.task.start()
    home.end()
    assert home.known() == [1]
    home.task.stop()
    home.advance(10)
    assert home.harness.clock.getDelayedCalls() == []


def test_retention_removes_an_ended_array_with_all_its_tasks() -> None:
    home = Home(count=1)
    home.task.start()
    array = home.harness.submit(array=Array(1, 3))
    assert array == 1
    for task in (2, 3):
        home.harness.finish(task, LARGE)
    home.end(2)
    assert home.known() == [1, 2, 3, 4, 6]
    home.advance()
    home.harness.finish(4)
    assert home.known() == [1, 2, 3, 4]
    home.advance()
    home.end()
    assert home.known() == [7]
    assert [event.id for event in home.harness.journal.events if isinstance(event, Removed)] == [5, 6, 1]
    assert sorted(home.harness.spool.removed) == [(2, 1), (3, 1)]
    assert home.harness.engine.counters["removed"] == 3


def test_retention_keeps_an_array_while_one_of_its_tasks_runs_again() -> None:
    home = Home(age=DAY)
    home.harness.submit(array=Array(1, 2))
    home.harness.finish(2)
    home.harness.finish(3)
    home.harness.retry(3)
    home.harness.settle()
    home.task.start()
    home.advance(DAY + 1)
    home.advance()
    assert home.known() == [1, 2, 3]
    home.harness.finish(3)
    home.advance(DAY + 1)
    home.advance()
    assert home.known() == []


def test_retention_keeps_the_latest_job_of_a_schedule_until_it_is_replaced_or_unscheduled() -> None:
    home = Home(count=0)
    home.task.start()
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
def test_retention_removes_a_failed_dependency_after_its_dependents_are_skipped(is_task: bool) -> None:
    home = Home(count=0)
    home.task.start()
    harness = home.harness
    first = harness.submit(array=Array(1, 1)) + 1 if is_task else harness.submit()
    for _ in range(3):
        harness.submit(after=(first,))
    harness.executor.finish(first, FAILED)
    harness.settle()
    home.advance()
    home.advance()
    kinds = [event.name for event in harness.journal.events]
    assert kinds.count("skipped") == 3
    last = len(kinds) - 1 - kinds[::-1].index("skipped")
    assert "removed" not in kinds[:last]
    assert home.known() == []
