"""Checks the events that HISTORY returns against the rules of docs/protocol.md, implemented a second time."""

import json
from typing import Any

from tests.end_to_end.wire import Wire
from tests.torture.model import Broken, Shown, Task

_LEGAL = {
    ("PENDING", "started"),
    ("PENDING", "cancelled"),
    ("PENDING", "held"),
    ("PENDING", "released"),
    ("PENDING", "changed"),
    ("RUNNING", "spawned"),
    ("RUNNING", "cancelled"),
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


class _JobState:
    """The state of a job, event by event."""

    def __init__(self, task: Task) -> None:
        self.status = "PENDING"
        self.attempts = 0
        self.interrupted = 0
        self.is_held = False
        self._task = task
        self._failures = 0
        self._is_cancelled = False

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

    def _changed(self, event: dict[str, Any]) -> None:
        pass

    def _cancelled(self, event: dict[str, Any]) -> None:
        self._is_cancelled = self.status == "RUNNING"
        self.status = "RUNNING" if self._is_cancelled else "CANCELLED"
        self.is_held = False

    def _ended(self, event: dict[str, Any]) -> None:
        self.status = event["status"]
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


def check_history(task: Task, history: History, job: Shown, crashes: int) -> None:
    """Check that legal transitions lead to the job, with at most ``crashes`` interruptions."""
    sequences = [sequence for sequence, _ in history]
    if sequences != sorted(set(sequences)) or not history or history[0][1]["type"] != "submitted":
        raise Broken("a history is in order, from the submission on", task, history)
    if {event["id"] for _, event in history} != {job["id"]}:
        raise Broken("a history is of one job", task, history)
    state = _JobState(task)
    for _, event in history[1:]:
        if event["type"] == "removed" and task.removals:
            return
        state.apply(event)
    # A RETRY without a reply yet may be durable already.
    if not task.retries and (state.status, state.attempts) != (job["status"], job["attempts"]):
        raise Broken("a history leads to the state of the job", task, (history, job))
    if state.interrupted > crashes:
        raise Broken("a crash interrupts an attempt once", task, (history, job))
