"""The idle timeout of attempts."""

import os
from typing import Any

import pytest

from taskqd.model.events import Output
from taskqd.model.job import Reason
from taskqd.runner.executor import READ_DELAY, Executor
from tests.fakes.deferreds import result_of
from tests.fakes.runner import INT, KILL, TERM, Harness, run
from tests.fakes.spool import FakeOutputWriter


def test_idle_timeout_terminates_the_group_and_kills_it_after_the_grace(harness: Harness) -> None:
    ended = harness.start(idle_timeout=10.0, kill_after=2.0)
    harness.pass_time(9.875)
    assert harness.signals == []
    harness.pass_time(0.125)
    assert harness.signals == [TERM]
    harness.pass_time(2)
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 10 s")


@pytest.mark.parametrize("stream", [1, 2])
def test_output_on_either_stream_resets_the_idle_timeout(harness: Harness, stream: int) -> None:
    ended = harness.start(idle_timeout=10.0)
    for _ in range(5):
        harness.pass_time(9.875)
        harness.process.prints(stream, b".")
    harness.pass_time(9.875)
    assert harness.signals == []
    harness.pass_time(0.125)
    assert harness.signals == [TERM]
    harness.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_output_does_not_touch_the_delayed_call(harness: Harness) -> None:
    harness.start(idle_timeout=10.0)
    harness.clock.advance(READ_DELAY)
    timers = harness.clock.getDelayedCalls()
    times = [timer.getTime() for timer in timers]
    harness.pass_time(5)
    harness.process.prints(1, b".")
    assert harness.clock.getDelayedCalls() == timers
    assert [timer.getTime() for timer in timers] == times
    harness.exits()


def test_idle_timeout_is_paused_while_output_is_not_read(harness: Harness) -> None:
    harness.start(idle_timeout=10.0)
    harness.pass_time(4)
    harness.output.on_backpressure(True)
    harness.pass_time(100)
    harness.output.on_backpressure(False)
    harness.pass_time(5.875)
    assert harness.signals == []
    harness.pass_time(0.125)
    assert harness.signals == [TERM]
    harness.exits(number=15)


def test_exit_while_reading_is_paused_leaves_no_timer(harness: Harness) -> None:
    harness.start(idle_timeout=10.0)
    harness.output.on_backpressure(True)
    harness.exits()
    assert harness.clock.getDelayedCalls() == []


def test_unread_output_in_a_pipe_restarts_the_idle_timeout(harness: Harness) -> None:
    harness.start(idle_timeout=10.0)
    harness.process.pipes[2].put(b"not read yet")
    harness.pass_time(10)
    assert harness.signals == []
    harness.process.prints(2, os.read(harness.process.pipes[2].fileno(), 100))
    harness.pass_time(10)
    assert harness.signals == [TERM]
    harness.exits(number=15)


def test_process_that_has_closed_its_streams_is_idle(harness: Harness) -> None:
    harness.start(idle_timeout=10.0)
    for stream in (1, 2):
        harness.process.pipes.pop(stream).loseConnection()
    harness.pass_time(10)
    assert harness.signals == [TERM]
    harness.exits(number=15)


def test_first_timeout_is_the_one_that_is_reported(harness: Harness) -> None:
    ended = harness.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    harness.pass_time(50)
    harness.process.prints(1, b".")
    harness.pass_time(65)
    harness.exits(number=15)
    assert result_of(ended).detail == "it ran for longer than 1 min 30 s"
    harness.output = FakeOutputWriter()
    ended = harness.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    harness.pass_time(95)
    harness.exits(number=15)
    assert result_of(ended).detail == "it printed nothing for 1 min"


def test_cancel_before_the_idle_timeout_is_reported(harness: Harness) -> None:
    ended = harness.start(idle_timeout=1.0, kill_after=30.0)
    harness.end(1, Reason.CANCELLED, INT)
    harness.pass_time(2)
    assert harness.signals == [INT]
    harness.exits(number=2)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.CANCELLED, None)


async def test_real_process_is_ended_when_it_stops_printing(real: Executor) -> None:
    output = FakeOutputWriter()
    command = "for n in 1 2 3 4; do echo $n; sleep 0.2; done; sleep 60"
    options: dict[str, Any] = {"command": command, "idle_timeout": 0.5, "env": {"PATH": os.environ["PATH"]}}
    outcome = await real.start(run(**options), output, lambda pid, started: None)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 0.5 s")
    assert outcome.stdout == Output.inline(b"1\n2\n3\n4\n")
