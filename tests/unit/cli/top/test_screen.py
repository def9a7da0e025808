"""``taskq top`` on a terminal: keys, signals, and restoring the terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskqd.cli.top import screen
from tests.fakes.daemon import FakeDaemon, Request
from tests.support.cli_calls import Call, a_call, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import CHECKOUT, TIMEOUT, Process
from tests.unit.cli.top.samples import answer


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_top_without_terminal_names_alternatives(call: Call, words: tuple[str, ...]) -> None:
    outcome = call("top", *words)
    assert outcome.code == 2
    assert "taskq queues --json" in outcome.stderr
    assert "taskq list --json" in outcome.stderr


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_top_rejects_dumb_terminal(name: str) -> None:
    words = ("unix:/nowhere", "top")
    with Process(*words, on_terminal=("stdin", "stdout", "stderr"), TERM=name) as process:
        end = process.end()
    assert end.code == 2
    assert f"top does not support a terminal with TERM={name}".encode() in end.terminal


class Screen(Process):
    """``taskq top`` on a terminal of 80x24."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "top", on_terminal=("stdin", "stdout", "stderr"), LANG="C.UTF-8")
        self.resize(80, 24)
        self.before = termios.tcgetattr(self._master)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def state(self) -> str:
        """The state of the process in /proc; T if it is stopped."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0]

    @property
    def settings(self) -> object:
        return termios.tcgetattr(self._master)

    def type_and_wait(self, text: bytes, shown: bytes) -> None:
        """Type text and wait until ``shown`` appears."""
        self._read["terminal"] = b""
        self.type(text)
        self.read("terminal", shown)

    def wait_for(self, text: bytes) -> None:
        self._read["terminal"] = b""
        self.read("terminal", text)


@pytest.fixture(name="daemon")
def a_daemon_with_jobs(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(answer, tmp_path) as daemon:
        yield daemon


def test_top_obeys_keys_and_restores_the_terminal(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"\x1b[?1049h")
        view.read("terminal", b"job-6")
        assert view.settings != view.before
        view.type_and_wait(b"o", b"hello from the job")
        view.type_and_wait(b"q", b"pending")
        view.type_and_wait(b"\x1b[Bc", b"Cancel job 30.5? [y/n]")
        view.type_and_wait(b"y", b"job 30.5 cancelled")
        view.type_and_wait(b"?", b"Any key closes")
        view.type_and_wait(b" ", b"job-6")
        view.type_and_wait(b"P", b"Pause everything? [y/n]")
        view.type_and_wait(b"y", b"everything paused")
        view.type(b"q")
        end = view.end()
        assert end.code == 0
        assert end.terminal.rstrip().endswith(b"\x1b[?1049l")
        assert view.settings == view.before
    assert {"CANCEL 30.5", "PAUSE"} <= set(daemon.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_top_and_restores_the_terminal(daemon: FakeDaemon, number: int) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.signal(number)
        end = view.end()
        assert end.code == 128 + number
        assert b"\x1b[?1049l" in end.terminal
        assert view.settings == view.before


def test_error_restores_the_terminal() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with suppress(ZeroDivisionError), screen.character_input(slave):
            assert termios.tcgetattr(slave) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_top_ends_silently_when_terminal_is_gone(daemon: FakeDaemon) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    words = [sys.executable, "-c", "from taskqd.cli import main; main()", "top", "--address", daemon.address]
    with subprocess.Popen(
        words,
        cwd=CHECKOUT,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(slave)
        seen = b""
        while b"job-6" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGHUP


@pytest.mark.needs("bash")
def test_ctrl_z_suspends_top_and_fg_resumes_it(daemon: FakeDaemon) -> None:
    """Runs in a separate interactive shell, because only there can jobs be stopped."""
    shell = "import os, pty; os.environ.update(PS1='$ '); pty.spawn(['bash', '--norc', '-i'])"
    top = f"{sys.executable} -c 'from taskqd.cli import main; main()' top --address {daemon.address}\n"
    with subprocess.Popen(
        [sys.executable, "-c", shell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env={"PATH": "/bin:/usr/bin", "TERM": "xterm", "LANG": "C.UTF-8"},
    ) as process:
        assert process.stdin
        assert process.stdout
        seen = b""

        def type_and_see(typed: bytes, *shown: bytes) -> None:
            nonlocal seen
            assert process.stdin
            assert process.stdout
            process.stdin.write(typed)
            process.stdin.flush()
            deadline = time.monotonic() + TIMEOUT
            for text in shown:
                while text not in seen:
                    assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], seen
                    seen += os.read(process.stdout.fileno(), 65536)
                seen = seen[seen.index(text) + len(text) :]

        try:
            type_and_see(b"", b"$ ")
            type_and_see(b"stty rows 24 cols 80\n" + top.encode(), b"\x1b[?1049h", b"job-6")
            type_and_see(b"\x1a", b"\x1b[?1049l", b"Stopped", b"$ ")
            type_and_see(b"stty -a\n", b" icanon ", b" echo ", b"$ ")
            type_and_see(b"fg\n", b"\x1b[?1049h", b"job-6")
            type_and_see(b"q", b"\x1b[?1049l", b"$ ")
            type_and_see(b"exit\n")
        finally:
            process.stdin.close()
            process.kill()


def test_keys_work_while_the_daemon_does_not_reply(tmp_path: Path) -> None:
    def never(request: Request) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b""

    with FakeDaemon(never, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"waiting for the daemon")
        view.type(b"q")
        assert view.end().code == 0


def test_top_shows_lost_connection_and_reconnects(tmp_path: Path) -> None:
    with FakeDaemon(answer, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        daemon.close()
        view.wait_for(b"cannot reach the daemon")
        os.unlink(tmp_path / "taskq.sock")
        with FakeDaemon(answer, tmp_path):
            view.type_and_wait(b"", b"q quit")
            view.type(b"q")
            assert view.end().code == 0


def test_top_without_daemon_draws_nothing(tmp_path: Path) -> None:
    with Screen(f"unix:{tmp_path}/none") as view:
        end = view.end()
    assert end.code == 69
    assert b"\x1b[?1049h" not in end.terminal


def test_top_redraws_after_resize(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.resize(200, 24)
        view.signal(signal.SIGWINCH)
        view.wait_for(b" " * 90 + b"\x1b")
        view.type(b"q")
        assert view.end().code == 0
