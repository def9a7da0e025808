"""What jobs print: written on byte for byte, on a terminal made harmless, or with --json as documents."""

import sys
from binascii import b2a_base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from taskqd.cli.context import Session
from taskqd.cli.display.sanitize import Washer
from taskqd.client import Facts, Output


@contextmanager
def printing(session: Session, is_raw: bool) -> Iterator[Callable[[Output], None]]:
    """Give what writes a piece at once, in the form that was asked for.

    A terminal gets only what is harmless unless it ``is_raw``, and at the end its colours are as they were.
    """
    if session.is_json:
        yield lambda piece: _say(session, piece)
        return
    printer = Printer(is_raw)
    session.calm = printer.calm
    try:
        yield printer.write
    finally:
        printer.end()


class Printer:
    """Writes each piece to the stream of ours that has its name."""

    def __init__(self, is_raw: bool) -> None:
        streams = () if is_raw else ("stdout", "stderr")
        self._washers = {
            name: Washer(stream.encoding) for name in streams if (stream := _stream(name)).isatty()
        }

    def write(self, piece: Output) -> None:
        """Write a piece, washed where it goes to a terminal; the first of an attempt begins anew."""
        washer = self._washers.get(piece.stream)
        if washer is None:
            _write(piece.stream, piece.data)
        else:
            before = b"" if piece.offset else washer.end()
            _write(piece.stream, before + washer.wash(piece.data))

    def calm(self) -> None:
        """End the colours, before words of our own."""
        for name, washer in self._washers.items():
            _write(name, washer.calm())

    def end(self) -> None:
        """Write what was held back of the last pieces, and end the colours."""
        for name, washer in self._washers.items():
            _write(name, washer.end())


def _stream(name: str) -> TextIO:
    return sys.stdout if name == "stdout" else sys.stderr


def _write(name: str, data: bytes) -> None:
    if data:
        stream = _stream(name)
        stream.buffer.write(data)
        stream.flush()


def _say(session: Session, piece: Output) -> None:
    session.say("", {"stream": piece.stream, "offset": piece.offset, **content("data", piece.data)})
    sys.stdout.flush()


def content(name: str, data: bytes) -> Facts:
    """Return bytes as a field of JSON: text where they are UTF-8, else null and ``name_base64`` beside it."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": b2a_base64(data, newline=False).decode("ascii")}
