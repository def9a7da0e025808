"""A small thread pool that returns its results to the reactor in batches."""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.speedups import descriptor_table
from taskqd.speedups.batch import BatchScope

Value = TypeVar("Value")


@implementer(IReadDescriptor)
class WorkerThreads(Generic[Value]):
    """Up to ``max_threads`` threads with a common ``name``; they are started by the first calls.

    A call costs less than with Twisted's ThreadPool, which counts for a thousand calls per second. All
    results that have arrived when the reactor wakes up are one batch.

    If the kernel allows it, each thread has its own descriptor table: a call must use only descriptors that
    it has borrowed (descriptor_table.py). The thread keeps the eventfd(2) that wakes the reactor.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorFDSet, max_threads: int, name: str, batches: BatchScope) -> None:
        self._reactor = reactor
        self._max_threads = max_threads
        self._name = name
        self._batches = batches
        self._calls: SimpleQueue[tuple[Callable[[], Value], Callable[[Value | Exception], None]] | None]
        self._calls = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._results: deque[tuple[Callable[[Value | Exception], None], Value | Exception]] = deque()
        self._wakeup_fd = -1
        self._is_signalled = False

    def call(self, function: Callable[[], Value], on_done: Callable[[Value | Exception], None]) -> None:
        """Call ``function`` in a thread, then ``on_done`` in the reactor's with what it returned or raised.

        Raises OSError if there is no thread and none can be started; then neither is called.
        """
        if self._wakeup_fd < 0:
            self._wakeup_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._reactor.addReader(self)
        if len(self._threads) < self._max_threads:
            self._add_thread()
        self._calls.put((function, on_done))

    def _add_thread(self) -> None:
        """Start one more thread; if the system refuses, the existing ones do all work."""
        is_first = not self._threads
        thread = threading.Thread(target=self._work, args=(is_first,), name=self._name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as why:  # Python raises this for any error of pthread_create(3)
            self._threads.pop()
            if not self._threads:
                raise OSError(errno.EAGAIN, f"{why} ({os.strerror(errno.EAGAIN)})") from None

    def stop(self) -> None:
        """Finish all calls that were made, report their results, and end the threads."""
        if self._wakeup_fd < 0:
            return
        for _ in self._threads:
            self._calls.put(None)
        while self._threads:
            self._threads.pop().join()
        self._reactor.removeReader(self)
        os.close(self._wakeup_fd)
        self._wakeup_fd = -1
        self._report()

    def _work(self, is_first: bool) -> None:
        wakeup_fd = self._unshare(is_first)
        while (call := self._calls.get()) is not None:
            function, on_done = call
            result: Value | Exception
            try:
                result = function()
            except Exception as why:  # noqa: BLE001 - it is passed to the callback
                result = why
            self._results.append((on_done, result))
            if not self._is_signalled:
                self._is_signalled = True
                os.eventfd_write(wakeup_fd, 1)

    def _unshare(self, is_first: bool) -> int:
        """Leave the shared descriptor table if the kernel allows it; return the eventfd of this thread.

        If the kernel does not, the first thread logs that.
        """
        try:
            return descriptor_table.unshare(self._wakeup_fd)
        except OSError as why:
            if is_first:
                self._log.info(
                    "threads cannot have their own descriptor tables on this system ({why}); with thousands "
                    "of clients, starting a job takes longer",
                    why=why,
                )
            return self._wakeup_fd

    # What the reactor calls.

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are results."""
        return self._wakeup_fd

    def logPrefix(self) -> str:
        """Return the name for the log."""
        return self._name

    def doRead(self) -> None:
        """Report all results that there are."""
        os.eventfd_read(self._wakeup_fd)
        self._report()

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the reactor stops."""

    def _report(self) -> None:
        self._is_signalled = False  # first: later results are reported now, or wake the reactor again
        self._batches.begin()
        while self._results:
            on_done, result = self._results.popleft()
            try:
                on_done(result)
            except Exception:  # noqa: BLE001 - the other results must still be reported
                self._log.failure("unexpected error in the callback of {name}", name=self._name)
        self._batches.end()
