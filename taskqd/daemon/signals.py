"""The signals of the daemon: restores what its parent changed, and ignores signals that it does not use.

Twisted handles CHLD, and twistd USR1 if the log is a file, which it rotates. TERM and INT stop the daemon, in
different ways. HUP has two meanings: the terminal of the daemon is gone, or a user wants the settings to be
read again.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from taskqd.daemon.reactor import IReactor
from taskqd.errors import is_shortage

IGNORED = (
    *("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGQUIT", "SIGPWR", "SIGSTKFLT"),
    *("SIGPIPE", "SIGXFSZ", "SIGXCPU"),
)
"""Signals that would end the daemon by default, have no meaning for it, and report no error of its code."""
REQUIRED = (signal.SIGCHLD, signal.SIGTERM)
"""Signals that must not stay ignored if the parent of the daemon ignored them."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop the daemon."""
TERMINAL = "/dev/tty"

Handler = Callable[[int, FrameType | None], object]

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


def on_stop_signal(reactor: IReactor, on_signal: Callable[[int, Handler | None], object]) -> None:
    """Call ``on_signal`` in the reactor for each signal that stops the daemon, once the reactor runs.

    It gets the number of the signal, and Twisted's handler for it. That handler stops the reactor, and makes
    twistd exit by the same signal; it is to be called at most once. It is None if the reactor runs without
    handlers. A signal that is ignored, or has the handler of a debugger, is left so.
    """

    def install() -> None:
        for number in STOPPING:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                _install(number, None)
            elif callable(handler) and getattr(handler, "__self__", None) is reactor:
                _install(number, handler)

    def _install(number: int, handler: Handler | None) -> None:
        signal.signal(number, lambda *_: reactor.callFromThread(on_signal, number, handler))

    reactor.callWhenRunning(install)  # after Twisted has installed its own


def on_hangup(reactor: IReactorFromThreads, stop: Callable[[], object]) -> None:
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
