"""The executor and its processes: starts, output, timeouts, cancels, ends, leftovers and retries."""

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from taskqd.execution import command_line, executor, job_process, proc_scanner, process_tree
from taskqd.execution.executor import SHORT_LIVED, Executor
from taskqd.execution.interfaces import IExecutor, ISessionSpawner
from taskqd.execution.job_process import MAX_LEFTOVER_GRACE
from taskqd.execution.proc import Process
from taskqd.execution.process_tree import MIN_SCAN_INTERVAL
from taskqd.execution.run import MARK, Outcome, Owner, Run
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason, Usage
from taskqd.speedups.reactor import AcceleratedReactor
from taskqd.storage.interfaces import OutputLost
from tests.fakes.clocks import clock, in_thread
from tests.fakes.deferreds import result_of
from tests.fakes.processes import FakeGroups, FakeProcess, FakeProcessReactor, FakeRusage, make_run
from tests.fakes.spool import FakeOutputWriter
from tests.support.leaks import LeakWatch

TERM, KILL, INT = signal.SIGTERM, signal.SIGKILL, signal.SIGINT
LONG = 20.0
"""Seconds after which everything must be over, SIGKILL and the scans after it included."""


def run(job_id: int = 1, **options: Any) -> Run:
    return make_run(**{"id": job_id, "env": {"A": "1"}, **options})


