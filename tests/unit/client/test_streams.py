"""submit_many, wait_many, follow and watch."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskqd.client import (
    Client,
    Output,
    Refused,
    Unreachable,
    reconnect,
    streams,
)
from tests.fakes.daemon import FakeDaemon, Request, data, job
from tests.unit.client.samples import COMPLETED, Serve


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


SHOWN = job(status="RUNNING", attempts=1)
"""The reply to the SHOW before each FOLLOW."""


def followed(client: Client, **offsets: int) -> list[Output]:
    return [piece for piece in client.follow(7, **offsets) if piece.data]


def test_follow_yields_both_streams_until_the_job_ends(serve: Serve) -> None:
    reply = data("stdout", 0, b"a\r\n") + data("stderr", 0, b"x") + data("stdout", 3, b"b") + COMPLETED
    client, requests = serve(SHOWN, reply, b"OK\r\n")
    assert followed(client) == [("stdout", 0, b"a\r\n"), ("stderr", 0, b"x"), ("stdout", 3, b"b")]
    client.ping()
    assert [request.line for request in requests] == ["SHOW 7", "FOLLOW 7", "PING"]


def test_follow_yields_piece_larger_than_one_receive_whole(serve: Serve) -> None:
    client, _ = serve(SHOWN, data("stdout", 0, bytes(2_000_000)) + COMPLETED)
    assert [len(piece.data) for piece in followed(client)] == [2_000_000]


def test_follow_starts_at_given_offsets(serve: Serve) -> None:
    client, requests = serve(SHOWN, data("stderr", 4, b"x") + COMPLETED)
    assert followed(client, stdout=10, stderr=4) == [("stderr", 4, b"x")]
    assert requests == [Request("SHOW 7"), Request("FOLLOW 7 --stdout=10 --stderr=4")]


DEADLINE = 60.0
"""Seconds; the thread of the fake daemon ends then if the test has failed."""


def test_follow_yields_empty_piece_when_idle(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_INTERVAL", 0.01)
    may_continue = threading.Event()

    def parts() -> Iterator[bytes]:
        yield data("stdout", 0, b"a")
        may_continue.wait(DEADLINE)
        yield COMPLETED[:5]
        yield COMPLETED[5:]

    pieces = serve(SHOWN, parts())[0].follow(7)
    assert next(piece for piece in pieces if piece.data).data == b"a"
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
        "SHOW": SHOWN,
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
        assert daemon.lines[-2:] == ["PING", "PING"]
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


def test_client_closed_while_following_is_unreachable(serve: Serve) -> None:
    client, _ = serve(SHOWN, data("stdout", 0, b"a"))
    pieces = client.follow(7)
    next(pieces)
    client.close()
    with pytest.raises(Unreachable, match="the client is closed"):
        next(pieces)


def cut(*parts: bytes) -> Iterator[bytes]:
    """Yield parts of a reply, then close the connection."""
    yield from parts
    raise ConnectionError


@pytest.mark.usefixtures("quick")
def test_follow_continues_after_a_restart_without_gap_or_repetition(serve: Serve) -> None:
    half = data("stdout", 3, b"def")[:-4]  # the connection is lost within a block
    client, requests = serve(
        *(SHOWN, cut(data("stdout", 0, b"abc"), data("stderr", 0, b"E"), half)),
        *(None, SHOWN, data("stdout", 3, b"def") + COMPLETED),
    )
    news: list[str] = []
    client.on_news = news.append
    assert followed(client) == [("stdout", 0, b"abc"), ("stderr", 0, b"E"), ("stdout", 3, b"def")]
    assert [each.line for each in requests] == [
        *("SHOW 7", "FOLLOW 7", "SHOW 7", "SHOW 7", "FOLLOW 7 --stdout=3 --stderr=1")
    ]
    assert news == [reconnect.CONNECTION_LOST, reconnect.RECONNECTED]


@pytest.mark.usefixtures("quick")
def test_follow_starts_over_if_the_job_is_in_another_attempt_after_a_restart(serve: Serve) -> None:
    client, requests = serve(
        *(SHOWN, cut(data("stdout", 0, b"old")), job(attempts=2), data("stdout", 0, b"new") + COMPLETED)
    )
    news: list[str] = []
    client.on_news = news.append
    assert followed(client) == [("stdout", 0, b"old"), ("stdout", 0, b"new")]
    assert requests[-1] == Request("FOLLOW 7")
    assert "job 7 is running again; its output starts from the beginning" in news


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("attempts, offset", [(1, " --stdout=3"), (2, "")])
def test_follow_of_a_pending_job_continues_if_its_attempt_is_certain(
    serve: Serve, attempts: int, offset: str
) -> None:
    """``attempts`` is what a second connection says at the first byte."""
    pending, now = job(status="PENDING", attempts=0), job(attempts=attempts)
    client, requests = serve(pending, cut(data("stdout", 0, b"abc")), now, now, COMPLETED)
    followed(client)
    assert requests[-1] == Request(f"FOLLOW 7{offset}")


@pytest.mark.usefixtures("quick")
def test_follow_authenticates_again_after_a_restart() -> None:
    replies: Iterator[bytes | Iterator[bytes]] = iter(
        [cut(data("stdout", 0, b"a")), data("stdout", 1, b"b") + COMPLETED]
    )

    def answer(request: Request) -> bytes | Iterator[bytes]:
        if request.verb == "AUTH":
            return b"OK token admin\r\n"
        return SHOWN if request.verb == "SHOW" else next(replies)

    with FakeDaemon(answer) as daemon, Client(daemon.address, "secret") as client:
        assert [piece.data for piece in client.follow(7) if piece.data] == [b"a", b"b"]
        assert daemon.lines == ["AUTH secret", "SHOW 7", "FOLLOW 7", *daemon.lines[:2], "FOLLOW 7 --stdout=1"]


def test_follow_without_reconnect_is_unreachable_after_a_loss(tmp_path: Path) -> None:
    with (
        FakeDaemon(lambda _: cut(data("stdout", 0, b"a")), tmp_path) as daemon,
        Client(daemon.address, reconnect=0) as client,
    ):
        with pytest.raises(Unreachable, match="lost before the reply"):
            followed(client)
        assert daemon.lines == ["FOLLOW 7"]


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
