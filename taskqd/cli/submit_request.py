"""Builds the submissions of submit, run and schedule from arguments, files and the environment."""

import os
import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any, cast

import click

from taskqd.client import Options, Recurring
from taskqd.client.encoder import MAX_BLOCK_BYTES, shell_command


def command(words: Sequence[str], given: dict[str, Any]) -> str | None:
    """Validate the arguments of a submission; return its shell command, or None if it is a script."""
    if bool(words) == bool(given["script"]):
        raise click.UsageError("expected either a COMMAND or a --script")
    reject_shared_stdin(given["script"], given["stdin"])
    reject_two_start_times(given)
    reject_duplicate_variables(given)
    return None if not words else shell_line(words)


def shell_line(words: Sequence[str]) -> str:
    """Return the shell command: a single word is a shell command, several are a program and its arguments."""
    return words[0] if len(words) == 1 else shell_command(words)


def reject_two_start_times(given: dict[str, Any]) -> None:
    """Reject two options for the earliest start."""
    if given["delay"] is not None and given["at"] is not None:
        raise click.UsageError("expected either --delay or --at")


def reject_duplicate_variables(given: dict[str, Any]) -> None:
    """Reject two values for one variable."""
    names = [name for option in ("secret", "secret_file") for name, _ in given[option]]
    duplicates = {name for name in names if names.count(name) > 1} | (set(names) & {*dict(given["env"])})
    if duplicates:
        raise click.UsageError(f"{min(duplicates)} is set twice by --env, --secret or --secret-file")


def reject_shared_stdin(*files: BufferedReader | None) -> None:
    """Reject two options that read stdin."""
    given = [file for file in files if file]
    if len(set(given)) < len(given):
        raise click.UsageError("only one option can read stdin (-)")


def options(is_local: bool, given: dict[str, Any]) -> Options:
    """Return the options of a submission.

    A daemon on this machine also gets the working directory, umask and PATH of taskq as defaults.
    """
    result = _with_environment(is_local, given)
    result["secret"] = dict((*given["secret"], *result.pop("secret_file")))
    for block in {"stdin", "script"} & result.keys():
        # One byte over the limit is enough for the client to refuse it.
        result[block] = result[block].read(MAX_BLOCK_BYTES + 1)
    return cast("Options", result)


def recurring(is_local: bool, given: dict[str, Any]) -> Recurring:
    """Return the options for the submissions of a schedule, with the same defaults as ``options``."""
    return cast("Recurring", _with_environment(is_local, given))


def _with_environment(is_local: bool, given: dict[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in given.items() if value is not None}
    result["env"] = dict(given["env"])
    if is_local:
        result["cwd"] = _absolute_directory(given["cwd"])
        result.setdefault("umask", _current_umask())
        if "PATH" in os.environ:
            result["env"] = {"PATH": _extend_path(os.environ["PATH"]), **result["env"]}
    return result


def _absolute_directory(given: str | None) -> str:
    try:
        return os.path.abspath(given or ".")
    except FileNotFoundError:
        raise click.UsageError("the current directory does not exist any more; set --cwd") from None


def _extend_path(path: str) -> str:
    """Return PATH, with the directory of this ``taskq`` appended if PATH contains no ``taskq``.

    It uses no generator that is left unfinished: Python prints and drops a KeyboardInterrupt in closing one.
    """
    here, name = os.path.split(os.path.abspath(sys.argv[0]))
    directories = [*path.split(os.pathsep), here]
    found = [each for each in directories if os.access(os.path.join(each, "taskq"), os.X_OK)]
    return (
        f"{path}:{here}" if found[:1] == [here] and name == "taskq" and here not in directories[:-1] else path
    )


def _current_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
