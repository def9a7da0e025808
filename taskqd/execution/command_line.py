"""How an attempt is run: the plain value that the executor takes, and the command line that it becomes.

Whatever a program already does is left to it: the shell enters the directory and sets the umask, nice(1) sets
the niceness, prlimit(1) the limits, setpriv(1) makes another user of root. Each program in the chain costs an
exec, so none is there that is not asked for.

What runs before setpriv(1) is root still, and takes its orders from the daemon alone. The variables that a
submission brings would be orders too: to the loader, to the C library, to whatever looks users up, and no
list of the names that they obey is whole. So those come under names that mean nothing to any program, and the
user's own shell gives them theirs (docs/decisions/0013).
"""

import math
import os
import shutil
from collections.abc import Mapping
from shlex import quote
from types import MappingProxyType

from taskqd.execution.run import MARK, Owner, Run
from taskqd.model.job import Job

SHELL = "/bin/sh"
CANNOT_ENTER = 126
"""The exit code of an attempt whose directory cannot be entered, or whose interpreter may not be run."""
NOT_FOUND = 127
"""The exit code of an attempt whose directory or interpreter is not there."""
_FORGET = "unset OLDPWD; "
"""What follows each cd: that would be the daemon's directory, and of no use to a job."""
_ENTER = "cd -- {path} || {{ [ -d {path} ]; exit $((126+$?)); }}; "
"""What enters a directory, or ends with 126 or 127: only the child looks at it, which may take for ever."""
CPU_GRACE = 5
"""A process that goes on for so many seconds of CPU time after its SIGXCPU is killed by the kernel."""


HIDDEN = "TASKQ_ENV_"
"""What stands before the names of variables that a submission brings, up to the shell of its owner."""
_OF_THE_SHELL = frozenset(
    ("BASHOPTS", "BASH_VERSINFO", "EUID", "IFS", "LINENO", "OPTIND", "PPID", "SHELLOPTS", "UID", "_")
)
"""Variables of shells alone, which come as they are: some may not be set, some change what is read next."""
_TAKE = (
    "for TASKQ_N in {names}; "
    'do eval "export $TASKQ_N=\\"\\${hidden}$TASKQ_N\\""; unset "{hidden}$TASKQ_N"; done; unset TASKQ_N; '
)
"""What gives hidden variables their names; the names are of letters, digits and _ (options.py)."""


def command_line(run: Run) -> list[str]:
    """Return the argument list that runs an attempt; its first word is the program.

    Raises FileNotFoundError if a program of the system's that was asked for is not there. Where it is there
    and is refused what it is to set, such as a limit above the daemon's own, it says so on stderr and fails
    before the command: prlimit(1) with exit code 1, setpriv(1) with 127, while nice(1) only warns. Under a
    limit that is too low for the shell itself, or for its libraries, the shell fails (127) or is killed.

    What an owner asks for is set as that user, and so cannot raise anything; what the machine sets them is
    set before, as root.
    """
    before = shell_prologue(run)
    if run.script is None:
        text = before + (run.command or "")
        line = [SHELL, "-c", *(["--"] if text.startswith(("-", "+")) else []), text]
    else:
        program = [*(run.interpreter or (SHELL,)), run.script]
        # The interpreter may lie where a look at it takes for ever: only the child does that.
        is_ours = not before and not run.interpreter
        line = program if is_ours else [SHELL, "-c", before + 'exec "$@"', SHELL, *program]
    limits = _limits(run)
    if limits:
        line = [find_program("prlimit"), *limits, "--", *line]
    if run.nice is not None:
        line = [find_program("nice"), "-n", str(run.nice), *line]  # nice(1) itself is not limited
    return line if run.owner is None else [*setpriv_command(run.owner), *line]


def shell_prologue(run: Run) -> str:
    """Return what the shell does before the command."""
    before = ""
    if run.oom_score_adj is not None:
        before += f"{{ echo {run.oom_score_adj} >/proc/self/oom_score_adj; }} 2>/dev/null; "
    if run.open_files is not None and not _sets_open_files(run):
        before += f"ulimit -S -n {run.open_files} 2>/dev/null; "
    if run.umask is not None:
        before += f"umask {run.umask:03o}; "
    home = run.home if run.owner is None else run.owner.home
    if run.cwd is not None:
        before += _enter(run.cwd, run.owner is None) + _FORGET
    elif home is not None:
        before += f"cd -- {quote(home)} 2>/dev/null || cd /; " + _FORGET
    if names := " ".join(_hidden(run)):
        before += _TAKE.format(names=names, hidden=HIDDEN)
    return before


def _enter(path: str, is_told: bool) -> str:
    """Return what enters a directory; if it ``is_told`` why that fails, ``refusal`` finds it on stderr."""
    if not is_told:
        return f"cd -- {quote(path)} || exit {CANNOT_ENTER}; "
    return _ENTER.format(path=quote(path))


