"""The stdin of ``taskq run --interactive``, which is sent while the job runs."""

import os
from collections.abc import Callable

import pytest

from taskqd.cli.context import Session
from taskqd.cli.streaming import stdin_forwarder
from taskqd.cli.streaming.stdin_forwarder import StdinForwarder
from tests.fakes.daemon import Request, refused
from tests.support.cli_calls import Serve, a_daemon, plain_environment  # noqa: F401 - these are fixtures

Forward = Callable[..., str]


@pytest.fixture(name="forward")
def a_forward(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Forward:
    """Return a function that forwards pieces of stdin to job 7, and returns what is printed to stderr."""
    monkeypatch.setattr(stdin_forwarder, "MIN_POLL_INTERVAL", 0.001)

    def forward(*pieces: bytes) -> str:
        left = [*pieces, b""]
        monkeypatch.setattr("taskqd.cli.stdin_pieces.os.read", lambda *_: left.pop(0))
        session = Session()
        session.reconnect_timeout = 0
        session.address = os.environ["TASKQ_ADDRESS"]
        thread = StdinForwarder(session, 7)
        thread.run()
        return capsys.readouterr().err

    return forward


def test_stdin_is_sent_from_the_start_of_the_job_to_its_end(serve: Serve, forward: Forward) -> None:
    statuses = ["PENDING", "PENDING", "RUNNING"]

    def answer(request: Request) -> bytes:
        if request.verb == "STATUS":
            return f"STATUS {statuses.pop(0)} 0\r\n".encode()
        return b"OK %d\r\n" % sum(map(len, request.blocks))

    daemon = serve(answer)
    assert forward(b"one\n", b"two") == ""
    assert daemon.lines == [
        *["STATUS 7"] * 3,
        *("SEND 7 --data=4 --timeout=36525d", "SEND 7 --data=3 --timeout=36525d"),
        "SEND 7 --eof --timeout=36525d",
    ]


@pytest.mark.parametrize(
    "status, reply, printed",
    [
        ("CANCELLED", b"", ""),
        ("RUNNING", refused("WRONG_STATE", "job 7 has ended"), ""),
        ("RUNNING", refused("GONE", "removed"), "taskq: job 7 gets no more input: GONE removed"),
        ("RUNNING", None, "taskq: job 7 gets no more input: the connection"),
    ],
)
def test_forwarding_ends_with_the_job_or_says_why(
    serve: Serve, forward: Forward, status: str, reply: bytes | None, printed: str
) -> None:
    serve(lambda request: f"STATUS {status} 0\r\n".encode() if request.verb == "STATUS" else reply)
    shown = forward(b"x")
    assert shown.startswith(printed)
    assert bool(shown) == bool(printed)
