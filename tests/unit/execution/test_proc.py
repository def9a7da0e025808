"""Processes as /proc shows them, and signals, with real processes."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from taskqd.execution import proc
from taskqd.execution.messages import AttemptKey
from taskqd.execution.proc import Process

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(name="start")
def processes_of_a_test() -> Iterator[Start]:
    """Start processes that print a line once they are ready; kill them all afterwards."""
    started = []

    def start(command: str = "echo; exec sleep 100", **options: Any) -> "subprocess.Popen[bytes]":
        options.setdefault("start_new_session", True)
        process = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, **options)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"\n")
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def no_pid() -> int:
    """Return a number that no process has."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


def test_boot_id_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(proc.boot_id()) == 36
    assert proc.boot_id() == proc.boot_id()
    monkeypatch.setattr("builtins.open", lambda *_, **__: Path("/nonexistent").read_bytes())
    assert proc.boot_id() == ""


def test_start_time_identifies_a_process(start: Start) -> None:
    first = start()
    second = start()
    assert proc.start_time(first.pid) == proc.start_time(first.pid)
    assert (proc.start_time(first.pid) or 0) <= (proc.start_time(second.pid) or 0)
    assert proc.start_time(no_pid()) is None


def test_start_time_is_found_for_any_program_name(start: Start, tmp_path: Path) -> None:
    program = tmp_path / ") 1 (2 3"
    program.symlink_to("/bin/sleep")
    odd = start(f'echo; exec "{program}" 100')
    plain = start()
    assert abs((proc.start_time(odd.pid) or 0) - (proc.start_time(plain.pid) or 0)) < 6000


def found(pid: int) -> Process:
    """Return a process as a scan finds it."""
    [one] = [one for one in proc.scan(since=0) if one.pid == pid]
    return one


def lives(pid: int) -> bool:
    return any(one.pid == pid for one in proc.scan(since=None))


def test_scan_has_start_group_session_mark_and_user(start: Start) -> None:
    parent = start("sleep 100 & echo $!; wait", env={"A": "1", "TASKQ_RUN": "store.7.1", "B": "2"})
    ours = [one for one in proc.scan(since=0) if one.session == parent.pid]
    assert len(ours) == 2
    for one in ours:
        assert one._replace(state="") == Process(
            one.pid, proc.start_time(one.pid) or 0, parent.pid, parent.pid, "store.7.1", os.getuid()
        )
    plain = start(env={"XTASKQ_RUN": "store.7.1", "X": "TASKQ_RUN=store.7.1"})
    assert (found(plain.pid).mark, found(plain.pid).uid) == ("", -1)


def test_scan_reads_marks_only_of_processes_started_since(start: Start) -> None:
    process = start(env={"TASKQ_RUN": "store.7.1"})
    started = proc.start_time(process.pid) or 0
    for since, mark in ((None, ""), (started + 1, ""), (started, "store.7.1"), (0, "store.7.1")):
        [one] = [one for one in proc.scan(since) if one.pid == process.pid]
        assert one.mark == mark


def test_scan_omits_the_own_group_and_zombies(start: Start) -> None:
    process = start()
    assert lives(process.pid)
    assert not lives(os.getpid())
    assert not lives(start(start_new_session=False).pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_there(process.pid)
    assert not lives(process.pid)


def test_process_whose_first_thread_has_ended_is_alive(start: Start) -> None:
    command = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(100,)).start(); "
        "print(flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    process = start(f"exec {sys.executable} -c '{command}'")
    while proc._stat(str(process.pid))[0] != b"Z":
        os.sched_yield()
    assert lives(process.pid)


def test_empty_environment_is_read_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(env={"TASKQ_RUN": "store.7.1"})
    read = proc._environment
    while not read(str(process.pid)):
        """Wait until it has executed its program."""
    looks: list[str] = []

    def first_nothing(pid: str) -> bytes:
        looks.append(pid)
        return read(pid) if looks.count(str(process.pid)) > 1 else b""

    monkeypatch.setattr(proc, "_environment", first_nothing)
    assert found(process.pid).mark == "store.7.1"


