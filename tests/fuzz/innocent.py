"""Somebody else, who asks for little and one thing at a time, and notes how long the answers take."""

import statistics
import time
from collections import defaultdict
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.end_to_end.wire import Wire
from tests.fuzz.player import Place, connected

PAUSE = 0.005


class Waited(NamedTuple):
    """How long the replies to one verb took, in seconds."""

    replies: int
    median: float
    p99: float
    worst: float


def summary(times: list[float]) -> Waited:
    """Return what is to be told of the times of some replies, of which there is at least one."""
    ordered = sorted(times)
    return Waited(
        len(ordered), statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]
    )


class Innocent:
    """A client that pings, submits, looks, cancels and removes, and notes how long each reply takes.

    Its jobs are there for all: a fuzzer may have cancelled or removed one before it does.
    """

    def __init__(self, place: Place) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self._wire = Wire(connected(place, "unix"))

    def close(self) -> None:
        self._wire.close()

    def turn(self) -> None:
        """Ask for one thing of each kind; fails where an answer is not what it must be."""
        assert self._ask("PING") == "OK"
        word, _, job = self._ask("SUBMIT --hold --label=innocent true").partition(" ")
        assert word == "JOB_ID", (word, job)
        for verb, expected in (("STATUS", "STATUS"), ("SHOW", "JOB"), ("CANCEL", "STATUS"), ("REMOVE", "OK")):
            reply = self._ask(f"{verb} {job}")
            assert reply.split(" ")[0] == expected or reply.startswith(("ERROR GONE", "ERROR WRONG_STATE")), (
                reply
            )

    def _ask(self, request: str) -> str:
        began = time.perf_counter()
        reply = self._wire.ask(request)
        self.times[request.partition(" ")[0]].append(time.perf_counter() - began)
        return reply


def ask(pipe: Connection, place: Place) -> None:
    """Work whenever the pipe says so, until it says something again; then tell the times by verb.

    What is told is text instead where something was not answered as it must be.
    """
    with suppress(EOFError):
        while pipe.recv():
            pipe.send(_turns(pipe, place))


def _turns(pipe: Connection, place: Place) -> dict[str, list[float]] | str:
    try:
        innocent = Innocent(place)
        while not pipe.poll(PAUSE):
            innocent.turn()
        innocent.close()
    except (AssertionError, OSError) as why:
        return f"somebody who asks for little: {why!r}"
    finally:
        pipe.recv()
    return dict(innocent.times)
