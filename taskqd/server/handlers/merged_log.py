"""Both streams of an attempt as one log, in the order in which the runner has read them.

The order is that of the attempt's index (storage/spool/output_order.py), which is read as the log is: only a
part of it and of each stream is in memory. Bytes of one stream that the index lacks come after its entries.
If it lacks bytes of both, their order is unknown: all of stdout comes first, and then all of stderr.
"""

from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from taskqd.model.job import Job, Status
from taskqd.server.handlers.job_view import JobView
from taskqd.state.queue_state import QueueState
from taskqd.storage.spool.output_order import EXACT_BYTES, Entry, OrderParser

CHUNK_SIZE = 32_768
"""Bytes of a stream that are read and sent at a time."""
INDEX_CHUNK = 4096
"""Bytes of an index that are read at a time."""
MAX_TAIL = 16 * 1024**2
"""Bytes at the end of a log that are searched for its last lines."""


Pause = Callable[[], Awaitable[object]]
"""Returns when others have had their time, and the client has read enough."""


class Piece(NamedTuple):
    """Successive bytes of a stream, read at a time of day; ``is_ordered`` if their place in the log is known.

    ``at`` is None if the time is unknown.
    """

    stream: str
    offset: int
    data: bytes
    at: float | None
    is_ordered: bool


class MergedLog:
    """The log of attempt ``number`` of a job, with those of both ``streams`` that are wanted.

    It begins behind ``offsets``, which are by stream, and skips ``skip`` bytes. ``pause()`` is awaited before
    more is read, so that others have their time. All methods raise Gone if the job was removed, and
    StoreFailed or OSError if its output cannot be read.
    """

    def __init__(
        self,
        queue_state: QueueState,
        job_view: JobView,
        job_id: int,
        number: int,
        streams: Sequence[str],
        offsets: Mapping[str, int],
        pause: Pause,
        skip: int = 0,
    ) -> None:
        self.offsets = {stream: offsets[stream] for stream in streams}
        self._skip = skip
        self._pause = pause
        self._queue_state = queue_state
        self._job_view = job_view
        self._job_id = job_id
        self.number = number
        self._index = _IndexReader(job_view, number)
        self._ends = dict.fromkeys(streams, 0)
        self._at: float | None = None
        self._unordered = dict.fromkeys(streams, 0)
        self._latest = ""  # the stream of the last piece
        self._read_ahead: dict[str, tuple[int, bytes]] = dict.fromkeys(streams, (0, b""))

    @property
    def position(self) -> int:
        """The number of bytes of the log before the next piece."""
        return sum(self.offsets.values())

    def size(self) -> int:
        """Return the number of bytes that the log has now."""
        return sum(self._sizes(self._job()).values())

    def forget(self) -> None:
        """Free what was read ahead."""
        self._read_ahead = dict.fromkeys(self._read_ahead, (0, b""))

    async def next(self, max_length: int = CHUNK_SIZE) -> Piece | None:
        """Return the next piece, of up to ``max_length`` bytes; None if there is no more now."""
        while True:
            for stream, end in self._ends.items():
                start = self._skip_in(stream, end)
                if start >= end:
                    continue
                data = await self._read(stream, min(end - start, max_length))
                if data:
                    return Piece(stream, start, data, self._at, is_ordered=True)
                if self._is_live(self._job()):
                    return None  # it is still on its way to the file
                self._ends[stream] = start  # lost with the runner or by the disk
            if self._index.entries:
                self._add(self._index.entries.popleft())
            elif self._index.read(self._job()):
                self._skip_entries()
                await self._pause()
            else:
                return await self._next_of_rest(max_length)

    def _add(self, entry: Entry) -> None:
        self._at = entry.at / 1000
        for stream in self._ends:
            self._ends[stream] += entry.stdout if stream == "stdout" else entry.stderr

    def _skip_entries(self) -> None:
        """Take all entries that were read at once, if the log begins behind them."""
        entries = self._index.entries
        sizes = {
            "stdout": sum([entry.stdout for entry in entries]),
            "stderr": sum([entry.stderr for entry in entries]),
        }
        ends = {stream: end + sizes[stream] for stream, end in self._ends.items()}
        length = sum(sizes[stream] for stream in ends)
        if self.offsets == self._ends and length <= self._skip:
            self._skip -= length
            self.offsets = dict(ends)
        if all(self.offsets[stream] >= end for stream, end in ends.items()):
            self._ends = ends
            entries.clear()

    def _skip_in(self, stream: str, end: int) -> int:
        """Skip what is to be skipped of a stream before ``end``; return the offset after that."""
        start = self.offsets[stream]
        skipped = max(0, min(self._skip, end - start))
        self._skip -= skipped
        self.offsets[stream] += skipped
        return start + skipped

    async def _next_of_rest(self, max_length: int) -> Piece | None:
        """Return the next piece of what the index lacks."""
        job = self._job()
        sizes = self._sizes(job)
        left = [stream for stream, size in sizes.items() if size > self.offsets[stream]]
        if len(left) > 1:
            if self._is_live(job) and self._index.is_exact:
                return None  # the runner is about to write the entries
            self._unordered = sizes
            if self._is_live(job):  # in turns, since a job may print faster than a client reads
                left.sort(key=self._latest.__eq__)
        for stream in left:
            start = self._skip_in(stream, sizes[stream])
            data = await self._read(stream, min(sizes[stream] - start, max_length))
            if data:
                self._latest = stream
                at = self._job_view.written_at(job, stream, self.number)
                return Piece(stream, start, data, at, is_ordered=start >= self._unordered[stream])
        return None

    async def _read(self, stream: str, length: int) -> bytes:
        offset = self.offsets[stream]
        start, data = self._read_ahead[stream]
        if not (start <= offset < start + len(data)) and length > 0:
            data = await self._job_view.read(self._job(), stream, offset, CHUNK_SIZE, self.number)
            start = offset
            self._read_ahead[stream] = start, data
        piece = data[offset - start : offset - start + length] if length > 0 else b""
        self.offsets[stream] += len(piece)
        return piece

    def _job(self) -> Job:
        return self._queue_state.get(self._job_id)

    def _sizes(self, job: Job) -> dict[str, int]:
        return {stream: self._job_view.stream_size(job, stream, self.number) for stream in self.offsets}

    def _is_live(self, job: Job) -> bool:
        """Whether the attempt may print more."""
        return job.status is Status.RUNNING and job.attempt is not None and job.attempt.number == self.number

    async def seek_tail(self, lines: int) -> None:
        """Go on with the last lines of a log that was not read yet, as far as MAX_TAIL has them."""
        job = self._job()
        runs = await self._runs(self._sizes(job))
        ends = {"stdout": sum(length for length in runs if length > 0)}
        ends["stderr"] = sum(map(abs, runs)) - ends["stdout"]
        position = total = sum(ends.values())
        missing = lines
        while runs and missing > 0 and total - position < MAX_TAIL:
            length = runs.pop()
            stream = "stderr" if length < 0 else "stdout"
            start = ends[stream] - abs(length)
            while ends[stream] > start and missing > 0 and total - position < MAX_TAIL:
                size = min(CHUNK_SIZE, ends[stream] - start)
                data = await self._tail_piece(job, stream, ends[stream] - size, size)
                if position == total and data.endswith(b"\n"):
                    missing += 1  # the end of the last line begins no other
                found, at = _find_line(data, missing)
                missing -= found
                position -= size - at
                ends[stream] -= size
                await self._pause()
        self._skip = position
        self.forget()

    async def _runs(self, sizes: Mapping[str, int]) -> "array[int]":
        """Read the index again, and return the lengths of the runs in order; those of stderr are negative."""
        left = {"stdout": 0, "stderr": 0, **sizes}
        runs = array("q")
        index = _IndexReader(self._job_view, self.number)
        while index.read(self._job()):
            for entry in index.entries:
                stdout, stderr = min(entry.stdout, left["stdout"]), min(entry.stderr, left["stderr"])
                left["stdout"] -= stdout
                left["stderr"] -= stderr
                runs.extend((stdout, -stderr))
            index.entries.clear()
            await self._pause()
        runs.extend((left["stdout"], -left["stderr"]))
        return runs

    async def _tail_piece(self, job: Job, stream: str, offset: int, length: int) -> bytes:
        """Read a piece of a stream that is read backwards; what is before it is read ahead."""
        start, data = self._read_ahead[stream]
        if not start <= offset <= offset + length <= start + len(data):
            start = max(0, offset + length - CHUNK_SIZE)
            data = await self._job_view.read(job, stream, start, offset + length - start, self.number)
            self._read_ahead[stream] = start, data
        return data[offset - start : offset - start + length]


