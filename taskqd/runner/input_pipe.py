"""The stdin of an interactive attempt: a pipe into which the daemon has data written.

The runner never waits for a process that does not read: a full pipe is watched by the reactor, with at most
one Send of up to MAX_SEND bytes in memory. Both ends are close-on-exec, so no other job holds them.
"""

import os
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.execution.messages import MAX_SEND, AttemptKey, Send, SendError, Sent


@implementer(IWriteDescriptor)
class InputPipe:
    """The pipe of one attempt, open until ``close``; ``on_sent(sent)`` is called with each answer.

    ``read_end`` is the descriptor for the process, until ``close_read_end``.
    """

    _log = Logger()

    def __init__(self, key: AttemptKey, reactor: IReactorFDSet, on_sent: Callable[[Sent], object]) -> None:
        """Make the pipe; raises OSError."""
        self.read_end, self._descriptor = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._key = key
        self._reactor = reactor
        self._on_sent = on_sent
        self._closed_by: SendError | None = None
        self._current: Send | None = None
        self._written = 0
        self._is_watched = False

    def set_owner(self, uid: int) -> None:
        """Let a user open the pipe by its name /dev/stdin."""
        try:
            os.fchown(self.read_end, uid, -1)
        except OSError as why:
            self._log.warn("job {id} cannot open /dev/stdin: {why}", id=self._key.id, why=why)

    def close_read_end(self) -> None:
        """Leave the other end to the process, so that a write fails when all have closed it."""
        if self.read_end >= 0:
            os.close(self.read_end)
            self.read_end = -1

    def send(self, send: Send) -> None:
        """Write the data of a message as far as the pipe has room, and the rest when it has."""
        if self._closed_by is not None:
            self._answer(send.number, 0, self._closed_by)
        elif self._current is not None:
            self._answer(send.number, 0, SendError.BUSY)
        elif len(send.data) > MAX_SEND:
            self._answer(send.number, 0, SendError.TOO_LARGE)
        else:
            self._current, self._written = send, 0
            self.doWrite()

    def withdraw(self, number: int) -> None:
        """Answer a message that is not completely written, and forget the rest of it."""
        if self._current is not None and self._current.number == number:
            self._finish(SendError.WITHDRAWN)

    def drop(self) -> None:
        """Forget the rest of a message, without an answer: the daemon that sent it is gone."""
        self._current = None
        self._unwatch()

    def close(self, reason: SendError = SendError.ENDED) -> None:
        """Close the pipe; the answer to what is not written, and to all that follows, is ``reason``."""
        self.close_read_end()
        if self._closed_by is not None:
            return
        self._closed_by = reason
        self._unwatch()
        os.close(self._descriptor)
        if self._current is not None:
            self._finish(reason)

    # IWriteDescriptor.

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return f"stdin of job {self._key.id}"

    def doWrite(self) -> None:
        """Write as much as the pipe has room for."""
        if self._current is None:
            self._unwatch()
            return
        data = memoryview(self._current.data)
        try:
            while self._written < len(data):
                self._written += os.write(self._descriptor, data[self._written :])
        except BlockingIOError:
            self._watch()
        except OSError:  # EPIPE
            self.close(SendError.CLOSED)
        else:
            is_eof = self._current.eof
            self._finish(None)
            if is_eof:
                self.close(SendError.EOF)

    def connectionLost(self, reason: Failure) -> None:
        """Close the pipe: the reactor has seen that no process has the other end."""
        self._is_watched = False
        self.close(SendError.CLOSED)

    def _watch(self) -> None:
        if self._is_watched:
            return
        try:
            self._reactor.addWriter(self)
        except OSError as why:  # epoll_ctl(2), ENOSPC
            self._log.warn("the pipe of job {id} cannot be watched: {why}", id=self._key.id, why=why)
            self._finish(SendError.UNWATCHED)
        else:
            self._is_watched = True

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._reactor.removeWriter(self)

    def _finish(self, error: SendError | None) -> None:
        send, self._current = self._current, None
        self._unwatch()
        if send is not None:
            self._answer(send.number, self._written, error)

    def _answer(self, number: int, written: int, error: SendError | None) -> None:
        id_, attempt, word = self._key
        self._on_sent(Sent(id=id_, attempt=attempt, word=word, number=number, written=written, error=error))


class InputPipes:
    """The pipes of all interactive attempts that run; ``on_sent(sent)`` is called with each answer."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        self.on_sent: Callable[[Sent], object] = lambda _: None
        self._reactor = reactor
        self._pipes: dict[AttemptKey, InputPipe] = {}

    def open(self, key: AttemptKey) -> InputPipe:
        """Make the pipe of an attempt; raises OSError."""
        pipe = self._pipes[key] = InputPipe(key, self._reactor, self.on_sent)
        return pipe

    def on_spawned(self, key: AttemptKey) -> None:
        """Close our descriptor of the end that a process has now."""
        if key in self._pipes:
            self._pipes[key].close_read_end()

    def send(self, send: Send) -> None:
        """Write into the pipe of an attempt, or answer why not."""
        pipe = self._pipes.get(send.key)
        if pipe is not None:
            pipe.send(send)
            return
        id_, attempt, word = send.key
        self.on_sent(Sent(id=id_, attempt=attempt, word=word, number=send.number, error=SendError.ENDED))

    def withdraw(self, key: AttemptKey, number: int) -> None:
        """Write nothing more of a message."""
        if key in self._pipes:
            self._pipes[key].withdraw(number)

    def drop_all(self) -> None:
        """Forget what is not written: the daemon that sent it is gone."""
        for pipe in self._pipes.values():
            pipe.drop()

    def close(self, key: AttemptKey) -> None:
        """Close the pipe of an attempt that has ended."""
        pipe = self._pipes.pop(key, None)
        if pipe is not None:
            pipe.close()
