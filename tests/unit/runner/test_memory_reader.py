"""The memory of attempts, read from real processes."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from taskqd.execution import proc
from taskqd.execution.messages import AttemptKey
from taskqd.execution.run import MARK
from taskqd.runner import memory_reader, process_memory
from taskqd.runner.memory_reader import FORGET_INTERVAL, MemoryReader, Target

MIB = 1024**2
SIZE = 64 * MIB
KEY = AttemptKey(1, 1, "0123456789abcdef")
ATTEMPT = "store.1.1.0123456789abcdef"

FILL = f"data = bytearray(b'x') * {SIZE}\n"
SHARE = f"import mmap\ndata = mmap.mmap(-1, {SIZE})\nfor at in range(0, {SIZE}, 4096): data[at] = 1\n"
FORK = """
import os, time
ends = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        {child}
        os.write(ends[1], b"x")
        time.sleep(100)
left = 4
while left: left -= len(os.read(ends[0], left))
"""
READY = "print(flush=True)\nimport time\ntime.sleep(100)\n"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(name="start")
def processes_of_a_test() -> Iterator[Start]:
    """Start Python programs in sessions that print a line once they are ready; kill them all afterwards."""
    started = []

    def start(program: str, **environment: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", program],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], **environment},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(name="reader")
def a_reader() -> Iterator[MemoryReader]:
    reader = MemoryReader()
    yield reader
    before = len(os.listdir("/proc/self/fd"))
    reader.clear()
    assert len(os.listdir("/proc/self/fd")) <= before


def target(process: "subprocess.Popen[bytes]", mark: str = "", uid: int | None = None) -> Target:
    return Target(KEY, process.pid, mark, uid)


def read(reader: MemoryReader, attempt: Target) -> tuple[int, int, int]:
    """Return the sum, the number of processes, and the exact size."""
    reader.find(1.0)
    total = reader.sums([attempt])[KEY]
    return total.size, total.processes, reader.exact(attempt)


def test_memory_of_a_process_is_what_it_has_filled(reader: MemoryReader, start: Start) -> None:
    total, processes, exact = read(reader, target(start(FILL + READY)))
    assert processes == 1
    assert SIZE < exact < SIZE + 16 * MIB
    assert exact <= total < exact + 2 * MIB


def test_mapped_file_does_not_count(reader: MemoryReader, start: Start, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    path = str(tmp_path / "file")
    program = f"import mmap\nfile = open({path!r})\ndata = mmap.mmap(file.fileno(), 0, access=1)\n"
    process = start(program + "sum(data[at] for at in range(0, len(data), 4096))\n" + READY)
    assert max(read(reader, target(process))) < SIZE // 2


@pytest.mark.parametrize("make", [FILL, SHARE], ids=["inherited", "shared"])
def test_memory_that_processes_share_counts_once(reader: MemoryReader, start: Start, make: str) -> None:
    total, processes, exact = read(
        reader, target(start(make + FORK.format(child="sum(data[::4096])") + READY))
    )
    assert processes == 5
    assert total > 5 * SIZE
    assert SIZE < exact < 1.5 * SIZE


def test_memory_of_all_processes_of_the_session_is_added(reader: MemoryReader, start: Start) -> None:
    exact = read(reader, target(start(FORK.format(child=FILL) + FILL + READY)))[2]
    assert 5 * SIZE < exact < 6 * SIZE


def test_process_that_has_left_the_session_belongs_to_the_attempt_by_its_mark(
    reader: MemoryReader, start: Start
) -> None:
    leader, other = start(READY), start(FILL + READY, **{MARK: ATTEMPT})
    _, processes, exact = read(reader, target(leader, ATTEMPT))
    assert processes == 2
    assert SIZE < exact < 1.5 * SIZE
    assert read(reader, target(leader, ATTEMPT, os.getuid()))[1] == 2
    assert read(reader, target(leader, ATTEMPT, os.getuid() + 1))[1] == 1
    assert read(reader, target(leader, "store.2.1.0123456789abcdef"))[1] == 1
    other.kill()
    other.wait()
    assert read(reader, target(leader, ATTEMPT))[1] == 1


def test_new_process_is_found_by_the_next_reading(reader: MemoryReader, start: Start) -> None:
    leader = start(READY)
    assert read(reader, target(leader, ATTEMPT))[1] == 1
    start(READY, **{MARK: ATTEMPT})
    assert read(reader, target(leader, ATTEMPT))[1] == 2


def test_process_that_ends_between_two_steps_uses_nothing(reader: MemoryReader, start: Start) -> None:
    process = start(READY)
    attempt = target(process)
    reader.find(1.0)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (reader.sums([attempt])[KEY].size, reader.exact(attempt)) == (0, 0), "a zombie"
    process.wait()
    assert (reader.sums([attempt])[KEY].size, reader.exact(attempt)) == (0, 0)
    assert read(reader, attempt) == (0, 0, 0)


def test_process_that_has_the_pid_of_another_is_not_counted(reader: MemoryReader, start: Start) -> None:
    attempt = target(start(FILL + READY))
    reader.find(1.0)
    known = reader._known[str(attempt.leader)]
    reader._known[str(attempt.leader)] = known._replace(started=known.started - 1)
    assert reader.exact(attempt) == 0
    assert read(reader, attempt)[2] > SIZE


def test_sessions_are_read_again_from_time_to_time(reader: MemoryReader, start: Start) -> None:
    """Another process may have got the pid of one that was known, which only that shows."""
    attempt, other = target(start(READY)), start(READY)
    reader.find(1000.0)
    known = reader._known[str(other.pid)]
    reader._known[str(other.pid)] = known._replace(session=attempt.leader)
    reader._by_session[attempt.leader].add(str(other.pid))
    reader.find(1000.0 + FORGET_INTERVAL / 2)
    assert reader.sums([attempt])[KEY].processes == 2
    reader.find(1000.0 + FORGET_INTERVAL)
    assert reader.sums([attempt])[KEY].processes == 1


def test_child_between_vfork_and_exec_is_not_counted(
    reader: MemoryReader, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the memory of its parent, which waits for it."""
    process = start(FILL + FORK.format(child="") + READY)
    attempt = target(process)
    reader.find(1.0)
    real = process_memory.stat

    def stat(pid: str) -> process_memory.Stat | None:
        found = real(pid)
        return None if found is None else found._replace(extent=(b"1", b"1"), is_waiting=True)

    separate = reader.exact(attempt)
    monkeypatch.setattr(process_memory, "stat", stat)
    assert reader.exact(attempt) < separate / 2


