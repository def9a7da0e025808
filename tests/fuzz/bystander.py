"""A client that sends one request at a time during a campaign, and measures the replies."""

import statistics
import time
from collections import defaultdict
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.end_to_end.wire import Wire
from tests.fuzz.player import Target, connected

PAUSE = 0.005


class Latency(NamedTuple):
    """Times of the replies to one verb, in seconds."""

    replies: int
    median: float
    p99: float
    worst: float


def summary(times: list[float]) -> Latency:
    """Summarize the times of some replies; there must be at least one."""
    ordered = sorted(times)
    return Latency(
        len(ordered), statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]
    )


class Bystander:
    """A client that pings, submits, queries, cancels and removes, and measures each reply.

    A fuzzer may cancel or remove its jobs before it does so itself.
    """

    def __init__(self, place: Target) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self._wire = Wire(connected(place, "unix"))

    def close(self) -> None:
        self._wire.close()

    def run_once(self) -> None:
        """Send one request of each kind; fails if a reply is wrong."""
        assert self._request("PING") == "OK"
        word, _, job = self._request("SUBMIT --hold --label=bystander true").partition(" ")
        assert word == "JOB_ID", (word, job)
        for verb, expected in (("STATUS", "STATUS"), ("SHOW", "JOB"), ("CANCEL", "STATUS"), ("REMOVE", "OK")):
            reply = self._request(f"{verb} {job}")
            assert reply.split(" ")[0] == expected or reply.startswith(("ERROR GONE", "ERROR WRONG_STATE")), (
                reply
            )

    def _request(self, request: str) -> str:
        began = time.perf_counter()
        reply = self._wire.ask(request)
        self.times[request.partition(" ")[0]].append(time.perf_counter() - began)
        return reply


def measure(pipe: Connection, place: Target) -> None:
    """Measure from one message of the pipe to the next, and send the times by verb through it.

    A text is sent instead if a reply was wrong.
    """
    with suppress(EOFError):
        while pipe.recv():
            pipe.send(_measure(pipe, place))


def _measure(pipe: Connection, place: Target) -> dict[str, list[float]] | str:
    try:
        bystander = Bystander(place)
        while not pipe.poll(PAUSE):
            bystander.run_once()
        bystander.close()
    except (AssertionError, OSError) as why:
        return f"the bystander got a wrong reply: {why!r}"
    finally:
        pipe.recv()
    return dict(bystander.times)
