"""One daemon per state directory: two locks that the end of their holder releases, however it ends.

The daemon locks the directory ``journal`` as well as the file ``lock``: a user who removes the file lets no
second daemon onto the same journal. Daemons up to 0.4 lock the file alone. ``taskq token`` locks the state
directory itself, which the daemon does not.
"""

import errno
import fcntl
import os

from taskqd.errors import StartRefused

FILE, JOURNAL = "lock", "journal"
_CANNOT_LOCK_DIRECTORIES = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP)
"""What flock(2) says of a directory on NFS, which turns it into a lock that needs a file open for writing."""


def take_lock(directory: str) -> tuple[int, ...]:
    """Lock a state directory and return the descriptors that hold the locks until they are closed.

    Raises StartRefused, naming the pid, if another daemon has it, and OSError if it cannot be locked.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    held = [os.open(os.path.join(directory, JOURNAL), flags)]
    try:
        _lock(held[0], directory, is_directory=True)
        held.append(os.open(os.path.join(directory, FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _lock(held[1], directory)
        os.ftruncate(held[1], 0)
        os.pwrite(held[1], b"%d\n" % os.getpid(), 0)
    except BaseException:
        for descriptor in held:
            os.close(descriptor)
        raise
    return tuple(held)


def refuse_if_locked(directory: str) -> None:
    """Raise StartRefused if a daemon has the state directory; changes nothing there, and holds nothing.

    What is not there, or may not be opened by this user, is not looked at. Raises OSError.
    """
    for name in (JOURNAL, FILE):
        try:
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        try:
            _lock(descriptor, directory, is_directory=name == JOURNAL)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, directory: str, *, is_directory: bool = False) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartRefused(
            f"another daemon, pid {_holder(directory)}, already runs on the state directory {directory}"
        ) from None
    except OSError as why:
        if not is_directory or why.errno not in _CANNOT_LOCK_DIRECTORIES:
            raise


def _holder(directory: str) -> str:
    """Return the pid that the holder has written into its lock file."""
    try:
        with open(os.path.join(directory, FILE), "rb") as file:
            return file.read(32).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        return "unknown"
