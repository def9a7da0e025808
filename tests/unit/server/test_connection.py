"""A connection: lines and blocks in any pieces, replies in order, flow control, and its end."""

import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport, ITransport
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import AuthRequired
from taskqd.execution.run import Outcome
from taskqd.model.events import Output, Submitted
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.model.spec import Spec
from taskqd.protocol import parser
from taskqd.protocol.submit import MAX_BLOCK_SIZE, MAX_SKIPPED_BLOCK
from taskqd.server import pipeline
from taskqd.server.connection import LINES_PER_TURN
from taskqd.server.flow_control import MAX_BUFFERED
from taskqd.server.hangup_monitor import CHECK_INTERVAL
from taskqd.server.interfaces import IClient
from taskqd.server.time_slices import SLICE_LENGTH
from taskqd.server.transport import KEEP_ALIVE
from taskqd.server.transport_closer import CLOSE_TIMEOUT
from tests.fakes.client import Client, FakeClient
from tests.fakes.connections import FakeSocket, FakeTransport, chunkings
from tests.fakes.engine import Harness


def opened(slots: int = 2) -> Harness:
    harness = Harness(slots)
    harness.engine.start()
    return harness


def tcp_client(harness: Harness) -> Client:
    """Return a TCP client, which has to authenticate."""
    return Client(harness, FakeSocket(socket.AF_INET))


def beginnings(lines: list[str]) -> list[str]:
    """Return the first two words of each reply: what it is, and the id or the code."""
    return [" ".join(line.split(" ")[:2]) for line in lines]


def replies_to(data: bytes, harness: Harness | None = None) -> list[str]:
    """Return the beginnings of the replies to some requests, once everything is durable."""
    harness = harness or opened()
    client = Client(harness)
    client.send(data)
    harness.settle()
    client.read()
    return beginnings(client.lines())


def test_connection_provides_its_interfaces() -> None:
    connection = Client(opened()).connection
    for interface in (IClient, IHalfCloseableProtocol, IHandshakeListener):
        verifyObject(interface, connection)
    verifyObject(IClient, FakeClient())
    verifyObject(ITransport, FakeTransport(None))


# Lines, in any pieces.

CONVERSATIONS = [
    (b"PING\n", ["OK"]),
    (b"PING\r\n", ["OK"]),
    (b"ping\nPiNg\r\nPING\n", ["OK", "OK", "OK"]),
    (b" \t PING \t \n", ["OK"]),
    (b"\n\r\n  \r\nPING\n", ["OK"]),
    (b"PIN", []),
    (b"PING\nPING", ["OK"]),
    (b"PING\rPING\n", ["ERROR UNKNOWN_COMMAND"]),
    (b"PING\r\r\n", ["ERROR UNKNOWN_COMMAND"]),
    (b"FROB 1\nPING\n", ["ERROR UNKNOWN_COMMAND", "OK"]),
    (b"STATUS\nSTATUS x\nSTATUS 7\n", ["ERROR BAD_REQUEST", "ERROR BAD_REQUEST", "ERROR NO_SUCH_JOB"]),
    (b"PI\0NG\nPING\n", ["ERROR BAD_REQUEST", "OK"]),
    (b"SUBMIT echo \xe9\nPING\n", ["ERROR BAD_REQUEST", "OK"]),
    ("SUBMIT echo é\n".encode(), ["JOB_ID 1"]),
    (b"SUBMIT true\nSTATUS 1\nSUBMIT true\n", ["JOB_ID 1", "STATUS PENDING", "JOB_ID 2"]),
    (b"SUBMIT --stdin=5 cat\na\nb\r\n\r\nPING\n", ["JOB_ID 1", "OK"]),
    (b"SUBMIT --stdin=5 --script=3\ncatPING\r\n\nPING\n", ["ERROR BAD_REQUEST"]),
    (b"SUBMIT --stdin=4 --script=3\ncat\r\nPING\r\nPING\n", ["JOB_ID 1", "OK"]),
    (b"SUBMIT --stdin=0 cat\n\nPING\n", ["JOB_ID 1", "OK"]),
    (b"SUBMIT --bogus --stdin=4 cat\nPING\r\nPING\n", ["ERROR BAD_REQUEST", "OK"]),
    (b"SUBMIT --stdin=4 cat\nPING\rX\nPING\n", ["ERROR BAD_REQUEST"]),
    (b"SUBMIT --stdin=4 cat\nPING\r\r\nPING\n", ["ERROR BAD_REQUEST"]),
    (b"SUBMIT --stdin=x cat\nPING\n", ["ERROR BAD_REQUEST"]),
    (b"WATCH\nPING\n", ["OK 1", "END", "OK"]),
    (b"WATCH\n\nPING\n", ["OK 1", "END", "OK"]),
    (b"WATCH\r\n \r\n\r\nWATCH\r\n\r\n", ["OK 1", "END", "OK 1", "END"]),
    (b"SUBMIT true\nWATCH\n\nPING\n", ["JOB_ID 1", "OK 1", "END", "OK"]),
    (b"WATCH\nSUBMIT --stdin=2 cat\nab\nPING\n", ["OK 1", "END", "JOB_ID 1", "OK"]),
    (b"QUIT\nPING\n", ["OK"]),
    (b"SUBMIT true\nQUIT\nSUBMIT true\n", ["JOB_ID 1", "OK"]),
    (b"PING\nGET / HTTP/1.1\nPING\n", ["OK", "ERROR UNKNOWN_COMMAND", "OK"]),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSUBMIT true\n", []),
]


def test_line_that_is_too_long_ends_a_watch_like_any_line() -> None:
    watching = b"WATCH\n" + b"x" * (parser.MAX_LINE_LENGTH + 10) + b"\n"
    assert replies_to(watching) == ["OK 1", "END", "ERROR LINE_TOO_LONG"]


@pytest.mark.parametrize("sent, replies", CONVERSATIONS)
def test_conversation_is_the_same_in_pieces_of_any_size(sent: bytes, replies: list[str]) -> None:
    for pieces in chunkings(sent):
        harness = opened()
        client = Client(harness)
        for piece in pieces:
            client.send(piece)
        harness.settle()
        client.read()
        assert beginnings(client.lines()) == replies, pieces


