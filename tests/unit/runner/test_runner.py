"""The rules of a runner: daemons that come and go, starts, ends and notes."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from taskqd.execution.interfaces import OnSpawned
from taskqd.execution.messages import (
    VERSIONS,
    Ack,
    AttemptKey,
    Base,
    Cleared,
    Continue,
    End,
    Ended,
    Follow,
    Hello,
    Measured,
    MemoryUse,
    Message,
    Refused,
    Retire,
    Running,
    Send,
    SendError,
    Sent,
    Settled,
    Spawned,
    Start,
    Suspend,
    Sweep,
    Swept,
    Welcome,
    Withdraw,
)
from taskqd.execution.notes import read_notes
from taskqd.execution.run import CannotStart, Outcome
from taskqd.model.job import Reason
from taskqd.runner.admission import Admitted
from taskqd.runner.input_pipe import InputPipes
from taskqd.runner.interfaces import IDaemonLink
from taskqd.runner.notes import NotesFile
from taskqd.runner.runner import (
    GREETING_TIMEOUT,
    IDLE_TIMEOUT,
    NOTE_RETRY_INTERVAL,
    REPORT_DELAY,
    Identity,
    Runner,
)
from tests.fakes.writers import Writers
from tests.support.leaks import LeakWatch

HELLO = Hello(store="s", versions=VERSIONS)
KEY = AttemptKey(1, 1, "0123456789abcdef")
DONE = Outcome(reason=None, exit_code=0)


class FakeOutput:
    """An output of which nothing is dropped."""

    def __init__(self) -> None:
        self.observers: list[Callable[[], None]] = []
        self.dropped = (0, 0)
        self.is_written_through = False

    def write_through(self) -> None:
        self.is_written_through = True


class FakeMemory:
    """Watches no memory: the test sets what attempts use."""

    def __init__(self) -> None:
        self.on_measured: Callable[[list[MemoryUse]], object] = lambda _: None
        self.known: list[MemoryUse] = []

    def uses(self) -> list[MemoryUse]:
        return self.known


class FakeExecutor:
    """Starts no process: an attempt runs until ``finish``."""

    def __init__(self, on_cleared: Callable[[AttemptKey], object]) -> None:
        self.on_cleared = on_cleared
        self.memory = FakeMemory()
        self.running: dict[AttemptKey, Deferred[Outcome]] = {}
        self.spawned: dict[AttemptKey, OnSpawned] = {}
        self.leftovers: set[AttemptKey] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.starts: list[AttemptKey] = []
        self.stdins: list[int | None] = []

    def start(
        self, start: Start, output: FakeOutput, on_spawned: OnSpawned, stdin: int | None = None
    ) -> "Deferred[Outcome]":
        self.starts.append(start.key)
        self.stdins.append(stdin)
        self.spawned[start.key] = on_spawned
        self.running[start.key] = Deferred()
        return self.running[start.key]

    def finish(self, key: AttemptKey = KEY, outcome: Outcome = DONE) -> None:
        self.running.pop(key).callback(outcome)

    def read_output(self, *args: Any) -> None:
        self.calls.append(("read_output", *args))

    def end(self, *args: Any) -> None:
        self.calls.append(("end", *args))

    def set_suspended(self, *args: Any) -> None:
        self.calls.append(("set_suspended", *args))

    def end_all(self, *args: Any) -> None:
        self.calls.append(("end_all", *args))

    def kill_leftovers(self, *args: Any) -> None:
        self.calls.append(("kill_leftovers", *args))

    def kill(self) -> None:
        self.calls.append(("kill",))


@implementer(IDaemonLink)
class FakeLink:
    """A daemon's connection; ``sent`` is what the runner has sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.is_held = False
        self.is_closed = False

    def hold(self) -> None:
        self.is_held = True

    def flush(self) -> None:
        self.is_held = False

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.is_closed = True


class FakeAdmission:
    """Admits each Start unchanged; ``refusal`` is raised in its place if it is set."""

    changes_users = False

    def __init__(self) -> None:
        self.outputs: list[FakeOutput] = []
        self.refusal: CannotStart | None = None
        self.swept: Deferred[None] | None = None
        self.calls: list[tuple[Any, ...]] = []

    def admit(self, start: Start, files: Sequence[int], store: str) -> Admitted:
        self.calls.append(("admit", start.key, files, store))
        if self.refusal is not None:
            raise self.refusal
        self.outputs.append(FakeOutput())
        return Admitted(start, cast("Any", self.outputs[-1]))

    def on_spawned(self, key: AttemptKey, pid: int, started: int | None) -> None:
        self.calls.append(("spawned", key, pid, started))

    def on_ended(self, key: AttemptKey, *, has_leftovers: bool) -> None:
        self.calls.append(("ended", key, has_leftovers))

    def on_cleared(self, key: AttemptKey) -> None:
        self.calls.append(("cleared", key))

    def sweep(self, runner: str) -> "Deferred[None] | None":
        self.calls.append(("sweep", runner))
        return self.swept

    def settle(self, runner: str) -> None:
        self.calls.append(("settle", runner))


