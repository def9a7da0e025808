"""Batching: submissions of one poll cycle are one journal entry, and each client gets its replies."""

from typing import Any

import pytest
from twisted.internet.defer import fail

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.engine.submissions import SubmissionBatch
from taskqd.model.roles import Role
from tests.fakes.client import Client
from tests.fakes.engine import Harness


def opened(**more: Any) -> Harness:
    harness = Harness(0, **more)
    harness.engine.start()
    return harness


def in_one_cycle(harness: Harness, *sent: tuple[Client, bytes]) -> None:
    """Let the server read from several clients in one poll cycle."""
    harness.factory.submit_batcher.batch_started()
    for client, data in sent:
        client.send(data)
    harness.factory.submit_batcher.batch_ended()


def as_ada(harness: Harness, role: Role = Role.SUBMIT) -> Client:
    client = Client(harness)
    client.connection.principal = Principal("ada", role)
    return client


def entries(harness: Harness) -> list[int]:
    """Return the number of events of each entry that is not durable yet."""
    return [len(events) for events in harness.journal.pending_appends]


def test_submissions_of_one_cycle_are_one_entry_and_each_client_is_answered() -> None:
    harness = opened()
    one, two, three = Client(harness), Client(harness), Client(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\nSUBMIT b\n"), (two, b"PING\n"), (three, b"SUBMIT c\n"))
    assert entries(harness) == [3]
    assert two.lines() == ["OK"]
    harness.settle()
    assert one.lines() == ["JOB_ID 1", "JOB_ID 2"]
    assert three.lines() == ["JOB_ID 3"]
    assert [harness.job(number).command for number in (1, 2, 3)] == ["a", "b", "c"]


def test_submissions_between_cycles_are_submitted_at_once() -> None:
    harness = opened()
    one, two = Client(harness), Client(harness)
    one.send(b"SUBMIT a\n")
    assert entries(harness) == [1]
    in_one_cycle(harness, (two, b"SUBMIT b\n"))
    in_one_cycle(harness)
    one.send(b"SUBMIT c\n")
    assert entries(harness) == [1, 1, 1]


def test_each_client_owns_its_submissions() -> None:
    harness = opened()
    one, two = as_ada(harness), Client(harness)
    two.connection.principal = Principal("bob", Role.SUBMIT, "pid 7")
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\n"))
    harness.settle()
    assert [job.owner for job in harness.queue_state.walk(1)] == ["ada", "bob"]
    assert [getattr(event, "origin", "") for event in harness.journal.events] == [None, "pid 7"]


def test_refused_submission_does_not_affect_the_others() -> None:
    harness = opened(limits=Limits(label=5))
    one, two, reader = Client(harness), Client(harness), as_ada(harness, Role.READ)
    stranger = Client(harness)
    stranger.connection.principal = None
    in_one_cycle(
        harness,
        (one, b"SUBMIT a\nSUBMIT --label=too-long b\nSUBMIT c\n"),
        (reader, b"SUBMIT d\nSUBMIT e\n"),
        (stranger, b"SUBMIT f\n"),
        (two, b"SUBMIT --slots=2 g\nSUBMIT h\n"),
    )
    assert entries(harness) == [3]
    assert reader.lines() == []
    harness.settle()
    assert [line[:15] for line in one.lines()] == ["JOB_ID 1", "ERROR TOO_LARGE", "JOB_ID 2"]
    assert [line[:15] for line in reader.lines()] == ["ERROR FORBIDDEN"] * 2
    assert [line[:19] for line in stranger.lines()] == ["ERROR AUTH_REQUIRED"]
    assert [line[:17] for line in two.lines()] == ["ERROR BAD_REQUEST", "JOB_ID 3"]


def test_batch_without_accepted_submissions_is_answered_at_once() -> None:
    harness = opened()
    one, two = as_ada(harness, Role.READ), as_ada(harness, Role.READ)
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\nPING\n"))
    assert entries(harness) == []
    assert [line[:15] for line in one.lines()] == ["ERROR FORBIDDEN"]
    assert [line[:15] for line in two.lines()] == ["ERROR FORBIDDEN", "OK"]


def test_limit_counts_submissions_of_the_same_user_in_the_same_batch() -> None:
    harness = opened(limits=Limits(pending_per_user=3))
    one, two = as_ada(harness), as_ada(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\nSUBMIT b\n"), (two, b"SUBMIT c\nSUBMIT d\n"))
    harness.settle()
    assert one.lines() == ["JOB_ID 1", "JOB_ID 2"]
    assert [line[:16] for line in two.lines()] == ["JOB_ID 3", "ERROR QUEUE_FULL"]


def test_failed_journal_is_answered_to_all_and_nothing_is_accepted() -> None:
    harness = opened(limits=Limits(pending_per_user=2))
    one, two = as_ada(harness), as_ada(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\n"))
    harness.journal.fail()
    for client in (one, two):
        assert [line[:18] for line in client.lines()] == ["ERROR STORE_FAILED"]
    assert not harness.queue_state.jobs
    harness.journal.recover()
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\n"))
    harness.settle()
    assert [client.lines()[0][:6] for client in (one, two)] == ["JOB_ID"] * 2


def test_request_behind_a_submission_waits_for_it() -> None:
    harness = opened()
    one, two = Client(harness), Client(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\nSTATUS 1\nSUBMIT b\n"), (two, b"SUBMIT c\n"))
    assert one.lines() == []
    harness.settle()
    assert one.lines() == ["JOB_ID 1", "STATUS PENDING 0", "JOB_ID 3"]
    assert two.lines() == ["JOB_ID 2"]


def test_submission_of_a_client_lost_before_the_end_of_the_cycle_is_accepted() -> None:
    harness = opened()
    one, two = Client(harness), Client(harness)
    harness.factory.submit_batcher.batch_started()
    one.send(b"SUBMIT a\n")
    two.send(b"SUBMIT b\n")
    one.transport.lose()
    harness.factory.submit_batcher.batch_ended()
    harness.settle()
    assert two.lines() == ["JOB_ID 2"]
    assert harness.job(1).command == "a"


def test_exception_for_one_client_is_answered_to_that_client_only(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(limits=Limits(pending_per_user=2))
    authorize_submissions = harness.authorizer.authorize_submissions

    def broken(who: Principal, submissions: Any) -> Any:
        if submissions[0].commands[0] == "broken":
            raise ZeroDivisionError
        return authorize_submissions(who, submissions)

    monkeypatch.setattr(harness.authorizer, "authorize_submissions", broken)
    one, two, three = as_ada(harness), as_ada(harness), as_ada(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT broken\nSUBMIT x\n"), (three, b"SUBMIT c\n"))
    harness.settle()
    assert [line[:6] for line in one.lines()] == ["JOB_ID"]
    assert [line[:14] for line in two.lines()] == ["ERROR INTERNAL"] * 2
    assert [line[:6] for line in three.lines()] == ["JOB_ID"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_submissions_counted_before_an_exception_are_not_counted_afterwards(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(limits=Limits(pending_per_user=2))
    take_in = harness.engine.submissions._admit

    def broken(batch: SubmissionBatch, submissions: Any, new: Any) -> Any:
        results = take_in(batch, submissions, new)
        if len(results[-1]) == 2:
            raise ZeroDivisionError
        return results

    monkeypatch.setattr(harness.engine.submissions, "_admit", broken)
    one, two = as_ada(harness), as_ada(harness)
    for _ in range(2):
        in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\nSUBMIT c\n"))
        harness.settle()
    assert [line[:6] for line in one.lines()] == ["JOB_ID"] * 2
    assert [line[:14] for line in two.lines()] == ["ERROR INTERNAL"] * 4
    assert len(logged_errors.flush(ZeroDivisionError)) == 2


def test_exception_after_the_sync_is_answered_to_all_and_logged_once(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened()
    monkeypatch.setattr(harness.engine.submissions, "submit_all", lambda _: fail(ZeroDivisionError()))
    one, two = Client(harness), Client(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\nSUBMIT b\nPING\n"), (two, b"SUBMIT c\n"))
    assert [line[:14] for line in one.lines()] == ["ERROR INTERNAL", "ERROR INTERNAL", "OK"]
    assert [line[:14] for line in two.lines()] == ["ERROR INTERNAL"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_exception_while_answering_one_client_does_not_affect_the_others(
    logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened()
    one, two = Client(harness), Client(harness)
    in_one_cycle(harness, (one, b"SUBMIT a\n"), (two, b"SUBMIT b\n"))
    monkeypatch.setattr(one.connection, "send", lambda _: 1 // 0)
    harness.settle()
    assert two.lines() == ["JOB_ID 2"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
