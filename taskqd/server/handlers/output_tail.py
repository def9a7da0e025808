"""Sends new output of a job to all clients that have received all before it.

Each piece is read and encoded once for all clients that wait for the bytes at the same position.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from taskqd.errors import TaskqError
from taskqd.protocol import replies
from taskqd.server.handlers.job_view import JobView
from taskqd.state.queue_state import QueueState

CHUNK_SIZE = 65_536
"""Bytes that are sent at a time."""


class Position(NamedTuple):
    """The position of a follower: an attempt, 0 for none, and the offsets in its streams (bytes)."""

    attempt: int
    stdout: int
    stderr: int

    def after(self, stream: str, length: int) -> "Position":
        """Return the position behind a piece of a stream."""
        if stream == "stdout":
            return self._replace(stdout=self.stdout + length)
        return self._replace(stderr=self.stderr + length)


class IFollower(Protocol):
    """A client that follows the output of a job."""

    @property
    def awaits(self) -> Position | None:
        """The position from which the client can be sent output; None if it cannot be sent any."""

    @property
    def must_yield(self) -> bool:
        """Whether the reactor must have time for others before the client is sent more."""

    def next_slice(self) -> "Deferred[None]":
        """Fire when the reactor has had that time; fails with CancelledError if the client disconnects."""

    def send_piece(self, reply: bytes, end: Position) -> None:
        """Send a piece at the awaited position; the next one begins at ``end``."""

    def wake(self) -> None:
        """Read the job again: it may have more output, another attempt, or have ended."""


class OutputTail:
    """The followers of one job."""

    _log = Logger()

    def __init__(self, queue_state: QueueState, job_view: JobView, job_id: int) -> None:
        self.followers: dict[IFollower, None] = {}
        self.stop = job_view.follow(job_id, self._on_output)
        self._queue_state = queue_state
        self._job_view = job_view
        self._job_id = job_id
        self._has_news = False
        self._is_sending = False

    def _on_output(self) -> None:
        """Send what is new; if that is in progress, once more afterwards."""
        self._has_news = True
        if not self._is_sending:
            self._is_sending = True
            sending = Deferred.fromCoroutine(self._send_news())
            sending.addErrback(lambda failure: self._log.failure("internal error in FOLLOW", failure))

    async def _send_news(self) -> None:
        try:
            while self._has_news:
                self._has_news = False
                for position, followers in self._by_position().items():
                    if position is None or not await self._send_from(position, followers):
                        _wake(followers)
        finally:
            self._is_sending = False

    def _by_position(self) -> dict[Position | None, list[IFollower]]:
        found: dict[Position | None, list[IFollower]] = {}
        for follower in self.followers:
            found.setdefault(follower.awaits, []).append(follower)
        return found

    async def _send_from(self, position: Position, followers: list[IFollower]) -> bool:
        """Send a piece of each stream that has one; return False if the followers must read the job again."""
        has_sent = False
        try:
            job = self._queue_state.get(self._job_id)
            if position.attempt:
                for stream, offset in (("stdout", position.stdout), ("stderr", position.stderr)):
                    data = await self._job_view.read(job, stream, offset, CHUNK_SIZE, position.attempt)
                    if data:
                        has_sent = self._has_news = True  # there may be more behind it
                        end = position.after(stream, len(data))
                        await _send(followers, position, replies.data(stream, offset, data), end)
                        position = end
            job = self._queue_state.get(self._job_id)
        except (TaskqError, OSError):  # each follower raises it, and answers its client
            return False
        return has_sent or (position.attempt == job.attempts and not job.status.is_final)


class OutputTails:
    """The tails of all jobs that are followed."""

    def __init__(self, queue_state: QueueState, job_view: JobView) -> None:
        self._queue_state = queue_state
        self._job_view = job_view
        self._tails: dict[int, OutputTail] = {}

    def add(self, job_id: int, follower: IFollower) -> Callable[[], None]:
        """Add a follower of a job; return the function that removes it."""
        tail = self._tails.get(job_id)
        if tail is None:
            tail = self._tails[job_id] = OutputTail(self._queue_state, self._job_view, job_id)
        tail.followers[follower] = None

        def remove() -> None:
            del tail.followers[follower]
            if not tail.followers:
                tail.stop()
                del self._tails[job_id]

        return remove


async def _send(followers: list[IFollower], start: Position, reply: bytes, end: Position) -> None:
    """Send a piece to those that still await it, and wake the others."""
    for follower in followers:
        if follower.must_yield:
            with suppress(CancelledError):
                await follower.next_slice()
        if follower.awaits == start:
            follower.send_piece(reply, end)
        else:
            follower.wake()


def _wake(followers: list[IFollower]) -> None:
    for follower in followers:
        follower.wake()
