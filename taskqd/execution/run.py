"""How an attempt is run, and how it ended: plain values."""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from taskqd.errors import is_shortage
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason, Usage

MARK = "TASKQ_RUN"
"""The environment variable that marks a job's processes: ``<store>.<job>.<attempt>``."""


class Owner(NamedTuple):
    """Whom an attempt is run as that is not run as the daemon's user.

    ``limits`` are prlimit(1)'s options for the limits that the machine sets that user.
    """

    uid: int
    gid: int
    home: str
    limits: tuple[str, ...] = ()


class Run(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt: what to run and how. Durations are seconds, paths absolute.

    Either ``command`` or ``script``, the path of a file, is set; ``interpreter`` is what the script names to
    run it (scripts.py), the shell if that is empty. ``umask`` is None where the daemon's own is the one that
    was asked for. Without ``cwd`` it runs in the daemon's own directory, or in ``home``, where that is set:
    the daemon's has been removed. ``open_files`` is the soft limit of descriptors that it gets, and
    ``oom_score_adj`` what proc(5) calls so, each None where the daemon's own is right.

    ``timeout`` is for the whole, ``idle_timeout`` for each while in which nothing is printed. ``memory`` is
    the most address space in bytes, ``cpu_time`` the most CPU time, ``nofile`` the most descriptors: of each
    single process, as setrlimit(2) counts. None is no limit but the daemon's own.

    ``owner`` is None where it is the daemon's user who runs it. ``submitted_variables`` has the names of
    those variables of ``env`` whose values came with the submission.
    """

    id: int
    attempt: int
    command: str | None
    script: str | None
    interpreter: tuple[str, ...]
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
    owner: Owner | None = None
    submitted_variables: tuple[str, ...] = ()
    home: str | None = None
    open_files: int | None = None
    oom_score_adj: int | None = None

    @property
    def uid(self) -> int | None:
        """The user that the attempt is run as, None if it is the daemon's own."""
        return None if self.owner is None else self.owner.uid


class CannotStart(Exception):
    """An attempt must not be started, since it would not be what was asked for; the text says why.

    With ``is_shortage`` the machine lacks what the start takes.
    """

    def __init__(self, text: str, why: BaseException | None = None) -> None:
        super().__init__(text)
        self.is_shortage = is_shortage(why)


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended: ``reason`` is None if it exited with 0 and nobody had to end it.

    ``usage`` is None where nobody tells what it has used (spawn.py). With ``is_shortage`` there was no
    process, since the machine lacks what a start takes: the attempt is to be taken back. ``pid`` is that of
    its first process if something was left in the session of that, None otherwise.
    """

    reason: Reason | None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING
    usage: Usage | None = None
    is_shortage: bool = False
    pid: int | None = None
