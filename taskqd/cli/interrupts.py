"""SIGINT (Ctrl-C) during a command: no partial output, exit code 130.

While modules are imported and arguments are parsed there is nothing to undo, so the process ends at once
(``cli.main``).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
FINISH_TIMEOUT = 1.0
"""Time that the daemon has to answer a submission after Ctrl-C (seconds)."""


class Unanswered(KeyboardInterrupt):
    """Ctrl-C was pressed, and the daemon has not answered for FINISH_TIMEOUT since."""


@contextmanager
def raising_keyboard_interrupt() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt, so that screens and progress bars are restored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `run` may ignore it by now
            signal.signal(signal.SIGINT, before)


@contextmanager
def deferring_interrupt() -> Iterator[list[int]]:
    """Let the block finish after Ctrl-C; raise Unanswered if it takes longer than FINISH_TIMEOUT.

    Yields a list to which the signal's number is appended. A plain KeyboardInterrupt comes from a Ctrl-C just
    before or after the block.
    """
    received: list[int] = []

    def record(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.setitimer(signal.ITIMER_REAL, FINISH_TIMEOUT)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise Unanswered

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield received
        return
    alarm = signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGINT, record)
    try:
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, before)
