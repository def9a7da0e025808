"""``taskq send``: text, stdin in pieces, and the end of the input."""

import json

import pytest

from tests.fakes.daemon import Request, refused
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures


def sizes(request: Request) -> bytes:
    return b"OK %d\r\n" % sum(map(len, request.blocks))


@pytest.mark.parametrize(
    "words, lines, sent",
    [
        (("7", "2+3"), ["SEND 7 --data=4"], b"2+3\n"),
        (("7.3", "a", "b c", "--timeout", "1m"), ["SEND 7.3 --data=6 --timeout=1m"], b"a b c\n"),
        (("-n", "7", "--", "-x", "\udcff"), ["SEND 7 --data=4"], b"-x \xff"),
        (("7", "quit", "--eof"), ["SEND 7 --data=5", "SEND 7 --eof"], b"quit\n"),
        (("7", "x" * 70_000), ["SEND 7 --data=65536", "SEND 7 --data=4465"], b"x" * 70_000 + b"\n"),
    ],
)
def test_send_writes_its_words_as_a_line(
    serve: Serve, call: Call, words: tuple[str, ...], lines: list[str], sent: bytes
) -> None:
    daemon = serve(sizes)
    assert call("send", *words) == (0, b"", "")
    assert daemon.lines == lines
    assert b"".join(b"".join(request.blocks) for request in daemon.requests) == sent


def test_send_reads_stdin_to_its_end_and_waits_for_the_job(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = serve(sizes)
    pieces = [b"one\n", b"two\n", b""]
    monkeypatch.setattr("taskqd.cli.stdin_pieces.os.read", lambda *_: pieces.pop(0))
    assert call("--json", "send", "7", "--eof").documents == [{"id": 7, "written": 8}]
    assert daemon.lines == [
        "SEND 7 --data=4 --timeout=36525d",
        "SEND 7 --data=4 --timeout=36525d",
        "SEND 7 --eof --timeout=36525d",
    ]


def test_send_that_is_refused_says_why(serve: Serve, call: Call) -> None:
    serve(lambda _: refused("TIMED_OUT", "0 of 2 bytes were written: job 7 did not read more"))
    code, _, errors = call("send", "7", "x")
    assert code == 75
    assert errors == "taskq: 0 of 2 bytes were written: job 7 did not read more (TIMED_OUT)\n"
    assert json.loads(call("send", "7", "x", "--json").stdout)["id"] == 7


def test_send_that_is_refused_later_says_how_much_was_written_before(serve: Serve, call: Call) -> None:
    text = "0 of 4465 bytes were written: job 7 did not read more"
    serve(lambda request: refused("TIMED_OUT", text) if len(request.blocks[0]) < 5000 else sizes(request))
    code, _, errors = call("send", "7", "x" * 70_000)
    assert code == 75
    assert errors == f"taskq: {text}; 65536 bytes before these were written (TIMED_OUT)\n"


def test_send_without_newline_needs_a_text(call: Call) -> None:
    code, _, errors = call("send", "7", "-n")
    assert (code, "--no-newline needs a TEXT" in errors) == (2, True)
