"""A campaign: fuzzers send input to a daemon in which everything is paused, and a bystander measures it."""

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
from tests.fuzz import bystander, process_stats, worker
from tests.fuzz.fuzzed_daemon import FuzzedDaemon
from tests.fuzz.player import PlayedSession, Target, play
from tests.fuzz.reply_checker import RuleBroken
from tests.fuzz.report import Report
from tests.fuzz.session import Session, load, save
from tests.fuzz.worker import Failure, RoundOrders, Tally, Way

WORKERS = 2
ROUND_LENGTH = 20.0
"""Seconds of a round of fuzzing; after it, what it left is removed and the daemon's statistics are read."""
MAX_JOBS = 4000
"""Jobs of one worker after which a round ends."""
IDLE_SECONDS = 1.0
MAX_IDLE_CPU = 0.05
"""The part of a processor that the daemon may use while no client sends anything."""
MAX_GROWTH = 64 * 1024**2
"""Bytes by which the daemon's memory may grow from half-time to the end.

The allocator does not return the memory of large replies, so the first half is a warm-up. The limit allows
for blocks of 16 MiB that are in transit when the statistics are read.
"""

_FORBIDDEN_IN_LOG = re.compile(
    r"Traceback|Unhandled|internal error|unexpected error|CRITICAL|cannot be written"
)


class Rules(NamedTuple):
    """The duration and the inputs of a campaign, and the limit of the bystander's median reply.

    Both times are in seconds.
    """

    seconds: float
    kinds: Sequence[str]
    ways: Sequence[Way]
    max_median: float


