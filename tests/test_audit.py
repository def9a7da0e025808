import pytest

from taskqd.actors import Actor
from taskqd.audit import GATHER, Audit
from taskqd.job import Spec
from tests.fakes import House, begin

ANN = Actor("ann", "pid 12")
BOB = Actor("bob", "10.0.0.5:4242")


class Audited:
    """A house whose log is looked at."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.house = House(slots=1)
        self.audit = Audit(self.house.store, self.house.clock)
        self._caplog = caplog

    def submit(self, by: Actor, count: int = 1) -> None:

        for _ in range(count):
            self.house.dispatcher.submit(Spec(command="true", hold=True), by, {})
        self.house.settle()

    def lines(self) -> list[str]:
        said = [message for message in self._caplog.messages if "(" in message]
        self._caplog.clear()
        return said


@pytest.fixture(name="audited")
def an_audited_house(caplog: pytest.LogCaptureFixture) -> Audited:
    return Audited(caplog)


def test_who_did_what_from_where_is_one_line(audited: Audited) -> None:
    audited.submit(ANN)
    dispatcher = audited.house.dispatcher
    for act in (
        dispatcher.controls.pause(BOB),
        dispatcher.changes.release(1, BOB),
        dispatcher.changes.change(1, BOB, {"priority": 1}),
        dispatcher.changes.hold(1, BOB),
        dispatcher.cancel(1, BOB, 15),
        dispatcher.retry(1, BOB),
        dispatcher.cancel(1, ANN, 15),
        dispatcher.remove(1, BOB),
        dispatcher.controls.resume(BOB, "q"),
    ):
        begin(act)
        audited.house.settle()
    assert audited.lines() == [
        "ann (pid 12) submitted job 1",
        *(f"bob (10.0.0.5:4242) {act}" for act in ("paused all queues", "released job 1", "changed job 1")),
        *(f"bob (10.0.0.5:4242) {act}" for act in ("held job 1", "cancelled job 1", "retried job 1")),
        "ann (pid 12) cancelled job 1",
        *(f"bob (10.0.0.5:4242) {act}" for act in ("removed job 1", "resumed queue q")),
    ]
    audited.audit.stop()
    assert audited.lines() == []


def test_of_many_that_follow_each_other_one_line_a_second_tells(audited: Audited) -> None:
    audited.submit(ANN, 1000)
    assert audited.lines() == ["ann (pid 12) submitted job 1"]
    audited.house.clock.advance(GATHER)
    assert audited.lines() == ["ann (pid 12) submitted 999 more, from job 2 to job 1000"]
    audited.submit(ANN)
    assert audited.lines() == []
    audited.house.clock.advance(GATHER)
    assert audited.lines() == ["ann (pid 12) submitted job 1001"]
    audited.house.clock.advance(GATHER)
    audited.submit(ANN)
    assert audited.lines() == ["ann (pid 12) submitted job 1002"]
    audited.audit.stop()


def test_another_who_and_another_where_have_lines_of_their_own(audited: Audited) -> None:
    audited.submit(ANN)
    audited.submit(Actor("ann", "pid 13"))
    audited.submit(BOB)
    assert audited.lines() == [
        "ann (pid 12) submitted job 1",
        "ann (pid 13) submitted job 2",
        "bob (10.0.0.5:4242) submitted job 3",
    ]
    audited.audit.stop()


def test_what_the_daemon_does_by_itself_is_not_told(audited: Audited) -> None:
    audited.submit(Actor("retention"))
    assert audited.lines() == []
    assert audited.house.clock.getDelayedCalls() == []


def test_a_stop_tells_what_was_gathered_and_leaves_no_timer(audited: Audited) -> None:
    audited.submit(ANN, 3)
    audited.lines()
    audited.audit.stop()
    assert audited.lines() == ["ann (pid 12) submitted 2 more, from job 2 to job 3"]
    assert audited.house.clock.getDelayedCalls() == []


def test_a_schedule_is_named_by_its_number(audited: Audited) -> None:

    begin(audited.house.dispatcher.controls.schedule(Spec(command="true"), ANN, 60.0, None, False))
    audited.house.settle()
    assert audited.lines() == ["ann (pid 12) scheduled schedule 1"]
    audited.audit.stop()
