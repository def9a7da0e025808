"""Who is let in and who has to go, over the connections of a house, and what blocks may take."""

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
from taskqd.server.connection import CLOSE_TIMEOUT, UNIDENTIFIED_CLOSE_TIMEOUT
from taskqd.server.connection_limits import CHECK_INTERVAL, ConnectionLimits
from taskqd.server.connection_state import ConnectionState
from taskqd.server.pipeline import MIN_BUFFER_SIZE
from taskqd.server.request_memory import MAX_BLOCK_SHARE, MAX_REQUEST_SHARE
from tests.fakes.client import Client
from tests.fakes.connections import FakePort, FakeSocket
from tests.fakes.engine import Harness, watchers
from tests.support.leaks import LeakWatch

ANN = Principal("ann", Role.SUBMIT)
BOB = Principal("bob", Role.SUBMIT)
ROOT = Principal("root", Role.ADMIN)


def house_of(max_connections: int = 1000, **quotas: Any) -> Harness:
    harness = Harness(limits=Limits(**quotas), max_connections=max_connections)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    return harness


def stranger(harness: Harness) -> Client:
    return Client(harness, FakeSocket(socket.AF_INET))


def user(harness: Harness) -> Client:
    return Client(harness, FakeSocket(uid=4_000_001))


def said(client: Client) -> str:
    client.read()
    return client.transport.received.decode()


def test_who_says_nothing_of_himself_has_to_go() -> None:
    harness = house_of(auth_time=10.0)
    silent, known, local = stranger(harness), stranger(harness), user(harness)
    known.send(b"AUTH sesame\n")
    harness.clock.advance(10.0)
    assert "ERROR AUTH_REQUIRED not authenticated within 10 s; send AUTH first" in said(silent)
    assert silent.transport.is_closed
    assert not known.transport.is_closed
    assert not local.transport.is_closed


def test_a_failed_auth_gives_no_more_time() -> None:
    harness = house_of(auth_time=10.0)
    client = stranger(harness)
    client.send(b"AUTH wrong\nPING\n")
    harness.clock.advance(10.0)
    assert "AUTH_FAILED" in said(client)
    assert client.transport.is_closed


def test_of_too_many_strangers_the_oldest_goes() -> None:
    harness = house_of(connections_before_auth=2)
    first, second = stranger(harness), stranger(harness)
    user(harness)
    assert not first.transport.is_closed
    third = stranger(harness)
    assert "ERROR AUTH_REQUIRED more than 2 connections are not authenticated; send AUTH first" in said(first)
    assert [client.transport.is_closed for client in (first, second, third)] == [True, False, False]
    second.send(b"AUTH sesame\n")
    stranger(harness)
    assert not third.transport.is_closed


def test_one_user_has_so_many_connections_and_an_admin_as_many_as_he_likes() -> None:
    harness = house_of(connections_per_user=2)
    clients = [user(harness) for _ in range(3)]
    assert [client.transport.is_closed or bool(client.transport.received) for client in clients] == [
        False,
        False,
        True,
    ]
    assert "ERROR QUEUE_FULL 4000001 has 2 connections, the limit for one user; close one of them" in said(
        clients[2]
    )
    clients[0].transport.lose()
    assert not user(harness).transport.received
    assert not any(Client(harness).transport.received for _ in range(5))


def test_an_auth_that_makes_one_connection_too_many_is_refused() -> None:
    harness = house_of(connections_per_user=1)
    harness.authenticator.tokens["t"] = Principal("ann", Role.SUBMIT, token="1")
    first, second = stranger(harness), stranger(harness)
    first.send(b"AUTH t\nPING\n")
    second.send(b"AUTH t\nSTATS\n")
    assert said(first) == "OK ann submit\r\nOK\r\n"
    assert said(second).startswith("ERROR QUEUE_FULL ann has 1 connections")
    assert "ERROR AUTH_REQUIRED STATS" in said(second)


def test_when_it_is_full_nobody_is_let_in_until_somebody_leaves(caplog: pytest.LogCaptureFixture) -> None:
    harness = house_of(max_connections=2)
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


