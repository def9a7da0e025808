"""The signals of the daemon: it undoes what its parent has done to them, and ignores those without a use.

TERM, INT and CHLD are Twisted's, and USR1 is twistd's where the log is a file, which it rotates. HUP has two
meanings: it comes when the terminal of the daemon is gone, and from people who want settings read again.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from taskqd.errors import is_shortage

UNUSED = (
    *("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGQUIT", "SIGPWR", "SIGSTKFLT"),
    *("SIGPIPE", "SIGXFSZ", "SIGXCPU"),
)
"""What would end the daemon by default, means nothing to it, and is no error of its own."""
NEEDED = (signal.SIGCHLD, signal.SIGTERM)
"""What must not stay ignored, as some parents leave it."""
TERMINAL = "/dev/tty"

_log = Logger()


def reset() -> None:
    """Block no signal, ignore those that are not used, and have those that are needed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for needed in NEEDED:
        if signal.getsignal(needed) is signal.SIG_IGN:
            signal.signal(needed, signal.SIG_DFL)
    for number in unused():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def unused() -> list[int]:
    """Return the numbers of the signals that are not used, those of real time among them."""
    named = [getattr(signal, name) for name in UNUSED if hasattr(signal, name)]
    return [*named, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as why:
        return is_shortage(why)  # then it is not known, and it had one before
    return True


def on_hangup(reactor: Any, stop: Callable[[], None]) -> None:
    """Have ``stop`` called at a HUP that comes because the terminal is gone; any other one is only logged.

    A HUP that is ignored already, as nohup(1) has it, stays so.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    had_terminal = has_terminal()

    def hung_up() -> None:
        if had_terminal and not has_terminal():
            _log.info("SIGHUP: the terminal is gone, so the daemon stops; nohup(1) would keep it up")
            stop()
        else:
            _log.info("SIGHUP is ignored: settings are read at the start; restart the daemon to change them")

    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(hung_up))
