"""WAIT, FOLLOW and WATCH: their replies, and that they leave nothing behind."""

import json

import pytest
from twisted.internet.defer import CancelledError

from taskqd.auth.principal import Principal
from taskqd.errors import BadRequest, Forbidden, Gone, Lagged, NoSuchJob, TaskqError, TimedOut, WrongState
from taskqd.model.roles import Role
from taskqd.server.handlers import event_stream
from tests.fakes.client import Client, FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness, watchers
from tests.fakes.processes import FAILED
from tests.support.requests import answer, ask, refusal


def opened(slots: int = 9) -> Harness:
    harness = Harness(slots)
    harness.engine.start()
    return harness


def submitted(harness: Harness, count: int) -> None:
    for _ in range(count):
        harness.submit()


def gone(harness: Harness) -> None:
    """Check that no waiter and no subscriber is left."""
    assert not harness.engine.waiter_count
    assert not any(harness.spool.observers.values())
    assert watchers(harness.event_stream) == 0


# WAIT.


def test_wait_answers_when_the_job_has_ended() -> None:
    harness = opened()
    harness.submit()
    waiting = ask(harness, "WAIT 1")
    timed = ask(harness, "WAIT 1 --timeout=10")
    assert not waiting.called
    harness.finish(1)
    assert result_of(waiting) == result_of(timed) == b"STATUS COMPLETED 100\r\n"
    assert answer(harness, "WAIT 1") == answer(harness, "WAIT 1 --timeout=5") == "STATUS COMPLETED 100\r\n"
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.parametrize("timeout", [0, 2.5])
def test_wait_that_times_out_leaves_no_waiter(timeout: float) -> None:
    harness = opened()
    harness.submit()
    waiting = ask(harness, f"WAIT 1 --timeout={timeout}")
    harness.clock.advance(timeout)
    error = error_of(waiting)
    assert isinstance(error, TimedOut)
    assert "RUNNING" in str(error)
    assert not harness.engine.waiter_count
    harness.finish(1)


def test_wait_ends_when_the_client_disconnects() -> None:
    harness = opened()
    harness.submit()
    client = FakeClient()
    waiting = ask(harness, "WAIT 1", client)
    client.held[0].cancel()
    assert not isinstance(error_of(waiting), TaskqError)
    assert not harness.engine.waiter_count


def test_wait_for_several_sends_each_end_then_the_number() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 3)
    harness.finish(2)
    waiting = ask(harness, "WAIT 1 2 3", client)
    assert client.sent == b"STATUS COMPLETED 100 2\r\n"
    harness.finish(3, FAILED)
    assert client.sent.endswith(b"\r\nSTATUS FAILED 0 3\r\n")
    assert not waiting.called
    harness.finish(1)
    assert result_of(waiting) == b"END 3\r\n"
    assert client.sent.endswith(b"\r\nSTATUS COMPLETED 100 1\r\n")
    gone(harness)


@pytest.mark.parametrize("is_ended", [True, False])
def test_wait_any_ends_with_the_first_job(is_ended: bool) -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 3)
    if is_ended:
        harness.finish(2)
        harness.finish(3)
    waiting = ask(harness, "WAIT 1 3 2 --any", client)
    if not is_ended:
        assert not waiting.called
        harness.finish(3)
    assert client.sent + result_of(waiting) == b"STATUS COMPLETED 100 3\r\nEND 1\r\n"
    gone(harness)


def test_wait_any_for_one_job_is_answered_like_several() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 1)
    waiting = ask(harness, "WAIT 1 --any", client)
    harness.finish(1)
    assert (client.sent, result_of(waiting)) == (b"STATUS COMPLETED 100 1\r\n", b"END 1\r\n")


def test_wait_sends_a_job_named_twice_once() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 1)
    waiting = ask(harness, "WAIT 1 1", client)
    harness.finish(1)
    assert (client.sent, result_of(waiting)) == (b"STATUS COMPLETED 100 1\r\n", b"END 1\r\n")


def test_wait_sends_task_under_the_name_of_the_request() -> None:
    harness, client = opened(), FakeClient()
    result = ask(harness, "SUBMIT --array=7-8 true", client)
    harness.settle()
    assert result_of(result) == b"JOB_ID 1\r\n"
    waiting = ask(harness, "WAIT 1.8 1 2", client)
    harness.finish(3)
    assert client.sent == b"STATUS COMPLETED 100 1.8\r\n"
    harness.finish(2)
    assert sorted(client.sent.splitlines()[1:]) == [b"STATUS COMPLETED 100 1", b"STATUS COMPLETED 100 2"]
    assert result_of(waiting) == b"END 3\r\n"


