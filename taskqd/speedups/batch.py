"""Notifies observers when a batch of I/O events starts and ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from twisted.logger import Logger


class IBatchObserver(Protocol):
    """Collects work during a batch, and does it together at its end."""

    def batch_started(self) -> None:
        """Begin to collect."""

    def batch_ended(self) -> None:
        """Do the collected work."""


class BatchScope:
    """Notifies the observers of each batch: of its start in their order, of its end in reverse order."""

    _log = Logger()

    def __init__(self, *observers: IBatchObserver) -> None:
        self._observers = observers

    def add(self, observer: IBatchObserver) -> None:
        """Add an observer, after all others."""
        self._observers = (*self._observers, observer)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make all that happens in the context one batch."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Start a batch."""
        for observer in self._observers:
            observer.batch_started()

    def end(self) -> None:
        """End the batch; errors of observers are logged."""
        for observer in reversed(self._observers):
            try:
                observer.batch_ended()
            except BaseException:  # noqa: BLE001 - it would end the source of the batch, such as a poller
                self._log.failure("unexpected error at the end of a batch")
