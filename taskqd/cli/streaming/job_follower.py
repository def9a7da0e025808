"""Reads the output or the log of a job, and continues where it was after restarts of the daemon."""

import time
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from taskqd.cli.job_output import describe_output_files
from taskqd.client import Client, Facts, LogPiece, Output, Ref, Unreachable, Untrusted
from taskqd.client.connection import ConnectionLost
from taskqd.client.follow_position import FollowPosition, describe_restart
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECT_TIMEOUT, RECONNECTED, reconnect


class Notice(NamedTuple):
    """A message about the connection or attempt of a job."""

    text: str


Item = Output | Notice | Facts
"""An item from a followed job: output, a notice, and at the end the facts of the job."""
LogItem = LogPiece | Output | Notice | Facts
"""Likewise for its log; an Output is empty."""
Piece = TypeVar("Piece", Output, LogPiece)


class _Follower(Generic[Piece]):
    """Reads the output of one job, and continues at the same offsets after a reconnect.

    It reconnects for up to ``reconnect_timeout`` seconds and calls ``sleep`` between two attempts. If the job
    ``is_known`` to exist because it was just submitted, the first connection may fail too. It begins at
    ``position``.
    """

    def __init__(
        self,
        job: Ref,
        connect: Callable[[], Client],
        reconnect_timeout: float = RECONNECT_TIMEOUT,
        sleep: Callable[[float], object] = time.sleep,
        *,
        is_known: bool = False,
        position: FollowPosition | None = None,
    ) -> None:
        self._job = job
        self._connect = connect
        self._reconnect_timeout = reconnect_timeout
        self._sleep = sleep
        self._is_known = is_known
        self._position = position or FollowPosition()

    def _read(self, client: Client) -> Iterator[Piece | Output]:
        raise NotImplementedError

    def items(self) -> Iterator[Piece | Output | Notice | Facts]:
        """Yield items until the job ends; raises Refused, and Unreachable after the reconnect timeout.

        When there is no output, an empty Output is yielded every 0.1 s.
        """
        client: Client | None = None
        deadline: float | None = None
        losses = 0
        while True:
            try:
                client = client or self._connect_again()
                with client:
                    for item in self._follow_to_end(client):
                        if deadline is not None:
                            yield Notice(RECONNECTED)
                            deadline = None
                            losses = 0
                        yield item
                return
            except ConnectionLost:
                is_late = deadline is not None and deadline < time.monotonic()
                if (self._position.is_new and not self._is_known) or not self._reconnect_timeout or is_late:
                    raise
            if deadline is None:
                deadline = time.monotonic() + self._reconnect_timeout
                yield Notice(CONNECTION_LOST)
            losses += 1
            client = reconnect(self._connect, deadline - time.monotonic(), self._sleep, losses=losses)

    def _connect_again(self) -> Client:
        """Connect to a daemon that may be stopping; raises ConnectionLost."""
        try:
            return self._connect()
        except Untrusted:
            raise
        except Unreachable as error:
            raise ConnectionLost(str(error)) from None

    def _follow_to_end(self, client: Client) -> Iterator[Piece | Output | Notice | Facts]:
        yield from self._read_output(client)
        yield client.show(self._job)

    def _read_output(self, client: Client) -> Iterator[Piece | Output | Notice]:
        facts = client.show(self._job)
        is_first = self._position.is_new and not self._is_known
        if is_first and (where := describe_output_files(self._job, facts)):
            yield Notice(where)
        if self._position.resume(facts["attempts"]):
            yield Notice(describe_restart(self._job))
        for piece in self._read(client):
            if piece.data:
                self._position.advance(piece, self._count_attempts)
            yield piece

    def _count_attempts(self) -> int:
        with self._connect_again() as second_client:
            attempts: int = second_client.show(self._job)["attempts"]
        return attempts


class JobFollower(_Follower[Output]):
    """Reads the output of one job; its items are of the type Item."""

    def _read(self, client: Client) -> Iterator[Output]:
        return client.follow(self._job, **self._position.offsets)


class LogFollower(_Follower[LogPiece]):
    """Reads the log of one job, or of it only one ``stream``; its items are of the type LogItem."""

    stream: str | None = None

    def _read(self, client: Client) -> Iterator[LogPiece | Output]:
        return client.follow_log(self._job, **self._position.offsets, stream=self.stream)
