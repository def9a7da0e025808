"""The daemon that is killed; it has short segments."""

import re
import sys
import time
from pathlib import Path

from tests.end_to_end.daemon import SNAPSHOT, Command, Daemon
from tests.end_to_end.wire import until
from tests.torture.clients import Connection, Lost, connect
from tests.torture.model import Broken
from tests.torture.processes import Mark, Runners, command_line, marked, store_of

SEGMENT_BYTES = 12 * 1024
SNAPSHOT_BYTES = 24 * 1024
LAUNCHER = Path(__file__).with_name("launcher.py")
_UNEXPECTED = re.compile(
    rb"Traceback|Unhandled|internal error|snapshot of \S+ failed|CRITICAL|cannot be written"
)


class Victim(Daemon):
    """A daemon that is started and killed repeatedly; ``on_stop`` is the setting for its next start."""

    def __init__(self, place: Path, *options: str, slots: int) -> None:
        super().__init__(place, *options, slots=slots)
        self.on_stop = "leave"
        self.runner_processes = Runners(self.state)
        self._log_seen = 0
        self._store = ""

    def command(self, pid_file: Path | None = None) -> Command:
        # Without a pid file: a stale one refuses the start if its pid is in use again.
        sizes = [str(SEGMENT_BYTES), str(SNAPSHOT_BYTES)]
        options = [*self.options, "--on-stop", self.on_stop]
        return [sys.executable, LAUNCHER, *sizes, "-n", "--pidfile=", "taskq", *options]

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

    @property
    def exit_code(self) -> int | None:
        """The exit code of the daemon, negative for a signal; None if it runs or has not been started."""
        return self._process.poll() if self._process is not None else None

    def snapshot_processes(self) -> list[int]:
        """Return the pids of the snapshot processes of this daemon and earlier ones."""
        return [pid for pid, line in self.processes().items() if SNAPSHOT in line]

    @property
    def store(self) -> str:
        """The name of its store; an empty string before its first start."""
        if not self._store:
            self._store = store_of(self.state / "journal")
        return self._store

    def marks(self) -> dict[int, Mark]:
        """Return the attempts of the processes of its jobs, by pid."""
        return marked(self.store)

    def processes(self) -> dict[int, str]:
        # A runner clears the limits of the shell that started it, so its processes have another mark.
        found = super().processes()
        found |= {pid: command_line(pid) for pid in (*self.marks(), *self.runner_processes.pids())}
        return found

    def complaints(self) -> str:
        """Return the log since the last call if it has unexpected lines, else an empty string."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_seen)
            text = log.read()
        self._log_seen += len(text)
        return text.decode("utf-8", "replace")[-4000:] if _UNEXPECTED.search(text) else ""
