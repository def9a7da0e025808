"""A few threads that call what they are handed, while the reactor goes on."""

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from twisted.logger import Logger

from taskqd.together import Together

Value = TypeVar("Value")


class Workers(Generic[Value]):
    """Up to ``most`` threads, which are there from the first call on; ``name`` is what they are called.

    It is handed over and back by less than Twisted's ThreadPool takes: for what is called a thousand times a
    second that counts. What has come back meanwhile is told of in one round.
    """

    _log = Logger()

    def __init__(self, reactor: Any, most: int, name: str, together: Together) -> None:
        self._reactor = reactor
        self._most = most
        self._name = name
        self._together = together
        self._calls: SimpleQueue[tuple[Callable[[], Value], Callable[[Value | Exception], None]] | None]
        self._calls = SimpleQueue()
        self._threads: list[Thread] = []
        self._returned: deque[tuple[Callable[[Value | Exception], None], Value | Exception]] = deque()
        self._is_called_for = False

    def call(self, function: Callable[[], Value], done: Callable[[Value | Exception], None]) -> None:
        """Call ``function`` in a thread, then ``done`` in the reactor's with what it returned or raised."""
        if len(self._threads) < self._most:
            thread = Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._calls.put((function, done))

    def stop(self) -> None:
        """End the threads once all is called that was handed to them."""
        for _ in self._threads:
            self._calls.put(None)
        while self._threads:
            self._threads.pop().join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, done = call
            result: Value | Exception
            try:
                result = function()
            except Exception as why:  # noqa: BLE001 - whoever handed it over is told
                result = why
            self._returned.append((done, result))
            if not self._is_called_for:
                self._is_called_for = True
                self._reactor.callFromThread(self._tell)

    def _tell(self) -> None:
        self._is_called_for = False  # first: what returns from here on is told of now, or calls again
        self._together.begin()
        while self._returned:
            done, result = self._returned.popleft()
            try:
                done(result)
            except Exception:  # noqa: BLE001 - it must not keep the others from being told
                self._log.failure("whoever is told what a call came to met a bug")
        self._together.end()
