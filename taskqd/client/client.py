"""The verbs of the protocol as methods: a request out, its reply read (docs/protocol.md §3).

A request that the daemon refuses raises Refused and leaves the client usable; Unreachable means that it is
not, and that a new Client has to be made. A client belongs to one thread at a time, and one whose call was
broken off by KeyboardInterrupt can only be closed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from taskqd.client import requests
from taskqd.client.connection import Connection, Pipeline, parse_address
from taskqd.client.replies import Facts, Output, Refused, Replies, Result, Status
from taskqd.client.requests import Options, option
from taskqd.errors import TaskqError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

BATCH = 64 * 1024
"""``submit_many`` sends so many bytes at once."""
WINDOW = 4096
"""``submit_many`` lets so many submissions wait for their answers, and one batch more."""
PIECE = 1024**2
"""The daemon sends output in pieces of so many bytes unless told otherwise."""
PAUSE = 0.1
"""``follow`` looks for new output so many seconds after it last came."""

Command = str | bytes
Read = TypeVar("Read")


class Client:
    """A connection to the daemon at ``unix:PATH`` or ``tcp:HOST:PORT``, made at once.

    ``token`` authenticates on TCP; a UNIX socket knows its peer, and the token is not sent. Raises ValueError
    for an address of another form, Unreachable where no daemon answers, Refused where the token is wrong.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        where = parse_address(address)
        self.address = address
        self.is_local = where.is_local
        self._connection = Connection(where)
        self._replies = Replies(self._connection)
        if token is not None and not where.is_local:
            try:
                self._authenticate(token)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Jobs do not mind."""
        self._connection.close()

    # jobs in

    def submit(self, command: Command | None = None, **options: "Unpack[Options]") -> int:
        """Submit a shell command, or a ``script=`` in its place; return the job's id once it is on disk.

        The options are those of ``Options``. Where the connection is lost before the answer, nobody can tell
        whether the job was taken; with a ``key`` it is safe to ask again.
        """
        self._connection.send(_submission(command, options))
        return self._replies.id()

    def submit_many(
        self, commands: Iterable[Command | None], **options: "Unpack[Options]"
    ) -> Iterator[int | Refused]:
        """Submit commands without waiting for each; yield their ids in order, and the Refused of one refused.

        The options hold for all. A None among the commands says that the next may take a while: what is there
        is sent, and its ids are yielded, before it is asked for. Who stops iterating early has submitted some
        more than the ids seen.
        """
        pipeline = Pipeline(self._connection)
        try:
            for command in commands:
                if command is None:
                    yield from self._answers(pipeline, 0)
                    continue
                try:
                    pipeline.put(_submission(command, options))
                except Refused as refusal:
                    yield from self._answers(pipeline, 0)
                    yield refusal
                if pipeline.size >= BATCH:
                    yield from self._answers(pipeline, WINDOW)
            yield from self._answers(pipeline, 0)
        except GeneratorExit:
            pipeline.discard_answers()
            raise

    def _answers(self, pipeline: Pipeline, most: int) -> Iterator[int | Refused]:
        """Send what is held; read answers until at most so many are missing, and those that are there."""
        pipeline.send()
        while pipeline.is_due(most):
            pipeline.unanswered -= 1
            yield _settled(self._replies.id)

    # one job

    def status(self, job: int) -> Status:
        """Tell where a job stands."""
        return self._ask(b"STATUS %d" % job, self._replies.status)

    def result(self, job: int) -> Result:
        """Return what a finished job printed and its exit code.

        Refused as NOT_FINISHED before its end, and as TOO_LARGE where a stream is over 1 MiB: see ``stream``.
        """
        return self._ask(b"RESULT %d" % job, self._replies.result)

    def show(self, job: int) -> Facts:
        """Return all that is known of a job."""
        return self._ask(b"SHOW %d" % job, self._replies.job)

    def wait(self, job: int, timeout: float | str | None = None) -> Status:
        """Wait until a job has ended; Refused as TIMED_OUT after ``timeout``, in seconds or as ``"10m"``."""
        return self._ask(b"WAIT %d" % job + option("timeout", timeout), self._replies.status)

    def cancel(self, job: int, signal: str | None = None) -> Status:
        """End a job by SIGTERM or another signal; return where it stands, which may still be RUNNING."""
        return self._ask(b"CANCEL %d" % job + option("signal", signal), self._replies.status)

    def retry(self, job: int) -> int:
        """Make a finished job PENDING again, and return its id, which stays the same."""
        return self._ask(b"RETRY %d" % job, self._replies.id)

    def remove(self, job: int) -> None:
        """Forget a finished job and its output; its id is Refused as GONE from then on."""
        self._ask(b"REMOVE %d" % job, self._replies.ok)

    def history(self, job: int) -> Sequence[Facts]:
        """Return all that happened to a job, oldest first: events of the journal, each with its ``seq``."""
        return self._ask(b"HISTORY %d" % job, self._replies.events)

    # what a job prints

    def output(
        self,
        job: int,
        stream: str = "stdout",
        *,
        offset: int | None = None,
        limit: int | str | None = None,
        tail: int | str | None = None,
    ) -> Output:
        """Return a piece of what a job has printed so far, 1 MiB unless told; no bytes at the end.

        ``tail`` counts from the end. One piece has 16 MiB at most, whatever ``limit`` says.
        """
        asked = _output(job, stream, offset) + option("limit", limit) + option("tail", tail)
        return self._ask(asked, self._replies.output)

    def stream(self, job: int, stream: str = "stdout", offset: int = 0) -> Iterator[Output]:
        """Yield all that a job has printed so far on one stream, from ``offset`` on, in pieces."""
        while (piece := self.output(job, stream, offset=offset)).data:
            yield piece
            offset = piece.offset + len(piece.data)

    def follow(self, job: int) -> Iterator[Output]:
        """Yield what a job prints on both streams as it comes, from the beginning to the end of the job.

        A job that has not started is waited for; one that is run again begins again at offset 0. Empty pieces
        come at least every tenth of a second, so that other things can be done in between, and the client may
        be asked for anything meanwhile.
        """
        attempt = self.show(job)["attempts"]
        offsets = {"stdout": 0, "stderr": 0}
        pause = PAUSE
        while True:
            sight = self._look(job, offsets, pause)
            if sight.attempt not in (attempt, 1):
                # Another attempt than the one whose output was asked for: what came may be of either.
                attempt, offsets, pause = sight.attempt, dict.fromkeys(offsets, 0), 0.0
                continue
            attempt = sight.attempt
            longest = 0
            for piece in sight.pieces:
                if isinstance(piece, Refused):
                    raise piece
                offsets[piece.stream] = piece.offset + len(piece.data)
                longest = max(longest, len(piece.data))
                yield piece
            if sight.has_ended and not longest:
                return
            pause = PAUSE if longest < PIECE else 0.0

    def _look(self, job: int, offsets: dict[str, int], pause: float) -> "_Sight":
        """Wait for ``pause`` seconds or the end of the job, then read on: one way there and back for all."""
        lines = [
            b"WAIT %d" % job + option("timeout", pause),
            *(_output(job, stream, offset) for stream, offset in offsets.items()),
            b"SHOW %d" % job,
        ]
        self._connection.send(b"\r\n".join([*lines, b""]))
        status = _settled(self._replies.status)
        pieces = [_settled(self._replies.output) for _ in offsets]
        facts = self._replies.job()
        if isinstance(status, Refused) and status.code != "TIMED_OUT":
            raise status
        return _Sight(isinstance(status, Status), facts["attempts"], pieces)

    # the queue and the daemon

    def list(
        self,
        *,
        status: str | None = None,
        owner: str | None = None,
        label: str | None = None,
        key: str | None = None,
        start: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Sequence[Facts]:
        """Return the jobs that pass all filters, by id, 100 unless told.

        ``status`` may name several: ``"PENDING,RUNNING"``. ``start`` is the id to begin with: for the next
        page the one after the last, or before it with ``reverse``.
        """
        filters = {
            "status": status,
            "owner": owner,
            "label": label,
            "key": key,
            "from": start,
            "limit": limit,
        }
        asked = b"".join(option(name, value) for name, value in filters.items())
        return self._ask(b"LIST" + asked + b" --reverse" * reverse, self._replies.jobs)

    def stats(self) -> Facts:
        """Return the daemon's counters, gauges, uptime and limits."""
        return self._ask(b"STATS", self._replies.stats)

    def drain(self) -> None:
        """Have the daemon take no new jobs and start none, until it is started again; what runs goes on."""
        self._ask(b"DRAIN", self._replies.ok)

    def hello(self) -> Facts:
        """Return the daemon's version, verbs and limits, who you are to it, and the ``protocol``'s number."""
        return self._ask(b"HELLO", self._replies.hello)

    def ping(self) -> None:
        """Return if the daemon answers."""
        self._ask(b"PING", self._replies.ok)

    def _authenticate(self, token: str) -> None:
        try:
            line = requests.auth(token)
        except TaskqError as why:
            raise Refused(why.code, str(why)) from None
        self._ask(line, self._replies.ok)

    def _ask(self, line: bytes, read: Callable[[], Read]) -> Read:
        self._connection.send(line + b"\r\n")
        return read()


class _Sight(NamedTuple):
    """What ``follow`` sees of a job at once; the pieces are of the attempt with that number."""

    has_ended: bool
    attempt: int
    pieces: Sequence[Output | Refused]


def _settled(read: Callable[[], Read]) -> Read | Refused:
    """Return what ``read`` returns, or the refusal that it raises: there are replies behind it to be read."""
    try:
        return read()
    except Refused as refusal:
        return refusal


def _submission(command: Command | None, options: Options) -> bytes:
    try:
        words = requests.submit_options(options)
        return requests.submit(command, words, options.get("script"), options.get("stdin"))
    except TaskqError as why:
        raise Refused(why.code, str(why)) from None


def _output(job: int, stream: str, offset: int | None) -> bytes:
    return b"OUTPUT %d %b" % (job, stream.encode("ascii")) + option("offset", offset)
