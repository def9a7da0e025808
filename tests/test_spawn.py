"""Real processes, spawned the fast way and the public way: what they get, and what they must not get."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from taskqd import spawn

WAYS = [
    pytest.param(
        True,
        id="fast",
        marks=pytest.mark.skipif(
            not spawn.IS_FAST_WAY_KNOWN, reason="this Twisted is not the one that we know"
        ),
    ),
    pytest.param(False, id="public", marks=pytest.mark.needs("setsid")),
]
ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Watcher(ProcessProtocol):
    """Collects what a process prints; ``ended`` fires with its exit code, or minus the signal."""

    def __init__(self) -> None:
        self.printed = {1: b"", 2: b""}
        self.exits = 0
        self.ended: Deferred[int] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.printed[childFD] += data

    def processExited(self, reason: Failure) -> None:
        self.exits += 1

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        self.ended.callback(-number if number else code)


Spawn = Callable[..., tuple[Watcher, Any]]


@pytest.fixture(name="start", params=WAYS)
def the_way(request: pytest.FixtureRequest, reactor: Any) -> Spawn:
    """Return a function that starts a shell command, or a whole line."""

    def start(
        command: str | list[str], environment: dict[str, str] = ENVIRONMENT, stdin: str = os.devnull
    ) -> tuple[Watcher, Any]:
        line = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        watcher = Watcher()
        descriptor = os.open(stdin, os.O_RDONLY)
        try:
            transport: Any = spawn.spawn(reactor, watcher, line, environment, descriptor, request.param)
        finally:
            os.close(descriptor)
        return watcher, transport

    return start


async def test_a_process_has_a_session_and_a_group_of_its_own(start: Spawn) -> None:
    watcher, _ = start("cut -d' ' -f1,5,6 /proc/$$/stat")
    assert await watcher.ended == 0
    pid, group, session = map(int, watcher.printed[1].split())
    assert pid == group == session != os.getsid(0)


async def test_its_streams_are_kept_apart_and_byte_exact(start: Spawn, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_bytes(bytes(range(256)) * 1000)
    watcher, _ = start("cat; head -c 1000000 /dev/zero >&2", stdin=str(tmp_path / "stdin"))
    assert await watcher.ended == 0
    assert watcher.printed == {1: bytes(range(256)) * 1000, 2: bytes(1_000_000)}


@pytest.mark.parametrize(
    "command, end", [("true", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$; sleep 9", -15)]
)
async def test_its_end_says_how(start: Spawn, command: str, end: int) -> None:
    watcher, _ = start(command)
    assert await watcher.ended == end
    assert watcher.exits == 1


async def test_it_gets_just_the_environment_that_it_is_given(start: Spawn) -> None:
    given = {"PATH": ENVIRONMENT["PATH"], "A": 'it\'s  "1"', "B": "é日本", "C": "\udcff", "É": ""}
    watcher, _ = start(["/usr/bin/env", "-0"], given)
    assert await watcher.ended == 0
    expected = {f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in given.items()}
    assert set(watcher.printed[1].split(b"\0")[:-1]) == expected


async def test_its_arguments_are_the_bytes_that_came(start: Spawn) -> None:
    watcher, _ = start(["/usr/bin/printf", "%s|", "é日本", "\udcff", "a  b", ""])
    assert await watcher.ended == 0
    assert watcher.printed[1] == "é日本|".encode() + b"\xff|a  b||"


async def test_it_inherits_no_descriptor_but_its_streams(start: Spawn, tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    spawn.close_on_exec()
    watcher, _ = start("for fd in /proc/$$/fd/*; do readlink $fd; done; exit 0")
    assert await watcher.ended == 0
    os.close(kept)
    os.close(inherited)
    assert str(tmp_path).encode() not in watcher.printed[1]
    kinds = [line.split(b":")[0] for line in watcher.printed[1].splitlines()]
    assert kinds[:3] == [b"/dev/null", b"pipe", b"pipe"]
    assert len(kinds) <= 4  # dash keeps one for itself here


async def test_it_ignores_and_blocks_no_signal(start: Spawn) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        watcher, _ = start("exec grep -E '^Sig(Ign|Blk)' /proc/self/status")
        assert await watcher.ended == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    masks = [int(line.split()[1], 16) for line in watcher.printed[1].splitlines()]
    # glibc's posix_spawn leaves its own two, 32 and 33, ignored; each program's C library sets them anew.
    assert [mask & ~(1 << 31 | 1 << 32) for mask in masks] == [0, 0]


async def test_what_exits_at_once_is_told_of_once_each(start: Spawn) -> None:
    watchers = [start(["/bin/true"])[0] for _ in range(60)]
    for watcher in watchers:
        assert await watcher.ended == 0
        assert watcher.exits == 1


async def test_a_missing_program_is_an_error_or_a_failed_exit_and_leaves_nothing(start: Spawn) -> None:
    before = len(os.listdir("/proc/self/fd"))
    try:
        watcher, _ = start(["/nonexistent/program"])
    except OSError as why:
        assert isinstance(why, FileNotFoundError)  # noqa: PT017 - one way raises, the other exits
    else:
        assert await watcher.ended == 127
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_pipe_that_is_empty_for_now_is_read_again_later(start: Spawn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    watcher, transport = start("cat", stdin=str(tmp_path / "stdin"))
    assert transport.pipes[1].doRead() is None
    os.write(holder, b"later")
    os.close(holder)
    assert await watcher.ended == 0
    assert watcher.printed[1] == b"later"


async def test_reading_can_be_stopped_and_goes_on(start: Spawn) -> None:
    watcher, transport = start("head -c 300000 /dev/zero")
    transport.pauseProducing()
    transport.resumeProducing()
    assert await watcher.ended == 0
    assert len(watcher.printed[1]) == 300_000


# Which way.


def test_the_fast_way_is_known_here() -> None:
    """A Twisted that is not known costs speed in silence: this says so where the tests are run."""
    assert spawn.IS_FAST_WAY_KNOWN


def test_a_twisted_that_is_not_known_is_not_taken_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spawn._is_known()
    monkeypatch.setattr(process.Process, "_trySpawnInsteadOfFork", lambda self, other: False)
    assert not spawn._is_known()
    monkeypatch.setattr(process.Process, "_trySpawnInsteadOfFork", None)
    assert not spawn._is_known()


@pytest.mark.parametrize("error", [OSError(38, "not here"), NotImplementedError(), TypeError("setsid")])
def test_a_system_without_posix_spawn_in_a_session_is_not_taken_the_fast_way(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(os, "posix_spawn", refuse)
    assert not spawn._is_known()


# What is inherited.


def test_free_standard_descriptors_are_taken() -> None:
    code = (
        "import os; os.close(0); os.close(2)\n"
        "from taskqd.spawn import close_on_exec\n"
        "close_on_exec()\n"
        "print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)])\n"
        "print([os.get_inheritable(n) for n in (0, 1, 2)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "['/dev/null', '/dev/null']\n[True, True, True]\n"
