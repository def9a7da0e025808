"""An attempt as an argument list and an environment, and what the shell's messages say of its start.

Existing programs do the work: the shell enters the directory and sets the umask, nice(1) sets the niceness,
prlimit(1) the limits, setpriv(1) changes the user. Each program costs an exec, so only those are in the list
that are needed.

The programs before setpriv(1) run as root, and must obey the daemon only. Variables of a submission could
control the dynamic loader, the C library or user lookups, and no list of their names is complete. So these
get a prefix that means nothing to any program, and the user's own shell removes it (docs/decisions/0013).
"""

import math
import os
import shutil
from collections.abc import Mapping
from resource import RLIMIT_NOFILE
from shlex import quote
from types import MappingProxyType

from taskqd.execution.messages import AttemptKey
from taskqd.execution.proc import make_mark
from taskqd.execution.run import MARK, Owner, Run
from taskqd.model.job import Job

SHELL = "/bin/sh"
"""The shell that runs commands, whatever the login shell of the user."""
BASE_DIRECTORY = "/"
"""The directory in which a runner starts processes."""
CANNOT_ENTER = 126
"""The exit code if the directory cannot be entered, an output file opened, or the interpreter executed."""
NOT_FOUND = 127
"""The exit code if the directory or the interpreter does not exist."""
CPU_GRACE = 5
"""Seconds of CPU time from SIGXCPU until the kernel kills the process."""

_CD = "cd -- {path} || {{ [ -d {path} ]; exit $((126+$?)); }}; "
"""Enters a directory, or exits with 126 or 127. Only the child accesses it, since that may take forever."""
_REDIRECT = "command exec {redirections} || exit {code}; "
"""Opens the output files, in the shell of the job's user. Without ``command`` a failure has exit code 2."""
_CHECK_INTERPRETER = "[ -f {path} ] && [ -x {path} ] || exec {path}; "
"""Has the shell complain of an interpreter that it cannot execute, before its stderr is another one."""
_UNSET_OLDPWD = "unset OLDPWD; "
"""Follows each cd: the variable has the daemon's directory."""

HIDDEN_PREFIX = "TASKQ_ENV_"
"""The prefix of submitted variables until the shell of the job's user removes it."""
_SHELL_VARIABLES = frozenset(
    ("BASHOPTS", "BASH_VERSINFO", "EUID", "IFS", "LINENO", "OPTIND", "PPID", "SHELLOPTS", "UID", "_")
)
"""Variables without a prefix: only shells use them, and setting some in a shell fails or breaks parsing."""
_REVEAL = (
    "for TASKQ_N in {names}; "
    'do eval "export $TASKQ_N=\\"\\${prefix}$TASKQ_N\\""; unset "{prefix}$TASKQ_N"; done; unset TASKQ_N; '
)
"""Removes the prefix of variables; their names consist of letters, digits and _ (protocol/arguments.py)."""


def command_line(run: Run) -> list[str]:
    """Return the argument list of an attempt; its first word is the program.

    Raises FileNotFoundError if the system lacks a program that is needed. A program that is refused what it
    is to set, such as a limit above the daemon's own, says so on stderr and fails before the command:
    prlimit(1) with exit code 1, setpriv(1) with 127; nice(1) only warns. Under a limit that is too low for
    the shell or its libraries, the shell exits with 127 or is killed.

    The limits of a submission are set as the job's user, who cannot raise any; those of the machine's
    administrator are set before, as root.
    """
    spec = run.spec
    prologue = shell_prologue(run)
    if run.script is None:
        text = prologue + (run.command or "")
        line = [SHELL, "-c", *(["--"] if text.startswith(("-", "+")) else []), text]
    else:
        program = [*(run.interpreter or (SHELL,)), run.script]
        # A named interpreter may be on a file system that hangs: only the child may look it up.
        is_direct = not prologue and not run.interpreter and run.command is None
        arguments = "" if run.command is None else f" {run.command}"
        line = program if is_direct else [SHELL, "-c", f'{prologue}exec "$@"{arguments}', SHELL, *program]
    limits = _limits(run)
    if limits:
        line = [find_program("prlimit"), *limits, "--", *line]
    if spec.nice is not None:
        line = [find_program("nice"), "-n", str(spec.nice), *line]  # nice(1) itself is not limited
    return line if run.owner is None or run.user is not None else [*setpriv_command(run.owner), *line]


def shell_prologue(run: Run) -> str:
    """Return the shell commands that run before the job's command."""
    prologue = ""
    if run.oom_score_adj is not None:
        prologue += f"{{ echo {run.oom_score_adj} >/proc/self/oom_score_adj; }} 2>/dev/null; "
    for number, command in run.limits.items():
        if number != RLIMIT_NOFILE or not _sets_open_files(run):
            prologue += command
    if run.umask is not None:
        prologue += f"umask {run.umask:03o}; "
    directory = run.directory if run.owner is None else run.owner.home
    cwd = run.cwd
    if cwd is not None:
        prologue += _cd(cwd, is_explained=run.owner is None) + _UNSET_OLDPWD
    elif directory is not None and directory != BASE_DIRECTORY:
        prologue += f"cd -- {quote(directory)} 2>/dev/null || cd /; " + _UNSET_OLDPWD
    if names := " ".join(_hidden_variables(run)):
        prologue += _REVEAL.format(names=names, prefix=HIDDEN_PREFIX)
    return prologue + _redirect(run)


