"""The requests of all verbs but SUBMIT and SCHEDULE: valid lines and errors (docs/protocol.md §3)."""

import signal
from typing import Any

import pytest

from taskqd.model.job import Status
from taskqd.model.job_filter import JobFilter, ListOrder
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol.act_requests import CancelRequest, RetryRequest, SetRequest
from taskqd.protocol.output_requests import MAX_OUTPUT_LIMIT, FollowRequest, LogRequest, OutputRequest
from taskqd.protocol.parser import parse_line
from taskqd.protocol.requests import (
    AuthRequest,
    DrainRequest,
    EmptyRequest,
    JobRequest,
    ListRequest,
    PauseRequest,
    SchedulesRequest,
    SetQueueRequest,
    SetSlotsRequest,
    ShutdownRequest,
    UnscheduleRequest,
    WaitRequest,
    WatchRequest,
)
from taskqd.protocol.verbs import VERBS

WITH_ID = ["STATUS", "RESULT", "SHOW", "RETRY", "REMOVE", "HISTORY", "HOLD", "RELEASE", "WHY"]
ALONE = ["STATS", "HELLO", "PING", "QUIT", "QUEUES"]

MOST = 999_999_999_999_999_999
NO_WAIT = {"delay": None, "at": None}

READ = [
    *((f"{verb} 5", JobRequest(job=5)) for verb in WITH_ID if verb != "RETRY"),
    *((f"{verb} 5.17", JobRequest(job=TaskId(5, 17))) for verb in WITH_ID if verb != "RETRY"),
    ("RETRY 5", RetryRequest(job=5)),
    ("RETRY 5.17", RetryRequest(job=TaskId(5, 17))),
    ("RETRY 5 --cascade", RetryRequest(job=5, is_cascade=True)),
    ("RETRY --cascade 5.17", RetryRequest(job=TaskId(5, 17), is_cascade=True)),
    ("STATUS 0005", JobRequest(job=5)),
    ("STATUS " + "0" * 6000 + "5", JobRequest(job=5)),
    ("STATUS   5  ", JobRequest(job=5)),
    ("STATUS -- 5", JobRequest(job=5)),
    ("STATUS 5 --", JobRequest(job=5)),
    (f"STATUS {MOST}", JobRequest(job=MOST)),
    *((verb.lower(), EmptyRequest()) for verb in ALONE),
    ("PING  --  ", EmptyRequest()),
    ("DRAIN", DrainRequest()),
    ("drain --off", DrainRequest(is_off=True)),
    ("SHUTDOWN", ShutdownRequest()),
    ("shutdown --wait --end", ShutdownRequest(ends_jobs=True, is_waiting=True)),
    ("AUTH s3cret/+=", AuthRequest(token="s3cret/+=")),
    ("AUTH  --s3cret_=\t ", AuthRequest(token="--s3cret_=")),
    ('AUTH "', AuthRequest(token='"')),
    ("WAIT 5", WaitRequest(refs=(5,))),
    ("WAIT 5 --timeout=1.5", WaitRequest(refs=(5,), timeout=1.5)),
    ("WAIT --timeout=0 5", WaitRequest(refs=(5,), timeout=0.0)),
    ("WAIT 5 --any", WaitRequest(refs=(5,), is_any=True)),
    (
        "WAIT 5 --any 6.2 --timeout=1m 7 5",
        WaitRequest(refs=(5, TaskId(6, 2), 7, 5), is_any=True, timeout=60.0),
    ),
    ("WAIT" + " 7" * 1000, WaitRequest(refs=(7,) * 1000)),
    ("LOG 5", LogRequest(job=5)),
    (
        "LOG 5.2 --attempt=3 --since=9 --limit=1k",
        LogRequest(job=TaskId(5, 2), attempt=3, since=9, limit=1024),
    ),
    (
        "LOG 5 --limit=1G --tail-lines=0",
        LogRequest(job=5, limit=MAX_OUTPUT_LIMIT, tail_lines=0),
    ),
    ("LOG --stream=STDERR 5 --stdout=1 --stderr=2", LogRequest(job=5, stream="stderr", stdout=1, stderr=2)),
    ("LOG 5 --follow --tail-lines=3", LogRequest(job=5, is_followed=True, tail_lines=3)),
    ("FOLLOW 5", FollowRequest(job=5)),
    ("FOLLOW 5.1 --stdout=7", FollowRequest(job=TaskId(5, 1), stdout=7)),
    (f"FOLLOW --stderr={MOST} --stdout=0 5", FollowRequest(job=5, stderr=MOST)),
    ("WATCH", WatchRequest()),
    ("WATCH --since=0", WatchRequest(since=0)),
    ("WATCH --queue=gpu --job=5.3 --since=120", WatchRequest(since=120, job=TaskId(5, 3), queue="gpu")),
    ("CANCEL 5", CancelRequest(job=5)),
    ("CANCEL 5.1 --signal=INT", CancelRequest(job=TaskId(5, 1), signal=signal.SIGINT)),
    ("CANCEL --signal=sigkill 5", CancelRequest(job=5, signal=signal.SIGKILL)),
    ("CANCEL 5 --cascade", CancelRequest(job=5, is_cascade=True)),
    ("LIST", ListRequest()),
    (
        "LIST --status=failed,CANCELLED --queue=q --owner=ann --label=x --key=k --from=7 --limit=9 --reverse",
        ListRequest(
            wanted=JobFilter(
                statuses=frozenset({Status.FAILED, Status.CANCELLED}),
                queue="q",
                owner="ann",
                label="x",
                key="k",
            ),
            first=7,
            limit=9,
            is_reverse=True,
        ),
    ),
    (
        "LIST --status=PENDING,RUNNING,COMPLETED,FAILED,CANCELLED",
        ListRequest(wanted=JobFilter(statuses=frozenset(Status))),
    ),
    ('LIST --label="a b" --limit=0', ListRequest(wanted=JobFilter(label="a b"), limit=0)),
    ('LIST --match="Stra\\xC3\\x9Fe A"', ListRequest(wanted=JobFilter(match="strasse a"))),
    (f"LIST --from={MOST}", ListRequest(first=MOST)),
    ("LIST --tasks", ListRequest(has_tasks=True)),
    ("LIST --order=id --reverse", ListRequest(is_reverse=True)),
    ("LIST --count --queue=q", ListRequest(wanted=JobFilter(queue="q"), is_count=True)),
    ("LIST --order=start --limit=1000", ListRequest(order=ListOrder.START, limit=1000)),
    (
        "LIST --status=PENDING --queue=q --order=start",
        ListRequest(wanted=JobFilter(statuses=frozenset({Status.PENDING}), queue="q"), order=ListOrder.START),
    ),
    (
        "LIST --order=ended --status=FAILED",
        ListRequest(wanted=JobFilter(statuses=frozenset({Status.FAILED})), order=ListOrder.ENDED),
    ),
    ("LIST --array=7", ListRequest(array=7)),
    ("OUTPUT 5 stdout", OutputRequest(job=5, stream="stdout")),
    ("OUTPUT 5 Script --limit=2", OutputRequest(job=5, stream="script", limit=2)),
    ("OUTPUT 5.2 STDERR", OutputRequest(job=TaskId(5, 2), stream="stderr")),
    ("OUTPUT --offset=3 5 stderr --limit=2k", OutputRequest(job=5, stream="stderr", offset=3, limit=2048)),
    (f"OUTPUT 5 stdout --offset={MOST}", OutputRequest(job=5, stream="stdout", offset=MOST)),
    (
        "OUTPUT 5 stdout --limit=1G",
        OutputRequest(job=5, stream="stdout", limit=MAX_OUTPUT_LIMIT),
    ),
    ("OUTPUT 5 stdout --tail=10", OutputRequest(job=5, stream="stdout", limit=10, tail=10)),
    ("OUTPUT 5 stdout --tail=1G", OutputRequest(job=5, stream="stdout", limit=16 * 1024**2, tail=1024**3)),
    ("OUTPUT 5 stdout --tail=10 --limit=4", OutputRequest(job=5, stream="stdout", limit=4, tail=10)),
    ("OUTPUT 5 stdout --attempt=2", OutputRequest(job=5, stream="stdout", attempt=2)),
    ("SET 5 --priority=-7", SetRequest(job=5, values={"priority": -7})),
    (
        "SET --queue=q 5 --slots=2 --need=gpu:1 --retries=3 --kill-after=0",
        SetRequest(
            job=5, values={"queue": "q", "slots": 2, "needs": {"gpu": 1}, "retries": 3, "kill_after": 0.0}
        ),
    ),
    (
        "SET 5 --timeout=1m --idle-timeout=2m --retry-delay=1 --retry-delay-max=2 --retry-on=exit:75",
        SetRequest(
            job=5,
            values={
                "timeout": 60.0,
                "idle_timeout": 120.0,
                "retry_delay": 1.0,
                "retry_delay_max": 2.0,
                "retry_on": ("exit:75",),
            },
        ),
    ),
    (
        "SET 5 --no-retry-on=timeout --nice=5 --memory=1G --memory-max=2G --cpu-time=1h --nofile=64",
        SetRequest(
            job=5,
            values={
                "no_retry_on": ("timeout",),
                "nice": 5,
                "memory": 1024**3,
                "memory_max": 2 * 1024**3,
                "cpu_time": 3600.0,
                "nofile": 64,
            },
        ),
    ),
    ("SET 5 --max-output=1k", SetRequest(job=5, values={"max_output": 1024})),
    ("SET 5 --idle-timeout=none", SetRequest(job=5, values={"idle_timeout": None})),
    ("SET 5 --delay=10s", SetRequest(job=5, values={"delay": 10.0, "at": None})),
    ("SET 5 --at=1970-01-01T00:00:10Z", SetRequest(job=5, values={"delay": None, "at": 10.0})),
    (
        "SET 5 --at=1970-01-01T09:00:10 --tz=Asia/Tokyo",
        SetRequest(job=5, values={"delay": None, "at": 10.0, "tz": "Asia/Tokyo"}),
    ),
    ("SET 5 --tz=Asia/Tokyo", SetRequest(job=5, values={"tz": "Asia/Tokyo"})),
    ("SET 5 --tz=none --at=none", SetRequest(job=5, values={**NO_WAIT, "tz": None})),
    ("SET 5 --delay=none", SetRequest(job=5, values=NO_WAIT)),
    ("SET 5 --at=none", SetRequest(job=5, values=NO_WAIT)),
    ("SET 5 --at=none --delay=none", SetRequest(job=5, values=NO_WAIT)),
    ("SET 5 --at=none --delay=3", SetRequest(job=5, values={"delay": 3.0, "at": None})),
    (
        "SET 5 --timeout=none --memory=none --memory-max=none --cpu-time=none --nofile=none --nice=none",
        SetRequest(
            job=5,
            values=dict.fromkeys(("timeout", "memory", "memory_max", "cpu_time", "nofile", "nice"), None),
        ),
    ),
    (
        "SET 5 --need=none --retry-on=none --no-retry-on=none",
        SetRequest(job=5, values={"needs": {}, "retry_on": (), "no_retry_on": ()}),
    ),
    ('SET 5 --label=""', SetRequest(job=5, values={"label": None})),
    ("SET 5 --label=none", SetRequest(job=5, values={"label": "none"})),
    ("SET 5 --queue=none", SetRequest(job=5, values={"queue": "none"})),
    ("SET-QUEUE gpu --slots=4", SetQueueRequest(queue="gpu", values={"slots": 4})),
    ("SET-QUEUE --slots=10000 gpu", SetQueueRequest(queue="gpu", values={"slots": 10_000})),
    ("SET-QUEUE gpu --slots=none", SetQueueRequest(queue="gpu", values={"slots": 0})),
    ("SET-QUEUE gpu --fair=true", SetQueueRequest(queue="gpu", values={"fair": True})),
    ("SET-QUEUE gpu --fair=false", SetQueueRequest(queue="gpu", values={"fair": False})),
    (
        "SET-QUEUE gpu --fair=default --rate=default",
        SetQueueRequest(queue="gpu", values={"fair": None, "rate": None}),
    ),
    ("SET-QUEUE gpu --rate=10/m", SetQueueRequest(queue="gpu", values={"rate": "10/m"})),
    (
        "SET-QUEUE gpu --rate=none --slots=2",
        SetQueueRequest(queue="gpu", values={"rate": "none", "slots": 2}),
    ),
    ("SET-SLOTS 4", SetSlotsRequest(slots=4)),
    ("SET-SLOTS default", SetSlotsRequest(slots=None)),
    ("SET-QUEUE gpu --slots=default", SetQueueRequest(queue="gpu", values={"slots": None})),
    ("PAUSE", PauseRequest()),
    ("PAUSE gpu", PauseRequest(queue="gpu")),
    ("RESUME --schedule=03", PauseRequest(schedule=3)),
    ("SCHEDULES", SchedulesRequest()),
    ("SCHEDULES 3", SchedulesRequest(schedule=3)),
    ("UNSCHEDULE 3", UnscheduleRequest(schedule=3)),
]
"""Lines, and the requests that they are parsed to."""

