"""``taskq drain``: waiting for running jobs."""

import pytest

from taskqd.cli.commands import server as server_commands
from tests.fakes.daemon import Request
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures


def test_drain_wait_returns_when_no_job_is_running(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_commands, "POLL_INTERVAL", 0.01)
    left = iter([2, 2, 1, 0])

    def answer(request: Request) -> bytes:
        return b"OK\r\n" if request.verb == "DRAIN" else b'STATS {"busy":%d}\r\n' % next(left)

    daemon = serve(answer)
    assert call("drain", "--wait") == (0, b"draining: 0 running\n", "")
    assert daemon.lines == ["DRAIN", "STATS", "STATS", "STATS", "STATS"]
