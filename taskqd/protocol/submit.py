"""SUBMIT: the table of its options, and the parser of its arguments (docs/protocol.md §3).

The sizes of the blocks after a line are parsed separately from its arguments, because the blocks follow even
if the line is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from taskqd.errors import BadRequest, TooLarge
from taskqd.model import time_zones
from taskqd.model.environment import MAX_ENVIRONMENT_SIZE
from taskqd.model.output_files import check_outputs, check_path
from taskqd.model.spec import MAX_DEPENDENCIES, NamedDependencies, Spec
from taskqd.model.submission import BLOCKS, ENVIRONMENT_BLOCK, Submission, pack_secrets
from taskqd.protocol.arguments import (
    Option,
    OptionType,
    parse_env,
    parse_flag,
    parse_options,
    parse_secret,
    parse_switch,
    split_options,
)
from taskqd.protocol.option_values import (
    MAX_PRIORITY,
    MAX_SLOTS,
    integer,
    parse_array,
    parse_cron,
    parse_environment,
    parse_every,
    parse_job_refs,
    parse_known_environment,
    parse_label,
    parse_memory,
    parse_names,
    parse_needs,
    parse_path,
    parse_positive_duration,
    parse_start_time,
)
from taskqd.protocol.retry_conditions import parse_conditions
from taskqd.protocol.values import is_utf8, parse_duration, parse_name, parse_octal, parse_size

MAX_BLOCK_SIZE = 16 * 1024**2
"""Bytes of a script or a stdin block."""
MAX_SKIPPED_BLOCK = 64 * 1024**2
"""Bytes of a refused block that is skipped to find the next line; a larger one ends the connection."""


class Clear(NamedTuple):
    """The word with which SET clears an option, and the value that the option then has."""

    value: Any = None
    word: str = "none"


class SubmitOption(OptionType, frozen=True, kw_only=True):
    """One option of SUBMIT.

    `is_settable`: SET takes it too. `clear`: the value that clears it for SET and SCHEDULE --set, if any.
    `not_scheduled`: why SCHEDULE does not take it; None if it does.
    `is_shown`: JSON documents contain the field of the Spec unchanged if it differs from the default; False
    if documents.py treats it specially.
    """

    is_settable: bool = False
    clear: Clear | None = None
    not_scheduled: str | None = None
    is_shown: bool = True

    def for_set(self) -> OptionType:
        """Return the option as SET and SCHEDULE --set take it."""
        if self.parse is parse_flag:
            return OptionType(self.field, parse_switch, "true|false")
        if self.clear is None:
            return self
        (value, word), parse = self.clear, self.parse
        usage = f"{self.usage}|{word}" if word else self.usage
        return OptionType(self.field, lambda text: value if text == word else parse(text), usage)


_TIMED = "--every or --cron says when its jobs are submitted"
_INDEPENDENT = "its jobs come after nothing but time"
_UNATTENDED = "it needs a user who sends input while the job runs; give it a --stdin"
_LASTING = "its jobs run long after the session whose environment it is; name what they need by --env"

SUBMIT_OPTIONS: Mapping[str, SubmitOption] = {
    "queue": SubmitOption("queue", parse_name, "<name>", is_settable=True, is_shown=False),
    "priority": SubmitOption(
        "priority", integer(-MAX_PRIORITY, MAX_PRIORITY), "<int>", is_settable=True, is_shown=False
    ),
    "slots": SubmitOption("slots", integer(1, MAX_SLOTS), "<n>", is_settable=True),
    "need": SubmitOption(
        "needs", parse_needs, "<resource>:<n>[,...]", is_settable=True, clear=Clear({}), is_shown=False
    ),
    "timeout": SubmitOption(
        "timeout", parse_positive_duration, "<duration>", is_settable=True, clear=Clear(), is_shown=False
    ),
    "idle-timeout": SubmitOption(
        "idle_timeout", parse_positive_duration, "<duration>", is_settable=True, clear=Clear()
    ),
    "kill-after": SubmitOption("kill_after", parse_duration, "<duration>", is_settable=True),
    "retries": SubmitOption("retries", integer(0, 1_000_000), "<n>", is_settable=True, is_shown=False),
    "retry-delay": SubmitOption("retry_delay", parse_duration, "<duration>", is_settable=True),
    "retry-delay-max": SubmitOption("retry_delay_max", parse_duration, "<duration>", is_settable=True),
    "retry-on": SubmitOption(
        "retry_on", parse_conditions, "<condition>[,...]", is_settable=True, clear=Clear(())
    ),
    "no-retry-on": SubmitOption(
        "no_retry_on", parse_conditions, "<condition>[,...]", is_settable=True, clear=Clear(())
    ),
    "delay": SubmitOption(
        "delay", parse_duration, "<duration>", is_settable=True, clear=Clear(), not_scheduled=_TIMED
    ),
    "at": SubmitOption(
        *("at", parse_start_time, "<time>"),
        is_settable=True,
        clear=Clear(),
        not_scheduled=_TIMED,
        is_shown=False,
    ),
    "expires": SubmitOption("expires", parse_positive_duration, "<duration>", clear=Clear()),
    "tz": SubmitOption("tz", time_zones.check, "<zone>", is_settable=True, clear=Clear(), is_shown=False),
    "after": SubmitOption("after", parse_job_refs, "<id>[,...]", not_scheduled=_INDEPENDENT),
    "after-any": SubmitOption("after_any", parse_job_refs, "<id>[,...]", not_scheduled=_INDEPENDENT),
    "after-fail": SubmitOption("after_fail", parse_job_refs, "<id>[,...]", not_scheduled=_INDEPENDENT),
    **{
        f"{kind}-{by}": SubmitOption(
            f"{kind}_{by}".replace("-", "_"), parse, usage, not_scheduled=_INDEPENDENT, is_shown=False
        )
        for kind in ("after", "after-any", "after-fail")
        for by, parse, usage in (("label", parse_label, "<quoted>"), ("key", parse_names, "<name>[,...]"))
    },
    "hold": SubmitOption("hold", parse_flag, not_scheduled=_TIMED),
    "array": SubmitOption("array", parse_array, "<first>-<last>[%<n>]", clear=Clear(), is_shown=False),
    "key": SubmitOption(
        "key",
        parse_name,
        "<name>",
        not_scheduled="each of its jobs is a separate submission",
        is_shown=False,
    ),
    "label": SubmitOption(
        "label", parse_label, "<quoted>", is_settable=True, clear=Clear(word=""), is_shown=False
    ),
    "unless": SubmitOption("unless", parse_label, "<quoted>", clear=Clear(word="")),
    "cwd": SubmitOption("cwd", parse_path, "<path>", is_shown=False),
    "env": SubmitOption("env", parse_env, "NAME=<value>", is_shown=False),
    "secret": SubmitOption("secrets", parse_secret, "NAME=<value>", is_shown=False),
    "environment": SubmitOption(
        ENVIRONMENT_BLOCK, parse_environment, "<n>[:<sha256>]", not_scheduled=_LASTING
    ),
    "umask": SubmitOption("umask", parse_octal, "<octal>", is_shown=False),
    "nice": SubmitOption("nice", integer(-20, 19), "<n>", is_settable=True, clear=Clear()),
    "memory": SubmitOption("memory", parse_memory, "<size>", is_settable=True, clear=Clear()),
    "memory-max": SubmitOption("memory_max", parse_memory, "<size>", is_settable=True, clear=Clear()),
    "cpu-time": SubmitOption(
        "cpu_time", parse_positive_duration, "<duration>", is_settable=True, clear=Clear()
    ),
    "nofile": SubmitOption("nofile", integer(3, 1024**2), "<n>", is_settable=True, clear=Clear()),
    "max-output": SubmitOption("max_output", parse_size, "<size>", is_settable=True),
    "merge": SubmitOption("merge", parse_flag, is_settable=True),
    "stdout": SubmitOption("stdout", check_path, "<path>", clear=Clear()),
    "stderr": SubmitOption("stderr", check_path, "<path>", clear=Clear()),
    "notify-fail": SubmitOption("notify_fail", parse_flag),
    "interactive": SubmitOption("interactive", parse_flag, not_scheduled=_UNATTENDED),
    "script": SubmitOption("script", integer(0, MAX_SKIPPED_BLOCK), "<n>"),
    "stdin": SubmitOption("stdin", integer(0, MAX_SKIPPED_BLOCK), "<n>"),
}
"""The options of SUBMIT by name, in the order in which HELLO and HELP list them. `field` is that of Spec."""

TIMING_OPTIONS: Mapping[str, OptionType] = {
    "every": OptionType("every", parse_every, "<duration>"),
    "cron": OptionType("cron", parse_cron, "<quoted>"),
    "overlap": OptionType("overlap", parse_flag),
}
"""The options of SCHEDULE that SUBMIT does not have."""

SET_OPTIONS: Mapping[str, OptionType] = {
    name: option.for_set() for name, option in SUBMIT_OPTIONS.items() if option.is_settable
}
"""The options of SET, by name."""


def block_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of the blocks that follow a SUBMIT or SCHEDULE line, in bytes and in their order.

    `text` is the text after the verb. Raises BadRequest if the sizes cannot be parsed, and TooLarge if a
    block is larger than the server skips; in both cases the server cannot find the next line.
    """
    return sizes_of_blocks(text, lambda text: split_options(text).options, BLOCKS)


