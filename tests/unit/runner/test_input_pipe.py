"""The stdin of an interactive attempt: what is written into its pipe, and when, and what is answered."""

import errno
import os
from collections.abc import Iterator

import pytest
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

from taskqd.execution.messages import MAX_SEND, AttemptKey, Send, SendError, Sent
from taskqd.runner.input_pipe import InputPipe, InputPipes
from tests.fakes.writers import Writers

KEY = AttemptKey(7, 1, "0123456789abcdef")
FULL = b"x" * MAX_SEND


class Site:
    """A pipe, and a process that has its other end."""

    def __init__(self) -> None:
        self.reactor = Writers()
        self.answers: list[tuple[int, int, SendError | None]] = []
        self.pipes = InputPipes(self.reactor)
        self.pipes.on_sent = self._on_sent
        self.pipe = self.pipes.open(KEY)
        self.stdin = os.dup(self.pipe.read_end)
        self.pipes.on_spawned(KEY)

    def _on_sent(self, sent: Sent) -> None:
        assert (sent.id, sent.attempt, sent.word)[0] in (7, 8)
        self.answers.append((sent.number, sent.written, sent.error))

    def send(self, number: int, data: bytes = b"", *, eof: bool = False, key: AttemptKey = KEY) -> None:
        self.pipes.send(
            Send(id=key.id, attempt=key.attempt, word=key.word, number=number, data=data, eof=eof)
        )

    def poll(self) -> None:
        """Do what the reactor does when the pipe has room."""
        for writer in list(self.reactor.writers):
            writer.doWrite()

    def read(self, length: int = MAX_SEND) -> bytes:
        return os.read(self.stdin, length)

    def close_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def close(self) -> None:
        self.pipes.close(KEY)
        if self.stdin >= 0:
            os.close(self.stdin)


@pytest.fixture(name="site")
def a_site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def test_data_is_written_at_once_if_the_pipe_has_room(site: Site) -> None:
    site.send(1, b"echo ")
    site.send(2, b"hello\n")
    assert site.read() == b"echo hello\n"
    assert site.answers == [(1, 5, None), (2, 6, None)]
    assert site.reactor.writers == []


def test_rest_is_written_when_the_process_has_read(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y" * 10_000)
    assert site.answers == [(1, MAX_SEND, None)]
    assert site.reactor.writers == [site.pipe]
    site.read(4096)
    site.poll()
    assert len(site.answers) == 1
    site.read()
    site.poll()
    assert site.answers[1:] == [(2, 10_000, None)]
    assert site.reactor.writers == []
    assert site.read() == b"y" * 5904


def test_withdrawn_data_is_answered_with_what_was_written(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y" * 10_000)
    site.read(4096)
    site.poll()
    site.pipes.withdraw(KEY, 1)
    site.pipes.withdraw(KEY, 2)
    site.pipes.withdraw(KEY, 2)
    site.pipes.withdraw(AttemptKey(8, 1, KEY.word), 2)
    assert site.answers[1:] == [(2, 4096, SendError.WITHDRAWN)]
    assert site.reactor.writers == []
    site.send(3, b"z")
    assert site.reactor.writers == [site.pipe]


def test_eof_closes_the_pipe_after_the_data(site: Site) -> None:
    site.send(1, b"last", eof=True)
    site.send(2, b"more")
    assert site.answers == [(1, 4, None), (2, 0, SendError.EOF)]
    assert (site.read(), site.read()) == (b"last", b"")


def test_eof_of_withdrawn_data_does_not_close_the_pipe(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y", eof=True)
    site.pipes.withdraw(KEY, 2)
    site.read()
    site.send(3, b"z")
    assert site.answers[1:] == [(2, 0, SendError.WITHDRAWN), (3, 1, None)]


def test_process_that_has_closed_its_stdin_gets_nothing_more(site: Site) -> None:
    site.close_stdin()
    site.send(1, b"x")
    site.send(2, b"x")
    assert site.answers == [(1, 0, SendError.CLOSED), (2, 0, SendError.CLOSED)]


def test_process_that_closes_its_stdin_ends_a_write(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y")
    site.reactor.writers.clear()  # as it does before it reports a lost connection
    site.pipe.connectionLost(Failure(CONNECTION_LOST))
    assert site.answers[1:] == [(2, 0, SendError.CLOSED)]


def test_end_of_the_attempt_ends_a_write(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y")
    site.pipes.close(KEY)
    site.send(3, b"z")
    site.send(4, b"z", key=AttemptKey(8, 1, KEY.word))
    assert site.answers[1:] == [(2, 0, SendError.ENDED), (3, 0, SendError.ENDED), (4, 0, SendError.ENDED)]
    assert site.reactor.writers == []


def test_data_is_dropped_without_an_answer_when_its_daemon_is_gone(site: Site) -> None:
    site.send(1, FULL)
    site.send(2, b"y" * 100)
    site.pipes.drop_all()
    assert site.reactor.writers == []
    site.read()
    site.pipe.doWrite()
    site.send(3, b"z")
    assert site.answers[1:] == [(3, 1, None)]
    assert site.read() == b"z"


def test_daemon_that_sends_too_much_is_refused(site: Site) -> None:
    site.send(1, FULL + b"x")
    site.send(2, FULL)
    site.send(3, b"y")
    site.send(4, b"y")
    assert site.answers == [(1, 0, SendError.TOO_LARGE), (2, MAX_SEND, None), (4, 0, SendError.BUSY)]


def test_pipe_that_cannot_be_watched_is_an_answer(site: Site) -> None:
    site.reactor.error = OSError(errno.ENOSPC, "No space left on device")
    site.send(1, FULL)
    site.send(2, b"y")
    assert site.answers[1:] == [(2, 0, SendError.UNWATCHED)]


def test_both_ends_are_close_on_exec_and_reads_block(site: Site) -> None:
    pipe = InputPipe(KEY, site.reactor, lambda _: None)
    try:
        assert not any(map(os.get_inheritable, (pipe.read_end, pipe.fileno())))
        assert (os.get_blocking(pipe.read_end), os.get_blocking(pipe.fileno())) == (True, False)
        assert pipe.logPrefix() == "stdin of job 7"
        pipe.set_owner(os.geteuid())
        assert os.fstat(pipe.fileno()).st_uid == os.geteuid()
    finally:
        pipe.close()
    pipe.close()
    pipe.set_owner(0)  # logs that it cannot
