"""The reaper of orphans, with real processes; it must leave all other children alone."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import process
from twisted.internet.task import Clock

from taskqd.execution import orphan_reaper
from taskqd.execution.child_subreaper import set_child_subreaper
from taskqd.execution.orphan_reaper import REAP_INTERVAL, Child, OrphanReaper, is_reaper
from tests.fakes.clocks import clock


@pytest.fixture(name="time")
def a_clock() -> Clock:
    return clock()


@pytest.fixture(name="children")
def known_children() -> dict[int, Child]:
    return {}


@pytest.fixture(name="reaper", autouse=True)
def a_reaper(time: Clock, children: dict[int, Child]) -> Iterator[OrphanReaper]:
    """Make this process the reaper of its orphans, as process 1 is."""
    set_child_subreaper(True)
    reaper = OrphanReaper(time, children)
    yield reaper
    reaper.stop()
    set_child_subreaper(False)


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
    set_child_subreaper(False)
    assert not is_reaper()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert is_reaper()


def test_orphans_are_reaped_an_interval_after_a_child_has_exited(reaper: OrphanReaper, time: Clock) -> None:
    reaper.start()
    pids = [an_orphan() for _ in range(3)]
    for _ in pids:
        process.reapAllProcesses()
    time.advance(REAP_INTERVAL)
    assert not any(map(is_there, pids))


def test_orphans_that_exited_before_the_start_are_reaped(reaper: OrphanReaper) -> None:
    pid = an_orphan()
    assert is_there(pid)
    reaper.start()
    assert not is_there(pid)


def test_reaper_does_nothing_if_no_orphans_come(reaper: OrphanReaper) -> None:
    set_child_subreaper(False)
    before = dict(orphan_reaper._handlers)
    reaper.start()
    assert orphan_reaper._handlers == before


def test_child_of_another_thread_is_not_reaped(reaper: OrphanReaper, time: Clock) -> None:
    reaper.start()
    pids: list[int] = []
    is_over = threading.Event()

    def spawn() -> None:
        pids.append(os.posix_spawn("/bin/sh", ["/bin/sh", "-c", "exit 7"], {}))
        is_over.wait(10)

    thread = threading.Thread(target=spawn)
    thread.start()
    while not pids:
        pass
    os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
    process.reapAllProcesses()
    time.advance(REAP_INTERVAL)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
    is_over.set()
    thread.join()


class Known:
    """A process that something else reaps: by Twisted's table, or by its pidfd."""

    def __init__(self, table: dict[int, Child]) -> None:
        self.pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", "exit 9"], {})
        self.code: int | None = None
        self.is_ready = True
        self._table = table
        table[self.pid] = self
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reapProcess(self) -> None:
        if self.is_ready:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, os.WNOHANG)[1])
            del self._table[self.pid]


@pytest.mark.parametrize("is_of_twisted", [True, False])
def test_known_child_is_left_to_its_reaper_and_hides_no_orphan(
    reaper: OrphanReaper, time: Clock, children: dict[int, Child], is_of_twisted: bool
) -> None:
    reaper.start()
    known = Known(orphan_reaper._handlers if is_of_twisted else children)
    orphan = an_orphan()
    reaper.reapProcess()
    time.advance(REAP_INTERVAL)
    assert (known.code, is_there(orphan)) == (9, False)


def test_search_is_repeated_while_a_known_child_is_not_reaped(
    reaper: OrphanReaper, time: Clock, children: dict[int, Child]
) -> None:
    reaper.start()
    known = Known(children)
    known.is_ready = False
    orphan = an_orphan()
    reaper.reapProcess()
    time.advance(REAP_INTERVAL)
    assert is_there(orphan)
    known.is_ready = True
    time.advance(REAP_INTERVAL)
    assert (known.code, is_there(orphan), time.getDelayedCalls()) == (9, False, [])


def test_running_children_are_not_waited_for(reaper: OrphanReaper) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as running:
        reaper.start()
        os.kill(running.pid, signal.SIGKILL)


def sigchld() -> object:
    return signal.getsignal(signal.SIGCHLD)


def test_signal_is_muted_from_one_to_the_search_if_twisted_has_no_child(time: Clock) -> None:
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    handler = sigchld()
    reaper = OrphanReaper(time, mutes_signal=True)
    try:
        reaper.start()
        process.reapAllProcesses()
        assert sigchld() is signal.SIG_DFL
        pid = an_orphan()
        time.advance(REAP_INTERVAL)
        assert (sigchld(), is_there(pid)) == (handler, False)
        process.reapAllProcesses()
        reaper.unmute()
        assert sigchld() is handler, "Twisted has got a child"
        process.reapAllProcesses()
        reaper.stop()
        assert sigchld() is handler
    finally:
        reaper.stop()
        signal.signal(signal.SIGCHLD, before)


def test_signal_is_not_muted_while_twisted_has_a_child(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sigchld()
    reaper = OrphanReaper(time, mutes_signal=True)
    reaper.start()
    monkeypatch.setitem(process.reapProcessHandlers, 1, Known({}))
    reaper.reapProcess()
    assert sigchld() is before
    reaper.stop()
