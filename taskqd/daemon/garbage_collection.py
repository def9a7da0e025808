"""Garbage collection that never looks at what lives for long, such as jobs and open connections.

Python's full collections walk all objects: 10,000 open connections take 0.2 s, in which no request is served.
Here the objects that survive a collection of young ones are frozen (gc.freeze), so that no later collection
looks at them. They are freed when the last reference to them is removed; only if they form a cycle, that does
not happen, and they leak. So there is a full collection if the daemon has much more memory than its jobs and
connections explain (docs/decisions/0065).
"""

import gc
import sys
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

YOUNG_THRESHOLD = 5_000
"""Number of new objects after which Python looks for garbage among them; its default is 700."""
MIDDLE_THRESHOLD = 5
"""Collections of new objects before those that survived one are collected and frozen; the default is 10.

While thousands of clients connect, that takes 10 ms in place of 20.
"""
CHECK_INTERVAL = 60.0
"""Seconds between two checks for a leak: one takes 1 ms per GiB of memory."""
JOB_BLOCKS = 20
"""Blocks of memory that a job explains: an ordinary one has 6, one with labels and variables up to 20."""
CONNECTION_BLOCKS = 500
"""Blocks of memory that a connection explains: one without requests has about 100."""
MIN_BLOCKS = 1_000_000
"""Blocks below which there is no full collection: about 64 MiB."""
MAX_GROWTH = 2
"""How many times as many blocks as are explained there may be."""


class GarbageCollection:
    """Freezes what survives, and collects everything if objects leak.

    ``job_count`` and ``connection_count`` return how many there are now.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, job_count: Callable[[], int], connection_count: Callable[[], int]
    ) -> None:
        self._job_count = job_count
        self._connection_count = connection_count
        self._base = 0
        self._thresholds = gc.get_threshold()
        self._loop = LoopingCall(self.check)
        self._loop.clock = clock

    def start(self) -> None:
        """Freeze all that exists, and from now on what survives."""
        gc.freeze()
        gc.set_threshold(YOUNG_THRESHOLD, MIDDLE_THRESHOLD)
        gc.callbacks.append(self._on_collection)
        self._set_base()
        self._loop.start(CHECK_INTERVAL, now=False).addErrback(self._on_failure)

    def stop(self) -> None:
        """Let Python collect garbage as usual."""
        if self._loop.running:
            self._loop.stop()
            gc.callbacks.remove(self._on_collection)
            gc.set_threshold(*self._thresholds)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] > 0:
            gc.freeze()

    @property
    def max_blocks(self) -> int:
        """The number of allocated blocks above which objects are taken to leak."""
        return max(MIN_BLOCKS, MAX_GROWTH * (self._base + self._explained()))

    def _explained(self) -> int:
        return JOB_BLOCKS * self._job_count() + CONNECTION_BLOCKS * self._connection_count()

    def _set_base(self) -> None:
        """Take what jobs and connections do not explain now as needed by the daemon itself."""
        self._base = max(0, sys.getallocatedblocks() - self._explained())

    def check(self) -> None:
        """Collect all garbage if there are more blocks than ``max_blocks``."""
        before, limit = sys.getallocatedblocks(), self.max_blocks
        if before <= limit:
            return
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._set_base()
        self._log.info(
            "{before} blocks of memory were in use, more than {limit}: collected garbage; {after} are left",
            before=before,
            limit=limit,
            after=sys.getallocatedblocks(),
        )

    def _on_failure(self, failure: Failure) -> None:
        self._log.failure("internal error: memory is not checked for leaks any more", failure)
