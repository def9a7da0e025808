"""The daemon put together: options, the order of start and stop, and the one reactor.

twistd calls ``makeService`` before it daemonizes and drops privileges, so nothing is opened there. All that
can refuse a start happens in ``startService``, before the reactor runs: lock, replay, recovery, listeners.
"""

import gc
import os
import pwd
import random
import signal
import sys
from functools import partial
from types import TracebackType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from taskqd import __version__, listeners, processes, spawn
from taskqd.access import Access, read_token, user_name
from taskqd.backlog import Backlog, IllegalMove
from taskqd.disk import Disk
from taskqd.dispatcher import Dispatcher
from taskqd.errors import JournalDamaged, SettingsError, StartRefused
from taskqd.executor import Executor
from taskqd.job import Job, Status
from taskqd.launch import Run, environment
from taskqd.places import default_socket, default_state
from taskqd.protocol import TaskqFactory
from taskqd.results import Results
from taskqd.settings import Settings, check, merge, read_toml
from taskqd.spool import Spool
from taskqd.store import Store, take_lock
from taskqd.verbs import Verbs

SPOOL_THREADS = 4
STOP_PATIENCE = 10.0
"""At a stop running jobs have so many seconds to end, or their --kill-after if that is shorter."""
KILL_PATIENCE = 5.0
"""What a crash left running is waited for, once killed, for up to so many seconds a process."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A job's PATH, unless its submission brings one."""

_OPTIONS = "twistd taskq"
"""Where a setting comes from that is an option."""

DESCRIPTION = """\
A durable queue for shell commands. Jobs come over a line protocol (try telnet,
nc -U, or the taskq client), are on disk before they are acknowledged, run at
most --slots at once, each in a session of its own, and survive restarts.

Without options the state is in /var/lib/taskqd for root, else below
$XDG_STATE_HOME or in ~/.local/state/taskqd, and the daemon listens on a UNIX
socket that only its own user may use: /run/taskqd/taskq.sock for root, else
$XDG_RUNTIME_DIR/taskqd/taskq.sock, else taskq.sock in the state directory.
A TCP client has to give the token: the file "token" in the state directory.

Examples:
  twistd -n taskq
      in the foreground, the log on the terminal
  twistd --logfile taskq.log --pidfile taskq.pid taskq --slots 4
      as a daemon
  twistd -n taskq --listen unix:/run/taskqd/taskq.sock:mode=660 \\
                  --listen tcp:9500:interface=127.0.0.1
      for the group of the socket, and for local clients that have the token

twistd's own options stand before the word taskq: -n, --logfile, --pidfile,
--uid, --gid, and --rundir, the directory in which jobs run that name none.
SIGTERM stops the daemon and ends running jobs, a second one without their
grace. docs/operations.md has the rest.
"""


