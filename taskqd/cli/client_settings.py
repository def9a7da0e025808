"""The user's settings for ``taskq``: ``$XDG_CONFIG_HOME/taskqd/client.toml``, else in ``~/.config``.

``address`` is the daemon's, ``queue`` the default queue of new jobs, ``inherit-env`` whether ``submit`` and
``run`` pass on the user's environment, ``[options]`` has defaults for other
options of ``submit``, ``run`` and ``schedule``, and ``[aliases]`` has commands by the words that stand for
them.
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

SUBMITTING = ("submit", "run", "schedule")
"""The commands to which ``queue`` and ``[options]`` apply."""
INHERITING = ("submit", "run")
"""The commands to which ``inherit-env`` applies: the jobs of a schedule outlive the session of its user."""
_KEYS: Mapping[str, type] = {
    "address": str,
    "queue": str,
    "inherit-env": bool,
    "options": dict,
    "aliases": dict,
}
_KINDS = {str: "a text", bool: "true or false", dict: "a table"}


class ClientSettings(NamedTuple):
    """The content of the file. ``options`` are by their parameter names in click, with text as values."""

    path: str = ""
    address: str | None = None
    options: Mapping[str, Any] = {}
    aliases: Mapping[str, str] = {}
    inherits: bool = False

    def default_map(self) -> dict[str, dict[str, Any]]:
        """Return the defaults of options by command, as click has them."""
        defaults = {command: dict(self.options) for command in SUBMITTING}
        for command in INHERITING:
            defaults[command].setdefault("inherit_env", self.inherits)
        return defaults


NO_SETTINGS = ClientSettings()


def settings_path(environ: Mapping[str, str]) -> str:
    """Return the path of the file, which need not exist."""
    directory = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(directory):
        directory = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(directory, "taskqd", "client.toml")


def read_client_settings(path: str) -> ClientSettings:
    """Read the file if it exists; raises UsageError that names what is wrong in it."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return NO_SETTINGS
    except OSError as why:
        raise click.UsageError(f"{path} cannot be read: {why.strerror}") from None
    try:
        document = _parse_toml(content.decode("utf-8"))
    except (ValueError, RecursionError) as why:
        raise click.UsageError(f"{path} is not TOML: {why}") from None
    return _check(document, path)


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; the parser is imported only if there is a file."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    document: dict[str, Any] = import_module(name).loads(text)
    return document


def check_options(settings: ClientSettings, command: click.Command) -> None:
    """Raise UsageError if the file names an option that neither ``command`` nor ``submit`` has."""
    known = {parameter.name for parameter in command.params} | {"array", "inherit_env"}
    if unknown := next((name for name in settings.options if name not in known), None):
        raise click.UsageError(
            f"{settings.path}: unknown option {unknown} in [options]; see taskq {command.name} --help"
        )


def _check(document: dict[str, Any], path: str) -> ClientSettings:
    if unknown := next((key for key in document if key not in _KEYS), None):
        raise click.UsageError(f"{path}: unknown key {unknown}; the keys are {', '.join(_KEYS)}")
    for key, kind in _KEYS.items():
        if not isinstance(document.get(key, kind()), kind):
            raise click.UsageError(f"{path}: {key} must be {_KINDS[kind]}")
    aliases = document.get("aliases", {})
    if wrong := next((name for name, words in aliases.items() if not isinstance(words, str)), None):
        raise click.UsageError(f"{path}: the alias {wrong} must be a text, such as 'list --failed'")
    options = dict(document.get("options", {}))
    if "queue" in document:
        options["queue"] = document["queue"]
    return ClientSettings(
        path,
        document.get("address"),
        {name.replace("-", "_"): _as_given(value, name, path) for name, value in options.items()},
        aliases,
        document.get("inherit-env", False),
    )


def _as_given(value: Any, name: str, path: str) -> Any:
    """Return the value of an option as a command line gives it: text, a flag, or several texts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise click.UsageError(f"{path}: the option {name} must be a text, a number, true, or a list of texts")
