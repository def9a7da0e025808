"""Objects that survive a collection are frozen; everything is collected only if objects leak."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from taskqd.daemon import garbage_collection
from taskqd.daemon.garbage_collection import CHECK_INTERVAL, CONNECTION_BLOCKS, JOB_BLOCKS, GarbageCollection


class Node:
    """An object that may be in a cycle; it takes some blocks of memory."""

    def __init__(self) -> None:
        self.other: Node | None = None
        self.ballast = [[number] for number in range(10_000)]


def make_cycle() -> "list[Node]":
    nodes = [Node(), Node()]
    nodes[0].other, nodes[1].other = nodes[1], nodes[0]
    return nodes


class Daemon:
    """The numbers of a daemon, its clock, and its garbage collection."""

    def __init__(self) -> None:
        self.jobs = self.connections = 0
        self.clock = Clock()
        self.collection = GarbageCollection(self.clock, lambda: self.jobs, lambda: self.connections)


@pytest.fixture(name="daemon")
def make_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    gc.collect()
    daemon = Daemon()
    daemon.collection.start()
    monkeypatch.setattr(garbage_collection, "MIN_BLOCKS", 0)
    monkeypatch.setattr(garbage_collection, "MAX_GROWTH", 1.02)  # other objects come and go
    yield daemon
    daemon.collection.stop()
    gc.unfreeze()


def test_garbage_collection_frees_a_young_cycle(daemon: Daemon) -> None:
    nodes = make_cycle()
    freed = weakref.ref(nodes[0])
    del nodes
    gc.collect(1)
    assert freed() is None


@pytest.mark.parametrize("generation, is_frozen", [(0, False), (1, True)])
def test_survivors_of_the_middle_collection_are_frozen(
    generation: int, is_frozen: bool, daemon: Daemon
) -> None:
    nodes = make_cycle()
    known = weakref.ref(nodes[0])
    gc.collect(generation)
    del nodes
    gc.collect()
    assert (known() is not None) is is_frozen


def leak(daemon: Daemon) -> "weakref.ref[Any]":
    """Make garbage that no collection frees, and check for it once."""
    nodes = make_cycle()
    leaked = weakref.ref(nodes[0])
    gc.collect(1)
    del nodes
    daemon.clock.advance(CHECK_INTERVAL)
    return leaked


def test_leak_is_collected_and_logged(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    assert leak(daemon)() is None
    assert caplog.text.count("collected garbage") == 1


def test_memory_without_garbage_is_collected_once(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    nodes = make_cycle()
    daemon.clock.advance(CHECK_INTERVAL)
    assert caplog.text.count("collected garbage") == 1
    daemon.clock.advance(CHECK_INTERVAL)
    assert caplog.text.count("collected garbage") == 1, "now it belongs to the daemon"
    del nodes


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": 100_000 // JOB_BLOCKS},
        {"connections": 100_000 // CONNECTION_BLOCKS},
    ],
)
def test_memory_that_jobs_and_connections_explain_causes_no_full_collection(
    change: dict[str, int], daemon: Daemon
) -> None:
    vars(daemon).update(change)
    assert leak(daemon)() is not None


@pytest.mark.parametrize("limit, value", [("MIN_BLOCKS", 10**9), ("MAX_GROWTH", 2)])
def test_growth_within_the_limits_causes_no_full_collection(
    limit: str, value: int, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage_collection, limit, value)
    assert leak(daemon)() is not None


def test_stop_restores_the_thresholds_and_freezes_nothing_more() -> None:
    thresholds, daemon = gc.get_threshold(), Daemon()
    daemon.collection.start()
    assert gc.get_threshold() != thresholds
    daemon.collection.stop()
    daemon.collection.stop()
    assert gc.get_threshold() == thresholds
    leaked = leak(daemon)
    assert leaked() is not None, "nothing is checked any more"
    gc.collect()
    assert leaked() is None, "it is not frozen"
