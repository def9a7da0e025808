"""The cleanup after dead runners of root's, which the daemon requests from the next one."""

from types import SimpleNamespace
from typing import Any

from taskqd.execution.messages import Message, Settled, Sweep, Swept
from taskqd.execution.runner_cleanup import RequestedCleanup, SweepInterrupted
from tests.fakes.deferreds import error_of, result_of

R1, R2 = "1" * 16, "2" * 16


class Bench:
    """A cleanup, and links that record what is sent."""

    def __init__(self) -> None:
        self.with_attempts = [R1]
        self.cleanup = RequestedCleanup(lambda: self.with_attempts)
        self.sent: list[Message] = []

    def connect(self, *, accepts_starts: bool = True) -> Any:
        link: Any = SimpleNamespace(accepts_starts=accepts_starts, send=self.sent.append)
        self.cleanup.on_connected(link)
        return link


def test_sweep_is_possible_only_while_a_runner_that_accepts_starts_is_connected() -> None:
    bench = Bench()
    assert not bench.cleanup.can_sweep()
    bench.connect(accepts_starts=False)
    assert not bench.cleanup.can_sweep()
    link = bench.connect()
    assert bench.cleanup.can_sweep()
    bench.cleanup.on_lost(bench.connect(accepts_starts=False))
    assert bench.cleanup.can_sweep()
    bench.cleanup.on_lost(link)
    assert not bench.cleanup.can_sweep()


def test_sweep_fires_when_the_runner_says_so() -> None:
    bench = Bench()
    bench.connect()
    swept = bench.cleanup.sweep(R1)
    assert bench.sent == [Sweep(runner=R1)]
    bench.cleanup.on_swept(Swept(runner=R2))
    assert not swept.called
    bench.cleanup.on_swept(Swept(runner=R1))
    assert result_of(swept) is None


def test_sweep_fails_if_the_connection_is_lost() -> None:
    bench = Bench()
    link = bench.connect()
    swept = bench.cleanup.sweep(R1)
    bench.cleanup.on_lost(link)
    assert isinstance(error_of(swept), SweepInterrupted)


def test_attempts_of_releases_without_runners_need_no_sweep() -> None:
    bench = Bench()
    bench.connect()
    assert result_of(bench.cleanup.sweep("")) is None
    assert bench.sent == []


def test_runners_with_attempts_are_looked_at_even_without_files() -> None:
    bench = Bench()
    assert bench.cleanup.names([]) == [R1]
    assert bench.cleanup.names([R2]) == [R1, R2]


def test_settled_is_repeated_until_the_files_are_removed() -> None:
    bench = Bench()
    bench.with_attempts = []
    bench.cleanup.remove(R1)
    assert bench.cleanup.names([R1, R2]) == [R2]
    assert bench.sent == []
    link = bench.connect()
    assert bench.sent == [Settled(runner=R1)]
    bench.cleanup.on_lost(link)
    bench.connect()
    assert bench.sent == [Settled(runner=R1)] * 2
    assert bench.cleanup.names([R2]) == [R2]
    bench.connect()
    assert len(bench.sent) == 2
