"""A few threads that call what they are handed, while the reactor goes on."""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.speedups import descriptor_table
from taskqd.speedups.batch import BatchScope

Value = TypeVar("Value")


@implementer(IReadDescriptor)
class WorkerThreads(Generic[Value]):
    """Up to ``most`` threads, which are there from the first call on; ``name`` is what they are called.

    It is handed over and back by less than Twisted's ThreadPool takes: for what is called a thousand times a
    second that counts. What has come back meanwhile is told of in one round.

    Each has a table of descriptors of its own where the kernel allows that, so it must not use any other
    than those that it has borrowed (descriptor_table.py). What wakes the reactor is the one that it keeps.
    """

    _log = Logger()

    def __init__(self, reactor: Any, most: int, name: str, together: BatchScope) -> None:
        self._reactor = reactor
        self._most = most
        self._name = name
        self._together = together
        self._calls: SimpleQueue[tuple[Callable[[], Value], Callable[[Value | Exception], None]] | None]
        self._calls = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._returned: deque[tuple[Callable[[Value | Exception], None], Value | Exception]] = deque()
        self._bell = -1
        self._is_rung = False

    def call(self, function: Callable[[], Value], done: Callable[[Value | Exception], None]) -> None:
        """Call ``function`` in a thread, then ``done`` in the reactor's with what it returned or raised.

        Raises OSError, having called neither, if there is no thread and none can be started.
        """
        if self._bell < 0:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._reactor.addReader(self)
        if len(self._threads) < self._most:
            self._add_thread()
        self._calls.put((function, done))

    def _add_thread(self) -> None:
        """Start one more thread; without room for it those that there are go on alone."""
        is_first = not self._threads
        thread = threading.Thread(target=self._work, args=(is_first,), name=self._name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as why:  # what Python raises for any error of pthread_create(3)
            self._threads.pop()
            if not self._threads:
                raise OSError(errno.EAGAIN, f"{why} ({os.strerror(errno.EAGAIN)})") from None

    def stop(self) -> None:
        """End the threads once all is called that was handed to them, and tell what that came to."""
        if self._bell < 0:
            return
        for _ in self._threads:
            self._calls.put(None)
        while self._threads:
            self._threads.pop().join()
        self._reactor.removeReader(self)
        os.close(self._bell)
        self._bell = -1
        self._tell()

    def _work(self, is_first: bool) -> None:
        bell = self._enter(is_first)
        while (call := self._calls.get()) is not None:
            function, done = call
            result: Value | Exception
            try:
                result = function()
            except Exception as why:  # noqa: BLE001 - whoever handed it over is told
                result = why
            self._returned.append((done, result))
            if not self._is_rung:
                self._is_rung = True
                os.eventfd_write(bell, 1)

    def _enter(self, is_first: bool) -> int:
        """Leave the others' descriptors alone if that can be; returns the one to ring the bell by.

        The thread that ``is_first`` logs it if not.
        """
        try:
            return descriptor_table.leave(self._bell)
        except OSError as why:
            if is_first:
                self._log.info(
                    "this system lets no thread have descriptors of its own ({why}): with thousands of "
                    "clients a start takes longer",
                    why=why,
                )
            return self._bell

    # What the reactor calls.

    def fileno(self) -> int:
        """Return the descriptor that is ready once something has come back."""
        return self._bell

    def logPrefix(self) -> str:
        """Return by what the log names this."""
        return self._name

    def doRead(self) -> None:
        """Tell of all that has come back."""
        os.eventfd_read(self._bell)
        self._tell()

    def connectionLost(self, reason: Failure) -> None:
        """Nothing is left to be told: the reactor stops."""

    def _tell(self) -> None:
        self._is_rung = False  # first: what returns from here on is told of now, or rings again
        self._together.begin()
        while self._returned:
            done, result = self._returned.popleft()
            try:
                done(result)
            except Exception:  # noqa: BLE001 - it must not keep the others from being told
                self._log.failure("whoever is told what a call came to met a bug")
        self._together.end()
