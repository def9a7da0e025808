"""``taskq watch``: events as they become true, without a gap through restarts of the daemon (WATCH)."""

import sys
import time
from typing import Any

from taskqd.cli.context import Session
from taskqd.cli.display import text
from taskqd.client import Facts, Ref, Refused, Unreachable
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECTED, reconnect

_KINDS = {"started": 6, "spawned": 6, "cancelled": 3, "skipped": 1, "paused": 3, "held": 3}
_ENDS = {"COMPLETED": 2, "FAILED": 1, "CANCELLED": 3}


def watch(session: Session, since: int | None, job: Ref | None, queue: str | None) -> None:
    """Print events from number ``since`` on, until something ends it from outside.

    Raises Unreachable where the daemon does not come back, and Refused.
    """
    client = session.connect_once()
    has_begun = False
    while True:
        try:
            with client:
                for event in client.watch(since, job, queue):
                    has_begun = True
                    if event:
                        _print(session, event)
        except Refused as refusal:
            if refusal.next is None:
                raise
            session.complain(f"some events are missing here; going on with number {refusal.next}")
            client = session.connect_once()
            since = refusal.next
        except Unreachable:
            if not has_begun:
                raise
            since = since if client.next_event is None else client.next_event
            session.complain(CONNECTION_LOST)
            client = reconnect(session.connect_once, session.reconnect)
            session.complain(RECONNECTED)


def _print(session: Session, event: Facts) -> None:
    session.say("" if session.is_json else line(event, time.time()), event)
    sys.stdout.flush()


def line(event: Facts, now: float) -> str:
    """Return an event as a line: time, what it is about, what happened, by whom or why and how it ended."""
    at, kind, more, exit_code = text.event_cells(event)
    if exit_code != "-":
        more += f", exit code {exit_code}"
    if kind in ("submitted", "changed", "scheduled"):
        more += f": {text.command_of(_spec(event))}"
    if kind == "resized":
        more += f", slots {_slots(event.get('slots'))}"
    if not text.is_terminal():
        return f"{at}\t{subject(event)}\t{kind}\t{more}"
    colour = _ENDS.get(event.get("status", ""), _KINDS.get(kind))
    shown = f"{kind:9}"
    if colour is not None:
        shown = text.coloured(shown, colour, text.has_colours(sys.stdout))
    return f"{text.clock(at, now)}  {subject(event):>6}  {shown}  {more}".rstrip()


def subject(event: Facts) -> str:
    """Return what an event is about: the id of a job, or a queue or schedule by name, or all."""
    if "id" in event:
        return str(event["id"])
    for kind in ("schedule", "queue"):
        if event.get(kind) is not None:
            return text.sanitize_line(f"{kind} {event[kind]}")
    return "all"


def _spec(event: Facts) -> dict[str, Any]:
    spec: dict[str, Any] = event.get("spec") or {}
    return spec


def _slots(slots: int | None) -> str:
    return {None: "as in the settings", 0: "without a limit"}.get(slots, str(slots))
