"""Any bytes in any pieces: one reply to each request that a second parser finds in them, and nothing else.

Also the fuzzers themselves: they use every verb and option, no session lets a job run, and wrong replies
are detected.
"""

import random
import socket
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskqd.client import encoder as client
from taskqd.errors import TaskqError
from taskqd.protocol import parser, verbs
from taskqd.protocol.schedule_requests import SCHEDULE_OPTIONS
from taskqd.protocol.submit import SET_OPTIONS, SUBMIT_OPTIONS
from tests.fakes.client import Client
from tests.fakes.connections import FakeSocket
from tests.fakes.engine import Harness, opened, running
from tests.fuzz import oddities
from tests.fuzz.grammar import Grammar
from tests.fuzz.reply_checker import ALL_CODES, REPLIES, ReplyChecker, RuleBroken
from tests.fuzz.session import Cut, Session, load, make_playable, save
from tests.fuzz.session_maker import KINDS, Maker, recorded
from tests.fuzz.stream_parser import ParsedRequest, parse_stream

VERBS = frozenset(verb.encode() for verb in verbs.VERBS)
MAKER = Maker(recorded())
TURNS = 60

SESSIONS = st.builds(
    lambda number, kind: MAKER.make(f"test {number}", kind, "unix", "", [1, 2], 9).data[:20_000],
    st.integers(0, 10**9),
    st.sampled_from(KINDS),
)
SCRAPS = st.sampled_from(
    [verb.encode() for verb in verbs.VERBS]
    + [b"--%b=" % name.encode() for name in SUBMIT_OPTIONS]
    + [word for word in (*oddities.WORDS, *oddities.TELNET, *oddities.HUGE) if len(word) < 100]
    + [b" ", b"\n", b"\r\n", b" 1", b" 2.1", b"SUBMIT --stdin=3 cat\nabc\r\n", b"AUTH sesame\n"]
)
BYTES = SESSIONS | st.lists(SCRAPS | st.binary(max_size=4), max_size=30).map(b"".join)


def stop_jobs(harness: Harness) -> None:
    """Finish running jobs and let none start: a harness is not garbage-collected while jobs can start."""
    harness.pause()
    harness.settle()
    for job_id in running(harness):
        harness.finish(job_id)


def check_replies(data: bytes, cuts: Sequence[int], is_tcp: bool) -> None:
    """Send input to a harness with an ended job and an array, where no job starts, and check the replies."""
    harness = opened()
    harness.submit()
    harness.submit(array=parser.parse_line(b"SUBMIT --array=0-2 true").argument.spec.array)
    harness.finish(1)
    stop_jobs(harness)
    checker = ReplyChecker(parse_stream(data, VERBS), {"AUTH_REQUIRED"} if is_tcp else set())
    client = Client(harness, FakeSocket(socket.AF_INET) if is_tcp else None)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        client.send(data[start:end])
    is_open = True
    for _ in range(TURNS):
        client.deliver()
        if (
            is_open and not client._unsent
        ):  # an end arrives behind everything that was sent, even if that had to wait
            is_open = False
            client.half_close()
        harness.settle()
        harness.clock.advance(0.01)
        client.read()
        received_bytes, client.transport.received = client.transport.received, b""
        checker.feed(received_bytes)
        if client.transport.is_closed:
            checker.end()
            break
    else:
        waits_for = checker.awaited
        assert waits_for is not None, "not closed, though all requests are answered"
        assert waits_for.may_wait, f"not closed, and waits for {waits_for}"
        client.transport.lose()
    stop_jobs(harness)


@settings(max_examples=300, deadline=None)
@given(BYTES, st.lists(st.integers(0, 20_000), max_size=6), st.booleans())
@example(b"SUBMIT --stdin=3 --script=2 \nab\r\nabc\r\nPING\n", [3, 30, 35], False)
def test_each_request_that_the_second_parser_finds_has_one_reply(
    data: bytes, cuts: list[int], is_tcp: bool
) -> None:
    check_replies(data, cuts, is_tcp)


