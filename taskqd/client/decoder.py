"""Decodes reply lines into values (docs/protocol.md §3, §4, §7)."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from taskqd.client.address import Unreachable
from taskqd.client.connection import Connection
from taskqd.client.encoder import Ref
from taskqd.protocol.values import parse_quoted

Facts = dict[str, Any]
"""A JSON object as the daemon sent it; docs/protocol.md §4 lists the fields of a job."""


class Refused(Exception):
    """The request was refused and has changed nothing.

    ``code`` is one of docs/protocol.md §7, ``text`` is a message for people. A request that cannot be encoded
    is refused in the same way before it is sent. After LAGGED, a watch can continue with the event number
    ``next``.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        first = text.partition(" ")[0]
        self.next = int(first) if code == "LAGGED" and first.isdecimal() else None


class Status(NamedTuple):
    """The status of a job, a word of docs/protocol.md §2, and its progress in percent."""

    status: str
    progress: int


class Ended(NamedTuple):
    """A job that has ended: its reference as in the request, its final status and progress."""

    job: Ref
    status: str
    progress: int


class Result(NamedTuple):
    """The output and exit code of a job; the code is ``-N`` if signal N ended it, None if there is none."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None


class Output(NamedTuple):
    """A piece of a job's output on ``stdout`` or ``stderr``, and its offset in that stream (bytes)."""

    stream: str
    offset: int
    data: bytes


class LogPiece(NamedTuple):
    """A piece of a job's log: bytes of one stream, at an offset in that, and when they were read.

    ``time`` is RFC 3339, None if it is unknown. Unless ``is_ordered``, the place of the piece in the log is
    not known.
    """

    stream: str
    offset: int
    data: bytes
    time: str | None
    is_ordered: bool


class LogPage(NamedTuple):
    """Successive pieces of a job's log.

    The log goes on behind ``stdout`` and ``stderr``, which are offsets in the streams; ``left`` is the number
    of bytes that the job had printed there. ``dropped`` is the number of bytes over its ``max_output``.
    """

    pieces: Sequence[LogPiece]
    left: int
    dropped: int
    stdout: int
    stderr: int


class Shutdown(NamedTuple):
    """The reply to SHUTDOWN: how many jobs were running, and whether they are left, ended or requeued."""

    running: int
    fate: str


