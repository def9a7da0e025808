"""Reply lines -> values, for the client (docs/protocol.md §3, §4, §7)."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from taskqd.client.address import Unreachable
from taskqd.client.connection import Connection
from taskqd.client.encoder import Ref
from taskqd.protocol.values import take_quoted

Facts = dict[str, Any]
"""A JSON object as the daemon sent it; the fields of a job are those of docs/protocol.md §4."""


class Refused(Exception):
    """The request was refused and has changed nothing.

    ``code`` is one of docs/protocol.md §7, ``text`` is for a person. What cannot even be written as a request
    is refused in the same way before it is sent. A watch that is LAGGED can be taken up again at the event
    with the number ``next``.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        first = text.partition(" ")[0]
        self.next = int(first) if code == "LAGGED" and first.isdecimal() else None


class Status(NamedTuple):
    """Where a job stands: a word of docs/protocol.md §2, and its progress in percent."""

    status: str
    progress: int


class Ended(NamedTuple):
    """A job that was waited for and has ended: as it was asked for, and where it stands."""

    job: Ref
    status: str
    progress: int


class Result(NamedTuple):
    """How a job ended; ``exit_code`` is ``-N`` if signal N ended it, None if there is none."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None


class Output(NamedTuple):
    """A piece of what a job printed: on ``stdout`` or ``stderr``, and how many bytes of it stand before."""

    stream: str
    offset: int
    data: bytes


class Replies:
    """The replies that come on a connection, each read by the method of its kind.

    Every method raises Refused for an ERROR in its place, and Unreachable for what is no reply of its kind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _begin(self, *words: str) -> tuple[str, str]:
        """Read a reply's first line, which must begin with one of ``words``: that word and the rest."""
        line = self._connection.line().decode("utf-8", "replace")
        word, _, rest = line.partition(" ")
        if word == "ERROR":
            code, _, text = rest.partition(" ")
            raise Refused(code, text)
        if word not in words:
            raise Unreachable(
                f"what answers at {self._connection.address} is no taskq daemon: it said {line[:60]!r}"
            )
        return word, rest

    def ok(self) -> None:
        """Read an OK."""
        self._begin("OK")

    def text(self) -> str:
        """Read the text of an OK."""
        return self._begin("OK")[1]

    def number(self) -> int:
        """Read the number of an OK."""
        return int(self._begin("OK")[1].split(" ")[0])

    def id(self) -> int:
        """Read a JOB_ID."""
        return int(self._begin("JOB_ID")[1].split(" ")[0])

    def status(self) -> Status:
        """Read a STATUS."""
        return _status(self._begin("STATUS")[1])

    def ended(self) -> Ended | None:
        """Read the STATUS of one of several jobs, or None for their END."""
        word, rest = self._begin("STATUS", "END")
        if word == "END":
            return None
        status, progress, job = rest.split(" ")[:3]
        return Ended(int(job) if job.isdecimal() else job, status, int(progress))

    def result(self) -> Result:
        """Read a RESULT."""
        text = self._begin("RESULT")[1]
        stdout, end = take_quoted(text, 0)
        stderr, end = take_quoted(text, end + 1)
        code = text[end + 1 :].split(" ")[0]
        return Result(stdout, stderr, None if code == "-" else int(code))

    def output(self) -> Output:
        """Read a DATA block."""
        return self._block(self._begin("DATA")[1])

    def followed(self) -> Output | Status:
        """Read a DATA block, or the STATUS that is behind the last of them."""
        word, rest = self._begin("DATA", "STATUS")
        return self._block(rest) if word == "DATA" else _status(rest)

    def _block(self, rest: str) -> Output:
        stream, offset, length = rest.split(" ")[:3]
        data = self._connection.take(int(length))
        self._connection.take(len(b"\r\n"))
        return Output(stream, int(offset), data)

    def job(self) -> Facts:
        """Read a JOB."""
        return _facts(self._begin("JOB")[1])

    def jobs(self) -> Sequence[Facts]:
        """Read JOB lines up to their END."""
        return self._several("JOB")

    def queue(self) -> Facts:
        """Read a QUEUE."""
        return _facts(self._begin("QUEUE")[1])

    def queues(self) -> Sequence[Facts]:
        """Read QUEUE lines up to their END."""
        return self._several("QUEUE")

    def schedules(self) -> Sequence[Facts]:
        """Read SCHEDULE lines up to their END."""
        return self._several("SCHEDULE")

    def _several(self, kind: str) -> Sequence[Facts]:
        found = []
        while (reply := self._begin(kind, "END"))[0] == kind:
            found.append(_facts(reply[1]))
        return found

    def event(self) -> Facts:
        """Read an EVENT, its number as ``seq``."""
        return _event(self._begin("EVENT")[1])

    def events(self) -> Sequence[Facts]:
        """Read EVENT lines up to their END."""
        events = []
        while (reply := self._begin("EVENT", "END"))[0] == "EVENT":
            events.append(_event(reply[1]))
        return events

    def stats(self) -> Facts:
        """Read STATS."""
        return _facts(self._begin("STATS")[1])

    def hello(self) -> Facts:
        """Read a TASKQ."""
        version, _, text = self._begin("TASKQ")[1].partition(" ")
        return {"protocol": int(version), **_facts(text)}


def _status(text: str) -> Status:
    status, progress = text.split(" ")[:2]
    return Status(status, int(progress))


def _event(text: str) -> Facts:
    sequence, _, facts = text.partition(" ")
    return {"seq": int(sequence), **_facts(facts)}


def _facts(text: str) -> Facts:
    facts: Facts = json.loads(text)
    return facts
