"""``taskq history``: its lines; ``taskq status`` as JSON."""

import json

from tests.fakes.daemon import replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import AT, event

HISTORY = [
    # an event, and its line without the time
    (event(1, "submitted", owner="ana", spec={"command": "x"}), "submitted\tby ana\t-"),
    (event(3, "started", attempt=1), "started\tattempt 1\t-"),
    (event(4, "spawned", pid=4711, started=12), "spawned\tpid 4711\t-"),
    (
        event(5, "ended", status="PENDING", reason="exit", exit_code=3, retry_at=AT, stdout={"size": 2}),
        f"ended\tPENDING, exit, again at {AT}\t3",
    ),
    (event(8, "cancelled", by="b\x1b[2Jen", signal=15), "cancelled\tby b\\x1B[2Jen, signal 15\t-"),
    (
        event(9, "ended", status="CANCELLED", reason="cancelled", signal=15),
        "ended\tCANCELLED, cancelled\t-15",
    ),
    (event(10, "retried", by="ana"), "retried\tby ana\t-"),
    (
        event(
            11, "ended", status="FAILED", reason="interrupted", detail="the daemon was killed while it ran"
        ),
        "ended\tFAILED, interrupted, the daemon was killed while it ran\t-",
    ),
    (event(12, "ended", status="COMPLETED", exit_code=0), "ended\tCOMPLETED\t0"),
    (
        event(12, "ended", status="COMPLETED", exit_code=0, ended_at=AT),
        f"ended\tCOMPLETED, ended at {AT}\t0",
    ),
    (event(12, "suspended", by="ana"), "suspended\tby ana\t-"),
    (
        event(12, "ended", status="COMPLETED", exit_code=0, suspended=75.2),
        "ended\tCOMPLETED, suspended for 1 min 15 s\t0",
    ),
    (event(13, "something.new", by="ben"), "something.new\tby ben\t-"),
]


def test_history_prints_one_line_per_event(serve: Serve, call: Call) -> None:
    serve(replies({"HISTORY 7": b"".join(line for line, _ in HISTORY) + b"END %d\r\n" % len(HISTORY)}))
    outcome = call("history", "7")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.decode().splitlines() == [f"{AT}\t{text}" for _, text in HISTORY]


def test_status_as_json_has_what_the_text_says_of_a_running_job(serve: Serve, call: Call) -> None:
    job = {"id": 7, "status": "RUNNING", "suspended_at": AT, "progress_text": "epoch 5"}
    serve(replies({"SHOW 7": b"JOB " + json.dumps(job).encode() + b"\r\n"}))
    facts = json.loads(call("status", "7", "--json").stdout)
    assert (facts["suspended_at"], facts["progress_text"]) == (AT, "epoch 5")
