"""Attempts as processes: their ends and why, timeouts, cancels, leftovers, and output that can't be kept."""

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from zope.interface.verify import verifyObject

from taskqd import executor, launch
from taskqd.events import Output
from taskqd.executor import FIRST_LOOK, YOUNG, Executor
from taskqd.interfaces import IExecutor
from taskqd.job import Reason, Usage
from taskqd.launch import Outcome, Owner, Run
from taskqd.spawn import IS_FAST_WAY_KNOWN, Spawner
from taskqd.together import Together
from tests.fakes import FakeGroups, FakeProcess, FakeRecording, FakeSpawn, clock, error_of, result_of
from tests.leaks import LeakWatch

TERM, KILL, INT = signal.SIGTERM, signal.SIGKILL, signal.SIGINT
LONG = 20.0
"""More seconds than anything here may take, KILL and all the looks after it."""


def run(job_id: int = 1, **options: Any) -> Run:
    plain = Run(
        id=job_id,
        attempt=1,
        command="true",
        script=None,
        interpreter=(),
        stdin=None,
        cwd=None,
        env={"A": "1"},
        umask=None,
        nice=None,
        timeout=None,
        kill_after=5.0,
    )
    return replace(plain, **options)


class Bench:
    """An executor over fake processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock()
        self.groups = FakeGroups()
        self.spawn = FakeSpawn(self.groups)
        self.executor = Executor(self.spawn, self.clock)
        self.recording = FakeRecording()
        self.spawned: list[tuple[int, int | None]] = []
        self.killed: list[tuple[int, int]] = []
        monkeypatch.setattr(executor, "processes", self.groups)
        monkeypatch.setattr(os, "kill", lambda *args: self.killed.append(args))

    def start(self, **options: Any) -> "Deferred[Outcome]":
        return self.executor.start(run(**options), self.recording, self._note)

    def _note(self, pid: int, started: int | None) -> None:
        self.spawned.append((pid, started))

    @property
    def process(self) -> FakeProcess:
        return self.spawn.processes[-1]

    @property
    def signals(self) -> list[int]:
        """What was sent to the group of the process."""
        return [number for pgid, number in self.groups.sent if pgid == self.process.pid]

    def pass_time(self, seconds: float) -> None:
        """Let time pass in eighths of a second, which a float can hold."""
        self.clock.pump([0.125] * round(seconds * 8))


@pytest.fixture(name="bench")
def a_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    yield bench
    bench.spawn.close()
    assert not bench.executor._running
    assert not bench.executor._present
    assert bench.clock.getDelayedCalls() == [], "an ended attempt leaves no call behind"


def test_the_executor_and_its_process_keep_to_their_interfaces(bench: Bench) -> None:
    verifyObject(IExecutor, bench.executor)
    bench.start()
    verifyObject(IProcessTransport, bench.process)
    bench.process.exits()


# A spawn takes time.


def test_before_there_is_a_process_nothing_is_told_and_no_time_passes_for_it(bench: Bench) -> None:
    bench.spawn.is_slow = True
    ended = bench.start(timeout=1.0)
    bench.pass_time(LONG)
    assert (bench.spawned, ended.called) == ([], False)
    bench.spawn.go_on()
    assert [pid for pid, _ in bench.spawned] == [bench.process.pid]
    bench.pass_time(0.5)
    assert bench.signals == []
    bench.process.exits()
    assert result_of(ended).reason is None


def test_who_is_to_end_before_there_is_a_process_gets_the_signal_as_soon_as_there_is(bench: Bench) -> None:
    bench.spawn.is_slow = True
    ended = bench.start()
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.spawn.go_on()
    assert bench.signals == [INT]
    bench.process.exits(number=INT)
    assert result_of(ended).reason is Reason.CANCELLED


def test_who_is_to_end_and_has_had_its_grace_is_killed_as_soon_as_there_is_a_process(bench: Bench) -> None:
    bench.spawn.is_slow = True
    ended = bench.start(kill_after=1.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(2.0)
    bench.spawn.go_on()
    assert bench.signals == [KILL]
    bench.process.exits(number=KILL)
    assert result_of(ended).reason is Reason.CANCELLED


def test_a_kill_of_all_reaches_who_is_about_to_be_a_process(bench: Bench) -> None:
    bench.spawn.is_slow = True
    ended = bench.start()
    bench.executor.kill()
    bench.spawn.go_on()
    assert bench.signals == [KILL]
    bench.process.exits(number=KILL)
    assert result_of(ended).signal == KILL


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_spawn_that_fails_after_a_while_has_failed(bench: Bench, is_cancelled: bool) -> None:
    bench.spawn.is_slow = True
    ended = bench.start()
    if is_cancelled:
        bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.spawn.spawning.errback(OSError("no more processes"))
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.SPAWN, "could not be started: no more processes")
    assert (bench.spawned, bench.recording.is_closed) == ([], True)


def test_a_bug_in_a_spawn_is_logged_and_ends_the_attempt(bench: Bench, logged_errors: LeakWatch) -> None:
    bench.spawn.error = ZeroDivisionError("a bug")
    assert result_of(bench.start()).reason is Reason.SPAWN
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


# How it is started.


def test_an_attempt_is_spawned_with_its_line_its_environment_and_an_empty_stdin(bench: Bench) -> None:
    ended = bench.start(command="echo hello")
    assert bench.spawn.lines == [["/bin/sh", "-c", "echo hello"]]
    assert bench.spawn.environments == [{"A": "1"}]
    assert bench.spawn.inputs == [b""]
    assert bench.spawn.uids == [None]
    bench.process.exits()
    assert result_of(ended).reason is None


@pytest.mark.parametrize("known, told", [(4242, 4242), (None, 4711)])
def test_a_start_time_that_the_spawn_does_not_know_is_read(
    bench: Bench, known: int | None, told: int
) -> None:
    bench.spawn.started = known
    bench.start()
    assert bench.spawned == [(bench.process.pid, told)]
    bench.process.exits()


def test_an_attempt_reads_its_stdin_from_its_file(bench: Bench, tmp_path: Path) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"what it reads")
    bench.start(stdin=str(stdin))
    assert bench.spawn.inputs == [b"what it reads"]
    bench.process.exits()


def test_an_attempt_of_another_user_s_is_spawned_for_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "find", lambda program: program)
    env = {"A": "1", "LD_PRELOAD": "x"}
    bench.start(owner=Owner(1000, 100, "/home/ada"), env=env, brought=("LD_PRELOAD",))
    assert bench.spawn.uids == [1000]
    assert bench.spawn.lines[0][:2] == ["setpriv", "--reuid=1000"]
    assert bench.spawn.environments == [{"A": "1", "TASKQ_ENV_LD_PRELOAD": "x"}]
    bench.process.exits()


def test_a_machine_without_setpriv_is_a_spawn_that_failed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = result_of(bench.start(owner=Owner(1000, 100, "/home/ada")))
    assert (outcome.reason, bench.spawn.lines) == (Reason.SPAWN, [])
    assert "there is no setpriv" in (outcome.detail or "")


def test_a_stdin_on_which_its_user_has_a_lease_is_not_waited_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = []
    system = os.open

    def note(path: str, flag: int, *args: Any, **options: Any) -> int:
        flags.append(flag)
        return system(path, flag, *args, **options)

    (tmp_path / "stdin").touch()
    monkeypatch.setattr(os, "open", note)
    bench.start(stdin=str(tmp_path / "stdin"))
    assert [bool(flag & os.O_NONBLOCK) for flag in flags] == [True]
    bench.process.exits()


@pytest.fixture(name="real")
def a_real_executor(reactor: Any) -> Iterator[Executor]:
    spawner = Spawner(reactor, Together())
    yield Executor(spawner.spawn, reactor)
    spawner.stop()


async def test_what_a_real_process_reads_waits_as_ever(real: Executor, tmp_path: Path) -> None:
    recording = FakeRecording()
    (tmp_path / "stdin").write_bytes(b"in")
    flags = "grep flags /proc/self/fdinfo/0"
    options: dict[str, Any] = {
        "command": flags,
        "stdin": str(tmp_path / "stdin"),
        "env": {"PATH": os.defpath},
    }
    outcome = await real.start(run(**options), recording, lambda pid, started: None)
    [shown] = (outcome.stdout.data or b"").splitlines()
    assert not int(shown.split()[1], 8) & os.O_NONBLOCK


def test_the_descriptor_of_stdin_is_closed_whether_the_spawn_works_or_not(
    bench: Bench, tmp_path: Path
) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"")

    def held() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return [link for link in links if os.path.realpath(link) == str(stdin)]

    bench.start(stdin=str(stdin))
    bench.process.exits()
    assert held() == []
    bench.spawn.error = OSError("no more processes")
    bench.recording = FakeRecording()
    bench.start(stdin=str(stdin))
    assert held() == []


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no such file: /bin/sh"), OSError(11, "too many"), ValueError("embedded null byte")],
)
def test_what_cannot_be_spawned_is_an_outcome(bench: Bench, error: Exception) -> None:
    bench.spawn.error = error
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.exit_code, outcome.signal) == (Reason.SPAWN, None, None)
    assert str(error) in (outcome.detail or "")
    assert bench.spawned == []
    assert bench.recording.is_closed
    bench.spawn.error = None
    bench.recording = FakeRecording()
    again = bench.start()
    bench.process.exits()
    assert result_of(again).reason is None


def test_a_missing_prlimit_is_a_spawn_that_failed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = result_of(bench.start(nofile=64))
    assert (outcome.reason, bench.spawn.lines) == (Reason.SPAWN, [])
    assert "there is no prlimit" in (outcome.detail or "")


def test_a_missing_stdin_is_a_spawn_that_failed(bench: Bench) -> None:
    outcome = result_of(bench.start(stdin="/nonexistent/stdin"))
    assert outcome.reason is Reason.SPAWN
    assert "/nonexistent/stdin" in (outcome.detail or "")


@pytest.mark.parametrize(
    "code, options, detail",
    [
        (127, {"cwd": "/x"}, "there is no directory /x"),
        (126, {"cwd": "/x"}, "the directory /x may not be entered"),
        (
            127,
            {"command": None, "script": "/s", "interpreter": ("/x",)},
            "the interpreter /x .* is not there",
        ),
    ],
)
def test_what_the_shell_could_not_enter_or_execute_is_a_spawn_that_failed(
    bench: Bench, code: int, options: dict[str, Any], detail: str
) -> None:
    ended = bench.start(**options)
    bench.process.prints(2, b"/bin/sh: 1: ")
    bench.process.pipes[2].put(b"cd: can't cd to /x\n")
    bench.process.exits(code)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code, outcome.stderr.data) == (
        Reason.SPAWN,
        None,
        b"/bin/sh: 1: cd: can't cd to /x\n",
    )
    assert re.fullmatch(f"could not be started: {detail}", outcome.detail or "")


def test_a_command_in_a_directory_may_end_as_the_shell_does(bench: Bench) -> None:
    ended = bench.start(cwd="/x")
    for _ in range(10):
        bench.process.prints(2, b"/bin/sh: 1: nothing: not found\n" * 100)
    bench.process.exits(127)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 127)


def test_no_path_of_a_job_is_looked_at_before_its_own_process_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not answer would hold the reactor, or a thread that starts others."""
    monkeypatch.setattr(launch, "find", lambda program: program)
    looked: list[str] = []

    def look(name: str) -> Callable[..., Any]:
        plain = getattr(os, name)

        def called(path: Any, *args: Any, **options: Any) -> Any:
            looked.append(str(path))
            return plain(path, *args, **options)

        return called

    for name in ("stat", "lstat", "access", "open", "listdir"):
        monkeypatch.setattr(os, name, look(name))
    owner = Owner(1000, 100, "/hung/home")
    asked: list[dict[str, Any]] = [{}, {"owner": owner}, {"nice": 1, "nofile": 9}]
    script: dict[str, Any] = {"command": None, "script": "/spool/1.script", "interpreter": ("/hung/python",)}
    for number, options in enumerate(asked, 1):
        for job_id, kind in ((number, {}), (number + 10, script)):
            given = {"cwd": "/hung/cwd", **kind, **options}
            bench.recording = FakeRecording()
            bench.executor.start(run(job_id, **given), bench.recording, bench._note)
            bench.process.exits()
    assert not [path for path in looked if path.startswith("/hung")]
    assert not [line[0] for line in bench.spawn.lines if line[0].startswith("/hung")]


