"""Slow, vanished, greedy and invalid clients: they do not delay others, and leave nothing behind."""

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, quote, until
from tests.fuzz.fuzzed_daemon import FuzzedDaemon
from tests.fuzz.player import RESET, connected

MAX_MEDIAN = 0.25
"""Seconds of the median reply to another client: far above the usual, far below that of a blocked daemon.

bin/fuzz and bench/crowd.py demand 5 ms; here other tests run at the same time.
"""

TICKS = os.sysconf("SC_CLK_TCK")

NO_SUCH_JOB, BAD_REQUEST = "ERROR NO_SUCH_JOB ", "ERROR BAD_REQUEST "
HUGE = "9" * 400

NUMBERS = [
    (f"STATUS {HUGE}", NO_SUCH_JOB),
    (f"STATUS {2**64}", NO_SUCH_JOB),
    (f"STATUS 1.{HUGE}", NO_SUCH_JOB),
    (f"STATUS {HUGE}.1", NO_SUCH_JOB),
    (f"SHOW {'9' * 65_000}", NO_SUCH_JOB),
    (f"STATUS -{HUGE}", BAD_REQUEST),
    ("STATUS 1e9", BAD_REQUEST),
    ("STATUS ١", BAD_REQUEST),  # noqa: RUF001 - a digit, but not of ASCII
    ("STATUS ²", BAD_REQUEST),
    (f"WAIT {' '.join(['1'] * 2000)}", BAD_REQUEST),
    (f"WATCH --since={HUGE}", BAD_REQUEST),
    (f"LIST --limit={HUGE}", BAD_REQUEST),
    (f"LIST --from={HUGE}", BAD_REQUEST),
    (f"OUTPUT 1 stdout --offset={HUGE}", BAD_REQUEST),
    (f"FOLLOW 1 --stdout={HUGE}", BAD_REQUEST),
    (f"UNSCHEDULE {HUGE}", BAD_REQUEST),
    (f"SET-QUEUE q --slots={HUGE}", BAD_REQUEST),
    (f"SCHEDULE --every={HUGE} true", BAD_REQUEST),
    (f'SCHEDULE --cron="{HUGE} * * * *" true', BAD_REQUEST),
    *(
        (f"SUBMIT --{option}={value} true", BAD_REQUEST)
        for value in (HUGE, f"-{HUGE}", "1e400", "nan", "inf", f"1.{'0' * 300}1")
        for option in (
            "priority",
            "timeout",
            "delay",
            "retries",
            "nice",
            "memory",
            "slots",
            "umask",
            "max-output",
        )
    ),
    *(
        (f"SUBMIT --array={array} true", BAD_REQUEST)
        for array in (f"0-{HUGE}", f"{HUGE}-{HUGE}", "0-999999999")
    ),
    (f"SUBMIT --need=gpu:{HUGE} true", BAD_REQUEST),
    (f"SUBMIT --after={HUGE} true", NO_SUCH_JOB),
    (f"SUBMIT --at={HUGE}-01-01T00:00:00Z true", BAD_REQUEST),
]

ODD_LINES = [
    b"PING\x01",
    b"\x1b[2JPING",
    b"\x7fPING",
    b"PING\x0b",
    b"STATUS \x07\x08",
    b"SUBMIT --queue=\x1b[31m true",
    b"SUBMIT --\x00=1 true",
    b"SUBMIT --label=\x9b31m true",
    "SUBMIT --key=\u202eabc true".encode(),
    "ſTATUS 1".encode(),  # noqa: RUF001 - str.upper would make STATUS of it
    "PıNG".encode(),  # noqa: RUF001
    "\ufeffPING".encode(),
    b"PING\xff",
    b"P\xffING",
    b"--",
    b"-- PING",
    b"--x=1",
    b'"PING"',
    b"(" * 60_000,
    b'SUBMIT --label="' + b"\\x41" * 10_000 + b'" true',
    b"LIST " + b"--reverse " * 6000,
    b"SUBMIT " + b"--hold " * 9000 + b"true",
    b"SET 1 " + b"--" * 30_000,
]
"""Lines that are refused."""

