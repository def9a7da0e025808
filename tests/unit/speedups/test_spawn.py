"""Real processes, spawned the fast way and the public way: what they get, and what they must not get."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet import process
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.execution.command_line import command_line
from taskqd.model.job import Usage
from taskqd.speedups import child_process, posix_spawn, spawn
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.child_process import MeasuredProtocol
from tests.support import other_users
from tests.support.leaks import LeakWatch
from tests.unit.execution.test_command_line import PLAIN

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


class Subscriber(MeasuredProtocol):
    """Collects what a process prints; ``ended`` fires with its exit code, or minus the signal.

    ``used`` is what was known of its usage when its exit was told. If it ``is_patient``, the process has
    exited before its spawn returns.
    """

    def __init__(self, is_patient: bool = False) -> None:
        self.printed = {1: b"", 2: b""}
        self.exits = 0
        self.used: Usage | None = None
        self.on_data: Callable[[], object] = lambda: None
        self.ended: Deferred[int] = Deferred()
        self._is_patient = is_patient

    def connectionMade(self) -> None:
        if self._is_patient:
            transport: Any = self.transport
            os.waitid(os.P_PID, transport.pid, os.WEXITED | os.WNOWAIT)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.printed[childFD] += data
        self.on_data()

    def processExited(self, reason: Failure) -> None:
        self.exits += 1
        self.used = self.usage

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        self.ended.callback(-number if number else code)


Spawn = Callable[..., tuple[Subscriber, "Deferred[Any]"]]


@cache
def spawner(reactor: Any, is_fast: bool) -> spawn.Spawner:
    """Return the one spawner of its way that all tests use, and so its threads."""
    return spawn.Spawner(reactor, BatchScope(), is_fast)


@pytest.fixture(autouse=True, scope="module")
def the_threads_of_all_tests(reactor: Any) -> Iterator[None]:
    fast = spawner(reactor, is_fast=True)
    fast._workers.call(lambda: (0, None), lambda _: None)
    yield
    fast.stop()


def starter(reactor: Any, is_fast: bool) -> Spawn:
    """Return a function that starts a shell command or a line, and returns its Watcher and its start."""

    def start(
        command: str | list[str],
        environment: dict[str, str] = ENVIRONMENT,
        stdin: str = os.devnull,
        is_patient: bool = False,
        uid: int | None = None,
    ) -> "tuple[Subscriber, Deferred[Any]]":
        line = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        watcher = Subscriber(is_patient)
        descriptor = os.open(stdin, os.O_RDONLY)
        started = maybeDeferred(
            spawner(reactor, is_fast=is_fast).spawn, watcher, line, environment, descriptor, uid
        )

        def close(result: Any) -> Any:
            os.close(descriptor)
            return result

        return watcher, started.addBoth(close)

    return start


@pytest.fixture(name="start", params=WAYS)
def the_way(request: pytest.FixtureRequest, reactor: Any) -> Spawn:
    """Return what ``starter`` does, each way."""
    return starter(reactor, request.param)


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


async def test_what_exits_inside_the_spawn_is_told_of_once(start: Spawn) -> None:
    watcher, _ = start("echo hello; exit 3", is_patient=True)
    assert await watcher.ended == 3
    assert (watcher.exits, watcher.printed[1]) == (1, b"hello\n")


async def test_a_bug_of_whom_it_was_for_leaves_no_process_behind(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def fail(_: Subscriber) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Subscriber, "connectionMade", fail)
    watcher, _ = starter(reactor, True)("exit 3")
    assert await watcher.ended == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


async def test_a_missing_program_is_an_error_or_a_failed_exit_and_leaves_nothing(start: Spawn) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watcher, started = start(["/nonexistent/program"])
    try:
        await started
    except OSError as why:
        assert isinstance(why, FileNotFoundError)  # noqa: PT017 - one way fails, the other exits
    else:
        assert await watcher.ended == 127
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("line, value", [(["/bin/true", "a\0b"], "fine"), (["/bin/true"], "a\0b")])
async def test_what_has_a_nul_in_it_is_refused_and_not_cut_short(
    start: Spawn, line: list[str], value: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError):  # noqa: PT011 - in Python's words
        await start(line, {"A": value})[1]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("opened", [0, 1])
async def test_where_no_pipe_can_be_opened_nothing_is_left(
    start: Spawn, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    pipe = os.pipe
    left = [pipe] * opened

    def refuse() -> tuple[int, int]:
        if left:
            return left.pop()()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        await start("true")[1]
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_pipe_that_is_empty_for_now_is_read_again_later(start: Spawn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    watcher, started = start("cat", stdin=str(tmp_path / "stdin"))
    transport = await started
    transport.resumeProducing()
    assert transport.pipes[1].doRead() is None
    os.write(holder, b"later")
    os.close(holder)
    assert await watcher.ended == 0
    assert watcher.printed[1] == b"later"


async def test_what_lasts_is_heard_of_while_it_runs(start: Spawn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    watcher, _ = start("echo here; echo there >&2; read line", stdin=str(tmp_path / "stdin"))
    heard: Deferred[None] = Deferred()

    def look() -> None:
        if all(watcher.printed.values()):
            heard.callback(None)

    watcher.on_data = look
    await heard
    assert (watcher.printed, watcher.exits) == ({1: b"here\n", 2: b"there\n"}, 0)
    os.write(holder, b"go\n")
    os.close(holder)
    assert await watcher.ended == 0


async def test_what_a_grandchild_prints_after_the_end_is_heard_of(start: Spawn) -> None:
    watcher, _ = start("(sleep 0.1; echo later) & exit 3")
    assert await watcher.ended == 3
    assert watcher.printed[1] == b"later\n"


async def test_reading_that_is_stopped_at_once_stays_so_until_it_goes_on(reactor: Any) -> None:
    watcher, started = starter(reactor, True)("echo here; exec sleep 30")
    transport = await started
    transport.pauseProducing()
    await deferLater(reactor, 5 * child_process.LISTEN_AFTER)
    assert watcher.printed[1] == b""
    transport.resumeProducing()
    heard: Deferred[None] = Deferred()
    watcher.on_data = lambda: heard.callback(None)
    await heard
    os.kill(transport.pid, signal.SIGKILL)
    assert await watcher.ended == -signal.SIGKILL


async def test_reading_can_be_stopped_and_goes_on(start: Spawn) -> None:
    watcher, started = start("head -c 300000 /dev/zero")
    transport = await started
    transport.pauseProducing()
    transport.resumeProducing()
    assert await watcher.ended == 0
    assert len(watcher.printed[1]) == 300_000


@other_users.only_root
@pytest.mark.needs("setpriv")
async def test_another_user_may_open_the_streams_again(reactor: Any) -> None:
    user = other_users.user("games")
    drop = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--", "/bin/sh", "-c"]
    command = "echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1"
    start = starter(reactor, True)
    watcher, _ = start([*drop, command], uid=user.uid)
    assert await watcher.ended == 0
    assert watcher.printed == {1: b"out\nmore\n", 2: b"err\n"}
    watcher, _ = start([*drop, command])
    assert await watcher.ended != 0, "else there was nothing to be done about it"


# What was used: told on the fast way, and on the public way nobody knows.


def burn(seconds: float) -> str:
    """Return a command that takes so many seconds of CPU time, and a little more to start."""
    return f"{sys.executable} -c 'import time\nwhile time.process_time() < {seconds}: sum(range(9999))'"


Measure = Callable[..., Awaitable[Usage]]


@pytest.fixture(name="measure")
def a_measured_start(reactor: Any) -> Measure:
    """Return a function that starts a command the fast way and returns what it has used."""
    start = starter(reactor, True)

    async def measure(command: str | list[str], is_patient: bool = False) -> Usage:
        watcher, _ = start(command, is_patient=is_patient)
        assert await watcher.ended == 0
        assert watcher.used is not None
        return watcher.used

    return measure


async def test_the_cpu_time_of_a_process_is_counted(measure: Measure) -> None:
    used = await measure("exec " + burn(0.2))
    assert 0.2 <= used.user + used.system < 2
    assert used.user > used.system


async def test_the_cpu_time_of_a_child_that_was_waited_for_is_counted(measure: Measure) -> None:
    used = await measure(burn(0.2) + "; true")
    assert 0.2 <= used.user + used.system < 2


async def test_the_cpu_time_of_a_child_that_nobody_waited_for_is_not_counted(measure: Measure) -> None:
    used = await measure(burn(0.5) + " & exit 0")
    assert used.user + used.system < 0.5


async def test_the_peak_of_memory_is_that_of_the_largest_process(measure: Measure) -> None:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 64 * 1024**2
    allocate = f"{sys.executable} -c 'len(bytes(1) * {size})'"
    used = await measure(f"{allocate}; {allocate}; true")
    assert size < used.memory < size + 64 * 1024**2


async def test_a_peak_of_memory_that_may_be_the_daemon_s_own_is_not_told(measure: Measure) -> None:
    assert (await measure("true")).memory == 0


async def test_what_exits_inside_the_spawn_says_what_it_used(measure: Measure) -> None:
    used = await measure("exec " + burn(0.2), is_patient=True)
    assert used.user + used.system >= 0.2


async def test_on_the_public_way_nobody_knows_what_was_used(reactor: Any) -> None:
    for is_patient in (False, True):
        watcher, _ = starter(reactor, False)("true", is_patient=is_patient)
        assert await watcher.ended == 0
        assert watcher.used is None


async def test_what_somebody_else_has_reaped_is_waited_for_as_twisted_does(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = set()

    def refuse(pid: int, options: int) -> Any:
        refusals.add(pid)
        raise ChildProcessError

    with monkeypatch.context() as patch:
        patch.setattr(os, "wait4", refuse)
        watcher, started = starter(reactor, True)("true", is_patient=True)
        transport = await started
        process.reapAllProcesses()
    assert (refusals, watcher.exits) == ({transport.pid}, 0)
    process.reapAllProcesses()
    assert await watcher.ended == 0


async def test_a_dead_child_that_is_not_ours_hides_nobody(reactor: Any) -> None:
    other = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221 - it ends at once
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - as above
    start = starter(reactor, True)
    watchers = [start(f"exit {code}")[0] for code in (3, 4)]
    assert [await watcher.ended for watcher in watchers] == [3, 4]
    assert os.waitpid(other, 0) == (other, 0)  # noqa: ASYNC222 - as above


class Noting(Subscriber):
    """Notes its exit among the rounds; if it ``has_bug`` that raises."""

    def __init__(self, told: list[str], has_bug: bool = False) -> None:
        super().__init__()
        self._told = told
        self._has_bug = has_bug

    def batch_started(self) -> None:
        self._told.append("begin")

    def processExited(self, reason: Failure) -> None:
        self._told.append("exit")
        if self._has_bug:
            raise ZeroDivisionError("a bug")

    def batch_ended(self) -> None:
        self._told.append("end")


async def test_those_who_have_exited_end_in_one_round_whatever_one_is_told_comes_to(
    reactor: Any, logged_errors: LeakWatch
) -> None:
    told: list[str] = []
    watchers = [Noting(told, has_bug=number == 0) for number in range(3)]
    mine = spawn.Spawner(reactor, BatchScope(watchers[0]), is_fast=True)
    stdin, writing = os.pipe()
    line = ["/bin/sh", "-c", "read -r _"]
    started = [await mine.spawn(watcher, line, ENVIRONMENT, stdin) for watcher in watchers]
    told.clear()
    os.close(writing)
    for child in started:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends at once
    process.reapAllProcesses()
    assert told == ["begin", "exit", "exit", "exit", "end"]
    for watcher in watchers:
        await watcher.ended
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    os.close(stdin)
    mine.stop()


async def test_a_process_that_cannot_be_taken_in_is_ended_and_its_spawn_fails(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def refuse(_: Any, protocol: Any, pid: int, ends: tuple[int, int]) -> None:
        taken.append(pid)
        raise ZeroDivisionError("a bug")

    mine = spawn.Spawner(reactor, BatchScope(), is_fast=True)
    monkeypatch.setattr(mine._children, "add", partial(refuse, mine))
    stdin = os.open(os.devnull, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        await mine.spawn(Subscriber(), ["/bin/sleep", "300"], ENVIRONMENT, stdin)
    assert str(taken[0]) not in os.listdir("/proc")
    mine.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(stdin)


async def test_a_spawn_for_which_there_is_no_thread_fails_and_leaves_no_pipe(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "can't start new thread")

    mine = spawn.Spawner(reactor, BatchScope(), is_fast=True)
    monkeypatch.setattr(mine._workers, "call", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        mine.spawn(Subscriber(), ["/bin/true"], ENVIRONMENT, 0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_of_two_spawners_each_hears_of_its_own(reactor: Any) -> None:
    first, second = (starter(reactor, True) for _ in range(2))
    lasting, _ = first("sleep 0.1; exit 1")
    for code in (2, 3):
        assert await second(f"exit {code}")[0].ended == code
    assert await lasting.ended == 1


async def test_a_start_time_that_is_known_is_the_one_that_proc_tells(reactor: Any) -> None:
    known = []
    for _ in range(20):
        watcher, started = starter(reactor, True)("read -r _", stdin="/dev/zero")
        transport = await started
        if watcher.started is not None:
            known.append(watcher.started == proc.start_time(transport.pid))
        os.kill(transport.pid, signal.SIGKILL)
        await watcher.ended
    assert set(known) == {True}, "most are"


async def test_a_start_time_is_not_known_where_the_clock_went_on_meanwhile(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "ticks", iter(range(2)).__next__)
    watcher, _ = starter(reactor, True)("true")
    assert await watcher.ended == 0
    assert watcher.started is None


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
async def test_limits_hold(start: Spawn, limits: dict[str, Any], command: str, end: int, said: bytes) -> None:
    watcher, _ = start(command_line(replace(PLAIN, command=command, **limits)))
    assert await watcher.ended == end
    assert said in watcher.printed[2]


async def test_however_many_descriptors_are_open_a_child_has_only_its_streams(start: Spawn) -> None:
    open_ones = [os.open(os.devnull, os.O_RDONLY) for _ in range(500)]
    watcher, _ = start("ls /proc/self/fd | wc -l; echo oh >&2")
    assert await watcher.ended == 0
    assert (watcher.printed[1].strip(), watcher.printed[2]) == (b"4", b"oh\n"), (
        "0 to 2, and the listing's own"
    )
    for descriptor in open_ones:
        os.close(descriptor)


# Which way.


def test_the_fast_way_is_known_here() -> None:
    """A Twisted that is not known costs speed in silence: this says so where the tests are run."""
    assert spawn.IS_FAST_WAY_KNOWN


@pytest.mark.parametrize("other", [None, lambda: None, lambda more: None])
def test_a_twisted_that_does_not_ask_to_reap_is_not_taken_the_fast_way(
    monkeypatch: pytest.MonkeyPatch, other: Any
) -> None:
    assert spawn._is_known()
    monkeypatch.setattr(process, "reapAllProcesses", other)
    assert not spawn._is_known()


async def test_a_stop_waits_for_the_spawns_that_are_asked_for(reactor: Any) -> None:
    mine = spawn.Spawner(reactor, BatchScope(), is_fast=True)
    watchers = [Subscriber() for _ in range(5)]
    with open(os.devnull, "rb") as stdin:  # noqa: ASYNC230 - it never waits
        started = [mine.spawn(watcher, ["/bin/true"], ENVIRONMENT, stdin.fileno()) for watcher in watchers]
        mine.stop()
        for one in started:
            await one
    assert [await watcher.ended for watcher in watchers] == [0] * 5


def test_a_c_library_that_is_not_known_is_not_taken_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spawn._is_known()
    monkeypatch.setattr(posix_spawn, "is_known", lambda: False)
    assert not spawn._is_known()


def test_a_c_library_that_lacks_something_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert posix_spawn.is_known()
    assert not posix_spawn._has_all(object())
    monkeypatch.setattr(posix_spawn, "_ATTRIBUTES", None)
    assert not posix_spawn.is_known()


def test_a_c_library_that_makes_no_session_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_spawn, "_SETSID", 0)
    monkeypatch.setattr(posix_spawn, "_ATTRIBUTES", posix_spawn._attributes())
    assert not posix_spawn.is_known()


# What is inherited.


def test_free_standard_descriptors_are_taken() -> None:
    code = (
        "import os; os.close(0); os.close(2)\n"
        "from taskqd.speedups.spawn import close_on_exec\n"
        "close_on_exec()\n"
        "print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)])\n"
        "print([os.get_inheritable(n) for n in (0, 1, 2)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "['/dev/null', '/dev/null']\n[True, True, True]\n"
