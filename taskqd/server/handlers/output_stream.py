"""Sends the output of a job as it appears, at the speed of the client, through all attempts to the job's end.

Nothing is buffered for the client: each chunk is read from its file, or from the output of the running
attempt, when the client can receive it. A client that has received everything so far is sent what is new by
``output_tail``, together with others.
"""

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from taskqd.engine.engine import Engine
from taskqd.model.job import Job
from taskqd.protocol import replies
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.output_tail import CHUNK_SIZE, OutputTails, Position
from taskqd.server.interfaces import IClient


class OutputFollower:
    """Sends the output of job `job_id` to `client`, from `offsets` (bytes, by stream) on.

    The offsets are those in the attempt that is the latest when this is created; later ones are sent from 0.
    """

    def __init__(
        self,
        engine: Engine,
        job_view: JobView,
        tails: OutputTails,
        client: IClient,
        job_id: int,
        offsets: dict[str, int],
    ) -> None:
        self._engine = engine
        self._queue_state = engine.queue_state
        self._job_view = job_view
        self._tails = tails
        self._client = client
        self._job_id = job_id
        self._offsets = offsets
        self._attempt = self._queue_state.get(job_id).attempts
        self._has_news = False
        self._waiting: Deferred[None] | None = None

    async def follow(self) -> Job:
        """Return the job once it has ended and all of its output was sent; may be cancelled.

        Raises Gone if the job is removed, and StoreFailed if its output cannot be read.
        """
        unfollow = self._tails.add(self._job_id, self)
        try:
            return await self._send_until_end()
        finally:
            unfollow()

    # For the tail of the job.

    @property
    def awaits(self) -> Position | None:
        """See IFollower."""
        if self._waiting is None or self._waiting.called or self._client.is_congested:
            return None
        return Position(self._attempt, self._offsets["stdout"], self._offsets["stderr"])

    @property
    def must_yield(self) -> bool:
        """See IFollower."""
        return not (self._client.can_send or self._client.is_congested)

    def next_slice(self) -> "Deferred[None]":
        """See IFollower."""
        return self._client.next_slice()

    def send_piece(self, reply: bytes, end: Position) -> None:
        """See IFollower."""
        self._client.send(reply)
        self._offsets = {"stdout": end.stdout, "stderr": end.stderr}

    def wake(self) -> None:
        """See IFollower."""
        self._has_news = True
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)

    async def _send_until_end(self) -> Job:
        while True:
            self._has_news = False
            if await self._send_available():
                continue
            job = self._queue_state.get(self._job_id)
            if self._attempt < job.attempts:
                self._go_to_next_attempt(job)
            elif job.status.is_final:
                return job
            elif not self._has_news:
                await self._wait_for_more()

    async def _send_available(self) -> bool:
        """Send a chunk of each stream that has one; return whether any had."""
        has_sent = False
        for stream in self._offsets:
            job = self._queue_state.get(self._job_id)
            if any(attempt.number == self._attempt for attempt in self._job_view.attempts(job)):
                has_sent |= await self._send_chunk(job, stream)
        return has_sent

    async def _send_chunk(self, job: Job, stream: str) -> bool:
        offset = self._offsets[stream]
        chunk = await self._job_view.read(job, stream, offset, CHUNK_SIZE, self._attempt)
        if chunk:
            self._client.send(replies.data(stream, offset, chunk))
            self._offsets[stream] += len(chunk)
            await self._client.writable()
        return bool(chunk)

    def _go_to_next_attempt(self, job: Job) -> None:
        """Continue with the next attempt: all of this one was sent, or it is no longer known."""
        if self._attempt:
            self._offsets = dict.fromkeys(self._offsets, 0)
        later = (attempt.number for attempt in self._job_view.attempts(job) if attempt.number > self._attempt)
        self._attempt = next(later)

    async def _wait_for_more(self) -> None:
        """Wait until the tail cannot send more: there is a new attempt or an end, or the client is slow."""
        self._waiting = Deferred()
        ended = self._engine.wait(self._job_id)
        ended.addCallbacks(lambda _: self.wake(), _ignore_cancel)
        try:
            await self._waiting
        finally:
            self._waiting = None
            ended.cancel()
        await self._client.writable()


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)
