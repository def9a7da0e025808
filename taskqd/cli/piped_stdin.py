"""What stands in our stdin for a job: ``taskq run`` hands on a pipe or a file, as ssh does."""

import os
import select
import stat
from io import BufferedReader, BytesIO
from typing import BinaryIO

from taskqd.cli.context import Session
from taskqd.client.encoder import MAX_BLOCK_BYTES

STDIN = 0
QUIET = 2.0
"""After this many seconds without an end of stdin, the user is told what is waited for."""
PIECE = 1024 * 1024


def piped_stdin(session: Session, script: BufferedReader | None) -> BinaryIO | None:
    """Return what our stdin has, read to its end; None if there is nothing or it is not for the job.

    A terminal, a device such as /dev/null and a socket are not: nobody may ever end what comes from those.
    What is too large for a block is read no further; it will be refused.
    """
    kind = os.fstat(STDIN).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)) or (script and script.fileno() == STDIN):
        return None
    data = bytearray()
    is_told = False
    while len(data) <= MAX_BLOCK_BYTES:
        if not is_told and not select.select([STDIN], [], [], QUIET)[0]:
            is_told = True
            session.complain("reading stdin for the job, to its end; --no-stdin starts the job without")
        piece = os.read(STDIN, PIECE)
        if not piece:
            break
        data += piece
    return BytesIO(data) if data else None
