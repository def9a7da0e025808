"""Reply lines -> values, for the client (docs/protocol.md §3, §4, §7)."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from taskqd.client.connection import Connection, Unreachable
from taskqd.words import take_quoted

Facts = dict[str, Any]
"""A JSON object as the daemon sent it; the fields of a job are those of docs/protocol.md §4."""


class Refused(Exception):
    """The request was refused and has changed nothing.

    ``code`` is one of docs/protocol.md §7, ``text`` is for a person. What cannot even be written as a request
    is refused in the same way before it is sent.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Status(NamedTuple):
    """Where a job stands: a word of docs/protocol.md §2, and its progress in percent."""

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

    def id(self) -> int:
        """Read a JOB_ID."""
        return int(self._begin("JOB_ID")[1].split(" ")[0])

    def status(self) -> Status:
        """Read a STATUS."""
        status, progress = self._begin("STATUS")[1].split(" ")[:2]
        return Status(status, int(progress))

    def result(self) -> Result:
        """Read a RESULT."""
        text = self._begin("RESULT")[1]
        stdout, end = take_quoted(text, 0)
        stderr, end = take_quoted(text, end + 1)
        code = text[end + 1 :].split(" ")[0]
        return Result(stdout, stderr, None if code == "-" else int(code))

    def output(self) -> Output:
        """Read a DATA block."""
        stream, offset, length = self._begin("DATA")[1].split(" ")[:3]
        data = self._connection.take(int(length))
        self._connection.take(len(b"\r\n"))
        return Output(stream, int(offset), data)

    def job(self) -> Facts:
        """Read a JOB."""
        return _facts(self._begin("JOB")[1])

    def jobs(self) -> Sequence[Facts]:
        """Read JOB lines up to their END."""
        jobs = []
        while (reply := self._begin("JOB", "END"))[0] == "JOB":
            jobs.append(_facts(reply[1]))
        return jobs

    def events(self) -> Sequence[Facts]:
        """Read EVENT lines up to their END, the number of each as ``seq``."""
        events = []
        while (reply := self._begin("EVENT", "END"))[0] == "EVENT":
            sequence, _, text = reply[1].partition(" ")
            events.append({"seq": int(sequence), **_facts(text)})
        return events

    def stats(self) -> Facts:
        """Read STATS."""
        return _facts(self._begin("STATS")[1])

    def hello(self) -> Facts:
        """Read a TASKQ."""
        version, _, text = self._begin("TASKQ")[1].partition(" ")
        return {"protocol": int(version), **_facts(text)}


def _facts(text: str) -> Facts:
    facts: Facts = json.loads(text)
    return facts
