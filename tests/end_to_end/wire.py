"""A second implementation of docs/protocol.md for the tests, which shares no code with taskqd.

If this module and ``taskqd.client`` interpret the protocol differently, one of them is wrong.
"""

import fcntl
import json
import re
import socket
import struct
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

Found = TypeVar("Found")

DEADLINE = 60.0
"""Seconds after which a test stops waiting: far beyond what anything takes on a busy machine."""

_LONG = 1 << 20
_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\[\\"nrt]|\\x[0-9A-Fa-f]{2})*"')
_ESCAPE = re.compile(r'\\(?:x([0-9A-Fa-f]{2})|([\\"nrt]))')
_LETTERS = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}


def until(check: Callable[[], Found], what: str, deadline: float = DEADLINE, pause: float = 0.01) -> Found:
    """Call ``check`` until its result is true, and return it; fail after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (found := check()):
        assert time.monotonic() < end, f"waited {deadline:g} s for {what}"
        time.sleep(pause)
    return found


def quote(data: bytes) -> str:
    """Return ``data`` as a ``<quoted>`` word, with every byte in hexadecimal: input may be in any form."""
    return '"' + "".join(f"\\x{byte:02X}" for byte in data) + '"'


def unquote(text: str) -> bytes:
    """Return the bytes of a ``<quoted>`` word; fail if it is not in the server's canonical form (§2)."""
    assert _QUOTED.fullmatch(text), f"not one <quoted> word: {text[:200]}"
    for escape in _ESCAPE.finditer(text):
        has_shorter_form = escape[1] and (
            0x20 <= int(escape[1], 16) < 0x7F or int(escape[1], 16) in b"\n\r\t"
        )
        assert not has_shorter_form, f"{escape[0]} has a shorter form: {text[:200]}"
    plain = _ESCAPE.sub(lambda it: chr(int(it[1], 16)) if it[1] else _LETTERS[it[2]], text[1:-1])
    return plain.encode("latin-1")


class Result(NamedTuple):
    """The contents of a RESULT."""

    stdout: bytes
    stderr: bytes
    exit_code: str


class Data(NamedTuple):
    """The contents of a DATA block."""

    stream: str
    offset: int
    data: bytes


