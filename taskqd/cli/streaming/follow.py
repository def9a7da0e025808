"""``taskq follow``: prints the output of jobs as it arrives, also across restarts of the daemon.

Each job has a connection, and with several jobs also a thread that reads from it. The main thread writes all
output from a bounded queue, so that slow writing slows down the connections.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Queue

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.sanitize import sanitize_output
from taskqd.cli.display.text import coloured, has_colours
from taskqd.cli.job_output import bytes_field, print_output
from taskqd.cli.streaming.job_follower import Item, JobFollower, Notice
from taskqd.client import Facts, Output, Ref, Refused

MAX_JOBS = 100
"""Maximum number of jobs: each needs a connection and a thread."""
MAX_QUEUED_ITEMS = 64
"""Maximum number of items from connections that wait to be written."""
MAX_LINE_BYTES = 64 * 1024
"""With several jobs, a line without an end is written when it reaches this length (bytes)."""
PROGRESS_INTERVAL = 0.5
"""Minimum time between two states of a progress bar that are written for a job (seconds)."""

_COLOURS = (6, 3, 2, 5, 4, 1)


class LineWriter:
    """Writes the output of several jobs as whole lines, each after the id of its job.

    On a terminal, lines are sanitized and colours end with their line, unless ``is_raw``. A line that a job
    writes again and again after carriage returns, a progress bar, is written each PROGRESS_INTERVAL there.
    """

    def __init__(
        self, jobs: Sequence[Ref], is_raw: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._progress: dict[tuple[Ref, str], tuple[float, bytes]] = {}
        self._is_raw = is_raw
        width = max(len(str(job)) for job in jobs)
        self._prefixes = {job: f"{job!s:>{width}}|" for job in jobs}
        self._colours = {job: _COLOURS[number % len(_COLOURS)] for number, job in enumerate(jobs)}
        self._incomplete: dict[tuple[Ref, str], bytearray] = {}

    def write(self, job: Ref, piece: Output) -> None:
        """Write the lines that this piece completes; the rest is kept until its end arrives."""
        line = self._incomplete.setdefault((job, piece.stream), bytearray())
        if piece.offset == 0 and line:  # left by an earlier attempt
            self._write(job, piece.stream, [bytes(line)])
            line.clear()
        line += piece.data
        *complete, rest = bytes(line).split(b"\n")
        if len(rest) >= MAX_LINE_BYTES:
            complete.append(rest)
            rest = b""
        line[:] = rest
        self._write(job, piece.stream, complete)
        self._write_progress(job, piece.stream, line)

    def _write_progress(self, job: Ref, name: str, line: bytearray) -> None:
        """Write the last state of an incomplete line that has carriage returns, and keep only that."""
        stream = sys.stdout if name == "stdout" else sys.stderr
        if b"\r" not in line or self._is_raw or not stream.isatty():
            return
        now = self._clock()
        before, shown = self._progress.get((job, name), (-PROGRESS_INTERVAL, b""))
        state = _last_state(bytes(line))
        if now - before >= PROGRESS_INTERVAL and state != shown:
            self._write(job, name, [state])
            self._progress[job, name] = now, state
        line[:] = state + b"\r" * line.endswith(b"\r")

    def finish(self, job: Ref) -> None:
        """Write the incomplete last lines of a job."""
        for stream in ("stdout", "stderr"):
            if rest := self._incomplete.pop((job, stream), None):
                self._write(job, stream, [bytes(rest)])

    def _write(self, job: Ref, name: str, lines: Sequence[bytes]) -> None:
        stream = sys.stdout if name == "stdout" else sys.stderr
        before = coloured(self._prefixes[job], self._colours[job], has_colours(stream)).encode() + b" "
        if stream.isatty() and not self._is_raw:
            # A carriage return would overwrite the prefix, so only the text after the last one is written.
            states = [_last_state(line) for line in lines]
            _, shown = self._progress.pop((job, name), (0.0, None)) if states else (0.0, None)
            lines = [sanitize_output(state, stream.encoding) for state in states[states[:1] == [shown] :]]
        if lines:
            # A single write, since there may be many short lines.
            stream.buffer.write(before + (b"\n" + before).join(lines) + b"\n")
            stream.flush()


def _last_state(line: bytes) -> bytes:
    """Return what a terminal would show of a line with carriage returns."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def follow(session: Session, jobs: Sequence[Ref], is_raw: bool) -> int:
    """Print the output of jobs until all have ended; return the exit code of the first that did not succeed.

    Output to a terminal is sanitized unless ``is_raw``.
    """
    if len(jobs) == 1:
        return _follow_one(session, jobs[0], is_raw)
    writer = LineWriter(jobs, is_raw)
    codes: dict[Ref, int] = {}
    last_notice = ""
    for job, item in _items_of_all(session, jobs):
        if isinstance(item, Output) and session.is_json:
            _print_json(session, job, item)
        elif isinstance(item, Output):
            writer.write(job, item)
        elif isinstance(item, Notice):
            if item.text != last_notice:  # every connection may report it
                session.print_message(item.text)
            last_notice = item.text
        else:
            writer.finish(job)
            codes[job] = _print_end(session, job, item)
            last_notice = ""
    return next((codes[job] for job in jobs if codes[job]), 0)


