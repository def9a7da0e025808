"""``taskq wait`` for several jobs."""

import json

from tests.fakes.daemon import job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures

SEVERAL = {
    "SHOW 7": job(7, "FAILED", 3),
    "SHOW 8": job(8, "COMPLETED", 0),
    "SHOW 11": job(11, "FAILED", -9, array=10, index=1),
}


def test_wait_for_several_prints_ends_and_exits_as_the_first_given_that_failed(
    serve: Serve, call: Call
) -> None:
    ends = b"STATUS FAILED 0 11\r\nSTATUS COMPLETED 100 8\r\nSTATUS FAILED 0 7\r\nEND 3\r\n"
    daemon = serve(replies({**SEVERAL, "WAIT 8 7 10.1 --timeout=1h": ends}))
    outcome = call("wait", "8", "7", "10.1", "--timeout", "1h")
    assert outcome == (3, b"10.1 FAILED (signal 9)\n8 COMPLETED\n7 FAILED (exit 3)\n", "")
    assert daemon.lines[0] == "WAIT 8 7 10.1 --timeout=1h"


def test_wait_any_exits_as_the_first_job_that_ended(serve: Serve, call: Call) -> None:
    serve(replies({**SEVERAL, "WAIT 7 8 --any": b"STATUS COMPLETED 100 8\r\nEND 1\r\n"}))
    assert call("wait", "--any", "7-8") == (0, b"8 COMPLETED\n", "")


def test_wait_for_several_exits_with_75_after_timeout(serve: Serve, call: Call) -> None:
    table = {"WAIT": b"STATUS FAILED 0 7\r\nERROR TIMED_OUT 1 of 2 goes on\r\n"}
    serve(replies({**SEVERAL, **table}))
    outcome = call("wait", "7", "8", "--timeout", "1", "--json")
    assert outcome.code == 75
    assert outcome.stderr.startswith("taskq: 1 of 2 goes on (TIMED_OUT); ")
    assert [document.get("id") for document in json.loads(outcome.stdout)] == [7, None]


def test_wait_for_a_label_waits_for_its_live_jobs(serve: Serve, call: Call) -> None:
    table = {
        **SEVERAL,
        "LIST --status=PENDING,RUNNING --label=album --limit=1000": job(7, "RUNNING") + b"END 1\r\n",
        "WAIT 7": b"STATUS FAILED 0\r\n",
    }
    serve(replies(table))
    assert call("wait", "--label", "album") == (3, b"7 FAILED (exit 3)\n", "")


def test_wait_for_more_jobs_than_a_request_names_sends_several(serve: Serve, call: Call) -> None:
    numbers = range(1, 1501)
    first, second = ([*numbers][:1000], [*numbers][1000:])
    ends = {
        f"WAIT {' '.join(map(str, part))}": b"".join(b"STATUS COMPLETED 100 %d\r\n" % each for each in part)
        + b"END %d\r\n" % len(part)
        for part in (first, second)
    }
    pages = {
        "LIST --status=PENDING,RUNNING --limit=1000": b"".join(map(job, first)) + b"END 1000\r\n",
        "LIST --status=PENDING,RUNNING --from=1001 --limit=1000": b"".join(map(job, second)) + b"END 500\r\n",
        **{f"SHOW {number}": job(number) for number in numbers},
    }
    serve(replies({**ends, **pages}))
    outcome = call("wait", "--all")
    assert (outcome.code, len(outcome.stdout.splitlines())) == (0, 1500)


def test_wait_for_nothing_says_so(serve: Serve, call: Call) -> None:
    serve(replies({"LIST": b"END 0\r\n"}))
    assert call("wait", "--queue", "q") == (0, b"", "taskq: no matching job is pending or running\n")


def test_wait_refuses_ids_with_filters(call: Call) -> None:
    outcome = call("wait", "--all", "7")
    assert outcome.code == 2
    assert "expected either job IDs or filter options" in outcome.stderr
