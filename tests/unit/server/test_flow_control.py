"""Flow control: when a connection is read from, and when replies may be sent."""

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from zope.interface import implementer

from taskqd.server.flow_control import MAX_BUFFERED, FlowControl, PauseReason
from tests.fakes.clocks import clock
from tests.fakes.deferreds import error_of, result_of


@implementer(IPushProducer)
class Transport:
    """Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        raise AssertionError


class Bench:
    def __init__(self) -> None:
        self.clock: Clock = clock()
        self.reads = 0
        self.transport = Transport()
        self.flow = FlowControl(self.clock, self._read_on)

    def _read_on(self) -> None:
        assert not self.flow.is_yielding
        self.reads += 1

    def apply(self, *reasons: PauseReason, is_discarding: bool = False) -> list[str]:
        """Return the calls of the transport if reading pauses for these reasons."""
        for reason in PauseReason:
            self.flow.resume(reason)
        for reason in reasons:
            self.flow.pause(reason)
        self.transport.calls = []
        self.flow.apply_to(self.transport, is_discarding=is_discarding)
        return self.transport.calls


def test_connection_is_writable_until_its_client_does_not_read() -> None:
    flow = Bench().flow
    result_of(flow.writable())
    flow.pause(PauseReason.CONGESTED)
    writers = [flow.writable(), flow.writable()]
    assert not any(writer.called for writer in writers)
    flow.resume(PauseReason.CONGESTED)
    for writer in (*writers, flow.writable()):
        result_of(writer)


@pytest.mark.parametrize("reason", [reason for reason in PauseReason if reason is not PauseReason.CONGESTED])
def test_connection_is_writable_while_reading_pauses_for_another_reason(reason: PauseReason) -> None:
    flow = Bench().flow
    flow.pause(reason)
    assert (flow.is_paused, flow.is_congested, flow.can_send) == (True, False, True)
    result_of(flow.writable())


def test_waiting_until_writable_can_be_cancelled() -> None:
    flow = Bench().flow
    flow.pause(PauseReason.CONGESTED)
    cancelled, other = flow.writable(), flow.writable()
    cancelled.cancel()
    assert isinstance(error_of(cancelled), CancelledError)
    flow.resume(PauseReason.CONGESTED)
    result_of(other)


def test_waiting_until_writable_fails_when_the_connection_closes() -> None:
    flow = Bench().flow
    flow.pause(PauseReason.CONGESTED)
    writer = flow.writable()
    assert flow.is_waited_for
    flow.close()
    assert isinstance(error_of(writer), ConnectionDone)
    assert isinstance(error_of(flow.writable()), ConnectionDone)
    assert not flow.is_waited_for
    assert not flow.can_send


def test_reading_continues_in_the_next_turn_after_it_has_yielded() -> None:
    bench = Bench()
    bench.flow.yield_to_reactor()
    assert (bench.flow.is_yielding, bench.reads) == (True, 0)
    bench.clock.advance(0)
    assert (bench.flow.is_yielding, bench.reads) == (False, 1)
    bench.flow.close()


def test_reading_does_not_continue_after_the_connection_has_closed() -> None:
    bench = Bench()
    bench.flow.yield_to_reactor()
    bench.flow.close()
    bench.clock.advance(0)
    assert bench.reads == 0
    assert bench.clock.getDelayedCalls() == []


BLOCKING = [reason for reason in PauseReason if reason is not PauseReason.YIELDING]


@pytest.mark.parametrize("reason", BLOCKING)
def test_transport_is_paused_and_resumed_once(reason: PauseReason) -> None:
    bench = Bench()
    assert bench.apply() == []
    assert bench.apply(reason) == ["pause"]
    assert bench.apply(reason) == []
    assert bench.apply(*BLOCKING) == []
    assert bench.apply() == ["resume"]
    assert bench.apply() == []


def test_transport_is_resumed_when_its_input_is_discarded() -> None:
    bench = Bench()
    assert bench.apply(*PauseReason) == ["pause"]
    assert bench.apply(*PauseReason, is_discarding=True) == ["resume"]


@pytest.mark.parametrize(
    "buffered, is_yielding, is_discarding, is_paused",
    [
        (MAX_BUFFERED + 1, True, False, True),
        (MAX_BUFFERED, True, False, False),
        (MAX_BUFFERED + 1, False, False, False),
        (MAX_BUFFERED + 1, True, True, False),
    ],
)
def test_transport_is_paused_while_too_much_waits_for_the_next_turn(
    buffered: int, is_yielding: bool, is_discarding: bool, is_paused: bool
) -> None:
    bench = Bench()
    bench.flow.buffer = b"x" * buffered
    reasons = [PauseReason.YIELDING] if is_yielding else []
    assert bench.apply(*reasons, is_discarding=is_discarding) == (["pause"] if is_paused else [])
    bench.flow.discard_input()
    assert bench.apply(*reasons) == (["resume"] if is_paused else [])
