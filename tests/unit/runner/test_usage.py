"""The usage of real attempts, as the executor reports it."""

import os
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskqd.model.job import Usage
from taskqd.runner.executor import Executor
from taskqd.runner.session_reactor import SessionReactor
from tests.fakes.clocks import in_thread
from tests.fakes.runner import run
from tests.fakes.spool import FakeOutputWriter

Measure = Callable[[str], Awaitable[Usage]]


def burn(seconds: float) -> str:
    """Return a command that takes so much CPU time, and a little more to start."""
    return f"{sys.executable} -c 'import time\nwhile time.process_time() < {seconds}: sum(range(9999))'"


@pytest.fixture(name="measure")
def a_measured_attempt(reactor: Any) -> Measure:
    """Return a function that runs a command as an attempt and returns its usage."""
    executor = Executor(SessionReactor(reactor), reactor, in_thread)

    async def measure(command: str) -> Usage:
        attempt = run(command=command, env={"PATH": os.environ["PATH"]})
        outcome = await executor.start(attempt, FakeOutputWriter(), lambda pid, started: None)
        await executor.kill()
        assert outcome.exit_code == 0
        assert outcome.usage is not None
        return outcome.usage

    return measure


async def test_usage_has_the_cpu_time_of_the_process(measure: Measure) -> None:
    usage = await measure("exec " + burn(0.2))
    assert 0.2 <= usage.user + usage.system < 2
    assert usage.user > usage.system


async def test_usage_has_the_cpu_time_of_a_child_that_was_waited_for(measure: Measure) -> None:
    usage = await measure(burn(0.2) + "; true")
    assert 0.2 <= usage.user + usage.system < 2


async def test_usage_lacks_the_cpu_time_of_a_child_that_was_not_waited_for(measure: Measure) -> None:
    usage = await measure(burn(0.5) + " & exit 0")
    assert usage.user + usage.system < 0.5


async def test_memory_is_the_peak_of_the_largest_process(measure: Measure) -> None:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 64 * 1024**2
    allocate = f"{sys.executable} -c 'len(bytes(1) * {size})'"
    usage = await measure(f"{allocate}; {allocate}; true")
    assert size < usage.memory < size + 64 * 1024**2


async def test_memory_is_unknown_if_the_peak_may_be_the_runner_s_own(measure: Measure) -> None:
    assert (await measure("true")).memory == 0


async def test_memory_that_the_runner_has_freed_hides_no_peak(measure: Measure) -> None:
    size = 768 * 1024**2  # much more than this process has now
    assert len(bytes(1) * size) == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > size
    usage = await measure(f"{sys.executable} -c 'len(bytes(1) * {size - 64 * 1024**2})'; true")
    assert size - 64 * 1024**2 < usage.memory < size
