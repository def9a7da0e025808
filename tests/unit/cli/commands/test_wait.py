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
