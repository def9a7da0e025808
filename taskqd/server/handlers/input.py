"""Handler of SEND, which writes into the stdin of a running job."""

from twisted.internet.defer import Deferred

from taskqd.protocol import replies
from taskqd.protocol.send_request import SendRequest
from taskqd.server.handlers.base import HandlerGroup, Reply, handles
from taskqd.server.handlers.with_blocks import DATA_BLOCK, WithBlocks
from taskqd.server.interfaces import IClient


class InputHandlers(HandlerGroup):
    """Sends input. A request is answered when the job's pipe has it; nothing is recorded."""

    @handles("SEND")
    def _send(self, client: IClient, request: WithBlocks[SendRequest]) -> Reply:
        send, data = request.request, request.blocks.get(DATA_BLOCK, b"")
        written: Deferred[int] = self._engine.job_input.send(
            self._id_of(send.job), client.principal.actor, data, send.is_eof, send.timeout
        )
        return client.while_connected(written).addCallback(lambda count: replies.ok(f"{count}"))
