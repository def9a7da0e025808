"""``taskq follow`` and ``taskq watch``, also across restarts of the daemon."""

import json
from collections.abc import Iterator

import pytest

from taskqd.cli.streaming import follow as following
from taskqd.cli.streaming import watch
from taskqd.cli.streaming.job_follower import JobFollower
from taskqd.client import Client, Output, Unreachable, reconnect
from tests.fakes.daemon import FakeDaemon, Request, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

AT = "2026-11-24T07:00:00.000Z"
DONE = b"STATUS COMPLETED 100\r\n"
LOST = f"taskq: {reconnect.CONNECTION_LOST}\ntaskq: {reconnect.RECONNECTED}\n"


@pytest.fixture(autouse=True)
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without delay."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


def cut(*parts: bytes) -> Iterator[bytes]:
    """Yield parts of a reply, then close the connection."""
    yield from parts
    raise ConnectionError


# follow


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


@pytest.mark.parametrize("words", [("7",), ("7", "8")])
def test_follow_continues_at_its_offsets_after_a_restart(
    serve: Serve, call: Call, words: tuple[str, ...]
) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(int(request.line.split(" ")[1]), attempts=1)
        if request.line == "FOLLOW 7":
            return cut(data("stdout", 0, b"abc\n"), data("stderr", 0, b"E"))
        if request.line == "FOLLOW 7 --stdout=4 --stderr=1":
            return data("stdout", 4, b"def\n") + DONE
        return DONE

    daemon = serve(answer)
    outcome = call("follow", *words)
    assert outcome.code == 0
    assert outcome.stdout.replace(b"7| ", b"") == b"abc\ndef\n"
    assert LOST in outcome.stderr
    assert daemon.lines.count("FOLLOW 7 --stdout=4 --stderr=1") == 1


def test_follow_starts_over_if_the_job_was_retried_meanwhile(serve: Serve, call: Call) -> None:
    attempts = iter([1, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"old\n")) if is_first else data("stdout", 0, b"new\n") + DONE

    daemon = serve(answer)
    outcome = call("follow", "7")
    assert outcome.stdout == b"old\nnew\n"
    assert "job 7 is running again; its output starts from the beginning" in outcome.stderr
    assert daemon.lines.count("FOLLOW 7") == 2


@pytest.mark.parametrize(
    "shown,offset",
    [([0, 1, 1], 3), ([0, 2, 2], 0), ([0, 1, 2], 0)],
)
def test_follow_continues_only_if_the_attempt_is_certain(serve: Serve, shown: list[int], offset: int) -> None:
    """``shown`` has the attempts at the first connection, at the first byte, and after the reconnect."""
    attempts = iter([*shown, shown[-1]])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"abc")) if is_first else DONE

    daemon = serve(answer)
    list(JobFollower(7, lambda: Client(daemon.address)).items())
    assert daemon.lines[-2] == ("FOLLOW 7" + (f" --stdout={offset}" if offset else ""))