def test_every_reply_line_ends_in_crlf() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\nSUBMIT true\nHELP\nFROB\n")
    harness.settle()
    assert client.transport.received.count(b"\n") == client.transport.received.count(b"\r\n") > 4


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_of_the_maximum_length_is_accepted(end: bytes) -> None:
    line = b"SUBMIT ".ljust(parser.MAX_LINE_LENGTH, b"x")
    assert replies_to(line + end) == ["JOB_ID 1"]


@pytest.mark.parametrize("more", [b"x\n", b"x\r\n", b"x" * 10, b"x" * 100_000, b"x" * 100_000 + b"\nPING\n"])
@pytest.mark.parametrize("size", [1000, 10_000_000])
def test_longer_line_is_refused_and_the_connection_ends_once_the_error_is_read(
    more: bytes, size: int
) -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\nSUBMIT ".ljust(parser.MAX_LINE_LENGTH + 5, b"x") + more, size)
    client.read()
    assert beginnings(client.lines()) == ["OK", "ERROR LINE_TOO_LONG"]
    assert client.transport.is_half_closed
    assert not client.transport.is_closed
    client.send(b"y" * 100_000)
    assert client.lines() == []
    client.half_close()
    assert client.transport.is_closed
    assert not client.transport.is_aborted
    assert harness.queue_state.jobs == {}


def test_client_that_does_not_close_after_the_last_reply_is_aborted_after_the_timeout() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"QUIT\n")
    client.read()
    assert client.transport.is_half_closed
    harness.clock.advance(CLOSE_TIMEOUT - 0.1)
    assert not client.transport.is_closed
    harness.clock.advance(0.2)
    assert client.transport.is_aborted
    assert harness.factory.connections == set()


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"POST /submit HTTP/1.1",
        b"HEAD / HTTP/1.0",
        b"PUT /x HTTP/1.1",
        b"DELETE /x HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT x:80 HTTP/1.1",
        b"PRI * HTTP/2.0",
    ],
)
def test_web_browser_gets_no_reply_and_submits_nothing(line: bytes) -> None:
    harness = opened()
    client = Client(harness)
    client.send(line + b"\r\nHost: localhost\r\n\r\nSUBMIT true\r\n")
    client.send(b"SUBMIT true\r\n")
    harness.settle()
    client.read()
    assert client.transport.received == b""
    assert client.transport.is_closed
    assert harness.journal.events == []


# Telnet.

IAC, DONT, DO, WONT, WILL, SB, SE, IP, DM = (
    bytes([n]) for n in (255, 254, 253, 252, 251, 250, 240, 244, 242)
)

SEQUENCES = [
    (IAC + DO + b"\x01", IAC + WONT + b"\x01"),
    (IAC + WILL + b"\x18", IAC + DONT + b"\x18"),
    (IAC + DO + b"\x06", IAC + WILL + b"\x06"),
    (IAC + DONT + b"\x01", b""),
    (IAC + WONT + b"\x01", b""),
    (IAC + IP, b""),
    (IAC + IP + IAC + DM, b""),
    (IAC + IP + IAC + DO + b"\x06", IAC + WILL + b"\x06"),
    (IAC + SB + b"\x18\x01\nPING\n" + IAC + SE, b""),
    (IAC + SB + b"\x1f" + IAC + IAC + SE + b"x" + IAC + SE, b""),
    (IAC + DO + b"\n", IAC + WONT + b"\n"),
    (IAC + WILL + IAC, IAC + DONT + IAC),
]


@pytest.mark.parametrize("sequence, answer", SEQUENCES)
def test_telnet_sequences_between_lines_are_answered_and_removed(sequence: bytes, answer: bytes) -> None:
    for sent, replies in (
        (sequence + b"PING\n", answer + b"OK\r\n"),
        (b"PING\r\n" + sequence + b"PING\r\n", b"OK\r\n" + answer + b"OK\r\n"),
        (sequence * 2 + b"\r\n" + sequence, answer * 3),
    ):
        for pieces in chunkings(sent):
            client = Client(opened())
            for piece in pieces:
                client.send(piece)
            assert client.transport.received == replies, pieces


def test_telnet_sequence_inside_a_line_is_refused_with_the_line() -> None:
    for pieces in chunkings(b"STAT" + IAC + IP + b"US 1\nPING\n"):
        client = Client(opened())
        for piece in pieces:
            client.send(piece)
        assert beginnings(client.lines()) == ["ERROR BAD_REQUEST", "OK"]


def test_telnet_sequences_inside_a_block_are_part_of_the_block() -> None:
    block = IAC + DO + b"\x06\n" + IAC + IP + b"\0"
    for pieces in chunkings(b"SUBMIT --stdin=7 cat\n" + block + b"\r\n"):
        harness = opened()
        client = Client(harness)
        for piece in pieces:
            client.send(piece)
        harness.settle()
        assert harness.spool.blocks == {1: {"stdin": block}}
        assert client.transport.received == b"JOB_ID 1\r\n"


def test_client_that_does_not_read_telnet_answers_is_not_read_from() -> None:
    client = Client(opened())
    client.send((IAC + DO + b"\x01") * 50_000 + b"PING\n", 3000)
    assert client.is_held_back
    assert len(client.transport.received) < 100_000
    for _ in range(5):
        client.read()
    assert client.transport.received == (IAC + WONT + b"\x01") * 50_000 + b"OK\r\n"


def test_telnet_answers_are_sent_between_lines_of_replies() -> None:
    client = Client(opened())
    client.connection.send_part(b'RESULT "a')
    client.send(IAC + DO + b"\x01")
    client.connection.send_part(b"b")
    client.connection.send(b'" "" 0\r\n')
    client.send(IAC + DO + b"\x06")
    assert client.transport.received == b'RESULT "ab" "" 0\r\n' + IAC + WONT + b"\x01" + IAC + WILL + b"\x06"


