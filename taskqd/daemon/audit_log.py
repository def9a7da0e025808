"""Who did what, from where, in the log: one line, and one a second for all that they go on to do.

The journal has each act by itself (HISTORY shows them); here somebody who submits a thousand jobs is told of
at once, and then once for all those that follow within the second. What the daemon does by itself, such as
removals by the retention, has no origin and is not told.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from twisted.logger import Logger

from taskqd.model.events import Decision, Event, JobEvent, QueueEvent, Submitted
from taskqd.storage.interfaces import IJournal

GATHER = 1.0
"""What somebody goes on to do is told of together, every so many seconds."""


DECIDED = (Decision, QueueEvent)
Doing = tuple[str, str, type[Event]]
"""Who does something, from where, and the kind of event that it makes."""


class _Done(Struct):
    """What was done of it since it was last told of."""

    count: int = 0
    first: JobEvent | QueueEvent | None = None
    last: JobEvent | QueueEvent | None = None


class Audit:
    """Listens to ``store`` and writes the log."""

    _log = Logger()

    def __init__(self, store: IJournal, clock: Any) -> None:
        self._clock = clock
        self._lately: dict[Doing, _Done] = {}
        self._timers: dict[Doing, Any] = {}
        self._is_stopped = False
        store.add_observer(self._told)

    def stop(self) -> None:
        """Tell of what was gathered, and of nothing more: the daemon stops."""
        self._is_stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for doing in list(self._lately):
            self._gathered(doing)

    def _told(self, sequence: int, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Submitted):
                who = event.owner
            elif isinstance(event, DECIDED):
                who = event.by
            else:
                continue
            if event.origin is None:
                continue
            doing = (who, event.origin, type(event))
            done = self._lately.get(doing)
            if done is None:
                self._begin(doing)
                self._tell(doing, _subject(event))
            else:
                done.first = done.first or event
                done.last = event
                done.count += 1

    def _begin(self, doing: Doing) -> None:
        self._lately[doing] = _Done()
        self._timers[doing] = self._clock.callLater(GATHER, self._gathered, doing)

    def _gathered(self, doing: Doing) -> None:
        done = self._lately.pop(doing)
        del self._timers[doing]
        if done.first is None or done.last is None:
            return
        if not self._is_stopped:
            self._begin(doing)
        what = _subject(done.first)
        if done.count > 1:
            what = f"{done.count} more, from {what} to {_subject(done.last)}"
        self._tell(doing, what)

    def _tell(self, doing: Doing, what: str) -> None:
        who, origin, kind = doing
        act = kind.__struct_config__.tag
        self._log.info("{who} ({origin}) {act} {what}", who=who, origin=origin, act=act, what=what)


def _subject(event: JobEvent | QueueEvent) -> str:
    """Return what an event is about."""
    if isinstance(event, JobEvent):
        return f"job {event.id}"
    schedule, queue = getattr(event, "schedule", None), getattr(event, "queue", None)
    if schedule is not None:
        return f"schedule {schedule}"
    return "all queues" if queue is None else f"queue {queue}"
