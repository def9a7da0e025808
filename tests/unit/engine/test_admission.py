"""Admission: dependencies exist, and the demands can be met."""

from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.engine.admission import check, check_capacity, resolve_dependencies, resolve_named
from taskqd.errors import BadRequest, Gone, NoSuchJob
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import MAX_DEPENDENCIES, NamedDependencies, Spec
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState
from tests.support.events import array, cancelled, fold, removed, rescaled, resized, spec, submitted

LIMITS = CapacityTotals(slots=4, queues={"build": 2}, resources={"gpu": 1})


def _queue_state() -> QueueState:
    return fold(submitted(1), array(2, 3), submitted(9), cancelled(9), removed(9), totals=LIMITS)


def test_dependency_by_array_and_index_becomes_the_id_of_the_task() -> None:
    options = spec(after=(TaskId(2, 1), 1), after_any=(TaskId(2, 3),), after_fail=(2, TaskId(2, 2)))
    assert resolve_dependencies(_queue_state(), options) == spec(
        after=(3, 1), after_any=(5,), after_fail=(2, 4)
    )
    plain = spec()
    assert resolve_dependencies(_queue_state(), plain) is plain


@pytest.mark.parametrize(
    "which, error, text",
    [
        (TaskId(2, 4), NoSuchJob, "array 2 has the indexes 1 to 3, not 4"),
        (TaskId(1, 1), BadRequest, "job 1 is not an array; it has no task 1.1"),
        (TaskId(50, 1), NoSuchJob, "there is no job 50"),
        (TaskId(9, 1), Gone, "job 9 has been removed"),
    ],
)
@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
def test_dependency_on_a_task_that_does_not_exist_is_refused(
    which: TaskId, error: type[Exception], text: str, kind: str
) -> None:
    with pytest.raises(error) as refusal:
        resolve_dependencies(_queue_state(), spec(**{kind: (which,)}))
    assert text in str(refusal.value)


@pytest.mark.parametrize("kind", ["after", "after_any", "after_fail"])
def test_dependency_on_a_job_that_does_not_exist_is_refused(kind: str) -> None:
    check(_queue_state(), spec(**{kind: (1, 2, 5)}))
    for job_id, error in ((10, NoSuchJob), (9, Gone)):
        with pytest.raises(error):
            check(_queue_state(), spec(**{kind: (1, job_id)}))


@pytest.mark.parametrize(
    "options",
    [{}, {"slots": 4}, {"needs": {"gpu": 1}}, {"queue": "build", "slots": 2}, {"queue": "big", "slots": 4}],
    ids=str,
)
def test_demand_up_to_the_total_is_accepted(options: dict[str, Any]) -> None:
    check(_queue_state(), spec(**options))


def test_slots_above_those_of_a_user_are_refused() -> None:
    queue_state = fold(totals=CapacityTotals(slots=9, slots_per_user=4))
    check_capacity(queue_state, spec(slots=4))
    with pytest.raises(BadRequest, match="it needs 5 slots for one user, the total is 4; ask for less"):
        check_capacity(queue_state, spec(slots=5))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"slots": 10_001}, "it needs 10001 slots, the total is 4"),
        ({"queue": "build", "slots": 3}, "it needs 3 slots of queue build, the total is 2"),
        ({"queue": "small", "slots": 2}, "it needs 2 slots of queue small, the total is 1"),
        ({"needs": {"gpu": 2}}, "it needs 2 gpu, the total is 1"),
        ({"needs": {"disk": 1}}, "it needs 1 disk, the total is 0"),
    ],
)
def test_demand_above_the_total_is_refused_with_the_total(options: dict[str, Any], text: str) -> None:
    queue_state = _queue_state()
    queue_state.apply(resized("small", 1))
    for checks in (check, check_capacity):
        with pytest.raises(BadRequest) as refusal:
            checks(queue_state, spec(**options))
        assert str(refusal.value) == (
            f"the job could never start: {text}; ask for less, or change the settings"
        )


def test_job_with_too_many_slots_is_refused_with_the_command_that_allows_it() -> None:
    queue_state = fold(rescaled(2), totals=LIMITS)
    with pytest.raises(BadRequest) as refused:
        check(queue_state, spec(slots=3))
    assert str(refused.value) == (
        "the job could never start: it needs 3 slots, the total is 2; ask for less, or raise the total: "
        "`taskq slots 3`"
    )
    queue_state.apply(rescaled(3))
    check(queue_state, spec(slots=3))


# Dependencies that are named by labels and keys.


def _labelled() -> QueueState:
    """Return a state with jobs of ann, and job 7 of another user."""
    return fold(
        submitted(1, label="build"),
        submitted(2, label="build", queue="q", key="k"),
        cancelled(2),
        array(3, 3, label="build"),
        replace(submitted(7, label="build", key="k2"), owner="bob"),
        submitted(8, label="other", key="k3"),
    )


def _named(given: tuple[int, int, int] = (0, 0, 0), **named: Any) -> Spec:
    return spec(named=NamedDependencies(given=given, **named))


def test_label_means_all_known_jobs_of_the_owner_that_have_it() -> None:
    resolved = resolve_named(_labelled(), _named(after_label="build"), "ann")
    assert resolved == replace(_named(after_label="build"), after=(1, 2, 3))
    assert resolve_named(_labelled(), _named(after_any_label="build"), "bob").after_any == (7,)
    assert resolve_named(_labelled(), _named(after_label="build"), "ann", "q").after == (2,)


def test_names_add_to_the_ids_that_are_given() -> None:
    asked = replace(
        _named((2, 0, 1), after_label="build", after_key=("k", "k3"), after_fail_key=("k",)),
        after=(8, 8),
        after_fail=(2,),
    )
    resolved = resolve_named(_labelled(), asked, "ann")
    assert (resolved.after, resolved.after_any, resolved.after_fail) == ((8, 8, 1, 2, 3), (), (2,))
    assert resolved.as_given == asked
    plain = spec(after=(1,))
    assert resolve_named(_labelled(), plain, "ann") is plain


@pytest.mark.parametrize(
    "named, queue, text",
    [
        ({"after_label": "buil"}, None, "you have no job with the label 'buil'"),
        ({"after_fail_key": ("k2",)}, None, "you have no job with the key k2"),
        (
            {"after_any_label": "other"},
            "q",
            "you have no job with the label 'other' in queue q, the only one",
        ),
        ({"after_key": ("k", "k3")}, "q", "you have no job with the key k3 in queue q, the only one for"),
    ],
)
def test_name_of_no_job_is_refused(named: dict[str, Any], queue: str | None, text: str) -> None:
    with pytest.raises(NoSuchJob, match=text):
        resolve_named(_labelled(), _named(**named), "ann", queue)


def test_more_jobs_with_a_label_than_a_job_may_depend_on_are_refused() -> None:
    queue_state = fold(*(submitted(job_id, label="x") for job_id in range(1, MAX_DEPENDENCIES + 1)))
    assert len(resolve_named(queue_state, _named(after_label="x"), "ann").after) == MAX_DEPENDENCIES
    queue_state.apply(submitted(MAX_DEPENDENCIES + 1, label="x", key="k"))
    for asked in (_named(after_label="x"), _named(after_any_label="x", after_key=("k",))):
        with pytest.raises(BadRequest, match="more than 1000 jobs, the limit; give the jobs of each batch"):
            resolve_named(queue_state, asked, "ann")
