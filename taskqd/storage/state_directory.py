"""The state directory: the locks that keep a second daemon out, and the checks that other users are kept out.

The daemon locks two things with flock(2), whose locks end with the process: the directory ``journal``, and
the file ``lock``, which also names the pid. If a user removes the file, the lock on the directory still
refuses a second daemon. Daemons up to version 0.4 lock the file only. ``taskq token`` locks the state
directory itself, which the daemon does not lock.
"""

import errno
import fcntl
import os
import stat

from taskqd.errors import StartRefused

LOCK_FILE = "lock"
JOURNAL_DIRECTORY = "journal"

_CANNOT_LOCK_DIRECTORIES = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of flock(2) for a directory on NFS, which needs a file that is open for writing."""
_OTHERS = 0o077
"""The permission bits of everybody but the owner."""


def acquire_lock(directory: str) -> tuple[int, ...]:
    """Lock a state directory and return the descriptors; closing them releases the lock.

    Raises StartRefused, with the pid, if another daemon holds the lock, and OSError if locking fails. After
    an error nothing is locked and no descriptor is open.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptors = [os.open(os.path.join(directory, JOURNAL_DIRECTORY), flags)]
    try:
        _lock(descriptors[0], directory, is_directory=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptors.append(os.open(os.path.join(directory, LOCK_FILE), flags, 0o600))
        _lock(descriptors[1], directory)
        os.ftruncate(descriptors[1], 0)
        os.pwrite(descriptors[1], b"%d\n" % os.getpid(), 0)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return tuple(descriptors)


def check_unlocked(directory: str) -> None:
    """Raise StartRefused if a daemon holds the lock of a state directory; acquires and changes nothing.

    Files that do not exist, or that this user may not open, are skipped. Raises OSError if locking fails.
    """
    for name in (JOURNAL_DIRECTORY, LOCK_FILE):
        try:
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        try:
            _lock(descriptor, directory, is_directory=name == JOURNAL_DIRECTORY)
        finally:
            os.close(descriptor)


def check_permissions(path: str, uid: int | None = None) -> None:
    """Raise StartRefused unless ``path`` is a directory that only its owner can access.

    The owner must be ``uid``, unless that is None. Raises OSError if the directory cannot be examined.
    """
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise StartRefused(f"{path} is not a directory; give the state directory with --state")
    if uid is not None and status.st_uid != uid:
        raise StartRefused(
            f"{path} belongs to uid {status.st_uid}, and the daemon runs as uid {uid}: "
            f"chown -R {uid} {path}, or run the daemon as the owner (twistd's --uid)"
        )
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise StartRefused(f"{path} can be accessed by other users (mode {mode:o}): chmod 700 {path}")


def read_private_file(directory: int, name: str, path: str, max_bytes: int) -> bytes:
    """Return the content of a file in an open directory; ``path`` is its name in error messages.

    Raises StartRefused if other users can access the file, if it is not a regular file, or if it is longer
    than ``max_bytes``, and OSError if it cannot be read. Symbolic links are not followed, because root may
    read here a file that another user has made.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StartRefused(f"{path} is not a regular file; move it away")
        if status.st_mode & _OTHERS:
            mode = stat.S_IMODE(status.st_mode)
            raise StartRefused(f"{path} can be accessed by other users (mode {mode:o}): chmod 600 {path}")
        if status.st_size > max_bytes:
            raise StartRefused(f"{path} has {status.st_size} bytes, the limit is {max_bytes}; move it away")
        return os.pread(descriptor, max_bytes, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: str, *, is_directory: bool = False) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartRefused(
            f"another daemon, pid {_holder(directory)}, already runs on the state directory {directory}; "
            "stop it, or choose another --state"
        ) from None
    except OSError as error:
        if not is_directory or error.errno not in _CANNOT_LOCK_DIRECTORIES:
            raise


def _holder(directory: str) -> str:
    """Return the pid in the lock file, "unknown" if it has none."""
    try:
        with open(os.path.join(directory, LOCK_FILE), "rb") as file:
            return file.read(32).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        return "unknown"