@pytest.mark.parametrize("file", ["stat", "environ"])
def test_scan_without_descriptors_fails(start: Start, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    process = start()
    system = open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if path == f"/proc/{process.pid}/{file}":
            raise OSError(errno.EMFILE, "Too many open files")
        return system(path, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        proc.scan(since=0)


def test_process_whose_environment_is_hidden_has_no_mark(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(env={"TASKQ_RUN": "store.7.1"})
    system = open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if path == f"/proc/{process.pid}/environ":
            raise PermissionError(errno.EACCES, "Permission denied")
        return system(path, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    assert found(process.pid).mark == ""


@pytest.mark.parametrize(
    "mark, of",
    [
        ("store.7.1.0123456789abcdef", (7, 1, "0123456789abcdef")),
        ("store.7.1", (7, 1, "")),
        ("store.1234.20", (1234, 20, "")),
        *((mark, None) for mark in ("store2.7.1", "stor.7.1", "store.7", "store.x.1", "store.\xb2.1", "")),
        *((f"store.7.1{end}", None) for end in (".", ".1", ".0123456789abcdeg", ".0123456789abcdef0", "\n")),
        ("store.%s.1" % ("9" * 5000), None),
    ],
)
def test_parse_mark_returns_the_attempt_of_its_store(mark: str, of: tuple[int, int, str] | None) -> None:
    assert proc.parse_mark(mark, "store") == of


def test_made_mark_is_parsed_as_its_attempt() -> None:
    key = AttemptKey(7, 2, "00c0ffee00c0ffee")
    assert proc.parse_mark(proc.make_mark("store", key), "store") == key


def test_id_is_in_use_while_its_session_has_a_member(start: Start) -> None:
    leader = start("bash -c 'set -m; sleep 100 & echo $!'")
    leader.wait()
    [member] = [one for one in proc.scan(since=None) if one.session == leader.pid]
    assert member.group != leader.pid
    assert not is_there(leader.pid)
    assert proc.is_id_in_use(leader.pid)
    proc.signal_process(member, signal.SIGKILL)
    assert not proc.is_id_in_use(no_pid())
    gone = start("echo")
    gone.wait()
    assert not proc.is_id_in_use(gone.pid)


def test_id_counts_as_used_if_it_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(proc, "_probe_descriptor", refuse)
    assert proc.is_id_in_use(no_pid())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_the_whole_group_and_stopped_processes(start: Start, number: int) -> None:
    parent = start("sleep 100 & echo; kill -STOP $$; wait", env={})
    while not proc.is_stopped(parent.pid, proc.start_time(parent.pid)):
        os.sched_yield()
    assert not proc.is_stopped(parent.pid, 0)
    assert proc.signal_group(parent.pid, number)
    assert parent.wait() == -number
    assert not proc.signal_group(no_pid(), number)


def test_signal_reaches_a_stopped_process(start: Start) -> None:
    process = start("trap 'exit 7' TERM; echo; kill -STOP $$; exit 0")
    while not proc.is_stopped(process.pid, proc.start_time(process.pid)):
        os.sched_yield()
    proc.signal_process(found(process.pid), signal.SIGTERM)
    assert process.wait() == 7


def test_signal_to_stop_is_not_undone(start: Start) -> None:
    process = start()
    proc.signal_process(found(process.pid), signal.SIGSTOP)
    proc.signal_group(process.pid, signal.SIGSTOP)
    while not proc.is_stopped(process.pid, proc.start_time(process.pid)):
        os.sched_yield()


def test_signal_does_not_reach_a_process_with_a_reused_pid(start: Start) -> None:
    process = start()
    before = found(process.pid)._replace(started=1)
    proc.signal_process(before, signal.SIGKILL)
    proc.signal_process(before._replace(pid=no_pid()), signal.SIGKILL)
    assert proc.kill_all([before], 5) == []
    assert process.poll() is None


def test_kill_all_kills_only_the_processes_found(start: Start) -> None:
    parent = start("trap '' TERM; sleep 100 & echo; wait", env={"TASKQ_RUN": "store.7.1"})
    other = start()
    ours = [one for one in proc.scan(since=0) if one.session == parent.pid]
    assert len(ours) == 2
    assert proc.kill_all(ours, 5) == []
    parent.wait()
    assert other.poll() is None


def test_kill_all_returns_processes_that_do_not_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = found(start().pid)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    assert proc.kill_all([one], 0.01) == [one]

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    assert proc.kill_all([one], 5) == [one]


def test_process_that_ends_during_a_signal_is_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = found(start().pid)

    def vanish(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", vanish)
    assert proc.kill_all([one], 5) == []
    proc.signal_process(one, signal.SIGTERM)


def test_signals_leak_no_descriptor(start: Start) -> None:
    one = found(start().pid)
    proc.is_id_in_use(one.pid)
    before = len(os.listdir("/proc/self/fd"))
    proc.scan(since=0)
    proc.is_id_in_use(one.pid)
    for started in (one.started, 1):
        proc.signal_process(one._replace(started=started), signal.SIGCONT)
        proc.kill_all([one._replace(started=started)], 5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_clock_ticks_match_the_start_time_of_a_process(start: Start) -> None:
    for _ in range(20):
        before = proc.clock_ticks()
        process = start()
        after = proc.clock_ticks()
        assert before <= (proc.start_time(process.pid) or 0) <= after


def test_set_close_on_exec_opens_closed_standard_descriptors() -> None:
    code = (
        "import os; os.close(0); os.close(2)\n"
        "from taskqd.execution import proc\n"
        "proc.set_close_on_exec()\n"
        "print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)])\n"
        "print([os.get_inheritable(n) for n in (0, 1, 2)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "['/dev/null', '/dev/null']\n[True, True, True]\n"


def test_process_is_alive_until_it_ends_although_nothing_waits_for_it(start: Start) -> None:
    process = start()
    assert proc.is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert proc.start_time(process.pid) is not None
    assert not proc.is_alive(process.pid)
    process.wait()
    assert not proc.is_alive(process.pid)


def test_scan_has_the_states_of_stopped_processes(start: Start) -> None:
    process = start("echo started; exec sleep 100")
    assert not found(process.pid).is_stopped
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert found(process.pid).is_stopped
    assert Process(1, 1, 1, 1, state="D").is_uninterruptible
