"""Who is let in and who has to go, over the connections of a house, and what blocks may take."""

import socket
from typing import Any

import pytest

from taskqd.access import Principal
from taskqd.doorkeeper import LOOK_EVERY, SHARE
from taskqd.errors import QueueFull
from taskqd.protocol import LINGER
from taskqd.quotas import Quotas
from taskqd.roles import Role
from tests.fakes import Client, FakeSocket, House, result_of

ANN = Principal("ann", Role.SUBMIT)
BOB = Principal("bob", Role.SUBMIT)
ROOT = Principal("root", Role.ADMIN)


def house_of(most_connections: int = 1000, **quotas: Any) -> House:
    house = House(quotas=Quotas(**quotas), most_connections=most_connections)
    house.access.roles["4000001"] = Role.SUBMIT
    return house


def stranger(house: House) -> Client:
    return Client(house, FakeSocket(socket.AF_INET))


def user(house: House) -> Client:
    return Client(house, FakeSocket(uid=4_000_001))


def said(client: Client) -> str:
    client.read()
    return client.transport.received.decode()


def test_who_says_nothing_of_himself_has_to_go() -> None:
    house = house_of(auth_time=10.0)
    silent, known, local = stranger(house), stranger(house), user(house)
    known.send(b"AUTH sesame\n")
    house.clock.advance(10.0)
    assert "ERROR AUTH_REQUIRED nobody said who they are within 10 s; AUTH at once" in said(silent)
    assert silent.transport.is_closed
    assert not known.transport.is_closed
    assert not local.transport.is_closed


def test_a_failed_auth_gives_no_more_time() -> None:
    house = house_of(auth_time=10.0)
    client = stranger(house)
    client.send(b"AUTH wrong\nPING\n")
    house.clock.advance(10.0)
    assert "AUTH_FAILED" in said(client)
    assert client.transport.is_closed


def test_of_too_many_strangers_the_oldest_goes() -> None:
    house = house_of(connections_before_auth=2)
    first, second = stranger(house), stranger(house)
    user(house)
    assert not first.transport.is_closed
    third = stranger(house)
    assert "ERROR AUTH_REQUIRED more than 2 connections have not said who they are" in said(first)
    assert [client.transport.is_closed for client in (first, second, third)] == [True, False, False]
    second.send(b"AUTH sesame\n")
    stranger(house)
    assert not third.transport.is_closed


def test_one_user_has_so_many_connections_and_an_admin_as_many_as_he_likes() -> None:
    house = house_of(connections_per_user=2)
    clients = [user(house) for _ in range(3)]
    assert [client.transport.is_closed or bool(client.transport.received) for client in clients] == [
        False,
        False,
        True,
    ]
    assert "ERROR QUEUE_FULL 4000001 has 2 connections, which is the most; close one of them" in said(
        clients[2]
    )
    clients[0].transport.lose()
    assert not user(house).transport.received
    assert not any(Client(house).transport.received for _ in range(5))


def test_an_auth_that_makes_one_connection_too_many_is_refused() -> None:
    house = house_of(connections_per_user=1)
    house.access.tokens["t"] = Principal("ann", Role.SUBMIT, token="1")
    first, second = stranger(house), stranger(house)
    first.send(b"AUTH t\nPING\n")
    second.send(b"AUTH t\nSTATS\n")
    assert said(first) == "OK ann submit\r\nOK\r\n"
    assert said(second).startswith("ERROR QUEUE_FULL ann has 1 connections")
    assert "ERROR AUTH_REQUIRED STATS" in said(second)


def test_when_it_is_full_nobody_is_let_in_until_somebody_leaves(caplog: pytest.LogCaptureFixture) -> None:
    house = house_of(most_connections=2)
    clients = [Client(house), Client(house)]
    assert not house.ports[0].is_listening
    assert house.factory.buildProtocol(None) is None
    clients[0].transport.lose()
    assert house.ports[0].is_listening
    Client(house)
    assert not house.ports[0].is_listening
    assert [message for message in caplog.messages if "connections" in message] == [
        "2 connections are all that there may be: nobody else is let in until one closes"
    ]


def test_an_idle_connection_is_closed_without_a_word() -> None:
    house = house_of(idle_time=60.0)
    client = Client(house)
    for _ in range(2):
        client.send(b"PING\n")
        client.read()
        house.clock.pump([LOOK_EVERY] * 55)
        assert not client.transport.is_closed
    house.clock.pump([LOOK_EVERY] * 10)
    assert said(client) == "OK\r\nOK\r\n"
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"WAIT 1\n", b"FOLLOW 1\n", b"WATCH\n"])
def test_who_waits_for_something_is_not_idle(line: bytes) -> None:
    house = house_of(idle_time=60.0)
    house.submit()
    client = Client(house)
    client.send(line)
    house.clock.pump([LOOK_EVERY] * 100)
    assert not client.transport.is_closed


