"""Queues: counts, slots, pauses and recent durations."""

from typing import Any

import pytest

from taskqd.model.events import Event
from taskqd.model.job import Status
from taskqd.model.rate import parse_rate
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from taskqd.state.queues import MAX_DURATIONS, NAME_BATCH, Queue, Queues
from tests.support.events import (
    apply_all,
    array,
    cancelled,
    configured,
    ended,
    fold,
    next_jobs,
    paused,
    ran,
    removed,
    resized,
    resumed,
    retried,
    started,
    submitted,
)

LIMITS = CapacityTotals(slots=9, queues={"build": 2})


def _described(queue_state: QueueState, name: str) -> dict[str, Any]:
    """Return the description of a queue without empty values."""
    described = {queue["name"]: queue for queue in queue_state.describe_queues()}
    assert name not in described or queue_state.describe_queue(name) == described[name]
    return {key: value for key, value in described.get(name, {}).items() if value and key != "name"}


@pytest.mark.parametrize(
    "events, names",
    [
        ((), ["build", "default"]),
        ((submitted(1, queue="b"), submitted(2, queue="a")), ["a", "b", "build", "default"]),
        ((submitted(1, queue="a"), cancelled(1), removed(1)), ["build", "default"]),
        ((paused("a"),), ["a", "build", "default"]),
        ((paused("a"), resumed("a")), ["build", "default"]),
        ((resized("a", 3),), ["a", "build", "default"]),
        ((resized("a", 0),), ["a", "build", "default"]),
        ((resized("a", 3), resized("a", None)), ["build", "default"]),
        ((resumed("a"), resized("b", None)), ["build", "default"]),
    ],
)
def test_queue_is_described_while_it_differs_from_an_unknown_one(
    events: tuple[Event, ...], names: list[str]
) -> None:
    assert [queue["name"] for queue in fold(*events, totals=LIMITS).describe_queues()] == names


def test_unknown_queue_is_described_with_defaults() -> None:
    assert fold(totals=LIMITS).describe_queue("other") == {
        "name": "other",
        "slots": None,
        "busy": 0,
        "paused": False,
        "pending": 0,
        "running": 0,
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
        "fair": False,
        "rate": None,
    }


def test_queue_counts_jobs_and_tasks_but_not_arrays() -> None:
    queue_state = fold(submitted(1, queue="a"), array(2, 3, queue="a"), totals=LIMITS)
    assert _described(queue_state, "a") == {"pending": 4}
    apply_all(queue_state, (*ran(1), started(3), *ran(4, Status.FAILED), cancelled(5)))
    assert _described(queue_state, "a") == {"running": 1, "completed": 1, "failed": 1, "cancelled": 1}
    apply_all(queue_state, (retried(1), ended(3, Status.PENDING)))
    assert _described(queue_state, "a") == {"pending": 2, "failed": 1, "cancelled": 1}
    apply_all(queue_state, (started(3, 2), ended(3), removed(2), cancelled(1), removed(1)))
    assert _described(queue_state, "a") == {}


def test_busy_slots_of_a_queue_are_those_of_its_jobs() -> None:
    queue_state = fold(submitted(1, queue="build", slots=2), submitted(2, queue="build"), totals=LIMITS)
    assert next_jobs(queue_state) == [1]
    assert _described(queue_state, "build") == {"slots": 2, "busy": 2, "pending": 2}
    queue_state.apply(cancelled(1))
    queue_state.release(1)
    assert _described(queue_state, "build") == {"slots": 2, "pending": 1, "cancelled": 1}


@pytest.mark.parametrize(
    "queue, resizes, slots",
    [
        ("build", [], 2),
        ("build", [5], 5),
        ("build", [5, None], 2),
        ("build", [0], None),
        ("build", [0, None], 2),
        ("other", [], None),
        ("other", [1], 1),
        ("other", [1, 0], None),
        ("other", [1, None], None),
    ],
)
def test_resized_slots_win_over_the_settings_until_they_are_reset(
    queue: str, resizes: list[int | None], slots: int | None
) -> None:
    queue_state = fold(*(resized(queue, slots) for slots in resizes), totals=LIMITS)
    assert queue_state.queues.limit(queue) == slots
    assert queue_state.describe_queue(queue)["slots"] == slots


@pytest.mark.parametrize(
    "queue, changes, is_fair, rate",
    [
        ("build", [], True, "10/m"),
        ("build", [("fair", False)], False, "10/m"),
        ("build", [("rate", "none")], True, None),
        ("build", [("rate", "1/s"), ("fair", False), ("rate", None)], False, "10/m"),
        ("build", [("fair", False), ("fair", None)], True, "10/m"),
        ("other", [], False, None),
        ("other", [("fair", True), ("rate", "5/s")], True, "5/s"),
    ],
)
def test_turns_and_rate_of_set_queue_win_over_the_settings(
    queue: str, changes: list[tuple[str, bool | str | None]], is_fair: bool, rate: str | None
) -> None:
    totals = CapacityTotals(fair={"build": True, "idle": False}, rates={"build": parse_rate("10/m")})
    queue_state = fold(*(configured(queue, *change) for change in changes), totals=totals)
    described = queue_state.describe_queue(queue)
    assert (described["fair"], described["rate"]) == (is_fair, rate)
    assert queue_state.queues.is_fair(queue) is is_fair
    assert (queue in queue_state.queues.with_starts()) is (is_fair or rate is not None)