class Site:
    """A runner over fakes, with notes in a file."""

    def __init__(self, place: Path, *, stays: bool = False) -> None:
        self.clock = Clock()
        self.path = place / "notes"
        self.notes = NotesFile(str(self.path))
        self.happened: list[str] = []
        self.admission = FakeAdmission()
        self.executor = cast("FakeExecutor", None)
        self.inputs = InputPipes(Writers())
        self.runner = Runner(
            Identity("a" * 16, 99, "1.0", VERSIONS, Base(), stays=stays),
            self._make_executor,
            self.admission,
            self.inputs,
            self.notes,
            self.clock,
            lambda: self.happened.append("retired"),
            lambda: self.happened.append("exited"),
        )

    def _make_executor(self, on_cleared: Callable[[AttemptKey], object]) -> Any:
        self.executor = FakeExecutor(on_cleared)
        return self.executor

    def connect(self, hello: Hello = HELLO) -> FakeLink:
        link = FakeLink()
        assert self.runner.welcome(link, hello)
        return link

    def start(self, key: AttemptKey = KEY, **fields: Any) -> None:
        id_, attempt, word = key
        self.runner.handle(Start(id=id_, attempt=attempt, word=word, argv=["/bin/true"], env={}, **fields))

    def send(self, number: int, data: bytes, key: AttemptKey = KEY) -> None:
        self.runner.handle(Send(id=key.id, attempt=key.attempt, word=key.word, number=number, data=data))

    def noted(self) -> tuple[list[AttemptKey], bool]:
        notes = read_notes(str(self.path))
        return [ended.key for ended in notes.ends], notes.is_gone


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def ends(link: FakeLink) -> list[Ended]:
    return [message for message in link.sent if isinstance(message, Ended)]


# Daemons.


def test_welcome_names_what_runs_and_all_ends_that_are_not_acknowledged(site: Site) -> None:
    other = AttemptKey(2, 1, "f" * 16)
    link = site.connect()
    site.start()
    site.start(other)
    site.executor.spawned[KEY](4711, 5)
    site.executor.finish(other)
    site.runner.disconnected(link)
    again = site.connect()
    welcome = again.sent[0]
    assert isinstance(welcome, Welcome)
    assert welcome.running == [Running(id=1, attempt=1, word=KEY.word, pid=4711, started=5)]
    assert welcome.ended == [other]
    assert [ended.key for ended in ends(again)] == [other]
    assert (welcome.version, welcome.runner, welcome.pid) == (2, "a" * 16, 99)


def test_welcome_of_a_daemon_without_a_common_version_has_version_0(site: Site) -> None:
    [welcome] = site.connect(Hello(store="s", versions=(98, 99))).sent
    assert isinstance(welcome, Welcome)
    assert welcome.version == 0


@pytest.mark.parametrize("is_connected", [True, False])
def test_second_daemon_and_another_store_are_refused(site: Site, is_connected: bool) -> None:
    first, second = site.connect(), FakeLink()
    if not is_connected:
        site.runner.disconnected(first)
    assert not site.runner.welcome(second, HELLO if is_connected else Hello(store="t", versions=(1,)))
    [refused] = second.sent
    assert isinstance(refused, Refused)
    assert refused.is_other_store is not is_connected
    assert second.is_closed


def test_memory_is_reported_when_it_changes_and_to_each_daemon_that_knows_the_message(site: Site) -> None:
    uses = [MemoryUse(*KEY, 5, 7)]
    link = site.connect()
    site.start()
    site.executor.memory.on_measured(uses)
    assert link.sent[1:] == [Measured(uses=uses)]
    site.runner.disconnected(link)
    site.executor.memory.on_measured(uses)
    site.executor.memory.known = uses
    again = site.connect()
    assert again.sent[1:] == [Measured(uses=uses)]
    site.runner.disconnected(again)
    assert len(site.connect(Hello(store="s", versions=(1,))).sent) == 1


# Starts and ends.


