"""Which processes belong to an attempt, and end with it."""

import pytest

from taskqd.execution import command_line
from taskqd.execution.proc import Process
from taskqd.execution.run import Owner
from taskqd.model.job import Reason
from taskqd.runner.process import MAX_LEFTOVER_GRACE
from tests.fakes.deferreds import result_of
from tests.fakes.runner import ENV, KILL, LONG, TERM, Harness, marked, member, sent_to
from tests.fakes.spool import FakeOutputWriter


def test_end_without_leftovers_does_not_scan_proc(harness: Harness) -> None:
    for options, code in (({}, 0), ({"timeout": 1.0, "idle_timeout": 1.0}, 1)):
        harness.output = FakeOutputWriter()
        harness.start(**options)
        harness.exits(code)
    assert harness.groups.scans == []


def test_exit_ends_the_session_and_spares_processes_that_left_it(harness: Harness) -> None:
    harness.start(env=ENV, kill_after=3.0)
    harness.groups.others = [member(7), marked(8)]
    harness.exits()
    harness.pass_time(2.875)
    assert (sent_to(harness, 7), sent_to(harness, 8)) == ([TERM], [])
    harness.pass_time(1)
    assert (sent_to(harness, 7), sent_to(harness, 8)) == ([TERM, KILL], [])


def test_leftovers_are_killed_after_the_maximum_grace(harness: Harness) -> None:
    harness.start(kill_after=1e9)
    harness.exits(leaves=True)
    harness.pass_time(MAX_LEFTOVER_GRACE - 0.125)
    assert harness.signals == [TERM]
    harness.pass_time(0.25)
    assert harness.signals == [TERM, KILL]
    harness.pass_time(1)


@pytest.mark.parametrize("way", ["cancel", "timeout", "idle", "output"])
def test_end_by_the_daemon_includes_the_session_and_marked_processes(harness: Harness, way: str) -> None:
    options = {"timeout": {"timeout": 1.0}, "idle": {"idle_timeout": 1.0}}.get(way, {})
    ended = harness.start(env=ENV, kill_after=3.0, **options)
    harness.groups.others = [
        *(member(7), marked(8), marked(9, "store.1.2"), marked(10, "store.2.1"), marked(11, "other.1.1"))
    ]
    if way == "cancel":
        harness.end(1, Reason.CANCELLED, TERM)
    elif way == "output":
        harness.output.on_failure("no space left on device")
    harness.pass_time(1.0)
    assert [sent_to(harness, number) for number in (5000, 7, 8, 9, 10, 11)] == [[TERM]] * 3 + [[]] * 3
    harness.exits(number=15)
    assert not ended.called
    harness.pass_time(4)
    assert result_of(ended).signal == TERM
    assert [sent_to(harness, number) for number in (5000, 7, 8, 9, 10, 11)] == [
        *([TERM], [TERM, KILL], [TERM, KILL], [], [], [])
    ]


def test_mark_counts_only_for_the_job_s_user(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    ended = harness.start(env=ENV, owner=Owner(1000, 100, "/home/ada"))
    harness.groups.others = [marked(7, uid=1000), marked(8, uid=1001)]
    harness.end(1, Reason.CANCELLED, KILL)
    harness.exits(number=9)
    assert (sent_to(harness, 7), sent_to(harness, 8)) == ([KILL], [])
    harness.pass_time(0.125)
    assert result_of(ended).reason is Reason.CANCELLED


@pytest.mark.parametrize(
    "one, is_ours",
    [
        (member(7), True),
        (member(7, started=101), False),
        (member(7, started=101, mark="store.1.1"), True),
        (member(5000, started=60), False),
    ],
    ids=["began before the end", "began after it", "has the mark", "has the leader's number"],
)
def test_session_number_that_may_be_reused_needs_a_proof(
    harness: Harness, one: Process, is_ours: bool
) -> None:
    harness.start(env=ENV)
    harness.groups.others = [one]
    harness.exits()
    harness.pass_time(LONG)
    assert sent_to(harness, one.group) == ([TERM, KILL] if is_ours else [])


def test_session_is_recognized_by_a_known_member(harness: Harness) -> None:
    harness.start(kill_after=3.0)
    harness.groups.others = [member(7)]
    harness.exits()
    harness.groups.others.append(member(8, started=200))
    harness.pass_time(0.125)
    harness.groups.others.remove(member(7))
    harness.pass_time(0.125)
    harness.groups.others.append(member(9, started=200))
    harness.pass_time(0.5)
    harness.groups.others = [member(10, started=300)]
    harness.pass_time(LONG)
    assert [sent_to(harness, number) for number in (7, 8, 9, 10)] == [[TERM], [TERM], [TERM], []]


def test_one_scan_serves_simultaneous_requests(harness: Harness) -> None:
    for number in range(1, 51):
        harness.output = FakeOutputWriter()
        harness.start(job_id=number)
        harness.process.exits(leaves=True)
    harness.scan()
    assert len(harness.groups.scans) == 1
    harness.pass_time(4)
    assert len(harness.groups.scans) < 20
    harness.pass_time(LONG)
