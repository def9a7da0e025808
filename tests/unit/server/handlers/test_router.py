"""The reply to each verb, through the router."""

import json
from typing import Any

import pytest
from msgspec.structs import asdict
from twisted.internet.defer import Deferred, maybeDeferred

from taskqd import __version__
from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits, describe
from taskqd.errors import (
    AuthFailed,
    AuthRequired,
    BadRequest,
    Draining,
    Forbidden,
    Gone,
    NoSuchJob,
    NotFinished,
    StoreFailed,
    TaskqError,
    TimedOut,
    TooLarge,
    UnknownCommand,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Held, Output, Released, Removed, Resized
from taskqd.model.job import Reason, Status
from taskqd.model.roles import Role
from taskqd.protocol import parser, submit, values, verbs
from taskqd.server.handlers import admin as verbs_of_the_daemon
from taskqd.server.handlers import output, query, router
from tests.fakes.client import FakeClient
from tests.fakes.connections import FakeSocket, FakeTransport
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness
from tests.fakes.processes import COMPLETED, FAILED


def opened(slots: int = 2) -> Harness:
    harness = Harness(slots)
    harness.engine.start()
    return harness


def ask(
    harness: Harness, line: str, client: FakeClient | None = None, blocks: list[bytes] | None = None
) -> Any:
    """Return the Deferred of the reply to a request."""
    request = parser.parse_line(line.encode())
    return maybeDeferred(harness.router.handle, client or FakeClient(), request, blocks or [])


def answer(harness: Harness, line: str) -> str:
    """Return the reply to a request once everything is durable."""
    replied = ask(harness, line)
    harness.settle()
    return bytes(result_of(replied)).decode()


def answer_of(harness: Harness, line: str, client: FakeClient) -> str:
    """Return the reply to a client that is answered at once."""
    return bytes(result_of(ask(harness, line, client))).decode()


def refusal(harness: Harness, line: str, client: FakeClient | None = None) -> BaseException:
    return error_of(ask(harness, line, client))


def shown(harness: Harness, line: str) -> Any:
    """Return the JSON document of a reply."""
    return json.loads(answer(harness, line).split(" ", 1)[1])


def whole_answer(harness: Harness, line: str, client: FakeClient | None = None) -> list[str]:
    """Return the lines of a reply that is sent in parts."""
    client = client or FakeClient()
    end = result_of(ask(harness, line, client))
    return (client.sent + bytes(end)).decode().splitlines(keepends=True)


def listed(harness: Harness, line: str) -> tuple[list[int], str]:
    """Return the ids that LIST returns, and its last line."""
    *lines, end = whole_answer(harness, line)
    return [json.loads(text.removeprefix("JOB "))["id"] for text in lines], end


def test_router_has_a_handler_for_every_verb() -> None:
    assert opened().router.verbs == set(verbs.VERBS)


# SUBMIT, STATUS and RESULT.


def test_submit_status_and_result_have_their_stable_format() -> None:
    harness = opened()
    assert answer(harness, "SUBMIT echo hello") == "JOB_ID 1\r\n"
    assert answer(harness, "STATUS 1") == "STATUS RUNNING 0\r\n"
    outcome = Outcome(
        reason=None, exit_code=0, stdout=Output.inline(b"hello\n"), stderr=Output.inline(b'a "b"\t\\\r\xff')
    )
    harness.finish(1, outcome)
    assert answer(harness, "STATUS 1") == "STATUS COMPLETED 100\r\n"
    assert answer(harness, "RESULT 1") == 'RESULT "hello\\n" "a \\"b\\"\\t\\\\\\r\\xFF" 0\r\n'


@pytest.mark.parametrize(
    "outcome, code",
    [
        (COMPLETED, "0"),
        (FAILED, "3"),
        (Outcome(reason=Reason.SIGNAL, signal=9), "-9"),
        (Outcome(reason=Reason.TIMEOUT, signal=15), "-15"),
        (Outcome(reason=Reason.SPAWN, detail="no"), "-"),
    ],
)
def test_result_has_exit_code_or_signal_or_none(outcome: Outcome, code: str) -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, outcome)
    assert answer(harness, "RESULT 1") == f'RESULT "" "" {code}\r\n'


def test_result_has_the_exit_code_at_the_time_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "RESULT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=3, stdout=Output.inline(b"x" * 25)))
    client.can_send = False
    replied = ask(harness, "RESULT 1", client)
    harness.retry(1)
    harness.settle()
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert client.sent + result_of(replied) == b'RESULT "%b" "" 3\r\n' % (b"x" * 25)


def test_long_result_is_sent_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "RESULT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    stdout, stderr = Output.inline(b'"\xff' * 15), Output.inline(b"e" * 12)
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=stdout, stderr=stderr))
    client.can_send = False
    replied, sizes = ask(harness, "RESULT 1", client), [len(client.sent)]
    while client.writable_waiters:
        client.writable_waiters.pop().callback(None)
        sizes.append(len(client.sent))
    assert sizes == [38, 68, 111, 111]
    whole = client.sent + result_of(replied)
    assert whole == b'RESULT "%b" "%b" 0\r\n' % (b'\\"\\xFF' * 15, b"e" * 12)


