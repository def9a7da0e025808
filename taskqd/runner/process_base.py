"""Gives the runner's process a stated base, so that jobs inherit nothing of the shell that started it.

The base: umask 022, directory /, niceness 0, OOM score 0, signals with their default action and none blocked,
a new session, orphans of jobs as its children, and soft limits as high as the hard ones, except core
(0) and stack (8 MiB). An ordinary user can lower neither niceness nor OOM score and raise no hard limit:
those stay. The daemon sends with each start what a job needs besides (execution/messages.Base).
"""

import os
import resource
import signal
from contextlib import suppress

from taskqd.execution.child_subreaper import set_child_subreaper
from taskqd.execution.messages import Base

UMASK = 0o022
STACK = 8 * 1024**2
"""The soft limit of the stack in bytes: Linux's default; without a limit, threads get small stacks."""
OOM_SCORE = "/proc/self/oom_score_adj"

_LIMITS = sorted(
    value for name, value in vars(resource).items() if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
)


def set_base() -> Base:
    """Give this process the base, and return what could be had of it."""
    os.umask(UMASK)
    os.chdir("/")
    with suppress(PermissionError):  # it leads a session already
        os.setsid()
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with suppress(OSError), open(OOM_SCORE, "w", encoding="ascii") as file:
        file.write("0")
    set_child_subreaper(True)
    _reset_signals()
    return Base(umask=UMASK, oom_score_adj=_oom_score_adj(), limits=dict(map(_raise_limit, _LIMITS)))


def _raise_limit(number: int) -> tuple[int, tuple[int, int]]:
    """Set the soft limit of a resource; return its number, and the soft and the hard limit."""
    soft, hard = resource.getrlimit(number)
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_STACK: STACK}.get(number, hard)
    if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
        wanted = hard
    with suppress(OSError, ValueError):
        resource.setrlimit(number, (wanted, hard))
        soft = wanted
    return number, (soft, hard)


def _reset_signals() -> None:
    """Unblock all signals and restore their default actions, except SIGPIPE, which Python ignores.

    SIGUSR1, by which a daemon asks for the socket, can come before there is one: it is ignored until then.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGINT}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _oom_score_adj() -> int:
    try:
        with open(OOM_SCORE, encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 0
