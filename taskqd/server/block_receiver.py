"""Receives the blocks (scripts, stdins) that follow some request lines, and reserves memory for them."""

from taskqd.auth.principal import Principal
from taskqd.errors import QueueFull
from taskqd.protocol import parser
from taskqd.protocol.blocks import BlockReader
from taskqd.server.pending import PendingRequest
from taskqd.server.request_memory import RequestMemory


class BlockReceiver:
    """Receives the blocks of one request at a time; those of a refused request are received and dropped."""

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._current: tuple[PendingRequest, BlockReader] | None = None

    @property
    def wanted(self) -> int:
        """The number of bytes to be fed next, 0 if no block is expected."""
        return 0 if self._current is None else self._current[1].wanted

    def start(self, request: parser.Request, line: bytes, principal: Principal | None) -> PendingRequest:
        """Expect the blocks of a request, which is refused if memory cannot be reserved for them."""
        pending = self._reserve(request, line, principal)
        self._current = (pending, BlockReader(request.blocks, pending.request.error is None))
        return pending

    def _reserve(self, request: parser.Request, line: bytes, principal: Principal | None) -> PendingRequest:
        if request.error is not None or principal is None:
            return PendingRequest(request, len(line), line=line)
        size = sum(request.blocks)
        try:
            self._memory.reserve(principal, size)
        except QueueFull as error:
            return PendingRequest(request._replace(error=error), len(line), line=line)
        return PendingRequest(request, len(line) + size, (principal, size), line)

    def feed(self, data: bytes) -> PendingRequest | None:
        """Receive `wanted` bytes or fewer, and return the request once it is complete, unless it was refused.

        Raises BadRequest if a block is not followed by a line end.
        """
        if self._current is None:
            return None
        pending, reader = self._current
        try:
            reader.feed(data)
        except Exception:
            self.cancel()
            raise
        if reader.wanted:
            return None
        self._current = None
        if not reader.is_kept:
            return None
        pending.blocks = reader.blocks
        return pending

    def cancel(self) -> None:
        """Expect no blocks any more."""
        if self._current is not None:
            self.release(self._current[0])
            self._current = None

    def release(self, pending: PendingRequest) -> None:
        """Release the memory that was reserved for the blocks of a request."""
        if pending.reserved is not None:
            self._memory.release(*pending.reserved)
            pending.reserved = None
