"""What each verb does and answers, and for whom."""

import json
from typing import Any

import pytest
from msgspec.structs import asdict
from twisted.internet.defer import Deferred, maybeDeferred

from taskqd import __version__
from taskqd.auth.principal import Principal
from taskqd.config.limits import Quotas, describe
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
from tests.fakes.client import FakeCaller
from tests.fakes.connections import FakeSocket, FakeTransport
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import House
from tests.fakes.processes import COMPLETED, FAILED


def opened(slots: int = 2) -> House:
    house = House(slots)
    house.dispatcher.start()
    return house


def ask(house: House, line: str, caller: FakeCaller | None = None, blocks: list[bytes] | None = None) -> Any:
    """Return the Deferred of the reply to a request."""
    request = parser.read_line(line.encode())
    return maybeDeferred(house.verbs.handle, caller or FakeCaller(), request, blocks or [])


def answer(house: House, line: str) -> str:
    """Return the reply to a request, once all is durable."""
    replied = ask(house, line)
    house.settle()
    return bytes(result_of(replied)).decode()


def answer_of(house: House, line: str, caller: FakeCaller) -> str:
    """Return the reply that somebody gets at once."""
    return bytes(result_of(ask(house, line, caller))).decode()


def refusal(house: House, line: str, caller: FakeCaller | None = None) -> BaseException:
    return error_of(ask(house, line, caller))


def shown(house: House, line: str) -> Any:
    """Return the JSON of a reply of one word and one value."""
    return json.loads(answer(house, line).split(" ", 1)[1])


def whole_answer(house: House, line: str, caller: FakeCaller | None = None) -> list[str]:
    """Return the lines of a reply that is sent in portions."""
    caller = caller or FakeCaller()
    end = result_of(ask(house, line, caller))
    return (caller.sent + bytes(end)).decode().splitlines(keepends=True)


def listed(house: House, line: str) -> tuple[list[int], str]:
    """Return the ids that a LIST gives, and its last line."""
    *lines, end = whole_answer(house, line)
    return [json.loads(text.removeprefix("JOB "))["id"] for text in lines], end


def test_every_verb_of_the_table_has_a_handler_and_no_other() -> None:
    assert set(opened().verbs._handlers) == set(verbs.VERBS)


# The three that were asked for.


def test_submit_status_and_result_have_the_form_that_they_keep_for_ever() -> None:
    house = opened()
    assert answer(house, "SUBMIT echo hello") == "JOB_ID 1\r\n"
    assert answer(house, "STATUS 1") == "STATUS RUNNING 0\r\n"
    outcome = Outcome(
        reason=None, exit_code=0, stdout=Output.inline(b"hello\n"), stderr=Output.inline(b'a "b"\t\\\r\xff')
    )
    house.finish(1, outcome)
    assert answer(house, "STATUS 1") == "STATUS COMPLETED 100\r\n"
    assert answer(house, "RESULT 1") == 'RESULT "hello\\n" "a \\"b\\"\\t\\\\\\r\\xFF" 0\r\n'


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
def test_a_result_has_the_exit_code_or_the_signal_or_none(outcome: Outcome, code: str) -> None:
    house = opened()
    house.submit()
    house.finish(1, outcome)
    assert answer(house, "RESULT 1") == f'RESULT "" "" {code}\r\n'


def test_a_result_is_that_of_the_moment_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "ESCAPED_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    house.finish(1, Outcome(reason=Reason.EXIT, exit_code=3, stdout=Output.inline(b"x" * 25)))
    caller.has_room = False
    replied = ask(house, "RESULT 1", caller)
    house.retry(1)
    house.settle()
    caller.has_room = True
    caller.rooms.pop().callback(None)
    assert caller.sent + result_of(replied) == b'RESULT "%b" "" 3\r\n' % (b"x" * 25)


def test_a_long_result_is_sent_in_pieces_as_its_reader_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "ESCAPED_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    stdout, stderr = Output.inline(b'"\xff' * 15), Output.inline(b"e" * 12)
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=stdout, stderr=stderr))
    caller.has_room = False
    replied, sizes = ask(house, "RESULT 1", caller), [len(caller.sent)]
    while caller.rooms:
        caller.rooms.pop().callback(None)
        sizes.append(len(caller.sent))
    assert sizes == [38, 68, 111, 111]
    whole = caller.sent + result_of(replied)
    assert whole == b'RESULT "%b" "%b" 0\r\n' % (b'\\"\\xFF' * 15, b"e" * 12)


