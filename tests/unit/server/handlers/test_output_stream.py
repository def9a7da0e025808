"""Following a job: all that it prints, as it appears, at the reader's pace, to its end."""

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
from taskqd.server.handlers.output_stream import CHUNK_SIZE, OutputFollower
from taskqd.storage.spool.output import FLUSH_TIMEOUT
from taskqd.storage.spool.spool import Spool
from tests.fakes import clocks, engine
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


def follow(harness: Harness, caller: FakeClient, stdout: int = 0, stderr: int = 0) -> "Deferred[Job]":
    """Follow job 1."""
    offsets = {"stdout": stdout, "stderr": stderr}
    return begin(OutputFollower(harness.engine, harness.job_view, caller, 1, offsets).follow())


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
    """Let the running attempt of job 1 print the rest and end."""
    recording = harness.spool.writers[1]
    recording.write(1, stdout)
    recording.write(2, stderr)
    out, err = result_of(recording.close())
    harness.finish(1, Outcome(**{"reason": None, "exit_code": 0, **end}, stdout=out, stderr=err))


def gone(harness: Harness) -> None:
    """See that nothing is left of a follower."""
    assert not any(harness.spool.observers.values())
    assert not harness.engine.waiter_count


def test_both_streams_are_sent_as_they_appear_and_then_the_job() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()
    harness.spool.writers[1].write(1, b"before")
    following = follow(harness, caller)
    harness.spool.writers[1].write(2, b"oh")
    harness.spool.writers[1].write(1, b" after")
    assert parts(caller.sent) == [("stdout", 0, b"before"), ("stderr", 0, b"oh"), ("stdout", 6, b" after")]
    assert not following.called
    ended(harness, b"!")
    assert result_of(following).status is Status.COMPLETED
    assert parts(caller.sent)[3:] == [("stdout", 12, b"!")]
    gone(harness)


def test_a_job_that_has_ended_is_sent_at_once() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()
    ended(harness, b"out", b"err", reason=None)
    assert result_of(follow(harness, caller)).status is Status.COMPLETED
    assert parts(caller.sent) == [("stdout", 0, b"out"), ("stderr", 0, b"err")]
    gone(harness)


@pytest.mark.parametrize("moment", ["before", "running", "after"])
def test_it_begins_at_the_offsets_that_are_given(moment: str) -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(delay=10)
    following = follow(harness, caller, 4, 99) if moment == "before" else None
    harness.clock.advance(10)
    harness.settle()
    harness.spool.writers[1].write(1, b"0123456")
    following = follow(harness, caller, 4, 99) if moment == "running" else following
    ended(harness, b"789", b"nothing of this")
    following = following or follow(harness, caller, 4, 99)
    result_of(following)
    assert {each[0] for each in parts(caller.sent)} == {"stdout"}
    assert b"".join(each[2] for each in parts(caller.sent)) == b"456789"


def test_a_job_that_has_not_started_is_waited_for() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(delay=10)
    following = follow(harness, caller)
    assert not following.called
    harness.clock.advance(10)
    harness.settle()
    assert harness.job(1).status is Status.RUNNING
    ended(harness, b"out")
    result_of(following)
    assert parts(caller.sent) == [("stdout", 0, b"out")]
    gone(harness)


def test_a_job_that_is_cancelled_before_it_starts_has_ended() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(hold=True)
    following = follow(harness, caller)
    harness.cancel(1)
    harness.settle()
    assert result_of(following).status is Status.CANCELLED
    assert caller.sent == b""
    gone(harness)


def test_a_retry_begins_again_at_the_first_byte() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(retries=1)
    following = follow(harness, caller, 2)
    ended(harness, b"first", reason=FAILED.reason)
    assert harness.job(1).status is Status.PENDING
    assert not following.called
    harness.clock.advance(60)
    harness.settle()
    ended(harness, b"second")
    assert result_of(following).status is Status.COMPLETED
    assert parts(caller.sent) == [("stdout", 2, b"rst"), ("stdout", 0, b"second")]
    gone(harness)


