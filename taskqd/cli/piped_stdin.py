"""Reads the stdin of ``taskq run`` for the job, if it is a pipe or a file."""

import os
import select
import stat
from io import BufferedReader, BytesIO
from typing import BinaryIO

from taskqd.cli.context import Session
from taskqd.client.encoder import MAX_BLOCK_BYTES

STDIN = 0
NOTICE_DELAY = 2.0
"""If stdin delivers nothing for this long (seconds), a message says that taskq is reading it."""
READ_SIZE = 1024 * 1024
"""Maximum number of bytes per read."""


def piped_stdin(session: Session, script: BufferedReader | None) -> BinaryIO | None:
    """Read stdin to its end and return it; None if it is empty, or neither a pipe nor a file.

    Terminals, devices and sockets are not read, because they may never end. Reading stops when the limit of
    a block is exceeded; the daemon will then refuse the job.
    """
    kind = os.fstat(STDIN).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)) or (script and script.fileno() == STDIN):
        return None
    data = bytearray()
    has_notified = False
    while len(data) <= MAX_BLOCK_BYTES:
        if not has_notified and not select.select([STDIN], [], [], NOTICE_DELAY)[0]:
            has_notified = True
            session.print_message("reading stdin for the job; use --no-stdin to start the job without it")
        piece = os.read(STDIN, READ_SIZE)
        if not piece:
            break
        data += piece
    return BytesIO(data) if data else None