class Bench:
    """An executor over fake processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, starts_sessions: bool = True) -> None:
        self.clock = clock()
        self.groups = FakeGroups()
        self.reactor = FakeProcessReactor(self.groups, starts_sessions=starts_sessions)
        self.executor = Executor(self.reactor, self.clock, in_thread)
        self.output = FakeOutputWriter()
        self.spawned: list[tuple[int, int | None]] = []
        self.killed: list[tuple[int, int]] = []
        for module in (job_process, proc_scanner, process_tree):
            monkeypatch.setattr(module, "proc", self.groups)
        monkeypatch.setattr(proc_scanner, "thread_time", lambda: 0.0)
        monkeypatch.setattr(os, "kill", lambda *args: self.killed.append(args))

    def start(self, **options: Any) -> "Deferred[Outcome]":
        return self.executor.start(run(**options), self.output, self._on_spawned)

    def _on_spawned(self, pid: int, started: int | None) -> None:
        self.spawned.append((pid, started))

    @property
    def process(self) -> FakeProcess:
        return self.reactor.processes[-1]

    @property
    def signals(self) -> list[int]:
        """The signals that the group of the last process got."""
        return [number for pgid, number in self.groups.sent if pgid == self.process.pid]

    def scan(self) -> None:
        """Run the scans that are due."""
        self.clock.advance(0)

    def exits(self, *args: Any, **options: Any) -> None:
        """End the last process, and run the scans that are due."""
        self.process.exits(*args, **options)
        self.scan()

    def pass_time(self, seconds: float) -> None:
        """Advance the clock in eighths of a second, which floats represent exactly."""
        self.clock.pump([0.125] * round(seconds * 8))


@pytest.fixture(name="bench")
def a_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    yield bench
    bench.scan()
    bench.reactor.close()
    assert not bench.executor._running
    assert not bench.executor._present
    assert bench.clock.getDelayedCalls() == [], "an ended attempt leaves no call behind"


def test_executor_and_fake_process_implement_their_interfaces(bench: Bench) -> None:
    verifyObject(IExecutor, bench.executor)
    bench.start()
    verifyObject(IProcessTransport, bench.process)
    bench.exits()


# With Twisted's own spawnProcess, which starts no session.


@pytest.fixture(name="plain")
def a_plain_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch, starts_sessions=False)
    yield bench
    bench.reactor.close()


def test_plain_reactor_spawns_setsid_and_the_process_is_reported(plain: Bench) -> None:
    ended = plain.start(command="echo hello", timeout=60.0)
    assert plain.reactor.lines == [["setsid", "/bin/sh", "-c", "echo hello"]]
    assert plain.spawned == [(plain.process.pid, 4711)]
    plain.exits(7)
    assert result_of(ended).exit_code == 7


def test_plain_reactor_that_raises_is_a_failed_spawn(plain: Bench) -> None:
    plain.reactor.error = BlockingIOError(errno.EAGAIN, "no more processes")
    outcome = result_of(plain.start())
    assert (outcome.reason, outcome.is_shortage, plain.spawned) == (Reason.SPAWN, True, [])


def test_process_of_plain_reactor_that_exits_during_its_spawn_is_not_reported(plain: Bench) -> None:
    plain.reactor.on_connected = lambda process: process.exits(code=7)
    assert result_of(plain.start()).exit_code == 7
    assert plain.spawned == []


def test_pipes_of_plain_reactor_are_given_to_their_owner(
    plain: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    monkeypatch.setattr(os, "fchown", lambda descriptor, uid, gid: owners.append((descriptor, uid)))
    plain.start(owner=Owner(1000, 100, "/home/ada"))
    assert owners == [(pipe.fileno(), 1000) for pipe in plain.process.pipes.values()]
    plain.exits()


# While a process is being spawned.


def test_timeouts_start_only_when_the_process_exists(bench: Bench) -> None:
    bench.reactor.is_slow = True
    ended = bench.start(timeout=1.0)
    bench.pass_time(LONG)
    assert (bench.spawned, ended.called) == ([], False)
    bench.reactor.go_on()
    assert [pid for pid, _ in bench.spawned] == [bench.process.pid]
    bench.pass_time(0.5)
    assert bench.signals == []
    bench.exits()
    assert result_of(ended).reason is None


def test_signal_before_the_process_exists_is_sent_when_it_does(bench: Bench) -> None:
    bench.reactor.is_slow = True
    ended = bench.start()
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.reactor.go_on()
    assert bench.signals == [INT]
    bench.exits(number=INT)
    assert result_of(ended).reason is Reason.CANCELLED


def test_process_whose_grace_is_over_is_killed_when_it_exists(bench: Bench) -> None:
    bench.reactor.is_slow = True
    ended = bench.start(kill_after=1.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(2.0)
    bench.reactor.go_on()
    assert bench.signals == [KILL]
    bench.exits(number=KILL)
    assert result_of(ended).reason is Reason.CANCELLED


def test_kill_reaches_a_process_that_is_being_spawned(bench: Bench) -> None:
    bench.reactor.is_slow = True
    ended = bench.start()
    bench.executor.kill()
    bench.reactor.go_on()
    assert bench.signals == [KILL]
    bench.exits(number=KILL)
    assert result_of(ended).signal == KILL


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_spawn_that_fails_later_is_reported(bench: Bench, is_cancelled: bool) -> None:
    bench.reactor.is_slow = True
    ended = bench.start()
    if is_cancelled:
        bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.reactor.fail(OSError("no more processes"))
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.SPAWN, "could not be started: no more processes")
    assert (bench.spawned, bench.output.is_closed) == ([], True)


def test_unexpected_error_in_a_spawn_is_logged_and_ends_the_attempt(
    bench: Bench, logged_errors: LeakWatch
) -> None:
    bench.reactor.error = ZeroDivisionError("a bug")
    assert result_of(bench.start()).reason is Reason.SPAWN
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


# The start.


def test_attempt_is_spawned_with_its_arguments_environment_and_empty_stdin(bench: Bench) -> None:
    ended = bench.start(command="echo hello")
    assert bench.reactor.lines == [["/bin/sh", "-c", "echo hello"]]
    assert bench.reactor.environments == [{"A": "1"}]
    assert bench.reactor.inputs == [b""]
    assert bench.reactor.pipe_owners == [None]
    bench.exits()
    assert result_of(ended).reason is None


@pytest.mark.parametrize("known, reported", [(4242, 4242), (None, 4711)])
def test_start_time_that_the_spawner_does_not_know_is_read(
    bench: Bench, known: int | None, reported: int
) -> None:
    bench.reactor.started = known
    bench.start()
    assert bench.spawned == [(bench.process.pid, reported)]
    bench.exits()


def test_attempt_reads_its_stdin_from_a_file(bench: Bench, tmp_path: Path) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"what it reads")
    bench.start(stdin=str(stdin))
    assert bench.reactor.inputs == [b"what it reads"]
    bench.exits()


def test_attempt_of_another_user_is_spawned_as_that_user(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    env = {"A": "1", "LD_PRELOAD": "x"}
    bench.start(owner=Owner(1000, 100, "/home/ada"), env=env, submitted_variables=("LD_PRELOAD",))
    assert bench.reactor.pipe_owners == [1000]
    assert bench.reactor.lines[0][:2] == ["setpriv", "--reuid=1000"]
    assert bench.reactor.environments == [{"A": "1", "TASKQ_ENV_LD_PRELOAD": "x"}]
    bench.exits()


def test_missing_setpriv_is_a_failed_spawn(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = result_of(bench.start(owner=Owner(1000, 100, "/home/ada")))
    assert (outcome.reason, bench.reactor.lines) == (Reason.SPAWN, [])
    assert "there is no setpriv" in (outcome.detail or "")


def test_stdin_with_a_lease_does_not_block(
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
    bench.exits()


@pytest.fixture(name="real", params=["accelerated", pytest.param("plain", marks=pytest.mark.needs("setsid"))])
def a_real_executor(reactor: Any, request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "plain":
        yield Executor(reactor, reactor, in_thread)
        return
    accelerated = AcceleratedReactor(reactor)
    alsoProvides(accelerated, ISessionSpawner)
    yield Executor(accelerated, reactor, in_thread)
    accelerated.stop_spawning()


async def test_stdin_of_a_real_process_is_blocking(real: Executor, tmp_path: Path) -> None:
    output = FakeOutputWriter()
    (tmp_path / "stdin").write_bytes(b"in")
    flags = "grep flags /proc/self/fdinfo/0"
    options: dict[str, Any] = {
        "command": flags,
        "stdin": str(tmp_path / "stdin"),
        "env": {"PATH": os.defpath},
    }
    outcome = await real.start(run(**options), output, lambda pid, started: None)
    [shown] = (outcome.stdout.data or b"").splitlines()
    assert not int(shown.split()[1], 8) & os.O_NONBLOCK


def test_stdin_is_closed_after_successful_and_failed_spawns(bench: Bench, tmp_path: Path) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"")

    def held() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return [link for link in links if os.path.realpath(link) == str(stdin)]

    bench.start(stdin=str(stdin))
    bench.exits()
    assert held() == []
    bench.reactor.error = OSError("no more processes")
    bench.output = FakeOutputWriter()
    bench.start(stdin=str(stdin))
    assert held() == []


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no such file: /bin/sh"), OSError(11, "too many"), ValueError("embedded null byte")],
)
def test_failed_spawn_is_an_outcome(bench: Bench, error: Exception) -> None:
    bench.reactor.error = error
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.exit_code, outcome.signal) == (Reason.SPAWN, None, None)
    assert str(error) in (outcome.detail or "")
    assert bench.spawned == []
    assert bench.output.is_closed
    bench.reactor.error = None
    bench.output = FakeOutputWriter()
    again = bench.start()
    bench.exits()
    assert result_of(again).reason is None


def test_missing_prlimit_is_a_failed_spawn(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = result_of(bench.start(nofile=64))
    assert (outcome.reason, bench.reactor.lines) == (Reason.SPAWN, [])
    assert "there is no prlimit" in (outcome.detail or "")


def test_missing_stdin_is_a_failed_spawn(bench: Bench) -> None:
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
def test_refusal_by_the_shell_is_a_failed_spawn(
    bench: Bench, code: int, options: dict[str, Any], detail: str
) -> None:
    ended = bench.start(**options)
    bench.process.prints(2, b"/bin/sh: 1: ")
    bench.process.pipes[2].put(b"cd: can't cd to /x\n")
    bench.exits(code)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code, outcome.stderr.data) == (
        Reason.SPAWN,
        None,
        b"/bin/sh: 1: cd: can't cd to /x\n",
    )
    assert re.fullmatch(f"could not be started: {detail}", outcome.detail or "")


def test_command_in_a_directory_may_exit_with_127(bench: Bench) -> None:
    ended = bench.start(cwd="/x")
    for _ in range(10):
        bench.process.prints(2, b"/bin/sh: 1: nothing: not found\n" * 100)
    bench.exits(127)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 127)


def test_daemon_accesses_no_path_of_a_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging file system would block the reactor, or a thread that spawns processes."""
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
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
            bench.output = FakeOutputWriter()
            bench.executor.start(run(job_id, **given), bench.output, bench._on_spawned)
            bench.exits()
    assert not [path for path in looked if path.startswith("/hung")]
    assert not [line[0] for line in bench.reactor.lines if line[0].startswith("/hung")]


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
def test_shortage_is_distinguished_from_other_spawn_errors(
    bench: Bench, error: Exception, is_shortage: bool
) -> None:
    bench.reactor.error = error
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.is_shortage) == (Reason.SPAWN, is_shortage)


