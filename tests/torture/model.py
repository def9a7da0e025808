"""The requests and replies of all clients, and the rules that no kill may break.

The main rule: a fact in one reply holds in all later replies, across kills. Clients run concurrently, so two
replies are compared only if the later request was sent after the earlier reply; and a request may have had
its effect from the moment when it was sent.
"""

import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from tests.torture import kinds
from tests.torture.kinds import End, Plan
from tests.torture.processes import Mark
from tests.torture.starts import Starts

Shown = dict[str, Any]
"""A job as SHOW and LIST tell of it."""

STATUSES = {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
FINAL = {"COMPLETED", "FAILED", "CANCELLED"}
OWN_REASONS = {"completed", "exit", "signal"}
"""The ends of attempts that have ended by themselves."""
RETENTION = 30.0
"""Seconds that the daemon keeps ended jobs; if it removes one earlier, the job is lost."""
NOTICE_TIMEOUT = 5.0
"""Seconds in which a daemon on a loaded machine may start jobs at a runner that is already dead."""
KEY_REPEAT_TIMEOUT = 6.0
"""Seconds in which a key is repeated; the retention cannot have freed it by then."""
SAMPLE_SIZE = 12
"""Jobs that are examined to find one with a given status."""


class Broken(Exception):
    """A rule is broken; the text says which one, and what was found."""

    def __init__(self, rule: str, task: "Task | None" = None, found: object = "") -> None:
        super().__init__(f"{rule}\n  found: {found}\n  job: {task}")


class State(Enum):
    """The state of a submission."""

    SENT = "not answered yet"
    KNOWN = "acknowledged, or seen in a list"
    VOID = "never taken: refused, or lost in a kill"
    GONE = "removed"


class Seen(NamedTuple):
    """An answer about a job: when it was asked for, when it had come, and what it said."""

    asked: float
    answered: float
    job: Shown


class Note(NamedTuple):
    """A line that an attempt has written when it ran."""

    attempt: int
    word: str


@dataclass(eq=False)
class Task:
    """One submission and all that was asked about it.

    ``floor`` is the newest id that was known before it was sent. ``sent_to`` is the last of the daemons that
    it was sent to, counted by their starts. The numbers of requests count those that were sent, answered or
    not.
    """

    token: str
    plan: Plan = field(repr=False)
    key: str | None
    floor: int
    sent_at: float
    sent_to: int = 0
    id: int | None = None
    state: State = State.SENT
    repeats: int = 0
    cancels: int = 0
    retries: int = 0
    removals: int = 0
    is_cancelled: bool = False
    is_checked: bool = False
    attempts_at_retry: int = 0
    seen: Seen | None = None
    gone_at: float = 0.0

    @property
    def number(self) -> int:
        """The id of a task that has one."""
        return self.id or 0

    def __str__(self) -> str:
        return f"{self!r} {self.plan.kind} {self.plan.request(self.token, self.key)[:600]!r}"


class Model:
    """All submissions; may be used by any thread.

    ``place`` has the files in which jobs note their attempts, ``starts`` the starts in the journal.

    ``ended_runners`` has the names of the runners that were killed or stopped. ``generation`` counts the
    starts of the daemon. ``ends`` has the reason of each end of an attempt that was checked.
    """

    def __init__(self, place: Path, ended_runners: set[str], starts: Starts) -> None:
        self.runs = place
        self.starts = starts
        self._interrupted_at: list[float] = []
        self.ended_runners = ended_runners
        self.generation = 0
        self.newest = 0
        self.checked = 0
        self.acknowledged = 0
        self.ends: dict[tuple[int, str], str] = {}
        self._running_at_kills: set[tuple[int, str]] = set()
        self._lock = RLock()
        self._tasks: dict[str, Task] = {}
        self._tokens: dict[int, str] = {}
        self._known: list[Task] = []
        self._unanswered: deque[Task] = deque()

    # to be asked for

    def new(self, chance: random.Random, name: str) -> Task:
        """Return a new submission, about to be sent."""
        token = f"{name}-{len(self._tasks)}"
        key = f"key:{token}" if chance.random() < 0.4 else None
        plan = kinds.make(token, self.runs, chance)
        with self._lock:
            task = Task(token, plan, key, self.newest, time.monotonic(), self.generation)
            self._tasks[token] = task
        return task

    def refuse(self, token: str, plan: Plan, key: str | None) -> None:
        """Note a submission that must never be accepted."""
        with self._lock:
            self._tasks[token] = Task(token, plan, key, self.newest, time.monotonic(), state=State.VOID)

    def sending(self, task: Task) -> None:
        """Note that a submission is sent to the current daemon or an earlier one."""
        with self._lock:
            task.sent_to = self.generation

    def to_repeat(self) -> Task | None:
        """Return a keyed submission that was never answered, for the caller alone; give it up if too old."""
        with self._lock:
            while self._unanswered:
                task = self._unanswered.popleft()
                if task.state is State.SENT and time.monotonic() < task.sent_at + KEY_REPEAT_TIMEOUT:
                    return task
        return None

    def unanswered(self, task: Task) -> None:
        """Note that a submission got no reply: it may have been accepted or not."""
        if task.key is not None:
            with self._lock:
                self._unanswered.append(task)

    def borrow_keyed(self, chance: random.Random) -> Task | None:
        """Return a known submission with a key, which is not removed before `return_keyed`."""
        with self._lock:
            for task in self._some(chance):
                is_young = time.monotonic() < task.sent_at + KEY_REPEAT_TIMEOUT
                if task.key is not None and not task.removals and is_young:
                    task.repeats += 1
                    return task
        return None

    def return_keyed(self, task: Task) -> None:
        with self._lock:
            task.repeats -= 1

    def may_remove(self, task: Task) -> bool:
        """Return whether a removal may be sent, and count it."""
        with self._lock:
            if task.repeats:
                return False
            task.removals += 1
            return True

    def pick(self, chance: random.Random, statuses: set[str]) -> Task | None:
        """Return a known job that was last seen in one of the statuses, or any if there is none of them."""
        with self._lock:
            found = self._some(chance)
        fitting = (task for task in found if task.seen is None or task.seen.job["status"] in statuses)
        return next(fitting, found[0] if found else None)

    def _some(self, chance: random.Random) -> list[Task]:
        return [chance.choice(self._known) for _ in range(SAMPLE_SIZE)] if self._known else []

    def open(self) -> int:
        """Return how many jobs are known and not known to have ended."""
        with self._lock:
            return sum(task.seen is None or task.seen.job["status"] not in FINAL for task in self._known)

    def known(self) -> list[Task]:
        with self._lock:
            return list(self._known)

    def tasks(self) -> list[Task]:
        with self._lock:
            return list(self._tasks.values())

    # answered

    def taken(self, task: Task, job_id: int) -> None:
        """Note the id of a submission, from its JOB_ID or another reply."""
        with self._lock:
            if task.state is State.VOID:
                raise Broken("a submission that was refused or lost is there all the same", task, job_id)
            if task.id is not None and task.id != job_id:
                raise Broken("a submission has one id only", task, job_id)
            if self._tokens.setdefault(job_id, task.token) != task.token:
                raise Broken("an id is never used twice", task, (job_id, self._tokens[job_id]))
            if job_id <= task.floor:
                raise Broken("ids count up", task, job_id)
            if task.state is State.SENT:
                task.id, task.state = job_id, State.KNOWN
                self.acknowledged += 1
                self._known.append(task)
            self.newest = max(self.newest, job_id)

    def refused(self, task: Task) -> None:
        """Note an ERROR: the submission must never run, unless it is sent again."""
        if task.key is not None:
            self.unanswered(task)
            return
        with self._lock:
            task.state = State.VOID

    def observed(self, job: Shown, asked: float, answered: float) -> Task:
        """Check a reply about a job against all that is known of it, and return its task."""
        job = {name: value for name, value in job.items() if name != "runs"}  # those are SHOW's alone
        if "environment" in job:  # and so are the names of variables
            job["environment"] = {name: job["environment"][name] for name in ("size", "sha256")}
        with self._lock:
            task = self._tasks.get(job["label"])
            if task is None:
                raise Broken("every job was submitted", None, job)
            self.taken(task, job["id"])
            if task.state is State.GONE:
                if asked > task.gone_at:
                    raise Broken("a job that was removed does not come back", task, job)
                return task
            _check_submission(task, job)
            now = Seen(asked, answered, job)
            before = task.seen
            if before is None:
                task.seen = now
            elif asked >= before.answered:
                _compare(task, before.job, job)
                task.seen = now
            elif before.asked >= answered:
                _compare(task, job, before.job)
            return task

    def status_seen(self, task: Task, status: str, asked: float) -> None:
        """Check a reply that has only the status."""
        if status not in STATUSES:
            raise Broken("a status is one of five words", task, status)
        with self._lock:
            seen = task.seen
            is_settled = seen is not None and seen.job["status"] in FINAL and not task.retries
            if seen is not None and is_settled and asked >= seen.answered and status != seen.job["status"]:
                raise Broken("a job that has ended stays so", task, status)
            if task.state is State.GONE and asked > task.gone_at:
                raise Broken("a job that was removed does not come back", task, status)

    def cancelling(self, task: Task) -> None:
        """Note that a CANCEL is sent."""
        with self._lock:
            task.cancels += 1

    def retrying(self, task: Task) -> None:
        """Note that a RETRY is sent."""
        with self._lock:
            task.retries += 1

    def cancelled(self, task: Task) -> None:
        with self._lock:
            task.is_cancelled = True

    def retried(self, task: Task, attempts: int) -> None:
        with self._lock:
            task.attempts_at_retry = max(task.attempts_at_retry, attempts)

    def gone(self, task: Task, answered: float, is_acknowledged: bool = False) -> None:
        """Note that a job is gone; a rule is broken if it must not be."""
        noted = self.attempts(task)
        with self._lock:
            if task.state is State.GONE:
                return
            if not task.removals and answered < task.sent_at + RETENTION:
                raise Broken("no acknowledged job is lost", task, "GONE")
            if is_acknowledged and not task.removals:
                raise Broken("a job is removed only on request", task, "OK")
            if not noted and not task.cancels and task.plan.kind != "nowhere" and not self.interrupted(task):
                raise Broken("only jobs that have ended are removed", task, "it has never run")
            task.state, task.gone_at = State.GONE, answered
            self._known.remove(task)
        (self.runs / task.token).unlink(missing_ok=True)

    def note_interruption(self) -> None:
        """Note that runners are about to be killed, or a stop is about to end jobs."""
        with self._lock:
            self._interrupted_at.append(time.monotonic())

    def interrupted(self, task: Task) -> int:
        """Return how many attempts of a job may have been interrupted so far."""
        with self._lock:
            return sum(at > task.sent_at - NOTICE_TIMEOUT for at in self._interrupted_at)

    def settle(self, listed: set[int], generation: int) -> list[Task]:
        """Give up submissions that were sent only to daemons before ``generation`` and are not ``listed``.

        Returns the known jobs that should have been listed and were not.
        """
        with self._lock:
            for task in self._tasks.values():
                is_waiting = task.key is not None and time.monotonic() < task.sent_at + 2 * KEY_REPEAT_TIMEOUT
                if task.state is State.SENT and task.sent_to < generation and not is_waiting:
                    task.state = State.VOID
            return [task for task in self._known if task.id not in listed and task.sent_to < generation]

    def survived(self, marks: Iterable[Mark]) -> None:
        """Note attempts that were running when only the daemon was killed."""
        with self._lock:
            self._running_at_kills.update((mark.job, mark.word) for mark in marks)

    def ended(self, ends: dict[tuple[int, str], str]) -> None:
        """Note the reasons for which attempts have ended, by job and word."""
        with self._lock:
            self.ends.update(ends)

    def unchecked(self) -> int:
        """Return how many jobs the retention has removed before their end was checked."""
        with self._lock:
            return sum(task.state is State.GONE and not task.is_checked for task in self._tasks.values())

    def own_ends(self) -> tuple[int, int]:
        """Return how many attempts have survived a kill of the daemon, and how many ended by themselves."""
        with self._lock:
            ends = [self.ends[key] for key in self._running_at_kills if key in self.ends]
        return len(ends), sum(reason in OWN_REASONS for reason in ends)

    # what jobs have noted themselves

    def attempts(self, task: Task) -> list[int]:
        """Return the attempts that a job has noted; checks that they are of one job, and each once."""
        return [note.attempt for note in self.notes(task)]

    def notes(self, task: Task) -> list[Note]:
        """Return the attempts that a job has noted, and the word of each; checks as `attempts` does."""
        try:
            lines = (self.runs / task.token).read_text().splitlines()
        except FileNotFoundError:
            return []
        if any(line.startswith("conflict") for line in lines):
            raise Broken("no attempt runs beside another of its job", task, lines)
        words = [line.split() for line in lines]
        ids = {int(job_id) for job_id, _, _ in words}
        attempts = [int(attempt) for _, attempt, _ in words]
        if len(ids) > 1 or (task.id is not None and ids - {task.id}):
            raise Broken("a submission is one job", task, lines)
        if task.state is State.VOID and lines:
            raise Broken("what was refused or lost never runs", task, lines)
        if len(set(attempts)) != len(attempts):
            raise Broken("no attempt runs twice", task, lines)
        return [Note(int(attempt), word) for _, attempt, word in words]

    def check_noted(self, task: Task, noted: list[int], job: Shown) -> None:
        """Check that a job has all attempts that had been ``noted`` before."""
        if max(noted, default=0) > job["attempts"]:
            raise Broken("an attempt is on disk before it runs", task, (noted, job))

    def check_end(self, task: Task, job: Shown, attempts_at_retry: int) -> End | None:
        """Check a job that has ended, except its output; return the expected end of its last attempt.

        ``attempts_at_retry`` is the number of its attempts at the last RETRY that had a reply.
        """
        noted = self.attempts(task)
        attempts = job["attempts"]
        with self._lock:
            self.checked += 1
            task.is_checked = True
            interruptions = self.interrupted(task)
            has_file = task.state is not State.GONE
            most = (1 + task.plan.retries) * (1 + task.retries) + interruptions
        if attempts > most:
            raise Broken(f"it runs no more than {most} times", task, job)
        if task.is_cancelled and not task.retries and job["status"] != "CANCELLED":
            raise Broken("a cancel is not forgotten", task, job)
        end = task.plan.end(attempts) if attempts else None
        if job["status"] == "CANCELLED":
            if not task.cancels:
                raise Broken("a job is cancelled only on request", task, job)
            return end._replace(is_exact=False) if end else None
        if end is None:
            raise Broken("only a cancelled job ends without an attempt", task, job)
        if attempts_at_retry >= attempts and not task.cancels:
            raise Broken("a RETRY that was acknowledged runs", task, job)
        if job["reason"] == "interrupted" and interruptions:
            end = end._replace(reason="interrupted", is_exact=False)
        _check_reason(task, job, end)
        if attempts not in noted and has_file and end.reason in {None, "exit", "signal"}:
            raise Broken("what has ended by itself has run", task, (noted, job))
        return end


def _check_reason(task: Task, job: Shown, end: End) -> None:
    if job["reason"] != end.reason or (job["status"] == "COMPLETED") != (end.reason is None):
        raise Broken(f"it ends with the reason {end.reason}", task, job)
    if job["status"] == "FAILED" and job["attempts"] < 1 + task.plan.retries:
        raise Broken("it does not fail before its retries are used up", task, job)


def _check_submission(task: Task, job: Shown) -> None:
    plan = task.plan
    expected: Shown = {
        "command": plan.command or None,
        "key": task.key,
        "retries": plan.retries,
        "label": task.token,
    }
    if plan.script is not None:
        expected["script"] = len(plan.script)
    if plan.stdin is not None:
        expected["stdin"] = plan.stdin.size
    if plan.environment is not None:
        digest = sha256(plan.environment).hexdigest()
        expected["environment"] = {"size": len(plan.environment), "sha256": digest}
    found = {name: job.get(name) for name in expected}
    if found != expected:
        raise Broken("a job is what was submitted", task, job)
    if job["status"] not in STATUSES:
        raise Broken("a status is one of five words", task, job)


def _compare(task: Task, before: Shown, after: Shown) -> None:
    """Check that a later reply does not contradict an earlier one."""
    for name in ("id", "owner", "submitted_at", "timeout", "cwd"):
        if before[name] != after[name]:
            raise Broken(f"the {name} of a job does not change", task, (before, after))
    undone = before["status"] == "RUNNING"  # a start that never arrived at its runner may be undone
    if after["attempts"] < before["attempts"] - undone:
        raise Broken("attempts count up", task, (before, after))
    is_same = after["attempts"] == before["attempts"]
    if is_same and before["started_at"] != after["started_at"] and not undone:
        raise Broken("an attempt starts once", task, (before, after))
    if before["status"] in FINAL and not task.retries and before != after:
        raise Broken("a job that has ended does not change", task, (before, after))
    if is_same and before["status"] == "PENDING" and after["status"] == "RUNNING" and after["attempts"]:
        raise Broken("a start is a new attempt", task, (before, after))
