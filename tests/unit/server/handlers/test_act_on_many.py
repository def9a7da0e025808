"""Acts on many jobs: CANCEL, HOLD, RELEASE, RETRY, REMOVE and SET with filters."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone

from taskqd.errors import StoreFailed, TaskqError
from taskqd.model.events import Cancelled, JobEvent, Retried
from taskqd.model.footprint import SPEC_BYTES
from taskqd.model.job import Status
from taskqd.server.handlers.act_on_many import PROGRESS_INTERVAL
from taskqd.state.dependencies import MAX_JOBS_PER_BATCH
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, replayed
from tests.fakes.processes import FAILED
from tests.support.clients import ANN, BOB, EVE, IN_Q, ROOT, Server
from tests.support.requests import answer, ask, opened, refusal

PENDING, RUNNING, CANCELLED = Status.PENDING, Status.RUNNING, Status.CANCELLED


def filled(count: int, options: str = "--queue=q", slots: int = 1) -> Harness:
    """Return a harness that has held jobs."""
    harness = opened(slots)
    for _ in range(count):
        ask(harness, f"SUBMIT --hold {options} true")
    harness.settle()
    return harness


def of(harness: Harness, kind: type[JobEvent]) -> list[int]:
    """Return the jobs that have an event of a kind, in the order of the records."""
    return [event.id for event in harness.journal.events if isinstance(event, kind)]


# What is selected.


def test_act_on_many_changes_the_jobs_that_match_all_filters_and_answers_with_their_number() -> None:
    harness = opened(1)
    for options in ("--label=x", "--label=x --queue=q", "--queue=q", '--label="a x" --queue=q', "--label=x"):
        answer(harness, f"SUBMIT --hold {options} echo Hello")
    assert answer(harness, "CANCEL --label=x --queue=q") == "OK 1\r\n"
    assert of(harness, Cancelled) == [2]
    assert answer(harness, "CANCEL --queue=q --match=HELLO --owner=ada --status=pending") == "OK 2\r\n"
    assert answer(harness, "RELEASE --match=nothing") == "OK 0\r\n"
    assert answer(harness, "CANCEL --owner=bob") == "OK 0\r\n"
    assert harness.statuses() == [PENDING, CANCELLED, CANCELLED, CANCELLED, PENDING]


@pytest.mark.parametrize(
    "line, count, statuses",
    [
        ("CANCEL --owner=ada", 3, [RUNNING, CANCELLED, CANCELLED, CANCELLED]),
        ("HOLD --owner=ada", 1, [RUNNING, PENDING, PENDING, CANCELLED]),
        ("RELEASE --owner=ada", 1, [RUNNING, PENDING, PENDING, CANCELLED]),
        ("RETRY --owner=ada", 1, [RUNNING, PENDING, PENDING, PENDING]),
        ("REMOVE --owner=ada", 1, [RUNNING, PENDING, PENDING]),
        ("SET --owner=ada --priority=3", 2, [RUNNING, PENDING, PENDING, CANCELLED]),
        ("CANCEL --status=COMPLETED,CANCELLED", 0, [RUNNING, PENDING, PENDING, CANCELLED]),
    ],
)
def test_jobs_to_which_the_act_does_not_apply_are_skipped_and_not_counted(
    line: str, count: int, statuses: list[Status]
) -> None:
    harness = opened(1)
    for options in ("", "", "--hold", "--hold"):
        answer(harness, f"SUBMIT {options} true")
    answer(harness, "CANCEL 4")
    assert answer(harness, line) == f"OK {count}\r\n"
    assert harness.statuses() == statuses
    assert replayed(harness.journal.events) == harness.queue_state
    if not line.startswith(("SET", "RETRY")):
        assert answer(harness, line) == "OK 0\r\n"


def test_cancel_of_many_ends_running_jobs_by_the_signal() -> None:
    harness = opened(2)
    for _ in range(3):
        harness.submit()
    assert answer(harness, "CANCEL --status=RUNNING --signal=INT") == "OK 2\r\n"
    assert [(job, number) for job, _, number in harness.executor.signals] == [(2, 2), (1, 2)]


def test_cancel_of_many_fails_no_job_that_depends_on_another_of_them() -> None:
    harness = filled(1)
    for number in range(1, 40):
        ask(harness, f"SUBMIT --queue=q --after={number} true")
        harness.settle()
    assert answer(harness, "CANCEL --queue=q") == "OK 40\r\n"
    assert of(harness, Cancelled) == list(range(40, 0, -1))


def test_array_counts_as_one_job_and_its_tasks_are_not_selected_singly() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=1-5 --queue=q true")
    assert answer(harness, "HOLD --queue=q") == "OK 1\r\n"
    assert answer(harness, "CANCEL --queue=q") == "OK 1\r\n"
    assert of(harness, Cancelled) == [1]


def test_jobs_submitted_after_the_request_are_not_selected() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 1)
    replied = ask(harness, "RELEASE --queue=q")
    late = ask(harness, "SUBMIT --hold --queue=q true")
    harness.settle()
    assert result_of(replied) == b"OK %d\r\n" % (MAX_JOBS_PER_BATCH + 1)
    assert harness.job(int(result_of(late).split()[1])).is_held


def test_job_that_no_longer_matches_when_its_portion_comes_is_left_alone() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 2)
    replied = ask(harness, "CANCEL --queue=q")  # newest first: jobs 1 and 2 come with the second portion
    ask(harness, "SET 1 --queue=other")
    ask(harness, "CANCEL 2")
    harness.settle()
    assert result_of(replied) == b"OK %d\r\n" % MAX_JOBS_PER_BATCH
    assert harness.job(1).status is PENDING


# Portions.


def test_act_on_many_reports_its_progress_between_portions() -> None:
    harness = filled(4 * MAX_JOBS_PER_BATCH)
    client = FakeClient()
    replied = ask(harness, "CANCEL --queue=q --progress", client)
    for _ in range(2):
        harness.clock.advance(PROGRESS_INTERVAL)
        harness.journal.sync()
    harness.settle()
    total = 4 * MAX_JOBS_PER_BATCH
    assert client.sent == b"".join(
        b"PROGRESS %d %d\r\n" % (portions * MAX_JOBS_PER_BATCH, total) for portions in (1, 2)
    )
    assert result_of(replied) == b"OK %d\r\n" % total


def test_act_on_many_is_recorded_in_portions_of_one_entry_each() -> None:
    harness = filled(2 * MAX_JOBS_PER_BATCH + 10)
    replied = ask(harness, "CANCEL --queue=q")
    sizes = []
    while not replied.called:
        sizes.append(len(harness.journal.pending))
        assert len(of(harness, Cancelled)) == sum(sizes[:-1])
        harness.journal.sync()
    assert sizes == [MAX_JOBS_PER_BATCH, MAX_JOBS_PER_BATCH, 10]
    assert result_of(replied) == b"OK %d\r\n" % sum(sizes)


def test_acts_of_several_users_are_recorded_one_portion_at_a_time() -> None:
    harness = filled(MAX_JOBS_PER_BATCH, "--queue=a")
    for _ in range(MAX_JOBS_PER_BATCH):
        ask(harness, "SUBMIT --hold --queue=b true")
    harness.settle()
    first = ask(harness, "CANCEL --queue=a")
    second = ask(harness, "RELEASE --queue=b", FakeClient(ROOT))
    assert len(harness.journal.pending) == MAX_JOBS_PER_BATCH
    harness.settle()
    assert result_of(first) == result_of(second) == b"OK %d\r\n" % MAX_JOBS_PER_BATCH


def test_acts_of_one_user_are_carried_out_one_after_the_other() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 1)
    replies = [ask(harness, f"{verb} --queue=q") for verb in ("RELEASE", "HOLD", "CANCEL")]
    harness.settle()
    all_but_running, everything = (b"OK %d\r\n" % (MAX_JOBS_PER_BATCH + more) for more in (0, 1))
    assert [result_of(reply) for reply in replies] == [everything, all_but_running, everything]


def test_act_on_many_waits_between_portions_while_others_need_the_reactor() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 1)
    client = FakeClient()
    replied = ask(harness, "CANCEL --queue=q", client)
    client.can_send = False
    harness.settle()
    assert (len(of(harness, Cancelled)), replied.called) == (MAX_JOBS_PER_BATCH, False)
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    harness.settle()
    assert result_of(replied) == b"OK %d\r\n" % (MAX_JOBS_PER_BATCH + 1)


def test_act_on_many_ends_when_its_client_disconnects_and_lets_the_next_one_begin() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 1)
    client = FakeClient()
    replied = ask(harness, "CANCEL --queue=q", client)
    client.can_send = False
    harness.settle()
    client.writable_waiters.pop().errback(ConnectionDone())
    assert isinstance(error_of(replied), ConnectionDone)
    assert len(of(harness, Cancelled)) == MAX_JOBS_PER_BATCH
    assert answer(harness, "CANCEL --queue=q") == "OK 1\r\n"


def test_failure_of_the_journal_leaves_the_rest_and_a_second_request_completes_it() -> None:
    harness = filled(2 * MAX_JOBS_PER_BATCH)
    replied = ask(harness, "CANCEL --queue=q")
    harness.journal.sync()
    harness.journal.fail()
    why = error_of(replied)
    assert isinstance(why, StoreFailed)
    assert f"{MAX_JOBS_PER_BATCH} jobs were changed before" in str(why)
    assert isinstance(refusal(harness, "CANCEL --queue=q"), StoreFailed)
    harness.journal.recover()
    assert answer(harness, "CANCEL --queue=q") == f"OK {MAX_JOBS_PER_BATCH}\r\n"
    assert set(harness.statuses()) == {CANCELLED}
    assert replayed(harness.journal.events) == harness.queue_state


def test_jobs_whose_lock_is_held_are_changed_after_it_is_released() -> None:
    harness = filled(3)
    replies = [ask(harness, "RELEASE 2"), ask(harness, "CANCEL --queue=q")]
    harness.settle()
    assert [bytes(result_of(reply)) for reply in replies] == [b"STATUS PENDING 0\r\n", b"OK 3\r\n"]
    assert set(harness.statuses()) == {CANCELLED}


def test_jobs_removed_before_their_portion_comes_are_skipped() -> None:
    harness = filled(MAX_JOBS_PER_BATCH + 2)
    assert answer(harness, "CANCEL --queue=q") == f"OK {MAX_JOBS_PER_BATCH + 2}\r\n"
    replied = ask(harness, "RETRY --queue=q")
    for job_id in (MAX_JOBS_PER_BATCH + 1, MAX_JOBS_PER_BATCH + 2):
        ask(harness, f"REMOVE {job_id}")
    harness.settle()
    assert result_of(replied) == b"OK %d\r\n" % MAX_JOBS_PER_BATCH


# Users and limits.


def test_user_changes_only_own_jobs_of_the_token_s_queue() -> None:
    server = Server()
    server.ask(ANN, "SUBMIT sleep 9")
    for who, queue in ((ANN, "q"), (ANN, "default"), (BOB, "q")):
        server.ask(who, f"SUBMIT --hold --queue={queue} true")
    assert server.whole(EVE, "CANCEL --queue=q").startswith("FORBIDDEN")
    assert server.whole(BOB, "CANCEL --owner=ann") == "OK 0\r\n"
    assert server.whole(IN_Q, "HOLD --queue=default") == "OK 0\r\n"
    assert server.whole(IN_Q, "CANCEL --owner=ann") == "OK 1\r\n"
    assert server.status(2) is CANCELLED
    assert server.whole(ANN, "CANCEL --status=PENDING,RUNNING") == "OK 2\r\n"
    assert server.status(4) is PENDING
    assert server.whole(ROOT, "CANCEL --status=PENDING") == "OK 1\r\n"


def test_act_on_many_of_a_user_waits_for_its_rate_and_is_never_refused() -> None:
    server = Server(acts=100.0, submissions=None)
    harness = server.harness
    for _ in range(3 * MAX_JOBS_PER_BATCH):
        ask(harness, "SUBMIT --hold true", FakeClient(ANN))
    harness.settle()
    replied = ask(harness, "CANCEL --owner=ann", FakeClient(ANN))
    harness.settle()
    # 250 of 100 that may come at once: the balance of -150 is 1 after 1.51 s.
    assert len(of(harness, Cancelled)) == MAX_JOBS_PER_BATCH
    harness.clock.advance(1.5)
    assert not harness.journal.pending
    harness.clock.advance(0.02)
    harness.clock.advance(0.001)
    harness.settle()
    assert (len(of(harness, Cancelled)), replied.called) == (2 * MAX_JOBS_PER_BATCH, False)
    harness.clock.advance(2.52)
    harness.settle()
    assert result_of(replied) == b"OK %d\r\n" % (3 * MAX_JOBS_PER_BATCH)


def test_admin_and_a_limit_of_none_do_not_wait_for_a_rate() -> None:
    for who, limit in ((ROOT, 1.0), (ANN, None)):
        server = Server(acts=limit, submissions=None)
        for _ in range(2 * MAX_JOBS_PER_BATCH):
            ask(server.harness, "SUBMIT --hold true", FakeClient(ANN))
        server.harness.settle()
        assert server.whole(who, "HOLD --owner=ann") == "OK 0\r\n"
        assert server.whole(who, "CANCEL --owner=ann") == f"OK {2 * MAX_JOBS_PER_BATCH}\r\n"


def test_retry_of_many_stops_at_the_limit_of_pending_jobs() -> None:
    server = Server(pending_per_user=5)
    server.ask(ROOT, "SUBMIT sleep 9")  # the only slot is taken
    for _ in range(4):
        server.ask(ANN, "SUBMIT --hold true")
    assert server.whole(ANN, "CANCEL --owner=ann") == "OK 4\r\n"
    for _ in range(3):
        server.ask(ANN, "SUBMIT --hold true")
    assert server.whole(ANN, "RETRY --owner=ann") == "OK 2\r\n"
    assert of(server.harness, Retried) == [2, 3]
    assert server.ask(ANN, "RETRY --owner=ann") == "QUEUE_FULL"


def test_set_of_many_is_refused_if_it_changes_none_because_of_its_values() -> None:
    server = Server()
    server.ask(ANN, "SUBMIT --hold true")
    assert "the total is 1" in server.whole(ANN, "SET --owner=ann --slots=2")
    assert server.whole(ANN, "SET --owner=ann --priority=5").startswith("FORBIDDEN")
    assert server.whole(ANN, f"SET --owner=ann --label={'x' * 1001}").startswith("BAD_REQUEST")
    assert server.whole(ROOT, "SET --owner=ann --priority=5 --queue=w") == "OK 1\r\n"
    assert (server.harness.job(1).spec.priority, server.harness.job(1).spec.queue) == (5, "w")


def test_set_of_many_counts_the_growth_of_a_portion_as_a_whole() -> None:
    server = Server(pending_bytes_per_user=1024**2)
    long = "x" * 1000
    for _ in range(500):
        ask(server.harness, "SUBMIT --hold true", FakeClient(ANN))
    server.harness.settle()
    grown = int(server.whole(ANN, f"SET --owner=ann --label={long}").split()[1])
    assert 0 < grown < 500
    uncounted = grown * SPEC_BYTES  # of the specs before the change
    assert server.harness.queue_state.pending_bytes_of("ann") - uncounted <= 1024**2


# An act on many equals the same acts one by one.


ACTS = st.sampled_from(("HOLD", "RELEASE", "RETRY", "REMOVE", "CANCEL", "SET"))
JOBS = st.sampled_from(
    (
        *("", "--hold", "--queue=q", "--queue=q --hold", "--queue=q --delay=9", "--queue=q --retries=1"),
        "--queue=q --array=1-3",
    )
)
CHANGES = st.sampled_from(("finish", "fail", "CANCEL", "HOLD"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(JOBS, max_size=12),
    st.lists(st.tuples(CHANGES, st.integers(1, 12)), max_size=12),
    st.lists(st.tuples(st.integers(2, 12), st.integers(1, 11)), max_size=3),
    st.lists(ACTS, min_size=1, max_size=4),
)
def test_act_on_many_equals_the_same_acts_one_by_one(
    jobs: list[str], changes: list[tuple[str, int]], after: list[tuple[int, int]], acts: list[str]
) -> None:
    many, single = Harness(2), Harness(2)
    dependencies = {later: earlier for later, earlier in after if earlier < later}
    for harness in (many, single):
        harness.engine.start()
        for number, options in enumerate(jobs, 1):
            earlier = dependencies.get(number)
            ask(harness, f"SUBMIT {options}{f' --after={earlier}' if earlier else ''} true")
            harness.settle()
        for act, job_id in changes:
            _change(harness, act, job_id)
    ids = [job.id for job in single.queue_state.walk(1) if job.array is None and job.spec.queue == "q"]
    for act in acts:
        many_count = answer(many, f"{act} --queue=q" if act != "SET" else "SET --in-queue=q --priority=4")
        count = sum(_changes(single, act, each) for each in (reversed(ids) if act == "CANCEL" else ids))
        assert many_count == f"OK {count}\r\n"
    assert many.queue_state == single.queue_state


def _change(harness: Harness, act: str, job_id: int) -> None:
    if act in ("finish", "fail"):
        if job_id in harness.executor.running:
            harness.finish(job_id, FAILED) if act == "fail" else harness.finish(job_id)
    else:
        _changes(harness, act, job_id)


def _changes(harness: Harness, act: str, job_id: int) -> bool:
    """Carry out an act on one job; return whether it was recorded."""
    before = len(harness.journal.events)
    replied: Deferred[Any] = ask(harness, f"{act} {job_id}" + " --priority=4" * (act == "SET"))
    replied.addErrback(lambda failure: failure.trap(TaskqError))
    mine = len(harness.journal.pending)
    harness.settle()
    return mine > 0 and len(harness.journal.events) > before
