"""Runs attempts for a daemon that may come and go, and keeps their ends until they are in the journal."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.execution.attempt_ends import ended_message, parse_reason
from taskqd.execution.messages import (
    MEASURED_VERSION,
    Ack,
    AttemptKey,
    Base,
    Cleared,
    Continue,
    End,
    Ended,
    Follow,
    Gone,
    Hello,
    Kill,
    KillLeftovers,
    Measured,
    MemoryUse,
    Message,
    Refused,
    Retire,
    Send,
    Settled,
    Spawned,
    Start,
    Suspend,
    Sweep,
    Swept,
    ToRunner,
    Welcome,
    Withdraw,
)
from taskqd.execution.run import CannotStart, Outcome
from taskqd.model.job import Reason
from taskqd.runner.admission import Admission, close_all
from taskqd.runner.attempt import Attempt
from taskqd.runner.executor import Executor
from taskqd.runner.input_pipe import InputPipe, InputPipes
from taskqd.runner.interfaces import IDaemonLink
from taskqd.runner.notes import NotesFile

REPORT_DELAY = 0.01
"""Seconds after which a process that still runs is reported; most jobs that are shorter need no record."""
IDLE_TIMEOUT = 5.0
"""Seconds that a runner without a daemon and without attempts waits for a daemon that was restarted."""
GREETING_TIMEOUT = 10.0
"""Seconds that a new runner waits for its first daemon."""
NOTE_RETRY_INTERVAL = 1.0
"""Seconds between two attempts to write notes, for example when the disk is full."""
EXIT_TIMEOUT = 2.0
"""Seconds that an exit waits for the daemon to read what was sent."""
STOPPED = "its runner was stopped"
ABANDONED = "no daemon came back in time (leave-for)"
"""The details of attempts that the runner ends."""


class Identity(NamedTuple):
    """The values by which a runner introduces itself; with ``stays`` it does not exit because it is idle."""

    name: str
    pid: int
    release: str
    versions: tuple[int, ...]
    base: Base
    stays: bool = False


class Runner:
    """All attempts of one runner. docs/runner.md has the rules.

    ``make_executor(on_cleared)`` returns the executor, ``admission`` decides what a Start executes, and
    ``inputs`` has the pipes of interactive attempts.
    ``on_retire()`` is called once when the runner accepts no more starts, and ``on_exit()`` when it has
    nothing left to do.
    """

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        make_executor: Callable[[Callable[[AttemptKey], object]], Executor],
        admission: Admission,
        inputs: InputPipes,
        notes: NotesFile,
        clock: IReactorTime,
        on_retire: Callable[[], object],
        on_exit: Callable[[], object],
    ) -> None:
        self._identity = identity
        self._executor = make_executor(self._on_cleared)
        self._executor.memory.on_measured = self._on_measured
        self._admission = admission
        self._inputs = inputs
        inputs.on_sent = self._send
        self._notes = notes
        self._clock = clock
        self._on_retire = on_retire
        self._on_exit = on_exit
        self._store: str | None = None
        self._daemon: IDaemonLink | None = None
        self._version = 0  # that the daemon and this runner speak
        self._leave_for: float | None = None
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._ends: dict[AttemptKey, Ended] = {}
        self._unnoted: dict[AttemptKey, Ended] = {}
        self._noted: set[AttemptKey] = set()  # of the ends
        self._leftovers: set[AttemptKey] = set()
        self._to_report: deque[tuple[float, AttemptKey, int, int | None]] = deque()
        self._report_call: IDelayedCall | None = None
        self._alone_call: IDelayedCall | None = None
        self._idle_call: IDelayedCall | None = clock.callLater(GREETING_TIMEOUT, self._exit_if_idle)
        self._note_call: IDelayedCall | None = None
        self._exit_call: IDelayedCall | None = None
        self._is_retiring = False
        self._is_stopping = False
        self._has_exited = False

    # The daemon.

    def welcome(self, link: IDaemonLink, hello: Hello) -> bool:
        """Accept or refuse a daemon; return whether its other messages may be read."""
        if self._has_exited or self._daemon is not None:
            return self._refuse(link, "another daemon is connected to this runner")
        if self._store not in (None, hello.store):
            return self._refuse(link, "this runner runs the jobs of another store", is_other_store=True)
        self._store, self._leave_for, self._daemon = hello.store, hello.leave_for, link
        self._cancel(self._alone_call)
        self._cancel(self._idle_call)
        self._cancel(self._note_call)
        self._unnoted.clear()
        running = [attempt.describe() for attempt in self._attempts.values()]
        own = self._identity
        self._version = max(set(own.versions).intersection(hello.versions), default=0)
        link.send(
            Welcome(
                runner=own.name,
                pid=own.pid,
                version=self._version,
                release=own.release,
                base=own.base,
                running=running,
                ended=list(self._ends),
                leftovers=list(self._leftovers),
                is_retiring=self._is_retiring or self._is_stopping,
                stays=own.stays,
                changes_users=self._admission.changes_users,
            )
        )
        for ended in self._ends.values():
            link.send(ended)
        uses = self._executor.memory.uses()
        if uses:
            self._on_measured(uses)
        return True

    def _refuse(self, link: IDaemonLink, why: str, *, is_other_store: bool = False) -> bool:
        link.send(Refused(why=why, versions=self._identity.versions, is_other_store=is_other_store))
        link.close()
        return False

    def disconnected(self, link: IDaemonLink) -> None:
        """Go on without the daemon: all that it sent has been handled."""
        if link is not self._daemon:
            return
        self._daemon = None
        if self._has_exited:
            self._finish()
            return
        for attempt in self._attempts.values():
            attempt.is_followed = False
        self._inputs.drop_all()
        self._note(self._ends.values())
        if self._leave_for is not None and self._attempts:
            self._alone_call = self._clock.callLater(self._leave_for, self._abandon)
        self._exit_if_done()

    def handle(self, message: ToRunner, files: Sequence[int] = ()) -> None:  # noqa: C901, PLR0912 - a case for each
        """Do what the daemon asks for; ``files`` are the descriptors that came with a Start."""
        match message:
            case Start():
                self._start(message, files)
            case Ack():
                self._acknowledge(message.ends)
            case End():
                self._executor.end(message.key, parse_reason(message.why), message.number)
            case Suspend() | Continue():
                self._set_suspended(message.key, isinstance(message, Suspend))
            case Follow():
                self._follow(message)
            case Send():
                self._inputs.send(message)
            case Withdraw():
                self._inputs.withdraw(message.key, message.number)
            case KillLeftovers():
                self._executor.kill_leftovers(message.id)
            case Kill():
                self._executor.kill()
            case Sweep():
                self._sweep(message.runner)
            case Settled():
                self._admission.settle(message.runner)
            case Retire():
                self.retire()
            case Hello():
                self._log.warn("a second greeting of the daemon is ignored")

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send the messages of the context together: each write wakes up the daemon."""
        link = self._daemon
        if link is None:
            yield
            return
        link.hold()
        try:
            yield
        finally:
            link.flush()

    def _send(self, message: Message) -> None:
        if self._daemon is not None:
            self._daemon.send(message)

    def _acknowledge(self, keys: Iterable[AttemptKey]) -> None:
        for key in keys:
            self._ends.pop(key, None)
            self._noted.discard(key)
        if not self._ends:
            self._notes.remove()
        self._exit_if_done()

    # Attempts.

    def _start(self, start: Start, files: Sequence[int]) -> None:
        key = start.key
        if key in self._attempts or key in self._ends:
            close_all(files)
            return
        if self._is_retiring or self._is_stopping:
            close_all(files)
            self._record_end(key, Outcome(reason=Reason.SPAWN, detail="its runner retires", is_void=True))
            return
        try:
            stdin = self._open_input(key, files) if start.interactive else None
            start, output = self._admission.admit(start, files, self._store or "")
            if stdin is not None and start.uid is not None:
                stdin.set_owner(start.uid)
            self._attempts[key] = Attempt(key, output, self._clock, self._send)
            outcome = self._executor.start(
                start, output, partial(self._on_spawned, key), None if stdin is None else stdin.read_end
            )
        except CannotStart as why:
            detail = f"could not be started: {why}"
            self._record_end(key, Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=why.is_shortage))
            return
        except Exception as why:  # noqa: BLE001 - the daemon must hear an end of each start
            self._log.failure("internal error in starting job {id}", id=start.id)
            self._record_end(key, Outcome(reason=Reason.SPAWN, detail=f"could not be started: {why}"))
            return
        outcome.addBoth(self._on_outcome, key)

    def _open_input(self, key: AttemptKey, files: Sequence[int]) -> InputPipe:
        try:
            return self._inputs.open(key)
        except OSError as why:
            close_all(files)
            raise CannotStart(f"its stdin cannot be opened: {why}", why) from None

    def _on_outcome(self, outcome: Outcome | Failure, key: AttemptKey) -> None:
        if isinstance(outcome, Failure):
            outcome = self._unknown_outcome(outcome, key)
        self._record_end(key, outcome)

    def _unknown_outcome(self, failure: Failure, key: AttemptKey) -> Outcome:
        self._log.failure("internal error in running job {id}", failure, id=key.id)
        return Outcome(reason=Reason.OUTPUT, detail=f"its end could not be handled: {failure.value}")

    def _on_spawned(self, key: AttemptKey, pid: int, started: int | None) -> None:
        attempt = self._attempts[key]
        attempt.pid, attempt.started = pid, started
        self._inputs.on_spawned(key)
        self._admission.on_spawned(key, pid, started)
        self._to_report.append((self._clock.seconds() + REPORT_DELAY, key, pid, started))
        if self._report_call is None:
            self._report_call = self._clock.callLater(REPORT_DELAY, self._report_spawned)

    def _report_spawned(self) -> None:
        """Report the processes that have run for REPORT_DELAY, and still run."""
        self._report_call = None
        now = self._clock.seconds()
        while self._to_report and self._to_report[0][0] <= now:
            _, key, pid, started = self._to_report.popleft()
            if key in self._attempts:
                self._send(Spawned(id=key.id, attempt=key.attempt, word=key.word, pid=pid, started=started))
        if self._to_report:
            delay = max(0.0, self._to_report[0][0] - now)
            self._report_call = self._clock.callLater(delay, self._report_spawned)

    def _follow(self, message: Follow) -> None:
        attempt = self._attempts.get(message.key)
        if attempt is not None:
            if message.on:  # the message may have been read before the pipes
                self._executor.read_output(message.key)
            attempt.follow(message.on)

    def _set_suspended(self, key: AttemptKey, is_suspended: bool) -> None:
        attempt = self._attempts.get(key)
        if attempt is not None:
            attempt.is_suspended = is_suspended
            self._executor.set_suspended(key, is_suspended)

    def _on_measured(self, uses: list[MemoryUse]) -> None:
        if self._version >= MEASURED_VERSION:
            self._send(Measured(uses=uses))

    def _record_end(self, key: AttemptKey, outcome: Outcome) -> None:
        """Keep the end of an attempt, and tell the daemon, or note it if there is none."""
        self._attempts.pop(key, None)
        self._inputs.close(key)
        ended = ended_message(key, outcome, time.time())
        self._ends[key] = ended
        has_leftovers = ended.pid is not None and key in self._executor.leftovers
        if has_leftovers:
            self._leftovers.add(key)
        self._admission.on_ended(key, has_leftovers=has_leftovers)
        self._send(ended)
        if self._daemon is None or self._is_stopping:
            self._note([ended])
            self._exit_if_done()

    def _on_cleared(self, key: AttemptKey) -> None:
        if key not in self._leftovers:
            return
        self._leftovers.discard(key)
        self._admission.on_cleared(key)
        self._send(Cleared(id=key.id, attempt=key.attempt, word=key.word))
        self._exit_if_done()

    # Dead runners.

    def _sweep(self, runner: str) -> None:
        """Kill all that a dead runner has left, and tell the daemon when that is done."""
        swept = self._admission.sweep(runner)
        if swept is not None:
            swept.addCallbacks(lambda _: self._send(Swept(runner=runner)), self._on_sweep_failed)

    def _on_sweep_failed(self, failure: Failure) -> None:
        """Close the connection, so that the daemon asks again."""
        self._log.failure("the processes of a dead runner cannot be ended; this is tried again", failure)
        if self._daemon is not None:
            self._daemon.close()

    # Without a daemon.

    @property
    def is_alone(self) -> bool:
        """Whether no daemon is connected."""
        return self._daemon is None

    def _note(self, ends: Iterable[Ended]) -> None:
        self._unnoted.update((ended.key, ended) for ended in ends if ended.key not in self._noted)
        self._write_notes()

    def _write_notes(self) -> None:
        """Make the ends durable that are not; try again later if that fails."""
        if not self._unnoted:
            return
        try:
            self._notes.append(self._unnoted.values())
        except OSError as why:
            self._log.error(
                "{count} ends of jobs cannot be noted and stay in memory: {why}; this is tried again",
                count=len(self._unnoted),
                why=why,
            )
            self._cancel(self._note_call)
            self._note_call = self._clock.callLater(NOTE_RETRY_INTERVAL, self._retry_notes)
        else:
            self._noted.update(self._unnoted)
            self._unnoted.clear()

    def _retry_notes(self) -> None:
        self._write_notes()
        self._exit_if_done()

    def _abandon(self) -> None:
        self._executor.end_all(Reason.INTERRUPTED, ABANDONED)

    # The end of the runner.

    def retire(self) -> None:
        """Accept no starts from now on, and exit when the last end is acknowledged."""
        if not self._is_retiring:
            self._is_retiring = True
            self._on_retire()
        self._exit_if_done()

    def stop(self) -> None:
        """End all attempts with their grace, note or tell their ends, and exit (SIGTERM)."""
        self._is_stopping = True
        self._note(self._ends.values())
        self._executor.end_all(Reason.INTERRUPTED, STOPPED)
        self._exit_if_done()

    @property
    def _is_idle(self) -> bool:
        return not (self._attempts or self._unnoted or self._leftovers)

    def _exit_if_done(self) -> None:
        """Exit if nothing is left to do: at once if this runner retires or stops, else after a while."""
        if not self._is_idle or self._has_exited:
            return
        if self._is_stopping or (self._is_retiring and (self._daemon is None or not self._ends)):
            self._exit()
        elif self._daemon is None and not self._identity.stays:
            self._cancel(self._idle_call)
            delay = 0.0 if self._leave_for == 0 else IDLE_TIMEOUT
            self._idle_call = self._clock.callLater(delay, self._exit_if_idle)

    def _exit_if_idle(self) -> None:
        if self._daemon is None and self._is_idle and not self._identity.stays:
            self._exit()

    def _exit(self) -> None:
        """Note that nothing else ever ran here, and exit; starts that arrive from now on are not read."""
        if self._has_exited:
            return
        try:
            # An end that the notes lack would be taken for an attempt that never ran.
            unnoted = [ended for key, ended in self._ends.items() if key not in self._noted]
            self._notes.append([*unnoted, Gone(runner=self._identity.name)])
        except OSError as why:
            self._log.error("the exit of the runner cannot be noted: {why}; this is tried again", why=why)
            self._cancel(self._note_call)
            self._note_call = self._clock.callLater(NOTE_RETRY_INTERVAL, self._exit_if_done)
            return
        self._has_exited = True
        if self._daemon is None:
            self._finish()
        else:  # what was sent must arrive first, if the daemon reads it
            self._daemon.close()
            self._exit_call = self._clock.callLater(EXIT_TIMEOUT, self._finish)

    def _finish(self) -> None:
        self._cancel(self._exit_call)
        self._on_exit()

    @staticmethod
    def _cancel(call: IDelayedCall | None) -> None:
        if call is not None and call.active():
            call.cancel()
