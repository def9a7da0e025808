"""Ctrl-C at every moment of a command: nothing is half done, nothing is printed, and the exit code is 130.

While modules are loaded and words are read there is nothing to undo: the process ends at once (``main``).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
FINISH_TIMEOUT = 1.0
"""What has been sent to the daemon has this many seconds to be answered, once somebody wants to leave."""


@contextmanager
def raising() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt within it, for what has to be undone: a screen, a bar."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `run` may have it ignored by now
            signal.signal(signal.SIGINT, before)


@contextmanager
def finishing() -> Iterator[list[int]]:
    """Let a Ctrl-C wait until what is done within it has been done, but no longer than FINISH_TIMEOUT.

    Gives a list that then holds the signal's number.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.setitimer(signal.ITIMER_REAL, FINISH_TIMEOUT)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield came
        return
    alarm = signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, before)