def test_process_whose_pages_are_hidden_counts_with_its_own_sum(
    reader: MemoryReader, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: str) -> int | None:
        raise PermissionError(errno.EACCES, "Permission denied")

    attempt = target(start(SHARE + READY))
    monkeypatch.setattr(process_memory, "proportional", refuse)
    total, _, exact = read(reader, attempt)
    assert exact == total > SIZE


def test_process_without_an_environment_yet_is_read_again(
    reader: MemoryReader, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, other = start(READY), start(READY, **{MARK: ATTEMPT})
    real = process_memory.environment
    monkeypatch.setattr(
        process_memory, "environment", lambda pid: b"" if pid == str(other.pid) else real(pid)
    )
    assert read(reader, target(leader, ATTEMPT))[1] == 1
    monkeypatch.undo()
    assert read(reader, target(leader, ATTEMPT))[1] == 2


def test_hidden_environment_has_no_mark(
    reader: MemoryReader, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = start(READY, **{MARK: ATTEMPT})
    monkeypatch.setattr(process_memory, "environment", lambda pid: process_memory.HIDDEN)
    assert read(reader, target(leader))[1] == 1
    assert reader._known[str(leader.pid)].mark == ""


def test_files_of_processes_stay_open_up_to_a_number(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_reader, "MAX_OPEN", 2)
    reader, attempt = MemoryReader(), target(start(FILL + FORK.format(child="") + READY))
    before = len(os.listdir("/proc/self/fd"))
    read(reader, attempt)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert read(reader, attempt)[1] == read(reader, attempt)[1] == 5
    reader.clear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_lack_of_resources_is_raised(
    reader: MemoryReader, start: Start, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempt = target(start(READY))

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        reader.find(1.0)
    with pytest.raises(OSError, match=os.strerror(number)):
        reader.sums([attempt])


def test_processes_of_this_machine_are_found(reader: MemoryReader) -> None:
    reader.find(1.0)
    own = reader._known[str(os.getpid())]
    assert (own.session, own.started) == (os.getsid(0), proc.start_time(os.getpid()))
