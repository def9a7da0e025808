"""Which jobs have records in which part of the journal: so the events of a job are found without reading all.

The journal is divided into blocks of consecutive records. A block has the ids of the jobs that have a record
in it: only the first and the last one if they are consecutive, else 4 bytes per id. The numbers of records do
not change when a snapshot is made, so the blocks stay valid; a Compacted has the number of its first event.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_BLOCK_RECORDS = 4096
MAX_BLOCK_BYTES = 1024**2
"""A block ends when it has that many records, or bytes of them. To search one takes up to 0.4 ms."""
MAX_MERGED_IDS = 1024
"""Jobs that two blocks may have together if ``forget`` makes them one."""


class RecordSpan(NamedTuple):
    """The numbers of consecutive records; ``last`` is None if the span has no end."""

    first: int
    last: int | None


ALL_RECORDS = (RecordSpan(0, None),)


class _Block(NamedTuple):
    first: int
    last: int
    ids: Sequence[int]  # ascending

    def has(self, job_id: int) -> bool:
        ids = self.ids
        if isinstance(ids, range):
            return job_id in ids
        at = bisect_left(ids, job_id)
        return at < len(ids) and ids[at] == job_id


class JobBlocks:
    """The blocks of the records that were added, of which the last one is open."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._first = self._following = 0  # of the open block, and the one after the last closed block
        self._ids: set[int] = set()
        self._records = self._bytes = 0

    def add(self, first: int, last: int, job_ids: Iterable[int], size: int) -> None:
        """Add consecutive records, whose numbers are higher than all before.

        ``job_ids`` are those of their jobs, 0 for a record that belongs to no job; ``size`` is in bytes.
        """
        if not self._records:
            self._first = first
        self._ids.update(job_ids)
        self._records += last - first + 1
        self._bytes += size
        if self._records >= MAX_BLOCK_RECORDS or self._bytes >= MAX_BLOCK_BYTES:
            self._ids.discard(0)
            self._blocks.append(_Block(self._first, last, _packed(sorted(self._ids))))
            self._following = last + 1
            self._ids.clear()
            self._records = self._bytes = 0

    def spans(self, job_ids: Iterable[int]) -> list[RecordSpan]:
        """Return the spans of all records that jobs may have, in order; the last one has no end."""
        wanted = list(job_ids)
        spans: list[RecordSpan] = []
        for block in self._blocks:
            if any(map(block.has, wanted)):
                if spans and spans[-1].last == block.first - 1:
                    spans[-1] = RecordSpan(spans[-1].first, block.last)
                else:
                    spans.append(RecordSpan(block.first, block.last))
        return [*spans, RecordSpan(self._following, None)]

    def forget(self, is_known: Callable[[int], bool]) -> Iterator[None]:
        """Forget the jobs that are not known any more; yields after each block."""
        kept: list[_Block] = []
        count = len(self._blocks)
        for first, last, known in self._blocks[:count]:
            ids = [job_id for job_id in known if is_known(job_id)]
            if ids and kept and len(kept[-1].ids) + len(ids) <= MAX_MERGED_IDS:
                before = kept.pop()
                kept.append(_Block(before.first, last, _packed(sorted({*before.ids, *ids}))))
            elif ids:
                kept.append(_Block(first, last, _packed(ids)))
            yield
        self._blocks[:count] = kept


def _packed(ids: list[int]) -> Sequence[int]:
    """Return ascending ids in little memory."""
    if ids and ids[-1] - ids[0] + 1 == len(ids):
        return range(ids[0], ids[-1] + 1)
    return array("I" if ids and ids[-1] < 2**32 else "Q", ids)
