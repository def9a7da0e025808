"""Has the runner run attempts, and tells how they ended: the daemon's side of docs/runner.md.

An attempt belongs to the runner that its Started record names. Only that runner, or its notes, say what
became of it. A runner that is connected again and does not name an attempt has never got its Start, which is
then sent again: a runner reads one connection to its end before it welcomes another.
"""

import signal
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.errors import is_shortage
from taskqd.execution.attempt_ends import RUNNER_KILLED, SUSPECTED, outcome_of, parse_reason
from taskqd.execution.interfaces import IExecutor, OnSpawned
from taskqd.execution.job_inputs import Delivery, JobInputs, MakeMessage
from taskqd.execution.leftovers import Leftovers
from taskqd.execution.messages import (
    MIN_START_VERSION,
    Ack,
    AttemptKey,
    AttemptMessage,
    Base,
    Cleared,
    Continue,
    End,
    Ended,
    Follow,
    Kill,
    KillLeftovers,
    Measured,
    MemoryUse,
    Printed,
    Running,
    Sent,
    Spawned,
    Start,
    Suspend,
    Swept,
    Welcome,
)
from taskqd.execution.notes import Notes
from taskqd.execution.run import CannotStart, Outcome
from taskqd.execution.runner_link import RunnerLink
from taskqd.model.events import NOTHING
from taskqd.model.job import Reason

MAX_ACK_DELAY = 0.02
"""Seconds that an Ack waits for the next message to its runner: each write wakes up the runner."""
SHORT_LIVED = 0.1
"""A process younger than this (seconds) cannot have queued enough writes to stall a sync."""

MakeStart = Callable[[AttemptKey], Start]
"""Makes the message for an attempt whose Started is durable; raises CannotStart."""

_log = Logger()


class _Attempt:
    """An attempt that the daemon has started and whose end is not durable.

    ``is_sent`` tells that the runner may have its Start. ``ending`` is the End that was sent for it.
    ``is_suspended`` tells that its processes must be stopped. ``memory`` is what its runner says of that.
    """

    __slots__ = (
        *("ending", "has_outcome", "is_adopted", "is_sent", "is_suspended", "key", "memory", "on_spawned"),
        *("outcome", "runner", "started_at"),
    )

    def __init__(self, key: AttemptKey, runner: str, on_spawned: OnSpawned, started_at: float) -> None:
        self.key = key
        self.runner = runner
        self.on_spawned = on_spawned
        self.started_at = started_at
        self.outcome: Deferred[Outcome] = Deferred()
        self.has_outcome = False
        self.is_sent = self.is_adopted = self.is_suspended = False
        self.ending: End | None = None
        self.memory: MemoryUse | None = None


