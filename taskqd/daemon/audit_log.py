"""The audit log: writes to the daemon's log which user did what, and from which address.

The first event of a kind is logged at once, and all that follow of the same user, address and kind once per
second, in one line. (HISTORY shows each of them.) Events that the daemon causes, such as removals by the
retention, have no address and are not logged. Input that is sent to a job is no event; its bytes are counted.
"""

from collections.abc import Sequence

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from taskqd.model.actor import Actor
from taskqd.model.events import Decision, Event, JobEvent, QueueEvent, Rescaled, Submitted
from taskqd.storage.interfaces import IJournal

SUMMARY_INTERVAL = 1.0
"""Seconds for which events of the same user, address and kind are collected into one line."""


DECISIONS = (Decision, QueueEvent)
"""The events that name in ``by`` who caused them."""
Activity = tuple[str, str, type[Event]]
"""A user, an address, and a kind of event."""
Sender = tuple[str, str, int]
"""A user, an address, and the id of a job to which the user sends input."""


class _Summary(Struct):
    """The events of an activity since the last line about it."""

    count: int = 0
    first: JobEvent | QueueEvent | None = None
    last: JobEvent | QueueEvent | None = None


class AuditLog:
    """Writes a log line for the events that users cause, and for the input that they send to jobs."""

    _log = Logger()

    def __init__(self, journal: IJournal, clock: IReactorTime) -> None:
        self._clock = clock
        self._summaries: dict[Activity, _Summary] = {}
        self._timers: dict[Activity, IDelayedCall] = {}
        self._inputs: dict[Sender, int | None] = {}  # bytes since the last line, None for no input
        self._input_timers: dict[Sender, IDelayedCall] = {}
        self._is_stopped = False
        journal.add_observer(self._on_durable)

    def stop(self) -> None:
        """Log what has been collected, and nothing more."""
        self._is_stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for activity in list(self._summaries):
            self._log_summary(activity)
        for timer in self._input_timers.values():
            timer.cancel()
        for sender in list(self._inputs):
            self._log_inputs(sender)

    def on_input(self, by: Actor, job_id: int, size: int) -> None:
        """Log the bytes that a user has sent to a job, once per second; never what they are."""
        if by.origin is None:
            return
        sender = (by.name, by.origin, job_id)
        if sender not in self._inputs:
            self._collect_inputs(sender)
            self._log_input(sender, f"{size} bytes")
        else:
            self._inputs[sender] = (self._inputs[sender] or 0) + size

    def _collect_inputs(self, sender: Sender) -> None:
        self._inputs[sender] = None
        self._input_timers[sender] = self._clock.callLater(SUMMARY_INTERVAL, self._log_inputs, sender)

    def _log_inputs(self, sender: Sender) -> None:
        size = self._inputs.pop(sender)
        del self._input_timers[sender]
        if size is None:
            return
        if not self._is_stopped:
            self._collect_inputs(sender)
        self._log_input(sender, f"{size} more bytes")

    def _log_input(self, sender: Sender, what: str) -> None:
        user, origin, job = sender
        self._log.info(
            "{user} ({origin}) sent {what} to job {job}", user=user, origin=origin, what=what, job=job
        )

    def _on_durable(self, sequence: int, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Submitted):
                user = event.owner
            elif isinstance(event, DECISIONS):
                user = event.by
            else:
                continue
            if event.origin is None:
                continue
            activity = (user, event.origin, type(event))
            summary = self._summaries.get(activity)
            if summary is None:
                self._collect(activity)
                self._log_line(activity, _subject(event))
            else:
                summary.first = summary.first or event
                summary.last = event
                summary.count += 1

    def _collect(self, activity: Activity) -> None:
        self._summaries[activity] = _Summary()
        self._timers[activity] = self._clock.callLater(SUMMARY_INTERVAL, self._log_summary, activity)

    def _log_summary(self, activity: Activity) -> None:
        summary = self._summaries.pop(activity)
        del self._timers[activity]
        if summary.first is None or summary.last is None:
            return
        if not self._is_stopped:
            self._collect(activity)
        subject = _subject(summary.first)
        if summary.count > 1:
            subject = f"{summary.count} more, from {subject} to {_subject(summary.last)}"
        self._log_line(activity, subject)

    def _log_line(self, activity: Activity, subject: str) -> None:
        user, origin, kind = activity
        verb = kind.__struct_config__.tag
        self._log.info(
            "{user} ({origin}) {verb} {subject}", user=user, origin=origin, verb=verb, subject=subject
        )


def _subject(event: JobEvent | QueueEvent) -> str:
    """Return the job, schedule or queue that an event is about."""
    if isinstance(event, JobEvent):
        return f"job {event.id}"
    if isinstance(event, Rescaled):
        return f"the daemon to {'the slots of the settings' if event.slots is None else event.slots}"
    schedule, queue = getattr(event, "schedule", None), getattr(event, "queue", None)
    if schedule is not None:
        return f"schedule {schedule}"
    return "all queues" if queue is None else f"queue {queue}"
