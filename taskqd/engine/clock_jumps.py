"""Detects jumps of the time of day: it was set by the administrator or by NTP while the daemon runs.

It is compared with the boot clock every second. A jump is recorded, so that a replay can order the times
before and after it. Only jobs and schedules that wait for a time of day are affected.
"""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.event_writer import EventWriter
from taskqd.errors import StoreFailed
from taskqd.model.events import Clocked
from taskqd.storage.interfaces import IClock

CHECK_INTERVAL = 1.0
"""Seconds between two comparisons of the clocks."""
RECORD_INTERVAL = 3600.0
"""Seconds between two records of the clocks without a jump: the next boot finds the end of this one by it."""


class ClockJumps:
    """Records jumps of the time of day; the observers are called after each, as it may have made jobs due."""

    _log = Logger()

    def __init__(self, event_writer: EventWriter) -> None:
        self._event_writer = event_writer
        self._clock = event_writer.clock
        self._observers: list[Callable[[], object]] = []
        self._recorded_at = event_writer.clock.elapsed()
        self._is_recording = False
        self._timer: IDelayedCall | None = None

    def add_observer(self, on_jump: Callable[[], object]) -> None:
        """Call ``on_jump`` after each jump, when its record is durable."""
        self._observers.append(on_jump)

    def start(self) -> None:
        """Compare the clocks now and every second."""
        self.check()
        self._timer = self._clock.callLater(CHECK_INTERVAL, self.start)

    def stop(self) -> None:
        """Stop comparing the clocks."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def check(self) -> None:
        """Compare the clocks; record a jump, and once an hour that there was none.

        While the journal cannot be written, time stamps ignore the jump.
        """
        ahead = self._clock.measured()
        is_due = self._clock.elapsed() - self._recorded_at >= RECORD_INTERVAL
        if self._is_recording or self._event_writer.journal.failure is not None:
            return
        if ahead != self._clock.ahead or is_due:
            self._is_recording = True
            Deferred.fromCoroutine(self._record(ahead)).addErrback(self._on_record_failed)

    async def _record(self, ahead: float) -> None:
        before = self._clock.ahead
        self._clock.ahead = ahead  # the times of all records after this one are translated by it
        try:
            await self._event_writer.record_other(make_record(self._clock))
        except StoreFailed:
            self._clock.ahead = before
            raise
        finally:
            self._is_recording = False
        self._recorded_at = self._clock.elapsed()
        if ahead != before:
            self._log.warn("{jump}", jump=describe_jump(ahead - before))
            for on_jump in self._observers:
                on_jump()

    def _on_record_failed(self, failure: Failure) -> None:
        failure.trap(StoreFailed)  # the journal has logged it; the next check tries again


def make_record(clock: IClock) -> Clocked:
    """Return the record of what the clocks show now."""
    return Clocked(at=clock.now(), boot_clock=clock.boot(), ahead=clock.ahead)


def describe_jump(seconds: float) -> str:
    """Return the log line for a jump."""
    direction = "forward" if seconds > 0 else "back"
    return f"the time of day was set {direction} by {abs(seconds):.1f} s; only --at and --cron follow it"