def test_a_retry_that_waits_is_followed_from_what_the_attempt_before_printed() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(retries=1)
    ended(harness, b"first", reason=FAILED.reason)
    following = follow(harness, caller)
    assert parts(caller.sent) == [("stdout", 0, b"first")]
    assert not following.called
    harness.clock.advance(60)
    harness.settle()
    ended(harness)
    result_of(following)


def test_a_slow_reader_gets_each_attempt_whole_before_the_next() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(retries=2)
    caller.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, caller)
    ended(harness, b"bc", reason=FAILED.reason)
    for output in (b"def", b"ghi"):
        harness.clock.advance(60)
        harness.settle()
        ended(harness, output, reason=FAILED.reason)
    assert harness.job(1).status is Status.FAILED
    assert parts(caller.sent) == [("stdout", 0, b"a")]
    caller.can_send = True
    caller.writable_waiters.pop().callback(None)
    result_of(following)
    assert parts(caller.sent)[1:] == [("stdout", 1, b"bc"), ("stdout", 0, b"def"), ("stdout", 0, b"ghi")]


def test_an_attempt_that_is_not_known_any_more_is_passed_over() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(retries=2)
    caller.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, caller)
    ended(harness, b"bc", reason=FAILED.reason)
    for output in (b"def", b"ghi"):
        harness.clock.advance(60)
        harness.settle()
        ended(harness, output, reason=FAILED.reason)
    harness.job(1).past = harness.job(1).past[1:]
    caller.can_send = True
    caller.writable_waiters.pop().callback(None)
    result_of(following)
    assert parts(caller.sent)[1:] == [("stdout", 0, b"def"), ("stdout", 0, b"ghi")]


def test_output_is_sent_in_pieces_and_only_as_there_is_room() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()
    caller.can_send = False
    following = follow(harness, caller)
    harness.spool.writers[1].write(1, b"x" * (2 * CHUNK_SIZE + 5))
    sizes = []
    while caller.writable_waiters:
        sizes.append(len(parts(caller.sent)[-1][2]))
        caller.writable_waiters.pop().callback(None)
    assert sizes == [CHUNK_SIZE, CHUNK_SIZE, 5]
    ended(harness)
    result_of(following)


def test_a_job_that_is_run_again_by_hand_while_its_output_is_sent_is_followed_on() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()
    caller.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, caller)
    ended(harness)
    harness.engine.dispatcher.drain()
    harness.retry(1)
    harness.settle()
    caller.writable_waiters.pop().callback(None)
    assert not following.called
    harness.cancel(1)
    harness.settle()
    assert result_of(following).status is Status.CANCELLED


def test_a_job_that_is_removed_while_its_output_is_sent_is_gone() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()
    caller.can_send = False
    harness.spool.writers[1].write(1, b"a")
    following = follow(harness, caller)
    ended(harness, b"b")
    harness.remove(1)
    harness.settle()
    caller.writable_waiters.pop().callback(None)
    assert isinstance(error_of(following), Gone)
    gone(harness)


def test_output_that_cannot_be_read_ends_it_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = opened()
    harness.submit()
    ended(harness, b"a")

    def fail(position: Any) -> Any:
        raise StoreFailed("unreadable")

    monkeypatch.setattr(harness.journal, "read", fail)
    assert isinstance(error_of(follow(harness, FakeClient())), StoreFailed)
    gone(harness)


@pytest.mark.parametrize("moment", ["pending", "running", "choked"])
def test_who_goes_away_leaves_nothing_behind(moment: str) -> None:
    harness, caller = opened(), FakeClient()
    harness.submit(hold=moment == "pending")
    caller.can_send = moment != "choked"
    following = follow(harness, caller)
    if moment != "pending":
        harness.spool.writers[1].write(1, b"a")
    following.cancel()
    assert isinstance(error_of(following), CancelledError)
    gone(harness)
    if moment != "pending":
        harness.spool.writers[1].write(1, b"b")
        assert parts(caller.sent) == [("stdout", 0, b"a")]