@pytest.mark.parametrize("line", ["RESULT 1", "OUTPUT 1 stdout"])
def test_a_reply_that_cannot_be_finished_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(output, "ESCAPED_BYTES", 10)
    monkeypatch.setattr(output, "PIECE_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    house.spool.on_disk[1, 1] = (b"x" * 10_000, b"")
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(10_000), stderr=Output(0)))
    caller.has_room = False
    replied = ask(house, line, caller)
    assert b"xxxxx" in caller.sent
    del house.spool.on_disk[1, 1]
    caller.rooms.pop().callback(None)
    assert result_of(replied) == b""
    (why,) = caller.broken_off
    assert f"{line.split(maxsplit=1)[0]} of job 1 cannot be read on" in why


@pytest.mark.parametrize("missing", [1, 2])
def test_a_long_result_whose_file_is_gone_is_refused_and_the_connection_stays(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    monkeypatch.setattr(output, "ESCAPED_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    streams = [b"x" * 100, b"y" * 100]
    streams[missing - 1] = b""
    house.spool.on_disk[1, 1] = (streams[0], streams[1])
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(100), stderr=Output(100)))
    assert isinstance(error_of(ask(house, "RESULT 1", caller)), OSError | TaskqError)
    assert caller.sent == b""
    assert caller.broken_off == []


def test_output_that_is_shorter_than_it_should_be_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "PIECE_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    house.spool.on_disk[1, 1] = (b"x" * 15, b"")
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(20), stderr=Output(0)))
    assert result_of(ask(house, "OUTPUT 1 stdout", caller)) == b""
    (why,) = caller.broken_off
    assert "the stdout of attempt 1 of job 1 had 20 bytes, and its file has 15" in why


def test_a_long_output_is_sent_in_pieces_as_its_reader_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIECE_BYTES", 10)
    house, caller = opened(), FakeCaller()
    house.submit()
    house.spool.recordings[1].write(1, b"0123456789" * 3)
    caller.has_room = False
    replied = ask(house, "OUTPUT 1 stdout --offset=1", caller)
    assert caller.sent == b"DATA stdout 1 29\r\n1234567890"
    house.finish(1, Outcome(reason=None, exit_code=1, stdout=Output.inline(b"0123456789" * 3)))
    while caller.rooms:
        caller.rooms.pop().callback(None)
    assert caller.sent + result_of(replied) == b"DATA stdout 1 29\r\n%b\r\n" % (b"0123456789" * 3)[1:]


def test_a_job_that_has_not_ended_has_no_result_yet() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    for job_id in (1, 2):
        assert isinstance(refusal(house, f"RESULT {job_id}"), NotFinished)


@pytest.mark.parametrize(
    "line", [f"{verb} 9" for verb in ("STATUS", "RESULT", "SHOW", "WAIT", "CANCEL", "RETRY")]
)
def test_there_is_no_job_of_an_id_that_nobody_was_given(line: str) -> None:
    house = opened()
    house.submit()
    assert isinstance(refusal(house, line), NoSuchJob)
    assert isinstance(refusal(house, "OUTPUT 9 stdout"), NoSuchJob)


@pytest.mark.parametrize(
    "line, error",
    [
        ("STATUS x", BadRequest),
        ("FROB", UnknownCommand),
        ("SUBMIT --every=1h true", BadRequest),
        ("\xff", UnknownCommand),
    ],
)
def test_a_request_that_could_not_be_read_is_refused_for_that(line: str, error: type[TaskqError]) -> None:
    assert isinstance(refusal(opened(), line), error)


def test_a_submission_s_blocks_go_by_their_names() -> None:
    house = opened()
    result = ask(house, "SUBMIT --stdin=2 --script=6", blocks=[b"echo 1", b"in"])
    house.settle()
    assert result_of(result) == b"JOB_ID 1\r\n"
    assert house.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    ask(house, "SUBMIT --stdin=0 cat", blocks=[b""])
    assert house.spool.blocks[2] == {"stdin": b""}


def test_a_submission_belongs_to_whoever_asked() -> None:
    house = opened()
    ask(house, "SUBMIT true", FakeCaller(Principal("grace", Role.ADMIN)))
    house.settle()
    assert house.job(1).owner == "grace"


# SHOW and LIST.


