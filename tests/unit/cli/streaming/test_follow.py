"""``taskq follow``: output of one or several jobs."""

import io
import re
import sys

import pytest

from taskqd.cli.streaming import follow as following
from taskqd.client import Output, reconnect
from tests.fakes.daemon import FakeDaemon, Request, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process
from tests.unit.cli.streaming.samples import DONE


@pytest.fixture(autouse=True)
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without delay."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


def test_follow_prints_output_unchanged_and_exits_as_the_job(serve: Serve, call: Call) -> None:
    pieces = data("stdout", 0, b"a\0\xff") + data("stderr", 0, b"b\n") + data("stdout", 3, b"c")
    serve(replies({"SHOW": job(7, "FAILED", 3), "FOLLOW": pieces + b"STATUS FAILED 0\r\n"}))
    assert call("follow", "7") == (3, b"a\0\xffc", "b\n")


def test_follow_accepts_a_task(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SHOW": job(9), "FOLLOW": DONE}))
    assert call("follow", "5.3").code == 0
    assert "FOLLOW 5.3" in daemon.lines


def several(request: Request) -> bytes:
    number = int(request.line.split(" ")[1])
    if request.verb == "SHOW":
        return job(number, *{3: ("COMPLETED", 0), 4: ("FAILED", 5), 15: ("FAILED", 6)}[number])
    pieces = [b"one\ntw", b"o\n\nend"]
    return data("stdout", 0, pieces[0]) + data("stderr", 0, b"E\n") + data("stdout", 6, pieces[1]) + DONE


def test_follow_prints_whole_lines_of_several_jobs_with_prefix(serve: Serve, call: Call) -> None:
    serve(several)
    outcome = call("follow", "3", "4", "15")
    for name in (b" 3", b" 4", b"15"):
        lines = [line for line in outcome.stdout.split(b"\n") if line.startswith(name)]
        assert lines == [name + end for end in (b"| one", b"| two", b"| ", b"| end")]
    assert sorted(outcome.stderr.splitlines()) == [" 3| E", " 4| E", "15| E"]


@pytest.mark.parametrize("words,code", [(("3", "4", "15"), 5), (("15", "3", "4"), 6)])
def test_follow_exits_as_the_first_given_job_that_failed(
    serve: Serve, call: Call, words: tuple[str, ...], code: int
) -> None:
    serve(several)
    assert call("follow", *words).code == code


def test_follow_continues_after_refusal_for_one_job(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> bytes:
        if request.verb == "LIST":  # the hint asks whether there are any jobs
            return job(3) + b"END 1\r\n"
        return refused("NO_SUCH_JOB", "there is no job 4") if " 4" in request.line else several(request)

    serve(answer)
    outcome = call("follow", "3", "4")
    assert outcome.code == 1
    assert b"3| end\n" in outcome.stdout
    assert "taskq: job 4: there is no job 4 (NO_SUCH_JOB)" in outcome.stderr


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_follow_with_json_prints_pieces_and_the_job(serve: Serve, call: Call, form: str) -> None:
    serve(replies({"SHOW": job(7), "FOLLOW": data("stdout", 2, b"a\xff") + DONE}))
    piece, end = call("follow", form, "7").documents
    assert piece == {"id": 7, "stream": "stdout", "offset": 2, "data": None, "data_base64": "Yf8="}
    assert end["status"] == "COMPLETED"


def test_follow_with_json_prints_ids_of_several_jobs(serve: Serve, call: Call) -> None:
    serve(several)
    documents = call("follow", "--jsonl", "3", "4").documents
    assert {document["id"] for document in documents} == {3, 4}
    assert {document["status"] for document in documents if "status" in document} == {"COMPLETED", "FAILED"}


def test_follow_without_daemon_fails_at_once(call: Call) -> None:
    assert call("follow", "7", "--address", "unix:/nowhere").code == 69
    assert call("follow", "7", "8", "--address", "unix:/nowhere").code == 69


def test_follow_rejects_too_many_jobs(call: Call) -> None:
    assert call("follow", "1-101").code == 2


def test_line_writer_cuts_line_without_end(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    writer = following.LineWriter([1, 2])
    writer.write(1, Output("stdout", 0, b"x" * following.MAX_LINE_BYTES))
    writer.write(1, Output("stdout", 65536, b"y\n"))
    writer.finish(1)
    first, second, rest = capfdbinary.readouterr().out.split(b"\n")
    assert (len(first), second, rest) == (3 + following.MAX_LINE_BYTES, b"1| y", b"")


def test_line_writer_ends_incomplete_line_of_an_earlier_attempt(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    writer = following.LineWriter([1, 2])
    writer.write(1, Output("stdout", 0, b"old"))
    writer.write(1, Output("stdout", 0, b"new\n"))
    assert capfdbinary.readouterr().out == b"1| old\n1| new\n"


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what is written to it."""

    def __init__(self) -> None:
        self.written = io.BytesIO()
        super().__init__(self.written, "utf-8")

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return re.sub(r"\x1b\[\d*m", "", self.written.getvalue().decode()).splitlines()


@pytest.mark.parametrize("before,after", [("", "\r"), ("\r", "")])
def test_line_writer_shows_a_progress_bar_twice_a_second(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    now = 0.0
    writer = following.LineWriter([1, 2], clock=lambda: now)
    offset = 0
    for percent in range(0, 101, 10):
        piece = f"{before}{percent:4}%{after}".encode()
        writer.write(1, Output("stdout", offset, piece))
        offset += len(piece)
        now += 0.2
    writer.write(1, Output("stdout", offset, b"\nnext\n"))
    assert terminal.lines() == [*("1|    0%", "1|   30%", "1|   60%", "1|   90%", "1|  100%", "1| next")]


def test_line_writer_does_not_repeat_the_last_state_of_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    writer = following.LineWriter([1, 2])
    writer.write(1, Output("stdout", 0, b"100%\r"))
    writer.write(1, Output("stdout", 5, b"\n100%\n"))
    assert terminal.lines() == ["1| 100%", "1| 100%"]


def test_follow_on_a_terminal_colours_prefixes_and_handles_carriage_returns(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def answer(request: Request) -> bytes:
        number = int(request.line.split(" ")[1])
        if request.verb == "SHOW":
            return job(number, "FAILED", 2)
        return data("stdout", 0, b"10%\r20%\r\n") + DONE

    with (
        FakeDaemon(answer, tmp_path_factory.mktemp("d")) as daemon,
        Process(daemon.address, "follow", "3", "4", on_terminal=("stdout", "stderr")) as process,
    ):
        shown = process.end().terminal
    assert b"\x1b[36m3|\x1b[0m 20%\r\n" in shown
    assert b"\x1b[33m4|\x1b[0m 20%\r\n" in shown
    assert b"taskq: job 3 is FAILED, exit code 2\r\n" in shown
