"""What nobody but its owner may read: the state directory, and the files in it that say who may do what."""

import os
import stat

from taskqd.errors import StartRefused


def check_directory(path: str, uid: int | None = None) -> None:
    """Raise StartRefused unless ``path`` is a directory of which its owner alone has any use.

    The owner has to be ``uid``, where one is given. Raises OSError if the directory cannot be looked at.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StartRefused(f"{path} is no directory; give the state directory with --state")
    if uid is not None and found.st_uid != uid:
        raise StartRefused(
            f"{path} belongs to the user {found.st_uid}, and the daemon runs as {uid}: give it to that one "
            "with chown -R, or run the daemon as its owner (twistd's --uid)"
        )
    if is_open(found):
        raise StartRefused(
            f"{path} may be used by others than its owner (mode {found.st_mode & 0o7777:o}): chmod 700 {path}"
        )


def is_open(found: os.stat_result) -> bool:
    """Whether others than its owner may do anything with a file or directory."""
    return bool(found.st_mode & 0o077)


def content(directory: int, name: str, path: str, most: int) -> bytes:
    """Return what stands in a file of an open directory, ``most`` bytes at most.

    ``path`` is its name for a person. Raises StartRefused if it may be read by others than its owner, is no
    file or is longer, and OSError if it cannot be read. Links are not followed: root reads here what
    another user has put there.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StartRefused(f"{path} is no file; move it away")
        if is_open(found):
            raise StartRefused(f"{path} may be read by others than its owner: chmod 600 {path}")
        if found.st_size > most:
            raise StartRefused(f"{path} has {found.st_size} bytes, and {most} are the most that it may have")
        return os.pread(descriptor, most, 0)
    finally:
        os.close(descriptor)
