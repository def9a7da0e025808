"""Finds what a test leaves behind in Twisted: unhandled errors, delayed calls, descriptors, processes.

Trial fails such a test; pytest-twisted does not. ``conftest.py`` puts a LeakWatch around every test, and
hands it to the test as the fixture ``logged_errors``.
"""

import gc
from collections.abc import Callable
from typing import Any

from twisted.internet import process
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, LogEvent, LogPublisher, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_TURNS = 10
"""Reactor turns after a test within which everything must be closed."""


@implementer(ILogObserver)
class LeakWatch:
    """Sees from ``begin`` to ``end`` what a test leaves in the reactor and in Twisted's log.

    What was there before, a module's fixture for instance, is not the test's. ``turn`` lets the reactor take
    one turn, so that what a test has already asked for, such as the closing of a connection, can happen.
    """

    def __init__(self, reactor: Any, publisher: LogPublisher, turn: Callable[[], None]) -> None:
        self._reactor = reactor
        self._publisher = publisher
        self._turn = turn
        self._events: list[LogEvent] = []

    def begin(self) -> None:
        """Remember what exists, and observe the log."""
        self._turn()  # the reactor's own descriptors are there only when it has run
        self._calls: set[IDelayedCall] = set(self._reactor.getDelayedCalls())
        self._open = self._selectables()
        self._processes = set(process.reapProcessHandlers)
        self._publisher.addObserver(self)

    def flush(self, *errors: type[BaseException]) -> list[Failure]:
        """Return the logged failures of these types, all if none is named, and forget them.

        This is how a test says that it expects an error to be logged: it flushes it and looks at what it got.
        """
        gc.collect()  # an unhandled Deferred logs its error when it is collected
        failures: list[Failure] = [event["log_failure"] for event in self._events]
        taken = [not errors or failure.check(*errors) is not None for failure in failures]
        self._events = [event for event, is_taken in zip(self._events, taken, strict=True) if not is_taken]
        return [failure for failure, is_taken in zip(failures, taken, strict=True) if is_taken]

    def end(self) -> list[str]:
        """Return a line for each thing left behind, and remove it so that the next test is not affected."""
        for _ in range(MAX_TURNS):
            self._turn()
            if not (self._new_calls() or self._new_selectables() or self._new_processes()):
                break
        gc.collect()
        self._publisher.removeObserver(self)
        left = [f"an error was logged: {_text(event)}" for event in self._events]
        for call in self._new_calls():
            left.append(f"a delayed call: {call}")
            call.cancel()
        for selectable in self._new_selectables():
            left.append(f"an open descriptor: {selectable}")
            self._reactor.removeReader(selectable)
            self._reactor.removeWriter(selectable)
        return left + [f"process {pid}, running or not yet reaped" for pid in self._new_processes()]

    def __call__(self, event: LogEvent) -> None:
        """Keep the event if it carries a failure."""
        if event.get("log_failure") is not None:
            self._events.append(event)

    def _selectables(self) -> set[Any]:
        return {*self._reactor.getReaders(), *self._reactor.getWriters()}

    def _new_calls(self) -> set[IDelayedCall]:
        return {*self._reactor.getDelayedCalls()} - self._calls

    def _new_selectables(self) -> set[Any]:
        return self._selectables() - self._open

    def _new_processes(self) -> set[int]:
        return {*process.reapProcessHandlers} - self._processes


def _text(event: LogEvent) -> str:
    failure: Failure = event["log_failure"]
    return f"{formatEvent(event)}\n{failure.getTraceback()}"
