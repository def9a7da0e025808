"""Reads stdin in pieces, each once it has arrived: lines from a terminal, up to 64 KiB from a file."""

import os
from collections.abc import Iterator

MAX_PIECE = 65_536
"""Bytes of a piece: those of one SEND."""
NO_TIMEOUT = "36525d"
"""The longest duration of the protocol: what comes from stdin waits until the job reads it."""
STDIN = 0


def stdin_pieces() -> Iterator[bytes]:
    """Yield what can be read from stdin, until its end."""
    while piece := os.read(STDIN, MAX_PIECE):
        yield piece