SHORTAGES = [errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM]


@pytest.mark.parametrize(
    "error, is_shortage",
    [
        *((OSError(number, os.strerror(number)), True) for number in SHORTAGES),
        (MemoryError("no memory"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (ValueError("embedded null byte"), False),
    ],
)
def test_a_start_that_the_machine_has_no_room_for_is_told_from_one_that_is_the_job_s_fault(
    bench: Bench, error: Exception, is_shortage: bool
) -> None:
    bench.spawn.error = error
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.is_shortage) == (Reason.SPAWN, is_shortage)


def test_a_stdin_that_cannot_be_opened_for_want_of_descriptors_is_the_machine_s_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(executor, "_open", refuse)
    assert result_of(bench.start(stdin="/spool/1.stdin")).is_shortage


def test_a_process_that_exits_inside_the_spawn_is_not_told_of_as_spawned(bench: Bench) -> None:
    bench.spawn.at_once = lambda process: process.exits(code=7)
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 7)
    assert bench.spawned == []


# How it ends.


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
def test_an_exit_says_how(bench: Bench, code: int, number: int | None, reason: Reason | None) -> None:
    ended = bench.start()
    bench.process.exits(code, number)
    outcome = result_of(ended)
    assert outcome.reason is reason
    assert outcome.signal == number
    if number is None:
        assert outcome.exit_code == code


