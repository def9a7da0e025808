"""Real processes, spawned by the accelerated reactor and by Twisted's own."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.execution.command_line import command_line
from taskqd.speedups import child_process, posix_spawn, spawn
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.reactor import AcceleratedReactor
from taskqd.speedups.spawn import Spawner
from tests.fakes.processes import make_run
from tests.support import other_users
from tests.support.leaks import LeakWatch

WAYS = [
    pytest.param(True, id="accelerated"),
    pytest.param(False, id="plain", marks=pytest.mark.needs("setsid")),
]
ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Subscriber(ProcessProtocol):
    """Collects what a process prints; ``ended`` fires with its exit code, or minus the signal.

    ``running`` fires with the transport when the process is reported as running, or with the failure of its
    start. If it ``is_patient``, the process has exited before its start returns.
    """

    def __init__(self, is_patient: bool = False, pipe_owner: int | None = None) -> None:
        self.pipe_owner = pipe_owner
        self.started: int | None = None
        self.rusage: resource.struct_rusage | None = None
        self.printed = {1: b"", 2: b""}
        self.exits = 0
        self.on_data: Callable[[], object] = lambda: None
        self.running: Deferred[Any] = Deferred()
        self.ended: Deferred[int] = Deferred()
        self._is_patient = is_patient

    def connectionMade(self) -> None:
        if self._is_patient:
            transport: Any = self.transport
            os.waitid(os.P_PID, transport.pid, os.WEXITED | os.WNOWAIT)

    def processRunning(self) -> None:
        self.running.callback(self.transport)

    def processNotStarted(self, failure: Failure) -> None:
        self.running.errback(failure)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.printed[childFD] += data
        self.on_data()

    def processExited(self, reason: Failure) -> None:
        self.exits += 1

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        code, number = (end.exitCode, end.signal) if isinstance(end, ProcessTerminated) else (0, None)
        self.ended.callback(-number if number else code)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


Spawn = Callable[..., Subscriber]


@cache
def accelerated(reactor: Any, starts_sessions: bool) -> AcceleratedReactor:
    """Return the one reactor of its way that all tests use, and so its threads."""
    return AcceleratedReactor(reactor, starts_sessions=starts_sessions)


@pytest.fixture(autouse=True, scope="module")
def the_threads_of_all_tests(reactor: Any) -> Iterator[None]:
    fast = accelerated(reactor, starts_sessions=True)
    fast._spawner._workers.call(lambda: (0, None), lambda _: None)
    yield
    fast.stop_spawning()


def starter(reactor: Any, starts_sessions: bool) -> Spawn:
    """Return a function that starts a shell command or an argument list, and returns its Subscriber."""

    def start(
        command: str | list[str],
        environment: dict[str, str] = ENVIRONMENT,
        stdin: str = os.devnull,
        subscriber: Subscriber | None = None,
    ) -> Subscriber:
        subscriber = subscriber or Subscriber()
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        words = [encode(word) for word in (argv if starts_sessions else ["setsid", *argv])]
        env = {encode(name): encode(value) for name, value in environment.items()}
        descriptor = os.open(stdin, os.O_RDONLY)
        try:
            accelerated(reactor, starts_sessions=starts_sessions).spawnProcess(
                subscriber, words[0], words, env=env, childFDs={0: descriptor, 1: "r", 2: "r"}
            )
        except (OSError, TypeError):
            subscriber.processNotStarted(Failure())
        else:
            if not starts_sessions:
                subscriber.processRunning()
        finally:
            os.close(descriptor)
        return subscriber

    return start


@pytest.fixture(name="start", params=WAYS)
def the_way(request: pytest.FixtureRequest, reactor: Any) -> Spawn:
    """Return what ``starter`` does, each way."""
    return starter(reactor, request.param)


async def test_process_is_the_leader_of_a_new_session_and_group(start: Spawn) -> None:
    subscriber = start("cut -d' ' -f1,5,6 /proc/$$/stat")
    assert await subscriber.ended == 0
    pid, group, session = map(int, subscriber.printed[1].split())
    assert pid == group == session != os.getsid(0)


async def test_streams_are_kept_apart_and_byte_exact(start: Spawn, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_bytes(bytes(range(256)) * 1000)
    subscriber = start("cat; head -c 1000000 /dev/zero >&2", stdin=str(tmp_path / "stdin"))
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: bytes(range(256)) * 1000, 2: bytes(1_000_000)}


@pytest.mark.parametrize(
    "command, end", [("true", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$; sleep 9", -15)]
)
async def test_exit_is_reported_once_with_its_code_or_signal(start: Spawn, command: str, end: int) -> None:
    subscriber = start(command)
    assert await subscriber.ended == end
    assert subscriber.exits == 1


async def test_process_gets_exactly_the_given_environment(start: Spawn) -> None:
    given = {"PATH": ENVIRONMENT["PATH"], "A": 'it\'s  "1"', "B": "é日本", "C": "\udcff", "É": ""}
    subscriber = start(["/usr/bin/env", "-0"], given)
    assert await subscriber.ended == 0
    expected = {encode(f"{name}={value}") for name, value in given.items()}
    assert set(subscriber.printed[1].split(b"\0")[:-1]) == expected


async def test_arguments_arrive_byte_exact(start: Spawn) -> None:
    subscriber = start(["/usr/bin/printf", "%s|", "é日本", "\udcff", "a  b", ""])
    assert await subscriber.ended == 0
    assert subscriber.printed[1] == "é日本|".encode() + b"\xff|a  b||"


async def test_process_inherits_no_descriptor_but_its_streams(start: Spawn, tmp_path: Path) -> None:
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


async def test_process_has_only_its_streams_with_many_open_descriptors(start: Spawn) -> None:
    open_ones = [os.open(os.devnull, os.O_RDONLY) for _ in range(500)]
    subscriber = start("ls /proc/self/fd | wc -l; echo oh >&2")
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: b"4\n", 2: b"oh\n"}, "0 to 2, and the listing's own"
    for descriptor in open_ones:
        os.close(descriptor)


async def test_process_ignores_and_blocks_no_signal(start: Spawn) -> None:
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


async def test_short_processes_are_each_reported_once(start: Spawn) -> None:
    subscribers = [start(["/bin/true"]) for _ in range(60)]
    for subscriber in subscribers:
        assert await subscriber.ended == 0
        assert subscriber.exits == 1


async def test_process_that_exits_during_its_spawn_is_reported_once(start: Spawn) -> None:
    subscriber = start("echo hello; exit 3", subscriber=Subscriber(is_patient=True))
    assert await subscriber.ended == 3
    assert (subscriber.exits, subscriber.printed[1]) == (1, b"hello\n")


async def test_missing_program_fails_the_start_or_exits_with_127_and_leaks_nothing(start: Spawn) -> None:
    before = len(os.listdir("/proc/self/fd"))
    subscriber = start(["/nonexistent/program"])
    try:
        await subscriber.running
    except OSError as why:
        assert isinstance(why, FileNotFoundError)  # noqa: PT017 - one way fails, the other exits
    else:
        assert await subscriber.ended == 127
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("argv, value", [(["/bin/true", "a\0b"], "fine"), (["/bin/true"], "a\0b")])
async def test_nul_is_refused_and_not_cut_short(start: Spawn, argv: list[str], value: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((ValueError, TypeError)):
        await start(argv, {"A": value}).running
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("opened", [0, 1])
async def test_failure_to_open_a_pipe_leaks_nothing(
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
        await start("true").running
    assert len(os.listdir("/proc/self/fd")) == before


async def test_empty_pipe_is_read_again_later(start: Spawn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    subscriber = start("cat", stdin=str(tmp_path / "stdin"))
    transport = await subscriber.running
    transport.resumeProducing()
    assert transport.pipes[1].doRead() is None
    os.write(holder, b"later")
    os.close(holder)
    assert await subscriber.ended == 0
    assert subscriber.printed[1] == b"later"


async def test_output_of_running_process_is_read(start: Spawn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    holder = os.open(tmp_path / "stdin", os.O_RDWR)
    subscriber = start("echo here; echo there >&2; read line", stdin=str(tmp_path / "stdin"))
    is_read: Deferred[None] = Deferred()

    def on_data() -> None:
        if all(subscriber.printed.values()):
            is_read.callback(None)

    subscriber.on_data = on_data
    await is_read
    assert (subscriber.printed, subscriber.exits) == ({1: b"here\n", 2: b"there\n"}, 0)
    os.write(holder, b"go\n")
    os.close(holder)
    assert await subscriber.ended == 0


async def test_output_of_grandchild_after_the_exit_is_read(start: Spawn) -> None:
    subscriber = start("(sleep 0.1; echo later) & exit 3")
    assert await subscriber.ended == 3
    assert subscriber.printed[1] == b"later\n"


async def test_paused_process_is_read_only_after_it_is_resumed(reactor: Any) -> None:
    subscriber = starter(reactor, True)("echo here; exec sleep 30")
    transport = await subscriber.running
    transport.pauseProducing()
    await deferLater(reactor, 5 * child_process.READ_DELAY)
    assert subscriber.printed[1] == b""
    transport.resumeProducing()
    is_read: Deferred[None] = Deferred()
    subscriber.on_data = lambda: is_read.callback(None)
    await is_read
    os.kill(transport.pid, signal.SIGKILL)
    assert await subscriber.ended == -signal.SIGKILL


async def test_reading_can_be_paused_and_resumed(start: Spawn) -> None:
    subscriber = start("head -c 300000 /dev/zero")
    transport = await subscriber.running
    transport.pauseProducing()
    transport.resumeProducing()
    assert await subscriber.ended == 0
    assert len(subscriber.printed[1]) == 300_000


@other_users.only_root
@pytest.mark.needs("setpriv")
async def test_pipe_owner_may_open_the_streams_by_name(reactor: Any) -> None:
    user = other_users.user("games")
    drop = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--", "/bin/sh", "-c"]
    command = "echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1"
    start = starter(reactor, True)
    subscriber = start([*drop, command], subscriber=Subscriber(pipe_owner=user.uid))
    assert await subscriber.ended == 0
    assert subscriber.printed == {1: b"out\nmore\n", 2: b"err\n"}
    subscriber = start([*drop, command])
    assert await subscriber.ended != 0, "else the test proves nothing"


# Only the accelerated reactor.


async def test_resource_usage_is_set_before_the_exit_is_reported(reactor: Any) -> None:
    burn = f"exec {sys.executable} -c 'import time\nwhile time.process_time() < 0.2: sum(range(9999))'"
    for is_patient in (False, True):
        subscriber = starter(reactor, True)(burn, subscriber=Subscriber(is_patient))
        assert await subscriber.ended == 0
        assert subscriber.rusage is not None
        assert 0.2 <= subscriber.rusage.ru_utime + subscriber.rusage.ru_stime < 2


async def test_plain_reactor_sets_no_resource_usage(reactor: Any) -> None:
    for is_patient in (False, True):
        subscriber = starter(reactor, False)("true", subscriber=Subscriber(is_patient))
        assert await subscriber.ended == 0
        assert subscriber.rusage is None


async def test_error_in_the_protocol_leaves_no_process_behind(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def fail(_: Subscriber) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Subscriber, "connectionMade", fail)
    subscriber = starter(reactor, True)("exit 3")
    assert await subscriber.ended == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


async def test_error_when_running_is_reported_is_logged(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged_errors: LeakWatch
) -> None:
    def fail(_: Subscriber) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Subscriber, "processRunning", fail)
    subscriber = starter(reactor, True)("exit 3")
    assert await subscriber.ended == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


async def test_process_that_was_reaped_elsewhere_stays_known(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = set()

    def refuse(pid: int, options: int) -> Any:
        refusals.add(pid)
        raise ChildProcessError

    with monkeypatch.context() as patch:
        patch.setattr(os, "wait4", refuse)
        subscriber = starter(reactor, True)("true", subscriber=Subscriber(is_patient=True))
        transport = await subscriber.running
        process.reapAllProcesses()
    assert (refusals, subscriber.exits) == ({transport.pid}, 0)
    process.reapAllProcesses()
    assert await subscriber.ended == 0


async def test_dead_child_of_other_code_hides_no_exit(reactor: Any) -> None:
    other = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221 - it ends at once
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - as above
    start = starter(reactor, True)
    subscribers = [start(f"exit {code}") for code in (3, 4)]
    assert [await subscriber.ended for subscriber in subscribers] == [3, 4]
    assert os.waitpid(other, 0) == (other, 0)  # noqa: ASYNC222 - as above


class BatchRecorder(Subscriber):
    """Records its exit among the batches; with ``is_broken`` that raises."""

    def __init__(self, events: list[str], is_broken: bool = False) -> None:
        super().__init__()
        self._events = events
        self._is_broken = is_broken

    def batch_started(self) -> None:
        self._events.append("begin")

    def processExited(self, reason: Failure) -> None:
        self._events.append("exit")
        if self._is_broken:
            raise ZeroDivisionError("a bug")

    def batch_ended(self) -> None:
        self._events.append("end")


def spawn_with(spawner: Spawner, subscriber: Subscriber, argv: list[bytes], stdin: int) -> "Deferred[Any]":
    return spawner.spawn(subscriber, argv, [encode(f"PATH={ENVIRONMENT['PATH']}")], stdin)


async def test_exits_that_are_found_together_are_one_batch_despite_an_error(
    reactor: Any, logged_errors: LeakWatch
) -> None:
    events: list[str] = []
    subscribers = [BatchRecorder(events, is_broken=number == 0) for number in range(3)]
    spawner = Spawner(reactor, reactor, BatchScope(subscribers[0]))
    stdin, writing = os.pipe()
    argv = [b"/bin/sh", b"-c", b"read -r _"]
    started = [await spawn_with(spawner, subscriber, argv, stdin) for subscriber in subscribers]
    events.clear()
    os.close(writing)
    for child in started:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends at once
    process.reapAllProcesses()
    assert events == ["begin", "exit", "exit", "exit", "end"]
    for subscriber in subscribers:
        await subscriber.ended
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    os.close(stdin)
    spawner.stop()


async def test_process_that_cannot_be_added_is_killed_and_its_spawn_fails(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def refuse(_: Any, protocol: Any, pid: int, ends: tuple[int, int]) -> None:
        pids.append(pid)
        raise ZeroDivisionError("a bug")

    spawner = Spawner(reactor, reactor, BatchScope())
    monkeypatch.setattr(spawner._children, "add", partial(refuse, spawner))
    stdin = os.open(os.devnull, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        await spawn_with(spawner, Subscriber(), [b"/bin/sleep", b"300"], stdin)
    assert str(pids[0]) not in os.listdir("/proc")
    spawner.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(stdin)


async def test_spawn_without_a_thread_fails_and_leaks_nothing(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "can't start new thread")

    spawner = Spawner(reactor, reactor, BatchScope())
    monkeypatch.setattr(spawner._workers, "call", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        spawn_with(spawner, Subscriber(), [b"/bin/true"], 0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_spawn_keeps_stdin_though_the_caller_closes_its_own(reactor: Any, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_bytes(b"still here")
    subscriber = starter(reactor, True)(["/bin/cat"], stdin=str(tmp_path / "stdin"))
    assert await subscriber.ended == 0
    assert subscriber.printed[1] == b"still here"


async def test_two_spawners_each_reap_their_own_children(reactor: Any) -> None:
    spawner = Spawner(reactor, reactor, BatchScope())
    subscriber = Subscriber()
    with open(os.devnull, "rb") as stdin:  # noqa: ASYNC230 - it never waits
        spawn_with(spawner, subscriber, [b"/bin/sh", b"-c", b"sleep 0.1; exit 1"], stdin.fileno())
    for code in (2, 3):
        assert await starter(reactor, True)(f"exit {code}").ended == code
    assert await subscriber.ended == 1
    spawner.stop()


async def test_stop_waits_for_spawns_in_flight(reactor: Any) -> None:
    spawner = Spawner(reactor, reactor, BatchScope())
    subscribers = [Subscriber() for _ in range(5)]
    with open(os.devnull, "rb") as stdin:  # noqa: ASYNC230 - it never waits
        started = [spawn_with(spawner, each, [b"/bin/true"], stdin.fileno()) for each in subscribers]
        spawner.stop()
        for one in started:
            await one
    assert [await subscriber.ended for subscriber in subscribers] == [0] * 5


async def test_known_start_time_is_that_of_proc(reactor: Any) -> None:
    known: list[bool] = []
    while len(known) < 3:  # on a busy machine few spawns take less than a tick of the clock
        subscriber = starter(reactor, True)("read -r _", stdin="/dev/zero")
        transport = await subscriber.running
        if subscriber.started is not None:
            known.append(subscriber.started == proc.start_time(transport.pid))
        os.kill(transport.pid, signal.SIGKILL)
        await subscriber.ended
    assert all(known)


async def test_start_time_is_unknown_if_the_clock_ticks_during_the_spawn(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "_ticks", iter(range(2)).__next__)
    subscriber = starter(reactor, True)("true")
    assert await subscriber.ended == 0
    assert subscriber.started is None


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
    subscriber = start(command_line(make_run(command=command, **limits)))
    assert await subscriber.ended == end
    assert said in subscriber.printed[2]


# Whether it is supported.


def test_fast_spawn_is_supported_here() -> None:
    """A Twisted that is not supported costs speed in silence; this test reports it."""
    assert spawn.is_supported()


@pytest.mark.parametrize("other", [None, lambda: None, lambda more: None])
def test_twisted_that_calls_no_reap_handler_is_not_supported(
    monkeypatch: pytest.MonkeyPatch, other: Any
) -> None:
    monkeypatch.setattr(process, "reapAllProcesses", other)
    assert not spawn.is_supported()


def test_unknown_c_library_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_spawn, "is_supported", lambda: False)
    assert not spawn.is_supported()


def test_c_library_that_lacks_a_function_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert posix_spawn.is_supported()
    assert not posix_spawn._has_all(object())
    monkeypatch.setattr(posix_spawn, "_ATTRIBUTES", None)
    assert not posix_spawn.is_supported()


def test_c_library_that_starts_no_session_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_spawn, "_SETSID", 0)
    monkeypatch.setattr(posix_spawn, "_ATTRIBUTES", posix_spawn._attributes())
    assert not posix_spawn.is_supported()