class _IndexReader:
    """Reads the ``entries`` of the index of an attempt in parts, from the journal or its file."""

    def __init__(self, job_view: JobView, number: int) -> None:
        self._job_view = job_view
        self._number = number
        self._parser = OrderParser()
        self.entries: deque[Entry] = deque()
        self._offset = 0
        self._has_read_record = False

    @property
    def is_exact(self) -> bool:
        """Whether there is a file with entries, each of one stream."""
        return 0 < self._offset < EXACT_BYTES and not self._has_read_record

    def read(self, job: Job) -> bool:
        """Read some more of the index into ``entries``; return whether there was more."""
        text = self._read(job)
        self.entries.extend(self._parser.feed(text))
        return bool(text)

    def _read(self, job: Job) -> bytes:
        attempt = self._job_view.attempt(job, self._number)
        if not self._has_read_record and attempt is not None and attempt.record is not None:
            self._has_read_record = True
            if not self._offset and (text := self._job_view.recorded_order(attempt)):
                return text
        text = self._job_view.read_order(job, self._number, self._offset, INDEX_CHUNK)
        self._offset += len(text)
        return text


def _find_line(data: bytes, count: int) -> tuple[int, int]:
    """Return how many line ends were found from the end on, up to ``count``, and where the last one ends."""
    at = len(data)
    for found in range(count):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return found, 0
    return count, at + 1
