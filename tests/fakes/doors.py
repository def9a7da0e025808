"""Stand-ins for the doors of the house, in the hands of the test: it says what is durable, ends, or fails.

Beside a fake store, spool, executor and disk stand the pieces of Twisted that a rule needs and a test can't
wait for: a reactor whose other thread is waited for, a connection's transport, a process and its group.
``House`` puts a dispatcher on top of them.
"""

import errno
import fcntl
import os
import signal
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.authorization import Gate
from taskqd.auth.principal import Principal, user_name
from taskqd.config.limits import UNBOUNDED, Quotas
from taskqd.daemon.clocks import Clocks
from taskqd.engine.engine import Dispatcher
from taskqd.errors import AuthFailed, Lagged, StartRefused, StoreFailed
from taskqd.execution.command_line import Outcome, Run
from taskqd.execution.proc import Process
from taskqd.model.actor import Actor
from taskqd.model.events import Event, JobEvent, Output
from taskqd.model.job import Job, Reason, Spec, Status, Usage
from taskqd.model.roles import Role
from taskqd.server.connection_limits import Doorkeeper
from taskqd.server.factory import TaskqFactory
from taskqd.server.handlers.event_stream import Feed
from taskqd.server.handlers.job_view import Results
from taskqd.server.handlers.router import Verbs
from taskqd.speedups.child_process import MeasuredProtocol
from taskqd.state.capacity import Limits
from taskqd.state.queue_state import UNLIMITED, Backlog, Position
from taskqd.storage.filesystem import Disk
from taskqd.storage.interfaces import ICaller, IExecutor, IReading, IRecording, ISpool, IStore

Value = TypeVar("Value")

START = 1_700_000_000.0
"""The fakes' time of day begins here, in seconds since the epoch."""
MONOTONIC = 1_000.0
"""Their monotonic clock begins here, in seconds."""
BOOT = 5_000.0
"""Their boot clock begins here, in seconds since the machine was started."""
LONGEST_TURN = 10.0
"""A test waits for so many seconds for another thread before it fails."""

ACTOR = Actor("ada")
ADA = Principal("ada", Role.ADMIN)
"""Whoever asks, unless a test says otherwise."""

COMPLETED = Outcome(reason=None, exit_code=0)
FAILED = Outcome(reason=Reason.EXIT, exit_code=3)


def result_of(deferred: "Deferred[Value]") -> Value:
    """Return what a Deferred has fired with; fails the test where it has not, or with an error."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast("Value", results[0])


def error_of(deferred: "Deferred[Any]") -> BaseException:
    """Return the error with which a Deferred has fired."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    assert isinstance(results[0], Failure), f"no error, but {results[0]!r}"
    return cast("BaseException", results[0].value)


class FakeClocks(Clock, Clocks):
    """The clocks of the daemon in the test's hands: `advance` moves all three."""

    def __init__(self, time_of_day: float = START, boot: float = BOOT) -> None:
        Clock.__init__(self)
        self.rightNow = MONOTONIC
        self._suspended = boot - MONOTONIC
        self._boot_time = time_of_day - boot
        Clocks.__init__(self, self, self._read_boot, self._read_time_of_day)

    def _read_boot(self) -> float:
        return self.rightNow + self._suspended

    def _read_time_of_day(self) -> float:
        return self._read_boot() + self._boot_time

    def set_time(self, time_of_day: float) -> None:
        """Set the time of day, as a person or NTP does; the two other clocks do not move."""
        self._boot_time = time_of_day - self._read_boot()

    def suspend(self, seconds: float) -> None:
        """Suspend the machine for a time: the monotonic clock stands still."""
        self._suspended += seconds


def clock() -> FakeClocks:
    """Return clocks of which the time of day is START."""
    return FakeClocks()


