"""The terminal and the main loop of ``taskq top``: settings, size, keys and signals."""

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

from taskqd.cli.context import Session, drop_stdout
from taskqd.cli.top.keys import QUIT, press, read_keys
from taskqd.cli.top.poller import Poller, Update
from taskqd.cli.top.render import draw
from taskqd.cli.top.state import Action, Snapshot, State
from taskqd.client import Unreachable

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT)
_TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def show(session: Session) -> int:
    """Run until the user quits; return the exit code, 128+N after signal N."""
    updates: SimpleQueue[Update] = SimpleQueue()
    with _wakeup_pipe() as (reader, writer):

        def on_update(update: Update) -> None:
            updates.put(update)
            os.write(writer, b"\0")

        poller = Poller(session.connect_once, on_update)
        state = State()
        state.address = poller.start()
        try:
            return Top(state, poller, updates, reader).run()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            drop_stdout()
            return 128 + signal.SIGHUP  # the terminal is gone; this may be seen before SIGHUP arrives


@contextmanager
def _wakeup_pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe to which signal numbers and a byte per update are written; restore handlers at the end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader, writer
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        # The pipe stays open: the poller thread may still write to it, and its number must not be reused.


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number has been written to the pipe, where the main loop reads it."""


@contextmanager
def character_input(terminal: int) -> Iterator[None]:
    """Switch a terminal to input by character without echo; restore its settings at the end."""
    before = termios.tcgetattr(terminal)
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~(termios.ICANON | termios.ECHO)
    settings[6][termios.VMIN] = 1
    settings[6][termios.VTIME] = 0
    termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Top:
    """The main loop: waits for keys, signals and updates, and draws after each."""

    def __init__(self, state: State, poller: Poller, updates: "SimpleQueue[Update]", wakeup: int) -> None:
        self._state = state
        self._poller = poller
        self._updates = updates
        self._wakeup = wakeup
        self._terminal = sys.stdin.fileno()
        self._incomplete_key = b""
        self._code = 0
        self._has_ended = False
        self._is_suspended = False

    def run(self) -> int:
        """Run until the user quits; return the exit code."""
        while not self._has_ended:
            console = Console()
            with (
                character_input(self._terminal),
                Live(
                    console=console,
                    screen=True,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=False,
                ) as live,
            ):
                while not self._must_leave_screen():
                    size = os.get_terminal_size(sys.stdout.fileno())
                    console.size = (max(20, size.columns), max(5, size.lines))
                    live.update(draw(self._state, *console.size, time.time()), refresh=True)
                    self._wait_for_input()
            self._suspend_if_requested()
        return self._code

    def _must_leave_screen(self) -> bool:
        return self._has_ended or self._is_suspended

    def _end(self, code: int) -> None:
        self._code = code
        self._has_ended = True

    def _suspend_if_requested(self) -> None:
        """Stop the process after Ctrl-Z; return when the shell continues it."""
        if not self._is_suspended:
            return
        self._is_suspended = False
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def _wait_for_input(self) -> None:
        """Wait for keys, signals or updates, and process all of them."""
        ready = select.select([self._terminal, self._wakeup], [], [], 1.0)[0]
        if self._wakeup in ready:
            for number in os.read(self._wakeup, 4096):
                self._on_signal(number)
            self._process_updates()
        if self._terminal in ready:
            data = os.read(self._terminal, 4096)
            if not data:  # the terminal is gone
                self._end(128 + signal.SIGHUP)
            keys, self._incomplete_key = read_keys(self._incomplete_key + data)
            for key in keys:
                self._press(key)

    def _on_signal(self, number: int) -> None:
        if number in _TERMINATING:
            self._end(128 + number)
        elif number == signal.SIGTSTP:
            self._is_suspended = True

    def _process_updates(self) -> None:
        while True:
            try:
                update = self._updates.get_nowait()
            except Empty:
                return
            if isinstance(update, Snapshot):
                self._state.update(update)
            elif isinstance(update, Unreachable):
                self._state.error = str(update)
            else:
                self._state.message = update

    def _press(self, key: str) -> None:
        view = self._state.output_view
        result = press(self._state, key)
        if result == QUIT:
            self._end(0)
        elif isinstance(result, Action):
            self._poller.perform(result)
        if self._state.output_view != view:
            if self._state.snapshot is not None:
                self._state.snapshot = self._state.snapshot._replace(output=None)
            self._poller.show_output(self._state.output_view)
