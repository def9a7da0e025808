"""Checks a daemon, its journal, its files and its processes against the model."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from taskqd.errors import JournalDamaged
from taskqd.model.job import Status
from taskqd.protocol import documents, replies
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Segments
from taskqd.storage.spool.environment_files import ENVIRONMENTS
from tests.torture.clients import Client, Connection
from tests.torture.history import read_history
from tests.torture.kinds import OWN_SESSION
from tests.torture.model import Broken, Model, Shown
from tests.torture.processes import Mark, command_line
from tests.torture.victim import Victim

PAGE = 500
LEFTOVER_TIMEOUT = 10.0
"""Seconds until the processes of an attempt that has ended must be gone, on a loaded machine."""


class Checks:
    """The rules that are checked from outside, between the requests of the clients."""

    def __init__(self, daemon: Victim, model: Model, clients: list[Client]) -> None:
        self._daemon = daemon
        self._model = model
        self._clients = clients

    def all_is_well(self) -> None:
        for client in self._clients:
            if client.broken is not None:
                raise client.broken
        if complaint := self._daemon.complaints():
            raise Broken("the log has no unexpected lines", None, complaint)

    def leftovers(self) -> None:
        """Check that no process is left of an attempt that has ended."""
        wire = self._daemon.connect()
        marks = self._daemon.marks()
        ended = {mark for mark in set(marks.values()) if self._has_ended(wire, mark)}
        wire.close()
        left = {pid: mark for pid, mark in marks.items() if mark in ended}
        deadline = time.monotonic() + LEFTOVER_TIMEOUT
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            found = self._daemon.marks()
            left = {pid: mark for pid, mark in left.items() if found.get(pid) == mark}
        if left:
            lines = [(pid, mark, command_line(pid)) for pid, mark in left.items()]
            raise Broken("no processes are left of attempts that have ended", None, lines)

    def _has_ended(self, wire: Connection, mark: Mark) -> bool:
        """Whether an attempt has ended; one of a job that is gone has."""
        wire.send(b"HISTORY %d\r\n" % mark.job)
        word = ""
        for sequence, event in read_history(wire):
            if event["type"] == "started" and (start := self._model.starts.find(sequence)):
                word = start.word
            elif event["type"] == "ended":
                word = ""
        return word != mark.word

    def nothing_runs(self) -> None:
        """Check that a stop that ends jobs has left no process, except those that have left their session."""
        marks = self._daemon.marks()
        left = {pid: line for pid in marks if (line := command_line(pid)) and OWN_SESSION not in line}
        if left:
            raise Broken("a stop leaves no process", None, [(left[pid], marks[pid]) for pid in left])

    def audit(self) -> None:
        """Check the list of all jobs against the model, also for missing ones."""
        generation = self._model.generation
        wire = self._daemon.connect()
        listed = {job["id"] for job in self.jobs(wire)}
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

    def jobs(self, wire: Connection) -> list[Shown]:
        """Return all jobs as LIST shows them, each checked against the model."""
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

    def replay(self) -> dict[int, Shown]:
        """Check the journal against the model, and return its jobs as the daemon would show them."""
        asked = time.monotonic()
        jobs = replayed(self._daemon.state / "journal")
        for job in jobs.values():
            self._model.observed(job, asked, asked)
        return jobs

    def agree(self, who: str, found: dict[int, Shown], expected: dict[int, Shown]) -> None:
        """Check that two lists are equal, except for jobs that the retention has removed since."""
        for job_id in found.keys() | expected.keys():
            if found.get(job_id) != expected.get(job_id) and job_id in found:
                raise Broken(f"{who} agrees with the daemon", None, (found[job_id], expected.get(job_id)))

    def files(self, known: set[int]) -> None:
        """Check that the spool has no file of a job that is not known."""
        for kind in ("input", "output", "progress"):
            files = [path for path in (self._daemon.state / kind).rglob("*") if path.is_file()]
            files = [path for path in files if path.parent.name != ENVIRONMENTS]
            if orphans := [str(path) for path in files if int(path.name.split(".")[0]) not in known]:
                raise Broken("the spool has no orphans", None, orphans[:20])

    def environments(self, jobs: Iterable[Shown]) -> None:
        """Check that the files of environments are those of the jobs."""
        place = self._daemon.state / "input" / ENVIRONMENTS
        kept = {path.name for path in place.iterdir()} if place.exists() else set()
        expected = {job["environment"]["sha256"] for job in jobs if "environment" in job}
        if kept != expected:
            raise Broken("the environments are those of the jobs", None, (kept, expected))


def replayed(journal: Path) -> dict[int, Shown]:
    """Return the jobs in the journal by id, as SHOW would return them."""
    segments = Segments(str(journal), Filesystem())
    queue_state = QueueState()
    try:
        for batch in segments.replay(segments.layout(), Replay()):
            queue_state.apply_replayed(batch)
    except (JournalDamaged, InvalidTransition) as why:
        raise Broken("a journal can be replayed", None, why) from None
    shown = {}
    for job in queue_state.jobs.values():
        progress = 100 if job.status is Status.COMPLETED else job.attempt.progress if job.attempt else 0
        described = documents.describe(job, progress, queue_state.reason(job, time.time()))
        shown[job.id] = json.loads(replies.as_json("JOB", described)[4:])
    return shown
