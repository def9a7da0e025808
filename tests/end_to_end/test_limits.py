"""The limits of the settings, with a real daemon: connections, times, limits per user, and descriptors."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Command, Daemon
from tests.end_to_end.test_restart import CLEAN
from tests.end_to_end.wire import Wire, until
from tests.support import other_users


def test_unauthenticated_connections_are_closed_by_number_and_time(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "auth-time=3s", "--limit", "connections-before-auth=3", tcp=True)
    assert one.token  # made now, since that takes longer than an AUTH
    known = one.connect_tcp()
    strangers = [one.connect_tcp(authenticate=False) for _ in range(4)]
    assert strangers[0].line().startswith("ERROR AUTH_REQUIRED more than 3 connections are not authenticated")
    assert all(
        wire.line().startswith("ERROR AUTH_REQUIRED not authenticated within") for wire in strangers[1:]
    )
    assert all(wire.rest() == b"" for wire in strangers)
    assert known.ask("PING") == "OK", "an authenticated connection stays open"


def test_idle_connection_is_closed_but_a_waiting_one_is_not(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "idle-time=500ms")
    idle, waiting = one.connect(), one.connect()
    job = waiting.submit("sleep 2")
    waiting.send(f"WAIT {job}\r\n".encode())
    assert idle.rest() == b""
    assert waiting.line().startswith("STATUS COMPLETED")


def test_connection_over_the_limit_waits_until_another_closes(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "connections=3")
    first, *_ = [one.connect() for _ in range(2)]  # besides the one that waited for the start
    until(lambda: first.stats()["connections"] == 3, "all connections to be accepted")
    late = one.connect()
    late.send(b"PING\r\n")
    assert first.ask("PING") == "OK"
    first.close()
    assert late.line() == "OK"


def test_simultaneous_connections_over_the_limit_are_served_in_the_end(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "connections=5")
    one.signal(signal.SIGSTOP)  # so that all are there when it continues
    crowd = [one.connect() for _ in range(30)]
    for wire in crowd:
        wire.send(b"PING\r\nQUIT\r\n")
    one.signal(signal.SIGCONT)
    for wire in crowd:
        assert wire.rest() == b"OK\r\nOK\r\n"
        wire.close()


def test_submission_over_the_limit_of_pending_jobs_is_refused(daemon: DaemonFactory) -> None:
    wire = daemon("--limit", "pending=10").connect()
    wire.send(b"SUBMIT --hold true\r\n" * 12)
    words = [wire.line().split()[:2] for _ in range(12)]
    assert [word for word, _ in words] == ["JOB_ID"] * 10 + ["ERROR"] * 2
    assert words[-1] == ["ERROR", "QUEUE_FULL"]


def test_line_and_command_over_their_sizes_are_refused(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "line=1k", "--limit", "command=100")
    wire = one.connect()
    assert wire.ask("SUBMIT " + "x" * 101).startswith(
        "ERROR TOO_LARGE the command has 101 bytes, the limit is 100"
    )
    assert wire.ask("SUBMIT " + "x" * 1024).startswith(
        "ERROR LINE_TOO_LONG a request line has at most 1024 bytes"
    )
    assert wire.rest() == b""


@contextmanager
def open_to_all(place: Path, *options: str) -> Iterator[tuple[Daemon, Callable[[str], Wire]]]:
    """Run a daemon with a socket for everybody; yield it, and a function that connects as a user."""
    with ExitStack() as stack:
        everybody = stack.enter_context(other_users.open_place()) / "socket"
        one = Daemon(place, "--listen", f"unix:{everybody}:mode=666", *options)

        def user(name: str) -> Wire:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            with other_users.acting(other_users.user(name)):
                connection.connect(str(everybody))
            return Wire(connection)

        try:
            yield one.start(), user
        finally:
            assert one.close() == []


FILE: dict[str, int | str] = {
    "connections-per-user": 2,
    "pending-per-user": 5,
    "submissions": 2,
    "schedules-per-user": 1,
    "priority": -1,
    "environment": "1k",
    "label": 3,
    "block": "1k",
    "output": "1M",
    "idle-time": "none",
}
NUMBERS = {"1k": 1024, "1M": 1024**2, "none": None}


@other_users.only_root
def test_limits_per_user_apply_to_users_and_not_to_admins(tmp_path: Path) -> None:
    file = tmp_path / "taskqd.toml"
    file.write_text("[limits]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in FILE.items()))
    with open_to_all(tmp_path, "--config", str(file)) as (one, user):
        games, root = user("games"), one.connect()
        limits = json.loads(games.ask("HELLO").removeprefix("TASKQ 1 "))["limits"]
        for name, value in FILE.items():
            known = limits[{"output": "max_output"}.get(name, name.replace("-", "_"))]
            assert known == NUMBERS.get(str(value), value), name
        user("games")
        third = user("games")
        assert third.line().startswith(
            "ERROR QUEUE_FULL games has 2 connections, the limit for one user; close one"
        )
        assert third.rest() == b""
        for _ in range(3):
            assert one.connect().ask("PING") == "OK"
        pending = [games.ask("SUBMIT --hold true") for _ in range(6)]
        assert [reply.split()[0] for reply in pending] == ["JOB_ID"] * 5 + ["ERROR"]
        assert pending[-1].startswith("ERROR QUEUE_FULL cannot add 1 job: games has 5 pending jobs, ")
        assert games.ask("SUBMIT --array=1-6 true").startswith("ERROR QUEUE_FULL ")
        assert games.show(1)["priority"] == -1
        assert games.ask("SUBMIT --priority=1 true").startswith(
            "ERROR FORBIDDEN permission denied: priority 1 needs the role admin"
        )
        assert games.ask("SET 1 --max-output=2M").startswith("ERROR TOO_LARGE ")
        assert games.ask("SET 1 --priority=0").startswith("ERROR FORBIDDEN ")
        assert games.ask("SET 1 --label=abc").startswith("JOB ")
        assert games.ask("SCHEDULE --every=1d true") == "OK 1"
        assert games.ask("SCHEDULE --every=1d true").startswith("ERROR QUEUE_FULL you have 1 ")
        games.send(b"SUBMIT --hold true\r\n" * 40)
        replies = [games.line() for _ in range(40)]
        assert any("submit or change more than 2 jobs per second; retry in 0." in line for line in replies)
        for wire in (games, root):
            for request in ("--label=abcd true", f"--env=A={'x' * 1024} true", "--max-output=2M true"):
                assert wire.ask(f"SUBMIT {request}").startswith("ERROR TOO_LARGE "), request
            wire.send(b"SUBMIT --stdin=1025 cat\r\n")
            assert wire.line().startswith(
                "ERROR TOO_LARGE a block of 1025 bytes is refused, the limit is 1024"
            )
            wire.send(b"x" * 1025 + b"\r\nPING\r\n")
            assert wire.line() == "OK"
        for _ in range(40):
            root.submit("--priority=5 --hold true")
        shown = root.show(root.submit("--hold true"))
        assert (shown["max_output"], shown["priority"]) == (1024**2, 0)


@other_users.only_root
def test_refused_by_rate_client_may_submit_after_the_time_in_the_reply(tmp_path: Path) -> None:
    with open_to_all(tmp_path, "--limit", "submissions=20") as (_, user):
        games = user("games")
        games.send(b"SUBMIT --hold true\r\n" * 300)
        replies = [games.line() for _ in range(300)]
        refused = [line for line in replies if line.startswith("ERROR QUEUE_FULL ")]
        assert 200 <= len(replies) - len(refused) < 300
        wait = re.search(r"retry in ([0-9.]+) s$", refused[-1])
        assert wait is not None
        time.sleep(float(wait[1]))
        games.submit("--hold true")


def test_stop_succeeds_while_the_limit_of_connections_is_reached(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "connections=3")
    wires = [one.connect() for _ in range(2)]
    until(lambda: wires[0].stats()["connections"] == 3, "all connections to be accepted")
    waiting = one.connect()
    wires[1].send(b"WAIT 99\r\nPING\r\n")
    assert one.stop() in CLEAN
    assert wires[1].rest().endswith(b"OK\r\n")
    assert waiting.rest() == b""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class DaemonWithFewDescriptors(Daemon):
    """A daemon with a low limit of open files."""

    def command(self, pid_file: Path | None = None) -> Command:
        return ["/bin/sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *super().command(pid_file)]


def test_daemon_with_few_descriptors_survives_a_flood_of_connections(tmp_path: Path) -> None:
    one = DaemonWithFewDescriptors(tmp_path).start()
    flood: list[socket.socket] = []

    def is_full() -> bool:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        flood.append(connection)
        connection.connect_ex(str(one.socket))  # the kernel's queue may be full for a moment
        return "connections are open, which is the limit" in one.log

    try:
        until(is_full, "the daemon to be full")
        before = cpu_seconds(one._pid)
        time.sleep(1.0)  # a daemon that spins uses this second
        assert cpu_seconds(one._pid) - before < 0.3
        for connection in flood:
            connection.close()
        wire = one.connect()
        assert wire.wait(wire.submit("true")) == "COMPLETED"
        lines = [line for line in one.log.splitlines() if " connections" in line]
        assert len(lines) == 2, lines
    finally:
        for connection in flood:
            connection.close()
        assert one.close() == []


SHARED = """
[queues.default]
fair = true

