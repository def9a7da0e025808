"""The daemon's side of the conversation with runners: who says what became of an attempt."""

import errno
from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from taskqd.execution.attempt_ends import RUNNER_KILLED, SUSPECTED
from taskqd.execution.job_inputs import NoDelivery
from taskqd.execution.messages import (
    MIN_START_VERSION,
    Ack,
    AttemptKey,
    Cleared,
    Continue,
    End,
    Ended,
    File,
    Follow,
    KillLeftovers,
    Measured,
    MemoryUse,
    Message,
    Printed,
    Running,
    Send,
    Sent,
    Spawned,
    Start,
    Suspend,
    Swept,
    Welcome,
)
from taskqd.execution.notes import Notes
from taskqd.execution.run import CannotStart, Outcome
from taskqd.execution.runner_executor import MAX_ACK_DELAY, SHORT_LIVED, RunnerExecutor
from taskqd.execution.runner_link import RunnerLink
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason
from tests.fakes.deferreds import result_of

R1, R2 = "1" * 16, "2" * 16
KEY = AttemptKey(1, 1, "0123456789abcdef")
OTHER = AttemptKey(2, 1, "fedcba9876543210")
NEXT = AttemptKey(3, 1, "0011223344556677")


class FakeLink:
    """A connection to a runner; ``sent`` is what the daemon has sent."""

    def __init__(self, name: str = R1) -> None:
        self.name = name
        self.welcome: Welcome | None = None
        self.accepts_starts = True
        self.sent: list[Message] = []
        self.held: list[Message] = []
        self.descriptors: list[int] = []

    def send(self, message: Message) -> None:
        self.held.append(message)
        self.flush()

    def hold(self, ack: Ack) -> None:
        self.held.append(ack)

    def flush(self) -> None:
        self.sent += self.held
        self.held = []

    def send_with_files(self, start: Start, descriptors: Sequence[int]) -> None:
        self.sent.append(start)
        self.descriptors += descriptors


def start_of(key: AttemptKey) -> Start:
    return Start(id=key.id, attempt=key.attempt, word=key.word, argv=["/bin/true"], env={})


def ended(key: AttemptKey = KEY, **fields: Any) -> Ended:
    return Ended(id=key.id, attempt=key.attempt, word=key.word, at=7.0, **{"exit_code": 0, **fields})


def running(key: AttemptKey = KEY, pid: int | None = 4711, suspended: bool = False) -> Running:
    return Running(id=key.id, attempt=key.attempt, word=key.word, pid=pid, started=5, suspended=suspended)


