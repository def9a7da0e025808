"""The service: starts, stops and refused starts, each in one process with the real reactor."""

import gc
import io
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskqd.auth.token_file import TokenFile
from taskqd.config.settings import Settings
from taskqd.daemon import descriptor_limit, recovery, service, shutdown, signals
from taskqd.daemon.service import TaskqService
from taskqd.engine import retention
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.execution.run_as import RunAs
from taskqd.model.events import FORMAT, Ended, Event, Opened, Started
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.storage.journal import compaction
from taskqd.storage.journal.codec import encode
from taskqd.storage.spool.user_files import UserFiles
from tests.fakes.clocks import START
from tests.unit.daemon.test_recovery import AT_RUNNER, RUNNER, leftover, noted, submitted
from tests.unit.daemon.test_tap import made, parsed, refused

# Starts and stops, with the real reactor.


class Talk(Protocol):
    """A client that sends bytes, closes its half of the connection, and collects the reply."""

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
    """A state directory, and daemons that use it one after the other."""

    def __init__(self, state: Path, reactor: Any) -> None:
        self.state = state
        self.running: list[TaskqService] = []
        self._reactor = reactor

    def start(self, *words: str) -> TaskqService:
        taskq = made(self.state, None, "--on-stop", "interrupt", *words)
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

    async def until_running(self, job: int) -> None:
        """Wait until a runner is there and runs a job."""
        while await self.talk(b"STATUS %d\n" % job) != ["STATUS RUNNING 0"]:
            await deferLater(self._reactor, 0.02)

    async def talk(self, sent: bytes) -> list[str]:
        return (await (await self.begin(sent)).ended).decode().splitlines()


@pytest.fixture(name="site")
def a_site(tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *signals.ignored_signals())
    handlers = {number: signal.getsignal(number) for number in numbers}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    site = Site(tmp_path / "state", reactor)
    yield site
    for number, handler in handlers.items():
        signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert site.running == [], "the test left a daemon running"


def journal(state: Path, *events: Event, boot: str = "b", identity: str = "") -> None:
    """Write a journal as a killed daemon leaves it."""
    state.mkdir(mode=0o700, exist_ok=True)
    (state / "journal").mkdir()
    opened = Opened(at=START, format=FORMAT, store="s", boot=boot, next_id=1, identity=identity)
    lines = [encode(record, number) for number, record in enumerate((opened, *events), 1)]
    (state / "journal" / "00000001.journal").write_bytes(b"".join(lines))


async def test_daemon_runs_jobs_and_knows_them_after_a_restart(site: Site) -> None:
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


async def test_files_of_the_state_directory_are_open_only_to_their_owner(site: Site) -> None:
    site.start()
    modes = {path.name: path.stat().st_mode & 0o777 for path in [site.state, *site.state.iterdir()]}
    assert modes == {
        **dict.fromkeys(("state", "journal", "output", "input", "progress", "runner"), 0o700),
        **dict.fromkeys(("lock", "s", "address"), 0o600),
    }
    await site.stop()
    assert not (site.state / "s").exists()


async def test_pending_jobs_of_the_last_daemon_run_and_ids_continue(site: Site) -> None:
    journal(site.state, submitted(1, "echo 1"), submitted(2, "echo 2"))
    site.start()
    assert await site.talk(b"WAIT 1\nWAIT 2\nRESULT 2\nSUBMIT true\n") == [
        "STATUS COMPLETED 100",
        "STATUS COMPLETED 100",
        'RESULT "2\\n" "" 0',
        "JOB_ID 3",
    ]
    await site.stop()


async def test_job_that_ran_during_a_crash_is_interrupted(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1))
    site.start()
    assert await site.talk(b"STATUS 1\n") == ["STATUS FAILED 0"]
    assert "job 1 has ended while no daemon ran; it is FAILED now" in caplog.text
    await site.stop()


async def test_copy_of_a_state_directory_kills_no_process_and_interrupts_running_jobs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = proc.boot_id()
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1), boot=boot, identity="1:1")
    killed: list[Process] = []

    def kill_all(found: list[Process], seconds: float) -> list[Process]:
        killed.extend(found)
        return []

    monkeypatch.setattr(proc, "scan", lambda since: [leftover(500, "s.1.1")])
    monkeypatch.setattr(proc, "kill_all", kill_all)
    site.start()
    [shown] = await site.talk(b"SHOW 1\n")
    assert '"reason":"interrupted"' in shown
    assert '"detail":"this is a copy or was moved' in shown
    assert killed == []
    await site.stop()


