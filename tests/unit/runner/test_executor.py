"""The executor: starts, retries, and the end of everything."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IProcessTransport
from zope.interface.verify import verifyObject

from taskqd.execution import command_line
from taskqd.execution.run import MARK, Owner
from taskqd.model.job import Reason
from taskqd.runner import executor
from taskqd.runner.executor import READ_DELAY, READ_RETRY_INTERVAL, Executor
from taskqd.runner.process import MAX_LEFTOVER_GRACE
from taskqd.runner.process_tree import MIN_SCAN_INTERVAL
from tests.fakes.deferreds import result_of
from tests.fakes.runner import KILL, LONG, TERM, WORD, Harness, marked, run, sent_to
from tests.fakes.spool import FakeOutputWriter
from tests.support.leaks import LeakWatch


def test_fake_process_implements_its_interface(harness: Harness) -> None:
    harness.start()
    verifyObject(IProcessTransport, harness.process)
    harness.exits()


# Reading.


def test_pipes_are_watched_if_the_process_runs_for_a_while(harness: Harness) -> None:
    harness.start(id=1)
    harness.clock.advance(READ_DELAY / 2)
    harness.output = FakeOutputWriter()
    harness.start(id=2)
    first, second = harness.reactor.processes
    assert not first.is_reading
    harness.clock.advance(READ_DELAY / 2)
    assert (first.is_reading, second.is_reading) == (True, False)
    harness.clock.advance(READ_DELAY / 2)
    assert second.is_reading
    for process in (first, second):
        process.exits()


def test_pipes_of_a_short_process_are_read_at_its_exit_only(harness: Harness) -> None:
    ended = harness.start()
    harness.process.pipes[1].put(b"all of it")
    harness.exits()
    result_of(ended)
    assert not harness.process.is_reading
    assert harness.output.data[1] == b"all of it"


def test_pipes_are_watched_at_once_if_their_output_is_requested(harness: Harness) -> None:
    harness.start()
    harness.read_output()
    assert harness.process.is_reading
    harness.exits()


def test_pipes_that_cannot_be_watched_are_watched_later(harness: Harness) -> None:
    harness.start()
    harness.process.watch_error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    harness.clock.advance(READ_DELAY)
    harness.process.watch_error = None
    harness.clock.advance(READ_RETRY_INTERVAL)
    assert harness.process.is_reading
    harness.exits()


# The spawn.


def test_spawn_that_raises_is_a_failed_spawn(harness: Harness) -> None:
    harness.reactor.error = BlockingIOError(errno.EAGAIN, "no more processes")
    outcome = result_of(harness.start())
    assert (outcome.reason, outcome.is_shortage, harness.spawned) == (Reason.SPAWN, True, [])
    assert harness.output.is_closed


def test_process_that_exits_during_its_spawn_is_not_reported(harness: Harness) -> None:
    harness.reactor.on_connected = lambda process: process.exits(code=7)
    assert result_of(harness.start()).exit_code == 7
    assert harness.spawned == []


def test_start_time_that_cannot_be_read_is_logged_and_the_attempt_goes_on(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(harness.groups, "start_time", refuse)
    ended = harness.start()
    harness.exits(7)
    assert (result_of(ended).exit_code, harness.spawned) == (7, [])
    assert len(logged_errors.flush(OSError)) == 1


def test_pipes_that_cannot_be_given_away_do_not_end_the_attempt(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    monkeypatch.setattr(os, "fchown", refuse)
    ended = harness.start(owner=Owner(1000, 100, "/home/ada"))
    harness.exits()
    assert result_of(ended).reason is None


def test_pipes_are_given_to_their_owner(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    monkeypatch.setattr(os, "fchown", lambda descriptor, uid, gid: owners.append((descriptor, uid)))
    harness.start(owner=Owner(1000, 100, "/home/ada"))
    assert owners == [(pipe.fileno(), 1000) for pipe in harness.process.pipes.values()]
    harness.exits()


def test_unexpected_error_in_a_spawn_is_logged_and_ends_the_attempt(
    harness: Harness, logged_errors: LeakWatch
) -> None:
    harness.reactor.error = ZeroDivisionError("a bug")
    assert result_of(harness.start()).reason is Reason.SPAWN
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


# The start.


def test_attempt_is_spawned_with_its_arguments_environment_and_empty_stdin(harness: Harness) -> None:
    ended = harness.start(command="echo hello")
    assert harness.reactor.lines == [["/bin/sh", "-c", "echo hello"]]
    assert harness.reactor.environments == [{"A": "1"}]
    assert harness.reactor.inputs == [b""]
    harness.exits()
    assert result_of(ended).reason is None


@pytest.mark.parametrize("known, reported", [(4242, 4242), (None, 4711)])
def test_start_time_that_the_spawner_does_not_know_is_read(
    harness: Harness, known: int | None, reported: int
) -> None:
    harness.reactor.started = known
    harness.start()
    assert harness.spawned == [(harness.process.pid, reported)]
    harness.exits()


def test_attempt_reads_its_stdin_from_a_file(harness: Harness, tmp_path: Path) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"what it reads")
    harness.start(stdin=str(stdin))
    assert harness.reactor.inputs == [b"what it reads"]
    harness.exits()


def test_attempt_has_a_given_descriptor_as_stdin_in_place_of_its_file(harness: Harness) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"what is sent")
    start = run(stdin="/nonexistent")
    harness.executor.start(start, harness.output, lambda *_: None, read_end)
    assert harness.reactor.inputs == [b"what is sent"]
    harness.exits()
    os.close(read_end)  # it is left open
    os.close(write_end)


def test_attempt_of_another_user_is_spawned_as_that_user(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    env = {"A": "1", "LD_PRELOAD": "x"}
    harness.start(owner=Owner(1000, 100, "/home/ada"), env=env, submitted_variables=("LD_PRELOAD",))
    assert harness.reactor.lines[0][:2] == ["setpriv", "--reuid=1000"]
    assert harness.reactor.environments == [{"A": "1", "TASKQ_ENV_LD_PRELOAD": "x"}]
    harness.exits()


def test_stdin_with_a_lease_does_not_block(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = []
    system = os.open

    def note(path: str, flag: int, *args: Any, **options: Any) -> int:
        flags.append(flag)
        return system(path, flag, *args, **options)

    (tmp_path / "stdin").touch()
    monkeypatch.setattr(os, "open", note)
    harness.start(stdin=str(tmp_path / "stdin"))
    assert [bool(flag & os.O_NONBLOCK) for flag in flags] == [True]
    harness.exits()


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


def test_stdin_is_closed_after_successful_and_failed_spawns(harness: Harness, tmp_path: Path) -> None:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"")

    def held() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return [link for link in links if os.path.realpath(link) == str(stdin)]

    harness.start(stdin=str(stdin))
    harness.exits()
    assert held() == []
    harness.reactor.error = OSError("no more processes")
    harness.output = FakeOutputWriter()
    harness.start(stdin=str(stdin))
    assert held() == []


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no such file: /bin/sh"), OSError(11, "too many"), ValueError("embedded null byte")],
)
def test_failed_spawn_is_an_outcome(harness: Harness, error: Exception) -> None:
    harness.reactor.error = error
    outcome = result_of(harness.start())
    assert (outcome.reason, outcome.exit_code, outcome.signal) == (Reason.SPAWN, None, None)
    assert str(error) in (outcome.detail or "")
    assert harness.spawned == []
    assert harness.output.is_closed
    harness.reactor.error = None
    harness.output = FakeOutputWriter()
    again = harness.start()
    harness.exits()
    assert result_of(again).reason is None


def test_missing_stdin_is_a_failed_spawn(harness: Harness) -> None:
    outcome = result_of(harness.start(stdin="/nonexistent/stdin"))
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
    harness: Harness, code: int, options: dict[str, Any], detail: str
) -> None:
    ended = harness.start(**options)
    harness.process.prints(2, b"/bin/sh: 1: ")
    harness.process.pipes[2].put(b"cd: can't cd to /x\n")
    harness.exits(code)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code, outcome.stderr.data) == (
        Reason.SPAWN,
        None,
        b"/bin/sh: 1: cd: can't cd to /x\n",
    )
    assert re.fullmatch(f"could not be started: {detail}", outcome.detail or "")


def test_command_in_a_directory_may_exit_with_127(harness: Harness) -> None:
    ended = harness.start(cwd="/x")
    for _ in range(10):
        harness.process.prints(2, b"/bin/sh: 1: nothing: not found\n" * 100)
    harness.exits(127)
    outcome = result_of(ended)
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 127)


def test_daemon_accesses_no_path_of_a_job(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
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
            harness.output = FakeOutputWriter()
            harness.executor.start(run(job_id, **given), harness.output, harness._on_spawned)
            harness.exits()
    assert not [path for path in looked if path.startswith("/hung")]
    assert not [line[0] for line in harness.reactor.lines if line[0].startswith("/hung")]


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
    harness: Harness, error: Exception, is_shortage: bool
) -> None:
    harness.reactor.error = error
    outcome = result_of(harness.start())
    assert (outcome.reason, outcome.is_shortage) == (Reason.SPAWN, is_shortage)


def test_lack_of_descriptors_for_stdin_is_a_shortage(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(executor, "_open", refuse)
    assert result_of(harness.start(stdin="/spool/1.stdin")).is_shortage


def test_process_that_exits_during_its_spawn_is_not_reported_as_running(harness: Harness) -> None:
    harness.reactor.on_connected = lambda process: process.exits(code=7)
    outcome = result_of(harness.start())
    assert (outcome.reason, outcome.exit_code) == (Reason.EXIT, 7)
    assert harness.spawned == []


# Kills.


def test_kill_ends_running_attempts_and_leftovers_within_their_grace(harness: Harness) -> None:
    harness.start(job_id=1)
    left = harness.process
    harness.exits(leaves=True)
    harness.output = FakeOutputWriter()
    ended = harness.start(job_id=2)
    harness.end(2, Reason.INTERRUPTED, TERM)
    killing = harness.executor.kill()
    assert [number for pgid, number in harness.groups.sent if pgid == left.pid] == [TERM, KILL]
    assert harness.signals == [TERM, KILL]
    harness.exits(number=9)
    assert result_of(ended).reason is Reason.INTERRUPTED
    harness.pass_time(1)
    assert harness.signals == [TERM, KILL]
    result_of(killing)


def test_kill_ends_an_attempt_that_was_not_being_ended(harness: Harness) -> None:
    ended = harness.start()
    harness.executor.kill()
    assert harness.signals == [KILL]
    harness.exits(number=9)
    assert result_of(ended).reason is Reason.SIGNAL
    harness.executor.kill()
    assert harness.signals == [KILL]


def test_kill_leftovers_kills_at_once(harness: Harness) -> None:
    harness.start(kill_after=1e9)
    harness.executor.kill_leftovers(1)
    harness.exits(leaves=True)
    harness.executor.kill_leftovers(2)
    assert harness.signals == [TERM]
    assert harness.keys[0] in harness.executor.leftovers
    harness.executor.kill_leftovers(1)
    assert harness.cleared == []
    harness.pass_time(1)
    assert harness.signals == [TERM, KILL]
    assert harness.cleared == harness.keys
    assert harness.keys[0] not in harness.executor.leftovers


# Several attempts.


def test_job_can_run_again_while_leftovers_are_being_ended(harness: Harness) -> None:
    result = harness.start()
    harness.exits(leaves=True)
    assert result_of(result).reason is None
    first = harness.process
    harness.output = FakeOutputWriter()
    again = harness.start()
    harness.pass_time(6)
    assert [number for pgid, number in harness.groups.sent if pgid == first.pid] == [TERM, KILL]
    assert harness.signals == []
    harness.exits()
    assert result_of(again).reason is None


# Retries.


def test_retry_starts_when_no_process_has_an_earlier_mark(harness: Harness) -> None:
    left = [marked(7), marked(8, f"store.1.2.{WORD}")]
    harness.groups.others = [*left, marked(9, f"store.1.3.{WORD}"), marked(10, "store.2.1")]
    harness.groups.deadly = {TERM}
    harness.start(attempt=3, env={MARK: f"store.1.3.{WORD}"})
    assert harness.reactor.lines == []
    harness.scan()
    assert harness.groups.sent == [(7, TERM), (8, TERM)]
    assert harness.reactor.lines == []
    harness.clock.advance(MIN_SCAN_INTERVAL)
    assert len(harness.reactor.lines) == 1
    harness.exits()


@pytest.mark.parametrize("number", [2, 3, 4])
def test_retry_ends_processes_of_an_attempt_that_a_restored_journal_lacks(
    harness: Harness, number: int
) -> None:
    harness.groups.others = [marked(7, f"store.1.{number}.00c0ffee00c0ffee")]
    harness.groups.deadly = {TERM}
    harness.start(attempt=3, env={MARK: f"store.1.3.{WORD}"})
    harness.pass_time(LONG)
    assert (sent_to(harness, 7), len(harness.reactor.lines)) == ([TERM], 1)
    harness.exits()


def test_retry_starts_when_the_earlier_session_is_gone(harness: Harness) -> None:
    harness.start(kill_after=3.0)
    harness.exits(code=1, leaves=True)
    harness.output = FakeOutputWriter()
    again = harness.start(attempt=2)
    harness.pass_time(2.875)
    assert len(harness.reactor.lines) == 1
    harness.pass_time(1)
    assert len(harness.reactor.lines) == 2
    harness.exits()
    assert result_of(again).reason is None


def test_retry_fails_if_no_signal_ends_an_earlier_process(harness: Harness) -> None:
    harness.groups.deadly = set()
    harness.groups.others = [marked(7)]
    ended = harness.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1e9)
    harness.pass_time(MAX_LEFTOVER_GRACE + LONG)
    outcome = result_of(ended)
    assert (outcome.reason, harness.reactor.lines) == (Reason.SPAWN, [])
    assert outcome.detail == "could not be started: process 7 of an earlier attempt does not end"
    assert sent_to(harness, 7) == [TERM, KILL]


@pytest.mark.parametrize("method", ["scan", "signal_process"])
def test_retry_waits_while_descriptors_for_scans_are_lacking(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    harness.groups.others = [marked(7)]
    ended = harness.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1.0)
    with monkeypatch.context() as context:
        context.setattr(harness.groups, method, refuse)
        harness.pass_time(60)
    assert (ended.called, harness.reactor.lines) == (False, [])
    harness.pass_time(2)
    assert (sent_to(harness, 7), len(harness.reactor.lines)) == ([KILL], 1)
    harness.exits()


def test_retry_that_is_ended_while_it_waits_never_starts(harness: Harness) -> None:
    harness.groups.others = [marked(7)]
    ended = harness.start(attempt=2, env={MARK: "store.1.2"}, kill_after=1.0)
    harness.scan()
    harness.end(1, Reason.INTERRUPTED, TERM)
    outcome = result_of(ended)
    assert (outcome.reason, harness.reactor.lines) == (Reason.INTERRUPTED, [])
    harness.pass_time(LONG)
    assert sent_to(harness, 7) == [TERM, KILL]
    assert harness.reactor.lines == []


def test_kill_reaches_processes_that_a_retry_waits_for_and_it_never_starts(harness: Harness) -> None:
    harness.groups.others = [marked(7)]
    ended = harness.start(attempt=2, env={MARK: "store.1.2"}, kill_after=60.0)
    harness.scan()
    harness.executor.kill()
    assert sent_to(harness, 7) == [TERM, KILL]
    harness.pass_time(0.125)
    assert (result_of(ended).reason, harness.reactor.lines) == (Reason.INTERRUPTED, [])
