"""Processes as /proc shows them, with a few real ones."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskqd import processes
from taskqd.processes import Marked

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
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def no_pid() -> int:
    """Return a number that no process has."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


def test_a_boot_has_a_name_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(processes.boot_id()) == 36
    assert processes.boot_id() == processes.boot_id()
    monkeypatch.setattr("builtins.open", lambda *_, **__: Path("/nonexistent").read_bytes())
    assert processes.boot_id() == ""


def test_a_pid_with_its_start_time_names_a_process(start: Start) -> None:
    first = start()
    second = start()
    assert processes.start_time(first.pid) == processes.start_time(first.pid)
    assert (processes.start_time(first.pid) or 0) <= (processes.start_time(second.pid) or 0)
    assert processes.start_time(no_pid()) is None


def test_a_program_may_be_called_whatever_it_likes(start: Start, tmp_path: Path) -> None:
    program = tmp_path / ") 1 (2 3"
    program.symlink_to("/bin/sleep")
    odd = start(f'echo; exec "{program}" 100')
    plain = start()
    assert abs((processes.start_time(odd.pid) or 0) - (processes.start_time(plain.pid) or 0)) < 6000


def test_processes_are_found_by_the_mark_of_their_store(start: Start) -> None:
    def marked(mark: str) -> int:
        return start(env={"A": "1", "TASKQ_RUN": mark, "B": "2"}).pid

    first, second = marked("store.7.1"), marked("store.1234.20")
    for other in ("store2.7.1", "stor.7.1", "xstore.7.1", "store.7", "store.7.1.1", "store.x.1"):
        marked(other)
    start(env={"XTASKQ_RUN": "store.7.1", "X": "TASKQ_RUN=store.7.1"})
    found = sorted(processes.marked("store"))
    assert found == sorted([Marked(first, first, 7, 1), Marked(second, second, 1234, 20)])
    assert list(processes.marked("s.*e")) == []


def test_a_child_in_the_group_carries_the_mark_and_the_group(start: Start) -> None:
    parent = start("sleep 100 & echo; wait", env={"TASKQ_RUN": "store.7.1"})
    found = list(processes.marked("store"))
    assert len(found) == 2
    assert {one.group for one in found} == {parent.pid}
    assert processes.kill_all([one.pid for one in found], 5) == []


def test_a_signal_goes_to_the_whole_group(start: Start) -> None:
    parent = start("sleep 100 & echo; wait", env={"TASKQ_RUN": "store.7.1"})
    assert processes.group_lives(parent.pid)
    assert processes.signal_group(parent.pid, signal.SIGKILL)
    parent.wait()
    assert not processes.signal_group(no_pid(), signal.SIGKILL)


def test_a_group_of_nobody_or_of_zombies_does_not_live(start: Start) -> None:
    process = start()
    assert processes.group_lives(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_there(process.pid)
    assert not processes.group_lives(process.pid)
    process.wait()
    assert not processes.group_lives(process.pid)
    assert not processes.group_lives(no_pid())


def test_a_group_of_another_user_lives(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()

    def refuse(pgid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    assert processes.group_lives(process.pid)
    assert processes.kill_all([process.pid], 5) == [process.pid]
    assert process.poll() is None


def test_killing_takes_the_group_with_it(start: Start) -> None:
    parent = start("trap '' TERM; sleep 100 & echo; wait", env={"TASKQ_RUN": "store.7.1"})
    [child] = [one.pid for one in processes.marked("store") if one.pid != parent.pid]
    other = start()
    assert processes.kill_all([parent.pid, no_pid()], 5) == []
    assert processes.kill_all([child], 5) == []
    parent.wait()
    assert not processes.group_lives(parent.pid)
    assert other.poll() is None


def test_killing_leaves_the_own_group_alone(start: Start) -> None:
    process = start(start_new_session=False)
    assert processes.kill_all([process.pid], 5) == []
    assert process.poll() is None


def test_what_does_not_end_in_time_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    assert processes.kill_all([process.pid], 0.01) == [process.pid]


def test_what_ends_while_it_is_looked_at_needs_no_killing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    monkeypatch.setattr(os, "getpgid", lambda pid: os.kill(no_pid(), 0))
    assert processes.kill_all([process.pid], 5) == []


def test_no_descriptor_is_left_open(start: Start) -> None:
    process = start()
    before = len(os.listdir("/proc/self/fd"))
    processes.start_time(process.pid)
    list(processes.marked("store"))
    processes.kill_all([process.pid, no_pid()], 5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_ticks_around_a_start_are_those_of_its_start_time(start: Start) -> None:
    for _ in range(20):
        before = processes.ticks()
        process = start()
        after = processes.ticks()
        assert before <= (processes.start_time(process.pid) or 0) <= after