def refusal(run: Run, exit_code: int, complaint: bytes) -> str | None:
    """Return why the command of a run was never started, None where it was.

    ``complaint`` is the beginning of what was printed on stderr. A job can print the same; it then says of
    itself alone that it was not started.
    """
    if not may_be_refused(run) or exit_code not in (CANNOT_ENTER, NOT_FOUND):
        return None
    line = complaint.partition(b"\n")[0].decode("utf-8", "surrogateescape")
    if not line.startswith(f"{SHELL}: "):
        return None
    if run.cwd is not None and "cd: " in line:
        is_there = exit_code == CANNOT_ENTER
        return (
            f"the directory {run.cwd} may not be entered" if is_there else f"there is no directory {run.cwd}"
        )
    if run.interpreter and run.interpreter[0] in line:
        why = "may not be executed" if exit_code == CANNOT_ENTER else "is not there"
        return f"the interpreter {run.interpreter[0]} that its script names {why}"
    return None


def may_be_refused(run: Run) -> bool:
    """Whether the shell may find that the command cannot be started, and is to be believed."""
    return run.owner is None and bool(run.cwd is not None or run.interpreter)


def _sets_open_files(run: Run) -> bool:
    """Whether prlimit(1) sets how many descriptors a run may have."""
    limits = () if run.owner is None else run.owner.limits
    return run.nofile is not None or any(limit.startswith("--nofile") for limit in limits)


def setpriv_command(owner: Owner) -> list[str]:
    """Return what makes the owner, with all groups and without any capability, of root."""
    drop = [
        *(find_program("setpriv"), f"--reuid={owner.uid}", f"--regid={owner.gid}", "--init-groups"),
        *("--inh-caps=-all", "--ambient-caps=-all", "--"),
    ]
    return [find_program("prlimit"), *owner.limits, "--", *drop] if owner.limits else drop


def _hidden(run: Run) -> list[str]:
    """Return the names of the variables that only the owner's shell is to know by them."""
    return (
        [] if run.owner is None else [name for name in run.submitted_variables if name not in _OF_THE_SHELL]
    )


def process_environment(run: Run) -> Mapping[str, str]:
    """Return the environment with which the command line is started."""
    hidden = set(_hidden(run))
    if not hidden:
        return run.env
    return {HIDDEN + name if name in hidden else name: value for name, value in run.env.items()}


def _limits(run: Run) -> list[str]:
    """Return prlimit's options; SIGXCPU comes first and can be caught, SIGKILL when the hard limit is met."""
    limits = []
    if run.memory is not None:
        limits.append(f"--as={run.memory}")
    if run.cpu_time is not None:
        seconds = math.ceil(run.cpu_time)
        limits.append(f"--cpu={seconds}:{seconds + CPU_GRACE}")
    if run.nofile is not None:
        limits.append(f"--nofile={run.nofile}")
    return limits


def find_program(program: str) -> str:
    """Return the path of a program of the system's, found by the daemon's PATH and not by the job's."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = shutil.which(program, path=os.pathsep.join(filter(os.path.isabs, places)))
    if path is None:
        raise FileNotFoundError(f"there is no {program} in the daemon's PATH")
    return path


def environment(
    base: Mapping[str, str],
    job: Job,
    attempt: int,
    store: str,
    progress: str,
    secrets: Mapping[str, str] = MappingProxyType({}),
    address: str | None = None,
) -> dict[str, str]:
    """Return the environment of an attempt: ``base``, then what was asked for, then what the daemon says.

    ``store`` is the store's name, ``progress`` the path of the file to which the job may write percentages,
    ``secrets`` are the values of those that the job's spec names, ``address`` is where the daemon is reached.
    """
    made = {
        **base,
        **job.spec.env,
        **{name: value.decode("utf-8", "surrogateescape") for name, value in job.spec.env_base64.items()},
        **secrets,
        "TASKQ_JOB_ID": str(job.id),
        "TASKQ_ATTEMPT": str(attempt),
        "TASKQ_QUEUE": job.spec.queue,
        "TASKQ_PROGRESS": progress,
        MARK: f"{store}.{job.id}.{attempt}",
    }
    if address is not None:
        made["TASKQ_ADDRESS"] = address
    if job.array is not None:
        made |= {"TASKQ_ARRAY_ID": str(job.array), "TASKQ_INDEX": str(job.index)}
    if job.schedule is not None:
        made["TASKQ_SCHEDULE"] = str(job.schedule)
    return made


def duration(seconds: float) -> str:
    """Return a duration as people say it: ``10 s``, ``1.5 s``, ``2 min``, ``1 h 30 min``."""
    left = round(seconds, 3)
    words = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count:.0f} {unit}")
    left = round(left, 3)
    if left or not words:
        words.append(f"{left:g} s")
    return " ".join(words)