def test_lack_of_descriptors_for_stdin_is_a_shortage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(executor, "_open", refuse)
    assert result_of(bench.start(stdin="/spool/1.stdin")).is_shortage


def test_process_that_exits_during_its_spawn_is_not_reported_as_running(bench: Bench) -> None:
    bench.reactor.on_connected = lambda process: process.exits(code=7)
    outcome = result_of(bench.start())
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 7)
    assert bench.spawned == []


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
    bench: Bench, code: int, number: int | None, reason: Reason | None
) -> None:
    ended = bench.start()
    bench.exits(code, number)
    outcome = result_of(ended)
    assert outcome.reason is reason
    assert outcome.signal == number
    if number is None:
        assert outcome.exit_code == code


def test_output_includes_what_is_in_the_pipes_at_the_exit(
    bench: Bench,
) -> None:
    ended = bench.start()
    bench.process.prints(1, b"first ")
    bench.process.prints(2, b"oh ")
    bench.process.pipes[1].put(b"last")
    bench.process.pipes[2].put(b"no")
    bench.exits()
    outcome = result_of(ended)
    assert (outcome.stdout, outcome.stderr) == (Output.inline(b"first last"), Output.inline(b"oh no"))
    assert all(pipe.is_closed for pipe in bench.process.pipes.values())


def test_closed_pipe_is_not_drained(bench: Bench) -> None:
    ended = bench.start()
    bench.process.pipes.pop(1).loseConnection()
    bench.exits()
    assert result_of(ended).reason is None


def test_end_is_reported_when_output_is_durable(bench: Bench) -> None:
    bench.output.closing = Deferred()
    ended = bench.start()
    bench.exits()
    assert not ended.called
    bench.output.closing.callback(None)
    assert result_of(ended).reason is None


def test_outcome_has_the_usage_if_it_is_known(bench: Bench) -> None:
    ended = bench.start()
    bench.exits(rusage=FakeRusage(1.5, 0.25, 2**30))
    assert result_of(ended).usage == Usage(1.5, 0.25, 2**40)
    bench.output = FakeOutputWriter()
    ended = bench.start()
    bench.exits()
    assert result_of(ended).usage is None


def test_exit_during_the_spawn_reports_usage(bench: Bench) -> None:
    rusage = FakeRusage(0.0, 0.25, 1)
    bench.reactor.on_connected = lambda process: process.exits(rusage=rusage)
    assert result_of(bench.start()).usage == Usage(0.0, 0.25, 0), "a peak below the daemon's own is unknown"


# Leftovers.


def test_exit_is_reported_at_once_and_leftovers_are_terminated_then_killed(bench: Bench) -> None:
    ended = bench.start(kill_after=3.0)
    bench.exits(leaves=True)
    assert result_of(ended).reason is None
    assert bench.signals == [TERM]
    bench.pass_time(2.875)
    assert bench.signals == [TERM]
    bench.pass_time(0.25)
    assert bench.signals == [TERM, KILL]
    bench.pass_time(1)


def test_leftovers_that_obey_sigterm_are_not_killed(bench: Bench) -> None:
    bench.groups.deadly = {TERM}
    bench.start()
    bench.exits(leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]