def test_show_tells_all_that_is_known() -> None:
    house = opened()
    answer(house, "SUBMIT --label=x --retries=2 --env=A=1 echo hello")
    house.spool.percentages[1] = 30
    house.spool.recordings[1].write(2, b"12345")
    job = shown(house, "SHOW 1")
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
    house.finish(1, FAILED)
    job = shown(house, "SHOW 1")
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
def test_a_list_has_the_jobs_that_were_asked_for_and_says_how_many(line: str, ids: list[int]) -> None:
    house = opened(1)
    house.submit()
    house.finish(1)
    house.submit()
    house.submit(label="blue")
    house.submit(label="blue")
    house.submit(key="k")
    house.submit()
    house.cancel(4)
    house.settle()
    assert listed(house, line) == (ids, f"END {len(ids)}\r\n")


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
def test_a_list_has_an_array_as_one_and_its_tasks_if_they_are_asked_for(line: str, ids: list[int]) -> None:
    house = opened(0)
    for words in ("", "--array=1-3 --queue=q", "--queue=q", "--array=0-1 --key=k", ""):
        answer(house, f"SUBMIT {words} true")
    answer(house, "CANCEL 2.2")
    assert listed(house, line) == (ids, f"END {len(ids)}\r\n")


def test_only_an_array_has_tasks_to_list() -> None:
    house = opened()
    house.submit()
    assert isinstance(refusal(house, "LIST --array=1"), WrongState)
    assert isinstance(refusal(house, "LIST --array=2"), NoSuchJob)


def test_a_list_of_nothing_ends_at_once() -> None:
    assert listed(opened(), "LIST") == ([], "END 0\r\n")
    assert listed(opened(), "LIST --reverse") == ([], "END 0\r\n")


def test_a_list_has_100_jobs_unless_told() -> None:
    house = opened(0)
    for _ in range(130):
        house.submit()
    assert listed(house, "LIST") == (list(range(1, 101)), "END 100\r\n")
    assert listed(house, "LIST --limit=1000")[1] == "END 130\r\n"


def test_a_list_that_shows_nothing_gives_way_as_well() -> None:
    house, caller = opened(0), FakeCaller()
    for _ in range(10):
        house.submit()
    caller.has_room = False
    replied = ask(house, "LIST --queue=other", caller)
    waited = 0
    while caller.rooms:
        waited += 1
        caller.rooms.pop().callback(None)
    assert (waited, caller.sent, result_of(replied)) == (11, b"", b"END 0\r\n")


def test_numbers_without_a_job_are_looked_up_a_thousand_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "WALKED_AT_ONCE", 3)
    house, caller = opened(20), FakeCaller()
    for number in range(1, 11):
        house.submit()
        house.finish(number)
    for number in range(1, 10):
        house.remove(number)
    house.settle()
    caller.has_room = False
    replied = ask(house, "LIST", caller)
    waited = 0
    while caller.rooms:
        waited += 1
        caller.rooms.pop().callback(None)
    assert (waited, (caller.sent + result_of(replied)).count(b"JOB")) == (5, 1)


def test_a_list_waits_for_its_caller_to_read() -> None:
    house = opened(0)
    for _ in range(3):
        house.submit()
    caller = FakeCaller()
    caller.has_room = False
    replied = ask(house, "LIST", caller)
    assert caller.sent.count(b"JOB") == 1
    caller.has_room = True
    caller.rooms.pop().callback(None)
    assert (caller.sent + result_of(replied)).count(b"JOB") == 3


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
def test_output_is_a_piece_of_a_stream_with_its_place(words: str, reply: str) -> None:
    house = opened()
    house.submit()
    house.spool.recordings[1].write(1, b"0123456789")
    assert answer(house, f"OUTPUT 1 stdout {words}") == reply
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"0123456789")))
    assert answer(house, f"OUTPUT 1 stdout {words}") == reply
    assert answer(house, "OUTPUT 1 stderr") == "DATA stderr 0 0\r\n\r\n"


def test_output_that_cannot_be_read_is_refused() -> None:
    house = opened()
    house.submit()
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output(5000)))
    assert isinstance(refusal(house, "OUTPUT 1 stdout"), StoreFailed)
    assert isinstance(refusal(house, "RESULT 1"), StoreFailed)


@pytest.mark.parametrize("number, text", [(1, "one"), (2, "two!")])
def test_output_of_an_earlier_attempt_is_asked_for_by_its_number(number: int, text: str) -> None:
    house = opened()
    house.submit(retries=1, retry_delay=0.0)
    house.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"one")))
    house.clock.advance(0)
    house.settle()
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"two!")))
    assert answer(house, f"OUTPUT 1 stdout --attempt={number}") == f"DATA stdout 0 {len(text)}\r\n{text}\r\n"
    last = f"DATA stdout {len(text) - 1} 1\r\n{text[-1]}\r\n"
    assert answer(house, f"OUTPUT 1 stdout --attempt={number} --tail=1") == last
    assert isinstance(refusal(house, "OUTPUT 1 stdout --attempt=3"), WrongState)