class ReplyReader:
    """Reads the replies that arrive on a connection, one method per kind of reply.

    Every method raises Refused if an ERROR arrives, and Unreachable if the line is not of the expected kind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _read_first_line(self, *words: str) -> tuple[str, str]:
        """Read the first line of a reply; return its first word, one of ``words``, and the rest."""
        line = self._connection.read_line().decode("utf-8", "replace")
        word, _, rest = line.partition(" ")
        if word == "ERROR":
            code, _, text = rest.partition(" ")
            raise Refused(code, text)
        if word not in words:
            raise Unreachable(
                f"the server at {self._connection.address} is not a taskqd daemon: it sent {line[:60]!r}"
            )
        return word, rest

    def read_ok(self) -> None:
        """Read an OK."""
        self._read_first_line("OK")

    def read_text(self) -> str:
        """Read the text of an OK."""
        return self._read_first_line("OK")[1]

    def read_number(self) -> int:
        """Read the number of an OK."""
        return int(self._read_first_line("OK")[1].split(" ")[0])

    def read_acted(self, on_progress: Callable[[int, int], object]) -> int:
        """Read PROGRESS lines, which are passed on, and the number of the OK after them."""
        while True:
            word, rest = self._read_first_line("OK", "PROGRESS")
            numbers = [int(number) for number in rest.split(" ")[:2]]
            if word == "OK":
                return numbers[0]
            on_progress(*numbers)

    def read_shutdown(self) -> Shutdown:
        """Read the OK of SHUTDOWN."""
        running, fate = self._read_first_line("OK")[1].split(" ")[:2]
        return Shutdown(int(running), fate)

    def read_id(self) -> int:
        """Read a JOB_ID."""
        return int(self._read_first_line("JOB_ID")[1].split(" ")[0])

    def read_status(self) -> Status:
        """Read a STATUS."""
        return _parse_status(self._read_first_line("STATUS")[1])

    def read_ended(self) -> Ended | None:
        """Read the STATUS of one of several jobs; return None at their END."""
        word, rest = self._read_first_line("STATUS", "END")
        if word == "END":
            return None
        status, progress, job = rest.split(" ")[:3]
        return Ended(int(job) if job.isdecimal() else job, status, int(progress))

    def read_result(self) -> Result:
        """Read a RESULT."""
        text = self._read_first_line("RESULT")[1]
        stdout, end = parse_quoted(text, 0)
        stderr, end = parse_quoted(text, end + 1)
        code = text[end + 1 :].split(" ")[0]
        return Result(stdout, stderr, None if code == "-" else int(code))

    def read_output(self) -> Output:
        """Read a DATA block."""
        return self._read_block(self._read_first_line("DATA")[1])

    def read_output_or_status(self) -> Output | Status:
        """Read a DATA block, or the STATUS that follows the last of them."""
        word, rest = self._read_first_line("DATA", "STATUS")
        return self._read_block(rest) if word == "DATA" else _parse_status(rest)

    def read_log_page(self) -> LogPage:
        """Read the DATA blocks of a log up to their END."""
        pieces = []
        while (reply := self._read_first_line("DATA", "END"))[0] == "DATA":
            pieces.append(self._read_log_piece(reply[1]))
        _, left, dropped, stdout, stderr = map(int, reply[1].split(" ")[:5])
        return LogPage(pieces, left, dropped, stdout, stderr)

    def read_log_piece_or_status(self) -> LogPiece | Status:
        """Read a DATA block of a log, or the STATUS that follows the last of them."""
        word, rest = self._read_first_line("DATA", "STATUS")
        return self._read_log_piece(rest) if word == "DATA" else _parse_status(rest)

    def _read_log_piece(self, rest: str) -> LogPiece:
        time, *more = rest.split(" ")[3:]
        is_ordered = more[:1] != ["unordered"]
        return LogPiece(*self._read_block(rest), None if time == "-" else time, is_ordered)

    def _read_block(self, rest: str) -> Output:
        stream, offset, length = rest.split(" ")[:3]
        data = self._connection.read(int(length))
        self._connection.read(len(b"\r\n"))
        return Output(stream, int(offset), data)

    def read_job(self) -> Facts:
        """Read a JOB."""
        return _parse_facts(self._read_first_line("JOB")[1])

    def read_jobs(self) -> tuple[Sequence[Facts], int | None]:
        """Read JOB lines up to their END, and the id from which the list goes on, None if it is complete."""
        jobs, end = self._read_list("JOB")
        _, *following = end.split(" ")[:2]
        return jobs, int(following[0]) if following else None

    def read_count(self) -> tuple[int, int | None]:
        """Read the END of a count, and the id from which it goes on, None if it is complete."""
        count, *following = self._read_first_line("END")[1].split(" ")[:2]
        return int(count), int(following[0]) if following else None

    def read_queue(self) -> Facts:
        """Read a QUEUE."""
        return _parse_facts(self._read_first_line("QUEUE")[1])

    def read_queues(self) -> Sequence[Facts]:
        """Read QUEUE lines up to their END."""
        return self._read_list("QUEUE")[0]

    def read_schedules(self) -> Sequence[Facts]:
        """Read SCHEDULE lines up to their END."""
        return self._read_list("SCHEDULE")[0]

    def _read_list(self, kind: str) -> tuple[Sequence[Facts], str]:
        """Read lines up to their END; return their facts, and the text of END."""
        found = []
        while (reply := self._read_first_line(kind, "END"))[0] == kind:
            found.append(_parse_facts(reply[1]))
        return found, reply[1]

    def read_event(self) -> Facts:
        """Read an EVENT, its number as ``seq``."""
        return _parse_event(self._read_first_line("EVENT")[1])

    def read_events(self) -> Sequence[Facts]:
        """Read EVENT lines up to their END."""
        events = []
        while (reply := self._read_first_line("EVENT", "END"))[0] == "EVENT":
            events.append(_parse_event(reply[1]))
        return events

    def read_stats(self) -> Facts:
        """Read STATS."""
        return _parse_facts(self._read_first_line("STATS")[1])

    def read_hello(self) -> Facts:
        """Read a TASKQ."""
        version, _, text = self._read_first_line("TASKQ")[1].partition(" ")
        return {"protocol": int(version), **_parse_facts(text)}


def _parse_status(text: str) -> Status:
    status, progress = text.split(" ")[:2]
    return Status(status, int(progress))


def _parse_event(text: str) -> Facts:
    sequence, _, facts = text.partition(" ")
    return {"seq": int(sequence), **_parse_facts(facts)}


def _parse_facts(text: str) -> Facts:
    facts: Facts = json.loads(text)
    return facts
