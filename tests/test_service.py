"""The daemon put together: its options, what it refuses in one line, and starts and stops in one process."""

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface.verify import verifyObject

from taskqd import __version__, processes, service
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.events import FORMAT, Ended, Event, Opened, Spawned, Started, Submitted
from taskqd.interfaces import IExecutor, ISpool, IStore
from taskqd.job import Job, Spec, Status
from taskqd.journal import encode
from taskqd.processes import Marked
from taskqd.service import Options, TaskqService, makeService
from taskqd.settings import Settings
from tests.fakes import START, replayed

OPTIONS: Any = Options
"""Options as mypy may see them: what they inherit has no types."""

# Options.


@pytest.fixture(name="home")
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory of a user who is not root, in which nothing is set."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def parsed(*words: str) -> Settings:
    options = OPTIONS()
    options.parseOptions(list(words))
    settings: Settings = options.settings
    return settings


def refused(*words: str) -> str:
    """Return the one line with which a start by these words ends."""
    with pytest.raises(SystemExit) as end:
        parsed(*words)
    text = str(end.value.code)
    assert text.startswith("taskqd: ")
    assert "\n" not in text
    return text


def test_without_options_any_user_has_a_daemon(home: Path) -> None:
    state = home / ".local" / "state" / "taskqd"
    assert parsed() == Settings(
        state=str(state), listen=(f"unix:{state}/taskq.sock",), slots=len(os.sched_getaffinity(0))
    )


def test_the_places_of_the_user_are_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert (parsed().state, parsed().listen) == ("/s/taskqd", ("unix:/r/taskqd/taskq.sock",))


def test_root_has_the_places_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (parsed().state, parsed().listen) == ("/var/lib/taskqd", ("unix:/run/taskqd/taskq.sock",))


def test_every_option_sets_what_it_says(home: Path) -> None:
    settings = parsed("--state", "/s", "--slots", "3", "--listen", "tcp:9500", "--listen", "unix:/x:mode=660")
    assert settings == Settings(state="/s", listen=("tcp:9500", "unix:/x:mode=660"), slots=3)


def test_the_default_socket_follows_the_state(home: Path) -> None:
    assert parsed("--state", "/s").listen == ("unix:/s/taskq.sock",)