def _block_too_large(name: str, size: object) -> TooLarge:
    limit, advice = MAX_BLOCK_SIZE, "let the job read a file"
    if name == ENVIRONMENT_BLOCK:
        limit, advice = MAX_ENVIRONMENT_SIZE, "unset some variables, or name what the job needs by --env"
    return TooLarge(f"--{name}={size} is refused, the limit is {limit} bytes; {advice}")


def sizes_of_blocks(
    text: str,
    split: Callable[[str], list[Option]],
    names: Iterable[str],
    too_large: Callable[[str, object], TooLarge] = _block_too_large,
) -> tuple[int, ...]:
    """Return the sizes of the blocks of these names that the options of a line announce; see `block_sizes`.

    `split` returns the options of `text`, `too_large` the error for a block that is not skipped.
    """
    try:
        options = split(text)
    except BadRequest:
        if any(f"--{name}" in text for name in names):
            raise
        return ()
    return tuple(size for name in names for size in _sizes_of(name, options, too_large))


def _sizes_of(name: str, options: list[Option], too_large: Callable[[str, object], TooLarge]) -> list[int]:
    values = [option.value or "" for option in options if option.name == name]
    if len(values) > 1:
        raise BadRequest(f"--{name} is given twice, so the length of what follows the line is unknown")
    if name == ENVIRONMENT_BLOCK:
        values = [value for value in values if parse_known_environment(value) is None]
    for value in values:
        if not value.isascii() or not value.isdigit():
            raise BadRequest(f"--{name} needs the number of bytes that follow, not {value[:40]!r}")
        if len(value) > 18 or int(value) > MAX_SKIPPED_BLOCK:
            raise too_large(name, value[:40])
    return [int(value) for value in values]


