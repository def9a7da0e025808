"""Staying with a job until its end: what it prints as it comes, and Ctrl-C as a question (``taskq run``)."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from taskqd.cli.session import Session
from taskqd.cli.terminal import confirms
from taskqd.client import Client, Output, Refused

if TYPE_CHECKING:
    from typing_extensions import Self


class Interrupts:
    """Ctrl-C while a job is followed: one is noted in ``came``; another before that was looked at breaks off.

    The first breaks nothing off, so that no byte of the output is lost or written twice. A third changes
    nothing any more.
    """

    def __init__(self) -> None:
        self.came = False
        self._has_broken_off = False
        self._is_over = False
        self._before: Any = None

    def __enter__(self) -> "Self":
        self._before = signal.getsignal(signal.SIGINT)
        # Who started us in the background of a script does not want Ctrl-C to reach us.
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            signal.signal(signal.SIGINT, self._before)

    def end(self) -> None:
        """Let no other do anything, for as long as the process lives: what is left to it is to say a line."""
        self._is_over = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came and not self._has_broken_off:
            self._has_broken_off = True
            raise KeyboardInterrupt
        self.came = True


def attend(
    session: Session, client: Client, job: int, write: Callable[[Output], None], interrupts: Interrupts
) -> bool:
    """Write what the job prints until it has ended; return False if the user has left it before.

    The first Ctrl-C asks whether to cancel the job; it is then followed to its end, unless another comes.
    """
    is_cancelled = False
    for piece in client.follow(job):
        if piece.data:
            write(piece)
        if interrupts.came:
            session.calm()
            if is_cancelled or not confirms(f"Cancel job {job}?"):
                return False
            interrupts.came = False
            is_cancelled = True
            try:
                with client.another() as second:
                    second.cancel(job)
            except Refused as refusal:
                session.refuse(refusal)
    return True