# Inputs that fuzzers have found.


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SUBMIT --key=a true\n" * 600, id="one key many times"),
        pytest.param(b"SUBMIT --key=a true\nCANCEL 1\n" * 600, id="a key and a cancel in turn"),
        pytest.param(b"STATUS 2.1\nSTATUS 3.1\nSTATUS 5.2\nSTATUS 1.1\n", id="a task of a task"),
        pytest.param(b"SUBMIT --after=5.2 true\n", id="after a task of a task"),
        pytest.param(b"WAIT 2\n" + b"PING\n" * 3000, id="more than may be queued"),
        pytest.param(b"SUBMIT --stdin=0 cat\n\n" * 50, id="empty blocks"),
    ],
)
def test_input_that_once_failed_is_answered(data: bytes) -> None:
    check_replies(data, [], is_tcp=False)


def test_empty_blocks_beside_other_blocks_of_one_user_are_answered() -> None:
    harness = opened()
    one, other = Client(harness), Client(harness)
    one.send(b"SUBMIT --stdin=0 cat\n\n")
    other.send(b"SUBMIT --stdin=5 cat\nhello\n")
    harness.settle()
    assert (one.lines(), other.lines()) == (["JOB_ID 1"], ["JOB_ID 2"])


# Making input.


def test_fuzzers_use_every_verb_and_option() -> None:
    grammar = Grammar(random.Random(1), [1], 9)
    assert set(verbs.VERBS) == grammar.verbs | {"DRAIN", "SHUTDOWN"}
    output = b"".join(MAKER.make(str(number), "grammar", "unix", "", [1], 9).data for number in range(4000))
    for verb in grammar.verbs:
        assert b"%b" % verb.encode() in output
    for option in (*SUBMIT_OPTIONS, *SET_OPTIONS, *SCHEDULE_OPTIONS):
        assert b" --%b" % option.encode() in output, option


@pytest.mark.parametrize("kind", KINDS)
def test_session_is_the_same_for_the_same_name(kind: str) -> None:
    one, again, other = (MAKER.make(name, kind, "tcp", "read", [1], 9) for name in ("a", "a", "b"))
    assert one == again != other


WORDS = (
    b"RESUME",
    b"resume",
    b"DRAIN",
    b"SHUTDOWN",
    b" q1",
    b" --schedule=1",
    b" --",
    b"RES",
    b"UME",
    b" ",
    b"\n",
    b"\xff\xf4",
)
RESUMING = st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join)


@given(RESUMING | SESSIONS)
def test_playable_session_does_not_let_paused_jobs_run(data: bytes) -> None:
    session = Session("bytes", "unix", "", make_playable(data))
    assert session.is_playable
    # A line may begin behind a telnet sequence or within the bytes of a block.
    for line in session.data.split(b"\n"):
        for start in {0, *(at + 1 for at in range(len(line)) if line[at] in (0xFF, 0xF4, 0xF0, 0x06))}:
            request = parser.parse_line(line[start:].removesuffix(b"\r"))
            assert request.verb not in ("DRAIN", "SHUTDOWN")
            if request.verb == "RESUME" and request.error is None:
                assert (request.argument.queue, request.argument.schedule) != (None, None)


def test_failed_session_is_saved_to_a_file_and_loaded(tmp_path: Path) -> None:
    sessions = [
        Session("bytes", "tcp", "read", bytes(range(256)), (Cut(3, 0.5), Cut(200, 0.0)), "abort"),
        Session("grammar", "unix", "", b"PING\n"),
    ]
    save(tmp_path / "kept", sessions, "why")
    assert load(tmp_path / "kept") == sessions


def test_session_is_sent_in_its_pieces_behind_an_auth() -> None:
    session = Session("bytes", "tcp", "read", b"PING\nAUTH {{token}}\n", (Cut(2, 0.5),))
    pieces = [(0.0, b"AUTH r\r\n"), (0.0, b"PI"), (0.5, b"NG\nAUTH r\n")]
    assert session.pieces({"read": "r", "admin": "a"}) == pieces
    assert session._replace(login="").pieces({"admin": "a"})[-1] == (0.5, b"NG\nAUTH a\n")