def test_queue_with_a_setting_is_listed_and_compared() -> None:
    totals = CapacityTotals(fair={"idle": False})
    assert [queue["name"] for queue in fold(totals=totals).describe_queues()] == ["default", "idle"]
    one, same = (fold(configured("a", "fair", True)) for _ in range(2))
    assert one == same
    assert one != fold(configured("a", "fair", False))
    assert [queue["name"] for queue in one.describe_queues()] == ["a", "default"]
    one.apply(configured("a", "fair", None))
    assert one == fold()


def test_resize_starts_more_jobs_at_once_and_ends_none() -> None:
    queue_state = fold(*(submitted(n, queue="build") for n in range(1, 7)), totals=LIMITS)
    assert next_jobs(queue_state) == [1, 2]
    queue_state.apply(resized("build", 3))
    assert next_jobs(queue_state) == [3]
    queue_state.apply(resized("build", 1))
    assert _described(queue_state, "build")["busy"] == 3
    for job_id in (1, 2):
        apply_all(queue_state, ran(job_id))
        queue_state.release(job_id)
        assert next_jobs(queue_state) == []
    apply_all(queue_state, ran(3))
    queue_state.release(3)
    assert next_jobs(queue_state) == [4]
    queue_state.apply(resized("build", 0))
    assert next_jobs(queue_state) == [5, 6]


@pytest.mark.parametrize(
    "events, may_start",
    [
        ((paused(),), []),
        ((paused("a"),), [2]),
        ((paused("a"), paused("b")), []),
        ((paused("a"), paused("a"), resumed("a")), [1, 2]),
        ((paused(), resumed("a")), []),
        ((paused(), resumed()), [1, 2]),
        ((paused("a"), paused(), resumed()), [2]),
        ((paused("c"),), [1, 2]),
    ],
)
def test_general_pause_is_independent_of_pauses_of_queues(
    events: tuple[Event, ...], may_start: list[int]
) -> None:
    queue_state = fold(submitted(1, queue="a"), submitted(2, queue="b"), *events)
    assert queue_state.queues.is_paused == (paused() in events and resumed() not in events)
    assert next_jobs(queue_state) == may_start
    assert next_jobs(fold(*events, submitted(1, queue="a"), submitted(2, queue="b"))) == may_start


def test_queue_is_described_as_paused_only_by_its_own_pause() -> None:
    queue_state = fold(paused("a"), paused())
    assert _described(queue_state, "a") == {"paused": True}
    assert _described(queue_state, "default") == {}


def test_recent_durations_are_those_of_the_latest_attempts() -> None:
    queues = Queues({})
    assert queues.recent_durations("a") == []
    assert queues.running("a") == 0
    for seconds in range(MAX_DURATIONS + 5):
        queues.record_duration("a", float(seconds))
    assert queues.recent_durations("a") == [float(seconds) for seconds in range(5, MAX_DURATIONS + 5)]


def test_duration_is_not_negative_if_the_clock_was_set_back() -> None:
    queue_state = fold(submitted(1), started(1, at=500.0), ended(1, at=200.0))
    assert queue_state.queues.recent_durations("default") == [0.0]


def test_queues_are_equal_if_their_persistent_parts_are() -> None:
    one, other = fold(submitted(1)).queues, fold(submitted(1)).queues
    one.record_duration("default", 3.0)
    assert one == other
    assert fold(paused()).queues != fold().queues
    assert fold(paused("a")).queues != fold(resized("a", 1)).queues
    assert one != "queues"
    assert Queue() == Queue() != "a queue"
    for mutable in (one, Queue()):
        with pytest.raises(TypeError):
            hash(mutable)


def test_queues_that_change_during_a_listing_are_listed_at_most_once() -> None:
    queue_state = fold(submitted(1, queue="a"), submitted(2, queue="z"))
    described = queue_state.describe_queues()
    names = [next(described)["name"]]
    changes = cancelled(2), removed(2), submitted(3, queue="b"), submitted(4, queue="zz")
    apply_all(queue_state, changes)
    names += [queue["name"] for queue in described]
    assert names == ["a", "default", "zz"]


def test_many_queues_are_listed_in_order() -> None:
    names = [f"q{number:03}" for number in range(NAME_BATCH * 2 + 5)]
    queue_state = fold(*(submitted(number, queue=name) for number, name in enumerate(reversed(names), 1)))
    assert [queue["name"] for queue in queue_state.describe_queues()] == ["default", *names]


def test_queue_without_attempts_has_no_durations() -> None:
    queues = fold(submitted(1, queue="a")).queues
    assert (queues.recent_durations("a"), queues.recent_durations("b")) == ([], [])
