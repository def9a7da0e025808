"""Checks the events that HISTORY returns against the rules of docs/protocol.md, implemented a second time."""

import json
from typing import Any, NamedTuple

from tests.end_to_end.wire import Wire
from tests.torture.model import OWN_REASONS, Broken, Model, Note, Shown, State, Task
from tests.torture.starts import Start, Starts

_LEGAL = {
    ("PENDING", "started"),
    ("PENDING", "cancelled"),
    ("PENDING", "held"),
    ("PENDING", "released"),
    ("PENDING", "changed"),
    ("RUNNING", "spawned"),
    ("RUNNING", "cancelled"),
    ("RUNNING", "suspended"),
    ("RUNNING", "continued"),
    ("RUNNING", "ended"),
    ("COMPLETED", "retried"),
    ("FAILED", "retried"),
    ("CANCELLED", "retried"),
}


History = list[tuple[int, dict[str, Any]]]
"""The events of a job by their numbers in the journal."""


def read_history(wire: Wire) -> History:
    """Return the events in the next reply, to a HISTORY; none if the job is gone."""
    events = []
    while (line := wire.line()).startswith("EVENT "):
        _, sequence, text = line.split(" ", 2)
        events.append((int(sequence), json.loads(text)))
    if not line.startswith("ERROR GONE ") and line != f"END {len(events)}":
        raise Broken("a history ends with its length", None, line)
    return events


class AttemptEnd(NamedTuple):
    """One attempt that has ended; ``reason`` is "completed" if it has none, "undone" if it never ran."""

    attempt: int
    word: str
    runner: str
    reason: str
    event: dict[str, Any]


class _JobState:
    """The state of a job, event by event."""

    def __init__(self, task: Task) -> None:
        self.status = "PENDING"
        self.attempts = 0
        self.interrupted = 0
        self.is_held = False
        self._is_suspended = False
        self.ends: list[AttemptEnd] = []
        self.start_of_attempt: Start
        self.starts: set[Note] = set()
        self._task = task
        self._failures = 0
        self._is_cancelled = False

    def start(self, event: dict[str, Any], start: Start) -> None:
        """Apply the start of an attempt, and note its word and runner."""
        self.start_of_attempt = start
        self.apply(event)
        self.starts.add(Note(self.attempts, start.word))

    def apply(self, event: dict[str, Any]) -> None:
        if (self.status, event["type"]) not in _LEGAL:
            raise Broken("transitions are legal", self._task, (self.status, event))
        getattr(self, f"_{event['type']}")(event)

    def _started(self, event: dict[str, Any]) -> None:
        self.attempts += 1
        self.status = "RUNNING"
        if self.is_held:
            raise Broken("a held job does not start", self._task, event)
        if event["attempt"] != self.attempts:
            raise Broken("attempts count up by one", self._task, event)
        if self._failures > self._task.plan.retries:
            raise Broken("no attempt is made beyond the retries", self._task, event)

    def _spawned(self, event: dict[str, Any]) -> None:
        pass

    def _held(self, event: dict[str, Any]) -> None:
        if self.is_held:
            raise Broken("a held job is not held again", self._task, event)
        self.is_held = True

    def _released(self, event: dict[str, Any]) -> None:
        self.is_held = False

    def _suspended(self, event: dict[str, Any]) -> None:
        if self._is_suspended:
            raise Broken("a suspended job is not suspended again", self._task, event)
        if self._is_cancelled:
            raise Broken("a job that is being cancelled is not suspended", self._task, event)
        self._is_suspended = True

    def _continued(self, event: dict[str, Any]) -> None:
        self._is_suspended = False  # a snapshot may have omitted the suspension

    def _changed(self, event: dict[str, Any]) -> None:
        pass

    def _cancelled(self, event: dict[str, Any]) -> None:
        self._is_cancelled = self.status == "RUNNING"
        self._is_suspended = False
        self.status = "RUNNING" if self._is_cancelled else "CANCELLED"
        self.is_held = False

    def _ended(self, event: dict[str, Any]) -> None:
        self.status = event["status"]
        self._is_suspended = False
        is_void = event.get("is_void", False)
        reason = "undone" if is_void else event.get("reason", "completed")
        word, runner = self.start_of_attempt
        self.ends.append(AttemptEnd(self.attempts, word, runner, reason, event))
        if is_void:
            self.starts.remove(Note(self.attempts, word))
            self.attempts -= 1
            if self.status != "PENDING" or self._is_cancelled:
                raise Broken("a start that is undone leaves the job pending", self._task, event)
            return
        self._failures += self.status in {"PENDING", "FAILED"} and not event.get("is_free", False)
        self.interrupted += event.get("reason") == "interrupted"
        if self._is_cancelled != (self.status == "CANCELLED"):
            raise Broken("a cancelled attempt ends the job, and no other does", self._task, event)
        if self.status == "FAILED" and self._failures <= self._task.plan.retries:
            raise Broken("it does not fail before its retries are used up", self._task, event)
        self._is_cancelled = False

    def _retried(self, event: dict[str, Any]) -> None:
        self.status = "PENDING"
        self._failures = 0


