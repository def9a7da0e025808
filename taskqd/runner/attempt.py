"""One attempt as the runner knows it: its process, and what the daemon hears of its output."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from taskqd.execution.messages import AttemptKey, Message, Printed, Running
from taskqd.storage.spool.output import OutputWriter

DROP_REPORT_INTERVAL = 1.0
"""Seconds between two reports of dropped output of an attempt that is not followed."""


class Attempt:
    """An attempt that runs; ``send`` sends a message to the daemon, if there is one."""

    def __init__(
        self,
        key: AttemptKey,
        output: OutputWriter,
        clock: IReactorTime,
        send: Callable[[Message], None],
    ) -> None:
        self.pid: int | None = None
        self.started: int | None = None
        self.is_followed = False
        self.is_suspended = False
        self._key = key
        self._output = output
        self._clock = clock
        self._send = send
        self._reported = (0, 0)
        self._reported_at: float | None = None
        output.observers.append(self._on_printed)

    def describe(self) -> Running:
        """Return the attempt as a Welcome lists it."""
        id_, attempt, word = self._key
        pid, started, suspended = self.pid, self.started, self.is_suspended
        return Running(id=id_, attempt=attempt, word=word, pid=pid, started=started, suspended=suspended)

    def follow(self, on: bool) -> None:
        """Report each output from now on and write it at once, or stop that."""
        self.is_followed = on
        if on:
            self._output.write_through()
            self._report()

    def _on_printed(self) -> None:
        if self.is_followed:
            self._output.write_through()
            self._report()
        elif self._output.dropped != self._reported and self._is_report_due():
            self._report()

    def _is_report_due(self) -> bool:
        return self._reported_at is None or self._clock.seconds() >= self._reported_at + DROP_REPORT_INTERVAL

    def _report(self) -> None:
        self._reported, self._reported_at = self._output.dropped, self._clock.seconds()
        id_, attempt, word = self._key
        self._send(Printed(id=id_, attempt=attempt, word=word, dropped=self._reported))
