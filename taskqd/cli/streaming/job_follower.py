"""Reads the output of a job, and continues where it was after restarts of the daemon (FOLLOW)."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from taskqd.client import Client, Facts, Output, Ref, Unreachable, Untrusted
from taskqd.client.connection import ConnectionLost
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECT_TIMEOUT, RECONNECTED, reconnect


class Notice(NamedTuple):
    """A message about the connection or attempt of a job."""

    text: str


Item = Output | Notice | Facts
"""An item from a followed job: output, a notice, and at the end the facts of the job."""


class JobFollower:
    """Reads the output of one job, and continues at the same offsets after a reconnect.

    It reconnects for up to ``reconnect_timeout`` seconds and calls ``sleep`` between two attempts. If the job
    ``is_known`` to exist because it was just submitted, the first connection may fail too.
    """

    def __init__(
        self,
        job: Ref,
        connect: Callable[[], Client],
        reconnect_timeout: float = RECONNECT_TIMEOUT,
        sleep: Callable[[float], object] = time.sleep,
        *,
        is_known: bool = False,
    ) -> None:
        self._job = job
        self._connect = connect
        self._reconnect_timeout = reconnect_timeout
        self._sleep = sleep
        self._is_known = is_known
        self._offsets = {"stdout": 0, "stderr": 0}
        self._attempt: int | None = 0
        """The attempt to which the offsets belong; None if it is uncertain."""
        self._is_first = True

    def items(self) -> Iterator[Item]:
        """Yield items until the job ends; raises Refused, and Unreachable after the reconnect timeout.

        When there is no output, an empty Output is yielded every 0.1 s.
        """
        client: Client | None = None
        deadline: float | None = None
        losses = 0
        while True:
            try:
                client = client or self._first_client()
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
                if (self._is_first and not self._is_known) or not self._reconnect_timeout or is_late:
                    raise
            if deadline is None:
                deadline = time.monotonic() + self._reconnect_timeout
                yield Notice(CONNECTION_LOST)
            losses += 1
            client = reconnect(self._connect, deadline - time.monotonic(), self._sleep, losses=losses)

    def _first_client(self) -> Client:
        try:
            return self._connect()
        except Untrusted:
            raise
        except Unreachable as error:
            raise ConnectionLost(str(error)) from None

    def _follow_to_end(self, client: Client) -> Iterator[Item]:
        yield from self._read_output(client)
        yield client.show(self._job)

    def _read_output(self, client: Client) -> Iterator[Item]:
        attempts = client.show(self._job)["attempts"]
        if self._is_first:
            self._attempt = attempts
            self._is_first = False
        elif attempts != self._attempt:
            if any(self._offsets.values()):
                yield Notice(f"job {self._job} is running again; its output starts from the beginning")
            self._start_attempt(attempts)
        for piece in client.follow(self._job, **self._offsets):
            if piece.data:
                self._update_offsets(client, piece)
            yield piece

    def _start_attempt(self, attempt: int | None) -> None:
        self._attempt = attempt
        self._offsets = {"stdout": 0, "stderr": 0}

    def _update_offsets(self, client: Client, piece: Output) -> None:
        """Update the offsets; a piece that does not continue the attempt is the first of a later attempt."""
        if self._attempt == 0 or piece.offset < self._offsets[piece.stream]:
            self._start_attempt(self._next_attempt(client))
        self._offsets[piece.stream] = piece.offset + len(piece.data)

    def _next_attempt(self, client: Client) -> int | None:
        """Return the attempt after the known one, or None if several are possible."""
        if self._attempt is None:
            return None
        with client.another() as second_client:
            attempts: int = second_client.show(self._job)["attempts"]
        return attempts if attempts == self._attempt + 1 else None
