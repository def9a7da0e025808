"""Many dependents of a job are resolved in portions, one per turn of the reactor."""

import pytest

from taskqd.model.job import Reason, Status
from taskqd.state import dependencies
from tests.fakes.engine import Harness, opened, replayed, running
from tests.fakes.processes import COMPLETED


@pytest.fixture(name="harness")
def make_harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Return a harness in which jobs 2 to 7 wait for job 1, which runs; two are resolved per portion."""
    monkeypatch.setattr(dependencies, "MAX_RESOLVED_PER_EVENT", 1)
    monkeypatch.setattr(dependencies, "MAX_RESOLVED_PER_PORTION", 2)
    harness = opened(1)
    harness.submit()
    for priority in range(6):
        harness.submit(after=(1,), priority=priority)
    return harness


def test_dependents_start_in_order_once_all_are_resolved(harness: Harness) -> None:
    harness.finish(1)
    assert running(harness) == []
    harness.clock.advance(0)  # the fake clock goes through all turns
    harness.settle()
    assert running(harness) == [7]
    assert replayed(harness.journal.events) == harness.queue_state


def test_act_on_a_dependent_between_portions_is_as_if_all_were_resolved(harness: Harness) -> None:
    harness.finish(1, COMPLETED)
    assert harness.queue_state.reason(harness.job(6), harness.clock.elapsed()) is Reason.QUEUED
    harness.cancel(7)
    harness.settle()
    harness.clock.advance(0)
    harness.settle()
    assert harness.job(7).status is Status.CANCELLED
    assert running(harness) == [6]
    assert replayed(harness.journal.events) == harness.queue_state


def test_dependents_are_resolved_while_the_daemon_drains(harness: Harness) -> None:
    harness.engine.dispatcher.drain()
    harness.finish(1)
    harness.clock.advance(0)
    assert not harness.queue_state.dependencies.has_unresolved
    assert running(harness) == []
