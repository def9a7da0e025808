"""The daemon that is killed: started with short segments, looked at from outside."""

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
    rb"Traceback|Unhandled|bug of taskqd|snapshot of \S+ failed|CRITICAL|cannot be written"
)
DYING = 0.3
"""What was killed has so many seconds to be gone from /proc."""


class Victim(Daemon):
    """A daemon that is started and killed again and again."""

    def __init__(self, place: Path, *options: str, slots: int) -> None:
        super().__init__(place, *options, slots=slots)
        self._log_seen = 0

    def command(self, pid_file: Path | None = None) -> Command:
        # Without a pid file: a stale one refuses the start where its pid belongs to somebody else by now.
        sizes = [str(SEGMENT_BYTES), str(SNAPSHOT_BYTES)]
        return [sys.executable, LAUNCHER, *sizes, "-n", "--pidfile=", "taskq", *self.options]

    def connect(self) -> Connection:
        return connect(self.socket)

    def begin(self) -> float:
        """Start the process and return at once, with the time at which it began."""
        self._process = self.launch()
        self._pid = self._process.pid
        return time.monotonic()

    def wait_for_answer(self) -> None:
        """Wait until it answers; a daemon that ends instead breaks a rule."""
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

    def condensers(self) -> list[int]:
        """Return the pids of the processes that make a snapshot, of this daemon or one before it."""
        return [pid for pid, line in self.processes().items() if "taskqd.storage.journal.snapshot" in line]

    def leftovers(self) -> dict[int, tuple[int, int, str]]:
        """Return (job, attempt, command line) by pid of the processes that jobs of earlier daemons have left.

        What is dying has a moment for that; what makes a snapshot may end in its own time.
        """
        found = self._older_processes()
        deadline = time.monotonic() + DYING
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
        """Return the part of the log since the last call if anything in it should not be there."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_seen)
            text = log.read()
        self._log_seen += len(text)
        return text.decode("utf-8", "replace")[-4000:] if _UNEXPECTED.search(text) else ""


def _start_time(pid: int) -> int:
    """Return when a process began, in ticks since boot; one that is gone began later than all others."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[19])
    return sys.maxsize


def _environment(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""
