"""Errors of a connection, and hints about TLS."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.client import (
    Client,
    Refused,
    Unreachable,
)
from tests.fakes.daemon import FakeDaemon, Request
from tests.unit.client.samples import Serve


def test_client_without_daemon_is_unreachable_and_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=f"cannot reach the daemon at unix:{tmp_path}/none: No such file"):
        Client(f"unix:{tmp_path}/none")


def test_lost_connection_is_unreachable_and_states_that_the_outcome_is_unknown(serve: Serve) -> None:
    client, _ = serve(None)
    with pytest.raises(Unreachable, match="may or may not have been carried out"):
        client.submit("a")


def test_closed_client_is_unreachable(serve: Serve) -> None:
    client, _ = serve()
    client.close()
    with pytest.raises(Unreachable, match="the client is closed"):
        client.ping()


def test_server_that_is_no_daemon_is_unreachable(serve: Serve) -> None:
    client, _ = serve(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(Unreachable, match="is not a taskqd daemon: it sent 'HTTP/1"):
        client.ping()


def test_refusal_sent_before_the_end_of_a_block_is_read(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()

    def refuse_and_close() -> None:
        connection = listener.accept()[0]
        connection.recv(10)
        connection.sendall(b"ERROR TOO_LARGE 67108865 bytes\r\n")
        connection.close()

    thread = threading.Thread(target=refuse_and_close)
    thread.start()
    with listener, Client(f"unix:{tmp_path}/socket") as client:
        with pytest.raises(Refused, match="TOO_LARGE"):
            client.submit("wc", stdin=bytes(20_000_000))
        thread.join()


def test_connection_closed_without_reply_hints_at_tls() -> None:
    hint = r"\(if the daemon requires TLS, its address begins with tls:\)"
    with (
        FakeDaemon(lambda _: None) as daemon,
        Client(daemon.address) as client,
        pytest.raises(Unreachable, match=hint),
    ):
        client.ping()


def test_connection_closed_after_a_reply_does_not_hint_at_tls() -> None:
    table = {"PING": b"OK\r\n"}
    with (
        FakeDaemon(lambda it: table.get(it.line)) as daemon,
        Client(daemon.address, reconnect=0) as client,
    ):
        client.ping()
        with pytest.raises(Unreachable) as lost:
            client.stats()
    assert "tls:" not in str(lost.value)


@pytest.mark.parametrize("end", [b"F", b"\n", b"\n and more"])
def test_tls_alert_is_recognized_instead_of_a_reply(end: bytes) -> None:
    def alert(_: Request) -> Iterator[bytes]:
        yield b"\x15\x03\x03\0\x02\x02" + end
        raise ConnectionAbortedError  # closes the connection

    with FakeDaemon(alert) as daemon, Client(daemon.address) as client:
        text = f"the daemon at {daemon.address} requires TLS; its address begins with tls:"
        with pytest.raises(Unreachable, match=text):
            client.ping()


def test_too_long_socket_path_is_unreachable_and_names_the_limit() -> None:
    path = "/" + "\u00e9" * 60
    with pytest.raises(Unreachable, match=r"its path has 121 bytes, the limit .* is 107"):
        Client(f"unix:{path}")