REFUSED = [
    *((f"{verb} x", "BAD_REQUEST", "expected a job's id") for verb in WITH_ID),
    *(
        (f"{verb}{rest}", "BAD_REQUEST", f"expected {verb} <id>")
        for verb in WITH_ID
        for rest in ("", " ", " 5 6")
    ),
    *((f"{verb} x", "BAD_REQUEST", f"expected {verb}") for verb in ALONE),
    *((f"{verb} --x", "BAD_REQUEST", f"--x is not an option of {verb}") for verb in ALONE),
    ("STATUS 1000000000000000000", "NO_SUCH_JOB", "there is no job 1000000000000000000"),
    ("STATUS " + "9" * 60000, "NO_SUCH_JOB", "there is no job 999"),
    ("STATUS 5 --x=1", "BAD_REQUEST", "--x is not an option of STATUS, which takes none"),
    ("STATUS --X 5", "BAD_REQUEST", "expected an option such as"),
    ("PING " + "a " * 32000, "BAD_REQUEST", "expected PING"),
    ("AUTH", "BAD_REQUEST", "expected AUTH <token>"),
    ("AUTH a b", "BAD_REQUEST", "expected AUTH <token>"),
    ("AUTH -- a", "BAD_REQUEST", "expected AUTH <token>"),
    ("WAIT", "BAD_REQUEST", "expected WAIT <id>"),
    ("WAIT --any", "BAD_REQUEST", "expected WAIT <id>"),
    ("WAIT x", "BAD_REQUEST", "expected a job's id"),
    ("WAIT 5 6 x", "BAD_REQUEST", "expected a job's id"),
    ("WAIT" + " 7" * 32000, "BAD_REQUEST", "for at most 1000 jobs"),
    ("WAIT 5,6", "BAD_REQUEST", "expected a job's id"),
    ("WAIT" + " 7" * 1001, "BAD_REQUEST", "for at most 1000 jobs"),
    ("WAIT 5 --any=yes", "BAD_REQUEST", "--any: takes no value"),
    ("WAIT 5 --timeout=soon", "BAD_REQUEST", "--timeout: expected a duration"),
    ("WAIT 5 --timeout", "BAD_REQUEST", "--timeout needs a value"),
    ("LOG", "BAD_REQUEST", "expected LOG <id>"),
    ("LOG 5 stdout", "BAD_REQUEST", "expected LOG <id>"),
    ("LOG 5 --stream=stdin", "BAD_REQUEST", "expected stdout or stderr, not 'stdin'"),
    ("LOG 5 --since=1 --stderr=0", "BAD_REQUEST", "exclude each other"),
    ("LOG 5 --tail-lines=1 --since=0", "BAD_REQUEST", "exclude each other"),
    ("LOG 5 --follow --attempt=1", "BAD_REQUEST", "without --attempt"),
    ("LOG 5 --follow --limit=1", "BAD_REQUEST", "without --limit"),
    ("FOLLOW", "BAD_REQUEST", "expected FOLLOW <id>"),
    ("FOLLOW 5 stdout", "BAD_REQUEST", "expected FOLLOW <id>"),
    ("FOLLOW 5 --stdout=-1", "BAD_REQUEST", "--stdout: expected a whole number from 0"),
    ("FOLLOW 5 --stderr=1k", "BAD_REQUEST", "--stderr: expected a whole number from 0"),
    ("WATCH 5", "BAD_REQUEST", "expected WATCH"),
    ("WATCH --since=-1", "BAD_REQUEST", "--since: expected a whole number from 0"),
    ("WATCH --job=all", "BAD_REQUEST", "--job: expected a job's id"),
    ("WATCH --queue=", "BAD_REQUEST", "--queue: expected a name"),
    ("CANCEL 5 --signal=9", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 --signal=", "BAD_REQUEST", "--signal: expected the name of a signal"),
    ("CANCEL 5 6", "BAD_REQUEST", "expected CANCEL <id>"),
    ("CANCEL", "BAD_REQUEST", "expected CANCEL <id>"),
    ("CANCEL 5 --cascade=1", "BAD_REQUEST", "--cascade: takes no value"),
    ("LIST 5", "BAD_REQUEST", "expected LIST"),
    ("LIST --status=", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ("LIST --status=FAILED,", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ("LIST --status=DONE", "BAD_REQUEST", "--status: expected some of PENDING,RUNNING"),
    ('LIST --queue="a b"', "BAD_REQUEST", "--queue: expected a name"),
    ("LIST --key=", "BAD_REQUEST", "--key: expected a name"),
    ("LIST --match=", "BAD_REQUEST", "--match: expected some text"),
    ("LIST --array=5.1", "BAD_REQUEST", "--array: expected a job's id"),
    ("LIST --tasks=5", "BAD_REQUEST", "--tasks: takes no value"),
    ("LIST --order=age", "BAD_REQUEST", "--order: expected one of id start ended, not 'age'"),
    ("LIST --order=start --from=1", "BAD_REQUEST", "--order and --from cannot be given together"),
    ("LIST --order=ended --match=x", "BAD_REQUEST", "--order and --match cannot be given together"),
    ("LIST --order=ended --limit=1001", "BAD_REQUEST", "--limit is up to 1000 with --order, not 1001"),
    (
        "LIST --order=ended --status=PENDING,FAILED",
        "BAD_REQUEST",
        "--order=ended is only for --status=C",
    ),
    ("LIST --order=start --count", "BAD_REQUEST", "--order and --count cannot be given together"),
    ("LIST --limit=5 --count", "BAD_REQUEST", "--count and --limit cannot be given together"),
    ("LIST --order=start --status=RUNNING", "BAD_REQUEST", "--order=start is only for --status=PENDING;"),
    ("LIST --from=0", "BAD_REQUEST", "--from: expected a whole number from 1"),
    ("LIST --limit=-1", "BAD_REQUEST", "--limit: expected a whole number from 0 to 100000"),
    ("LIST --limit=100001", "BAD_REQUEST", "--limit: expected a whole number from 0 to 100000"),
    ("LIST --reverse=yes", "BAD_REQUEST", "--reverse: takes no value"),
    ("OUTPUT 5", "BAD_REQUEST", "expected OUTPUT <id> stdout|stderr"),
    ("OUTPUT 5 stdout x", "BAD_REQUEST", "expected OUTPUT <id> stdout|stderr"),
    ("OUTPUT 5 stdin", "BAD_REQUEST", "expected stdout, stderr or script, not 'stdin'"),
    ("OUTPUT 5 script --attempt=1", "BAD_REQUEST", "--attempt is for stdout and stderr"),
    ("OUTPUT x stdout", "BAD_REQUEST", "expected a job's id"),
    ("OUTPUT 5 stdout --attempt=0", "BAD_REQUEST", "--attempt: expected a whole number from 1"),
    ("OUTPUT 5 stdout --offset=-1", "BAD_REQUEST", "--offset: expected a whole number from 0"),
    ("OUTPUT 5 stdout --offset=1k", "BAD_REQUEST", "--offset: expected a whole number from 0"),
    ("OUTPUT 5 stdout --limit=x", "BAD_REQUEST", "--limit: expected a size"),
    ("OUTPUT 5 stdout --offset=1 --tail=1", "BAD_REQUEST", "give one of them"),
    ("SET", "BAD_REQUEST", "expected SET <id>|<filters> --<option>=<value>"),
    ("SET 5 6 --nice=1", "BAD_REQUEST", "expected SET <id>|<filters> --<option>=<value>"),
    ("SET 5", "BAD_REQUEST", "expected at least one option to change"),
    ("SET x --nice=1", "BAD_REQUEST", "expected a job's id"),
    ("SET 5 --priority=none", "BAD_REQUEST", "--priority: expected a whole number"),
    ("SET 5 --retries=none", "BAD_REQUEST", "--retries: expected a whole number"),
    ("SET 5 --timeout=never", "BAD_REQUEST", "--timeout: expected a duration"),
    ("SET 5 --delay=1 --at=1970-01-01T00:00:10Z", "BAD_REQUEST", "give one of them"),
    ("SET 5 --at=1970-01-01T09:00:10", "BAD_REQUEST", "add --tz with its time zone"),
    ("SET 5 --at=1970-01-01T09:00:10 --tz=none", "BAD_REQUEST", "add --tz with its time zone"),
    ("SET 5 --tz=Mars/Olympus", "BAD_REQUEST", "--tz: expected a time zone that this machine knows"),
    ("SET 5 --key=k", "BAD_REQUEST", "--key is not an option of SET; HELP SET lists those that it takes"),
    ("SET 5 --notify-fail", "BAD_REQUEST", "--notify-fail is not an option of SET"),
    ("SET 5 --label", "BAD_REQUEST", "--label needs a value"),
    ("SET 5 --nice=1 --nice=2", "BAD_REQUEST", "--nice is given twice"),
    ("SET-QUEUE", "BAD_REQUEST", "expected SET-QUEUE <queue> [--slots="),
    ("SET-QUEUE gpu", "BAD_REQUEST", "expected SET-QUEUE <queue> [--slots="),
    ("SET-QUEUE --slots=1", "BAD_REQUEST", "expected SET-QUEUE <queue> [--slots="),
    ("SET-QUEUE a,b --slots=1", "BAD_REQUEST", "expected a name"),
    ("SET-QUEUE gpu --fair=yes", "BAD_REQUEST", "--fair: expected true, false or default"),
    ("SET-QUEUE gpu --rate=10", "BAD_REQUEST", "--rate: expected a rate of 1 to 10000 starts"),
    ("SET-QUEUE gpu --slots=0", "BAD_REQUEST", "--slots: expected a whole number from 1 to 10000, none"),
    ("SET-SLOTS", "BAD_REQUEST", "expected SET-SLOTS <n>|default"),
    ("SET-SLOTS 0", "BAD_REQUEST", "expected a whole number from 1 to 10000 or default"),
    ("SET-QUEUE gpu --slots=all", "BAD_REQUEST", "--slots: expected a whole number from 1 to 10000, none"),
    ("PAUSE a b", "BAD_REQUEST", "expected PAUSE [<queue>] [--schedule=N]"),
    ("PAUSE a,b", "BAD_REQUEST", "expected a name"),
    ("PAUSE gpu --schedule=1", "BAD_REQUEST", "give one of them"),
    ("RESUME --schedule=gpu", "BAD_REQUEST", "--schedule: expected a schedule's number"),
    ("RESUME --schedule=0", "BAD_REQUEST", "--schedule: expected a whole number from 1"),
    ("SCHEDULES 1 2", "BAD_REQUEST", "expected SCHEDULES [<n>]"),
    ("SCHEDULES nightly", "BAD_REQUEST", "expected a schedule's number"),
    ("UNSCHEDULE", "BAD_REQUEST", "expected UNSCHEDULE <n>"),
    ("UNSCHEDULE nightly", "BAD_REQUEST", "expected a schedule's number"),
    ("UNSCHEDULE \u0665", "BAD_REQUEST", "expected a schedule's number"),
]


@pytest.mark.parametrize("line, argument", READ)
def test_parse_line_returns_the_request(line: str, argument: Any) -> None:
    request = parse_line(line.encode())
    assert (request.argument, request.error) == (argument, None)
    assert type(request.argument) is type(argument)


@pytest.mark.parametrize("line, code, part", REFUSED)
def test_parse_line_refuses_invalid_line_with_its_code(line: str, code: str, part: str) -> None:
    request = parse_line(line.encode())
    assert request.error is not None
    assert (request.error.code, request.argument) == (code, None)
    assert part in str(request.error)
    assert len(str(request.error)) < 400


def test_wait_has_one_line_only_for_one_job_without_any() -> None:
    lines = ["WAIT 5", "WAIT 5 --timeout=1", "WAIT 5 --any", "WAIT 5 6", "WAIT 5 5"]
    assert [parse_line(line.encode()).argument.has_one_line for line in lines] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_set_options_have_the_syntax_of_their_values() -> None:
    assert VERBS["SET"].options["timeout"].usage == "<duration>|none"
    assert VERBS["SET"].options["priority"].usage == "<int>"


@pytest.mark.parametrize("verb", WITH_ID)
def test_parse_line_refuses_too_many_words_before_later_errors(verb: str) -> None:
    request = parse_line(f"{verb} 1 2 3 --Bad".encode())
    assert str(request.error) == f"expected {VERBS[verb].usage}"


@pytest.mark.parametrize(
    "line, jobs",
    [
        *((f"{verb} 5.1", (TaskId(5, 1),)) for verb in (*WITH_ID, "LOG", "FOLLOW", "CANCEL")),
        *((verb, ()) for verb in (*ALONE, "AUTH x", "HELP", "LIST", "WATCH", "PAUSE", "UNSCHEDULE 3")),
        ("OUTPUT 5 stdout", (5,)),
        ("SET 5 --nice=1", (5,)),
        ("WAIT 5 6.2", (5, TaskId(6, 2))),
        ("LIST --array=7", (7,)),
        ("WATCH --job=7", (7,)),
    ],
)
def test_request_names_the_jobs_that_authorization_checks(line: str, jobs: tuple[JobRef, ...]) -> None:
    assert parse_line(line.encode()).argument.jobs == jobs


def test_repr_of_auth_does_not_contain_the_token() -> None:
    assert "sesame" not in repr(parse_line(b"AUTH sesame"))