def test_all_ports_are_closed_and_opened_together() -> None:
    harness = house_of(max_connections=1)
    harness.ports += [FakePort(), FakePort()]
    client = stranger(harness)
    assert [port.is_listening for port in harness.ports] == [False] * 3
    client.transport.lose()
    assert [port.is_listening for port in harness.ports] == [True] * 3


def test_who_is_sent_away_unknown_and_reads_nothing_holds_his_place_no_longer_than_a_moment() -> None:
    harness = house_of(connections_before_auth=1, replies=4096)
    noisy, done = stranger(harness), stranger(harness)
    noisy.send(b"HELP SUBMIT\n" * 100)
    done.send(b"QUIT\n")
    third = stranger(harness)
    harness.clock.advance(UNIDENTIFIED_CLOSE_TIMEOUT)
    assert [client.transport.is_closed for client in (noisy, done, third)] == [True, True, False]
    assert harness.connection_limits.connections == {third.connection}


def test_who_is_known_has_the_time_to_read_why_he_has_to_go() -> None:
    harness = house_of()
    harness.authenticator.tokens["t"] = ANN._replace(token="1")
    client = stranger(harness)
    client.send(b"AUTH t\n")
    harness.authenticator.revoked.add("1")
    harness.connection_limits.close_expired()
    harness.clock.advance(CLOSE_TIMEOUT - 0.1)
    assert not client.transport.is_closed
    harness.clock.advance(0.1)
    assert client.transport.is_aborted


def test_an_idle_connection_is_closed_without_a_word() -> None:
    harness = house_of(idle_time=60.0)
    client = Client(harness)
    for _ in range(2):
        client.send(b"PING\n")
        client.read()
        harness.clock.pump([CHECK_INTERVAL] * 55)
        assert not client.transport.is_closed
    harness.clock.pump([CHECK_INTERVAL] * 10)
    assert said(client) == "OK\r\nOK\r\n"
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"WAIT 1\n", b"FOLLOW 1\n", b"WATCH\n"])
def test_who_waits_for_something_is_not_idle(line: bytes) -> None:
    harness = house_of(idle_time=60.0)
    harness.submit()
    client = Client(harness)
    client.send(line)
    harness.clock.pump([CHECK_INTERVAL] * 100)
    assert not client.transport.is_closed


@pytest.mark.parametrize("line", [b"HELP SUBMIT\n" * 100, b"LIST\n", b"FOLLOW 1\n"])
def test_who_does_not_read_what_he_asked_for_is_idle(line: bytes) -> None:
    harness = house_of(idle_time=60.0, replies=4096)
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
def test_who_came_by_a_token_that_is_revoked_has_to_go_whatever_he_does(line: bytes) -> None:
    harness = house_of()
    harness.submit()
    harness.authenticator.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client, other = stranger(harness), stranger(harness)
    client.send(b"AUTH t\n" + line)
    other.send(b"AUTH sesame\n")
    harness.authenticator.revoked.add("1")
    harness.clock.advance(CHECK_INTERVAL)
    assert (watchers(harness.event_stream), bool(harness.engine.waiter_count)) == (0, False)
    harness.submit()
    harness.finish(1)
    harness.clock.advance(CHECK_INTERVAL)
    assert said(client).endswith(
        "ERROR AUTH_REQUIRED the token of ann was revoked or changed, or has expired; AUTH with another\r\n"
    ), "nothing is written behind it"
    assert said(client).count("was revoked or changed") == 1
    assert client.transport.is_closed
    assert not other.transport.is_closed
    assert harness.connection_limits.memory.total == 0


def test_between_two_looks_a_revoked_token_is_good_for_nothing() -> None:
    harness = house_of()
    harness.authenticator.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client = stranger(harness)
    client.send(b"AUTH t\nPING\n")
    harness.authenticator.revoked.add("1")
    client.send(b"STATS\nSUBMIT true\nSUBMIT --stdin=2 cat\nhi\r\nPING\n")
    lines = said(client).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["ERROR", "AUTH_REQUIRED"]] * 3
    assert lines[5] == "OK"


