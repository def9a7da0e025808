"""``taskq list`` and ``taskq history``: requests and lines."""

import json

import pytest

from tests.fakes.daemon import job, replies
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
    (event(13, "something.new", by="ben"), "something.new\tby ben\t-"),
]


def test_history_prints_one_line_per_event(serve: Serve, call: Call) -> None:
    serve(replies({"HISTORY 7": b"".join(line for line, _ in HISTORY) + b"END %d\r\n" % len(HISTORY)}))
    outcome = call("history", "7")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.decode().splitlines() == [f"{AT}\t{text}" for _, text in HISTORY]


@pytest.mark.parametrize("count,is_cut", [(100, False), (101, True)])
@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_list_that_is_cut_prints_a_message(
    serve: Serve, call: Call, count: int, is_cut: bool, form: tuple[str, ...]
) -> None:
    listed = b"".join(job(number, submitted_at=AT) for number in range(1, count + 1))
    daemon = serve(replies({"LIST": listed + b"END %d\r\n" % count}))
    outcome = call("list", *form)
    shown = json.loads(outcome.stdout) if form == ("--json",) else outcome.stdout.splitlines()
    assert (outcome.code, len(shown)) == (0, 100)
    message = "taskq: there are more than 100 jobs; use --from 101 or --limit to list them\n"
    assert outcome.stderr == (message if is_cut else "")
    assert daemon.lines == ["LIST --limit=101"]


def test_list_filters_have_their_protocol_names(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"LIST": b"END 0\r\n"}))
    words = [
        "--status",
        "FAILED,CANCELLED",
        "--owner",
        "me",
        "--key",
        "k",
        "--from",
        "5",
        "--limit",
        "9",
        "--reverse",
        "--queue",
        "q",
        "--array",
        "4",
        "--tasks",
        "--match",
        "rsync",
        "--label",
    ]
    assert call("list", *words, "a b") == (0, b"", "")
    (line,) = daemon.lines
    assert line == (
        'LIST --status=FAILED,CANCELLED --owner=me --key=k --queue=q --array=4 --match=rsync --label="a b"'
        " --from=5 --limit=9 --tasks --reverse"
    )


JOBS = (
    job(7, "RUNNING", None, command="make\t-j4 \x1b]0;owned\x07", submitted_at=AT, progress=40)
    + job(8, "FAILED", -9, command="x" * 300, submitted_at=AT, progress=0)
    + job(9, "PENDING", None, command=None, script=12, submitted_at=AT, progress=0)
    + b"END 3\r\n"
)


def test_piped_list_prints_tab_separated_lines(serve: Serve, call: Call) -> None:
    serve(replies({"LIST": JOBS}))
    outcome = call("list")
    assert [line.split("\t") for line in outcome.stdout.decode().splitlines()] == [
        ["7", "RUNNING", "-", AT, r"make\t-j4 \x1B]0;owned\x07"],
        ["8", "FAILED", "-9", AT, "x" * 300],
        ["9", "PENDING", "-", AT, "(a script of 12 bytes)"],
    ]