def test_start_that_is_sent_twice_runs_once_also_after_its_end(site: Site) -> None:
    link = site.connect()
    site.start()
    site.start()
    site.executor.finish()
    site.start()
    assert site.executor.starts == [KEY]
    assert [ended.key for ended in ends(link)] == [KEY]


def test_end_is_sent_again_until_it_is_acknowledged(site: Site) -> None:
    link = site.connect()
    site.start()
    site.executor.finish()
    site.runner.disconnected(link)
    link = site.connect()
    assert [ended.key for ended in ends(link)] == [KEY]
    site.runner.handle(Ack(ends=[KEY]))
    site.runner.disconnected(link)
    assert ends(site.connect()) == []
    assert not site.path.exists()


def test_process_is_reported_only_if_it_lives_for_a_moment(site: Site) -> None:
    link, other = site.connect(), AttemptKey(2, 1, "f" * 16)
    for key in (KEY, other):
        site.start(key)
        site.executor.spawned[key](key.id, 5)
    site.executor.finish()
    site.clock.advance(REPORT_DELAY)
    assert [each for each in link.sent if isinstance(each, Spawned)] == [
        Spawned(id=2, attempt=1, word=other.word, pid=2, started=5)
    ]


def test_end_of_an_attempt_has_the_reason_of_the_daemon(site: Site) -> None:
    site.connect()
    site.start()
    site.runner.handle(End(id=1, attempt=1, word=KEY.word, why="cancelled", number=2))
    site.runner.handle(End(id=1, attempt=1, word=KEY.word, why="of a later version", number=9))
    assert site.executor.calls == [
        ("end", KEY, Reason.CANCELLED, 2),
        ("end", KEY, Reason.INTERRUPTED, 9),
    ]


def test_followed_attempt_is_written_through_at_once(site: Site) -> None:
    link = site.connect()
    site.start()
    site.runner.handle(Follow(id=1, attempt=1, word=KEY.word))
    assert site.executor.calls == [("read_output", KEY)]
    assert site.admission.outputs[0].is_written_through
    count = len(link.sent)
    site.admission.outputs[0].observers[0]()
    assert len(link.sent) == count + 1
    site.runner.handle(Follow(id=1, attempt=1, word=KEY.word, on=False))
    site.admission.outputs[0].observers[0]()
    assert len(link.sent) == count + 1


def test_leftovers_are_cleared_only_if_the_end_had_some(site: Site) -> None:
    link, other = site.connect(), AttemptKey(2, 1, "f" * 16)
    for key in (KEY, other):
        site.start(key)
    site.executor.leftovers = {KEY}
    site.executor.finish(KEY, Outcome(reason=None, exit_code=0, pid=4711))
    site.executor.finish(other)
    site.executor.on_cleared(KEY)
    site.executor.on_cleared(other)
    assert [each.key for each in link.sent if isinstance(each, Cleared)] == [KEY]


# Without a daemon.


def test_end_without_a_daemon_is_noted(site: Site) -> None:
    link = site.connect()
    site.start()
    site.runner.disconnected(link)
    site.executor.finish()
    assert site.noted() == ([KEY], False)


