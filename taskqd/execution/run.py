"""One attempt to run a job, and its outcome: plain values."""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from taskqd.errors import is_shortage
from taskqd.model.events import NOTHING, Output
from taskqd.model.job import Reason, Usage
from taskqd.model.output_files import output_files
from taskqd.model.spec import Spec

MARK = "TASKQ_RUN"
"""The environment variable that marks a job's processes: ``<store>.<job>.<attempt>.<word>``."""


class Owner(NamedTuple):
    """The user of an attempt that is not run as the daemon's user.

    ``limits`` are options of prlimit(1) for the resource limits that the machine's administrator sets the
    user. ``groups`` are the supplementary groups, None for those that setpriv(1) finds.
    """

    uid: int
    gid: int
    home: str
    limits: tuple[str, ...] = ()
    groups: tuple[int, ...] | None = None


class Run(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt: the job's ``spec``, and what the daemon adds to it. Paths are absolute.

    ``word`` is that of its Started. With ``script``, the path of a file, ``command`` is the text of its
    arguments for the shell, None if it has none. ``interpreter`` is the one that the script names
    (shebang.py), empty if it names none. ``stdin`` is the path of a file, None for no input. ``umask`` is
    None if the runner's own is the one that was requested. An attempt without a directory runs in
    ``directory``. ``limits`` are the commands that set the daemon's resource limits, by resource, and
    ``oom_score_adj`` is the value of that file in /proc (proc(5)), None if the runner's own is right.
    ``owner`` is None for the daemon's user. ``submitted_variables`` are the names of the variables in
    ``env`` whose values came with the submission. ``user`` is the name of the owner if the runner changes to
    it, else None.
    """

    id: int
    attempt: int
    word: str = ""
    spec: Spec
    env: Mapping[str, str]
    command: str | None = None
    script: str | None = None
    interpreter: tuple[str, ...] = ()
    stdin: str | None = None
    umask: int | None = None
    owner: Owner | None = None
    submitted_variables: tuple[str, ...] = ()
    directory: str | None = None
    limits: Mapping[int, str] = {}
    oom_score_adj: int | None = None
    user: str | None = None

    @property
    def uid(self) -> int | None:
        """The user that the attempt is run as, None if it is the daemon's own."""
        return None if self.owner is None else self.owner.uid

    @property
    def cwd(self) -> str | None:
        """The requested directory; bytes that are not UTF-8 are surrogates (PEP 383)."""
        data = self.spec.cwd_base64
        return self.spec.cwd if data is None else data.decode("utf-8", "surrogateescape")

    @property
    def output_files(self) -> tuple[str | None, str | None]:
        """The files to which the attempt writes its stdout and stderr; None for a pipe to the runner."""
        return output_files(self.spec, self.id, self.attempt)


class CannotStart(Exception):
    """An attempt must not be started, because it would not be what was requested; the text says why.

    ``is_shortage`` is set if the machine lacks resources for it now.
    """

    def __init__(self, text: str, why: BaseException | None = None) -> None:
        super().__init__(text)
        self.is_shortage = is_shortage(why)


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended: ``reason`` is None if it exited with 0 and the daemon did not end it.

    ``usage`` is None if it is unknown. With ``is_shortage`` there was no process because the machine lacks
    resources; the attempt is withdrawn. ``pid`` is that of its first process if something was left in the
    session of that, else None. An attempt that ``is_void`` never ran: its start is undone. ``ended_at`` is
    the time of day of the end if it is reported late, after a time without a daemon; None if it is now. For
    an attempt that ``is_lost``, since its runner was killed, the files have what is known of the output.
    ``order`` is the order of the output if it is in no file (output_order.py).
    ``suspended`` is for how many seconds it was suspended.
    """

    reason: Reason | None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    stdout: Output = NOTHING
    stderr: Output = NOTHING
    usage: Usage | None = None
    is_shortage: bool = False
    is_void: bool = False
    pid: int | None = None
    ended_at: float | None = None
    is_lost: bool = False
    order: str | None = None
    suspended: float = 0.0
