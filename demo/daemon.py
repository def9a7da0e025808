"""The daemon as its operator would start it."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from demo.checks import Unexpected
from demo.wire import DEADLINE, Wire

BIN = Path(sys.executable).parent


class Daemon:
    """Starts and stops a daemon in a temporary directory, as an operator would."""

    def __init__(self, place: Path) -> None:
        self.socket = str(place / "taskq.sock")
        self.state = place / "state"
        self.port = free_port()
        self.log = place / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        options = [f"--state={self.state}", f"--listen=unix:{self.socket}", "--slots=2"]
        options.append(f"--listen=tcp:{self.port}:interface=127.0.0.1")
        print(f"  $ taskqd {' '.join(options)}")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [BIN / "taskqd", *options],
                cwd=self.state.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + DEADLINE
        while not self._answers():
            if self._process.poll() is not None:
                raise Unexpected(f"the daemon ended with {self._process.returncode}")
            if time.monotonic() > end:
                raise Unexpected(f"the daemon did not answer within {DEADLINE:.0f} s")
            time.sleep(0.02)

    def make_token(self, name: str, role: str) -> str:
        """Make a token by ``taskq token add``."""
        words = ["token", "add", name, "--role", role, "--state", str(self.state)]
        print(f"  $ taskq {' '.join(words)}")
        made = subprocess.run([BIN / "taskq", *words], capture_output=True, text=True, check=True)
        return made.stdout.strip()

    def end(self, how: signal.Signals) -> int:
        """Send the daemon a signal, wait for its end and return its exit code; 0 if it does not run."""
        if self._process is None:
            return 0
        self._process.send_signal(how)
        try:
            return self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _answers(self) -> bool:
        try:
            wire = Wire(self.socket)
        except OSError:
            return False
        wire.close()
        return True


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
