"""The thread that commits batches, so that a slow or frozen disk does not block the reactor."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorFromThreads

Item = TypeVar("Item")

MAX_WAIT = 0.005
"""Seconds that the reactor waits for a commit. Longer syncs than this must not delay all clients."""


class CommitThread(Generic[Item]):
    """Calls ``commit(batch)`` in one thread, for one batch after the other.

    The caller submits a batch once the one before it has been committed. It either waits for the outcome, or
    ``on_committed(batch, error)`` is called later in the reactor's thread.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        commit: Callable[[list[Item]], None],
        on_committed: Callable[[list[Item], Exception | None], None],
    ) -> None:
        self._reactor = reactor
        self._commit = commit
        self._on_committed = on_committed
        self._batches: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        self._lock = Lock()  # guards is_awaited
        self.is_awaited = False
        self._thread: Thread | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread has been started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Call it after twistd has forked: threads do not survive a fork."""
        self._thread = Thread(target=self._run, name="taskqd-journal", daemon=True)
        self._thread.start()

    def submit(self, batch: list[Item]) -> None:
        """Commit a batch and return at once; ``on_committed`` is called later."""
        self._batches.put(batch)

    def submit_and_wait(self, batch: list[Item]) -> tuple[bool, Exception | None]:
        """Commit a batch and wait up to MAX_WAIT; return (True, its error or None) if it has finished.

        Else return (False, None), and ``on_committed`` is called later.
        """
        self.is_awaited = True
        self._batches.put(batch)
        try:
            return True, self._outcomes.get(timeout=MAX_WAIT)
        except Empty:
            with self._lock:
                is_late, self.is_awaited = self.is_awaited, False
        return (False, None) if is_late else (True, self._outcomes.get())

    def stop(self) -> None:
        """End the thread after the batches that were submitted; blocks until it has ended."""
        self._batches.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            error = self._try_commit(batch)
            with self._lock:
                is_awaited, self.is_awaited = self.is_awaited, False
            if is_awaited:
                self._outcomes.put(error)
            else:
                self._reactor.callFromThread(self._on_committed, batch, error)

    def _try_commit(self, batch: list[Item]) -> Exception | None:
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001 - if the thread died, no append would ever finish
            return error
        return None
