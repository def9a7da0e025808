"""When children are read; test_spawn.py has real processes."""

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.protocol import ProcessProtocol

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.child_process import READ_DELAY, ChildProcess, ChildReaper
from tests.fakes.clocks import clock

PID = 2**30
"""More than the number of any process."""


class Bench:
    """Children with a fake clock and empty pipes; ``read`` has the pipes that the reactor reads."""

    def __init__(self) -> None:
        self.clock = clock()
        self.read: set[Any] = set()
        reactor: Any = self.clock
        reactor.addReader, reactor.removeReader = self.read.add, self.read.discard
        self.children = ChildReaper(reactor, self.clock, BatchScope())
        self.writing: list[int] = []
        self.added: list[ChildProcess] = []

    def add(self) -> ChildProcess:
        """Add a process."""
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        self.writing += [its_out, its_err]
        child = self.children.add(cast("Any", ProcessProtocol()), PID + len(self.added), (out, err))
        self.added.append(child)
        return child

    def is_read(self, child: ChildProcess) -> bool:
        """Whether the reactor reads its pipes, both or none."""
        [is_read] = {pipe in self.read for pipe in child.pipes.values()}
        return is_read


@pytest.fixture(name="bench")
def a_bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for child in bench.added:
        for pipe in list(child.pipes.values()):
            pipe.loseConnection()
    for descriptor in bench.writing:
        os.close(descriptor)
    bench.children._by_pid.clear()
    bench.children._unregister()


def test_child_is_read_after_the_delay(bench: Bench) -> None:
    first = bench.add()
    bench.clock.advance(READ_DELAY / 2)
    second = bench.add()
    assert not bench.is_read(first)
    bench.clock.advance(READ_DELAY / 2)
    assert (bench.is_read(first), bench.is_read(second)) == (True, False)
    bench.clock.advance(READ_DELAY / 2)
    assert bench.is_read(second)
    assert bench.clock.getDelayedCalls() == []


def test_paused_child_is_read_only_after_it_is_resumed(bench: Bench) -> None:
    child = bench.add()
    child.pauseProducing()
    bench.clock.advance(READ_DELAY)
    assert not bench.is_read(child)
    child.resumeProducing()
    assert bench.is_read(child)
    child.pauseProducing()
    assert not bench.is_read(child)


def test_clock_set_back_delays_no_reading(bench: Bench) -> None:
    first = bench.add()
    bench.clock.rightNow -= 3600
    second = bench.add()
    bench.clock.advance(READ_DELAY)
    assert (bench.is_read(first), bench.is_read(second)) == (True, True)


def test_our_ends_of_pipes_are_non_blocking(bench: Bench) -> None:
    child = bench.add()
    assert [os.get_blocking(pipe.fileno()) for pipe in child.pipes.values()] == [False, False]
    assert [os.get_blocking(descriptor) for descriptor in bench.writing] == [True, True]


def test_reaped_child_is_not_reaped_again(bench: Bench) -> None:
    child = bench.add()
    child.pid = None
    assert not child.reap()


def test_child_with_closed_pipes_is_not_read(bench: Bench) -> None:
    child = bench.add()
    for pipe in list(child.pipes.values()):
        pipe.loseConnection()
    bench.clock.advance(READ_DELAY)
    assert (child.pipes, bench.read) == ({}, set())
