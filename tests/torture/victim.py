"""The daemon that is killed; it has short segments."""

import re
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.daemon import Command, Daemon, is_alive
from tests.end_to_end.wire import until
from tests.torture.clients import Connection, Lost, connect
from tests.torture.model import Broken

SEGMENT_BYTES = 12 * 1024
SNAPSHOT_BYTES = 24 * 1024
LAUNCHER = Path(__file__).with_name("launcher.py")
_MARK = re.compile(rb"(?:^|\0)TASKQ_RUN=[0-9a-f]+\.([0-9]+)\.([0-9]+)(?:\0|$)")
_UNEXPECTED = re.compile(
    rb"Traceback|Unhandled|internal error|snapshot of \S+ failed|CRITICAL|cannot be written"
)
EXIT_TIMEOUT = 0.3
"""Seconds until a killed process must be gone from /proc."""


class Victim(Daemon):
    """A daemon that is started and killed repeatedly."""

    def __init__(self, place: Path, *options: str, slots: int) -> None:
        super().__init__(place, *options, slots=slots)
        self._log_seen = 0

    def command(self, pid_file: Path | None = None) -> Command:
        # Without a pid file: a stale one refuses the start if its pid is in use again.
        sizes = [str(SEGMENT_BYTES), str(SNAPSHOT_BYTES)]
        return [sys.executable, LAUNCHER, *sizes, "-n", "--pidfile=", "taskq", *self.options]

    def connect(self) -> Connection:
        return connect(self.socket)

    def begin(self) -> float:
        """Start the process without waiting; return the time of the start."""
        self._process = self.launch()
        self._pid = self._process.pid
        return time.monotonic()

    def wait_for_answer(self) -> None:
        """Wait until the daemon replies; if it ends, a rule is broken."""
        try:
            until(self.answers, "the daemon to answer", pause=0.005)
        except AssertionError as why:
            raise Broken("a daemon starts again", None, str(why)[-3000:]) from None

    def answers(self) -> bool:
        ended = self._process is not None and self._process.poll() is not None
        assert not ended, f"the daemon ended instead of starting:\n{self.log[-3000:]}"
        try:
            wire = self.connect()
        except Lost:
            return False
        try:
            return wire.ask("PING") == "OK"
        except Lost:
            return False
        finally:
            wire.close()

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def snapshot_processes(self) -> list[int]:
        """Return the pids of the snapshot processes of this daemon and earlier ones."""
        return [pid for pid, line in self.processes().items() if "taskqd.storage.journal.snapshot" in line]

    def leftovers(self) -> dict[int, tuple[int, int, str]]:
        """Return (job, attempt, command line) by pid of the processes that jobs of earlier daemons have left.

        Processes that exit within EXIT_TIMEOUT and snapshot processes are not included.
        """
        found = self._older_processes()
        deadline = time.monotonic() + EXIT_TIMEOUT
        while found and time.monotonic() < deadline:
            time.sleep(0.01)
            found = {pid: what for pid, what in found.items() if is_alive(pid)}
        return found

    def _older_processes(self) -> dict[int, tuple[int, int, str]]:
        begun = _start_time(self._pid)
        found = {}
        for pid, line in self.processes().items():
            if "taskqd.storage.journal.snapshot" in line or _start_time(pid) >= begun:
                continue
            mark = _MARK.search(_environment(pid))
            job, attempt = (int(mark[1]), int(mark[2])) if mark else (0, 0)
            found[pid] = (job, attempt, line)
        return found

    def complaints(self) -> str:
        """Return the log since the last call if it has unexpected lines, else an empty string."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_seen)
            text = log.read()
        self._log_seen += len(text)
        return text.decode("utf-8", "replace")[-4000:] if _UNEXPECTED.search(text) else ""


def _start_time(pid: int) -> int:
    """Return the start time of a process in ticks since boot; the maximum if it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[19])
    return sys.maxsize


def _environment(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""
