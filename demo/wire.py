"""A connection to the daemon, shown line by line: `>` before requests and `<` before replies."""

import json
import re
import socket
from typing import Any

from demo.checks import Unexpected

DEADLINE = 20.0
"""Seconds after which a step of the demo has failed; each takes less than one on an idle machine."""

WIDTH = 150
"""Lines longer than this number of characters are cut."""


class Wire:
    """A connection to the daemon that prints requests and replies."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(address)
        self._replies = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()

    def ask(self, request: str, *, show: bool = True, shown_as: str = "") -> str:
        """Send a request line and return its reply line."""
        self._socket.sendall(request.encode() + b"\r\n")
        reply = self._replies.readline()
        if not reply.endswith(b"\r\n"):
            raise Unexpected(f"{request}: the connection ended with {reply!r}")
        text = reply[:-2].decode()
        if show:
            print("  > " + shortened(shown_as or request))
            print("  < " + shortened(text))
        return text

    def submit(self, request: str) -> int:
        """Send a SUBMIT and return the job's id."""
        return int(expect(r"JOB_ID (\d+)", self.ask(f"SUBMIT {request}")))

    def ended(self, job: int) -> str:
        """Wait for the end of a job and return its status."""
        return expect(r"STATUS (\w+) \d+", self.ask(f"WAIT {job} --timeout={DEADLINE:.0f}"))

    def job(self, job: int) -> dict[str, Any]:
        """Return the JSON object of SHOW."""
        known: dict[str, Any] = json.loads(expect("JOB (.*)", self.ask(f"SHOW {job}", show=False)))
        return known

    def output(self, job: int, offset: int) -> bytes:
        """Return up to 16 MiB of a job's output, from an offset."""
        reply = self.ask(f"OUTPUT {job} stdout --offset={offset} --limit=16M", show=False)
        length = int(expect(rf"DATA stdout {offset} (\d+)", reply))
        data = self._replies.read(length)
        expect("\r\n", self._replies.read(2).decode("latin-1"))
        return data


def shortened(text: str) -> str:
    """Return a text cut to WIDTH characters."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def expect(form: str, reply: str) -> str:
    """Return the first group of the regular expression ``form`` in a reply, "" if it has none.

    A reply that does not match raises Unexpected.
    """
    found = re.fullmatch(form, reply)
    if not found:
        raise Unexpected(f"expected {form}, the daemon said {shortened(reply)!r}")
    return found[1] if found.groups() else ""