def test_blocks_on_their_way_have_a_limit_and_give_back_what_they_took() -> None:
    harness = house_of(block_memory=1000, block=1000)
    slow, other = Client(harness), Client(harness)
    slow.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 100)
    other.send(b"SUBMIT --stdin=200 cat\n")
    assert said(other).startswith("ERROR QUEUE_FULL requests in progress take 900 of 1000 bytes, yours 900")
    other.send(b"y" * 200 + b"\r\nPING\n")
    assert said(other).endswith("\r\nOK\r\n")
    slow.transport.lose()
    other.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 900 + b"\r\n")
    harness.settle()
    assert "JOB_ID" in said(other)
    assert harness.connection_limits.memory.total == 0


def test_requests_that_wait_count_with_the_blocks_and_stop_those_who_send_more() -> None:
    harness = house_of(block_memory=80_000, block=1000)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    harness.authenticator.roles["4000002"] = Role.SUBMIT
    hog, twin, other = (Client(harness, FakeSocket(uid=uid)) for uid in (4000001, 4000001, 4000002))
    hog.send(b"SUBMIT --hold true\n")
    other.send(b"SUBMIT --hold true\n")
    harness.settle()
    for client in (hog, twin):
        client.send(b"WAIT 1\n")
    for _ in range(40):
        hog.send(b"STATUS 1\n" + b" " * 2000 + b"\n" + b"SUBMIT " + b"x" * 900 + b"\n")
    assert hog.is_held_back, "the share up to which requests are read, a sixteenth, is used up"
    assert 5_000 <= harness.connection_limits.memory.total < 15_000
    for _ in range(40):
        twin.send(b"STATUS 1\n" * 20)
    assert twin.is_held_back, "the share is that of all its connections"
    assert harness.connection_limits.memory.total < 45_000
    other.send(b"PING\n")
    assert said(other).endswith("OK\r\n")
    hog.transport.lose()
    twin.transport.lose()
    assert harness.connection_limits.memory.total == 0


def test_replies_that_a_client_does_not_read_count_and_where_memory_is_used_up_few_bytes_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskqd.server.reply_writer.unsent_bytes", lambda transport: transport._unread)
    harness = house_of(block_memory=320_000, block=1000)
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    harness.authenticator.roles["4000002"] = Role.SUBMIT
    hog, twin, other = (Client(harness, FakeSocket(uid=uid)) for uid in (4000001, 4000001, 4000002))
    while harness.connection_limits.memory.total <= 320_000 // MAX_REQUEST_SHARE:
        hog.send(b"HELLO\n")
    assert hog.transport.bufferSize == 65_536
    for client, most in ((hog, MIN_BUFFER_SIZE), (twin, MIN_BUFFER_SIZE), (other, 65_536)):
        client.send(b"PING\n")
        assert client.transport.bufferSize == most
    assert said(twin) == "OK\r\n", "one who has nothing unanswered is answered"
    hog.read()
    assert harness.connection_limits.memory.total == 0
    hog.send(b"PING\n")
    assert hog.transport.bufferSize == 65_536


def test_one_who_has_nothing_unanswered_may_always_ask_and_a_watch_may_always_be_ended() -> None:
    harness = house_of(block_memory=40_000, block=1000)
    hog, watcher, quiet = Client(harness), Client(harness), Client(harness)
    watcher.send(b"WATCH\n")
    hog.send(b"SUBMIT --hold true\n")
    harness.settle()
    hog.send(b"WAIT 1\n")
    while not hog.is_held_back:
        hog.send(b"SUBMIT " + b"x" * 900 + b"\n" + b"STATUS 1\n")
    quiet.send(b"PING\n")
    watcher.send(b"PING\n")
    assert (said(quiet), said(watcher).endswith("END\r\nOK\r\n")) == ("OK\r\n", True)
    quiet.send(b"CANCEL 1\n")
    harness.settle()
    harness.clock.advance(0)
    hog.read()
    harness.settle()
    assert not hog.is_held_back


def revoked(harness: Harness, client: Client) -> None:
    harness.authenticator.revoked.add("1")
    harness.clock.advance(CHECK_INTERVAL)
    assert harness.connection_limits.memory.total == 0, "at once, though the connection is still there"
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
def test_what_a_block_took_is_given_back_however_it_ends(
    before: bytes, steps: list[Callable[[Harness, Client], None]]
) -> None:
    harness = house_of()
    harness.engine.start()
    harness.submit()
    harness.authenticator.tokens["t"] = ANN._replace(role=Role.ADMIN, token="1")
    client = stranger(harness)
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


