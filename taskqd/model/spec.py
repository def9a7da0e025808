"""What a submission asks for, beside its command: the options of SUBMIT (docs/protocol.md §3)."""

from msgspec import Struct

DEFAULT_QUEUE = "default"
"""The queue of a job that names none."""


LONGEST_RETRY_DELAY = 3600.0
"""No retry waits longer than this unless told, in seconds, however often the delay was doubled."""


class Array(Struct, frozen=True, gc=False, omit_defaults=True):
    """What ``--array=<first>-<last>%<at_once>`` asks for: a task for each index, so many at once."""

    first: int
    last: int
    at_once: int | None = None

    @property
    def count(self) -> int:
        """How many tasks that are."""
        return self.last - self.first + 1


class Spec(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """How a command is to be run: the options of its SUBMIT, as they came.

    Most jobs are asked for in few ways, so equal specs are one object where there are many (specs.py), and
    the command is none of it. Durations are seconds, sizes bytes, ``at`` is a time. ``script`` and ``stdin``
    are the sizes of the blocks that came with the submission and lie in the spool, ``blocks`` the SHA-256 of
    the two in that order, so that equal commands with equal specs are equal submissions; a job has either a
    command or a script. ``env_base64`` has the variables whose values are no text, ``cwd_base64`` is a path
    that is none, ``secrets`` the names of those variables whose values lie in the spool alone.
    ``needs`` are amounts by resource; ``retry_on`` and ``no_retry_on`` are conditions as they stand on the
    wire (retrying.py). With ``as_daemon`` it runs as the daemon's user, whoever its owner is; no option says
    so (run_as.py). ``tz`` is the time zone of ``at`` or of a schedule's ``cron``, and the job's own.
    """

    script: int | None = None
    stdin: int | None = None
    blocks: str | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    slots: int = 1
    needs: dict[str, int] = {}
    timeout: float | None = None
    idle_timeout: float | None = None
    kill_after: float = 5.0
    retries: int = 0
    retry_delay: float = 1.0
    retry_delay_max: float = LONGEST_RETRY_DELAY
    retry_on: tuple[str, ...] = ()
    no_retry_on: tuple[str, ...] = ()
    delay: float | None = None
    at: float | None = None
    tz: str | None = None
    after: tuple[int, ...] = ()
    after_any: tuple[int, ...] = ()
    after_fail: tuple[int, ...] = ()
    hold: bool = False
    array: Array | None = None
    key: str | None = None
    label: str | None = None
    cwd: str | None = None
    cwd_base64: bytes | None = None
    env: dict[str, str] = {}
    env_base64: dict[str, bytes] = {}
    secrets: tuple[str, ...] = ()
    umask: int = 0o022
    nice: int | None = None
    memory: int | None = None
    cpu_time: float | None = None
    nofile: int | None = None
    max_output: int = 256 * 1024**2
    notify_fail: bool = False
    as_daemon: bool = False


DEFAULT_SPEC = Spec()
"""What a SUBMIT without any option asks for."""