@implementer(IExecutor)
class RunnerExecutor:
    """All attempts that run, at whichever runner.

    The callbacks are set before the first start. ``make_start`` makes the Start of an attempt again.
    ``on_connected(link)`` is called when a runner has welcomed this daemon, ``on_ready()`` when one accepts
    starts, ``on_output(key, dropped)`` when an attempt that is followed has printed or output was dropped,
    ``on_settled(runner)`` when the journal has all that became of the attempts of a dead runner, and
    ``on_idle(link)`` when a runner has nothing left to do. ``on_sweep_done(swept)`` hears root's runner,
    which is sent the descriptors that ``open_files(start)`` returns. ``finish_output(key)``, if it is set,
    makes the output of an attempt durable. ``adopted_detail`` says why the attempts of an earlier daemon are
    lost whose runner is dead, None for its death.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.open_files: Callable[[Start], Sequence[int]] = lambda _: ()
        self.finish_output: Callable[[AttemptKey], Deferred[None]] | None = None
        self.on_sweep_done: Callable[[Swept], object] = lambda _: None
        self.adopted_detail: str | None = None
        self.make_start: MakeStart | None = None
        self.on_ready: Callable[[], object] = lambda: None
        self.on_output: Callable[[AttemptKey, tuple[int, int]], object] = lambda _key, _dropped: None
        self.on_settled: Callable[[str], object] = lambda _: None
        self.on_connected: Callable[[RunnerLink], object] = lambda _: None
        self.on_idle: Callable[[RunnerLink], object] = lambda _: None
        self.base = Base()
        self._ack_call: IDelayedCall | None = None
        self._clock = clock
        self._active: RunnerLink | None = None
        self._links: dict[str, RunnerLink] = {}
        self._attempts: dict[AttemptKey, _Attempt] = {}
        self._keys: dict[int, AttemptKey] = {}  # the attempt of each job
        self._by_runner: dict[str, set[AttemptKey]] = {}
        self._leftovers = Leftovers()
        self._inputs = JobInputs(clock, self._transmit)
        self._gone_waiters: list[Deferred[None]] = []
        self._followed: set[int] = set()
        self._newest: dict[str, int] = {}  # the job that each runner was last sent
        self._dead: set[str] = set()
        self._welcomes: dict[str, Welcome] = {}  # the latest one of each runner that has attempts

    # The runner that accepts starts.

    @property
    def runner(self) -> str:
        return self._active.name if self._active is not None and self._active.accepts_starts else ""

    @property
    def unready_detail(self) -> str | None:
        if self.runner:
            return None
        if self._links:
            return "it waits for a runner: the one that is connected retires or has another version"
        return "it waits for a runner, the process that runs jobs: none is connected"

    def runners(self) -> list[str]:
        """Return the runners that have attempts."""
        return list(self._by_runner)

    def is_idle(self, runner: str) -> bool:
        """Whether a runner has nothing to do for this daemon."""
        return runner not in self._by_runner and not self._leftovers.has_runner(runner)

    def stop_using(self, link: RunnerLink) -> None:
        """Give a runner no further starts: it retires."""
        if self._active is link:
            self._active = None

    # Attempts.

    def start(self, start: Start, runner: str, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        attempt = self._add(start.key, runner, on_spawned)
        link = self._links.get(runner)
        if link is not None:
            self._send_start(attempt, start, link)
        return attempt.outcome

    def adopt(
        self, key: AttemptKey, runner: str, on_spawned: OnSpawned, is_newest: bool = False
    ) -> "Deferred[Outcome]":
        attempt = self._add(key, runner, on_spawned)
        attempt.is_sent = attempt.is_adopted = True
        if is_newest:
            self._newest[runner] = key.id
        return attempt.outcome

    def _add(self, key: AttemptKey, runner: str, on_spawned: OnSpawned) -> _Attempt:
        attempt = _Attempt(key, runner, on_spawned, self._clock.seconds())
        self._attempts[key] = attempt
        self._keys[key.id] = key
        self._by_runner.setdefault(runner, set()).add(key)
        return attempt

    def _send_start(self, attempt: _Attempt, start: Start, link: RunnerLink) -> None:
        if start.files:
            try:
                descriptors = self.open_files(start)
            except OSError as why:
                detail = f"could not be started: its files cannot be opened: {why}"
                self._fire(attempt, Outcome(reason=Reason.SPAWN, detail=detail, is_shortage=is_shortage(why)))
                return
            link.send_with_files(start, descriptors)
        else:
            link.send(start)
        attempt.is_sent = True
        self._newest[link.name] = start.id
        self._inputs.resume(start.id)
        if start.id in self._followed:
            link.send(Follow(id=start.id, attempt=start.attempt, word=start.word))
        if attempt.is_suspended:
            link.send(_suspension(attempt))

    def acknowledge(self, job_id: int) -> None:
        self._inputs.on_ended(job_id)
        key = self._keys.pop(job_id, None)
        attempt = None if key is None else self._attempts.pop(key, None)
        if key is None or attempt is None:
            return
        link = self._links.get(attempt.runner)
        if link is not None:
            link.hold(Ack(ends=[key]))
            if self._ack_call is None:
                self._ack_call = self._clock.callLater(MAX_ACK_DELAY, self.send_acks)
        of_runner = self._by_runner[attempt.runner]
        of_runner.discard(key)
        if not of_runner:
            del self._by_runner[attempt.runner]
            if link is None:
                self._welcomes.pop(attempt.runner, None)
            if attempt.runner in self._dead:
                self._dead.discard(attempt.runner)
                self.on_settled(attempt.runner)
            elif link is not None:
                self.on_idle(link)
        self._notify_if_gone()

    def send_acks(self) -> None:
        """Send the Acks that no other message has taken along."""
        if self._ack_call is not None and self._ack_call.active():
            self._ack_call.cancel()
        self._ack_call = None
        for link in self._links.values():
            link.flush()

    def end(self, job_id: int, reason: Reason, number: int) -> None:
        key = self._keys.get(job_id)
        attempt = None if key is None else self._attempts.get(key)
        if key is None or attempt is None or attempt.has_outcome:
            return
        message = _end(key, reason, number)
        if attempt.ending is None:
            attempt.ending = message
        link = self._links.get(attempt.runner)
        if link is not None:
            link.send(message)

    def set_suspended(self, job_id: int, is_suspended: bool) -> None:
        key = self._keys.get(job_id)
        attempt = None if key is None else self._attempts.get(key)
        if attempt is None or attempt.has_outcome:
            return
        attempt.is_suspended = is_suspended
        link = self._links.get(attempt.runner)
        if link is not None:
            link.send(_suspension(attempt))

    def runner_obstacle(self, job_id: int) -> str | None:
        key = self._keys.get(job_id)
        attempt = None if key is None else self._attempts.get(key)
        if attempt is None:
            return None
        welcome = self._welcomes.get(attempt.runner)
        if welcome is None:
            return "its runner is not connected yet; try it again in a moment"
        if welcome.version >= MIN_START_VERSION:
            return None
        return f"its runner is of release {welcome.release}, which only lets it run to its end or cancels it"

    def send(self, job_id: int, data: bytes, is_eof: bool, timeout: float) -> "Deferred[Delivery]":
        return self._inputs.send(job_id, data, is_eof, timeout)

    def _transmit(self, job_id: int, make: MakeMessage) -> bool:
        """Send a message for the attempt of a job if it runs at a runner that is connected."""
        key = self._keys.get(job_id)
        attempt = None if key is None else self._attempts.get(key)
        if key is None or attempt is None or not attempt.is_sent or attempt.has_outcome:
            return False
        link = self._links.get(attempt.runner)
        if link is not None:
            link.send(make(key))
        return link is not None

    def follow(self, job_id: int, on: bool) -> bool:
        """Have the output of a job reported and written through, or not; return whether a runner is asked."""
        if on:
            self._followed.add(job_id)
        else:
            self._followed.discard(job_id)
        key = self._keys.get(job_id)
        link = None if key is None else self._links.get(self._attempts[key].runner)
        if key is not None and link is not None:
            link.send(Follow(id=key.id, attempt=key.attempt, word=key.word, on=on))
        return link is not None

    def memory_use(self, job_id: int) -> tuple[int, int] | None:
        """Return what the running attempt of a job uses and its peak, None if that is unknown."""
        key = self._keys.get(job_id)
        use = None if key is None else self._attempts[key].memory
        return None if use is None else (use.used, use.peak)

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        runners = self._leftovers.runners_of(job_id)
        if not runners:
            return None
        for runner in runners & self._links.keys():
            self._links[runner].send(KillLeftovers(id=job_id))
        return self._leftovers.when_gone(job_id)

    def kill(self) -> "Deferred[None]":
        for link in self._links.values():
            link.send(Kill())
        if not self._attempts and not self._leftovers:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._gone_waiters.append(gone)
        return gone

    def only_short_lived_processes(self) -> bool:
        """Whether all processes, leftovers included, are of attempts that have started just now."""
        if self._leftovers:
            return False
        oldest = next(iter(self._attempts.values()), None)
        return oldest is None or 0 <= self._clock.seconds() - oldest.started_at < SHORT_LIVED

    # What runners say.

    def on_welcome(self, link: RunnerLink, welcome: Welcome) -> None:
        """Compare what a runner knows with what the journal has given it."""
        self._links[link.name] = link
        self._welcomes[link.name] = welcome
        running = {each.key: each for each in welcome.running}
        for key in self._by_runner.get(link.name, set()) & running.keys():
            self._confirm(self._attempts[key], running[key], link)
        named = running.keys() | set(welcome.ended)
        for key in sorted(self._by_runner.get(link.name, set()) - named):
            self._send_again(self._attempts[key], link)
        for key in running.keys() - self._attempts.keys():
            _log.error(
                "runner {name} runs attempt {attempt} of job {id}, which the journal does not know (was an "
                "older copy of the state directory restored?): it is killed and recorded for no job",
                name=link.name,
                attempt=key.attempt,
                id=key.id,
            )
            link.send(_end(key, Reason.INTERRUPTED, signal.SIGKILL))
        for key in welcome.leftovers:
            self._leftovers.add(key, link.name)
        if link.accepts_starts:
            self._active = link
            self.base = welcome.base
        self.on_connected(link)
        if self.runner:
            self.on_ready()

    def _confirm(self, attempt: _Attempt, running: Running, link: RunnerLink) -> None:
        """Go on with an attempt that a runner still runs."""
        attempt.is_sent = True
        if running.pid is not None:
            attempt.on_spawned(running.pid, running.started)
        if attempt.ending is not None:
            link.send(attempt.ending)
        elif attempt.is_suspended or running.suspended:
            link.send(_suspension(attempt))
        self._inputs.resume(attempt.key.id)
        if attempt.key.id in self._followed:
            link.send(Follow(id=attempt.key.id, attempt=attempt.key.attempt, word=attempt.key.word))

    def _send_again(self, attempt: _Attempt, link: RunnerLink) -> None:
        """Send the Start of an attempt that never arrived at its runner."""
        if attempt.has_outcome:
            return
        if attempt.ending is not None:
            self._fire(attempt, Outcome(reason=parse_reason(attempt.ending.why), is_void=True))
        elif not link.accepts_starts or self.make_start is None:
            self._fire(attempt, Outcome(reason=Reason.SPAWN, detail="its runner retires", is_void=True))
        else:
            try:
                start = self.make_start(attempt.key)
            except CannotStart as why:
                self._fire(attempt, Outcome(reason=Reason.SPAWN, detail=f"could not be started: {why}"))
            else:
                self._send_start(attempt, start, link)

    def on_ended(self, link: RunnerLink, ended: Ended) -> None:
        """Report an end to the caller of start; acknowledge one that is not known, or known already."""
        attempt = self._attempts.get(ended.key)
        if attempt is None:
            link.send(Ack(ends=[ended.key]))
            return
        if ended.pid is not None:
            self._leftovers.add(ended.key, link.name)
        if not attempt.has_outcome:
            is_late = link.welcome is not None and ended.key in link.welcome.ended
            self._fire(attempt, outcome_of(ended, is_late=is_late))

    def _fire(self, attempt: _Attempt, outcome: Outcome) -> None:
        if attempt.has_outcome:
            return
        attempt.has_outcome = True
        self._inputs.on_ended(attempt.key.id)
        if self.finish_output is None:
            attempt.outcome.callback(outcome)
            return
        finished = self.finish_output(attempt.key)
        ended = finished.addCallbacks(lambda _: outcome, _without_files, errbackArgs=(outcome,))
        ended.addCallbacks(attempt.outcome.callback, attempt.outcome.errback)

    def on_spawned(self, spawned: Spawned) -> None:
        """Report the process of an attempt."""
        attempt = self._attempts.get(spawned.key)
        if attempt is not None and not attempt.has_outcome:
            attempt.on_spawned(spawned.pid, spawned.started)

    def on_printed(self, printed: Printed) -> None:
        """Report output of an attempt."""
        if printed.key in self._attempts:
            self.on_output(printed.key, printed.dropped)

    def on_sent(self, sent: Sent) -> None:
        """Report that a runner has written input."""
        self._inputs.on_sent(sent)

    def on_measured(self, measured: Measured) -> None:
        """Note what attempts use."""
        for use in measured.uses:
            attempt = self._attempts.get(use.key)
            if attempt is not None:
                attempt.memory = use

    def on_cleared(self, cleared: Cleared) -> None:
        """Note that nothing is left of an ended attempt."""
        self._leftovers.remove(cleared.key)
        self._notify_if_gone()

    def on_swept(self, swept: Swept) -> None:
        """Report that nothing is left of a dead runner of root's."""
        self.on_sweep_done(swept)

    def _notify_if_gone(self) -> None:
        if self._gone_waiters and not self._attempts and not self._leftovers:
            waiters, self._gone_waiters = self._gone_waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def on_link_lost(self, link: RunnerLink) -> None:
        """Go on without a runner, until it is connected again or is known to be dead."""
        if self._links.get(link.name) is link:
            del self._links[link.name]
            for key in self._by_runner.get(link.name, ()):
                self._inputs.on_runner_lost(key.id)
            if link.name not in self._by_runner:
                self._welcomes.pop(link.name, None)
        if self._active is link:
            self._active = None

    # Dead runners.

    def settle(self, runner: str, notes: Notes) -> None:
        """Report what became of the attempts of a dead runner; its processes are gone.

        ``on_settled(runner)`` is called when all of it is durable.
        """
        self._leftovers.remove_runner(runner)
        self._notify_if_gone()
        newest = self._newest.pop(runner, None)
        keys = sorted(self._by_runner.get(runner, ()))
        if not keys:
            self.on_settled(runner)
            return
        self._dead.add(runner)
        ends = {ended.key: ended for ended in notes.ends}
        for key in keys:
            attempt = self._attempts[key]
            is_unstarted = notes.is_gone or not attempt.is_sent
            outcome = settled_outcome(ends.get(key), is_unstarted=is_unstarted)
            if outcome.is_lost and attempt.is_adopted and self.adopted_detail is not None:
                outcome = replace(outcome, detail=self.adopted_detail)
            elif outcome.is_lost and key.id == newest:
                outcome = replace(outcome, detail=SUSPECTED)
            self._fire(attempt, outcome)


