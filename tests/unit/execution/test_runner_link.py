"""The writes of a connection to a runner."""

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from taskqd.execution.messages import Ack, AttemptKey, Hello, Kill, Retire, encode
from taskqd.execution.runner_executor import RunnerExecutor
from taskqd.execution.runner_link import RunnerLink

ACKS = [Ack(ends=[AttemptKey(number, 1, "0123456789abcdef")]) for number in (1, 2)]


class Transport(StringTransport):
    """A transport that remembers each write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


def connect() -> tuple[RunnerLink, list[bytes]]:
    """Return a link, and the list of its writes."""
    hello, transport = Hello(store="s", versions=(1,)), Transport()
    link = RunnerLink("runner", hello, RunnerExecutor(Clock()))
    link.transport = transport
    return link, transport.writes


def test_held_acks_are_written_together_with_the_next_message() -> None:
    link, writes = connect()
    for ack in ACKS:
        link.hold(ack)
    assert writes == []
    link.send(Kill())
    assert writes == [b"".join(map(encode, [*ACKS, Kill()]))]


def test_held_acks_are_written_by_flush_once() -> None:
    link, writes = connect()
    link.hold(ACKS[0])
    link.flush()
    link.flush()
    assert writes == [encode(ACKS[0])]


def test_held_acks_are_written_before_the_connection_is_closed() -> None:
    link, writes = connect()
    link.hold(ACKS[0])
    link.close()
    assert writes == [encode(ACKS[0])]


def test_lost_link_writes_nothing() -> None:
    link, writes = connect()
    link.is_lost = True
    link.hold(ACKS[0])
    link.send(Retire())
    assert writes == []
