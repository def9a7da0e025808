"""The signals of the daemon: restores what its parent changed, and ignores signals that it does not use.

Twisted handles TERM, INT and CHLD, and twistd USR1 if the log is a file, which it rotates. HUP has two
meanings: the terminal of the daemon is gone, or a user wants the settings to be read again.
"""

import os
import signal
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from taskqd.errors import is_shortage

IGNORED = (
    *("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGQUIT", "SIGPWR", "SIGSTKFLT"),
    *("SIGPIPE", "SIGXFSZ", "SIGXCPU"),
)
"""Signals that would end the daemon by default, have no meaning for it, and report no error of its code."""
REQUIRED = (signal.SIGCHLD, signal.SIGTERM)
"""Signals that must not stay ignored if the parent of the daemon ignored them."""
TERMINAL = "/dev/tty"

_log = Logger()


def reset() -> None:
    """Unblock all signals, ignore those that are not used, and restore those that are required."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in REQUIRED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for unused in ignored_signals():
        if signal.getsignal(unused) is signal.SIG_DFL:
            signal.signal(unused, signal.SIG_IGN)


def ignored_signals() -> list[int]:
    """Return the numbers of the signals that the daemon ignores, including all real-time signals."""
    named = [getattr(signal, name) for name in IGNORED if hasattr(signal, name)]
    return [*named, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as why:
        return is_shortage(why)  # unknown for lack of descriptors or memory; it had a terminal before
    return True


def on_hangup(reactor: IReactorFromThreads, stop: Callable[[], None]) -> None:
    """Call ``stop`` after a HUP that is sent because the terminal is gone; only log any other one.

    If HUP is ignored already, as by nohup(1), that is left so.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    had_terminal = has_terminal()

    def on_signal() -> None:
        if had_terminal and not has_terminal():
            _log.info(
                "SIGHUP: the terminal is gone, so the daemon stops; start it with nohup(1) to prevent that"
            )
            stop()
        else:
            _log.info("SIGHUP is ignored: settings are read at the start; restart the daemon to change them")

    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(on_signal))