@pytest.mark.parametrize("line", ["RESULT 1", "OUTPUT 1 stdout"])
def test_reply_that_cannot_be_finished_aborts_the_connection(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(output, "RESULT_CHUNK", 10)
    monkeypatch.setattr(output, "OUTPUT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    harness.spool.leftovers[1, 1] = (b"x" * 10_000, b"")
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(10_000), stderr=Output(0)))
    client.can_send = False
    replied = ask(harness, line, client)
    assert b"xxxxx" in client.sent
    del harness.spool.leftovers[1, 1]
    client.writable_waiters.pop().callback(None)
    assert result_of(replied) == b""
    (why,) = client.aborts
    assert f"{line.split(maxsplit=1)[0]} of job 1 cannot be finished" in why


@pytest.mark.parametrize("missing", [1, 2])
def test_long_result_with_missing_file_is_an_error(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    monkeypatch.setattr(output, "RESULT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    streams = [b"x" * 100, b"y" * 100]
    streams[missing - 1] = b""
    harness.spool.leftovers[1, 1] = (streams[0], streams[1])
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(100), stderr=Output(100)))
    assert isinstance(error_of(ask(harness, "RESULT 1", client)), OSError | TaskqError)
    assert client.sent == b""
    assert client.aborts == []


def test_truncated_output_aborts_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "OUTPUT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    harness.spool.leftovers[1, 1] = (b"x" * 15, b"")
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(20), stderr=Output(0)))
    assert result_of(ask(harness, "OUTPUT 1 stdout", client)) == b""
    (why,) = client.aborts
    assert "stdout of attempt 1 of job 1 is truncated: it had 20 bytes" in why


def test_long_output_is_sent_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "OUTPUT_CHUNK", 10)
    harness, client = opened(), FakeClient()
    harness.submit()
    harness.spool.writers[1].write(1, b"0123456789" * 3)
    client.can_send = False
    replied = ask(harness, "OUTPUT 1 stdout --offset=1", client)
    assert client.sent == b"DATA stdout 1 29\r\n1234567890"
    harness.finish(1, Outcome(reason=None, exit_code=1, stdout=Output.inline(b"0123456789" * 3)))
    while client.writable_waiters:
        client.writable_waiters.pop().callback(None)
    assert client.sent + result_of(replied) == b"DATA stdout 1 29\r\n%b\r\n" % (b"0123456789" * 3)[1:]


def test_result_of_running_job_is_not_finished() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    for job_id in (1, 2):
        assert isinstance(refusal(harness, f"RESULT {job_id}"), NotFinished)


@pytest.mark.parametrize(
    "line", [f"{verb} 9" for verb in ("STATUS", "RESULT", "SHOW", "WAIT", "CANCEL", "RETRY")]
)
def test_unknown_id_is_no_such_job(line: str) -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, line), NoSuchJob)
    assert isinstance(refusal(harness, "OUTPUT 9 stdout"), NoSuchJob)


@pytest.mark.parametrize(
    "line, error",
    [
        ("STATUS x", BadRequest),
        ("FROB", UnknownCommand),
        ("SUBMIT --every=1h true", BadRequest),
        ("\xff", UnknownCommand),
    ],
)
def test_request_with_parse_error_raises_it(line: str, error: type[TaskqError]) -> None:
    assert isinstance(refusal(opened(), line), error)


def test_submit_passes_blocks_by_name() -> None:
    harness = opened()
    result = ask(harness, "SUBMIT --stdin=2 --script=6", blocks=[b"echo 1", b"in"])
    harness.settle()
    assert result_of(result) == b"JOB_ID 1\r\n"
    assert harness.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    ask(harness, "SUBMIT --stdin=0 cat", blocks=[b""])
    assert harness.spool.blocks[2] == {"stdin": b""}


def test_submitted_job_belongs_to_the_client() -> None:
    harness = opened()
    ask(harness, "SUBMIT true", FakeClient(Principal("grace", Role.ADMIN)))
    harness.settle()
    assert harness.job(1).owner == "grace"


# SHOW and LIST.


def test_show_has_all_fields() -> None:
    harness = opened()
    answer(harness, "SUBMIT --label=x --retries=2 --env=A=1 echo hello")
    harness.spool.percentages[1] = 30
    harness.spool.writers[1].write(2, b"12345")
    job = shown(harness, "SHOW 1")
    assert {
        name: job[name] for name in ("id", "command", "status", "progress", "owner", "label", "retries")
    } == {
        "id": 1,
        "command": "echo hello",
        "status": "RUNNING",
        "progress": 30,
        "owner": "ada",
        "label": "x",
        "retries": 2,
    }
    assert (job["stdout_bytes"], job["stderr_bytes"], job["env"], job["attempts"]) == (0, 5, {"A": "1"}, 1)
    assert job["pid"] == 1001
    harness.finish(1, FAILED)
    job = shown(harness, "SHOW 1")
    assert (job["status"], job["reason"], job["exit_code"]) == ("PENDING", "retrying", None)


