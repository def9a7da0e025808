"""Decides as which user a job runs: all as the daemon's, or each as the user who submitted it.

The second requires root: the daemon is root, or its runner is, which then runs nothing as root
(docs/decisions/0059). A job that runs as a daemon of root's has ``as_daemon`` in its Spec, and so in the
journal, which no client can set. It is set here for jobs that root itself submits at the UNIX socket, and for
the operator's command at the end of jobs (engine/end_hook.py). The name root is not enough, since a token may
have it. Clients that are no users of this machine cannot submit jobs.
"""

import os
import pwd
import subprocess

from msgspec.structs import replace

from taskqd.errors import Forbidden, QueueFull, StartRefused
from taskqd.execution.command_line import find_program, setpriv_command
from taskqd.execution.run import CannotStart, Owner
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User, Users
from taskqd.model.actor import END_HOOK
from taskqd.model.job import Job
from taskqd.model.spec import Spec

ROOT = 0

_UNPRIVILEGED = Owner(uid=65534, gid=65534, home="/")
_IDS = ("Uid", "Gid")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
_CHECK_TIMEOUT = 10.0
"""Seconds for setpriv(1) and cat(1) to run; they take milliseconds."""


class RunAs:
    """Maps jobs to users; with ``is_owner`` to those who submitted them.

    With ``by_runner`` the daemon is not root, and its runner changes the user of every job.
    """

    def __init__(self, is_owner: bool, users: Users, limits: UserLimits, *, by_runner: bool = False) -> None:
        self.is_owner = is_owner
        self.by_runner = by_runner
        self._users = users
        self._limits = limits

    def open(self) -> None:
        """Raise StartRefused if jobs must run as their owners and cannot."""
        if not self.is_owner:
            return
        if self.by_runner:
            self._check_own_user()
            return
        if os.geteuid() != ROOT:
            raise StartRefused(
                'run-as is "owner", and only a daemon that runs as root can run jobs as their owners: '
                "start it as root, without twistd's --uid, set runner-directory, or leave run-as out"
            )
        try:
            check_user_change()
        except StartRefused as why:
            raise StartRefused(f'run-as is "owner", and {why}') from None

    def check(self, owner: str, is_root_peer: bool, spec: Spec) -> Spec:
        """Return the Spec with which a submission runs; raises Forbidden if it could not run.

        ``is_root_peer`` is set if root submits it, at the UNIX socket.
        """
        if not self.is_owner:
            return spec
        try:
            user = self._users.find(owner)
        except OSError as why:
            raise QueueFull(f"user {owner} cannot be looked up: {why}; try again") from None
        if user is None:
            raise Forbidden(_no_user(owner))
        if user.uid != ROOT:
            return spec
        if self.by_runner:
            raise Forbidden(
                f"jobs of {owner} would run as root, and this daemon's runner runs nothing as root "
                "(runner-directory); submit it as another user"
            )
        if not is_root_peer:
            raise Forbidden(
                f"jobs of {owner} would run as root, and only root itself may submit them, at the UNIX socket"
            )
        return replace(spec, as_daemon=True)

    def user_of(self, job: Job) -> User | None:
        """Return the user that a job runs as, None for the daemon's own if that needs no change.

        Raises CannotStart if that user was removed, or would be root without the job's saying so.
        """
        if self.by_runner and job.spec.as_daemon:
            return self._user_of_hook(job)
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

    def _user_of_hook(self, job: Job) -> User:
        """Return the daemon's user for the ``on_end`` command; a job of root's cannot run."""
        if job.owner != END_HOOK.name:
            raise CannotStart(
                f"{job.owner} submitted it to run as root, and this daemon's runner runs nothing as root"
            )
        try:
            return own_user()
        except KeyError:
            raise CannotStart(f"the daemon's uid {os.geteuid()} has no name any more") from None

    def _check_own_user(self) -> None:
        """Raise StartRefused if this daemon is root, or has no name that its runner could look up."""
        if os.geteuid() == ROOT:
            raise StartRefused(
                "runner-directory is for a daemon that is not root, and this one is: start it as the user in "
                "taskqd-runner's --daemon-user, or leave runner-directory out"
            )
        try:
            own_user()
        except KeyError:
            raise StartRefused(
                f"the daemon's uid {os.geteuid()} has no name in the user database, which runner-directory "
                "needs: add the user"
            ) from None

    def limits_of(self, user: User) -> tuple[str, ...]:
        """Return prlimit(1)'s options for the limits that the machine sets a user; raises CannotStart."""
        try:
            return tuple(self._limits.prlimit_options(user))
        except OSError as why:
            raise CannotStart(f"the limits of {user.name} cannot be read: {why}", why) from None


def own_user() -> User:
    """Return the user of this process; raises KeyError if its uid has no name."""
    entry = pwd.getpwuid(os.geteuid())
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def _no_user(name: str) -> str:
    return (
        f"jobs run as their owners, and this machine has no user {name}; submit at the UNIX socket, or with "
        "a token that has the name of a user"
    )


def check_user_change() -> None:
    """Raise StartRefused if this process cannot run programs as other users."""
    try:
        for program in ("prlimit", "nice"):
            find_program(program)
        _check_setpriv(setpriv_command(_UNPRIVILEGED))
    except (OSError, subprocess.SubprocessError) as why:
        raise StartRefused(f"jobs cannot be run as others: {why}") from None


def _check_setpriv(command: list[str]) -> None:
    """Change to another user once; raises OSError if that did not drop all of root's rights."""
    done = subprocess.run(
        [*command, find_program("cat"), "/proc/self/status"],
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CHECK_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise PermissionError(f"setpriv says: {done.stderr.strip() or done.returncode}")
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    is_other = all(set(status[name].split()) == {str(_UNPRIVILEGED.uid)} for name in _IDS)
    if not is_other or any(int(status[name], 16) for name in _CAPABILITIES):
        kept = {name: status[name] for name in (*_IDS, *_CAPABILITIES)}
        raise PermissionError(f"setpriv keeps some of root's rights: {kept}")
