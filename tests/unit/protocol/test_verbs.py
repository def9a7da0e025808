"""The parser of request lines, and the table of verbs (docs/protocol.md §3)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.job_ref import TaskId
from taskqd.model.spec import DEFAULT_SPEC, MAX_DEPENDENCIES, Spec
from taskqd.model.submission import ScheduleRequest, Submission
from taskqd.protocol import option_values, output_requests, parser, requests, verbs
from taskqd.protocol.parser import Request, is_http, parse_line
from taskqd.protocol.replies import MAX_RESULT_STREAM
from taskqd.protocol.requests import HelpRequest, ListRequest
from taskqd.protocol.send_request import MAX_DATA, SendRequest
from taskqd.protocol.submit import MAX_BLOCK_SIZE, MAX_SKIPPED_BLOCK

VERBS = [
    *("SUBMIT", "STATUS", "RESULT", "SHOW", "LIST", "OUTPUT", "LOG", "WAIT", "FOLLOW", "CANCEL", "RETRY"),
    *("HOLD", "RELEASE", "SUSPEND", "CONTINUE", "SET", "REMOVE", "SEND", "HISTORY", "WHY"),
    *("QUEUES", "SET-QUEUE", "SET-SLOTS", "PAUSE", "RESUME", "SCHEDULE", "SCHEDULES", "UNSCHEDULE", "WATCH"),
    *("DRAIN", "SHUTDOWN", "STATS", "HELLO", "AUTH", "PING", "HELP", "QUIT"),
]

READ = [
    ("SUBMIT echo hello world", "SUBMIT", Submission("echo hello world", DEFAULT_SPEC)),
    ("submit  --retries=2  a  b ", "SUBMIT", Submission("a  b ", Spec(retries=2))),
    ("  SuBmIt\ttrue", "SUBMIT", Submission("true", DEFAULT_SPEC)),
    ("SUBMIT Grüße", "SUBMIT", Submission("Grüße", DEFAULT_SPEC)),
    ("schedule --every=1h a  b ", "SCHEDULE", ScheduleRequest(command="a  b ", every=3600.0)),
    ("status 5", "STATUS", requests.JobRequest(job=5)),
    ("Set-Queue q --slots=2", "SET-QUEUE", requests.SetQueueRequest(queue="q", values={"slots": 2})),
    ("SEND 7.3 --eof", "SEND", SendRequest(job=TaskId(7, 3), is_eof=True)),
    ("HELP", "HELP", HelpRequest()),
    ("HELP submit", "HELP", HelpRequest(verb="SUBMIT")),
    ("HELP set-queue", "HELP", HelpRequest(verb="SET-QUEUE")),
]
"""Lines, their verbs, and the requests that they are parsed to."""

LIMITS = [
    (parser.MAX_LINE_LENGTH, 65_536),
    (output_requests.DEFAULT_OUTPUT_LIMIT, 1024**2),
    (output_requests.MAX_OUTPUT_LIMIT, 16 * 1024**2),
    (MAX_SKIPPED_BLOCK, 64 * 1024**2),
    (MAX_BLOCK_SIZE, 16 * 1024**2),
    (MAX_DATA, 65_536),
    (MAX_RESULT_STREAM, 1024**2),
    (ListRequest().limit, 100),
    (requests.MAX_WAIT_JOBS, 1000),
    (MAX_DEPENDENCIES, 1000),
    (option_values.MAX_TASKS, 100_000),
]
"""The limits of docs/protocol.md, and that of a block."""

REFUSED = [
    ("", "UNKNOWN_COMMAND", "'' is not a command"),
    ("EXPLODE 5", "UNKNOWN_COMMAND", "'EXPLODE' is not a command"),
    ("STATUS5", "UNKNOWN_COMMAND", "is not a command"),
    ("\u017ftatus 5", "UNKNOWN_COMMAND", "is not a command"),
    ("SUBM\u0131T true", "UNKNOWN_COMMAND", "is not a command"),
    ("\ufeffPING", "UNKNOWN_COMMAND", "is not a command"),
    ("--", "UNKNOWN_COMMAND", "is not a command"),
    ("x" * 60000, "UNKNOWN_COMMAND", "is not a command"),
    ("SETQUEUE q --slots=2", "UNKNOWN_COMMAND", "is not a command"),
    ("SUBMIT", "BAD_REQUEST", "the command is missing"),
    ("SUBMIT --retries=x true", "BAD_REQUEST", "--retries: expected a whole number"),
    ("SUBMIT --after=9999999999999999999 true", "NO_SUCH_JOB", "there is no job"),
    ("SCHEDULE true", "BAD_REQUEST", "expected either --every"),
    ("SEND 7", "BAD_REQUEST", "without --data only --eof can be sent"),
    ("SEND --eof", "BAD_REQUEST", "expected SEND <id>"),
    ("SEND 7 --eof --timeout=x", "BAD_REQUEST", "--timeout: "),
    ("HELP EXPLODE", "BAD_REQUEST", "'EXPLODE' is not a command"),
    ("HELP PING PING", "BAD_REQUEST", "expected HELP [verb]"),
    ("HELP --all", "BAD_REQUEST", "--all is not an option of HELP"),
    ("HELP \u017ftatus", "BAD_REQUEST", "is not a command"),
]
SECRETS = [
    (
        'SUBMIT --secret=B="2 \\xff" --secret=A=1 true',
        b"A=1\0B=2 \xff\0",
        Submission("true", Spec(secrets=("A", "B"))),
    ),
    ("SUBMIT true --secret=A=1", None, Submission("true --secret=A=1", DEFAULT_SPEC)),
    ("SUBMIT --env=A=1 true", None, Submission("true", Spec(env={"A": "1"}))),
]
"""Submissions, the blocks of their secrets, and what is left of them."""
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
def test_parse_line_returns_verb_and_request(line: str, verb: str, argument: Any) -> None:
    assert parse_line(line.encode()) == Request(verb, argument, None, ())


@pytest.mark.parametrize("line, secret, spec", SECRETS)
def test_parse_line_returns_secrets_apart_from_the_spec(line: str, secret: bytes | None, spec: Spec) -> None:
    assert parse_line(line.encode()) == Request("SUBMIT", spec, None, (), secret=secret)


@pytest.mark.parametrize("words", ["--every=1h --secret=B=2 --secret=A=1 true", "--set=3 --secret=A=1"])
def test_parse_line_returns_secrets_of_schedules_apart(words: str) -> None:
    request = parse_line(f"SCHEDULE {words}".encode())
    assert request.error is None
    assert request.secret == (b"A=1\0B=2\0" if "B" in words else b"A=1\0")
    assert parse_line(b"SCHEDULE --set=3 --env=A=1").secret is None


@pytest.mark.parametrize(
    "line, part",
    [
        ("SET 7 --secret=A=hunter2", "--secret is not an option of SET"),
        ("SCHEDULE --run-now=3 --secret=A=hunter2", "--run-now is given alone"),
        ("SCHEDULE --every=1h --secret=hunter2 true", "--secret: expected NAME=value"),
    ],
)
def test_parse_line_refuses_secrets_without_repeating_them(line: str, part: str) -> None:
    request = parse_line(line.encode())
    assert part in str(request.error)
    assert "hunter2" not in f"{request.error} {request.argument}"


@pytest.mark.parametrize("line, code, part", REFUSED)
def test_parse_line_refuses_invalid_line_with_its_code(line: str, code: str, part: str) -> None:
    request = parse_line(line.encode())
    assert request.error is not None
    assert (request.error.code, request.argument, request.is_lost) == (code, None, False)
    assert part in str(request.error)
    assert len(str(request.error)) < 400


@pytest.mark.parametrize("line, part", NOT_TEXT)
def test_parse_line_refuses_bytes_that_are_not_text(line: bytes, part: str) -> None:
    request = parse_line(line)
    assert request.error is not None
    assert request.error.code == "BAD_REQUEST"
    assert part in str(request.error)


def test_send_has_a_timeout_of_10_s_and_refuses_data_that_no_pipe_holds() -> None:
    request = parse_line(b"SEND 7 --data=65536 --timeout=1m")
    assert request == Request("SEND", SendRequest(job=7, data=MAX_DATA, timeout=60.0), None, (MAX_DATA,))
    assert SendRequest(job=7).timeout == 10.0
    for size, is_lost in ((MAX_DATA + 1, False), (MAX_SKIPPED_BLOCK + 1, True)):
        refused = parse_line(b"SEND 7 --data=%d" % size)
        assert (refused.argument, refused.is_lost) == (None, is_lost)
        assert f"--data={size} is refused, the limit is 65536 bytes; send it in" in str(refused.error)


@pytest.mark.parametrize("limit, number", LIMITS)
def test_limits_are_those_of_the_protocol(limit: int, number: int) -> None:
    assert limit == number


@pytest.mark.parametrize(
    "line, sizes",
    [
        (b"SUBMIT --stdin=5 cat", (5,)),
        (b"submit --stdin=5 --script=7", (7, 5)),
        (b"SUBMIT --stdin=5", (5,)),
        (b"SUBMIT --bogus=1 --stdin=5 cat", (5,)),
        (b"SUBMIT --stdin=5 --every=1h cat", (5,)),
        (b"SCHEDULE --stdin=5 --every=1h cat", (5,)),
        (b"schedule --every=1h --stdin=5 --script=7", (7, 5)),
        (b"SUBMIT --stdin=%d cat" % (MAX_BLOCK_SIZE + 1), (MAX_BLOCK_SIZE + 1,)),
        (b"SUBMIT --stdin=5 cat \xff", (5,)),
        (b"SUBMIT --label=\xff --stdin=5 cat", (5,)),
        (b"SUBMIT --stdin=5 cat \0", (5,)),
        (b"PING --stdin=5", ()),
        (b"STATUS --stdin=5 1", ()),
        (b"SUBMIT echo --stdin=5", ()),
        (b"SEND 7 --data=5", (5,)),
        (b"send --eof --data=5  7\t--timeout=1s", (5,)),
        (b"SEND 7 8 9 --data=70000 --bogus", (70_000,)),
        (b"SEND --data=5 \xff \0", (5,)),
        (b"SEND 7 --eof", ()),
        (b"SEND 7 -- --data=5", ()),
        (b"SEND 7 --Bogus", ()),
        (b"SEND", ()),
        (b"SUBMIT --Bogus echo", ()),
        (b"SET 1 --script=7", (7,)),
        (b"set --script=7 1 --nice=1", (7,)),
        (b"SET --in-queue=q --script=7", (7,)),
        (b"SET 1 2 3 --bogus=4 --script=7", (7,)),
        (b"SET 1 --label=\xff --script=7", (7,)),
        (b"SET 1 --stdin=7", ()),
        (b"SET 1 --Bogus", ()),
    ],
)
def test_parse_line_returns_block_sizes_of_refused_lines(line: bytes, sizes: tuple[int, ...]) -> None:
    request = parse_line(line)
    assert request.blocks == sizes
    assert not request.is_lost


@pytest.mark.parametrize(
    "line, code",
    [
        (b"SUBMIT --stdin=x cat", "BAD_REQUEST"),
        (b"SUBMIT --stdin=\xff cat", "BAD_REQUEST"),
        (b"SUBMIT --stdin=5 --stdin=5 cat", "BAD_REQUEST"),
        (b'SUBMIT --label="\xff" --stdin=5 cat', "BAD_REQUEST"),
        (b"SUBMIT --stdin=%d cat" % (MAX_SKIPPED_BLOCK + 1), "TOO_LARGE"),
        (b"SUBMIT --script=%d" % 10**17, "TOO_LARGE"),
        (b"SEND 7 --data=x", "BAD_REQUEST"),
        (b"SEND 7 --data=5 --data=5", "BAD_REQUEST"),
        (b'SEND 7 --data=5 --timeout="', "BAD_REQUEST"),
        (b"SEND 7 --data=%d" % (MAX_SKIPPED_BLOCK + 1), "TOO_LARGE"),
        (b"SCHEDULE --every=1h --stdin=x cat", "BAD_REQUEST"),
        (b"SET 1 --script=x", "BAD_REQUEST"),
        (b"SET 1 --script=1 --script=1", "BAD_REQUEST"),
        (b'SET 1 --label="x --script=1', "BAD_REQUEST"),
        (b"SET 1 --script=%d" % (MAX_SKIPPED_BLOCK + 1), "TOO_LARGE"),
    ],
)
def test_parse_line_with_invalid_block_sizes_is_lost(line: bytes, code: str) -> None:
    request = parse_line(line)
    assert request.is_lost
    assert request.error is not None
    assert (request.error.code, request.blocks) == (code, ())


PIECES = [
    *(verb.encode() + b" " for verb in VERBS),
    *(
        b"--%b=" % name
        for name in (
            *(
                b"stdin",
                b"env",
                b"label",
                b"from",
                b"limit",
                b"signal",
                b"status",
                b"tail",
                b"array",
            ),
            *(b"need", b"after", b"retry-on", b"at", b"every", b"cron", b"slots", b"schedule", b"since"),
        )
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
        b"5.3",
        b"gpu:1,",
        b"exit:75",
        b"1-3%2",
        b"none",
        b"stdout",
        b"A",
        b"\xff",
        b"\0",
    ),
    "\u0665\u017f".encode(),
]


@given(st.binary() | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_parse_line_of_any_bytes_does_not_fail(line: bytes) -> None:
    request = parse_line(line)
    assert (request.verb in VERBS) or request.error is not None
    assert request.argument is None or request.error is None
    assert request.error is None or len(str(request.error)) < 700
    assert not request.is_lost or request.error is not None


@pytest.mark.parametrize("verb", VERBS)
def test_verb_usage_begins_with_its_name(verb: str) -> None:
    described = verbs.VERBS[verb]
    assert described.usage.split()[0] == verb
    assert described.summary.endswith(".")


def test_verbs_for_ended_jobs_are_retry_and_remove() -> None:
    assert {name for name, verb in verbs.VERBS.items() if verb.is_for_ended} == {"RETRY", "REMOVE"}


def test_verbs_are_those_of_the_protocol() -> None:
    assert list(verbs.VERBS) == VERBS


@pytest.mark.parametrize(
    "line",
    ["GET / HTTP/1.1", "POST /x HTTP/1.0", "OPTIONS * HTTP/1.1", "PRI * HTTP/2.0", "CONNECT a:1 HTTP/1.1"],
)
def test_is_http_recognizes_http_requests(line: str) -> None:
    assert is_http(line.encode())


@pytest.mark.parametrize(
    "line", [*VERBS, *(f"{verb} 1" for verb in VERBS), "", "GET", "GETX / HTTP/1.1", " GET / HTTP/1.1"]
)
def test_is_http_is_false_for_taskqd_requests(line: str) -> None:
    assert not is_http(line.encode())