INVALID_DIRECTORIES = [
    ("relative", "begins with /"),
    ("./tmp", "begins with /"),
    ("~", "begins with /"),
    ("$HOME", "begins with /"),
    ("file:///tmp", "begins with /"),
    ('"/tmp\\x00/x"', "NUL"),
    ("", "begins with /"),
]

MISSING_DIRECTORIES = [
    "/nonexistent",
    "/etc/passwd",
    "/dev/null",
    "/dev/stdin",
    "/dev/fd/3",
    "/proc/self/fd/0",
    '"/$(touch ran)"',
    '"/`touch ran`"',
    '"/tmp/\\n"',
    "/" + "a" * 300,
    "/" * 5000 + "x",
    "/a" * 20_000,
    '"/tmp/ "',
]

VALID_DIRECTORIES = [
    ("//tmp", "/tmp"),
    ("/tmp/../tmp/.", "/tmp"),
    ("/../../../tmp", "/tmp"),
    ("/proc/self/root/tmp", "/tmp"),
]


@contextmanager
def responsive(daemon: Daemon) -> Iterator[None]:
    """Check that another client, which sends one request after the other meanwhile, is not delayed."""
    times: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        wire = daemon.connect()
        while not is_over.is_set() or len(times) < 20:
            for request in ("PING", "STATS"):
                began = time.perf_counter()
                assert wire.ask(request).startswith(("OK", "STATS"))
                times.append(time.perf_counter() - began)
            time.sleep(0.002)
        wire.close()

    other = threading.Thread(target=ask)
    other.start()
    try:
        yield
    finally:
        is_over.set()
        other.join()
    assert len(times) >= 20
    assert statistics.median(times) < MAX_MEDIAN


@pytest.fixture
def busy(running: Daemon, wire: Wire) -> Iterator[int]:
    """Return a job that runs during the test."""
    job = wire.submit("sleep 300")
    wire.wait_running(job)
    yield job
    wire.cancel(job)


def connections(wire: Wire) -> int:
    return int(wire.stats()["connections"])


# Slow clients.


def test_client_that_sends_single_bytes_is_answered_and_delays_no_other(running: Daemon) -> None:
    clients = [running.connect() for _ in range(20)] + [running.connect_tcp() for _ in range(20)]
    with responsive(running):
        for byte in b"SUBMIT --stdin=3 cat\r\nabc\r\n":
            for client in clients:
                client.send(bytes([byte]))
            time.sleep(0.005)
        jobs = [int(client.line().removeprefix("JOB_ID ")) for client in clients]
    for client, job in zip(clients, jobs, strict=True):
        assert client.wait(job) == "COMPLETED"
        assert client.result(job).stdout == b"abc"


def test_client_that_ends_no_line_or_block_takes_only_the_memory_of_its_bytes(running: Daemon) -> None:
    clients = [running.connect() for _ in range(100)]
    before = running.memory()["VmRSS"]
    with responsive(running):
        for client in clients:
            client.send(b"SUBMIT --stdin=1000000 cat\r\n")
            client.send(b"x" * 60_000)
        for client in clients:
            client.send(b"y" * 60_000)
    assert running.memory()["VmRSS"] - before < 100 * 3 * 120_000
    for client in clients:
        client.close()


def test_client_that_does_not_read_takes_no_memory_and_delays_no_other(
    daemon: DaemonFactory,
) -> None:
    one = daemon()
    wire = one.connect()
    wire.ask("PAUSE")
    wire.send(b"SUBMIT true\r\n" * 500)
    wire.lines(500)
    before, here = one.memory()["VmRSS"], connections(wire)
    clients = [one.connect() for _ in range(20)]
    with responsive(one):
        for client in clients:
            client.send(b"LIST --limit=500\r\n" * 500)  # 150 MB of replies each
        assert len(wire.list("--limit=500")) == 500
    assert one.memory()["VmRSS"] - before < 48 << 20
    reader = clients.pop()
    for _ in range(3):  # one that reads on gets complete replies in order
        assert [json.loads(line[4:])["id"] for line in reader.lines(500)] == list(range(1, 501))
        assert reader.line() == "END 500"
    for client in (*clients, reader):
        client.close()
    until(lambda: connections(wire) <= here, "the connections to end")


