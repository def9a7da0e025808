"""Tells from the exit and the complaint of a shell that it did not start the command of an attempt."""

from taskqd.execution.command_line import CANNOT_ENTER, NOT_FOUND, SHELL
from taskqd.execution.messages import Start

MAX_REASON = 200
"""Characters of the shell's reason for an output file that it cannot open; the job may have printed them."""


def may_be_refused(start: Start) -> bool:
    """Whether a shell may be unable to start the command, and its message can be trusted."""
    return start.cwd is not None or start.interpreter is not None or bool(start.redirects)


def refusal(start: Start, exit_code: int, complaint: bytes) -> str | None:
    """Return why the shell did not start the command of an attempt, None if it did.

    ``complaint`` is the beginning of stderr. A job that prints the same is reported as not started.
    """
    if not may_be_refused(start) or exit_code not in (CANNOT_ENTER, NOT_FOUND):
        return None
    text = complaint.decode(start.encoding, "surrogateescape")
    line = text.partition("\n")[0]
    if not line.startswith(f"{SHELL}: "):
        return None
    if start.cwd is not None and "cd: " in line:
        cwd = _text(start, start.cwd)
        exists = exit_code == CANNOT_ENTER
        return f"the directory {cwd} may not be entered" if exists else f"there is no directory {cwd}"
    if start.interpreter is not None and start.interpreter in line:
        why = "may not be executed" if exit_code == CANNOT_ENTER else "is not there"
        return f"the interpreter {_text(start, start.interpreter)} that its script names {why}"
    for path in start.redirects if exit_code == CANNOT_ENTER else ():
        _, found, why = text.partition(f"{path}: ")  # the name may have several lines
        if found:
            reason = _text(start, why.partition("\n")[0][:MAX_REASON])
            return f"its output file {_text(start, path)} cannot be opened: {reason}"
    return None


def _text(start: Start, encoded: str) -> str:
    """Return a string of the message as text; bytes that are not UTF-8 are replaced."""
    return encoded.encode(start.encoding, "surrogateescape").decode("utf-8", "replace")