class Wire:
    """One connection to a daemon; it blocks, and each read fails after DEADLINE."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(DEADLINE)
        self._unread = bytearray()

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for a test that does not read."""
        return self._socket

    def close(self) -> None:
        self._socket.close()

    # Sending.

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_apart(self, *pieces: bytes) -> None:
        """Send each piece after the daemon has read the one before it, so that it receives these pieces.

        Only on a UNIX socket, for which the kernel reports the bytes that the peer has not read yet.
        """
        for piece in pieces:
            self.send(piece)
            until(lambda: not self._unread_by_peer(), "the daemon to read", pause=0.0005)

    def _unread_by_peer(self) -> int:
        answer = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    # Receiving.

    def _receive(self) -> bool:
        try:
            piece = self._socket.recv(_LONG)
        except ConnectionResetError:
            piece = b""
        self._unread += piece
        return bool(piece)

    def read(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        while len(self._unread) < length:
            assert self._receive(), f"the connection ended after {bytes(self._unread[:200])!r}"
        data = bytes(self._unread[:length])
        del self._unread[:length]
        return data

    def line(self) -> str:
        """Return the next reply line without its CRLF."""
        seen = 0
        while (end := self._unread.find(b"\n", seen)) < 0:
            seen = len(self._unread)
            assert self._receive(), f"the connection ended after {bytes(self._unread[:200])!r}"
        line = self.read(end + 1)
        assert line.endswith(b"\r\n"), f"a reply line ends in CRLF, not {line[-20:]!r}"
        return line[:-2].decode("utf-8")

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while self._receive():
            pass
        return self.read(len(self._unread))

    def block(self) -> Data:
        """Return the next reply, a DATA block."""
        word, stream, offset, length = self.line().split(" ")[:4]
        assert word == "DATA"
        data = self.read(int(length))
        assert self.read(2) == b"\r\n"
        return Data(stream, int(offset), data)

    # Requests and their replies.

    def ask(self, request: str) -> str:
        """Send one line and return the one line that answers it."""
        self.send(request.encode("utf-8") + b"\r\n")
        return self.line()

    def submit(self, text: str, *blocks: bytes) -> int:
        """Submit (options and command in ``text``) and return the id."""
        self.send(f"SUBMIT {text}\r\n".encode())
        for block in blocks:
            self.send(block + b"\r\n")
        reply = self.line()
        assert re.fullmatch("JOB_ID [1-9][0-9]*", reply), reply
        return int(reply.split(" ")[1])

    def status(self, job: int | str) -> str:
        """Return the job's status, the word alone."""
        return self.ask(f"STATUS {job}").split(" ")[1]

    def wait(self, job: int | str) -> str:
        """Return the status in which the job ends, the word alone."""
        reply = self.ask(f"WAIT {job} --timeout={DEADLINE:g}")
        assert reply.startswith("STATUS "), reply
        return reply.split(" ")[1]

    def wait_running(self, *jobs: int) -> None:
        until(lambda: {self.status(job) for job in jobs} == {"RUNNING"}, f"jobs {jobs} to run")

    def process(self, job: int) -> int:
        """Return the pid of a running job, once the daemon reports it."""
        until(lambda: self.show(job)["pid"] is not None, f"job {job} to have a process")
        return int(self.show(job)["pid"])

    def read_result(self) -> Result:
        """Return the next reply, a RESULT."""
        reply = self.line()
        shown = re.fullmatch(rf"RESULT ({_QUOTED.pattern}) ({_QUOTED.pattern}) (-?[0-9]+|-)", reply)
        assert shown, reply[:500]
        return Result(unquote(shown[1]), unquote(shown[2]), shown[3])

    def result(self, job: int | str) -> Result:
        self.send(f"RESULT {job}\r\n".encode())
        return self.read_result()

    def run(self, text: str, *blocks: bytes) -> Result:
        """Submit, wait, and return the result."""
        job = self.submit(text, *blocks)
        self.wait(job)
        return self.result(job)

    def read_job(self) -> dict[str, Any]:
        """Return the next reply, a JOB."""
        word, _, text = self.line().partition(" ")
        assert word == "JOB", f"{word} {text[:500]}"
        job: dict[str, Any] = json.loads(text)
        return job

    def show(self, job: int | str) -> dict[str, Any]:
        self.send(f"SHOW {job}\r\n".encode())
        return self.read_job()

    def history(self, job: int | str) -> Sequence[dict[str, Any]]:
        """Return the events of a job, each with its number as ``seq``."""
        self.send(f"HISTORY {job}\r\n".encode())
        events = []
        while not (line := self.line()).startswith("END "):
            word, sequence, text = line.split(" ", 2)
            assert word == "EVENT", line
            events.append({"seq": int(sequence), **json.loads(text)})
        assert line == f"END {len(events)}"
        return events

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return the replies to QUEUES by name."""
        return {queue["name"]: queue for queue in self._json_lines("QUEUES", "QUEUE")}

    def schedules(self) -> dict[int, dict[str, Any]]:
        """Return the replies to SCHEDULES by number."""
        return {one["schedule"]: one for one in self._json_lines("SCHEDULES", "SCHEDULE")}

    def _json_lines(self, request: str, word: str) -> list[dict[str, Any]]:
        self.send(f"{request}\r\n".encode())
        found = []
        while not (line := self.line()).startswith("END "):
            assert line.startswith(f"{word} "), line
            found.append(json.loads(line[len(word) + 1 :]))
        assert line == f"END {len(found)}"
        return found

    def event(self) -> dict[str, Any]:
        """Return the next reply, an EVENT, with its number as ``seq``."""
        word, sequence, text = self.line().split(" ", 2)
        assert word == "EVENT", f"{word} {sequence} {text}"
        return {"seq": int(sequence), **json.loads(text)}

    def stats(self) -> dict[str, Any]:
        word, _, text = self.ask("STATS").partition(" ")
        assert word == "STATS", f"{word} {text[:500]}"
        stats: dict[str, Any] = json.loads(text)
        return stats

    def list(self, options: str = "") -> list[dict[str, Any]]:
        self.send(f"LIST {options}".rstrip().encode() + b"\r\n")
        jobs = []
        while not (line := self.line()).startswith("END "):
            assert line.startswith("JOB "), line
            jobs.append(json.loads(line[4:]))
        assert line == f"END {len(jobs)}"
        return jobs

    def output(self, job: int | str, stream: str, options: str = "") -> Data:
        self.send(f"OUTPUT {job} {stream} {options}".rstrip().encode() + b"\r\n")
        return self.block()

    def cancel(self, *jobs: int) -> None:
        """Cancel jobs and wait until they have ended."""
        self.send(b"".join(b"CANCEL %d\r\n" % job for job in jobs))
        self.send(b"".join(b"WAIT %d\r\n" % job for job in jobs))
        self.lines(2 * len(jobs))
