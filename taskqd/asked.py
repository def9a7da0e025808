"""What was asked on a connection: it waits to be handled, and then for its reply."""

from taskqd import wire
from taskqd.access import Principal


class Asked:
    """One request, or plain submissions that came together: these are handled and answered as one.

    It has ``size`` bytes; ``reserved`` is for whom how much memory was set aside for its blocks. It
    ``is_followed`` once another line has come, be it an empty one.
    """

    __slots__ = ("blocks", "is_followed", "is_plain", "reply", "requests", "reserved", "size")

    def __init__(
        self,
        requests: list[wire.Request],
        size: int,
        is_plain: bool = False,
        reserved: tuple[Principal, int] | None = None,
    ) -> None:
        self.requests = requests
        self.size = size
        self.is_plain = is_plain
        self.reserved = reserved
        self.blocks: list[bytes] = []
        self.reply: bytes | None = None
        self.is_followed = False

    @property
    def request(self) -> wire.Request:
        """The request, or the first of them."""
        return self.requests[0]

    @property
    def may_follow(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        return self.is_plain or self.request.error is not None or _is_of_its_line(self.request)

    def join(self, other: "Asked") -> None:
        """Have plain submissions that came behind these go with them."""
        self.requests += other.requests
        self.size += other.size

    def split(self, count: int) -> "Asked":
        """Take the first so many plain submissions out of these; their bytes are counted with the rest."""
        first = Asked(self.requests[:count], 0, is_plain=True)
        del self.requests[:count]
        return first


def is_plain(request: wire.Request) -> bool:
    """Whether a request is a submission that others like it may go with."""
    return _is_of_its_line(request) and request.argument.spec.key is None


def _is_of_its_line(request: wire.Request) -> bool:
    """Whether a request is a submission that brings nothing with it and looks at no other job."""
    if request.verb != "SUBMIT" or request.error is not None or request.blocks or request.secret is not None:
        return False
    spec = request.argument.spec
    return not (spec.after or spec.after_any or spec.after_fail)
