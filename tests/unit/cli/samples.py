"""Replies and options for the tests of commands."""

import json

AT = "2026-11-24T07:00:00.000Z"

SUBMITTED = b"JOB_ID 7\r\n"

PLAIN = ("--cwd", "/", "--umask", "022", "--env", "PATH=/bin")
"""Options that override the defaults from the environment of taskq."""


def event(sequence: int, kind: str, **more: object) -> bytes:
    """Return an EVENT reply."""
    return b"EVENT %d " % sequence + json.dumps({"at": AT, "type": kind, "id": 7, **more}).encode() + b"\r\n"