def secret_block(text: str) -> bytes:
    """Return the secrets of a valid SUBMIT or SCHEDULE as a block; `text` is the text after the verb."""
    values: dict[str, str] = {}
    for name, value in split_options(text).options:
        if name == "secret":
            values |= parse_secret(value or "")
    return pack_secrets(values)


def parse_submission(text: str) -> Submission:
    """Parse the text after SUBMIT.

    The Spec has only the names of secrets, and its dependencies may be TaskIds. Raises BadRequest, and
    TooLarge for a block that is skipped but not accepted.
    """
    options, command = split_options(text)
    for name, _ in options:
        if name in TIMING_OPTIONS:
            raise BadRequest(f"--{name} is an option of SCHEDULE, which submits a job repeatedly")
    values = parse_options("SUBMIT", options, SUBMIT_OPTIONS)
    resolve_time(values)
    check_blocks(values)
    if not command.strip(" \t"):
        if "script" not in values:
            raise BadRequest("expected SUBMIT [options] <command>, but the command is missing")
        command = ""
    _check_delay(values)
    _check_interactive(values)
    dependencies = sum(len(values.get(field, ())) for field in ("after", "after_any", "after_fail"))
    if dependencies > MAX_DEPENDENCIES:
        raise BadRequest(f"expected up to {MAX_DEPENDENCIES} dependencies, not {dependencies}")
    return Submission(command, make_spec(values))


