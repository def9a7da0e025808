"""Follows a job for ``taskq run`` until it ends, and handles the signals that interrupt it."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from taskqd.cli.context import Session
from taskqd.cli.display.text import confirm
from taskqd.cli.streaming.job_follower import JobFollower, Notice
from taskqd.client import Facts, Output, Refused, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE, CANCEL, ASK = "leave", "cancel", "ask"
INTERRUPT_ACTIONS = (ASK, LEAVE, CANCEL)
"""Actions for a signal that ends ``taskq run``; the user is asked only after Ctrl-C on a terminal."""
SIGNAL_CHECK_INTERVAL = 0.1
"""Interval at which signals are checked while reconnecting (seconds)."""


class SignalRecorder:
    """Records signals while a job is followed.

    The first signal is only stored in ``pending``, so that no output is lost or printed twice. If another
    arrives before it has been handled, KeyboardInterrupt is raised; further ones have no effect. ``last`` is
    the number of the latest signal.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self.last: int = signal.SIGINT
        self._has_raised = False
        self._ignores_signals = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Self":
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # nohup and shells ignore signals for background processes; keep them ignored.
            if handler is not signal.SIG_IGN:
                self._previous_handlers[number] = handler
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ignores_signals:
            for number, handler in self._previous_handlers.items():
                signal.signal(number, handler)

    def ignore(self) -> None:
        """Ignore further signals until the process exits; only a message is left to be printed."""
        self._ignores_signals = True
        for number in self._previous_handlers:
            signal.signal(number, signal.SIG_IGN)

    def sleep(self, seconds: float) -> None:
        """Sleep before the next attempt to reconnect; raises KeyboardInterrupt if a signal is pending."""
        end = time.monotonic() + seconds
        while self.pending is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, SIGNAL_CHECK_INTERVAL))
        if self.pending is not None:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.last = number
        if self.pending is not None and not self._has_raised:
            self._has_raised = True
            raise KeyboardInterrupt
        self.pending = number


def attach(
    session: Session, job: int, write: Callable[[Output], None], signals: SignalRecorder, on_interrupt: str
) -> Facts | None:
    """Write the output of a job until it ends and return its facts; return None if a signal ended this.

    The first signal does what ``on_interrupt`` says. If that cancels the job, it is followed to its end,
    unless another signal arrives.
    """
    is_cancelled = False
    follower = JobFollower(job, session.connect_once, session.reconnect_timeout, signals.sleep, is_known=True)
    for item in follower.items():
        if isinstance(item, Output):
            if item.data:
                write(item)
        elif isinstance(item, Notice):
            session.print_message(item.text)
        else:
            return item
        if signals.pending is not None:
            session.reset_colours()
            if is_cancelled or not _should_cancel(job, signals.pending, on_interrupt):
                return None
            signals.pending = None
            is_cancelled = True
            _cancel(session, job)
    raise AssertionError("JobFollower.items ends with the facts of the job")


def _should_cancel(job: int, number: int, on_interrupt: str) -> bool:
    if on_interrupt == ASK:
        return number == signal.SIGINT and confirm(f"Cancel job {job}?")
    return on_interrupt == CANCEL


def _cancel(session: Session, job: int) -> None:
    try:
        with session.connect_once() as client:
            client.cancel(job)
        session.print_message(f"job {job} is cancelled; waiting for its end")
    except Refused as refusal:
        session.print_refusal(refusal)
    except Unreachable as error:
        session.print_message(f"cannot cancel job {job}: {error}")
