"""What ``taskq submit`` and ``taskq run`` send: the words of the call, its files, and where it is made."""

import os
import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any, cast

import click

from taskqd.client import Options, Recurring
from taskqd.client.encoder import MAX_BLOCK_BYTES, shell_command


def command(words: Sequence[str], given: dict[str, Any]) -> str | None:
    """Return the shell command that runs ``words``: one is a line of shell, several are words of a program.

    None if there is a script in its place.
    """
    if bool(words) == bool(given["script"]):
        raise click.UsageError("expected either a COMMAND or a --script")
    check_stdin(given["script"], given["stdin"])
    check_times(given)
    check_names(given)
    return None if not words else line(words)


def line(words: Sequence[str]) -> str:
    """Return the shell command: one word is a line of shell, several are a program and its arguments."""
    return words[0] if len(words) == 1 else shell_command(words)


def check_times(given: dict[str, Any]) -> None:
    """Refuse a call that says in two ways when to start at the earliest."""
    if given["delay"] is not None and given["at"] is not None:
        raise click.UsageError("expected either --delay or --at")


def check_names(given: dict[str, Any]) -> None:
    """Refuse a call in which a variable has two values."""
    names = [name for option in ("secret", "secret_file") for name, _ in given[option]]
    twice = {name for name in names if names.count(name) > 1} | (set(names) & {*dict(given["env"])})
    if twice:
        raise click.UsageError(f"{min(twice)} is given twice by --env, --secret and --secret-file")


def check_stdin(*files: BufferedReader | None) -> None:
    """Refuse a call in which two of the options would read the same stdin."""
    given = [file for file in files if file]
    if len(set(given)) < len(given):
        raise click.UsageError("only one of the options can read from -, which is our stdin")


def options(is_local: bool, given: dict[str, Any]) -> Options:
    """Return the options of a submission: those given, and to a daemon on this machine what we are in."""
    found = _with_surroundings(is_local, given)
    found["secret"] = dict((*given["secret"], *found.pop("secret_file")))
    for block in {"stdin", "script"} & found.keys():
        found[block] = found[block].read(MAX_BLOCK_BYTES + 1)  # one more is enough to be refused
    return cast("Options", found)


def recurring(is_local: bool, given: dict[str, Any]) -> Recurring:
    """Return the options of each submission of a schedule, in the same way."""
    return cast("Recurring", _with_surroundings(is_local, given))


def _with_surroundings(is_local: bool, given: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in given.items() if value is not None}
    found["env"] = dict(given["env"])
    if is_local:
        found["cwd"] = _directory(given["cwd"])
        found.setdefault("umask", _umask())
        if "PATH" in os.environ:
            found["env"] = {"PATH": _path(os.environ["PATH"]), **found["env"]}
    return found


def _directory(given: str | None) -> str:
    try:
        return os.path.abspath(given or ".")
    except FileNotFoundError:
        raise click.UsageError(
            "the directory we are in is gone; say with --cwd where to run the job"
        ) from None


def _path(path: str) -> str:
    """Return our PATH, with the directory of this ``taskq`` behind it if no ``taskq`` is in it."""
    here, name = os.path.split(os.path.abspath(sys.argv[0]))
    places = [*path.split(os.pathsep), here]
    found = next((each for each in places if os.access(os.path.join(each, "taskq"), os.X_OK)), None)
    return f"{path}:{here}" if found == here and name == "taskq" and here not in places[:-1] else path


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