async def test_stop_ends_running_jobs_and_answers_clients_that_wait_for_them(site: Site) -> None:
    site.start("--stop-grace", "0")
    assert await site.talk(b"SUBMIT exec sleep 100\n") == ["JOB_ID 1"]
    await site.until_running(1)
    waiting = await site.begin(b"WAIT 1\nSTATUS 1\n")
    await site.talk(b"PING\n")
    await site.stop()
    assert (await waiting.ended).decode().splitlines() == ["STATUS FAILED 0"] * 2
    site.start()
    [shown] = await site.talk(b"SHOW 1\n")
    assert '"reason":"interrupted"' in shown
    assert '"detail":"the daemon was stopped while it ran"' in shown
    await site.stop()


async def test_stop_gives_running_jobs_the_grace_period_and_refuses_new_jobs(site: Site) -> None:
    site.start("--stop-grace", "30")
    line = f"SUBMIT until [ -e {site.state}/go ]; do sleep 0.02; done; echo the end\n"
    assert await site.talk(line.encode()) == ["JOB_ID 1"]
    await site.until_running(1)
    stopping = Deferred.fromCoroutine(site.stop())
    assert (await site.talk(b"SUBMIT true\nSTATS\n"))[0].startswith("ERROR DRAINING ")
    assert not stopping.called
    (site.state / "go").touch()
    await stopping
    site.start()
    assert await site.talk(b"RESULT 1\n") == ['RESULT "the end\\n" "" 0']
    await site.stop()


async def test_stop_with_requeue_runs_interrupted_jobs_again_after_the_next_start(site: Site) -> None:
    site.start("--stop-grace", "0", "--on-stop", "requeue")
    again = site.state / "again"
    line = f"SUBMIT [ -e {again} ] || {{ touch {again}; exec sleep 100; }}\n"
    assert await site.talk(line.encode()) == ["JOB_ID 1"]
    while not again.exists():
        await site.talk(b"PING\n")
    await site.stop()
    site.start()
    assert await site.talk(b"WAIT 1\n") == ["STATUS COMPLETED 100"]
    assert '"attempts":2' in (await site.talk(b"SHOW 1\n"))[0]
    await site.stop()