def _without_files(failure: Failure, outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt whose files of output cannot be made durable."""
    failure.trap(OSError)
    if (outcome.stdout.is_inline and outcome.stderr.is_inline) or outcome.is_lost:
        return outcome
    streams = {"stdout": outcome.stdout, "stderr": outcome.stderr}
    lost: dict[str, Any] = {name: NOTHING for name, output in streams.items() if not output.is_inline}
    detail = f"its output could not be kept: {failure.value}"
    return replace(outcome, reason=outcome.reason or Reason.OUTPUT, detail=detail, **lost)


def settled_outcome(ended: Ended | None, *, is_unstarted: bool) -> Outcome:
    """Return what became of an attempt of a dead runner; ``ended`` is what its notes say of the attempt.

    ``is_unstarted`` means that an attempt that the notes lack has never run.
    """
    if ended is not None:
        return outcome_of(ended, is_late=True)
    if is_unstarted:
        return Outcome(reason=Reason.SPAWN, detail="its runner ended before it was started", is_void=True)
    return Outcome(reason=Reason.INTERRUPTED, detail=RUNNER_KILLED, is_lost=True)


def _end(key: AttemptKey, reason: Reason, number: int) -> End:
    return End(id=key.id, attempt=key.attempt, word=key.word, why=reason.value, number=number)


def _suspension(attempt: _Attempt) -> AttemptMessage:
    """Return the message that stops the processes of an attempt, or lets them go on."""
    id_, number, word = attempt.key
    kind = Suspend if attempt.is_suspended else Continue
    return kind(id=id_, attempt=number, word=word)
