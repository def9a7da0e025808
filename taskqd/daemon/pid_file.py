"""twistd's pid file: removes one that a dead daemon left behind, so that twistd does not refuse the start.

twistd only checks whether any process has the pid in the file. After a restart of a container that is the
daemon itself; after a restart of the machine it may be any other program; after a power cut the file may be
empty. So a daemon holds a lock on its pid file (flock(2)): a file that can be locked belongs to a dead one.
"""

import fcntl
import os

from twisted.logger import Logger

from taskqd.errors import StartRefused

_log = Logger()


def lock(path: str) -> int | None:
    """Lock the pid file of this process; return the descriptor that holds the lock, None if that fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # it was removed after twistd wrote it a moment ago
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove_stale(path: str) -> None:
    """Remove a pid file that a dead daemon left behind; raise StartRefused if no file can be made there.

    The caller has made sure that no other daemon uses the state directory. A pid file that is locked, or
    names a twistd that is not this daemon, is left alone: twistd refuses the start because of it.
    """
    target = os.path.realpath(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise StartRefused(
            f"the pid file {path} exists and is not a file; remove it, or choose another with twistd's "
            "--pidfile=FILE, or --pidfile= for none"
        )
    directory = os.path.dirname(target)
    if not _may_access(directory, os.W_OK | os.X_OK) and not _may_access(path, os.W_OK):
        raise StartRefused(
            f"the pid file {path} cannot be written in {directory}; choose another with twistd's "
            "--pidfile=FILE, or --pidfile= for none"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # there is none, or twistd reports the error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pid = os.read(descriptor, 32).decode("ascii", "replace").strip()
        if not _is_other_twistd(pid):
            os.unlink(path)
            _log.warn(
                "removed the pid file {path} of a daemon that is dead: pid {pid}",
                path=path,
                pid=pid or "unknown",
            )
    except OSError:
        pass  # a daemon has locked it, or it cannot be removed: twistd reports the error
    finally:
        os.close(descriptor)


def _may_access(path: str, mode: int) -> bool:
    """Whether this process may access a path, by its effective user."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_other_twistd(pid: str) -> bool:
    """Whether a process exists that is a twistd with another plugin; a taskqd would have locked its file."""
    if not (pid.isascii() and pid.isdigit()) or int(pid) == os.getpid():
        return False
    try:
        with open(f"/proc/{int(pid)}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == b"twistd" for word in words[:3]) and b"taskq" not in words
