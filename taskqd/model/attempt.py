"""Attempts of jobs: when they ran, why they ended, and what they used. Times are seconds since the epoch."""

from enum import Enum

from msgspec import Struct


class Reason(str, Enum):
    """Why a job has its status, as in docs/protocol.md §4; a completed job has no reason."""

    QUEUED = "queued"
    HELD = "held"
    DELAYED = "delayed"
    AFTER = "after"
    RETRYING = "retrying"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    SPAWN = "spawn"
    DEPENDENCY = "dependency"
    INTERRUPTED = "interrupted"
    OUTPUT = "output"
    MEMORY = "memory"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Usage(Struct, frozen=True, gc=False, omit_defaults=True):
    """The resource usage of an attempt, from wait4(2): CPU time in seconds, memory in bytes.

    It includes the process and those of its descendants that were waited for. ``memory`` is the largest
    resident set of any one of them, not their sum; 0 if it is unknown (runner/usage.py).
    ``memory_used_peak`` is the most that all processes of an attempt with a ``memory_max`` have used together
    (runner/memory_reader.py), 0 if it was not read.
    """

    user: float = 0.0
    system: float = 0.0
    memory: int = 0
    memory_used_peak: int = 0


class Attempt(Struct, kw_only=True, gc=False):
    """One attempt to run a job: its process, and when it has ended, its result and the size of its output.

    ``pid_started`` is the start time of the process in clock ticks since boot, which distinguishes it from a
    later process with the same pid. ``reason`` is why the attempt ended, None if it succeeded; ``detail``
    explains it in words. ``progress`` is in percent. Of each stream, the first bytes are kept and the others
    ``dropped``; what is kept is ``inline`` in the journal or in a file of the spool. ``record`` is the
    position of the attempt's Ended in the journal, where an inline output is stored. ``units`` has the units
    of resources that it had (units.pack_units).

    ``pid_started``, ``word`` and ``runner`` (events.Started) are known only until the attempt ends: then no
    process and no runner is asked about it any more.
    """

    number: int
    started_at: float
    word: str = ""
    runner: str = ""
    pid: int | None = None
    pid_started: int | None = None
    ended_at: float | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str | None = None
    progress: int = 0
    usage: Usage | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    stdout_inline: bool = True
    stderr_inline: bool = True
    record: tuple[int, int, int] | None = None
    units: str = ""

    @property
    def may_have_files(self) -> bool:
        """Whether the spool may have files with output of the attempt, which has ended."""
        is_inline = self.stdout_inline and self.stderr_inline
        return not is_inline or (self.reason is not None and self.reason is not Reason.EXIT)
