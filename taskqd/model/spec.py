"""The options of a submission: everything but its command (docs/protocol.md §3)."""

from msgspec import Struct
from msgspec.structs import replace

from taskqd.model.environment import Environment

DEFAULT_QUEUE = "default"
"""The queue of jobs that name none."""

DEFAULT_MAX_RETRY_DELAY = 3600.0
"""Default limit, in seconds, of the delay before a retry, which doubles with each failure."""


class Array(Struct, frozen=True, gc=False, omit_defaults=True):
    """The option ``--array=<first>-<last>%<at_once>``: one task per index, and how many may run together."""

    first: int
    last: int
    at_once: int | None = None

    @property
    def count(self) -> int:
        """The number of tasks."""
        return self.last - self.first + 1


MAX_DEPENDENCIES = 1000
"""Jobs that one job may depend on."""


class NamedDependencies(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The dependencies of a submission that it named by labels and keys, as it named them; since format 9.

    The jobs that this meant at the submission are in the spec's ``after``, ``after_any`` and ``after_fail``,
    after those that were named by their ids, of which ``given`` has the numbers.
    """

    after_label: str | None = None
    after_any_label: str | None = None
    after_fail_label: str | None = None
    after_key: tuple[str, ...] = ()
    after_any_key: tuple[str, ...] = ()
    after_fail_key: tuple[str, ...] = ()
    given: tuple[int, int, int] = (0, 0, 0)


class Spec(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """How a command is to be run: the options of its SUBMIT.

    Most jobs have one of a few specs, so equal ones share an object (spec_pool.py), and the command is
    not part of it. Durations are in seconds, sizes in bytes, ``at`` is a time. ``script`` and ``stdin``
    are the sizes of the blocks of the submission, which are in the spool, and ``blocks`` is the SHA-256
    of the two in that order, so that equal commands with equal specs are equal submissions. A job has
    either a command or a script, of which the command is the arguments, if it has any. ``script_line`` is
    a line of it for people, which the daemon sets (submission.first_line_of), and ``script_file`` the number
    of the file that has it, 0 or 1: SET writes a new script into the other one. ``env_base64`` has
    the variables whose values are not UTF-8, ``cwd_base64`` is a directory whose name is not, ``secrets``
    has the names of variables whose values are only in the spool, and so are those of the ``environment`` of
    the client, which many jobs share. ``needs`` are amounts by resource;
    ``retry_on`` and ``no_retry_on`` are conditions as on the wire (retry.py). A job ``as_daemon`` runs as
    the daemon's user, whatever its owner; no option sets it (run_as.py). ``tz`` is the time zone of
    ``at`` or of a schedule's ``cron``, and the job's TZ. ``unless`` is a label: the job was submitted on
    condition that no job of its owner with that label was pending or running. ``expires`` is counted from
    the submission. ``stdout`` and ``stderr`` are the files to which the job writes these streams
    (output_files.py); a job with ``merge`` has one stream for both.
    The stdin of an ``interactive`` job is a pipe into which users send input while it runs.
    """

    script: int | None = None
    script_line: str | None = None
    script_file: int = 0
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
    retry_delay_max: float = DEFAULT_MAX_RETRY_DELAY
    retry_on: tuple[str, ...] = ()
    no_retry_on: tuple[str, ...] = ()
    delay: float | None = None
    expires: float | None = None
    at: float | None = None
    tz: str | None = None
    after: tuple[int, ...] = ()
    after_any: tuple[int, ...] = ()
    after_fail: tuple[int, ...] = ()
    named: NamedDependencies | None = None
    hold: bool = False
    array: Array | None = None
    key: str | None = None
    label: str | None = None
    unless: str | None = None
    cwd: str | None = None
    cwd_base64: bytes | None = None
    env: dict[str, str] = {}
    env_base64: dict[str, bytes] = {}
    secrets: tuple[str, ...] = ()
    environment: Environment | None = None
    umask: int = 0o022
    nice: int | None = None
    memory: int | None = None
    memory_max: int | None = None
    cpu_time: float | None = None
    nofile: int | None = None
    max_output: int = 256 * 1024**2
    merge: bool = False
    stdout: str | None = None
    stderr: str | None = None
    notify_fail: bool = False
    as_daemon: bool = False
    interactive: bool = False

    @property
    def has_dependencies(self) -> bool:
        """Whether the job waits for other jobs; those that are ``named`` are not looked up yet."""
        return bool(self.after or self.after_any or self.after_fail)

    @property
    def as_given(self) -> "Spec":
        """The spec without the ids of the dependencies that the submission named by labels and keys."""
        named = self.named
        if named is None:
            return self
        first, second, third = named.given
        return replace(
            self,
            after=self.after[:first],
            after_any=self.after_any[:second],
            after_fail=self.after_fail[:third],
        )

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of the blocks that the job has: ``script``, ``stdin``, ``secret``."""
        has_block = {
            "script": self.script is not None,
            "stdin": self.stdin is not None,
            "secret": bool(self.secrets),
        }
        return tuple(name for name, is_there in has_block.items() if is_there)


DEFAULT_SPEC = Spec()
"""The spec of a SUBMIT without options."""