def _redirect(run: Run) -> str:
    """Return the commands that open the output files of an attempt, or merge its streams."""
    stdout, stderr = run.output_files
    redirections = [] if stdout is None else [f">{quote(stdout)}"]
    if run.spec.merge or (stderr is not None and stderr == stdout):
        redirections.append("2>&1")
    elif stderr is not None:
        redirections.append(f"2>{quote(stderr)}")
    if not redirections:
        return ""
    check = _CHECK_INTERPRETER.format(path=quote(run.interpreter[0])) if run.interpreter else ""
    return check + _REDIRECT.format(redirections=" ".join(redirections), code=CANNOT_ENTER)


def _sets_open_files(run: Run) -> bool:
    """Whether prlimit(1) sets the limit of descriptors."""
    limits = () if run.owner is None else run.owner.limits
    return run.spec.nofile is not None or any(limit.startswith("--nofile") for limit in limits)


def _cd(path: str, *, is_explained: bool) -> str:
    """Return the command that enters a directory; if it ``is_explained``, ``refusal`` can parse its error."""
    return _CD.format(path=quote(path)) if is_explained else f"cd -- {quote(path)} || exit {CANNOT_ENTER}; "


def may_be_refused(run: Run) -> bool:
    """Whether the shell may be unable to start the command, and its message can be trusted."""
    return run.owner is None and bool(run.cwd is not None or run.interpreter or any(run.output_files))


def setpriv_command(owner: Owner) -> list[str]:
    """Return the command that changes from root to a user, with all groups and without any capability."""
    if owner.groups is None:
        groups = "--init-groups"
    else:
        groups = f"--groups={','.join(map(str, owner.groups))}" if owner.groups else "--clear-groups"
    drop = [
        *(find_program("setpriv"), f"--reuid={owner.uid}", f"--regid={owner.gid}", groups),
        *("--inh-caps=-all", "--ambient-caps=-all", "--"),
    ]
    return [find_program("prlimit"), *owner.limits, "--", *drop] if owner.limits else drop


def _hidden_variables(run: Run) -> list[str]:
    """Return the names of the variables that have a prefix until the user's shell removes it.

    A runner that does not trust the daemon accepts no others.
    """
    if run.user is not None:
        return [name for name in run.env if name not in _SHELL_VARIABLES and name != MARK]
    names = () if run.owner is None else run.submitted_variables
    return [name for name in names if name not in _SHELL_VARIABLES]


def process_environment(run: Run) -> Mapping[str, str]:
    """Return the environment in which the argument list is started."""
    hidden = set(_hidden_variables(run))
    if run.user is not None:
        return {HIDDEN_PREFIX + name: run.env[name] for name in hidden}
    if not hidden:
        return run.env
    return {HIDDEN_PREFIX + name if name in hidden else name: value for name, value in run.env.items()}


def _limits(run: Run) -> list[str]:
    """Return prlimit(1)'s options. SIGXCPU comes first and can be caught; the hard limit is SIGKILL."""
    spec = run.spec
    limits = []
    if spec.memory is not None:
        limits.append(f"--as={spec.memory}")
    if spec.cpu_time is not None:
        seconds = math.ceil(spec.cpu_time)
        limits.append(f"--cpu={seconds}:{seconds + CPU_GRACE}")
    if spec.nofile is not None:
        limits.append(f"--nofile={spec.nofile}")
    return limits


def find_program(program: str) -> str:
    """Return the path of a program of the system, by the daemon's PATH and not by the job's."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = shutil.which(program, path=os.pathsep.join(filter(os.path.isabs, places)))
    if path is None:
        raise FileNotFoundError(f"there is no {program} in the daemon's PATH")
    return path


def job_environment(
    base: Mapping[str, str],
    job: Job,
    key: AttemptKey,
    store: str,
    progress: str,
    secrets: Mapping[str, str] = MappingProxyType({}),
    address: str | None = None,
    units: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return the environment of an attempt: ``base``, then the submission's variables, then the daemon's.

    ``store`` is the store's name, ``progress`` the path of the file to which the job may write percentages,
    ``secrets`` has the values of the secrets that the job's spec names, ``address`` is the daemon's,
    ``units`` are variables that name the units of resources.
    """
    variables = {
        **base,
        **job.spec.env,
        **{name: value.decode("utf-8", "surrogateescape") for name, value in job.spec.env_base64.items()},
        **secrets,
        "TASKQ_JOB_ID": str(job.id),
        "TASKQ_ATTEMPT": str(key.attempt),
        "TASKQ_QUEUE": job.spec.queue,
        "TASKQ_PROGRESS": progress,
        MARK: make_mark(store, key),
        **units,
    }
    if address is not None:
        variables["TASKQ_ADDRESS"] = address
    if job.array is not None:
        variables |= {"TASKQ_ARRAY_ID": str(job.array), "TASKQ_INDEX": str(job.index)}
    if job.schedule is not None:
        variables["TASKQ_SCHEDULE"] = str(job.schedule)
    return variables