def test_what_a_process_prints_is_recorded_and_what_is_left_in_its_pipes_at_its_exit_too(
    bench: Bench,
) -> None:
    ended = bench.start()
    bench.process.prints(1, b"first ")
    bench.process.prints(2, b"oh ")
    bench.process.pipes[1].put(b"last")
    bench.process.pipes[2].put(b"no")
    bench.process.exits()
    outcome = result_of(ended)
    assert (outcome.stdout, outcome.stderr) == (Output.inline(b"first last"), Output.inline(b"oh no"))
    assert all(pipe.is_closed for pipe in bench.process.pipes.values())


def test_a_pipe_that_is_closed_already_is_not_read_again(bench: Bench) -> None:
    ended = bench.start()
    bench.process.pipes.pop(1).loseConnection()
    bench.process.exits()
    assert result_of(ended).reason is None


def test_the_end_is_told_when_its_output_is_durable(bench: Bench) -> None:
    bench.recording.closing = Deferred()
    ended = bench.start()
    bench.process.exits()
    assert not ended.called
    bench.recording.closing.callback(None)
    assert result_of(ended).reason is None


def test_the_end_says_what_was_used_where_that_is_known(bench: Bench) -> None:
    used = Usage(1.5, 0.25, 2**20)
    ended = bench.start()
    bench.process.exits(usage=used)
    assert result_of(ended).usage == used
    bench.recording = FakeRecording()
    ended = bench.start()
    bench.process.exits()
    assert result_of(ended).usage is None


