"""JSON documents of jobs, attempts and schedules (docs/protocol.md §4)."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from taskqd.model.events import Submitted
from taskqd.model.job import Attempt, Job, Reason, Status, Usage
from taskqd.model.schedule import Schedule
from taskqd.model.spec import Array, NamedDependencies, Spec
from taskqd.protocol import documents, replies
from taskqd.protocol.documents import describe_event
from tests.support.tasks import some_tasks
from tests.unit.protocol.samples import USED, a_job

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
"memory": 1048576, "memory_max": 2097152, "cpu_time": 1.0, "nofile": 64, "notify_fail": true,
"held": true, "not_before": null, "secrets": ["A", "B"], "tz": "Asia/Tokyo"}"""

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
    memory_max=2 * 1024**2,
    cpu_time=1.0,
    nofile=64,
    notify_fail=True,
)

ARRAY = Spec(array=Array(1, 3, 2))

FAILED = {"status": Status.FAILED, "reason": Reason.SIGNAL}

DESCRIBED = [
    (a_job(), NEW),
    (a_job(status=Status.RUNNING, reason=None, attempts=2, attempt=_ended()), RUNNING),
    (a_job(reason=Reason.RETRYING, not_before=1764000009.5, attempt=_ended(signal=9)), RETRYING),
    (
        a_job(
            status=Status.COMPLETED,
            reason=None,
            completed_at=1764000002.0,
            attempt=_ended(exit_code=0, **SIZES),
        ),
        COMPLETED,
    ),
    (a_job(attempt=_ended(signal=9), **FAILED), '{"exit_code": -9, "signal": "KILL", "reason": "signal"}'),
    (a_job(attempt=_ended(signal=40), **FAILED), '{"exit_code": -40, "signal": "40"}'),
    (
        a_job(attempt=_ended(detail="no sh"), **FAILED),
        '{"exit_code": null, "signal": null, "detail": "no sh"}',
    ),
    (a_job(command="", spec=Spec(script=5, stdin=6)), '{"command": null, "script": 5, "stdin": 6}'),
    (
        a_job(command="", spec=Spec(script=5, script_line="make")),
        '{"command": null, "script": 5, "script_line": "make"}',
    ),
    (
        a_job(spec=Spec(after=(3, 4), named=NamedDependencies(after_label="x", given=(1, 0, 0)))),
        '{"after": [3, 4], "after_label": "x"}',
    ),
    (a_job(command="echo\n\0é", spec=WITH_OPTIONS), OPTIONS),
    (a_job(spec=Spec(cwd_base64=b"/\xff\xc3\xa9")), r'{"cwd": "/\\xffé"}'),
    (a_job(spec=WITH_MORE_OPTIONS, is_held=True), MORE_OPTIONS),
    (
        a_job(spec=ARRAY, tasks=some_tasks(8, 3, {Status.PENDING: 2, Status.FAILED: 1})),
        """{"tasks": {"first": 8, "count": 3, "pending": 2, "running": 0, "completed": 0, "failed": 1,
        "cancelled": 0}, "array_spec": "1-3%2", "array": null, "index": null}""",
    ),
    (
        a_job(spec=ARRAY, array=6, index=1),
        '{"array": 6, "index": 1, "tasks": null, "array_spec": null}',
    ),
    (a_job(schedule=4), '{"schedule": 4}'),
    (
        a_job(attempt=_ended(usage=USED), **FAILED),
        '{"cpu_user": 1.5, "cpu_system": 0.25, "memory_peak": 4096}',
    ),
    (
        a_job(attempt=_ended(usage=Usage(0.0006259999999999999, 0.0, 0)), **FAILED),
        '{"cpu_user": 0.000626, "cpu_system": 0.0, "memory_peak": null}',
    ),
    (
        a_job(attempt=Attempt(number=2, started_at=1.0), past=(_ended(usage=USED),), status=Status.RUNNING),
        '{"cpu_user": 1.5, "cpu_system": 0.25, "memory_peak": 4096}',
    ),
    (
        a_job(attempt=Attempt(number=1, started_at=1.0), status=Status.RUNNING),
        '{"cpu_user": null, "cpu_system": null, "memory_peak": null}',
    ),
]


