"""The audit log: which user did what, from which address."""

import io
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher, textFileLogObserver

from taskqd.daemon.audit_log import SUMMARY_INTERVAL, AuditLog
from taskqd.engine.submissions import NewJob
from taskqd.model.actor import Actor
from taskqd.model.events import JOB_EVENTS, QUEUE_EVENTS, Decision, Event, QueueEvent, Submitted
from taskqd.model.spec import DEFAULT_SPEC, Spec
from tests.fakes.deferreds import begin
from tests.fakes.engine import Harness
from tests.fakes.journal import FakeJournal
from tests.support import events

ANN = Actor("ann", "pid 12")
BOB = Actor("bob", "10.0.0.5:4242")


class Audited:
    """A harness with an audit log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.harness = Harness(slots=1)
        self.audit_log = AuditLog(self.harness.journal, self.harness.clock)
        self._caplog = caplog

    def submit(self, by: Actor, count: int = 1) -> None:
        for _ in range(count):
            self.harness.engine.submissions.submit(NewJob("true", Spec(hold=True), by))
        self.harness.settle()

    def lines(self) -> list[str]:
        lines = [message for message in self._caplog.messages if "(" in message]
        self._caplog.clear()
        return lines


@pytest.fixture(name="audited")
def an_audited_harness(caplog: pytest.LogCaptureFixture) -> Audited:
    return Audited(caplog)


def test_each_kind_of_event_of_a_user_is_logged_in_one_line(audited: Audited) -> None:
    audited.submit(ANN)
    engine = audited.harness.engine
    for act in (
        engine.queue_commands.pause(BOB),
        engine.job_commands.release(1, BOB),
        engine.job_commands.change(1, BOB, {"priority": 1}),
        engine.job_commands.hold(1, BOB),
        engine.job_commands.cancel(1, BOB, 15),
        engine.job_commands.retry(1, BOB),
        engine.job_commands.cancel(1, ANN, 15),
        engine.job_commands.remove(1, BOB),
        engine.queue_commands.resume(BOB, "q"),
    ):
        begin(act)
        audited.harness.settle()
    assert audited.lines() == [
        "ann (pid 12) submitted job 1",
        *(f"bob (10.0.0.5:4242) {act}" for act in ("paused all queues", "released job 1", "changed job 1")),
        *(f"bob (10.0.0.5:4242) {act}" for act in ("held job 1", "cancelled job 1", "retried job 1")),
        "ann (pid 12) cancelled job 1",
        *(f"bob (10.0.0.5:4242) {act}" for act in ("removed job 1", "resumed queue q")),
    ]
    audited.audit_log.stop()
    assert audited.lines() == []


LOGGED: list[tuple[Any, str]] = [
    (events.submitted(1), "submitted job 1"),
    (events.submitted(2, schedule=7), "submitted job 2"),
    (events.array(3, 5), "submitted job 3"),
    (events.cancelled(4), "cancelled job 4"),
    (events.held(5), "held job 5"),
    (events.released(6), "released job 6"),
    (events.suspended(6), "suspended job 6"),
    (events.continued(6), "continued job 6"),
    (events.changed(7, label="x"), "changed job 7"),
    (events.retried(8), "retried job 8"),
    (events.removed(9), "removed job 9"),
    (events.paused(), "paused all queues"),
    (events.paused("q"), "paused queue q"),
    (events.resumed("q"), "resumed queue q"),
    (events.resumed(schedule=3), "resumed schedule 3"),
    (events.resized("q", 4), "resized queue q"),
    (events.rescaled(4), "rescaled the daemon to 4"),
    (events.rescaled(None), "rescaled the daemon to the slots of the settings"),
    (events.configured("q", "rate", "10/m"), "configured queue q"),
    (events.scheduled(1), "scheduled schedule 1"),
    (events.rescheduled(3), "rescheduled schedule 3"),
    (events.unscheduled(2), "unscheduled schedule 2"),
]
NOT_LOGGED: tuple[Event, ...] = (
    events.started(1),
    events.ended(1),
    events.skipped(1, 2),
    *(event for event, _ in LOGGED),
)


def names_a_user(kind: type) -> bool:
    """Whether events of a kind name the user who caused them."""
    return "origin" in kind.__annotations__ or issubclass(kind, Decision | QueueEvent)


def test_examples_include_every_event_that_names_a_user() -> None:
    kinds = {kind for kind in (*JOB_EVENTS, *QUEUE_EVENTS) if names_a_user(kind)}
    assert {type(event) for event, _ in LOGGED} == kinds


@pytest.mark.parametrize("event, logged", LOGGED)
def test_event_of_a_user_is_logged_when_it_is_durable(
    event: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = FakeJournal()
    audit = AuditLog(journal, Clock())
    journal.append(replace(event, origin="pid 12"))
    assert caplog.messages == [], "it is not durable yet"
    journal.sync()
    user = event.owner if isinstance(event, Submitted) else event.by
    assert caplog.messages == [f"{user} (pid 12) {logged}"]
    audit.stop()


def test_event_without_an_address_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    journal, clock = FakeJournal(), Clock()
    AuditLog(journal, clock)
    for event in NOT_LOGGED:
        journal.append(event)
        journal.sync()
    assert caplog.messages == []
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "who",
    [
        Actor("ann\n2026-01-01T00:00:00+0000 [x#info] root (pid 1) removed job 7", "pid 12"),
        Actor("{act}{what}{log_time!r}{0}", "pid 12"),
        Actor("ann", "pid 12)\r\nroot (pid 1"),
    ],
)
def test_name_or_address_with_line_ends_makes_no_second_line(who: Actor, audited: Audited) -> None:
    written = io.StringIO()
    observer = textFileLogObserver(written)
    globalLogPublisher.addObserver(observer)
    try:
        audited.submit(who, 3)
        audited.audit_log.stop()
    finally:
        globalLogPublisher.removeObserver(observer)
    lines = written.getvalue().split("\n")
    assert [line[0] for line in lines if line and not line.startswith("\t")] == ["2", "2"]
    assert sum("submitted" in line for line in lines) == 2
    assert all("[taskqd.daemon.audit_log.AuditLog#info]" in line for line in lines if line.startswith("2"))


def test_events_of_the_same_activity_are_summarized_once_per_second(audited: Audited) -> None:
    audited.submit(ANN, 1000)
    assert audited.lines() == ["ann (pid 12) submitted job 1"]
    audited.harness.clock.advance(SUMMARY_INTERVAL)
    assert audited.lines() == ["ann (pid 12) submitted 999 more, from job 2 to job 1000"]
    audited.submit(ANN)
    assert audited.lines() == []
    audited.harness.clock.advance(SUMMARY_INTERVAL)
    assert audited.lines() == ["ann (pid 12) submitted job 1001"]
    audited.harness.clock.advance(SUMMARY_INTERVAL)
    audited.submit(ANN)
    assert audited.lines() == ["ann (pid 12) submitted job 1002"]
    audited.audit_log.stop()


def test_other_users_and_addresses_are_logged_separately(audited: Audited) -> None:
    audited.submit(ANN)
    audited.submit(Actor("ann", "pid 13"))
    audited.submit(BOB)
    assert audited.lines() == [
        "ann (pid 12) submitted job 1",
        "ann (pid 13) submitted job 2",
        "bob (10.0.0.5:4242) submitted job 3",
    ]
    audited.audit_log.stop()


def test_event_of_the_daemon_itself_is_not_logged(audited: Audited) -> None:
    audited.submit(Actor("retention"))
    assert audited.lines() == []
    assert audited.harness.clock.getDelayedCalls() == []


def test_stop_logs_what_was_collected_and_leaves_no_timer(audited: Audited) -> None:
    audited.submit(ANN, 3)
    audited.lines()
    audited.audit_log.stop()
    assert audited.lines() == ["ann (pid 12) submitted 2 more, from job 2 to job 3"]
    assert audited.harness.clock.getDelayedCalls() == []


def test_schedule_is_named_by_its_number(audited: Audited) -> None:
    begin(audited.harness.engine.queue_commands.schedule("true", DEFAULT_SPEC, ANN, 60.0, None, False))
    audited.harness.settle()
    assert audited.lines() == ["ann (pid 12) scheduled schedule 1"]
    audited.audit_log.stop()


def test_input_for_a_job_is_counted_in_a_line_per_second_and_sender(audited: Audited) -> None:
    log, clock = audited.audit_log, audited.harness.clock
    for size in (5, 7, 11):
        log.on_input(ANN, 1, size)
    log.on_input(ANN, 2, 1)
    log.on_input(Actor("[on_end]"), 1, 1)
    assert audited.lines() == ["ann (pid 12) sent 5 bytes to job 1", "ann (pid 12) sent 1 bytes to job 2"]
    clock.advance(SUMMARY_INTERVAL)
    assert audited.lines() == ["ann (pid 12) sent 18 more bytes to job 1"]
    log.on_input(ANN, 1, 3)
    log.stop()
    assert audited.lines() == ["ann (pid 12) sent 3 more bytes to job 1"]
    assert clock.getDelayedCalls() == []
