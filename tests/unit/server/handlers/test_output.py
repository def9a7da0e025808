"""The replies to RESULT and OUTPUT."""

import pytest
from twisted.internet.defer import Deferred

from taskqd.errors import (
    NotFinished,
    StoreFailed,
    TaskqError,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Output
from taskqd.model.job import Reason
from taskqd.server.handlers import output
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.processes import COMPLETED, FAILED
from tests.support.requests import answer, ask, opened, refusal


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


def test_output_of_a_running_job_has_what_its_runner_had_in_memory() -> None:
    harness = opened()
    harness.submit()
    flushing = harness.spool.flushing = Deferred()
    replied = ask(harness, "OUTPUT 1 stdout")
    assert not replied.called
    harness.spool.writers[1].write(1, b"printed just now")
    flushing.callback(None)
    assert result_of(replied) == b"DATA stdout 0 16\r\nprinted just now\r\n"


def test_output_of_a_running_job_is_sent_without_an_answer_of_its_runner() -> None:
    harness = opened()
    harness.submit()
    harness.spool.writers[1].write(1, b"so far")
    harness.spool.flushing = Deferred()
    replied = ask(harness, "OUTPUT 1 stdout")
    harness.clock.advance(output.FLUSH_TIMEOUT)
    assert result_of(replied) == b"DATA stdout 0 6\r\nso far\r\n"


def test_output_of_an_ended_job_asks_no_runner() -> None:
    harness = opened()
    harness.submit()
    harness.finish(1, COMPLETED)
    ask(harness, "OUTPUT 1 stdout")
    assert harness.spool.flushed == []


def test_result_of_running_job_is_not_finished() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    for job_id in (1, 2):
        assert isinstance(refusal(harness, f"RESULT {job_id}"), NotFinished)


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


def test_output_has_the_script_of_a_job_and_of_its_tasks() -> None:
    harness = opened()
    content = b"echo 1\n" * 20_000
    submitted = ask(harness, f"SUBMIT --hold --array=1-2 --script={len(content)}", FakeClient(), [content])
    harness.settle()
    assert result_of(submitted) == b"JOB_ID 1\r\n"
    client = FakeClient()
    for line in ("OUTPUT 1 script", "OUTPUT 1.2 script"):
        client.sent = b""
        end = result_of(ask(harness, line, client))
        assert client.sent + end == b"DATA script 0 %d\r\n%b\r\n" % (len(content), content)
    assert result_of(ask(harness, "OUTPUT 1 script --offset=5 --limit=2", client)) == (
        b"DATA script 5 2\r\n1\n\r\n"
    )
    harness.submit()
    refused = error_of(ask(harness, "OUTPUT 4 script", client))
    assert isinstance(refused, WrongState)
    assert str(refused) == "job 4 has no script; `taskq show 4` shows its command"
