"""One daemon a state directory: a lock that its holder's end releases, however it ends."""

import fcntl
import os

from taskqd.errors import StartRefused


def take_lock(directory: str) -> int:
    """Lock a state directory and return the descriptor that holds the lock until it is closed.

    Raises StartRefused, naming the pid, if another daemon has it, and OSError if the file cannot be opened.
    """
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StartRefused(
            f"another daemon, pid {holder}, already runs on the state directory {directory}"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