def _follow_one(session: Session, job: Ref, is_raw: bool) -> int:
    with print_output(session, is_raw) as write:
        for item in JobFollower(job, session.connect_once, session.reconnect_timeout).items():
            if isinstance(item, Output) and not item.data:
                continue
            if isinstance(item, Output) and session.is_json:
                _print_json(session, job, item)
            elif isinstance(item, Output):
                write(item)
            elif isinstance(item, Notice):
                session.print_message(item.text)
            else:
                break
        else:
            raise AssertionError("JobFollower.items ends with the facts of the job")
    if session.is_json:
        session.print_answer("", item)
    return session.exit_code_after_output(item, is_new=True)


def _print_json(session: Session, job: Ref, piece: Output) -> None:
    place = {"id": job, "stream": piece.stream, "offset": piece.offset}
    session.print_answer("", {**place, **bytes_field("data", piece.data)})
    sys.stdout.flush()


def _print_end(session: Session, job: Ref, item: Facts | Exception) -> int:
    """Print how one of several jobs has ended; return its exit code."""
    if isinstance(item, Refused):
        return session.print_refusal(item, f"job {job}", {"id": job})
    if isinstance(item, Exception):
        raise item
    if session.is_json:
        session.print_answer("", item)
        sys.stdout.flush()
    code = session.exit_code_after_output(item, is_new=True)
    is_reported = item.get("reason") not in (None, "exit")
    if (
        not is_reported
        and sys.stderr.isatty()
        and item["exit_code"] is not None
        and (item["exit_code"] or not code)
    ):
        session.print_message(f"job {job} is {item['status']}, exit code {item['exit_code']}")
    return code or (REFUSED if item["status"] != "COMPLETED" else 0)


def _items_of_all(session: Session, jobs: Sequence[Ref]) -> Iterator[tuple[Ref, Item | Exception]]:
    """Yield the items of all jobs in the order of arrival, until each job has ended or failed."""
    items: Queue[tuple[Ref, Item | Exception]] = Queue(MAX_QUEUED_ITEMS)

    def read(job: Ref) -> None:
        try:
            for item in JobFollower(job, session.connect_once, session.reconnect_timeout).items():
                if not isinstance(item, Output) or item.data:
                    items.put((job, item))
        except Exception as error:  # noqa: BLE001 - the main thread raises or prints it
            items.put((job, error))

    for job in jobs:
        # A daemon thread does not delay the exit while it waits for its job.
        threading.Thread(target=read, args=(job,), daemon=True).start()
    left = len(jobs)
    while left:
        job, item = items.get()
        yield job, item
        left -= not isinstance(item, Output | Notice)
