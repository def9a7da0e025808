"""Submissions with an environment: sent once, and only to a daemon on this machine that takes it."""

import os
from pathlib import Path

import pytest

from taskqd.client import Client, Options, Refused
from taskqd.client.environment import encode_environment
from tests.fakes.daemon import FakeDaemon, Request, refused, replies
from tests.unit.client.samples import Serve

HELLO = b'TASKQ 1 {"version":"0.10.0","options":["--env","--environment"]}\r\n'
BLOCK, KNOWN = encode_environment({"A": "1", "B": "2"})
ENVIRONMENT: dict[str, str | bytes] = {"B": "2", "A": b"1"}
FIRST, NEXT = f"SUBMIT --environment={len(BLOCK)} ", f"SUBMIT --environment={KNOWN.decode()} "


def test_environment_is_a_block_after_the_others(serve: Serve) -> None:
    client, requests = serve(HELLO, b"JOB_ID 1\r\n", b"JOB_ID 2\r\n")
    assert client.submit("x", environment=ENVIRONMENT, stdin=b"in") == 1
    assert client.submit("y", environment=ENVIRONMENT, env={"C": "3"}) == 2
    assert requests == [
        Request("HELLO"),
        Request(f"SUBMIT --stdin=2 --environment={len(BLOCK)} x", (b"in", BLOCK)),
        Request(f"SUBMIT --env=C=3 --environment={len(BLOCK)} y", (BLOCK,)),
    ]


def test_inherited_environment_is_that_of_the_process(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("API_KEY", "hunter2")
    monkeypatch.setenv("B", "2")
    client, requests = serve(HELLO, b"JOB_ID 1\r\n")
    client.submit("x", inherit_env=True)
    assert requests[-1] == Request(f"{FIRST}x", (BLOCK,))


def test_many_submissions_send_the_environment_until_one_is_accepted(serve: Serve) -> None:
    no = refused("TOO_LARGE", "no")
    client, requests = serve(HELLO, no, b"JOB_ID 1\r\n", b"JOB_ID 2\r\n", no, b"JOB_ID 3\r\n")
    answers = list(client.submit_many(["a", "b\0", "b", "c", "d", None, "e"], environment=ENVIRONMENT))
    assert [each.code if isinstance(each, Refused) else each for each in answers] == [
        *("TOO_LARGE", "BAD_REQUEST", 1, 2, "TOO_LARGE", 3)
    ]
    assert requests[1:] == [
        *(Request(f"{FIRST}a", (BLOCK,)), Request(f"{FIRST}b", (BLOCK,))),
        *(Request(f"{NEXT}{command}") for command in "cde"),
    ]


def test_environment_is_not_sent_to_another_machine() -> None:
    with FakeDaemon(replies({"SUBMIT": b"JOB_ID 1\r\n"})) as daemon, Client(daemon.address) as client:
        with pytest.raises(Refused, match="only to a daemon on this machine") as refusal:
            client.submit("x", inherit_env=True)
        with pytest.raises(Refused, match=daemon.address):
            list(client.submit_many(["x"], environment=ENVIRONMENT))
        assert refusal.value.code == "FORBIDDEN"
        assert client.submit("x") == 1
        assert daemon.lines == ["SUBMIT x"]


def test_environment_is_not_sent_to_an_older_daemon_which_would_read_requests_in_it(serve: Serve) -> None:
    client, requests = serve(b'TASKQ 1 {"version":"0.9.0","options":["--env"]}\r\n')
    for _ in range(2):
        with pytest.raises(Refused, match=r"the daemon is release 0\.9\.0"):
            client.submit("x", environment=ENVIRONMENT)
    assert requests == [Request("HELLO")]


def test_daemon_is_asked_again_on_a_new_connection(tmp_path: Path) -> None:
    table = {"HELLO": HELLO, "SUBMIT": b"JOB_ID 1\r\n", "PING": b"OK\r\n"}
    with FakeDaemon(replies(table), tmp_path) as daemon, Client(daemon.address, reconnect=5) as client:
        client.submit("x", environment=ENVIRONMENT)
        client.close()
        client._reopen()
        client.submit("x", environment=ENVIRONMENT)
        assert [request.verb for request in daemon.requests] == ["HELLO", "SUBMIT"] * 2


def test_two_environments_are_an_error(serve: Serve) -> None:
    client, _ = serve()
    options: Options = {"environment": {}, "inherit_env": True}
    with pytest.raises(TypeError, match="either environment or inherit_env"):
        client.submit("x", **options)
