"""What was asked on a connection: it waits to be handled, and then for its reply."""

from taskqd.auth.principal import Principal
from taskqd.model.submission import Submission, names_other_jobs
from taskqd.protocol import parser

LONG_LINE = 256
"""A line of this many bytes or more is kept as it came while it waits: once read, it takes ten times as much.
"""


class PendingRequest:
    """One request: it has ``size`` bytes, and ``reserved`` is for whom how much memory its blocks have.

    It ``is_followed`` once another line has come, be it an empty one. ``line`` is what ``request`` was read
    from, where it may be read again.
    """

    __slots__ = ("_line", "_may_follow", "_request", "blocks", "is_followed", "reply", "reserved", "size")

    def __init__(
        self,
        request: parser.Request,
        size: int,
        reserved: tuple[Principal, int] | None = None,
        line: bytes = b"",
    ) -> None:
        self._request: parser.Request | None = request
        self._line = line
        self._may_follow: bool | None = None
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
    def request(self) -> parser.Request:
        """What is asked for; read once more from its line if that was all that was kept."""
        if self._request is None:
            self._request = parser.parse_line(self._line)
        return self._request

    def shrink(self) -> None:
        """Keep the line alone, where that may be much less, until the request is handled."""
        if len(self._line) >= LONG_LINE and self._request is not None and self._request.error is None:
            self._may_follow = self.can_overlap
            self._request = None

    def forget(self) -> None:
        """Keep no more of the request than its verb: it is handled, and waits for its reply."""
        self._may_follow = self.can_overlap
        self._request, self._line, self.blocks = parser.Request(self.request.verb, None), b"", []

    @property
    def can_overlap(self) -> bool:
        """Whether this may be handled while submissions before it are still unanswered."""
        if self._may_follow is None:
            self._may_follow = self._looks_at_nothing()
        return self._may_follow

    def _looks_at_nothing(self) -> bool:
        request = self.request
        if request.error is not None:
            return True
        if request.verb != "SUBMIT" or request.blocks or request.secret is not None:
            return False
        return not names_other_jobs(request.argument.spec)


class SubmitBatch(PendingRequest):
    """Plain submissions that came together: they are handled and answered as one."""

    __slots__ = ("orders",)

    def __init__(self, orders: list[Submission], size: int) -> None:
        super().__init__(_SUBMIT, size)
        self.orders = orders

    @property
    def count(self) -> int:
        return len(self.orders)

    @property
    def can_overlap(self) -> bool:
        return True

    def join(self, other: "SubmitBatch") -> None:
        """Have those that came behind these go with them."""
        self.orders += other.orders
        self.size += other.size

    def split(self, count: int) -> "SubmitBatch":
        """Take the first this many out of these, with their part of the bytes."""
        first = SubmitBatch(self.orders[:count], self.size * count // self.count)
        self.size -= first.size
        del self.orders[:count]
        return first


def is_batchable(request: parser.Request) -> bool:
    """Whether a request is a plain submission: it brings nothing but its line, and looks at no other job."""
    if request.verb != "SUBMIT" or request.error is not None or request.blocks or request.secret is not None:
        return False
    spec = request.argument.spec
    return spec.key is None and not names_other_jobs(spec)


_SUBMIT = parser.Request("SUBMIT", None)
