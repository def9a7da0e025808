"""The dispatcher with runners: jobs that outlive a daemon, starts that wait, and what dead runners leave."""

import signal
from typing import Any

from taskqd.execution.messages import AttemptKey
from taskqd.execution.run import Outcome
from taskqd.model.events import Cancelled, Ended, Event, Held, Started, Submitted
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Spec
from tests.fakes.clocks import START
from tests.fakes.engine import Harness, opened, running
from tests.fakes.processes import COMPLETED, FAILED, RUNNER

WORD = "00c0ffee00c0ffee"
LOST = Outcome(reason=Reason.INTERRUPTED, detail="its runner was killed", is_lost=True)
VOID = Outcome(reason=Reason.SPAWN, detail="its runner ended before it was started", is_void=True)


def adopted(*events: Event, slots: int = 1, **spec: Any) -> Harness:
    """Return a started engine that has adopted job 1, which a former daemon has started."""
    before: list[Event] = [
        Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(**spec)),
        Started(id=1, at=START, attempt=1, word=WORD, runner=RUNNER),
        *events,
    ]
    harness = Harness(slots, events=before)
    harness.engine.dispatcher.adopt_running()
    harness.engine.start()
    return harness


def ends(harness: Harness) -> list[Ended]:
    """Return the ends of attempts that are recorded."""
    return [event for event in harness.journal.events if isinstance(event, Ended)]


# Adoption.


def test_running_attempt_is_adopted_by_its_key_from_its_runner() -> None:
    harness = adopted()
    assert harness.executor.adopted == [(AttemptKey(1, 1, WORD), RUNNER)]
    assert harness.executor.runs == []
    assert harness.statuses() == [Status.RUNNING]


def test_adopted_job_holds_its_capacity_until_it_ends() -> None:
    harness = adopted()
    harness.submit()
    assert (running(harness), harness.engine.dispatcher.busy) == ([1], 1)
    harness.finish(1)
    assert (running(harness), harness.engine.dispatcher.busy) == ([2], 1)


def test_adopted_jobs_may_hold_more_capacity_than_there_is() -> None:
    harness = adopted(
        Submitted(id=2, at=START, owner="ada", command="true"),
        Started(id=2, at=START, attempt=1, word=WORD, runner=RUNNER),
    )
    harness.submit()
    assert (running(harness), harness.engine.dispatcher.busy) == ([1, 2], 2)
    harness.finish(1)
    assert running(harness) == [2]
    harness.finish(2)
    assert running(harness) == [3]


def test_end_of_an_adopted_job_is_acknowledged_when_it_is_durable() -> None:
    harness = adopted()
    harness.executor.finish(1, FAILED)
    assert harness.executor.acknowledged == []
    harness.settle()
    assert harness.executor.acknowledged == [1]
    assert (harness.job(1).status, harness.job(1).exit_code) == (Status.FAILED, 3)


def test_adopted_job_that_was_cancelled_is_ended_again() -> None:
    harness = adopted(Cancelled(id=1, at=START, by="ada", signal=signal.SIGINT))
    assert harness.executor.signals == [(1, Reason.CANCELLED, signal.SIGINT)]
    harness.finish(1, Outcome(reason=Reason.CANCELLED, signal=signal.SIGINT))
    assert harness.job(1).status is Status.CANCELLED


def test_late_end_is_recorded_with_the_time_when_it_happened() -> None:
    harness = adopted()
    harness.clock.advance(100)
    harness.finish(1, Outcome(reason=None, exit_code=0, ended_at=START + 7))
    [ended] = ends(harness)
    assert (ended.at, ended.ended_at) == (START + 100, START + 7)


def test_retry_after_a_late_end_is_due_from_the_end() -> None:
    harness = adopted(retries=1, retry_delay=50.0)
    harness.clock.advance(100)
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=3, ended_at=START + 7))
    assert [ended.retry_at for ended in ends(harness)] == [START + 57]
    assert [(start.id, start.attempt) for start in harness.executor.runs] == [(1, 2)]


# Starts.


