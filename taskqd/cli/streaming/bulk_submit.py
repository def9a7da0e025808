"""A job a line: ``taskq submit --from-file``, and how far it has come.

rich is imported only where it draws.
"""

import os
import select
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from io import BufferedReader
from types import TracebackType
from typing import TYPE_CHECKING

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.interrupts import INTERRUPTED, finishing
from taskqd.client import Client, Options, Refused, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

PIECE = 64 * 1024


def submit_lines(session: Session, client: Client, file: BufferedReader, options: Options) -> int:
    """Submit the lines of a file and print their ids in order; return the exit code.

    A line that is refused is told of by its number and keeps none of the others from being submitted. After
    Ctrl-C no more are sent, and the ids of all that were are printed.
    """
    code = 0
    number = 0
    with finishing() as interrupted, _progress(file) as progress:
        lines = Lines(file.fileno(), progress.show, lambda: bool(interrupted))
        try:
            for answer in client.submit_many(lines, **options):
                number, done = lines.origins.popleft()
                if isinstance(answer, Refused):
                    progress.show()
                    session.refuse(answer, f"line {number}", {"line": number})
                    code = REFUSED
                else:
                    progress.step(session.form(str(answer), {"line": number, "id": answer}), done)
        except Unreachable as error:
            raise Unreachable(f"{error}; line {number} was the last to be answered") from None
    if interrupted:
        return INTERRUPTED
    if lines.unfinished:
        session.complain(f"line {lines.unfinished} ends with \\ and no other follows: it was not submitted")
        return REFUSED
    return code


class Lines:
    """The commands in a file, a line each, as ``Client.submit_many`` takes them.

    Empty lines and those that begin with # are left out; one that ends with a backslash goes on in the next,
    as in a shell. ``origins`` has for each command handed out its first line's number and the bytes read up
    to its end; who takes an answer takes one off its left. Before a wait for more input, as from a pipe,
    ``before_wait`` is called; once ``is_over()``, no more come. ``unfinished`` is the number of a last line
    that ends with a backslash, 0 if there is none.
    """

    def __init__(
        self, descriptor: int, before_wait: Callable[[], None], is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._descriptor = descriptor
        self._before_wait = before_wait
        self._is_over = is_over
        self._begun: list[bytes] = []
        self.unfinished = 0
        self._number = 0
        self._done = 0
        self.origins: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[bytes | None]:
        rest = b""
        while not self._is_over() and (piece := os.read(self._descriptor, PIECE)):
            *whole, rest = (rest + piece).split(b"\n")
            yield from self._commands(whole)
            if not select.select([self._descriptor], [], [], 0)[0]:
                yield None
                self._before_wait()
        if rest:
            yield from self._commands([rest])
        if self._begun:
            self.unfinished = self._number

    def _commands(self, lines: list[bytes]) -> Iterator[bytes]:
        for ended in lines:
            if self._is_over():
                return
            self._number += 1
            self._done += len(ended) + 1
            line = ended.removesuffix(b"\r")
            if not self._begun and line.lstrip(b" \t").startswith(b"#"):
                continue
            if _goes_on(line):
                self._begun.append(line[:-1])
                continue
            first = self._number - len(self._begun)
            command = b"".join((*self._begun, line))
            self._begun.clear()
            if command.strip():
                self.origins.append((first, self._done))
                yield command


def _goes_on(line: bytes) -> bool:
    """Whether a line ends with a backslash that is not quoted by another before it."""
    return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


def _progress(file: BufferedReader) -> "Plain":
    if not sys.stderr.isatty():
        return Plain()
    facts = os.fstat(file.fileno())
    return Bar(facts.st_size if stat.S_ISREG(facts.st_mode) else None)


class Plain:
    """Prints answers as they come: what ``Bar`` is where stderr is no terminal."""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show()

    def step(self, line: str, done: int) -> None:
        """Print a line; so much of the total is ``done``."""
        sys.stdout.write(line + "\n")

    def show(self) -> None:
        """See to it that all steps so far are seen, because the next may take a while."""
        sys.stdout.flush()


class Bar(Plain):
    """A bar on stderr that grows to ``total``, None if nobody knows it.

    What goes to the same terminal stands above it; both are drawn ten times a second at most.
    """

    PAUSE = 0.1

    def __init__(self, total: int | None) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.fields[lines]} jobs"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("", total=total, lines=0)
        self._exclusively: list[str] = []
        self._lines = 0
        self._done = 0
        self._shown_at = 0.0

    def __enter__(self) -> "Self":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show()
        self._progress.stop()

    def step(self, line: str, done: int) -> None:
        self._exclusively.append(line + "\n")
        self._lines += 1
        self._done = done
        if time.monotonic() - self._shown_at >= self.PAUSE:
            self.show()

    def show(self) -> None:
        text = "".join(self._exclusively)
        self._exclusively.clear()
        if text and sys.stdout.isatty():
            self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
        self._progress.update(self._task, completed=self._done, lines=self._lines)
        self._shown_at = time.monotonic()