def in_thread(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
    """Run a blocking function at once, in the place of another thread."""
    return maybeDeferred(function, *args)


class Threads:
    """A thread pool in the test's hands: what is handed over waits until ``run``."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: _chain(maybeDeferred(function, *args), done))
        return done

    def run(self) -> None:
        """Run all that waits, and what comes of it."""
        while self.waiting:
            self.waiting.pop(0)()


def _chain(first: "Deferred[Any]", second: "Deferred[Any]") -> None:
    first.chainDeferred(second)


class ThreadReactor(FakeClocks):
    """A clock to which another thread can hand calls; they are made when the test lets it turn."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._calls.put(partial(function, *args, **kwargs))

    def turn(self) -> None:
        """Make the next call that another thread asks for, waiting until there is one."""
        self._calls.get(timeout=LONGEST_TURN)()

    def until(self, deferred: "Deferred[Value]") -> Value:
        """Turn until a Deferred has fired, and return its result or raise its error."""
        fired: list[Any] = []

        def remember(result: Any) -> Any:
            fired.append(result)
            return result

        deferred.addBoth(remember)
        while not fired:
            self.turn()
        return result_of(deferred)


LOOKS = {"identity", "is_at", "is_linked"}
"""The calls that only look at names and open files: they are not counted, and none is made to fail."""
_DISK_CALLS = frozenset(name for name in vars(Disk) if not name.startswith("_")) - LOOKS


class FakeDisk(Disk):
    """The real disk, of which any call can be made to fail; ``calls`` names those that were made.

    Nothing is synced in truth: no test cuts the power, and it would take most of their time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.descriptors: set[int] = set()
        self.identities: dict[str, str] = {}
        self._failures: dict[str, tuple[int, OSError, int]] = {}
        self._goes_on: threading.Event | None = None

    def stand_still(self) -> None:
        """Have writes and syncs wait until the disk goes on: as on a file system that is frozen."""
        self._goes_on = threading.Event()

    def go_on(self) -> None:
        """Let those that wait go on, and all others."""
        if self._goes_on is not None:
            self._goes_on.set()
            self._goes_on = None

    def fail(self, name: str, after: int = 0, code: int = errno.ENOSPC, written: int = 0) -> None:
        """Make every call of ``name`` fail once ``after`` more have worked.

        A write that fails puts the first ``written`` bytes into the file all the same.
        """
        self._failures[name] = (after, OSError(code, os.strerror(code)), written)

    def mend(self) -> None:
        """Let everything work again."""
        self._failures.clear()

    def identity(self, path: str) -> str:
        """Return a path's identity, that of ``identities`` where it has one."""
        return self.identities.get(path) or super().identity(path)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._called, name, found) if name in _DISK_CALLS else found

    def _called(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.calls.append(name)
        if self._goes_on is not None and name in {"write", "write_at", "sync"}:
            assert self._goes_on.wait(LONGEST_TURN), "nobody had the disk go on"
        left, error, written = self._failures.get(name, (1, None, 0))
        if error is not None and left > 0:
            self._failures[name] = (left - 1, error, written)
        elif error is not None:
            if name in {"write", "write_at"} and written:
                call(args[0], args[1][:written], *args[2:])
            if name == "close":  # Linux gives the descriptor back all the same: close(2)
                call(*args)
                self.descriptors.discard(args[0])
            raise error
        before = set(self.descriptors)
        result: Any = None if name in {"sync", "sync_directory"} else call(*args)
        if name == "content":
            self.descriptors = before  # it has closed by itself what it had opened
        if name in {"create", "open"}:
            self.descriptors.add(result)
        if name == "close":
            self.descriptors.discard(args[0])
        return result


@implementer(IStore)
class FakeStore:
    """The journal in memory: an event is on its way until the test says that it is durable, or fails.

    ``journal`` has what is durable; events before number ``oldest`` can't be read any more as a whole.
    """

    def __init__(self, journal: list[Event] | None = None, next_id: int = 1) -> None:
        self.failure: str | None = None
        self.next_id = next_id
        self.journal: list[Event] = journal or []
        self._on_their_way: list[tuple[Sequence[Event], Deferred[Position]]] = []
        self._waiting: list[Deferred[None]] = []
        self._told: list[Callable[[int, Sequence[Event]], object]] = []
        self.last_sequence = len(self.journal)
        self.oldest = 1

    @property
    def on_its_way(self) -> list[Event]:
        """The events that have been appended and are not durable yet."""
        return [event for events, _ in self._on_their_way for event in events]

    def append(self, event: Event, is_patient: bool = False) -> "Deferred[Position]":
        return self.append_all((event,))

    def append_all(self, events: Sequence[Event]) -> "Deferred[Position]":
        if self.failure is not None:
            return fail(StoreFailed(self.failure))
        durable: Deferred[Position] = Deferred()
        self._on_their_way.append((events, durable))
        return durable

    def append_now(self, events: list[Event]) -> list[Position]:
        if self.failure is not None:
            raise StartRefused(self.failure)
        positions = [self._keep(event) for event in events]
        for sequence, event in enumerate(events, len(self.journal) - len(events) + 1):
            self._tell(sequence, (event,))
        return positions

    def sizes(self) -> dict[str, int]:
        return {"segment": 1, "segment_bytes": len(self.journal)}

    def recovered(self) -> "Deferred[None]":
        if self.failure is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def read(self, position: Position) -> Event:
        return self.journal[position[1]]

    def find(self, *job_ids: int) -> "FakeReading":
        return FakeReading(self, 1, job_ids)

    def on_durable(self, told: Callable[[int, Sequence[Event]], object]) -> None:
        self._told.append(told)

    def since(self, sequence: int) -> "FakeReading":
        return FakeReading(self, sequence)

    def close(self) -> "Deferred[None]":
        self.sync_all()
        self.failure = "closed"
        return succeed(None)

    def sync(self, count: int = 1) -> None:
        """Make the next events durable, those that go together with each."""
        for _ in range(count):
            events, durable = self._on_their_way.pop(0)
            first = len(self.journal) + 1
            positions = [self._keep(event) for event in events]
            durable.callback(positions[0])
            self._tell(first, events)

    def sync_all(self) -> None:
        """Make everything durable, and what comes of it."""
        while self._on_their_way:
            self.sync()

    def break_down(self, why: str = "the disk is full") -> None:
        """Refuse what is on its way, and everything from now on."""
        self.failure = why
        while self._on_their_way:
            self._on_their_way.pop(0)[1].errback(StoreFailed(why))

    def mend(self) -> None:
        """Take events again, and say so."""
        self.failure = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _tell(self, first: int, events: Sequence[Event]) -> None:
        self.last_sequence = first + len(events) - 1
        for told in self._told:
            told(first, events)

    def _keep(self, event: Event) -> Position:
        self.journal.append(event)
        return (1, len(self.journal) - 1, 1)


@implementer(IReading)
class FakeReading:
    """The journal in memory, a few events at a time."""

    AT_ONCE = 3

    def __init__(self, store: FakeStore, sequence: int, job_ids: tuple[int, ...] | None = None) -> None:
        self.next = sequence
        self._store = store
        self._ids = job_ids

    def portion(self) -> "Deferred[list[tuple[int, Event]]]":
        if self.next < self._store.oldest:
            return fail(Lagged(self._store.oldest))
        if self._store.failure is not None:
            return fail(StoreFailed(self._store.failure))
        following = range(self.next, self._store.last_sequence + 1)
        found = [(number, event) for number in following if self._is_wanted(event := self._event(number))]
        found = found[: self.AT_ONCE]
        self.next = found[-1][0] + 1 if found else following.stop
        return succeed(found)

    def _event(self, number: int) -> Event:
        return self._store.journal[number - 1]

    def _is_wanted(self, event: Event) -> bool:
        return self._ids is None or (isinstance(event, JobEvent) and event.id in self._ids)


def read_all(reading: IReading) -> list[tuple[int, Event]]:
    """Return all that a reading has; it must not have to wait for any."""
    found: list[tuple[int, Event]] = []
    while portion := result_of(reading.portion()):
        found += portion
    return found


@implementer(IRecording)
class FakeRecording:
    """Keeps what it is given; ``close`` gives it back, or the test's error, once the test lets it."""

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
        self.data = {1: b"", 2: b""}
        self.is_closed = False
        self.error: OSError | None = None
        self.closing: Deferred[None] = succeed(None)
        self.followers: list[Callable[[], None]] = []
        self.choke: Callable[[bool], None] = lambda _: None
        self.fail: Callable[[str], None] = lambda _: None

    def write(self, stream: int, data: bytes) -> None:
        assert not self.is_closed
        self.data[stream] += data
        for follower in tuple(self.followers):
            follower()

    def watch(self, choked: Callable[[bool], None], failed: Callable[[str], None]) -> None:
        self.choke, self.fail = choked, failed

    def close(self) -> "Deferred[tuple[Output, Output]]":
        assert not self.is_closed
        self.is_closed = True
        return self.closing.addCallback(self._outputs)

    def _outputs(self, _: None) -> tuple[Output, Output]:
        if self.error is not None:
            raise self.error
        return Output.inline(self.data[1]), Output.inline(self.data[2])


@implementer(ISpool)
class FakeSpool:
    """What jobs print, in memory. ``on_disk`` has by (job, attempt) what a crash has left there."""

    def __init__(self) -> None:
        self.blocks: dict[int, dict[str, bytes]] = {}
        self.keeping: list[Deferred[None]] = []
        self.is_slow = False
        self.error: Exception | None = None
        self.recordings: dict[int, FakeRecording] = {}
        self.limits: dict[int, int] = {}
        self.released: list[int] = []
        self.on_disk: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self.percentages: dict[int, int] = {}
        self.purged: list[tuple[int, int]] = []
        self.followers: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)

    def keep(self, job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        self.blocks[job_id] = blocks
        if self.error is not None:
            return fail(self.error)
        if not self.is_slow:
            return succeed(None)
        self.keeping.append(Deferred())
        return self.keeping[-1]

    def digest(self, blocks: Sequence[bytes]) -> "Deferred[str]":
        return succeed(sha256(b"".join(blocks)).hexdigest())

    def block(self, job_id: int, name: str) -> bytes:
        if name not in self.blocks.get(job_id, {}):
            raise FileNotFoundError(2, "No such file or directory", self.path(job_id, name))
        return self.blocks[job_id][name]

    def path(self, job_id: int, name: str) -> str:
        return f"/spool/{job_id}.{name}"

    def record(self, job_id: int, attempt: int, limit: int) -> FakeRecording:
        assert job_id not in self.recordings, "the attempt before was not released"
        self.limits[job_id] = limit
        recording = self.recordings[job_id] = FakeRecording(attempt)
        recording.followers = self.followers[job_id]
        self._tell(job_id)
        return recording

    def follow(self, job_id: int, told: Callable[[], None]) -> Callable[[], None]:
        self.followers[job_id].append(told)
        return partial(self.followers[job_id].remove, told)

    def _tell(self, job_id: int) -> None:
        for follower in tuple(self.followers[job_id]):
            follower()

    def recorded(self, job_id: int, attempt: int) -> tuple[Output, Output]:
        stdout, stderr = self.on_disk.get((job_id, attempt), (b"", b""))
        return Output(len(stdout)), Output(len(stderr))

    def sizes(self, job_id: int) -> dict[str, int] | None:
        if job_id not in self.recordings:
            return None
        data = self.recordings[job_id].data
        return {
            "stdout_bytes": len(data[1]),
            "stderr_bytes": len(data[2]),
            "stdout_dropped": 0,
            "stderr_dropped": 0,
        }

    def read(self, job_id: int, attempt: int, stream: int, offset: int, length: int) -> "Deferred[bytes]":
        if job_id in self.recordings and self.recordings[job_id].attempt == attempt:
            content = self.recordings[job_id].data[stream]
        elif (job_id, attempt) in self.on_disk:
            content = self.on_disk[job_id, attempt][stream - 1]
        else:
            return fail(StoreFailed(f"there is no output of attempt {attempt} of job {job_id}"))
        return succeed(content[offset : offset + length])

    def progress(self, job_id: int) -> int:
        return self.percentages.get(job_id, 0)

    def purge(self, job_id: int, attempts: int) -> "Deferred[None]":
        if self.error is not None:
            return fail(self.error)
        self.purged.append((job_id, attempts))
        return succeed(None)

    def release(self, job_id: int) -> None:
        self.released.append(job_id)
        self.recordings.pop(job_id, None)
        self.percentages.pop(job_id, None)
        self._tell(job_id)


@implementer(IExecutor)
class FakeExecutor:
    """Starts nothing: an attempt runs until the test ends it. ``at_once`` is the outcome of every start."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.signals: list[tuple[int, Reason, int]] = []
        self.running: dict[int, Deferred[Outcome]] = {}
        self.at_once: Outcome | None = None
        self.most = 0
        self.is_killed = False
        self.leftovers: dict[int, Deferred[None]] = {}

    def start(
        self, run: Run, recording: IRecording, spawned: Callable[[int, int | None], None]
    ) -> "Deferred[Outcome]":
        assert run.id not in self.running, f"job {run.id} runs twice"
        self.runs.append(run)
        if self.at_once is not None and self.at_once.reason is Reason.SPAWN:
            return succeed(self.at_once)
        spawned(1000 + run.id, 77)
        if self.at_once is not None:
            return succeed(self.at_once)
        self.running[run.id] = Deferred()
        self.most = max(self.most, len(self.running))
        return self.running[run.id]

    def end(self, job_id: int, why: Reason, number: int) -> None:
        self.signals.append((job_id, why, number))

    def kill_leftovers(self, job_id: int) -> "Deferred[None] | None":
        return self.leftovers.get(job_id)

    def kill(self) -> "Deferred[None]":
        self.is_killed = True
        return succeed(None)

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt."""
        self.running.pop(job_id).callback(outcome)


def run_of(job: Job, attempt: int) -> Run:
    """Return a plain attempt of a job, in the place of the service's function."""
    spec = job.spec
    return Run(
        id=job.id,
        attempt=attempt,
        command=job.command,
        script=None,
        interpreter=(),
        stdin=None,
        cwd=spec.cwd,
        env=spec.env,
        umask=None,
        nice=spec.nice,
        timeout=spec.timeout,
        kill_after=spec.kill_after,
    )


class House:
    """A dispatcher over fakes of everything below it; ``journal`` is what was recorded before."""

    def __init__(
        self,
        slots: int = 2,
        journal: list[Event] | None = None,
        chance: float = 0.0,
        next_id: int = 1,
        queues: dict[str, int] | None = None,
        resources: dict[str, int] | None = None,
        quotas: Quotas | None = None,
        most_connections: int = 1000,
        clocks: FakeClocks | None = None,
    ) -> None:
        self.clock = clocks or clock()
        self.store = FakeStore(journal, next_id)
        self.spool = FakeSpool()
        self.executor = FakeExecutor()
        self.dispatcher = Dispatcher(
            replayed(self.store.journal, Limits(slots, queues or {}, resources or {})),
            self.store,
            self.spool,
            self.executor,
            self.clock,
            run_of,
            lambda: chance,
            quotas.most_pending if quotas else UNBOUNDED,
        )
        self.access = FakeAccess()
        self.quotas = Quotas() if quotas is None else quotas
        self.gate = Gate(self.backlog, self.quotas, self.clock, self.check_run)
        self.results = Results(
            self.store,
            self.spool,
            lambda job: self.backlog.reason(job, self.clock.elapsed()),
            self.backlog.not_before,
        )
        self.feed = Feed(self.store, self.backlog, self.clock)
        self.verbs = Verbs(
            self.dispatcher,
            self.results,
            cast("Any", self.access),
            self.feed,
            self.clock,
            self.gate,
            lambda: len(self.factory.connections),
        )
        self.ports: list[FakePort] = [FakePort()]
        self.keeper = Doorkeeper(self.quotas, most_connections, self.clock, self.access.is_valid, self.ports)
        self.factory = TaskqFactory(self.verbs, self.keeper, self.clock)

    def check_run(self, who: Principal, spec: Spec) -> Spec:
        """Let everybody run everything."""
        return spec

    @property
    def backlog(self) -> Backlog:
        """The dispatcher's backlog."""
        return self.dispatcher.backlog

    def job(self, job_id: int) -> Job:
        """Return a job as it is."""
        return self.backlog.get(job_id)

    def statuses(self) -> list[Status]:
        """Return the jobs' statuses by id."""
        return [job.status for job in self.backlog.walk(1)]

    def settle(self) -> None:
        """Make durable whatever is on its way, and what comes of it."""
        self.store.sync_all()

    def asked(
        self, command: str = "true", blocks: dict[str, bytes] | None = None, **options: Any
    ) -> "Deferred[int]":
        """Return the Deferred of a submission by ada, of which nothing is durable yet."""
        spec = Spec(**options)
        return maybeDeferred(self.dispatcher.submit, command, spec, ACTOR, blocks or {})

    def submit(self, command: str = "true", **options: Any) -> int:
        """Return the id of a new job, once all is durable."""
        accepted = self.asked(command, **options)
        self.settle()
        return result_of(accepted)

    def cancel(self, job_id: int, number: int = signal.SIGTERM, cascade: bool = False) -> "Deferred[Job]":
        """Return the Deferred of a cancel."""
        return begin(self._cancel(job_id, number, cascade))

    async def _cancel(self, job_id: int, number: int, cascade: bool) -> Job:
        before = [job.id for job in await self.dispatcher.all_after(job_id)] if cascade else ()
        return await self.dispatcher.cancel(job_id, ACTOR, number, before)

    def hold(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a hold."""
        return begin(self.dispatcher.changes.hold(job_id, ACTOR))

    def release(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a release."""
        return begin(self.dispatcher.changes.release(job_id, ACTOR))

    def change(self, job_id: int, **values: Any) -> "Deferred[Job]":
        """Return the Deferred of a change of a spec's fields."""
        return begin(self.dispatcher.changes.change(job_id, ACTOR, values))

    def pause(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a pause."""
        return begin(self.dispatcher.controls.pause(ACTOR, queue, schedule))

    def resume(self, queue: str | None = None, schedule: int | None = None) -> "Deferred[None]":
        """Return the Deferred of a pause's end."""
        return begin(self.dispatcher.controls.resume(ACTOR, queue, schedule))

    def resize(self, queue: str, slots: int | None) -> "Deferred[None]":
        """Return the Deferred of a change of a queue's slots."""
        return begin(self.dispatcher.controls.resize(ACTOR, queue, slots))

    def schedule(self, every: float = 60.0, **options: Any) -> "Deferred[int]":
        """Return the Deferred of a new schedule."""
        command, spec = options.pop("command", "true"), Spec(**options)
        return begin(self.dispatcher.controls.schedule(command, spec, ACTOR, every, None, False))

    def unschedule(self, number: int) -> "Deferred[None]":
        """Return the Deferred of a schedule's end."""
        return begin(self.dispatcher.controls.unschedule(number, ACTOR))

    def retry(self, job_id: int) -> "Deferred[Job]":
        """Return the Deferred of a retry."""
        return begin(self.dispatcher.retry(job_id, ACTOR))

    def remove(self, job_id: int) -> "Deferred[None]":
        """Return the Deferred of a removal."""
        return begin(self.dispatcher.remove(job_id, ACTOR))

    def finish(self, job_id: int, outcome: Outcome = COMPLETED) -> None:
        """End a running attempt, durably."""
        self.executor.finish(job_id, outcome)
        self.settle()


def opened(slots: int = 2, **options: Any) -> House:
    """Return a house that has started."""
    house = House(slots, **options)
    house.dispatcher.start()
    return house


def running(house: House) -> list[int]:
    """Return the ids of the jobs that run, upwards."""
    return sorted(house.executor.running)


def watchers(feed: Feed) -> int:
    """Return how many watchers of a feed have caught up."""
    return sum(len(group.watchers) for group in feed._groups.values())


def begin(coroutine: "Coroutine[Deferred[Any], Any, Value]") -> "Deferred[Value]":
    """Return the Deferred of a coroutine, which begins at once."""
    return Deferred.fromCoroutine(coroutine)


def replayed(events: list[Event], limits: Limits = UNLIMITED) -> Backlog:
    """Return what the journal says, as a start reads it."""
    backlog = Backlog(limits, is_open=False)
    for number, event in enumerate(events):
        backlog.apply(event, (1, number, 1))
    backlog.open()
    return backlog


class FakePort:
    """A listening port."""

    is_listening = True

    def pauseProducing(self) -> None:
        self.is_listening = False

    def resumeProducing(self) -> None:
        self.is_listening = True


class FakeAccess:
    """Knows one token, ``sesame``, and takes users of this machine for admins unless told otherwise."""

    def __init__(self) -> None:
        self.methods = ["token"]
        self.tokens = {"sesame": Principal("token", Role.ADMIN)}
        self.roles: dict[str, Role] = {}
        self.certified: Principal | None = None
        self.revoked: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.slow: list[Deferred[Principal]] | None = None

    def peer(self, transport: Any) -> Principal | None:
        handle = transport.getHandle()
        if handle.family != socket.AF_UNIX:
            return None
        pid, uid, _ = struct.unpack("3i", handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        name = user_name(uid)
        return Principal(name, self.roles.get(name, Role.ADMIN), f"pid {pid}", uid=uid)

    def certificate(self, transport: Any) -> Principal | None:
        return self.certified

    def authenticate(self, token: str, address: str) -> "Deferred[Principal]":
        self.asked.append((token, address))
        found = self.tokens.get(token)
        if self.slow is not None:
            self.slow.append(Deferred())
            return self.slow[-1]
        return fail(AuthFailed("that is not a token")) if found is None else succeed(found)

    def is_valid(self, principal: Principal) -> bool:
        return principal.token not in self.revoked


@implementer(ICaller)
class FakeCaller:
    """Somebody who asks; what a handler sends before its reply is in ``sent``."""

    def __init__(self, principal: Principal | None = ADA) -> None:
        self.principal = principal
        self.address = "10.0.0.5:4242"
        self.failures = 0
        self.sent = b""
        self.is_finished = False
        self.broken_off: list[str] = []
        self.rooms: list[Deferred[None]] = []
        self.has_room = True
        self.held: list[Deferred[Any]] = []
        self.listening: list[Deferred[None]] = []

    def identify(self, authenticating: "Deferred[Principal]") -> "Deferred[Principal]":
        def identified(principal: Principal) -> Principal:
            self.principal = principal
            return principal

        def failed(failure: Failure) -> Failure:
            failure.trap(AuthFailed)
            self.failures += 1
            return failure

        return authenticating.addCallbacks(identified, failed)

    def send(self, data: bytes) -> None:
        self.sent += data

    send_part = send

    def room(self) -> "Deferred[None]":
        if self.has_room:
            return succeed(None)
        self.rooms.append(Deferred())
        return self.rooms[-1]

    def break_off(self, why: str) -> None:
        self.broken_off.append(why)

    def next_line(self) -> "Deferred[None]":
        self.listening.append(Deferred())
        return self.listening[-1]

    def while_connected(self, deferred: "Deferred[Any]") -> "Deferred[Any]":
        self.held.append(deferred)
        return deferred

    def finish(self) -> None:
        self.is_finished = True


NOT_HUNG_UP = os.open(os.devnull, os.O_RDONLY)
"""A descriptor of which poll(2) does not say that the other end has hung up."""


class FakeSocket:
    """A socket as the access rules see it: of a family, and with the uid of its peer."""

    def __init__(self, family: int = socket.AF_UNIX, uid: int = 0) -> None:
        self.family = family
        self.options: list[tuple[int, int, int]] = []
        self._uid = uid

    def fileno(self) -> int:
        return NOT_HUNG_UP

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("3i", 4711, self._uid, self._uid)


@implementer(ITransport)
class FakeTransport:
    """A connection's transport with a client that reads only when the test says so.

    It follows ``twisted.internet.abstract.FileDescriptor``: over 64 KiB unread it pauses its producer, and
    when all is read it resumes a paused producer, else closes if it was asked to.
    """

    disconnecting = False
    bufferSize = 65_536

    def __init__(self, handle: Any) -> None:
        self.received = b""
        self.is_reading = True
        self.is_half_closed = False
        self.is_aborted = False
        self.is_closed = False
        self.protocol: Protocol | None = None
        self._handle = handle
        self._unread = 0
        self._producer: Any = None
        self._is_producer_paused = False
        self._is_half_closing = False
        self._is_writing = False

    def getHandle(self) -> Any:
        return self._handle

    def getPeer(self) -> Any:
        return IPv4Address("TCP", "10.0.0.5", 4242)

    def getHost(self) -> Any:
        return None

    def write(self, data: bytes) -> None:
        if self.is_closed or self.is_half_closed:
            return
        assert isinstance(data, bytes)
        self.received += data
        self._unread += len(data)
        self._is_writing = True
        if self._producer is not None and self._unread > self.bufferSize:
            self._is_producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert streaming
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self.is_reading = True

    def loseConnection(self) -> None:
        if self.disconnecting or self.is_closed:
            return
        if self.is_half_closed:
            self._close(ConnectionDone())
        else:
            self.disconnecting = self._is_writing = True
            self.is_reading = False

    def loseWriteConnection(self) -> None:
        self._is_half_closing = self._is_writing = True

    def abortConnection(self) -> None:
        self.is_aborted = True
        self._close(ConnectionLost())

    def turn(self) -> None:
        """Let the client read all that was written, and do what the reactor then does, as long as it can."""
        while self._is_writing and not self.is_closed:
            self._unread = 0
            self._is_writing = False  # only a write or a close sets it again, as in doWrite
            if self._producer is not None and self._is_producer_paused:
                self._is_producer_paused = False
                self._producer.resumeProducing()
            elif self.disconnecting:
                self._close(ConnectionDone())
            elif self._is_half_closing:
                self._is_half_closing, self.is_half_closed = False, True

    def lose(self) -> None:
        """Break the connection, as a client that has crashed does."""
        self._close(ConnectionLost())

    def _close(self, why: Exception) -> None:
        self.is_closed = True
        if self._producer is not None:
            self._producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(why))


class Client:
    """A client of a house, connected through a FakeTransport."""

    def __init__(self, house: House, handle: Any = None) -> None:
        self.transport = FakeTransport(handle or FakeSocket())
        self._unsent: list[bytes] = []
        self.connection = cast("Any", house.factory.buildProtocol(None))
        self.transport.protocol = self.connection
        self.connection.makeConnection(self.transport)

    def send(self, data: bytes, size: int | None = None) -> None:
        """Send bytes, in pieces of ``size`` if it is given."""
        step = size or len(data) or 1
        self._unsent += (data[at : at + step] for at in range(0, len(data), step))
        self.deliver()

    def deliver(self) -> None:
        """Hand the server what was sent, for as long as it reads."""
        while self._unsent and self.transport.is_reading and not self.transport.is_closed:
            self.connection.dataReceived(self._unsent.pop(0))

    @property
    def is_held_back(self) -> bool:
        """Whether the server does not read all that was sent."""
        return bool(self._unsent)

    def read(self) -> None:
        """Read all that the server has to say, and let it go on."""
        self.transport.turn()
        self.deliver()

    def half_close(self) -> None:
        """Say that nothing more will come."""
        self.connection.readConnectionLost()

    def lines(self) -> list[str]:
        """Return the reply lines since the last call."""
        text, self.transport.received = self.transport.received, b""
        assert not text or text.endswith(b"\r\n")
        return text.decode("utf-8").split("\r\n")[:-1]


class FakeGroups:
    """The process groups of this machine, in the place of ``taskqd.execution.proc``.

    ``deadly`` says which signals end a process; ``sent`` what was sent, by the number of the group. What is
    not in ``alive`` is no group; each has one process, besides its leader. ``others`` are all the other
    processes.
    """

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.others: list[Process] = []
        self.deadly: set[int] = {signal.SIGKILL}
        self.sent: list[tuple[int, int]] = []
        self.refuses = False
        self.scans: list[int | None] = []
        self.now = 100

    def start_time(self, pid: int) -> int | None:
        return 4711

    def ticks(self) -> int:
        return self.now

    def is_number_used(self, pid: int) -> bool:
        return pid in self.alive or any(pid in (one.pid, one.group, one.session) for one in self.others)

    def signal_group(self, pgid: int, number: int) -> bool:
        if pgid not in self.alive:
            return False
        if self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.sent.append((pgid, number))
        if number in self.deadly:
            self.alive.discard(pgid)
        return True

    def scan(self, since: int | None) -> list[Process]:
        self.scans.append(since)
        return [Process(pgid + 10_000, 50, pgid, pgid) for pgid in sorted(self.alive)] + self.others

    def signal_process(self, one: Process, number: int) -> None:
        if one not in self.others:
            self.signal_group(one.group, number)
            return
        self.sent.append((one.group, number))
        if number in self.deadly:
            self.others.remove(one)


class FakePipe:
    """The reader of a pipe; the bytes in it that nobody has read are those that the test has put there."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        fcntl.fcntl(self._read, fcntl.F_SETFL, os.O_NONBLOCK)
        self.is_closed = False

    def put(self, data: bytes) -> None:
        os.write(self._write, data)

    def fileno(self) -> int:
        return self._read

    def loseConnection(self) -> None:
        if not self.is_closed:
            os.close(self._read)
            os.close(self._write)
        self.is_closed = True


@implementer(IProcessTransport)
class FakeProcess:
    """The transport of one process; the test lets it print and exit."""

    def __init__(self, protocol: MeasuredProtocol, pid: int, groups: FakeGroups) -> None:
        self.pid = pid
        self.pipes = {1: FakePipe(), 2: FakePipe()}
        self.is_reading = True
        self._protocol = protocol
        self._groups = groups

    def begin(self, started: int | None) -> None:
        """Tell of the process."""
        self._protocol.started = started
        cast("Any", self._protocol).makeConnection(self)

    def prints(self, stream: int, data: bytes) -> None:
        """Let the reactor read what the process prints."""
        self._protocol.childDataReceived(stream, data)

    def exits(
        self,
        code: int = 0,
        number: int | None = None,
        leaves: bool = False,
        usage: Usage | None = None,
    ) -> None:
        """End the process; unless it ``leaves`` something in its group, the group is gone too."""
        if not leaves:
            self._groups.alive.discard(self.pid)
        self._protocol.usage = usage
        failed = ProcessTerminated(code if number is None else None, number)
        self._protocol.processExited(Failure(failed if code or number else ProcessDone(0)))

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True

    def loseConnection(self) -> None:
        for pipe in self.pipes.values():
            pipe.loseConnection()

    def closeStdin(self) -> None:
        raise NotImplementedError

    def closeStdout(self) -> None:
        raise NotImplementedError

    def closeStderr(self) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writeSequence(self, data: Iterable[bytes]) -> None:
        raise NotImplementedError

    def getPeer(self) -> Any:
        raise NotImplementedError

    def getHost(self) -> Any:
        raise NotImplementedError

    def closeChildFD(self, childFD: int) -> None:
        self.pipes[childFD].loseConnection()

    def writeToChild(self, childFD: int, data: bytes) -> None:
        raise NotImplementedError

    def signalProcess(self, signalID: str | int) -> None:
        raise NotImplementedError


class FakeSpawn:
    """Spawns FakeProcesses; ``error`` is how it fails, ``at_once`` is done to each before it is told of.

    ``started`` is the start time that it knows of each.

    If it ``is_slow`` there is no process before ``go_on``; ``spawning`` is what the last call returned.
    """

    def __init__(self, groups: FakeGroups) -> None:
        self.processes: list[FakeProcess] = []
        self.lines: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.inputs: list[bytes] = []
        self.uids: list[int | None] = []
        self.error: Exception | None = None
        self.at_once: Callable[[FakeProcess], None] = lambda _: None
        self.has_group = True
        self.is_slow = False
        self.spawning: Deferred[FakeProcess] = Deferred()
        self.started: int | None = None
        self._groups = groups

    def __call__(
        self,
        protocol: MeasuredProtocol,
        line: list[str],
        environment: Mapping[str, str],
        stdin: int,
        uid: int | None,
    ) -> "Deferred[FakeProcess]":
        if self.error is not None:
            return fail(self.error)
        self.lines.append(line)
        self.uids.append(uid)
        self.environments.append(environment)
        self.inputs.append(os.read(stdin, 4096))
        process = FakeProcess(protocol, 5000 + len(self.processes), self._groups)
        self.processes.append(process)
        self.spawning = Deferred()
        if not self.is_slow:
            self.go_on()
        return self.spawning

    def go_on(self) -> None:
        """Have the process that was asked for last."""
        process = self.processes[-1]
        if self.has_group:
            self._groups.alive.add(process.pid)
        process.begin(self.started)
        self.at_once(process)
        self.spawning.callback(process)

    def close(self) -> None:
        """Close the pipes of all processes."""
        for process in self.processes:
            process.loseConnection()


def chunkings(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield ``data`` whole, byte by byte, and cut in two at every place."""
    yield (data,)
    yield tuple(data[at : at + 1] for at in range(len(data)))
    for at in range(1, len(data)):
        yield data[:at], data[at:]
