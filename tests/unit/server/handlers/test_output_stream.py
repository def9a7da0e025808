"""The output follower sends all output of a job in order, as the client can receive it, to the job's end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from taskqd.errors import Gone, StoreFailed
from taskqd.execution.run import Outcome
from taskqd.model.job import Job, Status
from taskqd.server.handlers.output_stream import OutputFollower
from taskqd.server.handlers.output_tail import CHUNK_SIZE, OutputTails
from taskqd.storage.spool.output import FLUSH_TIMEOUT, OutputWriter
from taskqd.storage.spool.spool import Spool
from tests.fakes import engine
from tests.fakes.client import FakeClient
from tests.fakes.clocks import Threads
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import Harness
from tests.fakes.filesystem import FakeFilesystem
from tests.fakes.processes import FAILED


def opened() -> Harness:
    harness = Harness()
    harness.engine.start()
    return harness


def follow(harness: Harness, client: FakeClient, stdout: int = 0, stderr: int = 0) -> "Deferred[Job]":
    """Follow job 1."""
    offsets = {"stdout": stdout, "stderr": stderr}
    tails = OutputTails(harness.engine.queue_state, harness.job_view)
    return begin(OutputFollower(harness.engine, harness.job_view, tails, client, 1, offsets).follow())


def parts(sent: bytes) -> list[tuple[str, int, bytes]]:
    """Return (stream, offset, bytes) of each DATA block."""
    found = []
    while sent:
        line, _, sent = sent.partition(b"\r\n")
        word, stream, offset, length = line.decode().split()
        assert word == "DATA"
        found.append((stream, int(offset), sent[: int(length)]))
        assert sent[int(length) :][:2] == b"\r\n"
        sent = sent[int(length) + 2 :]
    return found


def ended(harness: Harness, stdout: bytes = b"", stderr: bytes = b"", **end: Any) -> None:
    """End the running attempt of job 1 after it has printed the rest."""
    recording = harness.spool.writers[1]
    recording.write(1, stdout)
    recording.write(2, stderr)
    out, err = result_of(recording.close())
    harness.finish(1, Outcome(**{"reason": None, "exit_code": 0, **end}, stdout=out, stderr=err))


def gone(harness: Harness) -> None:
    """Check that a follower has left no observer and no waiter."""
    assert not any(harness.spool.observers.values())
    assert not harness.engine.waiter_count


def test_follow_sends_both_streams_then_returns_the_job() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()
    harness.spool.writers[1].write(1, b"before")
    following = follow(harness, client)
    harness.spool.writers[1].write(2, b"oh")
    harness.spool.writers[1].write(1, b" after")
    assert parts(client.sent) == [("stdout", 0, b"before"), ("stderr", 0, b"oh"), ("stdout", 6, b" after")]
    assert not following.called
    ended(harness, b"!")
    assert result_of(following).status is Status.COMPLETED
    assert parts(client.sent)[3:] == [("stdout", 12, b"!")]
    gone(harness)


def test_follow_of_ended_job_sends_its_output_at_once() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()
    ended(harness, b"out", b"err", reason=None)
    assert result_of(follow(harness, client)).status is Status.COMPLETED
    assert parts(client.sent) == [("stdout", 0, b"out"), ("stderr", 0, b"err")]
    gone(harness)


@pytest.mark.parametrize("moment", ["before", "running", "after"])
def test_follow_begins_at_the_offsets(moment: str) -> None:
    harness, client = opened(), FakeClient()
    harness.submit(delay=10)
    following = follow(harness, client, 4, 99) if moment == "before" else None
    harness.clock.advance(10)
    harness.settle()
    harness.spool.writers[1].write(1, b"0123456")
    following = follow(harness, client, 4, 99) if moment == "running" else following
    ended(harness, b"789", b"nothing of this")
    following = following or follow(harness, client, 4, 99)
    result_of(following)
    assert {each[0] for each in parts(client.sent)} == {"stdout"}
    assert b"".join(each[2] for each in parts(client.sent)) == b"456789"


def test_follow_waits_for_a_job_to_start() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(delay=10)
    following = follow(harness, client)
    assert not following.called
    harness.clock.advance(10)
    harness.settle()
    assert harness.job(1).status is Status.RUNNING
    ended(harness, b"out")
    result_of(following)
    assert parts(client.sent) == [("stdout", 0, b"out")]
    gone(harness)


def test_follow_ends_with_a_job_that_is_cancelled_before_start() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(hold=True)
    following = follow(harness, client)
    harness.cancel(1)
    harness.settle()
    assert result_of(following).status is Status.CANCELLED
    assert client.sent == b""
    gone(harness)


def test_follow_sends_next_attempt_from_its_first_byte() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(retries=1)
    following = follow(harness, client, 2)
    ended(harness, b"first", reason=FAILED.reason)
    assert harness.job(1).status is Status.PENDING
    assert not following.called
    harness.clock.advance(60)
    harness.settle()
    ended(harness, b"second")
    assert result_of(following).status is Status.COMPLETED
    assert parts(client.sent) == [("stdout", 2, b"rst"), ("stdout", 0, b"second")]
    gone(harness)


def test_follow_of_waiting_retry_sends_the_attempt_before() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(retries=1)
    ended(harness, b"first", reason=FAILED.reason)
    following = follow(harness, client)
    assert parts(client.sent) == [("stdout", 0, b"first")]
    assert not following.called
    harness.clock.advance(60)
    harness.settle()
    ended(harness)
    result_of(following)


def test_follow_sends_each_attempt_completely_to_slow_client() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(retries=2)
    client.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, client)
    ended(harness, b"bc", reason=FAILED.reason)
    for output in (b"def", b"ghi"):
        harness.clock.advance(60)
        harness.settle()
        ended(harness, output, reason=FAILED.reason)
    assert harness.job(1).status is Status.FAILED
    assert parts(client.sent) == [("stdout", 0, b"a")]
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    result_of(following)
    assert parts(client.sent)[1:] == [("stdout", 1, b"bc"), ("stdout", 0, b"def"), ("stdout", 0, b"ghi")]


def test_follow_skips_attempt_that_is_no_longer_known() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(retries=2)
    client.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, client)
    ended(harness, b"bc", reason=FAILED.reason)
    for output in (b"def", b"ghi"):
        harness.clock.advance(60)
        harness.settle()
        ended(harness, output, reason=FAILED.reason)
    harness.job(1).past = harness.job(1).past[1:]
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    result_of(following)
    assert parts(client.sent)[1:] == [("stdout", 0, b"def"), ("stdout", 0, b"ghi")]


def test_follow_sends_chunks_when_the_client_can_receive_them() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()
    client.can_send = False
    harness.spool.writers[1].write(1, b"x" * (2 * CHUNK_SIZE + 5))
    following = follow(harness, client)
    sizes = []
    while client.writable_waiters:
        sizes.append(len(parts(client.sent)[-1][2]))
        client.writable_waiters.pop().callback(None)
    assert sizes == [CHUNK_SIZE, CHUNK_SIZE, 5]
    client.can_send = True
    ended(harness)
    result_of(following)


def test_follow_continues_with_a_manual_retry() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()
    client.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, client)
    ended(harness)
    harness.engine.dispatcher.drain()
    harness.retry(1)
    harness.settle()
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert not following.called
    harness.cancel(1)
    harness.settle()
    assert result_of(following).status is Status.CANCELLED


def test_follow_of_removed_job_is_gone() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()
    client.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, client)
    ended(harness, b"b")
    harness.remove(1)
    harness.settle()
    client.writable_waiters.pop().callback(None)
    assert isinstance(error_of(following), Gone)
    gone(harness)


def test_follow_of_unreadable_output_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = opened()
    harness.submit()
    ended(harness, b"a")

    def fail(position: Any) -> Any:
        raise StoreFailed("unreadable")

    monkeypatch.setattr(harness.journal, "read", fail)
    assert isinstance(error_of(follow(harness, FakeClient())), StoreFailed)
    gone(harness)


@pytest.mark.parametrize("moment", ["pending", "running", "choked"])
def test_cancel_leaves_nothing_behind(moment: str) -> None:
    harness, client = opened(), FakeClient()
    harness.submit(hold=moment == "pending")
    client.can_send = moment != "choked"
    if moment == "choked":
        harness.spool.writers[1].write(1, b"a")
    following = follow(harness, client)
    if moment == "running":
        harness.spool.writers[1].write(1, b"a")
    following.cancel()
    assert isinstance(error_of(following), CancelledError)
    gone(harness)
    if moment != "pending":
        harness.spool.writers[1].write(1, b"b")
        assert parts(client.sent) == [("stdout", 0, b"a")]


def test_cancel_when_more_output_appears_sends_none_of_it() -> None:
    harness, client = opened(), FakeClient()
    harness.submit()

    def go() -> None:
        following.cancel()

    leave = harness.spool.add_output_observer(1, go)
    following = follow(harness, client)
    harness.spool.writers[1].write(1, b"a")
    assert isinstance(error_of(following), CancelledError)
    assert client.sent == b""
    leave()
    gone(harness)


# Several clients.


class Crowd:
    """Clients that follow job 1, and the offsets in stdout at which its output was read since ``forget``."""

    def __init__(self, count: int) -> None:
        self.harness = opened()
        self.harness.submit()
        self.write = self.harness.spool.writers[1].write
        self.clients = [FakeClient() for _ in range(count)]
        self.reads: list[int] = []
        view: Any = self.harness.job_view
        tails = OutputTails(self.harness.engine.queue_state, view)
        read = view.read

        def record(job: Job, stream: str, offset: int, *rest: Any) -> "Deferred[bytes]":
            if stream == "stdout":
                self.reads.append(offset)
            result: Deferred[bytes] = read(job, stream, offset, *rest)
            return result

        view.read = record
        self.following = [
            begin(
                OutputFollower(
                    self.harness.engine, view, tails, client, 1, {"stdout": 0, "stderr": 0}
                ).follow()
            )
            for client in self.clients
        ]
        self.reads.clear()

    def sent(self) -> list[bytes]:
        """Return the bytes that each client was sent."""
        return [b"".join(data for _, _, data in parts(client.sent)) for client in self.clients]


def test_output_is_read_once_for_all_clients_at_the_same_position() -> None:
    crowd = Crowd(5)
    crowd.write(1, b"one")
    assert crowd.sent() == [b"one"] * 5
    assert crowd.reads == [0, 3], "the second time there is nothing more"
    crowd.write(1, b" two")
    assert crowd.sent() == [b"one two"] * 5
    assert crowd.reads == [0, 3, 3, 7]
    ended(crowd.harness, b" three")
    assert [result_of(one).status for one in crowd.following] == [Status.COMPLETED] * 5
    assert crowd.sent() == [b"one two three"] * 5
    gone(crowd.harness)


def test_slow_client_is_left_behind_and_catches_up() -> None:
    crowd = Crowd(3)
    slow = crowd.clients[1]
    slow.can_send = False
    crowd.write(1, b"one")
    crowd.write(1, b" two")
    assert crowd.sent() == [b"one two", b"", b"one two"]
    slow.can_send = True
    slow.writable_waiters.pop().callback(None)
    assert crowd.sent() == [b"one two"] * 3
    crowd.reads.clear()
    crowd.write(1, b" three")
    assert crowd.sent() == [b"one two three"] * 3
    assert crowd.reads == [7, 13], "all are at the same position again"


def test_output_is_sent_to_the_rest_in_the_next_time_slice() -> None:
    crowd = Crowd(3)
    _, second, third = crowd.clients
    second.spend_slice()
    crowd.write(1, b"one")
    crowd.write(1, b" two")
    assert crowd.sent() == [b"one", b"", b""]
    second.grant_slice()
    assert crowd.sent() == [b"one two"] * 3
    assert crowd.reads == [0, 3, 7]
    third.spend_slice()
    crowd.write(1, b" three")
    crowd.following[2].cancel()
    third.slice_waiters.pop().errback(CancelledError())
    assert isinstance(error_of(crowd.following[2]), CancelledError)
    assert crowd.sent() == [b"one two three", b"one two three", b"one two"]


def test_client_that_leaves_while_others_are_sent_output_is_sent_none() -> None:
    crowd = Crowd(3)
    first, second, _ = crowd.clients
    send = first.send

    def leave(data: bytes) -> None:
        send(data)
        crowd.following[1].cancel()

    first.send = leave  # type: ignore[method-assign]
    crowd.write(1, b"one")
    assert crowd.sent() == [b"one", b"", b"one"]
    assert second.sent == b""
    assert isinstance(error_of(crowd.following[1]), CancelledError)


def test_all_clients_are_refused_when_the_job_is_removed_while_they_wait() -> None:
    crowd = Crowd(2)
    for client in crowd.clients:
        client.can_send = False
    crowd.write(1, b"one")
    ended(crowd.harness)
    crowd.harness.remove(1)
    crowd.harness.settle()
    for client in crowd.clients:
        client.can_send = True
        client.writable_waiters.pop().callback(None)
    assert all(isinstance(error_of(one), Gone) for one in crowd.following)
    gone(crowd.harness)


def test_each_client_gets_the_error_when_output_of_a_running_job_cannot_be_read() -> None:
    crowd = Crowd(2)

    def fail(*_: Any) -> "Deferred[bytes]":
        raise StoreFailed("unreadable")

    view: Any = crowd.harness.job_view
    view.read = fail
    crowd.write(1, b"one")
    assert all(isinstance(error_of(one), StoreFailed) for one in crowd.following)
    gone(crowd.harness)


# On a real spool: in memory, in a file, in the journal.

STEP = st.one_of(
    st.tuples(st.just("print"), st.sampled_from([1, 2]), st.integers(1, 6000)),
    st.tuples(st.sampled_from(["later", "read", "choke", "writable", "retry"]), st.just(0), st.just(0)),
)


class World:
    """A harness with a spool on disk, its job 1, and a follower; `printed` is by attempt."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.filesystem, self.threads = FakeFilesystem(), Threads()
        spools: list[Spool] = []

        def make() -> Spool:
            spools.append(Spool(str(directory), self.filesystem, self.threads))
            spools[0].open()
            return spools[0]

        patch.setattr(engine, "FakeSpool", make)
        self.harness = Harness()
        [self.spool] = spools
        self.is_followed = False
        self.spool.on_followed = self.on_followed
        self.harness.engine.start()
        self.harness.submit(retries=100)
        self.writer = self.open_writer()
        self.printed: list[dict[str, bytes]] = [{"stdout": b"", "stderr": b""}]
        self.client = FakeClient()
        self.following = follow(self.harness, self.client)

    def print(self, stream: int, size: int) -> None:
        data = (b"%d," % size * size)[:size]
        self.printed[-1]["stdout" if stream == 1 else "stderr"] += data
        self.writer.write(stream, data)

    def open_writer(self) -> OutputWriter:
        """Return what the runner writes the output of the running attempt with."""
        number = self.harness.job(1).attempts
        paths = self.spool.output_paths(1, number)
        writer = OutputWriter(paths, self.filesystem, self.harness.clock, self.threads, 10**9, [])
        writer.observers.append(lambda: self.on_printed(number))
        return writer

    def on_followed(self, _: int, is_followed: bool) -> bool:
        """Do what the runner does with Follow."""
        self.is_followed = is_followed
        if is_followed and hasattr(self, "writer"):
            self.on_printed(self.harness.job(1).attempts)
        return True

    def on_printed(self, number: int) -> None:
        """Do what the runner does when an attempt has printed."""
        if self.is_followed:
            self.writer.write_through()
            self.spool.note_output(1, number, self.writer.dropped)

    def later(self, *_: int) -> None:
        self.harness.clock.advance(FLUSH_TIMEOUT)

    def read(self, *_: int) -> None:
        for writable in self.client.writable_waiters[:1]:
            del self.client.writable_waiters[:1]
            writable.callback(None)

    def choke(self, *_: int) -> None:
        self.client.can_send = False

    def writable(self, *_: int) -> None:
        self.client.can_send = True
        self.read()

    def retry(self, *_: int) -> None:
        self.end(reason=FAILED.reason)
        self.harness.clock.advance(4000)
        self.harness.settle()
        self.printed.append({"stdout": b"", "stderr": b""})
        self.writer = self.open_writer()

    def end(self, **how: Any) -> None:
        closing = self.writer.close()
        self.threads.run()
        out, err = result_of(closing)
        self.harness.finish(1, Outcome(**{"reason": None, "exit_code": 0, **how}, stdout=out, stderr=err))

    def got(self) -> list[dict[str, bytes]]:
        """Return the output that was sent, by attempt; an attempt without output is left out."""
        found: list[dict[str, bytes]] = [{"stdout": b"", "stderr": b""}]
        for stream, offset, data in parts(self.client.sent):
            if offset == 0 and (found[-1][stream] or _is_new(found[-1], stream, self.printed, found)):
                found.append({"stdout": b"", "stderr": b""})
            assert len(found[-1][stream]) == offset
            found[-1][stream] += data
        return found


def _is_new(
    latest: dict[str, bytes], stream: str, printed: list[dict[str, bytes]], found: list[dict[str, bytes]]
) -> bool:
    """Whether the first byte of a stream belongs to a later attempt than the latest one with output."""
    known = [each for each in printed if any(each.values())]
    return any(latest.values()) and not known[len(found) - 1][stream]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25))
def test_follow_sends_all_output_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("spool"), patch)
        acts: dict[str, Callable[..., None]] = {
            name: getattr(world, name) for name in ("print", "later", "read", "choke", "writable", "retry")
        }
        for name, stream, size in steps:
            acts[name](stream, size)
        world.end()
        world.client.can_send = True
        while world.client.writable_waiters:
            world.read()
        assert result_of(world.following).status is Status.COMPLETED
        printed = [each for each in world.printed if any(each.values())]
        assert world.got() == (printed or [{"stdout": b"", "stderr": b""}])
        assert not world.spool._observers