async def test_removed_job_loses_its_files_and_its_id_is_not_reused(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.start()
    assert (await site.talk(b"SUBMIT --stdin=2 seq 1 3000\nhi\nWAIT 1\nREMOVE 1\nSTATUS 1\n"))[2:] == [
        "OK",
        "ERROR GONE job 1 has been removed, with its output",
    ]
    await site.stop()
    assert [path for path in (site.state / "output").rglob("*") if path.is_file()] == []
    orphan = site.state / "output" / "0" / "1.1.stdout"
    orphan.parent.mkdir()
    orphan.write_bytes(b"left by a crash")
    site.start()
    assert not orphan.exists()
    assert "removed 1 files of jobs that are not known any more" in caplog.text
    assert await site.talk(b"SUBMIT true\n") == ["JOB_ID 2"]
    await site.stop()


async def test_retention_removes_old_jobs_and_the_journal_is_compacted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MIN_SEALED_BYTES", 1)
    monkeypatch.setattr(compaction, "CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(retention, "CHECK_INTERVAL", 0.05)
    site.start("--retention-count", "2")
    for number in (1, 2, 3):  # one after the other, so that the first to end is the first to go
        await site.talk(b"SUBMIT echo %d\nWAIT %d\n" % (number, number))
    await site.stop()
    site.start("--retention-count", "2")
    while not list(site.state.glob("journal/*.snapshot")) or list(site.state.glob("journal/*.moved")):
        await site.talk(b"PING\n")
    assert await site.talk(b"RESULT 2\nRESULT 3\n") == ['RESULT "2\\n" "" 0', 'RESULT "3\\n" "" 0']
    assert (await site.talk(b"STATUS 1\n"))[0].startswith("ERROR GONE ")
    await site.stop()
    site.start()
    assert await site.talk(b"RESULT 3\nSUBMIT true\n") == ['RESULT "3\\n" "" 0', "JOB_ID 4"]
    await site.stop()


async def test_changes_of_queues_and_schedules_survive_a_restart(site: Site) -> None:
    site.start()
    requests = b"SET-QUEUE a --slots=1\nPAUSE b\nPAUSE\nSCHEDULE --every=1h echo hello\nPAUSE --schedule=1\n"
    assert (await site.talk(requests))[1:] == ["OK", "OK", "OK 1", "OK"]
    before = await site.talk(b"QUEUES\nSCHEDULES\n")
    await site.stop()
    site.start()
    assert await site.talk(b"QUEUES\nSCHEDULES\n") == before
    assert await site.talk(b"UNSCHEDULE 1\nSCHEDULE --every=1h true\n") == ["OK", "OK 2"]
    await site.stop()


async def test_waiting_jobs_still_wait_after_a_restart(site: Site) -> None:
    site.start()
    lines = [
        b"SUBMIT --hold echo held",
        b"SUBMIT --after=1 echo after",
        b"SUBMIT --after-fail=1 echo never",
        b"SUBMIT --delay=1h echo delayed",
        b"SUBMIT --array=1-2 --hold echo task $TASKQ_INDEX of $TASKQ_ARRAY_ID",
    ]
    for number, line in enumerate(lines, 1):
        assert await site.talk(line + b"\n") == [f"JOB_ID {number}"]
    await site.stop()
    site.start()
    requests = b"RELEASE 1\nWAIT 2\nWAIT 3\nSTATUS 4\nSTATUS 5\nRELEASE 5.2\nWAIT 5.2\nRESULT 7\n"
    assert await site.talk(requests) == [
        "STATUS PENDING 0",
        "STATUS COMPLETED 100",
        "STATUS FAILED 0",
        "STATUS PENDING 0",
        "STATUS PENDING 0",
        "STATUS PENDING 0",
        "STATUS COMPLETED 100",
        'RESULT "task 2 of 5\\n" "" 0',
    ]
    await site.stop()


async def test_capacities_of_the_settings_are_enforced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taskqd.toml").write_text("[queues.small]\nslots = 1\n[resources]\ngpu = 1\n")
    site.start("--config", str(tmp_path / "taskqd.toml"))
    for wish in (b"--queue=small --slots=2", b"--need=gpu:2", b"--need=tape:1"):
        [answer] = await site.talk(b"SUBMIT %b true\n" % wish)
        assert answer.startswith("ERROR BAD_REQUEST the job could never start")
    assert await site.talk(b"SUBMIT --queue=small --need=gpu:1 true\nWAIT 1\n") == [
        "JOB_ID 1",
        "STATUS COMPLETED 100",
    ]
    await site.stop()


async def test_script_of_an_array_is_available_to_each_task(site: Site) -> None:
    site.start()
    requests = b"SUBMIT --array=0-1 --script=21 --stdin=2 \ncat;echo $TASKQ_INDEX\r\nhi\r\nWAIT 1\n"
    assert await site.talk(requests) == ["JOB_ID 1", "STATUS COMPLETED 100"]
    assert await site.talk(b"RESULT 1.0\nRESULT 1.1\n") == [
        'RESULT "hi0\\n" "" 0',
        'RESULT "hi1\\n" "" 0',
    ]
    await site.stop()


async def test_detail_distinguishes_a_crash_from_a_restart_of_the_machine(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1), boot="another")
    site.start()
    assert recovery.REBOOTED in (await site.talk(b"SHOW 1\n"))[0]
    await site.stop()
    shutil.rmtree(site.state / "journal")
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1), boot=proc.boot_id())
    site.start()
    assert recovery.KILLED in (await site.talk(b"SHOW 1\n"))[0]
    await site.stop()


