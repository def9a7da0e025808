"""twistd's pid file: that of a dead daemon is removed, before twistd would refuse the start for it.

twistd looks only whether any process has the pid in the file. After a restart of a container that is the
daemon itself, after one of the machine it may be any other program; after a power cut the file may be empty.
A daemon locks its pid file as long as it runs (flock(2)): a file that can be locked is that of a dead one.
"""

import fcntl
import os

from twisted.logger import Logger

from taskqd.errors import StartRefused

_log = Logger()


def hold(path: str) -> int | None:
    """Lock the pid file of this process and return the descriptor that does; None if that cannot be done."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # twistd has written it a moment ago, and somebody has removed it since
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def make_way(path: str) -> None:
    """Remove a pid file that a dead daemon left behind; raises StartRefused if no file can be made there.

    The caller has made sure that no other daemon has the state directory. A pid file that is locked, or
    names a twistd that is no daemon of ours, is left to twistd, which refuses the start.
    """
    target = os.path.realpath(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise StartRefused(
            f"the pid file {path} is there and is no file; remove it, or give another by twistd's "
            "--pidfile=FILE, or --pidfile= for none"
        )
    directory = os.path.dirname(target)
    if not _can(directory, os.W_OK | os.X_OK) and not _can(path, os.W_OK):
        raise StartRefused(
            f"the pid file {path} cannot be written in {directory}; give another by twistd's --pidfile=FILE, "
            "or --pidfile= for none"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # there is none, or twistd says what is wrong with it
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
        pass  # a daemon has it locked, or it cannot be removed: twistd says so
    finally:
        os.close(descriptor)


def _can(path: str, mode: int) -> bool:
    """Whether this process can use a path so; by what it may do now, and not by who started it."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_other_twistd(pid: str) -> bool:
    """Whether a process is there that is a twistd of another kind; ours would have its pid file locked."""
    if not (pid.isascii() and pid.isdigit()) or int(pid) == os.getpid():
        return False
    try:
        with open(f"/proc/{int(pid)}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == b"twistd" for word in words[:3]) and b"taskq" not in words