# The second parser.

STREAMS = [
    (b"", []),
    (b"PING", []),
    (b"PING\n\n \t\r\nping\r\n", ["PING", "PING"]),
    (b"\xff\xf4\xff\xfd\x06PING\n", ["PING"]),
    (b"\xff\xfa\x18\n\xff\xf0PING\nPI\xff\xf4NG\n", ["PING", "PI\\xff\\xf4NG!"]),
    (b"SUBMIT --stdin=5 cat\nPING\n\r\nPING\n", ["SUBMIT", "PING"]),
    (b"SUBMIT --script=1 --stdin=2\nx\nPI\r\nPING\n", ["SUBMIT", "PING"]),
    (b"SUBMIT --bogus --stdin=5\nPING\n\nPING\n", ["SUBMIT", "PING"]),
    (b"SUBMIT --environment=5 --stdin=1 x\nx\nPING\n\nPING\n", ["SUBMIT", "PING"]),
    (b"SUBMIT --environment=5:%b --stdin=1 x\nx\nPING\n" % (b"0f" * 32), ["SUBMIT", "PING"]),
    (b"SUBMIT --environment=5:0 x\nPING\n", ["SUBMIT!."]),
    (b"SUBMIT --stdin=4 cat\nPINGS\nPING\n", ["SUBMIT?", "!."]),
    (b"SUBMIT --stdin=4 cat\nPI", ["SUBMIT?"]),
    (b"SUBMIT --stdin=x cat\nPING\n", ["SUBMIT!."]),
    (b"SEND 7 --eof --data=5\nPING\n\r\nPING\n", ["SEND~", "PING"]),
    (b"SEND 7 -- --data=5\nPING\n", ["SEND~", "PING"]),
    (b"SEND --data=x 7\nPING\n", ["SEND!."]),
    (b"SUBMIT --stdin=1 --stdin=1 cat\nPING\n", ["SUBMIT!."]),
    (b"SUBMIT --stdin=67108865 cat\nPING\n", ["SUBMIT!."]),
    (b'SUBMIT --label="x --stdin=5\nPING\n', ["SUBMIT!."]),
    (b'SUBMIT --label="--stdin=5" true\nPING\n', ["SUBMIT", "PING"]),
    (b'SUBMIT --env=A="--stdin=5 " --stdin=1 true\nxPING\n', ["SUBMIT?", "!."]),
    (b"SUBMIT -- --stdin=5\nPING\n", ["SUBMIT", "PING"]),
    (b"SUBMIT true --stdin=5\nPING\n", ["SUBMIT", "PING"]),
    (b"FROB\nPI\0NG\nPING \xc3\n", ["FROB!", "PI\0NG!", "PING!"]),
    (b"x" * 65_537 + b"\nPING\n", ["!."]),
    (b"x" * 65_538, ["!."]),
    (b"x" * 65_537, []),
    (b"GET / HTTP/1.1\r\nPING\r\n", []),
    (b"PING\nGET / HTTP/1.1\n", ["PING", "GET!"]),
    (b"WATCH\n", ["WATCH~"]),
    (b"WATCH\n\n", ["WATCH"]),
    (b"WAIT 1\nFOLLOW 1\n", ["WAIT~", "FOLLOW~"]),
]


def shown(request: ParsedRequest) -> str:
    telnet_answers = (
        "!" * bool(request.codes),
        "?" * request.is_optional,
        "~" * request.may_wait,
        "." * request.is_last,
    )
    return request.verb.decode("ascii", "backslashreplace") + "".join(telnet_answers)


@pytest.mark.parametrize("stream, expected", STREAMS)
def test_second_parser_finds_the_requests_in_a_stream(stream: bytes, expected: list[str]) -> None:
    assert [shown(request) for request in parse_stream(stream, VERBS).requests] == expected


# Checking replies.

