"""Request lines: the verbs of docs/protocol.md §3, each form and each refusal; no line is too odd to read."""

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd import wire
from taskqd.job import Spec, Status
from taskqd.replies import LARGEST_RESULT
from taskqd.submission import LARGEST_BLOCK, LARGEST_SKIP
from taskqd.wire import Cancellation, Listing, Request, Slice, Wait, is_http, read_line

CORE = [
    *("SUBMIT", "STATUS", "RESULT", "SHOW", "LIST", "OUTPUT", "WAIT", "CANCEL", "RETRY"),
    *("REMOVE", "HISTORY", "DRAIN", "STATS"),
    *("HELLO", "AUTH", "PING", "HELP", "QUIT"),
]
WITH_ID = ["STATUS", "RESULT", "SHOW", "RETRY", "REMOVE", "HISTORY"]
ALONE = ["DRAIN", "STATS", "HELLO", "PING", "QUIT"]

READ = [
    ("SUBMIT echo hello world", "SUBMIT", Spec(command="echo hello world")),
    ("submit  --retries=2  a  b ", "SUBMIT", Spec(command="a  b ", retries=2)),
    ("  SuBmIt\ttrue", "SUBMIT", Spec(command="true")),
    ("SUBMIT Grüße", "SUBMIT", Spec(command="Grüße")),
    *((f"{verb} 5", verb, 5) for verb in WITH_ID),
    ("STATUS 0005", "STATUS", 5),
    ("STATUS " + "0" * 6000 + "5", "STATUS", 5),
    ("STATUS   5  ", "STATUS", 5),
    ("STATUS -- 5", "STATUS", 5),
    ("STATUS 5 --", "STATUS", 5),
    ("STATUS 999999999999999999", "STATUS", 999_999_999_999_999_999),
    *((verb.lower(), verb, None) for verb in ALONE),
    ("PING  --  ", "PING", None),
    ("HELP", "HELP", None),
    ("HELP submit", "HELP", "SUBMIT"),
    ("AUTH s3cret/+=", "AUTH", "s3cret/+="),
    ("AUTH  --s3cret_=\t ", "AUTH", "--s3cret_="),
    ('AUTH "', "AUTH", '"'),
    ("WAIT 5", "WAIT", Wait(id=5)),
    ("WAIT 5 --timeout=1.5", "WAIT", Wait(id=5, timeout=1.5)),
    ("WAIT --timeout=0 5", "WAIT", Wait(id=5, timeout=0.0)),
    ("CANCEL 5", "CANCEL", Cancellation(id=5)),
    ("CANCEL 5 --signal=INT", "CANCEL", Cancellation(id=5, signal=signal.SIGINT)),
    ("CANCEL --signal=sigkill 5", "CANCEL", Cancellation(id=5, signal=signal.SIGKILL)),
    ("LIST", "LIST", Listing()),
    (
        "LIST --status=failed,CANCELLED --owner=ann --label=x --key=k --from=7 --limit=9 --reverse",
        "LIST",
        Listing(
            statuses=frozenset({Status.FAILED, Status.CANCELLED}),
            owner="ann",
            label="x",
            key="k",
            first=7,
            limit=9,
            is_reverse=True,
        ),
    ),
    ("LIST --status=PENDING,RUNNING,COMPLETED,FAILED,CANCELLED", "LIST", Listing(statuses=frozenset(Status))),
    ('LIST --label="a b" --limit=0', "LIST", Listing(label="a b", limit=0)),
    ("LIST --from=999999999999999999", "LIST", Listing(first=10**18 - 1)),
    ("OUTPUT 5 stdout", "OUTPUT", Slice(id=5, stream="stdout")),
    ("OUTPUT 5 STDERR", "OUTPUT", Slice(id=5, stream="stderr")),
    ("OUTPUT --offset=3 5 stderr --limit=2k", "OUTPUT", Slice(id=5, stream="stderr", offset=3, limit=2048)),
    (
        "OUTPUT 5 stdout --offset=999999999999999999",
        "OUTPUT",
        Slice(id=5, stream="stdout", offset=10**18 - 1),
    ),
    ("OUTPUT 5 stdout --limit=1G", "OUTPUT", Slice(id=5, stream="stdout", limit=wire.LARGEST_OUTPUT)),
    ("OUTPUT 5 stdout --tail=10", "OUTPUT", Slice(id=5, stream="stdout", limit=10, tail=10)),
    ("OUTPUT 5 stdout --tail=1G", "OUTPUT", Slice(id=5, stream="stdout", limit=16 * 1024**2, tail=1024**3)),
    ("OUTPUT 5 stdout --tail=10 --limit=4", "OUTPUT", Slice(id=5, stream="stdout", limit=4, tail=10)),
]
"""Lines as they are typed: the verb, and the value that they become."""

