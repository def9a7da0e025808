"""A campaign: clients work, and the daemon is killed at critical moments."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from taskqd.errors import JournalDamaged
from taskqd.model.job import Status
from taskqd.protocol import documents, replies
from taskqd.state.queue_state import InvalidTransition, QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from tests.end_to_end.wire import until
from tests.torture.clients import Client, Connection
from tests.torture.history import read_history
from tests.torture.kinds import OWN_SESSION
from tests.torture.model import RETENTION, Broken, Model, Shown, State
from tests.torture.victim import Victim

CLIENTS = 8
SLOTS = 6
PAGE = 500
PROGRESS_INTERVAL = 5.0
SNAPSHOT_TIMEOUT = 1.5
MAX_UPTIME = 0.6
REPLAY_INTERVAL = 10
"""Kills between two replays of the journal while no daemon runs."""

STOPPED = "stopped by SIGTERM"
"""An end of the daemon that is not a kill."""


class Limits(NamedTuple):
    """When a campaign ends: after some seconds, some kills, or both."""

    seconds: float | None
    kills: int | None


class Campaign:
    """Kills until the limits are reached, then lets all jobs end, and checks everything once more.

    `run` raises Broken or another error; ``tell`` is called with a line of progress periodically.
    """

    def __init__(self, place: Path, seed: int, limits: Limits, tell: Callable[[str], object]) -> None:
        runs = place / "runs"
        runs.mkdir()
        self.kinds: Counter[str] = Counter()
        self._limits = limits
        self._tell = tell
        self._chance = random.Random(f"{seed} kills")
        self._on_answer = Event()
        self._model = Model(runs)
        stop = ("--on-stop=requeue", "--stop-grace=100ms")
        room = ("--queue=a=2", "--resource=gpu=2")
        self._daemon = Victim(place, *stop, *room, f"--retention-age={RETENTION:g}s", slots=SLOTS)
        self._clients = [
            Client(
                f"c{number}",
                self._model,
                self._daemon.socket,
                random.Random(f"{seed} client {number}"),
                self._on_answer,
            )
            for number in range(CLIENTS)
        ]
        self._began = self._last_progress = time.monotonic()
        self._startup = 0.35

    @property
    def kills(self) -> int:
        return self.kinds.total() - self.kinds[STOPPED]

    def summary(self) -> str:
        """Return a line with the progress."""
        ways = ", ".join(f"{count} {way}" for way, count in sorted(self.kinds.items()))
        seconds, model = time.monotonic() - self._began, self._model
        return (
            f"{seconds:.0f} s, {self.kills} kills ({ways}), {model.acknowledged} jobs acknowledged, "
            f"{model.checked} ends checked, {len(model.known())} jobs kept"
        )

    def run(self) -> None:
        try:
            self._run()
        finally:
            for client in self._clients:
                client.stop()
            if self._daemon.is_running:
                self._daemon.kill()  # keeps the files as they were found
            self._daemon.close()

    def _run(self) -> None:
        for client in self._clients:
            client.start()
        while not self._is_enough():
            self._cycle()
            if time.monotonic() > self._last_progress + PROGRESS_INTERVAL:
                self._last_progress = time.monotonic()
                self._tell(self.summary())
        self._start()
        self._finish()

    def _is_enough(self) -> bool:
        seconds, kills = self._limits
        is_over = seconds is not None and time.monotonic() > self._began + seconds
        return is_over or (kills is not None and self.kills >= kills)

    # one run of the daemon

    def _cycle(self) -> None:
        self._chance.choices(list(_WAYS), list(_WAYS.values()))[0](self)

    def _live(self) -> None:
        """Start the daemon, and usually check all jobs."""
        self._start()
        if self._chance.random() < 0.7:
            self._audit()

    def _launch(self) -> float:
        self._model.generation += 1
        return self._daemon.begin()

    def _start(self) -> None:
        """Start the daemon, and check that no processes are left of the run before."""
        began = self._launch()
        self._daemon.wait_for_answer()
        took = time.monotonic() - began
        self._startup += (took - self._startup) / 8
        self._check_leftovers()
        self._check_all_is_well()

    def _kill(self, way: str, others: Iterable[int] = ()) -> None:
        self._model.crashes += 1
        self._daemon.signal(signal.SIGKILL)
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemon.wait_for_end()
        self.kinds[way] += 1
        self._check_all_is_well()
        if self.kills % REPLAY_INTERVAL == 0:
            self._replay()

    def _at_start_up(self) -> None:
        self._launch()
        time.sleep(self._chance.uniform(0, 1.2 * self._startup))
        self._kill("at start-up")

    def _at_work(self) -> None:
        self._live()
        time.sleep(self._chance.uniform(0, MAX_UPTIME))
        self._kill("at work")

    def _at_an_answer(self) -> None:
        self._live()
        time.sleep(self._chance.uniform(0, MAX_UPTIME / 2))
        self._on_answer.clear()
        self._on_answer.wait(1)
        self._kill("at an answer")

    def _in_a_snapshot(self) -> None:
        """Kill during or just after a snapshot, with or without the snapshot process."""
        self._live()
        before = self._snapshot_files()
        deadline = time.monotonic() + SNAPSHOT_TIMEOUT
        wanted = self._chance.choice((".snapshot.new", ".moved", ".snapshot"))
        is_maker_killed = self._chance.random() < 0.5
        is_seen = False
        while not is_seen and time.monotonic() < deadline:
            time.sleep(0.001)
            is_seen = any(name.endswith(wanted) for name in self._snapshot_files() - before)
        time.sleep(self._chance.uniform(0, 0.004))
        makers = self._daemon.snapshot_processes() if is_maker_killed else []
        self._kill("in a snapshot" if is_seen else "at work", makers)

    def _snapshot_files(self) -> set[str]:
        journal = self._daemon.state / "journal"
        return {path.name for path in journal.iterdir() if not path.name.endswith(".journal")}

    def _in_a_stop(self) -> None:
        """Send SIGTERM, and kill the daemon during the stop or let it end."""
        self._live()
        time.sleep(self._chance.uniform(0, MAX_UPTIME / 2))
        self._model.crashes += 1
        self._daemon.signal(signal.SIGTERM)
        if self._chance.random() < 0.5:
            time.sleep(self._chance.uniform(0, 0.3))
            if not self._daemon.has_ended():
                self._kill("in a stop")
                return
        try:
            self._daemon.wait_for_end()
        except subprocess.TimeoutExpired as why:
            raise Broken("a daemon ends on SIGTERM", None, why) from None
        self.kinds[STOPPED] += 1
        self._check_all_is_well()
        allowed = ("taskqd.storage.journal.snapshot", OWN_SESSION)
        processes = self._daemon.processes().items()
        left = {pid: line for pid, line in processes if not any(word in line for word in allowed)}
        if left:
            raise Broken("a stop leaves no process", None, left)

    def _check_all_is_well(self) -> None:
        for client in self._clients:
            if client.broken is not None:
                raise client.broken
        if complaint := self._daemon.complaints():
            raise Broken("the log has no unexpected lines", None, complaint)

    def _check_leftovers(self) -> None:
        left = self._daemon.leftovers()
        if not left:
            return
        wire = self._daemon.connect()
        for pid, (job, attempt, line) in left.items():
            if not (OWN_SESSION in line and not _is_interrupted(wire, job, attempt)):
                found = (pid, job, attempt, line, wire.ask(f"SHOW {job}"))
                raise Broken("no processes are left of earlier attempts", None, found)
        wire.close()

    # checks

    def _audit(self) -> None:
        """Check the list of all jobs against the model, also for missing ones."""
        generation = self._model.generation
        wire = self._daemon.connect()
        listed = {job["id"] for job in self._list(wire)}
        for task in self._model.settle(listed, generation):
            asked = time.monotonic()
            reply = wire.ask(f"SHOW {task.id}")
            if reply.startswith("ERROR GONE "):
                self._model.gone(task, time.monotonic())
            elif reply.startswith("JOB "):
                self._model.observed(json.loads(reply[4:]), asked, time.monotonic())
            else:
                raise Broken("no acknowledged job is lost", task, reply)
        wire.close()

    def _list(self, wire: Connection) -> list[Shown]:
        jobs: list[Shown] = []
        first = 1
        while True:
            asked = time.monotonic()
            page = wire.list(f"--from={first} --limit={PAGE}")
            answered = time.monotonic()
            for job in page:
                self._model.observed(job, asked, answered)
            jobs += page
            if len(page) < PAGE:
                return jobs
            first = page[-1]["id"] + 1

    def _replay(self) -> dict[int, Shown]:
        """Check the journal against the model, and return its jobs as the daemon would show them."""
        asked = time.monotonic()
        jobs = replayed(self._daemon.state / "journal")
        for job in jobs.values():
            self._model.observed(job, asked, asked)
        return jobs

    # the end

    def _finish(self) -> None:
        """Let all jobs end and check them; after one more kill they must be the same."""
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join()
        self._check_all_is_well()
        wire = self._daemon.connect()
        self._repeat_what_is_unanswered(wire)
        self._let_all_go(wire)
        until(lambda: not wire.list("--status=PENDING,RUNNING --limit=1"), "all jobs to end", 120, pause=0.1)
        self._audit()
        for task in self._model.known():
            if not self._clients[0].verify(wire, task) and task.state is State.KNOWN:
                raise Broken("every job ends", task, wire.ask(f"SHOW {task.id}"))
        listed = {job["id"]: job for job in self._list(wire)}
        wire.close()
        self._model.crashes += 1
        self._daemon.kill()
        self._check_all_is_well()
        self._agree("the journal's replay", self._replay(), listed)
        self._start()
        wire = self._daemon.connect()
        self._agree("the next daemon", {job["id"]: job for job in self._list(wire)}, listed)
        wire.close()
        self._check_files(set(listed))
        self._check_ids(list(listed))
        for task in self._model.tasks():
            if task.state is not State.KNOWN and self._model.attempts(task):
                raise Broken("a job that is gone does not run", task, self._model.attempts(task))
        code = self._daemon.stop()
        if code not in {0, -signal.SIGTERM}:
            raise Broken("a daemon stops without error", None, (code, self._daemon.log[-1000:]))
        self._check_all_is_well()

    def _let_all_go(self, wire: Connection) -> None:
        """Release jobs and queues that a kill has left held or paused."""
        for request in ("RESUME", "RESUME a", "RESUME b", "SET-QUEUE a --slots=default"):
            wire.ask(request)
        for job in wire.list(f"--status=PENDING --limit={PAGE}"):
            wire.ask(f"RELEASE {job['id']}")

    def _repeat_what_is_unanswered(self, wire: Connection) -> None:
        while (task := self._model.to_repeat()) is not None:
            self._clients[0].submit_again(wire, task)

    def _check_ids(self, listed: list[int]) -> None:
        """Remove the newest jobs, also from the journal, and check that their ids are not reused."""
        wire = self._daemon.connect()
        for job in listed[-3:]:
            wire.ask(f"REMOVE {job}")
        wire.close()
        for _ in range(2):
            time.sleep(0.2)
            self._daemon.kill()
            self._start()
        wire = self._daemon.connect()
        job = wire.submit("true")
        if job <= self._model.newest or wire.wait(job) != "COMPLETED":
            raise Broken("ids count up", None, (job, self._model.newest))
        wire.close()

    def _agree(self, who: str, found: dict[int, Shown], expected: dict[int, Shown]) -> None:
        """Check that two lists are equal, except for jobs that the retention has removed since."""
        for job_id in found.keys() | expected.keys():
            if found.get(job_id) != expected.get(job_id) and job_id in found:
                raise Broken(f"{who} agrees with the daemon", None, (found[job_id], expected.get(job_id)))

    def _check_files(self, known: set[int]) -> None:
        """Check that the spool has no file of a job that is not known."""
        for kind in ("input", "output", "progress"):
            files = [path for path in (self._daemon.state / kind).rglob("*") if path.is_file()]
            if orphans := [str(path) for path in files if int(path.name.split(".")[0]) not in known]:
                raise Broken("the spool has no orphans", None, orphans[:20])


_WAYS: dict[Callable[[Campaign], None], int] = {
    Campaign._at_work: 38,
    Campaign._at_an_answer: 15,
    Campaign._at_start_up: 25,
    Campaign._in_a_snapshot: 14,
    Campaign._in_a_stop: 8,
}
"""The moments at which the daemon is killed, and their weights."""


def replayed(journal: Path) -> dict[int, Shown]:
    """Return the jobs in the journal by id, as SHOW would return them."""
    segments = Segments(str(journal), Filesystem())
    queue_state = QueueState()
    try:
        for event, position in segments.replay(segments.layout(), Replay()):
            queue_state.apply(event, position)
    except (JournalDamaged, InvalidTransition) as why:
        raise Broken("a journal can be replayed", None, why) from None
    shown = {}
    for job in queue_state.jobs.values():
        progress = 100 if job.status is Status.COMPLETED else job.attempt.progress if job.attempt else 0
        described = documents.describe(job, progress, queue_state.reason(job, time.time()))
        shown[job.id] = json.loads(replies.as_json("JOB", described)[4:])
    return shown


def _is_interrupted(wire: Connection, job: int, attempt: int) -> bool:
    """Whether a kill of the daemon has ended an attempt; unknown of a job that is gone."""
    wire.send(b"HISTORY %d\r\n" % job)
    ends = [event for _, event in read_history(wire) if event["type"] == "ended"]
    return len(ends) >= attempt and "killed" in ends[attempt - 1].get("detail", "")


def torture(place: Path, seed: int, limits: Limits) -> int:
    """Run a campaign below ``place``, which is kept if a rule is broken; return the exit code."""
    campaign: Campaign | None = None
    try:
        campaign = Campaign(place, seed, limits, lambda line: sys.stderr.write(line + "\n"))
        campaign.run()
    except Exception as why:
        if campaign is not None:
            sys.stderr.write(campaign.summary() + "\n")
        sys.stderr.write(
            f"BROKEN with --seed {seed}: {type(why).__name__}: {why}\nthe state is kept in {place}\n"
        )
        if not isinstance(why, Broken):
            raise
        return 1
    sys.stdout.write(f"seed {seed}, {campaign.summary().strip()}: every rule held\n")
    shutil.rmtree(place)
    return 0
