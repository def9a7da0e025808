"""Suspended attempts: all of their processes are stopped, and their timeouts stand still."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.execution.messages import AttemptKey
from taskqd.execution.proc import Process
from taskqd.execution.run import Outcome
from taskqd.model.job import Reason
from taskqd.runner import process_stopper
from taskqd.runner.process_stopper import MAX_SCANS
from tests.fakes.deferreds import result_of
from tests.fakes.runner import CONT, ENV, LONG, STOP, TERM, WORD, Harness, marked, member, sent_to

MARK = f"store.1.1.{WORD}"


@pytest.fixture(autouse=True)
def _exit(harness: Harness) -> Iterator[None]:
    """Let the attempt end after the test."""
    yield
    harness.groups.others.clear()
    if harness.process.protocol.is_running:
        harness.exits()
    harness.pass_time(LONG)


def suspended(harness: Harness, **options: Any) -> "Deferred[Outcome]":
    """Start an attempt and suspend it."""
    ended = harness.start(**options)
    harness.set_suspended()
    harness.scan()
    return ended


def test_suspension_stops_the_group_and_then_all_other_processes(harness: Harness) -> None:
    harness.groups.others = [member(6000), marked(7000, "store.1.1"), marked(8000, "store.2.1")]
    harness.start(env=ENV)
    harness.set_suspended()
    assert harness.groups.sent == [(5000, STOP)]
    harness.pass_time(LONG)
    assert harness.groups.sent == [(5000, STOP), (6000, STOP), (7000, STOP)]


def test_suspension_scans_until_nothing_runs(harness: Harness) -> None:
    suspended(harness)
    count = len(harness.groups.scans)
    harness.groups.others = [member(6000)]
    harness.set_suspended()
    harness.scan()
    harness.groups.others.append(member(6001))  # forked before its parent was stopped
    harness.pass_time(LONG)
    assert harness.groups.sent[-2:] == [(6000, STOP), (6001, STOP)]
    assert len(harness.groups.scans) == count + 3


def test_process_that_another_one_continues_meanwhile_is_stopped_again(harness: Harness) -> None:
    harness.groups.others = [member(6000)]
    suspended(harness)
    harness.groups.others = [member(6000)]
    harness.pass_time(LONG)
    assert sent_to(harness, 6000) == [STOP, STOP]


def test_process_that_no_signal_interrupts_is_stopped_and_continued_once(harness: Harness) -> None:
    harness.groups.ignored = {STOP}  # in vfork(2), for a child that is stopped
    harness.groups.others = [member(6000, state="D")]
    suspended(harness)
    harness.pass_time(60)
    assert sent_to(harness, 6000) == [STOP]
    harness.set_suspended(False)
    harness.pass_time(60)
    assert sent_to(harness, 6000) == [STOP, CONT]


def test_continuation_continues_each_process_once(harness: Harness) -> None:
    harness.groups.others = [member(6000), marked(7000, "store.1.1")]
    suspended(harness, env=ENV)
    harness.pass_time(LONG)
    harness.groups.sent.clear()
    harness.groups.ignored = {CONT}  # they stop themselves again
    harness.set_suspended(False)
    assert harness.groups.sent == [(5000, CONT)]
    harness.pass_time(LONG)
    assert harness.groups.sent == [(5000, CONT), (6000, CONT), (7000, CONT)]
    harness.set_suspended(False)
    assert len(harness.groups.sent) == 3


def test_many_processes_are_signalled_in_portions(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_stopper, "MAX_SIGNALS_PER_TURN", 2)
    harness.groups.others = [member(6000 + number) for number in range(5)]
    call_later, counts = harness.clock.callLater, set()

    def record(*args: Any) -> Any:
        counts.add(len(harness.groups.sent))
        return call_later(*args)

    harness.start()
    harness.set_suspended()
    monkeypatch.setattr(harness.clock, "callLater", record)
    harness.scan()
    assert counts == {3, 5, 6}, "the signals that were sent when each turn ended"


def test_continuation_ends_the_portions_of_the_suspension(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_stopper, "MAX_SIGNALS_PER_TURN", 2)
    harness.groups.others = [member(6000 + number) for number in range(4)]
    signal_process = harness.groups.signal_process

    def continue_after_it(one: Process, number: int) -> None:
        signal_process(one, number)
        if number == STOP:
            harness.clock.callLater(0, harness.set_suspended, False)

    monkeypatch.setattr(harness.groups, "signal_process", continue_after_it)
    harness.start()
    harness.set_suspended()
    harness.pass_time(LONG)
    assert [sent_to(harness, each.group) for each in harness.groups.others] == [[STOP, CONT]] * 2 + [[]] * 2


def test_process_that_does_not_stop_is_given_up_and_logged(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.groups.others = [member(6000)]
    harness.groups.ignored = {STOP}
    suspended(harness)
    harness.pass_time(60)
    assert len(sent_to(harness, 6000)) == MAX_SCANS - 1
    assert caplog.text.count("cannot be stopped or continued, such as 6000") == 1


def test_process_of_another_user_is_left_out_and_logged_once(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    harness.groups.others = [member(6000)]
    monkeypatch.setattr(harness.groups, "signal_process", refuse)
    suspended(harness)
    harness.pass_time(LONG)
    assert caplog.text.count("process 6000 of job 1 has another user") == 1


def test_process_is_signalled_later_if_no_descriptor_is_free(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_process, errors = harness.groups.signal_process, [OSError(errno.EMFILE, "no descriptor")]

    def fail_once(*args: object) -> None:
        if errors:
            raise errors.pop()
        signal_process(*args)  # type: ignore[arg-type]

    harness.groups.others = [member(6000)]
    monkeypatch.setattr(harness.groups, "signal_process", fail_once)
    suspended(harness)
    harness.pass_time(LONG)
    assert sent_to(harness, 6000) == [STOP]


def test_scan_that_fails_is_repeated(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, errors = harness.groups.scan, [OSError(errno.EMFILE, "no descriptor")]

    def fail_once(since: int | None) -> object:
        if errors:
            raise errors.pop()
        return scan(since)

    harness.groups.others = [member(6000)]
    monkeypatch.setattr(harness.groups, "scan", fail_once)
    suspended(harness)
    harness.pass_time(LONG)
    assert sent_to(harness, 6000) == [STOP]


def test_attempt_that_has_no_process_yet_is_stopped_when_it_has_one(harness: Harness) -> None:
    harness.groups.others = [marked(7000, f"store.1.1.{'f' * 16}")]
    harness.start(attempt=2, timeout=5.0)
    harness.set_suspended()
    assert harness.reactor.processes == []
    harness.groups.deadly = {TERM}
    harness.pass_time(LONG)
    assert harness.signals[0] == STOP
    harness.pass_time(LONG)
    harness.set_suspended(False)
    harness.pass_time(4)
    assert TERM not in harness.signals
    harness.pass_time(1.5)
    assert TERM in harness.signals


@pytest.mark.parametrize("option", ["timeout", "idle_timeout"])
def test_timeouts_stand_still_while_suspended_and_keep_what_was_left(harness: Harness, option: str) -> None:
    ended = harness.start(**{option: 5.0})
    harness.pass_time(3)
    harness.set_suspended()
    harness.pass_time(100)
    harness.set_suspended(False)
    harness.pass_time(1.5)
    assert TERM not in harness.signals
    harness.pass_time(1)
    assert harness.signals[-1] == TERM
    harness.exits(0, TERM)
    harness.pass_time(LONG)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.suspended) == (Reason.TIMEOUT, 100.0)


def test_idle_timeout_counts_only_when_neither_suspended_nor_waiting_for_the_disk(harness: Harness) -> None:
    harness.start(idle_timeout=5.0)
    harness.set_suspended()
    harness.output.on_backpressure(True)
    harness.pass_time(10)
    harness.set_suspended(False)
    harness.pass_time(10)
    harness.output.on_backpressure(False)
    harness.pass_time(4.5)
    assert TERM not in harness.signals
    harness.pass_time(1)
    assert TERM in harness.signals


def test_cancel_of_a_suspended_attempt_needs_no_continuation(harness: Harness) -> None:
    harness.groups.others = [member(6000)]
    ended = harness.start()
    harness.set_suspended()
    harness.end(1, Reason.CANCELLED, TERM)
    assert harness.signals == [STOP, TERM]
    harness.set_suspended()
    harness.pass_time(1)
    assert STOP not in sent_to(harness, 6000)
    assert sent_to(harness, 6000)[:1] == [TERM]
    harness.groups.others.clear()
    harness.exits(0, TERM)
    harness.pass_time(LONG)
    assert result_of(ended).reason is Reason.CANCELLED


def test_exit_of_a_suspended_attempt_continues_what_has_left_its_session(harness: Harness) -> None:
    harness.groups.others = [marked(7000, "store.1.1")]
    ended = suspended(harness, env=ENV)
    harness.pass_time(2)
    harness.exits(0, 9)
    harness.pass_time(LONG)
    assert sent_to(harness, 7000) == [STOP, CONT]
    assert result_of(ended).suspended == 2.0


def test_suspension_of_an_ended_or_unknown_attempt_is_ignored(harness: Harness) -> None:
    harness.start()
    harness.exits()
    harness.set_suspended()
    harness.set_suspended(False)
    harness.executor.set_suspended(AttemptKey(9, 1, WORD), True)
    assert STOP not in harness.signals
