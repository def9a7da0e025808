"""Clients that hang up while nothing is read from them."""

import socket
from typing import Any

from twisted.internet.task import Clock

from taskqd.server.hangup_monitor import CHECK_INTERVAL, HangupMonitor, has_hung_up
from tests.fakes.connections import FakeTransport


def test_peer_has_hung_up_once_it_has_closed_both_halves() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport: Any = FakeTransport(ours)
        assert not has_hung_up(transport)
        theirs.shutdown(socket.SHUT_WR)
        assert not has_hung_up(transport)
        theirs.close()
        assert has_hung_up(transport)


def test_monitor_aborts_a_connection_whose_client_has_hung_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        clock = Clock()
        transport: Any = FakeTransport(ours)
        monitor = HangupMonitor(clock, lambda: True)
        monitor.start(transport)
        monitor.start(transport)
        clock.advance(CHECK_INTERVAL)
        assert not transport.is_aborted
        theirs.close()
        monitor.check_now(transport)
        assert not transport.is_aborted, "a check is scheduled"
        clock.advance(CHECK_INTERVAL)
        assert transport.is_aborted
    assert clock.getDelayedCalls() == []


def test_monitor_stops_when_a_check_is_not_needed_any_more() -> None:
    clock = Clock()
    transport: Any = FakeTransport(None)
    monitor = HangupMonitor(clock, lambda: False)
    monitor.start(transport)
    clock.advance(CHECK_INTERVAL)
    assert clock.getDelayedCalls() == []
    monitor.start(transport)
    monitor.stop()
    assert clock.getDelayedCalls() == []
