"""The reaper of orphans, with real processes; it must leave all other children alone."""

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.task import Clock

from taskqd.execution import orphan_reaper
from taskqd.execution.orphan_reaper import OrphanReaper, is_reaper
from taskqd.speedups import posix_spawn
from tests.fakes.clocks import clock

SET_CHILD_SUBREAPER = 36


@pytest.fixture(name="time")
def a_clock() -> Clock:
    return clock()


@pytest.fixture(name="reaper", autouse=True)
def a_reaper(time: Clock) -> Iterator[OrphanReaper]:
    """Make this process the reaper of its orphans, as process 1 is."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    reaper = OrphanReaper(time)
    yield reaper
    reaper.stop()
    prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def an_orphan() -> int:
    """Return the pid of an orphan that has exited."""
    made = subprocess.run(
        ["/bin/sh", "-c", "(exec 3>&-; sleep 0.05) >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True
    )
    pid = int(made.stdout)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_is_reaper_detects_subreapers_and_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_reaper()
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not is_reaper()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert is_reaper()


def test_orphans_are_reaped_when_a_child_exits(reaper: OrphanReaper) -> None:
    reaper.start()
    pids = [an_orphan() for _ in range(3)]
    process.reapAllProcesses()
    assert not any(map(is_there, pids))


def test_orphans_that_exited_before_the_start_are_reaped(reaper: OrphanReaper) -> None:
    pid = an_orphan()
    assert is_there(pid)
    reaper.start()
    assert not is_there(pid)


def test_reaper_does_nothing_if_no_orphans_come(reaper: OrphanReaper) -> None:
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    before = dict(orphan_reaper._handlers)
    reaper.start()
    assert orphan_reaper._handlers == before


def test_child_of_another_thread_is_not_reaped(reaper: OrphanReaper) -> None:
    reaper.start()
    pids: list[int] = []
    is_over = threading.Event()

    def spawn() -> None:
        pids.append(posix_spawn.Spawning([b"/bin/sh", b"-c", b"exit 7"], [], ()).spawn())
        is_over.wait(10)

    thread = threading.Thread(target=spawn)
    thread.start()
    while not pids:
        pass
    os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
    process.reapAllProcesses()
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
    is_over.set()
    thread.join()


class Known:
    """A handler for a process that Twisted has forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def reapProcess(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
            del orphan_reaper._handlers[self.pid]


def test_child_of_twisted_is_left_to_it_and_orphans_behind_it_are_reaped_next(
    reaper: OrphanReaper, time: Clock
) -> None:
    reaper.start()
    known = Known(os.posix_spawn("/bin/sh", ["/bin/sh", "-c", "exit 9"], {}))
    handlers: Any = orphan_reaper._handlers
    handlers[known.pid] = known
    os.waitid(os.P_PID, known.pid, os.WEXITED | os.WNOWAIT)
    orphan = an_orphan()
    process.reapAllProcesses()
    assert known.code == 9
    time.advance(0)
    assert not is_there(orphan)


def test_running_children_are_not_waited_for(reaper: OrphanReaper) -> None:
    reaper.start()
    with subprocess.Popen(["/bin/sleep", "60"]) as running:
        process.reapAllProcesses()
        os.kill(running.pid, signal.SIGKILL)
