"""Runs a real daemon as a process, started as an operator starts it."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from taskqd.execution.proc import start_time
from tests.end_to_end.wire import DEADLINE, Wire, until
from tests.support.fork_server import ForkedProcess, fork_server, mark

CHECKOUT = Path(__file__).parents[2]
TWISTD = Path(sys.executable).with_name("twistd")
TASKQ = TWISTD.with_name("taskq")

Command = list[str | Path]
Process = subprocess.Popen[bytes] | ForkedProcess

SPEEDUPS = os.environ.get("TASKQ_TEST_SPEEDUPS", "true")
"""The setting `speedups` of all daemons; TASKQ_TEST_SPEEDUPS=false runs the same tests with plain Twisted."""

FORKS = SPEEDUPS == "true"
"""Whether daemons are forks of a process that has imported twistd; with plain Twisted each is executed."""

RUNNER_EXIT_TIMEOUT = 15.0
"""Seconds for the exit of runners after a stop. It takes a moment, but 10 seconds (GREETING_TIMEOUT) for one
whose daemon was killed while it was starting, if it finds the lock free after the stop of the next daemon."""
SNAPSHOT = "taskqd.storage.journal.snapshot"
RUNNER = "taskqd.runner"


def marked_processes(mark: int) -> dict[int, str]:
    """Return the command lines of the running processes with a mark, by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        place = Path("/proc", entry)
        with suppress(OSError):  # it has ended meanwhile
            if (
                not entry.isdigit()
                or f"Max msgqueue size         {mark} " not in (place / "limits").read_text()
            ):
                continue
            if is_alive(int(entry)):
                found[int(entry)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and is not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def memory(pid: int) -> dict[str, int]:
    """Return the memory of a process in bytes: ``VmRSS`` now, and the peak ``VmHWM``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in fields}


def fill(disk: Path) -> Path:
    """Fill a disk; return the file that takes the space."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return ballast


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def environment() -> dict[str, str]:
    """Return the environment of daemon and client: ours without the variables of taskqd."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")}


class Daemon:
    """A daemon in ``place``: its state, log, pid file, UNIX socket, and with ``tcp`` a port on loopback."""

    def __init__(self, place: Path, *options: str, slots: int = 2, tcp: bool = False, twistd: Path = TWISTD):
        self.place = place
        self.state = place / "state"
        self.log_file = place / "daemon.log"
        self.pid_file = place / "daemon.pid"
        # The path of a socket has at most 107 bytes.
        self._short = Path(tempfile.mkdtemp(prefix="taskq-", dir="/tmp"))
        self.socket = self._short / "socket"
        self.port = free_port() if tcp else 0
        listen = ["--listen", f"unix:{self.socket}"]
        listen += ["--listen", f"tcp:{self.port}:interface=127.0.0.1"] if tcp else []
        # Stops are quick and end the jobs unless a test gives the options itself: the last of two counts.
        self.options = ["--state", str(self.state), "--slots", str(slots)]
        self.options += ["--stop-grace", "0", "--on-stop", "interrupt"]
        self.options += ["--speedups", SPEEDUPS, *listen, *options]
        self.twistd = twistd
        self.may_log_tracebacks = False
        self._mark = random.SystemRandom().randrange(100_000, 800_000)
        self._process: Process | None = None
        self._pid = 0
        self._started: int | None = None
        self._wires: list[Wire] = []
        self._token: str | None = None

    # Start and stop.

    def command(self, pid_file: Path | None = None) -> Command:
        """Return the command line of the daemon; that of ``taskqd``, which has no pid file, is shorter."""
        twistd_options = ["-n", f"--pidfile={pid_file or self.pid_file}", "taskq"]
        return [self.twistd, *(twistd_options if self.twistd.name == "twistd" else []), *self.options]

    def launch(self, command: Command | None = None) -> Process:
        """Start the process, with its output appended to the log, and return without waiting."""
        words = [*map(str, command or self.command())]
        if words[0] == str(TWISTD) and FORKS and fork_server().can_start(environment()):
            return fork_server().start(words, environment(), self.place, self.log_file, self._mark)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                words,
                cwd=self.place,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=partial(mark, self._mark),  # noqa: PLW1509 - it only calls setrlimit(2)
            )

    def start(self) -> "Daemon":
        """Start the daemon and wait until it answers; fail with its log if it exits."""
        self._process = self.launch()
        self._set_pid(self._process.pid)
        until(self.answers, "the daemon to answer")
        return self

    def started_elsewhere(self, pid: int) -> None:
        """Use a daemon that is not a child of this process."""
        self._process = None
        self._set_pid(pid)

    def _set_pid(self, pid: int) -> None:
        self._pid, self._started = pid, start_time(pid)

    def answers(self) -> bool:
        """Whether the daemon answers; fail with its log if it has exited."""
        ended = self._process is not None and self._process.poll() is not None
        assert not ended, f"the daemon ended instead of starting:\n{self.log}"
        try:
            return self.connect().ask("PING").startswith("OK")
        except (OSError, AssertionError):  # a child of a killed daemon may still have its socket
            return False

    def refused(self) -> tuple[int, str]:
        """Start a daemon that must refuse to start; return its exit code and its output."""
        before = len(self.log)
        with self.launch(self.command(self.place / "another.pid")) as process:
            try:
                code = process.wait(DEADLINE)
            finally:
                process.kill()
        return code, self.log[before:]

    def stop(self) -> int | None:
        """Stop the daemon by SIGTERM; return its exit code, None if it is not a child of this process."""
        return self.end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the daemon; its runner and its jobs go on."""
        self.end(signal.SIGKILL)

    def kill_runner(self) -> None:
        """Kill the runners, and wait for their end; their jobs lose their pipes."""
        runners = self.runner_pids()
        assert runners, "no runner lives"
        for pid in runners:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, runners)), "the runners to end")

    def crash(self) -> None:
        """Kill the daemon and its runners."""
        self.kill()
        if self.runner_pids():
            self.kill_runner()

    def end(self, number: signal.Signals) -> int | None:
        """Send the daemon a signal and wait for its end; return its exit code as ``stop`` does."""
        self.signal(number)
        return self.wait_for_end()

    def restart(self) -> None:
        if self.is_running:
            self.stop()
        self.start()

    def close(self) -> list[str]:
        """Stop the daemon and kill what remains; return a line for each problem."""
        for wire in self._wires:
            wire.close()
        complaints = []
        if self.is_running:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                complaints.append(f"the daemon did not stop within {DEADLINE:g} s")
                self.kill()
            if not self.leaves_jobs:
                with suppress(AssertionError):
                    until(self._has_no_ending_process, "the runner to end", RUNNER_EXIT_TIMEOUT)
                left = self._others().items()  # the process of a snapshot runs until it is complete
                complaints += [f"left behind: {pid} {line}" for pid, line in left if SNAPSHOT not in line]
        for pid in sorted(self._others(), key=self.runner_pids().__contains__, reverse=True):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._short)
        if not self.may_log_tracebacks and ("Traceback" in self.log or "Unhandled" in self.log):
            complaints.append(f"an error in the log:\n{self.log[-5000:]}")
        return complaints

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal without waiting."""
        os.kill(self._pid, number)

    def wait_for_end(self) -> int | None:
        """Wait for the end of the daemon; return its exit code as ``stop`` does."""
        if self._process:
            return self._process.wait(DEADLINE)
        until(lambda: not self.is_running, "the daemon to end")
        return None

    # Observation.

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def is_running(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        # Another process may have its pid by now.
        return bool(self._pid) and is_alive(self._pid) and start_time(self._pid) == self._started

    @property
    def leaves_jobs(self) -> bool:
        """Whether jobs and their runner outlive an orderly stop."""
        last = len(self.options) - self.options[::-1].index("--on-stop")
        return self.options[last] == "leave"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def token(self) -> str:
        """The token of an admin called ``token``, made at the first access."""
        if self._token is None:
            self._token = self.make_token("token", "--role", "admin")
        return self._token

    def make_token(self, *words: str) -> str:
        """Make a token by ``taskq token add``."""
        command: Command = [TASKQ, "token", "add", *words, "--state", self.state]
        made = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def files(self, *kinds: str) -> list[str]:
        """Return the sorted names of the files below these directories of the state directory."""
        found = (file for kind in kinds for file in (self.state / kind).rglob("*") if file.is_file())
        return sorted(file.name for file in found)

    def memory(self) -> dict[str, int]:
        return memory(self._pid)

    def processes(self) -> dict[int, str]:
        """Return the command lines of the processes of its jobs, by pid."""
        return {pid: line for pid, line in self._others().items() if RUNNER not in line}

    def runner_pids(self) -> list[int]:
        """Return the pids of its runners."""
        return [pid for pid, line in self._others().items() if RUNNER in line]

    @property
    def runner(self) -> int:
        """The pid of the runner that accepts starts."""
        return int((self.state / "runner" / "lock").read_text().split()[0])

    def _others(self) -> dict[int, str]:
        return {pid: line for pid, line in marked_processes(self._mark).items() if pid != self._pid}

    def _has_no_ending_process(self) -> bool:
        """Whether neither a runner is left nor a process whose command line the kernel has freed already."""
        return not any(RUNNER in line or not line for line in self._others().values())

    def wait_for_no_process(self, deadline: float = DEADLINE) -> None:
        until(lambda: not self.processes(), "the jobs' processes to go", deadline)

    # Connections.

    def _keep(self, connection: socket.socket) -> Wire:
        wire = Wire(connection)
        self._wires.append(wire)
        return wire

    def connect(self) -> Wire:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return self._keep(connection)

    def connect_tcp(self, *, authenticate: bool = True) -> Wire:
        wire = self._keep(socket.create_connection(("127.0.0.1", self.port)))
        if authenticate:
            assert wire.ask(f"AUTH {self.token}").startswith("OK ")
        return wire
