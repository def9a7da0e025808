"""A campaign: a daemon in which everything is paused, fuzzers at work on it, and somebody who looks on."""

import multiprocessing
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.end_to_end.daemon import TASKQ, environment
from tests.end_to_end.wire import DEADLINE, Wire
from tests.fuzz import innocent, watch, worker
from tests.fuzz.hearing import Broken
from tests.fuzz.player import Place, Played, play
from tests.fuzz.report import Report
from tests.fuzz.session import Session, load, save
from tests.fuzz.victim import Victim
from tests.fuzz.worker import Failure, Orders, Tally, Way

WORKERS = 2
ROUND = 20.0
"""A round of fuzzing takes so many seconds; then all that it left is removed, and the daemon looked at."""
MOST_JOBS = 4000
"""A round ends when a worker has got so many jobs in."""
QUIET = 1.0
MOST_IDLE = 0.05
"""While nobody asks for anything, the daemon takes at most such a part of a processor."""
GROWTH = 64 * 1024**2
"""The daemon's memory may grow by this many bytes from half-time to the end.

The allocator does not give back what large replies once took, so the first half is for warming up. Blocks of
16 MiB each that are on their way at a look, or were in another thread before, make the rest of it.
"""

_UNWELCOME = re.compile(r"Traceback|Unhandled|bug of taskqd|CRITICAL|cannot be written")


class Rules(NamedTuple):
    """How long a campaign takes, with what, and the ``bar`` for others' median reply: both in seconds."""

    seconds: float
    kinds: Sequence[str]
    ways: Sequence[Way]
    bar: float