def test_the_end_inside_the_spawn_says_what_was_used(bench: Bench) -> None:
    used = Usage(0.0, 0.25, 0)
    bench.spawn.at_once = lambda process: process.exits(usage=used)
    assert result_of(bench.start()).usage == used


# What it leaves behind.


def test_an_exit_is_told_at_once_and_its_leftovers_are_ended_then_killed(bench: Bench) -> None:
    ended = bench.start(kill_after=3.0)
    bench.process.exits(leaves=True)
    assert result_of(ended).reason is None
    assert bench.signals == [TERM]
    bench.pass_time(2.875)
    assert bench.signals == [TERM]
    bench.pass_time(0.25)
    assert bench.signals == [TERM, KILL]
    bench.pass_time(1)


def test_leftovers_that_go_by_themselves_are_not_killed(bench: Bench) -> None:
    bench.groups.deadly = {TERM}
    bench.start()
    bench.process.exits(leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]


def test_an_exit_that_leaves_nothing_signals_nobody(bench: Bench) -> None:
    bench.start()
    bench.process.exits()
    assert bench.signals == []
    assert bench.killed == []


def test_leftovers_that_no_signal_ends_are_given_up(bench: Bench) -> None:
    bench.groups.deadly = set()
    bench.start()
    bench.process.exits(leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM, KILL]


