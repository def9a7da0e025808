"""Replaces old segments by a snapshot, in a process that runs beside the daemon."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

RELOCATIONS_PER_TURN = 1000
"""So many lines of what has moved are taken in one turn of the reactor."""


def _read_lines(path: str) -> list[bytes]:
    with open(path, "rb") as file:
        return file.readlines()


def _portions(lines: list[bytes]) -> Iterator[list[bytes]]:
    return (lines[at : at + RELOCATIONS_PER_TURN] for at in range(0, len(lines), RELOCATIONS_PER_TURN))


class _Condensing(ProcessProtocol):
    """The process that makes a snapshot; ``ended`` fires when it has, or fails with what it said."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._said = b""

    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-1000:]

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            self.ended.callback(None)
        else:
            self.ended.errback(OSError(self._said.decode("utf-8", "replace").strip() or str(reason.value)))


def condense(reactor: Any, directory: str, number: int) -> "Deferred[None]":
    """Make a snapshot in a process of its own; fails with OSError and what that process said.

    The interpreter's first place to look for modules would be the daemon's directory, where jobs run: it is
    left out.
    """
    program = "import sys; del sys.path[0]; from taskqd.storage.journal.snapshot import main; main()"
    protocol = _Condensing()
    line = [sys.executable, "-c", program, directory, str(number)]
    reactor.spawnProcess(protocol, sys.executable, line, env=dict(os.environ))
    return protocol.ended
