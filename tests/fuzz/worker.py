"""A process that plays sessions in several threads, and reports what it played."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.fuzz.player import REPLY_TIMEOUT, Target, play
from tests.fuzz.reply_checker import RuleBroken
from tests.fuzz.session import Session
from tests.fuzz.session_maker import Maker, recorded

THREADS = 3
SAVED_SESSIONS = 30
"""Sessions that are saved with a failing one, since they may have caused the failure."""
MAX_FAILURES = 3
"""Failures after which a worker stops a round."""

Way = tuple[str, str]
"""A transport, and the role of the client; empty for a client that does not authenticate."""


class RoundOrders(NamedTuple):
    """The task of a worker for one round, which ends after some seconds or some accepted jobs."""

    seconds: float
    jobs: int
    kept: Sequence[int]


class Failure(NamedTuple):
    """A broken rule, and the sessions that led to it."""

    why: str
    sessions: list[Session]


class Tally(NamedTuple):
    """The sums of a round by kind, transport and role; the failures; and the ``last`` sessions."""

    sessions: Counter[tuple[str, str, str]]
    requests: Counter[tuple[str, str, str]]
    sent: Counter[tuple[str, str, str]]
    replies: Counter[str]
    jobs: list[int]
    failures: list[Failure]
    last: list[Session]


class Worker:
    """Plays sessions in threads; their names are the seed and a number that continues from round to round."""

    def __init__(self, place: Target, name: str, kinds: Sequence[str], ways: Sequence[Way]) -> None:
        self._place = place
        self._name = name
        self._inputs = [(kind, *way) for way in ways for kind in kinds]
        self._maker = Maker(recorded())
        self._numbers: Iterator[int] = count()
        self._lock = threading.Lock()

    def round(self, orders: RoundOrders) -> Tally:
        """Play for a round, and return its tally."""
        tally = Tally(Counter(), Counter(), Counter(), Counter(), [], [], [])
        until = time.monotonic() + orders.seconds
        with ThreadPoolExecutor(THREADS) as pool:
            for thread in [pool.submit(self._play, orders, tally, until) for _ in range(THREADS)]:
                thread.result()
        return tally

    def _play(self, orders: RoundOrders, tally: Tally, until: float) -> None:
        before: deque[Session] = deque(maxlen=SAVED_SESSIONS)
        try:
            self._play_some(orders, tally, until, before)
        finally:
            tally.last.extend(before)

    def _play_some(self, orders: RoundOrders, tally: Tally, until: float, before: deque[Session]) -> None:
        newest = max(orders.kept, default=0)
        while (
            time.monotonic() < until and len(tally.jobs) < orders.jobs and len(tally.failures) < MAX_FAILURES
        ):
            with self._lock:
                number = next(self._numbers)
            kind, transport, login = where = self._inputs[number % len(self._inputs)]
            session = self._maker.make(f"{self._name} {number}", kind, transport, login, orders.kept, newest)
            before.append(session)
            try:
                played = play(session, self._place, REPLY_TIMEOUT)
            except RuleBroken as why:
                tally.failures.append(Failure(str(why), list(before)))
                continue
            except OSError as why:
                tally.failures.append(Failure(f"the daemon cannot be reached: {why!r}", list(before)))
                return
            with self._lock:
                tally.sessions[where] += 1
                tally.requests[where] += len(played.reading.requests)
                tally.sent[where] += played.sent
                tally.replies.update(played.checker.replies)
                tally.jobs.extend(played.checker.jobs)
            newest = max(newest, *played.checker.jobs, 0)


def work(pipe: Connection, place: Target, name: str, kinds: Sequence[str], ways: Sequence[Way]) -> None:
    """Play the rounds that arrive through the pipe, until it is closed or sends None."""
    worker = Worker(place, name, kinds, ways)
    with suppress(EOFError):
        while (orders := pipe.recv()) is not None:
            pipe.send(worker.round(orders))