def test_wait_that_times_out_says_how_many_have_not_ended() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 3)
    waiting = ask(harness, "WAIT 1 2 3 --timeout=10", client)
    harness.finish(2)
    harness.clock.advance(10)
    error = error_of(waiting)
    assert isinstance(error, TimedOut)
    assert str(error) == "2 of 3 jobs have not ended"
    assert client.sent == b"STATUS COMPLETED 100 2\r\n"
    gone(harness)


@pytest.mark.parametrize(
    "line, text", [("WAIT 1", "job 1 is still RUNNING"), ("WAIT 1 --any", "job 1 is still")]
)
def test_wait_for_one_job_that_times_out_names_it(line: str, text: str) -> None:
    harness = opened()
    submitted(harness, 1)
    waiting = ask(harness, f"{line} --timeout=10", FakeClient())
    harness.clock.advance(10)
    assert text in str(error_of(waiting))


def test_wait_for_unknown_job_waits_for_none() -> None:
    harness = opened()
    submitted(harness, 1)
    assert isinstance(refusal(harness, "WAIT 1 9"), NoSuchJob)
    gone(harness)


def test_disconnect_during_wait_leaves_no_waiter() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 2)
    waiting = ask(harness, "WAIT 1 2", client)
    [held] = client.held
    held.cancel()
    assert isinstance(error_of(waiting), CancelledError)
    gone(harness)


# FOLLOW.


def test_follow_answers_with_output_then_status() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 1)
    following = ask(harness, "FOLLOW 1 --stdout=2", client)
    harness.spool.writers[1].write(1, b"abc")
    harness.spool.writers[1].write(2, b"x")
    harness.finish(1)
    assert client.sent == b"DATA stdout 2 1\r\nc\r\nDATA stderr 0 1\r\nx\r\n"
    assert result_of(following) == b"STATUS COMPLETED 100\r\n"
    gone(harness)


def test_follow_of_array_or_unknown_job_is_refused() -> None:
    harness = opened()
    submitted(harness, 1)
    harness.finish(1)
    harness.remove(1)
    ask(harness, "SUBMIT --array=1-2 true", FakeClient())
    harness.settle()
    assert isinstance(refusal(harness, "FOLLOW 1"), Gone)
    assert isinstance(refusal(harness, "FOLLOW 9"), NoSuchJob)
    refused = refusal(harness, "FOLLOW 2")
    assert isinstance(refused, WrongState)
    assert "2.1" in str(refused)


def test_disconnect_during_follow_leaves_nothing_behind() -> None:
    harness, client = opened(), FakeClient()
    submitted(harness, 1)
    following = ask(harness, "FOLLOW 1", client)
    [held] = client.held
    held.cancel()
    assert isinstance(error_of(following), CancelledError)
    gone(harness)


# WATCH.


def events(lines: list[str]) -> list[tuple[int, str]]:
    """Return (number, type) of EVENT lines."""
    found = []
    for line in lines:
        word, number, text = line.split(" ", 2)
        assert word == "EVENT"
        found.append((int(number), json.loads(text)["type"]))
    return found


def test_watch_answers_with_first_number_and_ends_with_next_line() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT true\n")
    harness.settle()
    client.read()
    assert client.lines() == ["JOB_ID 1"]
    client.send(b"WATCH\n")
    assert client.lines() == ["OK 4"]
    harness.finish(1)
    [ended] = client.lines()
    assert events([ended]) == [(4, "ended")]
    client.send(b"PING\n")
    assert client.lines() == ["END", "OK"]
    harness.submit()
    assert client.lines() == []
    gone(harness)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"  \r\n"])
def test_watch_ends_with_an_empty_line(line: bytes) -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"WATCH\r\n")
    client.send(line)
    assert client.lines() == ["OK 1", "END"]
    gone(harness)


def test_watch_can_follow_a_watch() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"WATCH\n")
    client.send(b"WATCH --since=1 --queue=elsewhere\n")
    client.send(b"PING\n")
    assert client.lines() == ["OK 1", "END", "OK 1", "END", "OK"]
    gone(harness)


