"""What an attempt is run with: a job, what it brought, and as whom -> the Run that the executor takes."""

import os
import pwd
import sys
from collections.abc import Callable, Mapping

from twisted.logger import Logger

from taskqd.execution.command_line import SHELL, environment
from taskqd.execution.run import CannotStart, Owner, Run
from taskqd.execution.run_as import RunAs
from taskqd.execution.shebang import HEAD_BYTES, BadScript, interpreter
from taskqd.execution.users import User
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.model.submission import BLOCK, unpacked
from taskqd.storage.interfaces import ISpool
from taskqd.storage.spool.user_files import PROGRESS, UserFiles

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A job's PATH, unless its submission brings one; the directory of the daemon's ``taskq`` comes last."""


class Runs:
    """Makes Runs.

    ``store`` is the store's name, ``mask`` the daemon's own umask; ``handover`` is for what jobs of other
    users must be able to open, None where all run as the daemon's user. ``address`` returns where a job
    reaches the daemon, and is given whether it runs as another user.
    """

    _log = Logger()

    def __init__(
        self,
        spool: ISpool,
        store: str,
        mask: int,
        run_as: RunAs,
        handover: UserFiles | None = None,
        open_files: int | None = None,
        address: Callable[[bool], str | None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._store = store
        self._mask = mask
        self._run_as = run_as
        self._handover = handover
        self._address = address
        self._base = daemon_environment()
        self._open_files = open_files
        self._oom_score_adj = None if own_oom_score_adj() == 0 else 0
        self._home: str | None = None

    def make(self, job: Job, attempt: int) -> Run:
        """Return what runs an attempt; raises CannotStart where nothing may, or can."""
        user = self._run_as.user_of(job)
        owner = None
        if user is not None:
            owner = Owner(user.uid, user.gid, home_of(user), self._run_as.limits_of(user))
        secrets = self._secrets(job)
        spec = job.spec
        paths = self._files(job, attempt, owner)
        script = paths.get("script")
        if not _is_here():
            self._leave()
        base = self._base if user is None else user_environment(user)
        if spec.tz is not None:
            base = {**base, "TZ": spec.tz}
        return Run(
            id=job.id,
            attempt=attempt,
            command=job.command or None,
            script=script,
            interpreter=self._interpreter(job),
            stdin=paths.get("stdin"),
            cwd=_directory(spec),
            env=environment(
                base, job, attempt, self._store, paths[PROGRESS], secrets, self._address(owner is not None)
            ),
            umask=None if spec.umask == self._mask else spec.umask,
            nice=spec.nice,
            timeout=spec.timeout,
            kill_after=spec.kill_after,
            idle_timeout=spec.idle_timeout,
            memory=spec.memory,
            cpu_time=spec.cpu_time,
            nofile=spec.nofile,
            owner=owner,
            submitted_variables=(*spec.env, *spec.env_base64, *secrets, *([] if spec.tz is None else ["TZ"])),
            home=self._home,
            open_files=self._open_files,
            oom_score_adj=self._oom_score_adj,
        )

    def _leave(self) -> None:
        """Leave the daemon's own directory, which was removed; from now on jobs without one start at home."""
        self._home = self._base["HOME"]
        os.chdir("/")
        self._log.warn(
            "the daemon's working directory was removed: jobs without --cwd start in {home} from now on, or "
            "in / where that cannot be entered",
            home=self._home,
        )

    def _interpreter(self, job: Job) -> tuple[str, ...]:
        """Return what the script of a job names to run it; raises CannotStart where it cannot be run."""
        if job.spec.script is None:
            return ()
        try:
            with open(self._spool.path(job.array or job.id, "script"), "rb", buffering=0) as file:
                return interpreter(file.read(HEAD_BYTES))
        except OSError as why:
            raise CannotStart(f"its script cannot be read: {why}", why) from None
        except BadScript as why:
            raise CannotStart(f"its script {why}") from None

    def _files(self, job: Job, attempt: int, owner: Owner | None) -> Mapping[str, str]:
        """Return the paths of what an attempt opens, by name: what was brought for it, and its progress."""
        brought_with = job.array or job.id
        blocks = {
            name: self._spool.path(brought_with, name)
            for name in ("script", "stdin")
            if getattr(job.spec, name) is not None
        }
        if owner is None or self._handover is None:
            return {**blocks, PROGRESS: self._spool.path(job.id, PROGRESS)}
        try:
            return self._handover.provide(job.id, attempt, owner.uid, owner.gid, blocks)
        except OSError as why:
            raise CannotStart(f"its files cannot be handed over to its owner: {why}", why) from None

    def _secrets(self, job: Job) -> dict[str, str]:
        """Return the values of a job's secrets; raises CannotStart, since it is never to run without them."""
        names = job.spec.secrets
        try:
            return unpacked(self._spool.read_block(job.array or job.id, BLOCK), names) if names else {}
        except (OSError, ValueError) as why:
            raise CannotStart(f"its secrets cannot be read: {why}", why) from None


def _directory(spec: Spec) -> str | None:
    """Return the directory that was asked for; bytes that are not UTF-8 are surrogates (PEP 383)."""
    data = spec.cwd_base64
    return spec.cwd if data is None else data.decode("utf-8", "surrogateescape")


def daemon_environment() -> dict[str, str]:
    """Return what the environment of jobs begins with that run as the daemon's user: small and clean."""
    uid = os.geteuid()
    try:
        found = pwd.getpwuid(uid)
        name, home = found.pw_name, found.pw_dir
    except KeyError:
        name, home = str(uid), "/"
    return {
        "PATH": search_path(),
        "HOME": home,
        "LANG": _language(),
        "USER": name,
        "SHELL": SHELL,
        **_time_zone(),
    }


def user_environment(user: User) -> dict[str, str]:
    """Return what the environment of a job begins with that runs as another user.

    The shell is the one that runs the job, as cron(8) has it, and not the one that the user logs in with.
    """
    return {
        "PATH": search_path(),
        "HOME": home_of(user),
        "LANG": _language(),
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": SHELL,
        **_time_zone(),
    }


def home_of(user: User) -> str:
    """Return where a user is at home, the root directory where passwd has no such place."""
    return user.home if user.home.startswith("/") else "/"


def own_oom_score_adj() -> int:
    """Return what this process has in /proc/self/oom_score_adj (proc(5)), which jobs are not to inherit."""
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 0


def _is_here() -> bool:
    """Whether the daemon's own directory still has a name; the file system itself is not asked."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _time_zone() -> dict[str, str]:
    """Return the TZ by which schedules are read, for their jobs to read clocks in the same."""
    zone = os.environ.get("TZ")
    return {} if zone is None else {"TZ": zone}


def search_path() -> str:
    """Return the PATH of jobs: they find ``taskq`` beside the program that the daemon is, or its Python."""
    beside = (os.path.dirname(os.path.abspath(program)) for program in (sys.executable, sys.argv[0]))
    found = next((each for each in beside if os.access(os.path.join(each, "taskq"), os.X_OK)), None)
    return PATH if found is None or found in PATH.split(":") else f"{PATH}:{found}"


def _language() -> str:
    return os.environ.get("LANG", "C.UTF-8")
