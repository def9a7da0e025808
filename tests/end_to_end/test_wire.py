"""docs/protocol.md §1: lines, the order of replies, and the end of a connection."""

import random
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, quote, until

LONGEST = 65_536

OVERLONG = [
    pytest.param(b"x" * (LONGEST + 1) + b"\n", id="65,537 bytes and LF"),
    pytest.param(b"x" * (LONGEST + 1) + b"\r\n", id="65,537 bytes and CRLF"),
    pytest.param(b"SUBMIT echo " + b"x" * LONGEST + b"\r\n", id="a SUBMIT"),
    pytest.param(b"x" * (LONGEST + 200_000), id="no end of line at all"),
    pytest.param(b"PING\r\n" * 3 + b"\xff\xf4" + b"x" * LONGEST * 2 + b"\r\n", id="behind other things"),
]

NOT_TEXT = [
    pytest.param(b"\xff", id="0xFF"),
    pytest.param(b"\x80", id="a continuation byte alone"),
    pytest.param(b"\xc3", id="half a letter"),
    pytest.param(b"\xc0\xaf", id="an overlong form"),
    pytest.param(b"\xed\xa0\x80", id="a surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", id="beyond Unicode"),
    pytest.param(b"\x00", id="NUL"),
]

HTTP = [
    b"GET / HTTP/1.1",
    b"POST / HTTP/1.1",
    b"POST /submit?x=1 HTTP/1.0",
    b"PUT / HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"HEAD / HTTP/1.1",
]

IAC, DONT, DO, WONT, WILL, SB, SE = b"\xff", b"\xfe", b"\xfd", b"\xfc", b"\xfb", b"\xfa", b"\xf0"
TIMING_MARK = b"\x06"