def check_history(
    task: Task, history: History, job: Shown, noted: list[Note], model: Model
) -> list[AttemptEnd]:
    """Check that legal transitions lead to the job; return the ends of its attempts.

    ``noted`` has the attempts that the job had noted before the history was read.
    """
    sequences = [sequence for sequence, _ in history]
    if sequences != sorted(set(sequences)) or not history or history[0][1]["type"] != "submitted":
        raise Broken("a history is in order, from the submission on", task, history)
    if {event["id"] for _, event in history} != {job["id"]}:
        raise Broken("a history is of one job", task, history)
    state = _JobState(task)
    if not _is_applied(task, history, state, model.starts):
        return state.ends
    # A RETRY without a reply yet may be durable already.
    if not task.retries and (state.status, state.attempts) != (job["status"], job["attempts"]):
        raise Broken("a history leads to the state of the job", task, (history, job))
    if state.interrupted > model.interrupted(task):
        raise Broken("a kill of a runner interrupts an attempt once", task, (history, job))
    if unknown := [note for note in noted if note not in state.starts]:
        raise Broken("only attempts in the journal run", task, (unknown, history))
    return state.ends


def _is_applied(task: Task, history: History, state: _JobState, starts: Starts) -> bool:
    """Apply all events; False if the job was removed meanwhile."""
    for sequence, event in history[1:]:
        if event["type"] == "removed" and task.removals:
            return False
        if event["type"] != "started":
            state.apply(event)
        elif (start := starts.find(sequence)) is not None:
            state.start(event, start)
        elif task.removals:
            return False
        else:
            raise Broken("a start in a history is in the journal", task, (sequence, event))
    return True


def check_ends(task: Task, ends: list[AttemptEnd], noted: list[Note], model: Model) -> None:
    """Check how each attempt of a job ended against what it noted and what it does.

    ``noted`` has the attempts that the job had noted after the ends were read.
    """
    if len({end.word for end in ends}) != len(ends):
        raise Broken("each attempt has a word, and one end", task, ends)
    for end in ends:
        _check_attempt(task, end, noted, model)
    model.ended({(task.number, end.word): end.reason for end in ends})


def _check_attempt(task: Task, end: AttemptEnd, noted: list[Note], model: Model) -> None:
    if end.reason == "interrupted" and end.runner not in model.ended_runners:
        raise Broken("an attempt is interrupted only with its runner", task, (end, model.ended_runners))
    if end.reason in {"undone", "interrupted", "cancelled"}:
        return
    plan = task.plan.end(end.attempt)
    if end.reason != (plan.reason or "completed"):
        raise Broken(f"attempt {end.attempt} ends with the reason {plan.reason}", task, end)
    if end.reason in OWN_REASONS:
        # The notes of a job that is gone are removed.
        if Note(end.attempt, end.word) not in noted and task.state is not State.GONE:
            raise Broken("what has ended by itself has run", task, (noted, end))
        code = -end.event.get("signal", 0) or end.event.get("exit_code", 0)
        if str(code) != plan.exit_code:
            raise Broken("the exit code is the attempt's", task, end)
