"""As whom jobs run: all as the daemon's user, or each as the user who submitted it.

The latter takes a daemon of root's. What is run as root then says so in its Spec, and so in the journal
(``as_daemon``), where nobody who asks for something can write it: it is set here of what root itself submits
at the UNIX socket, and of the operator's own command at the end of jobs (notices.py). A name is not enough,
for a token may be called ``root``. Whoever is no user of this machine has nobody to run their jobs as.
"""

import os
import subprocess

from msgspec.structs import replace

from taskqd.errors import Forbidden, QueueFull, StartRefused
from taskqd.execution.command_line import find_program, setpriv_command
from taskqd.execution.run import CannotStart, Owner
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User, Users
from taskqd.model.job import Job
from taskqd.model.spec import Spec

ROOT = 0

_NOBODY = Owner(uid=65534, gid=65534, home="/")
_IDS = ("Uid", "Gid")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
_PATIENCE = 10.0


class RunAs:
    """Tells of jobs as whom they run: with ``is_owner`` as who submitted them."""

    def __init__(self, is_owner: bool, users: Users, limits: UserLimits) -> None:
        self.is_owner = is_owner
        self._users = users
        self._limits = limits

    def open(self) -> None:
        """Raise StartRefused if jobs cannot be run as who submitted them, and are to be."""
        if not self.is_owner:
            return
        if os.geteuid() != ROOT:
            raise StartRefused(
                'run-as is "owner", and only a daemon of root\'s can run jobs as their owners: '
                "start it as root, without twistd's --uid, or leave run-as out"
            )
        try:
            for program in ("prlimit", "nice"):
                find_program(program)
            _check_drop(setpriv_command(_NOBODY))
        except (OSError, subprocess.SubprocessError) as why:
            raise StartRefused(f'run-as is "owner", and jobs cannot be run as others: {why}') from None

    def check(self, owner: str, is_root_peer: bool, spec: Spec) -> Spec:
        """Return a submission of somebody's as it is to be run; raises Forbidden if it could not be.

        ``is_root_peer`` is whether it is root who asks, at the UNIX socket.
        """
        if not self.is_owner:
            return spec
        try:
            user = self._users.find(owner)
        except OSError as why:
            raise QueueFull(f"{owner} cannot be looked up among the users: {why}; try again") from None
        if user is None:
            raise Forbidden(_no_user(owner))
        if user.uid != ROOT:
            return spec
        if not is_root_peer:
            raise Forbidden(
                f"jobs of {owner} would run as root here, and only root itself may submit them, by the socket"
            )
        return replace(spec, as_daemon=True)

    def user_of(self, job: Job) -> User | None:
        """Return the user that a job is to be run as, None where that is the daemon's own.

        Raises CannotStart where that user is gone, or would be root and the job does not say so.
        """
        if not self.is_owner or job.spec.as_daemon:
            return None
        try:
            user = self._users.find(job.owner)
        except OSError as why:
            raise CannotStart(f"its owner {job.owner} cannot be looked up: {why}", why) from None
        if user is None:
            raise CannotStart(_no_user(job.owner))
        if user.uid == ROOT:
            raise CannotStart(
                "it would run as root, and was not submitted by root itself since jobs run as their owners; "
                f"submit it again as {job.owner}"
            )
        return user

    def limits_of(self, user: User) -> tuple[str, ...]:
        """Return prlimit(1)'s options for the limits that the machine sets a user; raises CannotStart."""
        try:
            return tuple(self._limits.options(user))
        except OSError as why:
            raise CannotStart(f"the limits of {user.name} cannot be read: {why}", why) from None


def _no_user(name: str) -> str:
    return (
        f"jobs run as who submits them here, and this machine has no user {name}; submit at the UNIX socket, "
        "or with a token that has the name of a user"
    )


def _check_drop(drop: list[str]) -> None:
    """Become somebody else once, and look; raises OSError if that did not leave all of root behind."""
    done = subprocess.run(
        [*drop, find_program("cat"), "/proc/self/status"],
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise PermissionError(f"setpriv says: {done.stderr.strip() or done.returncode}")
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    is_other = all(set(status[name].split()) == {str(_NOBODY.uid)} for name in _IDS)
    if not is_other or any(int(status[name], 16) for name in _CAPABILITIES):
        kept = {name: status[name] for name in (*_IDS, *_CAPABILITIES)}
        raise PermissionError(f"setpriv keeps some of root's rights: {kept}")
