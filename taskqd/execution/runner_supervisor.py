"""Keeps the daemon connected to its runners: starts one if none lives, connects, and settles dead ones."""

import signal
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IConnector, IDelayedCall, IReactorTime, IReactorUNIX
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution import proc
from taskqd.execution.messages import MIN_START_VERSION, Hello, Refused, Retire, Welcome
from taskqd.execution.notes import read_notes
from taskqd.execution.runner_cleanup import RunnerCleanup, SweepInterrupted
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.runner_executor import RunnerExecutor
from taskqd.execution.runner_link import RunnerLink

MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL = 0.02, 0.5
"""Seconds between two looks for a runner while none is connected; each is half as long again as the last."""
MIN_LAUNCH_INTERVAL, MAX_LAUNCH_INTERVAL = 3.0, 30.0
"""Seconds between two starts of runners that end at once; each is twice as long as the one before."""
SOCKET_REQUEST_INTERVAL = 2.0
"""Seconds between two requests for a socket that was removed."""
EXIT_CHECK_INTERVAL = 0.005
"""Seconds between two looks whether a runner that retires is gone."""
RETIRE_TIMEOUT = 3.0
"""Seconds for which a stop waits for the exit of runners that have nothing to do."""


class IRunnerReactor(IReactorTime, IReactorUNIX):
    """The part of the reactor that is used."""


class Launch(NamedTuple):
    """A start of a runner: its time by the reactor's clock, and the pid."""

    at: float
    pid: int


class MakeLink(Protocol):
    """Makes the protocol of a connection."""

    def __call__(self, name: str, hello: Hello, observer: RunnerExecutor) -> RunnerLink: ...


