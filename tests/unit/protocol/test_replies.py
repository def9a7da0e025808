"""Reply lines and events (docs/protocol.md §1, §4)."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd import errors
from taskqd.model.events import EVENTS as ALL_EVENTS
from taskqd.model.events import (
    Cancelled,
    Changed,
    Clocked,
    Configured,
    Continued,
    Ended,
    Event,
    Held,
    Output,
    Paused,
    Released,
    Removed,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Spawned,
    Started,
    Submitted,
    Suspended,
    Unscheduled,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Spec
from taskqd.model.submission import Refusal
from taskqd.protocol import replies
from taskqd.protocol.values import escaped, parse_quoted
from tests.unit.protocol.samples import USED, a_job

LINES = [
    (replies.OK, b"OK\r\n"),
    (replies.END, b"END\r\n"),
    (replies.end(0), b"END 0\r\n"),
    (replies.end(12), b"END 12\r\n"),
    (replies.end(0, 7), b"END 0 7\r\n"),
    (replies.job_id(1), b"JOB_ID 1\r\n"),
    (replies.job_id(10**18), b"JOB_ID 1000000000000000000\r\n"),
    (
        replies.job_ids([range(1, 2), Refusal(errors.QueueFull("no")), range(2, 3)]),
        b"JOB_ID 1\r\nERROR QUEUE_FULL no\r\nJOB_ID 2\r\n",
    ),
    (replies.status(a_job(), 0), b"STATUS PENDING 0\r\n"),
    (replies.status(a_job(status=Status.RUNNING), 42), b"STATUS RUNNING 42\r\n"),
    (
        replies.status(a_job(status=Status.RUNNING), 42, 'a "é"'),
        b'STATUS RUNNING 42 "a \\"\\xC3\\xA9\\""\r\n',
    ),
    (replies.status(a_job(status=Status.COMPLETED), 100), b"STATUS COMPLETED 100\r\n"),
    (replies.result(rb"hello world\n", b"", 0), b'RESULT "hello world\\n" "" 0\r\n'),
    (replies.result(rb"\"", rb"\xFF\r", -9), b'RESULT "\\"" "\\xFF\\r" -9\r\n'),
    (replies.result(b"", b"", None), b'RESULT "" "" -\r\n'),
    (replies.data("stdout", 3, b"a\r\n\xff"), b"DATA stdout 3 4\r\na\r\n\xff\r\n"),
    (replies.data("stderr", 0, b""), b"DATA stderr 0 0\r\n\r\n"),
    (
        replies.log_data("stdout", 3, b"a\n", 1.5, True),
        b"DATA stdout 3 2 1970-01-01T00:00:01.500Z\r\na\n\r\n",
    ),
    (replies.log_data("stderr", 0, b"a", None, False), b"DATA stderr 0 1 - unordered\r\na\r\n"),
    (replies.log_end(0, 2, 3, 4), b"END 7 0 2 3 4\r\n"),
    (replies.ok("ann admin"), b"OK ann admin\r\n"),
    (replies.ok("a\x7fb\x9fc\xa0d~"), "OK a b c\xa0d~\r\n".encode()),
    (replies.error(errors.NoSuchJob("there is no job 5")), b"ERROR NO_SUCH_JOB there is no job 5\r\n"),
    (replies.error(errors.TaskqError("oops")), b"ERROR INTERNAL oops\r\n"),
    (replies.as_json("STATS", {"version": "1", "load": 0.5}), b'STATS {"version":"1","load":0.5}\r\n'),
    (
        replies.as_json("TASKQ 1", {"you": None, "é": "\r\n\0"}),
        'TASKQ 1 {"you":null,"é":"\\r\\n\\u0000"}\r\n'.encode(),
    ),
]


def test_job_ids_has_a_line_per_submission() -> None:
    refused = errors.Draining("later")
    assert replies.job_ids([range(7, 8), Refusal(refused, 2), range(8, 14, 3)]) == (
        b"JOB_ID 7\r\n" + 2 * b"ERROR DRAINING later\r\n" + b"JOB_ID 8\r\nJOB_ID 11\r\n"
    )
    assert replies.job_ids([]) == b""


@pytest.mark.parametrize("reply, line", LINES)
def test_reply_is_the_line_of_the_protocol(reply: bytes, line: bytes) -> None:
    assert reply == line


@given(st.text())
def test_reply_with_control_characters_is_one_line(text: str) -> None:
    for reply in (replies.error(errors.BadRequest(text)), replies.ok(text)):
        line = reply.removesuffix(b"\r\n").decode("utf-8")
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)


@given(st.binary(), st.binary(), st.none() | st.integers(-64, 255))
def test_result_is_parsed_back_byte_for_byte(stdout: bytes, stderr: bytes, exit_code: int | None) -> None:
    line = replies.result(escaped(stdout), escaped(stderr), exit_code).removesuffix(b"\r\n").decode("ascii")
    form = re.fullmatch(r'RESULT ("(?:[^"\\]|\\.)*") ("(?:[^"\\]|\\.)*") (-|-?[0-9]+)', line)
    assert form
    assert (parse_quoted(form[1], 0)[0], parse_quoted(form[2], 0)[0]) == (stdout, stderr)
    assert form[3] == ("-" if exit_code is None else str(exit_code))


# Events.


SPEC = Spec(at=1764000005.0)
T = 1764000000.0
EVENTS: list[tuple[Event, str]] = [
    (
        Submitted(id=7, at=T, owner="ann", command="true", spec=SPEC, schedule=3),
        '{"type":"submitted","owner":"ann","spec":{"command":"true","at":"2025-11-24T16:00:05.000Z"},"schedule":3}',
    ),
    (
        Started(id=7, at=T, attempt=1, units={"gpu": ("0",)}),
        '{"type":"started","attempt":1,"units":{"gpu":["0"]}}',
    ),
    (Started(id=7, at=T, attempt=1, word="0" * 16, runner="1"), '{"type":"started","attempt":1}'),
    (Spawned(id=7, at=T, pid=9), '{"type":"spawned","pid":9}'),
    (Cancelled(id=7, at=T, by="ann", signal=15), '{"type":"cancelled","by":"ann","signal":15}'),
    (Skipped(id=7, at=T, dependency=5), '{"type":"skipped","because":5}'),
    (Held(id=7, at=T, by="ann"), '{"type":"held","by":"ann"}'),
    (Suspended(id=7, at=T, by="ann"), '{"type":"suspended","by":"ann"}'),
    (Continued(id=7, at=T, by="ann"), '{"type":"continued","by":"ann"}'),
    (Released(id=7, at=T, by="ann"), '{"type":"released","by":"ann"}'),
    (
        Changed(id=7, at=T, by="ann", command="true", spec=Spec(priority=2)),
        '{"type":"changed","by":"ann","spec":{"command":"true","priority":2}}',
    ),
    (Retried(id=7, at=T, by="ann"), '{"type":"retried","by":"ann"}'),
    (Removed(id=7, at=T, by="ann"), '{"type":"removed","by":"ann"}'),
    (
        Ended(
            id=7,
            at=T,
            status=Status.PENDING,
            reason=Reason.EXIT,
            exit_code=1,
            retry_at=T + 1,
            ended_at=T - 1,
            usage=USED,
            stdout=Output.inline(b"secret"),
            stderr=Output(5000, 3),
            order="9 1 0\n",
        ),
        """{"type":"ended","status":"PENDING","reason":"exit","exit_code":1,
        "retry_at":"2025-11-24T16:00:01.000Z","usage":{"user":1.5,"system":0.25,"memory":4096},
        "stdout":{"size":6},"stderr":{"size":5000,"dropped":3},"ended_at":"2025-11-24T15:59:59.000Z"}""",
    ),
    (Resized(at=T, by="ann", queue="q", slots=0), '{"type":"resized","by":"ann","queue":"q","slots":0}'),
    (
        Configured(at=T, by="ann", queue="q", setting="rate", value="10/m"),
        '{"type":"configured","by":"ann","queue":"q","setting":"rate","value":"10/m"}',
    ),
    (Rescaled(at=T, by="ann", slots=4), '{"type":"rescaled","by":"ann","slots":4}'),
    (Paused(at=T, by="ann"), '{"type":"paused","by":"ann"}'),
    (Resumed(at=T, by="ann", schedule=3), '{"type":"resumed","by":"ann","schedule":3}'),
    (
        Scheduled(at=T, by="ann", schedule=3, command="true", every=60.0),
        '{"type":"scheduled","by":"ann","schedule":3,"spec":{"command":"true"},"every":60.0}',
    ),
    (
        Rescheduled(at=T, by="ann", schedule=3, command="true", cron="@daily", version=2),
        '{"type":"rescheduled","by":"ann","schedule":3,"spec":{"command":"true"},"cron":"@daily"}',
    ),
    (Unscheduled(at=T, by="ann", schedule=3), '{"type":"unscheduled","by":"ann","schedule":3}'),
]


@pytest.mark.parametrize("event, text", EVENTS)
def test_event_has_the_fields_of_the_journal_with_other_times_and_output(event: Event, text: str) -> None:
    line = replies.event(12, event)
    assert line.startswith(b"EVENT 12 {")
    assert line.endswith(b"}\r\n")
    document = msgspec.json.decode(line.removeprefix(b"EVENT 12 "))
    assert document.pop("at") == "2025-11-24T16:00:00.000Z"
    assert document.pop("id", 7) == 7
    assert document == msgspec.json.decode(text)


def test_event_of_every_class_is_formatted() -> None:
    assert {type(event) for event, _ in EVENTS} == set(ALL_EVENTS) - {Clocked}


def test_progress_has_what_is_done_and_the_total() -> None:
    assert replies.progress(250, 1000) == b"PROGRESS 250 1000\r\n"