class Campaign:
    """Rounds of fuzzing; ``run`` returns whether every rule held, ``tell`` takes a line now and then.

    What broke a rule is written to files in ``place`` that ``bin/fuzz --replay`` plays.
    """

    def __init__(self, place: Path, seed: int, rules: Rules, tell: Callable[[str], object]) -> None:
        self.report = Report()
        self.broken: list[str] = []
        self._place = place
        self._seed = seed
        self._rules = rules
        self._tell = tell
        self._daemon = Victim(place, {transport for transport, _ in rules.ways})

    def run(self) -> bool:
        """Fuzz until the time is up or something is broken."""
        try:
            self._run()
        except (Broken, AssertionError) as why:  # of the second kind is a wait or a reply of our own in vain
            self._break(str(why))
        finally:
            complaints = self._daemon.close()
        self._judge()
        for complaint in complaints:
            self._break(complaint)
        return not self.broken

    def _run(self) -> None:
        with self._crew(self._daemon.begin()) as (workers, watcher):
            began = time.monotonic()
            self._look(0.0)
            while not self.broken and (left := self._rules.seconds - (time.monotonic() - began)) > 0:
                self._round(workers, watcher, min(ROUND, left))
                if not self.broken:
                    self._daemon.sweep()
                    self._look(time.monotonic() - began)
                    self._tell(self.report.line())
        if not self.broken:
            self._end()

    def _break(self, why: str) -> None:
        self.broken.append(why)
        self._tell(f"BROKEN: {why}")

    @contextmanager
    def _crew(self, where: Place) -> Iterator[tuple[list[Connection], Connection]]:
        """Yield the pipes to the workers and to the innocent, each a process of its own."""
        fresh = multiprocessing.get_context("spawn")
        tasks: list[tuple[Any, ...]] = [
            (worker.work, where, f"{self._seed} {number}", self._rules.kinds, self._rules.ways)
            for number in range(WORKERS)
        ]
        tasks.append((innocent.ask, where))
        pipes, processes = [], []
        for function, *arguments in tasks:
            ours, theirs = fresh.Pipe()
            process = fresh.Process(target=function, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            yield pipes[:-1], pipes[-1]
        finally:
            for pipe in pipes:
                with suppress(OSError):  # it has ended
                    pipe.send(None)
            for process in processes:
                process.join(DEADLINE)
                process.kill()

    # one round

    def _round(self, workers: list[Connection], watcher: Connection, seconds: float) -> None:
        watcher.send(True)
        for pipe in workers:
            pipe.send(Orders(seconds, MOST_JOBS, self._daemon.kept))
        tallies: list[Tally] = [pipe.recv() for pipe in workers]
        watcher.send(True)
        waited: dict[str, list[float]] | str = watcher.recv()
        for tally in tallies:
            self.report.add(tally)
            for failure in tally.failures:
                self._keep(failure)
        if isinstance(waited, str):
            raise Broken(waited)
        for verb, times in waited.items():
            self.report.times[verb] += times
        if found := _UNWELCOME.search(self._daemon.log):
            self._break(f"the log has {found[0]!r} in it:\n{self._daemon.log[found.start() :][:3000]}")
            for number, tally in enumerate(tallies):
                save(self._place / f"last-{number}.json", tally.last, found[0])

    def _keep(self, failure: Failure) -> None:
        path = self._place / f"failed-{len(self.broken)}.json"
        save(path, failure.sessions, failure.why)
        self._break(f"{failure.why}\n  bin/fuzz --replay {path}")

    def _look(self, seconds: float) -> None:
        """Note what the daemon has now that nobody asks it for anything."""
        if not self.report.looks or seconds // 60 > self.report.looks[-1][0] // 60:
            self.report.idle.append(watch.idle_cpu(self._daemon.pid, QUIET))
        self.report.looks.append((seconds, watch.look(self._daemon.pid)))

    # the end

    def _end(self) -> None:
        """Drain and stop, verify the journal, and see that the next daemon has the same jobs."""
        daemon = self._daemon
        wire = daemon.connect()
        before = {job["id"]: job["status"] for job in wire.list()}
        _expect(wire, "DRAIN", "OK")
        _expect(wire, "SUBMIT true", "ERROR DRAINING")
        wire.close()
        daemon.stop()
        verified = subprocess.run(
            [TASKQ, "journal", "verify", daemon.state],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            raise Broken(f"the journal verifies: {verified.stdout}{verified.stderr}")
        daemon.start()
        wire = daemon.connect()
        after = {job["id"]: job["status"] for job in wire.list()}
        lost = {
            job: status for job, status in before.items() if after.get(job) != status and status != "RUNNING"
        }
        if lost or before.keys() != after.keys():
            raise Broken(f"a restart finds the same jobs: {before} and {after}")
        wire.close()

    def _judge(self) -> None:
        """Hold what was measured against the rules."""
        report, first = self.report, next(iter(self.report.looks), None)
        if first is None:
            return
        for verb, times in report.times.items():
            if (median := innocent.summary(times).median) >= self._rules.bar:
                self._break(f"others' replies to {verb} took {median * 1000:.2f} ms at the median")
        if report.idle and (idle := max(report.idle)) > MOST_IDLE:
            self._break(f"the daemon took {100 * idle:.0f} % of a processor while nobody asked for anything")
        end = report.looks[-1][0]
        warm = next(seen for seconds, seen in report.looks if seconds >= end / 2)
        last = report.looks[-1][1]
        if last.rss - warm.rss > GROWTH:
            self._break(f"the daemon's memory has grown from {warm.rss:,} to {last.rss:,} bytes")
        if last.descriptors > first[1].descriptors + 4:
            self._break(f"the daemon has {last.descriptors} descriptors open, and had {first[1].descriptors}")


def replay(place: Path, file: Path, tell: Callable[[str], object]) -> bool:
    """Play the sessions of a file against a fresh daemon; return whether every rule held."""
    sessions = load(file)
    daemon = Victim(place, {session.transport for session in sessions})
    is_well = True
    try:
        where = daemon.begin()
        for number, session in enumerate(sessions, 1):
            try:
                _tell_of(tell, number, session, play(session, where))
            except (Broken, OSError) as why:
                tell(f"{number}: {why}")
                is_well = False
    finally:
        complaints = daemon.close()
    for complaint in complaints:
        tell(complaint)
    return is_well and not complaints


def _tell_of(tell: Callable[[str], object], number: int, session: Session, played: Played) -> None:
    replies = ", ".join(f"{count} {word}" for word, count in played.ear.replies.items())
    size, (kind, transport) = len(session.data), session[:2]
    tell(f"{number}: {size} bytes of {kind} over {transport}: {replies or 'no reply'}")


def _expect(wire: Wire, request: str, reply: str) -> None:
    if not (said := wire.ask(request)).startswith(reply):
        raise Broken(f"{request} is answered {reply}, not {said}")
