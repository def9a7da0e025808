"""The signals of the daemon: restored, ignored, those that stop it, and the two meanings of HUP."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskqd.daemon import signals

ALL = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *signals.ignored_signals()]


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_reset_unblocks_all_signals_and_restores_the_required_ones() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.reset()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_reset_ignores_unused_signals_and_keeps_handlers() -> None:
    def rotate(*_: object) -> None:
        """Stand in for twistd's handler of USR1, if the log is a file."""

    for number in signals.ignored_signals():
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, rotate)
    signals.reset()
    assert signal.getsignal(signal.SIGUSR1) is rotate
    left = {signal.getsignal(number) for number in signals.ignored_signals() if number != signal.SIGUSR1}
    assert left == {signal.SIG_IGN}
    assert {signal.SIGUSR2, signal.SIGALRM, signal.SIGIO, signal.SIGQUIT} <= set(signals.ignored_signals())


class Reactor:
    """Calls functions from other threads at once; ``stops`` are the signals by which it was stopped."""

    def __init__(self) -> None:
        self.stops: list[int] = []

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        function(*args)

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        function()

    def sigTerm(self, number: int, _: object = None) -> None:  # noqa: N802 - as Twisted has it
        self.stops.append(number)


REACTOR: Any = Reactor()


@pytest.mark.parametrize("number", signals.STOPPING)
def test_stop_signal_is_passed_on_with_the_handler_of_the_reactor(number: int) -> None:
    reactor: Any = Reactor()
    signal.signal(number, reactor.sigTerm)
    received: list[tuple[int, Any]] = []
    signals.on_stop_signal(reactor, lambda *both: received.append(both))
    for _ in range(2):
        signal.raise_signal(number)
    assert [(got, handler.__self__) for got, handler in received] == [(number, reactor)] * 2
    assert reactor.stops == []


@pytest.mark.parametrize("number", signals.STOPPING)
def test_stop_signal_has_no_handler_to_call_if_the_reactor_installed_none(number: int) -> None:
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    received: list[tuple[int, Any]] = []
    signals.on_stop_signal(REACTOR, lambda *both: received.append(both))
    signal.raise_signal(number)
    assert received == [(number, None)]


def _debug(*_: object) -> None:
    """Stand in for the handler of SIGINT that twistd --debug installs."""


@pytest.mark.parametrize("handler", [signal.SIG_IGN, _debug])
def test_stop_signal_that_is_ignored_or_debugs_is_left_so(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    signals.on_stop_signal(REACTOR, lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.fixture(name="terminal")
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return a list of the error with which opening the terminal fails, None if it succeeds."""
    error: list[int | None] = [None]
    plain = os.open

    def opened(path: Any, *args: Any, **options: Any) -> int:
        if path != signals.TERMINAL:
            return plain(path, *args, **options)
        if error[0] is not None:
            raise OSError(error[0], os.strerror(error[0]))
        return plain(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(os, "open", opened)
    return error


@pytest.mark.parametrize(
    "before, after, stops",
    [
        (None, errno.ENXIO, True),
        (None, None, False),
        (None, errno.EMFILE, False),
        (errno.ENXIO, errno.ENXIO, False),
        (errno.ENOENT, errno.ENOENT, False),
    ],
)
def test_hup_stops_the_daemon_only_if_its_terminal_is_gone(
    terminal: list[int | None], before: int | None, after: int | None, stops: bool
) -> None:
    stopped: list[bool] = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    terminal[0] = before
    signals.on_hangup(REACTOR, lambda: stopped.append(True))
    terminal[0] = after
    signal.raise_signal(signal.SIGHUP)
    assert stopped == [True] * stops


def test_hup_that_is_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.on_hangup(REACTOR, lambda: None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
