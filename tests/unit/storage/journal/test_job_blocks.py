"""JobBlocks: the spans of records that a job may have, as few as possible."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.storage.journal import job_blocks
from taskqd.storage.journal.job_blocks import JobBlocks, RecordSpan


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_blocks, "MAX_BLOCK_RECORDS", 4)
    monkeypatch.setattr(job_blocks, "MAX_BLOCK_BYTES", 1000)
    monkeypatch.setattr(job_blocks, "MAX_MERGED_IDS", 3)


def _blocks(*job_ids: int, size: int = 1) -> JobBlocks:
    """Return the blocks of records 1, 2, … of some jobs."""
    blocks = JobBlocks()
    for number, job_id in enumerate(job_ids, 1):
        blocks.add(number, number, [job_id], size)
    return blocks


def _consume(steps: Iterator[None]) -> int:
    return sum(1 for _ in steps)


def test_spans_are_the_blocks_with_a_record_of_the_job_and_the_open_one() -> None:
    blocks = _blocks(*(1, 2, 1, 2), *(3, 5, 9, 3), *(1, 4, 4, 4), 6)
    assert blocks.spans([1]) == [RecordSpan(1, 4), RecordSpan(9, 12), RecordSpan(13, None)]
    assert blocks.spans([5]) == [RecordSpan(5, 8), RecordSpan(13, None)]
    assert blocks.spans([7]) == [RecordSpan(13, None)]
    assert JobBlocks().spans([1]) == [RecordSpan(0, None)]


def test_spans_that_follow_each_other_are_one() -> None:
    blocks = _blocks(*(1, 2, 1, 2), *(3, 5, 9, 3), *(1, 4, 4, 4))
    assert blocks.spans([1, 9]) == [RecordSpan(1, 12), RecordSpan(13, None)]


def test_block_ends_at_its_maximum_of_bytes() -> None:
    blocks = _blocks(1, 2, 3, size=500)
    assert blocks.spans([1]) == [RecordSpan(1, 2), RecordSpan(3, None)]
    assert blocks.spans([3]) == [RecordSpan(3, None)]


def test_record_of_no_job_is_in_no_block() -> None:
    assert _blocks(7, 0, 8, 0).spans([0]) == [RecordSpan(5, None)]


def test_ids_beyond_32_bits_are_found() -> None:
    blocks = _blocks(2**32, 5, 2**40, 6)
    assert blocks.spans([2**40]) == [RecordSpan(1, 4), RecordSpan(5, None)]
    assert blocks.spans([2**40 + 1]) == [RecordSpan(5, None)]


def test_unknown_jobs_are_forgotten_and_small_blocks_merged() -> None:
    blocks = _blocks(*(1, 2, 3, 4), *(1, 5, 6, 7), *(8, 8, 8, 8), *(1, 9, 9, 9), *(2, 4, 6, 8))
    assert _consume(blocks.forget(lambda job_id: job_id in (1, 2, 4, 6))) == 5
    assert blocks.spans([2]) == [RecordSpan(1, 4), RecordSpan(17, 20), RecordSpan(21, None)]
    assert blocks.spans([1]) == [RecordSpan(1, 16), RecordSpan(21, None)]
    assert blocks.spans([7]) == [RecordSpan(21, None)]
    assert blocks.spans([9]) == [RecordSpan(21, None)]


def test_records_added_while_jobs_are_forgotten_are_found() -> None:
    blocks = _blocks(*(1, 2, 3, 4), *(5, 6, 7, 8))
    steps = blocks.forget(lambda job_id: job_id == 1)
    next(steps)
    blocks.add(9, 12, [5], 1)
    _consume(steps)
    assert blocks.spans([5]) == [RecordSpan(9, 12), RecordSpan(13, None)]
    assert blocks.spans([1]) == [RecordSpan(1, 4), RecordSpan(13, None)]


@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), max_size=25),
    forgotten=st.sets(st.integers(1, 12)),
    at=st.integers(0, 25),
)
def test_every_record_of_a_known_job_is_in_its_spans(
    batches: list[list[int]], forgotten: set[int], at: int
) -> None:
    blocks, numbers, number = JobBlocks(), list[tuple[int, int]](), 0
    for index, batch in enumerate(batches):
        blocks.add(number + 1, number + len(batch), batch, 10 * len(batch))
        numbers += enumerate(batch, number + 1)
        number += len(batch)
        if index == at:
            _consume(blocks.forget(lambda job_id: job_id not in forgotten))
    for job_id in {*range(1, 13)} - forgotten:
        spans = blocks.spans([job_id])
        assert spans == sorted(spans, key=lambda span: span.first)
        for at_number, its in numbers:
            if its == job_id:
                assert any(span.first <= at_number <= (span.last or number) for span in spans)
