"""What jobs print: written on byte for byte, or with --json as documents."""

import sys
from binascii import b2a_base64
from collections.abc import Callable

from taskqd.cli.session import Session
from taskqd.client import Facts, Output


def writer(session: Session) -> Callable[[Output], None]:
    """Return what writes a piece at once in the form that was asked for."""

    def write(piece: Output) -> None:
        session.say("", {"stream": piece.stream, "offset": piece.offset, **content("data", piece.data)})
        sys.stdout.flush()

    return write if session.is_json else write_raw


def write_raw(piece: Output) -> None:
    """Write a piece to the stream of ours that has its name."""
    stream = sys.stdout if piece.stream == "stdout" else sys.stderr
    stream.buffer.write(piece.data)
    stream.flush()


def content(name: str, data: bytes) -> Facts:
    """Return bytes as a field of JSON: text where they are UTF-8, else null and ``name_base64`` beside it."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": b2a_base64(data, newline=False).decode("ascii")}
