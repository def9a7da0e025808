"""Reply lines and JSON documents (docs/protocol.md §1, §4)."""

import re
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd import errors
from taskqd.model.events import EVENTS as ALL_EVENTS
from taskqd.model.events import (
    Cancelled,
    Changed,
    Clocked,
    Ended,
    Event,
    Held,
    Output,
    Paused,
    Released,
    Removed,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Spawned,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Attempt, Job, Reason, Status, Tasks, Usage
from taskqd.model.schedule import Schedule
from taskqd.model.spec import Array, Spec
from taskqd.protocol import documents, replies, values
from taskqd.protocol.values import escaped, parse_quoted

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
        **{"id": 7, "command": "true", "spec": Spec(), "owner": "ann", "submitted_at": 1764000000.0, **known}
    )


LINES = [
    (replies.OK, b"OK\r\n"),
    (replies.END, b"END\r\n"),
    (replies.end(0), b"END 0\r\n"),
    (replies.end(12), b"END 12\r\n"),
    (replies.job_id(1), b"JOB_ID 1\r\n"),
    (replies.job_id(10**18), b"JOB_ID 1000000000000000000\r\n"),
    (replies.job_ids([1, errors.QueueFull("no"), 2]), b"JOB_ID 1\r\nERROR QUEUE_FULL no\r\nJOB_ID 2\r\n"),
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


def test_job_ids_has_a_line_per_submission() -> None:
    refused = errors.Draining("later")
    assert replies.job_ids([7, refused, 8]) == b"JOB_ID 7\r\nERROR DRAINING later\r\nJOB_ID 8\r\n"
    assert replies.job_ids([]) == b""


@pytest.mark.parametrize("reply, line", LINES)
def test_reply_is_the_line_of_the_protocol(reply: bytes, line: bytes) -> None:
    assert reply == line


@pytest.mark.parametrize("error", errors.TaskqError.__subclasses__())
def test_error_class_has_a_code_of_the_protocol(error: type[errors.TaskqError]) -> None:
    assert error.code in PERMANENT | TRANSIENT
    words = re.sub("(?<!^)([A-Z])", r"_\1", error.__name__).upper()
    assert error.code in (words, "INTERNAL")
    may_retry = "may retry" in str(error.__doc__)
    assert may_retry == (error.code in TRANSIENT - {"INTERNAL"})


def test_start_refused_is_an_internal_error() -> None:
    assert issubclass(errors.SettingsError, errors.StartRefused)
    assert issubclass(errors.JournalDamaged, errors.StartRefused)
    assert errors.StartRefused.code == "INTERNAL"


def test_lagged_has_the_number_to_continue_with() -> None:
    lagged = errors.Lagged(17)
    assert (lagged.sequence, replies.error(lagged)) == (17, b"ERROR LAGGED 17\r\n")


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
def test_timestamp_is_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert values.timestamp(seconds) == text
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() == pytest.approx(seconds, abs=0.0006)


def test_timestamp_of_none_is_none() -> None:
    assert values.timestamp(None) is None


@given(st.floats(0, 5e9))
def test_timestamp_is_rounded_to_milliseconds(seconds: float) -> None:
    text = values.timestamp(seconds)
    assert text is not None
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    assert read.tzinfo == timezone.utc
    assert abs(read.timestamp() - seconds) <= 0.00051


FIELDS = [
    *("id", "command", "status", "reason", "progress", "exit_code", "signal", "queue", "priority", "owner"),
    *("label", "key", "attempts", "retries", "timeout", "submitted_at", "started_at", "completed_at"),
    *("not_before", "held", "cwd", "pid", "detail"),
    *("stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped"),
    *("cpu_user", "cpu_system", "memory_peak"),
]
"""A job's fields in docs/protocol.md §4 that are always there."""


def _described(job: Job, progress: int = 0, reason: Reason | None = None) -> dict[str, Any]:
    line = replies.as_json("JOB", documents.describe(job, progress, reason or job.reason))
    described: dict[str, Any] = msgspec.json.decode(line.removeprefix(b"JOB "))
    assert set(described) >= set(FIELDS)
    return described


def _ended(**known: Any) -> Attempt:
    return Attempt(number=2, started_at=1764000001.0, pid=4242, ended_at=1764000002.0, **known)


NEW = """{"id": 7, "command": "true", "status": "PENDING", "reason": "queued", "progress": 0, "attempts": 0,
"exit_code": null, "signal": null, "queue": "default", "priority": 0, "owner": "ann", "label": null,
"key": null, "retries": 0, "timeout": null, "submitted_at": "2025-11-24T16:00:00.000Z", "started_at": null,
"completed_at": null, "not_before": null, "held": false, "cwd": null, "pid": null, "detail": null,
"stdout_bytes": 0, "stderr_bytes": 0, "stdout_dropped": 0, "stderr_dropped": 0, "cpu_user": null,
"cpu_system": null, "memory_peak": null}"""
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
MORE_OPTIONS = """{"queue": "gpu", "priority": -3, "slots": 2, "need": {"gpu": 1}, "idle_timeout": 9.0,
"retry_delay_max": 60.0, "retry_on": ["exit:75", "timeout"], "no_retry_on": ["spawn"], "delay": 5.0,
"at": "2025-11-24T16:00:05.500Z", "after": [1, 2], "after_any": [3], "after_fail": [4], "hold": true,
"memory": 1048576, "cpu_time": 1.0, "nofile": 64, "notify_fail": true, "held": true, "not_before": null,
"secrets": ["A", "B"], "tz": "Asia/Tokyo"}"""

SIZES: dict[str, Any] = {"stdout_bytes": 1, "stderr_bytes": 2, "stdout_dropped": 3, "stderr_dropped": 4}
WITH_OPTIONS = Spec(
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
WITH_MORE_OPTIONS = Spec(
    queue="gpu",
    priority=-3,
    slots=2,
    needs={"gpu": 1},
    idle_timeout=9.0,
    retry_delay_max=60.0,
    retry_on=("exit:75", "timeout"),
    no_retry_on=("spawn",),
    secrets=("A", "B"),
    tz="Asia/Tokyo",
    delay=5.0,
    at=1764000005.5,
    after=(1, 2),
    after_any=(3,),
    after_fail=(4,),
    hold=True,
    memory=1024**2,
    cpu_time=1.0,
    nofile=64,
    notify_fail=True,
)
USED = Usage(1.5, 0.25, 4096)
ARRAY = Spec(array=Array(1, 3, 2))
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
    (_job(command="", spec=Spec(script=5, stdin=6)), '{"command": null, "script": 5, "stdin": 6}'),
    (_job(command="echo\n\0é", spec=WITH_OPTIONS), OPTIONS),
    (_job(spec=Spec(cwd_base64=b"/\xff\xc3\xa9")), r'{"cwd": "/\\xffé"}'),
    (_job(spec=WITH_MORE_OPTIONS, is_held=True), MORE_OPTIONS),
    (
        _job(spec=ARRAY, tasks=Tasks(first=8, count=3, counts={Status.PENDING: 2, Status.FAILED: 1})),
        """{"tasks": {"first": 8, "count": 3, "pending": 2, "running": 0, "completed": 0, "failed": 1,
        "cancelled": 0}, "array_spec": "1-3%2", "array": null, "index": null}""",
    ),
    (
        _job(spec=ARRAY, array=6, index=1),
        '{"array": 6, "index": 1, "tasks": null, "array_spec": null}',
    ),
    (_job(schedule=4), '{"schedule": 4}'),
    (
        _job(attempt=_ended(usage=USED), **FAILED),
        '{"cpu_user": 1.5, "cpu_system": 0.25, "memory_peak": 4096}',
    ),
    (
        _job(attempt=_ended(usage=Usage(0.0006259999999999999, 0.0, 0)), **FAILED),
        '{"cpu_user": 0.000626, "cpu_system": 0.0, "memory_peak": null}',
    ),
    (
        _job(attempt=Attempt(number=2, started_at=1.0), past=(_ended(usage=USED),), status=Status.RUNNING),
        '{"cpu_user": 1.5, "cpu_system": 0.25, "memory_peak": 4096}',
    ),
    (
        _job(attempt=Attempt(number=1, started_at=1.0), status=Status.RUNNING),
        '{"cpu_user": null, "cpu_system": null, "memory_peak": null}',
    ),
]


@pytest.mark.parametrize("job, fields", DESCRIBED)
def test_describe_has_the_fields_of_the_protocol(job: Job, fields: str) -> None:
    described = _described(job)
    expected: dict[str, Any] = msgspec.json.decode(fields)
    assert {name: described.get(name) for name in expected} == expected


def test_describe_omits_options_with_default_values() -> None:
    assert set(_described(_job())) == set(FIELDS)


def test_describe_keeps_the_order_of_the_options() -> None:
    spec = replace(WITH_MORE_OPTIONS, nice=1, script=2, stdin=3, umask=0o77, env={"A": "b"})
    names = list(_described(_job(spec=spec)))[len(FIELDS) :]
    assert names == [
        *(
            "slots",
            "idle_timeout",
            "retry_delay_max",
            "retry_on",
            "no_retry_on",
            "delay",
            "after",
            "after_any",
        ),
        *("after_fail", "hold", "nice", "memory", "cpu_time", "nofile", "notify_fail", "script", "stdin"),
        *("secrets", "tz", "need", "at", "umask", "env"),
    ]


def test_describe_has_the_given_progress_and_reason() -> None:
    described = _described(_job(status=Status.RUNNING), 42, Reason.DELAYED)
    assert (described["progress"], described["reason"]) == (42, "delayed")


def test_array_spec_without_limit_has_no_percent_sign() -> None:
    tasks = Tasks(first=8, count=3, counts={})
    job = _job(command="true", spec=Spec(array=Array(0, 2)), tasks=tasks)
    assert _described(job)["array_spec"] == "0-2"


# Attempts.


def test_describe_attempts_lists_oldest_first() -> None:
    first = Attempt(
        number=1,
        started_at=1764000000.0,
        ended_at=1764000000.5,
        reason=Reason.EXIT,
        exit_code=3,
        usage=USED,
        **SIZES,
    )
    killed = _ended(reason=Reason.TIMEOUT, signal=15, detail="too slow")
    now = Attempt(number=3, started_at=1764000003.0)
    runs = documents.describe_attempts(_job(past=(first, killed), attempt=now, status=Status.RUNNING))
    nothing = dict.fromkeys(SIZES, 0)
    unknown = {"cpu_user": None, "cpu_system": None, "memory_peak": None}
    assert runs == [
        {
            "attempt": 1,
            "started_at": "2025-11-24T16:00:00.000Z",
            "ended_at": "2025-11-24T16:00:00.500Z",
            "reason": "exit",
            "exit_code": 3,
            "signal": None,
            "detail": None,
            **SIZES,
            "cpu_user": 1.5,
            "cpu_system": 0.25,
            "memory_peak": 4096,
        },
        {
            "attempt": 2,
            "started_at": "2025-11-24T16:00:01.000Z",
            "ended_at": "2025-11-24T16:00:02.000Z",
            "reason": "timeout",
            "exit_code": -15,
            "signal": "TERM",
            "detail": "too slow",
            **nothing,
            **unknown,
        },
        {
            "attempt": 3,
            "started_at": "2025-11-24T16:00:03.000Z",
            **dict.fromkeys(("ended_at", "reason", "exit_code", "signal", "detail")),
            **nothing,
            **unknown,
        },
    ]


def test_describe_attempts_of_a_job_that_has_not_started_is_empty() -> None:
    assert documents.describe_attempts(_job()) == []


# Schedules.


def _scheduled(**known: Any) -> dict[str, Any]:
    return documents.describe_schedule(
        Schedule(
            **{
                "id": 3,
                "owner": "ann",
                "command": "true",
                "spec": Spec(),
                "created_at": 1764000000.0,
                "next_run_base": 1764000000.0,
                **known,
            }
        ),
        1764000060.0,
    )


def test_describe_schedule_has_times_and_last_job() -> None:
    assert _scheduled(every=60.0) == {
        "schedule": 3,
        "every": 60.0,
        "cron": None,
        "overlap": False,
        "paused": False,
        "owner": "ann",
        "created_at": "2025-11-24T16:00:00.000Z",
        "next_run_at": "2025-11-24T16:01:00.000Z",
        "last_run_at": None,
        "last_job": None,
        "command": "true",
        "queue": "default",
        "priority": 0,
    }


def test_describe_schedule_has_the_options_that_were_given() -> None:
    spec = Spec(label="l", retries=2, timeout=5.0, cwd="/x", slots=2, array=Array(1, 9), umask=0)
    document = _scheduled(
        spec=spec, cron="* * * * *", overlap=True, is_paused=True, last_run_at=1764000001.0, last_job=9
    )
    expected = {
        "label": "l",
        "retries": 2,
        "timeout": 5.0,
        "cwd": "/x",
        "slots": 2,
        "array_spec": "1-9",
        "umask": "000",
    }
    expected |= {"cron": "* * * * *", "overlap": True, "paused": True, "last_job": 9}
    assert {name: document.get(name) for name in expected} == expected
    assert document["last_run_at"] == "2025-11-24T16:00:01.000Z"


# Events.


SPEC = Spec(at=1764000005.0)
T = 1764000000.0
EVENTS: list[tuple[Event, str]] = [
    (
        Submitted(id=7, at=T, owner="ann", command="true", spec=SPEC, schedule=3),
        '{"type":"submitted","owner":"ann","spec":{"command":"true","at":"2025-11-24T16:00:05.000Z"},"schedule":3}',
    ),
    (Started(id=7, at=T, attempt=1), '{"type":"started","attempt":1}'),
    (Spawned(id=7, at=T, pid=9), '{"type":"spawned","pid":9}'),
    (Cancelled(id=7, at=T, by="ann", signal=15), '{"type":"cancelled","by":"ann","signal":15}'),
    (Skipped(id=7, at=T, dependency=5), '{"type":"skipped","because":5}'),
    (Held(id=7, at=T, by="ann"), '{"type":"held","by":"ann"}'),
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
            usage=USED,
            stdout=Output.inline(b"secret"),
            stderr=Output(5000, 3),
        ),
        """{"type":"ended","status":"PENDING","reason":"exit","exit_code":1,
        "retry_at":"2025-11-24T16:00:01.000Z","usage":{"user":1.5,"system":0.25,"memory":4096},
        "stdout":{"size":6},"stderr":{"size":5000,"dropped":3}}""",
    ),
    (Resized(at=T, by="ann", queue="q", slots=0), '{"type":"resized","by":"ann","queue":"q","slots":0}'),
    (Paused(at=T, by="ann"), '{"type":"paused","by":"ann"}'),
    (Resumed(at=T, by="ann", schedule=3), '{"type":"resumed","by":"ann","schedule":3}'),
    (
        Scheduled(at=T, by="ann", schedule=3, command="true", every=60.0),
        '{"type":"scheduled","by":"ann","schedule":3,"spec":{"command":"true"},"every":60.0}',
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
