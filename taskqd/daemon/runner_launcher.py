"""Starts the runner as a process that outlives the daemon."""

import os
import subprocess
import sys

import taskqd
from taskqd.execution.runner_directory import ERRORS, RunnerDirectory

MAX_ERRORS = 1024**2
"""Bytes of the file of the runner's log above which it is emptied at the next start of a runner."""
INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""The variables of the daemon that Python may need; jobs get none of the runner's."""

_IN_BACKGROUND = '"$@" </dev/null >/dev/null 2>>"$TASKQ_ERRORS" & echo $!'
"""The shell prints the pid and ends at once, so that the runner is no child of the daemon."""


def launch_runner(state: str, directory: RunnerDirectory) -> int:
    """Start a runner for a state directory, in the background, and return its pid; raises OSError."""
    errors = directory.file(ERRORS)
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size > MAX_ERRORS:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    source = os.path.dirname(os.path.dirname(os.path.abspath(taskqd.__file__)))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
    environment["TASKQ_ERRORS"] = errors
    program = [sys.executable, "-m", "taskqd.runner", "--state", os.path.abspath(state)]
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", _IN_BACKGROUND, "sh", *program],
            cwd="/",
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        return int(shell.stdout)
    except (subprocess.SubprocessError, ValueError) as why:
        raise OSError(f"the shell cannot start it: {why}") from None