LIMITS = [
    (wire.LONGEST_LINE, 65_536),
    (wire.DEFAULT_OUTPUT, 1024**2),
    (wire.LARGEST_OUTPUT, 16 * 1024**2),
    (LARGEST_SKIP, 64 * 1024**2),
    (LARGEST_BLOCK, 16 * 1024**2),
    (LARGEST_RESULT, 1024**2),
    (Listing().limit, 100),
]
"""The numbers of docs/protocol.md, and the largest block, which is ours."""

BAD_IDS = ["0", "-1", "+1", "1.0", "1_0", "x", "\u0665", "\u00b2", "5x", '"5"', "000", "5,6", "1e3", "5\x0b"]
REFUSED = [
    ("", "UNKNOWN_COMMAND", "'' is no command"),
    ("EXPLODE 5", "UNKNOWN_COMMAND", "'EXPLODE' is no command"),
    ("STATUS5", "UNKNOWN_COMMAND", "is no command"),
    ("\u017ftatus 5", "UNKNOWN_COMMAND", "is no command"),
    ("SUBM\u0131T true", "UNKNOWN_COMMAND", "is no command"),
    ("\ufeffPING", "UNKNOWN_COMMAND", "is no command"),
    ("--", "UNKNOWN_COMMAND", "is no command"),
    ("x" * 60000, "UNKNOWN_COMMAND", "is no command"),
    ("HOLD 5", "UNKNOWN_COMMAND", "is no command"),
    *((f"{verb} {text}", "BAD_REQUEST", "expected a job's id") for verb in WITH_ID for text in BAD_IDS),
    *(
        (f"{verb}{rest}", "BAD_REQUEST", f"expected {verb} <id>")
        for verb in WITH_ID
        for rest in ("", " ", " 5 6")
    ),
    *((f"{verb} x", "BAD_REQUEST", f"expected {verb}") for verb in ALONE),
    *((f"{verb} --x", "BAD_REQUEST", f"--x is no option of {verb}") for verb in ALONE),
    ("STATUS 1000000000000000000", "NO_SUCH_JOB", "there is no job 1000000000000000000"),
    ("STATUS " + "9" * 60000, "NO_SUCH_JOB", "there is no job 999"),
    ("STATUS 5 --x=1", "BAD_REQUEST", "--x is no option of STATUS, which takes none"),
    ("STATUS --X 5", "BAD_REQUEST", "expected an option such as"),
    ("SUBMIT", "BAD_REQUEST", "no command came"),
    ("SUBMIT --array=1-3 true", "BAD_REQUEST", "--array is not supported yet"),
    ("SUBMIT --retries=x true", "BAD_REQUEST", "--retries: expected a whole number"),
    ("PING " + "a " * 32000, "BAD_REQUEST", "expected PING"),
    ("HELP EXPLODE", "BAD_REQUEST", "'EXPLODE' is no command"),
    ("HELP PING PING", "BAD_REQUEST", "expected HELP [verb]"),
    ("HELP --all", "BAD_REQUEST", "--all is no option of HELP"),
    ("HELP \u017ftatus", "BAD_REQUEST", "is no command"),
    ("AUTH", "BAD_REQUEST", "expected AUTH <token>"),
    ("AUTH a b", "BAD_REQUEST", "expected AUTH <token>"),
    ("AUTH -- a", "BAD_REQUEST", "expected AUTH <token>"),
    ("WAIT", "BAD_REQUEST", "expected WAIT <id>"),
    ("WAIT x", "BAD_REQUEST", "expected a job's id"),
    ("WAIT 5 --timeout=soon", "BAD_REQUEST", "--timeout: expected a duration"),
    ("WAIT 5 --timeout", "BAD_REQUEST", "--timeout needs a value"),
    ("CANCEL 5 --signal=9", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 --signal=", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 --signal=SIGSIGTERM", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 --signal=_DFL", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 --signal=\u017ftop", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 6", "BAD_REQUEST", "expected CANCEL <id>"),
    ("WAIT 5 6", "BAD_REQUEST", "expected WAIT <id>"),
    ("CANCEL", "BAD_REQUEST", "expected CANCEL <id>"),
    ("LIST 5", "BAD_REQUEST", "expected LIST"),
    ("LIST --queue=q", "BAD_REQUEST", "--queue is not supported yet"),
    ("LIST --status=", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ("LIST --status=FAILED,", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ("LIST --status=DONE", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ("LIST --key=", "BAD_REQUEST", "--key: expected a name"),
    ("LIST --from=0", "BAD_REQUEST", "--from: expected a whole number from 1"),
    ("LIST --limit=-1", "BAD_REQUEST", "--limit: expected a whole number from 0 to 100000"),
    ("LIST --limit=100001", "BAD_REQUEST", "--limit: expected a whole number from 0 to 100000"),
    ("LIST --reverse=yes", "BAD_REQUEST", "--reverse: takes no value"),
    ("OUTPUT 5", "BAD_REQUEST", "expected OUTPUT <id> stdout|stderr"),
    ("OUTPUT 5 stdout x", "BAD_REQUEST", "expected OUTPUT <id> stdout|stderr"),
    ("OUTPUT 5 stdin", "BAD_REQUEST", "expected stdout or stderr, not 'stdin'"),
    ("OUTPUT x stdout", "BAD_REQUEST", "expected a job's id"),
    ("OUTPUT 5 stdout --offset=-1", "BAD_REQUEST", "--offset: expected a whole number from 0"),
    ("OUTPUT 5 stdout --offset=1k", "BAD_REQUEST", "--offset: expected a whole number from 0"),
    ("OUTPUT 5 stdout --limit=x", "BAD_REQUEST", "--limit: expected a size"),
    ("OUTPUT 5 stdout --offset=1 --tail=1", "BAD_REQUEST", "give one of them"),
]
NOT_TEXT = [
    (b"PING \xff", "UTF-8"),
    (b"\xff\xf4PING", "UTF-8"),
    (b"SUBMIT echo \xc3", "UTF-8"),
    (b"SUBMIT echo \xed\xb2\x80", "UTF-8"),
    (b"SUBMIT echo \xc0\x80", "UTF-8"),
    (b"SUBMIT echo a\0b", "NUL"),
    (b"\0", "NUL"),
    (b"PING\0", "NUL"),
]


@pytest.mark.parametrize("line, verb, argument", READ)
def test_a_line_becomes_its_verb_and_its_value(line: str, verb: str, argument: Any) -> None:
    assert read_line(line.encode()) == Request(verb, argument, None, ())


@pytest.mark.parametrize("line, code, part", REFUSED)
def test_a_line_that_is_not_of_the_form_is_refused_with_its_code(line: str, code: str, part: str) -> None:
    request = read_line(line.encode())
    assert request.error is not None
    assert (request.error.code, request.argument, request.is_lost) == (code, None, False)
    assert part in str(request.error)
    assert len(str(request.error)) < 400


@pytest.mark.parametrize("line, part", NOT_TEXT)
def test_a_line_that_is_no_text_is_a_bad_request(line: bytes, part: str) -> None:
    request = read_line(line)
    assert request.error is not None
    assert request.error.code == "BAD_REQUEST"
    assert part in str(request.error)


@pytest.mark.parametrize("limit, number", LIMITS)
def test_the_limits_are_those_of_the_protocol(limit: int, number: int) -> None:
    assert limit == number


@pytest.mark.parametrize("number", signal.Signals)
def test_every_signal_is_known_by_its_name(number: signal.Signals) -> None:
    for name in (number.name, number.name.removeprefix("SIG"), number.name.lower()):
        assert wire.parse_signal(name) == number


@pytest.mark.parametrize(
    "line, sizes",
    [
        (b"SUBMIT --stdin=5 cat", (5,)),
        (b"submit --stdin=5 --script=7", (7, 5)),
        (b"SUBMIT --stdin=5", (5,)),
        (b"SUBMIT --bogus=1 --stdin=5 cat", (5,)),
        (b"SUBMIT --stdin=5 --array=1-2 cat", (5,)),
        (b"SUBMIT --stdin=%d cat" % (LARGEST_BLOCK + 1), (LARGEST_BLOCK + 1,)),
        (b"SUBMIT --stdin=5 cat \xff", (5,)),
        (b"SUBMIT --label=\xff --stdin=5 cat", (5,)),
        (b"SUBMIT --stdin=5 cat \0", (5,)),
        (b"PING --stdin=5", ()),
        (b"STATUS --stdin=5 1", ()),
        (b"SUBMIT echo --stdin=5", ()),
        (b"SUBMIT --Bogus echo", ()),
    ],
)
def test_a_block_follows_its_line_even_when_the_line_is_refused(line: bytes, sizes: tuple[int, ...]) -> None:
    request = read_line(line)
    assert request.blocks == sizes
    assert not request.is_lost


@pytest.mark.parametrize(
    "line, code",
    [
        (b"SUBMIT --stdin=x cat", "BAD_REQUEST"),
        (b"SUBMIT --stdin=\xff cat", "BAD_REQUEST"),
        (b"SUBMIT --stdin=5 --stdin=5 cat", "BAD_REQUEST"),
        (b'SUBMIT --label="\xff" --stdin=5 cat', "BAD_REQUEST"),
        (b"SUBMIT --stdin=%d cat" % (LARGEST_SKIP + 1), "TOO_LARGE"),
        (b"SUBMIT --script=%d" % 10**17, "TOO_LARGE"),
    ],
)
def test_where_the_lengths_cannot_be_told_the_connection_is_lost(line: bytes, code: str) -> None:
    request = read_line(line)
    assert request.is_lost
    assert request.error is not None
    assert (request.error.code, request.blocks) == (code, ())


PIECES = [
    *(verb.encode() + b" " for verb in CORE),
    *(
        b"--%b=" % name
        for name in (b"stdin", b"env", b"label", b"from", b"limit", b"signal", b"status", b"tail")
    ),
    *(
        b" ",
        b"\t",
        b"--",
        b'"',
        b"=",
        b"\\",
        b"\\x",
        b"5",
        b"999999999999999999",
        b"stdout",
        b"A",
        b"\xff",
        b"\0",
    ),
    "\u0665\u017f".encode(),
]


@given(st.binary() | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_no_line_makes_the_reader_fail(line: bytes) -> None:
    request = read_line(line)
    assert (request.verb in CORE) or request.error is not None
    assert request.argument is None or request.error is None
    assert request.error is None or len(str(request.error)) < 700
    assert not request.is_lost or request.error is not None


@pytest.mark.parametrize("verb", CORE)
def test_every_verb_of_the_core_is_explained_under_its_name(verb: str) -> None:
    described = wire.VERBS[verb]
    assert described.usage.split()[0] == verb
    assert described.summary.endswith(".")


def test_there_is_no_verb_outside_the_core() -> None:
    assert list(wire.VERBS) == CORE


@pytest.mark.parametrize(
    "line",
    ["GET / HTTP/1.1", "POST /x HTTP/1.0", "OPTIONS * HTTP/1.1", "PRI * HTTP/2.0", "CONNECT a:1 HTTP/1.1"],
)
def test_a_line_of_a_web_browser_is_recognised(line: str) -> None:
    assert is_http(line.encode())


@pytest.mark.parametrize(
    "line", [*CORE, *(f"{verb} 1" for verb in CORE), "", "GET", "GETX / HTTP/1.1", " GET / HTTP/1.1"]
)
def test_no_line_of_a_client_looks_like_a_web_browsers(line: str) -> None:
    assert not is_http(line.encode())