class Campaign:
    """Rounds of fuzzing; ``run`` returns whether every rule held.

    ``log`` is called with lines about progress. Sessions that broke a rule are written to files in
    ``place``, for ``bin/fuzz --replay``.
    """

    def __init__(self, place: Path, seed: int, rules: Rules, log: Callable[[str], object]) -> None:
        self.report = Report()
        self.broken: list[str] = []
        self._place = place
        self._seed = seed
        self._rules = rules
        self._tell = log
        self._daemon = FuzzedDaemon(place, {transport for transport, _ in rules.ways})

    def run(self) -> bool:
        """Fuzz until the time is up or a rule is broken."""
        try:
            self._run()
        except (
            RuleBroken,
            AssertionError,
        ) as why:  # an AssertionError: a wait or a reply of this program failed
            self._break(str(why))
        finally:
            errors = self._daemon.close()
        self._judge()
        for error in errors:
            self._break(error)
        return not self.broken

    def _run(self) -> None:
        with self._start_processes(self._daemon.set_up()) as (workers, watcher):
            began = time.monotonic()
            self._record_stats(0.0)
            while not self.broken and (left := self._rules.seconds - (time.monotonic() - began)) > 0:
                self._round(workers, watcher, min(ROUND_LENGTH, left))
                if not self.broken:
                    self._daemon.clean_up()
                    self._record_stats(time.monotonic() - began)
                    self._tell(self.report.line())
        if not self.broken:
            self._end()

    def _break(self, why: str) -> None:
        self.broken.append(why)
        self._tell(f"BROKEN: {why}")

    @contextmanager
    def _start_processes(self, where: Target) -> Iterator[tuple[list[Connection], Connection]]:
        """Start the workers and the bystander as processes, and yield the pipes to them."""
        fresh = multiprocessing.get_context("spawn")
        tasks: list[tuple[Any, ...]] = [
            (worker.work, where, f"{self._seed} {number}", self._rules.kinds, self._rules.ways)
            for number in range(WORKERS)
        ]
        tasks.append((bystander.measure, where))
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
                with suppress(OSError):  # the process has ended
                    pipe.send(None)
            for process in processes:
                process.join(DEADLINE)
                process.kill()

    # One round.

    def _round(self, workers: list[Connection], watcher: Connection, seconds: float) -> None:
        watcher.send(True)
        for pipe in workers:
            pipe.send(RoundOrders(seconds, MAX_JOBS, self._daemon.kept))
        tallies: list[Tally] = [pipe.recv() for pipe in workers]
        watcher.send(True)
        waited: dict[str, list[float]] | str = watcher.recv()
        for tally in tallies:
            self.report.add(tally)
            for failure in tally.failures:
                self._keep(failure)
        if isinstance(waited, str):
            raise RuleBroken(waited)
        for verb, times in waited.items():
            self.report.times[verb] += times
        if found := _FORBIDDEN_IN_LOG.search(self._daemon.log):
            self._break(f"the log has {found[0]!r} in it:\n{self._daemon.log[found.start() :][:3000]}")
            for number, tally in enumerate(tallies):
                save(self._place / f"last-{number}.json", tally.last, found[0])

    def _keep(self, failure: Failure) -> None:
        path = self._place / f"failed-{len(self.broken)}.json"
        save(path, failure.sessions, failure.why)
        self._break(f"{failure.why}\n  bin/fuzz --replay {path}")

    def _record_stats(self, seconds: float) -> None:
        """Record the daemon's statistics while no client sends anything."""
        if not self.report.stats or seconds // 60 > self.report.stats[-1][0] // 60:
            self.report.idle.append(process_stats.idle_cpu(self._daemon.pid, IDLE_SECONDS))
        self.report.stats.append((seconds, process_stats.read_process_stats(self._daemon.pid)))

    # The end.

    def _end(self) -> None:
        """Drain and stop, verify the journal, and check that the next daemon has the same jobs."""
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
            raise RuleBroken(f"the journal is damaged: {verified.stdout}{verified.stderr}")
        daemon.start()
        wire = daemon.connect()
        after = {job["id"]: job["status"] for job in wire.list()}
        lost = {
            job: status for job, status in before.items() if after.get(job) != status and status != "RUNNING"
        }
        if lost or before.keys() != after.keys():
            raise RuleBroken(f"a restart finds the same jobs: {before} and {after}")
        wire.close()

    def _judge(self) -> None:
        """Check the measurements against the rules."""
        report, first = self.report, next(iter(self.report.stats), None)
        if first is None:
            return
        for verb, times in report.times.items():
            if (median := bystander.summary(times).median) >= self._rules.max_median:
                self._break(f"the bystander's replies to {verb} took {median * 1000:.2f} ms at the median")
        if report.idle and (idle := max(report.idle)) > MAX_IDLE_CPU:
            self._break(f"the daemon took {100 * idle:.0f} % of a processor while no client sent anything")
        end = report.stats[-1][0]
        warm = next(seen for seconds, seen in report.stats if seconds >= end / 2)
        last = report.stats[-1][1]
        if last.rss - warm.rss > MAX_GROWTH:
            self._break(f"the daemon's memory grew from {warm.rss:,} to {last.rss:,} bytes")
        if last.descriptors > first[1].descriptors + 4:
            self._break(f"the daemon has {last.descriptors} descriptors open, and had {first[1].descriptors}")


def replay(place: Path, file: Path, log: Callable[[str], object]) -> bool:
    """Play the sessions of a file against a fresh daemon; return whether every rule held."""
    sessions = load(file)
    daemon = FuzzedDaemon(place, {session.transport for session in sessions})
    is_ok = True
    try:
        where = daemon.set_up()
        for number, session in enumerate(sessions, 1):
            try:
                _log_session(log, number, session, play(session, where))
            except (RuleBroken, OSError) as why:
                log(f"{number}: {why}")
                is_ok = False
    finally:
        errors = daemon.close()
    for error in errors:
        log(error)
    return is_ok and not errors


def _log_session(log: Callable[[str], object], number: int, session: Session, played: PlayedSession) -> None:
    replies = ", ".join(f"{count} {word}" for word, count in played.checker.replies.items())
    size, (kind, transport) = len(session.data), session[:2]
    log(f"{number}: {size} bytes of {kind} over {transport}: {replies or 'no reply'}")


def _expect(wire: Wire, request: str, reply: str) -> None:
    if not (answer := wire.ask(request)).startswith(reply):
        raise RuleBroken(f"{request} is answered {reply}, not {answer}")
