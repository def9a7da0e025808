"""``taskq follow`` and ``taskq watch``, against a daemon that goes and comes back."""

import json
from collections.abc import Iterator

import pytest

from taskqd.cli.streaming import follow as following
from taskqd.cli.streaming import watch
from taskqd.client import Client, Output, Unreachable, reconnect
from tests.fakes.daemon import FakeDaemon, Request, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

AT = "2026-11-24T07:00:00.000Z"
DONE = b"STATUS COMPLETED 100\r\n"
LOST = f"taskq: {reconnect.CONNECTION_LOST}\ntaskq: {reconnect.RECONNECTED}\n"


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


def cut(*parts: bytes) -> Iterator[bytes]:
    """Yield parts of a reply, and then lose the connection."""
    yield from parts
    raise ConnectionError


# follow


def test_one_job_is_written_byte_for_byte_and_ends_with_its_exit_code(serve: Serve, call: Call) -> None:
    pieces = data("stdout", 0, b"a\0\xff") + data("stderr", 0, b"b\n") + data("stdout", 3, b"c")
    serve(replies({"SHOW": job(7, "FAILED", 3), "FOLLOW": pieces + b"STATUS FAILED 0\r\n"}))
    assert call("follow", "7") == (3, b"a\0\xffc", "b\n")


