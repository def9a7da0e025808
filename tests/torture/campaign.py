"""A campaign: clients work, and the daemon is killed at critical moments."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event
from typing import NamedTuple

from tests.end_to_end.wire import until
from tests.torture.checks import Checks
from tests.torture.clients import Client, Connection
from tests.torture.hogs import hogs
from tests.torture.kills import Killer
from tests.torture.model import RETENTION, Broken, Model, State
from tests.torture.starts import Starts
from tests.torture.victim import Victim

CLIENTS = 8
SLOTS = 6
PAGE = 500
PROGRESS_INTERVAL = 5.0
SNAPSHOT_TIMEOUT = 1.5
MAX_UPTIME = 0.6
REPLAY_INTERVAL = 10
"""Kills between two replays of the journal while no daemon runs."""

MAX_START_UP = 0.5
"""Seconds after a launch, or after a kill of the runner, until a kill at start-up."""
MAX_STOP, MAX_QUICK_STOP = 0.3, 0.03
"""Seconds after a SIGTERM until a kill in a stop: if the stop ends jobs, and if it leaves them."""
MAX_PAUSE = 1.0
"""Seconds without a daemon."""
LONG_PAUSE = (4.5, 8.5)
"""Seconds without a daemon in which its runner may end all jobs and then exit, after 5 idle seconds."""
LONG_PAUSE_CHANCE = 0.015
LEFTOVER_TIMEOUT = 10.0
"""Seconds until the processes of an attempt that has ended must be gone, on a loaded machine."""
EXIT_TIMEOUT = 20.0
"""Seconds until the runner must be gone after the last stop."""


class Limits(NamedTuple):
    """When a campaign ends: after some seconds, some kills, or both. ``hogs`` busy loops run beside it."""

    seconds: float | None
    kills: int | None
    hogs: int = 0


class Campaign:
    """Kills until the limits are reached, then lets all jobs end, and checks everything once more.

    `run` raises Broken or another error; ``tell`` is called with a line of progress periodically.
    """

    def __init__(self, place: Path, seed: int, limits: Limits, tell: Callable[[str], object]) -> None:
        runs = place / "runs"
        runs.mkdir()
        self._limits = limits
        self._tell = tell
        self._chance = random.Random(f"{seed} kills")
        self._on_answer = Event()
        options = ("--stop-grace=100ms", "--queue=a=2", "--resource=gpu=a,b")
        self._daemon = Victim(place, *options, f"--retention-age={RETENTION:g}s", slots=SLOTS)
        self._model = Model(runs, self._daemon.runner_processes.ended, Starts(self._daemon.state / "journal"))
        self._killer = Killer(self._daemon, self._model, self._chance)
        self._stops = 0
        self._next_replay = REPLAY_INTERVAL
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
        self._checks = Checks(self._daemon, self._model, self._clients)
        self._began = self._last_progress = time.monotonic()

    def summary(self) -> str:
        """Return a line with the progress."""
        killer, model = self._killer, self._model
        ends = Counter(model.ends.values())
        survived, own = model.own_ends()
        unchecked = model.unchecked()
        return (
            f"{time.monotonic() - self._began:.0f} s, {killer.kills} kills ({_counts(killer.targets)}; "
            f"{_counts(killer.moments)}), {self._stops} stops, {model.acknowledged} jobs acknowledged, "
            f"{len(model.known())} kept, {unchecked} removed unchecked; "
            f"{ends.total()} ends of attempts checked ({_counts(ends)}); "
            f"{survived} of these ran when only the daemon was killed, and {own} of those ended by themselves"
        )

    def run(self) -> None:
        try:
            with hogs(self._limits.hogs):
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
        seconds, kills, _ = self._limits
        is_over = seconds is not None and time.monotonic() > self._began + seconds
        return is_over or (kills is not None and self._killer.kills >= kills)

    # one kill

    def _cycle(self) -> None:
        self._chance.choices(list(_WAYS), list(_WAYS.values()))[0](self)

    def _begin(self) -> None:
        """Launch the daemon if none runs, at once or after a pause."""
        if self._daemon.has_ended():
            time.sleep(self._pause())
            self._model.generation += 1
            self._daemon.on_stop = self._chance.choices(("leave", "requeue"), (4, 1))[0]
            self._daemon.begin()

    def _pause(self) -> float:
        """Return the seconds until the next launch."""
        if self._chance.random() < LONG_PAUSE_CHANCE:
            return self._chance.uniform(*LONG_PAUSE)
        return self._chance.choice((0.0, self._chance.uniform(0, MAX_PAUSE)))

    def _start(self) -> None:
        """Launch the daemon if none runs, and wait until it answers."""
        self._begin()
        self._daemon.wait_for_answer()
        self._checks.all_is_well()

    def _live(self) -> None:
        """Have a daemon that answers, and usually check all jobs."""
        was_down = self._daemon.has_ended()
        self._start()
        if self._chance.random() < (0.7 if was_down else 0.2):
            self._checks.leftovers()
            self._checks.audit()

    def _kill(self, moment: str, others: Iterable[int] = ()) -> None:
        self._killer.kill(moment, others)
        self._checks.all_is_well()
        if moment != "in a stop":
            self._check_killed()
        if self._daemon.has_ended() and self._killer.kills >= self._next_replay:
            self._next_replay = self._killer.kills + REPLAY_INTERVAL
            self._checks.replay()

    def _check_killed(self) -> None:
        code = self._daemon.exit_code
        if code not in {None, -signal.SIGKILL}:
            raise Broken(
                "a daemon ends only if it is killed or stopped", None, (code, self._daemon.log[-3000:])
            )

    def _at_start_up(self) -> None:
        """Kill soon after a start, or soon after the kill before: its runner may be starting."""
        self._begin()
        time.sleep(self._chance.uniform(0, MAX_START_UP))
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
        """Send SIGTERM, and kill during the stop or let the daemon end."""
        self._live()
        time.sleep(self._chance.uniform(0, MAX_UPTIME / 2))
        does_leave = self._daemon.on_stop == "leave"
        if not does_leave:
            self._model.note_interruption()
            self._daemon.runner_processes.note_ended()
        self._daemon.signal(signal.SIGTERM)
        is_quiet = self._chance.random() < 0.5
        if not is_quiet:
            time.sleep(self._chance.uniform(0, MAX_QUICK_STOP if does_leave else MAX_STOP))
            if not self._daemon.has_ended():
                self._kill("in a stop")
        self._wait_for_stop()
        if is_quiet and not does_leave:
            self._checks.nothing_runs()

    def _wait_for_stop(self) -> None:
        try:
            code = self._daemon.wait_for_end()
        except subprocess.TimeoutExpired as why:
            raise Broken("a daemon ends on SIGTERM", None, why) from None
        if code == -signal.SIGKILL:
            return
        if code not in {0, -signal.SIGTERM}:
            raise Broken("a daemon stops without error", None, (code, self._daemon.log[-3000:]))
        self._stops += 1
        self._checks.all_is_well()

    # the end

    def _finish(self) -> None:
        """Let all jobs end and check them; after one more kill they must be the same."""
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join()
        self._checks.all_is_well()
        wire = self._daemon.connect()
        self._repeat_what_is_unanswered(wire)
        self._let_all_go(wire)
        until(lambda: not wire.list("--status=PENDING,RUNNING --limit=1"), "all jobs to end", 120, pause=0.1)
        self._checks.audit()
        for task in self._model.known():
            if not self._clients[0].verify(wire, task) and task.state is State.KNOWN:
                raise Broken("every job ends", task, wire.ask(f"SHOW {task.id}"))
        listed = {job["id"]: job for job in self._checks.jobs(wire)}
        wire.close()
        self._killer.kill_daemon()
        self._checks.all_is_well()
        self._checks.agree("the journal's replay", self._checks.replay(), listed)
        self._start()
        wire = self._daemon.connect()
        self._checks.agree("the next daemon", {job["id"]: job for job in self._checks.jobs(wire)}, listed)
        wire.close()
        self._checks.files(set(listed))
        self._checks.environments(listed.values())
        self._check_ids(list(listed))
        for task in self._model.tasks():
            if task.state is not State.KNOWN and self._model.attempts(task):
                raise Broken("a job that is gone does not run", task, self._model.attempts(task))
        self._checks.leftovers()
        self._daemon.signal(signal.SIGTERM)
        self._wait_for_stop()
        deadline = time.monotonic() + EXIT_TIMEOUT
        while (left := self._daemon.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            raise Broken("no process is left", None, left)

    def _let_all_go(self, wire: Connection) -> None:
        """Release jobs and queues that a kill has left held, suspended or paused."""
        for request in ("RESUME", "RESUME a", "RESUME b", "SET-QUEUE a --slots=default", "SET-SLOTS default"):
            wire.ask(request)
        for job in wire.list(f"--status=PENDING --limit={PAGE}"):
            wire.ask(f"RELEASE {job['id']}")
        wire.ask("CONTINUE --status=RUNNING")

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
            self._killer.kill_daemon()
            self._start()
        wire = self._daemon.connect()
        job = wire.submit("true")
        if job <= self._model.newest or wire.wait(job) != "COMPLETED":
            raise Broken("ids count up", None, (job, self._model.newest))
        wire.close()


_WAYS: dict[Callable[[Campaign], None], int] = {
    Campaign._at_work: 38,
    Campaign._at_an_answer: 15,
    Campaign._at_start_up: 25,
    Campaign._in_a_snapshot: 14,
    Campaign._in_a_stop: 8,
}
"""The moments at which the daemon is killed, and their weights."""


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"


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