def test_a_relative_state_is_taken_from_here_whatever_the_daemon_s_directory_will_be(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert parsed("--state", "here/it/is").state == f"{home}/here/it/is"


def test_a_file_has_the_same_settings_and_options_win_over_it(home: Path) -> None:
    file = home / "taskqd.toml"
    file.write_text('state = "/f"\nslots = 7\nlisten = ["tcp:1", "tcp:2"]\n')
    assert parsed("--config", str(file)) == Settings(state="/f", listen=("tcp:1", "tcp:2"), slots=7)
    assert parsed("-c", str(file), "--slots", "2").slots == 2
    assert parsed("-c", str(file), "--state", "/o").state == "/o"
    assert parsed("-c", str(file), "--listen", "tcp:3").listen == ("tcp:3",)
    file.write_text('state = "/f"\n')
    assert parsed("-c", str(file)).listen == ("unix:/f/taskq.sock",)


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--slots", "0"], ["twistd taskq: slots", "a whole number from 1", "not 0"]),
        (["--slots", "-1"], ["twistd taskq: slots", "not '-1'"]),
        (["--slots", "many"], ["twistd taskq: slots", "not 'many'"]),
        (["--slots", ""], ["twistd taskq: slots"]),
        (["--slots", "10001"], ["twistd taskq: slots", "to 10000"]),
        (["--state", ""], ["twistd taskq: state"]),
        (["--state", "a\0b"], ["twistd taskq: state"]),
        (["--listen", ""], ["twistd taskq: listen"]),
        (["--listen", "nowhere"], ["twistd taskq: listen", "'nowhere'"]),
        (["--listen", "tcp:port"], ["twistd taskq: listen", "'tcp:port'"]),
        (["--config", "/nonexistent.toml"], ["/nonexistent.toml cannot be read", "No such file"]),
    ],
)
def test_a_wrong_option_ends_the_start_in_one_line(home: Path, words: list[str], parts: list[str]) -> None:
    text = refused(*words)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "content, part",
    [
        (b"slots = 0\n", "slots must be"),
        (b"slots = '4'\n", "slots must be"),
        (b"state = 5\n", "state must be"),
        (b"listen = []\n", "listen must be"),
        (b"listen = 'nowhere'\n", "'nowhere' is no endpoint"),
        (b"colour = 'red'\n", "colour is no setting"),
        (b"slots = \n", "is not TOML"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_wrong_setting_in_the_file_is_refused_by_file_and_key(
    home: Path, content: bytes, part: str
) -> None:
    file = home / "taskqd.toml"
    file.write_bytes(content)
    text = refused("--config", str(file))
    assert str(file) in text
    assert part in text


def test_an_unknown_option_is_a_usage_error(home: Path) -> None:
    with pytest.raises(UsageError, match="colour"):
        OPTIONS().parseOptions(["--colour", "red"])


def test_help_is_a_page_with_every_option_and_an_example() -> None:
    text = str(Options())
    for part in ("--state", "--slots", "--listen", "--config", "twistd -n taskq", "token"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        OPTIONS().parseOptions(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"taskqd {__version__}\n"


# makeService.


def made(state: Path, parent: dict[str, Any] | None = None, *words: str) -> TaskqService:
    options = OPTIONS()
    options.parent = parent
    options.parseOptions(["--state", str(state), "--listen", f"unix:{state}/s", "--slots", "2", *words])
    return makeService(options)


def test_making_the_service_opens_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    taskq = made(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) == before
    verifyObject(IStore, taskq._store)
    verifyObject(ISpool, taskq._spool)
    verifyObject(IExecutor, taskq._executor)


@pytest.mark.parametrize(
    "parent, owner, is_daemon",
    [
        (None, None, False),
        ({"uid": None, "gid": None, "nodaemon": True}, None, False),
        ({"uid": None, "gid": None, "nodaemon": False}, None, True),
        ({"uid": 0, "gid": None, "nodaemon": 0}, (0, 0), True),
        ({"uid": 65_534, "gid": 7, "nodaemon": 1}, (65_534, 7), False),
    ],
)
def test_the_service_knows_to_whom_twistd_is_going_to_drop(
    tmp_path: Path, parent: dict[str, Any] | None, owner: tuple[int, int] | None, is_daemon: bool
) -> None:
    taskq = made(tmp_path / "state", parent)
    assert (taskq._owner, taskq._is_daemon) == (owner, is_daemon)


def test_directories_are_made_for_whom_the_daemon_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *args: given.append(args))
    words = ["--listen", f"unix:{tmp_path}/run/s", "--listen", "tcp:0", "--listen", "unix:relative.sock"]
    made(tmp_path / "state", {"uid": 65_534, "gid": 7}, *words).privilegedStartService()
    assert given == [(f"{tmp_path}/state", 65_534, 7), (f"{tmp_path}/run", 65_534, 7)]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    given.clear()
    made(tmp_path / "state", {"uid": 65_534, "gid": 7}, *words).privilegedStartService()
    assert given == []


# Starts and stops, with the real reactor.


class Talk(Protocol):
    """Says something, closes its half, and gathers what comes until the end."""

    def __init__(self, sent: bytes) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()
        self._sent = sent

    def connectionMade(self) -> None:
        self.transport.write(self._sent)  # type: ignore[union-attr]
        self.transport.loseWriteConnection()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.ended.callback(self.received)


class Site:
    """A state directory, and daemons on it one after the other."""

    def __init__(self, state: Path, reactor: Any) -> None:
        self.state = state
        self.running: list[TaskqService] = []
        self._reactor = reactor

    def start(self, *words: str) -> TaskqService:
        taskq = made(self.state, None, *words)
        self.running.append(taskq)
        taskq.privilegedStartService()
        taskq.startService()
        return taskq

    async def stop(self) -> None:
        await self.running.pop().stopService()

    async def begin(self, sent: bytes) -> Talk:
        talk = Talk(sent)
        await connectProtocol(UNIXClientEndpoint(self._reactor, f"{self.state}/s"), talk)
        return talk

    async def talk(self, sent: bytes) -> list[str]:
        return (await (await self.begin(sent)).ended).decode().splitlines()


@pytest.fixture(name="site")
def a_site(tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    site = Site(tmp_path / "state", reactor)
    yield site
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert site.running == [], "the test left a daemon running"


def journal(state: Path, *events: Event, boot: str = "b") -> None:
    """Write the journal of a daemon that was killed."""
    (state / "journal").mkdir(parents=True)
    opened = Opened(at=START, format=FORMAT, store="s", boot=boot, next_id=1)
    lines = [encode(record, number) for number, record in enumerate((opened, *events), 1)]
    (state / "journal" / "00000001.journal").write_bytes(b"".join(lines))


def submitted(job_id: int, command: str = "true") -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", spec=Spec(command=command))


async def test_a_daemon_takes_runs_remembers_and_answers(site: Site) -> None:
    site.start()
    assert await site.talk(b"SUBMIT echo hello; echo oh >&2; exit 3\nWAIT 1\nRESULT 1\n") == [
        "JOB_ID 1",
        "STATUS FAILED 0",
        'RESULT "hello\\n" "oh\\n" 3',
    ]
    await site.stop()
    site.start()
    assert await site.talk(b"RESULT 1\nSUBMIT --stdin=2 --script=4 \ncat \r\nhi\r\nWAIT 2\nRESULT 2\n") == [
        'RESULT "hello\\n" "oh\\n" 3',
        "JOB_ID 2",
        "STATUS COMPLETED 100",
        'RESULT "hi" "" 0',
    ]
    await site.stop()


async def test_what_it_makes_is_for_its_owner_alone(site: Site) -> None:
    site.start()
    modes = {path.name: path.stat().st_mode & 0o777 for path in [site.state, *site.state.iterdir()]}
    assert modes == {
        **dict.fromkeys(("state", "journal", "output", "input", "progress"), 0o700),
        **dict.fromkeys(("lock", "token", "s"), 0o600),
    }
    await site.stop()
    assert not (site.state / "s").exists()


async def test_pending_jobs_of_the_last_daemon_run_and_ids_go_on(site: Site) -> None:
    journal(site.state, submitted(1, "echo 1"), submitted(2, "echo 2"))
    site.start()
    assert await site.talk(b"WAIT 1\nWAIT 2\nRESULT 2\nSUBMIT true\n") == [
        "STATUS COMPLETED 100",
        "STATUS COMPLETED 100",
        'RESULT "2\\n" "" 0',
        "JOB_ID 3",
    ]
    await site.stop()


async def test_a_job_that_a_crash_cut_off_is_interrupted(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1))
    site.start()
    assert await site.talk(b"STATUS 1\n") == ["STATUS FAILED 0"]
    assert "job 1 was interrupted and is FAILED now" in caplog.text
    await site.stop()


async def test_a_stop_ends_what_runs_and_whoever_waits_for_it_is_answered(site: Site) -> None:
    site.start()
    assert await site.talk(b"SUBMIT exec sleep 100\n") == ["JOB_ID 1"]
    waiting = await site.begin(b"WAIT 1\nSTATUS 1\n")
    await site.talk(b"PING\n")
    await site.stop()
    assert (await waiting.ended).decode().splitlines() == ["STATUS FAILED 0"] * 2
    site.start()
    assert '"reason":"interrupted"' in (await site.talk(b"SHOW 1\n"))[0]
    await site.stop()


async def test_a_second_signal_kills_what_takes_its_time(site: Site, reactor: Any) -> None:
    site.start()
    await site.talk(b"SUBMIT --kill-after=1h trap '' TERM; echo ready; while :; do sleep 1; done\n")
    while "ready" not in await site.talk(b"OUTPUT 1 stdout\n"):
        pass
    stopping = Deferred.fromCoroutine(site.stop())
    await deferLater(reactor, 0.05)
    assert not stopping.called
    signal.raise_signal(signal.SIGTERM)
    await stopping


async def test_a_stop_does_not_wait_for_ever(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_PATIENCE", 0.05)
    site.start()
    await site.talk(b"SUBMIT --kill-after=1h trap '' TERM; echo ready; while :; do sleep 1; done\n")
    while "ready" not in await site.talk(b"OUTPUT 1 stdout\n"):
        pass
    await site.stop()


async def test_a_second_daemon_on_the_same_state_is_refused_by_its_pid(site: Site) -> None:
    site.start()
    assert refused("--state", str(site.state)) == (
        f"taskqd: another daemon, pid {os.getpid()}, already runs on the state directory {site.state}"
    )
    await site.stop()
    parsed("--state", str(site.state))


# Starts that are refused.


async def refuse_start(site: Site, kind: type[StartRefused] = StartRefused, *words: str) -> str:
    """Return why a start is refused, having let go of what it had opened."""
    with pytest.raises(kind) as refusal:
        site.start(*words)
    [taskq] = site.running
    site.running.clear()
    thread = taskq._store._committer._thread
    if thread is not None and thread.is_alive():
        await taskq._store.close()
    elif taskq._store._lock is not None:
        os.close(taskq._store._lock)
    assert sys.excepthook is service._say_in_one_line
    text = str(refusal.value)
    assert "\n" not in text
    return text


async def test_a_damaged_journal_refuses_the_start_by_file_and_line(site: Site) -> None:
    journal(site.state, submitted(1))
    path = site.state / "journal" / "00000001.journal"
    path.write_bytes(path.read_bytes().replace(b"true", b"trve"))
    assert f"{path}, line 2" in await refuse_start(site, JournalDamaged)


async def test_a_journal_whose_story_cannot_be_refuses_the_start_by_file_and_line(site: Site) -> None:
    journal(site.state, submitted(1), Ended(id=1, at=START, status=Status.COMPLETED))
    path = site.state / "journal" / "00000001.journal"
    assert f"{path}, line 3" in await refuse_start(site, JournalDamaged)


async def test_a_spool_that_cannot_be_used_refuses_the_start(site: Site) -> None:
    site.state.mkdir()
    (site.state / "output").write_bytes(b"")
    assert f"the state directory {site.state} cannot be used" in await refuse_start(site)


async def test_a_state_directory_that_cannot_be_made_refuses_the_start(site: Site) -> None:
    site.state.write_bytes(b"")
    assert "cannot" in await refuse_start(site)


async def test_one_listener_that_is_refused_refuses_the_start_and_closes_the_others(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "t").write_bytes(b"")
    assert f"{tmp_path}/t is there and is no socket" in await refuse_start(
        site, StartRefused, "--listen", f"unix:{tmp_path}/t"
    )
    assert not (site.state / "s").exists()


async def test_a_port_that_is_taken_refuses_the_start(site: Site, reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    endpoint = f"tcp:{port.getHost().port}:interface=127.0.0.1"
    assert f"{endpoint} cannot be listened on" in await refuse_start(site, StartRefused, "--listen", endpoint)
    await port.stopListening()


async def test_a_daemon_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    await made(tmp_path / "state").stopService()


async def test_a_daemon_says_in_its_log_why_it_does_not_start(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.state.mkdir()
    (site.state / "token").write_bytes(b"")
    taskq = TaskqService(
        Settings(state=str(site.state), listen=("tcp:0",), slots=1), site._reactor, None, True
    )
    with pytest.raises(StartRefused):
        taskq.startService()
    assert "the start is refused" in caplog.text
    os.close(taskq._store._lock or -1)


def test_a_refusal_is_one_line_and_a_bug_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", said)
    service._say_in_one_line(StartRefused, StartRefused("no"), None)
    assert said.getvalue() == "taskqd: no\n"
    bugs: list[Any] = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *args: bugs.append(args))
    why = ZeroDivisionError()
    service._say_in_one_line(ZeroDivisionError, why, None)
    assert bugs == [(ZeroDivisionError, why, None)]


# What a crash left running.

STARTED: list[Event] = [
    submitted(1),
    Started(id=1, at=START, attempt=1),
    Spawned(id=1, at=START, pid=101, started=77),
    submitted(2),
    Started(id=2, at=START, attempt=1),
    Spawned(id=2, at=START, pid=102, started=77),
    Ended(id=2, at=START, status=Status.COMPLETED),
    submitted(3),
]


def ended_leftovers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    marked: list[Marked],
    started: int | None = 77,
    boot: str = "same",
) -> list[int]:
    """Return the pids that are killed before anything runs, where a crash left these processes."""
    killed: list[int] = []

    def kill_all(pids: list[int], seconds: float) -> list[int]:
        killed.extend(pids)
        return pids

    monkeypatch.setattr(processes, "boot_id", lambda: "same")
    monkeypatch.setattr(processes, "marked", lambda store: iter(marked))
    monkeypatch.setattr(processes, "start_time", lambda pid: started)
    monkeypatch.setattr(processes, "kill_all", kill_all)
    taskq = made(tmp_path / "state")
    taskq._store.last_boot = boot
    taskq._end_leftovers(replayed(STARTED))
    return killed


@pytest.mark.parametrize(
    "one, is_ended",
    [
        (Marked(500, 101, 1, 1), True),
        (Marked(500, 500, 1, 1), True),
        (Marked(500, 102, 2, 1), True),
        (Marked(500, 500, 2, 1), False),
        (Marked(500, 500, 3, 1), True),
        (Marked(500, 500, 9, 1), True),
    ],
)
def test_a_marked_process_is_ended_if_its_attempt_was_interrupted_or_it_is_still_in_its_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one: Marked, is_ended: bool
) -> None:
    assert ended_leftovers(monkeypatch, tmp_path, [one], started=0) == ([500] if is_ended else [])


@pytest.mark.parametrize("leader, pids", [(None, [500]), (78, [])])
def test_of_an_earlier_attempt_what_has_lost_its_leader_is_a_leftover(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, leader: int | None, pids: list[int]
) -> None:
    assert ended_leftovers(monkeypatch, tmp_path, [Marked(500, 90, 1, 0)], leader) == pids


@pytest.mark.parametrize("started, boot, pids", [(77, "same", [101]), (78, "same", []), (77, "another", [])])
def test_a_pid_is_ended_if_it_started_then_and_in_this_boot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: int, boot: str, pids: list[int]
) -> None:
    assert ended_leftovers(monkeypatch, tmp_path, [], started, boot) == pids


def test_what_does_not_end_is_told_to_the_operator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended_leftovers(monkeypatch, tmp_path, [Marked(500, 101, 1, 1)])
    assert "process 500 of an interrupted job does not end" in caplog.text


# What a job is given.


def test_a_job_s_environment_is_small_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    made = service._base_environment()
    assert set(made) == {"PATH", "HOME", "LANG", "USER", "SHELL"}
    assert (made["LANG"], made["SHELL"], made["PATH"]) == ("de_DE.UTF-8", "/bin/sh", service.PATH)
    monkeypatch.delenv("LANG")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    made = service._base_environment()
    assert (made["HOME"], made["USER"], made["LANG"]) == ("/", "4000000", "C.UTF-8")


@pytest.mark.parametrize("umask, asked", [(0o022, None), (0o077, 0o077)])
def test_a_run_is_built_of_what_was_asked_for(tmp_path: Path, umask: int, asked: int | None) -> None:
    taskq = made(tmp_path / "state")
    spec = Spec(
        command="true", cwd="/tmp", umask=umask, nice=3, timeout=9.0, kill_after=1.0, stdin=2, env={"A": "1"}
    )
    job = Job(id=7, spec=spec, owner="ada", submitted_at=START)
    run = service._make_run(taskq._spool, taskq._store, {"B": "2"}, 0o022, job, 2)
    assert (run.id, run.attempt, run.command, run.script, run.is_executable) == (7, 2, "true", None, False)
    assert (run.cwd, run.umask, run.nice, run.timeout, run.kill_after) == ("/tmp", asked, 3, 9.0, 1.0)
    assert run.stdin == taskq._spool.path(7, "stdin")
    assert (run.env["A"], run.env["B"], run.env["TASKQ_ATTEMPT"]) == ("1", "2", "2")


@pytest.mark.parametrize("mode", [0o600, 0o700])
def test_a_script_runs_itself_if_it_may(tmp_path: Path, mode: int) -> None:
    taskq = made(tmp_path / "state")
    path = Path(taskq._spool.path(7, "script"))
    path.parent.mkdir(parents=True)
    path.touch(mode)
    job = Job(id=7, spec=Spec(script=0), owner="ada", submitted_at=START)
    run = service._make_run(taskq._spool, taskq._store, {}, 0o022, job, 1)
    assert (run.command, run.script, run.is_executable) == (None, str(path), mode == 0o700)