# Vanished clients.


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(b"WAIT %d\r\n", id="while they wait"),
        pytest.param(b"FOLLOW %d\r\n", id="while they follow"),
        pytest.param(b"WATCH\r\n", id="while they watch"),
        pytest.param(b"WAIT %d\r\n" + b"PING\r\n" * 5000, id="with a full queue"),
        pytest.param(b"SUBMIT --stdin=1000 cat\r\nabc", id="within a block"),
        pytest.param(b"WAIT %d\r\nPIN", id="within a line"),
        pytest.param(b"LIST --limit=1000\r\n" * 5000, id="with replies unread"),
    ],
)
def test_vanished_client_leaves_nothing(running: Daemon, busy: int, wire: Wire, last: bytes) -> None:
    before = connections(wire)
    for _ in range(3):
        client = running.connect()
        client.send(last % busy if b"%d" in last else last)
        wire.ask("PING")
        client.close()
    until(lambda: connections(wire) <= before, "the connections to end", deadline=30)
    assert wire.status(busy) == "RUNNING"


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_reset_connection_leaves_nothing(tmp_path: Path, transport: str) -> None:
    if transport == "tls":
        pytest.importorskip("OpenSSL")
    one = FuzzedDaemon(tmp_path, {transport})
    try:
        place = one.set_up()
        wire = one.connect()
        before = connections(wire)
        for _ in range(3):
            client = connected(place, transport)
            client.sendall(b"AUTH %b\r\n" % place.tokens["admin"].encode())
            assert client.recv(100).startswith(b"OK ")
            # Enough to stop the daemon from reading, so that no read reports that the client has gone.
            client.sendall(b"WAIT %d\r\n" % one.kept[-1] + b"PING\r\n" * 5000)
            for _ in range(50):  # in 50 turns of the reactor the daemon has read what it will read
                wire.ask("PING")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        until(lambda: connections(wire) <= before, "the connections to end", deadline=30)
    finally:
        assert one.close() == []


def test_silent_tcp_peer_is_probed_within_a_minute(running: Daemon, busy: int) -> None:
    client = running.connect_tcp()
    client.send(b"WAIT %d\r\n" % busy)
    client.half_close()  # to the daemon, this looks like the end of a client

    def is_probed() -> bool:
        # The daemon's socket: its state is CLOSE-WAIT, and its timer is that of keep-alive (proc(5)).
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = [row for row in rows if row[1].endswith(f":{running.port:04X}") and row[3] == "08"]
        timers = [row[5].split(":") for row in ours]
        return bool(ours) and all(kind == "02" and int(when, 16) <= 60 * TICKS for kind, when in timers)

    until(is_probed, "the daemon to probe its silent peer", deadline=10)
    client.close()


# Greedy clients.


def test_flood_from_one_client_does_not_delay_another(running: Daemon) -> None:
    flood = b"PING\r\nSTATUS 1\r\nHELP\r\nFROB\r\nLIST --limit=2\r\n" * 2000
    client = running.connect()
    sender = threading.Thread(target=lambda: client.send(flood + b"QUIT\r\n"))
    with responsive(running):
        sender.start()
        replies = client.rest()
        sender.join()
    assert replies.count(b"ERROR UNKNOWN_COMMAND ") == 2000
    assert replies.endswith(b"\r\nOK\r\n")


def test_one_key_in_many_pipelined_submissions_is_one_job(wire: Wire) -> None:
    wire.send(b"SUBMIT --key=again true\r\n" * 2000)
    assert len(set(wire.lines(2000))) == 1


def test_long_chain_of_dependencies_fails_together(daemon: DaemonFactory) -> None:
    wire = daemon().connect()
    wire.ask("PAUSE")
    length = 2000
    wire.submit("true")
    for job in range(1, length):
        wire.submit(f"--after={job} true")
    assert wire.ask("CANCEL 1") == "STATUS CANCELLED 0"
    assert wire.wait(length) == "FAILED"
    assert wire.show(length)["reason"] == "dependency"