LISTS = [
    ("LIST", [1, 2, 3, 4, 5, 6]),
    ("LIST --limit=2", [1, 2]),
    ("LIST --limit=0", []),
    ("LIST --from=3", [3, 4, 5, 6]),
    ("LIST --from=3 --limit=2", [3, 4]),
    ("LIST --from=7", []),
    ("LIST --from=999999999999999999", []),
    ("LIST --reverse", [6, 5, 4, 3, 2, 1]),
    ("LIST --reverse --from=3", [3, 2, 1]),
    ("LIST --reverse --from=99 --limit=2", [6, 5]),
    ("LIST --status=RUNNING", [2]),
    ("LIST --status=pending,completed", [1, 3, 5, 6]),
    ("LIST --status=FAILED", []),
    ("LIST --owner=ada", [1, 2, 3, 4, 5, 6]),
    ("LIST --owner=bob", []),
    ("LIST --label=blue", [3, 4]),
    ("LIST --label=blue --status=PENDING", [3]),
    ("LIST --key=k", [5]),
    ("LIST --key=other", []),
    ("LIST --key=k --from=5", [5]),
    ("LIST --key=k --from=6", []),
    ("LIST --key=k --from=4 --reverse", []),
    ("LIST --key=k --from=5 --reverse", [5]),
    ("LIST --key=k --from=6 --reverse", [5]),
    ("LIST --key=k --status=RUNNING", []),
    ("LIST --key=k --limit=0", []),
]


@pytest.mark.parametrize("line, ids", LISTS)
def test_list_has_matching_jobs_and_their_number(line: str, ids: list[int]) -> None:
    harness = opened(1)
    harness.submit()
    harness.finish(1)
    harness.submit()
    harness.submit(label="blue")
    harness.submit(label="blue")
    harness.submit(key="k")
    harness.submit()
    harness.cancel(4)
    harness.settle()
    assert listed(harness, line) == (ids, f"END {len(ids)}\r\n")


ARRAY_LISTS = [
    ("LIST", [1, 2, 6, 7, 10]),
    ("LIST --reverse", [10, 7, 6, 2, 1]),
    ("LIST --from=2", [2, 6, 7, 10]),
    ("LIST --from=4", [6, 7, 10]),
    ("LIST --from=5", [6, 7, 10]),
    ("LIST --from=9", [10]),
    ("LIST --from=9 --reverse", [7, 6, 2, 1]),
    ("LIST --from=4 --reverse", [2, 1]),
    ("LIST --from=2 --reverse --limit=1", [2]),
    ("LIST --limit=3", [1, 2, 6]),
    ("LIST --tasks", list(range(1, 11))),
    ("LIST --tasks --from=5 --reverse", [5, 4, 3, 2, 1]),
    ("LIST --array=2", [3, 4, 5]),
    ("LIST --array=2 --reverse", [5, 4, 3]),
    ("LIST --array=2 --from=1", [3, 4, 5]),
    ("LIST --array=2 --from=4", [4, 5]),
    ("LIST --array=2 --from=4 --reverse", [4, 3]),
    ("LIST --array=2 --from=9 --reverse --limit=2", [5, 4]),
    ("LIST --array=2 --from=6", []),
    ("LIST --array=2 --from=2 --reverse", []),
    ("LIST --array=2 --status=CANCELLED", [4]),
    ("LIST --key=k", [7]),
    ("LIST --key=k --tasks", [7, 8, 9]),
    ("LIST --queue=q", [2, 6]),
    ("LIST --queue=q --array=2", [3, 4, 5]),
    ("LIST --queue=none", []),
]


@pytest.mark.parametrize("line, ids", ARRAY_LISTS)
def test_list_has_tasks_only_on_request(line: str, ids: list[int]) -> None:
    harness = opened(0)
    for words in ("", "--array=1-3 --queue=q", "--queue=q", "--array=0-1 --key=k", ""):
        answer(harness, f"SUBMIT {words} true")
    answer(harness, "CANCEL 2.2")
    assert listed(harness, line) == (ids, f"END {len(ids)}\r\n")


def test_list_of_tasks_needs_an_array() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "LIST --array=1"), WrongState)
    assert isinstance(refusal(harness, "LIST --array=2"), NoSuchJob)


def test_list_without_matches_is_empty() -> None:
    assert listed(opened(), "LIST") == ([], "END 0\r\n")
    assert listed(opened(), "LIST --reverse") == ([], "END 0\r\n")


def test_list_has_100_jobs_by_default() -> None:
    harness = opened(0)
    for _ in range(130):
        harness.submit()
    assert listed(harness, "LIST") == (list(range(1, 101)), "END 100\r\n")
    assert listed(harness, "LIST --limit=1000")[1] == "END 130\r\n"


