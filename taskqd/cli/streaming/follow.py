"""``taskq follow``: what jobs print as it comes, over restarts of the daemon (docs/protocol.md §3, FOLLOW).

Each job has a connection, and of several each a thread that reads from it. All is written by the main thread,
out of one queue of a bounded length, so that a slow reader slows down the jobs' connections and nothing else.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import NamedTuple

from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.sanitize import sanitize_output
from taskqd.cli.display.text import coloured, has_colours
from taskqd.cli.job_output import content, printing
from taskqd.client import Client, Facts, Output, Ref, Refused, Unreachable, Untrusted
from taskqd.client.connection import ConnectionLost
from taskqd.client.reconnect import CONNECTION_LOST, RECONNECT_TIMEOUT, RECONNECTED, reconnect

MOST_JOBS = 100
"""So many may be followed at once: each has a connection and a thread."""
MOST_WAITING = 64
"""So many pieces of output wait at most to be written."""
LONGEST_LINE = 64 * 1024
"""A line of one of several jobs that has so many bytes and no end yet is written as if it had one."""

_COLOURS = (6, 3, 2, 5, 4, 1)


class Word(NamedTuple):
    """Something that a person should know of a job's connection."""

    text: str


Told = Output | Word | Facts
"""What comes of a job: its output, words, and at last the facts of how it ended."""


class Reading:
    """Reads what one job prints, from connection to connection, and knows how far it has come.

    A daemon that goes may take ``reconnect`` seconds to come back; between two tries ``pause`` is called. If
    the job ``is_known``, since it was just submitted, the daemon may be away at the beginning already.
    """

    def __init__(
        self,
        job: Ref,
        connect: Callable[[], Client],
        reconnect: float = RECONNECT_TIMEOUT,
        pause: Callable[[float], object] = time.sleep,
        *,
        is_known: bool = False,
    ) -> None:
        self._job = job
        self._connect = connect
        self._reconnect = reconnect
        self._pause = pause
        self._is_known = is_known
        self._offsets = {"stdout": 0, "stderr": 0}
        self._attempt: int | None = 0
        """The attempt that the offsets are about; None where that is not known for sure."""
        self._is_new = True

    def pieces(self) -> Iterator[Told]:
        """Yield what comes to the end of the job; raises Refused, and Unreachable after a long while.

        Where nothing comes, a piece without data does every tenth of a second.
        """
        client: Client | None = None
        deadline: float | None = None
        losses = 0
        while True:
            try:
                client = client or self._first_client()
                with client:
                    for told in self._to_the_end(client):
                        if deadline is not None:
                            yield Word(RECONNECTED)
                            deadline = None
                            losses = 0
                        yield told
                return
            except ConnectionLost:
                is_late = deadline is not None and deadline < time.monotonic()
                if (self._is_new and not self._is_known) or not self._reconnect or is_late:
                    raise
            if deadline is None:
                deadline = time.monotonic() + self._reconnect
                yield Word(CONNECTION_LOST)
            losses += 1
            client = reconnect(self._connect, deadline - time.monotonic(), self._pause, losses=losses)

    def _first_client(self) -> Client:
        try:
            return self._connect()
        except Untrusted:
            raise
        except Unreachable as error:
            raise ConnectionLost(str(error)) from None

    def _to_the_end(self, client: Client) -> Iterator[Told]:
        yield from self._follow(client)
        yield client.show(self._job)

    def _follow(self, client: Client) -> Iterator[Told]:
        attempts = client.show(self._job)["attempts"]
        if self._is_new:
            self._attempt = attempts
            self._is_new = False
        elif attempts != self._attempt:
            if any(self._offsets.values()):
                yield Word(f"job {self._job} runs again, so its output begins again")
            self._begin(attempts)
        for piece in client.follow(self._job, **self._offsets):
            if piece.data:
                self._note(client, piece)
            yield piece

    def _begin(self, attempt: int | None) -> None:
        self._attempt = attempt
        self._offsets = {"stdout": 0, "stderr": 0}

    def _note(self, client: Client, piece: Output) -> None:
        """Note how far we are; a piece that is not the next of its attempt is the first of a later one."""
        if self._attempt == 0 or piece.offset < self._offsets[piece.stream]:
            self._begin(self._later(client))
        self._offsets[piece.stream] = piece.offset + len(piece.data)

    def _later(self, client: Client) -> int | None:
        """Return the attempt behind the one we knew, None where there are several that it might be."""
        if self._attempt is None:
            return None
        with client.another() as asker:
            attempts: int = asker.show(self._job)["attempts"]
        return attempts if attempts == self._attempt + 1 else None


