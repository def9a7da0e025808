"""A process that plays sessions, several at a time, for as long as it is told, and tells what it tried."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.fuzz.hearing import Broken
from tests.fuzz.makers import Maker, recorded
from tests.fuzz.player import PATIENCE, Place, play
from tests.fuzz.session import Session

THREADS = 3
REMEMBERED = 30
"""With a failing session so many before it are kept: it may be they that matter."""
MAX_AUTH_FAILURES = 3
"""A worker that has met so many in one round stops it."""

Way = tuple[str, str]
"""A transport, and the role of who comes over it; empty for a stranger."""


class Orders(NamedTuple):
    """What a worker is to do in one round: for so many seconds, or until so many jobs have got in."""

    seconds: float
    jobs: int
    kept: Sequence[int]


class Failure(NamedTuple):
    """A rule that did not hold, and the sessions that led there."""

    why: str
    sessions: list[Session]


class Tally(NamedTuple):
    """What a round tried, by kind, transport and role, and what came of it; and its ``last`` sessions."""

    sessions: Counter[tuple[str, str, str]]
    requests: Counter[tuple[str, str, str]]
    sent: Counter[tuple[str, str, str]]
    replies: Counter[str]
    jobs: list[int]
    failures: list[Failure]
    last: list[Session]


class Worker:
    """Plays sessions in threads; their names come from the seed, and count on from round to round."""

    def __init__(self, place: Place, name: str, kinds: Sequence[str], ways: Sequence[Way]) -> None:
        self._place = place
        self._name = name
        self._inputs = [(kind, *way) for way in ways for kind in kinds]
        self._maker = Maker(recorded())
        self._numbers: Iterator[int] = count()
        self._lock = threading.Lock()

    def round(self, orders: Orders) -> Tally:
        """Play for a round, and tell what was played."""
        tally = Tally(Counter(), Counter(), Counter(), Counter(), [], [], [])
        until = time.monotonic() + orders.seconds
        with ThreadPoolExecutor(THREADS) as pool:
            for thread in [pool.submit(self._play, orders, tally, until) for _ in range(THREADS)]:
                thread.result()
        return tally

    def _play(self, orders: Orders, tally: Tally, until: float) -> None:
        before: deque[Session] = deque(maxlen=REMEMBERED)
        try:
            self._play_some(orders, tally, until, before)
        finally:
            tally.last.extend(before)

    def _play_some(self, orders: Orders, tally: Tally, until: float, before: deque[Session]) -> None:
        newest = max(orders.kept, default=0)
        while (
            time.monotonic() < until
            and len(tally.jobs) < orders.jobs
            and len(tally.failures) < MAX_AUTH_FAILURES
        ):
            with self._lock:
                number = next(self._numbers)
            kind, transport, login = where = self._inputs[number % len(self._inputs)]
            session = self._maker.make(f"{self._name} {number}", kind, transport, login, orders.kept, newest)
            before.append(session)
            try:
                played = play(session, self._place, PATIENCE)
            except Broken as why:
                tally.failures.append(Failure(str(why), list(before)))
                continue
            except OSError as why:
                tally.failures.append(Failure(f"the daemon cannot be reached: {why!r}", list(before)))
                return
            with self._lock:
                tally.sessions[where] += 1
                tally.requests[where] += len(played.reading.asked)
                tally.sent[where] += played.sent
                tally.replies.update(played.ear.replies)
                tally.jobs.extend(played.ear.jobs)
            newest = max(newest, *played.ear.jobs, 0)


def work(pipe: Connection, place: Place, name: str, kinds: Sequence[str], ways: Sequence[Way]) -> None:
    """Do the rounds that the pipe asks for, until it asks for none, or whoever asks is gone."""
    worker = Worker(place, name, kinds, ways)
    with suppress(EOFError):
        while (orders := pipe.recv()) is not None:
            pipe.send(worker.round(orders))