async def test_notes_of_another_boot_are_recorded_and_the_files_of_that_runner_removed(site: Site) -> None:
    journal(site.state, *AT_RUNNER, boot="another")
    runners = site.state / "runner"
    runners.mkdir(mode=0o700)
    (runners / "lock").write_text(f"1 {RUNNER}\n")
    (runners / f"{RUNNER}.lock").write_text("1\n")
    (runners / f"{RUNNER}.ends").write_bytes(noted(1, 1) + noted(2, 2)[:-1])
    site.start()
    first, second, third = await site.talk(b"SHOW 1\nSHOW 2\nSHOW 3\n")
    assert '"exit_code":5' in first
    assert recovery.REBOOTED in second
    assert recovery.REBOOTED in third
    await site.stop()
    assert list(runners.glob(f"{RUNNER}.*")) == []


async def test_second_signal_kills_running_jobs(site: Site, reactor: Any) -> None:
    site.start()
    await site.talk(b"SUBMIT --kill-after=1h trap '' TERM; echo ready; while :; do sleep 1; done\n")
    while "ready" not in await site.talk(b"OUTPUT 1 stdout\n"):
        pass
    stopping = Deferred.fromCoroutine(site.stop())
    await deferLater(reactor, 0.05)
    assert not stopping.called
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
    await stopping


async def test_stop_kills_jobs_after_a_timeout(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "STOP_TIMEOUT", 0.05)
    site.start("--stop-grace", "0")
    await site.talk(b"SUBMIT --kill-after=1h trap '' TERM; echo ready; while :; do sleep 1; done\n")
    while "ready" not in await site.talk(b"OUTPUT 1 stdout\n"):
        pass
    await site.stop()


async def test_stop_completes_if_a_job_does_not_end(
    site: Site, reactor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutdown, "STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(shutdown, "KILL_TIMEOUT", 0.05)
    monkeypatch.setattr(shutdown, "LEFTOVERS_TIMEOUT", 0.05)
    taskq = site.start("--stop-grace", "0")
    await site.talk(b"SUBMIT echo ready; exec sleep 300\n")
    while "ready" not in await site.talk(b"OUTPUT 1 stdout\n"):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(taskq.components.executor, "end", lambda *_: None)
        patched.setattr(taskq.components.executor, "kill", Deferred)
        await site.stop()
    assert "do not end though they were killed" in caplog.text
    site.start("--stop-grace", "0")
    await site.stop()


async def test_second_daemon_on_a_state_directory_is_refused_with_the_pid_of_the_first(site: Site) -> None:
    site.start()
    assert refused("--state", str(site.state)) == (
        f"taskqd: another daemon, pid {os.getpid()}, already runs on the state directory {site.state}; "
        "stop it, or choose another --state"
    )
    await site.stop()
    parsed("--state", str(site.state))


# Refused starts.


def unlock(taskq: TaskqService) -> None:
    """Release the locks of a daemon whose start was refused."""
    for descriptor in taskq.components.journal._locks:
        os.close(descriptor)
    taskq.components.journal._locks = ()


async def refuse_start(site: Site, kind: type[StartRefused] = StartRefused, *words: str) -> str:
    """Return the reason of a refused start, after closing what it had opened."""
    with pytest.raises(kind) as refusal:
        site.start(*words)
    [taskq] = site.running
    site.running.clear()
    if taskq.components.journal._group_commit.thread.is_alive:
        await taskq.components.journal.close()
    else:
        unlock(taskq)
    assert sys.excepthook is service.print_refusal
    text = str(refusal.value)
    assert "\n" not in text
    return text


async def test_damaged_journal_refuses_the_start_and_names_file_and_line(site: Site) -> None:
    journal(site.state, submitted(1))
    path = site.state / "journal" / "00000001.journal"
    path.write_bytes(path.read_bytes().replace(b"true", b"trve"))
    assert f"{path}, line 2" in await refuse_start(site, JournalDamaged)


async def test_journal_with_an_invalid_transition_refuses_the_start_and_names_file_and_line(
    site: Site,
) -> None:
    journal(site.state, submitted(1), Ended(id=1, at=START, status=Status.COMPLETED))
    path = site.state / "journal" / "00000001.journal"
    assert f"{path}, line 3" in await refuse_start(site, JournalDamaged)


async def test_spool_that_cannot_be_used_refuses_the_start(site: Site) -> None:
    site.state.mkdir(mode=0o700)
    (site.state / "output").write_bytes(b"")
    assert f"the state directory {site.state} cannot be used" in await refuse_start(site)


async def test_lock_file_that_cannot_be_opened_refuses_the_start(site: Site) -> None:
    site.state.mkdir(mode=0o700)
    (site.state / "lock").mkdir()
    said = await refuse_start(site)
    assert said.startswith(f"the state directory {site.state} cannot be used: ")


async def test_output_that_cannot_be_read_refuses_the_start(site: Site) -> None:
    journal(site.state, submitted(1), Started(id=1, at=START, attempt=1))
    (site.state / "output" / "0").mkdir(parents=True)
    (site.state / "output" / "0" / "1.1.stdout").symlink_to("1.1.stdout")
    said = await refuse_start(site)
    assert said.startswith(f"the state directory {site.state} cannot be used: ")
    assert "1.1.stdout" in said


async def test_run_as_owner_without_root_refuses_the_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only a daemon that runs as root can run jobs as their owners" in await refuse_start(
        site, StartRefused, "--run-as", "owner"
    )
    assert not (site.state / "lock").exists()


