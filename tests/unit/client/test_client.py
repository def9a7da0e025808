"""The client against a fake daemon: requests, replies, reconnects."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from taskqd.client import (
    Client,
    Output,
    Refused,
    Result,
    Status,
    Unreachable,
    parse_address,
    reconnect,
    session,
    streams,
)
from taskqd.client import client as client_module
from tests.fakes.daemon import FakeDaemon, Request, data

Serve = Callable[..., tuple[Client, list[Request]]]


@pytest.fixture(name="serve")
def a_client_of(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a daemon with scripted replies; it returns a client and the requests."""
    with ExitStack() as opened:

        def serve(*replies: bytes | Iterable[bytes] | None) -> tuple[Client, list[Request]]:
            left = iter(replies)
            daemon = opened.enter_context(FakeDaemon(lambda _: next(left, None), tmp_path))
            return opened.enter_context(Client(daemon.address)), daemon.requests

        yield serve


# addresses


@pytest.mark.parametrize(
    "text,path,host,port",
    [
        ("unix:/run/taskqd/taskq.sock", "/run/taskqd/taskq.sock", "", 0),
        ("unix:with:colon", "with:colon", "", 0),
        ("tcp:localhost:9500", "", "localhost", 9500),
        ("tcp:[::1]:9500", "", "::1", 9500),
        ("tls:localhost:9501", "", "localhost", 9501),
        ("ssl:[::1]:9501", "", "::1", 9501),
    ],
)
def test_parse_address_accepts_socket_path_or_host_and_port(
    text: str, path: str, host: str, port: int
) -> None:
    assert parse_address(text) == (text, path, host, port)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "unix:",
            "/run/taskq.sock",
            "tcp:localhost",
            "tcp::1:9500",
            "tcp:h:x",
            "tcp:h:0",
            "tcp:h:65536",
        ),
        *("tls:", "tls:localhost", "tls:::1:9501", "tlsx:h:1", ":h:1"),
    ],
)
def test_parse_address_rejects_other_forms_and_lists_the_valid_ones(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address unix:PATH, tcp:HOST:PORT or tls:HOST:PORT"):
        parse_address(text)


def test_client_without_daemon_is_unreachable_and_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=f"cannot reach the daemon at unix:{tmp_path}/none: No such file"):
        Client(f"unix:{tmp_path}/none")


# the request line of a submission

AFTER = "SUBMIT --after=3,4.1 --after-any=5 --after-fail=6,7 a"


