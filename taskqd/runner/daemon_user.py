"""The set-up of a runner of root's for the daemon of an ordinary user, before it listens."""

import os
import pwd
from contextlib import suppress
from typing import NamedTuple

from taskqd.errors import StartRefused
from taskqd.execution.run_as import check_user_change
from taskqd.execution.runner_directory import SHARED, RunnerDirectory

ROOT = 0

_UNSAFE = (
    "{path} must be a directory of root's that no other user can change: remove it or choose another "
    "--directory"
)


class DaemonUser(NamedTuple):
    """The user of the daemon; its group can read the runner's directory."""

    name: str
    uid: int
    gid: int


def find_daemon_user(name: str) -> DaemonUser:
    """Return the user of the daemon; raises StartRefused if this process or the user is not suitable."""
    if os.geteuid() != ROOT:
        raise StartRefused("--daemon-user is for a runner of root's, which runs jobs as other users: be root")
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise StartRefused(f"--daemon-user {name}: this machine has no such user") from None
    if ROOT in (entry.pw_uid, entry.pw_gid):
        raise StartRefused(
            f"--daemon-user {name}: its uid or its gid is 0; leave the option out if the daemon is root, and "
            "use --state"
        )
    check_user_change()
    return DaemonUser(name, entry.pw_uid, entry.pw_gid)


def open_directory(directory: RunnerDirectory, user: DaemonUser) -> None:
    """Make the directory of this runner, which the daemon's group can read and only root can change.

    From now on the group of this process is that of the daemon, so all files that it makes have it. Raises
    StartRefused and OSError.
    """
    os.setresgid(user.gid, user.gid, user.gid)
    with suppress(FileExistsError):
        os.mkdir(directory.path, SHARED.directory)
    try:
        descriptor = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise StartRefused(_UNSAFE.format(path=directory.path)) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != ROOT or status.st_mode & 0o022:
            raise StartRefused(_UNSAFE.format(path=directory.path))
        os.fchown(descriptor, ROOT, user.gid)
        os.fchmod(descriptor, SHARED.directory)
    finally:
        os.close(descriptor)
    directory.open()
