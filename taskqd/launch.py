"""How an attempt is run: the plain value that the executor takes, and the command line that it becomes.

Whatever a program already does is left to it: the shell enters the directory and sets the umask, nice(1) sets
the niceness, prlimit(1) the limits. Each program in the chain costs an exec, so none is there that is not
asked for.
"""

import math
import shutil
from collections.abc import Mapping
from shlex import quote

from msgspec import Struct

from taskqd.events import NOTHING, Output
from taskqd.job import Job, Reason, Usage

SHELL = "/bin/sh"
CANNOT_ENTER = 126
"""The exit code of an attempt whose directory vanished between the check and the start."""
CPU_GRACE = 5
"""A process that goes on for so many seconds of CPU time after its SIGXCPU is killed by the kernel."""

MARK = "TASKQ_RUN"
"""The environment variable that marks a job's processes: ``<store>.<job>.<attempt>``."""


class Run(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt: what to run and how. Durations are seconds, paths absolute.

    Either ``command`` or ``script``, the path of a file, is set; a script that ``is_executable`` names its
    own interpreter. ``umask`` is None where the daemon's own is the one that was asked for.

    ``timeout`` is for the whole, ``idle_timeout`` for each while in which nothing is printed. ``memory`` is
    the most address space in bytes, ``cpu_time`` the most CPU time, ``nofile`` the most descriptors: of each
    single process, as setrlimit(2) counts. None is no limit but the daemon's own.
    """

    id: int
    attempt: int
    command: str | None
    script: str | None
    is_executable: bool
    stdin: str | None
    cwd: str | None
    env: Mapping[str, str]
    umask: int | None
    nice: int | None
    timeout: float | None
    kill_after: float
    idle_timeout: float | None = None
    memory: int | None = None
    cpu_time: float | None = None
    nofile: int | None = None


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended: ``reason`` is None if it exited with 0 and nobody had to end it.

    ``usage`` is None where nobody tells what it has used (spawn.py).
    """

    reason: Reason | None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING
    usage: Usage | None = None


def command_line(run: Run) -> list[str]:
    """Return the argument list that runs an attempt; its first word is the program.

    Raises FileNotFoundError if a program of the system's that was asked for is not there. Where it is there
    and is refused what it is to set, such as a limit above the daemon's own, it says so on stderr and fails
    before the command: prlimit(1) with exit code 1, while nice(1) only warns. Under a limit that is too low
    for the shell itself, or for its libraries, the shell fails (127) or is killed.
    """
    before = ""
    if run.umask is not None:
        before += f"umask {run.umask:03o}; "
    if run.cwd is not None:
        before += f"cd -- {quote(run.cwd)} || exit {CANNOT_ENTER}; "
    if run.script is None:
        text = before + (run.command or "")
        line = [SHELL, "-c", *(["--"] if text.startswith(("-", "+")) else []), text]
    else:
        program = [run.script] if run.is_executable else [SHELL, run.script]
        line = [SHELL, "-c", before + 'exec "$@"', SHELL, *program] if before else program
    limits = _limits(run)
    if limits:
        line = [_find("prlimit"), *limits, "--", *line]
    if run.nice is not None:
        line = [_find("nice"), "-n", str(run.nice), *line]  # in front: it is not to be under the limits
    return line


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


def _find(program: str) -> str:
    """Return the path of a program of the system's, found by the daemon's PATH and not by the job's."""
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"there is no {program} in the daemon's PATH")
    return path


def environment(base: Mapping[str, str], job: Job, attempt: int, store: str, progress: str) -> dict[str, str]:
    """Return the environment of an attempt: ``base``, then what was asked for, then what the daemon says.

    ``store`` is the store's name, ``progress`` the path of the file to which the job may write percentages.
    """
    made = {
        **base,
        **job.spec.env,
        **{name: value.decode("utf-8", "surrogateescape") for name, value in job.spec.env_base64.items()},
        "TASKQ_JOB_ID": str(job.id),
        "TASKQ_ATTEMPT": str(attempt),
        "TASKQ_QUEUE": job.spec.queue,
        "TASKQ_PROGRESS": progress,
        MARK: f"{store}.{job.id}.{attempt}",
    }
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