def test_a_job_can_run_again_while_the_leftovers_of_its_last_attempt_are_ended(bench: Bench) -> None:
    result = bench.start()
    bench.process.exits(leaves=True)
    assert result_of(result).reason is None
    first = bench.process
    bench.recording = FakeRecording()
    again = bench.start()
    bench.pass_time(6)
    assert [number for pgid, number in bench.groups.sent if pgid == first.pid] == [TERM, KILL]
    assert bench.signals == []
    bench.process.exits()
    assert result_of(again).reason is None


def test_a_kill_of_everything_spares_neither_the_living_nor_leftovers_their_grace(bench: Bench) -> None:
    bench.start(job_id=1)
    left = bench.process
    left.exits(leaves=True)
    bench.recording = FakeRecording()
    ended = bench.start(job_id=2)
    bench.executor.end(2, Reason.INTERRUPTED, TERM)
    bench.executor.kill()
    assert [number for pgid, number in bench.groups.sent if pgid == left.pid] == [TERM, KILL]
    assert bench.signals == [TERM, KILL]
    bench.process.exits(number=9)
    assert result_of(ended).reason is Reason.INTERRUPTED
    bench.pass_time(1)
    assert bench.signals == [TERM, KILL]


def test_a_kill_of_everything_ends_what_nobody_had_ended(bench: Bench) -> None:
    ended = bench.start()
    bench.executor.kill()
    assert bench.signals == [KILL]
    bench.process.exits(number=9)
    assert result_of(ended).reason is Reason.SIGNAL
    bench.executor.kill()
    assert bench.signals == [KILL]


# Ended by us.


def test_it_is_calm_while_what_runs_is_young_and_until_leftovers_are_gone(bench: Bench) -> None:
    assert bench.executor.is_calm()
    bench.start()
    old = bench.process
    bench.clock.advance(YOUNG / 2)
    bench.executor.start(run(2), FakeRecording(), bench._note)
    assert bench.executor.is_calm()
    bench.clock.advance(YOUNG)
    assert not bench.executor.is_calm()
    bench.process.exits()
    assert not bench.executor.is_calm()
    bench.clock.rightNow -= 3600
    assert not bench.executor.is_calm()
    bench.clock.rightNow += 3600
    old.exits(leaves=True)
    assert not bench.executor.is_calm()
    bench.pass_time(LONG)
    assert bench.executor.is_calm()


def test_a_timeout_ends_the_whole_group_and_kills_it_after_the_grace(bench: Bench) -> None:
    ended = bench.start(timeout=10.0, kill_after=2.0)
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.25)
    assert bench.signals == [TERM]
    bench.pass_time(1.75)
    assert bench.signals == [TERM]
    bench.pass_time(0.25)
    assert bench.signals == [TERM, KILL]
    bench.process.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.signal) == (Reason.TIMEOUT, 9)
    assert outcome.detail == "it ran for longer than 10 s"


def test_a_process_that_ends_in_time_is_not_timed_out(bench: Bench) -> None:
    ended = bench.start(timeout=10.0)
    bench.pass_time(9)
    bench.process.exits()
    bench.pass_time(LONG)
    assert result_of(ended).reason is None
    assert bench.signals == []


def test_a_process_that_ends_in_time_leaves_no_timer(bench: Bench) -> None:
    bench.start(timeout=3600.0)
    bench.process.exits()
    assert bench.clock.getDelayedCalls() == []


def test_a_process_that_obeys_a_timeout_is_not_killed(bench: Bench) -> None:
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.process.exits(code=0)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.TIMEOUT, 0)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.INTERRUPTED])
def test_an_attempt_is_ended_by_the_signal_asked_for_and_killed_after_the_grace(
    bench: Bench, reason: Reason
) -> None:
    ended = bench.start()
    bench.executor.end(1, reason, INT)
    bench.pass_time(5.125)
    assert bench.signals == [INT, KILL]
    bench.process.exits(number=9)
    assert result_of(ended).reason is reason


def test_a_kill_needs_no_second_one(bench: Bench) -> None:
    bench.start()
    bench.executor.end(1, Reason.CANCELLED, KILL)
    bench.process.exits(number=9)
    bench.pass_time(LONG)
    assert bench.signals == [KILL]


