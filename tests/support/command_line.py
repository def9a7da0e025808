"""The command line as a process of its own, on pipes or on a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

CHECKOUT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds after which a test stops waiting: far beyond what anything here takes."""


class End(NamedTuple):
    """How a process ended, and what it wrote to each place."""

    code: int
    stdout: bytes
    stderr: bytes
    terminal: bytes


class Process:
    """``taskq``, started; its streams named in ``on_terminal`` are one terminal, the others pipes.

    Without ``has_stdin`` its stdin is /dev/null.
    """

    def __init__(
        self,
        address: str,
        *words: str,
        on_terminal: tuple[str, ...] = (),
        has_stdin: bool = True,
        **environment: str,
    ) -> None:
        master, slave = pty.openpty()
        stdin, stdout, stderr = (
            slave if name in on_terminal else subprocess.PIPE for name in ("stdin", "stdout", "stderr")
        )
        stdin = stdin if has_stdin else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from taskqd.cli import main; main()", *words],
            cwd=CHECKOUT,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": "/bin:/usr/bin", "TASKQ_ADDRESS": address, "TERM": "xterm", **environment},
        )
        os.close(slave)
        self._files = {name: getattr(self._process, name) for name in ("stdin", "stdout", "stderr")}
        self._open = {master: "terminal"}
        self._open |= {file.fileno(): name for name, file in self._files.items() if file and name != "stdin"}
        self._master = master
        self._read = {"terminal": b"", "stdout": b"", "stderr": b""}

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        for file in self._files.values():
            if file:
                file.close()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Do what Ctrl-C does, or send another signal."""
        self._process.send_signal(number)

    def interrupt_until(self, name: str, text: bytes) -> None:
        """Do it until ``text`` has come there: one that comes just before a wait begins does not end it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._read[name] and time.monotonic() < deadline:
            self.interrupt()
            if select.select(list(self._open), [], [], 0.5)[0]:
                self._pump(deadline)

    def interrupt_to_the_end(self) -> None:
        """Do it for as long as it runs."""
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on after {PATIENCE:g} s of interrupts"
            self.interrupt()
            time.sleep(0.0005)

    def type(self, data: bytes) -> None:
        """Write to its stdin."""
        os.write(self._files["stdin"].fileno() if self._files["stdin"] else self._master, data)

    def close(self, name: str) -> None:
        """Close our end of one of its streams, so that it sees the end of stdin or has no reader any more."""
        file = self._files[name]
        self._open.pop(file.fileno(), None)
        file.close()

    def read(self, name: str, text: bytes) -> bytes:
        """Wait until ``text`` has come on a stream or the terminal; return all that came there so far."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._read[name] and self._open:
            self._pump(deadline)
        assert text in self._read[name], self._read
        return self._read[name]

    def end(self) -> End:
        """Wait until it has ended."""
        if self._files["stdin"] and not self._files["stdin"].closed:
            self._files["stdin"].close()
        deadline = time.monotonic() + PATIENCE
        while self._open:
            self._pump(deadline)
        code = self._process.wait(PATIENCE)
        return End(code, self._read["stdout"], self._read["stderr"], self._read["terminal"])

    def _pump(self, deadline: float) -> None:
        ready = select.select(list(self._open), [], [], max(0.0, deadline - time.monotonic()))[0]
        assert ready, f"waited {PATIENCE:g} s; so far it wrote {self._read}"
        for descriptor in ready:
            try:
                piece = os.read(descriptor, 65536)
            except OSError:  # what a terminal without anybody on it says
                piece = b""
            if piece:
                self._read[self._open[descriptor]] += piece
            else:
                del self._open[descriptor]
