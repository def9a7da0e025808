"""Runs twistd on a simulated slow disk: each fdatasync and fsync of this process takes at least some time.

    python bench/slow_disk.py SECONDS ARGUMENT...      twistd with these arguments

The data are synced by the real call first, then the thread sleeps for the rest of the time, which releases
the GIL as the real call does. So a batch waits as long as on such a disk, and nothing that waits for it runs
early. Writes and reads are not slower, and neither are the syncs of other processes: the runner, which syncs
while no daemon is there, and the program that writes snapshots.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial

from twisted.scripts.twistd import run

Sync = Callable[[int], None]


def sync_slowly(sync: Sync, seconds: float, descriptor: int) -> None:
    """Sync a file, and return no earlier than after ``seconds``; raises what ``sync`` raises."""
    began = time.monotonic()
    sync(descriptor)
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def main() -> None:
    """Replace the two system calls and run twistd."""
    seconds = float(sys.argv[1])
    os.fdatasync = partial(sync_slowly, os.fdatasync, seconds)
    os.fsync = partial(sync_slowly, os.fsync, seconds)
    sys.argv = ["twistd", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