def test_one_user_has_a_part_of_the_memory_for_blocks_and_one_block_whatever_its_size() -> None:
    memory = house_of(block_memory=1000).connection_limits.memory
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


def test_a_block_of_no_bytes_takes_nothing_and_gives_nothing_back() -> None:
    memory = house_of().connection_limits.memory
    memory.reserve(ANN, 5)
    memory.reserve(ANN, 0)
    memory.release(ANN, 5)
    memory.release(ANN, 0)
    assert (memory.total, memory.by_user) == (0, {})


def test_without_limits_there_are_none() -> None:
    harness = house_of(
        connections_per_user=None,
        connections_before_auth=None,
        auth_time=None,
        idle_time=None,
        block_memory=None,
    )
    clients = [user(harness) for _ in range(20)] + [stranger(harness) for _ in range(20)]
    harness.connection_limits.memory.reserve(ANN, 10**12)
    harness.clock.pump([3600.0] * 100)
    assert not any(client.transport.is_closed for client in clients)


def test_what_was_known_of_who_has_left_is_forgotten() -> None:
    harness = house_of()
    clients = [user(harness), stranger(harness), Client(harness)]
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


def test_it_is_looked_often_enough_for_a_short_time_to_be_idle() -> None:
    harness = house_of(idle_time=0.4)
    client = Client(harness)
    harness.clock.pump([0.1] * 5)
    client.read()
    assert client.transport.is_closed


class Fleeting:
    """A guest who is gone as soon as he is told to go."""

    principal: Principal | None = ANN._replace(token="1")

    def __init__(self, connection_limits: ConnectionLimits) -> None:
        self._connection_limits = connection_limits

    def is_idle(self, since: float) -> bool:
        return False

    def close_with_error(self, why: TaskqError) -> None:
        self._connection_limits.closed(self)

    def close(self) -> None:
        pytest.fail("he is not idle")


def test_when_the_last_one_goes_while_it_is_looked_it_is_looked_no_more() -> None:
    harness = house_of()
    guest = Fleeting(harness.connection_limits)
    harness.connection_limits.opened(guest)
    harness.connection_limits.identified(guest, ANN)
    harness.authenticator.revoked.add("1")
    harness.clock.advance(CHECK_INTERVAL)
    assert harness.connection_limits.connections == set()
    assert harness.clock.getDelayedCalls() == []


# An AUTH that takes its time.


def test_what_comes_behind_an_auth_is_handled_in_the_light_of_it() -> None:
    harness = house_of()
    harness.authenticator.slow = []
    client = stranger(harness)
    client.send(b"AUTH t\nSUBMIT a\nSUBMIT --stdin=2 cat\nhi\r\nSTATUS 1\nQUIT\n")
    assert client.transport.received == b""
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    harness.settle()
    words = [line.split()[0] for line in said(client).splitlines()]
    assert words == ["OK", "JOB_ID", "JOB_ID", "STATUS", "OK"]
    assert [job.owner for job in harness.queue_state.jobs.values()] == ["ann", "ann"]


def test_who_is_gone_before_he_is_known_leaves_nothing() -> None:
    harness = house_of()
    harness.authenticator.slow = []
    client = stranger(harness)
    client.send(b"AUTH t\nSUBMIT a\n")
    client.transport.lose()
    assert harness.authenticator.slow[0].called, "nobody goes on with the AUTH of who is gone"
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    assert (harness.queue_state.jobs, harness.connection_limits.count_by_user) == ({}, {})


def test_blocks_behind_an_auth_are_wanted_by_who_it_is_then_even_where_something_is_waited_for() -> None:
    harness = house_of()
    harness.engine.start()
    harness.submit()
    harness.authenticator.tokens.update(read=Principal("eve", Role.READ), write=ANN)
    client = stranger(harness)
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


def test_three_auths_that_fail_in_their_own_time_end_the_connection() -> None:
    harness = house_of()
    harness.authenticator.slow = []
    client = stranger(harness)
    client.send(b"AUTH a\nAUTH b\nAUTH c\nAUTH d\nPING\n")
    for number in range(3):
        assert len(harness.authenticator.slow) == number + 1, "one at a time"
        harness.authenticator.slow[number].errback(AuthFailed("no"))
    client.read()
    assert client.lines() == ["ERROR AUTH_FAILED no"] * 3
    assert client.transport.is_half_closed


