"""Reply lines and JSON: what a client reads, one line each, whatever is in it."""

import re
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd import errors, replies
from taskqd.job import Attempt, Job, Reason, Spec, Status
from taskqd.words import escaped, unquote

PERMANENT = {
    *("BAD_REQUEST", "UNKNOWN_COMMAND", "LINE_TOO_LONG", "TOO_LARGE", "NO_SUCH_JOB", "GONE", "WRONG_STATE"),
    *("KEY_CONFLICT", "FORBIDDEN", "AUTH_FAILED"),
}
TRANSIENT = {
    *("NOT_FINISHED", "AUTH_REQUIRED", "TIMED_OUT", "LAGGED", "QUEUE_FULL", "DRAINING", "STORE_FAILED"),
    "INTERNAL",
}
"""The closed list of docs/protocol.md §7."""


def _job(**known: Any) -> Job:
    return Job(
        **{"id": 7, "spec": Spec(command="true"), "owner": "ann", "submitted_at": 1764000000.0, **known}
    )


LINES = [
    (replies.OK, b"OK\r\n"),
    (replies.END, b"END\r\n"),
    (replies.end(0), b"END 0\r\n"),
    (replies.end(12), b"END 12\r\n"),
    (replies.job_id(1), b"JOB_ID 1\r\n"),
    (replies.job_id(10**18), b"JOB_ID 1000000000000000000\r\n"),
    (replies.status(_job(), 0), b"STATUS PENDING 0\r\n"),
    (replies.status(_job(status=Status.RUNNING), 42), b"STATUS RUNNING 42\r\n"),
    (replies.status(_job(status=Status.COMPLETED), 100), b"STATUS COMPLETED 100\r\n"),
    (replies.result(rb"hello world\n", b"", 0), b'RESULT "hello world\\n" "" 0\r\n'),
    (replies.result(rb"\"", rb"\xFF\r", -9), b'RESULT "\\"" "\\xFF\\r" -9\r\n'),
    (replies.result(b"", b"", None), b'RESULT "" "" -\r\n'),
    (replies.data("stdout", 3, b"a\r\n\xff"), b"DATA stdout 3 4\r\na\r\n\xff\r\n"),
    (replies.data("stderr", 0, b""), b"DATA stderr 0 0\r\n\r\n"),
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


@pytest.mark.parametrize("reply, line", LINES)
def test_a_reply_is_the_line_of_the_protocol(reply: bytes, line: bytes) -> None:
    assert reply == line


@pytest.mark.parametrize("error", errors.TaskqError.__subclasses__())
def test_every_refusal_has_a_code_of_the_closed_list(error: type[errors.TaskqError]) -> None:
    assert error.code in PERMANENT | TRANSIENT
    words = re.sub("(?<!^)([A-Z])", r"_\1", error.__name__).upper()
    assert error.code in (words, "INTERNAL")
    said_to_be_worth_it = "worth another try" in str(error.__doc__)
    assert said_to_be_worth_it == (error.code in TRANSIENT - {"INTERNAL"})


def test_a_refused_start_is_nothing_that_a_client_could_have_asked_for() -> None:
    assert issubclass(errors.SettingsError, errors.StartRefused)
    assert issubclass(errors.JournalDamaged, errors.StartRefused)
    assert errors.StartRefused.code == "INTERNAL"


@given(st.text())
def test_the_text_of_a_reply_is_one_line_whatever_is_in_it(text: str) -> None:
    for reply in (replies.error(errors.BadRequest(text)), replies.ok(text)):
        line = reply.removesuffix(b"\r\n").decode("utf-8")
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)


@given(st.binary(), st.binary(), st.none() | st.integers(-64, 255))
def test_a_result_is_read_back_byte_for_byte(stdout: bytes, stderr: bytes, exit_code: int | None) -> None:
    line = replies.result(escaped(stdout), escaped(stderr), exit_code).removesuffix(b"\r\n").decode("ascii")
    form = re.fullmatch(r'RESULT ("(?:[^"\\]|\\.)*") ("(?:[^"\\]|\\.)*") (-|-?[0-9]+)', line)
    assert form
    assert (unquote(form[1]), unquote(form[2])) == (stdout, stderr)
    assert form[3] == ("-" if exit_code is None else str(exit_code))


TIMES = [
    (0.0, "1970-01-01T00:00:00.000Z"),
    (1764000000.0, "2025-11-24T16:00:00.000Z"),
    (1764000000.001, "2025-11-24T16:00:00.001Z"),
    (1764000000.9994, "2025-11-24T16:00:00.999Z"),
    (1764000000.9996, "2025-11-24T16:00:01.000Z"),
    (1e-9, "1970-01-01T00:00:00.000Z"),
    (4919673600.5, "2125-11-24T16:00:00.500Z"),
]


@pytest.mark.parametrize("seconds, text", TIMES)
def test_a_time_is_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert replies.timestamp(seconds) == text
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() == pytest.approx(seconds, abs=0.0006)


def test_no_time_is_no_text() -> None:
    assert replies.timestamp(None) is None


