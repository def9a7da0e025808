"""``taskq submit --from-file``: submits each line of a file as a job and shows the progress."""

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
from taskqd.cli.interrupts import INTERRUPTED, deferring_interrupt
from taskqd.client import Client, Options, Refused, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

READ_SIZE = 64 * 1024
"""Maximum number of bytes per read."""


def submit_lines(session: Session, client: Client, file: BufferedReader, options: Options) -> int:
    """Submit the lines of a file and print the ids in order; return the exit code.

    A refused line is reported by its number; the others are submitted nevertheless. After Ctrl-C no more
    lines are sent, and the ids of those that were sent are printed.
    """
    code = 0
    number = 0
    with deferring_interrupt() as interrupted, _progress(file) as progress:
        lines = CommandLines(file.fileno(), progress.show, lambda: bool(interrupted))
        try:
            for result in client.submit_many(lines, **options):
                number, done = lines.origins.popleft()
                if isinstance(result, Refused):
                    progress.show()
                    session.print_refusal(result, f"line {number}", {"line": number})
                    code = REFUSED
                else:
                    progress.step(session.format_answer(str(result), {"line": number, "id": result}), done)
        except Unreachable as error:
            raise Unreachable(f"{error}; the last reply was for line {number}") from None
    if interrupted:
        return INTERRUPTED
    if lines.unfinished:
        session.print_message(
            f"line {lines.unfinished} was not submitted: it ends with \\ and no line follows"
        )
        return REFUSED
    return code


class CommandLines:
    """Iterates over the commands in a file, one per line, for ``Client.submit_many``.

    Empty lines and lines that begin with # are skipped; a line that ends with a backslash continues in the
    next, as in a shell. ``origins`` has an entry for each command: the number of its first line, and the
    number of bytes up to its end; the consumer removes entries from the left. ``before_wait`` is called
    before waiting for more input, for instance from a pipe. When ``should_stop()`` is true, iteration ends.
    ``unfinished`` is the number of a last line that ends with a backslash, or 0.
    """

    def __init__(
        self,
        descriptor: int,
        before_wait: Callable[[], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._descriptor = descriptor
        self._before_wait = before_wait
        self._should_stop = should_stop
        self._continued: list[bytes] = []
        self.unfinished = 0
        self._number = 0
        self._done = 0
        self.origins: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[bytes | None]:
        rest = b""
        while not self._should_stop() and (piece := os.read(self._descriptor, READ_SIZE)):
            *complete, rest = (rest + piece).split(b"\n")
            yield from self._commands(complete)
            if not select.select([self._descriptor], [], [], 0)[0]:
                yield None
                self._before_wait()
        if rest:
            yield from self._commands([rest])
        if self._continued:
            self.unfinished = self._number

    def _commands(self, lines: list[bytes]) -> Iterator[bytes]:
        for ended in lines:
            if self._should_stop():
                return
            self._number += 1
            self._done += len(ended) + 1
            line = ended.removesuffix(b"\r")
            if not self._continued and line.lstrip(b" \t").startswith(b"#"):
                continue
            if _is_continued(line):
                self._continued.append(line[:-1])
                continue
            first = self._number - len(self._continued)
            command = b"".join((*self._continued, line))
            self._continued.clear()
            if command.strip():
                self.origins.append((first, self._done))
                yield command


def _is_continued(line: bytes) -> bool:
    """Whether a line ends with a backslash that is not escaped by another one."""
    return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


def _progress(file: BufferedReader) -> "PlainProgress":
    if not sys.stderr.isatty():
        return PlainProgress()
    facts = os.fstat(file.fileno())
    return ProgressBar(facts.st_size if stat.S_ISREG(facts.st_mode) else None)


class PlainProgress:
    """Prints results as they arrive, for a stderr that is no terminal."""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show()

    def step(self, line: str, done: int) -> None:
        """Print a result; ``done`` is the part of the total that has been processed."""
        sys.stdout.write(line + "\n")

    def show(self) -> None:
        """Flush the output, because the next step may take a while."""
        sys.stdout.flush()


class ProgressBar(PlainProgress):
    """A progress bar on stderr; the ``total`` may be unknown (None).

    Results on the same terminal are printed above it.
    """

    REFRESH_INTERVAL = 0.1
    """Minimum time between two updates (seconds)."""

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
        self._buffered: list[str] = []
        self._lines = 0
        self._done = 0
        self._refreshed_at = 0.0

    def __enter__(self) -> "Self":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show()
        self._progress.stop()

    def step(self, line: str, done: int) -> None:
        self._buffered.append(line + "\n")
        self._lines += 1
        self._done = done
        if time.monotonic() - self._refreshed_at >= self.REFRESH_INTERVAL:
            self.show()

    def show(self) -> None:
        text = "".join(self._buffered)
        self._buffered.clear()
        if text and sys.stdout.isatty():
            self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
        self._progress.update(self._task, completed=self._done, lines=self._lines)
        self._refreshed_at = time.monotonic()
