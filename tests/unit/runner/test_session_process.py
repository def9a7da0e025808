"""Processes in sessions: their streams, environment, signals and limits (test_session_reactor.py: ends)."""

import errno
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from taskqd.execution import proc
from taskqd.execution.command_line import command_line
from taskqd.runner.session_process import (
    LARGE_CAPACITY,
    LARGE_READ_SIZE,
    READ_SIZE,
    READS_BEFORE_ENLARGING,
    PipeReader,
)
from tests.fakes.processes import make_run
from tests.support import other_users
from tests.support.sessions import ENVIRONMENT, Starter, Subscriber, descriptors, encode


async def test_process_is_the_leader_of_a_new_session_and_group(start: Starter) -> None:
    subscriber = start("cut -d' ' -f1,5,6 /proc/$$/stat")
    assert await subscriber.ended == 0
    pid, group, session = map(int, subscriber.printed[1].split())
    assert pid == group == session != os.getsid(0)


async def test_streams_are_kept_apart_and_byte_exact(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_bytes(bytes(range(256)) * 1000)
    subscriber = start("cat; head -c 1000000 /dev/zero >&2", stdin=str(tmp_path / "stdin"))
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: bytes(range(256)) * 1000, 2: bytes(1_000_000)}


@pytest.mark.parametrize(
    "command, end", [("true", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$; sleep 9", -15)]
)
async def test_exit_is_reported_once_with_its_code_or_signal(start: Starter, command: str, end: int) -> None:
    subscriber = start(command)
    assert await subscriber.ended == end
    assert len(subscriber.exits) == 1


async def test_process_gets_exactly_the_given_environment(start: Starter) -> None:
    given = {"PATH": ENVIRONMENT["PATH"], "A": 'it\'s  "1"', "B": "é日本", "C": "\udcff", "É": ""}
    subscriber = start(["/usr/bin/env", "-0"], given)
    assert await subscriber.ended == 0
    expected = {encode(f"{name}={value}") for name, value in given.items()}
    assert set(subscriber.printed[1].split(b"\0")[:-1]) == expected


async def test_arguments_arrive_byte_exact(start: Starter) -> None:
    subscriber = start(["/usr/bin/printf", "%s|", "é日本", "\udcff", "a  b", ""])
    assert await subscriber.ended == 0
    assert subscriber.printed[1] == "é日本|".encode() + b"\xff|a  b||"


async def test_process_inherits_no_descriptor_but_its_streams(start: Starter, tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    proc.set_close_on_exec()
    subscriber = start("for fd in /proc/$$/fd/*; do readlink $fd; done; exit 0")
    assert await subscriber.ended == 0
    os.close(kept)
    os.close(inherited)
    assert str(tmp_path).encode() not in subscriber.printed[1]
    kinds = [line.split(b":")[0] for line in subscriber.printed[1].splitlines()]
    assert kinds[:3] == [b"/dev/null", b"pipe", b"pipe"]
    assert len(kinds) <= 4  # dash keeps one for itself here


async def test_process_has_only_its_streams_with_many_open_descriptors(start: Starter) -> None:
    open_ones = [os.open(os.devnull, os.O_RDONLY) for _ in range(500)]
    subscriber = start("ls /proc/self/fd | wc -l; echo oh >&2")
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: b"4\n", 2: b"oh\n"}, "0 to 2, and the listing's own"
    for descriptor in open_ones:
        os.close(descriptor)


async def test_process_ignores_and_blocks_no_signal(start: Starter) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        subscriber = start("exec grep -E '^Sig(Ign|Blk)' /proc/self/status")
        assert await subscriber.ended == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    masks = [int(line.split()[1], 16) for line in subscriber.printed[1].splitlines()]
    # glibc's posix_spawn leaves its own two, 32 and 33, ignored; each program's C library sets them again.
    assert [mask & ~(1 << 31 | 1 << 32) for mask in masks] == [0, 0]


async def test_short_processes_are_each_reported_once(start: Starter) -> None:
    subscribers = [start(["/bin/true"]) for _ in range(60)]
    for subscriber in subscribers:
        assert await subscriber.ended == 0
        assert len(subscriber.exits) == 1


async def test_process_that_exits_during_its_spawn_is_reported_once(start: Starter) -> None:
    subscriber = start("echo hello; exit 3", subscriber=Subscriber(is_patient=True))
    assert await subscriber.ended == 3
    assert (len(subscriber.exits), subscriber.printed[1]) == (1, b"hello\n")


async def test_missing_program_fails_the_spawn_or_exits_with_127_and_leaks_nothing(start: Starter) -> None:
    before = descriptors()
    try:
        subscriber = start(["/nonexistent/program"])
    except FileNotFoundError:
        assert start.sessions.children == {}
    else:
        assert await subscriber.ended == 127
    assert descriptors() == before


@pytest.mark.parametrize("argv, value", [(["/bin/true", "a\0b"], "fine"), (["/bin/true"], "a\0b")])
def test_nul_is_refused_and_not_cut_short(start: Starter, argv: list[str], value: str) -> None:
    before = descriptors()
    with pytest.raises((ValueError, TypeError)):
        start(argv, {"A": value})
    assert descriptors() == before


@pytest.mark.parametrize("opened", [0, 1])
def test_failure_to_open_a_pipe_leaks_nothing(
    start: Starter, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    pipe = os.pipe
    left = [pipe] * opened

    def refuse() -> tuple[int, int]:
        if left:
            return left.pop()()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = descriptors()
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        start("true")
    assert descriptors() == before


@pytest.mark.parametrize(
    "option",
    [{"path": b"/tmp"}, {"uid": 0}, {"gid": 0}, {"usePTY": True}],
    ids=lambda option: next(iter(option)),
)
def test_options_that_would_be_ignored_are_refused(start: Starter, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no path, uid, gid"):
        start("true", **option)


def test_descriptors_that_replace_each_other_are_refused(session: Starter) -> None:
    before = descriptors()
    with pytest.raises(ValueError, match="replace each other"):
        session("true", childFDs={0: 1, 1: 0, 2: "r"})
    assert descriptors() == before


def test_protocol_of_another_kind_is_refused(fast: Starter) -> None:
    with pytest.raises(TypeError, match="Could not adapt"):
        fast.sessions.spawnProcess(ProcessProtocol(), b"/bin/true", [b"true"])


async def test_pipes_are_not_watched_before_they_are_read(fast: Starter, reactor: Any) -> None:
    class Passive(Subscriber):
        def connectionMade(self) -> None:
            pass

    subscriber = fast("read -r _", subscriber=Passive(), stdin="/dev/zero")
    transport: Any = subscriber.transport
    pipes = set(transport.pipes.values())
    assert len(pipes) == 2
    assert pipes.isdisjoint(reactor.getReaders())
    transport.resumeProducing()
    assert pipes <= set(reactor.getReaders())
    transport.pauseProducing()
    assert pipes.isdisjoint(reactor.getReaders())
    for pipe in pipes:
        pipe.loseConnection()
    assert transport.pipes == {}
    os.kill(transport.pid, signal.SIGKILL)
    assert await subscriber.ended == -signal.SIGKILL


async def test_empty_pipe_is_read_again_later(start: Starter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    subscriber = start("cat", stdin=str(tmp_path / "stdin"))
    transport: Any = subscriber.transport
    transport.resumeProducing()
    assert transport.pipes[1].doRead() is None
    os.write(holder, b"later")
    os.close(holder)
    assert await subscriber.ended == 0
    assert subscriber.printed[1] == b"later"


async def test_output_of_running_process_is_read(start: Starter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    subscriber = start("echo here; echo there >&2; read line", stdin=str(tmp_path / "stdin"))
    is_read: Deferred[None] = Deferred()

    def on_data() -> None:
        if all(subscriber.printed.values()):
            is_read.callback(None)

    subscriber.on_data = on_data
    await is_read
    assert (subscriber.printed, subscriber.exits) == ({1: b"here\n", 2: b"there\n"}, [])
    os.write(holder, b"go\n")
    os.close(holder)
    assert await subscriber.ended == 0


async def test_output_of_grandchild_after_the_exit_is_read(start: Starter) -> None:
    subscriber = start("(sleep 0.1; echo later) & exit 3")
    assert await subscriber.ended == 3
    assert subscriber.printed[1] == b"later\n"


async def test_reading_can_be_paused_and_resumed(start: Starter) -> None:
    subscriber = start("head -c 300000 /dev/zero")
    transport: Any = subscriber.transport
    transport.pauseProducing()
    transport.resumeProducing()
    assert await subscriber.ended == 0
    assert len(subscriber.printed[1]) == 300_000


@other_users.only_root
@pytest.mark.needs("setpriv")
async def test_pipe_owner_may_open_the_streams_by_name(session: Starter) -> None:
    user = other_users.user("games")
    drop = ["/usr/bin/env", "setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--"]
    command = "echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1"
    argv = [*drop, "/bin/sh", "-c", command]
    subscriber = session(argv, subscriber=Subscriber(pipe_owner=user.uid))
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: b"out\nmore\n", 2: b"err\n"}
    assert await session(argv).ended != 0, "else the test proves nothing"


async def test_our_ends_of_pipes_are_non_blocking_and_the_process_s_are_not(start: Starter) -> None:
    subscriber = start("grep flags /proc/self/fdinfo/1 /proc/self/fdinfo/2")
    transport: Any = subscriber.transport
    assert [os.get_blocking(pipe.fileno()) for pipe in transport.pipes.values()] == [False, False]
    assert await subscriber.ended == 0
    flags = [int(line.split()[-1], 8) for line in subscriber.printed[1].splitlines()]
    assert [flag & os.O_NONBLOCK for flag in flags] == [0, 0]


async def test_pipe_is_read_whole(session: Starter) -> None:
    reads: list[int] = []
    subscriber = session("head -c 65536 /dev/zero; read -r _", stdin="/dev/zero")
    transport: Any = subscriber.transport
    transport.pauseProducing()
    while proc.unread_bytes(transport.pipes[1].fileno()) < 65_536:
        pass
    subscriber.on_data = lambda: reads.append(len(subscriber.printed[1]))
    transport.pipes[1].doRead()
    assert reads == [65_536]
    os.kill(transport.pid, signal.SIGKILL)
    transport.resumeProducing()
    assert await subscriber.ended == -signal.SIGKILL


# Limits.

DUPLICATE = f"exec {sys.executable} -c 'import os\nfor _ in range(20): os.dup(0)'"
ALLOCATE = f"exec {sys.executable} -c 'bytes(1) * 512 * 1024 ** 2'"


@pytest.mark.needs("prlimit")
@pytest.mark.parametrize(
    "limits, command, end, said",
    [
        ({"nofile": 20}, DUPLICATE, 1, b"Too many open files"),
        ({"memory": 256 * 1024**2}, ALLOCATE, 1, b"MemoryError"),
        ({"cpu_time": 0.5}, "while :; do :; done", -signal.SIGXCPU, b""),
        ({"memory": 10**9, "cpu_time": 9.0, "nofile": 99, "nice": 1}, "true", 0, b""),
    ],
)
async def test_limits_hold(
    start: Starter, limits: dict[str, Any], command: str, end: int, said: bytes
) -> None:
    subscriber = start(command_line(make_run(command=command, **limits)))
    assert await subscriber.ended == end
    assert said in subscriber.printed[2]


class Pipe:
    """A pipe, its reader, and the sizes of the pieces that it has read."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        reactor: Any = type("Reactor", (), {"addReader": lambda *_: None, "removeReader": lambda *_: None})()
        make: Any = PipeReader  # untyped in Twisted
        self.pieces: list[int] = []
        self.reader = make(reactor, self, 1, reading)

    def childDataReceived(self, _: int, data: bytes) -> None:
        self.pieces.append(len(data))

    def fill(self) -> None:
        """Write as much as the pipe can hold."""
        os.set_blocking(self.writing, False)
        os.write(self.writing, bytes(LARGE_CAPACITY))

    def capacity(self) -> int:
        return fcntl.fcntl(self.writing, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        os.close(self.reader.fd)
        os.close(self.writing)


def test_pipe_that_is_full_again_and_again_is_enlarged() -> None:
    pipe = Pipe()
    before = pipe.capacity()
    for _ in range(READS_BEFORE_ENLARGING):
        assert pipe.capacity() == before
        pipe.fill()
        pipe.reader.doRead()
    assert pipe.capacity() == LARGE_CAPACITY
    pipe.fill()
    pipe.reader.doRead()
    assert pipe.pieces == [READ_SIZE] * READS_BEFORE_ENLARGING + [LARGE_READ_SIZE]
    pipe.close()


def test_pipe_that_is_not_full_stays_small() -> None:
    pipe = Pipe()
    before = pipe.capacity()
    for _ in range(2 * READS_BEFORE_ENLARGING):
        os.write(pipe.writing, b"a line\n")
        pipe.reader.doRead()
    assert pipe.capacity() == before
    pipe.close()


def test_pipe_that_cannot_be_enlarged_is_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise PermissionError(errno.EPERM, "the user's pipes have the most memory")

    pipe = Pipe()
    monkeypatch.setattr("taskqd.runner.session_process.fcntl.fcntl", refuse)
    for _ in range(READS_BEFORE_ENLARGING + 2):
        pipe.fill()
        pipe.reader.doRead()
    assert pipe.pieces == [READ_SIZE] * (READS_BEFORE_ENLARGING + 2)
    pipe.close()