def test_an_array_has_no_output_of_its_own_and_says_whose_to_ask_for() -> None:
    house = opened(1)
    answer(house, "SUBMIT --array=5-7 true")
    for line in ("RESULT 1", "OUTPUT 1 stdout"):
        error = refusal(house, line)
        assert isinstance(error, WrongState)
        assert "1.5 to 1.7" in str(error)
    house.finish(2, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"five")))
    assert answer(house, "OUTPUT 1.5 stdout") == "DATA stdout 0 4\r\nfive\r\n"
    assert answer(house, "RESULT 1.5") == answer(house, "RESULT 2") == 'RESULT "five" "" 0\r\n'


# WAIT.


def test_wait_answers_when_the_job_has_ended() -> None:
    house = opened()
    house.submit()
    waiting = ask(house, "WAIT 1")
    timed = ask(house, "WAIT 1 --timeout=10")
    assert not waiting.called
    house.finish(1)
    assert result_of(waiting) == result_of(timed) == b"STATUS COMPLETED 100\r\n"
    assert answer(house, "WAIT 1") == answer(house, "WAIT 1 --timeout=5") == "STATUS COMPLETED 100\r\n"
    assert house.clock.getDelayedCalls() == []


@pytest.mark.parametrize("timeout", [0, 2.5])
def test_wait_is_timed_out_and_leaves_no_waiter(timeout: float) -> None:
    house = opened()
    house.submit()
    waiting = ask(house, f"WAIT 1 --timeout={timeout}")
    house.clock.advance(timeout)
    error = error_of(waiting)
    assert isinstance(error, TimedOut)
    assert "RUNNING" in str(error)
    assert not any(house.dispatcher._waiters.values())
    house.finish(1)


def test_a_wait_is_let_go_with_its_caller() -> None:
    house = opened()
    house.submit()
    caller = FakeCaller()
    waiting = ask(house, "WAIT 1", caller)
    caller.held[0].cancel()
    assert not isinstance(error_of(waiting), TaskqError)
    assert not any(house.dispatcher._waiters.values())


# CANCEL and RETRY.


