"""Ends of jobs leave the queue oldest first, in whatever order they were added."""

from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.state import end_queue
from taskqd.state.end_queue import EndQueue


@pytest.mark.covers
@settings(deadline=None)
@given(
    st.lists(st.none() | st.floats(0, 50) | st.integers(0, 50).map(float), max_size=120),
    st.integers(1, 20),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_end_queue_pops_the_oldest_end(
    steps: list[float | None], max_moved: int, min_popped: int, random: Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end_queue, "MAX_MOVED", max_moved)
        patch.setattr(end_queue, "MIN_POPPED", min_popped)
        queue = EndQueue()
        expected: list[tuple[float, int]] = []
        ids = random.sample(range(len(steps)), len(steps))
        for job_id, at in zip(ids, steps, strict=True):
            if at is not None:
                queue.add(at, job_id)
                expected.append((at, job_id))
            elif expected:
                assert queue.first == min(expected)
                expected.remove(min(expected))
                queue.pop()
            assert len(queue) == len(expected)
        while expected:
            assert queue.first == min(expected)
            expected.remove(min(expected))
            queue.pop()
        assert not queue


def test_end_queue_releases_the_memory_of_popped_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_queue, "MIN_POPPED", 10)
    queue = EndQueue()
    for job_id in range(100):
        queue.add(float(job_id), job_id)
    before = queue.size_in_bytes
    for _ in range(90):
        queue.pop()
    assert queue.size_in_bytes < before / 4
    assert queue.first == (90.0, 90)


def test_end_queue_returns_late_ends_before_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_queue, "MAX_MOVED", 1)
    queue = EndQueue()
    for at in (1.0, 7.0, 8.0, 5.0):
        queue.add(at, int(at))
    queue.pop()
    assert queue.first == (5.0, 5)
    queue.add(6.0, 6)
    for expected in (5, 6, 7, 8):
        assert queue.first.job_id == expected
        queue.pop()
    queue.add(9.0, 9)
    queue.add(2.0, 2)
    queue.pop()
    assert queue.first == (9.0, 9)


@pytest.mark.covers
@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30).map(float), max_size=12), max_size=6), st.integers(0, 3))
def test_end_queue_pops_ends_that_were_added_together_in_the_same_order(
    batches: list[list[float]], popped: int
) -> None:
    together, apart = EndQueue(), EndQueue()
    ids = count(1)
    for times in batches:
        ends = sorted((at, next(ids)) for at in times)
        together.add_all(ends)
        for end in ends:
            apart.add(*end)
        for _ in range(min(popped, len(apart))):
            assert together.first == apart.first
            together.pop()
            apart.pop()
    assert len(together) == len(apart)
    while apart:
        assert together.first == apart.first
        together.pop()
        apart.pop()


@pytest.mark.covers
@settings(deadline=None)
@given(
    st.lists(st.floats(0, 50) | st.integers(0, 9).map(float), max_size=80),
    st.integers(0, 30),
    st.integers(1, 30),
    st.randoms(use_true_random=False),
)
def test_latest_ends_are_the_reverse_of_the_queue(
    times: list[float], popped: int, portion: int, random: Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end_queue, "PORTION", portion)
        queue = EndQueue()
        ends = list(zip(times, random.sample(range(len(times)), len(times)), strict=True))
        for at, job_id in ends:
            queue.add(at, job_id)
        for _ in range(min(popped, len(ends))):
            queue.pop()
        assert list(queue.latest()) == sorted(ends)[popped:][::-1]


def test_latest_ends_have_late_ones_last_unless_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_queue, "MAX_MOVED", 1)
    queue = EndQueue()
    for job_id, at in enumerate((5.0, 9.0, 7.0, 6.0)):
        queue.add(at, job_id)
    assert [end.at for end in queue.latest()] == [9.0, 5.0, 7.0, 6.0]
    monkeypatch.setattr(end_queue, "MAX_LATE", 1)
    assert [end.at for end in queue.latest()] == [9.0, 5.0]
