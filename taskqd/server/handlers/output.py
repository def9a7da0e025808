"""Handlers of the verbs that return the output of a job, or its script: RESULT and OUTPUT.

Output that fits into one chunk is read completely before the reply begins. Of longer output, the first chunk
of each stream is read before, so that a missing file is an ERROR; after that only one chunk at a time is in
memory. If a reply was begun and cannot be finished, because the disk fails or the job was removed, the
connection is closed: no client takes a part for the whole.
"""

from collections.abc import Iterator

from twisted.internet import defer
from twisted.internet.defer import Deferred

from taskqd.errors import StoreFailed, TaskqError
from taskqd.model.job import Job, Status
from taskqd.protocol import replies, values
from taskqd.protocol.output_requests import OutputRequest
from taskqd.protocol.requests import JobRequest
from taskqd.server.handlers.base import HandlerGroup, Reply, check_has_output, handles
from taskqd.server.interfaces import IClient

OUTPUT_CHUNK = 65_536
"""Bytes that OUTPUT reads and sends at a time."""
FLUSH_TIMEOUT = 1.0
"""Seconds that OUTPUT of a running job waits for its runner, which answers within a millisecond."""
RESULT_CHUNK = 16_384
"""Bytes that RESULT reads and escapes at a time; escaped, they may be four times as many."""


class OutputHandlers(HandlerGroup):
    """Returns output of jobs."""

    @handles("RESULT")
    def _result(self, client: IClient, request: JobRequest) -> Reply:
        job = check_has_output(self._queue_state.get(request.job))
        return Deferred.fromCoroutine(self._send_result(client, job))

    async def _send_result(self, client: IClient, job: Job) -> bytes:
        exit_code = job.exit_code  # read now: a RETRY may follow before the reply is complete
        sizes = self._job_view.check_result(job)
        if sum(sizes.values()) <= RESULT_CHUNK:
            stdout, stderr = await self._job_view.read_both_streams(job)
            return replies.result(values.escaped(stdout), values.escaped(stderr), exit_code)
        number = _latest_attempt(job)
        first = {
            stream: await self._read_chunk(job, stream, number, 0, min(size, RESULT_CHUNK))
            for stream, size in sizes.items()
        }
        part = b"RESULT"
        try:
            for stream, size in sizes.items():
                part += b' "' + values.escaped(first[stream])
                for offset, length in _chunks(len(first[stream]), size - len(first[stream]), RESULT_CHUNK):
                    await _send_part(client, part)
                    part = values.escaped(await self._read_chunk(job, stream, number, offset, length))
                part += b'"'
        except (TaskqError, OSError) as error:
            return _abort(client, f"RESULT of job {job.id} cannot be finished: {error}")
        return part + replies.result_end(exit_code)

    @handles("OUTPUT")
    def _output(self, client: IClient, request: OutputRequest) -> Reply:
        if request.stream == "script":
            return self._send_output(client, self._queue_state.get(request.job), request)
        job = check_has_output(self._queue_state.get(request.job))
        if job.status is not Status.RUNNING:
            return self._send_output(client, job, request)
        flushed = self._job_view.flush(job).addTimeout(FLUSH_TIMEOUT, self._clock)
        flushed.addErrback(lambda failure: failure.trap(defer.TimeoutError))  # what is there is sent
        return flushed.addCallback(lambda _: self._send_output(client, job, request))

    def _send_output(self, client: IClient, job: Job, request: OutputRequest) -> Reply:
        size = self._job_view.stream_size(job, request.stream, request.attempt)
        offset = request.offset if request.tail is None else max(0, size - request.tail)
        length = max(0, min(request.limit, size - offset))
        number = _latest_attempt(job) if request.attempt is None else request.attempt
        return Deferred.fromCoroutine(self._send_part_of(client, job, request.stream, number, offset, length))

    async def _send_part_of(
        self, client: IClient, job: Job, stream: str, number: int, offset: int, length: int
    ) -> bytes:
        first = await self._read_chunk(job, stream, number, offset, min(length, OUTPUT_CHUNK))
        part = replies.data_begin(stream, offset, length) + first
        try:
            for at, size in _chunks(offset + len(first), length - len(first), OUTPUT_CHUNK):
                await _send_part(client, part)
                part = b""
                part = await self._read_chunk(job, stream, number, at, size)
        except (TaskqError, OSError) as error:
            return _abort(client, f"OUTPUT of job {job.id} cannot be finished: {error}")
        return part + replies.DATA_END

    async def _read_chunk(self, job: Job, stream: str, number: int, offset: int, length: int) -> bytes:
        """Return a chunk of the output of an attempt; raises StoreFailed if it is incomplete."""
        if not length:
            return b""
        chunk = await self._job_view.read(job, stream, offset, length, number)
        if len(chunk) < length:
            raise StoreFailed(
                f"{stream} of job {job.id} is incomplete: of {length} bytes from offset {offset} on, "
                f"{len(chunk)} were read"
            )
        return chunk


def _latest_attempt(job: Job) -> int:
    """Return the number of the latest attempt, 0 if there is none yet."""
    return 0 if job.attempt is None else job.attempt.number


def _chunks(offset: int, length: int, max_length: int) -> Iterator[tuple[int, int]]:
    """Yield the offset and the length of each chunk of up to `max_length` bytes."""
    for at in range(offset, offset + length, max_length):
        yield at, min(max_length, offset + length - at)


async def _send_part(client: IClient, part: bytes) -> None:
    client.send_part(part)
    await client.writable()


def _abort(client: IClient, why: str) -> bytes:
    client.abort(why)
    return b""