class Options(usage.Options):
    """What ``twistd taskq`` takes."""

    synopsis = "[options]"
    longdesc = ""
    optParameters = [  # noqa: RUF012 - as usage.Options has it
        ["state", None, None, "Directory of the journal, of output and of the token."],
        ["slots", None, None, "Jobs that run at once.  [default: the number of CPUs]"],
        ["config", "c", None, "TOML file with these options as keys; options win over it."],
    ]

    compData = usage.Completions(
        optActions={"state": usage.CompleteDirs(), "config": usage.CompleteFiles("*.toml")}
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def getUsage(self, width: int | None = None) -> str:
        """Return the help, with the description as it is written: Twisted would make one paragraph of it."""
        return f"{super().getUsage(width)}\n{DESCRIPTION}"

    def opt_listen(self, endpoint: str) -> None:
        """Endpoint string to listen on: unix:PATH:mode=660 or tcp:9500:interface=127.0.0.1; repeatable."""
        self["listen"].append(endpoint)

    def opt_version(self) -> None:
        """Print the version of taskqd and exit."""
        print(f"taskqd {__version__}")  # noqa: T201 - that is what it is for
        sys.exit(0)

    def postOptions(self) -> None:
        """Build the settings; a wrong one, or a state directory in use, ends the start in one line."""
        try:
            self.settings = self._settings()
            _refuse_if_locked(self.settings.state)
        except StartRefused as why:
            sys.exit(f"taskqd: {why}")

    def _settings(self) -> Settings:
        given: dict[str, Any] = {key: self[key] for key in ("state", "slots") if self[key] is not None}
        if self["listen"]:
            given["listen"] = self["listen"]
        if "slots" in given:
            given["slots"] = int(given["slots"]) if given["slots"].isdecimal() else given["slots"]
        given = {key: check(key, value, _OPTIONS) for key, value in given.items()}
        file = {} if self["config"] is None else _read_config(self["config"])
        for values, source in ((given, _OPTIONS), (file, self["config"])):
            for endpoint in values.get("listen", ()):
                listeners.check(_the_reactor(), endpoint, source)
        uid = os.geteuid()
        state = given.get("state", file.get("state")) or default_state(os.environ, uid)
        defaults = {
            "state": state,
            "listen": (f"unix:{default_socket(os.environ, uid, state)}",),
            "slots": len(os.sched_getaffinity(0)),
        }
        return merge({**given, "state": os.path.abspath(state)}, file, defaults)


def _the_reactor() -> Any:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    return reactor


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return read_toml(file.read(), path)
    except (OSError, UnicodeDecodeError) as why:
        raise SettingsError(f"{path} cannot be read: {why}") from None


def _refuse_if_locked(state: str) -> None:
    """Say early, and before twistd looks at its pid file, that another daemon has the state directory."""
    if os.access(os.path.join(state, "lock"), os.R_OK | os.W_OK):
        os.close(take_lock(state))


class TaskqService(Service):
    """One daemon; ``owner`` is the (uid, gid) that twistd is going to drop to, None where it does not."""

    _log = Logger()
    name = "taskq"

    def __init__(
        self, settings: Settings, reactor: Any, owner: tuple[int, int] | None, is_daemon: bool
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._owner = owner
        self._is_daemon = is_daemon
        self._ports: list[Any] = []
        self._threads = ThreadPool(0, SPOOL_THREADS, "taskqd-spool")
        disk = Disk()
        in_thread = partial(deferToThreadPool, reactor, self._threads)
        self._boot = processes.boot_id()
        self._store = Store(settings.state, reactor, disk, self._boot, reactor.seconds)
        self._spool = Spool(settings.state, disk, reactor, in_thread)
        self._executor = Executor(partial(spawn.spawn, reactor), reactor)
        self._dispatcher: Dispatcher | None = None

    def privilegedStartService(self) -> None:
        """Make the directories that only root can make, for the user that twistd drops to."""
        sockets = filter(None, map(listeners.socket_path, self._settings.listen))
        try:
            for directory in (self._settings.state, *map(os.path.dirname, sockets)):
                if directory and not os.path.isdir(directory):
                    os.makedirs(directory, 0o700)
                    if self._owner is not None:
                        os.chown(directory, *self._owner)
        except OSError as why:
            self._refuse(StartRefused(f"a directory cannot be made: {why}"))

    def startService(self) -> None:
        try:
            self._start()
        except StartRefused as why:
            self._refuse(why)
        super().startService()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _start(self) -> None:
        spawn.close_on_exec()
        self._store.lock()
        token = read_token(self._settings.state)
        backlog = self._replay()
        self._store.begin(backlog.last_id)
        try:
            self._spool.open()
        except OSError as why:
            raise StartRefused(f"the state directory {self._settings.state} cannot be used: {why}") from None
        self._end_leftovers(backlog)
        dispatcher = self._dispatcher = self._make_dispatcher(backlog)
        for job in dispatcher.recover():
            self._log.warn("job {id} was interrupted and is {status} now", id=job.id, status=job.status.value)
        self._listen(dispatcher, Access(token))
        self._threads.start()
        dispatcher.start()

    def _replay(self) -> Backlog:
        backlog = Backlog()
        for event, position in self._store.replay():
            try:
                backlog.apply(event, position)
            except IllegalMove as why:
                raise JournalDamaged(f"{self._store.locate(position)} cannot be right: {why}") from None
        gc.freeze()
        self._log.info("{state}: {count} jobs known", state=self._settings.state, count=len(backlog.jobs))
        return backlog

    def _end_leftovers(self, backlog: Backlog) -> None:
        """Kill what a crash left running, before anything else runs."""
        pids = {one.pid for one in processes.marked(self._store.name) if _is_leftover(one, backlog)}
        attempts = [job.attempt for job in backlog.running()] if self._store.last_boot == self._boot else []
        for attempt in attempts:
            if attempt and attempt.pid and processes.start_time(attempt.pid) == attempt.pid_started:
                pids.add(attempt.pid)
        for pid in processes.kill_all(sorted(pids), KILL_PATIENCE):
            self._log.error("process {pid} of an interrupted job does not end", pid=pid)

    def _make_dispatcher(self, backlog: Backlog) -> Dispatcher:
        mask = os.umask(0)
        os.umask(mask)
        return Dispatcher(
            backlog,
            self._store,
            self._spool,
            self._executor,
            self._reactor,
            self._settings.slots,
            partial(_make_run, self._spool, self._store, _base_environment(), mask),
            random.SystemRandom().random,
        )

    def _listen(self, dispatcher: Dispatcher, access: Access) -> None:
        results = Results(self._store, self._spool)
        verbs = Verbs(dispatcher, results, access, self._reactor, lambda: len(factory.connections))
        factory = self._factory = TaskqFactory(verbs, self._reactor)
        refusals: list[Failure] = []
        for endpoint in self._settings.listen:
            listening = listeners.listen(self._reactor, endpoint, factory)
            listening.addCallbacks(self._ports.append, refusals.append)
        for failure in refusals:
            failure.raiseException()
        self._log.info("listening on {listen}", listen=" ".join(self._settings.listen))

    async def _stop(self) -> None:
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        if self._dispatcher is not None:
            self._take_hurry()
            patience = self._reactor.callLater(STOP_PATIENCE, self._executor.kill)
            await self._dispatcher.stop()
            if patience.active():
                patience.cancel()
            self._executor.kill()
            await self._factory.close()
            await self._store.close()
            self._threads.stop()

    def _take_hurry(self) -> None:
        """From now on a second signal to stop kills what still runs, instead of waiting for its grace."""

        def hurry(*_: object) -> None:
            self._reactor.callFromThread(self._executor.kill)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, hurry)

    def _refuse(self, why: StartRefused) -> None:
        """End the start: twistd removes its pid file and exits with 1, and we say why in one line."""
        if self._is_daemon:
            self._log.critical("the start is refused: {why}", why=why)
        for port in self._ports:
            port.stopReading()
            port.connectionLost(Failure(why))  # what stopListening has the reactor do, which will not run
        sys.excepthook = _say_in_one_line
        raise why


def _is_leftover(one: processes.Marked, backlog: Backlog) -> bool:
    """Whether a process is to be ended: of an interrupted attempt, or still in the group of an ended one.

    What left the group of a job that has ended, by setsid(1) for instance, is nobody's business any more. Of
    an earlier attempt of an interrupted job, what has lost the leader of its group is taken for a leftover.
    """
    job = backlog.jobs.get(one.job_id)
    if job is None or job.attempt is None or one.group == job.attempt.pid:
        return True
    if job.status is not Status.RUNNING:
        return False
    return one.attempt == job.attempts or processes.start_time(one.group) is None


def _say_in_one_line(kind: type[BaseException], why: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(why, StartRefused):
        print(f"taskqd: {why}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, why, traceback)


def _base_environment() -> dict[str, str]:
    """Return what every job's environment begins with: that of the daemon's user, small and clean."""
    uid = os.geteuid()
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = "/"
    lang = os.environ.get("LANG", "C.UTF-8")
    return {"PATH": PATH, "HOME": home, "LANG": lang, "USER": user_name(uid), "SHELL": "/bin/sh"}


def _make_run(spool: Spool, store: Store, base: dict[str, str], mask: int, job: Job, attempt: int) -> Run:
    """Build what the executor takes for an attempt; ``mask`` is the daemon's own umask."""
    spec = job.spec
    script = None if spec.script is None else spool.path(job.id, "script")
    return Run(
        id=job.id,
        attempt=attempt,
        command=spec.command or None,
        script=script,
        is_executable=script is not None and os.access(script, os.X_OK),
        stdin=None if spec.stdin is None else spool.path(job.id, "stdin"),
        cwd=spec.cwd,
        env=environment(base, job, attempt, store.name, spool.path(job.id, "progress")),
        umask=None if spec.umask == mask else spec.umask,
        nice=spec.nice,
        timeout=spec.timeout,
        kill_after=spec.kill_after,
    )


def makeService(options: Options) -> TaskqService:
    """Return the daemon that the options describe, with nothing opened yet (twistd's hook)."""
    parent: Any = options.parent or {}
    uid, gid = parent.get("uid"), parent.get("gid")
    owner = None
    if uid is not None:
        owner = (uid, pwd.getpwuid(uid).pw_gid if gid is None else gid)
    return TaskqService(options.settings, _the_reactor(), owner, is_daemon=not parent.get("nodaemon", True))
