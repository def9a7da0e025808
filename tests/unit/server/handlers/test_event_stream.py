"""What watchers are told: everything that they want, once, in order, from the past into what comes."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from taskqd.errors import BadRequest, Lagged, StoreFailed
from taskqd.model.events import (
    Cancelled,
    Changed,
    Clocked,
    Event,
    Paused,
    Removed,
    Resized,
    Resumed,
    Scheduled,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Job
from taskqd.model.spec import Array, Spec
from taskqd.protocol import replies
from taskqd.server.handlers import event_stream as module
from taskqd.server.handlers.event_filter import EventFilter
from taskqd.server.handlers.event_stream import FLUSH_INTERVAL, EventStream
from taskqd.state.queue_state import QueueState
from taskqd.storage.journal import reader
from taskqd.storage.journal.journal import Journal
from taskqd.storage.journal.snapshot import SnapshotWriter
from tests.fakes.client import FakeClient
from tests.fakes.clocks import START, ThreadReactor, Threads, clock
from tests.fakes.deferreds import begin, error_of
from tests.fakes.engine import watchers
from tests.fakes.filesystem import FakeFilesystem
from tests.fakes.journal import FakeJournal


def submitted(job_id: int, **spec: Any) -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", command="true", spec=Spec(**spec))


ALL = EventFilter()


class Desk:
    """A feed over a store in memory, its backlog applied as the recorder does it."""

    def __init__(self, *journal: Event) -> None:
        self.store = FakeJournal(list(journal))
        self.queue_state = QueueState()
        for event in journal:
            self.queue_state.apply(event)
        self.clock = clock()
        self.feed = EventStream(self.store, self.queue_state, self.clock)

    def happen(self, *events: Event) -> None:
        """Let events happen one after the other, each after what was gathered before it was sent."""
        for event in events:
            self.happen_together(event)
            self.clock.advance(FLUSH_INTERVAL)

    def happen_together(self, *events: Event) -> None:
        durable = self.store.append_all(events)
        for event in events:
            durable.addCallback(lambda _, event: self.queue_state.apply(event), event)
        self.store.sync()

    def watch(self, caller: FakeClient, wanted: EventFilter = ALL, since: int | None = None) -> Any:
        return begin(self.feed.watch(caller, wanted, self.feed.first_sequence(since)))


def numbers(caller: FakeClient) -> list[int]:
    return [int(line.split()[1]) for line in caller.sent.splitlines()]


def lines(*events: tuple[int, Event]) -> bytes:
    return b"".join(replies.event(*each) for each in events)


def ended(watching: "Deferred[None]") -> None:
    """End a watch as its client does."""
    watching.cancel()
    assert isinstance(error_of(watching), CancelledError)


def test_a_watcher_gets_what_happens_from_now_on() -> None:
    desk, caller = Desk(submitted(1)), FakeClient()
    watching = desk.watch(caller)
    assert caller.sent == b""
    desk.happen(submitted(2), submitted(3))
    assert caller.sent == lines((2, submitted(2)), (3, submitted(3)))
    ended(watching)
    desk.happen(submitted(4))
    assert numbers(caller) == [2, 3]
    assert watchers(desk.feed) == 0


@pytest.mark.parametrize("since", [0, 1, 3, 9, 10, 11])
def test_a_watcher_gets_what_has_happened_since_a_number_and_what_comes(since: int) -> None:
    desk, caller = Desk(*map(submitted, range(1, 11))), FakeClient()
    watching = desk.watch(caller, since=since)
    desk.happen(submitted(11), submitted(12))
    assert numbers(caller) == list(range(max(since, 1), 13))
    ended(watching)


def test_a_number_that_nothing_can_have_yet_is_refused() -> None:
    desk = Desk(submitted(1))
    assert desk.feed.first_sequence(None) == desk.feed.first_sequence(2) == 2
    with pytest.raises(BadRequest, match="the next one is 2"):
        desk.feed.first_sequence(3)


def test_what_is_not_there_any_more_is_said_with_the_number_to_go_on_with() -> None:
    desk, caller = Desk(*map(submitted, range(1, 11))), FakeClient()
    desk.store.oldest = 5
    lagged = error_of(desk.watch(caller, since=4))
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 5
    assert caller.sent == b""
    ended(desk.watch(caller, since=5))
    assert numbers(caller) == list(range(5, 11))


def test_a_journal_that_cannot_be_read_ends_the_watch() -> None:
    desk = Desk(submitted(1))
    desk.store.fail()
    assert isinstance(error_of(desk.watch(FakeClient(), since=1)), StoreFailed)


def test_what_comes_while_the_past_is_read_follows_it_once() -> None:
    desk, caller = Desk(*map(submitted, range(1, 8))), FakeClient()
    caller.can_send = False
    watching = desk.watch(caller, since=1)
    for job_id in range(8, 12):
        desk.happen(submitted(job_id))
        caller.writable_waiters.pop().callback(None)
    caller.can_send = True
    caller.writable_waiters.pop().callback(None)
    desk.happen(submitted(12))
    assert numbers(caller) == list(range(1, 13))
    ended(watching)


def test_what_comes_together_is_told_in_its_order() -> None:
    desk, caller = Desk(), FakeClient()
    watching = desk.watch(caller)
    desk.happen_together(*map(submitted, (1, 2, 3)))
    assert caller.sent == lines(*enumerate(map(submitted, (1, 2, 3)), 1))
    ended(watching)


def test_who_comes_in_while_others_are_told_gets_what_is_behind_all_that_came_together() -> None:
    desk, caller, late = Desk(), FakeClient(), FakeClient()
    watching = [desk.watch(caller)]
    send = caller.send

    def send_and_let_in(data: bytes) -> None:
        caller.send = send  # type: ignore[method-assign]
        send(data)
        watching.append(desk.watch(late))

    caller.send = send_and_let_in  # type: ignore[method-assign]
    desk.happen_together(*map(submitted, (1, 2, 3)))
    desk.happen(submitted(4))
    assert numbers(caller) == [1, 2, 3, 4]
    assert numbers(late) == [4]
    for each in watching:
        ended(each)


def test_who_lags_amid_what_came_together_is_told_nothing_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound, value in (("MAX_GROUP_EVENTS", 2), ("CHUNK_SIZE", 1), ("FLUSH_SIZE", 1)):
        monkeypatch.setattr(module, bound, value)
    desk, caller, quick = Desk(), FakeClient(), FakeClient()
    watching, other = desk.watch(caller), desk.watch(quick)
    caller.can_send = False
    desk.happen_together(*map(submitted, range(1, 8)))
    lagged = error_of(watching)
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 2
    assert numbers(caller) == [1]
    assert numbers(quick) == list(range(1, 8))
    ended(other)


# Slow watchers.


def test_what_a_watcher_cannot_take_waits_for_it() -> None:
    desk, caller = Desk(), FakeClient()
    watching = desk.watch(caller)
    caller.can_send = False
    desk.happen(*map(submitted, range(1, 8)))
    assert numbers(caller) == [1]
    caller.can_send = True
    caller.writable_waiters.pop().callback(None)
    assert numbers(caller) == list(range(1, 8))
    ended(watching)


def test_a_watcher_takes_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 3 * len(lines((1, submitted(1)))))
    desk, caller = Desk(), FakeClient()
    watching = desk.watch(caller)
    caller.can_send = False
    desk.happen_together(*map(submitted, range(1, 9)))
    for upto in (3, 6, 8):
        assert numbers(caller) == list(range(1, upto + 1))
        caller.writable_waiters.pop().callback(None)
    ended(watching)


@pytest.mark.parametrize(
    "bound, size", [("MAX_GROUP_EVENTS", 1), ("MAX_GROUP_BYTES", len(lines((1, submitted(1)))))]
)
def test_a_watcher_that_is_too_slow_is_told_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch, bound: str, size: int
) -> None:
    monkeypatch.setattr(module, bound, 5 * size)
    desk, caller = Desk(), FakeClient()
    watching = desk.watch(caller)
    caller.can_send = False
    desk.happen(*map(submitted, range(1, 7)))
    assert watchers(desk.feed) == 1
    desk.happen(submitted(7))
    assert watchers(desk.feed) == 0, "nothing more waits for it"
    caller.writable_waiters.pop().callback(None)
    lagged = error_of(watching)
    assert isinstance(lagged, Lagged)
    assert lagged.sequence == 2
    assert numbers(caller) == [1]
    caller.can_send = True
    again = desk.watch(caller, since=2)
    assert numbers(caller) == list(range(1, 8))
    ended(again)


def test_a_watcher_that_has_kept_up_for_long_has_not_lagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 5 * len(lines((1, submitted(1)))))
    desk, caller = Desk(), FakeClient()
    watching = desk.watch(caller)
    for first in range(1, 30, 3):
        caller.can_send = False
        desk.happen(*map(submitted, range(first, first + 3)))
        caller.can_send = True
        caller.writable_waiters.pop().callback(None)
    assert numbers(caller) == list(range(1, 31))
    ended(watching)


@pytest.mark.parametrize("moment", ["reading", "waiting for events", "waiting for room"])
def test_who_goes_away_leaves_nothing_behind(moment: str) -> None:
    desk, caller = Desk(*map(submitted, range(1, 8))), FakeClient()
    caller.can_send = moment == "waiting for events"
    watching = desk.watch(caller, since=1 if moment == "reading" else None)
    if moment == "waiting for room":
        desk.happen(submitted(8))
    ended(watching)
    assert watchers(desk.feed) == 0


def test_an_event_is_encoded_once_for_all_who_want_it_and_never_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, callers = Desk(), [FakeClient(), FakeClient()]
    encoded: list[int] = []
    encode = replies.event

    def event(sequence: int, happened: Event) -> bytes:
        encoded.append(sequence)
        return encode(sequence, happened)

    monkeypatch.setattr(replies, "event", event)
    desk.happen(submitted(1))
    watching = [desk.watch(caller) for caller in callers]
    ignorant = desk.watch(FakeClient(), EventFilter(queue="elsewhere"))
    desk.happen(submitted(2), submitted(3))
    assert encoded == [2, 3]
    assert [numbers(caller) for caller in callers] == [[2, 3]] * 2
    for each in (*watching, ignorant):
        ended(each)


# What many watchers take.


def test_what_comes_within_a_moment_is_sent_in_one_piece_to_each_watcher() -> None:
    desk, callers = Desk(), [FakeClient(), FakeClient()]
    watching = [desk.watch(caller) for caller in callers]
    sent: list[bytes] = []
    for caller in callers:
        caller.send = sent.append  # type: ignore[assignment, method-assign]
    desk.happen_together(submitted(1))
    assert sent == [lines((1, submitted(1)))] * 2, "what comes after a quiet time is sent at once"
    for number in (2, 3, 4):
        desk.happen_together(submitted(number))
    assert len(sent) == 2
    desk.clock.advance(FLUSH_INTERVAL)
    assert sent[2:] == [lines(*((number, submitted(number)) for number in (2, 3, 4)))] * 2
    assert sent[2] is sent[3], "it is put together once"
    for each in watching:
        ended(each)


def test_a_watch_that_is_ended_has_all_that_happened_before() -> None:
    desk, caller, slow = Desk(), FakeClient(), FakeClient()
    watching, other = desk.watch(caller), desk.watch(slow)
    slow.can_send = False
    for number in (1, 2, 3):
        desk.happen_together(submitted(number))
    ended(watching)
    ended(other)
    assert (numbers(caller), numbers(slow)) == ([1, 2, 3], [1])
    desk.clock.advance(FLUSH_INTERVAL)
    assert not desk.clock.getDelayedCalls()


def test_who_joins_and_who_takes_early_get_what_is_gathered_once() -> None:
    desk, first, late = Desk(), FakeClient(), FakeClient()
    watching = [desk.watch(first)]
    first.can_send = False
    desk.happen_together(submitted(1))
    desk.happen_together(submitted(2))
    watching.append(desk.watch(late))
    desk.happen_together(submitted(3))
    first.can_send = True
    first.writable_waiters.pop().callback(None)
    desk.happen_together(submitted(4))
    desk.clock.advance(FLUSH_INTERVAL)
    assert (numbers(first), numbers(late)) == ([1, 2, 3, 4], [3, 4])
    for each in watching:
        ended(each)


def test_what_is_kept_for_all_watchers_together_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(lines((1, submitted(1, queue="q0"))))
    monkeypatch.setattr(module, "MAX_TOTAL_BYTES", 10 * size)
    desk, callers = Desk(), [FakeClient() for _ in range(4)]
    watching = [desk.watch(caller, EventFilter(queue=f"q{at}")) for at, caller in enumerate(callers)]
    for caller in callers:
        caller.can_send = False
    numbers_of = iter(range(1, 100))
    for at in (0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3):
        desk.happen(submitted(next(numbers_of), queue=f"q{at}"))
    assert [each.called for each in watching] == [False, True, False, False], "most is kept for the second"
    assert isinstance(lagged := error_of(watching[1]), Lagged)
    assert lagged.sequence == 4
    for caller in callers:
        caller.can_send = True
        for writable in caller.writable_waiters[-1:]:
            if not writable.called:
                writable.callback(None)
    assert [numbers(caller) for caller in callers] == [[1, 2], [3], [8, 9, 10], [11, 12, 13, 14]]
    for each in (watching[0], *watching[2:]):
        ended(each)


# Filters.

FIRST, TASKS = submitted(1, queue="a"), submitted(2, queue="b", array=Array(1, 3))
CANCELLED = Cancelled(id=1, at=START, by="ada", signal=15)
REMOVED = Removed(id=1, at=START, by="ada")
BY: dict[str, Any] = {"at": START, "by": "ada"}


def of(job_id: int) -> Event:
    return Cancelled(id=job_id, at=START, by="ada", signal=15)


@pytest.mark.parametrize(
    "event, takers",
    [
        (FIRST, {"all", "a", "job 1"}),
        (TASKS, {"all", "b", "array", "task"}),
        (of(1), {"all", "a", "job 1"}),
        (of(2), {"all", "b", "array", "task"}),
        (of(3), {"all", "b", "array"}),
        (of(4), {"all", "b", "array", "task"}),
        (of(9), {"all", "a", "b"}),
        (submitted(9), {"all"}),
        (Changed(id=1, spec=Spec(queue="b"), **BY), {"all", "b", "job 1"}),
        (Paused(**BY), {"all", "a", "b"}),
        (Paused(queue="a", **BY), {"all", "a"}),
        (Resumed(queue="b", **BY), {"all", "b"}),
        (Resized(queue="b", slots=3, **BY), {"all", "b"}),
        (Paused(schedule=1, **BY), {"all"}),
        (Scheduled(schedule=1, spec=Spec(queue="a"), every=9.0, **BY), {"all"}),
        (Unscheduled(schedule=1, **BY), {"all"}),
    ],
)
def test_a_filter_lets_through_what_is_of_its_job_or_queue(event: Event, takers: set[str]) -> None:
    jobs: dict[int, Job] = Desk(FIRST, TASKS).queue_state.jobs
    filters = {
        "all": ALL,
        "a": EventFilter(queue="a"),
        "b": EventFilter(queue="b"),
        "job 1": EventFilter.of_job(jobs[1]),
        "array": EventFilter.of_job(jobs[2]),
        "task": EventFilter.of_job(jobs[4]),
    }
    assert {name for name, wanted in filters.items() if wanted.matches(event, jobs)} == takers


def test_a_job_s_filter_can_be_for_its_queue_too() -> None:
    jobs = Desk(FIRST, TASKS).queue_state.jobs
    assert EventFilter.of_job(jobs[1], "a").matches(of(1), jobs)
    assert not EventFilter.of_job(jobs[1], "b").matches(of(1), jobs)


EVES = Submitted(id=6, at=START, owner="eve", command="true", spec=Spec(queue="a"))
BY_EVE: dict[str, Any] = {"at": START, "by": "eve"}


@pytest.mark.parametrize(
    "event, takers",
    [
        (FIRST, {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (TASKS, {"ada"}),
        (EVES, {"a", "eve"}),
        (of(1), {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (of(2), {"ada"}),
        (of(4), {"ada"}),
        (of(6), {"a", "eve"}),
        (of(9), set()),
        (submitted(9, queue="a"), set()),
        (Paused(**BY), {"ada", "a", "ada in a", "ada's watch of queue a"}),
        (Paused(**BY_EVE), {"a", "eve"}),
        (Paused(queue="a", **BY_EVE), {"a", "eve"}),
        (Resumed(queue="b", **BY), {"ada"}),
        (Resized(queue="b", slots=3, **BY), {"ada"}),
        (Paused(schedule=1, **BY), {"ada"}),
        (Scheduled(schedule=1, spec=Spec(queue="a"), every=9.0, **BY), {"ada"}),
        (Unscheduled(schedule=1, **BY_EVE), {"eve"}),
    ],
)
def test_who_may_not_see_everything_is_told_of_what_they_may(event: Event, takers: set[str]) -> None:
    """Of a job that is not known any more, and so not known to be theirs, nothing is told."""
    jobs = Desk(FIRST, TASKS, EVES).queue_state.jobs
    filters = {
        "ada": EventFilter(owner="ada"),
        "eve": EventFilter(owner="eve"),
        "a": EventFilter(token_queue="a"),
        "ada in a": EventFilter(owner="ada", token_queue="a"),
        "ada's watch of queue a": EventFilter(owner="ada", queue="a"),
        "ada's watch of a job of eve's": replace(EventFilter.of_job(jobs[6]), owner="ada"),
    }
    assert {name for name, wanted in filters.items() if wanted.matches(event, jobs)} == takers


def test_what_may_be_seen_holds_for_the_past_and_for_what_comes() -> None:
    desk, caller = Desk(FIRST, TASKS, EVES, of(1), of(6)), FakeClient()
    watching = desk.watch(caller, EventFilter(owner="eve"), 1)
    assert numbers(caller) == [3, 5]
    desk.happen(of(2), Removed(id=6, at=START, by="eve"), Paused(**BY), Paused(**BY_EVE))
    assert numbers(caller) == [3, 5, 9]
    ended(watching)


def test_a_filter_holds_for_the_past_and_for_what_comes() -> None:
    desk, caller = Desk(FIRST, TASKS, of(1), submitted(6, queue="a")), FakeClient()
    watching = desk.watch(caller, EventFilter(queue="a"), 1)
    assert numbers(caller) == [1, 3, 4]
    desk.happen(submitted(7, queue="a"), submitted(8, queue="b"), REMOVED)
    assert numbers(caller) == [1, 3, 4, 5, 7]
    ended(watching)


# On a real store, whatever happens.

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("watch"), st.integers(1, 40)),
    st.tuples(
        st.sampled_from(["leave", "choke", "writable", "read", "wait", "snapshot", "fail"]), st.just(0)
    ),
)


class World:
    """A store on a disk with a feed, and one client that watches, leaves, and comes again."""

    def __init__(self, directory: str) -> None:
        self.filesystem, self.threads, self.reactor = FakeFilesystem(), Threads(), ThreadReactor()
        self.store = Journal(directory, self.reactor, self.filesystem, "boot", self.reactor, self.threads)
        self.store.segment_bytes = 600
        self.store.lock()
        list(self.store.replay())
        self.store.start_writing(0)
        self.queue_state = QueueState()
        self.feed = EventStream(self.store, self.queue_state, self.reactor)
        self.journal: list[tuple[int, Event]] = []
        self.store.add_observer(lambda first, events: self.journal.extend(enumerate(events, first)))
        self.caller = FakeClient()
        self.first = 0
        self.watching: Deferred[Any] | None = None

    def append(self, count: int) -> None:
        # Some are on their way while others are told.
        for done in [self.store.append(submitted(self.store.next_id)) for _ in range(count)]:
            self.reactor.until(done)

    def watch(self, since: int) -> None:
        if self.watching is None:
            self.first = min(since, self.store.last_sequence + 1)
            self.caller, before = FakeClient(), self.caller
            self.caller.can_send = before.can_send
            self.watching = begin(self.feed.watch(self.caller, ALL, self.feed.first_sequence(self.first)))
            self.watching.addErrback(self._over)

    def _over(self, failure: Any) -> None:
        failure.trap(CancelledError, Lagged)
        self.watching = None
        if isinstance(failure.value, Lagged):
            got = numbers(self.caller)
            last = got[-1] if got else self.first - 1
            assert failure.value.sequence > last
            self.check(upto=last)

    def leave(self, _: int = 0) -> None:
        if self.watching is not None:
            self.watching.cancel()

    def choke(self, _: int) -> None:
        self.caller.can_send = False

    def writable(self, _: int) -> None:
        self.caller.can_send = True
        writable_waiters, self.caller.writable_waiters = self.caller.writable_waiters, []
        for writable in writable_waiters:
            writable.callback(None)

    def read(self, _: int) -> None:
        if self.threads.waiting:
            self.threads.waiting.pop(0)()

    def wait(self, _: int) -> None:
        self.reactor.advance(FLUSH_INTERVAL)

    def snapshot(self, _: int) -> None:
        number = self.store.last_durable_segment - 1
        if number > self.store.snapshot_number:
            SnapshotWriter(self.store.segments, self.filesystem, number).write()
            self.store.compacted(number, self.store.segments.remove_obsolete(number))

    def fail(self, _: int) -> None:
        self.filesystem.fail("sync")
        done = self.store.append(submitted(self.store.next_id))
        assert isinstance(self.until_failed(done), StoreFailed)
        self.filesystem.clear_failures()
        self.reactor.advance(1.0)
        self.reactor.until(self.store.when_writable())

    def until_failed(self, done: "Deferred[Any]") -> BaseException:
        failures: list[Any] = []
        done.addErrback(failures.append)
        while not failures:
            self.reactor.turn()
        why: BaseException = failures[0].value
        return why

    def check(self, upto: int) -> None:
        expected = [(number, event) for number, event in self.journal if self.first <= number <= upto]
        assert self.caller.sent == lines(*expected)

    def catch_up(self) -> None:
        self.reactor.advance(FLUSH_INTERVAL)
        self.writable(0)
        while self.threads.waiting and self.watching is not None:
            self.read(0)
            self.writable(0)

    def close(self) -> None:
        self.leave()
        self.reactor.until(self.store.close())


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_a_watch_has_no_gap_and_nothing_twice_whatever_happens_beside(
    steps: list[tuple[str, int]],
) -> None:
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BATCH_BYTES", 300)
        patch.setattr(module, "MAX_GROUP_EVENTS", 8)
        world = World(os.path.join(directory, "state"))
        try:
            for name, number in steps:
                getattr(world, name)(number)
            world.catch_up()
            if world.watching is not None:
                world.check(upto=world.store.last_sequence)
        finally:
            world.close()


def test_the_world_of_the_test_before_does_catch_up(tmp_path: Path) -> None:
    world = World(str(tmp_path / "state"))
    world.append(12)
    world.watch(1)
    world.append(1)
    world.catch_up()
    world.append(1)
    assert len(numbers(world.caller)) == 14
    world.check(upto=world.store.last_sequence)
    world.close()


def test_clocks_are_told_to_no_watcher() -> None:
    assert not ALL.matches(Clocked(at=START, boot_clock=1.0), {})
