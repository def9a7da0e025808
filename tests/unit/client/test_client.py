"""The methods of the client: requests and replies."""

from collections.abc import Callable

import pytest

from taskqd.client import (
    Client,
    Output,
    Refused,
    Result,
    Status,
)
from taskqd.client import client as client_module
from tests.fakes.daemon import Request, data
from tests.unit.client.samples import Serve

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
        (lambda it: it.suspend(7), "SUSPEND 7", b"STATUS RUNNING 4\r\n", Status("RUNNING", 4)),
        (lambda it: it.continue_(7), "CONTINUE 7", b"STATUS RUNNING 4\r\n", Status("RUNNING", 4)),
        (lambda it: it.release(7), "RELEASE 7", b"STATUS PENDING 0\r\n", Status("PENDING", 0)),
        (
            lambda it: it.set(7, priority=5, timeout=None, label="", at=0.0, need={"gpu": 1}),
            'SET 7 --priority=5 --timeout=none --label="" --at=1970-01-01T00:00:00.000Z --need=gpu:1',
            b'JOB {"id":7,"status":"RUNNING"}\r\n',
            JOB,
        ),
        (
            lambda it: it.set(7, slots=2, command=["ls", "a b"]),
            "SET 7 --slots=2 --command=\"exec ls 'a b'\"",
            b'JOB {"id":7,"status":"RUNNING"}\r\n',
            JOB,
        ),
        (
            lambda it: it.set(7, merge=False, slots=2),
            "SET 7 --merge=false --slots=2",
            b'JOB {"id":7,"status":"RUNNING"}\r\n',
            JOB,
        ),
        (lambda it: it.send(7, eof=True), "SEND 7 --eof", b"OK 0\r\n", 0),
        (lambda it: it.why(7), "WHY 7", b"OK 3rd in line\r\n", "3rd in line"),
        (lambda it: it.output(7, attempt=2), "OUTPUT 7 stdout --attempt=2", data("stdout", 0, b""), NONE),
        (lambda it: it.queues(), "QUEUES", b'QUEUE {"name":"q"}\r\nEND 1\r\n', [{"name": "q"}]),
        (lambda it: it.set_queue("q", 3), "SET-QUEUE q --slots=3", b'QUEUE {"slots":3}\r\n', {"slots": 3}),
        (lambda it: it.set_queue("q", None), "SET-QUEUE q --slots=none", b"QUEUE {}\r\n", {}),
        (
            lambda it: it.set_queue("q", fair=True, rate=None),
            "SET-QUEUE q --fair=true --rate=none",
            b"QUEUE {}\r\n",
            {},
        ),
        (lambda it: it.set_queue("q", "default"), "SET-QUEUE q --slots=default", b"QUEUE {}\r\n", {}),
        (lambda it: it.set_slots(4), "SET-SLOTS 4", b"OK 4\r\n", 4),
        (lambda it: it.set_slots(None), "SET-SLOTS default", b"OK 2\r\n", 2),
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
        (
            lambda it: it.set_schedule(
                4, ["a", "b c"], overlap=False, remove=["timeout", "label"], queue="q", notify_fail=True
            ),
            (
                "SCHEDULE --set=4 --overlap=false --queue=q --notify-fail=true --timeout=none "
                "--label=\"\" exec a 'b c'"
            ),
            b"OK 4\r\n",
            4,
        ),
        (lambda it: it.set_schedule(4, every="2m"), "SCHEDULE --set=4 --every=2m", b"OK 4\r\n", 4),
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
        (lambda it: it.shutdown(), "SHUTDOWN", b"OK 2 left\r\n", (2, "left")),
        (lambda it: it.shutdown(end=True), "SHUTDOWN --end", b"OK 0 ended more\r\n", (0, "ended")),
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
        (lambda it: it.list(order="start", limit=9), "LIST --limit=9 --order=start", b"END 0\r\n", []),
        (lambda it: it.count(queue="q", tasks=True), "LIST --queue=q --tasks --count", b"END 7\r\n", 7),
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


def test_stream_reads_pieces_to_the_end(serve: Serve) -> None:
    client, requests = serve(data("stdout", 0, b"abc"), data("stdout", 3, b"de"), data("stdout", 5, b""))
    assert b"".join(piece.data for piece in client.stream(7)) == b"abcde"
    assert [request.line for request in requests] == [
        f"OUTPUT 7 stdout --offset={offset}" for offset in (0, 3, 5)
    ]


def test_list_goes_on_if_the_daemon_has_searched_its_maximum(serve: Serve) -> None:
    client, requests = serve(
        b'JOB {"id":3}\r\nEND 1 5\r\n', b"END 0 9 more\r\n", b'JOB {"id":9}\r\nEND 1\r\n'
    )
    assert [job["id"] for job in client.list(match="a b", tasks=True)] == [3, 9]
    assert [request.line for request in requests] == [
        'LIST --match="a b" --tasks',
        'LIST --match="a b" --from=5 --limit=99 --tasks',
        'LIST --match="a b" --from=9 --limit=99 --tasks',
    ]


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


def test_count_adds_what_each_request_has_searched(serve: Serve) -> None:
    client, requests = serve(b"END 3 70\r\n", b"END 2\r\n")
    assert client.count(match="x") == 5
    assert [request.line for request in requests] == [
        "LIST --match=x --count",
        "LIST --match=x --from=70 --count",
    ]
