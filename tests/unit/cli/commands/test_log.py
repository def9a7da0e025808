"""``taskq log``: both streams in order, lines with times, several jobs, and following."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.cli.display.sanitize import RESET
from taskqd.cli.log_output import MAX_LINE_BYTES, UNORDERED, TimedLines
from taskqd.client import Client, LogPiece, reconnect
from tests.fakes.daemon import FakeDaemon, Request, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

T = "2026-11-24T07:00:00.%03dZ"
DONE = b"STATUS COMPLETED 100\r\n"


def piece(stream: str, offset: int, content: bytes, at: int | None = 0, is_ordered: bool = True) -> bytes:
    """Return a DATA reply of LOG, with a time in milliseconds."""
    time = "-" if at is None else T % at
    mark = "" if is_ordered else " unordered"
    return f"DATA {stream} {offset} {len(content)} {time}{mark}\r\n".encode() + content + b"\r\n"


def end(left: int, stdout: int, stderr: int, dropped: int = 0) -> bytes:
    return b"END %d %d %d %d %d\r\n" % (stdout + stderr, left, dropped, stdout, stderr)


PIECES = (
    piece("stdout", 0, b"one\n", 5) + piece("stderr", 0, b"10%\r20%", 105) + piece("stdout", 4, b"two\n", 205)
)
PAGE = PIECES + piece("stderr", 7, b"\r\n", 305) + end(0, 8, 9)


def script(request: Request) -> bytes:
    """Reply for a job 7 that has printed two lines and a progress bar."""
    return {"LOG": PAGE, "SHOW": job()}[request.verb]


def test_log_prints_both_streams_to_stdout_in_order(serve: Serve, call: Call) -> None:
    daemon = serve(script)
    assert call("log", "7") == (0, b"one\n10%\r20%two\n\r\n", "")
    assert daemon.lines == ["LOG 7 --limit=4194304", "SHOW 7"]


@pytest.mark.parametrize(
    "words, options",
    [
        (("--stdout",), "--stream=stdout"),
        (("--stderr",), "--stream=stderr"),
        (("--stdout", "--stderr"), ""),
        (("--tail", "3"), "--tail-lines=3"),
        (("-n", "0"), "--tail-lines=0"),
        (("--attempt", "2"), "--attempt=2"),
    ],
)
def test_options_are_those_of_the_request(
    serve: Serve, call: Call, words: tuple[str, ...], options: str
) -> None:
    daemon = serve(script)
    assert call("log", "7", *words).code == 0
    assert daemon.lines[0].split() == ["LOG", "7", *options.split(), "--limit=4194304"]


def test_log_goes_on_with_the_next_page(serve: Serve, call: Call) -> None:
    more = piece("stderr", 1, b"c") + end(0, 1, 2)
    first = piece("stdout", 0, b"a") + piece("stderr", 0, b"b") + end(1, 1, 1)
    daemon = serve(replies({"LOG 7 --tail-lines=9 --limit=4194304": first, "LOG": more, "SHOW": job()}))
    assert call("log", "7", "--tail", "9").stdout == b"abc"
    assert daemon.lines[1] == "LOG 7 --stdout=1 --stderr=1 --limit=4194304"


def test_timestamps_begin_whole_lines_and_states_of_a_bar(serve: Serve, call: Call) -> None:
    serve(script)
    lines = [
        *((5, b"one"), (105, b"10%"), (205, b"two"), (105, b"20%")),
    ]
    expected = b"".join((T % at).encode() + b" " + line + b"\n" for at, line in lines)
    assert call("log", "7", "--timestamps").stdout == expected


def test_lines_of_an_unknown_time_begin_with_a_dash(serve: Serve, call: Call) -> None:
    serve(replies({"LOG": piece("stdout", 0, b"a\nb", None) + end(0, 3, 0), "SHOW": job()}))
    assert call("log", "7", "-t").stdout == b"- a\n- b\n"


def test_unknown_order_is_reported_once(serve: Serve, call: Call) -> None:
    pieces = piece("stdout", 0, b"a", is_ordered=False) + piece("stderr", 0, b"b", is_ordered=False)
    serve(replies({"LOG": pieces + end(0, 1, 1), "SHOW": job()}))
    assert call("log", "7") == (0, b"ab", f"taskq: {UNORDERED}\n")


def test_dropped_output_exits_with_74(serve: Serve, call: Call) -> None:
    serve(replies({"LOG": end(0, 0, 0, 9), "SHOW": job(stdout_dropped=0, stderr_dropped=9)}))
    assert call("log", "7").code == 74
    assert call("log", "7", "--stdout").code == 0


def test_several_logs_have_headers_and_go_on_after_a_refusal(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> bytes:
        if request.line.startswith("LOG 8"):
            return refused("GONE", "job 8 was removed")
        return script(request)

    serve(answer)
    code, stdout, stderr = call("log", "7-9")
    assert code == 1
    assert stdout.startswith(b"==> job 7 <==\none\n")
    assert b"\n==> job 9 <==\none\n" in stdout
    assert "job 8 was removed (GONE)" in stderr


def test_json_has_a_document_per_piece(serve: Serve, call: Call) -> None:
    serve(replies({"LOG": piece("stderr", 3, b"a\n") + end(0, 0, 5), "SHOW": job()}))
    assert call("log", "7", "--jsonl").documents == [
        {"id": 7, "stream": "stderr", "offset": 3, "time": T % 0, "data": "a\n"}
    ]


# Following.


def test_follow_prints_until_the_end_and_exits_as_the_job(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"LOG": PIECES + b"STATUS FAILED 0\r\n", "SHOW": job(7, "FAILED", 3)}))
    assert call("log", "7", "--follow") == (3, b"one\n10%\r20%two\n", "")
    assert daemon.lines == ["SHOW 7", "LOG 7 --follow", "SHOW 7"]


def test_follow_begins_with_the_last_lines(serve: Serve, call: Call) -> None:
    page = piece("stdout", 90, b"old\n") + end(0, 94, 20)
    last = piece("stdout", 94, b"new\n") + DONE
    daemon = serve(
        replies(
            {
                "LOG 7 --stream=stdout --tail-lines=1": page,
                "LOG 7 --follow --stream=stdout --stdout=94 --stderr=20": last,
                "SHOW": job(),
            }
        )
    )
    assert call("log", "-f", "-n", "1", "--stdout", "7").stdout == b"old\nnew\n"
    assert daemon.lines[0].startswith("LOG")


def broken_off(request: Request) -> bytes | Iterator[bytes]:
    """Reply as a daemon that is killed while it sends the log of job 7."""
    if request.line == "LOG 7 --follow":
        return _until_killed()
    return job() if request.verb == "SHOW" else piece("stderr", 7, b"\n") + DONE


def _until_killed() -> Iterator[bytes]:
    yield PIECES
    raise OSError("the connection is closed")


def test_follow_goes_on_behind_the_last_bytes_after_a_restart(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)
    daemon = serve(broken_off)
    code, stdout, stderr = call("log", "7", "-f")
    assert (code, stdout) == (0, b"one\n10%\r20%two\n\n")
    assert (
        stderr
        == "taskq: the connection to the daemon was lost; reconnecting\ntaskq: reconnected to the daemon\n"
    )
    assert "LOG 7 --follow --stdout=8 --stderr=7" in daemon.lines


def test_client_follows_a_log_across_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)
    with FakeDaemon(broken_off, tmp_path) as daemon, Client(daemon.address) as client:
        assert b"".join(got.data for got in client.follow_log(7)) == b"one\n10%\r20%two\n\n"


@pytest.mark.parametrize("words", [("7", "8", "-f"), ("7", "-f", "--attempt", "1")])
def test_follow_is_for_the_latest_attempt_of_one_job(
    serve: Serve, call: Call, words: tuple[str, ...]
) -> None:
    serve(script)
    assert call("log", *words).code == 2


# On a terminal.


@pytest.mark.parametrize("form", [("log", "7"), ("log", "7", "--follow")])
def test_log_on_a_terminal_is_sanitized_and_stderr_is_dim(tmp_path: Path, form: tuple[str, ...]) -> None:
    evil = piece("stdout", 0, b"\x1b]0;x\x07\x1b[31ma") + piece("stderr", 0, b"b\n")
    end_ = DONE if "--follow" in form else end(0, 11, 2)
    with (
        FakeDaemon(replies({"SHOW": job(), "LOG": evil + end_}), tmp_path) as daemon,
        Process(daemon.address, *form, on_terminal=("stdout",), TERM="xterm") as process,
    ):
        shown = process.end().terminal
    assert shown == b"^[]0;x^G\x1b[31ma" + RESET + b"\x1b[2mb\r\n" + RESET


def test_lines_with_times_on_a_terminal_are_local_and_sanitized(
    tmp_path: Path,
) -> None:
    page = piece("stderr", 0, b"\x1b[2Ja\r\n") + end(0, 0, 8)
    with (
        FakeDaemon(replies({"SHOW": job(), "LOG": page}), tmp_path) as daemon,
        Process(
            *(daemon.address, "log", "7", "-t"), on_terminal=("stdout",), TZ="Asia/Tokyo", TERM="dumb"
        ) as process,
    ):
        assert process.end().terminal == b"2026-11-24 16:00:00.000 ^[[2Ja\r\n"


def test_timed_lines_are_cut_and_end_with_their_attempt(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = TimedLines(is_raw=True)
    for offset, data in ((0, b"x" * MAX_LINE_BYTES), (MAX_LINE_BYTES, b"old"), (0, b"new")):
        lines.write(LogPiece("stdout", offset, data, None, True))
    lines.finish()
    sys.stdout.flush()
    first, *rest = capfdbinary.readouterr().out.split(b"\n")
    assert len(first) == MAX_LINE_BYTES + 2
    assert rest == [b"- old", b"- new", b""]
