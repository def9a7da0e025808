"""Group commit: one thread that makes what has gathered durable, while the next batch gathers.

The reactor hands over a batch and gets it back when one fdatasync has covered it all, or with the error that
kept it from that. A failed write or sync is final: the kernel may have dropped the pages that it could not
write, so nothing that comes after could be trusted to stand on what came before.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

Item = TypeVar("Item")


class Committer(Generic[Item]):
    """Takes items one by one, and passes them to ``commit`` in batches, in another thread, in order.

    ``commit(items)`` returns when they are durable or raises; then ``done(items, error)`` is called
    in the reactor's thread, in the order of the batches. ``is_busy`` tells whether any batch is under way.
    """

    def __init__(
        self,
        reactor: Any,
        commit: Callable[[list[Item]], None],
        done: Callable[[list[Item], Exception | None], None],
    ) -> None:
        self._reactor = reactor
        self._commit = commit
        self._done = done
        self._gathered: list[Item] = []
        self.is_busy = False
        self._batches: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._idle: Deferred[None] | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread; it is made only now, since twistd forks before."""
        self._thread = Thread(target=self._run, name="taskqd-journal", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Have an item committed with whatever else has gathered by then."""
        self._gathered.append(item)
        if not self.is_busy:
            self._hand_over()

    def stop(self) -> "Deferred[None]":
        """Commit what has gathered, end the thread, and fire."""
        idle: Deferred[None] = Deferred()
        idle.addCallback(self._join)
        if self.is_busy:
            self._idle = idle
        else:
            idle.callback(None)
        return idle

    def _join(self, _: None) -> None:
        self._batches.put(None)
        if self._thread is not None:
            self._thread.join()

    def _hand_over(self) -> None:
        self.is_busy = True
        batch, self._gathered = self._gathered, []
        self._batches.put(batch)

    def _returned(self, batch: list[Item], error: Exception | None) -> None:
        self.is_busy = False
        if self._gathered:
            self._hand_over()
        self._done(batch, error)
        if self._idle is not None and not self.is_busy:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            error: Exception | None = None
            try:
                self._commit(batch)
            except Exception as why:  # noqa: BLE001 - a thread that dies would leave everybody waiting
                error = why
            self._reactor.callFromThread(self._returned, batch, error)
