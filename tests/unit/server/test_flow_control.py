"""When a connection is read from: as there is room, and as others have their turn."""

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock

from taskqd.server.flow_control import MAX_BUFFERED, FlowControl
from tests.fakes.clocks import clock
from tests.fakes.deferreds import error_of, result_of


class Transport:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")


class Bench:
    def __init__(self) -> None:
        self.clock: Clock = clock()
        self.reads = 0
        self.transport = Transport()
        self.pacing = FlowControl(self.clock, self._read_on)

    def _read_on(self) -> None:
        assert not self.pacing.is_breathing
        self.reads += 1

    def hold(self, is_paused: bool = False, is_deaf: bool = False) -> list[str]:
        """Return what the transport is told."""
        self.transport.told = []
        self.pacing.hold(self.transport, is_paused, is_deaf)
        assert self.pacing.is_held == (
            self.transport.told[-1] == "pause" if self.transport.told else self.held
        )
        self.held = self.pacing.is_held
        return self.transport.told

    held = False


def test_room_is_there_until_the_client_leaves_too_much_unread() -> None:
    pacing = Bench().pacing
    result_of(pacing.room())
    pacing.choke()
    rooms = [pacing.room(), pacing.room()]
    assert not any(room.called for room in rooms)
    pacing.relieve()
    for room in (*rooms, pacing.room()):
        result_of(room)


def test_who_gives_up_waiting_for_room_is_not_told() -> None:
    pacing = Bench().pacing
    pacing.choke()
    room, other = pacing.room(), pacing.room()
    room.cancel()
    assert isinstance(error_of(room), CancelledError)
    pacing.relieve()
    result_of(other)


def test_who_waits_for_room_when_the_connection_ends_is_told_so() -> None:
    pacing = Bench().pacing
    pacing.choke()
    room = pacing.room()
    pacing.end()
    assert isinstance(error_of(room), ConnectionDone)


def test_after_a_breath_reading_goes_on_in_the_next_turn() -> None:
    bench = Bench()
    bench.pacing.yield_to_reactor()
    assert (bench.pacing.is_breathing, bench.reads) == (True, 0)
    bench.clock.advance(0)
    assert (bench.pacing.is_breathing, bench.reads) == (False, 1)
    bench.pacing.end()


def test_a_breath_ends_with_the_connection() -> None:
    bench = Bench()
    bench.pacing.yield_to_reactor()
    bench.pacing.end()
    bench.clock.advance(0)
    assert bench.reads == 0
    assert bench.clock.getDelayedCalls() == []


def test_the_transport_is_told_once_of_each_change() -> None:
    bench = Bench()
    assert bench.hold() == []
    assert bench.hold(is_paused=True) == ["pause"]
    assert bench.hold(is_paused=True) == []
    assert bench.hold() == ["resume"]
    assert bench.hold() == []


@pytest.mark.parametrize(
    "ahead, is_breathing, is_deaf, is_held",
    [
        (MAX_BUFFERED + 1, True, False, True),
        (MAX_BUFFERED, True, False, False),
        (MAX_BUFFERED + 1, False, False, False),
        (MAX_BUFFERED + 1, True, True, False),
    ],
)
def test_no_more_is_taken_while_too_much_waits_for_the_next_turn(
    ahead: int, is_breathing: bool, is_deaf: bool, is_held: bool
) -> None:
    bench = Bench()
    bench.pacing.ahead = b"x" * ahead
    if is_breathing:
        bench.pacing.yield_to_reactor()
    assert bench.hold(is_deaf=is_deaf) == (["pause"] if is_held else [])
