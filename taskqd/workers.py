"""A few threads that call what they are handed, while the reactor goes on."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Workers(Generic[Value]):
    """Up to ``most`` threads, which are there from the first call on; ``name`` is what they are called.

    It is handed over and back by less than Twisted's ThreadPool takes: for what is called a thousand times a
    second that counts.
    """

    def __init__(self, reactor: Any, most: int, name: str) -> None:
        self._reactor = reactor
        self._most = most
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], Value], Callable[[Value | Exception], None]] | None]
        self._calls = SimpleQueue()
        self._threads: list[Thread] = []

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
            self._reactor.callFromThread(done, result)