class Site:
    """An executor, and links to its runners."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.executor = RunnerExecutor(self.clock)
        self.executor.make_start = start_of
        self.settled: list[str] = []
        self.ready = 0
        self.spawned: list[tuple[int, int | None]] = []
        self.printed: list[tuple[AttemptKey, tuple[int, int]]] = []
        self.executor.on_settled = self.settled.append
        self.executor.on_ready = self._on_ready
        self.executor.on_output = lambda key, dropped: self.printed.append((key, dropped))

    def _on_ready(self) -> None:
        self.ready += 1

    def connect(self, name: str = R1, **fields: Any) -> FakeLink:
        link = FakeLink(name)
        link.accepts_starts = fields.pop("accepts_starts", True)
        link.welcome = Welcome(runner=name, pid=1, **{"version": MIN_START_VERSION, **fields})
        self.executor.on_welcome(cast("RunnerLink", link), link.welcome)
        return link

    def lose(self, link: FakeLink) -> None:
        self.executor.on_link_lost(cast("RunnerLink", link))

    def tell(self, link: FakeLink, message: Ended) -> None:
        self.executor.on_ended(cast("RunnerLink", link), message)

    def start(self, key: AttemptKey = KEY, runner: str = R1) -> "Deferred[Outcome]":
        return self.executor.start(start_of(key), runner, lambda *args: self.spawned.append(args))

    def adopt(self, key: AttemptKey = KEY, runner: str = R1, is_newest: bool = False) -> "Deferred[Outcome]":
        return self.executor.adopt(key, runner, lambda *args: self.spawned.append(args), is_newest)


@pytest.fixture
def site() -> Site:
    return Site()


def test_start_is_sent_to_the_runner_that_its_record_names_and_its_end_is_acknowledged(site: Site) -> None:
    link, other = site.connect(), site.connect(R2)
    outcome = site.start()
    assert (link.sent, other.sent) == ([start_of(KEY)], [])
    site.tell(link, ended(exit_code=3, reason="exit"))
    assert result_of(outcome) == Outcome(reason=Reason.EXIT, exit_code=3)
    site.executor.acknowledge(1)
    site.clock.advance(MAX_ACK_DELAY)
    assert link.sent[1:] == [Ack(ends=[KEY])]


def test_ack_goes_with_the_next_message_or_alone_after_a_delay(site: Site) -> None:
    link = site.connect()
    for key in (KEY, OTHER):
        site.start(key)
        site.tell(link, ended(key))
    site.executor.acknowledge(1)
    assert Ack(ends=[KEY]) not in link.sent
    site.start(NEXT)
    assert link.sent[-2:] == [Ack(ends=[KEY]), start_of(NEXT)]
    site.executor.acknowledge(2)
    site.clock.advance(MAX_ACK_DELAY)
    assert link.sent[-1] == Ack(ends=[OTHER])
    assert site.clock.getDelayedCalls() == []


def test_runner_is_empty_and_the_reason_is_known_while_none_accepts_starts(site: Site) -> None:
    assert (site.executor.runner, site.ready) == ("", 0)
    assert "none is connected" in (site.executor.unready_detail or "")
    retiring = site.connect(accepts_starts=False)
    assert (site.executor.runner, site.ready) == ("", 0)
    assert "retires" in (site.executor.unready_detail or "")
    link = site.connect(R2)
    assert (site.executor.runner, site.executor.unready_detail, site.ready) == (R2, None, 1)
    site.lose(link)
    assert site.executor.runner == ""
    site.lose(retiring)


def test_end_that_arrives_twice_is_reported_once(site: Site) -> None:
    link = site.connect()
    outcome = site.start()
    site.tell(link, ended())
    site.tell(link, ended(exit_code=9))
    assert result_of(outcome).exit_code == 0
    assert not [message for message in link.sent if isinstance(message, Ack)]


def test_end_of_an_unknown_attempt_is_acknowledged_and_reported_for_no_job(site: Site) -> None:
    link = site.connect()
    outcome = site.start()
    site.tell(link, ended(KEY._replace(word="f" * 16)))
    assert link.sent[1:] == [Ack(ends=[KEY._replace(word="f" * 16)])]
    assert not outcome.called
    outcome.cancel()
    outcome.addErrback(lambda _: None)


def test_start_that_never_arrived_is_sent_again(site: Site) -> None:
    site.adopt()
    link = site.connect()
    assert link.sent == [start_of(KEY)]


def test_start_that_never_arrived_and_cannot_be_made_again_has_an_outcome(site: Site) -> None:
    def refuse(_: AttemptKey) -> Start:
        raise CannotStart("its script is gone")

    site.executor.make_start = refuse
    outcome = site.adopt()
    assert site.connect().sent == []
    assert result_of(outcome).detail == "could not be started: its script is gone"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_start_that_never_arrived_is_undone_if_the_runner_retires_or_the_job_is_cancelled(
    site: Site, is_cancelled: bool
) -> None:
    outcome = site.adopt()
    if is_cancelled:
        site.executor.end(1, Reason.CANCELLED, 15)
    assert site.connect(accepts_starts=is_cancelled).sent == []
    assert result_of(outcome).is_void


def test_attempt_that_still_runs_goes_on_and_is_ended_again_if_it_was_being_ended(site: Site) -> None:
    site.adopt()
    site.adopt(OTHER)
    site.executor.end(1, Reason.CANCELLED, 2)
    link = site.connect(running=[running(), running(OTHER)])
    assert link.sent == [End(id=1, attempt=1, word=KEY.word, why="cancelled", number=2)]
    assert site.spawned == [(4711, 5), (4711, 5)]


def test_attempt_that_the_journal_does_not_know_is_killed(site: Site) -> None:
    site.adopt()
    strange = KEY._replace(word="f" * 16)
    link = site.connect(running=[running(), running(strange)])
    assert link.sent == [End(id=1, attempt=1, word="f" * 16, why="interrupted", number=9)]


def test_late_end_has_the_time_of_the_end(site: Site) -> None:
    first, second = site.adopt(), site.adopt(OTHER)
    link = site.connect(ended=[KEY], running=[running(OTHER)])
    site.tell(link, ended())
    site.tell(link, ended(OTHER))
    assert (result_of(first).ended_at, result_of(second).ended_at) == (7.0, None)


def test_followed_job_is_followed_at_its_start_and_after_a_reconnection(site: Site) -> None:
    link = site.connect()
    site.executor.follow(1, True)
    site.start()
    follow = Follow(id=1, attempt=1, word=KEY.word)
    assert link.sent == [start_of(KEY), follow]
    site.lose(link)
    link = site.connect(running=[running()])
    assert link.sent == [follow]
    site.executor.on_printed(Printed(id=1, attempt=1, word=KEY.word, dropped=(1, 2)))
    site.executor.on_printed(Printed(id=2, attempt=1, word=OTHER.word))
    assert site.printed == [(KEY, (1, 2))]
    site.executor.follow(1, False)
    assert link.sent[1:] == [Follow(id=1, attempt=1, word=KEY.word, on=False)]


def sent_input(link: FakeLink) -> list[tuple[AttemptKey, bytes]]:
    return [(each.key, each.data) for each in link.sent if isinstance(each, Send)]


def test_input_is_sent_to_the_runner_of_the_attempt_once_that_has_its_start(site: Site) -> None:
    first = site.executor.send(1, b"early", False, 10.0)
    link, _ = site.connect(), site.connect(R2)
    site.start()
    assert sent_input(link) == [(KEY, b"early")]
    site.executor.on_sent(Sent(id=1, attempt=1, word=KEY.word, number=1, written=5))
    assert result_of(first) == (5, None)


def test_input_waits_for_a_lost_runner_unless_it_was_sent(site: Site) -> None:
    link = site.connect()
    site.start()
    first, second = site.executor.send(1, b"a", False, 10.0), site.executor.send(1, b"b", True, 10.0)
    site.lose(link)
    assert (result_of(first), second.called) == ((0, NoDelivery.UNKNOWN), False)
    site.lose(FakeLink())  # another connection to it, which it has refused
    again = site.connect(running=[running()])
    assert sent_input(again) == [(KEY, b"b")]
    site.lose(link)
    assert not second.called


def test_input_ends_with_the_attempt_and_that_of_a_job_without_one_with_its_end(site: Site) -> None:
    link = site.connect()
    site.start()
    first, second = site.executor.send(1, b"a", False, 10.0), site.executor.send(1, b"b", False, 10.0)
    site.tell(link, ended())
    assert [result_of(each).error for each in (first, second)] == [NoDelivery.UNKNOWN, NoDelivery.ENDED]
    late, unstarted = site.executor.send(1, b"c", False, 10.0), site.executor.send(2, b"d", False, 10.0)
    site.executor.acknowledge(1)
    site.executor.acknowledge(2)
    assert [result_of(each) for each in (late, unstarted)] == [(0, NoDelivery.ENDED)] * 2
    assert len(sent_input(link)) == 1


def test_process_of_an_ended_attempt_is_not_reported(site: Site) -> None:
    link = site.connect()
    site.start()
    message = Spawned(id=1, attempt=1, word=KEY.word, pid=4711)
    site.executor.on_spawned(message)
    site.tell(link, ended())
    site.executor.on_spawned(message)
    assert site.spawned == [(4711, None)]


def test_memory_of_an_attempt_is_what_its_runner_has_said_last(site: Site) -> None:
    link = site.connect()
    outcome = site.start()
    assert site.executor.memory_use(1) is None
    for sizes in ((5, 7), (6, 8)):
        site.executor.on_measured(Measured(uses=[MemoryUse(*KEY, *sizes), MemoryUse(*OTHER, 1, 2)]))
    assert site.executor.memory_use(1) == (6, 8)
    assert site.executor.memory_use(OTHER.id) is None, "the attempt is not known"
    site.tell(link, ended())
    site.executor.acknowledge(1)
    assert result_of(outcome).reason is None
    assert site.executor.memory_use(1) is None


def test_leftovers_of_a_job_are_killed_at_their_runner(site: Site) -> None:
    link = site.connect()
    site.start()
    assert site.executor.kill_leftovers(1) is None
    site.tell(link, ended(pid=4711))
    site.executor.acknowledge(1)
    killed, everything = site.executor.kill_leftovers(1), site.executor.kill()
    assert KillLeftovers(id=1) in link.sent
    assert not site.executor.is_idle(R1)
    assert not site.executor.only_short_lived_processes()
    site.executor.on_cleared(Cleared(id=1, attempt=1, word=KEY.word))
    assert killed is not None
    assert (killed.called, everything.called, site.executor.is_idle(R1)) == (True, True, True)


def test_attempts_are_short_lived_until_one_is_old(site: Site) -> None:
    site.connect()
    assert site.executor.only_short_lived_processes()
    site.start()
    site.clock.advance(SHORT_LIVED / 2)
    site.start(OTHER)
    assert site.executor.only_short_lived_processes()
    site.clock.advance(SHORT_LIVED / 2)
    assert not site.executor.only_short_lived_processes()


# Dead runners.


def test_notes_of_a_dead_runner_say_how_attempts_ended_and_the_rest_is_interrupted(site: Site) -> None:
    first, second = site.adopt(), site.adopt(OTHER)
    site.executor.settle(R1, Notes([ended(exit_code=4, reason="exit")]))
    assert result_of(first) == Outcome(reason=Reason.EXIT, exit_code=4, ended_at=7.0)
    assert result_of(second) == Outcome(reason=Reason.INTERRUPTED, detail=RUNNER_KILLED, is_lost=True)
    assert site.settled == []
    site.executor.acknowledge(1)
    site.executor.acknowledge(2)
    assert site.settled == [R1], "the notes may be removed once all of it is durable"


def test_attempt_that_a_runner_never_ran_before_it_was_gone_is_undone(site: Site) -> None:
    outcome = site.adopt()
    site.executor.settle(R1, Notes([], is_gone=True))
    assert result_of(outcome).is_void


def test_attempt_whose_start_was_not_sent_is_undone(site: Site) -> None:
    outcome = site.start()
    site.executor.settle(R1, Notes())
    assert result_of(outcome).is_void


def test_dead_runner_without_attempts_is_settled_at_once(site: Site) -> None:
    site.adopt(runner=R2)
    site.executor.settle(R1, Notes())
    assert site.settled == [R1]


def test_attempt_that_was_the_last_to_start_is_suspected_of_the_death_of_its_runner(site: Site) -> None:
    link = site.connect(R1)
    outcomes = site.start(OTHER), site.start(), site.adopt(KEY._replace(id=9), R2)
    site.lose(link)
    for runner in (R1, R2):
        site.executor.settle(runner, Notes())
    details = [result_of(outcome).detail for outcome in outcomes]
    assert details == [RUNNER_KILLED, SUSPECTED, RUNNER_KILLED]


def test_adopted_attempt_that_was_the_newest_is_suspected_until_another_starts(site: Site) -> None:
    site.connect(R1)
    adopted = site.adopt(is_newest=True)
    site.executor.settle(R1, Notes())
    assert result_of(adopted).detail == SUSPECTED
    link = site.connect(R2)
    adopted, started = site.adopt(OTHER, R2, is_newest=True), site.start(KEY._replace(id=9), R2)
    site.lose(link)
    site.executor.settle(R2, Notes())
    assert [result_of(each).detail for each in (adopted, started)] == [RUNNER_KILLED, SUSPECTED]


# Root's runner.


def with_files(key: AttemptKey = KEY) -> Start:
    return replace(start_of(key), user="ada", files=[File("stdout", 0, 0), File("stderr", 0, 0)])


def test_files_of_a_start_are_opened_when_it_is_sent(site: Site) -> None:
    opened: list[Start] = []

    def open_files(start: Start) -> tuple[int, ...]:
        opened.append(start)
        return 11, 12

    site.executor.open_files = open_files
    site.executor.make_start = with_files
    waiting = site.adopt()
    assert opened == []
    link = site.connect()
    assert (link.sent, link.descriptors) == ([with_files()], [11, 12])
    site.tell(link, ended())
    assert result_of(waiting).exit_code == 0


def test_attempt_whose_files_cannot_be_opened_ends_with_spawn(site: Site) -> None:
    def refuse(_: Start) -> tuple[int, ...]:
        raise OSError(errno.EMFILE, "Too many open files")

    site.executor.open_files = refuse
    link = site.connect()
    outcome = result_of(site.executor.start(with_files(), R1, lambda *_: None))
    assert (outcome.reason, outcome.is_shortage) == (Reason.SPAWN, True)
    assert "its files cannot be opened" in (outcome.detail or "")
    assert link.sent == []


def test_end_is_reported_when_its_output_is_durable(site: Site) -> None:
    finished: Deferred[None] = Deferred()
    site.executor.finish_output = lambda _: finished
    link = site.connect()
    outcome = site.start()
    site.tell(link, ended(stdout=Output(9000)))
    site.tell(link, ended(stdout=Output(9000)))
    assert not outcome.called
    finished.callback(None)
    assert result_of(outcome).stdout == Output(9000)


@pytest.mark.parametrize(
    "fields, expected",
    [
        (
            {"stdout": Output(9000), "stderr": Output.inline(b"x")},
            (Reason.OUTPUT, NOTHING, Output.inline(b"x")),
        ),
        ({"stdout": Output(9000), "reason": "exit"}, (Reason.EXIT, NOTHING, NOTHING)),
        ({"stdout": Output.inline(b"x")}, (None, Output.inline(b"x"), NOTHING)),
    ],
)
def test_output_in_a_file_is_lost_if_the_file_cannot_be_made_durable(
    site: Site, fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    site.executor.finish_output = lambda _: fail(OSError("no disk"))
    link = site.connect()
    outcome = site.start()
    site.tell(link, ended(**fields))
    found = result_of(outcome)
    assert (found.reason, found.stdout, found.stderr) == expected


def test_attempts_of_before_a_reboot_are_lost_by_that_and_not_by_their_runner(site: Site) -> None:
    site.executor.adopted_detail = "the machine was restarted"
    adopted = site.adopt(is_newest=True)
    started = site.start(OTHER)
    assert site.executor.runners() == [R1]
    site.connect(R2)
    site.executor.settle(R1, Notes())
    assert result_of(adopted).detail == "the machine was restarted"
    assert result_of(started).is_void, "it was never sent"


def test_swept_is_reported(site: Site) -> None:
    swept: list[Swept] = []
    site.executor.on_sweep_done = swept.append
    site.executor.on_swept(Swept(runner=R2))
    assert swept == [Swept(runner=R2)]


# Suspensions.

SUSPEND = Suspend(id=KEY.id, attempt=KEY.attempt, word=KEY.word)
CONTINUE = Continue(id=KEY.id, attempt=KEY.attempt, word=KEY.word)


def test_suspension_and_continuation_are_sent_at_once(site: Site) -> None:
    link = site.connect()
    site.start()
    site.executor.set_suspended(1, True)
    site.executor.set_suspended(1, False)
    assert link.sent[1:] == [SUSPEND, CONTINUE]


def test_suspension_is_sent_again_after_each_welcome(site: Site) -> None:
    site.start()
    site.executor.set_suspended(1, True)
    for is_suspended in (False, True):
        link = site.connect(running=[running(suspended=is_suspended)])
        assert link.sent == [SUSPEND]
        site.lose(link)


def test_suspension_follows_a_start_that_is_sent_again(site: Site) -> None:
    site.start()
    site.executor.set_suspended(1, True)
    assert site.connect().sent == [start_of(KEY), SUSPEND]


def test_continuation_is_sent_if_the_runner_says_that_the_attempt_is_suspended(site: Site) -> None:
    site.adopt()
    assert site.connect(running=[running(suspended=True)]).sent == [CONTINUE]


def test_cancel_of_a_suspended_attempt_is_sent_without_the_suspension_after_a_welcome(site: Site) -> None:
    site.start()
    site.executor.set_suspended(1, True)
    site.executor.end(1, Reason.CANCELLED, 15)
    sent = site.connect(running=[running()]).sent
    assert [type(message) for message in sent] == [End]


def test_suspension_of_an_ended_or_unknown_attempt_sends_nothing(site: Site) -> None:
    link = site.connect()
    site.start()
    site.tell(link, ended())
    site.executor.set_suspended(1, True)
    site.executor.set_suspended(9, True)
    assert link.sent == [start_of(KEY)]


def test_obstacle_is_an_older_version_or_a_runner_that_was_not_connected_yet(site: Site) -> None:
    site.adopt()
    assert "not connected yet" in (site.executor.runner_obstacle(1) or "")
    link = site.connect(running=[running()], version=1, release="0.9.0")
    assert "its runner is of release 0.9.0" in (site.executor.runner_obstacle(1) or "")
    site.lose(link)
    assert "its runner is of release 0.9.0" in (site.executor.runner_obstacle(1) or "")
    link = site.connect(running=[running()])
    assert site.executor.runner_obstacle(1) is None
    site.lose(link)
    assert site.executor.runner_obstacle(1) is None
    assert site.executor.runner_obstacle(9) is None


def test_version_of_a_runner_without_attempts_is_forgotten_with_its_connection(site: Site) -> None:
    link = site.connect(ended=[KEY])
    site.adopt()
    assert site.executor.runner_obstacle(1) is None
    site.tell(link, ended())
    site.lose(link)
    site.executor.acknowledge(1)
    site.adopt(OTHER)
    assert site.executor.runner_obstacle(OTHER.id) is not None
    site.lose(site.connect(R2))
    site.adopt(NEXT, R2)
    assert site.executor.runner_obstacle(NEXT.id) is not None
