"""The requests that change jobs, for one job or for many (docs/protocol.md §3)."""

import signal
from typing import Any

import pytest

from taskqd.model.job import Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.job_ref import TaskId
from taskqd.protocol.act_requests import (
    CancelManyRequest,
    CancelRequest,
    ManyRequest,
    RetryRequest,
    SetManyRequest,
    SetRequest,
)
from taskqd.protocol.parser import parse_line
from taskqd.protocol.requests import JobRequest
from taskqd.protocol.submit import MAX_BLOCK_SIZE, SET_OPTIONS
from taskqd.protocol.verbs import VERBS

ENDED = frozenset({Status.FAILED, Status.CANCELLED})
OF_Q = JobFilter(queue="q")

READ: list[tuple[str, Any]] = [
    *((f"{verb} 5", JobRequest(job=5)) for verb in ("HOLD", "RELEASE", "SUSPEND", "CONTINUE", "REMOVE")),
    ("HOLD 5.2", JobRequest(job=TaskId(5, 2))),
    ("HOLD -- 5", JobRequest(job=5)),
    *(
        (f"{verb} --queue=q", ManyRequest(wanted=OF_Q))
        for verb in ("HOLD", "RELEASE", "SUSPEND", "CONTINUE", "REMOVE", "RETRY")
    ),
    (
        'RETRY --status=failed,CANCELLED --queue=q --owner=ann --label="a b" --match=Straße',
        ManyRequest(wanted=JobFilter(statuses=ENDED, queue="q", owner="ann", label="a b", match="strasse")),
    ),
    ("RETRY 5 --cascade", RetryRequest(job=5, is_cascade=True)),
    ("CANCEL 5 --signal=INT", CancelRequest(job=5, signal=signal.SIGINT)),
    ("CANCEL --queue=q", CancelManyRequest(wanted=OF_Q)),
    ("CANCEL --queue=q --progress", CancelManyRequest(wanted=OF_Q, has_progress=True)),
    *(
        (f"{verb} --progress --queue=q", ManyRequest(wanted=OF_Q, has_progress=True))
        for verb in ("HOLD", "RELEASE", "REMOVE", "RETRY")
    ),
    (
        "SET --in-queue=q --nice=1 --progress",
        SetManyRequest(wanted=OF_Q, values={"nice": 1}, has_progress=True),
    ),
    ("CANCEL --signal=KILL --owner=", CancelManyRequest(wanted=JobFilter(owner=""), signal=9)),
    ("SET 5 --queue=q --label=x", SetRequest(job=5, values={"queue": "q", "label": "x"})),
    (
        "SET --in-queue=q --queue=fast --with-label=x --label=y --status=pending --owner=ann --match=M",
        SetManyRequest(
            wanted=JobFilter(
                statuses=frozenset({Status.PENDING}), queue="q", owner="ann", label="x", match="m"
            ),
            values={"queue": "fast", "label": "y"},
        ),
    ),
    (
        "SET --in-queue=q --delay=3",
        SetManyRequest(wanted=OF_Q, values={"delay": 3.0, "at": None}),
    ),
    ('SET 1 --command="  make  -j4 "', SetRequest(job=1, values={}, command="make  -j4 ")),
    ("SET --script=5 1", SetRequest(job=1, values={"script": 5})),
    (
        'SET 1 --nice=1 --script=0 --command=""',
        SetRequest(job=1, values={"nice": 1, "script": 0}, command=""),
    ),
]
"""Lines, and the requests that they are parsed to."""

REFUSED = [
    *(
        (verb, f"expected {verb} <id>|<filters>")
        for verb in ("CANCEL", "RETRY", "HOLD", "RELEASE", "SUSPEND", "CONTINUE", "REMOVE")
    ),
    ("HOLD 1 2", "expected HOLD <id>|<filters>"),
    ("HOLD 1 --queue=q", "an id and filters cannot be given together"),
    ("SET 1 --in-queue=q --nice=1", "an id and filters cannot be given together"),
    ("SET --queue=q", "expected SET <id>|<filters>"),
    ("SET --queue=q", "with the filters --status --in-queue --owner --with-label --match"),
    ("SET --in-queue=q", "expected at least one option to change"),
    ("SET --in-queue=q --delay=1 --at=2030-01-01T00:00:00Z", "give one of them"),
    ("HOLD --key=x", "--key is not an option of HOLD, which takes --status --queue --owner --label --match"),
    ("CANCEL --queue=q --cascade", "--cascade is for one job"),
    *(
        (f"{verb} 1 --progress", "--progress is for acts with filters")
        for verb in ("CANCEL", "RETRY", "HOLD")
    ),
    ("SET 1 --nice=1 --progress", "--progress is for acts with filters"),
    ("SET --in-queue=q --command=ls", "--command changes one job and cannot be given with filters"),
    ("SET --in-queue=q --nice=1 --script=5", "--script changes one job and cannot be given with filters"),
    ('SET 1 --command=" "', "expected a command, not an empty one"),
    ('SET 1 --command="a\\nb"', "expected a command without line breaks; send it as a --script"),
    ('SET 1 --command="a\\rb"', "expected a command without line breaks; send it as a --script"),
    ("SET 1 --stdin=5", "--stdin is not an option of SET"),
    ("RETRY --queue=q --cascade", "--cascade is for one job"),
    ("HOLD --status=", "--status: expected some of"),
    ("HOLD --match=", "--match: expected some text"),
]
"""Lines that are refused, and a part of the error."""


@pytest.mark.parametrize("line, expected", READ)
def test_parse_line_returns_the_request_for_one_job_or_for_many(line: str, expected: Any) -> None:
    request = parse_line(line.encode())
    assert (request.error, request.argument) == (None, expected)


@pytest.mark.parametrize("line, part", REFUSED)
def test_parse_line_refuses_a_request_without_one_subject(line: str, part: str) -> None:
    request = parse_line(line.encode())
    assert request.error is not None
    assert request.error.code == "BAD_REQUEST"
    assert part in str(request.error)


def test_request_for_many_names_no_job() -> None:
    for line in ("CANCEL --queue=q", "SET --in-queue=q --nice=1", "HOLD --queue=q"):
        assert parse_line(line.encode()).argument.jobs == ()


def test_no_option_of_set_has_the_name_of_its_filters() -> None:
    options = VERBS["SET"].options
    filters = {"in-queue", "with-label", "status", "owner", "match", "progress"}
    assert set(options) == {*SET_OPTIONS, "command", "script", *filters}
    assert all(options[name] is option for name, option in SET_OPTIONS.items())
    assert options["in-queue"].usage == "<name>"


@pytest.mark.parametrize(
    "line, command", [("SET 1 --nice=1", "old"), ("SET 1 --command=new", "new"), ("SET 1 --script=1", "")]
)
def test_set_request_has_the_new_command(line: str, command: str) -> None:
    request = parse_line(line.encode()).argument
    assert request.new_command("old") == command
    assert request.changes_execution is (command != "old")


def test_script_of_a_set_is_as_large_as_that_of_a_submission() -> None:
    request = parse_line(f"SET 1 --script={MAX_BLOCK_SIZE + 1}".encode())
    assert request.error is not None
    assert (request.error.code, request.blocks, request.is_lost) == (
        "TOO_LARGE",
        (MAX_BLOCK_SIZE + 1,),
        False,
    )