def test_exit_without_leftovers_sends_no_signal(bench: Bench) -> None:
    bench.start()
    bench.exits()
    assert bench.signals == []
    assert bench.killed == []


def test_outcome_has_the_pid_if_something_is_left_in_the_session(bench: Bench) -> None:
    results = []
    for options, code, leaves in (
        ({}, 0, True),
        ({}, 126, True),
        ({}, 0, False),
        ({"timeout": 1.0}, 1, False),
    ):
        bench.output = FakeOutputWriter()
        result = bench.start(**options)
        bench.exits(code, leaves=leaves)
        results.append(result_of(result).pid == bench.process.pid)
        bench.pass_time(LONG)
    assert results == [True, True, False, False]


def test_outcome_has_the_pid_of_a_session_that_no_signal_ends(bench: Bench) -> None:
    bench.groups.deadly = set()
    result = bench.start()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.exits(leaves=True)
    bench.pass_time(LONG)
    assert result_of(result).pid == bench.process.pid


def test_cancel_sends_its_signal_while_an_attempt_is_being_ended(bench: Bench) -> None:
    result = bench.start(timeout=1.0, kill_after=1e9)
    bench.pass_time(2)
    bench.executor.end(1, Reason.CANCELLED, INT)
    assert bench.signals == [TERM, INT]
    bench.executor.end(1, Reason.INTERRUPTED, TERM)
    assert bench.signals == [TERM, INT]
    bench.executor.end(1, Reason.CANCELLED, KILL)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    assert bench.signals == [TERM, INT, KILL]
    bench.exits(number=KILL)
    bench.pass_time(LONG)
    assert result_of(result).reason is Reason.TIMEOUT


def test_cancel_reaches_leftovers_while_an_attempt_is_being_ended(bench: Bench) -> None:
    result = bench.start(timeout=1.0, kill_after=1e9)
    bench.pass_time(2)
    bench.exits(number=TERM, leaves=True)
    bench.executor.end(1, Reason.CANCELLED, KILL)
    bench.pass_time(LONG)
    assert bench.signals[-1] == KILL
    assert result_of(result).reason is Reason.TIMEOUT


def test_leftovers_that_no_signal_ends_are_given_up(bench: Bench) -> None:
    bench.groups.deadly = set()
    bench.start()
    bench.exits(leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM, KILL]


def test_job_can_run_again_while_leftovers_are_being_ended(bench: Bench) -> None:
    result = bench.start()
    bench.exits(leaves=True)
    assert result_of(result).reason is None
    first = bench.process
    bench.output = FakeOutputWriter()
    again = bench.start()
    bench.pass_time(6)
    assert [number for pgid, number in bench.groups.sent if pgid == first.pid] == [TERM, KILL]
    assert bench.signals == []
    bench.exits()
    assert result_of(again).reason is None


def test_kill_ends_running_attempts_and_leftovers_within_their_grace(bench: Bench) -> None:
    bench.start(job_id=1)
    left = bench.process
    bench.exits(leaves=True)
    bench.output = FakeOutputWriter()
    ended = bench.start(job_id=2)
    bench.executor.end(2, Reason.INTERRUPTED, TERM)
    killing = bench.executor.kill()
    assert [number for pgid, number in bench.groups.sent if pgid == left.pid] == [TERM, KILL]
    assert bench.signals == [TERM, KILL]
    bench.exits(number=9)
    assert result_of(ended).reason is Reason.INTERRUPTED
    bench.pass_time(1)
    assert bench.signals == [TERM, KILL]
    result_of(killing)


def test_kill_ends_an_attempt_that_was_not_being_ended(bench: Bench) -> None:
    ended = bench.start()
    bench.executor.kill()
    assert bench.signals == [KILL]
    bench.exits(number=9)
    assert result_of(ended).reason is Reason.SIGNAL
    bench.executor.kill()
    assert bench.signals == [KILL]


# Timeouts and cancels.


def test_only_short_lived_processes_is_false_for_old_processes_and_leftovers(bench: Bench) -> None:
    assert bench.executor.only_short_lived_processes()
    bench.start()
    old = bench.process
    bench.clock.advance(SHORT_LIVED / 2)
    bench.executor.start(run(2), FakeOutputWriter(), bench._on_spawned)
    assert bench.executor.only_short_lived_processes()
    bench.clock.advance(SHORT_LIVED)
    assert not bench.executor.only_short_lived_processes()
    bench.exits()
    assert not bench.executor.only_short_lived_processes()
    bench.clock.rightNow -= 3600
    assert not bench.executor.only_short_lived_processes()
    bench.clock.rightNow += 3600
    old.exits(leaves=True)
    assert not bench.executor.only_short_lived_processes()
    bench.pass_time(LONG)
    assert bench.executor.only_short_lived_processes()


def test_timeout_terminates_the_group_and_kills_it_after_the_grace(bench: Bench) -> None:
    ended = bench.start(timeout=10.0, kill_after=2.0)
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.25)
    assert bench.signals == [TERM]
    bench.pass_time(1.75)
    assert bench.signals == [TERM]
    bench.pass_time(0.25)
    assert bench.signals == [TERM, KILL]
    bench.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.signal) == (Reason.TIMEOUT, 9)
    assert outcome.detail == "it ran for longer than 10 s"