def test_end_that_cannot_be_noted_is_tried_again_and_keeps_the_runner(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = site.connect()
    site.start()
    site.runner.disconnected(link)

    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(site.notes, "append", refuse)
        site.executor.finish()
        site.clock.advance(IDLE_TIMEOUT)
    assert site.happened == []
    site.clock.advance(NOTE_RETRY_INTERVAL)
    assert site.noted() == ([KEY], False)
    site.clock.advance(IDLE_TIMEOUT)
    assert site.noted() == ([KEY], True)
    assert site.happened == ["exited"]


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_attempts_are_ended_if_no_daemon_comes_back_in_time(site: Site, seconds: float) -> None:
    link = site.connect(Hello(store="s", versions=(1,), leave_for=seconds))
    site.start()
    site.runner.disconnected(link)
    site.clock.advance(seconds)
    assert [call[0] for call in site.executor.calls] == ["end_all"]


def test_attempts_are_left_alone_if_a_daemon_comes_back_in_time(site: Site) -> None:
    hello = Hello(store="s", versions=(1,), leave_for=2.0)
    link = site.connect(hello)
    site.start()
    site.runner.disconnected(link)
    site.clock.advance(1.0)
    site.connect(hello)
    site.clock.advance(10.0)
    assert site.executor.calls == []


# The end of the runner.


def test_runner_that_no_daemon_greets_exits(site: Site) -> None:
    site.clock.advance(GREETING_TIMEOUT)
    assert site.happened == ["exited"]
    assert site.noted() == ([], True)


def test_idle_runner_waits_a_while_for_its_daemon_and_exits(site: Site) -> None:
    site.runner.disconnected(site.connect())
    site.clock.advance(IDLE_TIMEOUT / 2)
    assert site.happened == []
    site.clock.advance(IDLE_TIMEOUT)
    assert site.happened == ["exited"]


def test_runner_that_stays_does_not_exit_when_it_is_idle(tmp_path: Path) -> None:
    site = Site(tmp_path, stays=True)
    site.clock.advance(GREETING_TIMEOUT)
    site.runner.disconnected(site.connect())
    site.clock.advance(IDLE_TIMEOUT)
    assert site.happened == []


def test_retired_runner_starts_nothing_and_exits_after_the_last_acknowledgement(site: Site) -> None:
    link, other = site.connect(), AttemptKey(2, 1, "f" * 16)
    site.start()
    site.runner.handle(Retire())
    site.start(other)
    assert site.executor.starts == [KEY]
    assert [(ended.key, ended.is_void) for ended in ends(link)] == [(other, True)]
    site.executor.finish()
    site.runner.handle(Ack(ends=[other]))
    assert site.happened == ["retired"]
    site.runner.handle(Ack(ends=[KEY]))
    assert link.is_closed
    site.runner.disconnected(link)
    assert site.happened == ["retired", "exited"]
    assert site.noted() == ([], True)


def test_stopped_runner_notes_every_end_before_it_is_gone(site: Site) -> None:
    link = site.connect()
    site.start()
    site.runner.stop()
    assert [call[0] for call in site.executor.calls] == ["end_all"]
    site.executor.finish(KEY, Outcome(reason=Reason.INTERRUPTED, exit_code=0, signal=15))
    assert [ended.key for ended in ends(link)] == [KEY]
    assert site.noted() == ([KEY], True)


def test_stopped_runner_without_room_for_its_notes_is_not_gone_when_a_daemon_connects(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an end that the daemon has not recorded would be taken for an attempt that never ran."""
    link = site.connect()
    site.start()
    site.runner.disconnected(link)

    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(site.notes, "append", refuse)
        site.runner.stop()
        site.executor.finish()
        site.connect()
        site.clock.advance(NOTE_RETRY_INTERVAL)
    site.runner.stop()
    assert site.noted() == ([KEY], True)


# What decides how a Start is executed.


def test_refused_start_ends_with_spawn_and_starts_nothing(site: Site) -> None:
    link = site.connect()
    site.admission.refusal = CannotStart("its user is root")
    site.start()
    assert site.executor.starts == []
    assert [(end.reason, end.detail, end.is_shortage) for end in ends(link)] == [
        ("spawn", "could not be started: its user is root", False)
    ]
    assert site.admission.calls[1:] == [("ended", KEY, False)]


def sent_answers(link: FakeLink) -> list[tuple[int, int, SendError | None]]:
    return [(each.number, each.written, each.error) for each in link.sent if isinstance(each, Sent)]


def test_interactive_attempt_has_a_pipe_as_stdin_until_its_end(site: Site) -> None:
    link = site.connect()
    site.start(interactive=True)
    (stdin,) = site.executor.stdins
    assert stdin is not None
    process_stdin = os.dup(stdin)  # as its process gets it
    site.executor.spawned[KEY](4711, 5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(stdin)
    site.send(1, b"x" * 65_536)
    site.send(2, b"rest")
    site.runner.handle(Withdraw(id=KEY.id, attempt=KEY.attempt, word=KEY.word, number=2))
    assert sent_answers(link) == [(1, 65_536, None), (2, 0, SendError.WITHDRAWN)]
    site.send(3, b"rest")
    site.executor.finish()
    assert [type(each) for each in link.sent[-2:]] == [Sent, Ended]
    assert sent_answers(link)[2:] == [(3, 0, SendError.ENDED)]
    assert len(os.read(process_stdin, 65_536)) == 65_536
    assert os.read(process_stdin, 1) == b""
    os.close(process_stdin)


def test_input_that_is_not_written_is_dropped_with_its_daemon_and_the_pipe_stays(site: Site) -> None:
    link = site.connect()
    site.start(interactive=True)
    site.send(1, b"x" * 65_536)
    site.send(2, b"rest")
    site.runner.disconnected(link)
    link = site.connect()
    site.send(1, b"")
    assert sent_answers(link) == [(1, 0, None)]
    site.executor.finish()


def test_attempt_that_is_not_interactive_or_unknown_gets_no_input(site: Site) -> None:
    link = site.connect()
    site.start()
    site.send(1, b"x")
    site.send(2, b"x", AttemptKey(9, 1, KEY.word))
    assert site.executor.stdins == [None]
    assert sent_answers(link) == [(1, 0, SendError.ENDED), (2, 0, SendError.ENDED)]


def test_pipe_belongs_to_the_user_of_the_attempt(site: Site) -> None:
    site.connect()
    site.start(interactive=True, uid=os.geteuid())
    (stdin,) = site.executor.stdins
    assert stdin is not None
    assert os.fstat(stdin).st_uid == os.geteuid()
    site.executor.finish()


def test_start_without_a_descriptor_for_its_stdin_ends_with_a_shortage(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = site.connect()
    monkeypatch.setattr(os, "pipe", lambda: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many")))
    files = [os.open(os.devnull, os.O_RDONLY)]
    start = Start(id=1, attempt=1, word=KEY.word, argv=["/bin/true"], env={}, interactive=True)
    site.runner.handle(start, files)
    (end,) = ends(link)
    assert (end.reason, end.is_shortage, site.admission.calls) == ("spawn", True, [("ended", KEY, False)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files[0])


def test_refused_interactive_start_leaves_no_pipe(site: Site) -> None:
    link = site.connect()
    site.admission.refusal = CannotStart("its user is root")
    before = len(os.listdir("/proc/self/fd"))
    site.start(interactive=True)
    assert ends(link)[0].reason == "spawn"
    assert len(os.listdir("/proc/self/fd")) == before


def test_admission_hears_what_becomes_of_an_attempt(site: Site) -> None:
    site.connect()
    site.start()
    site.executor.spawned[KEY](4711, 5)
    site.executor.leftovers.add(KEY)
    site.executor.finish(outcome=Outcome(reason=None, exit_code=0, pid=4711))
    site.executor.on_cleared(KEY)
    assert site.admission.calls == [
        ("admit", KEY, (), "s"),
        ("spawned", KEY, 4711, 5),
        ("ended", KEY, True),
        ("cleared", KEY),
    ]


def test_files_of_a_start_that_is_not_admitted_are_closed(site: Site) -> None:
    site.connect()
    site.start()
    again, late = os.pipe()
    start = Start(id=1, attempt=1, word=KEY.word, argv=["/bin/true"], env={})
    site.runner.handle(start, [again])
    site.runner.retire()
    site.runner.handle(replace(start, id=2), [late])
    for descriptor in (again, late):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_swept_is_sent_when_the_sweep_is_done(site: Site) -> None:
    link = site.connect()
    site.admission.swept = Deferred()
    site.runner.handle(Sweep(runner="b" * 16))
    assert not any(isinstance(message, Swept) for message in link.sent)
    site.admission.swept.callback(None)
    assert link.sent[-1] == Swept(runner="b" * 16)
    site.runner.handle(Settled(runner="b" * 16))
    assert site.admission.calls == [("sweep", "b" * 16), ("settle", "b" * 16)]


def test_failed_sweep_closes_the_connection_and_refused_one_answers_nothing(
    site: Site, logged_errors: LeakWatch
) -> None:
    link = site.connect()
    site.runner.handle(Sweep(runner="b" * 16))
    site.admission.swept = Deferred()
    site.runner.handle(Sweep(runner="b" * 16))
    assert not link.is_closed
    site.admission.swept.errback(OSError("no /proc"))
    assert link.is_closed
    assert not any(isinstance(message, Swept) for message in link.sent)
    assert len(logged_errors.flush(OSError)) == 1


def test_messages_of_a_batch_are_held_until_its_end(site: Site) -> None:
    with site.runner.batch():
        pass
    link = site.connect()
    with site.runner.batch():
        assert link.is_held
    assert not link.is_held


def test_welcome_says_which_attempts_are_suspended(site: Site) -> None:
    other = AttemptKey(2, 1, "f" * 16)
    link = site.connect()
    site.start()
    site.runner.handle(Suspend(id=KEY.id, attempt=KEY.attempt, word=KEY.word))
    site.runner.handle(Suspend(id=other.id, attempt=other.attempt, word=other.word))
    site.runner.disconnected(link)
    link = site.connect()
    welcome = link.sent[0]
    assert isinstance(welcome, Welcome)
    assert [each.suspended for each in welcome.running] == [True]
    site.runner.handle(Continue(id=KEY.id, attempt=KEY.attempt, word=KEY.word))
    assert site.executor.calls == [("set_suspended", KEY, True), ("set_suspended", KEY, False)]
    site.runner.disconnected(link)
    welcome = site.connect().sent[0]
    assert isinstance(welcome, Welcome)
    assert [each.suspended for each in welcome.running] == [False]