VALID_REPLIES = [
    (b"PING\n", b"OK\r\n"),
    (b"STATUS 1\n", b"STATUS RUNNING 50\r\n"),
    (b"STATUS 1\n", b"ERROR GONE it was removed\r\n"),
    (b"LIST\n", b'JOB {"id":1}\r\nJOB {}\r\nEND 2\r\n'),
    (b"LIST\nPING\n", b"END 0\r\nOK\r\n"),
    (b"LIST --match=x\nPING\n", b"JOB {}\r\nEND 1 70\r\nOK\r\n"),
    (b"LIST --count\n", b"END 7\r\n"),
    (b"HOLD --label=x --progress\n", b"PROGRESS 100 300\r\nOK 299\r\n"),
    (b"WAIT 1 2\n", b"STATUS FAILED 0 2\r\nSTATUS COMPLETED 100 1\r\nEND 2\r\n"),
    (b"WAIT 1 2.3\n", b"STATUS FAILED 0 2.3\r\nERROR TIMED_OUT 1 of 2\r\n"),
    (b"OUTPUT 1 stdout\nPING\n", b"DATA stdout 0 4\r\nO\r\nK\r\nOK\r\n"),
    (b"FOLLOW 1\n", b"DATA stderr 0 1\r\nx\r\nDATA stdout 0 1\r\n\n\r\nSTATUS FAILED 0\r\n"),
    (b"WATCH\n\n", b'OK 7\r\nEVENT 7 {"type":"paused"}\r\nEND\r\n'),
    (b"WATCH\n\n", b"OK 7\r\nERROR LAGGED 9\r\n"),
    (b"SCHEDULE --run-now=1\nSCHEDULE --set=1 x\n", b"JOB_ID 7\r\nOK 1\r\n"),
    (b"\xff\xfd\x06PING\n\xff\xfb\x01", b"\xff\xfb\x06OK\r\n\xff\xfe\x01"),
    (b"QUIT\nPING\n", b"OK\r\n"),
    (b"AUTH a\n" * 4, b"ERROR AUTH_FAILED no\r\n" * 3),
    (b"SUBMIT --stdin=4 cat\nPINGS\n", b"ERROR BAD_REQUEST expected CRLF\r\n"),
    (b"SUBMIT --bad --stdin=4 cat\nPINGS\n", b"ERROR BAD_REQUEST bad\r\nERROR BAD_REQUEST expected CRLF\r\n"),
]

INVALID_REPLIES = [
    (b"PING\n", b"", "unanswered"),
    (b"PING\nPING\n", b"OK\r\n", "unanswered"),
    (b"PING\n", b"OK\n", "CRLF"),
    (b"PING\n", b"OK", "within a reply"),
    (b"PING\n", b"OK\r\nOK\r\n", "no reply to a request"),
    (b"", b"OK\r\n", "no reply to a request"),
    (b"PING\n", b"STATUS PENDING 0\r\n", "OK was due"),
    (b"PING\n", b"OK more\r\n", "OK was due"),
    (b"STATUS 1\nPING\n", b"OK\r\nSTATUS PENDING 0\r\n", "STATUS was due"),
    (b"STATUS 1\n", b"STATUS PENDING 101\r\n", "STATUS was due"),
    (b"LIST\n", b"JOB {}\r\nEND 2\r\n", "after 1 lines"),
    (b"LIST --match=x\n", b"JOB {}\r\nEND 2 7\r\n", "after 1 lines"),
    (b"LIST --match=x\n", b"END 0 0\r\n", "END 0 0"),
    (b"LIST\n", b"JOB {\r\nEND 1\r\n", "JOB was due"),
    (b"SCHEDULE --run-now=1\n", b"OK 1\r\n", "JOB_ID was due"),
    (b"STATS\n", b'STATS {"x":NaN}\r\n', "STATS was due"),
    (b"RESULT 1\n", b'RESULT "\x1b[2J" "" 0\r\n', "control character"),
    (b"RESULT 1\n", b'RESULT "a"b" "" 0\r\n', "RESULT was due"),
    (b"OUTPUT 1 stdout\n", b"DATA stdout 0 1\r\nxy\r\n", "does not end in CRLF"),
    (b"PING\n", b"ERROR INTERNAL a bug\r\n", "INTERNAL"),
    (b"PING\n", b"ERROR OOPS what\r\n", "OOPS"),
    (b"PING\n", b"ERROR GONE what\r\n", "would do"),
    (b"FROB\n", b"OK\r\n", "should be refused"),
    (b"FROB\n", b"ERROR BAD_REQUEST what\r\n", "would do"),
    (b"PING \xff\n", b"OK\r\n", "should be refused"),
    (b"PING x\n", b"ERROR BAD_REQUEST \xc2\x9b\r\n", "not printable"),
    (b"PING x\n", b"ERROR BAD_REQUEST \xff\r\n", "UTF-8"),
    (b"\xff\xfd\x01PING\n", b"\xff\xfb\x01OK\r\n", "expected the telnet answers"),
    (b"PING\n", b"\xff\xfb\x01OK\r\n", "expected the telnet answers"),
]