async def test_user_files_that_cannot_be_made_refuse_the_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunAs, "open", lambda _: None)
    monkeypatch.setattr(UserFiles, "open", refuse)
    assert (
        "the directory for the files of other users' jobs cannot be used: [Errno 28]"
        in await refuse_start(site, StartRefused, "--run-as", "owner")
    )


async def test_state_directory_that_cannot_be_made_refuses_the_start(site: Site) -> None:
    site.state.write_bytes(b"")
    assert "cannot" in await refuse_start(site)


async def test_endpoint_that_fails_refuses_the_start_and_closes_the_others(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "t").write_bytes(b"")
    assert f"{tmp_path}/t exists and is not a socket" in await refuse_start(
        site, StartRefused, "--listen", f"unix:{tmp_path}/t"
    )
    assert not (site.state / "s").exists()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Twisted before 26.10 leaves it so
async def test_port_in_use_refuses_the_start(site: Site, reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    endpoint = f"tcp:{port.getHost().port}:interface=127.0.0.1"
    assert f"cannot listen on {endpoint}" in await refuse_start(site, StartRefused, "--listen", endpoint)
    await port.stopListening()


async def test_state_directory_that_others_may_use_refuses_the_start(site: Site) -> None:
    site.state.mkdir(mode=0o755)
    why = f"{site.state} can be accessed by other users (mode 755): chmod 700 {site.state}"
    assert why in await refuse_start(site)
    assert not (site.state / "s").exists()


@pytest.mark.parametrize("name", ["token", "tokens"])
async def test_token_file_that_others_may_read_refuses_the_start(site: Site, name: str) -> None:
    site.state.mkdir(mode=0o700)
    (site.state / name).write_bytes(b"")
    (site.state / name).chmod(0o640)
    why = f"{site.state}/{name} can be accessed by other users (mode 640): chmod 600 {site.state}/{name}"
    assert why in await refuse_start(site)


async def test_unknown_checker_refuses_the_start(site: Site) -> None:
    assert "auth: twisted.cred has no plugin 'nonesuch'" in await refuse_start(
        site, StartRefused, "--auth", "nonesuch:x"
    )


NO_TOKEN = "there is no token yet, so no client can use a TCP port: make one with `taskq token add NAME "


@pytest.mark.parametrize(
    "words, has_token, is_logged",
    [
        ((), False, False),
        (("--listen", "tcp:0:interface=127.0.0.1"), False, True),
        (("--listen", "tcp:0:interface=127.0.0.1"), True, False),
        (("--listen", "tcp:0:interface=127.0.0.1", "--auth", "memory:ana:sesame"), False, False),
    ],
)
async def test_port_without_a_token_is_logged(
    site: Site, words: tuple[str, ...], has_token: bool, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    site.state.mkdir(mode=0o700)
    if has_token:
        TokenFile(str(site.state)).add("ci", Role.READ, None, 1.0, None)
    site.start(*words)
    assert (f"{NO_TOKEN}--role submit --state {site.state}`" in caplog.text) is is_logged
    await site.stop()


async def test_daemon_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    await made(tmp_path / "state").stopService()


async def test_refused_start_of_a_background_daemon_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.state.mkdir(mode=0o700)
    (site.state / "token").write_bytes(b"")
    taskq = TaskqService(
        Settings(state=str(site.state), listen=("tcp:0",), slots=1), site._reactor, None, True
    )
    with pytest.raises(StartRefused):
        taskq.startService()
    assert "the start is refused" in caplog.text
    unlock(taskq)


@pytest.mark.parametrize("why, is_refused", [("can't start new thread", True), ("a bug", False)])
def test_start_is_refused_if_no_thread_can_be_started(
    site: Site, monkeypatch: pytest.MonkeyPatch, why: str, is_refused: bool
) -> None:
    taskq = TaskqService(
        Settings(state=str(site.state), listen=("tcp:0",), slots=1), site._reactor, None, False
    )

    def fail() -> None:
        raise RuntimeError(why)

    monkeypatch.setattr(taskq, "_start", fail)
    with pytest.raises(StartRefused if is_refused else RuntimeError, match=why):
        taskq.startService()


async def test_slots_are_limited_by_descriptors(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor_limit, "limit", lambda: 130)
    taskq = site.start("--slots", "100")
    assert taskq.settings.slots == 10
    await site.stop()


async def test_slots_that_were_set_hold_after_a_restart_as_far_as_descriptors_allow(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.start("--slots", "2")
    answers = await site.talk(b"SET-SLOTS 12\nSUBMIT --slots=12 --hold true\nQUIT\n")
    assert answers[:2] == ["OK 12", "JOB_ID 1"]
    await site.stop()
    monkeypatch.setattr(descriptor_limit, "limit", lambda: 130)
    site.start("--slots", "2")
    assert "10 slots, as 12 were set by `taskq slots`; the settings have 2" in caplog.text
    refused, stats, restored, *_ = await site.talk(b"SET-SLOTS 11\nSTATS\nSET-SLOTS default\nQUIT\n")
    assert "cannot have 11 slots" in refused
    shown = json.loads(stats.removeprefix("STATS "))
    limits = shown["limits"]
    assert (shown["slots"], shown["slots_set"], shown["slots_default"]) == (10, 12, 2)
    assert (limits["slots"], limits["max_slots"]) == (10, 10)
    assert restored == "OK 2"
    await site.stop()


async def test_requested_stop_fires_when_jobs_have_ended_and_before_connections_close(site: Site) -> None:
    taskq = site.start("--stop-grace", "0")
    await site.talk(b"SUBMIT exec sleep 100\n")
    await site.until_running(1)
    waiting = await site.begin(b"WAIT 1\n")
    order: list[str] = []
    settled = _request_stop(taskq, ends_jobs=True).addCallback(lambda _: order.append("settled"))
    waiting.ended.addCallback(lambda received: order.append(received.decode()))
    await site.stop()
    await settled
    await waiting.ended
    assert order == ["settled", "STATUS FAILED 0\r\n"]
    assert _request_stop(taskq).called


def _request_stop(taskq: TaskqService, ends_jobs: bool | None = None) -> "Deferred[None]":
    """Request a stop of a daemon whose reactor, which runs the tests, must not stop."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(taskq.components.reactor, "stop", lambda: None)
        return taskq.request_stop(ends_jobs)


async def test_first_stop_signal_stops_the_reactor_and_those_after_it_do_not(
    site: Site, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[int] = []
    monkeypatch.setattr(reactor, "stop", lambda: stops.append(1))
    site.start()
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(3):  # the signal's callFromThread, then that of Twisted's handler
            await deferLater(reactor, 0)
        assert stops == [1]
    await site.stop()


def test_lost_terminal_stops_the_reactor_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    taskq = made(site.state)
    stops: list[Exception | None] = [None, ReactorNotRunning()]

    def stop() -> None:
        error = stops.pop(0)
        if error is not None:
            raise error

    monkeypatch.setattr(site._reactor, "stop", stop)
    taskq.request_stop()
    taskq.request_stop()
    assert stops == []


def test_refusal_is_printed_in_one_line_and_any_other_error_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", said)
    service.print_refusal(StartRefused, StartRefused("no"), None)
    assert said.getvalue() == "taskqd: no\n"
    bugs: list[Any] = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *args: bugs.append(args))
    why = ZeroDivisionError()
    service.print_refusal(ZeroDivisionError, why, None)
    assert bugs == [(ZeroDivisionError, why, None)]
