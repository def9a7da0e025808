"""Resolves the jobs that waited for a job that has ended, in portions if they are many.

Each turn of the reactor resolves one portion, so that 100,000 jobs do not hold it. No job starts until all
are resolved, so jobs start in the same order as if that took no time.
"""

from collections.abc import Callable

from taskqd.engine.event_writer import EventWriter


class DependencyResolution:
    """Resolves portions until none is left, then calls ``on_resolved()``."""

    def __init__(self, event_writer: EventWriter, on_resolved: Callable[[], None]) -> None:
        self._queue_state = event_writer.queue_state
        self._clock = event_writer.clock
        self._on_resolved = on_resolved
        self._is_busy = False

    def process(self) -> None:
        """Resolve what is unresolved, unless that is under way."""
        if self._queue_state.dependencies.has_unresolved and not self._is_busy:
            self._is_busy = True
            self._clock.callLater(0, self._continue)

    def _continue(self) -> None:
        if self._queue_state.resolve_portion():
            self._clock.callLater(0, self._continue)
        else:
            self._is_busy = False
            self._on_resolved()
