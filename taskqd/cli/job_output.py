"""Prints the output of jobs: unchanged, sanitized for a terminal, or as JSON documents."""

import sys
from binascii import b2a_base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from taskqd.cli.context import Session
from taskqd.client import Facts, Output, Ref

if TYPE_CHECKING:
    from taskqd.cli.display.sanitize import Sanitizer


@contextmanager
def print_output(session: Session, is_raw: bool) -> Iterator[Callable[[Output], None]]:
    """Yield a function that prints a piece at once in the requested format.

    Output to a terminal is sanitized unless ``is_raw``, and its colours are reset at the end.
    """
    if session.is_json:
        yield lambda piece: _print_json(session, piece)
        return
    printer = OutputPrinter(is_raw)
    session.reset_colours = printer.reset_colours
    try:
        yield printer.write
    finally:
        printer.finish()


class OutputPrinter:
    """Writes each piece to our stream of the same name."""

    def __init__(self, is_raw: bool) -> None:
        streams = () if is_raw else ("stdout", "stderr")
        self._sanitizers = {
            name: _sanitizer(stream.encoding) for name in streams if (stream := _stream(name)).isatty()
        }

    def write(self, piece: Output) -> None:
        """Write a piece, sanitized for a terminal; offset 0 starts the output of another attempt."""
        sanitizer = self._sanitizers.get(piece.stream)
        if sanitizer is None:
            _write(piece.stream, piece.data)
        else:
            before = b"" if piece.offset else sanitizer.finish()
            _write(piece.stream, before + sanitizer.sanitize(piece.data))

    def reset_colours(self) -> None:
        """Reset colours before a message."""
        for name, sanitizer in self._sanitizers.items():
            _write(name, sanitizer.reset_colours())

    def finish(self) -> None:
        """Write incomplete sequences that were held back, and reset colours."""
        for name, sanitizer in self._sanitizers.items():
            _write(name, sanitizer.finish())


def _sanitizer(encoding: str) -> "Sanitizer":
    from taskqd.cli.display.sanitize import Sanitizer  # noqa: PLC0415 - only needed on a terminal

    return Sanitizer(encoding)


def _stream(name: str) -> TextIO:
    return sys.stdout if name == "stdout" else sys.stderr


def _write(name: str, data: bytes) -> None:
    if data:
        stream = _stream(name)
        stream.buffer.write(data)
        stream.flush()


def _print_json(session: Session, piece: Output) -> None:
    session.print_answer(
        "", {"stream": piece.stream, "offset": piece.offset, **bytes_field("data", piece.data)}
    )
    sys.stdout.flush()


def describe_output_files(
    job: Ref, facts: Facts, streams: Sequence[str] = ("stdout", "stderr"), attempt: int | None = None
) -> str | None:
    """Return where a job's own files have its output, None if the daemon has it.

    The attempt is by default the latest; of a job that has not started, the name is as it was given.
    """
    runs = facts.get("runs", ())
    run = next((run for run in reversed(runs) if attempt in (None, run["attempt"])), None)
    files = {stream: facts.get(stream) if run is None else run.get(f"{stream}_file") for stream in streams}
    named = [f"{stream} to {path}" for stream, path in files.items() if path is not None]
    return f"job {job} writes its {' and its '.join(named)}" if named else None


def bytes_field(name: str, data: bytes) -> Facts:
    """Return bytes as a JSON field: text if they are UTF-8, else null plus a field ``<name>_base64``."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": b2a_base64(data, newline=False).decode("ascii")}