def check_blocks(values: dict[str, Any]) -> None:
    """Keep only the names of the secrets; raises TooLarge for a block that is skipped but not accepted.

    Raises BadRequest for a variable that is given twice.
    """
    for name in ("script", "stdin"):
        if values.get(name, 0) > MAX_BLOCK_SIZE:
            raise _block_too_large(name, values[name])
    environment = values.get(ENVIRONMENT_BLOCK)
    if environment is not None and environment.size > MAX_ENVIRONMENT_SIZE:
        raise _block_too_large(ENVIRONMENT_BLOCK, environment.size)
    if "secrets" not in values:
        return
    values["secrets"] = tuple(sorted(values["secrets"]))
    duplicates = values.get("env", {}).keys() & set(values["secrets"])
    if duplicates:
        raise BadRequest(f"{min(duplicates)} is given by --env and by --secret; give it once")


def _check_delay(values: dict[str, Any]) -> None:
    if "delay" in values and "at" in values:
        raise BadRequest("--delay counts from now and --at is a time; give one of them")
    if "expires" in values and values.get("delay", 0.0) >= values["expires"]:
        raise BadRequest("--delay is not less than --expires, so the job would expire before it could start")


def _check_interactive(values: dict[str, Any]) -> None:
    """Raise BadRequest if an interactive job has other stdin, or more than one attempt or task reads it."""
    if "interactive" not in values:
        return
    if "stdin" in values:
        raise BadRequest("--interactive and --stdin cannot be given together; send the input with SEND")
    if "array" in values:
        raise BadRequest("--interactive and --array cannot be given together; submit a job per input")
    if values.get("retries"):
        raise BadRequest(
            "--interactive and --retries cannot be given together; what was sent to the first attempt is not "
            "sent to the next one"
        )


def resolve_time(values: dict[str, Any]) -> None:
    """Replace an `at` without an offset by the first moment at which it is that time, or later, in `tz`."""
    at = values.get("at")
    if isinstance(at, datetime):
        if values.get("tz") is None:
            raise BadRequest(
                f"expected a time with its offset from UTC, such as +01:00, not --at={at.isoformat()}; or "
                "add --tz with its time zone"
            )
        values["at"] = time_zones.at_or_after(at, time_zones.named(values["tz"]))[0]


def make_spec(values: dict[str, Any]) -> Spec:
    """Return the Spec with the values of the options; `values` is changed. Raises BadRequest."""
    if "unless" in values:
        values.setdefault("label", values["unless"])
    separate_bytes(values)
    names = NamedDependencies.__struct_fields__
    if named := {name: values.pop(name) for name in names if name in values}:
        given = [len(values.get(kind, ())) for kind in ("after", "after_any", "after_fail")]
        values["named"] = NamedDependencies(given=(given[0], given[1], given[2]), **named)
    spec = Spec(**values)
    check_outputs(spec)
    return spec


def separate_bytes(values: dict[str, Any]) -> None:
    """Move variables and a directory that are not UTF-8 to the fields of Spec for them."""
    if "env" in values:
        values.update(_split_env(values["env"]))
    if not is_utf8(values.get("cwd", "")):
        values["cwd_base64"] = values.pop("cwd").encode("utf-8", "surrogateescape")


def _split_env(env: dict[str, str]) -> dict[str, dict[str, str] | dict[str, bytes]]:
    """Return the fields of Spec for the variables whose values are text, and for those with other bytes."""
    data = {
        name: value.encode("utf-8", "surrogateescape") for name, value in env.items() if not is_utf8(value)
    }
    return {"env": {name: value for name, value in env.items() if name not in data}, "env_base64": data}
