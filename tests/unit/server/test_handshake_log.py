"""Failed TLS handshakes in the log: at once, and then together."""

import pytest
from twisted.internet.task import Clock

from taskqd.server.handshake_log import LOG_INTERVAL, HandshakeLog


def test_handshakes_that_fail_are_logged_at_once_and_then_together(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    handshakes = HandshakeLog(clock)

    def new_lines() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    handshakes.add("10.0.0.5:4242", "http request")
    assert new_lines() == ["TLS with 10.0.0.5:4242 failed: http request"]
    for port in range(1000):
        handshakes.add(f"10.0.0.6:{port}", "unknown ca")
    assert new_lines() == []
    clock.advance(LOG_INTERVAL)
    assert new_lines() == ["TLS with 1000 more clients failed, the last one 10.0.0.6:999: unknown ca"]
    handshakes.add("10.0.0.7:1", "no shared cipher")
    handshakes.stop()
    assert new_lines() == ["TLS with 1 more clients failed, the last one 10.0.0.7:1: no shared cipher"]
    assert clock.getDelayedCalls() == []
    handshakes.stop()
    handshakes.add("10.0.0.8:1", "http request")
    assert len(new_lines()) == 1
    clock.advance(LOG_INTERVAL)
    assert clock.getDelayedCalls() == []
    assert new_lines() == []