def test_list_without_matches_yields_to_the_reactor() -> None:
    harness, client = opened(0), FakeClient()
    for _ in range(10):
        harness.submit()
    client.can_send = False
    replied = ask(harness, "LIST --queue=other", client)
    waited = 0
    while client.writable_waiters:
        waited += 1
        client.writable_waiters.pop().callback(None)
    assert (waited, client.sent, result_of(replied)) == (11, b"", b"END 0\r\n")


def test_list_yields_after_a_thousand_unused_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "IDS_PER_STEP", 3)
    harness, client = opened(20), FakeClient()
    for number in range(1, 11):
        harness.submit()
        harness.finish(number)
    for number in range(1, 10):
        harness.remove(number)
    harness.settle()
    client.can_send = False
    replied = ask(harness, "LIST", client)
    waited = 0
    while client.writable_waiters:
        waited += 1
        client.writable_waiters.pop().callback(None)
    assert (waited, (client.sent + result_of(replied)).count(b"JOB")) == (5, 1)


def test_list_waits_for_the_client_to_read() -> None:
    harness = opened(0)
    for _ in range(3):
        harness.submit()
    client = FakeClient()
    client.can_send = False
    replied = ask(harness, "LIST", client)
    assert client.sent.count(b"JOB") == 1
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert (client.sent + result_of(replied)).count(b"JOB") == 3


# OUTPUT.


@pytest.mark.parametrize(
    "words, reply",
    [
        ("", "DATA stdout 0 10\r\n0123456789\r\n"),
        ("--offset=4", "DATA stdout 4 6\r\n456789\r\n"),
        ("--offset=4 --limit=2", "DATA stdout 4 2\r\n45\r\n"),
        ("--limit=0", "DATA stdout 0 0\r\n\r\n"),
        ("--offset=10", "DATA stdout 10 0\r\n\r\n"),
        ("--offset=99", "DATA stdout 99 0\r\n\r\n"),
        ("--tail=3", "DATA stdout 7 3\r\n789\r\n"),
        ("--tail=3 --limit=1", "DATA stdout 7 1\r\n7\r\n"),
        ("--tail=99", "DATA stdout 0 10\r\n0123456789\r\n"),
        ("--tail=0", "DATA stdout 10 0\r\n\r\n"),
    ],
)
def test_output_has_the_part_and_its_offset(words: str, reply: str) -> None:
    harness = opened()
    harness.submit()
    harness.spool.writers[1].write(1, b"0123456789")
    assert answer(harness, f"OUTPUT 1 stdout {words}") == reply
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"0123456789")))
    assert answer(harness, f"OUTPUT 1 stdout {words}") == reply
    assert answer(harness, "OUTPUT 1 stderr") == "DATA stderr 0 0\r\n\r\n"


def test_output_that_cannot_be_read_is_an_error() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(5000)))
    assert isinstance(refusal(harness, "OUTPUT 1 stdout"), StoreFailed)
    assert isinstance(refusal(harness, "RESULT 1"), StoreFailed)


@pytest.mark.parametrize("number, text", [(1, "one"), (2, "two!")])
def test_output_takes_the_number_of_an_attempt(number: int, text: str) -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"one")))
    harness.clock.advance(0)
    harness.settle()
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"two!")))
    assert (
        answer(harness, f"OUTPUT 1 stdout --attempt={number}") == f"DATA stdout 0 {len(text)}\r\n{text}\r\n"
    )
    last = f"DATA stdout {len(text) - 1} 1\r\n{text[-1]}\r\n"
    assert answer(harness, f"OUTPUT 1 stdout --attempt={number} --tail=1") == last
    assert isinstance(refusal(harness, "OUTPUT 1 stdout --attempt=3"), WrongState)


def test_output_of_array_is_refused_with_its_tasks() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=5-7 true")
    for line in ("RESULT 1", "OUTPUT 1 stdout"):
        error = refusal(harness, line)
        assert isinstance(error, WrongState)
        assert "1.5 to 1.7" in str(error)
    harness.finish(2, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"five")))
    assert answer(harness, "OUTPUT 1.5 stdout") == "DATA stdout 0 4\r\nfive\r\n"
    assert answer(harness, "RESULT 1.5") == answer(harness, "RESULT 2") == 'RESULT "five" "" 0\r\n'


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


# CANCEL and RETRY.


def test_cancel_answers_with_the_status() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    assert answer(harness, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(harness, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(harness, "CANCEL 2 --signal=INT") == "STATUS CANCELLED 0\r\n"
    harness.finish(1, FAILED)
    assert answer(harness, "STATUS 1") == "STATUS CANCELLED 0\r\n"
    assert answer(harness, "CANCEL 1") == "STATUS CANCELLED 0\r\n"


@pytest.mark.parametrize("name, number", [("", 15), (" --signal=INT", 2), (" --signal=SIGKILL", 9)])
def test_cancel_sends_the_requested_signal(name: str, number: int) -> None:
    harness = opened()
    harness.submit()
    answer(harness, f"CANCEL 1{name}")
    assert harness.executor.signals == [(1, Reason.CANCELLED, number)]


def test_retry_answers_with_the_id_or_refuses_unfinished_job() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "RETRY 1"), WrongState)
    harness.finish(1)
    assert isinstance(refusal(harness, "CANCEL 1"), WrongState)
    assert answer(harness, "RETRY 1") == "JOB_ID 1\r\n"
    assert harness.job(1).status is Status.RUNNING