def check(checker: ReplyChecker, received: bytes, size: int) -> None:
    for at in range(0, len(received), size):
        checker.feed(received[at : at + size])
    checker.end()


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("sent, received", VALID_REPLIES)
def test_valid_replies_are_accepted_in_any_pieces(sent: bytes, received: bytes, size: int) -> None:
    checker = ReplyChecker(parse_stream(sent, VERBS))
    check(checker, received, size)
    assert checker.is_satisfied or checker.awaited is None or checker.awaited.is_last


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("sent, received, complaint", INVALID_REPLIES)
def test_invalid_replies_are_detected(sent: bytes, received: bytes, complaint: str, size: int) -> None:
    checker = ReplyChecker(parse_stream(sent, VERBS))
    with pytest.raises(RuleBroken, match=complaint):
        check(checker, received, size)


def test_checker_knows_all_verbs_and_error_codes() -> None:
    assert set(REPLIES) == VERBS
    known = {code for reply in REPLIES.values() for code in reply.codes}
    elsewhere = {
        "BAD_REQUEST",
        "UNKNOWN_COMMAND",
        "LINE_TOO_LONG",
        "AUTH_REQUIRED",
        "FORBIDDEN",
        "STORE_FAILED",
    }
    assert known | elsewhere | {"INTERNAL"} == ALL_CODES
    assert {each.code for each in _all_errors(TaskqError)} == ALL_CODES


def _all_errors(kind: type[TaskqError]) -> list[type[TaskqError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _all_errors(below))]


# The client's encoder and the server's parser.

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
VARIABLES = st.dictionaries(
    st.from_regex("[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).filter(lambda name: not name.startswith("TASKQ_")),
    TEXT,
    max_size=3,
)
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.from_regex("[A-Za-z0-9._+/:@-]{1,20}", fullmatch=True),
        "priority": st.integers(-1_000_000, 1_000_000),
        "slots": st.integers(1, 10_000),
        "timeout": st.floats(0.001, 1e6).map(lambda seconds: round(seconds, 9)),
        "label": TEXT,
        "cwd": TEXT.map(lambda text: f"/{text}"),
        "env": VARIABLES,
        "umask": st.integers(0, 0o777),
        "nice": st.integers(-20, 19),
        "hold": st.just(True),
        "retries": st.integers(0, 1000),
        "max_output": st.integers(0, 2**50 - 1).filter(lambda size: size < 10**15),
    },
)


@given(ASKED, TEXT.filter(lambda text: not set(text) & set("\r\n") and text.strip(" \t")))
def test_server_parses_what_the_client_encodes(options: client.Options, command: str) -> None:
    line, *blocks = client.submit(command, client.submit_options(options)).split(b"\r\n")
    request = parser.parse_line(line)
    assert (request.error, blocks) == (None, [b""])
    assert request.argument.command == command.lstrip(" \t")
    for name, value in options.items():
        assert getattr(request.argument.spec, name) == value