# Invalid requests.


@pytest.mark.parametrize("line, refusal", NUMBERS, ids=lambda text: text[:40])
def test_huge_number_is_refused_and_the_session_continues(wire: Wire, line: str, refusal: str) -> None:
    assert wire.ask(line).startswith(refusal)
    assert wire.ask("PING") == "OK"


@pytest.mark.parametrize("line", ODD_LINES, ids=lambda line: ascii(line[:30]))
def test_odd_line_is_refused_in_printable_text_and_the_session_continues(wire: Wire, line: bytes) -> None:
    wire.send(line + b"\r\nPING\r\n")
    refusal = wire.line()
    assert refusal.startswith(("ERROR BAD_REQUEST ", "ERROR UNKNOWN_COMMAND "))
    assert refusal.isprintable()
    assert len(refusal) < 1000
    assert wire.line() == "OK"


def test_thousand_telnet_sequences_are_answered_without_taking_memory(running: Daemon, wire: Wire) -> None:
    before = running.memory()["VmRSS"]
    wire.send(b"\xff\xfd\x01\xff\xf4" * 1000 + b"\xff\xfa" + b"x" * 5000 + b"\r\nPING\r\n")
    assert wire.read(3000) == b"\xff\xfc\x01" * 1000
    assert wire.line().startswith(
        "ERROR UNKNOWN_COMMAND "
    )  # the rest behind a subnegotiation of the maximum length
    assert wire.line() == "OK"
    assert running.memory()["VmRSS"] - before < 4 << 20


# The directory of a job.


@pytest.mark.parametrize("place, why", INVALID_DIRECTORIES)
def test_directory_that_is_not_an_absolute_path_is_refused(wire: Wire, place: str, why: str) -> None:
    refusal = wire.ask(f"SUBMIT --cwd={place} true")
    assert refusal.startswith("ERROR BAD_REQUEST ")
    assert why in refusal


@pytest.mark.parametrize("place", MISSING_DIRECTORIES, ids=lambda place: place[:30])
def test_missing_directory_fails_only_its_job(wire: Wire, running: Daemon, place: str) -> None:
    job = wire.submit(f"--cwd={place} true")
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["exit_code"]) == ("spawn", None)
    assert "could not be started" in shown["detail"]
    assert not (running.place / "ran").exists()


@pytest.mark.parametrize("place, where", VALID_DIRECTORIES)
def test_any_path_to_a_directory_is_accepted(wire: Wire, place: str, where: str) -> None:
    assert wire.run(f"--cwd={place} pwd -P").stdout == f"{where}\n".encode()


def test_directory_that_was_removed_fails_only_its_job(wire: Wire, tmp_path: Path) -> None:
    place = tmp_path / "a b\n'\"$(x)"
    place.mkdir()
    option = f"--cwd={quote(str(place).encode())}"
    assert wire.run(f"{option} pwd").stdout == f"{place}\n".encode()
    place.rmdir()
    job = wire.submit(f"{option} pwd")
    assert wire.wait(job) == "FAILED"


# Variables of loaders and shells.


def test_variables_that_loaders_and_shells_obey_affect_only_the_job(wire: Wire, running: Daemon) -> None:
    nowhere = running.place / "nowhere.so"
    names = ("LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PYTHONPATH")
    options = " ".join(f"--env={name}={nowhere}" for name in names)
    for more in ("", "--nice=5", "--nofile=100", "--umask=077"):  # each starts the shell by another program
        result = wire.run(f'{options} {more} echo "$LD_PRELOAD"')
        assert result.stdout == f"{nowhere}\n".encode()
        assert result.exit_code == "0"
    for name in ("TASKQ_JOB_ID", "TASKQ_TOKEN"):
        assert wire.ask(f"SUBMIT --env={name}=1 true").startswith("ERROR BAD_REQUEST ")
