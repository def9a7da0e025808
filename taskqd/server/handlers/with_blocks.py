"""Requests with the blocks that have followed their lines."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from taskqd.model.submission import (
    BLOCKS,
    ENVIRONMENT_BLOCK,
    SECRET_BLOCK,
    RescheduleRequest,
    RunNowRequest,
    ScheduleRequest,
    Submission,
)
from taskqd.protocol.act_requests import SetManyRequest, SetRequest
from taskqd.protocol.send_request import SendRequest

_Request = (
    Submission
    | ScheduleRequest
    | RescheduleRequest
    | RunNowRequest
    | SetRequest
    | SetManyRequest
    | SendRequest
)
DATA_BLOCK = "data"
"""The name of the block of a SEND."""
Parsed = TypeVar("Parsed", bound=_Request)


class WithBlocks(Struct, Generic[Parsed], frozen=True):
    """A parsed line, and the blocks by name: those that have followed it, and that of its secrets."""

    request: Parsed
    blocks: Mapping[str, bytes]

    @property
    def secret_size(self) -> int:
        """The bytes of the secrets."""
        return len(self.blocks.get(SECRET_BLOCK, b""))


def with_blocks(request: Parsed, received: Sequence[bytes], secret: bytes | None) -> WithBlocks[Parsed]:
    """Return a request with the blocks that were received after its line, and that of its secrets."""
    blocks = dict(zip(_announced(request), received, strict=True))
    if secret is not None:
        blocks[SECRET_BLOCK] = secret
    return WithBlocks(request, blocks)


def _announced(request: _Request) -> list[str]:
    """Return the names of the blocks after the line of a request, in their order."""
    if isinstance(request, RunNowRequest):
        return []
    if isinstance(request, SendRequest):
        return [] if request.data is None else [DATA_BLOCK]
    if isinstance(request, RescheduleRequest | SetRequest | SetManyRequest):
        return [name for name in BLOCKS if name in request.values]
    environment = request.spec.environment
    is_known = environment is not None and bool(environment.sha256)
    names = [name for name in BLOCKS if getattr(request.spec, name) is not None]
    return [name for name in names if name != ENVIRONMENT_BLOCK] if is_known else names
