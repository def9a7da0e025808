"""An index of all known jobs by status, owner, queue and label, of a few bytes per job.

The ids are divided into chunks of CHUNK_SIZE. A chunk has columns of one byte per id. The first one has the
status of each job, and whether it is a task; 0 means that there is no job. An owner, a queue or a label is
represented by 16 bits of its hash, in two columns. The value that most jobs have is represented by 0, and
columns that would have only zeros are omitted. So a job takes 1 byte, and 2 for each unusual value.

A search compares whole columns, which takes 1 to 4 ms for a million jobs, and then 0.1 µs for each job that
it finds. Different values may have the same hash, so the caller checks the jobs that it gets.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sortedcontainers import SortedDict

from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import DEFAULT_QUEUE, Spec
from taskqd.model.task_set import TaskSet

CHUNK_BITS = 11
CHUNK_SIZE = 1 << CHUNK_BITS
"""Ids per chunk. If only one job of a chunk is left, that job takes the memory of the whole chunk."""
CHUNKS_PER_STEP = 16
"""Chunks that a search compares without a pause; that takes about 0.1 ms."""

_OFFSETS = CHUNK_SIZE - 1
_STATUS, _OWNER, _QUEUE, _LABEL = 0, 1, 3, 5
"""Numbers of columns. The column after that of an owner, a queue or a label has the high byte."""
_COLUMN_COUNT = 7
_TASK = 8
"""Added to the code of a status if the job is a task of an array."""


class _Condition(NamedTuple):
    """Which bytes a column may have: ``table`` maps them to 1 and all others to 0.

    ``only`` is the byte if there is only one, else None.
    """

    column: int
    table: bytes
    only: int | None


class _Chunk:
    """The columns of CHUNK_SIZE ids; ``count`` is the number of jobs."""

    __slots__ = ("columns", "count", "statuses")

    def __init__(self) -> None:
        self.count = 0
        self.statuses = bytearray(CHUNK_SIZE)
        self.columns: list[bytearray | None] = [self.statuses, *[None] * (_COLUMN_COUNT - 1)]

    def column(self, number: int) -> bytearray:
        """Return a column, which is created if it does not exist."""
        column = self.columns[number]
        if column is None:
            column = self.columns[number] = bytearray(CHUNK_SIZE)
        return column

    def find(self, conditions: list[_Condition]) -> bytes | None:
        """Return 1 for each id that fulfils all conditions and 0 for the others; None if there is none."""
        columns: list[tuple[bytearray, bytes]] = []
        for number, table, only in conditions:
            column = self.columns[number]
            if column is not None and (only is None or only in column):
                columns.append((column, table))
            elif column is not None or only != 0:
                return None
        (column, table), *others = columns
        found = column.translate(table)
        if not others:
            return bytes(found)
        common = int.from_bytes(found, "little")
        for column, table in others:
            common &= int.from_bytes(column.translate(table), "little")
            if not common:
                return None
        return common.to_bytes(CHUNK_SIZE, "little")


class JobIndex:
    """The index of the jobs that have been added to it."""

    def __init__(self) -> None:
        self._chunks: SortedDict[int, _Chunk] = SortedDict()
        self._common_owner: str | None = None  # the first one
        self._spec: Spec | None = None  # the latest one, and its codes
        self._spec_codes = (0, 0)
        self._version = 0  # counts changes

    # Changes.

    def add(self, job: Job) -> None:
        """Add a job that is not in the index."""
        number = job.id >> CHUNK_BITS
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = _Chunk()
        chunk.count += 1
        self._put(chunk, job)

    def fill(self, jobs: Iterable[Job]) -> None:
        """Add jobs; for many ordinary ones this is three times as fast as ``add``."""
        self._version += 1
        number, chunk = -1, _Chunk()
        common: Job | None = None  # one whose spec and owner have the code 0
        for job in jobs:
            if job.id >> CHUNK_BITS != number:
                number, common = job.id >> CHUNK_BITS, None
                chunk = self._chunks.setdefault(number, _Chunk())
            chunk.count += 1
            if common is not None and job.spec is common.spec and job.owner is common.owner:
                code = job.status.code
                chunk.statuses[job.id & _OFFSETS] = code if job.array is None else code + _TASK
            else:
                self._put(chunk, job)
                columns = chunk.columns
                common = job if columns[_OWNER] is columns[_QUEUE] is columns[_LABEL] is None else None

    def add_similar(self, jobs: Sequence[Job]) -> None:
        """Add new jobs with consecutive ids that have the same status, spec and owner."""
        if len(jobs) == 1:
            self.add(jobs[0])
        else:
            self.put_tasks(jobs[0], TaskSet(range(jobs[0].id, jobs[-1].id + 1)), are_new=True)

    def update(self, job: Job) -> None:
        """Update the status, the queue and the label of a job."""
        self._put(self._chunks[job.id >> CHUNK_BITS], job)

    def put_tasks(self, shared: Job, ids: TaskSet, are_new: bool = False) -> None:
        """Add or update tasks of an array; ``shared`` has the state of all of them."""
        for number, offset, flags in _parts(ids):
            if are_new and number not in self._chunks:
                self._chunks[number] = _Chunk()
            chunk = self._chunks[number]
            if are_new:
                chunk.count += flags.count(1)
            self._put(chunk, shared, int.from_bytes(flags, "little") << 8 * offset)

    def remove_tasks(self, ids: range) -> None:
        """Remove all tasks of an array."""
        self._version += 1
        for number, offset, flags in _parts(TaskSet(ids)):
            chunk = self._chunks[number]
            chunk.count -= len(flags)
            if chunk.count:
                chunk.statuses[offset : offset + len(flags)] = bytes(len(flags))
            else:
                del self._chunks[number]

    def remove(self, job_id: int) -> None:
        """Remove a job."""
        self._version += 1
        number = job_id >> CHUNK_BITS
        chunk = self._chunks[number]
        chunk.count -= 1
        if chunk.count:
            chunk.statuses[job_id & _OFFSETS] = 0
        else:
            del self._chunks[number]

    def _put(self, chunk: _Chunk, job: Job, tasks: int = 0) -> None:
        """Set the columns of a job, or of the ``tasks`` that have this state: a number with a byte each."""
        self._version += 1
        offset, owner, spec = job.id & _OFFSETS, job.owner, job.spec
        _set(chunk.statuses, offset, _status_code(job), tasks)
        if self._common_owner is None:
            self._common_owner = owner
        if spec is not self._spec:
            self._spec, self._spec_codes = spec, (_code(spec.queue, DEFAULT_QUEUE), _code(spec.label, None))
        queue_code, label_code = self._spec_codes
        columns = chunk.columns
        for number, code in (
            (_OWNER, _code(owner, self._common_owner)),
            (_QUEUE, queue_code),
            (_LABEL, label_code),
        ):
            if code or columns[number] is not None:
                _set(chunk.column(number), offset, code & 255, tasks)
                _set(chunk.column(number + 1), offset, code >> 8, tasks)

    # Searches.

    def find(
        self, wanted: JobFilter, first: int, last: int, is_reverse: bool = False, has_tasks: bool = True
    ) -> Iterator[int | None]:
        """Yield the ids from ``first`` to ``last`` of jobs that may match, ascending or descending.

        Every job that matches the filter (but for its key and text) is found, and few others. None is yielded
        after CHUNKS_PER_STEP chunks. The index may be changed meanwhile; a job is found
        in the state that it has when it is reached. Without ``has_tasks`` the tasks of arrays are omitted.
        """
        conditions, searched = self._conditions(wanted, has_tasks), 0
        number = self._next_chunk((last if is_reverse else first) >> CHUNK_BITS, is_reverse)
        while number is not None and first >> CHUNK_BITS <= number <= last >> CHUNK_BITS:
            base = number << CHUNK_BITS
            low, high = max(first - base, 0), min(last - base + 1, CHUNK_SIZE)
            found, version = self._find_in(number, conditions), self._version
            while found is not None:
                offset = found.rfind(1, low, high) if is_reverse else found.find(1, low, high)
                if offset < 0:
                    break
                yield base + offset
                low, high = (low, offset) if is_reverse else (offset + 1, high)
                if version != self._version:
                    found, version = self._find_in(number, conditions), self._version
            searched += 1
            if not searched % CHUNKS_PER_STEP:
                yield None
            number = self._next_chunk(number - 1 if is_reverse else number + 1, is_reverse)

    def _find_in(self, number: int, conditions: list[_Condition]) -> bytes | None:
        chunk = self._chunks.get(number)
        return None if chunk is None else chunk.find(conditions)

    def _next_chunk(self, number: int, is_reverse: bool) -> int | None:
        """Return the number of the first chunk from ``number`` on, None if there is none."""
        if number in self._chunks:
            return number
        if is_reverse:
            return next(self._chunks.irange(maximum=number, reverse=True), None)
        return next(self._chunks.irange(minimum=number), None)

    def _conditions(self, wanted: JobFilter, has_tasks: bool) -> list[_Condition]:
        """Return the conditions of a filter; those that are likely to exclude whole chunks come first."""
        codes = {status.code for status in (Status if wanted.statuses is None else wanted.statuses)}
        if has_tasks:
            codes |= {code + _TASK for code in codes}
        values: list[tuple[int, str, str | None]] = [
            *([] if wanted.owner is None else [(_OWNER, wanted.owner, self._common_owner)]),
            *([] if wanted.queue is None else [(_QUEUE, wanted.queue, DEFAULT_QUEUE)]),
            *([] if wanted.label is None else [(_LABEL, wanted.label, None)]),
        ]
        coded = [(number, _code(value, common)) for number, value, common in values]
        status = [_condition(_STATUS, codes)]
        return [
            *(status if wanted.statuses is not None else ()),
            *(_condition(number, {code & 255}) for number, code in coded),
            *(_condition(number + 1, {code >> 8}) for number, code in coded),
            *(status if wanted.statuses is None else ()),
        ]


def _parts(ids: TaskSet) -> Iterator[tuple[int, int, bytes]]:
    """Yield the chunks with ids of a set: number, offset of the first byte, and a byte per id: 1 or 0."""
    flags, start = bytes(ids), ids.ids.start
    at = 0
    while at < len(flags):
        number, offset = (start + at) >> CHUNK_BITS, (start + at) & _OFFSETS
        part = flags[at : at + CHUNK_SIZE - offset]
        if 1 in part:
            yield number, offset, part
        at += len(part)


def _set(column: bytearray, offset: int, code: int, tasks: int) -> None:
    """Set the byte of one job, or those of ``tasks``."""
    if tasks:
        others = int.from_bytes(column, "little") & ~(tasks * 255)
        column[:] = (others | tasks * code).to_bytes(CHUNK_SIZE, "little")
    else:
        column[offset] = code


def _condition(column: int, codes: set[int]) -> _Condition:
    table = bytes(byte in codes for byte in range(256))
    return _Condition(column, table, min(codes) if len(codes) == 1 else None)


def _status_code(job: Job) -> int:
    code = job.status.code
    return code if job.array is None else code + _TASK


def _code(value: str | None, common: str | None) -> int:
    return 0 if value == common else hash(value) & 0xFFFF or 1