def test_process_that_ends_before_its_timeout_is_not_signalled(bench: Bench) -> None:
    ended = bench.start(timeout=10.0)
    bench.pass_time(9)
    bench.exits()
    bench.pass_time(LONG)
    assert result_of(ended).reason is None
    assert bench.signals == []


def test_process_that_ends_before_its_timeout_leaves_no_timer(bench: Bench) -> None:
    bench.start(timeout=3600.0)
    bench.exits()
    assert bench.clock.getDelayedCalls() == []


def test_process_that_obeys_sigterm_is_not_killed(bench: Bench) -> None:
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.exits(code=0)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.TIMEOUT, 0)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.INTERRUPTED])
def test_attempt_gets_the_requested_signal_and_is_killed_after_the_grace(
    bench: Bench, reason: Reason
) -> None:
    ended = bench.start()
    bench.executor.end(1, reason, INT)
    bench.pass_time(5.125)
    assert bench.signals == [INT, KILL]
    bench.exits(number=9)
    assert result_of(ended).reason is reason


def test_sigkill_is_sent_once(bench: Bench) -> None:
    bench.start()
    bench.executor.end(1, Reason.CANCELLED, KILL)
    bench.exits(number=9)
    bench.pass_time(LONG)
    assert bench.signals == [KILL]


