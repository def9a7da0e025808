"""Limits of connections: how many, idle ones, revoked tokens; and the memory of requests."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import AuthFailed, QueueFull, TaskqError
from taskqd.model.roles import Role
from taskqd.server.connection_limits import CHECK_INTERVAL, CHECKS_PER_IDLE_TIME, ConnectionLimits
from taskqd.server.connection_state import ConnectionState
from taskqd.server.handlers.event_stream import FLUSH_INTERVAL
from taskqd.server.pipeline import MIN_BUFFER_SIZE
from taskqd.server.request_memory import MAX_BLOCK_SHARE, MAX_REQUEST_SHARE
from taskqd.server.transport_closer import CLOSE_TIMEOUT, UNIDENTIFIED_CLOSE_TIMEOUT
from tests.fakes.client import Client
from tests.fakes.connections import FakePort, FakeSocket
from tests.fakes.engine import Harness, watchers
from tests.support.leaks import LeakWatch

ANN = Principal("ann", Role.SUBMIT)
BOB = Principal("bob", Role.SUBMIT)
ROOT = Principal("root", Role.ADMIN)


def limited_harness(max_connections: int = 1000, **limits: Any) -> Harness:
    harness = Harness(limits=Limits(**limits), max_connections=max_connections)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    return harness


def tcp_client(harness: Harness, host: str = "192.0.2.1") -> Client:
    return Client(harness, FakeSocket(socket.AF_INET, host=host))


def unix_client(harness: Harness) -> Client:
    return Client(harness, FakeSocket(uid=4_000_001))


def revoke(harness: Harness, token: str) -> None:
    """Revoke a token, of which the authenticator notifies its observer."""
    harness.authenticator.revoked.add(token)
    harness.connection_limits.close_expired()


def received(client: Client) -> str:
    client.read()
    return client.transport.received.decode()


def test_connection_that_does_not_authenticate_is_closed_after_the_timeout() -> None:
    harness = limited_harness(auth_time=10.0)
    silent, known, local = tcp_client(harness), tcp_client(harness), unix_client(harness)
    known.send(b"AUTH sesame\n")
    harness.clock.advance(10.0)
    assert "ERROR AUTH_REQUIRED not authenticated within 10 s; send AUTH first" in received(silent)
    assert silent.transport.is_closed
    assert not known.transport.is_closed
    assert not local.transport.is_closed


def test_failed_auth_does_not_extend_the_timeout() -> None:
    harness = limited_harness(auth_time=10.0)
    client = tcp_client(harness)
    client.send(b"AUTH wrong\nPING\n")
    harness.clock.advance(10.0)
    assert "AUTH_FAILED" in received(client)
    assert client.transport.is_closed


def test_oldest_unidentified_connection_is_closed_if_there_are_too_many() -> None:
    harness = limited_harness(connections_before_auth=2)
    first, second = tcp_client(harness), tcp_client(harness)
    unix_client(harness)
    assert not first.transport.is_closed
    third = tcp_client(harness)
    assert "ERROR AUTH_REQUIRED more than 2 connections are not authenticated; send AUTH first" in received(
        first
    )
    assert [client.transport.is_closed for client in (first, second, third)] == [True, False, False]
    second.send(b"AUTH sesame\n")
    tcp_client(harness)
    assert not third.transport.is_closed


def test_oldest_unidentified_connection_of_an_address_is_closed_if_it_has_too_many() -> None:
    harness = limited_harness(connections_before_auth_per_address=2)
    other = tcp_client(harness, host="192.0.2.2")
    first, second, third = (tcp_client(harness) for _ in range(3))
    assert (
        "ERROR AUTH_REQUIRED more than 2 connections of 192.0.2.1 are not authenticated; send AUTH first"
        in received(first)
    )
    assert [client.transport.is_closed for client in (other, first, second, third)] == [
        False,
        True,
        False,
        False,
    ]


def test_connections_of_one_user_are_limited_those_of_admins_are_not() -> None:
    harness = limited_harness(connections_per_user=2)
    clients = [unix_client(harness) for _ in range(3)]
    assert [client.transport.is_closed or bool(client.transport.received) for client in clients] == [
        False,
        False,
        True,
    ]
    assert (
        "ERROR QUEUE_FULL 4000001 has 2 connections, the limit for one user; close one of them"
        in received(clients[2])
    )
    clients[0].transport.lose()
    assert not unix_client(harness).transport.received
    assert not any(Client(harness).transport.received for _ in range(5))


def test_auth_that_exceeds_the_limit_of_its_user_is_refused() -> None:
    harness = limited_harness(connections_per_user=1)
    harness.authenticator.tokens["t"] = Principal("ann", Role.SUBMIT, token="1")
    first, second = tcp_client(harness), tcp_client(harness)
    first.send(b"AUTH t\nPING\n")
    second.send(b"AUTH t\nSTATS\n")
    assert received(first) == "OK ann submit\r\nOK\r\n"
    assert received(second).startswith("ERROR QUEUE_FULL ann has 1 connections")
    assert "ERROR AUTH_REQUIRED STATS" in received(second)


def test_ports_stop_accepting_at_the_limit_until_a_connection_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = limited_harness(max_connections=2)
    clients = [Client(harness), Client(harness)]
    assert not harness.ports[0].is_listening
    assert harness.factory.buildProtocol(None) is None
    clients[0].transport.lose()
    assert harness.ports[0].is_listening
    Client(harness)
    assert not harness.ports[0].is_listening
    assert [message for message in caplog.messages if "connections" in message] == [
        "2 connections are open, which is the limit; new clients wait until one is closed"
    ]


def test_ports_stop_and_resume_accepting_when_the_limit_changes() -> None:
    harness = limited_harness(max_connections=3)
    tcp_client(harness)
    tcp_client(harness)
    for limit, is_accepting in ((1, False), (2, False), (3, True), (2, False)):
        harness.connection_limits.set_max_connections(limit)
        assert harness.ports[0].is_listening is is_accepting


def test_all_ports_stop_and_resume_accepting_together() -> None:
    harness = limited_harness(max_connections=1)
    harness.ports += [FakePort(), FakePort()]
    client = tcp_client(harness)
    assert [port.is_listening for port in harness.ports] == [False] * 3
    client.transport.lose()
    assert [port.is_listening for port in harness.ports] == [True] * 3


def test_rejected_unidentified_client_that_does_not_read_is_aborted_soon() -> None:
    harness = limited_harness(connections_before_auth=1, replies=4096)
    noisy, done = tcp_client(harness), tcp_client(harness)
    noisy.send(b"HELP SUBMIT\n" * 100)
    done.send(b"QUIT\n")
    third = tcp_client(harness)
    harness.clock.advance(UNIDENTIFIED_CLOSE_TIMEOUT)
    assert [client.transport.is_closed for client in (noisy, done, third)] == [True, True, False]
    assert harness.connection_limits.connections == {third.connection}


def test_rejected_identified_client_has_time_to_read_the_error() -> None:
    harness = limited_harness()
    harness.authenticator.tokens["t"] = ANN._replace(token="1")
    client = tcp_client(harness)
    client.send(b"AUTH t\n")
    harness.authenticator.revoked.add("1")
    harness.connection_limits.close_expired()
    harness.clock.advance(CLOSE_TIMEOUT - 0.1)
    assert not client.transport.is_closed
    harness.clock.advance(0.1)
    assert client.transport.is_aborted


def test_idle_connection_is_closed_without_an_error() -> None:
    harness = limited_harness(idle_time=60.0)
    client = Client(harness)
    for _ in range(2):
        client.send(b"PING\n")
        client.read()
        harness.clock.pump([CHECK_INTERVAL] * 55)
        assert not client.transport.is_closed
    harness.clock.pump([CHECK_INTERVAL] * 10)
    assert received(client) == "OK\r\nOK\r\n"
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"WAIT 1\n", b"FOLLOW 1\n", b"WATCH\n"])
def test_connection_with_a_request_in_progress_is_not_idle(line: bytes) -> None:
    harness = limited_harness(idle_time=60.0)
    harness.submit()
    client = Client(harness)
    client.send(line)
    harness.clock.pump([CHECK_INTERVAL] * 100)
    assert not client.transport.is_closed


@pytest.mark.parametrize("line", [b"HELP SUBMIT\n" * 100, b"LIST\n", b"FOLLOW 1\n"])
def test_connection_that_does_not_read_its_replies_is_idle(line: bytes) -> None:
    harness = limited_harness(idle_time=60.0, replies=4096)
    harness.engine.start()
    for _ in range(60):
        harness.submit()
    harness.spool.writers[1].write(1, b"." * 100_000)
    client = Client(harness)
    client.send(line)
    harness.clock.pump([CHECK_INTERVAL] * 65)
    harness.clock.advance(CLOSE_TIMEOUT)
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"", b"WATCH\n", b"WAIT 1\n", b"FOLLOW 1\n", b"SUBMIT --stdin=5 cat\nab"])
def test_connection_with_a_revoked_token_is_closed_whatever_it_does(line: bytes) -> None:
    harness = limited_harness()
    harness.submit()
    harness.authenticator.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client, other = tcp_client(harness), tcp_client(harness)
    client.send(b"AUTH t\n" + line)
    other.send(b"AUTH sesame\n")
    revoke(harness, "1")
    assert (watchers(harness.event_stream), bool(harness.engine.waiter_count)) == (0, False)
    harness.submit()
    harness.finish(1)
    harness.clock.advance(CHECK_INTERVAL)
    assert received(client).endswith(
        "ERROR AUTH_REQUIRED the token of ann was revoked or changed, or has expired; AUTH with another\r\n"
    ), "nothing follows the error"
    assert received(client).count("was revoked or changed") == 1
    assert client.transport.is_closed
    assert not other.transport.is_closed
    assert harness.connection_limits.memory.total == 0


def test_revoked_token_is_refused_before_the_next_check() -> None:
    harness = limited_harness()
    harness.authenticator.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client = tcp_client(harness)
    client.send(b"AUTH t\nPING\n")
    harness.authenticator.revoked.add("1")
    client.send(b"STATS\nSUBMIT true\nSUBMIT --stdin=2 cat\nhi\r\nPING\n")
    lines = received(client).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["ERROR", "AUTH_REQUIRED"]] * 3
    assert lines[5] == "OK"


def test_memory_of_blocks_is_limited_and_released() -> None:
    harness = limited_harness(block_memory=1000, block=1000)
    slow, other = Client(harness), Client(harness)
    slow.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 100)
    other.send(b"SUBMIT --stdin=200 cat\n")
    assert received(other).startswith(
        "ERROR QUEUE_FULL requests in progress take 900 of 1000 bytes, yours 900"
    )
    other.send(b"y" * 200 + b"\r\nPING\n")
    assert received(other).endswith("\r\nOK\r\n")
    slow.transport.lose()
    other.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 900 + b"\r\n")
    harness.settle()
    assert "JOB_ID" in received(other)
    assert harness.connection_limits.memory.total == 0


def test_queued_requests_count_with_the_blocks_and_stop_reading() -> None:
    harness = limited_harness(block_memory=80_000, block=1000)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    harness.authenticator.roles["4000002"] = Role.SUBMIT
    greedy, twin, other = (Client(harness, FakeSocket(uid=uid)) for uid in (4000001, 4000001, 4000002))
    greedy.send(b"SUBMIT --hold true\n")
    other.send(b"SUBMIT --hold true\n")
    harness.settle()
    for client in (greedy, twin):
        client.send(b"WAIT 1\n")
    for _ in range(40):
        greedy.send(b"STATUS 1\n" + b" " * 2000 + b"\n" + b"SUBMIT " + b"x" * 900 + b"\n")
    assert greedy.is_held_back, "the user's share, a sixteenth, is used up"
    assert 5_000 <= harness.connection_limits.memory.total < 15_000
    for _ in range(40):
        twin.send(b"STATUS 1\n" * 20)
    assert twin.is_held_back, "all connections of a user have one share"
    assert harness.connection_limits.memory.total < 45_000
    other.send(b"PING\n")
    assert received(other).endswith("OK\r\n")
    greedy.transport.lose()
    twin.transport.lose()
    assert harness.connection_limits.memory.total == 0


def test_unread_replies_count_and_reduce_the_bytes_read_in_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskqd.server.reply_writer.unsent_bytes", lambda transport: transport._unread)
    harness = limited_harness(block_memory=320_000, block=1000)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    harness.authenticator.roles["4000002"] = Role.SUBMIT
    greedy, twin, other = (Client(harness, FakeSocket(uid=uid)) for uid in (4000001, 4000001, 4000002))
    while harness.connection_limits.memory.total <= 320_000 // MAX_REQUEST_SHARE:
        greedy.send(b"HELLO\n")
    assert greedy.transport.bufferSize == 65_536
    for client, most in ((greedy, MIN_BUFFER_SIZE), (twin, MIN_BUFFER_SIZE), (other, 65_536)):
        client.send(b"PING\n")
        assert client.transport.bufferSize == most
    assert received(twin) == "OK\r\n", "an idle connection is answered"
    greedy.read()
    assert harness.connection_limits.memory.total == 0
    greedy.send(b"PING\n")
    assert greedy.transport.bufferSize == 65_536


def test_idle_connection_may_always_send_a_request_and_a_watch_may_always_be_ended() -> None:
    harness = limited_harness(block_memory=40_000, block=1000)
    greedy, watcher, quiet = Client(harness), Client(harness), Client(harness)
    watcher.send(b"WATCH\n")
    greedy.send(b"SUBMIT --hold true\n")
    harness.settle()
    greedy.send(b"WAIT 1\n")
    while not greedy.is_held_back:
        greedy.send(b"SUBMIT " + b"x" * 900 + b"\n" + b"STATUS 1\n")
    quiet.send(b"PING\n")
    watcher.send(b"PING\n")
    assert (received(quiet), received(watcher).endswith("END\r\nOK\r\n")) == ("OK\r\n", True)
    quiet.send(b"CANCEL 1\n")
    harness.settle()
    harness.clock.advance(0)
    greedy.read()
    harness.settle()
    assert not greedy.is_held_back


def revoked(harness: Harness, client: Client) -> None:
    revoke(harness, "1")
    assert harness.connection_limits.memory.total == 0, "before the connection is closed"
    assert not client.transport.is_closed


def lost(harness: Harness, client: Client) -> None:
    client.transport.lose()


def drained(harness: Harness, client: Client) -> None:
    harness.engine.dispatcher.drain()


def arrived(harness: Harness, client: Client) -> None:
    client.send(b"llo\r\n")


def not_recorded(harness: Harness, client: Client) -> None:
    harness.journal.fail()


def cut_wrong(harness: Harness, client: Client) -> None:
    client.send(b"lloX\n")


def closed(harness: Harness, client: Client) -> None:
    harness.factory.close()


def answered(harness: Harness, client: Client) -> None:
    harness.finish(1)


@pytest.mark.parametrize(
    "before, steps",
    [
        *((b"", [step]) for step in (arrived, cut_wrong, revoked, lost, closed)),
        *((b"", steps) for steps in ([drained, arrived], [arrived, not_recorded], [arrived, revoked])),
        *((b"WAIT 1\n", [step]) for step in (revoked, lost, closed)),
        *((b"WAIT 1\n", [arrived, step]) for step in (revoked, lost, closed, answered)),
        (b"WAIT 1\nQUIT\n", [arrived, answered]),
    ],
)
def test_memory_of_a_block_is_released_however_its_request_ends(
    before: bytes, steps: list[Callable[[Harness, Client], None]]
) -> None:
    harness = limited_harness()
    harness.engine.start()
    harness.submit()
    harness.authenticator.tokens["t"] = ANN._replace(role=Role.ADMIN, token="1")
    client = tcp_client(harness)
    client.send(b"AUTH t\n" + before + b"SUBMIT --stdin=5 cat\nhe")
    assert (harness.connection_limits.memory.total, harness.connection_limits.memory.by_user) == (
        5,
        {"ann": 5},
    )
    for step in steps:
        step(harness, client)
    harness.settle()
    client.read()
    assert (harness.connection_limits.memory.total, harness.connection_limits.memory.by_user) == (0, {})


def test_user_has_a_share_of_the_memory_or_one_block_of_any_size() -> None:
    memory = limited_harness(block_memory=1000).connection_limits.memory
    memory.reserve(ANN, 600)
    with pytest.raises(QueueFull):
        memory.reserve(ANN, 1)
    memory.reserve(BOB, 1000 // MAX_BLOCK_SHARE)
    with pytest.raises(QueueFull):
        memory.reserve(BOB, 1)
    memory.reserve(ROOT, 150)
    with pytest.raises(QueueFull):
        memory.reserve(ROOT, 1)
    memory.release(ANN, 600)
    memory.reserve(ROOT, 100)
    memory.reserve(ROOT, 100)
    memory.reserve(ANN, 400)


def test_empty_block_takes_no_memory() -> None:
    memory = limited_harness().connection_limits.memory
    memory.reserve(ANN, 5)
    memory.reserve(ANN, 0)
    memory.release(ANN, 5)
    memory.release(ANN, 0)
    assert (memory.total, memory.by_user) == (0, {})


def test_connections_are_unlimited_without_limits() -> None:
    harness = limited_harness(
        connections_per_user=None,
        connections_before_auth=None,
        connections_before_auth_per_address=None,
        auth_time=None,
        idle_time=None,
        block_memory=None,
    )
    clients = [unix_client(harness) for _ in range(20)] + [tcp_client(harness) for _ in range(20)]
    harness.connection_limits.memory.reserve(ANN, 10**12)
    harness.clock.pump([3600.0] * 100)
    assert not any(client.transport.is_closed for client in clients)


def test_closed_connections_leave_nothing() -> None:
    harness = limited_harness()
    clients = [unix_client(harness), tcp_client(harness), Client(harness)]
    for client in clients:
        client.transport.lose()
    assert (
        harness.connection_limits.connections,
        harness.connection_limits.count_by_user,
        harness.connection_limits.users,
        harness.connection_limits.unidentified,
    ) == (
        set(),
        {},
        {},
        [],
    )
    assert harness.clock.getDelayedCalls() == []


class QuietConnection:
    """A connection that counts the checks, and is idle if the test says so."""

    principal: Principal | None = None
    host = "192.0.2.1"

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self.checks = 0
        self.is_silent = False
        self._connection_limits = connection_limits
        connection_limits.opened(self)

    def is_idle(self, since: float) -> bool:
        self.checks += 1
        return self.is_silent

    def close_with_error(self, why: TaskqError) -> None:
        pytest.fail("it breaks no rule")

    def close(self) -> None:
        self._connection_limits.closed(self)


def test_each_connection_is_checked_only_some_times_in_the_idle_time() -> None:
    limits = limited_harness(idle_time=1600.0, auth_time=None)
    connections = []
    for _ in range(10):
        connections.append(QuietConnection(limits.connection_limits))
        limits.clock.advance(CHECK_INTERVAL)
    limits.clock.pump([CHECK_INTERVAL] * 1600)
    assert {connection.checks for connection in connections} == {CHECKS_PER_IDLE_TIME}
    connections[3].is_silent = True
    limits.clock.pump([CHECK_INTERVAL] * (1600 // CHECKS_PER_IDLE_TIME + 2))
    assert limits.connection_limits.connections == {*connections} - {connections[3]}


def test_no_connection_is_checked_without_an_idle_time() -> None:
    limits = limited_harness(idle_time=None, auth_time=None)
    connection = QuietConnection(limits.connection_limits)
    assert limits.clock.getDelayedCalls() == []
    connection.close()


def test_checks_are_frequent_enough_for_a_short_idle_time() -> None:
    harness = limited_harness(idle_time=0.4)
    client = Client(harness)
    harness.clock.pump([0.1] * 5)
    client.read()
    assert client.transport.is_closed


class FleetingConnection:
    """A connection that is closed at once when it is rejected."""

    principal: Principal | None = ANN._replace(token="1")
    host = "192.0.2.1"

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self._connection_limits = connection_limits

    def is_idle(self, since: float) -> bool:
        return False

    def close_with_error(self, why: TaskqError) -> None:
        self._connection_limits.closed(self)

    def close(self) -> None:
        pytest.fail("it is not idle")


def test_checks_stop_when_the_last_connection_is_closed_by_a_check() -> None:
    harness = limited_harness()
    connection = FleetingConnection(harness.connection_limits)
    harness.connection_limits.opened(connection)
    harness.connection_limits.identified(connection, ANN)
    revoke(harness, "1")
    assert harness.connection_limits.connections == set()
    assert harness.clock.getDelayedCalls() == []


# A slow AUTH.


def test_requests_behind_an_auth_wait_for_its_result() -> None:
    harness = limited_harness()
    harness.authenticator.slow = []
    client = tcp_client(harness)
    client.send(b"AUTH t\nSUBMIT a\nSUBMIT --stdin=2 cat\nhi\r\nSTATUS 1\nQUIT\n")
    assert client.transport.received == b""
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    harness.settle()
    words = [line.split()[0] for line in received(client).splitlines()]
    assert words == ["OK", "JOB_ID", "JOB_ID", "STATUS", "OK"]
    assert [job.owner for job in harness.queue_state.jobs.values()] == ["ann", "ann"]


def test_client_lost_during_an_auth_leaves_nothing() -> None:
    harness = limited_harness()
    harness.authenticator.slow = []
    client = tcp_client(harness)
    client.send(b"AUTH t\nSUBMIT a\n")
    client.transport.lose()
    assert harness.authenticator.slow[0].called, "the AUTH is cancelled"
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    assert (dict(harness.queue_state.jobs), harness.connection_limits.count_by_user) == ({}, {})


def test_blocks_behind_an_auth_are_accepted_by_the_new_user_even_during_a_wait() -> None:
    harness = limited_harness()
    harness.engine.start()
    harness.submit()
    harness.authenticator.tokens.update(read=Principal("eve", Role.READ), write=ANN)
    client = tcp_client(harness)
    client.send(b"AUTH read\nWAIT 1\nAUTH write\nSUBMIT --stdin=2 cat\nhi\r\nAUTH read\nSUBMIT --stdin=2 x\n")
    client.send(b"hi\r\nPING\n")
    harness.finish(1)
    for _ in range(3):
        client.read()
        harness.settle()
    assert [line.split()[:2] for line in client.lines()] == [
        *(["OK", "eve"], ["STATUS", "COMPLETED"], ["OK", "ann"], ["JOB_ID", "2"], ["OK", "eve"]),
        *(["ERROR", "FORBIDDEN"], ["OK"]),
    ]
    assert harness.spool.blocks == {2: {"stdin": b"hi"}}


def test_three_slow_failed_auths_end_the_connection() -> None:
    harness = limited_harness()
    harness.authenticator.slow = []
    client = tcp_client(harness)
    client.send(b"AUTH a\nAUTH b\nAUTH c\nAUTH d\nPING\n")
    for number in range(3):
        assert len(harness.authenticator.slow) == number + 1, "one at a time"
        harness.authenticator.slow[number].errback(AuthFailed("no"))
    client.read()
    assert client.lines() == ["ERROR AUTH_FAILED no"] * 3
    assert client.transport.is_half_closed


def test_internal_error_in_an_auth_does_not_count_as_a_failed_auth(logged_errors: LeakWatch) -> None:
    harness = limited_harness()
    harness.authenticator.slow = []
    client = tcp_client(harness)
    client.send(b"AUTH a\n" * 3 + b"PING\n")
    for number in range(3):
        harness.authenticator.slow[number].errback(ZeroDivisionError())
    assert [line.split()[:2] for line in client.lines()] == [["ERROR", "INTERNAL"]] * 3 + [["OK"]]
    assert len(logged_errors.flush(ZeroDivisionError)) == 3


def test_second_auth_counts_the_connection_for_the_other_user() -> None:
    harness = limited_harness(connections_per_user=1)
    harness.authenticator.tokens.update(a=ANN, b=BOB)
    first, second = tcp_client(harness), tcp_client(harness)
    first.send(b"AUTH a\nAUTH b\nAUTH b\nSUBMIT x\n")
    assert harness.connection_limits.count_by_user == {"bob": 1}
    second.send(b"AUTH a\nAUTH b\nSUBMIT y\n")
    harness.settle()
    assert [line.split()[:2] for line in second.lines()] == [
        ["OK", "ann"],
        ["ERROR", "QUEUE_FULL"],
        ["JOB_ID", "2"],
    ]
    assert [job.owner for job in harness.queue_state.jobs.values()] == ["bob", "ann"]


def test_auth_that_exceeds_the_timeout_is_cancelled() -> None:
    harness = limited_harness(auth_time=10.0)
    harness.authenticator.slow = []
    client = tcp_client(harness)
    client.send(b"AUTH t\nSUBMIT a\n")
    harness.clock.advance(10.0)
    assert harness.authenticator.slow[0].called, "it is cancelled"
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    assert [line.split()[1] for line in client.lines()] == ["AUTH_REQUIRED"]
    client.read()
    assert client.transport.is_closed
    assert (
        dict(harness.queue_state.jobs),
        harness.connection_limits.count_by_user,
        harness.connection_limits.users,
    ) == (
        {},
        {},
        {},
    )


# Random actions.

DONE = [
    *(b"AUTH t\n", b"AUTH other\n", b"AUTH wrong\n", b"SUBMIT --stdin=5 cat\n", b"SUBMIT true\n", b"PING\n"),
    *(b"he", b"hello\r\n", b"WAIT 1\n", b"WATCH\n", b"FOLLOW 1\n", b"HELP SUBMIT\n" * 20, b"QUIT\n"),
    *(
        "connect",
        "connect locally",
        "lose",
        "half-close",
        "read",
        "revoke",
        "settle",
        "fail",
        "wait",
        "answer",
    ),
]


class World:
    """A harness with low limits, and its clients."""

    def __init__(self) -> None:
        self.harness = limited_harness(
            connections_per_user=2,
            connections_before_auth=2,
            auth_time=5.0,
            block_memory=64,
            max_connections=6,
        )
        self.harness.engine.start()
        self.harness.submit()
        self.harness.authenticator.tokens.update(t=ANN._replace(token="1"), other=BOB)
        self.harness.authenticator.slow = []
        self.clients: list[Client] = []

    def do(self, which: int, action: str | bytes) -> None:
        harness = self.harness
        if action in ("connect", "connect locally"):
            if harness.connection_limits.available > 0:
                self.clients.append(tcp_client(harness) if action == "connect" else unix_client(harness))
        elif action == "settle":
            harness.settle()
        elif action == "fail":
            harness.journal.fail()
            harness.journal.recover()
        elif action == "wait":
            harness.clock.pump([1.0] * 3)
        elif action == "revoke":
            harness.authenticator.revoked ^= {"1"}
        elif action == "answer":
            self.finish_auths()
        elif self.clients:
            self.act(self.clients[which % len(self.clients)], action)

    def act(self, client: Client, action: str | bytes) -> None:
        if client.transport.is_closed:
            return
        if isinstance(action, bytes):
            client.send(action)
        elif action == "lose":
            client.transport.lose()
        elif action == "half-close":
            client.half_close()
        else:
            client.read()

    def finish_auths(self) -> None:
        """Let all AUTHs in progress succeed or fail."""
        slow = self.harness.authenticator.slow or []
        while slow:
            token = self.harness.authenticator.asked[-len(slow)][0]
            found = self.harness.authenticator.tokens.get(token)
            slow.pop(0).callback(found) if found else slow.pop(0).errback(AuthFailed("no"))

    def check(self) -> None:
        connection_limits = self.harness.connection_limits
        inside = {client.connection for client in self.clients if not client.transport.is_closed}
        assert connection_limits.connections == inside
        assert len(inside) <= 6
        assert self.harness.ports[0].is_listening is (connection_limits.available > 0)
        assert set(connection_limits.unidentified) | set(connection_limits.users) <= inside
        assert not set(connection_limits.unidentified) & set(connection_limits.users)
        assert sum(connection_limits.count_by_user.values()) == len(connection_limits.users)
        assert all(0 < count <= 2 for count in connection_limits.count_by_user.values())
        rejected = {
            client.connection
            for client in self.clients
            if client.connection.state is ConnectionState.REJECTED
        }
        assert len(set(connection_limits.unidentified) - rejected) <= 2
        assert 0 <= connection_limits.memory.total == sum(connection_limits.memory.by_user.values())
        assert all(connection_limits.memory.by_user.values())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(DONE)), max_size=60))
def test_counts_are_right_after_random_actions_and_nothing_is_left(done: list[tuple[int, Any]]) -> None:
    world = World()
    for which, action in [(0, "connect"), (0, "connect locally"), *done]:
        world.do(which, action)
        world.check()
    for client in world.clients:
        world.act(client, "lose")
    world.check()
    world.finish_auths()
    world.harness.settle()
    connection_limits = world.harness.connection_limits
    assert (
        connection_limits.count_by_user,
        connection_limits.memory.by_user,
        connection_limits.unidentified,
    ) == (
        {},
        {},
        [],
    )
    world.harness.clock.advance(FLUSH_INTERVAL)
    assert world.harness.clock.getDelayedCalls() == []
