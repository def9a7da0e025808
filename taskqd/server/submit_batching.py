"""Plain submissions of all connections that are read in one round: they go together.

One entry of the journal, one look for what may start and one callback are enough for all of them. Where no
round is under way, what one connection asks goes at once.
"""

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import TaskqError
from taskqd.protocol import replies
from taskqd.server.handlers.router import Router
from taskqd.server.interfaces import IClient
from taskqd.server.pending import SubmitBatch

Answered = Callable[[bytes, SubmitBatch], object]
"""Takes the reply to what was asked, a line for each submission."""
_Asker = tuple[IClient, SubmitBatch, Answered]


class SubmitBatcher:
    """Hands to ``verbs`` what comes in a round, and gives each who asked their reply."""

    _log = Logger()

    def __init__(self, verbs: Router) -> None:
        self._verbs = verbs
        self._is_open = False
        self._gathered: list[_Asker] = []

    def batch_started(self) -> None:
        """Gather from now on."""
        self._is_open = True

    def batch_ended(self) -> None:
        """Let go of what was gathered."""
        self._is_open = False
        if self._gathered:
            self._let_go()

    def put(self, caller: IClient, asked: SubmitBatch, answered: Answered) -> None:
        """Have plain submissions made, and ``answered`` called with their reply."""
        self._gathered.append((caller, asked, answered))
        if not self._is_open:
            self._let_go()

    def _let_go(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._submit(gathered)

    def _submit(self, gathered: list[_Asker]) -> None:
        try:
            submitted = self._verbs.submit_all([(caller, asked.orders) for caller, asked, _ in gathered])
        except Exception:  # noqa: BLE001 - whatever a bug of ours raises, the clients get an answer
            if len(gathered) == 1:
                self._failed(Failure(), gathered)
                return
            for asker in gathered:  # and those who did not meet it theirs
                self._submit([asker])
        else:
            submitted.addCallbacks(self._answer, self._failed, (gathered,), errbackArgs=(gathered,))

    def _answer(self, answers: list[bytes], gathered: list[_Asker]) -> None:
        for reply, (_, asked, answered) in zip(answers, gathered, strict=True):
            try:
                answered(reply, asked)
            except Exception:  # noqa: BLE001 - a bug that one connection meets is not the others'
                self._log.failure("answering a submission met a bug of taskqd's")

    def _failed(self, failure: Failure, gathered: list[_Asker]) -> None:
        self._log.failure("SUBMIT met a bug of taskqd's", failure)
        bug = replies.error(TaskqError("SUBMIT met a bug of taskqd's; the daemon's log has it"))
        self._answer([bug * asked.count for _, asked, _ in gathered], gathered)
