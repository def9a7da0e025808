"""TaskSet: it is the same as a set of ints out of a range."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.task_set import TaskSet

IDS = range(11, 19)
SOME = st.sets(st.sampled_from(IDS))


def task_set(ids: set[int]) -> TaskSet:
    found = TaskSet(IDS, is_full=False)
    found.add_all(ids)
    return found


def check(found: TaskSet, expected: set[int]) -> None:
    assert list(found) == sorted(expected)
    assert (len(found), found.count, bool(found)) == (len(expected), len(expected), bool(expected))
    for job_id in range(IDS.start - 2, IDS.stop + 2):
        assert (job_id in found) == (job_id in expected)
        assert found.count_before(job_id) == sum(each < job_id for each in expected)
        assert found.first_from(job_id) == min((each for each in expected if each >= job_id), default=None)
    if expected:
        assert found.first == min(expected)
    assert found == task_set(expected)
    assert bytes(found) == (bytes(job_id in expected for job_id in IDS) if expected else b"")


def test_new_set_is_full_or_empty() -> None:
    check(TaskSet(IDS), set(IDS))
    check(TaskSet(IDS, is_full=False), set())


@pytest.mark.covers
@given(
    SOME,
    st.lists(
        st.tuples(st.sampled_from(["add", "discard"]), st.sampled_from(IDS))
        | st.tuples(st.sampled_from(["update", "difference_update", "add_all"]), SOME)
    ),
)
def test_set_is_the_same_as_a_set_of_ints(first: set[int], steps: list[tuple[str, Any]]) -> None:
    found, expected = task_set(first), set(first)
    for method, given_ids in steps:
        copied, before = found.copy(), set(expected)
        argument = task_set(given_ids) if method.endswith("update") else given_ids
        getattr(found, method)(argument)
        getattr(expected, "update" if method == "add_all" else method)(given_ids)
        check(found, expected)
        check(copied, before)


def test_sets_differ_by_ids_and_by_ranges() -> None:
    assert task_set({12}) != task_set({13})
    assert TaskSet(range(1, 2)) != TaskSet(range(2, 3))
    assert TaskSet(IDS) != set(IDS)
    with pytest.raises(TypeError):
        hash(TaskSet(IDS))


def test_ids_that_are_removed_during_an_iteration_are_left_out() -> None:
    found, seen = TaskSet(IDS), []
    for job_id in found:
        seen.append(job_id)
        found.discard(job_id + 1)
    assert seen == [11, 13, 15, 17]