def test_cancel_with_cascade_also_cancels_dependents() -> None:
    harness = opened(1)
    harness.submit()
    answer(harness, "SUBMIT --after=1 true")
    answer(harness, "SUBMIT --after=2 true")
    assert answer(harness, "CANCEL 2 --cascade") == "STATUS CANCELLED 0\r\n"
    assert harness.statuses() == [Status.RUNNING, Status.CANCELLED, Status.CANCELLED]


def test_task_reference_is_accepted_in_place_of_an_id() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=5-7 true")
    assert answer(harness, "STATUS 1.5") == "STATUS RUNNING 0\r\n"
    assert shown(harness, "SHOW 1.6")["id"] == 3
    assert answer(harness, "HOLD 1.6") == "STATUS PENDING 0\r\n"
    assert harness.job(3).is_held
    assert answer(harness, "RELEASE 1.6") == "STATUS PENDING 0\r\n"
    assert not harness.job(3).is_held
    assert answer(harness, "CANCEL 1.7") == "STATUS CANCELLED 0\r\n"
    assert answer(harness, "RETRY 1.7") == "JOB_ID 4\r\n"
    assert answer(harness, "WHY 1.7").startswith("OK ")
    waiting = ask(harness, "WAIT 1.5")
    harness.finish(2)
    assert result_of(waiting) == b"STATUS COMPLETED 100\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "WHY", "HOLD"):
        assert isinstance(refusal(harness, f"{verb} 1.8"), NoSuchJob), verb
    assert isinstance(refusal(harness, "SET 1.8 --nice=1"), NoSuchJob)
    assert isinstance(refusal(harness, "REMOVE 1.5"), WrongState)


# HOLD, RELEASE, SET and WHY.


def test_held_job_starts_after_release() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    assert answer(harness, "HOLD 2") == "STATUS PENDING 0\r\n"
    harness.finish(1)
    assert answer(harness, "STATUS 2") == "STATUS PENDING 0\r\n"
    assert shown(harness, "SHOW 2")["reason"] == "held"
    assert "held" in answer(harness, "WHY 2")
    assert answer(harness, "RELEASE 2") == "STATUS PENDING 0\r\n"
    assert answer(harness, "STATUS 2") == "STATUS RUNNING 0\r\n"
    for verb in ("HOLD", "RELEASE"):
        assert isinstance(refusal(harness, f"{verb} 2"), WrongState)
    found = [event for event in harness.journal.events if isinstance(event, Held | Released)]
    assert [event.by for event in found] == ["ada", "ada"]


def test_set_answers_with_the_changed_job() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit(label="x", timeout=5.0)
    job = shown(harness, 'SET 2 --priority=7 --queue=q --label="" --timeout=none --delay=60')
    assert (job["priority"], job["queue"], job["label"], job["timeout"]) == (7, "q", None, None)
    assert (job["status"], job["reason"]) == ("PENDING", "delayed")
    assert shown(harness, "SET 2 --at=none")["reason"] == "queued"
    assert isinstance(refusal(harness, "SET 1 --priority=1"), WrongState)
    assert isinstance(refusal(harness, "SET 2 --slots=2"), BadRequest)


def test_why_explains_a_pending_job_in_one_line() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    reply = answer(harness, "WHY 2")
    assert reply.startswith("OK needs 1 slot, none of 1 is available")
    assert reply.count("\r\n") == 1
    assert answer(harness, "WHY 1") == "OK not waiting: it is running\r\n"


# Queues and schedules.