def test_who_does_not_read_what_he_asked_for_is_idle() -> None:
    house = house_of(idle_time=60.0, replies=4096)
    client = Client(house)
    client.send(b"HELP SUBMIT\n" * 100 + b"HELLO\n" * 100)
    house.clock.pump([LOOK_EVERY] * 65)
    house.clock.advance(LINGER)
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"", b"WATCH\n", b"WAIT 1\n", b"FOLLOW 1\n", b"SUBMIT --stdin=5 cat\nab"])
def test_who_came_by_a_token_that_is_revoked_has_to_go_whatever_he_does(line: bytes) -> None:
    house = house_of()
    house.submit()
    house.access.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client, other = stranger(house), stranger(house)
    client.send(b"AUTH t\n" + line)
    other.send(b"AUTH sesame\n")
    house.access.revoked.add("1")
    house.clock.advance(LOOK_EVERY)
    assert said(client).endswith(
        "ERROR AUTH_REQUIRED the token of ann is not valid any more; AUTH with another\r\n"
    )
    assert client.transport.is_closed
    length = len(client.transport.received)
    house.submit()
    house.finish(1)
    assert len(client.transport.received) == length, "nothing is written behind it"
    assert not other.transport.is_closed
    assert house.keeper._block_bytes == 0


def test_between_two_looks_a_revoked_token_is_good_for_nothing() -> None:
    house = house_of()
    house.access.tokens["t"] = Principal("ann", Role.ADMIN, token="1")
    client = stranger(house)
    client.send(b"AUTH t\nPING\n")
    house.access.revoked.add("1")
    client.send(b"STATS\nSUBMIT true\nSUBMIT --stdin=2 cat\nhi\r\nPING\n")
    lines = said(client).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["ERROR", "AUTH_REQUIRED"]] * 3
    assert lines[5] == "OK"


def test_blocks_on_their_way_have_a_limit_and_give_back_what_they_took() -> None:
    house = house_of(block_memory=1000, block=1000)
    slow, other = Client(house), Client(house)
    slow.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 100)
    other.send(b"SUBMIT --stdin=200 cat\n")
    assert said(other).startswith("ERROR QUEUE_FULL scripts and stdins on their way take 900 of 1000 bytes")
    other.send(b"y" * 200 + b"\r\nPING\n")
    assert said(other).endswith("\r\nOK\r\n")
    slow.transport.lose()
    other.send(b"SUBMIT --stdin=900 cat\n" + b"x" * 900 + b"\r\n")
    house.settle()
    assert "JOB_ID" in said(other)
    assert house.keeper._block_bytes == 0


def test_one_user_has_a_part_of_the_memory_for_blocks_and_one_block_whatever_its_size() -> None:
    keeper = house_of(block_memory=1000).keeper
    keeper.reserve(ANN, 600)
    with pytest.raises(QueueFull):
        keeper.reserve(ANN, 1)
    keeper.reserve(BOB, 1000 // SHARE)
    with pytest.raises(QueueFull):
        keeper.reserve(BOB, 1)
    keeper.reserve(ROOT, 100)
    keeper.reserve(ROOT, 50)
    with pytest.raises(QueueFull):
        keeper.reserve(ROOT, 1)
    keeper.give_back(ANN, 600)
    keeper.reserve(ANN, 500)


def test_a_block_of_no_bytes_takes_nothing_and_gives_nothing_back() -> None:
    keeper = house_of().keeper
    keeper.reserve(ANN, 5)
    keeper.reserve(ANN, 0)
    keeper.give_back(ANN, 5)
    keeper.give_back(ANN, 0)
    assert (keeper._block_bytes, keeper._block_bytes_of) == (0, {})


def test_without_limits_there_are_none() -> None:
    house = house_of(
        connections_per_user=None,
        connections_before_auth=None,
        auth_time=None,
        idle_time=None,
        block_memory=None,
    )
    clients = [user(house) for _ in range(20)] + [stranger(house) for _ in range(20)]
    house.keeper.reserve(ANN, 10**12)
    house.clock.pump([3600.0] * 100)
    assert not any(client.transport.is_closed for client in clients)


def test_what_was_known_of_who_has_left_is_forgotten() -> None:
    house = house_of()
    clients = [user(house), stranger(house), Client(house)]
    for client in clients:
        client.transport.lose()
    assert (house.keeper.guests, house.keeper._of, house.keeper._names, house.keeper._strangers) == (
        set(),
        {},
        {},
        {},
    )
    assert house.clock.getDelayedCalls() == []


# An AUTH that takes its time.


def test_what_comes_behind_an_auth_is_handled_in_the_light_of_it() -> None:
    house = house_of()
    house.access.slow = []
    client = stranger(house)
    client.send(b"AUTH t\nSUBMIT a\nSUBMIT --stdin=2 cat\nhi\r\nSTATUS 1\nQUIT\n")
    assert client.transport.received == b""
    house.access.slow[0].callback(ANN)
    house.settle()
    house.settle()
    words = [line.split()[0] for line in said(client).splitlines()]
    assert words == ["OK", "JOB_ID", "JOB_ID", "STATUS", "OK"]
    assert [job.owner for job in house.backlog.jobs.values()] == ["ann", "ann"]


def test_who_is_gone_before_he_is_known_leaves_nothing() -> None:
    house = house_of()
    house.access.slow = []
    client = stranger(house)
    client.send(b"AUTH t\nSUBMIT a\n")
    client.transport.lose()
    house.access.slow[0].callback(ANN)
    house.settle()
    assert (house.backlog.jobs, house.keeper._of) == ({}, {})


def test_the_factory_tells_when_all_are_gone() -> None:
    house = house_of()
    clients = [user(house), stranger(house)]
    closed = house.factory.close()
    for client in clients:
        client.read()
    assert result_of(closed) is None
    assert house.clock.getDelayedCalls() == []