def test_cancel_is_answered_when_it_is_decided() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    assert answer(house, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(house, "CANCEL 1") == "STATUS RUNNING 0\r\n"
    assert answer(house, "CANCEL 2 --signal=INT") == "STATUS CANCELLED 0\r\n"
    house.finish(1, FAILED)
    assert answer(house, "STATUS 1") == "STATUS CANCELLED 0\r\n"
    assert answer(house, "CANCEL 1") == "STATUS CANCELLED 0\r\n"


@pytest.mark.parametrize("name, number", [("", 15), (" --signal=INT", 2), (" --signal=SIGKILL", 9)])
def test_cancel_sends_the_signal_that_was_asked_for(name: str, number: int) -> None:
    house = opened()
    house.submit()
    answer(house, f"CANCEL 1{name}")
    assert house.executor.signals == [(1, Reason.CANCELLED, number)]


def test_retry_answers_with_the_id_and_a_job_that_has_not_ended_is_refused() -> None:
    house = opened()
    house.submit()
    assert isinstance(refusal(house, "RETRY 1"), WrongState)
    house.finish(1)
    assert isinstance(refusal(house, "CANCEL 1"), WrongState)
    assert answer(house, "RETRY 1") == "JOB_ID 1\r\n"
    assert house.job(1).status is Status.RUNNING


def test_cancel_with_cascade_also_ends_what_would_come_after() -> None:
    house = opened(1)
    house.submit()
    answer(house, "SUBMIT --after=1 true")
    answer(house, "SUBMIT --after=2 true")
    assert answer(house, "CANCEL 2 --cascade") == "STATUS CANCELLED 0\r\n"
    assert house.statuses() == [Status.RUNNING, Status.CANCELLED, Status.CANCELLED]


def test_a_task_is_named_by_its_array_and_index_wherever_an_id_is_taken() -> None:
    house = opened(1)
    answer(house, "SUBMIT --array=5-7 true")
    assert answer(house, "STATUS 1.5") == "STATUS RUNNING 0\r\n"
    assert shown(house, "SHOW 1.6")["id"] == 3
    assert answer(house, "HOLD 1.6") == "STATUS PENDING 0\r\n"
    assert house.job(3).is_held
    assert answer(house, "RELEASE 1.6") == "STATUS PENDING 0\r\n"
    assert not house.job(3).is_held
    assert answer(house, "CANCEL 1.7") == "STATUS CANCELLED 0\r\n"
    assert answer(house, "RETRY 1.7") == "JOB_ID 4\r\n"
    assert answer(house, "WHY 1.7").startswith("OK ")
    waiting = ask(house, "WAIT 1.5")
    house.finish(2)
    assert result_of(waiting) == b"STATUS COMPLETED 100\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "WHY", "HOLD"):
        assert isinstance(refusal(house, f"{verb} 1.8"), NoSuchJob), verb
    assert isinstance(refusal(house, "SET 1.8 --nice=1"), NoSuchJob)
    assert isinstance(refusal(house, "REMOVE 1.5"), WrongState)


# HOLD, RELEASE, SET and WHY.


def test_a_held_job_starts_once_it_is_released() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    assert answer(house, "HOLD 2") == "STATUS PENDING 0\r\n"
    house.finish(1)
    assert answer(house, "STATUS 2") == "STATUS PENDING 0\r\n"
    assert shown(house, "SHOW 2")["reason"] == "held"
    assert "held" in answer(house, "WHY 2")
    assert answer(house, "RELEASE 2") == "STATUS PENDING 0\r\n"
    assert answer(house, "STATUS 2") == "STATUS RUNNING 0\r\n"
    for verb in ("HOLD", "RELEASE"):
        assert isinstance(refusal(house, f"{verb} 2"), WrongState)
    told = [event for event in house.store.journal if isinstance(event, Held | Released)]
    assert [event.by for event in told] == ["ada", "ada"]


def test_set_answers_with_the_job_as_it_is_then() -> None:
    house = opened(1)
    house.submit()
    house.submit(label="x", timeout=5.0)
    job = shown(house, 'SET 2 --priority=7 --queue=q --label="" --timeout=none --delay=60')
    assert (job["priority"], job["queue"], job["label"], job["timeout"]) == (7, "q", None, None)
    assert (job["status"], job["reason"]) == ("PENDING", "delayed")
    assert shown(house, "SET 2 --at=none")["reason"] == "queued"
    assert isinstance(refusal(house, "SET 1 --priority=1"), WrongState)
    assert isinstance(refusal(house, "SET 2 --slots=2"), BadRequest)


def test_why_says_what_a_job_waits_for_in_one_line() -> None:
    house = opened(1)
    house.submit()
    house.submit()
    reply = answer(house, "WHY 2")
    assert reply.startswith("OK it wants 1 slot; none of 1 is free")
    assert reply.count("\r\n") == 1
    assert answer(house, "WHY 1") == "OK it waits for nothing: it runs\r\n"


# Queues and schedules.


def queues(house: House) -> dict[str, Any]:
    *lines, end = whole_answer(house, "QUEUES")
    found = [json.loads(line.removeprefix("QUEUE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return {queue["name"]: queue for queue in found}


def test_queues_has_each_queue_with_its_slots_and_counts() -> None:
    house = House(3, queues={"gpu": 1})
    house.dispatcher.start()
    for queue in ("gpu", "gpu", "mail"):
        answer(house, f"SUBMIT --queue={queue} true")
    nothing = {"pending": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0}
    none = {"slots": None, "busy": 0, "paused": False, **nothing}
    assert queues(house) == {
        "default": {"name": "default", **none},
        "gpu": {"name": "gpu", **none, "slots": 1, "busy": 1, "pending": 1, "running": 1},
        "mail": {"name": "mail", **none, "busy": 1, "running": 1},
    }


def test_a_queue_s_slots_are_changed_while_it_runs() -> None:
    house = House(3, queues={"gpu": 1})
    house.dispatcher.start()
    for _ in range(3):
        answer(house, "SUBMIT --queue=gpu true")
    assert shown(house, "SET-QUEUE gpu --slots=2")["slots"] == 2
    assert queues(house)["gpu"]["running"] == 2
    assert shown(house, "SET-QUEUE gpu --slots=none")["slots"] is None
    assert queues(house)["gpu"]["running"] == 3
    assert shown(house, "SET-QUEUE gpu --slots=default")["slots"] == 1
    assert house.store.journal[-1] == Resized(at=house.clock.now(), by="ada", queue="gpu", slots=None)


@pytest.mark.parametrize("words", ["", " gpu"])
def test_nothing_starts_while_it_is_paused(words: str) -> None:
    house = opened(1)
    assert answer(house, f"PAUSE{words}") == "OK\r\n"
    answer(house, "SUBMIT --queue=gpu true")
    assert shown(house, "SHOW 1")["reason"] == "paused"
    assert shown(house, "STATS")["paused"] is (words == "")
    assert queues(house)["gpu"]["paused"] is (words != "")
    assert answer(house, f"RESUME{words}") == "OK\r\n"
    assert answer(house, "STATUS 1") == "STATUS RUNNING 0\r\n"


def schedules(house: House) -> list[Any]:
    *lines, end = whole_answer(house, "SCHEDULES")
    found = [json.loads(line.removeprefix("SCHEDULE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return found


def test_a_schedule_is_made_shown_paused_and_ended() -> None:
    house = opened()
    assert schedules(house) == []
    assert answer(house, "SCHEDULE --every=1h --queue=q echo hello") == "OK 1\r\n"
    assert answer(house, 'SCHEDULE --cron="0 3 * * *" --overlap true') == "OK 2\r\n"
    first, second = schedules(house)
    assert (first["schedule"], first["every"], first["command"], first["queue"]) == (
        1,
        3600.0,
        "echo hello",
        "q",
    )
    assert (first["owner"], first["next_run_at"]) == ("ada", values.timestamp(house.clock.now() + 3600))
    assert (second["schedule"], second["cron"], second["overlap"]) == (2, "0 3 * * *", True)
    assert answer(house, "PAUSE --schedule=1") == "OK\r\n"
    assert [(one["paused"], one["next_run_at"] is None) for one in schedules(house)] == [
        (True, True),
        (False, False),
    ]
    assert answer(house, "RESUME --schedule=1") == "OK\r\n"
    assert schedules(house)[0]["paused"] is False
    assert answer(house, "UNSCHEDULE 1") == "OK\r\n"
    assert [one["schedule"] for one in schedules(house)] == [2]
    for line in ("UNSCHEDULE 1", "PAUSE --schedule=1", "RESUME --schedule=3"):
        assert isinstance(refusal(house, line), NoSuchJob), line


def test_a_list_of_queues_waits_for_its_caller_to_read() -> None:
    house = House(queues={"a": 1, "b": 1})
    caller = FakeCaller()
    caller.has_room = False
    replied = ask(house, "QUEUES", caller)
    assert caller.sent.count(b"QUEUE") == 1
    caller.has_room = True
    caller.rooms.pop().callback(None)
    assert (caller.sent + result_of(replied)).count(b"QUEUE") == 3


# Who and what the server is.


def test_stats_has_the_resources_and_how_much_of_them_is_taken() -> None:
    house = House(resources={"gpu": 2, "disk": 5})
    house.dispatcher.start()
    answer(house, "SUBMIT --need=gpu:2 true")
    assert shown(house, "STATS")["resources"] == {
        "gpu": {"total": 2, "busy": 2},
        "disk": {"total": 5, "busy": 0},
    }


def test_stats_has_the_counters_and_gauges() -> None:
    house = opened(1)
    for _ in range(3):
        house.submit()
    house.finish(1)
    house.clock.advance(12.5)
    stats = shown(house, "STATS")
    assert stats["jobs"] == {"pending": 1, "running": 1, "completed": 1, "failed": 0, "cancelled": 0}
    assert (stats["slots"], stats["uptime"], stats["connections"]) == (1, 12.5, 0)
    assert stats["version"] == __version__
    assert (stats["counters"]["submitted"], stats["counters"]["started"]) == (3, 2)
    assert stats["store"] == {"failure": None, "segment": 1, "segment_bytes": 8}
    assert stats["draining"] is False
    assert stats["limits"]["line"] == parser.LONGEST_LINE
    house.store.break_down("no space left")
    assert shown(house, "STATS")["store"]["failure"] == "no space left"


def test_hello_says_who_both_are() -> None:
    house = opened()
    word, version, text = answer(house, "HELLO").split(" ", 2)
    hello = json.loads(text)
    assert (word, version) == ("TASKQ", "1")
    assert hello["verbs"] == list(verbs.VERBS)
    assert hello["options"] == [f"--{name}" for name in submit.OPTIONS]
    assert hello["you"] == {"name": "ada", "role": "admin"}
    assert hello["auth"] == ["token"]
    stranger = result_of(ask(house, "HELLO", FakeCaller(None)))
    assert json.loads(stranger.split(b" ", 2)[2])["you"] is None


def test_auth_makes_whoever_has_the_token_an_admin() -> None:
    house = opened()
    caller = FakeCaller(None)
    assert isinstance(refusal(house, "AUTH wrong", caller), AuthFailed)
    assert (caller.principal, caller.failures) == (None, 1)
    assert result_of(ask(house, "AUTH sesame", caller)) == b"OK token admin\r\n"
    assert caller.principal == Principal("token", Role.ADMIN)


@pytest.mark.parametrize(
    "who, told",
    [
        (Principal("ann", Role.SUBMIT, "pid 1", uid=7), {"name": "ann", "role": "submit", "from": "pid 1"}),
        (
            Principal("ci", Role.READ, "10.0.0.5:1", queue="q", token="1"),
            {"name": "ci", "role": "read", "from": "10.0.0.5:1", "queue": "q"},
        ),
    ],
)
def test_hello_says_what_one_is_taken_for(who: Principal, told: dict[str, str]) -> None:
    reply = result_of(ask(opened(), "HELLO", FakeCaller(who)))
    assert json.loads(reply.split(b" ", 2)[2])["you"] == told


def test_hello_and_stats_have_every_limit() -> None:
    quotas = Quotas(connections=7, submissions=2.5, idle_time=None, output=1000, line=2048)
    house = House(quotas=quotas)
    stats = shown(house, "STATS")["limits"]
    hello = json.loads(answer(house, "HELLO").split(" ", 2)[2])["limits"]
    assert hello == stats == {**verbs_of_the_daemon.LIMITS, **describe(quotas)}
    assert set(asdict(quotas)) - {"output"} | {"max_output"} <= set(stats)
    assert (stats["connections"], stats["submissions"], stats["idle_time"]) == (7, 2.5, None)
    assert (stats["max_output"], stats["line"]) == (1000, 2048)


def test_auth_says_who_one_is_then() -> None:
    house, caller = opened(), FakeCaller(None)
    house.access.tokens["t"] = Principal("ann", Role.SUBMIT, queue="q", token="1")
    assert result_of(ask(house, "AUTH t", caller)) == b"OK ann submit\r\n"
    assert caller.principal == house.access.tokens["t"]


def expected(house: House, caller: FakeCaller, line: str) -> TaskqError | None:
    return house.verbs.expect(caller, parser.read_line(line.encode())).error


def test_blocks_are_expected_of_those_who_may_send_them() -> None:
    house = House(quotas=Quotas(block=10))
    line = "SUBMIT --stdin=10 cat"
    reader, user = (FakeCaller(Principal("ann", role)) for role in (Role.READ, Role.SUBMIT))
    assert expected(house, user, line) is expected(house, FakeCaller(), line) is None
    assert isinstance(expected(house, FakeCaller(None), line), AuthRequired)
    assert isinstance(expected(house, reader, line), Forbidden)
    for large in ("SUBMIT --stdin=11 cat", "SUBMIT --script=11", "SUBMIT --script=1 --stdin=11"):
        assert isinstance(expected(house, FakeCaller(), large), TooLarge)
    assert isinstance(expected(house, reader, "SUBMIT --bogus --stdin=1 cat"), BadRequest)
    assert isinstance(expected(house, user, "SCHEDULE --every=1h --stdin=1 cat"), BadRequest)


def test_a_token_that_is_not_valid_any_more_is_told_so_whatever_comes_with_it() -> None:
    house = opened()
    caller = FakeCaller(Principal("ann", Role.ADMIN, token="1"))
    assert answer_of(house, "STATS", caller).startswith("STATS ")
    house.access.revoked.add("1")
    assert isinstance(expected(house, caller, "SUBMIT --stdin=1 cat"), AuthRequired)
    for line in ("STATS", "SUBMIT true", "STATUS x"):
        why = refusal(house, line, caller)
        assert str(why) == "the token of ann is not valid any more; AUTH with another"
    for line in ("PING", "HELLO", "AUTH sesame"):
        assert not answer_of(house, line, caller).startswith("ERROR")
    assert caller.principal == Principal("token", Role.ADMIN)


def test_a_peer_is_who_its_socket_says() -> None:
    assert opened().verbs.peer(FakeTransport(FakeSocket(uid=0))) == Principal(
        "root", Role.ADMIN, "pid 4711", uid=0
    )


def test_ping_and_quit_are_ok_and_quit_ends_the_connection() -> None:
    house = opened()
    caller = FakeCaller()
    assert result_of(ask(house, "PING", caller)) == b"OK\r\n"
    assert not caller.is_finished
    assert result_of(ask(house, "QUIT", caller)) == b"OK\r\n"
    assert caller.is_finished


def test_help_has_a_line_for_every_verb_and_more_for_submit() -> None:
    house = opened()
    lines = answer(house, "HELP").split("\r\n")
    assert [line.split()[1] for line in lines[:-2]] == list(verbs.VERBS)
    assert lines[-2:] == ["END", ""]
    for verb in verbs.VERBS:
        first, *_, end, _ = answer(house, f"HELP {verb}").split("\r\n")
        assert first.startswith(f"OK {verb}")
        assert end == "END"


@pytest.mark.parametrize("verb", ["SUBMIT", "SET", "SCHEDULE"])
def test_help_for_a_verb_of_many_options_has_the_form_of_each(verb: str) -> None:
    lines = answer(opened(), f"HELP {verb}").split("\r\n")[1:-2]
    assert all(line.startswith("OK ") and len(line) <= 103 for line in lines)
    forms = " ".join(line.removeprefix("OK ") for line in lines).removeprefix("Options: ").split(" ")
    assert forms == [
        f"--{name}" if usage is None else f"--{name}={usage}"
        for name, usage in verbs.VERBS[verb].options.items()
    ]


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_strangers_may_ask_only_what_is_for_everybody(verb: str) -> None:
    house = opened()
    line = {"AUTH": "AUTH sesame"}.get(verb, f"{verb} 1")
    replied: Deferred[Any] = ask(house, line, FakeCaller(None))
    errors: list[Any] = []
    replied.addErrback(lambda failure: errors.append(failure.value))
    assert (verb in router.OPEN) is not any(isinstance(error, AuthRequired) for error in errors)


# Looking back, and tidying up.


def test_remove_forgets_a_finished_job() -> None:
    house = opened()
    house.submit()
    assert isinstance(refusal(house, "REMOVE 1"), WrongState)
    assert isinstance(refusal(house, "REMOVE 2"), NoSuchJob)
    house.finish(1)
    assert answer(house, "REMOVE 1") == "OK\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "OUTPUT"):
        line = f"{verb} 1 stdout" if verb == "OUTPUT" else f"{verb} 1"
        assert isinstance(refusal(house, line), Gone), verb
    assert answer(house, "LIST") == "END 0\r\n"
    assert shown(house, "STATS")["counters"]["removed"] == 1
    assert isinstance(house.store.journal[-1], Removed)
    assert house.store.journal[-1].by == "ada"


def test_history_tells_all_that_happened_to_a_job() -> None:
    house = opened()
    house.submit("echo 1")
    house.submit("echo 2")
    house.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"secret")))
    lines = answer(house, "HISTORY 1").split("\r\n")
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
    assert isinstance(refusal(house, "HISTORY 3"), NoSuchJob)
    house.store.break_down()
    assert isinstance(refusal(house, "HISTORY 1"), StoreFailed)


def test_history_of_a_task_has_what_happened_to_its_array_too() -> None:
    house = opened(1)
    answer(house, "SUBMIT --array=1-2 true")
    answer(house, "CANCEL 1")

    def told(line: str) -> list[Any]:
        events = [json.loads(line.split(" ", 2)[2]) for line in answer(house, line).split("\r\n")[:-2]]
        return [(event["type"], event["id"]) for event in events]

    started = [("started", 2), ("spawned", 2)]
    assert told("HISTORY 1") == [("submitted", 1), ("cancelled", 1)]
    assert told("HISTORY 1.1") == [("submitted", 1), *started, ("cancelled", 1)]
    assert told("HISTORY 3") == [("submitted", 1), ("cancelled", 1)]


def test_show_has_every_attempt_and_of_a_running_one_what_it_has_printed_so_far() -> None:
    house = opened()
    house.submit(retries=1, retry_delay=0.0)
    house.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"one")))
    house.clock.advance(0)
    house.settle()
    house.spool.recordings[1].write(1, b"12345")
    runs = shown(house, "SHOW 1")["runs"]
    assert [(run["attempt"], run["exit_code"], run["stdout_bytes"]) for run in runs] == [
        (1, 1, 3),
        (2, None, 5),
    ]
    assert '"runs"' not in "".join(whole_answer(house, "LIST"))


def test_drain_takes_nothing_new_and_starts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    house = opened(1)
    house.submit()
    house.submit()
    who = FakeCaller(Principal("ann", Role.ADMIN, "pid 7"))
    assert result_of(ask(house, "DRAIN", who)) == b"OK\r\n"
    assert caplog.messages == ["ann (pid 7) drained the daemon"]
    assert isinstance(refusal(house, "SUBMIT true"), Draining)
    assert shown(house, "STATS")["draining"] is True
    house.finish(1)
    assert house.statuses() == [Status.COMPLETED, Status.PENDING]
    assert answer(house, "DRAIN") == "OK\r\n"
