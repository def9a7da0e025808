"""``taskq watch``: prints events, and continues without a gap after restarts of the daemon."""

import sys
import time
from typing import Any

from taskqd.cli.context import Session
from taskqd.cli.display import text
from taskqd.client import Facts, Ref, Refused, Unreachable
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECTED, reconnect

_TYPE_COLOURS = {"started": 6, "spawned": 6, "cancelled": 3, "skipped": 1, "paused": 3, "held": 3}
_STATUS_COLOURS = {"COMPLETED": 2, "FAILED": 1, "CANCELLED": 3}


def watch(session: Session, since: int | None, job: Ref | None, queue: str | None) -> None:
    """Print events from number ``since`` on, without end.

    Raises Refused, and Unreachable if the daemon does not come back.
    """
    client = session.connect_once()
    has_started = False
    while True:
        try:
            with client:
                for event in client.watch(since, job, queue):
                    has_started = True
                    if event:
                        _print(session, event)
        except Refused as refusal:
            if refusal.next is None:
                raise
            session.print_message(f"some events are missing; continuing with number {refusal.next}")
            client = session.connect_once()
            since = refusal.next
        except Unreachable:
            if not has_started:
                raise
            since = since if client.next_event is None else client.next_event
            session.print_message(CONNECTION_LOST)
            client = reconnect(session.connect_once, session.reconnect_timeout)
            session.print_message(RECONNECTED)


def _print(session: Session, event: Facts) -> None:
    session.print_answer("" if session.is_json else event_line(event, time.time()), event)
    sys.stdout.flush()


def event_line(event: Facts, now: float) -> str:
    """Return an event as a line: time, subject, type, and cause with exit code."""
    at, kind, details, exit_code = text.event_cells(event)
    if exit_code != "-":
        details += f", exit code {exit_code}"
    if kind in ("submitted", "changed", "scheduled", "rescheduled"):
        details += f": {text.command_of(_spec(event))}"
    if kind in ("resized", "rescaled"):
        details += f", slots {_slots(event.get('slots'))}"
    if not text.is_terminal():
        return f"{at}\t{subject(event)}\t{kind}\t{details}"
    colour = _STATUS_COLOURS.get(event.get("status", ""), _TYPE_COLOURS.get(kind))
    shown = f"{kind:9}"
    if colour is not None:
        shown = text.coloured(shown, colour, text.has_colours(sys.stdout))
    return f"{text.local_time(at, now)}  {subject(event):>6}  {shown}  {details}".rstrip()


def subject(event: Facts) -> str:
    """Return the subject of an event: the id of a job, a queue or schedule by name, or ``all``."""
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
