"""Measures the daemon's CPU time per SUBMIT on TCP and TLS, beside that on its UNIX socket.

One client sends one request at a time. CPU time is that of all threads of the daemon, from /proc, so the
figures do not depend on the client, and hardly on other load. The queue is paused.
"""

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import daemon
from bench.bench import Bench
from bench.daemon import BODY, Daemon
from bench.place import Missing, cpu_seconds, environment, free_port
from bench.results import Goal, Measured, Row

REQUESTS = 2000
GOALS = {"TCP": Goal(1.1, is_most=True), "TLS": Goal(1.5, is_most=True)}
TASKQ = str(Path(sys.executable).with_name("taskq"))
NAME = "localhost"


def measure(bench: Bench) -> Measured:
    """Measure the three transports in turns, with a new connection each time."""
    took: dict[str, list[float]] = {kind: [] for kind in ("UNIX", *GOALS)}
    home = bench.home("ours")
    certificate, key = _certificate(home)
    ports = {kind: free_port() for kind in GOALS}
    listen = (
        f"--listen=tcp:{ports['TCP']}:interface=127.0.0.1",
        f"--listen=tls:{ports['TLS']}:interface=127.0.0.1:key={key}:cert={certificate}",
    )
    with daemon.running(home, bench.programs, more=listen) as server:
        server.ask("PAUSE")
        token = token_of(server)
        for _ in bench.turns():
            for kind, values in took.items():
                with _connected(kind, server, ports.get(kind, 0), certificate) as connection:
                    ask = _asker(connection)
                    if kind != "UNIX":
                        ask(f"AUTH {token}\r\n".encode())
                    values.append(1e6 * _cpu_per_submit(server, ask, bench.many(REQUESTS, 20)))
    return Measured(
        [
            Row(
                f"daemon's CPU per SUBMIT on {kind}, one client, one at a time",
                "on the UNIX socket",
                "µs",
                took[kind],
                took["UNIX"],
                goal,
            )
            for kind, goal in GOALS.items()
        ]
    )


def _cpu_per_submit(server: Daemon, ask: Callable[[bytes], None], requests: int) -> float:
    request = f"SUBMIT {BODY}\r\n".encode()
    for _ in range(requests // 10):
        ask(request)
    before = cpu_seconds(server.pid)
    for _ in range(requests):
        ask(request)
    return (cpu_seconds(server.pid) - before) / requests


def _asker(connection: socket.socket) -> Callable[[bytes], None]:
    """Return a function that sends a request and waits for its reply of one line."""

    def ask(request: bytes) -> None:
        connection.sendall(request)
        reply = b""
        while not reply.endswith(b"\n"):
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError("the daemon has closed the connection")
            reply += piece
        if reply.startswith(b"ERROR"):
            raise ConnectionError(f"refused: {reply.decode()}")

    return ask


@contextmanager
def _connected(kind: str, server: Daemon, port: int, certificate: Path) -> Iterator[socket.socket]:
    if kind == "UNIX":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.socket))
            yield connection
        return
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "TCP":
            yield plain
            return
        with ssl.create_default_context(cafile=certificate).wrap_socket(plain, server_hostname=NAME) as tls:
            yield tls


def _certificate(home: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate and its key."""
    certificate, key = home / "cert.pem", home / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME}"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        raise Missing("openssl (Debian), to make a certificate") from None
    key.chmod(0o600)
    return certificate, key


def token_of(server: Daemon) -> str:
    """Add a token with the role admin, and return it."""
    command = [TASKQ, "token", "add", "bench", "--role", "admin", "--state", str(server.home / "state")]
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]
