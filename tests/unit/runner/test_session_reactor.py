"""How processes in sessions are reaped, what is known of them, and what this system supports."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol, IReactorProcess
from twisted.internet.process import Process
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from taskqd.execution import proc
from taskqd.runner import session_process
from taskqd.runner.session_process import UNKNOWN_STATUS
from taskqd.runner.session_reactor import SessionReactor
from tests.support.leaks import LeakWatch
from tests.support.sessions import WAYS, Starter, Subscriber, descriptors


def test_session_reactor_implements_its_interface(reactor: Any) -> None:
    verifyObject(IReactorProcess, SessionReactor(reactor))
    verifyObject(IProcessProtocol, Subscriber())


# Reaping.


async def test_exits_that_are_found_together_are_each_reported_despite_an_error(
    session: Starter, logged_errors: LeakWatch
) -> None:
    class Broken(Subscriber):
        def processExited(self, reason: Failure) -> None:
            raise ZeroDivisionError("a bug")

    reading, writing = os.pipe()
    childs = {0: reading, 1: "r", 2: "r"}
    started = [
        session("read -r _", subscriber=each, childFDs=childs)
        for each in (Broken(), Subscriber(), Subscriber())
    ]
    pids = [subscriber.transport.pid for subscriber in started]  # type: ignore[union-attr]
    os.close(writing)
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends at once
    assert [await subscriber.ended for subscriber in started] == [1, 1, 1]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    os.close(reading)


async def test_child_with_a_pidfd_is_in_children_and_not_in_the_table_of_twisted(fast: Starter) -> None:
    assert await fast("true").ended == 0  # it makes the epoll(7)
    before = descriptors()
    subscriber = fast("read -r _", stdin="/dev/zero")
    transport: Any = subscriber.transport
    pid = transport.pid
    assert fast.sessions.children == {pid: transport}
    assert pid not in process.reapProcessHandlers
    os.kill(pid, signal.SIGKILL)
    assert await subscriber.ended == -signal.SIGKILL
    assert (fast.sessions.children, descriptors()) == ({}, before)


async def test_child_without_a_free_descriptor_is_reaped_by_twisted(
    fast: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        subscriber = fast("read -r _", stdin="/dev/zero")
    transport: Any = subscriber.transport
    assert fast.sessions.children == {}
    os.kill(transport.pid, signal.SIGKILL)
    assert await subscriber.ended == -signal.SIGKILL


async def test_child_whose_pidfd_is_watched_no_more_is_reaped_by_twisted(reactor: Any, fast: Starter) -> None:
    subscriber = fast("read -r _", stdin="/dev/zero")
    transport: Any = subscriber.transport
    [poller] = [reader for reader in reactor.getReaders() if reader.logPrefix() == "exits of processes"]
    poller.connectionLost(Failure(ConnectionError()))
    assert fast.sessions.children == {}
    os.kill(transport.pid, signal.SIGKILL)
    assert await subscriber.ended == -signal.SIGKILL


async def test_process_that_closes_its_streams_ends_when_it_exits(session: Starter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    subscriber = session("exec >&- 2>&-; read -r _; exit 3", stdin=str(tmp_path / "stdin"))
    await subscriber.closed
    assert subscriber.exits == []
    os.write(holder, b"go\n")
    os.close(holder)
    assert await subscriber.ended == 3


async def test_process_that_was_reaped_elsewhere_has_an_unknown_status(
    session: Starter, logged_errors: LeakWatch
) -> None:
    reading, writing = os.pipe()
    subscriber = session("read -r _", childFDs={0: reading, 1: "r", 2: "r"})
    transport: Any = subscriber.transport
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(transport.pid, 0)[1]) == 1  # noqa: ASYNC222 - it ends at once
    transport.reapProcess()
    await subscriber.ended
    [end] = subscriber.exits
    assert isinstance(end, ProcessTerminated)
    assert (end.status, subscriber.rusage) == (UNKNOWN_STATUS, None)
    os.close(reading)


async def test_dead_child_of_other_code_hides_no_exit(session: Starter) -> None:
    other = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221 - it ends at once
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - as above
    subscribers = [session(f"exit {code}") for code in (3, 4)]
    assert [await subscriber.ended for subscriber in subscribers] == [3, 4]
    assert os.waitpid(other, 0) == (other, 0)  # noqa: ASYNC222 - as above


async def test_error_in_the_protocol_leaves_no_process_behind(
    session: Starter, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    made = Subscriber.connectionMade

    def fail(subscriber: Subscriber) -> None:
        made(subscriber)
        raise ZeroDivisionError

    monkeypatch.setattr(Subscriber, "connectionMade", fail)
    assert await session("exit 3").ended == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


async def test_exits_of_one_poll_are_one_batch(fast: Starter, reactor: Any) -> None:
    seen: list[str] = []

    @contextmanager
    def batch() -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    class Noting(Subscriber):
        def connectionMade(self) -> None:
            """Read no pipe: the end of one may be found before the exit."""

        def processExited(self, reason: Failure) -> None:
            seen.append("exit")
            transport: Any = self.transport
            for pipe in list(transport.pipes.values()):
                pipe.loseConnection()

    fast.sessions.batch = batch
    reading, writing = os.pipe()
    started = [
        fast("read -r _", subscriber=Noting(), childFDs={0: reading, 1: "r", 2: "r"}) for _ in range(2)
    ]
    pids = [subscriber.transport.pid for subscriber in started]  # type: ignore[union-attr]
    os.close(writing)
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends at once
    for subscriber in started:
        await subscriber.ended
    await deferLater(reactor, 0)
    assert seen == ["begin", "exit", "exit", "end"]
    os.close(reading)


async def test_process_that_is_left_to_twisted_is_reported(
    fast: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    left: list[None] = []
    fast.sessions.on_unwatched = lambda: left.append(None)
    assert await fast("true").ended == 0
    assert left == []
    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert await fast("true").ended == 0
    assert left == [None]


# What is known of a process.


@pytest.mark.parametrize("is_patient", [False, True])
async def test_resource_usage_is_set_before_the_exit_is_reported(session: Starter, is_patient: bool) -> None:
    burn = f"exec {sys.executable} -c 'import time\nwhile time.process_time() < 0.2: sum(range(9999))'"
    subscriber = session(burn, subscriber=Subscriber(is_patient))
    assert await subscriber.ended == 0
    assert isinstance(subscriber.rusage, resource.struct_rusage)
    assert 0.2 <= subscriber.rusage.ru_utime + subscriber.rusage.ru_stime < 2


@pytest.mark.needs("setsid")
async def test_resource_usage_is_unknown_with_setsid(reactor: Any) -> None:
    subscriber = Starter(reactor, **WAYS["setsid"])("true")
    assert await subscriber.ended == 0
    assert subscriber.rusage is None


async def test_known_start_time_is_that_of_proc(fast: Starter) -> None:
    known: list[bool] = []
    while len(known) < 3:  # on a busy machine few spawns take less than a tick of the clock
        subscriber = fast("read -r _", stdin="/dev/zero")
        transport: Any = subscriber.transport
        if subscriber.started is not None:
            known.append(subscriber.started == proc.start_time(transport.pid))
        os.kill(transport.pid, signal.SIGKILL)
        await subscriber.ended
    assert all(known)


async def test_start_time_is_unknown_if_the_clock_ticks_during_the_spawn(
    fast: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "clock_ticks", iter(range(2)).__next__)
    subscriber = fast("true")
    assert await subscriber.ended == 0
    assert subscriber.started is None


# Whether it is supported.


def test_session_process_is_supported_here(reactor: Any) -> None:
    """A Twisted that is not supported costs speed and usage in silence; this test reports it."""
    assert session_process.is_supported()
    expected = "processes are started by posix_spawn(3) and reaped by their pidfds"
    assert SessionReactor(reactor).description == expected


@pytest.mark.parametrize(
    "name, method",
    [
        ("childConnectionLost", lambda self, childFD: None),
        ("processEnded", lambda self, reason, status: None),
    ],
)
def test_twisted_with_other_methods_is_not_supported(
    monkeypatch: pytest.MonkeyPatch, reactor: Any, name: str, method: Any
) -> None:
    monkeypatch.setattr(Process, name, method)
    assert not session_process.is_supported()
    expected = "processes are started by setsid(1) and Twisted, which reaps them at SIGCHLD"
    assert SessionReactor(reactor).description == expected


def test_twisted_without_a_method_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Process, "childConnectionLost")
    assert not session_process.is_supported()


def test_c_library_that_starts_no_session_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise NotImplementedError

    monkeypatch.setattr(os, "posix_spawn", refuse)
    assert not session_process.is_supported()


def test_kernel_without_pidfds_leaves_reaping_to_twisted(
    monkeypatch: pytest.MonkeyPatch, reactor: Any
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    expected = "processes are started by posix_spawn(3) and reaped by Twisted at SIGCHLD"
    assert SessionReactor(reactor).description == expected