def test_client_that_is_rejected_within_a_line_of_a_reply_is_aborted_without_an_error() -> None:
    client = Client(opened())
    client.connection.send_part(b'RESULT "a')
    client.connection.close_with_error(AuthRequired("the token was revoked"))
    assert (client.transport.received, client.transport.is_aborted) == (b'RESULT "a', True)


def test_tcp_socket_has_inline_urgent_data_and_keep_alive() -> None:
    handle = FakeSocket(socket.AF_INET)
    Client(opened(), handle)
    assert (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1) in handle.options
    assert set(KEEP_ALIVE) <= set(handle.options)


def test_hangup_of_a_client_with_a_full_queue_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        harness = opened(1)
        harness.submit()
        client = Client(harness, ours)
        client.send(b"WAIT 1\n" + b"PING\n" * 5000)
        harness.clock.pump([0.0] * 30)
        assert not client.transport.is_reading
        harness.clock.advance(CHECK_INTERVAL)
        assert not client.transport.is_aborted
        theirs.close()
        harness.clock.advance(CHECK_INTERVAL)
        assert client.transport.is_aborted


# Order.


def test_replies_are_in_the_order_of_the_requests_however_long_one_takes() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\nPING\nSTATUS 1\nFROB\n")
    assert client.lines() == []
    harness.journal.sync()
    assert beginnings(client.lines()) == ["JOB_ID 1", "OK", "STATUS PENDING", "ERROR UNKNOWN_COMMAND"]


def test_submissions_are_in_flight_together_and_answered_in_order() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT a\nSUBMIT --bogus b\nSUBMIT c\nFROB\nSUBMIT d\n")
    assert len(harness.journal.pending) == 3
    assert client.lines() == []
    harness.settle()
    assert beginnings(client.lines()) == [
        "JOB_ID 1",
        "ERROR BAD_REQUEST",
        "JOB_ID 2",
        "ERROR UNKNOWN_COMMAND",
        "JOB_ID 3",
    ]


def test_earlier_submission_that_takes_longer_is_answered_first() -> None:
    harness = opened()
    harness.spool.is_slow = True
    client = Client(harness)
    client.send(b"SUBMIT --stdin=1 cat\nx\nSUBMIT true\n")
    harness.settle()
    assert client.lines() == []
    harness.spool.pending_writes[0].callback(None)
    harness.settle()
    assert client.lines() == ["JOB_ID 1", "JOB_ID 2"]


def test_each_request_sees_the_effect_of_those_before_it() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT a\nCANCEL 1\nRETRY 1\nSUBMIT --key=k b\nSUBMIT --key=k b\nSTATUS 2\nCANCEL 9\n")
    harness.settle()
    assert beginnings(client.lines()) == [
        "JOB_ID 1",
        "STATUS RUNNING",
        "ERROR WRONG_STATE",
        "JOB_ID 2",
        "JOB_ID 2",
        "STATUS PENDING",
        "ERROR NO_SUCH_JOB",
    ]


def test_wait_delays_later_requests_of_its_connection_only() -> None:
    harness = opened()
    harness.submit()
    client, other = Client(harness), Client(harness)
    client.send(b"WAIT 1\nPING\nSUBMIT true\n")
    other.send(b"PING\n")
    harness.settle()
    assert (client.lines(), other.lines()) == ([], ["OK"])
    harness.finish(1)
    harness.settle()
    assert client.lines() == ["STATUS COMPLETED 100", "OK", "JOB_ID 2"]


def test_many_waits_that_end_at_the_same_time_are_all_answered() -> None:
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n" * 900)
    harness.finish(1)
    harness.clock.advance(0)
    assert client.lines() == ["STATUS COMPLETED 100"] * 900
    assert not client.connection.is_awaited


def test_flood_of_one_client_is_read_in_several_reactor_turns() -> None:
    harness = opened()
    client, other = Client(harness), Client(harness)
    client.send(b"PING\n" * (3 * LINES_PER_TURN))
    other.send(b"PING\n")
    assert (len(client.lines()), other.lines()) == (LINES_PER_TURN, ["OK"])
    client.send(b"STATUS 1\n")
    assert client.lines() == []
    harness.clock.advance(0)  # this clock makes all reactor turns that are due
    lines = client.lines()
    assert len(lines) == 2 * LINES_PER_TURN + 1
    assert beginnings(lines[-2:]) == ["OK", "ERROR NO_SUCH_JOB"]