def queues(harness: Harness) -> dict[str, Any]:
    *lines, end = whole_answer(harness, "QUEUES")
    found = [json.loads(line.removeprefix("QUEUE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return {queue["name"]: queue for queue in found}


def test_queues_lists_slots_and_counts() -> None:
    harness = Harness(3, queues={"gpu": 1})
    harness.engine.start()
    for queue in ("gpu", "gpu", "mail"):
        answer(harness, f"SUBMIT --queue={queue} true")
    nothing = {"pending": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0}
    none = {"slots": None, "busy": 0, "paused": False, **nothing}
    assert queues(harness) == {
        "default": {"name": "default", **none},
        "gpu": {"name": "gpu", **none, "slots": 1, "busy": 1, "pending": 1, "running": 1},
        "mail": {"name": "mail", **none, "busy": 1, "running": 1},
    }


def test_set_queue_changes_slots_while_running() -> None:
    harness = Harness(3, queues={"gpu": 1})
    harness.engine.start()
    for _ in range(3):
        answer(harness, "SUBMIT --queue=gpu true")
    assert shown(harness, "SET-QUEUE gpu --slots=2")["slots"] == 2
    assert queues(harness)["gpu"]["running"] == 2
    assert shown(harness, "SET-QUEUE gpu --slots=none")["slots"] is None
    assert queues(harness)["gpu"]["running"] == 3
    assert shown(harness, "SET-QUEUE gpu --slots=default")["slots"] == 1
    assert harness.journal.events[-1] == Resized(at=harness.clock.now(), by="ada", queue="gpu", slots=None)


@pytest.mark.parametrize("words", ["", " gpu"])
def test_paused_queue_starts_nothing(words: str) -> None:
    harness = opened(1)
    assert answer(harness, f"PAUSE{words}") == "OK\r\n"
    answer(harness, "SUBMIT --queue=gpu true")
    assert shown(harness, "SHOW 1")["reason"] == "paused"
    assert shown(harness, "STATS")["paused"] is (words == "")
    assert queues(harness)["gpu"]["paused"] is (words != "")
    assert answer(harness, f"RESUME{words}") == "OK\r\n"
    assert answer(harness, "STATUS 1") == "STATUS RUNNING 0\r\n"


def schedules(harness: Harness) -> list[Any]:
    *lines, end = whole_answer(harness, "SCHEDULES")
    found = [json.loads(line.removeprefix("SCHEDULE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return found


def test_schedule_is_added_listed_paused_and_deleted() -> None:
    harness = opened()
    assert schedules(harness) == []
    assert answer(harness, "SCHEDULE --every=1h --queue=q echo hello") == "OK 1\r\n"
    assert answer(harness, 'SCHEDULE --cron="0 3 * * *" --overlap true') == "OK 2\r\n"
    first, second = schedules(harness)
    assert (first["schedule"], first["every"], first["command"], first["queue"]) == (
        1,
        3600.0,
        "echo hello",
        "q",
    )
    assert (first["owner"], first["next_run_at"]) == ("ada", values.timestamp(harness.clock.now() + 3600))
    assert (second["schedule"], second["cron"], second["overlap"]) == (2, "0 3 * * *", True)
    assert answer(harness, "PAUSE --schedule=1") == "OK\r\n"
    assert [(one["paused"], one["next_run_at"] is None) for one in schedules(harness)] == [
        (True, True),
        (False, False),
    ]
    assert answer(harness, "RESUME --schedule=1") == "OK\r\n"
    assert schedules(harness)[0]["paused"] is False
    assert answer(harness, "UNSCHEDULE 1") == "OK\r\n"
    assert [one["schedule"] for one in schedules(harness)] == [2]
    for line in ("UNSCHEDULE 1", "PAUSE --schedule=1", "RESUME --schedule=3"):
        assert isinstance(refusal(harness, line), NoSuchJob), line


def test_queues_waits_for_the_client_to_read() -> None:
    harness = Harness(queues={"a": 1, "b": 1})
    client = FakeClient()
    client.can_send = False
    replied = ask(harness, "QUEUES", client)
    assert client.sent.count(b"QUEUE") == 1
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert (client.sent + result_of(replied)).count(b"QUEUE") == 3


# The server and its clients.


def test_stats_has_resources_and_their_use() -> None:
    harness = Harness(resources={"gpu": 2, "disk": 5})
    harness.engine.start()
    answer(harness, "SUBMIT --need=gpu:2 true")
    assert shown(harness, "STATS")["resources"] == {
        "gpu": {"total": 2, "busy": 2},
        "disk": {"total": 5, "busy": 0},
    }


def test_stats_has_counters_and_gauges() -> None:
    harness = opened(1)
    for _ in range(3):
        harness.submit()
    harness.finish(1)
    harness.clock.advance(12.5)
    stats = shown(harness, "STATS")
    assert stats["jobs"] == {"pending": 1, "running": 1, "completed": 1, "failed": 0, "cancelled": 0}
    assert (stats["slots"], stats["uptime"], stats["connections"]) == (1, 12.5, 0)
    assert stats["version"] == __version__
    assert (stats["counters"]["submitted"], stats["counters"]["started"]) == (3, 2)
    assert stats["store"] == {"failure": None, "segment": 1, "segment_bytes": 8}
    assert stats["draining"] is False
    assert stats["limits"]["line"] == parser.MAX_LINE_LENGTH
    harness.journal.fail("no space left")
    assert shown(harness, "STATS")["store"]["failure"] == "no space left"


def test_hello_describes_server_and_client() -> None:
    harness = opened()
    word, version, text = answer(harness, "HELLO").split(" ", 2)
    hello = json.loads(text)
    assert (word, version) == ("TASKQ", "1")
    assert hello["verbs"] == list(verbs.VERBS)
    assert hello["options"] == [f"--{name}" for name in submit.SUBMIT_OPTIONS]
    assert hello["you"] == {"name": "ada", "role": "admin"}
    assert hello["auth"] == ["token"]
    stranger = result_of(ask(harness, "HELLO", FakeClient(None)))
    assert json.loads(stranger.split(b" ", 2)[2])["you"] is None


def test_auth_with_admin_token_makes_the_client_an_admin() -> None:
    harness = opened()
    client = FakeClient(None)
    assert isinstance(refusal(harness, "AUTH wrong", client), AuthFailed)
    assert (client.principal, client.failures) == (None, 1)
    assert result_of(ask(harness, "AUTH sesame", client)) == b"OK token admin\r\n"
    assert client.principal == Principal("token", Role.ADMIN)


@pytest.mark.parametrize(
    "principal, found",
    [
        (Principal("ann", Role.SUBMIT, "pid 1", uid=7), {"name": "ann", "role": "submit", "from": "pid 1"}),
        (
            Principal("ci", Role.READ, "10.0.0.5:1", queue="q", token="1"),
            {"name": "ci", "role": "read", "from": "10.0.0.5:1", "queue": "q"},
        ),
    ],
)
def test_hello_has_the_fields_of_the_principal(principal: Principal, found: dict[str, str]) -> None:
    reply = result_of(ask(opened(), "HELLO", FakeClient(principal)))
    assert json.loads(reply.split(b" ", 2)[2])["you"] == found


def test_hello_and_stats_have_every_limit() -> None:
    quotas = Limits(connections=7, submissions=2.5, idle_time=None, output=1000, line=2048)
    harness = Harness(limits=quotas)
    stats = shown(harness, "STATS")["limits"]
    hello = json.loads(answer(harness, "HELLO").split(" ", 2)[2])["limits"]
    assert hello == stats == {**verbs_of_the_daemon.LIMITS, **describe(quotas)}
    assert set(asdict(quotas)) - {"output"} | {"max_output"} <= set(stats)
    assert (stats["connections"], stats["submissions"], stats["idle_time"]) == (7, 2.5, None)
    assert (stats["max_output"], stats["line"]) == (1000, 2048)


def test_auth_answers_with_name_and_role() -> None:
    harness, client = opened(), FakeClient(None)
    harness.authenticator.tokens["t"] = Principal("ann", Role.SUBMIT, queue="q", token="1")
    assert result_of(ask(harness, "AUTH t", client)) == b"OK ann submit\r\n"
    assert client.principal == harness.authenticator.tokens["t"]


def expected(harness: Harness, client: FakeClient, line: str) -> TaskqError | None:
    return harness.router.check_before_blocks(client, parser.parse_line(line.encode())).error


def test_check_before_blocks_refuses_forbidden_submissions() -> None:
    harness = Harness(limits=Limits(block=10))
    line = "SUBMIT --stdin=10 cat"
    reader, user = (FakeClient(Principal("ann", role)) for role in (Role.READ, Role.SUBMIT))
    assert expected(harness, user, line) is expected(harness, FakeClient(), line) is None
    assert isinstance(expected(harness, FakeClient(None), line), AuthRequired)
    assert isinstance(expected(harness, reader, line), Forbidden)
    for large in ("SUBMIT --stdin=11 cat", "SUBMIT --script=11", "SUBMIT --script=1 --stdin=11"):
        assert isinstance(expected(harness, FakeClient(), large), TooLarge)
    assert isinstance(expected(harness, reader, "SUBMIT --bogus --stdin=1 cat"), BadRequest)
    assert isinstance(expected(harness, user, "SCHEDULE --every=1h --stdin=1 cat"), BadRequest)


def test_invalid_token_is_auth_required_for_every_request() -> None:
    harness = opened()
    client = FakeClient(Principal("ann", Role.ADMIN, token="1"))
    assert answer_of(harness, "STATS", client).startswith("STATS ")
    harness.authenticator.revoked.add("1")
    assert isinstance(expected(harness, client, "SUBMIT --stdin=1 cat"), AuthRequired)
    for line in ("STATS", "SUBMIT true", "STATUS x"):
        why = refusal(harness, line, client)
        assert str(why) == "the token of ann was revoked or changed, or has expired; AUTH with another"
    for line in ("PING", "HELLO", "AUTH sesame"):
        assert not answer_of(harness, line, client).startswith("ERROR")
    assert client.principal == Principal("token", Role.ADMIN)


def test_identify_peer_returns_the_user_of_the_socket() -> None:
    assert opened().router.identify_peer(FakeTransport(FakeSocket(uid=0))) == Principal(
        "root", Role.ADMIN, "pid 4711", uid=0
    )


def test_ping_and_quit_answer_ok_and_quit_closes() -> None:
    harness = opened()
    client = FakeClient()
    assert result_of(ask(harness, "PING", client)) == b"OK\r\n"
    assert not client.is_finished
    assert result_of(ask(harness, "QUIT", client)) == b"OK\r\n"
    assert client.is_finished


def test_help_has_a_line_for_every_verb() -> None:
    harness = opened()
    lines = answer(harness, "HELP").split("\r\n")
    assert [line.split()[1] for line in lines[:-2]] == list(verbs.VERBS)
    assert lines[-2:] == ["END", ""]
    for verb in verbs.VERBS:
        first, *_, end, _ = answer(harness, f"HELP {verb}").split("\r\n")
        assert first.startswith(f"OK {verb}")
        assert end == "END"


@pytest.mark.parametrize("verb", ["SUBMIT", "SET", "SCHEDULE"])
def test_help_of_verb_lists_its_options(verb: str) -> None:
    lines = answer(opened(), f"HELP {verb}").split("\r\n")[1:-2]
    assert all(line.startswith("OK ") and len(line) <= 103 for line in lines)
    forms = " ".join(line.removeprefix("OK ") for line in lines).removeprefix("Options: ").split(" ")
    assert forms == [
        f"--{name}" if option.usage is None else f"--{name}={option.usage}"
        for name, option in verbs.VERBS[verb].options.items()
    ]


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_unauthenticated_client_may_use_only_open_verbs(verb: str) -> None:
    harness = opened()
    line = {"AUTH": "AUTH sesame"}.get(verb, f"{verb} 1")
    replied: Deferred[Any] = ask(harness, line, FakeClient(None))
    errors: list[Any] = []
    replied.addErrback(lambda failure: errors.append(failure.value))
    assert (verb in router.OPEN_VERBS) is not any(isinstance(error, AuthRequired) for error in errors)


# HISTORY, REMOVE and DRAIN.


def test_remove_deletes_a_finished_job() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "REMOVE 1"), WrongState)
    assert isinstance(refusal(harness, "REMOVE 2"), NoSuchJob)
    harness.finish(1)
    assert answer(harness, "REMOVE 1") == "OK\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "OUTPUT"):
        line = f"{verb} 1 stdout" if verb == "OUTPUT" else f"{verb} 1"
        assert isinstance(refusal(harness, line), Gone), verb
    assert answer(harness, "LIST") == "END 0\r\n"
    assert shown(harness, "STATS")["counters"]["removed"] == 1
    assert isinstance(harness.journal.events[-1], Removed)
    assert harness.journal.events[-1].by == "ada"


def test_history_has_all_events_of_a_job() -> None:
    harness = opened()
    harness.submit("echo 1")
    harness.submit("echo 2")
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"secret")))
    lines = answer(harness, "HISTORY 1").split("\r\n")
    assert lines[-2:] == ["END 4", ""]
    words = [line.split(" ", 2) for line in lines[:-2]]
    assert [word for word, _, _ in words] == ["EVENT"] * 4
    numbers = [int(number) for _, number, _ in words]
    assert numbers == sorted(numbers)
    events = [json.loads(text) for _, _, text in words]
    assert [event["type"] for event in events] == ["submitted", "started", "spawned", "ended"]
    assert all(event["id"] == 1 for event in events)
    assert events[0]["owner"] == "ada"
    assert "secret" not in "".join(lines)
    assert isinstance(refusal(harness, "HISTORY 3"), NoSuchJob)
    harness.journal.fail()
    assert isinstance(refusal(harness, "HISTORY 1"), StoreFailed)


def test_history_of_task_has_events_of_its_array() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=1-2 true")
    answer(harness, "CANCEL 1")

    def found(line: str) -> list[Any]:
        events = [json.loads(line.split(" ", 2)[2]) for line in answer(harness, line).split("\r\n")[:-2]]
        return [(event["type"], event["id"]) for event in events]

    started = [("started", 2), ("spawned", 2)]
    assert found("HISTORY 1") == [("submitted", 1), ("cancelled", 1)]
    assert found("HISTORY 1.1") == [("submitted", 1), *started, ("cancelled", 1)]
    assert found("HISTORY 3") == [("submitted", 1), ("cancelled", 1)]


def test_show_has_all_attempts_with_current_sizes() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"one")))
    harness.clock.advance(0)
    harness.settle()
    harness.spool.writers[1].write(1, b"12345")
    runs = shown(harness, "SHOW 1")["runs"]
    assert [(run["attempt"], run["exit_code"], run["stdout_bytes"]) for run in runs] == [
        (1, 1, 3),
        (2, None, 5),
    ]
    assert '"runs"' not in "".join(whole_answer(harness, "LIST"))


def test_drain_refuses_and_starts_no_jobs(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    client = FakeClient(Principal("ann", Role.ADMIN, "pid 7"))
    assert result_of(ask(harness, "DRAIN", client)) == b"OK\r\n"
    assert caplog.messages == ["ann (pid 7) drained the daemon"]
    assert isinstance(refusal(harness, "SUBMIT true"), Draining)
    assert shown(harness, "STATS")["draining"] is True
    harness.finish(1)
    assert harness.statuses() == [Status.COMPLETED, Status.PENDING]
    assert answer(harness, "DRAIN") == "OK\r\n"