def test_who_goes_away_just_when_there_is_more_gets_none_of_it() -> None:
    harness, caller = opened(), FakeClient()
    harness.submit()

    def go() -> None:
        following.cancel()

    leave = harness.spool.add_output_observer(1, go)
    following = follow(harness, caller)
    harness.spool.writers[1].write(1, b"a")
    assert isinstance(error_of(following), CancelledError)
    assert caller.sent == b""
    leave()
    gone(harness)


# On a real spool: in memory, in a file, in the journal.

STEP = st.one_of(
    st.tuples(st.just("print"), st.sampled_from([1, 2]), st.integers(1, 6000)),
    st.tuples(st.sampled_from(["later", "read", "choke", "writable", "retry"]), st.just(0), st.just(0)),
)


class World:
    """A house with a spool on a disk, its job 1, and one who follows it; ``printed`` is by attempt."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.filesystem, self.threads = FakeFilesystem(), Threads()
        spools: list[Spool] = []

        def make() -> Spool:
            spools.append(Spool(str(directory), self.filesystem, clocks.clock(), self.threads))
            spools[0].open()
            return spools[0]

        patch.setattr(engine, "FakeSpool", make)
        self.harness = Harness()
        [self.spool] = spools
        self.spool._clock = self.harness.clock
        self.harness.engine.start()
        self.harness.submit(retries=100)
        self.printed: list[dict[str, bytes]] = [{"stdout": b"", "stderr": b""}]
        self.caller = FakeClient()
        self.following = follow(self.harness, self.caller)

    def print(self, stream: int, size: int) -> None:
        data = (b"%d," % size * size)[:size]
        self.printed[-1]["stdout" if stream == 1 else "stderr"] += data
        self.spool._open_attempts[1].output.write(stream, data)

    def later(self, *_: int) -> None:
        self.harness.clock.advance(FLUSH_TIMEOUT)

    def read(self, *_: int) -> None:
        for writable in self.caller.writable_waiters[:1]:
            del self.caller.writable_waiters[:1]
            writable.callback(None)

    def choke(self, *_: int) -> None:
        self.caller.can_send = False

    def writable(self, *_: int) -> None:
        self.caller.can_send = True
        self.read()

    def retry(self, *_: int) -> None:
        self.end(reason=FAILED.reason)
        self.harness.clock.advance(4000)
        self.harness.settle()
        self.printed.append({"stdout": b"", "stderr": b""})

    def end(self, **how: Any) -> None:
        closing = self.spool._open_attempts[1].output.close()
        self.threads.run()
        out, err = result_of(closing)
        self.harness.finish(1, Outcome(**{"reason": None, "exit_code": 0, **how}, stdout=out, stderr=err))

    def got(self) -> list[dict[str, bytes]]:
        """Return what came, by attempt: one that printed nothing is not seen."""
        found: list[dict[str, bytes]] = [{"stdout": b"", "stderr": b""}]
        for stream, offset, data in parts(self.caller.sent):
            if offset == 0 and (found[-1][stream] or _is_new(found[-1], stream, self.printed, found)):
                found.append({"stdout": b"", "stderr": b""})
            assert len(found[-1][stream]) == offset
            found[-1][stream] += data
        return found


def _is_new(
    latest: dict[str, bytes], stream: str, printed: list[dict[str, bytes]], found: list[dict[str, bytes]]
) -> bool:
    """Whether a stream's first byte is of a later attempt, where the latest one had none of that stream."""
    known = [each for each in printed if any(each.values())]
    return any(latest.values()) and not known[len(found) - 1][stream]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25))
def test_all_that_is_printed_arrives_in_order_wherever_it_lies(
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
        world.caller.can_send = True
        while world.caller.writable_waiters:
            world.read()
        assert result_of(world.following).status is Status.COMPLETED
        printed = [each for each in world.printed if any(each.values())]
        assert world.got() == (printed or [{"stdout": b"", "stderr": b""}])
        assert not world.spool._observers
