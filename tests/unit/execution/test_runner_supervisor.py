"""The daemon's search for runners: launched, connected, lost, refused, dead, of another release."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from taskqd.execution import proc, runner_link
from taskqd.execution.messages import (
    MIN_START_VERSION,
    VERSIONS,
    Ack,
    AttemptKey,
    End,
    Ended,
    Hello,
    Refused,
    Retire,
    Running,
    Welcome,
    decode_to_runner,
    encode,
)
from taskqd.execution.runner_cleanup import OwnCleanup
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.runner_executor import RunnerExecutor
from taskqd.execution.runner_link import RunnerLink
from taskqd.execution.runner_supervisor import (
    MAX_CHECK_INTERVAL,
    MIN_CHECK_INTERVAL,
    MIN_LAUNCH_INTERVAL,
    RETIRE_TIMEOUT,
    RunnerSupervisor,
)
from taskqd.model.job import Reason
from tests.fakes.deferreds import result_of
from tests.support.leaks import LeakWatch

R1, R2 = "1" * 16, "2" * 16
LAUNCHED = 815
"""The pid of a runner that the supervisor has launched; others have 4711."""
LOST = Failure(ConnectionError("lost"))


class Transport(StringTransport):
    """Closes the connection when that is asked for."""

    def loseConnection(self) -> None:
        super().loseConnection()  # type: ignore[no-untyped-call]
        self.site.lose(self.link)

    site: "Site"
    link: RunnerLink


class Site:
    """A supervisor whose reactor connects to fake runners that have their locks."""

    def __init__(self, place: Path, *, waits: bool = False) -> None:
        self.clock = Clock()
        self.directory = RunnerDirectory(str(place / "runner"))
        self.directory.open()
        self.executor = RunnerExecutor(self.clock)
        self.launches: list[float] = []
        self.alive: set[int] = set()  # the pids of processes
        self.links: list[RunnerLink] = []
        self.pids: list[int] = []
        self.sweeps = 0
        self.sweep: Deferred[None] = succeed(None)
        self._locks: dict[str, int] = {}
        self._factories: dict[RunnerLink, Any] = {}
        self.refuses_connections = False
        reactor: Any = self.clock
        reactor.connectUNIX = self._connect
        self.supervisor = RunnerSupervisor(
            self.directory,
            self.executor,
            Hello(store="s", versions=VERSIONS, release="2.0"),
            reactor,
            None if waits else self._launch,
            OwnCleanup(self.directory, self._sweep),
            on_runner=self.pids.append,
        )

    def _launch(self) -> int:
        self.launches.append(self.clock.seconds())
        self.alive.add(LAUNCHED)
        return LAUNCHED

    def _sweep(self) -> "Deferred[None]":
        self.sweeps += 1
        return self.sweep

    def _connect(self, address: str, factory: Any, timeout: float) -> None:
        if self.refuses_connections:
            factory.clientConnectionFailed(None, LOST)
            return
        link = factory.buildProtocol(None)
        transport = Transport()  # type: ignore[no-untyped-call]
        transport.site, transport.link = self, link
        self._factories[link] = factory
        self.links.append(link)
        link.makeConnection(transport)

    def lock(self, name: str) -> int:
        descriptor = os.open(self.directory.file(name), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def run(self, name: str = R1, *, is_active: bool = True) -> None:
        """Let a runner live."""
        self._locks[name] = self.lock(f"{name}.lock")
        if is_active:
            self._locks[f"active {name}"] = self.lock("lock")

    def welcome(self, link: RunnerLink, **fields: Any) -> None:
        values: dict[str, Any] = {"pid": 4711, "version": MIN_START_VERSION, "release": "2.0", **fields}
        link.dataReceived(encode(Welcome(runner=link.name, **values)))

    def lose(self, link: RunnerLink) -> None:
        link.connectionLost(LOST)
        self._factories[link].clientConnectionLost(None, LOST)

    def kill(self, name: str = R1) -> None:
        """Let a runner die."""
        for key in (name, f"active {name}"):
            if key in self._locks:
                os.close(self._locks.pop(key))
        for link in self.links:
            if link.name == name and not link.is_lost:
                self.lose(link)

    def sent(self, link: RunnerLink) -> list[object]:
        data: bytes = cast("Any", link.transport).value()
        return [decode_to_runner(line) for line in data.splitlines()]

    def pass_time(self, seconds: float = MAX_CHECK_INTERVAL) -> None:
        self.clock.pump([MIN_CHECK_INTERVAL] * round(seconds / MIN_CHECK_INTERVAL))

    def retire(self, name: str = R1) -> None:
        """Let a runner release the lock of the active one."""
        os.close(self._locks.pop(f"active {name}"))

    def close(self) -> None:
        for descriptor in self._locks.values():
            os.close(descriptor)
        self.directory.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(runner_link, "peer_uid", lambda _: 0)
    made = Site(tmp_path)
    monkeypatch.setattr(proc, "is_alive", made.alive.__contains__)
    yield made
    made.close()


def test_runner_is_launched_if_none_lives_and_again_only_later(site: Site) -> None:
    site.supervisor.start()
    assert site.launches == [0.0]
    site.pass_time(MIN_LAUNCH_INTERVAL * 0.9)
    assert len(site.launches) == 1
    site.pass_time(MIN_LAUNCH_INTERVAL * 8)
    waits = [later - earlier for earlier, later in zip(site.launches, site.launches[1:], strict=False)]
    assert waits == sorted(waits)
    assert len(waits) >= 2


def test_living_runner_is_connected_and_greeted(site: Site) -> None:
    site.run()
    site.supervisor.start()
    [link] = site.links
    assert site.sent(link) == [Hello(store="s", versions=VERSIONS, release="2.0")]
    site.welcome(link)
    assert (site.executor.runner, site.pids, site.launches) == (R1, [4711], [])
    site.pass_time(60)
    assert len(site.links) == 1


def test_lost_connection_is_made_again(site: Site) -> None:
    site.run()
    site.supervisor.start()
    site.welcome(site.links[0])
    site.lose(site.links[0])
    assert site.executor.runner == ""
    site.pass_time()
    site.welcome(site.links[1])
    assert site.executor.runner == R1
    assert site.sweeps == 0


def test_dead_runner_is_swept_and_settled_and_another_is_launched_at_once(site: Site) -> None:
    site.run()
    site.supervisor.start()
    site.welcome(site.links[0])
    outcome = site.executor.adopt(AttemptKey(1, 1, "a" * 16), R1, lambda *_: None)
    site.sweep = Deferred()
    site.kill()
    site.pass_time(0.1)
    assert (site.sweeps, outcome.called, len(site.launches)) == (1, False, 1)
    site.sweep.callback(None)
    assert result_of(outcome).is_lost
    assert site.directory.names() == [R1], "its notes are needed until its ends are durable"
    site.executor.acknowledge(1)
    assert site.directory.names() == []


def test_sweep_that_fails_is_tried_again(
    site: Site, caplog: pytest.LogCaptureFixture, logged_errors: LeakWatch
) -> None:
    site.run()
    site.supervisor.start()
    site.welcome(site.links[0])
    site.sweep = Deferred()
    site.kill()
    site.pass_time(0.1)
    failing, site.sweep = site.sweep, succeed(None)
    failing.errback(OSError("no /proc"))
    site.pass_time()
    assert site.sweeps == 2
    assert site.directory.names() == []
    assert "this is tried again" in caplog.text
    assert len(logged_errors.flush(OSError)) == 1


def test_refusal_is_logged_once_and_tried_again_with_pauses(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.run()
    site.supervisor.start()
    for _ in range(round(10 * MAX_CHECK_INTERVAL / MIN_CHECK_INTERVAL)):
        if not site.links[-1].is_lost:
            site.links[-1].dataReceived(encode(Refused(why="another daemon is connected")))
            site.lose(site.links[-1])
        site.clock.advance(MIN_CHECK_INTERVAL)
    assert 8 <= len(site.links) <= 13
    assert caplog.text.count("refuses this daemon") == 1


def test_runner_of_another_store_is_stopped_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[str, int]] = []

    def signal(name: str, number: int) -> bool:
        signals.append((name, number))
        return True

    monkeypatch.setattr(site.directory, "signal", signal)
    site.run()
    site.supervisor.start()
    for _ in range(2):
        site.links[-1].dataReceived(encode(Refused(why="it has others", is_other_store=True)))
        site.lose(site.links[-1])
        site.pass_time(2 * MAX_CHECK_INTERVAL)
    assert signals == [(R1, 15)]


def test_removed_socket_is_requested_from_its_runner(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []
    monkeypatch.setattr(site.directory, "request_socket", requested.append)
    site.refuses_connections = True
    site.run()
    site.supervisor.start()
    site.pass_time(1)
    assert requested == [R1]
    site.refuses_connections = False
    site.pass_time(1)
    assert len(site.links) == 1


@pytest.mark.parametrize("stays", [True, False])
def test_runner_of_another_release_retires_when_it_is_idle_or_starts_its_successor(
    site: Site, stays: bool
) -> None:
    site.run()
    site.executor.adopt(AttemptKey(1, 1, "a" * 16), R1, lambda *_: None)
    site.supervisor.start()
    [link] = site.links
    site.welcome(link, release="1.0", stays=stays, ended=[AttemptKey(1, 1, "a" * 16)])
    assert (Retire() in site.sent(link)) is stays
    assert (site.executor.runner == "") is stays
    site.executor.acknowledge(1)
    assert Retire() in site.sent(link)


@pytest.mark.parametrize("version", [0, 1])
def test_runner_of_an_older_version_retires_at_once_and_keeps_its_attempts(
    site: Site, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    key = AttemptKey(1, 1, "a" * 16)
    site.run()
    outcome = site.executor.adopt(key, R1, lambda *_: None)
    site.supervisor.start()
    [link] = site.links
    site.welcome(link, version=version, release="1.0", running=[Running(*key)])
    site.executor.end(1, Reason.CANCELLED, 15)
    end = End(id=1, attempt=1, word="a" * 16, why="cancelled", number=15)
    assert site.sent(link)[1:] == [Retire(), end]
    assert site.executor.runner == ""
    assert f"speaks version {version} of the protocol, starts need 2" in caplog.text
    link.dataReceived(encode(Ended(id=1, attempt=1, word="a" * 16, at=0.0, reason="cancelled", signal=15)))
    assert result_of(outcome).reason is Reason.CANCELLED
    site.executor.acknowledge(1)
    site.executor.send_acks()
    assert Ack(ends=[key]) in site.sent(link)


@pytest.mark.parametrize("version", [1, 2])
def test_successor_of_the_same_release_is_not_replaced_again(
    site: Site, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    site.run()
    site.supervisor.start()
    site.welcome(site.links[0], version=version, release="1.0", stays=True)
    assert Retire() in site.sent(site.links[0])
    site.retire()
    site.run(R2)
    site.kill()
    site.pass_time()
    site.welcome(site.links[1], version=version, release="1.0", stays=True)
    site.executor.adopt(AttemptKey(1, 1, "a" * 16), R2, lambda *_: None)
    site.executor.acknowledge(1)
    assert Retire() not in site.sent(site.links[1])
    assert site.executor.runner == ("" if version == 1 else R2)
    is_logged = "no job starts: the runner's unit has a program of release 1.0" in caplog.text
    assert is_logged is (version == 1)


def test_runner_that_stays_is_asked_again_to_retire_if_the_request_was_lost(site: Site) -> None:
    site.run()
    site.supervisor.start()
    for _ in range(2):
        site.welcome(site.links[-1], version=1, release="1.0", stays=True)
        assert Retire() in site.sent(site.links[-1])
        site.lose(site.links[-1])
        site.pass_time()


def test_runner_is_launched_beside_one_of_an_older_version_when_that_has_retired(site: Site) -> None:
    site.run()
    site.executor.adopt(AttemptKey(1, 1, "a" * 16), R1, lambda *_: None)
    site.supervisor.start()
    site.welcome(site.links[0], version=1, running=[Running(1, 1, "a" * 16)])
    site.retire()
    site.pass_time()
    assert len(site.launches) == 1
    site.run(R2)
    site.pass_time()
    site.welcome(site.links[1])
    assert site.executor.runner == R2
    assert not site.links[0].is_lost


def test_daemon_that_waits_for_a_runner_says_so_once_and_launches_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, waits=True)
    site.supervisor.start()
    site.pass_time(10)
    assert (site.launches, caplog.text.count("no runner is connected")) == ([], 1)
    site.close()


def test_stop_has_an_idle_runner_exit_and_waits_for_that(site: Site) -> None:
    site.run()
    site.supervisor.start()
    site.welcome(site.links[0])
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    assert not stopping.called
    assert Retire() in site.sent(site.links[0])
    site.kill()
    assert stopping.called


def test_stop_leaves_a_runner_that_has_attempts(site: Site) -> None:
    site.run()
    site.executor.adopt(AttemptKey(1, 1, "a" * 16), R1, lambda *_: None)
    site.supervisor.start()
    site.welcome(site.links[0], ended=[AttemptKey(1, 1, "a" * 16)])
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    assert stopping.called
    assert Retire() not in site.sent(site.links[0])
    site.pass_time(10)
    assert len(site.links) == 1


def test_stop_sends_the_acks_that_wait_for_other_messages(site: Site) -> None:
    key = AttemptKey(1, 1, "a" * 16)
    site.run()
    site.executor.adopt(key, R1, lambda *_: None)
    site.supervisor.start()
    site.welcome(site.links[0], ended=[key])
    site.executor.acknowledge(1)
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    assert Ack(ends=[key]) in site.sent(site.links[0])
    site.kill()
    assert stopping.called
    assert site.clock.getDelayedCalls() == []


def test_stop_waits_for_a_runner_that_is_just_starting(site: Site) -> None:
    site.supervisor.start()
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    site.pass_time(0.3)
    site.run()
    site.pass_time(MAX_CHECK_INTERVAL)
    site.welcome(site.links[0], pid=LAUNCHED)
    site.pass_time(0.1)
    assert Retire() in site.sent(site.links[0])
    site.alive.clear()
    site.kill()
    assert stopping.called


def test_stop_lets_a_runner_exit_that_is_not_needed_before_the_active_one_retires(site: Site) -> None:
    """It would accept starts, and stay without a daemon, if it found the lock free."""
    site.supervisor.start()
    site.run()  # the runner of a daemon that was killed was still starting
    site.pass_time()
    site.welcome(site.links[0])
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    site.pass_time(0.3)
    assert Retire() not in site.sent(site.links[0])
    site.alive.remove(LAUNCHED)  # it has found the name of the active one
    site.pass_time(0.1)
    assert Retire() in site.sent(site.links[0])
    site.kill()
    assert stopping.called


def test_stop_does_not_wait_for_a_runner_that_could_not_start(site: Site) -> None:
    site.supervisor.start()
    site.alive.clear()
    assert Deferred.fromCoroutine(site.supervisor.stop()).called


def test_stop_does_not_wait_for_ever_for_a_runner_that_never_starts(site: Site) -> None:
    site.supervisor.start()
    stopping = Deferred.fromCoroutine(site.supervisor.stop())
    site.pass_time(RETIRE_TIMEOUT * 1.1)
    assert stopping.called