@pytest.mark.parametrize("job, fields", DESCRIBED)
def test_describe_has_the_fields_of_the_protocol(job: Job, fields: str) -> None:
    described = _described(job)
    expected: dict[str, Any] = msgspec.json.decode(fields)
    assert {name: described.get(name) for name in expected} == expected


def test_describe_omits_options_with_default_values() -> None:
    assert set(_described(a_job())) == set(FIELDS)


def test_describe_keeps_the_order_of_the_options() -> None:
    spec = replace(WITH_MORE_OPTIONS, nice=1, script=2, script_line="a", stdin=3, umask=0o77, env={"A": "b"})
    names = list(_described(a_job(spec=spec)))[len(FIELDS) :]
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
        *(
            "after_fail",
            "hold",
            "nice",
            "memory",
            "memory_max",
            "cpu_time",
            "nofile",
            "notify_fail",
            "script",
        ),
        *("stdin", "script_line", "secrets", "tz", "need", "at", "umask", "env"),
    ]


def test_describe_has_the_given_progress_and_reason() -> None:
    described = _described(a_job(status=Status.RUNNING), 42, Reason.DELAYED)
    assert (described["progress"], described["reason"]) == (42, "delayed")


@pytest.mark.parametrize("status, shown", [(Status.RUNNING, "TERM"), (Status.FAILED, None)])
def test_describe_has_the_signal_by_which_a_running_job_is_being_cancelled(
    status: Status, shown: str | None
) -> None:
    described = _described(a_job(status=status, reason=None, attempt=_ended(), cancelling=15))
    assert described.get("cancelling") == shown


def test_array_spec_without_limit_has_no_percent_sign() -> None:
    tasks = some_tasks(8, 3)
    job = a_job(command="true", spec=Spec(array=Array(0, 2)), tasks=tasks)
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
    runs = documents.describe_attempts(a_job(past=(first, killed), attempt=now, status=Status.RUNNING))
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


def test_describe_attempts_names_the_output_files_of_each() -> None:
    first, second = (Attempt(number=number, started_at=1.0, ended_at=2.0) for number in (1, 2))
    spec = Spec(stdout="/%j.%a", stderr="/100%%")
    runs = documents.describe_attempts(a_job(spec=spec, past=(first,), attempt=second))
    files = [{name: run[name] for name in ("stdout_file", "stderr_file")} for run in runs]
    assert files == [{"stdout_file": f"/7.{number}", "stderr_file": "/100%"} for number in (1, 2)]
    [run] = documents.describe_attempts(a_job(spec=Spec(stderr="/err"), attempt=first))
    assert (run.get("stdout_file"), run["stderr_file"]) == (None, "/err")
    [run] = documents.describe_attempts(a_job(spec=Spec(stdout="/out", merge=True), attempt=first))
    assert (run["stdout_file"], run["stderr_file"]) == ("/out", "/out")


def test_units_of_an_attempt_are_shown_by_resource() -> None:
    past = Attempt(number=1, started_at=1.0, units="gpu=0,1 tape=a")
    now = Attempt(number=2, started_at=2.0, units="gpu=2")
    job = a_job(past=(past,), attempt=now, status=Status.RUNNING)
    assert documents.describe(job, 0, None)["units"] == {"gpu": ("2",)}
    assert [run["units"] for run in documents.describe_attempts(job)] == [
        {"gpu": ("0", "1"), "tape": ("a",)},
        {"gpu": ("2",)},
    ]
    assert "units" not in documents.describe(a_job(), 0, None)


def test_describe_attempts_of_a_job_that_has_not_started_is_empty() -> None:
    assert documents.describe_attempts(a_job()) == []


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


def test_event_of_a_submission_has_dependencies_as_they_were_given() -> None:
    named = NamedDependencies(after_key=("a", "b"), after_any_label="x", given=(1, 0, 0))
    event = Submitted(
        id=7, at=1.0, owner="ann", spec=Spec(after=(3, 4, 5), after_any=(6,), script_file=1, named=named)
    )
    assert describe_event(event)["spec"] == {
        "after": (3, 4, 5),
        "after_any": (6,),
        "after_key": ("a", "b"),
        "after_any_label": "x",
    }
