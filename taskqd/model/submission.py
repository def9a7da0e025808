"""Submissions and schedule requests, the blocks that follow a SUBMIT, and the encoding of secrets.

The values of a job's secrets are one block, stored in the spool beside its script and its stdin. Its form is
that of an environment (proc(5), environ): ``NAME=value`` and a NUL each, sorted by name, so that equal
secrets are equal blocks. Only the names are in the Spec, and so in the journal and in replies.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from taskqd.errors import TaskqError
from taskqd.model.spec import DEFAULT_SPEC, Spec

SECRET_BLOCK = "secret"  # noqa: S105 - not a password
"""The name of the block with the values of the secrets."""


def pack_secrets(values: Mapping[str, str]) -> bytes:
    """Return the block with these values; bytes that are not UTF-8 are surrogates in them (PEP 383)."""
    return b"".join(_encoded(f"{name}={value}\0") for name, value in sorted(values.items()))


def unpack_secrets(block: bytes, names: Iterable[str]) -> dict[str, str]:
    """Return the values by name; raises ValueError if the block is incomplete, or not that of ``names``."""
    *complete, rest = block.split(b"\0")
    pairs = [each.decode("utf-8", "surrogateescape").partition("=") for each in complete]
    if rest or [name for name, _, _ in pairs] != sorted(names) or not all(equals for _, equals, _ in pairs):
        raise ValueError(f"expected the values of {', '.join(sorted(names))}, but the file has others")
    return {name: value for name, _, value in pairs}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


ENVIRONMENT_BLOCK = "environment"
"""The name of the block with the environment of the client."""
BLOCKS = ("script", "stdin", ENVIRONMENT_BLOCK)
"""The options that announce a block, in the order of the blocks."""

MAX_LINE = 80
"""Characters of a script's first line that are kept."""
_MAX_CHARACTER = 4
"""Bytes of a character in UTF-8."""


def first_line_of(script: bytes) -> str | None:
    """Return the first line that is not blank, without the spaces around it; None if all lines are blank.

    The line that names the interpreter (``#!``) is skipped. Bytes that are not UTF-8 are replaced.
    """
    if script.startswith(b"#!"):
        script = script.partition(b"\n")[2]
    line = script.lstrip()[: MAX_LINE * _MAX_CHARACTER].partition(b"\n")[0]
    return line.decode(errors="replace")[:MAX_LINE].rstrip() or None


class Submission(NamedTuple):
    """The request of a SUBMIT: a command, and how to run it."""

    command: str
    spec: Spec


class SimilarSubmissions(NamedTuple):
    """Successive submissions of one client that differ only in their commands; handled in one step."""

    spec: Spec
    commands: list[str]

    def each(self) -> "Iterator[SimilarSubmissions]":
        """Yield each submission alone."""
        return (SimilarSubmissions(self.spec, [command]) for command in self.commands)


class Refusal(NamedTuple):
    """Takes the place of ``times`` successive submissions that were refused with the same error."""

    error: TaskqError
    times: int = 1


class ScheduleRequest(Struct, frozen=True, kw_only=True):
    """The request of a SCHEDULE: a job ``every`` that many seconds, or whenever ``cron`` says.

    Unless ``overlap`` is set, a run is skipped while the job of the previous run has not ended.
    """

    command: str
    spec: Spec = DEFAULT_SPEC
    every: float | None = None
    cron: str | None = None
    overlap: bool = False


_EXECUTION = frozenset(
    (
        *("env", "env_base64", "cwd", "cwd_base64", "umask", "script", "stdin", "secrets"),
        *("stdout", "stderr"),
    )
)
"""Fields of a Spec that concern how a command is executed."""


class RescheduleRequest(Struct, frozen=True, kw_only=True):
    """The request of a SCHEDULE --set: change a schedule; what is None and what ``values`` lacks stays.

    ``values`` are fields of its Spec; those of ``env``, ``env_base64`` and ``secrets`` are added to its
    variables. A command replaces a script, and a script the command.
    """

    schedule: int
    command: str | None = None
    values: dict[str, Any] = {}
    every: float | None = None
    cron: str | None = None
    overlap: bool | None = None

    @property
    def changes_execution(self) -> bool:
        """Whether it changes what the jobs execute, or where and with which variables, not only when."""
        return self.command is not None or not _EXECUTION.isdisjoint(self.values)

    def change_command(self, command: str) -> str:
        """Return the changed command of the schedule: with a script, the arguments of that."""
        if "script" in self.values:
            return self.command or ""
        return command if self.command is None else self.command

    def change(self, spec: Spec) -> Spec:
        """Return the changed Spec of the schedule, with the digest of the blocks before."""
        values = dict(self.values)
        env, data = values.pop("env", {}), values.pop("env_base64", {})
        secrets = values.pop("secrets", ())
        if env or data or secrets:
            kept = {name: value for name, value in spec.env.items() if name not in (*data, *secrets)}
            kept_data = {
                name: value for name, value in spec.env_base64.items() if name not in (*env, *secrets)
            }
            kept_secrets = {name for name in spec.secrets if name not in (*env, *data)}
            values |= {"env": {**kept, **env}, "env_base64": {**kept_data, **data}}
            values["secrets"] = tuple(sorted({*kept_secrets, *secrets}))
        if self.command is not None or "script" in values:
            values = {"script": None, "script_line": None, **values}
        if "cwd" in values or "cwd_base64" in values:
            values = {"cwd": None, "cwd_base64": None, **values}
        if values.get("unless") is not None and spec.label in (None, spec.unless):
            values.setdefault("label", values["unless"])
        return replace(spec, **values)


class RunNowRequest(Struct, frozen=True, kw_only=True):
    """The request of a SCHEDULE --run-now: submit a job of this schedule."""

    schedule: int


def observes_other_jobs(spec: Spec) -> bool:
    """Whether other jobs decide if a submission is accepted: it has dependencies or an ``unless``."""
    return spec.has_dependencies or spec.named is not None or spec.unless is not None