def test_transport_is_paused_until_most_of_a_flood_is_read() -> None:
    harness = opened()
    client = Client(harness)
    flood = b"PING" + b" " * 1000 + b"\n"
    client.send(flood * LINES_PER_TURN + flood * (MAX_BUFFERED // len(flood) + 2), size=1 << 20)
    client.send(b"PING\n")
    assert client.is_held_back
    harness.clock.advance(0)
    client.deliver()
    harness.clock.advance(0)
    assert not client.is_held_back
    assert len(client.lines()) == LINES_PER_TURN + MAX_BUFFERED // len(flood) + 3


def test_flood_that_ends_with_a_half_close_gets_every_reply_before_the_close() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\n" * (2 * LINES_PER_TURN + 1))
    client.half_close()
    assert not client.transport.is_closed
    harness.clock.advance(0)
    client.read()
    assert len(client.lines()) == 2 * LINES_PER_TURN + 1
    assert client.transport.is_closed


def test_flood_behind_a_quit_is_not_read() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\n" * LINES_PER_TURN + b"QUIT\n" + b"PING\n" * LINES_PER_TURN)
    harness.clock.advance(0)
    client.read()
    assert len(client.lines()) == LINES_PER_TURN + 1
    assert client.transport.is_half_closed


def test_client_lost_in_the_middle_of_a_flood_leaves_no_timer() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"PING\n" * (2 * LINES_PER_TURN))
    client.connection.connectionLost()
    harness.clock.advance(0)
    assert not harness.clock.getDelayedCalls()


def test_failed_journal_is_answered_and_the_connection_continues() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT a\nSUBMIT b\nPING\n")
    harness.journal.fail()
    client.send(b"SUBMIT c\nSTATUS 1\n")
    assert beginnings(client.lines()) == [
        "ERROR STORE_FAILED",
        "ERROR STORE_FAILED",
        "OK",
        "ERROR STORE_FAILED",
        "ERROR NO_SUCH_JOB",
    ]


# Blocks.


def test_blocks_are_stored_by_name_script_before_stdin() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT --stdin=2 --script=3 \r\nls\n\r\nin\r\nSTATUS 1\r\n")
    harness.settle()
    assert harness.spool.blocks == {1: {"script": b"ls\n", "stdin": b"in"}}
    assert (harness.job(1).spec.script, harness.job(1).spec.stdin) == (3, 2)
    assert beginnings(client.lines()) == ["JOB_ID 1", "STATUS PENDING"]


def test_submission_is_not_handled_before_its_blocks_have_arrived() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT --stdin=4 cat\nabcd\r")
    harness.settle()
    assert harness.spool.blocks == {}
    client.send(b"\n")
    harness.settle()
    assert client.lines() == ["JOB_ID 1"]


def test_submission_with_secrets_overlaps_with_no_other() -> None:
    """Its block is stored first, so the event of a later submission would come before its event."""
    harness = opened()
    harness.spool.is_slow = True
    client = Client(harness)
    client.send(b"SUBMIT --secret=A=1 a\nSUBMIT b\nSUBMIT --secret=A=2 --stdin=2 c\nhi\nSUBMIT d\n")
    for number in range(2):
        harness.settle()
        assert len(harness.spool.pending_writes) == number + 1
        harness.spool.pending_writes[number].callback(None)
    harness.settle()
    assert client.lines() == ["JOB_ID 1", "JOB_ID 2", "JOB_ID 3", "JOB_ID 4"]
    assert [event.id for event in harness.journal.events if isinstance(event, Submitted)] == [1, 2, 3, 4]
    assert harness.spool.blocks == {1: {"secret": b"A=1\0"}, 3: {"stdin": b"hi", "secret": b"A=2\0"}}
    client.send(b"SHOW 3\nHISTORY 3\nLIST\n")
    shown = client.transport.received
    assert b'"secrets":["A"]' in shown
    assert b"A=2" not in shown


REFUSED = [
    ("--bogus=1 --stdin=4 cat", "ERROR BAD_REQUEST"),
    ("--stdin=4", "ERROR BAD_REQUEST"),
    ("--array=3-1 --stdin=4 cat", "ERROR BAD_REQUEST"),
    ("--retries=x --stdin=4 cat", "ERROR BAD_REQUEST"),
]


@pytest.mark.parametrize("words, answer", REFUSED)
def test_refused_submission_is_answered_before_its_blocks_which_are_skipped(words: str, answer: str) -> None:
    harness = opened()
    client = Client(harness)
    client.send(f"SUBMIT {words}\n".encode())
    assert beginnings(client.lines()) == [answer]
    client.send(b"PING\r\nPING\n")
    assert client.lines() == ["OK"]
    assert harness.spool.blocks == {}


def test_block_that_is_too_large_is_refused_before_it_arrives_and_skipped() -> None:
    harness = opened()
    client = Client(harness)
    size = MAX_BLOCK_SIZE + 1
    client.send(b"SUBMIT --stdin=%d cat\r\n" % size)
    assert beginnings(client.lines()) == ["ERROR TOO_LARGE"]
    piece = b"PING\r\n" * 100_000
    for at in range(0, size, len(piece)):
        client.send(piece[: size - at])
    client.send(b"\r\nPING\r\n")
    assert client.lines() == ["OK"]


@pytest.mark.parametrize(
    "line, code",
    [
        (b"SUBMIT --stdin=%d cat" % (MAX_SKIPPED_BLOCK + 1), "TOO_LARGE"),
        (b"SUBMIT --stdin=1k cat", "BAD_REQUEST"),
        (b"SUBMIT --script", "BAD_REQUEST"),
        (b'SUBMIT --label="x --stdin=5 cat', "BAD_REQUEST"),
    ],
)
def test_connection_ends_after_an_error_that_leaves_the_block_sizes_unknown(line: bytes, code: str) -> None:
    client = Client(opened())
    client.send(line + b"\nPING\n")
    client.send(b"PING\n")
    client.read()
    assert beginnings(client.lines()) == [f"ERROR {code}"]
    assert client.transport.is_half_closed


def test_block_without_a_line_end_ends_the_connection_and_submits_nothing() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT --stdin=4 cat\nPINGPING\nPING\n")
    harness.settle()
    client.read()
    assert beginnings(client.lines()) == ["ERROR BAD_REQUEST"]
    assert client.transport.is_half_closed
    assert harness.queue_state.jobs == {}


# Authentication.

NEED_AUTH = [
    "SUBMIT true",
    *(f"{verb} 1" for verb in ("STATUS", "RESULT", "SHOW", "WAIT", "CANCEL")),
]


@pytest.mark.parametrize("line", [*NEED_AUTH, "RETRY 1", "LIST", "OUTPUT 1 stdout", "STATS", "STATUS x"])
def test_request_before_auth_is_refused(line: str) -> None:
    harness = opened()
    client = tcp_client(harness)
    client.send(f"{line}\n".encode())
    assert beginnings(client.lines()) == ["ERROR AUTH_REQUIRED"]
    assert harness.journal.pending == []


@pytest.mark.parametrize("line", ["PING", "HELP", "HELP SUBMIT", "HELLO"])
def test_some_requests_need_no_auth(line: str) -> None:
    client = tcp_client(opened())
    client.send(f"{line}\n".encode())
    assert "ERROR" not in " ".join(client.lines())


def test_auth_applies_from_the_next_request_on() -> None:
    harness = opened()
    client = tcp_client(harness)
    client.send(b"SUBMIT a\nAUTH sesame\nSUBMIT b\nSUBMIT --stdin=2 cat\nhi\n")
    harness.settle()
    assert client.lines() == [
        "ERROR AUTH_REQUIRED SUBMIT needs authentication; send AUTH <token> first",
        "OK token admin",
        "JOB_ID 1",
        "JOB_ID 2",
    ]
    assert harness.job(1).owner == "token"
    assert harness.spool.blocks == {2: {"stdin": b"hi"}}


def test_blocks_before_auth_are_skipped() -> None:
    harness = opened()
    client = tcp_client(harness)
    for pieces in chunkings(b"SUBMIT --stdin=12 cat\nAUTH sesame\n\r\nSTATS\n"):
        for piece in pieces:
            client.send(piece)
        assert beginnings(client.lines()) == ["ERROR AUTH_REQUIRED", "ERROR AUTH_REQUIRED"]
    assert harness.spool.blocks == {}


def test_connection_ends_after_three_wrong_tokens() -> None:
    harness = opened()
    client = tcp_client(harness)
    client.send(b"AUTH x\nPING\nAUTH y\nAUTH z\nAUTH sesame\n")
    client.read()
    assert beginnings(client.lines()) == ["ERROR AUTH_FAILED", "OK", "ERROR AUTH_FAILED", "ERROR AUTH_FAILED"]
    assert client.transport.is_half_closed
    assert client.connection.principal is None


def test_peer_of_a_unix_socket_needs_no_token_and_may_become_another_user_with_one() -> None:
    harness = opened()
    client = Client(harness, FakeSocket(uid=4_000_000))
    client.send(b"SUBMIT a\nAUTH sesame\nSUBMIT b\n")
    harness.settle()
    assert [job.owner for job in harness.queue_state.jobs.values()] == ["4000000", "token"]
    assert client.connection.principal == Principal("token", Role.ADMIN)


def test_auth_is_checked_with_the_address_of_the_connection() -> None:
    harness = opened()
    for client in (tcp_client(harness), Client(harness)):
        client.send(b"AUTH sesame\n")
    assert harness.authenticator.asked == [("sesame", "10.0.0.5:4242"), ("sesame", "pid 4711")]


def test_address_behind_a_proxy_that_does_not_report_it_is_unix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = opened()
    client = tcp_client(harness)
    monkeypatch.setattr(client.transport, "getPeer", lambda: UNIXAddress(""))
    client.send(b"AUTH sesame\n")
    assert harness.authenticator.asked == [("sesame", "unix")]


# Flow control.


def submit_noisy_job(harness: Harness, size: int) -> None:
    """Submit job 1, which has printed `size` bytes."""
    harness.submit()
    harness.spool.writers[1].write(1, b"." * size)


def test_client_that_does_not_read_is_not_read_from_until_it_reads() -> None:
    harness = opened()
    submit_noisy_job(harness, 50_000)
    client = Client(harness)
    request = b"OUTPUT 1 stdout\n"
    client.send(request * 20, len(request))
    assert client.is_held_back
    assert not client.transport.is_reading
    assert client.transport.received.count(b"DATA") == 2
    while client.is_held_back or not client.transport.is_reading:
        client.read()
    assert client.transport.received.count(b"DATA stdout 0 50000\r\n") == 20


def test_requests_received_in_one_piece_wait_for_the_client_to_read() -> None:
    harness = opened()
    submit_noisy_job(harness, 50_000)
    client = Client(harness)
    client.send(b"OUTPUT 1 stdout\n" * 20 + b"PING\n")
    assert client.transport.received.count(b"DATA") == 2
    for _ in range(20):
        client.read()
    assert client.transport.received.count(b"DATA stdout 0 50000\r\n") == 20
    assert client.transport.received.endswith(b"\r\nOK\r\n")


def test_queued_requests_are_handled_as_the_client_reads() -> None:
    harness = opened()
    submit_noisy_job(harness, 50_000)
    client = Client(harness)
    client.send(b"WAIT 1 --timeout=1\n" + b"OUTPUT 1 stdout\n" * 20)
    harness.clock.advance(1)
    assert client.transport.received.count(b"DATA") == 2
    for _ in range(20):
        client.read()
    assert client.transport.received.count(b"DATA stdout 0 50000\r\n") == 20


def test_list_is_sent_as_the_client_reads_it() -> None:
    harness = opened(0)
    for number in range(300):
        harness.submit(f"echo {number}")
    client = Client(harness)
    client.send(b"LIST --limit=1000\nPING\n")
    assert 0 < client.transport.received.count(b"JOB ") < 300
    for _ in range(20):
        client.read()
    lines = client.lines()
    assert len(lines) == 302
    assert lines[-2:] == ["END 300", "OK"]


def test_number_of_submissions_in_flight_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT", 3)
    harness = opened(0)
    client = Client(harness)
    client.send(b"SUBMIT true\n" * 8)
    assert len(harness.journal.pending) == 3
    harness.journal.sync()
    assert len(harness.journal.pending) == 3
    harness.settle()
    assert client.lines() == [f"JOB_ID {number}" for number in range(1, 9)]


@pytest.mark.parametrize("options", [b"", b'--label="of any kind" --env=PATH=' + 3000 * b"x" + b" "])
@pytest.mark.parametrize("before, batches", [(b"", [1, 3]), (b"WAIT 1\n", [4])])
def test_plain_submissions_of_one_read_or_one_queue_are_one_batch(
    before: bytes, batches: list[int], options: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened()
    harness.submit()
    counts: list[int] = []
    submit_all = harness.engine.submissions.submit_all

    def counted(batches: Any) -> Any:
        counts.extend(sum(len(each.commands) for each in batch.submissions) for batch in batches)
        return submit_all(batches)

    monkeypatch.setattr(harness.engine.submissions, "submit_all", counted)
    client = Client(harness)
    client.send(before)
    client.send(b"SUBMIT one\n")
    client.send(b"SUBMIT " + options + b"two\n\r\nSUBMIT three\nSUBMIT four\n")
    harness.finish(1)
    harness.settle()
    assert counts == batches
    assert client.lines()[-4:] == [f"JOB_ID {number}" for number in range(2, 6)]


def test_client_with_a_full_queue_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED", 5)
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n" + b"PING\n" * 50, 5)
    assert client.is_held_back
    harness.finish(1)
    client.read()
    assert client.lines() == ["STATUS COMPLETED 100", *["OK"] * 50]


def test_client_with_too_many_queued_bytes_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED_BYTES", 1000)
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n")
    client.send(b"SUBMIT --stdin=600 cat\n" + b"x" * 600 + b"\r\n")
    assert client.transport.is_reading
    client.send(b"SUBMIT --stdin=600 cat\n" + b"x" * 600 + b"\r\n")
    assert not client.transport.is_reading
    client.send(b"PING\n")
    assert client.is_held_back
    harness.finish(1)
    harness.settle()
    client.read()
    assert client.lines() == ["STATUS COMPLETED 100", "JOB_ID 2", "JOB_ID 3", "OK"]


def test_full_queue_that_arrived_in_one_piece_is_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED", 5)
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n" + b"PING\n" * 50)
    assert not client.transport.is_reading
    harness.finish(1)
    assert client.lines() == ["STATUS COMPLETED 100", *["OK"] * 50]
    assert client.transport.is_reading


# The end of a connection.


def test_client_that_half_closes_gets_every_reply_before_the_close() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\nWAIT 1\nPING\nnot a whole li")
    client.half_close()
    client.read()
    assert not client.transport.is_closed
    harness.settle()
    client.read()
    assert client.lines() == ["JOB_ID 1"]
    assert not client.transport.is_closed
    harness.finish(1)
    client.read()
    assert client.lines() == ["STATUS COMPLETED 100", "OK"]
    assert client.transport.is_closed
    assert not client.transport.is_aborted


@pytest.mark.parametrize("rest", [b"", b"PIN", b"\xff", b"\xff\xfd", b"SUBMIT --stdin=5 cat\nabc"])
def test_half_close_with_nothing_to_answer_closes_the_connection(rest: bytes) -> None:
    client = Client(opened())
    client.send(rest)
    client.half_close()
    client.read()
    assert client.transport.is_closed


@pytest.mark.parametrize("count", [1, 5])
def test_half_close_before_large_replies_are_read_closes_once_they_are(count: int) -> None:
    harness = opened()
    submit_noisy_job(harness, 100_000)
    client = Client(harness)
    client.send(b"OUTPUT 1 stdout\n" * count)
    client.half_close()
    for _ in range(count + 1):
        client.read()
    assert client.transport.received.count(b"DATA stdout 0 100000\r\n") == count
    assert client.transport.is_closed


def test_half_close_with_a_full_queue_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED", 5)
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n" + b"PING\n" * 50)
    client.half_close()
    harness.finish(1)
    client.read()
    assert client.lines() == ["STATUS COMPLETED 100", *["OK"] * 50]
    assert client.transport.is_closed


def test_half_close_with_a_submission_in_flight_loses_no_reply() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\nSUBMIT --stdin=x cat\n")
    client.half_close()
    client.read()
    assert not client.transport.is_closed
    harness.settle()
    client.read()
    assert beginnings(client.lines()) == ["JOB_ID 1", "ERROR BAD_REQUEST"]
    assert client.transport.is_closed


@pytest.mark.parametrize("line", [b"QUIT\n", b"SUBMIT --stdin=x cat\n", b"x" * 70_000])
def test_request_that_ends_the_connection_is_answered_after_all_before_it(line: bytes) -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT a\nSUBMIT b\n" + line)
    client.read()
    assert client.lines() == []
    assert not client.transport.is_half_closed
    harness.settle()
    assert len(client.lines()) == 3
    client.read()
    assert client.transport.is_half_closed


def test_quit_after_a_large_reply_closes_once_it_is_read() -> None:
    harness = opened()
    submit_noisy_job(harness, 100_000)
    client = Client(harness)
    client.send(b"OUTPUT 1 stdout\nQUIT\n")
    for _ in range(3):
        client.read()
    assert client.transport.received.endswith(b"\r\nOK\r\n")
    assert client.transport.is_half_closed
    client.half_close()
    assert client.transport.is_closed


def test_client_lost_while_it_waits_leaves_no_waiter() -> None:
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\nPING\n")
    assert harness.engine.waiter_count == 1
    client.transport.lose()
    assert harness.engine.waiter_count == 0
    harness.finish(1)
    assert client.transport.received == b""


def test_client_that_hangs_up_after_a_half_close_leaves_no_waiter() -> None:
    harness = opened()
    harness.submit()
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        client = Client(harness, ours)
        client.send(b"WAIT 1\n")
        theirs.shutdown(socket.SHUT_WR)
        client.half_close()
        harness.clock.pump([CHECK_INTERVAL] * 5)
        assert not client.transport.is_closed
        theirs.close()
        harness.clock.advance(CHECK_INTERVAL)
    assert client.transport.is_aborted
    assert not harness.engine.waiter_count
    assert harness.clock.getDelayedCalls() == []


def test_client_that_hung_up_before_its_half_close_was_read_leaves_no_waiter() -> None:
    harness = opened()
    harness.submit()
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours:
        client = Client(harness, ours)
        client.send(b"SUBMIT true\nWAIT 1\n")
        theirs.close()
        client.half_close()
    assert client.transport.is_closed
    harness.settle()
    assert list(harness.queue_state.jobs) == [1, 2]
    assert not harness.engine.waiter_count


def test_answered_client_is_not_checked_for_a_hangup() -> None:
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\n")
    client.half_close()
    harness.finish(1)
    client.read()
    assert client.transport.is_closed
    assert harness.clock.getDelayedCalls() == []


def test_submissions_in_flight_of_a_lost_client_are_accepted() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\nSUBMIT true\n")
    client.transport.lose()
    harness.settle()
    assert list(harness.queue_state.jobs) == [1, 2]
    assert [job.status for job in harness.queue_state.jobs.values()] == [Status.RUNNING] * 2


def test_queued_requests_of_a_lost_client_are_dropped() -> None:
    harness = opened()
    harness.submit()
    client = Client(harness)
    client.send(b"WAIT 1\nSUBMIT true\n")
    client.transport.lose()
    harness.finish(1)
    assert list(harness.queue_state.jobs) == [1]


@pytest.mark.parametrize(
    "request_line", [b"LIST --limit=1000\n", b"OUTPUT 1 stdout\n", b"RESULT 1\n", b"CANCEL 1\n"]
)
def test_client_lost_in_the_middle_of_a_reply_leaves_nothing(request_line: bytes) -> None:
    harness = opened()
    submit_noisy_job(harness, 200_000)
    for _ in range(300):
        harness.submit()
    client = Client(harness)
    client.send(request_line + b"PING\n")
    client.transport.lose()
    harness.settle()
    harness.clock.advance(1)
    assert not client.connection.is_awaited
    assert client.connection.is_idle(harness.clock.seconds())
    assert harness.clock.getDelayedCalls() == []


def test_lost_client_leaves_no_close_timer() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"QUIT\n")
    client.read()
    client.transport.lose()
    assert harness.clock.getDelayedCalls() == []


# Internal errors.


@pytest.mark.parametrize("handler", [lambda *_: 1 / 0, lambda *_: fail(ZeroDivisionError())])
def test_exception_in_a_handler_is_logged_and_answered_and_the_connection_continues(
    handler: Callable[..., Any], logged_errors: Any
) -> None:
    harness = opened()
    harness.router._handlers["STATUS"] = handler
    client = Client(harness)
    client.send(b"STATUS 1\nPING\n")
    assert client.lines() == ["ERROR INTERNAL internal error in STATUS; see the daemon's log", "OK"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("is_at_once", [True, False])
def test_exception_in_a_batch_is_answered_to_each_submission(
    is_at_once: bool, logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        if is_at_once:
            raise ZeroDivisionError
        return fail(ZeroDivisionError())

    harness = opened()
    monkeypatch.setattr(harness.engine.submissions, "submit_all", broken)
    client = Client(harness)
    client.send(b"SUBMIT a\nSUBMIT b\nPING\n")
    assert beginnings(client.lines()) == ["ERROR INTERNAL", "ERROR INTERNAL", "OK"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_exception_for_a_lost_client_is_ignored(logged_errors: Any) -> None:
    harness = opened()
    slow: Deferred[bytes] = Deferred()
    harness.router._handlers["STATUS"] = lambda *_: slow
    client = Client(harness)
    client.send(b"STATUS 1\n")
    client.transport.lose()
    slow.errback(ZeroDivisionError())
    logged_errors.flush(ZeroDivisionError)
    assert client.transport.received == b""


# TLS.


class SecureTransport(FakeTransport):
    """A transport over TLS: it has no half-close, and its handle is not a socket."""

    def __init__(self, handle: Any) -> None:
        super().__init__(handle)
        self.transport = FakeTransport(FakeSocket(socket.AF_INET))
        directlyProvides(self, ISSLTransport)

    def getHandle(self) -> Any:
        pytest.fail("its handle is not used")

    def loseWriteConnection(self) -> None:
        pytest.fail("TLS cannot half-close")

    def loseConnection(self) -> None:
        assert self._producer is None, "TLS does not close before its producer is gone"
        super().loseConnection()


def test_tls_client_needs_auth_and_its_connection_is_closed_not_half_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.fakes.client.FakeTransport", SecureTransport)
    client = Client(opened())
    client.send(b"STATS\nAUTH sesame\nQUIT\n")
    client.read()
    assert beginnings(client.lines()) == ["ERROR AUTH_REQUIRED", "OK token", "OK"]
    assert client.transport.is_closed


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_rejected_tls_client_gets_an_error_only_after_the_handshake(
    is_encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakes.client.FakeTransport", SecureTransport)
    harness = opened()
    client = Client(harness)
    if is_encrypted:
        client.connection.handshakeCompleted()
    harness.clock.advance(harness.limits.auth_time or 0)
    assert client.transport.is_aborted is not is_encrypted
    assert beginnings(client.lines()) == ["ERROR AUTH_REQUIRED"] * is_encrypted
    client.read()
    assert client.transport.is_closed
    assert harness.clock.getDelayedCalls() == []


def test_certificate_identifies_its_user_and_one_connection_too_many_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.fakes.client.FakeTransport", SecureTransport)
    harness = Harness(limits=Limits(connections_per_user=1))
    harness.authenticator.certified = Principal("ana", Role.SUBMIT, "10.0.0.5:4242")
    clients = [Client(harness) for _ in range(2)]
    for client in clients:
        client.connection.handshakeCompleted()
        client.send(b"SUBMIT true\n")
    harness.settle()
    assert [beginnings(client.lines()) for client in clients] == [["JOB_ID 1"], ["ERROR QUEUE_FULL"]]
    assert harness.job(1).owner == "ana"
    assert clients[1].connection.principal is None


# Random input.

TOKENS = st.sampled_from(
    [
        *(
            b"PING",
            b"SUBMIT ",
            b"STATUS 1",
            b"LIST",
            b"WAIT 1 --timeout=1",
            b"CANCEL 1",
            b"AUTH x",
            b"HELP",
            b"QUIT",
        ),
        *(b"--stdin=3 ", b"--script=2 ", b"--stdin=", b"--key=k ", b'--label="', b"true", b"GET / ", b"abc"),
        *(
            b"\n",
            b"\r\n",
            b"\r",
            b"\0",
            b"\xff",
            b"\xff\xfd\x06",
            b"\xff\xfa",
            b"\xff\xf0",
            b" ",
            b"\xc3\xa9",
        ),
    ]
)
SENT = st.lists(TOKENS | st.binary(max_size=3), max_size=25).map(b"".join)


def talk(sent: bytes, cuts: list[int], is_tcp: bool) -> tuple[bytes, dict[int, Spec]]:
    harness = opened()
    harness.submit()
    client = tcp_client(harness) if is_tcp else Client(harness)
    places = sorted({0, len(sent), *(cut % (len(sent) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        client.send(sent[start:end])
    client.half_close()
    for _ in range(3):
        harness.settle()
        harness.clock.advance(1)
        client.read()
    assert client.transport.is_closed
    return client.transport.received, {job.id: job.spec for job in harness.queue_state.jobs.values()}


@settings(max_examples=250, deadline=None)
@given(SENT, st.lists(st.integers(0, 200), max_size=5), st.booleans())
@example(b"SUBMIT --stdin=3 --script=2 \nab\r\nabc\r\nPING\n", [3, 30, 35], False)
def test_random_input_gets_the_same_replies_in_pieces_of_any_size(
    sent: bytes, cuts: list[int], is_tcp: bool
) -> None:
    assert talk(sent, cuts, is_tcp) == talk(sent, [], is_tcp)


def test_exception_in_the_parser_is_answered_before_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch, logged_errors: Any
) -> None:
    def fail(line: bytes) -> parser.Request:
        raise ValueError(f"{len(line)} bytes")

    client = Client(opened())
    client.send(b"PING\n")
    monkeypatch.setattr(parser, "parse_line", fail)
    client.send(b"STATUS 1\nPING\n")
    assert client.transport.received.splitlines() == [
        b"OK",
        b"ERROR INTERNAL internal error in this line; see the daemon's log",
    ]
    assert len(logged_errors.flush(ValueError)) == 1


# Long replies, and many requests in one read.


def harness_with_jobs(count: int = 10) -> Harness:
    harness = opened()
    for _ in range(count):
        harness.submit()
    return harness


class SlowClock:
    """Lets time pass with each use of a harness's clock, as if work was done."""

    def __init__(self, harness: Harness, seconds: float) -> None:
        clock = harness.clock
        look = clock.seconds

        def seconds_pass() -> float:
            clock.rightNow += seconds
            return look()

        clock.seconds = seconds_pass  # type: ignore[method-assign]


def run_turns(harness: Harness) -> int:
    """Run reactor turns until no call is due, and return their number."""
    turns = 0
    while calls := [call for call in harness.clock.calls if call.getTime() <= harness.clock.rightNow]:
        for call in calls:
            harness.clock.calls.remove(call)
            call.func(*call.args, **call.kw)
        turns += 1
    return turns


def test_long_list_yields_to_other_requests_and_is_complete() -> None:
    harness = harness_with_jobs()
    client, other = Client(harness), Client(harness)
    SlowClock(harness, SLICE_LENGTH / 3)
    client.send(b"LIST\nPING\n")
    assert client.transport.received.count(b"JOB") < 5
    other.send(b"PING\n")
    assert other.lines() == ["OK"], "before the list is done"
    assert run_turns(harness) > 3
    assert [line.split()[0] for line in client.lines()] == ["JOB"] * 10 + ["END", "OK"]


def test_client_lost_in_the_middle_of_a_long_list_leaves_nothing() -> None:
    harness = harness_with_jobs()
    client = Client(harness)
    SlowClock(harness, SLICE_LENGTH)
    client.send(b"LIST\n")
    client.transport.lose()
    run_turns(harness)
    assert client.transport.received.count(b"JOB") < 10
    assert not client.connection.is_awaited


def test_client_rejected_in_the_middle_of_a_long_list_gets_nothing_after_the_error() -> None:
    harness = harness_with_jobs()
    client = Client(harness)
    SlowClock(harness, SLICE_LENGTH)
    client.send(b"LIST\n")
    client.connection.close_with_error(AuthRequired("go"))
    sent = client.transport.received
    run_turns(harness)
    assert client.transport.received == sent
    assert sent.endswith(b"ERROR AUTH_REQUIRED go\r\n")


def test_many_requests_of_one_read_yield_to_other_requests() -> None:
    harness = harness_with_jobs(1)
    client, other = Client(harness), Client(harness)
    SlowClock(harness, SLICE_LENGTH / 2)
    client.send(b"STATUS 1\n" * 100)
    assert client.transport.received.count(b"STATUS") < 100
    other.send(b"PING\n")
    assert other.lines() == ["OK"]
    assert run_turns(harness) > 3
    assert client.lines() == ["STATUS RUNNING 0"] * 100


def test_requests_that_have_yielded_are_handled_in_order() -> None:
    harness = harness_with_jobs(1)
    client = Client(harness)
    client.send(b"WAIT 1\n" + b"STATUS 1\nPING\n" * 50)
    SlowClock(harness, SLICE_LENGTH / 2)
    harness.finish(1)
    assert client.transport.received.count(b"OK") < 50
    run_turns(harness)
    assert client.lines() == ["STATUS COMPLETED 100", *["STATUS COMPLETED 100", "OK"] * 50]


def test_long_line_that_waits_is_parsed_again_when_it_is_handled() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\n")
    harness.settle()
    environment = b" ".join(b"--env=V%d=%d" % (number, number) for number in range(100))
    client.send(b"WAIT 1\nSUBMIT --hold %b --stdin=2 cat\n" % environment)
    client.send(b"ab\r\nSUBMIT --hold %b --queue=\n" % environment)
    harness.finish(1)
    harness.settle()
    replies = client.lines()
    assert replies[:3] == ["JOB_ID 1", "STATUS COMPLETED 100", "JOB_ID 2"]
    assert replies[3].startswith("ERROR BAD_REQUEST")
    assert len(harness.job(2).spec.env) == 100
    assert harness.spool.blocks[2] == {"stdin": b"ab"}


def test_reply_that_cannot_be_completed_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\n")
    harness.settle()
    harness.spool.leftovers[1, 1] = (b"x" * 70_000, b"")
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(100_000), stderr=Output(0)))
    client.transport.received = b""
    client.send(b"OUTPUT 1 stdout\nPING\n")
    client.read()
    assert client.transport.is_aborted
    assert client.transport.received.endswith(b"x")
    assert "a reply could not be completed, so the connection was closed: OUTPUT of job 1" in caplog.text
