"""``taskq token``: reads and changes the token file in a state directory with the daemon's own code."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from taskqd.auth.token_file import TokenFile
from taskqd.auth.tokens import Entry
from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display import printer
from taskqd.cli.display import text as terminal
from taskqd.cli.typed_values import read_duration
from taskqd.config.paths import NO_HOME, default_state
from taskqd.errors import BadRequest, StartRefused
from taskqd.model.roles import Role
from taskqd.protocol.values import parse_duration, parse_time, timestamp
from taskqd.storage.state_directory import check_permissions


def add(
    session: Session, state: str | None, name: str, role: str, queue: str | None, expires: str | None
) -> int:
    """Make a token and print it; return the exit code."""
    now = time.time()
    expires_at = None if expires is None else _parse_expiry(expires, now)

    def command() -> int:
        entry, text = _open_file(state).add(name, Role(role), queue, now, expires_at)
        session.print_answer(text, {"token": text, **_facts(entry, now)})
        end = f", expires {timestamp(entry.expires_at)}" if entry.expires_at else ""
        of = f", queue {entry.queue}" if entry.queue else ""
        session.print_message(
            f"token {entry.id} of {entry.name}, role {role}{of}{end}; it cannot be shown again"
        )
        return 0

    return _report_refusal(session, command)


def show(session: Session, state: str | None) -> int:
    """Print all tokens; return the exit code."""

    def command() -> int:
        now = time.time()
        tokens = [_facts(entry, now) for entry in _open_file(state).read()]
        if terminal.is_terminal() and not session.is_json:
            printer.print_tokens(tokens)
            return 0
        with session.answer_list():
            for facts in tokens:
                session.print_answer("\t".join(_cells(facts)), facts)
        return 0

    return _report_refusal(session, command)


def revoke(session: Session, state: str | None, which: str) -> int:
    """Revoke tokens and print them; return the exit code."""

    def command() -> int:
        now = time.time()
        file = _open_file(state)
        revoked = file.revoke(which)
        with session.answer_list():
            for entry in revoked:
                session.print_answer(f"revoked {entry.id} {entry.name}", _facts(entry, now))
        if any(entry.is_bare for entry in revoked):
            session.print_message(f"removed {file.plain_path} too, which has the token of an older version")
        return 0

    return _report_refusal(session, command)


def _parse_expiry(text: str, now: float) -> float:
    """Parse a duration from ``now`` or a time; return seconds since the epoch."""
    with suppress(BadRequest):
        return now + parse_duration(read_duration(text))
    with suppress(BadRequest):
        return parse_time(text)
    raise click.BadParameter(
        f"expected a duration such as 90d or a time such as 2026-11-24T07:00:00Z, not {text[:60]!r}",
        param_hint="--expires",
    )


def _open_file(state: str | None) -> TokenFile:
    """Return the token file of a state directory; raises StartRefused if others can access the directory."""
    directory = state or default_state(os.environ, os.getuid())
    if state is None and not os.path.isabs(directory):
        raise StartRefused(NO_HOME.format(uid=os.getuid()))
    try:
        check_permissions(directory)
    except FileNotFoundError:
        raise StartRefused(
            f"the state directory {directory} does not exist; start the daemon once, or set --state"
        ) from None
    return TokenFile(directory)


def _report_refusal(session: Session, command: Callable[[], int]) -> int:
    try:
        return command()
    except (BadRequest, StartRefused) as why:
        session.print_message(str(why))
        return REFUSED


def _facts(entry: Entry, now: float) -> dict[str, Any]:
    """Return the public facts of a token."""
    return {
        "id": entry.id,
        "name": entry.name,
        "role": entry.role.value,
        "queue": entry.queue,
        "made_at": timestamp(entry.made_at),
        "expires_at": timestamp(entry.expires_at),
        "expired": entry.is_expired(now),
    }


def _cells(facts: dict[str, Any]) -> tuple[str, ...]:
    names = ("id", "name", "role", "queue", "made_at", "expires_at")
    return tuple("-" if facts[name] is None else str(facts[name]) for name in names)
