"""One attempt: its end, leftovers, timeouts, cancels and output."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.python.failure import Failure

from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason, Usage
from taskqd.runner.process_tree import MIN_SCAN_INTERVAL
from taskqd.runner.session_process import UNKNOWN_STATUS
from taskqd.storage.interfaces import OutputLost
from tests.fakes.deferreds import result_of
from tests.fakes.processes import FakeRusage
from tests.fakes.runner import INT, KILL, LONG, TERM, Harness
from tests.fakes.spool import FakeOutputWriter
from tests.support.leaks import LeakWatch

MIB = 1024**2

# The end.


@pytest.mark.parametrize(
    "code, number, reason",
    [
        (0, None, None),
        (1, None, Reason.EXIT),
        (255, None, Reason.EXIT),
        (0, 9, Reason.SIGNAL),
        (0, 11, Reason.SIGNAL),
    ],
)
def test_exit_is_reported_with_its_code_or_signal(
    harness: Harness, code: int, number: int | None, reason: Reason | None
) -> None:
    ended = harness.start()
    harness.exits(code, number)
    outcome = result_of(ended)
    assert outcome.reason is reason
    assert outcome.signal == number
    if number is None:
        assert outcome.exit_code == code


def test_output_includes_what_is_in_the_pipes_at_the_exit(
    harness: Harness,
) -> None:
    ended = harness.start()
    harness.process.prints(1, b"first ")
    harness.process.prints(2, b"oh ")
    harness.process.pipes[1].put(b"last")
    harness.process.pipes[2].put(b"no")
    harness.exits()
    outcome = result_of(ended)
    assert (outcome.stdout, outcome.stderr) == (Output.inline(b"first last"), Output.inline(b"oh no"))
    assert all(pipe.is_closed for pipe in harness.process.pipes.values())


def test_output_that_the_reactor_has_not_read_yet_is_read_on_request(harness: Harness) -> None:
    ended = harness.start()
    harness.process.pipes[1].put(b"printed")
    harness.read_output()
    harness.process.pipes[1].put(b" and more")
    assert harness.output.data[1] == b"printed"
    harness.exits()
    harness.read_output()
    assert result_of(ended).stdout == Output.inline(b"printed and more")


def test_output_is_not_read_on_request_while_reading_is_paused(harness: Harness) -> None:
    harness.start()
    harness.process.pipes[1].put(b"printed")
    harness.output.on_backpressure(True)
    harness.read_output()
    assert harness.output.data[1] == b""
    harness.exits()


def test_closed_pipe_is_not_drained(harness: Harness) -> None:
    ended = harness.start()
    harness.process.pipes.pop(1).loseConnection()
    harness.exits()
    assert result_of(ended).reason is None


def test_unknown_exit_status_is_an_interrupted_attempt(harness: Harness) -> None:
    ended = harness.start()
    harness.process.protocol.processExited(Failure(ProcessTerminated(None, 127, UNKNOWN_STATUS)))
    harness.pass_time(LONG)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code, outcome.signal) == (Reason.INTERRUPTED, None, None)
    assert outcome.detail == "its exit code is unknown: something else has reaped it"


def test_end_is_reported_when_output_is_durable(harness: Harness) -> None:
    harness.output.closing = Deferred()
    ended = harness.start()
    harness.exits()
    assert not ended.called
    harness.output.closing.callback(None)
    assert result_of(ended).reason is None


def test_outcome_has_the_usage_if_it_is_known(harness: Harness) -> None:
    ended = harness.start()
    harness.exits(rusage=FakeRusage(1.5, 0.25, 2**30))
    assert result_of(ended).usage == Usage(1.5, 0.25, 2**40)
    harness.output = FakeOutputWriter()
    ended = harness.start()
    harness.exits()
    assert result_of(ended).usage is None


def test_exit_during_the_spawn_reports_usage(harness: Harness) -> None:
    rusage = FakeRusage(0.0, 0.25, 1)
    harness.reactor.on_connected = lambda process: process.exits(rusage=rusage)
    assert result_of(harness.start()).usage == Usage(0.0, 0.25, 0), "a peak below the daemon's own is unknown"


# Leftovers.


def test_exit_is_reported_at_once_and_leftovers_are_terminated_then_killed(harness: Harness) -> None:
    ended = harness.start(kill_after=3.0)
    harness.exits(leaves=True)
    assert result_of(ended).reason is None
    assert harness.signals == [TERM]
    harness.pass_time(2.875)
    assert harness.signals == [TERM]
    harness.pass_time(0.25)
    assert harness.signals == [TERM, KILL]
    harness.pass_time(1)


def test_leftovers_that_obey_sigterm_are_not_killed(harness: Harness) -> None:
    harness.groups.deadly = {TERM}
    harness.start()
    harness.exits(leaves=True)
    harness.pass_time(LONG)
    assert harness.signals == [TERM]


def test_exit_without_leftovers_sends_no_signal(harness: Harness) -> None:
    harness.start()
    harness.exits()
    assert harness.signals == []
    assert harness.killed == []


def test_outcome_has_the_pid_if_something_is_left_in_the_session(harness: Harness) -> None:
    results = []
    for options, code, leaves in (
        ({}, 0, True),
        ({}, 126, True),
        ({}, 0, False),
        ({"timeout": 1.0}, 1, False),
    ):
        harness.output = FakeOutputWriter()
        result = harness.start(**options)
        harness.exits(code, leaves=leaves)
        results.append(result_of(result).pid == harness.process.pid)
        harness.pass_time(LONG)
    assert results == [True, True, False, False]


def test_outcome_has_the_pid_of_a_session_that_no_signal_ends(harness: Harness) -> None:
    harness.groups.deadly = set()
    result = harness.start()
    harness.end(1, Reason.CANCELLED, TERM)
    harness.exits(leaves=True)
    harness.pass_time(LONG)
    assert result_of(result).pid == harness.process.pid


def test_cancel_sends_its_signal_while_an_attempt_is_being_ended(harness: Harness) -> None:
    result = harness.start(timeout=1.0, kill_after=1e9)
    harness.pass_time(2)
    harness.end(1, Reason.CANCELLED, INT)
    assert harness.signals == [TERM, INT]
    harness.end(1, Reason.INTERRUPTED, TERM)
    assert harness.signals == [TERM, INT]
    harness.end(1, Reason.CANCELLED, KILL)
    harness.end(1, Reason.CANCELLED, TERM)
    assert harness.signals == [TERM, INT, KILL]
    harness.exits(number=KILL)
    harness.pass_time(LONG)
    assert result_of(result).reason is Reason.TIMEOUT


def test_cancel_reaches_leftovers_while_an_attempt_is_being_ended(harness: Harness) -> None:
    result = harness.start(timeout=1.0, kill_after=1e9)
    harness.pass_time(2)
    harness.exits(number=TERM, leaves=True)
    harness.end(1, Reason.CANCELLED, KILL)
    harness.pass_time(LONG)
    assert harness.signals[-1] == KILL
    assert result_of(result).reason is Reason.TIMEOUT


def test_leftovers_that_no_signal_ends_are_given_up(harness: Harness) -> None:
    harness.groups.deadly = set()
    harness.start()
    harness.exits(leaves=True)
    harness.pass_time(LONG)
    assert harness.signals == [TERM, KILL]


# Timeouts and cancels.


def test_timeout_terminates_the_group_and_kills_it_after_the_grace(harness: Harness) -> None:
    ended = harness.start(timeout=10.0, kill_after=2.0)
    harness.pass_time(9.875)
    assert harness.signals == []
    harness.pass_time(0.25)
    assert harness.signals == [TERM]
    harness.pass_time(1.75)
    assert harness.signals == [TERM]
    harness.pass_time(0.25)
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.signal) == (Reason.TIMEOUT, 9)
    assert outcome.detail == "it ran for longer than 10 s"


def test_attempt_that_uses_too_much_memory_is_terminated_and_killed_after_the_grace(harness: Harness) -> None:
    ended = harness.start(memory_max=1000 * MIB, kill_after=2.0)
    harness.memory.size = 1000 * MIB
    harness.pass_time(10)
    assert harness.signals == []
    harness.memory.size = 1001 * MIB
    harness.pass_time(1)
    assert harness.signals == [TERM]
    harness.memory.size = MIB
    harness.pass_time(2)
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9, rusage=FakeRusage(1.5, 0.25, 2**30))
    outcome = result_of(ended)
    assert (outcome.reason, outcome.signal) == (Reason.MEMORY, 9)
    assert outcome.detail == "it used 1001 MiB of 1000 MiB"
    assert outcome.usage == Usage(1.5, 0.25, 2**40, 1001 * MIB)


def test_attempt_that_uses_twice_its_memory_is_killed_at_once(harness: Harness) -> None:
    ended = harness.start(memory_max=1000 * MIB)
    harness.memory.size = 2000 * MIB
    harness.pass_time(1)
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9)
    assert result_of(ended).reason is Reason.MEMORY


def test_attempt_that_goes_on_to_fill_the_memory_after_a_signal_is_killed(harness: Harness) -> None:
    ended = harness.start(memory_max=1000 * MIB, kill_after=1e9)
    harness.end(1, Reason.CANCELLED, INT)
    harness.memory.size = 1500 * MIB
    harness.pass_time(1)
    assert harness.signals == [INT]
    harness.memory.size = 2000 * MIB
    harness.pass_time(1)
    assert harness.signals == [INT, KILL]
    harness.exits(number=9)
    assert result_of(ended).reason is Reason.CANCELLED


def test_memory_of_an_attempt_without_a_limit_is_not_read(harness: Harness) -> None:
    ended = harness.start()
    harness.memory.size = 2**50
    harness.pass_time(1)
    assert harness.clock.getDelayedCalls() == []
    harness.exits(rusage=FakeRusage(1.5, 0.25, 2**30))
    usage = result_of(ended).usage
    assert usage is not None
    assert usage.memory_used_peak == 0


def test_process_that_ends_before_its_timeout_is_not_signalled(harness: Harness) -> None:
    ended = harness.start(timeout=10.0)
    harness.pass_time(9)
    harness.exits()
    harness.pass_time(LONG)
    assert result_of(ended).reason is None
    assert harness.signals == []


def test_process_that_ends_before_its_timeout_leaves_no_timer(harness: Harness) -> None:
    harness.start(timeout=3600.0)
    harness.exits()
    assert harness.clock.getDelayedCalls() == []


def test_process_that_obeys_sigterm_is_not_killed(harness: Harness) -> None:
    ended = harness.start(timeout=1.0)
    harness.pass_time(1.125)
    harness.exits(code=0)
    harness.pass_time(LONG)
    assert harness.signals == [TERM]
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.TIMEOUT, 0)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.INTERRUPTED])
def test_attempt_gets_the_requested_signal_and_is_killed_after_the_grace(
    harness: Harness, reason: Reason
) -> None:
    ended = harness.start()
    harness.end(1, reason, INT)
    harness.pass_time(5.125)
    assert harness.signals == [INT, KILL]
    harness.exits(number=9)
    assert result_of(ended).reason is reason


def test_sigkill_is_sent_once(harness: Harness) -> None:
    harness.start()
    harness.end(1, Reason.CANCELLED, KILL)
    harness.exits(number=9)
    harness.pass_time(LONG)
    assert harness.signals == [KILL]


def test_grace_of_zero_kills_in_the_next_reactor_turn(harness: Harness) -> None:
    harness.start(kill_after=0.0)
    harness.end(1, Reason.CANCELLED, TERM)
    harness.clock.advance(0)
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9)


def test_first_reason_to_end_an_attempt_is_reported(harness: Harness) -> None:
    ended = harness.start(timeout=1.0)
    harness.pass_time(1.125)
    harness.end(1, Reason.CANCELLED, INT)
    harness.end(1, Reason.INTERRUPTED, INT)
    harness.output.on_failure("the disk is full")
    assert harness.signals == [TERM, INT], "the second is the cancel's"
    harness.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_cancel_before_the_timeout_is_reported(harness: Harness) -> None:
    ended = harness.start(timeout=1.0, kill_after=30.0)
    harness.end(1, Reason.CANCELLED, INT)
    harness.pass_time(2)
    assert harness.signals == [INT]
    harness.exits(number=2)
    assert result_of(ended).reason is Reason.CANCELLED


def test_end_by_the_daemon_is_reported_when_the_group_is_gone(harness: Harness) -> None:
    ended = harness.start(timeout=1.0, kill_after=2.0)
    harness.pass_time(1.125)
    harness.exits(number=15, leaves=True)
    harness.pass_time(1.75)
    assert not ended.called
    harness.pass_time(0.625)
    assert harness.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_end_is_reported_soon_after_the_kill_despite_a_long_grace(harness: Harness) -> None:
    ended = harness.start(kill_after=60.0)
    harness.end(1, Reason.CANCELLED, TERM)
    harness.exits(number=15, leaves=True)
    harness.pass_time(59.875)
    assert len(harness.groups.scans) < 70
    assert not ended.called
    harness.pass_time(0.125)
    assert harness.signals == [TERM, KILL]
    harness.clock.advance(MIN_SCAN_INTERVAL)
    assert result_of(ended).reason is Reason.CANCELLED


def test_group_that_is_gone_is_not_signalled_if_its_number_is_reused(harness: Harness) -> None:
    harness.groups.deadly = {TERM}
    harness.start()
    harness.exits(leaves=True)
    harness.pass_time(1)
    harness.groups.alive.add(harness.process.pid)
    harness.executor.kill()
    harness.end(1, Reason.CANCELLED, TERM)
    harness.pass_time(LONG)
    assert harness.signals == [TERM]


def test_group_that_no_signal_ends_delays_the_end_only_for_a_time(harness: Harness) -> None:
    harness.groups.deadly = set()
    ended = harness.start(timeout=1.0)
    harness.pass_time(1.125)
    harness.exits(number=15, leaves=True)
    harness.pass_time(LONG)
    assert harness.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_end_does_nothing_for_ended_and_unknown_attempts(harness: Harness) -> None:
    harness.end(1, Reason.CANCELLED, TERM)
    harness.start()
    harness.exits()
    harness.end(1, Reason.CANCELLED, TERM)
    assert harness.groups.sent == []


def test_end_does_nothing_while_output_is_made_durable(harness: Harness) -> None:
    harness.output.closing = Deferred()
    ended = harness.start()
    harness.exits()
    harness.end(1, Reason.CANCELLED, TERM)
    harness.output.closing.callback(None)
    assert result_of(ended).reason is None
    assert harness.signals == []


def test_process_without_a_group_is_signalled_by_its_pid(harness: Harness) -> None:
    harness.reactor.has_group = False
    harness.start()
    harness.end(1, Reason.CANCELLED, TERM)
    assert harness.killed == [(harness.process.pid, TERM)]
    harness.exits(number=15)


def test_process_that_may_not_be_signalled_is_waited_for(harness: Harness) -> None:
    harness.groups.refuses = True
    ended = harness.start()
    harness.end(1, Reason.CANCELLED, TERM)
    harness.pass_time(10)
    assert not ended.called
    harness.exits()
    assert result_of(ended).reason is Reason.CANCELLED


# Output.


def test_backpressure_pauses_and_resumes_reading(harness: Harness) -> None:
    harness.start()
    harness.output.on_backpressure(True)
    assert not harness.process.is_reading
    harness.output.on_backpressure(False)
    assert harness.process.is_reading
    harness.exits()
    harness.output.on_backpressure(True)
    assert harness.process.is_reading


def test_attempt_is_ended_if_its_output_cannot_be_kept(harness: Harness) -> None:
    ended = harness.start()
    harness.output.on_failure("no space left on device")
    assert harness.signals == [TERM]
    harness.exits(number=15)
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert "no space left on device" in (outcome.detail or "")


def test_output_failure_after_the_exit_fails_the_attempt(harness: Harness) -> None:
    ended = harness.start()
    write = harness.output.write

    def fail(stream: int, data: bytes) -> None:
        write(stream, data)
        harness.output.on_failure("no space left on device")

    harness.output.write = fail  # type: ignore[method-assign]
    harness.process.pipes[1].put(b"last words")
    harness.exits()
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert harness.signals == []


def test_output_that_cannot_be_made_durable_fails_the_attempt(harness: Harness) -> None:
    harness.output.error = OSError("input/output error")
    ended = harness.start()
    harness.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.OUTPUT, 0)
    assert "input/output error" in (outcome.detail or "")
    assert outcome.stdout == outcome.stderr == Output()


def test_lost_output_is_reported_beside_the_timeout(harness: Harness) -> None:
    harness.output.error = OSError("input/output error")
    ended = harness.start(timeout=1.0)
    harness.pass_time(1)
    harness.exits(number=15)
    outcome = result_of(ended)
    said = "it ran for longer than 1 s; its output could not be kept: input/output error"
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, said)


def test_kept_stream_is_reported_if_the_other_is_lost(harness: Harness) -> None:
    kept = (NOTHING, Output.inline(b"oh"))
    harness.output.error = OutputLost("the file of stdout was removed", kept)
    ended = harness.start()
    harness.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.stdout, outcome.stderr) == (Reason.OUTPUT, *kept)
    assert outcome.detail == "its output could not be kept: the file of stdout was removed"


def test_write_that_raises_is_logged_and_ends_the_attempt(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    ended = harness.start()
    monkeypatch.setattr(harness.output, "write", lambda *_: _raise(ZeroDivisionError("unexpected")))
    harness.process.prints(1, b"words")
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert harness.signals == [TERM]
    harness.exits(number=TERM)
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert outcome.detail == "its output cannot be kept: unexpected"


def test_unexpected_error_in_closing_output_is_logged_and_ends_the_attempt(
    harness: Harness, logged_errors: LeakWatch
) -> None:
    harness.output.error = ZeroDivisionError("a bug")  # type: ignore[assignment]
    ended = harness.start()
    harness.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.OUTPUT, 0)
    assert "a bug" in (outcome.detail or "")
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


# Errors while an exit is handled.


def _raise(why: Exception) -> Any:
    raise why


@pytest.mark.parametrize("is_ended_by_us", [False, True])
@pytest.mark.parametrize("why", [BlockingIOError(11, "busy"), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("place", ["write", "close", "unread_bytes"])
def test_attempt_ends_despite_an_error_in_handling_its_exit(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    logged_errors: LeakWatch,
    place: str,
    why: Exception,
    is_ended_by_us: bool,
) -> None:
    ended = harness.start()
    if place == "unread_bytes":
        monkeypatch.setattr(harness.groups, "unread_bytes", lambda pipe: _raise(why))
    else:
        monkeypatch.setattr(harness.output, place, lambda *_: _raise(why))
    if is_ended_by_us:
        harness.end(1, Reason.CANCELLED, TERM)
    harness.process.pipes[1].put(b"last words")
    harness.exits(code=3)
    outcome = result_of(ended)
    assert outcome.reason is (Reason.CANCELLED if is_ended_by_us else Reason.OUTPUT)
    assert (outcome.exit_code, str(why) in (outcome.detail or "")) == (3, True)
    assert all(pipe.is_closed for pipe in harness.process.pipes.values())
    logged_errors.flush(type(why))


def test_failed_spawn_is_reported_though_output_cannot_be_closed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    monkeypatch.setattr(harness.output, "close", lambda: _raise(RuntimeError("can't start new thread")))
    harness.reactor.error = OSError("no more processes")
    assert result_of(harness.start()).reason is Reason.SPAWN
    assert len(logged_errors.flush(RuntimeError)) == 1


def test_drain_ends_if_another_reader_empties_the_pipe(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.groups, "unread_bytes", lambda pipe: 5)
    ended = harness.start()
    harness.process.pipes[2].put(b"oh")
    harness.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.stdout, outcome.stderr) == (None, Output(), Output.inline(b"oh"))