@given(st.floats(0, 5e9))
def test_a_time_is_the_nearest_millisecond(seconds: float) -> None:
    text = replies.timestamp(seconds)
    assert text is not None
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    assert read.tzinfo == timezone.utc
    assert abs(read.timestamp() - seconds) <= 0.00051


FIELDS = [
    *("id", "command", "status", "reason", "progress", "exit_code", "signal", "queue", "priority", "owner"),
    *("label", "key", "attempts", "retries", "timeout", "submitted_at", "started_at", "completed_at", "cwd"),
    *("stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped"),
]
"""A job's fields in docs/protocol.md §4."""


def _described(job: Job, progress: int = 0) -> dict[str, Any]:
    line = replies.as_json("JOB", replies.describe(job, progress))
    described: dict[str, Any] = msgspec.json.decode(line.removeprefix(b"JOB "))
    assert set(described) >= set(FIELDS)
    return described


def _ended(**known: Any) -> Attempt:
    return Attempt(number=2, started_at=1764000001.0, pid=4242, ended_at=1764000002.0, **known)


NEW = """{"id": 7, "command": "true", "status": "PENDING", "reason": "queued", "progress": 0, "attempts": 0,
"exit_code": null, "signal": null, "queue": "default", "priority": 0, "owner": "ann", "label": null,
"key": null, "retries": 0, "timeout": null, "submitted_at": "2025-11-24T16:00:00.000Z", "started_at": null,
"completed_at": null, "not_before": null, "cwd": null, "pid": null, "detail": null, "stdout_bytes": 0,
"stderr_bytes": 0, "stdout_dropped": 0, "stderr_dropped": 0}"""
RUNNING = """{"status": "RUNNING", "reason": null, "pid": 4242, "started_at": "2025-11-24T16:00:01.000Z",
"attempts": 2, "exit_code": null, "completed_at": null, "stdout_bytes": 0, "stderr_bytes": 0,
"stdout_dropped": 0, "stderr_dropped": 0}"""
RETRYING = """{"status": "PENDING", "reason": "retrying", "not_before": "2025-11-24T16:00:09.500Z",
"exit_code": null, "signal": null, "pid": null}"""
COMPLETED = """{"exit_code": 0, "signal": null, "reason": null, "completed_at": "2025-11-24T16:00:02.000Z",
"stdout_bytes": 1, "stderr_bytes": 2, "stdout_dropped": 3, "stderr_dropped": 4, "pid": null}"""
OPTIONS = """{"command": "echo\\n\\u0000é", "timeout": 1.5, "kill_after": 0.0, "retries": 3,
"retry_delay": 2.0, "key": "k", "label": "é", "cwd": "/x", "env": {"A": "1", "B": "\\\\xffé"},
"umask": "007", "nice": -5, "max_output": 0}"""

SIZES = {"stdout_bytes": 1, "stderr_bytes": 2, "stdout_dropped": 3, "stderr_dropped": 4}
WITH_OPTIONS = Spec(
    command="echo\n\0é",
    timeout=1.5,
    kill_after=0.0,
    retries=3,
    retry_delay=2.0,
    key="k",
    label="é",
    cwd="/x",
    env={"A": "1"},
    env_base64={"B": b"\xff\xc3\xa9"},
    umask=0o7,
    nice=-5,
    max_output=0,
)
FAILED = {"status": Status.FAILED, "reason": Reason.SIGNAL}
DESCRIBED = [
    (_job(), NEW),
    (_job(status=Status.RUNNING, reason=None, attempts=2, attempt=_ended()), RUNNING),
    (_job(reason=Reason.RETRYING, not_before=1764000009.5, attempt=_ended(signal=9)), RETRYING),
    (
        _job(
            status=Status.COMPLETED,
            reason=None,
            completed_at=1764000002.0,
            attempt=_ended(exit_code=0, **SIZES),
        ),
        COMPLETED,
    ),
    (_job(attempt=_ended(signal=9), **FAILED), '{"exit_code": -9, "signal": "KILL", "reason": "signal"}'),
    (_job(attempt=_ended(signal=40), **FAILED), '{"exit_code": -40, "signal": "40"}'),
    (
        _job(attempt=_ended(detail="no sh"), **FAILED),
        '{"exit_code": null, "signal": null, "detail": "no sh"}',
    ),
    (_job(spec=Spec(script=5, stdin=6)), '{"command": null, "script": 5, "stdin": 6}'),
    (_job(spec=WITH_OPTIONS), OPTIONS),
]


@pytest.mark.parametrize("job, fields", DESCRIBED)
def test_a_job_is_described_by_the_fields_of_the_protocol(job: Job, fields: str) -> None:
    described = _described(job)
    expected: dict[str, Any] = msgspec.json.decode(fields)
    assert {name: described.get(name) for name in expected} == expected


def test_options_that_were_not_given_are_not_shown() -> None:
    given = {"kill_after", "retry_delay", "env", "umask", "nice", "max_output", "script", "stdin"}
    assert not given & set(_described(_job()))


def test_progress_is_what_it_is_told() -> None:
    assert _described(_job(status=Status.RUNNING), 42)["progress"] == 42