@pytest.mark.parametrize(
    "command,options,line,blocks",
    [
        ("echo hello world", {}, "SUBMIT echo hello world", ()),
        ('A=1 ./run "x y"', {}, 'SUBMIT A=1 ./run "x y"', ()),
        ("--version", {}, "SUBMIT -- --version", ()),
        ("  --version", {}, "SUBMIT --   --version", ()),
        ("-x", {}, "SUBMIT -x", ()),
        ("grün", {}, "SUBMIT grün", ()),
        (["if", "a b", "A=1"], {}, "SUBMIT exec if 'a b' A=1", ()),
        (["-x"], {}, "SUBMIT exec env -- -x", ()),
        (["ls", b"\xff"], {}, "SUBMIT --script=11", (b"exec ls '\xff'",)),
        ("a", {"timeout": 90, "kill_after": 0.5}, "SUBMIT --timeout=90 --kill-after=0.5 a", ()),
        ("a", {"timeout": "10m"}, "SUBMIT --timeout=10m a", ()),
        ("a", {"retries": 3, "retry_delay": "500ms"}, "SUBMIT --retries=3 --retry-delay=500ms a", ()),
        ("a", {"key": "a/b@c", "nice": -5}, "SUBMIT --key=a/b@c --nice=-5 a", ()),
        ("a", {"queue": "q", "priority": -5, "slots": 2}, "SUBMIT --queue=q --priority=-5 --slots=2 a", ()),
        ("a", {"need": {"gpu": 1, "x": 2}}, "SUBMIT --need=gpu:1,x:2 a", ()),
        ("a", {"need": "gpu:1"}, "SUBMIT --need=gpu:1 a", ()),
        ("a", {"retry_on": ["exit:75", "timeout"]}, "SUBMIT --retry-on=exit:75,timeout a", ()),
        ("a", {"after": [3, "4.1"], "after_any": 5, "after_fail": "6,7"}, AFTER, ()),
        ("a", {"hold": True, "notify_fail": False}, "SUBMIT --hold a", ()),
        ("a", {"at": 1764000000.5}, "SUBMIT --at=2025-11-24T16:00:00.500Z a", ()),
        ("a", {"at": "2026-11-24T08:00:00+01:00"}, "SUBMIT --at=2026-11-24T08:00:00+01:00 a", ()),
        ("a", {"array": "1-10%2", "memory": "1G"}, "SUBMIT --array=1-10%2 --memory=1G a", ()),
        ("a", {"umask": 0o2}, "SUBMIT --umask=002 a", ()),
        ("a", {"max_output": 4096}, "SUBMIT --max-output=4096 a", ()),
        ("a", {"label": 'two "words"'}, r'SUBMIT --label="two \"words\"" a', ()),
        ("a", {"label": ""}, 'SUBMIT --label="" a', ()),
        ("a", {"label": "a\nb\0"}, r'SUBMIT --label="a\nb\x00" a', ()),
        ("a", {"cwd": "/tmp/ü"}, r'SUBMIT --cwd="/tmp/\xC3\xBC" a', ()),
        ("a", {"cwd": os.fsdecode(b"/\xff")}, r'SUBMIT --cwd="/\xFF" a', ()),
        ("a", {"env": {"A": "1", "B": "x=y z"}}, 'SUBMIT --env=A=1 --env=B="x=y z" a', ()),
        ("a", {"secret": {"A": b"\xff x", "B": "1"}}, r'SUBMIT --secret=A="\xFF x" --secret=B=1 a', ()),
        ("wc", {"stdin": b"1\n2\r\n"}, "SUBMIT --stdin=5 wc", (b"1\n2\r\n",)),
        (None, {"script": b"#\0"}, "SUBMIT --script=2", (b"#\0",)),
        (None, {"script": b"x", "stdin": b""}, "SUBMIT --stdin=0 --script=1", (b"x", b"")),
        ("a\nb", {}, "SUBMIT --script=3", (b"a\nb",)),
        ("a\rb", {"key": "k"}, "SUBMIT --key=k --script=3", (b"a\rb",)),
        ("a\nb", {"stdin": b"in"}, "SUBMIT --stdin=2 --script=3", (b"a\nb", b"in")),
        (b"ls \xff", {}, "SUBMIT --script=4", (b"ls \xff",)),
        ("ls " + os.fsdecode(b"\xff"), {}, "SUBMIT --script=4", (b"ls \xff",)),
    ],
)
def test_submit_encodes_options_command_and_blocks(
    serve: Serve, command: Any, options: Any, line: str, blocks: tuple[bytes, ...]
) -> None:
    client, requests = serve(b"JOB_ID 7\r\n")
    assert client.submit(command, **options) == 7
    assert requests == [Request(line, blocks)]


@pytest.mark.parametrize("length,is_script", [(65_536, False), (65_537, True)])
def test_submit_sends_command_too_long_for_a_line_as_script(
    serve: Serve, length: int, is_script: bool
) -> None:
    client, requests = serve(b"JOB_ID 1\r\n")
    client.submit("x" * (length - len("SUBMIT ")))
    assert (requests[0].blocks != ()) is is_script


@pytest.mark.parametrize(
    "command,options,code,text",
    [
        ("a\0b", {}, "BAD_REQUEST", "NUL byte; this one has one at offset 1"),
        ("\ud800", {}, "BAD_REQUEST", "lone surrogate"),
        ([], {}, "BAD_REQUEST", "a program and its arguments, not an empty list"),
        (["a", "b\0"], {}, "BAD_REQUEST", "NUL byte"),
        ("a", {"script": b"b"}, "BAD_REQUEST", "either a command or a script"),
        (None, {}, "BAD_REQUEST", "either a command or a script"),
        ("a", {"env": {"A B": "1"}}, "BAD_REQUEST", "name of a variable"),
        ("a", {"secret": {"A B": "1"}}, "BAD_REQUEST", "name of a variable"),
        ("a", {"env": {"A": "x" * 70_000}}, "LINE_TOO_LONG", "shorten or remove some --env or --secret"),
        ("a", {"stdin": bytes(64 * 1024**2 + 1)}, "TOO_LARGE", "let the job read a file"),
    ],
)
def test_submit_refuses_invalid_values_before_sending(
    serve: Serve, command: Any, options: Any, code: str, text: str
) -> None:
    client, _ = serve(b"OK\r\n")
    with pytest.raises(Refused, match=text) as refused:
        client.submit(command, **options)
    assert refused.value.code == code
    client.ping()


@pytest.mark.parametrize(
    "command,options,code,text",
    [
        ("a\nb", {}, "BAD_REQUEST", "single line of UTF-8"),
        (b"\xff", {}, "BAD_REQUEST", "single line of UTF-8"),
        ("a\0b", {}, "BAD_REQUEST", "NUL byte"),
        ("a", {"env": {"A": "x" * 70_000}}, "LINE_TOO_LONG", "the limit is 65536; let it run a script file"),
    ],
)
def test_schedule_refuses_command_that_does_not_fit_on_a_line(
    serve: Serve, command: str | bytes, options: Any, code: str, text: str
) -> None:
    with pytest.raises(Refused, match=text) as refused:
        serve()[0].schedule(command, every=1, **options)
    assert refused.value.code == code


