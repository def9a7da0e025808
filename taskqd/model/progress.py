"""The progress that a job reports: lines with a percentage, and text behind it."""

import re
from typing import NamedTuple

MAX_TEXT = 200
"""Characters of a text; the rest is cut."""
TAIL_BYTES = 2048
"""Bytes at the end of the reports in which the last two lines are searched: two of MAX_TEXT characters."""

_REPORT = re.compile(rb"\s*([0-9]{1,3})(?:\.[0-9]*)?\s*%?(?:\s+(.*))?")


class Progress(NamedTuple):
    """How far a job has come: in percent, and in the job's words, without control characters."""

    percent: int = 0
    text: str = ""


def parse_reports(tail: bytes) -> Progress:
    """Return the progress in the last complete line of ``tail``, the last bytes of what a job has written.

    A line with only a percentage keeps the text of the line before it if that has the same percentage. So a
    job can write both lines for a daemon up to 0.9, which expects nothing behind a percentage.
    """
    *before, last = [Progress(), *map(_parse_line, tail.rpartition(b"\n")[0].splitlines()[-2:])]
    if not last.text and before and before[-1].percent == last.percent:
        return before[-1]
    return last


def _parse_line(line: bytes) -> Progress:
    report = _REPORT.fullmatch(line)
    if report is None:
        return Progress()
    text = (report[2] or b"").decode("utf-8", "replace")
    cleaned = "".join(character if character.isprintable() else " " for character in text).strip()
    return Progress(min(int(report[1]), 100), cleaned[:MAX_TEXT])
