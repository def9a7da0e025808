"""The threads for calls that block, such as reading and writing the spool."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

MAX_THREADS = 4


class IOThreads:
    """A thread pool that falls back to the calling thread if the machine has no room for another one."""

    _log = Logger()

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, MAX_THREADS, "taskqd-spool")
        self._is_out_of_threads = False

    def start(self) -> None:
        """Start threads when there are calls for them."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for the calls that were made, and end the threads."""
        self._pool.stop()

    def run(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        """Call a blocking function in a thread; fire with its result.

        If no thread can be started, the reactor thread makes the call: slow is better than not at all.
        """
        try:
            called = deferToThreadPool(self._reactor, self._pool, function, *args)
        except RuntimeError as why:
            if not is_thread_shortage(why):
                raise
            # A thread that did not start cannot be joined when the pool stops.
            self._pool.threads[:] = [thread for thread in self._pool.threads if thread.ident is not None]
            if not self._is_out_of_threads:
                self._log.warn(
                    "no thread can be started, so the daemon itself waits: {why}; raise TasksMax of the "
                    "unit, or ulimit -u",
                    why=why,
                )
            self._is_out_of_threads = True
            return maybeDeferred(function, *args)
        self._is_out_of_threads = False
        return called


def is_thread_shortage(why: RuntimeError) -> bool:
    """Whether Python reports that the system has no room for another thread."""
    return "can't start new thread" in str(why)
