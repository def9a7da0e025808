"""The timeouts of an attempt: one fires when nothing has happened for a while."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime


class IdleTimer:
    """Calls ``on_idle`` once ``timeout`` seconds have passed since the last ``reset``, pauses not counted.

    Without a ``reset`` that is the time since its start.

    ``reset`` only records the time, because it is called for each read of a job's output. When the delayed
    call fires, it is made again for the rest of the time.
    """

    def __init__(self, timeout: float, clock: IReactorTime, on_idle: Callable[[], None]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._on_idle = on_idle
        self._idle_before_pause = 0.0
        self._is_paused = False
        self.start()

    def start(self) -> None:
        """Start from zero."""
        self.reset()
        self._call = self._clock.callLater(self._timeout, self._check)

    def reset(self) -> None:
        """Count from now; does nothing else if the timer is paused or stopped."""
        self._since = self._clock.seconds()

    def set_paused(self, is_paused: bool) -> None:
        """Stop counting, or go on from where it stopped."""
        if is_paused is self._is_paused:
            return
        self._is_paused = is_paused
        self.stop()
        now = self._clock.seconds()
        if is_paused:
            self._idle_before_pause = now - self._since
        else:
            self._since = now - self._idle_before_pause
            self._check()

    def stop(self) -> None:
        """Cancel the delayed call."""
        if self._call.active():
            self._call.cancel()

    def _check(self) -> None:
        left = self._since + self._timeout - self._clock.seconds()
        if left > 0:
            self._call = self._clock.callLater(left, self._check)
        else:
            self._on_idle()