TELNET = [
    pytest.param(IAC + DO + b"\x01", IAC + WONT + b"\x01", id="DO ECHO"),
    pytest.param(IAC + DO + b"\x18", IAC + WONT + b"\x18", id="DO TERMINAL-TYPE"),
    pytest.param(IAC + WILL + b"\x1f", IAC + DONT + b"\x1f", id="WILL NAWS"),
    pytest.param(IAC + WILL + b"\x03", IAC + DONT + b"\x03", id="WILL SUPPRESS-GO-AHEAD"),
    pytest.param(IAC + WILL + b"\x0a", IAC + DONT + b"\x0a", id="WILL of the option that is LF"),
    pytest.param(IAC + DO + b"\xff", IAC + WONT + b"\xff", id="DO of the option that is IAC"),
    pytest.param(IAC + DONT + b"\x01", b"", id="DONT is not answered"),
    pytest.param(IAC + WONT + b"\x01", b"", id="WONT is not answered"),
    pytest.param(IAC + b"\xf6", b"[yes]\r\n", id="AYT"),
    pytest.param(IAC + DO + TIMING_MARK, IAC + WILL + TIMING_MARK, id="DO TIMING-MARK"),
    pytest.param(IAC + b"\xf4" + IAC + DO + TIMING_MARK, IAC + WILL + TIMING_MARK, id="Ctrl-C"),
    *(
        pytest.param(IAC + code, b"", id=name)
        for code, name in [
            (b"\xf1", "no operation"),
            (b"\xf2", "data mark"),
            (b"\xf3", "break"),
            (b"\xf4", "interrupt process"),
            (b"\xf5", "abort output"),
            (b"\xf7", "erase character"),
            (b"\xf8", "erase line"),
            (b"\xf9", "go ahead"),
        ]
    ),
    pytest.param(IAC + SB + b"\x18\x00xterm" + IAC + SE, b"", id="subnegotiation"),
    pytest.param(IAC + SB + b"\x1f\x00\x0a\x00\x0d\x0a" + IAC + SE, b"", id="subnegotiation with CR and LF"),
    pytest.param(
        IAC + SB + b"\x18" + IAC + IAC + SE + IAC + SE, b"", id="subnegotiation with an escaped IAC"
    ),
    pytest.param(
        IAC + WILL + b"\x18" + IAC + WILL + b"\x1f" + IAC + DO + b"\x01",
        IAC + DONT + b"\x18" + IAC + DONT + b"\x1f" + IAC + WONT + b"\x01",
        id="several at once",
    ),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("verb", [b"PING", b"ping", b"PiNg"])
def test_request_ends_in_lf_or_crlf_and_its_verb_ignores_case(wire: Wire, verb: bytes, ending: bytes) -> None:
    wire.send(verb + ending)
    assert wire.line().split(" ")[0] == "OK"


def test_server_sends_nothing_unasked_and_ignores_empty_lines(wire: Wire) -> None:
    wire.send_apart(b"\n", b"\r\n", b"\n\n\r\n\r\n", b"PING\r\n", b"\r\n")
    wire.half_close()
    assert re.fullmatch(rb"OK[^\r\n]*\r\n", wire.rest())


def test_request_may_arrive_in_any_pieces(wire: Wire) -> None:
    request = b"submit printf 'a b'\r\nWAIT %d\nPING\r\n"
    job = wire.submit("true")
    for cut in range(1, len(request), 3):
        job += 1
        text = request % job
        wire.send_apart(text[:cut], text[cut:])
        assert wire.lines(2) == [f"JOB_ID {job}", "STATUS COMPLETED 100"]
        assert wire.line().startswith("OK")
    text = request % (job + 1)
    wire.send_apart(*(text[at : at + 1] for at in range(len(text))))
    assert wire.lines(2) == [f"JOB_ID {job + 1}", "STATUS COMPLETED 100"]


@pytest.mark.parametrize("bad", NOT_TEXT)
def test_line_that_is_not_utf_8_or_has_nul_is_refused_and_the_session_continues(
    wire: Wire, bad: bytes
) -> None:
    for line in (
        b"SUBMIT echo " + bad,
        b"PI" + bad + b"NG",
        b"STATUS " + bad,
        b"SUBMIT --label=" + bad + b" true",
    ):
        wire.send(line + b"\r\nPING\r\n")
        refusal, alive = wire.lines(2)
        assert refusal.startswith("ERROR BAD_REQUEST ")
        assert alive.startswith("OK")


def test_command_may_be_any_utf_8(wire: Wire) -> None:
    job = wire.submit("printf %s 'naïve → 日本語 🎉'")
    assert wire.wait(job) == "COMPLETED"
    assert wire.ask(f"RESULT {job}") == (
        r'RESULT "na\xC3\xAFve \xE2\x86\x92 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\x8E\x89" "" 0'
    )
    assert wire.show(job)["command"] == "printf %s 'naïve → 日本語 🎉'"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_of_65_536_bytes_is_a_request(wire: Wire, ending: str) -> None:
    text = "x" * (LONGEST - len("SUBMIT echo "))
    wire.send(f"SUBMIT echo {text}{ending}".encode())
    job = int(wire.line().removeprefix("JOB_ID "))
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (text.encode() + b"\n", b"", "0")


@pytest.mark.parametrize("line", OVERLONG)
def test_longer_line_is_refused_and_ends_the_connection(running: Daemon, wire: Wire, line: bytes) -> None:
    wire.send(line)
    *others, refusal = wire.rest().split(b"\r\n")[:-1]
    assert refusal.startswith(b"ERROR LINE_TOO_LONG ")
    assert all(other.startswith(b"OK") for other in others)
    assert running.connect().ask("PING").startswith("OK")


def test_error_arrives_even_if_the_client_continues_to_send(running: Daemon) -> None:
    for client in (running.connect(), running.connect_tcp()):
        client.send(b"SUBMIT echo x" * LONGEST * 3)
        for _ in range(100):
            client.send(b"\r\nSUBMIT touch /never; exit 1" + b"x" * 100_000)
        assert re.fullmatch(rb"ERROR LINE_TOO_LONG [^\r\n]*\r\n", client.rest())
    assert not any("/never" in job["command"] for job in running.connect().list("--reverse"))


def test_many_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    jobs = [wire.submit(f"true {number}") for number in range(20)]
    wire.wait(jobs[-1])
    asked = random.Random(5).choices([*jobs, 0], k=5_000)  # 0 stands for a PING
    wire.send(b"".join(b"SHOW %d\r\n" % job if job else b"PING\n" for job in asked))
    for job in asked:
        if job:
            assert wire.read_job()["id"] == job
        else:
            assert wire.line().startswith("OK")


def test_request_sees_the_effect_of_those_before_it(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    wire.send(
        b"SUBMIT sleep 300\nSUBMIT echo never\nSTATUS 2\nCANCEL 2\nSTATUS 2\nRESULT 2\nCANCEL 2\n"
        b"SUBMIT --key=k true\nSUBMIT --key=k true\nSUBMIT --key=k false\n"
        b"CANCEL 1\nWAIT 1\nRETRY 2\nWAIT 2\nRESULT 2\n"
    )
    assert wire.lines(8) == [
        "JOB_ID 1",
        "JOB_ID 2",
        "STATUS PENDING 0",
        "STATUS CANCELLED 0",
        "STATUS CANCELLED 0",
        'RESULT "" "" -',
        "STATUS CANCELLED 0",
        "JOB_ID 3",
    ]
    assert wire.line() == "JOB_ID 3"
    assert wire.line().startswith("ERROR KEY_CONFLICT ")
    assert wire.line() in (
        "STATUS RUNNING 0",
        "STATUS CANCELLED 0",
    )  # the second if it has not been started yet
    assert wire.lines(4) == [
        "STATUS CANCELLED 0",
        "JOB_ID 2",
        "STATUS COMPLETED 100",
        r'RESULT "never\n" "" 0',
    ]


def test_reply_waits_for_those_before_it(wire: Wire) -> None:
    job = wire.submit("sleep 0.3")
    wire.send(f"WAIT {job}\r\nPING\r\nSTATUS {job}\r\n".encode())
    replies = wire.lines(3)
    assert replies[0] == replies[2] == "STATUS COMPLETED 100"
    assert replies[1].startswith("OK")


def test_waiting_client_does_not_delay_others(running: Daemon, wire: Wire) -> None:
    job = wire.submit("sleep 300")
    wire.send(f"WAIT {job}\r\n".encode())
    other = running.connect()
    other.wait_running(job)
    other.cancel(job)
    assert wire.line() == "STATUS CANCELLED 0"


def test_client_that_half_closes_gets_every_reply(wire: Wire) -> None:
    job = wire.submit("true") + 1
    wire.send(f"SUBMIT sleep 0.3; echo hi\nWAIT {job}\nRESULT {job}\nPING\nOUTPUT {job} stdout\n".encode())
    wire.half_close()
    assert wire.line() == f"JOB_ID {job}"
    assert wire.line() == "STATUS COMPLETED 100"
    assert wire.line() == r'RESULT "hi\n" "" 0'
    assert wire.line().startswith("OK")
    assert wire.block() == ("stdout", 0, b"hi\n")
    assert wire.rest() == b""


def test_vanished_client_leaves_nothing(running: Daemon) -> None:
    job = running.connect().submit("sleep 300")
    for last in (
        b"WAIT %d\r\n" % job,
        b"SUBMIT --stdin=100 cat\r\nabc",
        b"SHOW %d\r\n" % job * 5_000,
        b"PIN",
    ):
        client = running.connect()
        client.send(last)
        client.close()
    wire = running.connect()
    wire.cancel(job)
    assert wire.ask("PING").startswith("OK")


def test_client_that_does_not_read_delays_no_other_and_loses_nothing(running: Daemon, wire: Wire) -> None:
    length, times = 1 << 20, 300
    job = wire.submit(f"head -c {length} /dev/zero")
    assert wire.wait(job) == "COMPLETED"
    lazy = running.connect()
    request = f"OUTPUT {job} stdout\r\nSTATUS {job}\r\n".encode()
    # 300 MB of replies to 10 KB of requests, then enough requests to fill every buffer
    sender = threading.Thread(target=lambda: lazy.send(request * times + b"PING\r\n" * 50_000))
    before = running.memory()["VmRSS"]
    sender.start()
    for _ in range(200):
        assert wire.ask("PING").startswith("OK")
    assert wire.run("echo meanwhile").stdout == b"meanwhile\n"
    assert running.memory()["VmRSS"] - before < 64 << 20
    for _ in range(times):
        assert len(lazy.block().data) == length
        assert lazy.line() == "STATUS COMPLETED 100"
    for _ in range(50_000):
        assert lazy.line().startswith("OK")
    sender.join()


# Telnet.


def _whole(text: bytes) -> Iterator[list[bytes]]:
    yield [text]


def _cut_once(text: bytes) -> Iterator[list[bytes]]:
    for cut in range(1, len(text)):
        yield [text[:cut], text[cut:]]


def _byte_by_byte(text: bytes) -> Iterator[list[bytes]]:
    yield [text[at : at + 1] for at in range(len(text))]


@pytest.mark.parametrize("chunking", [_whole, _cut_once, _byte_by_byte])
@pytest.mark.parametrize("sequence, answer", TELNET)
def test_telnet_sequence_between_requests_is_answered_and_removed(
    wire: Wire, sequence: bytes, answer: bytes, chunking: Callable[[bytes], Iterator[list[bytes]]]
) -> None:
    for pieces in chunking(b"STATUS x\r\n" + sequence + b"STATUS y\n" + sequence + sequence):
        wire.send_apart(*pieces)
        assert wire.line().startswith("ERROR BAD_REQUEST ")
        assert wire.read(len(answer)) == answer
        assert wire.line().startswith("ERROR BAD_REQUEST ")
        assert wire.read(2 * len(answer)) == answer * 2
    assert wire.ask("PING").startswith("OK")


def test_telnet_sequence_is_answered_on_tcp_before_auth(running: Daemon) -> None:
    wire = running.connect_tcp(authenticate=False)
    wire.send(IAC + DO + TIMING_MARK)
    assert wire.read(3) == IAC + WILL + TIMING_MARK
    assert wire.ask("PING").startswith("OK")


@pytest.mark.parametrize("sequence", [IAC + b"\xf4", IAC + DO + TIMING_MARK, IAC])
def test_telnet_sequence_inside_a_line_is_a_bad_request(wire: Wire, sequence: bytes) -> None:
    for line in (b"PI" + sequence + b"NG", b"SUBMIT echo " + sequence, b"PING" + sequence):
        wire.send(line + b"\r\nPING\r\n")
        assert wire.line().startswith("ERROR BAD_REQUEST ")
        assert wire.line().startswith("OK")


@pytest.mark.parametrize("chunking", [_whole, _cut_once, _byte_by_byte])
def test_telnet_sequence_inside_a_block_is_data_and_behind_it_is_answered(
    wire: Wire, chunking: Callable[[bytes], Iterator[list[bytes]]]
) -> None:
    data = IAC + b"\xf4" + IAC + DO + TIMING_MARK + b"\r\nPING\r\n" + IAC
    request = b"SUBMIT --stdin=%d cat\r\n" % len(data) + data + b"\r\n" + IAC + DO + TIMING_MARK
    job = wire.submit("true")
    for pieces in chunking(request):
        wire.send_apart(*pieces)
        job += 1
        accepted, mark = b"JOB_ID %d\r\n" % job, IAC + WILL + TIMING_MARK
        assert wire.read(len(accepted + mark)) in (accepted + mark, mark + accepted)  # a mark may overtake
        assert wire.wait(job) == "COMPLETED"
        assert wire.result(job).stdout == data


# Web pages.


@pytest.mark.parametrize("line", HTTP)
@pytest.mark.parametrize("over_tcp", [False, True])
def test_http_request_is_closed_without_running_anything(
    running: Daemon, wire: Wire, line: bytes, over_tcp: bool
) -> None:
    mark = quote(line)
    browser = running.connect_tcp(authenticate=False) if over_tcp else running.connect()
    body = f"SUBMIT --label={mark} true\r\nPING\r\n" * 100
    browser.send(line + b"\r\nHost: localhost\r\nAuthorization: x\r\n\r\n" + body.encode())
    replies = browser.rest()
    assert re.fullmatch(rb"(ERROR [^\r\n]*\r\n)?", replies)
    assert wire.list(f"--label={mark}") == []
    assert wire.ask("PING").startswith("OK")


# Random lines.


def test_every_line_is_answered(running: Daemon, wire: Wire) -> None:
    chance = random.Random(2)
    seeds = [
        b"STATUS 1",
        b"RESULT 1",
        b"SHOW 1",
        b"LIST --status=PENDING --limit=1",
        b"OUTPUT 1 stdout --offset=1",
        b"WAIT 1 --timeout=1ms",
        b"CANCEL 99999",
        b"RETRY 99999",
        b"STATS",
        b"HELLO",
        b"HELP SUBMIT",
    ]
    for _ in range(2_000):
        text = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(1, len(text) + 1)  # the first letter stays, so that the line is not empty
            text[at : at + chance.randrange(2)] = bytes([chance.choice(b"\x00\x7f\xff\xc3\"'\\= -,0129aZ\t")])
        wire.send(bytes(text).replace(b"\n", b"") + b"\r\nSTATUS the end\r\n")
        replies = [wire.line()]
        while not replies[-1].startswith("ERROR BAD_REQUEST"):
            if replies[-1].startswith("DATA "):
                wire.read(int(replies[-1].split(" ")[3]) + 2)
            replies.append(wire.line())
        if len(replies) == 1:  # that was the answer to the line itself
            assert wire.line().startswith("ERROR BAD_REQUEST")
    until(lambda: running.connect().ask("PING").startswith("OK"), "the daemon to answer")