def test_no_job_starts_without_a_runner_and_all_start_when_one_is_ready() -> None:
    harness = Harness(2)
    harness.executor.lose_runner()
    harness.engine.start()
    harness.submit()
    harness.submit()
    assert harness.statuses() == [Status.PENDING] * 2
    assert not any(isinstance(event, Started) for event in harness.journal.events)
    dispatcher = harness.engine.dispatcher
    assert dispatcher.explain_delay(harness.clock.elapsed()) == "no runner is connected"
    assert dispatcher.runner_stats() == {"name": None, "detail": "no runner is connected"}
    harness.executor.get_runner("fedcba9876543210")
    harness.settle()
    assert running(harness) == [1, 2]
    assert harness.executor.runners == ["fedcba9876543210"] * 2
    assert dispatcher.explain_delay(harness.clock.elapsed()) is None
    assert dispatcher.runner_stats() == {"name": "fedcba9876543210", "detail": None}


def test_start_goes_to_the_runner_of_its_record_although_that_is_lost_meanwhile() -> None:
    harness = opened(1)
    harness.begin_submit()
    harness.journal.sync()
    harness.executor.lose_runner()
    harness.settle()
    assert harness.executor.runners == [RUNNER]


def test_start_that_never_arrived_is_made_again_with_the_same_key() -> None:
    harness = adopted()
    assert harness.executor.make_start is not None
    start = harness.executor.make_start(AttemptKey(1, 1, WORD))
    assert (start.key, start.argv[-1]) == (AttemptKey(1, 1, WORD), "true")


# Dead runners.


def test_void_outcome_undoes_the_start() -> None:
    harness = opened(1)
    harness.submit()
    harness.executor.lose_runner()
    harness.finish(1, VOID)
    job = harness.job(1)
    assert (job.status, job.attempts, job.failures) == (Status.PENDING, 0, 0)
    assert harness.executor.acknowledged == [1]
    harness.executor.get_runner("fedcba9876543210")
    harness.settle()
    assert [(start.id, start.attempt) for start in harness.executor.runs] == [(1, 1), (1, 1)]
    harness.finish(1)
    assert job.status is Status.COMPLETED


def test_lost_attempt_has_the_sizes_of_the_output_on_disk() -> None:
    harness = opened(1)
    harness.submit()
    harness.spool.leftovers[1, 1] = (b"so far", b"oh")
    harness.finish(1, LOST)
    [ended] = ends(harness)
    assert (ended.stdout.size, ended.stderr.size) == (6, 2)
    assert (ended.reason, ended.detail) == (Reason.INTERRUPTED, "its runner was killed")


def suspect(**options: Any) -> Outcome:
    """Return the outcome of a job that may be what kills the runners."""
    return Outcome(**{"reason": Reason.INTERRUPTED, "is_lost": True, "needs_hold": True, **options})


def test_job_that_may_kill_runners_is_held_instead_of_retried() -> None:
    harness = opened(1)
    harness.submit(retries=5, retry_delay=0.0)
    harness.finish(1, suspect())
    harness.clock.advance(1)
    harness.settle()
    job = harness.job(1)
    assert (job.status, job.is_held, running(harness)) == (Status.PENDING, True, [])
    assert [event.by for event in harness.journal.events if isinstance(event, Held)] == ["taskqd"]
    harness.release(1)
    harness.settle()
    assert running(harness) == [1]


def test_job_that_may_kill_runners_is_not_held_if_it_is_not_retried() -> None:
    harness = opened(1)
    harness.submit(retries=0)
    harness.finish(1, suspect())
    assert harness.job(1).status is Status.FAILED
    assert not any(isinstance(event, Held) for event in harness.journal.events)


def test_outcomes_of_a_dead_runner_are_recorded_and_the_other_attempts_are_adopted() -> None:
    harness = Harness(
        2,
        events=[
            Submitted(id=1, at=START, owner="ada", command="true"),
            Started(id=1, at=START, attempt=1, word=WORD, runner="00000000000000d1"),
            Submitted(id=2, at=START, owner="ada", command="true"),
            Started(id=2, at=START, attempt=1, word=WORD, runner=RUNNER),
        ],
    )
    dispatcher = harness.engine.dispatcher
    assert dispatcher.recover({1: COMPLETED}) == [harness.job(1)]
    dispatcher.adopt_running()
    assert harness.statuses() == [Status.COMPLETED, Status.RUNNING]
    assert harness.executor.adopted == [(AttemptKey(2, 1, WORD), RUNNER)]


def test_daemon_that_leaves_its_jobs_starts_nothing_more_and_ends_nothing() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    harness.engine.dispatcher.leave()
    assert harness.executor.signals == []
    harness.finish(1)
    assert running(harness) == []
