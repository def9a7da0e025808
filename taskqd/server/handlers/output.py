"""What a job printed: RESULT and OUTPUT, read from where it lies and sent piece by piece.

What fits into one piece is read whole before the reply begins. Of more, the first piece of each stream is
read before, so that a file that is gone is an ERROR; after that only the piece on its way is in memory. A
reply that was begun and cannot be finished, since the disk fails or the job was removed, ends the connection:
no client takes a part for the whole.
"""

from collections.abc import Iterator

from twisted.internet.defer import Deferred

from taskqd.errors import StoreFailed, TaskqError
from taskqd.model.job import Job
from taskqd.model.job_ref import JobRef
from taskqd.protocol import replies, values
from taskqd.protocol.requests import Slice
from taskqd.server.handlers.base import Handler, HandlerGroup, Reply, one_that_runs
from taskqd.server.interfaces import IClient

PIECE_BYTES = 65_536
"""OUTPUT reads and sends this many bytes at a time."""
ESCAPED_BYTES = 16_384
"""RESULT escapes this many bytes at a time, to four times as many at most."""


class OutputHandlers(HandlerGroup):
    """Gives what jobs have printed."""

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by verb."""
        return {"RESULT": self._result, "OUTPUT": self._output}

    def _result(self, client: IClient, ref: JobRef) -> Reply:
        job = one_that_runs(self._queue_state.get(ref))
        return Deferred.fromCoroutine(self._both_streams(client, job))

    async def _both_streams(self, client: IClient, job: Job) -> bytes:
        exit_code = job.exit_code  # now: a RETRY may come in between
        sizes = self._results.check_result(job)
        if sum(sizes.values()) <= ESCAPED_BYTES:
            stdout, stderr = await self._results.both(job)
            return replies.result(values.escaped(stdout), values.escaped(stderr), exit_code)
        number = _latest(job)
        first = {
            stream: await self._piece(job, stream, number, 0, min(size, ESCAPED_BYTES))
            for stream, size in sizes.items()
        }
        portion = b"RESULT"
        try:
            for stream, size in sizes.items():
                portion += b' "' + values.escaped(first[stream])
                for offset, length in _pieces(len(first[stream]), size - len(first[stream]), ESCAPED_BYTES):
                    await _send(client, portion)
                    portion = values.escaped(await self._piece(job, stream, number, offset, length))
                portion += b'"'
        except (TaskqError, OSError) as why:
            return _broken_off(client, f"RESULT of job {job.id} cannot be read on: {why}")
        return portion + replies.result_end(exit_code)

    def _output(self, client: IClient, part: Slice) -> Reply:
        job = one_that_runs(self._queue_state.get(part.id))
        size = self._results.size(job, part.stream, part.attempt)
        offset = part.offset if part.tail is None else max(0, size - part.tail)
        length = max(0, min(part.limit, size - offset))
        number = _latest(job) if part.attempt is None else part.attempt
        return Deferred.fromCoroutine(self._slice(client, job, part.stream, number, offset, length))

    async def _slice(
        self, client: IClient, job: Job, stream: str, number: int, offset: int, length: int
    ) -> bytes:
        first = await self._piece(job, stream, number, offset, min(length, PIECE_BYTES))
        portion = replies.data_begin(stream, offset, length) + first
        try:
            for at, size in _pieces(offset + len(first), length - len(first), PIECE_BYTES):
                await _send(client, portion)
                portion = b""
                portion = await self._piece(job, stream, number, at, size)
        except (TaskqError, OSError) as why:
            return _broken_off(client, f"OUTPUT of job {job.id} cannot be read on: {why}")
        return portion + replies.DATA_END

    async def _piece(self, job: Job, stream: str, number: int, offset: int, length: int) -> bytes:
        """Return a piece of what an attempt has printed; raises StoreFailed for one that is not all there."""
        if not length:
            return b""
        piece = await self._results.read(job, stream, offset, length, number)
        if len(piece) < length:
            raise StoreFailed(f"{length} bytes of {stream} from {offset} on are {len(piece)}")
        return piece


def _latest(job: Job) -> int:
    """Return the number of the latest attempt, 0 if there is none yet."""
    return 0 if job.attempt is None else job.attempt.number


def _pieces(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the offset and the length of each piece of up to ``most`` bytes."""
    for at in range(offset, offset + length, most):
        yield at, min(most, offset + length - at)


async def _send(client: IClient, portion: bytes) -> None:
    client.send_part(portion)
    await client.writable()


def _broken_off(client: IClient, why: str) -> bytes:
    client.abort(why)
    return b""
