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


class Harness:
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


@pytest.fixture(name="harness")
def a_harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    for child in harness.added:
        for pipe in list(child.pipes.values()):
            pipe.loseConnection()
    for descriptor in harness.writing:
        os.close(descriptor)
    harness.children._by_pid.clear()
    harness.children._unregister()


def test_child_is_read_after_the_delay(harness: Harness) -> None:
    first = harness.add()
    harness.clock.advance(READ_DELAY / 2)
    second = harness.add()
    assert not harness.is_read(first)
    harness.clock.advance(READ_DELAY / 2)
    assert (harness.is_read(first), harness.is_read(second)) == (True, False)
    harness.clock.advance(READ_DELAY / 2)
    assert harness.is_read(second)
    assert harness.clock.getDelayedCalls() == []


def test_paused_child_is_read_only_after_it_is_resumed(harness: Harness) -> None:
    child = harness.add()
    child.pauseProducing()
    harness.clock.advance(READ_DELAY)
    assert not harness.is_read(child)
    child.resumeProducing()
    assert harness.is_read(child)
    child.pauseProducing()
    assert not harness.is_read(child)


def test_clock_set_back_delays_no_reading(harness: Harness) -> None:
    first = harness.add()
    harness.clock.rightNow -= 3600
    second = harness.add()
    harness.clock.advance(READ_DELAY)
    assert (harness.is_read(first), harness.is_read(second)) == (True, True)


def test_our_ends_of_pipes_are_non_blocking(harness: Harness) -> None:
    child = harness.add()
    assert [os.get_blocking(pipe.fileno()) for pipe in child.pipes.values()] == [False, False]
    assert [os.get_blocking(descriptor) for descriptor in harness.writing] == [True, True]


def test_reaped_child_is_not_reaped_again(harness: Harness) -> None:
    child = harness.add()
    child.pid = None
    assert not child.reap()


def test_child_with_closed_pipes_is_not_read(harness: Harness) -> None:
    child = harness.add()
    for pipe in list(child.pipes.values()):
        pipe.loseConnection()
    harness.clock.advance(READ_DELAY)
    assert (child.pipes, harness.read) == ({}, set())
