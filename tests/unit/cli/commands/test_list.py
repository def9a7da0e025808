"""``taskq list``: the overview, filters, and that nothing is left out without a message."""

import json
import time

import pytest

from taskqd.protocol.values import timestamp
from tests.fakes.daemon import job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import AT

COUNTS = {"pending": 1234, "running": 2, "completed": 20, "failed": 3, "cancelled": 1}
ENDED = "--status=COMPLETED,FAILED,CANCELLED"


def listed(*numbers: int, status: str = "COMPLETED") -> bytes:
    """Return the reply to LIST with these jobs."""
    jobs = (job(number, status, submitted_at=AT, completed_at=None) for number in numbers)
    return b"".join(jobs) + b"END %d\r\n" % len(numbers)


def overview(ended: int, pending: int = 2) -> dict[str, bytes]:
    """Return the replies of a daemon with a running job, pending ones, and ended ones."""
    return {
        "LIST --status=RUNNING --limit=1000": listed(7, status="RUNNING"),
        "LIST --status=PENDING --limit=1000": listed(*range(8, 8 + pending), status="PENDING"),
        "LIST --limit=21 --order=ended": listed(*range(ended, 0, -1)),
        "STATS": b"STATS " + json.dumps({"jobs": COUNTS}).encode() + b"\r\n",
    }


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
@pytest.mark.parametrize("ended, is_cut", [(20, False), (21, True)])
def test_overview_has_all_live_jobs_and_the_latest_20_ended_ones(
    serve: Serve, call: Call, ended: int, is_cut: bool, form: tuple[str, ...]
) -> None:
    serve(replies(overview(ended)))
    outcome = call("list", *form)
    lines = outcome.stdout.decode().splitlines()
    if form:
        documents = json.loads(outcome.stdout) if form == ("--json",) else list(map(json.loads, lines))
        numbers = [document["id"] for document in documents]
    else:
        numbers = [int(line.split("\t")[0]) for line in lines]
    assert numbers == [7, 8, 9, *range(ended - 19, ended + 1)]
    message = (
        "taskq: there are more ended jobs; --all lists them "
        "(the daemon has 1,234 pending, 2 running and 24 ended)\n"
    )
    assert (outcome.code, outcome.stderr) == (0, message if is_cut else "")


def test_all_pages_are_listed(serve: Serve, call: Call) -> None:
    pages = {"LIST --limit=1000": listed(*range(1, 1001)), "LIST --from=1001 --limit=1000": listed(1001)}
    daemon = serve(replies(pages))
    outcome = call("list", "--all")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) == 1001
    assert daemon.lines == ["LIST --limit=1000", "LIST --from=1001 --limit=1000"]


def test_limit_that_leaves_jobs_out_says_where_to_go_on(serve: Serve, call: Call) -> None:
    serve(replies({"LIST": listed(3, 4, 5)}))
    cut, whole = call("list", "--limit", "2"), call("list", "--limit", "3")
    assert len(cut.stdout.splitlines()) == 2
    assert cut.stderr == "taskq: there are more jobs; --from 5 lists the next ones\n"
    assert (len(whole.stdout.splitlines()), whole.stderr) == (3, "")


def test_filters_have_their_protocol_names(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"LIST": b"END 0\r\n"}))
    words = "--status FAILED,CANCELLED --owner me --key k --from 5 --queue q --array 4 --reverse --tasks"
    assert call("list", *words.split(), "--label", "a b") == (0, b"", "")
    (line,) = daemon.lines
    assert line == (
        'LIST --status=FAILED,CANCELLED --owner=me --key=k --queue=q --array=4 --label="a b"'
        " --from=5 --limit=1000 --tasks --reverse"
    )


@pytest.mark.parametrize("since", ["1d", "24h", "a time"])
def test_failed_since_lists_failed_jobs_that_ended_since_then(serve: Serve, call: Call, since: str) -> None:
    now = time.time()
    since = since.replace("a time", timestamp(now - 86400) or "")
    jobs = b"".join(
        job(number, "FAILED", 1, submitted_at=AT, completed_at=timestamp(now - hours * 3600))
        for number, hours in ((1, 25), (2, 23), (3, 1))
    )
    daemon = serve(replies({"LIST": jobs + b"END 3\r\n"}))
    outcome = call("list", "--failed", "--since", since)
    assert [line.split(b"\t")[0] for line in outcome.stdout.splitlines()] == [b"2", b"3"]
    assert daemon.lines == ["LIST --status=FAILED --limit=1000"]


def test_line_has_id_status_exit_code_submission_and_the_first_line_of_the_command(
    serve: Serve, call: Call
) -> None:
    jobs = (
        job(7, "RUNNING", None, command="make\t-j4 \x1b]0;owned\x07", submitted_at=AT)
        + job(8, "FAILED", -9, command="x" * 300, submitted_at=AT)
        + job(9, "PENDING", None, command=None, script=12, submitted_at=AT)
        + job(10, "PENDING", None, command="\ncd /x\nmake\n", submitted_at=AT)
        + job(11, "PENDING", None, command="-j4", script=12, script_line="cd /x", submitted_at=AT)
    )
    serve(replies({"LIST": jobs + b"END 5\r\n"}))
    outcome = call("list", "--all")
    assert [line.split("\t") for line in outcome.stdout.decode().splitlines()] == [
        ["7", "RUNNING", "-", AT, r"make\t-j4 \x1B]0;owned\x07"],
        ["8", "FAILED", "-9", AT, "x" * 300],
        ["9", "PENDING", "-", AT, "(a script of 12 bytes)"],
        ["10", "PENDING", "-", AT, "cd /x …"],
        ["11", "PENDING", "-", AT, "cd /x … -j4"],
    ]


@pytest.mark.parametrize("is_old", [False, True])
def test_overview_on_a_terminal_has_the_next_jobs_in_line_and_falls_back_to_ids(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, is_old: bool
) -> None:
    monkeypatch.setattr("taskqd.cli.display.text.is_terminal", lambda *_: True)
    known = {
        **overview(2),
        "LIST --limit=21 --order=start": listed(9, 8, status="PENDING"),
        "LIST --status=PENDING --limit=21": listed(8, 9, status="PENDING"),
        f"LIST {ENDED} --limit=21 --reverse": listed(2, 1),
    }
    refusal = b"ERROR BAD_REQUEST --order is not an option of LIST\r\n"
    orders = [line for line in known if "--order" in line]
    daemon = serve(replies({**known, **(dict.fromkeys(orders, refusal) if is_old else {})}))
    outcome = call("list")
    assert outcome.code == 0
    asked = [line for line in daemon.lines if line.startswith("LIST") and "RUNNING" not in line]
    first, last = (orders[1], orders[0]) if orders[0].endswith("ended") else orders
    fallback = ["LIST --status=PENDING --limit=21", f"LIST {ENDED} --limit=21 --reverse"]
    assert asked == ([first, fallback[0], last, fallback[1]] if is_old else [first, last])


def test_overview_does_not_hide_other_refusals(serve: Serve, call: Call) -> None:
    serve(replies({**overview(2), "LIST --limit=21 --order=ended": b"ERROR FORBIDDEN no\r\n"}))
    outcome = call("list")
    assert (outcome.code, "FORBIDDEN" in outcome.stderr) == (1, True)
