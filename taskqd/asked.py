"""A request of a connection on its way: it waits to be handled, and then for its reply."""

from taskqd import wire
from taskqd.access import Principal


class Asked:
    """One request, of ``size`` bytes; ``reserved`` is for whom how much memory was set aside for its blocks.

    It ``is_followed`` once another line has come, be it an empty one.
    """

    __slots__ = ("blocks", "is_followed", "reply", "request", "reserved", "size")

    def __init__(
        self,
        request: wire.Request,
        size: int,
        blocks: list[bytes],
        reserved: tuple[Principal, int] | None = None,
    ) -> None:
        self.request = request
        self.size = size
        self.blocks = blocks
        self.reserved = reserved
        self.reply: bytes | None = None
        self.is_followed = False

    @property
    def is_plain(self) -> bool:
        """Whether this is a submission of its line alone, which others like it may go with."""
        request = self.request
        return (
            request.verb == "SUBMIT"
            and request.error is None
            and not self.blocks
            and request.secret is None
            and request.argument.key is None
        )

    @property
    def may_follow(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        has_blocks = bool(self.blocks) or self.request.secret is not None
        return self.request.error is not None or (self.request.verb == "SUBMIT" and not has_blocks)
