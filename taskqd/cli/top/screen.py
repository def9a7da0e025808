"""The terminal of ``taskq top``: its settings, its size, its keys and signals, and the loop around them."""

import errno
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType

from rich.console import Console
from rich.live import Live

from taskqd.cli.context import Session
from taskqd.cli.top.keys import QUIT, press, read_keys
from taskqd.cli.top.poller import Asking, Told
from taskqd.cli.top.render import draw
from taskqd.cli.top.state import Act, News, State
from taskqd.client import Unreachable

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT)
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def show(session: Session) -> int:
    """Show it until somebody quits; return the exit code: 128+N for the end by signal N."""
    told: SimpleQueue[Told] = SimpleQueue()
    with _bell() as (bell, ring):

        def tell(news: Told) -> None:
            told.put(news)
            os.write(ring, b"\0")

        asking = Asking(session.connect_once, tell)
        state = State()
        state.address = asking.start()
        try:
            return Top(state, asking, told, bell).run()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return 128 + signal.SIGHUP  # the terminal is gone, which may be seen before the signal is


@contextmanager
def _bell() -> Iterator[tuple[int, int]]:
    """Have signals noted on a pipe, as is what the asking thread tells; as they were before at the end."""
    bell, ring = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(ring, False)
    before = {number: signal.signal(number, _noted) for number in _SIGNALS}
    former = signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    try:
        yield bell, ring
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        # The pipe stays open: the asking thread may still write to it, and its number must not be another's.


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing in the handler: the number is on the pipe, and the loop sees it there."""


@contextmanager
def keys_at_once(terminal: int) -> Iterator[None]:
    """Have keys come one by one and unseen; the terminal's settings are as they were at the end."""
    before = termios.tcgetattr(terminal)
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~(termios.ICANON | termios.ECHO)
    settings[6][termios.VMIN] = 1
    settings[6][termios.VTIME] = 0
    termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
    try:
        yield
    finally:
        with suppress(termios.error):  # of a terminal that is gone: it needs no settings any more
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Top:
    """The loop: waits for keys, signals and news, and draws after each."""

    def __init__(self, state: State, asking: Asking, told: "SimpleQueue[Told]", bell: int) -> None:
        self._state = state
        self._asking = asking
        self._told = told
        self._bell = bell
        self._terminal = sys.stdin.fileno()
        self._begun = b""
        self._code = 0
        self._has_ended = False
        self._is_suspended = False

    def run(self) -> int:
        """Run until the end; return the exit code."""
        while not self._has_ended:
            console = Console()
            with (
                keys_at_once(self._terminal),
                Live(
                    console=console,
                    screen=True,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=False,
                ) as live,
            ):
                while not self._is_to_leave():
                    size = os.get_terminal_size(sys.stdout.fileno())
                    console.size = (max(20, size.columns), max(5, size.lines))
                    live.update(draw(self._state, *console.size, time.time()), refresh=True)
                    self._on_received()
            self._suspend_if_asked()
        return self._code

    def _is_to_leave(self) -> bool:
        return self._has_ended or self._is_suspended

    def _end(self, code: int) -> None:
        self._code = code
        self._has_ended = True

    def _suspend_if_asked(self) -> None:
        """Stop where Ctrl-Z was pressed, and go on here when the shell says so."""
        if not self._is_suspended:
            return
        self._is_suspended = False
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def _on_received(self) -> None:
        """Wait until something has happened, and take it all in."""
        ready = select.select([self._terminal, self._bell], [], [], 1.0)[0]
        if self._bell in ready:
            for number in os.read(self._bell, 4096):
                self._take_signal(number)
            self._take_news()
        if self._terminal in ready:
            data = os.read(self._terminal, 4096)
            if not data:  # the terminal is gone
                self._end(128 + signal.SIGHUP)
            keys, self._begun = read_keys(self._begun + data)
            for key in keys:
                self._press(key)

    def _take_signal(self, number: int) -> None:
        if number in _ENDS:
            self._end(128 + number)
        elif number == signal.SIGTSTP:
            self._is_suspended = True

    def _take_news(self) -> None:
        while True:
            try:
                news = self._told.get_nowait()
            except Empty:
                return
            if isinstance(news, News):
                self._state.learn(news)
            elif isinstance(news, Unreachable):
                self._state.trouble = str(news)
            else:
                self._state.message = news

    def _press(self, key: str) -> None:
        look = self._state.look
        pressed = press(self._state, key)
        if pressed == QUIT:
            self._end(0)
        elif isinstance(pressed, Act):
            self._asking.do(pressed)
        if self._state.look != look:
            if self._state.news is not None:
                self._state.news = self._state.news._replace(output=None)
            self._asking.look(self._state.look)
