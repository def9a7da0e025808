"""What ``taskq submit`` and ``taskq run`` send: the words of the call, its files, and where it is made."""

import os
import shlex
from io import BufferedReader
from typing import Any, cast

import click

from taskqd.client import Options
from taskqd.client.requests import LARGEST_BLOCK


def command(words: tuple[str, ...], given: dict[str, Any]) -> str | None:
    """Return the shell command that runs ``words``: one is a line of shell, several are what a program gets.

    None if there is a script in its place.
    """
    if bool(words) == bool(given["script"]):
        raise click.UsageError("expected either a COMMAND or a --script")
    check_stdin(given["script"], given["stdin"])
    return None if not words else words[0] if len(words) == 1 else shlex.join(words)


def check_stdin(*files: BufferedReader | None) -> None:
    """Refuse a call in which two of the options would read the same stdin."""
    given = [file for file in files if file]
    if len(set(given)) < len(given):
        raise click.UsageError("only one of the options can read from -, which is our stdin")


def options(is_local: bool, given: dict[str, Any]) -> Options:
    """Return the options of a submission: those given, and to a daemon on this machine what we are in."""
    found = {name: value for name, value in given.items() if value is not None}
    found["env"] = dict(given["env"])
    for block in {"stdin", "script"} & found.keys():
        found[block] = found[block].read(LARGEST_BLOCK + 1)  # one more is enough to be refused
    if is_local:
        found["cwd"] = _directory(given["cwd"])
        found.setdefault("umask", _umask())
        if "PATH" in os.environ:
            found["env"] = {"PATH": os.environ["PATH"], **found["env"]}
    return cast("Options", found)


def _directory(given: str | None) -> str:
    try:
        return os.path.abspath(given or ".")
    except FileNotFoundError:
        raise click.UsageError(
            "the directory we are in is gone; say with --cwd where to run the job"
        ) from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
