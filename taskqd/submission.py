"""SUBMIT's own words: its options -> a Spec, and the sizes of the blocks that follow its line.

The two are read apart, because a refused SUBMIT's blocks follow it all the same (docs/protocol.md §3).
"""

from taskqd.errors import BadRequest, TooLarge
from taskqd.job import Spec
from taskqd.options import Option, Table, parse_env, read, scan
from taskqd.words import is_utf8, parse_duration, parse_integer, parse_name, parse_octal, parse_size

LARGEST_BLOCK = 16 * 1024**2
"""A script or a stdin block is at most so large, in bytes."""
LARGEST_SKIP = 64 * 1024**2
"""A refused block of up to so many bytes is read and thrown away; a larger one ends the connection."""
LONGEST_LABEL = 1000
"""A label is at most so many characters."""

BLOCKS = ("script", "stdin")
"""The options that announce a block, in the order in which the blocks follow."""

LATER = frozenset(
    {"queue", "priority", "slots", "need", "delay", "at", "after", "after-any", "after-fail", "hold", "array"}
)
"""Options of the protocol that this version does not have yet; each is refused by its name."""


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise BadRequest(f"expected a duration above 0, not {text!r}")
    return seconds


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise BadRequest(f"expected a path that begins with /, not {text[:60]!r}")
    return text


def _label(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_LABEL:
        raise BadRequest(f"expected 1 to {LONGEST_LABEL} characters, not {len(text)}")
    return text


def _block(text: str) -> int:
    return parse_integer(text, 0, LARGEST_SKIP)


OPTIONS: Table = {
    "timeout": ("timeout", _positive_duration),
    "kill-after": ("kill_after", parse_duration),
    "retries": ("retries", lambda text: parse_integer(text, 0, 1_000_000)),
    "retry-delay": ("retry_delay", parse_duration),
    "key": ("key", parse_name),
    "label": ("label", _label),
    "cwd": ("cwd", _path),
    "env": ("env", parse_env),
    "umask": ("umask", parse_octal),
    "nice": ("nice", lambda text: parse_integer(text, -20, 19)),
    "max-output": ("max_output", parse_size),
    "script": ("script", _block),
    "stdin": ("stdin", _block),
}
"""SUBMIT's options: the field of Spec that each sets, and its reader."""


def _too_large(name: str, size: object) -> TooLarge:
    return TooLarge(f"--{name}={size} is more than the {LARGEST_BLOCK} bytes that a block may have")


USAGES = {
    "timeout": "<duration>",
    "kill-after": "<duration>",
    "retries": "<n>",
    "retry-delay": "<duration>",
    "key": "<name>",
    "label": "<quoted>",
    "cwd": "<path>",
    "env": "NAME=<value>",
    "umask": "<octal>",
    "nice": "<n>",
    "max-output": "<size>",
    "script": "<n>",
    "stdin": "<n>",
}
"""How the value of each option is written, for HELP."""


def block_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of the blocks that follow a SUBMIT line, in bytes and in their order.

    ``text`` is what stands behind the verb. Raises BadRequest where the sizes cannot be read, and TooLarge
    where one is beyond what the server skips: in both cases the connection is out of step for good.
    """
    try:
        options = scan(text).options
    except BadRequest:
        if any(f"--{name}" in text for name in BLOCKS):
            raise
        return ()
    return tuple(size for name in BLOCKS for size in _sizes(name, options))


def _sizes(name: str, options: list[Option]) -> list[int]:
    values = [option.value or "" for option in options if option.name == name]
    if len(values) > 1:
        raise BadRequest(f"--{name} is given twice, so what follows the line cannot be told")
    for value in values:
        if not value.isascii() or not value.isdigit():
            raise BadRequest(f"--{name} needs the number of bytes that follow, not {value[:40]!r}")
        if len(value) > 18 or int(value) > LARGEST_SKIP:
            raise _too_large(name, value[:40])
    return [int(value) for value in values]


def read_submission(text: str) -> Spec:
    """Return what a SUBMIT asks for; ``text`` is what stands behind the verb.

    Raises BadRequest, or TooLarge for a block that is skipped but not taken.
    """
    options, command = scan(text)
    for name, _ in options:
        if name in LATER:
            raise BadRequest(f"--{name} is not supported yet")
    values = read("SUBMIT", options, OPTIONS)
    for name in BLOCKS:
        if values.get(name, 0) > LARGEST_BLOCK:
            raise _too_large(name, values[name])
    if command and "script" in values:
        raise BadRequest("a --script stands in place of the command; give one of them, not both")
    if not command.strip() and "script" not in values:
        raise BadRequest("expected SUBMIT [options] <command>, but no command came")
    if "env" in values:
        values.update(_split_env(values["env"]))
    return Spec(command=command, **values)


def _split_env(env: dict[str, str]) -> dict[str, dict[str, str] | dict[str, bytes]]:
    """Return the variables that are text apart from those that are other bytes."""
    data = {
        name: value.encode("utf-8", "surrogateescape") for name, value in env.items() if not is_utf8(value)
    }
    return {"env": {name: value for name, value in env.items() if name not in data}, "env_base64": data}
