"""Input for interactive jobs on its way to their runners: in the order of its requests, one piece at a time.

It is in memory only. A piece whose time is over is withdrawn from the runner, which answers with the number
of bytes that the pipe has got.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskqd.execution.messages import AttemptKey, AttemptMessage, Send, SendError, Sent, Withdraw

ANSWER_TIMEOUT = 5.0
"""Seconds that a runner has to answer a Withdraw, which it does at once unless it hangs."""


class NoDelivery(Enum):
    """Why a piece of input did not get to its runner, or has no answer."""

    TIMED_OUT = "timed out"
    """It was not sent within its time."""
    ENDED = "ended"
    """The attempt has ended before it was sent."""
    UNKNOWN = "unknown"
    """The connection to the runner was lost after it was sent, or the runner hangs."""


class Delivery(NamedTuple):
    """The result of a piece: all of it was written, or there is an ``error`` after ``written`` bytes.

    If the error is UNKNOWN, nothing, a part or all of it was written.
    """

    written: int
    error: SendError | NoDelivery | None = None


MakeMessage: TypeAlias = Callable[[AttemptKey], AttemptMessage]
"""Makes a message for the attempt of a job that runs."""


class _Piece:
    """A piece of input; it ``is_sent`` once a runner may have it, ``is_withdrawn`` once its time is over."""

    __slots__ = ("data", "deferred", "is_eof", "is_sent", "is_withdrawn", "number", "timer")

    def __init__(self, number: int, data: bytes, is_eof: bool, deferred: "Deferred[Delivery]") -> None:
        self.number = number
        self.data = data
        self.is_eof = is_eof
        self.deferred = deferred
        self.is_sent = self.is_withdrawn = False
        self.timer: IDelayedCall | None = None


class JobInputs:
    """The input of all jobs that is not delivered.

    ``transmit(job_id, make)`` sends the message that ``make(key)`` returns to the runner of a job's attempt,
    and returns False if there is none that has the attempt, and is connected.
    """

    def __init__(self, clock: IReactorTime, transmit: Callable[[int, MakeMessage], bool]) -> None:
        self._clock = clock
        self._transmit = transmit
        self._pieces: dict[int, deque[_Piece]] = {}  # by job; only the first one may be sent
        self._last_number = 0

    @property
    def job_count(self) -> int:
        """The number of jobs with input that is not delivered."""
        return len(self._pieces)

    def send(self, job_id: int, data: bytes, is_eof: bool, timeout: float) -> "Deferred[Delivery]":
        """Have a piece written into the stdin of a job, after all that was sent to it before.

        The Deferred never fails. If it is cancelled, what is not written is withdrawn.
        """
        self._last_number += 1
        delivered: Deferred[Delivery] = Deferred(lambda _: self._on_timeout(job_id, piece))
        piece = _Piece(self._last_number, data, is_eof, delivered)
        piece.timer = self._clock.callLater(timeout, self._on_timeout, job_id, piece)
        pieces = self._pieces.setdefault(job_id, deque())
        pieces.append(piece)
        self.resume(job_id)
        return delivered

    def resume(self, job_id: int) -> None:
        """Send the next piece of a job's input, if its runner is connected now."""
        pieces = self._pieces.get(job_id)
        if not pieces or pieces[0].is_sent:
            return
        piece = pieces[0]

        def make(key: AttemptKey) -> Send:
            id_, attempt, word = key
            return Send(
                id=id_, attempt=attempt, word=word, number=piece.number, data=piece.data, eof=piece.is_eof
            )

        if self._transmit(job_id, make):
            piece.is_sent, piece.data = True, b""

    def on_sent(self, sent: Sent) -> None:
        """Finish the piece that a runner has answered, and send the next one."""
        pieces = self._pieces.get(sent.id)
        if pieces and pieces[0].is_sent and pieces[0].number == sent.number:
            self._finish(sent.id, pieces[0], Delivery(sent.written, sent.error))
            self.resume(sent.id)

    def on_runner_lost(self, job_id: int) -> None:
        """Finish the piece that was sent over a connection that is lost; the others wait for the next one."""
        pieces = self._pieces.get(job_id)
        if pieces and pieces[0].is_sent:
            self._finish(job_id, pieces[0], Delivery(0, NoDelivery.UNKNOWN))

    def on_ended(self, job_id: int) -> None:
        """Finish all pieces for a job whose attempt has ended."""
        for piece in list(self._pieces.get(job_id, ())):
            error = NoDelivery.UNKNOWN if piece.is_sent else NoDelivery.ENDED
            self._finish(job_id, piece, Delivery(0, error))

    def _on_timeout(self, job_id: int, piece: _Piece) -> None:
        """Withdraw a piece; the answer says how much of it was written."""
        if not piece.is_sent:
            self._finish(job_id, piece, Delivery(0, NoDelivery.TIMED_OUT))
        elif not piece.is_withdrawn:
            piece.is_withdrawn = True
            if piece.timer is not None and piece.timer.active():  # it was cancelled before its time
                piece.timer.cancel()
            piece.timer = self._clock.callLater(ANSWER_TIMEOUT, self._on_silence, job_id, piece)
            number = piece.number
            self._transmit(
                job_id,
                lambda key: Withdraw(id=key.id, attempt=key.attempt, word=key.word, number=number),
            )

    def _on_silence(self, job_id: int, piece: _Piece) -> None:
        """Give a piece up: its runner hangs."""
        self._finish(job_id, piece, Delivery(0, NoDelivery.UNKNOWN))
        self.resume(job_id)

    def _finish(self, job_id: int, piece: _Piece, delivery: Delivery) -> None:
        pieces = self._pieces[job_id]
        pieces.remove(piece)
        if not pieces:
            del self._pieces[job_id]
        if piece.timer is not None and piece.timer.active():
            piece.timer.cancel()
        if not piece.deferred.called:
            piece.deferred.callback(delivery)
