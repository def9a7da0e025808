"""The limits of the settings, at a real daemon: connections, time, and descriptors."""

import os
import resource
import socket
import time
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import until


def test_who_does_not_say_who_he_is_has_to_go(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "auth-time=3s", "--limit", "connections-before-auth=3", tcp=True)
    assert one.token  # made now: that takes longer than an AUTH
    strangers = [one.connect_tcp(authenticate=False) for _ in range(4)]
    assert strangers[0].line().startswith("ERROR AUTH_REQUIRED more than 3 connections have not said who")
    assert all(wire.line().startswith("ERROR AUTH_REQUIRED nobody said who") for wire in strangers[1:])
    assert all(wire.rest() == b"" for wire in strangers)
    known = one.connect_tcp()
    time.sleep(3.5)  # the time that was for the AUTH
    assert known.ask("PING") == "OK"


def test_an_idle_connection_is_closed_and_one_that_waits_is_not(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "idle-time=500ms")
    idle, waiting = one.connect(), one.connect()
    job = waiting.submit("sleep 2")
    waiting.send(f"WAIT {job}\r\n".encode())
    assert idle.rest() == b""
    assert waiting.line().startswith("STATUS COMPLETED")


def test_there_are_so_many_connections_and_the_next_one_waits_for_a_place(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "connections=3")
    first, *_ = [one.connect() for _ in range(3)]
    until(lambda: first.stats()["connections"] == 3, "all to be in")
    late = one.connect()
    late.send(b"PING\r\n")
    assert first.ask("PING") == "OK"
    first.close()
    assert late.line() == "OK"


def test_jobs_that_wait_have_a_limit(daemon: DaemonFactory) -> None:
    wire = daemon("--limit", "pending=10").connect()
    wire.send(b"SUBMIT --hold true\r\n" * 12)
    words = [wire.line().split()[:2] for _ in range(12)]
    assert [word for word, _ in words] == ["JOB_ID"] * 10 + ["ERROR"] * 2
    assert words[-1] == ["ERROR", "QUEUE_FULL"]


def test_a_line_and_a_command_have_their_sizes(daemon: DaemonFactory) -> None:
    one = daemon("--limit", "line=1k", "--limit", "command=100")
    wire = one.connect()
    assert wire.ask("SUBMIT " + "x" * 101).startswith(
        "ERROR TOO_LARGE the command has 101 bytes, and may have 100"
    )
    assert wire.ask("SUBMIT " + "x" * 1024).startswith(
        "ERROR LINE_TOO_LONG a request line has at most 1024 bytes"
    )
    assert wire.rest() == b""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Poor(Daemon):
    """A daemon that may open few files."""

    def start(self) -> "Poor":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            super().start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return self


def test_a_flood_of_connections_neither_spins_nor_kills_a_daemon_with_few_descriptors(tmp_path: Path) -> None:
    one = Poor(tmp_path).start()
    flood: list[socket.socket] = []

    def is_full() -> bool:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        flood.append(connection)
        connection.connect_ex(str(one.socket))  # the kernel's queue may be full for a moment
        return "are all that there may be" in one.log

    try:
        until(is_full, "the daemon to be full")
        before = cpu_seconds(one._pid)
        time.sleep(1.0)  # so long it is looked whether it spins
        assert cpu_seconds(one._pid) - before < 0.3
        for connection in flood:
            connection.close()
        wire = one.connect()
        assert wire.wait(wire.submit("true")) == "COMPLETED"
        told = [line for line in one.log.splitlines() if " connections" in line]
        assert len(told) == 2, told
    finally:
        for connection in flood:
            connection.close()
        assert one.close() == []