class RunnerSupervisor:
    """Connects ``executor`` to the runners in ``directory``.

    ``launch()`` starts a runner and returns its pid, None if another program does; ``launched`` is the last
    one that this daemon has started.
    ``cleanup`` ends the processes of attempts whose runner is dead, and removes the files of that runner.
    ``on_runner(pid)`` is called when a runner that accepts starts is connected.
    """

    _log = Logger()

    def __init__(  # noqa: PLR0913, PLR0917 - two ways to find a runner, and what follows from its death
        self,
        directory: RunnerDirectory,
        executor: RunnerExecutor,
        hello: Hello,
        reactor: IRunnerReactor,
        launch: Callable[[], int] | None,
        cleanup: RunnerCleanup,
        launched: Launch | None = None,
        make_link: MakeLink = RunnerLink,
        on_runner: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._executor = executor
        self._hello = hello
        self._reactor = reactor
        self._launch = launch
        self._cleanup = cleanup
        self._make_link = make_link
        self._on_runner = on_runner
        self._connected: dict[str, RunnerLink] = {}
        self._connecting: set[str] = set()
        self._settling: set[str] = set()
        self._refused: set[str] = set()  # runners whose refusal is in the log
        self._replaced: dict[str, str] = {}  # by release, a runner that was to start its successor
        self._requested_at: dict[str, float] = {}
        self._call: IDelayedCall | None = None
        self._check_interval = MIN_CHECK_INTERVAL
        self._launch_interval = MIN_LAUNCH_INTERVAL
        self._launched_at = None if launched is None else launched.at
        self._launched_pid = None if launched is None else launched.pid
        self._is_stopping = False
        self._has_logged = False
        self._has_failed = False
        self._lost_waiters: list[Deferred[None]] = []
        executor.on_settled = self._on_settled
        executor.on_idle = self._on_idle
        executor.on_connected = self._on_connected

    def start(self) -> None:
        """Connect to the living runners, now and whenever a connection is lost."""
        self._check()

    async def stop(self) -> None:
        """Close the connections; runners that have nothing to do exit, and their exit is awaited."""
        deadline = self._reactor.seconds() + RETIRE_TIMEOUT
        while self._is_one_starting() and self._reactor.seconds() < deadline:
            await deferLater(cast("IReactorTime", self._reactor), MIN_CHECK_INTERVAL)
        self._is_stopping = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._executor.send_acks()
        lost, retired = [], []
        for link in list(self._connected.values()):
            welcome = link.welcome
            if welcome is not None and not welcome.stays and self._executor.is_idle(link.name):
                retired.append(welcome.pid)
                link.send(Retire())
                waiter: Deferred[None] = Deferred()
                self._lost_waiters.append(waiter)
                lost.append(waiter.addTimeout(RETIRE_TIMEOUT, self._reactor))
            else:
                link.close()
        await DeferredList(lost, consumeErrors=True)
        deadline = self._reactor.seconds() + RETIRE_TIMEOUT
        while any(map(proc.is_alive, retired)) and self._reactor.seconds() < deadline:
            await deferLater(cast("IReactorTime", self._reactor), EXIT_CHECK_INTERVAL)
        for link in list(self._connected.values()):
            link.close()
        self._directory.close()

    def _is_one_starting(self) -> bool:
        """Whether a runner that this daemon has started, or the only one that lives, has not welcomed it yet.

        One that was started beside an active runner, as a killed daemon's was still starting, would become
        active when that retires, and stay.
        """
        if self._launch is None:
            return False
        welcomes = [link.welcome for link in self._connected.values() if link.welcome is not None]
        pid = self._launched_pid
        if pid is not None and all(welcome.pid != pid for welcome in welcomes) and proc.is_alive(pid):
            return True
        return not (welcomes or self._refused) and self._directory.has_active()

    # Connections.

    def _check(self) -> None:
        """Connect to runners that live, settle those that do not, and start one if none accepts starts."""
        self._call = None
        if self._is_stopping:
            return
        if self._look_safely():
            self._check_interval = MIN_CHECK_INTERVAL
        else:
            self._call = self._reactor.callLater(self._check_interval, self._check)
            self._check_interval = min(1.5 * self._check_interval, MAX_CHECK_INTERVAL)

    def _look_safely(self) -> bool:
        """Look for runners; return whether one accepts starts, and nothing is left to connect or settle."""
        try:
            self._look()
            is_complete = bool(self._executor.runner) and not self._is_anything_open()
        except OSError as why:
            if not self._has_failed:
                self._has_failed = True
                self._log.error("the directory of the runners cannot be read: {why}; retrying", why=why)
            return False
        except Exception:  # noqa: BLE001 - without a further look no job would ever start
            self._log.failure("internal error in looking for runners; this is tried again")
            return False
        self._has_failed = False
        return is_complete

    def _is_anything_open(self) -> bool:
        """Whether a runner that lives is not connected, or one that is dead is not settled."""
        return not self._connected.keys() >= set(self._names())

    def _names(self) -> list[str]:
        return self._cleanup.names(self._directory.names())

    def _look(self) -> None:
        for name in self._names():
            if name in self._connected or name in self._connecting or name in self._settling:
                continue
            if self._directory.is_alive(name):
                self._connect(name)
            else:
                self._settle(name)
        if not self._directory.has_active():
            self._launch_if_due()

    def _launch_if_due(self) -> None:
        now = self._reactor.seconds()
        if self._launched_at is None or now >= self._launched_at + self._launch_interval:
            if self._launched_at is not None:
                self._launch_interval = min(2 * self._launch_interval, MAX_LAUNCH_INTERVAL)
            self._launch_runner()

    def _launch_runner(self) -> None:
        if self._launch is None:
            if not self._has_logged:
                self._has_logged = True
                self._log.warn(
                    "no runner is connected, so no job starts, and runner = wait means that a unit "
                    "starts it: {command}, or the unit taskqd-runner.service",
                    command=self._directory.command,
                )
            return
        self._launched_at = self._reactor.seconds()
        try:
            self._launched_pid = self._launch()
        except OSError as why:
            self._log.error("no runner can be started, so no job starts: {why}; this is tried again", why=why)

    def _connect(self, name: str) -> None:
        self._connecting.add(name)
        factory = _LinkFactory(self, name)
        self._reactor.connectUNIX(self._directory.socket_address(name), factory, timeout=5)

    def make_link(self, name: str) -> RunnerLink:
        """Return the protocol for a new connection."""
        link = self._make_link(name, self._hello, self._executor)
        self._connecting.discard(name)
        self._connected[name] = link
        return link

    def _on_connected(self, link: RunnerLink) -> None:
        """Have a runner retire that cannot run the next jobs."""
        self._check_interval, self._launch_interval = MIN_CHECK_INTERVAL, MIN_LAUNCH_INTERVAL
        self._launched_at = None  # if this one is killed, another is started at once
        self._cleanup.on_connected(link)
        welcome = link.welcome
        if welcome is None or welcome.is_retiring:
            return
        self._has_logged = False
        self._refused.discard(link.name)
        self._on_runner(welcome.pid)
        if self._is_same_successor(link.name, welcome):
            self._on_same_successor(welcome)
        elif welcome.version < MIN_START_VERSION:
            self._note_replacement(link.name, welcome)
            self._log.warn(
                "runner {name} of release {release} speaks version {version} of the protocol, starts need "
                "{needed}: its jobs go on, and another runner starts new ones",
                name=link.name,
                release=welcome.release,
                version=welcome.version,
                needed=MIN_START_VERSION,
            )
            link.send(Retire())
        elif welcome.release != self._hello.release:
            self._retire_if_idle(link)

    def _note_replacement(self, name: str, welcome: Welcome) -> None:
        if welcome.stays:
            self._replaced.setdefault(welcome.release, name)

    def _is_same_successor(self, name: str, welcome: Welcome) -> bool:
        """Whether a runner of this release was to start its successor before: this one would do the same."""
        return welcome.stays and self._replaced.get(welcome.release, name) != name

    def _on_same_successor(self, welcome: Welcome) -> None:
        """Log that no job starts, if this runner gets no starts."""
        if welcome.version < MIN_START_VERSION:
            self._log.error(
                "no job starts: the runner's unit has a program of release {release}, which is too old; "
                "install this release for it, then systemctl restart taskqd-runner",
                release=welcome.release,
            )

    def _on_idle(self, link: RunnerLink) -> None:
        welcome = link.welcome
        if welcome is None or welcome.release == self._hello.release:
            return
        if not self._is_same_successor(link.name, welcome):
            self._retire_if_idle(link)

    def _retire_if_idle(self, link: RunnerLink) -> None:
        """Replace a runner of another release when nothing runs there.

        One that stays starts its successor itself, so it need not be idle.
        """
        stays = link.welcome is not None and link.welcome.stays
        if stays or (self._launch is not None and self._executor.is_idle(link.name)):
            if link.welcome is not None:
                self._note_replacement(link.name, link.welcome)
            self._executor.stop_using(link)
            link.send(Retire())

    def connection_failed(self, name: str) -> None:
        """Try again later; the socket may have been removed."""
        self._connecting.discard(name)
        now = self._reactor.seconds()
        if now >= self._requested_at.get(name, now - SOCKET_REQUEST_INTERVAL) + SOCKET_REQUEST_INTERVAL:
            self._requested_at[name] = now
            self._directory.request_socket(name)
        self._check_soon()

    def connection_lost(self, name: str) -> None:
        """Connect again, or settle the runner if it is dead."""
        link = self._connected.pop(name, None)
        if link is not None:
            self._cleanup.on_lost(link)
        if link is not None and link.refusal is not None:
            self._on_refused(name, link.refusal)
        if not self._connected:
            waiters, self._lost_waiters = self._lost_waiters, []
            for waiter in waiters:
                waiter.callback(None)
        self._check_soon()

    def _on_refused(self, name: str, refusal: Refused) -> None:
        """Log a refusal once; stop a runner whose jobs this journal does not have, so another can start."""
        self._check_interval = MAX_CHECK_INTERVAL
        if name in self._refused:
            return
        self._refused.add(name)
        if refusal.is_other_store:
            self._log.error(
                "runner {name} runs jobs of another store, since the journal was replaced: it must stop, and "
                "its jobs are ended and recorded nowhere. Root's runner is not stopped by this daemon: "
                "restart it",
                name=name,
            )
            self._directory.signal(name, signal.SIGTERM)
        else:
            self._log.warn("runner {name} refuses this daemon: {why}; retrying", name=name, why=refusal.why)

    def _check_soon(self) -> None:
        if self._call is None and not self._is_stopping:
            self._call = self._reactor.callLater(self._check_interval, self._check)

    # Dead runners.

    def _settle(self, name: str) -> None:
        """Read the notes of a dead runner, end what is left of its attempts, and report their ends."""
        notes = read_notes(self._directory.notes_path(name))
        if notes.is_gone:
            self._settling.add(name)
            self._executor.settle(name, notes)
            return
        if not self._cleanup.can_sweep():
            return
        self._settling.add(name)
        self._log.warn("runner {name} was killed: what is left of its jobs is ended", name=name)
        self._cleanup.sweep(name).addCallbacks(
            lambda _: self._executor.settle(name, notes), self._on_sweep_failed, errbackArgs=(name,)
        )

    def _on_sweep_failed(self, failure: Failure, name: str) -> None:
        if not failure.check(SweepInterrupted):
            self._log.failure(
                "the processes of runner {name} cannot be ended; this is tried again", failure, name=name
            )
        self._settling.discard(name)
        self._check_soon()

    def _on_settled(self, name: str) -> None:
        self._settling.discard(name)
        self._cleanup.remove(name)


class _LinkFactory(ClientFactory):
    """Makes the connection to one runner."""

    noisy = False

    def __init__(self, supervisor: RunnerSupervisor, name: str) -> None:
        self._supervisor = supervisor
        self._name = name

    def buildProtocol(self, addr: object) -> RunnerLink:
        return self._supervisor.make_link(self._name)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._supervisor.connection_failed(self._name)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._supervisor.connection_lost(self._name)
