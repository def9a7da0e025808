"""The dispatcher with runners: jobs that outlive a daemon, starts that wait, and what dead runners leave."""

import signal
from typing import Any

import pytest

from taskqd.engine import suspects
from taskqd.execution.attempt_ends import SUSPECTED
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


def adopted_with_units(gpu: tuple[str, ...], slots: int = 9) -> Harness:
    """Return an engine that has adopted job 1 with the units b and c, and now has other ones."""
    before: list[Event] = [
        Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(needs={"gpu": 2})),
        Started(id=1, at=START, attempt=1, word=WORD, runner=RUNNER, units={"gpu": ("b", "c")}),
    ]
    harness = Harness(slots, events=before, units={"gpu": gpu})
    harness.engine.dispatcher.adopt_running()
    harness.engine.start()
    return harness


@pytest.mark.parametrize(
    "gpu, units",
    [
        (("a", "b", "c"), {"a": 2, "b": 1, "c": 1}),
        (("a", "b"), {"a": 2, "b": 1, "c": 1}),
        (("a",), {"a": 2, "b": 1, "c": 1}),
        (("a", "d"), {"a": 2, "d": 3, "b": 1, "c": 1}),
    ],
)
def test_adopted_job_keeps_its_units_and_new_ones_get_free_units_of_the_settings(
    gpu: tuple[str, ...], units: dict[str, int]
) -> None:
    harness = adopted_with_units(gpu)
    for _ in range(3):
        harness.submit(needs={"gpu": 1})
    assert harness.queue_state.capacity.units.describe("gpu") == units
    harness.finish(1)
    held = harness.queue_state.capacity.units.describe("gpu")
    assert set(held) == set(gpu)
    assert None not in held.values() or len(running(harness)) == 3


def test_adopted_job_holds_an_amount_of_a_resource_whose_units_have_no_names_any_more() -> None:
    before = adopted_with_units(("b", "c")).journal.events
    harness = Harness(9, events=before, resources={"gpu": 2})
    harness.engine.dispatcher.adopt_running()
    harness.engine.start()
    harness.submit(needs={"gpu": 1})
    assert running(harness) == [1]
    harness.finish(1)
    assert running(harness) == [2]


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


SUSPECTED_END = Outcome(reason=Reason.INTERRUPTED, detail=SUSPECTED, is_lost=True)


def end_by(harness: Harness, *outcomes: Outcome) -> None:
    """End the attempts of job 1, one after the other."""
    for outcome in outcomes:
        harness.finish(1, outcome)
        harness.clock.advance(1)
        harness.settle()


def check_held(harness: Harness) -> None:
    job = harness.job(1)
    assert (job.status, job.is_held, running(harness)) == (Status.PENDING, True, [])
    assert job.attempt is not None
    assert job.attempt.detail == suspects.HELD
    assert [event.by for event in harness.journal.events if isinstance(event, Held)] == ["taskqd"]


def test_job_is_held_after_three_deaths_of_runners_with_it_as_the_newest_also_between_others() -> None:
    harness = opened(1)
    harness.submit(retries=9, retry_delay=0.0)
    end_by(harness, SUSPECTED_END, LOST, SUSPECTED_END, FAILED)
    assert running(harness) == [1]
    end_by(harness, SUSPECTED_END)
    check_held(harness)


def test_job_that_was_held_and_released_is_held_again_after_three_more_deaths() -> None:
    harness = opened(1)
    harness.submit(retries=9, retry_delay=0.0)
    end_by(harness, *[SUSPECTED_END] * 3)
    harness.release(1)
    harness.settle()
    end_by(harness, *[SUSPECTED_END] * 2)
    assert running(harness) == [1]
    end_by(harness, SUSPECTED_END)
    assert harness.job(1).is_held


def test_job_that_may_kill_runners_is_not_held_if_it_is_not_retried() -> None:
    harness = opened(1)
    harness.submit(retries=2, retry_delay=0.0)
    end_by(harness, *[SUSPECTED_END] * 3)
    assert harness.job(1).status is Status.FAILED
    assert not any(isinstance(event, Held) for event in harness.journal.events)
    assert [ended.detail for ended in ends(harness)] == [SUSPECTED] * 3


def test_deaths_of_runners_are_counted_over_restarts_of_the_daemon() -> None:
    before: list[Event] = [
        Submitted(id=1, at=START, owner="ada", command="true", spec=Spec(retries=9, retry_delay=0.0))
    ]
    for attempt in (1, 2, 3):
        before += [
            Started(id=1, at=START, attempt=attempt, word=WORD, runner=RUNNER),
            Ended(
                id=1,
                at=START,
                status=Status.PENDING,
                reason=Reason.INTERRUPTED,
                detail=SUSPECTED,
                retry_at=START,
            ),
        ]
    harness = Harness(1, events=before[:-1])
    harness.engine.dispatcher.recover({1: SUSPECTED_END})
    harness.engine.start()
    harness.settle()
    check_held(harness)


def test_adopted_attempt_that_was_the_last_to_start_is_known_as_the_newest() -> None:
    def begun(job_id: int, at: float) -> list[Event]:
        return [
            Submitted(id=job_id, at=START, owner="ada", command="true"),
            Started(id=job_id, at=at, attempt=1, word=WORD, runner=RUNNER),
        ]

    harness = Harness(3, events=[*begun(1, START + 2), *begun(2, START + 1)])
    harness.engine.dispatcher.adopt_running()
    assert harness.executor.newest == 1

    ended = Ended(id=3, at=START + 4, status=Status.COMPLETED)
    harness = Harness(3, events=[*begun(1, START + 2), *begun(3, START + 3), ended])
    harness.engine.dispatcher.adopt_running()
    assert harness.executor.newest is None


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