def test_what_goes_wrong_here_is_no_failure_of_who_auths(logged_errors: LeakWatch) -> None:
    harness = house_of()
    harness.authenticator.slow = []
    client = stranger(harness)
    client.send(b"AUTH a\n" * 3 + b"PING\n")
    for number in range(3):
        harness.authenticator.slow[number].errback(ZeroDivisionError())
    assert [line.split()[:2] for line in client.lines()] == [["ERROR", "INTERNAL"]] * 3 + [["OK"]]
    assert len(logged_errors.flush(ZeroDivisionError)) == 3


def test_who_auths_again_is_somebody_else_and_counts_as_that() -> None:
    harness = house_of(connections_per_user=1)
    harness.authenticator.tokens.update(a=ANN, b=BOB)
    first, second = stranger(harness), stranger(harness)
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


def test_an_auth_that_takes_longer_than_there_is_time_makes_nobody_known() -> None:
    harness = house_of(auth_time=10.0)
    harness.authenticator.slow = []
    client = stranger(harness)
    client.send(b"AUTH t\nSUBMIT a\n")
    harness.clock.advance(10.0)
    assert harness.authenticator.slow[0].called, "as of who is gone"
    harness.authenticator.slow[0].callback(ANN)
    harness.settle()
    assert [line.split()[1] for line in client.lines()] == ["AUTH_REQUIRED"]
    client.read()
    assert client.transport.is_closed
    assert (
        harness.queue_state.jobs,
        harness.connection_limits.count_by_user,
        harness.connection_limits.users,
    ) == (
        {},
        {},
        {},
    )


# Whatever comes.

DONE = [
    *(b"AUTH t\n", b"AUTH other\n", b"AUTH wrong\n", b"SUBMIT --stdin=5 cat\n", b"SUBMIT true\n", b"PING\n"),
    *(b"he", b"hello\r\n", b"WAIT 1\n", b"WATCH\n", b"FOLLOW 1\n", b"HELP SUBMIT\n" * 20, b"QUIT\n"),
    *("come", "come locally", "lose", "half-close", "read", "revoke", "settle", "fail", "wait", "answer"),
]


class Lobby:
    """A house with narrow doors, and whoever comes and goes there."""

    def __init__(self) -> None:
        self.harness = house_of(
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

    def do(self, which: int, what: str | bytes) -> None:
        harness = self.harness
        if what in ("come", "come locally"):
            if harness.connection_limits.available > 0:
                self.clients.append(stranger(harness) if what == "come" else user(harness))
        elif what == "settle":
            harness.settle()
        elif what == "fail":
            harness.journal.fail()
            harness.journal.recover()
        elif what == "wait":
            harness.clock.pump([1.0] * 3)
        elif what == "revoke":
            harness.authenticator.revoked ^= {"1"}
        elif what == "answer":
            self.answer()
        elif self.clients:
            self.act(self.clients[which % len(self.clients)], what)

    def act(self, client: Client, what: str | bytes) -> None:
        if client.transport.is_closed:
            return
        if isinstance(what, bytes):
            client.send(what)
        elif what == "lose":
            client.transport.lose()
        elif what == "half-close":
            client.half_close()
        else:
            client.read()

    def answer(self) -> None:
        """Let all AUTHs that are under way be answered."""
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
def test_whatever_is_done_the_counts_are_right_and_nothing_is_left(done: list[tuple[int, Any]]) -> None:
    lobby = Lobby()
    for which, what in [(0, "come"), (0, "come locally"), *done]:
        lobby.do(which, what)
        lobby.check()
    for client in lobby.clients:
        lobby.act(client, "lose")
    lobby.check()
    lobby.answer()
    lobby.harness.settle()
    connection_limits = lobby.harness.connection_limits
    assert (
        connection_limits.count_by_user,
        connection_limits.memory.by_user,
        connection_limits.unidentified,
    ) == (
        {},
        {},
        [],
    )
    lobby.harness.clock.advance(0)
    assert lobby.harness.clock.getDelayedCalls() == []