def test_a_grace_of_nothing_kills_at_the_next_turn(bench: Bench) -> None:
    bench.start(kill_after=0.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.clock.advance(0)
    assert bench.signals == [TERM, KILL]
    bench.process.exits(number=9)


def test_the_first_reason_to_end_an_attempt_stands(bench: Bench) -> None:
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.executor.end(1, Reason.INTERRUPTED, INT)
    bench.recording.fail("the disk is full")
    assert bench.signals == [TERM]
    bench.process.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_a_cancel_before_the_timeout_stands(bench: Bench) -> None:
    ended = bench.start(timeout=1.0, kill_after=30.0)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.pass_time(2)
    assert bench.signals == [INT]
    bench.process.exits(number=2)
    assert result_of(ended).reason is Reason.CANCELLED


def test_the_end_of_an_attempt_that_we_ended_is_told_only_when_its_group_is_gone(bench: Bench) -> None:
    ended = bench.start(timeout=1.0, kill_after=2.0)
    bench.pass_time(1.125)
    bench.process.exits(number=15, leaves=True)
    bench.pass_time(1.75)
    assert not ended.called
    bench.pass_time(0.625)
    assert bench.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_the_end_is_told_soon_after_the_kill_however_long_the_grace_was(bench: Bench) -> None:
    ended = bench.start(kill_after=60.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.process.exits(number=15, leaves=True)
    bench.pass_time(59.875)
    looks = bench.groups.looks
    assert looks < 130
    assert not ended.called
    bench.pass_time(0.125)
    assert bench.signals == [TERM, KILL]
    bench.clock.advance(FIRST_LOOK)
    assert result_of(ended).reason is Reason.CANCELLED


def test_a_group_that_has_gone_is_not_signalled_again_whoever_has_its_number_now(bench: Bench) -> None:
    bench.groups.deadly = {TERM}
    bench.start()
    bench.process.exits(leaves=True)
    bench.pass_time(1)
    bench.groups.alive.add(bench.process.pid)
    bench.executor.kill()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]


def test_a_group_that_no_signal_ends_does_not_hold_up_the_end_for_ever(bench: Bench) -> None:
    bench.groups.deadly = set()
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.process.exits(number=15, leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_ending_an_attempt_that_has_ended_or_never_was_does_nothing(bench: Bench) -> None:
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.start()
    bench.process.exits()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    assert bench.groups.sent == []


def test_ending_an_attempt_whose_end_is_being_made_durable_does_nothing(bench: Bench) -> None:
    bench.recording.closing = Deferred()
    ended = bench.start()
    bench.process.exits()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.recording.closing.callback(None)
    assert result_of(ended).reason is None
    assert bench.signals == []


def test_a_process_that_has_no_group_yet_is_signalled_by_its_pid(bench: Bench) -> None:
    bench.spawn.has_group = False
    bench.start()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    assert bench.killed == [(bench.process.pid, TERM)]
    bench.process.exits(number=15)


def test_a_process_of_another_user_that_cannot_be_signalled_is_waited_for(bench: Bench) -> None:
    bench.groups.refuses = True
    ended = bench.start()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(10)
    assert not ended.called
    bench.process.exits()
    assert result_of(ended).reason is Reason.CANCELLED


# Ended for its silence.


def test_silence_ends_the_whole_group_and_kills_it_after_the_grace(bench: Bench) -> None:
    ended = bench.start(idle_timeout=10.0, kill_after=2.0)
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.pass_time(2)
    assert bench.signals == [TERM, KILL]
    bench.process.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 10 s")


@pytest.mark.parametrize("stream", [1, 2])
def test_what_prints_on_either_stream_is_not_silent(bench: Bench, stream: int) -> None:
    ended = bench.start(idle_timeout=10.0)
    for _ in range(5):
        bench.pass_time(9.875)
        bench.process.prints(stream, b".")
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.process.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_output_resets_no_timer(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    timers = bench.clock.getDelayedCalls()
    times = [timer.getTime() for timer in timers]
    bench.pass_time(5)
    bench.process.prints(1, b".")
    assert bench.clock.getDelayedCalls() == timers
    assert [timer.getTime() for timer in timers] == times
    bench.process.exits()


def test_while_its_output_is_not_read_it_is_not_taken_for_silent(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.pass_time(4)
    bench.recording.choke(True)
    bench.pass_time(100)
    bench.recording.choke(False)
    bench.pass_time(5.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.process.exits(number=15)


def test_what_exits_while_its_output_is_not_read_leaves_no_timer(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.recording.choke(True)
    bench.process.exits()
    assert bench.clock.getDelayedCalls() == []


def test_output_that_lies_in_a_pipe_unread_is_no_silence(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.process.pipes[2].put(b"not read yet")
    bench.pass_time(10)
    assert bench.signals == []
    bench.process.prints(2, os.read(bench.process.pipes[2].fileno(), 100))
    bench.pass_time(10)
    assert bench.signals == [TERM]
    bench.process.exits(number=15)


def test_what_has_closed_both_its_streams_is_silent(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    for stream in (1, 2):
        bench.process.pipes.pop(stream).loseConnection()
    bench.pass_time(10)
    assert bench.signals == [TERM]
    bench.process.exits(number=15)


def test_the_timeout_that_comes_first_is_the_one_that_is_told(bench: Bench) -> None:
    ended = bench.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    bench.pass_time(50)
    bench.process.prints(1, b".")
    bench.pass_time(65)
    bench.process.exits(number=15)
    assert result_of(ended).detail == "it ran for longer than 1 min 30 s"
    bench.recording = FakeRecording()
    ended = bench.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    bench.pass_time(95)
    bench.process.exits(number=15)
    assert result_of(ended).detail == "it printed nothing for 1 min"


def test_a_cancel_before_the_silence_has_lasted_stands(bench: Bench) -> None:
    ended = bench.start(idle_timeout=1.0, kill_after=30.0)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.pass_time(2)
    assert bench.signals == [INT]
    bench.process.exits(number=2)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.CANCELLED, None)


async def test_a_real_process_that_prints_is_let_be_until_it_is_silent(real: Executor) -> None:
    recording = FakeRecording()
    command = "for n in 1 2 3 4; do echo $n; sleep 0.2; done; sleep 60"
    options: dict[str, Any] = {"command": command, "idle_timeout": 0.5, "env": {"PATH": os.environ["PATH"]}}
    outcome = await real.start(run(**options), recording, lambda pid, started: None)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 0.5 s")
    assert outcome.stdout == Output.inline(b"1\n2\n3\n4\n")
    assert (outcome.usage is not None) == IS_FAST_WAY_KNOWN


# Output.


def test_a_recording_that_is_behind_stops_the_reading_and_starts_it_again(bench: Bench) -> None:
    bench.start()
    bench.recording.choke(True)
    assert not bench.process.is_reading
    bench.recording.choke(False)
    assert bench.process.is_reading
    bench.process.exits()
    bench.recording.choke(True)
    assert bench.process.is_reading


def test_an_attempt_whose_output_cannot_be_kept_is_ended_for_that(bench: Bench) -> None:
    ended = bench.start()
    bench.recording.fail("no space left on device")
    assert bench.signals == [TERM]
    bench.process.exits(number=15)
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert "no space left on device" in (outcome.detail or "")


def test_output_that_cannot_be_kept_once_the_process_has_exited_fails_the_attempt_too(bench: Bench) -> None:
    ended = bench.start()
    write = bench.recording.write

    def fail(stream: int, data: bytes) -> None:
        write(stream, data)
        bench.recording.fail("no space left on device")

    bench.recording.write = fail  # type: ignore[method-assign]
    bench.process.pipes[1].put(b"last words")
    bench.process.exits()
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert bench.signals == []


def test_output_that_cannot_be_made_durable_fails_the_attempt(bench: Bench) -> None:
    bench.recording.error = OSError("input/output error")
    ended = bench.start()
    bench.process.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.OUTPUT, 0)
    assert "input/output error" in (outcome.detail or "")
    assert outcome.stdout == outcome.stderr == Output()


def test_output_that_is_lost_at_the_end_is_told_of_beside_the_timeout(bench: Bench) -> None:
    bench.recording.error = OSError("input/output error")
    ended = bench.start(timeout=1.0)
    bench.pass_time(1)
    bench.process.exits(number=15)
    outcome = result_of(ended)
    said = "it ran for longer than 1 s; its output could not be kept: input/output error"
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, said)


def test_a_bug_in_the_recording_is_not_taken_for_a_full_disk(bench: Bench) -> None:
    bench.recording.error = ZeroDivisionError()  # type: ignore[assignment]
    ended = bench.start()
    bench.process.exits()
    assert isinstance(error_of(ended), ZeroDivisionError)
