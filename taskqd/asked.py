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
    def may_follow(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        return self.request.error is not None or self._is_of_its_line

    @property
    def is_plain(self) -> bool:
        """Whether this is a submission that others like it may go with."""
        return self._is_of_its_line and self.request.argument.spec.key is None

    @property
    def _is_of_its_line(self) -> bool:
        """Whether this is a submission that brings nothing with it and looks at no other job."""
        request = self.request
        if request.verb != "SUBMIT" or request.error is not None:
            return False
        spec = request.argument.spec
        is_bare = not self.blocks and request.secret is None
        return is_bare and not (spec.after or spec.after_any or spec.after_fail)
