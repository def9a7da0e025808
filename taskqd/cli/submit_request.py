"""Builds the submissions of submit, run and schedule from arguments, files and the environment."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from io import BufferedReader
from typing import Any, cast

import click
from click.core import ParameterSource

from taskqd.cli.context import Session
from taskqd.client import Client, Options, Recurring
from taskqd.client.encoder import MAX_BLOCK_BYTES, shell_command
from taskqd.model.durations import format_duration
from taskqd.protocol.values import parse_time

MAX_LATENESS = 60.0
"""Seconds by which the time of --at may be past: it may have been typed, or computed, just before."""


def command(words: Sequence[str], given: dict[str, Any]) -> str | None:
    """Validate the arguments of a submission; return its shell command.

    For a script, return its arguments as text for the shell, None if it has none.
    """
    result = command_to_schedule(words, given)
    check_start_time(given)
    return result


def command_to_schedule(words: Sequence[str], given: dict[str, Any]) -> str | None:
    """Validate the arguments of a schedule; return what ``command`` does."""
    if not words and not given["script"]:
        hint = "" if sys.stdin.isatty() else "; --script - reads one from stdin"
        raise click.UsageError(f"expected either a COMMAND or a --script{hint}")
    return changed_command(words, given)


def changed_command(words: Sequence[str], given: dict[str, Any]) -> str | None:
    """Validate the arguments of a changed schedule; return what ``command`` does, None if it stays."""
    reject_shared_stdin(given["script"], given["stdin"])
    reject_duplicate_variables(given)
    if given["script"]:
        return shlex.join(words) if words else None
    return shell_line(words) if words else None


def shell_line(words: Sequence[str]) -> str:
    """Return the shell command: a single word is a shell command, several are a program and its arguments."""
    return words[0] if len(words) == 1 else shell_command(words)


def check_start_time(given: dict[str, Any]) -> None:
    """Reject two options for the earliest start, and a time that is past; remove --at-past from ``given``.

    A submission with a key may be repeated later, when its time is past.
    """
    if given["delay"] is not None and given["at"] is not None:
        raise click.UsageError("expected either --delay or --at")
    may_be_past = given.pop("at_past") == "run" or given["key"] is not None
    if given["at"] is not None and not may_be_past:
        late = time.time() - parse_time(given["at"])
        if late > MAX_LATENESS:
            raise click.UsageError(
                f"--at is {format_duration(int(late), max_units=2)} ago, so the job would start at once; "
                "give another time, or --at-past=run"
            )


def reject_duplicate_variables(given: dict[str, Any]) -> None:
    """Reject two values for one variable."""
    names = [name for option in ("secret", "secret_file") for name, _ in given[option]]
    duplicates = {name for name in names if names.count(name) > 1} | (set(names) & {*_variables(given)})
    if duplicates:
        raise click.UsageError(
            f"{min(duplicates)} is set twice by --env, --env-file, --secret or --secret-file"
        )


def _variables(given: dict[str, Any]) -> dict[str, str]:
    """Return the variables of --env-file and --env, which takes precedence."""
    files = (variables for variables in given.get("env_file", ()))
    return {name: value for each in (*files, dict(given.get("env", ()))) for name, value in each.items()}


def reject_shared_stdin(*files: BufferedReader | None) -> None:
    """Reject two options that read stdin."""
    given = [file for file in files if file]
    if len(set(given)) < len(given):
        raise click.UsageError("only one option can read stdin (-)")


def options(client: Client, given: dict[str, Any]) -> Options:
    """Return the options of a submission.

    A daemon on this machine also gets the working directory, umask and PATH of taskq as defaults, and the
    whole environment with --inherit-env.
    """
    result = _with_environment(client.is_local, given)
    if result.pop("inherit_env", False) and _can_inherit(client):
        result["inherit_env"] = True
    _read_contents(result)
    return cast("Options", result)


def recurring(client: Client, given: dict[str, Any]) -> Recurring:
    """Return the options for the submissions of a schedule, with the same defaults as ``options``."""
    return cast("Recurring", options(client, given))


def _can_inherit(client: Client) -> bool:
    """Whether a daemon may be sent the environment; if only the user's settings ask for that, say why not.

    Raises UsageError if the command line asks for it.
    """
    obstacle = client.environment_obstacle()
    if obstacle is None:
        return True
    context = click.get_current_context()
    if context.get_parameter_source("inherit_env") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--inherit-env: {obstacle}; name what the job needs by --env")
    context.ensure_object(Session).print_message(
        f"your environment is not passed on, though inherit-env is set in client.toml: {obstacle}"
    )
    return False


def _read_contents(result: dict[str, Any]) -> None:
    """Replace files by their content, and the two options for secrets by one."""
    result["secret"] = dict((*result.get("secret", ()), *result.pop("secret_file", ())))
    for block in {"stdin", "script"} & result.keys():
        # One byte over the limit is enough for the client to refuse it.
        result[block] = result[block].read(MAX_BLOCK_BYTES + 1)


def schedule_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a changed schedule: those that are given, a directory with its whole path."""
    result = dict(given)
    if variables := _variables(given):
        result["env"] = variables
    result.pop("env_file", None)
    if "cwd" in given:
        result["cwd"] = _absolute_directory(given["cwd"])
    _resolve_output_files(result, lambda: _absolute_directory(given.get("cwd")), "none")
    _read_contents(result)
    return result


def _with_environment(is_local: bool, given: dict[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in given.items() if value is not None}
    result["env"] = _variables(given)
    result.pop("env_file", None)
    if is_local:
        result["cwd"] = _absolute_directory(given["cwd"])
        if not os.path.isdir(result["cwd"]):  # it may be made before the job starts
            click.get_current_context().ensure_object(Session).print_message(
                f"there is no directory {result['cwd']} yet; without it the job fails (spawn)"
            )
        result.setdefault("umask", _current_umask())
        if "PATH" in os.environ:
            result["env"] = {"PATH": _extend_path(os.environ["PATH"]), **result["env"]}
    _resolve_output_files(result, lambda: result.get("cwd", ""))
    return result


def _resolve_output_files(result: dict[str, Any], directory: Callable[[], str], *words: str) -> None:
    """Make the names of output files absolute: they are in ``directory()``, unless they are ``words``."""
    for name in ("stdout", "stderr"):
        path = result.get(name)
        if path is not None and path not in words and not os.path.isabs(path):
            result[name] = os.path.normpath(os.path.join(directory().replace("%", "%%"), path))


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
