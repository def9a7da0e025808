"""How an attempt is run: the plain value that the executor takes, and the command line that it becomes.

Whatever a program already does is left to it: the shell enters the directory and sets the umask, nice(1) sets
the niceness. Each program in the chain costs an exec, so none is there that is not asked for.
"""

from collections.abc import Mapping
from shlex import quote

from msgspec import Struct

from taskqd.events import NOTHING, Output
from taskqd.job import Job, Reason

SHELL = "/bin/sh"
CANNOT_ENTER = 126
"""The exit code of an attempt whose directory vanished between the check and the start."""


MARK = "TASKQ_RUN"
"""The environment variable that marks a job's processes: ``<store>.<job>.<attempt>``."""


class Run(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt: what to run and how. Durations are seconds, paths absolute.

    Either ``command`` or ``script``, the path of a file, is set; a script that ``is_executable`` names its
    own interpreter. ``umask`` is None where the daemon's own is the one that was asked for.
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


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended: ``reason`` is None if it exited with 0 and nobody had to end it."""

    reason: Reason | None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING


def command_line(run: Run) -> list[str]:
    """Return the argument list that runs an attempt; its first word is the program."""
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
    return line if run.nice is None else ["nice", "-n", str(run.nice), *line]


def environment(base: Mapping[str, str], job: Job, attempt: int, store: str, progress: str) -> dict[str, str]:
    """Return the environment of an attempt: ``base``, then what was asked for, then what the daemon says.

    ``store`` is the store's name, ``progress`` the path of the file to which the job may write percentages.
    """
    return {
        **base,
        **job.spec.env,
        **{name: value.decode("utf-8", "surrogateescape") for name, value in job.spec.env_base64.items()},
        "TASKQ_JOB_ID": str(job.id),
        "TASKQ_ATTEMPT": str(attempt),
        "TASKQ_QUEUE": "default",
        "TASKQ_PROGRESS": progress,
        MARK: f"{store}.{job.id}.{attempt}",
    }
