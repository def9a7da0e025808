"""The real telnet program on a terminal: input, output, and Ctrl-C."""

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire

pytestmark = pytest.mark.needs("telnet", "setsid")

CTRL_C = "\x03"


class Terminal:
    """A program on a pseudo-terminal: the test types input and waits for output."""

    def __init__(self, *command: str) -> None:
        self._master, slave = os.openpty()
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *command],
                env=environment() | {"TERM": "dumb"},
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
        finally:
            os.close(slave)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        self.type(line + "\r")

    def expect(self, pattern: str) -> "re.Match[str]":
        """Wait until ``pattern`` is shown, and drop the output up to its end."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self._shown)):
            ready, _, _ = select.select([self._master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} is not shown, but {self._shown!r}"
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # the program has ended
                piece = b""
            assert piece, f"{pattern!r} is not shown at the end, but {self._shown!r}"
            self._shown += piece.decode("latin-1")
        self._shown = self._shown[found.end() :]
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def session(running: Daemon) -> Iterator[Terminal]:
    """Return a telnet session that is connected and authenticated."""
    terminal = Terminal("telnet", "127.0.0.1", str(running.port))
    try:
        terminal.expect("Connected to")
        terminal.enter(f"AUTH {running.token}")
        terminal.expect(r"\nOK \S+ admin\r")
        yield terminal
    finally:
        terminal.close()


def test_session_from_submit_to_quit(session: Terminal) -> None:
    session.enter("SUBMIT echo hello world; echo oops >&2; exit 3")
    job = session.expect(r"\nJOB_ID (\d+)\r")[1]
    session.enter(f"wait {job}")
    session.expect(r"\nSTATUS FAILED 0\r")
    session.enter(f"STATUS {job}")
    session.expect(r"\nSTATUS FAILED 0\r")
    session.enter(f"RESULT {job}")
    session.expect(re.escape(r'RESULT "hello world\n" "oops\n" 3') + "\r")
    session.enter("EXPLODE")
    session.expect(r"\nERROR UNKNOWN_COMMAND .+\r")
    session.enter("QUIT")
    session.expect(r"\nOK.*\r")
    session.expect("Connection closed by foreign host")
    session.process.wait(DEADLINE)


def test_ctrl_c_leaves_a_usable_session(session: Terminal) -> None:
    for _ in range(3):
        session.type(CTRL_C)
        session.enter("PING")
        session.expect(r"\nOK.*\r")
    session.enter("SUBMIT echo still here")
    job = session.expect(r"\nJOB_ID (\d+)\r")[1]
    session.enter(f"WAIT {job}")
    session.expect(r"\nSTATUS COMPLETED 100\r")
    session.enter(f"RESULT {job}")
    session.expect(re.escape(r'RESULT "still here\n" "" 0') + "\r")
    session.enter("QUIT")
    session.expect("Connection closed by foreign host")


def test_ctrl_c_in_the_middle_of_a_line_discards_the_line(
    session: Terminal, tmp_path: Path, wire: Wire
) -> None:
    session.type(f"SUBMIT touch {tmp_path}/never")
    session.expect("/never")
    session.type(CTRL_C)
    session.enter("PING")
    session.expect(r"\nOK.*\r")
    wire.run("true")
    assert not (tmp_path / "never").exists()


def test_ctrl_c_during_a_wait_leaves_a_usable_session(session: Terminal, wire: Wire) -> None:
    job = wire.submit("sleep 300")
    session.enter(f"WAIT {job}")
    session.expect(rf"WAIT {job}\r")
    session.type(CTRL_C)
    wire.cancel(job)
    session.enter("PING")
    session.expect(r"\nOK.*\r")
    session.enter(f"STATUS {job}")
    session.expect(r"\nSTATUS CANCELLED 0\r")


def test_telnet_options_are_refused_without_visible_output(session: Terminal) -> None:
    session.type("\x1d")  # telnet's prompt
    session.expect("telnet>")
    session.enter("send do echo")
    session.enter("PING")
    session.expect(r"\nOK.*\r")
    session.type("\x1d")
    session.expect("telnet>")
    session.enter("send synch")  # a data mark as urgent data
    session.enter("PING")
    session.expect(r"\nOK.*\r")
    session.type("\x1d")
    session.expect("telnet>")
    session.enter("send ayt")
    session.expect(r"\[yes\]\r")
    session.enter("SUBMIT echo fine")
    session.expect(r"JOB_ID \d+\r")
