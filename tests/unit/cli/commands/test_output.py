"""``taskq result`` and ``taskq output``: bytes, ranges and dropped output."""

import re
from typing import Any

import pytest

from tests.fakes.daemon import Request, Script, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import SUBMITTED

TRUE = {"SHOW": job(), "RESULT": b'RESULT "" "" 0\r\n', "WAIT": b"STATUS COMPLETED 100\r\n"}

BINARY = bytes(range(256))


def test_result_prints_both_streams_unchanged(serve: Serve, call: Call) -> None:
    quoted = "".join(f"\\x{byte:02X}" for byte in BINARY)
    serve(replies({**TRUE, "RESULT": f'RESULT "{quoted}" "err" 0\r\n'.encode()}))
    assert call("result", "7") == (0, BINARY, "err")


def stored(stdout: bytes, stderr: bytes, max_piece: int) -> Script:
    """Return a script for the finished job 7 with this output, in pieces of up to ``max_piece`` bytes."""
    streams = {"stdout": stdout, "stderr": stderr}

    def answer(request: Request) -> bytes:
        if request.verb == "OUTPUT":
            stream = request.line.split(" ")[2]
            given = dict(re.findall(r" --(offset|limit|tail)=([0-9]+)", request.line))
            start = int(given.get("offset", 0))
            if "tail" in given:
                start = max(0, len(streams[stream]) - int(given["tail"]))
            length = min(max_piece, int(given.get("limit", max_piece)))
            return data(stream, start, streams[stream][start : start + length])
        return {**TRUE, "RESULT": refused("TOO_LARGE", "read it with OUTPUT")}[request.verb]

    return answer


CUT = job(stdout_bytes=4, stdout_dropped=1000, stderr_dropped=0)

CUT_RUNS = [
    {"attempt": 1, "stdout_bytes": 4, "stdout_dropped": 0},
    {"attempt": 2, "stderr_bytes": 2, "stderr_dropped": 9},
]


@pytest.mark.parametrize("words", [("run", "x"), ("follow", "7"), ("result", "7"), ("output", "7")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_dropped_output_is_reported_and_exits_with_74(
    serve: Serve, call: Call, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    table = {
        "SUBMIT": SUBMITTED,
        "FOLLOW": data("stdout", 0, b"kept") + b"STATUS COMPLETED 100\r\n",
        "RESULT": b'RESULT "kept" "" 0\r\n',
        "OUTPUT 7 stdout": data("stdout", 0, b"kept"),
        "OUTPUT": data("stdout", 4, b""),
        "SHOW": CUT,
    }
    serve(replies(table))
    outcome = call(*form, *words)
    assert outcome.code == 74
    assert b"kept" in outcome.stdout
    assert outcome.stderr == (
        "taskq: stdout of job 7: 1000 bytes were dropped after the first 4 bytes; "
        "--max-output sets the limit\n"
    )


FILES: dict[str, Any] = {"stdout": "/log/%j", "stderr": "/log/%a"}
FILE_RUNS = [
    {"attempt": 1, "stdout_file": "/log/7", "stderr_file": "/log/1"},
    {"attempt": 2, "stdout_file": "/log/7", "stderr_file": "/log/2"},
]


@pytest.mark.parametrize(
    "words, files",
    [
        (("result", "7"), "stdout to /log/7 and its stderr to /log/2"),
        (("follow", "7"), "stdout to /log/7 and its stderr to /log/2"),
        (("output", "7"), "stdout to /log/7"),
        (("output", "7", "stderr", "--attempt", "1"), "stderr to /log/1"),
    ],
)
def test_files_that_have_the_output_are_named(
    serve: Serve, call: Call, words: tuple[str, ...], files: str
) -> None:
    table = {
        **TRUE,
        "FOLLOW": b"STATUS COMPLETED 100\r\n",
        "OUTPUT": data("stdout", 0, b""),
        "SHOW": job(**FILES, runs=FILE_RUNS),
    }
    serve(replies(table))
    assert call(*words) == (0, b"", f"taskq: job 7 writes its {files}\n")


@pytest.mark.parametrize(
    "words, message",
    [
        (("follow", "7"), "taskq: job 7 writes its stdout to /log/%j and its stderr to /log/%a\n"),
        (("run", "x"), ""),
    ],
)
def test_files_of_a_job_that_has_not_started_are_named_as_they_were_given(
    serve: Serve, call: Call, words: tuple[str, ...], message: str
) -> None:
    answers = {"SUBMIT": SUBMITTED, "FOLLOW": b"STATUS COMPLETED 100\r\n", "SHOW": job(**FILES, runs=[])}
    serve(replies(answers))
    assert call(*words).stderr == message


def test_failed_job_keeps_its_exit_code_when_output_was_dropped(serve: Serve, call: Call) -> None:
    serve(replies({**TRUE, "SHOW": job(7, "FAILED", 3, stderr_dropped=1)}))
    outcome = call("result", "7")
    assert (outcome.code, outcome.stderr.count("stderr of job 7: 1 bytes were dropped")) == (3, 1)


@pytest.mark.parametrize(
    "words,code", [((), 0), (("stderr",), 74), (("--attempt", "1"), 0), (("stderr", "--limit", "1"), 0)]
)
def test_output_reports_only_drops_of_the_printed_stream(
    serve: Serve, call: Call, words: tuple[str, ...], code: int
) -> None:
    piece = {"OUTPUT 7 stderr --limit=1": data("stderr", 0, b"x"), "OUTPUT": data("stdout", 0, b"")}
    serve(replies({**piece, "SHOW": job(stderr_dropped=9, runs=CUT_RUNS)}))
    assert call("output", "7", *words).code == code


def test_output_prints_stderr_of_the_job_to_stdout(serve: Serve, call: Call) -> None:
    serve(stored(b"out", BINARY, 100))
    assert call("output", "7", "stderr") == (0, BINARY, "")
    assert [each["stream"] for each in call("output", "7", "stderr", "--jsonl").documents] == ["stderr"] * 3


def test_result_too_large_for_one_reply_is_read_in_pieces(serve: Serve, call: Call) -> None:
    serve(stored(BINARY * 3, b"some errors", 100))
    assert call("result", "7") == (0, BINARY * 3, "some errors")


@pytest.mark.parametrize(
    "options,stdout",
    [
        ((), BINARY),
        (("stdout", "--offset", "250"), BINARY[250:]),
        (("--limit", "150"), BINARY[:150]),
        (("--limit", "0"), b""),
        (("--offset", "10", "--limit", "200"), BINARY[10:210]),
        (("--tail", "130"), BINARY[-130:]),
    ],
)
def test_output_prints_exactly_the_requested_range(
    serve: Serve, call: Call, options: tuple[str, ...], stdout: bytes
) -> None:
    serve(stored(BINARY, b"", 100))
    assert call("output", "7", *options) == (0, stdout, "")
