"""Jumps of the time of day: somebody or NTP has set it while the daemon runs.

It is compared with the boot clock every second. A jump is a record, so that a replay knows which of the times
of day before and after it were how long ago; it moves nothing but what waits for a time of day.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.event_writer import EventWriter
from taskqd.errors import StoreFailed
from taskqd.model.events import Clocked

LOOK_INTERVAL = 1.0
"""The clocks are compared every this many seconds."""
RECORD_INTERVAL = 3600.0
"""The clocks are recorded every this many seconds: a start in the next boot sees when the last one ended."""


class Jumps:
    """Records jumps of the time of day; `fill` is called after one, since it may have made jobs due."""

    _log = Logger()

    def __init__(self, recorder: EventWriter, clock: Any, fill: Callable[[], None]) -> None:
        self._recorder = recorder
        self._clock = clock
        self._told: list[Callable[[], object]] = [fill]
        self._recorded_at = clock.elapsed()
        self._is_recording = False
        self._timer: Any = None

    def on_jump(self, told: Callable[[], object]) -> None:
        """Have `told` called when the time of day was set, once that is durable."""
        self._told.append(told)

    def start(self) -> None:
        """Compare the clocks now and every second from now on."""
        self.look()
        self._timer = self._clock.callLater(LOOK_INTERVAL, self.start)

    def stop(self) -> None:
        """End that."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def look(self) -> None:
        """Compare the clocks; record a jump, or if an hour has passed that there was none.

        While the journal cannot be written, time stamps go by the time of day as it was before the jump.
        """
        ahead = self._clock.measured()
        is_due = self._clock.elapsed() - self._recorded_at >= RECORD_INTERVAL
        if self._is_recording or self._recorder.store.failure is not None:
            return
        if ahead != self._clock.ahead or is_due:
            self._is_recording = True
            Deferred.fromCoroutine(self._record(ahead)).addErrback(self._not_recorded)

    async def _record(self, ahead: float) -> None:
        before = self._clock.ahead
        self._clock.ahead = ahead  # what is recorded behind this is to be translated by it
        try:
            await self._recorder.record_other(clocked(self._clock))
        except StoreFailed:
            self._clock.ahead = before
            raise
        finally:
            self._is_recording = False
        self._recorded_at = self._clock.elapsed()
        if ahead != before:
            self._log.warn("{jump}", jump=described(ahead - before))
            for told in self._told:
                told()

    def _not_recorded(self, failure: Failure) -> None:
        failure.trap(StoreFailed)  # the store has said so itself; the next look tries again


def clocked(clock: Any) -> Clocked:
    """Return what the clocks show, as the event."""
    return Clocked(at=clock.now(), boot_clock=clock.boot(), ahead=clock.ahead)


def described(jump: float) -> str:
    """Return the log line about a jump of this many seconds."""
    way = "forward" if jump > 0 else "back"
    return f"the time of day was set {way} by {abs(jump):.1f} s; only --at and --cron follow it"
