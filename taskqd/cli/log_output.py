"""Prints logs of jobs: both streams in order, unchanged or sanitized, as lines with times, or as JSON."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from taskqd.cli.context import Session
from taskqd.cli.display.sanitize import RESET, Sanitizer, sanitize_output
from taskqd.cli.display.text import has_colours
from taskqd.cli.job_output import bytes_field
from taskqd.client import LogPiece, Ref

MAX_LINE_BYTES = 64 * 1024
"""Bytes after which a line without an end is printed."""
UNORDERED = "the order of both streams is not known from here on: stdout is printed before stderr"

_DIM = b"\x1b[2m"
_LINE_ENDS = re.compile(rb"(\r\n|\n|\r(?!\Z))")

Write = Callable[[LogPiece], None]


@contextmanager
def print_log(session: Session, job: Ref, *, has_times: bool, is_raw: bool) -> Iterator[Write]:
    """Yield a function that prints a piece of a job's log to stdout.

    On a terminal output is sanitized unless ``is_raw``, and stderr is dim there.
    """
    if session.is_json:
        yield lambda piece: _print_json(session, job, piece)
        return
    printer = TimedLines(is_raw) if has_times else LogPrinter(is_raw)
    session.reset_colours = printer.reset_colours
    is_ordered = True

    def write(piece: LogPiece) -> None:
        nonlocal is_ordered
        if is_ordered and not piece.is_ordered:
            is_ordered = False
            session.print_message(UNORDERED)
        printer.write(piece)

    try:
        yield write
    finally:
        printer.finish()


class LogPrinter:
    """Writes the pieces of both streams to stdout, in the order in which they come."""

    def __init__(self, is_raw: bool) -> None:
        self._is_terminal = sys.stdout.isatty() and not is_raw
        self._has_colours = has_colours(sys.stdout)
        self._sanitizers = {name: Sanitizer(sys.stdout.encoding) for name in ("stdout", "stderr")}
        self._stream = "stdout"

    def write(self, piece: LogPiece) -> None:
        """Write a piece, sanitized for a terminal; offset 0 starts the output of another attempt."""
        if not self._is_terminal:
            _write(piece.data)
            return
        before = b""
        if piece.stream != self._stream:
            before = self._sanitizers[self._stream].reset_colours()
            self._stream = piece.stream
        sanitizer = self._sanitizers[piece.stream]
        if piece.offset == 0:
            before += sanitizer.finish()
        data = sanitizer.sanitize(piece.data)
        _write(before + (_dimmed(data) if piece.stream == "stderr" and self._has_colours else data))

    def reset_colours(self) -> None:
        """Reset colours before a message."""
        for sanitizer in self._sanitizers.values():
            _write(sanitizer.reset_colours())

    def finish(self) -> None:
        """Write incomplete sequences that were held back, and reset colours."""
        for sanitizer in self._sanitizers.values():
            _write(sanitizer.finish())


class TimedLines:
    """Writes whole lines of both streams to stdout, each after the time at which it began.

    Each state of a progress bar, which ends with a carriage return, is such a line.
    """

    def __init__(self, is_raw: bool) -> None:
        self._is_terminal = sys.stdout.isatty() and not is_raw
        self._has_colours = has_colours(sys.stdout)
        self._incomplete: dict[str, tuple[str | None, bytes]] = {}

    def write(self, piece: LogPiece) -> None:
        """Write the lines that this piece completes; the rest is kept until its end arrives."""
        time, begun = self._incomplete.pop(piece.stream, (piece.time, b""))
        if piece.offset == 0 and begun:  # left by an earlier attempt
            self._write(piece.stream, time, begun)
            begun = b""
        lines = _LINE_ENDS.split(begun + piece.data)
        for line, end in zip(lines[::2], lines[1::2], strict=False):
            if line or end != b"\r":
                self._write(piece.stream, time if begun else piece.time, line)
            begun = b""
        rest = lines[-1]
        if len(rest) >= MAX_LINE_BYTES:
            self._write(piece.stream, time if begun else piece.time, rest)
        elif rest:
            self._incomplete[piece.stream] = (time if begun else piece.time), rest

    def _write(self, stream: str, time: str | None, line: bytes) -> None:
        shown = line.rstrip(b"\r")
        if self._is_terminal:
            shown = sanitize_output(shown, sys.stdout.encoding)
            if stream == "stderr" and self._has_colours:
                shown = _dimmed(shown)
        _write(b"%b %b\n" % (self._describe(time).encode("ascii"), shown))

    def _describe(self, time: str | None) -> str:
        """Return a time as text: local on a terminal, else that of the protocol."""
        if time is None or not self._is_terminal:
            return time or "-"
        moment = datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
        return moment.astimezone().replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")

    def reset_colours(self) -> None:
        """Do nothing: colours end with their line."""

    def finish(self) -> None:
        """Write the incomplete last lines."""
        for stream, (time, line) in self._incomplete.items():
            self._write(stream, time, line)
        self._incomplete.clear()


def _dimmed(data: bytes) -> bytes:
    return _DIM + data + RESET if data else data


def _write(data: bytes) -> None:
    if data:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def _print_json(session: Session, job: Ref, piece: LogPiece) -> None:
    place = {"id": job, "stream": piece.stream, "offset": piece.offset, "time": piece.time}
    session.print_answer("", {**place, **bytes_field("data", piece.data)})
    sys.stdout.flush()
