"""What a job prints, sent on as it appears and at the reader's pace, from attempt to attempt to its end.

Nothing is kept for the reader: each piece is read from where it lies when there is room for it.
"""

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from taskqd.engine.engine import Engine
from taskqd.model.job import Job
from taskqd.protocol import replies
from taskqd.server.handlers.job_view import JobView
from taskqd.server.interfaces import IClient

PIECE = 65_536
"""So many bytes are sent at a time."""


class Follower:
    """Sends what job ``job_id`` prints to ``client``, from ``offsets`` by stream on; bytes.

    The offsets are those in the latest attempt that there is at first. Every later one begins at 0.
    """

    def __init__(
        self,
        engine: Engine,
        results: JobView,
        client: IClient,
        job_id: int,
        offsets: dict[str, int],
    ) -> None:
        self._engine = engine
        self._queue_state = engine.queue_state
        self._results = results
        self._client = client
        self._job_id = job_id
        self._offsets = offsets
        self._attempt = self._queue_state.get(job_id).attempts

    async def follow(self) -> Job:
        """Return the job when it has ended and all that it printed was sent; may be cancelled.

        Raises Gone if it is removed meanwhile, and StoreFailed if what is there can't be read.
        """
        while True:
            if await self._send_some():
                continue
            job = self._queue_state.get(self._job_id)
            if self._attempt < job.attempts:
                self._go_to_next_attempt(job)
            elif job.status.is_final:
                return job
            else:
                await self._more()

    async def _send_some(self) -> bool:
        """Send a piece of each stream, where there is one, and tell whether there was."""
        is_any = False
        for stream in self._offsets:
            job = self._queue_state.get(self._job_id)
            if any(attempt.number == self._attempt for attempt in self._results.attempts(job)):
                is_any |= await self._send_piece(job, stream)
        return is_any

    async def _send_piece(self, job: Job, stream: str) -> bool:
        offset = self._offsets[stream]
        content = await self._results.read(job, stream, offset, PIECE, self._attempt)
        if content:
            self._client.send(replies.data(stream, offset, content))
            self._offsets[stream] += len(content)
            await self._client.writable()
        return bool(content)

    def _go_to_next_attempt(self, job: Job) -> None:
        """Go on with the attempt behind this one, of which all was sent or nothing is known any more."""
        if self._attempt:
            self._offsets = dict.fromkeys(self._offsets, 0)
        later = (attempt.number for attempt in self._results.attempts(job) if attempt.number > self._attempt)
        self._attempt = next(later)

    async def _more(self) -> None:
        """Wait until there may be more: output, an attempt, or the end. All that there was has been sent."""
        more: Deferred[None] = Deferred()
        leave = self._results.follow(self._job_id, partial(_ring, more))
        ended = self._engine.wait(self._job_id)
        ended.addCallbacks(partial(_ring, more), _ignore_cancel)
        try:
            await more
        finally:
            leave()
            ended.cancel()


def _ring(bell: "Deferred[None]", _: Any = None) -> None:
    if not bell.called:
        bell.callback(None)


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)
