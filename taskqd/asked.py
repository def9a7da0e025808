"""What was asked on a connection: it waits to be handled, and then for its reply."""

from taskqd import wire
from taskqd.access import Principal
from taskqd.submission import Order, looks_at_others


class Asked:
    """One request: it has ``size`` bytes, and ``reserved`` is for whom how much memory its blocks have.

    It ``is_followed`` once another line has come, be it an empty one.
    """

    __slots__ = ("blocks", "is_followed", "reply", "request", "reserved", "size")

    def __init__(
        self, request: wire.Request, size: int, reserved: tuple[Principal, int] | None = None
    ) -> None:
        self.request = request
        self.size = size
        self.reserved = reserved
        self.blocks: list[bytes] = []
        self.reply: bytes | None = None
        self.is_followed = False

    @property
    def count(self) -> int:
        """How many requests it is."""
        return 1

    @property
    def may_follow(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        request = self.request
        if request.error is not None:
            return True
        if request.verb != "SUBMIT" or request.blocks or request.secret is not None:
            return False
        return not looks_at_others(request.argument.spec)


class Submissions(Asked):
    """Plain submissions that came together: they are handled and answered as one."""

    __slots__ = ("orders",)

    def __init__(self, orders: list[Order], size: int) -> None:
        super().__init__(_SUBMIT, size)
        self.orders = orders

    @property
    def count(self) -> int:
        return len(self.orders)

    @property
    def may_follow(self) -> bool:
        return True

    def join(self, other: "Submissions") -> None:
        """Have those that came behind these go with them."""
        self.orders += other.orders
        self.size += other.size

    def split(self, count: int) -> "Submissions":
        """Take the first so many out of these; their bytes are counted with the rest."""
        first = Submissions(self.orders[:count], 0)
        del self.orders[:count]
        return first


def goes_with_others(request: wire.Request) -> bool:
    """Whether a request is a plain submission: it brings nothing but its line, and looks at no other job."""
    if request.verb != "SUBMIT" or request.error is not None or request.blocks or request.secret is not None:
        return False
    spec = request.argument.spec
    return spec.key is None and not looks_at_others(spec)


_SUBMIT = wire.Request("SUBMIT", None)
