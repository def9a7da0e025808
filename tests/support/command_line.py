"""Runs ``taskq`` as a process, on pipes or on a terminal."""

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
TIMEOUT = 30.0
"""Time after which a test fails (seconds), far longer than any operation here takes."""


class End(NamedTuple):
    """Exit code of a process, and its output to each stream."""

    code: int
    stdout: bytes
    stderr: bytes
    terminal: bytes


class Process:
    """A running ``taskq``; the streams in ``on_terminal`` share a terminal, the others are pipes.

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
        """Send SIGINT, as Ctrl-C does, or another signal."""
        self._process.send_signal(number)

    def interrupt_until(self, name: str, text: bytes) -> None:
        """Interrupt repeatedly until ``text`` is read: a signal just before a wait may have no effect."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self._read[name] and time.monotonic() < deadline:
            self.interrupt()
            if select.select(list(self._open), [], [], 0.5)[0]:
                self._pump(deadline)

    def interrupt_to_the_end(self) -> None:
        """Interrupt repeatedly until the process exits."""
        deadline = time.monotonic() + TIMEOUT
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"still running after {TIMEOUT:g} s of interrupts"
            self.interrupt()
            time.sleep(0.0005)

    def type(self, data: bytes) -> None:
        """Write to its stdin."""
        os.write(self._files["stdin"].fileno() if self._files["stdin"] else self._master, data)

    def close(self, name: str) -> None:
        """Close our end of a stream: the process gets EOF on stdin, or EPIPE on output."""
        file = self._files[name]
        self._open.pop(file.fileno(), None)
        file.close()

    def read(self, name: str, text: bytes) -> bytes:
        """Wait until ``text`` appears on a stream or the terminal; return all its output so far."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self._read[name] and self._open:
            self._pump(deadline)
        assert text in self._read[name], self._read
        return self._read[name]

    def end(self) -> End:
        """Wait until the process has exited."""
        if self._files["stdin"] and not self._files["stdin"].closed:
            self._files["stdin"].close()
        deadline = time.monotonic() + TIMEOUT
        while self._open:
            self._pump(deadline)
        code = self._process.wait(TIMEOUT)
        return End(code, self._read["stdout"], self._read["stderr"], self._read["terminal"])

    def _pump(self, deadline: float) -> None:
        ready = select.select(list(self._open), [], [], max(0.0, deadline - time.monotonic()))[0]
        assert ready, f"no output for {TIMEOUT:g} s; so far: {self._read}"
        for descriptor in ready:
            try:
                piece = os.read(descriptor, 65536)
            except OSError:  # EIO: the process has closed the terminal
                piece = b""
            if piece:
                self._read[self._open[descriptor]] += piece
            else:
                del self._open[descriptor]
