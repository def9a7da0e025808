"""Requests of one connection that have been read and not been answered yet."""

from taskqd.auth.principal import Principal
from taskqd.model.submission import SimilarSubmissions, observes_other_jobs
from taskqd.protocol import parser

LONG_LINE = 256
"""Lines of at least this many bytes wait unparsed: parsed, they take ten times the memory."""

_SUBMIT = parser.Request("SUBMIT", None)
"""The request of a SubmitBatch, which has the arguments."""


class PendingRequest:
    """A request from its parsing to its reply.

    `count` is the number of requests that this stands for, `size` that of bytes received for it. `reserved`
    is the memory that was reserved for its blocks, as (principal, bytes). `is_followed` is set when another
    line has arrived after it. `line` is the line that `request` was parsed from, if it may be parsed again.
    """

    __slots__ = (
        *("_can_overlap", "_line", "_request"),
        *("blocks", "count", "is_followed", "reply", "reserved", "size"),
    )

    def __init__(
        self,
        request: parser.Request,
        size: int,
        reserved: tuple[Principal, int] | None = None,
        line: bytes = b"",
    ) -> None:
        self._request: parser.Request | None = request
        self._line = line
        self._can_overlap: bool | None = None
        self.count = 1
        self.size = size
        self.reserved = reserved
        self.blocks: list[bytes] = []
        self.reply: bytes | None = None
        self.is_followed = False

    @property
    def request(self) -> parser.Request:
        """The parsed request; parses its line again if only that was kept."""
        if self._request is None:
            self._request = parser.parse_line(self._line)
        return self._request

    def compact(self) -> None:
        """Keep only the line, if that takes much less memory, until the request is dispatched."""
        if len(self._line) >= LONG_LINE and self._request is not None and self._request.error is None:
            self._can_overlap = self.can_overlap
            self._request = None

    def discard_content(self) -> None:
        """Keep only the verb: the request has been dispatched and waits for its reply."""
        self._can_overlap = self.can_overlap
        self._request, self._line, self.blocks = parser.Request(self.request.verb, None), b"", []

    @property
    def can_overlap(self) -> bool:
        """Whether this may be dispatched while submissions before it are still unanswered.

        True for independent submissions, which cannot observe each other's effects, and for requests that
        have already been rejected.
        """
        if self._can_overlap is None:
            self._can_overlap = _is_independent(self.request)
        return self._can_overlap


class SubmitBatch(PendingRequest):
    """Batchable SUBMITs that arrived together; dispatched and answered as one."""

    __slots__ = ("submissions",)

    def __init__(self, submissions: list[SimilarSubmissions], count: int, size: int) -> None:
        super().__init__(_SUBMIT, size)
        self.submissions = submissions
        self.count = count
        self._can_overlap = True

    def extend(self, other: "SubmitBatch") -> None:
        """Append the submissions that arrived next."""
        self.submissions += other.submissions
        self.count += other.count
        self.size += other.size

    def split_off(self, count: int) -> "SubmitBatch":
        """Remove the first `count` submissions and return them, with their part of the bytes."""
        head = SubmitBatch([], count, self.size * count // self.count)
        missing = count
        while missing:
            spec, commands = self.submissions.pop(0)
            head.submissions.append(SimilarSubmissions(spec, commands[:missing]))
            if len(commands) > missing:
                self.submissions.insert(0, SimilarSubmissions(spec, commands[missing:]))
            missing -= len(head.submissions[-1].commands)
        self.count -= count
        self.size -= head.size
        return head


def is_batchable(request: parser.Request) -> bool:
    """Whether a request is a SUBMIT without blocks and key that does not observe other jobs."""
    if request.error is not None or not _is_independent(request):
        return False
    return request.argument.spec.key is None


def _is_independent(request: parser.Request) -> bool:
    if request.error is not None:
        return True
    if request.verb != "SUBMIT" or request.blocks or request.secret is not None:
        return False
    return not observes_other_jobs(request.argument.spec)