def test_watch_since_a_number_has_old_and_new_events() -> None:
    harness = opened()
    submitted(harness, 2)
    client = Client(harness)
    client.send(b"WATCH --since=2\n")
    harness.finish(1)
    client.read()
    first, *rest = client.lines()
    assert first == "OK 2"
    assert [number for number, _ in events(rest)] == [2, 3, 4, 5, 6, 7]
    client.send(b"\n")
    assert client.lines() == ["END"]


def test_watch_of_job_has_only_its_events_and_those_of_its_tasks() -> None:
    harness, caller = opened(), FakeClient()
    ask(harness, "SUBMIT --array=1-2 true", caller)
    harness.settle()
    submitted(harness, 1)
    for line, numbers in (("--job=1", {1, 2, 3}), ("--job=1.2", {1, 3}), ("--job=4", {4})):
        client = Client(harness)
        client.send(f"WATCH --since=1 {line}\n".encode())
        client.read()
        _, *events = client.lines()
        assert {json.loads(each.split(" ", 2)[2])["id"] for each in events} == numbers


def test_watch_of_unknown_job_or_future_number_is_refused() -> None:
    harness = opened()
    assert isinstance(refusal(harness, "WATCH --job=9"), NoSuchJob)
    assert isinstance(refusal(harness, "WATCH --since=2"), BadRequest)
    gone(harness)


def test_watch_of_own_jobs_skips_those_of_others() -> None:
    harness = opened()
    ann, bob = (FakeClient(Principal(name, Role.SUBMIT)) for name in ("ann", "bob"))
    watching = ask(harness, "WATCH", ann)
    for who in (bob, ann, bob):
        ask(harness, "SUBMIT --hold true", who)
        harness.settle()
    ask(harness, "CANCEL 2", FakeClient())
    harness.settle()
    harness.clock.advance(event_stream.FLUSH_INTERVAL)
    events = [json.loads(line.split(b" ", 2)[2]) for line in ann.sent.splitlines()[1:]]
    assert [(event["type"], event["id"]) for event in events] == [("submitted", 2), ("cancelled", 2)]
    assert [events[0]["owner"], events[1]["by"]] == ["ann", "ada"]
    ann.next_line_waiters.pop().callback(None)
    assert result_of(watching) == b"END\r\n"
    gone(harness)


@pytest.mark.parametrize("line", ["WAIT 2 1 --any", "WAIT 1", "FOLLOW 1", "WATCH --job=1"])
def test_wait_and_watch_of_another_users_job_are_refused(line: str) -> None:
    harness, bob = opened(), FakeClient(Principal("bob", Role.SUBMIT))
    submitted(harness, 1)
    ask(harness, "SUBMIT true", bob)
    harness.settle()
    assert isinstance(error_of(ask(harness, line, bob)), Forbidden)
    assert bob.sent == b""
    gone(harness)


def test_watch_since_compacted_number_lags() -> None:
    harness = opened()
    submitted(harness, 2)
    harness.journal.oldest = 4
    client = Client(harness)
    client.send(b"WATCH --since=2\nPING\n", size=16)
    assert client.lines() == ["OK 2", "ERROR LAGGED 4", "OK"]
    assert isinstance(refusal(harness, "WATCH --since=2"), Lagged)
    gone(harness)


def test_watch_of_client_that_does_not_read_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "MAX_GROUP_EVENTS", 5)
    harness = opened()
    client = Client(harness)
    client.transport.bufferSize = 1
    client.send(b"WATCH\n")
    client.read()
    submitted(harness, 3)
    assert watchers(harness.event_stream) == 0
    client.read()
    _, *events, last = client.lines()
    got = [int(line.split()[1]) for line in events]
    assert last == f"ERROR LAGGED {got[-1] + 1}"
    assert got == list(range(1, got[-1] + 1))
    gone(harness)


@pytest.mark.parametrize("is_choked", [False, True])
def test_disconnect_during_watch_leaves_nothing_behind(is_choked: bool) -> None:
    harness = opened()
    client = Client(harness)
    client.transport.bufferSize = 1 if is_choked else 65_536
    client.send(b"WATCH --since=1\n")
    submitted(harness, 1)
    client.transport.lose()
    gone(harness)
    assert not client.connection.is_awaited
    harness.finish(1)


def test_half_closed_client_continues_to_watch() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"WATCH\n")
    client.half_close()
    harness.submit()
    harness.clock.advance(event_stream.FLUSH_INTERVAL)
    assert len(client.lines()) == 4
    client.transport.lose()
    gone(harness)
