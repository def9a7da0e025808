"""Staying with a job until its end: what it prints as it comes, and signals that end ``taskq run`` before."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from taskqd.cli.context import Session
from taskqd.cli.display.text import confirms
from taskqd.cli.streaming.follow import Reading, Word
from taskqd.client import Facts, Output, Refused, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE, CANCEL, ASK = "leave", "cancel", "ask"
CHOICES = (ASK, LEAVE, CANCEL)
"""What becomes of the job when a signal ends ``taskq run``; only Ctrl-C on a terminal can ask."""
BEAT = 0.1
"""While a daemon is waited for, signals are looked for so often, in seconds."""


class Interrupts:
    """Signals while a job is followed: one is noted in ``came``; another before that was seen to breaks off.

    The first breaks nothing off, so that no byte of the output is lost or written twice. A third changes
    nothing any more. ``last`` is the number of the latest.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.last: int = signal.SIGINT
        self._has_broken_off = False
        self._is_over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Self":
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Who started us in the background of a script, or by nohup, does not want it to reach us.
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            for number, before in self._before.items():
                signal.signal(number, before)

    def end(self) -> None:
        """Let no other do anything, for as long as the process lives: what is left to it is to say a line."""
        self._is_over = True
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def pause(self, seconds: float) -> None:
        """Wait so long for a daemon to come back; raises KeyboardInterrupt if a signal has come."""
        end = time.monotonic() + seconds
        while self.came is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, BEAT))
        if self.came is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.last = number
        if self.came is not None and not self._has_broken_off:
            self._has_broken_off = True
            raise KeyboardInterrupt
        self.came = number


def attend(
    session: Session, job: int, write: Callable[[Output], None], interrupts: Interrupts, on_interrupt: str
) -> Facts | None:
    """Write what the job prints until it has ended, and return its facts; None if it was left before.

    The first signal does what ``on_interrupt`` says; a job that it cancels is followed to its end, unless
    another comes.
    """
    is_cancelled = False
    reading = Reading(job, session.connect_once, session.reconnect, interrupts.pause, is_known=True)
    for told in reading.pieces():
        if isinstance(told, Output):
            if told.data:
                write(told)
        elif isinstance(told, Word):
            session.complain(told.text)
        else:
            return told
        if interrupts.came is not None:
            session.calm()
            if is_cancelled or not _is_to_be_cancelled(job, interrupts.came, on_interrupt):
                return None
            interrupts.came = None
            is_cancelled = True
            _cancel(session, job)
    raise AssertionError("a job's reading ends with its end")


def _is_to_be_cancelled(job: int, number: int, on_interrupt: str) -> bool:
    if on_interrupt == ASK:
        return number == signal.SIGINT and confirms(f"Cancel job {job}?")
    return on_interrupt == CANCEL


def _cancel(session: Session, job: int) -> None:
    try:
        with session.connect_once() as client:
            client.cancel(job)
        session.complain(f"job {job} is cancelled; waiting for its end")
    except Refused as refusal:
        session.refuse(refusal)
    except Unreachable as error:
        session.complain(f"job {job} could not be cancelled: {error}")