def test_grace_of_zero_kills_in_the_next_reactor_turn(bench: Bench) -> None:
    bench.start(kill_after=0.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.clock.advance(0)
    assert bench.signals == [TERM, KILL]
    bench.exits(number=9)


def test_first_reason_to_end_an_attempt_is_reported(bench: Bench) -> None:
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.executor.end(1, Reason.INTERRUPTED, INT)
    bench.output.on_failure("the disk is full")
    assert bench.signals == [TERM, INT], "the second is the cancel's"
    bench.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_cancel_before_the_timeout_is_reported(bench: Bench) -> None:
    ended = bench.start(timeout=1.0, kill_after=30.0)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.pass_time(2)
    assert bench.signals == [INT]
    bench.exits(number=2)
    assert result_of(ended).reason is Reason.CANCELLED


def test_end_by_the_daemon_is_reported_when_the_group_is_gone(bench: Bench) -> None:
    ended = bench.start(timeout=1.0, kill_after=2.0)
    bench.pass_time(1.125)
    bench.exits(number=15, leaves=True)
    bench.pass_time(1.75)
    assert not ended.called
    bench.pass_time(0.625)
    assert bench.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_end_is_reported_soon_after_the_kill_despite_a_long_grace(bench: Bench) -> None:
    ended = bench.start(kill_after=60.0)
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.exits(number=15, leaves=True)
    bench.pass_time(59.875)
    assert len(bench.groups.scans) < 70
    assert not ended.called
    bench.pass_time(0.125)
    assert bench.signals == [TERM, KILL]
    bench.clock.advance(MIN_SCAN_INTERVAL)
    assert result_of(ended).reason is Reason.CANCELLED


def test_group_that_is_gone_is_not_signalled_if_its_number_is_reused(bench: Bench) -> None:
    bench.groups.deadly = {TERM}
    bench.start()
    bench.exits(leaves=True)
    bench.pass_time(1)
    bench.groups.alive.add(bench.process.pid)
    bench.executor.kill()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(LONG)
    assert bench.signals == [TERM]


def test_group_that_no_signal_ends_delays_the_end_only_for_a_time(bench: Bench) -> None:
    bench.groups.deadly = set()
    ended = bench.start(timeout=1.0)
    bench.pass_time(1.125)
    bench.exits(number=15, leaves=True)
    bench.pass_time(LONG)
    assert bench.signals == [TERM, KILL]
    assert result_of(ended).reason is Reason.TIMEOUT


def test_end_does_nothing_for_ended_and_unknown_attempts(bench: Bench) -> None:
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.start()
    bench.exits()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    assert bench.groups.sent == []


def test_end_does_nothing_while_output_is_made_durable(bench: Bench) -> None:
    bench.output.closing = Deferred()
    ended = bench.start()
    bench.exits()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.output.closing.callback(None)
    assert result_of(ended).reason is None
    assert bench.signals == []


def test_process_without_a_group_is_signalled_by_its_pid(bench: Bench) -> None:
    bench.reactor.has_group = False
    bench.start()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    assert bench.killed == [(bench.process.pid, TERM)]
    bench.exits(number=15)


def test_process_that_may_not_be_signalled_is_waited_for(bench: Bench) -> None:
    bench.groups.refuses = True
    ended = bench.start()
    bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.pass_time(10)
    assert not ended.called
    bench.exits()
    assert result_of(ended).reason is Reason.CANCELLED


# The idle timeout.


def test_idle_timeout_terminates_the_group_and_kills_it_after_the_grace(bench: Bench) -> None:
    ended = bench.start(idle_timeout=10.0, kill_after=2.0)
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.pass_time(2)
    assert bench.signals == [TERM, KILL]
    bench.exits(number=9)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 10 s")


@pytest.mark.parametrize("stream", [1, 2])
def test_output_on_either_stream_resets_the_idle_timeout(bench: Bench, stream: int) -> None:
    ended = bench.start(idle_timeout=10.0)
    for _ in range(5):
        bench.pass_time(9.875)
        bench.process.prints(stream, b".")
    bench.pass_time(9.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.exits(number=15)
    assert result_of(ended).reason is Reason.TIMEOUT


def test_output_does_not_touch_the_delayed_call(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    timers = bench.clock.getDelayedCalls()
    times = [timer.getTime() for timer in timers]
    bench.pass_time(5)
    bench.process.prints(1, b".")
    assert bench.clock.getDelayedCalls() == timers
    assert [timer.getTime() for timer in timers] == times
    bench.exits()


def test_idle_timeout_is_paused_while_output_is_not_read(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.pass_time(4)
    bench.output.on_backpressure(True)
    bench.pass_time(100)
    bench.output.on_backpressure(False)
    bench.pass_time(5.875)
    assert bench.signals == []
    bench.pass_time(0.125)
    assert bench.signals == [TERM]
    bench.exits(number=15)


def test_exit_while_reading_is_paused_leaves_no_timer(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.output.on_backpressure(True)
    bench.exits()
    assert bench.clock.getDelayedCalls() == []


def test_unread_output_in_a_pipe_restarts_the_idle_timeout(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    bench.process.pipes[2].put(b"not read yet")
    bench.pass_time(10)
    assert bench.signals == []
    bench.process.prints(2, os.read(bench.process.pipes[2].fileno(), 100))
    bench.pass_time(10)
    assert bench.signals == [TERM]
    bench.exits(number=15)


def test_process_that_has_closed_its_streams_is_idle(bench: Bench) -> None:
    bench.start(idle_timeout=10.0)
    for stream in (1, 2):
        bench.process.pipes.pop(stream).loseConnection()
    bench.pass_time(10)
    assert bench.signals == [TERM]
    bench.exits(number=15)


def test_first_timeout_is_the_one_that_is_reported(bench: Bench) -> None:
    ended = bench.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    bench.pass_time(50)
    bench.process.prints(1, b".")
    bench.pass_time(65)
    bench.exits(number=15)
    assert result_of(ended).detail == "it ran for longer than 1 min 30 s"
    bench.output = FakeOutputWriter()
    ended = bench.start(timeout=90.0, idle_timeout=60.0, kill_after=60.0)
    bench.pass_time(95)
    bench.exits(number=15)
    assert result_of(ended).detail == "it printed nothing for 1 min"


def test_cancel_before_the_idle_timeout_is_reported(bench: Bench) -> None:
    ended = bench.start(idle_timeout=1.0, kill_after=30.0)
    bench.executor.end(1, Reason.CANCELLED, INT)
    bench.pass_time(2)
    assert bench.signals == [INT]
    bench.exits(number=2)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.detail) == (Reason.CANCELLED, None)


async def test_real_process_is_ended_when_it_stops_printing(real: Executor) -> None:
    output = FakeOutputWriter()
    command = "for n in 1 2 3 4; do echo $n; sleep 0.2; done; sleep 60"
    options: dict[str, Any] = {"command": command, "idle_timeout": 0.5, "env": {"PATH": os.environ["PATH"]}}
    outcome = await real.start(run(**options), output, lambda pid, started: None)
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, "it printed nothing for 0.5 s")
    assert outcome.stdout == Output.inline(b"1\n2\n3\n4\n")


# Output.


def test_backpressure_pauses_and_resumes_reading(bench: Bench) -> None:
    bench.start()
    bench.output.on_backpressure(True)
    assert not bench.process.is_reading
    bench.output.on_backpressure(False)
    assert bench.process.is_reading
    bench.exits()
    bench.output.on_backpressure(True)
    assert bench.process.is_reading


def test_attempt_is_ended_if_its_output_cannot_be_kept(bench: Bench) -> None:
    ended = bench.start()
    bench.output.on_failure("no space left on device")
    assert bench.signals == [TERM]
    bench.exits(number=15)
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert "no space left on device" in (outcome.detail or "")


def test_output_failure_after_the_exit_fails_the_attempt(bench: Bench) -> None:
    ended = bench.start()
    write = bench.output.write

    def fail(stream: int, data: bytes) -> None:
        write(stream, data)
        bench.output.on_failure("no space left on device")

    bench.output.write = fail  # type: ignore[method-assign]
    bench.process.pipes[1].put(b"last words")
    bench.exits()
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert bench.signals == []


def test_output_that_cannot_be_made_durable_fails_the_attempt(bench: Bench) -> None:
    bench.output.error = OSError("input/output error")
    ended = bench.start()
    bench.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.OUTPUT, 0)
    assert "input/output error" in (outcome.detail or "")
    assert outcome.stdout == outcome.stderr == Output()


def test_lost_output_is_reported_beside_the_timeout(bench: Bench) -> None:
    bench.output.error = OSError("input/output error")
    ended = bench.start(timeout=1.0)
    bench.pass_time(1)
    bench.exits(number=15)
    outcome = result_of(ended)
    said = "it ran for longer than 1 s; its output could not be kept: input/output error"
    assert (outcome.reason, outcome.detail) == (Reason.TIMEOUT, said)


def test_kept_stream_is_reported_if_the_other_is_lost(bench: Bench) -> None:
    kept = (NOTHING, Output.inline(b"oh"))
    bench.output.error = OutputLost("the file of stdout was removed", kept)
    ended = bench.start()
    bench.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.stdout, outcome.stderr) == (Reason.OUTPUT, *kept)
    assert outcome.detail == "its output could not be kept: the file of stdout was removed"


def test_write_that_raises_is_logged_and_ends_the_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    ended = bench.start()
    monkeypatch.setattr(bench.output, "write", lambda *_: _raise(ZeroDivisionError("unexpected")))
    bench.process.prints(1, b"words")
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert bench.signals == [TERM]
    bench.exits(number=TERM)
    outcome = result_of(ended)
    assert outcome.reason is Reason.OUTPUT
    assert outcome.detail == "its output cannot be kept: unexpected"


def test_unexpected_error_in_closing_output_is_logged_and_ends_the_attempt(
    bench: Bench, logged_errors: LeakWatch
) -> None:
    bench.output.error = ZeroDivisionError("a bug")  # type: ignore[assignment]
    ended = bench.start()
    bench.exits()
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
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    logged_errors: LeakWatch,
    place: str,
    why: Exception,
    is_ended_by_us: bool,
) -> None:
    ended = bench.start()
    if place == "unread_bytes":
        monkeypatch.setattr(bench.groups, "unread_bytes", lambda pipe: _raise(why))
    else:
        monkeypatch.setattr(bench.output, place, lambda *_: _raise(why))
    if is_ended_by_us:
        bench.executor.end(1, Reason.CANCELLED, TERM)
    bench.process.pipes[1].put(b"last words")
    bench.exits(code=3)
    outcome = result_of(ended)
    assert outcome.reason is (Reason.CANCELLED if is_ended_by_us else Reason.OUTPUT)
    assert (outcome.exit_code, str(why) in (outcome.detail or "")) == (3, True)
    assert all(pipe.is_closed for pipe in bench.process.pipes.values())
    logged_errors.flush(type(why))


def test_failed_spawn_is_reported_though_output_cannot_be_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    monkeypatch.setattr(bench.output, "close", lambda: _raise(RuntimeError("can't start new thread")))
    bench.reactor.error = OSError("no more processes")
    assert result_of(bench.start()).reason is Reason.SPAWN
    assert len(logged_errors.flush(RuntimeError)) == 1


def test_drain_ends_if_another_reader_empties_the_pipe(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.groups, "unread_bytes", lambda pipe: 5)
    ended = bench.start()
    bench.process.pipes[2].put(b"oh")
    bench.exits()
    outcome = result_of(ended)
    assert (outcome.reason, outcome.stdout, outcome.stderr) == (None, Output(), Output.inline(b"oh"))


# Sessions and marks.


def member(number: int, **options: Any) -> Process:
    """Return a process with another group in the session of the first attempt."""
    return Process(number, 60, number, 5000)._replace(**options)


def marked(number: int, mark: str = "store.1.1", **options: Any) -> Process:
    """Return a process that has left its session."""
    return Process(number, 60, number, number, mark)._replace(**options)


ENV = {MARK: "store.1.1"}


def sent_to(bench: Bench, number: int) -> list[int]:
    return [signal for group, signal in bench.groups.sent if group == number]


def test_end_without_leftovers_does_not_scan_proc(bench: Bench) -> None:
    for options, code in (({}, 0), ({"timeout": 1.0, "idle_timeout": 1.0}, 1)):
        bench.output = FakeOutputWriter()
        bench.start(**options)
        bench.exits(code)
    assert bench.groups.scans == []


def test_exit_ends_the_session_and_spares_processes_that_left_it(bench: Bench) -> None:
    bench.start(env=ENV, kill_after=3.0)
    bench.groups.others = [member(7), marked(8)]
    bench.exits()
    bench.pass_time(2.875)
    assert (sent_to(bench, 7), sent_to(bench, 8)) == ([TERM], [])
    bench.pass_time(1)
    assert (sent_to(bench, 7), sent_to(bench, 8)) == ([TERM, KILL], [])


def test_leftovers_are_killed_after_the_maximum_grace(bench: Bench) -> None:
    bench.start(kill_after=1e9)
    bench.exits(leaves=True)
    bench.pass_time(MAX_LEFTOVER_GRACE - 0.125)
    assert bench.signals == [TERM]
    bench.pass_time(0.25)
    assert bench.signals == [TERM, KILL]
    bench.pass_time(1)


def test_kill_leftovers_kills_at_once(bench: Bench) -> None:
    bench.start(kill_after=1e9)
    assert bench.executor.kill_leftovers(1) is None
    bench.exits(leaves=True)
    assert bench.executor.kill_leftovers(2) is None
    assert bench.signals == [TERM]
    killing = bench.executor.kill_leftovers(1)
    assert killing is not None
    assert not killing.called
    bench.pass_time(1)
    assert bench.signals == [TERM, KILL]
    result_of(killing)
    assert bench.executor.kill_leftovers(1) is None


@pytest.mark.parametrize("way", ["cancel", "timeout", "idle", "output"])
def test_end_by_the_daemon_includes_the_session_and_marked_processes(bench: Bench, way: str) -> None:
    options = {"timeout": {"timeout": 1.0}, "idle": {"idle_timeout": 1.0}}.get(way, {})
    ended = bench.start(env=ENV, kill_after=3.0, **options)
    bench.groups.others = [
        *(member(7), marked(8), marked(9, "store.1.2"), marked(10, "store.2.1"), marked(11, "other.1.1"))
    ]
    if way == "cancel":
        bench.executor.end(1, Reason.CANCELLED, TERM)
    elif way == "output":
        bench.output.on_failure("no space left on device")
    bench.pass_time(1.0)
    assert [sent_to(bench, number) for number in (5000, 7, 8, 9, 10, 11)] == [[TERM]] * 3 + [[]] * 3
    bench.exits(number=15)
    assert not ended.called
    bench.pass_time(4)
    assert result_of(ended).signal == TERM
    assert [sent_to(bench, number) for number in (5000, 7, 8, 9, 10, 11)] == [
        *([TERM], [TERM, KILL], [TERM, KILL], [], [], [])
    ]


def test_mark_counts_only_for_the_job_s_user(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    ended = bench.start(env=ENV, owner=Owner(1000, 100, "/home/ada"))
    bench.groups.others = [marked(7, uid=1000), marked(8, uid=1001)]
    bench.executor.end(1, Reason.CANCELLED, KILL)
    bench.exits(number=9)
    assert (sent_to(bench, 7), sent_to(bench, 8)) == ([KILL], [])
    bench.pass_time(0.125)
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
def test_session_number_that_may_be_reused_needs_a_proof(bench: Bench, one: Process, is_ours: bool) -> None:
    bench.start(env=ENV)
    bench.groups.others = [one]
    bench.exits()
    bench.pass_time(LONG)
    assert sent_to(bench, one.group) == ([TERM, KILL] if is_ours else [])


def test_session_is_recognized_by_a_known_member(bench: Bench) -> None:
    bench.start(kill_after=3.0)
    bench.groups.others = [member(7)]
    bench.exits()
    bench.groups.others.append(member(8, started=200))
    bench.pass_time(0.125)
    bench.groups.others.remove(member(7))
    bench.pass_time(0.125)
    bench.groups.others.append(member(9, started=200))
    bench.pass_time(0.5)
    bench.groups.others = [member(10, started=300)]
    bench.pass_time(LONG)
    assert [sent_to(bench, number) for number in (7, 8, 9, 10)] == [[TERM], [TERM], [TERM], []]


def test_one_scan_serves_simultaneous_requests(bench: Bench) -> None:
    for number in range(1, 51):
        bench.output = FakeOutputWriter()
        bench.start(job_id=number)
        bench.process.exits(leaves=True)
    bench.scan()
    assert len(bench.groups.scans) == 1
    bench.pass_time(4)
    assert len(bench.groups.scans) < 20
    bench.pass_time(LONG)


# Retries.


def test_retry_starts_when_no_process_has_an_earlier_mark(bench: Bench) -> None:
    left = [marked(7), marked(8, "store.1.2")]
    bench.groups.others = [*left, marked(9, "store.1.3"), marked(10, "store.2.1")]
    bench.groups.deadly = {TERM}
    bench.start(attempt=3, env={MARK: "store.1.3"})
    assert bench.reactor.lines == []
    bench.scan()
    assert bench.groups.sent == [(7, TERM), (8, TERM)]
    assert bench.reactor.lines == []
    bench.clock.advance(MIN_SCAN_INTERVAL)
    assert len(bench.reactor.lines) == 1
    bench.exits()


def test_retry_starts_when_the_earlier_session_is_gone(bench: Bench) -> None:
    bench.start(kill_after=3.0)
    bench.exits(code=1, leaves=True)
    bench.output = FakeOutputWriter()
    again = bench.start(attempt=2)
    bench.pass_time(2.875)
    assert len(bench.reactor.lines) == 1
    bench.pass_time(1)
    assert len(bench.reactor.lines) == 2
    bench.exits()
    assert result_of(again).reason is None


def test_retry_fails_if_no_signal_ends_an_earlier_process(bench: Bench) -> None:
    bench.groups.deadly = set()
    bench.groups.others = [marked(7)]
    ended = bench.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1e9)
    bench.pass_time(MAX_LEFTOVER_GRACE + LONG)
    outcome = result_of(ended)
    assert (outcome.reason, bench.reactor.lines) == (Reason.SPAWN, [])
    assert outcome.detail == "could not be started: process 7 of an earlier attempt does not end"
    assert sent_to(bench, 7) == [TERM, KILL]


@pytest.mark.parametrize("method", ["scan", "signal_process"])
def test_retry_waits_while_descriptors_for_scans_are_lacking(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    bench.groups.others = [marked(7)]
    ended = bench.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1.0)
    with monkeypatch.context() as context:
        context.setattr(bench.groups, method, refuse)
        bench.pass_time(60)
    assert (ended.called, bench.reactor.lines) == (False, [])
    bench.pass_time(2)
    assert (sent_to(bench, 7), len(bench.reactor.lines)) == ([KILL], 1)
    bench.exits()


def test_retry_that_is_ended_while_it_waits_never_starts(bench: Bench) -> None:
    bench.groups.others = [marked(7)]
    ended = bench.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1.0)
    bench.scan()
    bench.executor.end(1, Reason.INTERRUPTED, TERM)
    outcome = result_of(ended)
    assert (outcome.reason, bench.reactor.lines) == (Reason.INTERRUPTED, [])
    bench.pass_time(LONG)
    assert sent_to(bench, 7) == [TERM, KILL]
    assert bench.reactor.lines == []


def test_kill_reaches_processes_that_a_retry_waits_for(bench: Bench) -> None:
    bench.groups.others = [marked(7)]
    ended = bench.start(attempt=2, env={MARK: "store.1.2"}, kill_after=60.0)
    bench.scan()
    bench.executor.kill()
    assert sent_to(bench, 7) == [TERM, KILL]
    bench.pass_time(0.125)
    bench.exits()
    assert result_of(ended).reason is None
