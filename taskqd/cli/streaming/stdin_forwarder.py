"""Sends the stdin of ``taskq run --interactive`` to its job, as it comes."""

import time
from threading import Thread

from taskqd.cli.context import Session
from taskqd.cli.statuses import FINISHED
from taskqd.cli.stdin_pieces import NO_TIMEOUT, stdin_pieces
from taskqd.client import Client, Refused, Unreachable

MIN_POLL_INTERVAL = 0.05
MAX_POLL_INTERVAL = 1.0
"""Seconds between two looks at whether the job has started; they double from the minimum to the maximum."""


class StdinForwarder(Thread):
    """A thread with a separate connection, since a client must not be shared; it ends with the process.

    It begins when the job runs. The end of stdin is that of the job's input. A job that has ended or reads no
    more ends it without a message; any other error is printed.
    """

    def __init__(self, session: Session, job: int) -> None:
        super().__init__(daemon=True)
        self._session = session
        self._job = job

    def run(self) -> None:
        try:
            with self._session.connect() as client:
                if self._wait_for_start(client):
                    self._forward(client)
        except (Refused, Unreachable, OSError) as error:
            if not (isinstance(error, Refused) and error.code == "WRONG_STATE"):
                self._session.print_message(f"job {self._job} gets no more input: {error}")

    def _wait_for_start(self, client: Client) -> bool:
        """Wait until the job runs; return False if it has ended."""
        interval = MIN_POLL_INTERVAL
        while (status := client.status(self._job).status) == "PENDING":
            time.sleep(interval)
            interval = min(interval * 2, MAX_POLL_INTERVAL)
        return status not in FINISHED

    def _forward(self, client: Client) -> None:
        for piece in stdin_pieces():
            client.send(self._job, piece, timeout=NO_TIMEOUT)
        client.send(self._job, eof=True, timeout=NO_TIMEOUT)
