"""Commands for arrays with many touched tasks: in portions, while the array is locked."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.engine import job_commands
from taskqd.errors import Gone
from taskqd.model.job import Status
from taskqd.model.spec import Array
from taskqd.state import job_changes
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED, FAILED, LARGE

TASKS = range(2, 8)


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_changes, "PORTION_COST", 2 * (job_changes.MOVE_COST + 1))


def after_runs(*outcomes: Any) -> Harness:
    """Return a harness with array 1, whose tasks have ended with these outcomes."""
    harness = opened(len(outcomes))
    harness.submit(array=Array(1, len(outcomes)))
    for task, outcome in enumerate(outcomes, 2):
        harness.finish(task, outcome)
    return harness


def settle(harness: Harness) -> None:
    """Make all events durable, and apply all of their portions."""
    for _ in range(5):
        harness.settle()
        harness.clock.advance(0)


class Turns:
    """The calls that wait for the next turns of the reactor."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Callable[[], object]] = []
        monkeypatch.setattr(harness.clock, "callLater", lambda _, *call: self.calls.append(partial(*call)))

    def pass_one(self) -> None:
        self.calls.pop(0)()


@pytest.mark.usefixtures("small_portions")
def test_retry_answers_after_all_portions_and_other_commands_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = after_runs(*[FAILED] * 6)
    turns = Turns(harness, monkeypatch)
    retry = harness.retry(1)
    harness.journal.sync()
    hold, cancel = harness.hold(1), harness.cancel(7)
    assert harness.journal.pending == [], "they wait for the lock of the array"
    assert harness.job(1).count_of(Status.PENDING) == 2
    turns.pass_one()
    assert harness.job(1).count_of(Status.PENDING) == 4
    assert not harness.queue_state.ready_queue.is_allocated(6)
    turns.pass_one()
    assert harness.job(1).count_of(Status.PENDING) == 6
    turns.pass_one()
    assert result_of(retry) is harness.job(1)
    monkeypatch.undo()
    settle(harness)
    assert result_of(hold).is_held
    assert result_of(cancel).status is Status.CANCELLED
    assert harness.queue_state == replayed(harness.journal.events)


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("command", ["hold", "release", "cancel"])
def test_command_for_many_touched_tasks_gives_the_state_of_a_replay(command: str) -> None:
    harness = after_runs(*[FAILED, COMPLETED] * 3)
    harness.pause()
    harness.settle()
    harness.retry(1)
    harness.hold(1)
    settle(harness)
    getattr(harness, command)(1)
    settle(harness)
    assert harness.queue_state == replayed(harness.journal.events)
    assert harness.job(1).count_of(Status.COMPLETED) == 3


def test_remove_unlinks_all_tasks_at_once_and_removes_their_files_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_commands, "MAX_VISITS_PER_TURN", 4)
    harness = after_runs(*[LARGE] * 6)
    answer = harness.remove(1)
    harness.clock.advance(0)  # it has looked for processes of all tasks
    turns = Turns(harness, monkeypatch)
    harness.settle()
    result_of(answer)
    assert harness.queue_state.jobs == {}
    assert isinstance(error_of(harness.cancel(4)), Gone)
    assert harness.spool.removed == [(task, 1) for task in TASKS[:4]]
    turns.pass_one()
    assert harness.spool.removed == [(task, 1) for task in TASKS]


def test_removal_of_many_jobs_handles_a_large_array_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_commands, "MAX_VISITS_PER_TURN", 4)
    harness = after_runs(*[COMPLETED] * 6)
    other = harness.submit()
    harness.finish(other)
    commands = harness.engine.job_commands
    removing = Deferred.fromCoroutine(
        commands.carry_out_all([1, other], commands.acts.remove(ACTOR), is_removal=True)
    )
    settle(harness)
    assert result_of(removing).changed == 2
    assert harness.queue_state.jobs == {}


def test_wait_of_an_untouched_task_ends_with_the_task() -> None:
    harness = opened(1)
    harness.submit(array=Array(1, 2))
    waiting = harness.engine.wait(3)
    harness.finish(2)
    assert running(harness) == [3]
    harness.finish(3)
    assert result_of(waiting) is harness.job(3)