def test_piece_at_offset_0_starts_a_later_attempt(serve: Serve) -> None:
    attempts = iter([1, 2, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        if request.line == "FOLLOW 7":
            return cut(data("stdout", 0, b"abcd"), data("stderr", 0, b"E"), data("stdout", 0, b"ab"))
        return DONE

    daemon = serve(answer)
    list(JobFollower(7, lambda: Client(daemon.address)).items())
    assert daemon.lines[-2] == "FOLLOW 7 --stdout=2"


def test_follow_without_daemon_fails_at_once(call: Call) -> None:
    assert call("follow", "7", "--address", "unix:/nowhere").code == 69
    assert call("follow", "7", "8", "--address", "unix:/nowhere").code == 69


def test_reconnect_gives_up_after_the_timeout() -> None:
    def connect() -> Client:
        raise Unreachable("refused")

    times = iter(range(0, 10_000, 100))
    pauses: list[float] = []
    with pytest.raises(Unreachable, match="refused; gave up after 300 s"):
        reconnect.reconnect(connect, 300.0, pauses.append, lambda: float(next(times)))
    assert len(pauses) == 3
    assert max(pauses) <= reconnect.MAX_RETRY_INTERVAL


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


# watch


def event(sequence: int, kind: str = "started", **more: object) -> bytes:
    facts = {"at": AT, "type": kind, "id": 7, **more}
    if kind in ("paused", "resumed", "resized", "scheduled", "unscheduled"):
        del facts["id"]
    return b"EVENT %d " % sequence + json.dumps(facts).encode() + b"\r\n"


BROKEN = refused("BAD_REQUEST", "end of the test")
"""Ends a watch in these tests; a real watch has no end."""


def test_watch_prints_one_line_per_event(serve: Serve, call: Call) -> None:
    events = event(5, "submitted", owner="ana", spec={"command": "make\tall"})
    events += event(6, attempt=1) + event(7, "spawned", pid=99)
    events += event(8, "ended", status="FAILED", reason="exit", exit_code=3)
    events += event(9, "paused", by="bob", queue="q") + event(10, "resumed", by="bob")
    events += event(11, "resized", by="bob", queue="q", slots=0) + event(12, "skipped", because=3)
    events += event(13, "scheduled", by="bob", schedule=2, spec={"command": "x"})
    serve(replies({"WATCH": b"OK 5\r\n" + events + BROKEN}))
    outcome = call("watch")
    assert [line.split("\t") for line in outcome.stdout.decode().splitlines()] == [
        [AT, "7", "submitted", r"by ana: make\tall"],
        [AT, "7", "started", "attempt 1"],
        [AT, "7", "spawned", "pid 99"],
        [AT, "7", "ended", "FAILED, exit, exit code 3"],
        [AT, "queue q", "paused", "by bob"],
        [AT, "all", "resumed", "by bob"],
        [AT, "queue q", "resized", "by bob, slots without a limit"],
        [AT, "7", "skipped", "because of job 3"],
        [AT, "schedule 2", "scheduled", "by bob: x"],
    ]
    assert outcome.code == 1


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_watch_with_json_prints_sequence_numbers(serve: Serve, call: Call, form: str) -> None:
    serve(replies({"WATCH": b"OK 5\r\n" + event(5, attempt=1) + BROKEN}))
    assert call("watch", form).documents[0] == {"seq": 5, "at": AT, "type": "started", "id": 7, "attempt": 1}


def test_watch_sends_its_filters(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"WATCH": BROKEN}))
    call("watch", "--since", "12", "--job", "7.1", "--queue", "q")
    assert daemon.lines == ["WATCH --since=12 --job=7.1 --queue=q"]


@pytest.mark.parametrize(
    "since,seen,next_number", [((), b"", 5), (("--since", "3"), b"", 3), ((), event(8), 9)]
)
def test_watch_continues_with_the_next_number_after_a_restart(
    serve: Serve, call: Call, since: tuple[str, ...], seen: bytes, next_number: int
) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if len(daemon.lines) > 1:
            return b"OK %d\r\n" % next_number + event(next_number, attempt=1) + BROKEN
        return cut(
            b"OK %d\r\n" % int(since[1] if since else 5),
            *([seen.replace(b"}", b',"attempt":1}')] if seen else []),
        )

    daemon = serve(answer)
    outcome = call("watch", *since, "--jsonl")
    assert daemon.lines[1] == f"WATCH --since={next_number}"
    assert outcome.stderr.startswith(LOST)


def test_watch_misses_no_event_after_two_losses(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes] | None":
        if len(daemon.lines) == 1:
            return cut(b"OK 5\r\n", event(5, attempt=1))
        return None if len(daemon.lines) == 2 else BROKEN

    daemon = serve(answer)
    call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=6", "WATCH --since=6"]


def test_watch_continues_after_lagged(serve: Serve, call: Call) -> None:
    answers = iter([b"OK 5\r\n" + refused("LAGGED", "90 is the next"), b"OK 90\r\n" + BROKEN])
    daemon = serve(lambda _: next(answers))
    outcome = call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=90"]
    assert "taskq: some events are missing; continuing with number 90\n" in outcome.stderr


def test_watch_without_daemon_fails(call: Call) -> None:
    assert call("watch", "--address", "unix:/nowhere").code == 69


def test_watch_does_not_reconnect_to_a_server_that_is_no_daemon(serve: Serve, call: Call) -> None:
    serve(lambda _: b"220 smtp\r\n")
    assert call("watch").code == 69


def test_watch_on_a_terminal_shows_short_time_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.cli.display.text.is_terminal", lambda: True)
    monkeypatch.setattr("taskqd.cli.display.text.has_colours", lambda _: True)
    facts = {"at": AT, "type": "ended", "id": 7, "status": "FAILED", "exit_code": 3}
    assert watch.event_line(facts, 0.0).endswith(
        "       7  \x1b[31m" + "ended    \x1b[0m  FAILED, exit code 3"
    )
