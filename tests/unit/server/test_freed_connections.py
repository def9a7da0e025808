"""A connection is freed when it has ended, though the garbage collector does not look at it any more."""

import gc
import socket
import ssl
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from taskqd.errors import AuthRequired
from taskqd.server import endpoints
from taskqd.speedups.reactor import AcceleratedReactor
from tests.fakes.client import Client
from tests.fakes.connections import FakeSocket
from tests.fakes.engine import Harness
from tests.support.certificates import Authority


def freeze_survivors() -> None:
    """Do what GarbageCollection does after a collection."""
    gc.collect()
    gc.freeze()


def lose(client: Client) -> None:
    client.transport.lose()


def close_half(client: Client) -> None:
    client.half_close()
    client.read()


def be_rejected(client: Client) -> None:
    client.connection.close_with_error(AuthRequired("no"))
    client.read()


@pytest.mark.parametrize("end", [lose, close_half, be_rejected])
@pytest.mark.parametrize(
    "requests",
    [
        b"",
        b"PING\n",
        b"SUBMIT true\nLIST\nSTATUS 1\n",
        b"WAIT 1\nPING\n",
        b"WATCH\n",
        b"FOLLOW 1\n",
        b"SUBMIT --script=100\nabc",
        b"PING\n" * 2000,
        b"SUBMIT true\n" * 3000,
        b"\xff\xfd\x06PI",
        b"FROB\n" + b"x" * 70_000,
        b"GET / HTTP/1.1\n\n",
    ],
)
def test_ended_connection_is_freed(requests: bytes, end: Callable[[Client], None]) -> None:
    harness = Harness()
    harness.engine.start()
    Client(harness).send(b"SUBMIT --hold true\n")
    harness.settle()
    client = Client(harness)
    connection = weakref.ref(client.connection)
    freeze_survivors()
    client.send(requests)
    harness.settle()
    if not client.transport.is_closed:
        freeze_survivors()
        end(client)
    if not client.transport.is_closed:
        client.transport.lose()
    harness.settle()
    del client
    gc.collect()
    assert connection() is None


def test_connection_without_authentication_is_freed_when_its_time_is_over() -> None:
    harness = Harness()
    harness.authenticator.slow = []
    client = Client(harness, FakeSocket(socket.AF_INET))
    connection = weakref.ref(client.connection)
    client.send(b"AUTH sesame\nPING\n")
    freeze_survivors()
    harness.clock.advance(harness.factory._connection_limits.limits.auth_time or 0)
    client.read()
    assert client.transport.is_closed
    del client
    gc.collect()
    assert connection() is None


class RecordingFactory(Factory):
    """Makes connections by another factory; ``ended`` fires when the first one ends, which may be freed."""

    noisy = False

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self.ended: Deferred[weakref.ref[Any]] = Deferred()
        self.transports: list[weakref.ref[Any]] = []

    def buildProtocol(self, addr: Any) -> Any:
        made: Any = self._factory.buildProtocol(addr)
        on_lost, made._on_lost = made._on_lost, self._on_lost
        self._on_lost_there = on_lost
        return made

    def _on_lost(self, connection: Any, reason: Failure) -> None:
        self._on_lost_there(connection, reason)
        self.transports.append(weakref.ref(connection.transport))
        self.ended.callback(weakref.ref(connection))


def talk(address: Any, context: ssl.SSLContext | None) -> None:
    """Ask for something, and close."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as raw:
        raw.settimeout(10)
        raw.connect(address)
        wire = raw if context is None else context.wrap_socket(raw, server_hostname="localhost")
        with wire:
            wire.sendall(b"AUTH sesame\nPING\n")
            assert wire.recv(100).startswith(b"OK")
            freeze_survivors()


@pytest.mark.parametrize("is_accelerated", [True, False])
@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_connection_of_each_kind_of_socket_is_freed(
    kind: str, is_accelerated: bool, tmp_path: Path, reactor: Any
) -> None:
    path, authority = f"{tmp_path}/socket", Authority(tmp_path)
    pair = authority.issue("localhost", "localhost")
    endpoint = {
        "unix": f"unix:{path}",
        "tcp": "tcp:0:interface=127.0.0.1",
        "tls": f"tls:0:interface=127.0.0.1:key={pair.key}:cert={pair.cert}",
    }[kind]
    context = ssl.create_default_context(cafile=authority.cert) if kind == "tls" else None
    factory = RecordingFactory(Harness().factory)
    listening: Any = AcceleratedReactor(reactor) if is_accelerated else reactor
    port: Any = await endpoints.listen(listening, endpoint, factory)
    address = path if kind == "unix" else ("127.0.0.1", port.getHost().port)
    await deferToThread(talk, address, context)
    connection = await factory.ended
    await port.stopListening()
    await deferLater(reactor, 0)
    gc.collect()
    assert connection() is None
    assert factory.transports[0]() is None