def test_unknown_option_raises_type_error(serve: Serve) -> None:
    client, _ = serve()
    with pytest.raises(TypeError, match="'colour'"):
        client.submit("a", colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'key'"):
        client.schedule("a", every=1, key="k")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'cwd'"):
        client.set(7, cwd="/")  # type: ignore[call-arg]


# requests and their replies

JOB = {"id": 7, "status": "RUNNING"}
NONE = Output("stdout", 0, b"")


@pytest.mark.parametrize(
    "call,line,reply,value",
    [
        (lambda it: it.status(7), "STATUS 7", b"STATUS RUNNING 40 more\r\n", Status("RUNNING", 40)),
        (
            lambda it: it.result(7),
            "RESULT 7",
            b'RESULT "a\\"\\xFF\\n" "" 3\r\n',
            Result(b'a"\xff\n', b"", 3),
        ),
        (lambda it: it.result(7), "RESULT 7", b'RESULT "" "" -15\n', Result(b"", b"", -15)),
        (lambda it: it.result(7), "RESULT 7", b'RESULT "" "x y" - later\r\n', Result(b"", b"x y", None)),
        (lambda it: it.show(7), "SHOW 7", b'JOB {"id":7,"status":"RUNNING"}\r\n', JOB),
        (lambda it: it.wait(7), "WAIT 7", b"STATUS FAILED 0\r\n", Status("FAILED", 0)),
        (lambda it: it.wait(7, 1.5), "WAIT 7 --timeout=1.5", b"STATUS FAILED 0\r\n", Status("FAILED", 0)),
        (lambda it: it.wait(7, "2h"), "WAIT 7 --timeout=2h", b"STATUS FAILED 0\r\n", Status("FAILED", 0)),
        (lambda it: it.cancel(7), "CANCEL 7", b"STATUS CANCELLED 0\r\n", Status("CANCELLED", 0)),
        (
            lambda it: it.cancel(7, "INT"),
            "CANCEL 7 --signal=INT",
            b"STATUS RUNNING 0\r\n",
            Status("RUNNING", 0),
        ),
        (
            lambda it: it.cancel("7.2", cascade=True),
            "CANCEL 7.2 --cascade",
            b"STATUS CANCELLED 0\r\n",
            Status("CANCELLED", 0),
        ),
        (lambda it: it.hold(7), "HOLD 7", b"STATUS PENDING 0\r\n", Status("PENDING", 0)),
        (lambda it: it.release(7), "RELEASE 7", b"STATUS PENDING 0\r\n", Status("PENDING", 0)),
        (
            lambda it: it.set(7, priority=5, timeout=None, label="", at=0.0, need={"gpu": 1}),
            'SET 7 --priority=5 --timeout=none --label="" --at=1970-01-01T00:00:00.000Z --need=gpu:1',
            b'JOB {"id":7,"status":"RUNNING"}\r\n',
            JOB,
        ),
        (lambda it: it.why(7), "WHY 7", b"OK 3rd in line\r\n", "3rd in line"),
        (lambda it: it.output(7, attempt=2), "OUTPUT 7 stdout --attempt=2", data("stdout", 0, b""), NONE),
        (lambda it: it.queues(), "QUEUES", b'QUEUE {"name":"q"}\r\nEND 1\r\n', [{"name": "q"}]),
        (lambda it: it.set_queue("q", 3), "SET-QUEUE q --slots=3", b'QUEUE {"slots":3}\r\n', {"slots": 3}),
        (lambda it: it.set_queue("q", None), "SET-QUEUE q --slots=none", b"QUEUE {}\r\n", {}),
        (lambda it: it.set_queue("q", "default"), "SET-QUEUE q --slots=default", b"QUEUE {}\r\n", {}),
        (lambda it: it.pause(), "PAUSE", b"OK\r\n", None),
        (lambda it: it.pause("q"), "PAUSE q", b"OK\r\n", None),
        (lambda it: it.resume(), "RESUME", b"OK\r\n", None),
        (lambda it: it.resume(schedule=3), "RESUME --schedule=3", b"OK\r\n", None),
        (
            lambda it: it.schedule("--x y", cron="* * * * *", overlap=True, queue="q"),
            'SCHEDULE --cron="* * * * *" --overlap --queue=q -- --x y',
            b"OK 3\r\n",
            3,
        ),
        (lambda it: it.schedule("x", every=60), "SCHEDULE --every=60 x", b"OK 4\r\n", 4),
        (lambda it: it.schedules(), "SCHEDULES", b'SCHEDULE {"schedule":3}\r\nEND 1\r\n', [{"schedule": 3}]),
        (lambda it: it.unschedule(3), "UNSCHEDULE 3", b"OK\r\n", None),
        (lambda it: it.retry(7), "RETRY 7", b"JOB_ID 7\r\n", 7),
        (lambda it: it.remove(7), "REMOVE 7", b"OK\r\n", None),
        (
            lambda it: it.history(7),
            "HISTORY 7",
            b'EVENT 12 {"type":"submitted","id":7}\r\nEVENT 14 {"type":"started","id":7}\r\nEND 2\r\n',
            [{"seq": 12, "type": "submitted", "id": 7}, {"seq": 14, "type": "started", "id": 7}],
        ),
        (lambda it: it.drain(), "DRAIN", b"OK\r\n", None),
        (
            lambda it: it.output(7),
            "OUTPUT 7 stdout",
            data("stdout", 0, b"a\r\n"),
            Output("stdout", 0, b"a\r\n"),
        ),
        (
            lambda it: it.output(7, "stderr", offset=5, limit="1k"),
            "OUTPUT 7 stderr --offset=5 --limit=1k",
            data("stderr", 5, b""),
            Output("stderr", 5, b""),
        ),
        (
            lambda it: it.output(7, tail=2),
            "OUTPUT 7 stdout --tail=2",
            data("stdout", 5, b"xy"),
            Output("stdout", 5, b"xy"),
        ),
        (lambda it: it.list(), "LIST", b'JOB {"id":7,"status":"RUNNING"}\r\nEND 1\r\n', [JOB]),
        (
            lambda it: it.list(status="PENDING,RUNNING", label="a b", start=5, limit=2, reverse=True),
            'LIST --status=PENDING,RUNNING --label="a b" --from=5 --limit=2 --reverse',
            b"END 0\r\n",
            [],
        ),
        (lambda it: it.list(array=5, queue="q"), "LIST --array=5 --queue=q", b"END 0\r\n", []),
        (lambda it: it.list(tasks=True), "LIST --tasks", b"END 0\r\n", []),
        (lambda it: it.list(owner="me", key="k"), "LIST --owner=me --key=k", b"END 0\r\n", []),
        (lambda it: it.stats(), "STATS", b'STATS {"uptime":1}\r\n', {"uptime": 1}),
        (lambda it: it.hello(), "HELLO", b'TASKQ 1 {"you":"me"}\r\n', {"protocol": 1, "you": "me"}),
        (lambda it: it.ping(), "PING", b"OK\r\n", None),
    ],
)
def test_method_sends_its_verb_and_decodes_the_reply(
    serve: Serve, call: Callable[[Client], object], line: str, reply: bytes, value: object
) -> None:
    client, requests = serve(reply, b"OK\r\n")
    assert call(client) == value
    client.ping()
    assert requests == [Request(line), Request("PING")]


def test_refusal_has_code_and_text_and_leaves_client_usable(serve: Serve) -> None:
    client, _ = serve(b"ERROR NO_SUCH_JOB there is no job 9\r\n", b"STATUS PENDING 0\r\n")
    with pytest.raises(Refused, match="NO_SUCH_JOB there is no job 9") as refused:
        client.status(9)
    assert (refused.value.code, refused.value.text) == ("NO_SUCH_JOB", "there is no job 9")
    assert client.status(7) == Status("PENDING", 0)


def test_lost_connection_is_unreachable_and_states_that_the_outcome_is_unknown(serve: Serve) -> None:
    client, _ = serve(None)
    with pytest.raises(Unreachable, match="may or may not have been carried out"):
        client.submit("a")


def test_closed_client_is_unreachable(serve: Serve) -> None:
    client, _ = serve()
    client.close()
    with pytest.raises(Unreachable, match="the client is closed"):
        client.ping()


def test_server_that_is_no_daemon_is_unreachable(serve: Serve) -> None:
    client, _ = serve(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(Unreachable, match="is not a taskqd daemon: it sent 'HTTP/1"):
        client.ping()


def test_refusal_sent_before_the_end_of_a_block_is_read(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()

    def refuse_and_close() -> None:
        connection = listener.accept()[0]
        connection.recv(10)
        connection.sendall(b"ERROR TOO_LARGE 67108865 bytes\r\n")
        connection.close()

    thread = threading.Thread(target=refuse_and_close)
    thread.start()
    with listener, Client(f"unix:{tmp_path}/socket") as client:
        with pytest.raises(Refused, match="TOO_LARGE"):
            client.submit("wc", stdin=bytes(20_000_000))
        thread.join()


# TCP


def check_token(request: Request) -> bytes:
    return b"OK token admin\r\n" if request.line in ("AUTH secret", "PING") else b"ERROR AUTH_FAILED no\r\n"


def test_token_authenticates_on_tcp() -> None:
    with FakeDaemon(check_token) as daemon, Client(daemon.address, "secret") as client:
        client.ping()
        assert daemon.lines == ["AUTH secret", "PING"]


@pytest.mark.parametrize("token", ["wrong", "two words", "secret\r\nPING", ""])
def test_wrong_token_is_refused(token: str) -> None:
    with FakeDaemon(check_token) as daemon, pytest.raises(Refused):
        Client(daemon.address, token)


def test_token_is_not_sent_to_unix_socket(tmp_path: Path) -> None:
    with FakeDaemon(check_token, tmp_path) as daemon, Client(daemon.address, "secret") as client:
        client.ping()
        assert daemon.lines == ["PING"]


def test_connection_closed_without_reply_hints_at_tls() -> None:
    hint = r"\(if the daemon requires TLS, its address begins with tls:\)"
    with (
        FakeDaemon(lambda _: None) as daemon,
        Client(daemon.address) as client,
        pytest.raises(Unreachable, match=hint),
    ):
        client.ping()


def test_connection_closed_after_a_reply_does_not_hint_at_tls() -> None:
    table = {"PING": b"OK\r\n"}
    with (
        FakeDaemon(lambda it: table.get(it.line)) as daemon,
        Client(daemon.address, reconnect=0) as client,
    ):
        client.ping()
        with pytest.raises(Unreachable) as lost:
            client.stats()
    assert "tls:" not in str(lost.value)


@pytest.mark.parametrize("end", [b"F", b"\n", b"\n and more"])
def test_tls_alert_is_recognized_instead_of_a_reply(end: bytes) -> None:
    def alert(_: Request) -> Iterator[bytes]:
        yield b"\x15\x03\x03\0\x02\x02" + end
        raise ConnectionAbortedError  # closes the connection

    with FakeDaemon(alert) as daemon, Client(daemon.address) as client:
        text = f"the daemon at {daemon.address} requires TLS; its address begins with tls:"
        with pytest.raises(Unreachable, match=text):
            client.ping()


# many submissions


def counting() -> Callable[[Request], bytes]:
    """Return a script that assigns ids from 1 upwards and refuses commands that begin with ``bad``."""
    ids = iter(range(1, 10**9))

    def answer(request: Request) -> bytes:
        if request.line.startswith("SUBMIT bad"):
            return b"ERROR BAD_REQUEST bad command\r\n"
        return b"JOB_ID %d\r\n" % next(ids)

    return answer


def test_submit_many_yields_ids_in_order(tmp_path: Path) -> None:
    with FakeDaemon(counting(), tmp_path) as daemon, Client(daemon.address) as client:
        ids = client.submit_many((f"echo {number}" for number in range(20_000)), nice=1)
        assert list(ids) == list(range(1, 20_001))
        assert daemon.lines[-1] == "SUBMIT --nice=1 echo 19999"


def test_submit_many_continues_after_a_refusal(tmp_path: Path) -> None:
    with FakeDaemon(counting(), tmp_path) as daemon, Client(daemon.address) as client:
        answers = list(client.submit_many(["a", "bad", "b", "with\0nul", "two\nlines", "c"]))
        assert [answer if isinstance(answer, int) else answer.code for answer in answers] == [
            *(1, "BAD_REQUEST", 2, "BAD_REQUEST", 3, 4)
        ]
        assert daemon.requests[3] == Request("SUBMIT --script=9", (b"two\nlines",))


def test_submit_many_yields_ids_so_far_at_none(tmp_path: Path) -> None:
    seen: list[int | Refused] = []

    def commands() -> Iterator[str | None]:
        yield "a"
        yield "b"
        yield None
        assert seen == [1, 2]
        yield "c"

    with FakeDaemon(counting(), tmp_path) as daemon, Client(daemon.address) as client:
        for answer in client.submit_many(commands()):
            seen.append(answer)  # noqa: PERF402 - commands() reads it meanwhile
    assert seen == [1, 2, 3]


def test_client_is_usable_after_submit_many_was_left_early(tmp_path: Path) -> None:
    with FakeDaemon(counting(), tmp_path) as daemon, Client(daemon.address) as client:
        ids = client.submit_many(f"echo {number}" for number in range(20_000))
        assert next(ids) == 1
        ids.close()  # type: ignore[attr-defined]
        assert client.submit("after") == len(daemon.requests)


def test_submit_many_does_not_deadlock_with_large_requests_and_replies(tmp_path: Path) -> None:
    # Each reply exceeds the socket buffers, and the fake reads nothing before it has sent one.
    long = b"ERROR BAD_REQUEST " + b"x" * 1_000_000 + b"\r\n"
    with FakeDaemon(lambda _: long, tmp_path) as daemon, Client(daemon.address) as client:
        assert len(list(client.submit_many("y" * 60_000 for _ in range(50)))) == 50


# output


COMPLETED = b"STATUS COMPLETED 100\r\n"


def test_stream_reads_pieces_to_the_end(serve: Serve) -> None:
    client, requests = serve(data("stdout", 0, b"abc"), data("stdout", 3, b"de"), data("stdout", 5, b""))
    assert b"".join(piece.data for piece in client.stream(7)) == b"abcde"
    assert [request.line for request in requests] == [
        f"OUTPUT 7 stdout --offset={offset}" for offset in (0, 3, 5)
    ]


def followed(client: Client, **offsets: int) -> list[Output]:
    return [piece for piece in client.follow(7, **offsets) if piece.data]


def test_follow_yields_both_streams_until_the_job_ends(serve: Serve) -> None:
    reply = data("stdout", 0, b"a\r\n") + data("stderr", 0, b"x") + data("stdout", 3, b"b") + COMPLETED
    client, requests = serve(reply, b"OK\r\n")
    assert followed(client) == [("stdout", 0, b"a\r\n"), ("stderr", 0, b"x"), ("stdout", 3, b"b")]
    client.ping()
    assert [request.line for request in requests] == ["FOLLOW 7", "PING"]


def test_follow_yields_piece_larger_than_one_receive_whole(serve: Serve) -> None:
    client, _ = serve(data("stdout", 0, bytes(2_000_000)) + COMPLETED)
    assert [len(piece.data) for piece in followed(client)] == [2_000_000]


def test_follow_starts_at_given_offsets(serve: Serve) -> None:
    client, requests = serve(data("stderr", 4, b"x") + COMPLETED)
    assert followed(client, stdout=10, stderr=4) == [("stderr", 4, b"x")]
    assert requests == [Request("FOLLOW 7 --stdout=10 --stderr=4")]


def test_follow_yields_empty_piece_when_idle(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_INTERVAL", 0.01)
    may_continue = threading.Event()

    def parts() -> Iterator[bytes]:
        yield data("stdout", 0, b"a")
        may_continue.wait()
        yield COMPLETED[:5]
        yield COMPLETED[5:]

    pieces = serve(parts())[0].follow(7)
    assert next(pieces).data == b"a"
    assert next(pieces) == Output("stdout", 0, b"")
    may_continue.set()
    assert not [piece for piece in pieces if piece.data]


def test_follow_of_unknown_job_is_refused_and_leaves_client_usable(serve: Serve) -> None:
    client, requests = serve(b"ERROR NO_SUCH_JOB none\r\n", b"OK\r\n")
    with pytest.raises(Refused, match="NO_SUCH_JOB"):
        next(client.follow(7))
    client.ping()
    assert len(requests) == 2


@pytest.mark.parametrize(
    "begin",
    [
        lambda client: client.follow(7),
        lambda client: client.watch(),
        lambda client: client.wait_many([7, 8]),
    ],
)
def test_leaving_a_stream_early_closes_the_connection_and_the_next_request_opens_another(
    tmp_path: Path, begin: Callable[[Client], Iterator[object]]
) -> None:
    firsts = {
        "FOLLOW": data("stdout", 0, b"a"),
        "WATCH": b"OK 4\r\n",
        "WAIT": b"STATUS COMPLETED 100 8\r\n",
        "PING": b"OK\r\n",
    }
    with (
        FakeDaemon(lambda request: firsts[request.verb], tmp_path) as daemon,
        Client(daemon.address) as client,
    ):
        stream = begin(client)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        client.ping()
        client.ping()
        assert daemon.lines[1:] == ["PING", "PING"]
        client.close()
        with pytest.raises(Unreachable, match="the client is closed"):
            client.ping()


def test_connection_opened_after_a_stream_was_left_is_authenticated() -> None:
    table = {"AUTH secret": b"OK token admin\r\n", "WATCH": b"OK 4\r\n", "PING": b"OK\r\n"}
    with FakeDaemon(lambda it: table.get(it.line)) as daemon, Client(daemon.address, "secret") as client:
        stream = client.watch()
        assert next(stream) is None
        stream.close()  # type: ignore[attr-defined]
        client.ping()
        assert daemon.lines == ["AUTH secret", "WATCH", "AUTH secret", "PING"]


def test_another_connects_to_the_same_daemon_with_the_same_token() -> None:
    with (
        FakeDaemon(check_token) as daemon,
        Client(daemon.address, "secret") as client,
        client.another() as second,
    ):
        second.ping()
        assert daemon.lines == ["AUTH secret", "AUTH secret", "PING"]


def test_client_closed_while_following_is_unreachable(serve: Serve) -> None:
    client, _ = serve(data("stdout", 0, b"a"))
    pieces = client.follow(7)
    next(pieces)
    client.close()
    with pytest.raises(Unreachable, match="the client is closed"):
        next(pieces)


# events


def test_watch_yields_events_with_sequence_numbers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_INTERVAL", 0.01)
    may_continue = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"OK 12\r\n"
        may_continue.wait()
        yield b'EVENT 12 {"type":"held","id":7}\r\n'

    client, requests = serve(parts())
    events = client.watch(since=12, job="7.1", queue="q")
    assert (next(events), next(events)) == (None, None)
    may_continue.set()
    assert next(filter(None, events)) == {"seq": 12, "type": "held", "id": 7}
    assert requests == [Request("WATCH --since=12 --job=7.1 --queue=q")]
    events.close()  # type: ignore[attr-defined]


def test_lagged_watch_names_the_next_event_and_leaves_client_usable(serve: Serve) -> None:
    client, _ = serve(b"OK 1\r\nERROR LAGGED 90 events from 1 on are no longer there\r\n", b"OK\r\n")
    with pytest.raises(Refused, match="LAGGED") as refused:
        list(client.watch())
    assert refused.value.next == 90
    client.ping()


def test_refusal_other_than_lagged_has_no_next_event(serve: Serve) -> None:
    with pytest.raises(Refused) as refused:
        serve(b"ERROR GONE 90 is gone\r\n")[0].status(90)
    assert refused.value.next is None


# waiting for several jobs


def test_wait_many_yields_jobs_as_they_end(serve: Serve) -> None:
    client, requests = serve(
        b"STATUS FAILED 0 8\r\nSTATUS COMPLETED 100 7.1 more\r\nEND 2\r\n",
        b"STATUS COMPLETED 100 8\r\nEND 1\r\n",
        b"STATUS COMPLETED 100\r\n",
        b"OK\r\n",
    )
    assert list(client.wait_many(["7.1", 8, 8])) == [
        (8, "FAILED", 0),
        ("7.1", "COMPLETED", 100),
    ]
    assert list(client.wait_many([7, 8], any_=True, timeout=5)) == [(8, "COMPLETED", 100)]
    assert list(client.wait_many([7])) == [(7, "COMPLETED", 100)]
    client.ping()
    assert [request.line for request in requests] == [
        *("WAIT 7.1 8", "WAIT 7 8 --any --timeout=5", "WAIT 7", "PING")
    ]


def test_wait_many_yields_ended_jobs_before_it_times_out(serve: Serve) -> None:
    client, _ = serve(b"STATUS COMPLETED 100 8\r\nERROR TIMED_OUT 1 is still to come\r\n", b"OK\r\n")
    ended = client.wait_many([7, 8], timeout="1s")
    assert next(ended).job == 8
    with pytest.raises(Refused, match="TIMED_OUT"):
        next(ended)
    client.ping()


def test_list_all_requests_page_by_page(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
    page = b'JOB {"id":3}\r\nJOB {"id":5}\r\nEND 2\r\n'
    client, requests = serve(page, b'JOB {"id":6}\r\nEND 1\r\n', page, b"END 0\r\n")
    assert [job["id"] for job in client.list_all(queue="q", tasks=True)] == [3, 5, 6]
    assert [job["id"] for job in client.list_all(4)] == [3, 5]
    assert [request.line for request in requests] == [
        "LIST --queue=q --limit=2 --tasks",
        "LIST --queue=q --from=6 --limit=2 --tasks",
        "LIST --from=4 --limit=2",
        "LIST --from=6 --limit=2",
    ]


@pytest.mark.parametrize("job", ["x", "7.", "7 8", "7\r\nPING", -1, "\u0667"])
def test_invalid_job_reference_is_refused_before_sending(serve: Serve, job: Any) -> None:
    client, requests = serve(b"OK\r\n")
    for method in (client.status, client.follow, lambda job: client.watch(job=job)):
        with pytest.raises(Refused, match="expected a job's id"):
            list(method(job))
    client.ping()
    assert len(requests) == 1


def test_invalid_queue_name_is_refused_before_sending(serve: Serve) -> None:
    with pytest.raises(Refused, match="expected a name"):
        serve()[0].pause("a b")


def test_too_long_socket_path_is_unreachable_and_names_the_limit() -> None:
    path = "/" + "\u00e9" * 60
    with pytest.raises(Unreachable, match=r"its path has 121 bytes, the limit .* is 107"):
        Client(f"unix:{path}")


# restarts of the daemon


@pytest.fixture(name="quick")
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


@pytest.mark.usefixtures("quick")
def test_wait_continues_after_a_restart_and_reports_it(serve: Serve) -> None:
    client, requests = serve(None, None, b"STATUS COMPLETED 100\r\n")
    news: list[str] = []
    client.on_news = news.append
    assert client.wait(7, "1h") == Status("COMPLETED", 100)
    assert news == [reconnect.CONNECTION_LOST, reconnect.RECONNECTED]
    assert requests[0].line == "WAIT 7 --timeout=1h"
    assert [float(each.line.partition("=")[2]) < 3600 for each in requests[1:]] == [True, True]


@pytest.mark.usefixtures("quick")
def test_wait_many_repeats_the_request_for_remaining_jobs_after_a_restart(tmp_path: Path) -> None:
    def answer(request: Request) -> bytes | Iterator[bytes]:
        if request.line == "WAIT 7 8 9":
            return cut(b"STATUS COMPLETED 100 8\r\n")
        if request.line == "WAIT 7 9":
            return cut(b"STATUS FAILED 0 9\r\n")
        return b"STATUS COMPLETED 100\r\n"

    def cut(*parts: bytes) -> Iterator[bytes]:
        yield from parts
        raise ConnectionError

    with FakeDaemon(answer, tmp_path) as daemon, Client(daemon.address) as client:
        assert [each.job for each in client.wait_many([7, 8, 9])] == [8, 9, 7]
        assert daemon.lines == ["WAIT 7 8 9", "WAIT 7 9", "WAIT 7"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "call", [lambda client: client.status(7), lambda client: client.submit("x", key="k")]
)
def test_request_that_is_safe_to_repeat_is_repeated_after_a_restart(
    serve: Serve, call: Callable[[Client], object]
) -> None:
    client, requests = serve(None, b"ERROR NO_SUCH_JOB no\r\n")
    with pytest.raises(Refused):
        call(client)
    assert len(requests) == 2


@pytest.mark.parametrize("call", [lambda client: client.submit("x"), lambda client: client.cancel(7)])
def test_request_that_may_have_been_carried_out_is_not_repeated(
    serve: Serve, call: Callable[[Client], object]
) -> None:
    client, requests = serve(None, b"OK\r\n")
    with pytest.raises(Unreachable, match="may or may not have been carried out"):
        call(client)
    assert len(requests) == 1


def test_reconnect_counts_consecutive_losses(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def reconnect(connect: Callable[[], None], _: float, *, losses: int) -> None:
        seen.append(losses)
        connect()

    monkeypatch.setattr(session, "reconnect", reconnect)
    client, _ = serve(None, None, None, b"STATUS PENDING 0\r\n")
    assert client.status(7) == Status("PENDING", 0)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("losses, pause", [(1, 0.1), (2, 0.2), (5, 1.6), (6, 2.0), (5000, 2.0)])
def test_reconnect_interval_doubles_with_each_loss(losses: int, pause: float) -> None:
    pauses: list[float] = []
    reconnect.reconnect(lambda: None, 60.0, pauses.append, losses=losses)
    assert pauses == [pause]


def test_reconnect_reports_its_timeout_rounded() -> None:
    def connect() -> None:
        raise Unreachable("no")

    times = iter([0.0, 9.0])
    with pytest.raises(Unreachable, match="gave up after 3 s"):
        reconnect.reconnect(connect, 2.99996, lambda _: None, lambda: next(times))


@pytest.mark.usefixtures("quick")
def test_request_is_sent_after_reconnect_if_nothing_of_it_was_sent(serve: Serve) -> None:
    client, requests = serve(b"OK\r\n", None, b"JOB_ID 7\r\n")
    client.ping()
    with pytest.raises(Unreachable):
        client.submit("x")
    assert client.submit("y") == 7
    assert [each.line for each in requests] == ["PING", "SUBMIT x", "SUBMIT y"]


@pytest.mark.usefixtures("quick")
def test_daemon_that_does_not_come_back_is_unreachable_after_the_timeout(tmp_path: Path) -> None:
    with FakeDaemon(lambda _: None, tmp_path) as daemon, Client(daemon.address, reconnect=0.2) as client:
        with pytest.raises(Unreachable, match="lost before the reply arrived"):
            client.wait(7)
        (tmp_path / "taskq.sock").unlink()
        with pytest.raises(Unreachable, match=r"gave up after 0\.\d* s"):
            client.wait(7)


def test_reconnect_timeout_of_zero_does_not_reconnect(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_RECONNECT", "0")
    client, requests = serve(None, b"OK\r\n")
    with pytest.raises(Unreachable):
        client.ping()
    assert len(requests) == 1


@pytest.mark.parametrize(
    "given, named, seconds",
    [(None, {}, 60), (None, {"TASKQ_RECONNECT": "2m"}, 120), ("1s", {}, 1), (3, {}, 3)],
)
def test_reconnect_timeout_is_argument_or_environment_or_default(
    given: str | float | None, named: dict[str, str], seconds: float
) -> None:
    assert reconnect.parse_reconnect_timeout(given, named) == seconds


def test_invalid_reconnect_timeout_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        reconnect.parse_reconnect_timeout(None, {"TASKQ_RECONNECT": "soon"})