def test_a_task_is_followed_by_its_name(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SHOW": job(9), "FOLLOW": DONE}))
    assert call("follow", "5.3").code == 0
    assert "FOLLOW 5.3" in daemon.lines


def several(request: Request) -> bytes:
    number = int(request.line.split(" ")[1])
    if request.verb == "SHOW":
        return job(number, *{3: ("COMPLETED", 0), 4: ("FAILED", 5), 15: ("FAILED", 6)}[number])
    pieces = [b"one\ntw", b"o\n\nend"]
    return data("stdout", 0, pieces[0]) + data("stderr", 0, b"E\n") + data("stdout", 6, pieces[1]) + DONE


def test_lines_of_several_jobs_are_whole_and_have_their_job_before_them(serve: Serve, call: Call) -> None:
    serve(several)
    outcome = call("follow", "3", "4", "15")
    for name in (b" 3", b" 4", b"15"):
        lines = [line for line in outcome.stdout.split(b"\n") if line.startswith(name)]
        assert lines == [name + end for end in (b"| one", b"| two", b"| ", b"| end")]
    assert sorted(outcome.stderr.splitlines()) == [" 3| E", " 4| E", "15| E"]


@pytest.mark.parametrize("words,code", [(("3", "4", "15"), 5), (("15", "3", "4"), 6)])
def test_the_exit_code_is_the_first_in_the_order_of_the_call(
    serve: Serve, call: Call, words: tuple[str, ...], code: int
) -> None:
    serve(several)
    assert call("follow", *words).code == code


def test_what_is_refused_of_one_job_keeps_no_other_back(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> bytes:
        if request.verb == "LIST":  # by which the hint knows whether there is any job
            return job(3) + b"END 1\r\n"
        return refused("NO_SUCH_JOB", "there is no job 4") if " 4" in request.line else several(request)

    serve(answer)
    outcome = call("follow", "3", "4")
    assert outcome.code == 1
    assert b"3| end\n" in outcome.stdout
    assert "taskq: job 4: there is no job 4 (NO_SUCH_JOB)" in outcome.stderr


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_documents_say_which_job_and_at_last_how_it_ended(serve: Serve, call: Call, form: str) -> None:
    serve(replies({"SHOW": job(7), "FOLLOW": data("stdout", 2, b"a\xff") + DONE}))
    piece, end = call("follow", form, "7").documents
    assert piece == {"id": 7, "stream": "stdout", "offset": 2, "data": None, "data_base64": "Yf8="}
    assert end["status"] == "COMPLETED"


def test_documents_of_several_jobs_are_theirs(serve: Serve, call: Call) -> None:
    serve(several)
    documents = call("follow", "--jsonl", "3", "4").documents
    assert {document["id"] for document in documents} == {3, 4}
    assert {document["status"] for document in documents if "status" in document} == {"COMPLETED", "FAILED"}


@pytest.mark.parametrize("words", [("7",), ("7", "8")])
def test_a_restart_is_waited_for_and_the_output_goes_on_where_it_was(
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


def test_the_output_of_a_job_that_ran_again_meanwhile_begins_again(serve: Serve, call: Call) -> None:
    attempts = iter([1, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"old\n")) if is_first else data("stdout", 0, b"new\n") + DONE

    daemon = serve(answer)
    outcome = call("follow", "7")
    assert outcome.stdout == b"old\nnew\n"
    assert "job 7 runs again, so its output begins again" in outcome.stderr
    assert daemon.lines.count("FOLLOW 7") == 2


@pytest.mark.parametrize(
    "shown,offset",
    [([0, 1, 1], 3), ([0, 2, 2], 0), ([0, 1, 2], 0)],
)
def test_a_job_that_begins_while_it_is_followed_is_taken_up_if_its_attempt_is_known(
    serve: Serve, shown: list[int], offset: int
) -> None:
    """Shown are its attempts when we come, when its first byte comes, and when we come back."""
    attempts = iter([*shown, shown[-1]])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"abc")) if is_first else DONE

    daemon = serve(answer)
    list(following.Reading(7, lambda: Client(daemon.address)).pieces())
    assert daemon.lines[-2] == ("FOLLOW 7" + (f" --stdout={offset}" if offset else ""))


def test_a_piece_from_the_beginning_is_of_a_later_attempt(serve: Serve) -> None:
    attempts = iter([1, 2, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        if request.line == "FOLLOW 7":
            return cut(data("stdout", 0, b"abcd"), data("stderr", 0, b"E"), data("stdout", 0, b"ab"))
        return DONE

    daemon = serve(answer)
    list(following.Reading(7, lambda: Client(daemon.address)).pieces())
    assert daemon.lines[-2] == "FOLLOW 7 --stdout=2"


def test_no_daemon_at_first_is_said_at_once(call: Call) -> None:
    assert call("follow", "7", "--address", "unix:/nowhere").code == 69
    assert call("follow", "7", "8", "--address", "unix:/nowhere").code == 69


def test_a_daemon_that_does_not_come_back_is_given_up() -> None:
    def connect() -> Client:
        raise Unreachable("nobody")

    times = iter(range(0, 10_000, 100))
    pauses: list[float] = []
    with pytest.raises(Unreachable, match="nobody; gave up after 300 s"):
        reconnect.reconnect(connect, 300.0, pauses.append, lambda: float(next(times)))
    assert len(pauses) == 3
    assert max(pauses) <= reconnect.MAX_RETRY_INTERVAL


def test_one_may_not_follow_too_many(call: Call) -> None:
    assert call("follow", "1-101").code == 2


def test_a_line_without_an_end_is_cut(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = following.Lines([1, 2])
    lines.write(1, Output("stdout", 0, b"x" * following.LONGEST_LINE))
    lines.write(1, Output("stdout", 65536, b"y\n"))
    lines.end(1)
    first, second, rest = capfdbinary.readouterr().out.split(b"\n")
    assert (len(first), second, rest) == (3 + following.LONGEST_LINE, b"1| y", b"")


def test_the_rest_of_an_attempt_is_a_line_before_the_next_one(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    lines = following.Lines([1, 2])
    lines.write(1, Output("stdout", 0, b"old"))
    lines.write(1, Output("stdout", 0, b"new\n"))
    assert capfdbinary.readouterr().out == b"1| old\n1| new\n"


def test_on_a_terminal_each_job_has_its_colour_and_the_end_of_its_line(
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


BROKEN = refused("BAD_REQUEST", "that is all")
"""What ends a watch here; a real one goes on."""


def test_an_event_is_a_line(serve: Serve, call: Call) -> None:
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
def test_documents_have_their_number(serve: Serve, call: Call, form: str) -> None:
    serve(replies({"WATCH": b"OK 5\r\n" + event(5, attempt=1) + BROKEN}))
    assert call("watch", form).documents[0] == {"seq": 5, "at": AT, "type": "started", "id": 7, "attempt": 1}


def test_what_is_watched_is_said_to_the_daemon(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"WATCH": BROKEN}))
    call("watch", "--since", "12", "--job", "7.1", "--queue", "q")
    assert daemon.lines == ["WATCH --since=12 --job=7.1 --queue=q"]


@pytest.mark.parametrize(
    "since,seen,following_one", [((), b"", 5), (("--since", "3"), b"", 3), ((), event(8), 9)]
)
def test_after_a_restart_the_next_number_is_the_next_event(
    serve: Serve, call: Call, since: tuple[str, ...], seen: bytes, following_one: int
) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if len(daemon.lines) > 1:
            return b"OK %d\r\n" % following_one + event(following_one, attempt=1) + BROKEN
        return cut(
            b"OK %d\r\n" % int(since[1] if since else 5),
            *([seen.replace(b"}", b',"attempt":1}')] if seen else []),
        )

    daemon = serve(answer)
    outcome = call("watch", *since, "--jsonl")
    assert daemon.lines[1] == f"WATCH --since={following_one}"
    assert outcome.stderr.startswith(LOST)


def test_a_daemon_that_goes_again_while_it_comes_back_costs_no_event(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes] | None":
        if len(daemon.lines) == 1:
            return cut(b"OK 5\r\n", event(5, attempt=1))
        return None if len(daemon.lines) == 2 else BROKEN

    daemon = serve(answer)
    call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=6", "WATCH --since=6"]


def test_one_that_has_lagged_says_so_and_goes_on(serve: Serve, call: Call) -> None:
    answers = iter([b"OK 5\r\n" + refused("LAGGED", "90 is the next"), b"OK 90\r\n" + BROKEN])
    daemon = serve(lambda _: next(answers))
    outcome = call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=90"]
    assert "taskq: some events are missing here; going on with number 90\n" in outcome.stderr


def test_a_watch_without_a_daemon_ends(call: Call) -> None:
    assert call("watch", "--address", "unix:/nowhere").code == 69


def test_what_is_no_daemon_is_not_waited_for(serve: Serve, call: Call) -> None:
    serve(lambda _: b"220 smtp\r\n")
    assert call("watch").code == 69


def test_on_a_terminal_the_time_is_short_and_the_end_has_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.cli.display.text.is_terminal", lambda: True)
    monkeypatch.setattr("taskqd.cli.display.text.has_colours", lambda _: True)
    facts = {"at": AT, "type": "ended", "id": 7, "status": "FAILED", "exit_code": 3}
    assert watch.line(facts, 0.0).endswith("       7  \x1b[31mended    \x1b[0m  FAILED, exit code 3")
