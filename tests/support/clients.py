"""Clients of several users on a server in memory."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import maybeDeferred

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import TaskqError
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.protocol import parser
from tests.fakes.client import FakeClient
from tests.fakes.engine import Harness

ANN = Principal("ann", Role.SUBMIT, "pid 1")
BOB = Principal("bob", Role.SUBMIT, "pid 2")
EVE = Principal("eve", Role.READ, "pid 3")
ROOT = Principal("root", Role.ADMIN, "pid 4", uid=0)
IN_Q = Principal("ann", Role.SUBMIT, "pid 5", queue="q", token="1")


class Server:
    """A harness that clients of several users send requests to."""

    def __init__(self, **limits: Any) -> None:
        self.harness = Harness(slots=1, limits=Limits(**limits))
        self.harness.engine.start()

    def ask(self, principal: Principal | None, line: str, blocks: Sequence[bytes] = ()) -> str:
        """Return the first word of the reply to a request, or the code of its error."""
        return self.whole(principal, line, blocks).split()[0]

    def whole(self, principal: Principal | None, line: str, blocks: Sequence[bytes] = ()) -> str:
        """Return the reply to a request, or the code and text of its error; WAITS if there is none."""
        client = FakeClient(principal)
        request = parser.parse_line(line.encode())
        answer = maybeDeferred(self.harness.router.handle, client, request, list(blocks))
        replies: list[str] = []
        answer.addCallbacks(
            lambda reply: replies.append(reply.decode()),
            lambda failure: replies.append(_describe(failure.value)),
        )
        self.harness.settle()
        if not replies:
            client.next_line_waiters.clear()
            answer.cancel()
            return client.sent.decode() or "WAITS"
        return client.sent.decode() + replies[0]

    def status(self, job_id: int) -> Status:
        return self.harness.job(job_id).status


def _describe(error: Exception) -> str:
    assert isinstance(error, TaskqError), error
    return f"{error.code} {error}"
