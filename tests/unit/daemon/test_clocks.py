"""The three clocks, and that the reactor's timers run on the one that is never set."""

import time

from twisted.internet.selectreactor import SelectReactor
from zope.interface.verify import verifyObject

from taskqd.daemon.clocks import Clocks, read_boot_clock, use_monotonic
from taskqd.storage.interfaces import IClock
from tests.fakes.clocks import BOOT, MONOTONIC, START, FakeClocks


def test_clocks_provide_the_interface_of_the_clock() -> None:
    verifyObject(IClock, Clocks(FakeClocks()))


def test_timers_are_those_of_the_reactor() -> None:
    reactor = FakeClocks()
    fired: list[int] = []
    made = Clocks(reactor)
    made.callLater(5.0, fired.append, 1)
    assert made.getDelayedCalls() == reactor.getDelayedCalls() != []
    reactor.advance(5.0)
    assert (made.seconds(), fired) == (MONOTONIC + 5.0, [1])


def test_use_monotonic_moves_the_timers_of_a_reactor_to_the_monotonic_clock() -> None:
    reactor = SelectReactor()
    use_monotonic(reactor)
    timer = reactor.callLater(60.0, int)
    assert abs(timer.getTime() - time.monotonic() - 60.0) < 10.0


def test_boot_clock_is_not_behind_the_monotonic_clock() -> None:
    assert read_boot_clock() >= time.monotonic() - 0.001


def test_setting_the_time_of_day_moves_no_other_clock() -> None:
    fake = FakeClocks()
    fake.set_time(START + 7200.0)
    assert (fake.seconds(), fake.boot(), fake.elapsed()) == (MONOTONIC, BOOT, START)
    assert (fake.measured(), fake.now()) == (7200.0, START)
    fake.ahead = fake.measured()
    assert fake.now() == START + 7200.0


def test_suspending_the_machine_stops_only_the_monotonic_clock() -> None:
    fake = FakeClocks()
    fake.suspend(7200.0)
    assert (fake.seconds(), fake.boot(), fake.now()) == (MONOTONIC, BOOT + 7200.0, START + 7200.0)