class Lines:
    """Writes what several jobs print as whole lines, each with its job before it.

    A terminal gets only what is harmless, and colours end with their line, unless they are to be ``is_raw``.
    """

    def __init__(self, jobs: Sequence[Ref], is_raw: bool = False) -> None:
        self._is_raw = is_raw
        width = max(len(str(job)) for job in jobs)
        self._names = {job: f"{job!s:>{width}}|" for job in jobs}
        self._colours = {job: _COLOURS[number % len(_COLOURS)] for number, job in enumerate(jobs)}
        self._begun: dict[tuple[Ref, str], bytearray] = {}

    def write(self, job: Ref, piece: Output) -> None:
        """Write the lines that are whole by this piece; the rest waits for its end."""
        begun = self._begun.setdefault((job, piece.stream), bytearray())
        if piece.offset == 0 and begun:  # of an attempt that has ended
            self._write(job, piece.stream, [bytes(begun)])
            begun.clear()
        begun += piece.data
        *whole, rest = bytes(begun).split(b"\n")
        if len(rest) >= LONGEST_LINE:
            whole.append(rest)
            rest = b""
        begun[:] = rest
        self._write(job, piece.stream, whole)

    def end(self, job: Ref) -> None:
        """Write what a job has printed that has no end of line."""
        for stream in ("stdout", "stderr"):
            if rest := self._begun.pop((job, stream), None):
                self._write(job, stream, [bytes(rest)])

    def _write(self, job: Ref, name: str, lines: Sequence[bytes]) -> None:
        stream = sys.stdout if name == "stdout" else sys.stderr
        before = coloured(self._names[job], self._colours[job], has_colours(stream)).encode() + b" "
        if stream.isatty() and not self._is_raw:
            # What goes back to its beginning would stand over the job's name: show what is seen in the end.
            lines = [
                sanitize_output(line.rstrip(b"\r").rpartition(b"\r")[2], stream.encoding) for line in lines
            ]
        if lines:
            # In one piece: there may be very many short ones.
            stream.buffer.write(before + (b"\n" + before).join(lines) + b"\n")
            stream.flush()


def follow(session: Session, jobs: Sequence[Ref], is_raw: bool) -> int:
    """Write what jobs print until all have ended; return the exit code of the first that did not do well.

    A terminal gets only what is harmless unless it ``is_raw``.
    """
    if len(jobs) == 1:
        return _follow_one(session, jobs[0], is_raw)
    lines = Lines(jobs, is_raw)
    codes: dict[Ref, int] = {}
    last = ""
    for job, told in _of_all(session, jobs):
        if isinstance(told, Output) and session.is_json:
            _say(session, job, told)
        elif isinstance(told, Output):
            lines.write(job, told)
        elif isinstance(told, Word):
            if told.text != last:  # each of the connections may say it
                session.complain(told.text)
            last = told.text
        else:
            lines.end(job)
            codes[job] = _end(session, job, told)
            last = ""
    return next((codes[job] for job in jobs if codes[job]), 0)


def _follow_one(session: Session, job: Ref, is_raw: bool) -> int:
    with printing(session, is_raw) as write:
        for told in Reading(job, session.connect_once, session.reconnect).pieces():
            if isinstance(told, Output) and not told.data:
                continue
            if isinstance(told, Output) and session.is_json:
                _say(session, job, told)
            elif isinstance(told, Output):
                write(told)
            elif isinstance(told, Word):
                session.complain(told.text)
            else:
                break
        else:
            raise AssertionError("a job's reading ends with its end")
    if session.is_json:
        session.say("", told)
    return session.printed(told, is_new=True)


def _say(session: Session, job: Ref, piece: Output) -> None:
    place = {"id": job, "stream": piece.stream, "offset": piece.offset}
    session.say("", {**place, **content("data", piece.data)})
    sys.stdout.flush()


def _end(session: Session, job: Ref, told: Facts | Exception) -> int:
    """Tell how one of several jobs has ended; return the exit code that stands for it."""
    if isinstance(told, Refused):
        return session.refuse(told, f"job {job}", {"id": job})
    if isinstance(told, Exception):
        raise told
    if session.is_json:
        session.say("", told)
        sys.stdout.flush()
    code = session.printed(told, is_new=True)
    is_said = told.get("reason") not in (None, "exit")
    if (
        not is_said
        and sys.stderr.isatty()
        and told["exit_code"] is not None
        and (told["exit_code"] or not code)
    ):
        session.complain(f"job {job} is {told['status']}, exit code {told['exit_code']}")
    return code or (REFUSED if told["status"] != "COMPLETED" else 0)


def _of_all(session: Session, jobs: Sequence[Ref]) -> Iterator[tuple[Ref, Told | Exception]]:
    """Yield what comes of the jobs, in the order in which it comes, until each has ended or failed."""
    waiting: Queue[tuple[Ref, Told | Exception]] = Queue(MOST_WAITING)

    def read(job: Ref) -> None:
        try:
            for told in Reading(job, session.connect_once, session.reconnect).pieces():
                if not isinstance(told, Output) or told.data:
                    waiting.put((job, told))
        except Exception as error:  # noqa: BLE001 - the main thread raises it, or tells it where it is a refusal
            waiting.put((job, error))

    for job in jobs:
        # A daemon thread: the end of the process need not wait for one that waits for its job.
        threading.Thread(target=read, args=(job,), daemon=True).start()
    left = len(jobs)
    while left:
        job, told = waiting.get()
        yield job, told
        left -= not isinstance(told, Output | Word)
