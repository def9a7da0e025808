"""What comes together is handled together: who gathers is told when it begins, and once it is all there."""

from typing import Protocol

from twisted.logger import Logger


class IBatchObserver(Protocol):
    """Whoever wants to know what comes together."""

    def batch_started(self) -> None:
        """Take note that a round begins."""

    def batch_ended(self) -> None:
        """Take note that all of it is there."""


class BatchScope:
    """Those who gather, to be told of each round: when it begins, and when it ends, the last one first."""

    _log = Logger()

    def __init__(self, *gatherers: IBatchObserver) -> None:
        self._gatherers = gatherers

    def add(self, gatherer: IBatchObserver) -> None:
        """Have one more told."""
        self._gatherers = (*self._gatherers, gatherer)

    def begin(self) -> None:
        """Begin a round."""
        for one in self._gatherers:
            one.batch_started()

    def end(self) -> None:
        """End it, whatever became of it."""
        for one in reversed(self._gatherers):
            try:
                one.batch_ended()
            except BaseException:  # noqa: BLE001 - it would end whatever has begun the round
                self._log.failure("the end of a round met a bug of taskqd's")
