"""Authentication, second clients, and repeating requests after a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from taskqd.client import (
    Client,
    Refused,
    Status,
    Unreachable,
    reconnect,
    session,
)
from tests.fakes.daemon import FakeDaemon, Request
from tests.unit.client.samples import Serve


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


def test_another_connects_to_the_same_daemon_with_the_same_token() -> None:
    with (
        FakeDaemon(check_token) as daemon,
        Client(daemon.address, "secret") as client,
        client.another() as second,
    ):
        second.ping()
        assert daemon.lines == ["AUTH secret", "AUTH secret", "PING"]


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