[limits]
slots-per-user = 2
"""


@other_users.only_root
def test_users_take_turns_and_run_jobs_on_their_slots_only(tmp_path: Path) -> None:
    file = tmp_path / "taskqd.toml"
    file.write_text(SHARED)
    with open_to_all(tmp_path, "--config", str(file), "--slots", "3") as (one, user):
        games, other, root = user("games"), user("daemon"), one.connect()
        long = [games.submit("sleep 300") for _ in range(3)]
        root.wait_running(*long[:2])
        assert games.ask(f"WHY {long[2]}") == (
            f"OK user games runs jobs on 2 of 2 slots, the limit for one user: jobs {long[0]} and {long[1]}; "
            "first in queue default, whose users take turns"
        )
        assert games.ask("SUBMIT --slots=3 true").startswith(
            "ERROR BAD_REQUEST the job could never start: it needs 3 slots for one user, the total is 2"
        )
        assert other.wait(other.submit("true")) == "COMPLETED"
        blocker = root.submit("sleep 300")
        root.wait_running(blocker)
        root.cancel(*long)
        # A user may run two of the three slots, so two jobs of each order are enough to see the turns.
        root.ask("SET-QUEUE default --slots=1")
        jobs = [games.submit("sleep 0.02") for _ in range(4)]
        turns = [other.submit("sleep 0.02") for _ in range(2)]
        root.cancel(blocker)
        for job in (*jobs, *turns):
            assert root.wait(job) == "COMPLETED"
        order = sorted((*jobs, *turns), key=lambda job: str(root.show(job)["started_at"]))
        first, second = (jobs, turns) if order[0] == jobs[0] else (turns, jobs)
        assert order[:4] == [first[0], second[0], first[1], second[1]]
        assert order[4:] == jobs[2:]
        one.crash()
        one.start()
        assert one.connect().queues()["default"]["fair"] is True
