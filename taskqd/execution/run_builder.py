"""Makes a Run from a job, the files in its spool, and its user."""

import os
import pwd
import sys
from collections.abc import Callable, Iterable, Mapping
from resource import RLIMIT_NOFILE
from types import MappingProxyType

from twisted.logger import Logger

from taskqd.execution.command_line import SHELL, job_environment
from taskqd.execution.messages import AttemptKey, Base
from taskqd.execution.run import CannotStart, Owner, Run
from taskqd.execution.run_as import RunAs
from taskqd.execution.shebang import HEAD_SIZE, BadScript, parse_shebang
from taskqd.execution.shell_limits import limit_commands, own_limits
from taskqd.execution.users import User
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, unpack_secrets
from taskqd.model.units import need_variable, unpack_units
from taskqd.storage.interfaces import ISpool
from taskqd.storage.spool.user_files import PROGRESS, IUserFiles

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of jobs whose submission has none; the directory of the daemon's ``taskq`` is appended."""


class RunBuilder:
    """Builds the Run of each attempt.

    ``store`` is the store's name, ``base()`` is what the processes of the runner
    start with. ``user_files`` has the files that jobs of other
    users must be able to open, None if all jobs run as the daemon's user. ``open_files`` is the soft limit of
    descriptors for jobs, None for the daemon's. ``address(is_other_user)`` returns the address at which a job
    reaches the daemon, None if there is none; ``is_other_user`` tells whether the job runs as another user.
    ``unit_variables`` are further variables for the named units of a job, by resource.
    """

    _log = Logger()

    def __init__(
        self,
        spool: ISpool,
        store: str,
        run_as: RunAs,
        user_files: IUserFiles | None = None,
        open_files: int | None = None,
        address: Callable[[bool], str | None] = lambda _: None,
        base: Callable[[], Base] = Base,
        unit_variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._spool = spool
        self._store = store
        self._run_as = run_as
        self._user_files = user_files
        self._address = address
        self._environment = daemon_user_environment()
        self._limits = own_limits()
        if open_files is not None:
            self._limits[RLIMIT_NOFILE] = (open_files, self._limits[RLIMIT_NOFILE][1])
        self._base = base
        self._unit_variables = unit_variables
        self._directory = _working_directory()

    def build(self, job: Job, attempt: int, word: str) -> Run:
        """Return the Run of an attempt; raises CannotStart if it must not or cannot be started."""
        user = self._run_as.user_of(job)
        owner, is_other = None, False
        if user is not None:
            is_other = user.uid != os.geteuid()
            home = home_of(user) if is_other or self._directory is None else self._directory
            owner = Owner(user.uid, user.gid, home, self._run_as.limits_of(user))
        secrets = self._secrets(job)
        spec = job.spec
        paths = self._files(job, attempt, word, owner)
        if _working_directory() is None and self._directory != "/":
            self._leave_working_directory()
        base = self._base()
        environment = self._environment if user is None else user_environment(user)
        inherited = self._inherited(job)
        if inherited:
            environment = {**environment, **inherited}
        if spec.tz is not None:
            environment = {**environment, "TZ": spec.tz}
        return Run(
            id=job.id,
            attempt=attempt,
            word=word,
            spec=spec,
            command=job.command or None,
            script=paths.get("script"),
            interpreter=self._interpreter(job),
            stdin=paths.get("stdin"),
            env=job_environment(
                environment,
                job,
                AttemptKey(job.id, attempt, word),
                self._store,
                paths[PROGRESS],
                secrets,
                self._address(is_other),
                self._units(job),
            ),
            umask=None if spec.umask == base.umask else spec.umask,
            owner=owner,
            submitted_variables=_submitted_variables(spec, inherited, secrets),
            directory=self._directory,
            limits=limit_commands(self._limits, base.limits),
            oom_score_adj=None if base.oom_score_adj == 0 else 0,
            user=user.name if user is not None and self._run_as.by_runner else None,
        )

    def _leave_working_directory(self) -> None:
        """Leave the daemon's directory, which was removed; jobs without --cwd start at home from now on."""
        self._directory = self._environment["HOME"]
        os.chdir("/")
        self._log.warn(
            "the daemon's working directory was removed; jobs without --cwd now start in {home}, or in / if "
            "that cannot be entered",
            home=self._directory,
        )

    def _units(self, job: Job) -> dict[str, str]:
        """Return the variables that name the units of resources to the latest attempt of a job."""
        if job.attempt is None or not job.attempt.units:
            return {}
        variables = {}
        for resource, names in unpack_units(job.attempt.units).items():
            variables[need_variable(resource)] = ",".join(names)
            if resource in self._unit_variables:
                variables[self._unit_variables[resource]] = ",".join(names)
        return variables

    def _interpreter(self, job: Job) -> tuple[str, ...]:
        """Return the interpreter that a job's script names; raises CannotStart if it cannot be run."""
        if job.spec.script is None:
            return ()
        try:
            path = self._spool.path(job.array or job.id, "script", job.spec.script_file)
            with open(path, "rb", buffering=0) as file:
                return parse_shebang(file.read(HEAD_SIZE))
        except OSError as why:
            raise CannotStart(f"its script cannot be read: {why}", why) from None
        except BadScript as why:
            raise CannotStart(f"its script {why}") from None

    def _files(self, job: Job, attempt: int, word: str, owner: Owner | None) -> Mapping[str, str]:
        """Return the paths of the files that an attempt opens, by name: script, stdin, and its progress."""
        submitted_with = job.array or job.id
        blocks = {
            name: self._spool.path(submitted_with, name, file)
            for name, file in (("script", job.spec.script_file), ("stdin", 0))
            if getattr(job.spec, name) is not None
        }
        if owner is None or self._user_files is None:
            return {**blocks, PROGRESS: self._spool.path(job.id, PROGRESS)}
        try:
            return self._user_files.provide(job.id, attempt, word, owner.uid, owner.gid, blocks)
        except OSError as why:
            raise CannotStart(f"its files cannot be copied for its user: {why}", why) from None

    def _secrets(self, job: Job) -> dict[str, str]:
        """Return the values of a job's secrets; raises CannotStart, since it must not run without them."""
        names = job.spec.secrets
        try:
            return (
                unpack_secrets(self._spool.read_block(job.array or job.id, SECRET_BLOCK), names)
                if names
                else {}
            )
        except (OSError, ValueError) as why:
            raise CannotStart(f"its secrets cannot be read: {why}", why) from None

    def _inherited(self, job: Job) -> Mapping[str, str]:
        """Return the environment that a job has of its client; raises CannotStart if it cannot be read."""
        environment = job.spec.environment
        if environment is None:
            return {}
        try:
            return self._spool.environments.read(environment)
        except (OSError, ValueError) as why:
            raise CannotStart(f"its environment cannot be read: {why}", why) from None


def _submitted_variables(spec: Spec, inherited: Iterable[str], secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the variables that come with a submission, each once."""
    zone = () if spec.tz is None else ("TZ",)
    return tuple(dict.fromkeys((*inherited, *spec.env, *spec.env_base64, *secrets, *zone)))


def daemon_user_environment() -> dict[str, str]:
    """Return the base of the environment of jobs that run as the daemon's user."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
        name, home = entry.pw_name, entry.pw_dir
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
    """Return the base of the environment of jobs that run as another user.

    SHELL is the one that runs the job, as in cron(8), and not the user's login shell.
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
    """Return a user's home directory, the root directory if passwd has none."""
    return user.home if user.home.startswith("/") else "/"


def _working_directory() -> str | None:
    """Return the daemon's directory, None if it was removed; this does not access its file system."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _time_zone() -> dict[str, str]:
    """Return the daemon's TZ, so that jobs read clocks in the zone in which schedules are read."""
    zone = os.environ.get("TZ")
    return {} if zone is None else {"TZ": zone}


def search_path() -> str:
    """Return the PATH of jobs, with the directory of the daemon's program or Python if ``taskq`` is there."""
    directories = (os.path.dirname(os.path.abspath(program)) for program in (sys.executable, sys.argv[0]))
    found = next((each for each in directories if os.access(os.path.join(each, "taskq"), os.X_OK)), None)
    return PATH if found is None or found in PATH.split(":") else f"{PATH}:{found}"


def _language() -> str:
    return os.environ.get("LANG", "C.UTF-8")
