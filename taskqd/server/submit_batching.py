"""Batches the SUBMIT requests of all connections that are read in one poll cycle into one journal entry.

One journal entry, one scheduling pass and one callback are enough for a whole batch. Outside of a poll cycle
the submissions of each connection are submitted at once.
"""

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import TaskqError
from taskqd.protocol import replies
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IClient
from taskqd.server.pending import SubmitBatch

OnReply = Callable[[bytes, SubmitBatch], object]
"""Called with the reply to a batch, one line per submission."""
_Entry = tuple[IClient, SubmitBatch, OnReply]


class SubmitBatcher:
    """Submits the batches of a poll cycle through `router`, and passes each client its own reply."""

    _log = Logger()

    def __init__(self, router: Router) -> None:
        self._router = router
        self._is_in_batch = False
        self._entries: list[_Entry] = []

    def batch_started(self) -> None:
        """Collect submissions until `batch_ended`."""
        self._is_in_batch = True

    def batch_ended(self) -> None:
        """Submit what was collected."""
        self._is_in_batch = False
        if self._entries:
            self._flush()

    def add(self, client: IClient, batch: SubmitBatch, on_reply: OnReply) -> None:
        """Submit a client's batch, at the end of the poll cycle if one is in progress."""
        self._entries.append((client, batch, on_reply))
        if not self._is_in_batch:
            self._flush()

    def _flush(self) -> None:
        entries, self._entries = self._entries, []
        self._submit(entries)

    def _submit(self, entries: list[_Entry]) -> None:
        try:
            submitted = self._router.submit_all([(client, batch.submissions) for client, batch, _ in entries])
        except Exception:  # noqa: BLE001 - a bug must not leave the clients without a reply
            if len(entries) == 1:
                self._fail(Failure(), entries)
                return
            for entry in entries:  # so that the bug affects only the client whose submission has it
                self._submit([entry])
        else:
            submitted.addCallbacks(self._reply, self._fail, (entries,), errbackArgs=(entries,))

    def _reply(self, answers: list[bytes], entries: list[_Entry]) -> None:
        for reply, (_, batch, on_reply) in zip(answers, entries, strict=True):
            try:
                on_reply(reply, batch)
            except Exception:  # noqa: BLE001 - the other clients must get their replies all the same
                self._log.failure("internal error while sending the reply to a SUBMIT")

    def _fail(self, failure: Failure, entries: list[_Entry]) -> None:
        self._log.failure("internal error in SUBMIT", failure)
        reply = replies.error(TaskqError("internal error in SUBMIT; see the daemon's log"))
        self._reply([reply * batch.count for _, batch, _ in entries], entries)
