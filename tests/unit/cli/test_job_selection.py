"""Selecting jobs by id, range or filter; confirmation before and summary after the action."""

import re
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon, Request, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

CANCELLED = b"STATUS CANCELLED 0\r\n"


class JobScript:
    """A script for a daemon with the given jobs; it refuses requests about job 13.

    A daemon that ``is_old`` does not act on many jobs, and one that ``is_new`` counts them and reports
    the progress, since 0.9.
    """

    def __init__(self, *jobs: bytes, is_old: bool = False, is_new: bool = False) -> None:
        self._listed = b"".join(jobs) + b"END %d\r\n" % len(jobs)
        self._count = len(jobs)
        limits = b"{}" if is_old else b'{"acts":5000,"list_in_order":1000}' if is_new else b'{"acts":5000}'
        self._hello = b'TASKQ 1 {"limits":%b,"you":{"name":"ann"}}\r\n' % limits

    def __call__(self, request: Request) -> bytes:
        if request.line.endswith(" --count"):
            return b"END %d\r\n" % self._count
        if request.line.endswith(" --progress"):
            return b"PROGRESS 1 %d\r\nOK %d\r\n" % (self._count, self._count)
        if request.verb in ("LIST", "HELLO"):
            return self._listed if request.verb == "LIST" else self._hello
        if request.line.split(" ")[1].startswith("--"):
            return b"OK %d\r\n" % self._count
        if " 13" in request.line:
            return refused("WRONG_STATE", "already ended")
        return {
            "CANCEL": CANCELLED,
            "HOLD": b"STATUS PENDING 0\r\n",
            "RELEASE": b"STATUS PENDING 0\r\n",
            "SET": job(int(request.line.split(" ")[1].split(".")[0])),
            "RETRY": b"JOB_ID 7\r\n",
            "SHOW": job(7),
            "REMOVE": b"OK\r\n",
        }[request.verb]


# filters


@pytest.mark.parametrize(
    "words,action",
    [
        (("cancel", "--label", "a b"), 'CANCEL --label="a b"'),
        (("cancel", "--queue", "q", "--signal", "INT"), "CANCEL --queue=q --signal=INT"),
        (("hold", "--queue", "q"), "HOLD --queue=q"),
        (("suspend", "--queue", "q"), "SUSPEND --queue=q"),
        (("continue", "--queue", "q"), "CONTINUE --queue=q"),
        (("release", "--owner", "me", "--match", "x"), "RELEASE --owner=me --match=x"),
        (("retry", "--status", "failed,pending"), "RETRY --status=FAILED"),
        (("remove", "--queue", "q", "--label", "x"), "REMOVE --queue=q --label=x"),
        (
            ("set", "--in-queue", "a", "--with-label", "x", "--queue", "b"),
            "SET --in-queue=a --with-label=x --queue=b",
        ),
    ],
)
def test_filters_are_sent_with_one_request_for_all_jobs(
    serve: Serve, call: Call, words: tuple[str, ...], action: str
) -> None:
    daemon = serve(JobScript(job(7), job(13), job(14)))
    outcome = call(*words)
    assert daemon.lines == ["HELLO", action]
    assert (outcome.code, outcome.stdout) == (0, b"")
    assert re.fullmatch(r"taskq: 3 jobs \w+\n", outcome.stderr)


def test_json_answer_for_filters_has_the_number_of_changed_jobs(serve: Serve, call: Call) -> None:
    serve(JobScript(job(7), job(8)))
    assert call("cancel", "--queue", "q", "--json") == (0, b'{"changed": 2}\n', "taskq: 2 jobs cancelled\n")


def test_filter_without_matches_is_no_error(serve: Serve, call: Call) -> None:
    serve(JobScript())
    assert call("cancel", "--label", "x") == (0, b"", "taskq: no matching job can be cancelled\n")


def test_refusal_of_a_request_for_many_jobs_is_printed(serve: Serve, call: Call) -> None:
    hello = b'TASKQ 1 {"limits":{"acts":null}}\r\n'
    serve(replies({"HELLO": hello, "SET": refused("FORBIDDEN", "priority 5 needs the role admin")}))
    outcome = call("set", "--in-queue", "q", "--priority", "5")
    assert outcome.code == 1
    assert "priority 5 needs the role admin (FORBIDDEN)" in outcome.stderr


@pytest.mark.parametrize(
    "words,listing,action",
    [
        (
            ("cancel", "--label", "a b"),
            'LIST --status=PENDING,RUNNING --label="a b" --limit=1000',
            "CANCEL 7",
        ),
        (("retry", "--status", "failed,pending"), "LIST --status=FAILED --limit=1000", "RETRY 7"),
        (
            ("set", "--in-queue", "a", "--with-label", "x", "--queue", "b"),
            "LIST --status=PENDING --queue=a --label=x --limit=1000",
            "SET 7 --queue=b",
        ),
    ],
)
def test_filters_select_jobs_one_by_one_for_an_older_daemon(
    serve: Serve, call: Call, words: tuple[str, ...], listing: str, action: str
) -> None:
    daemon = serve(JobScript(job(7), is_old=True))
    outcome = call(*words)
    assert [line for line in daemon.lines if not line.startswith("SHOW")] == ["HELLO", listing, action]
    assert outcome.code == 0
    assert re.fullmatch(r"taskq: 1 job \w+\n", outcome.stderr)


def test_cascade_with_filters_changes_jobs_one_by_one(serve: Serve, call: Call) -> None:
    daemon = serve(JobScript(job(7), job(8)))
    assert call("cancel", "--queue", "q", "--cascade").stdout == b"7 CANCELLED\n8 CANCELLED\n"
    assert daemon.lines[1:] == ["CANCEL 7 --cascade", "CANCEL 8 --cascade"]


def test_retry_by_cascade_counts_what_the_cascade_of_another_has_retried(serve: Serve, call: Call) -> None:
    daemon = serve(JobScript(job(7), job(13)))
    outcome = call("retry", "--queue", "q", "--cascade")
    assert [line for line in daemon.lines if "SHOW" not in line][1:] == [
        "RETRY 7 --cascade",
        "RETRY 13 --cascade",
    ]
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"7\n13\n", "taskq: 2 jobs retried\n")


def test_jobs_changed_one_by_one_are_counted_with_those_refused(serve: Serve, call: Call) -> None:
    serve(JobScript(job(7), job(13), job(14), is_old=True))
    assert call("cancel", "--queue", "q") == (
        1,
        b"7 CANCELLED\n14 CANCELLED\n",
        "taskq: job 13: already ended (WRONG_STATE)\ntaskq: 2 jobs cancelled, 1 refused\n",
    )


# ids and ranges


def test_range_selects_jobs_that_the_action_applies_to(serve: Serve, call: Call) -> None:
    daemon = serve(JobScript(job(4), job(7), job(9)))
    outcome = call("cancel", "3-8", "12.1", "4")
    assert daemon.lines == [
        "LIST --status=PENDING,RUNNING --from=3 --limit=1000 --tasks",
        *("CANCEL 4", "CANCEL 7", "CANCEL 12.1"),
    ]
    assert outcome.stderr == "taskq: 3 jobs cancelled\n"


def test_range_selects_array_instead_of_its_tasks(serve: Serve, call: Call) -> None:
    tasks = [job(number, array=array, index=number) for number, array in ((3, 2), (6, 5), (7, 5))]
    daemon = serve(JobScript(tasks[0], job(5), *tasks[1:]))
    call("cancel", "3-8")
    assert daemon.lines[1:] == ["CANCEL 3", "CANCEL 5"]


# rate limit


class RateLimited:
    """A script for a daemon that accepts a change of a job only at the ``tries``-th request."""

    def __init__(self, jobs: JobScript, tries: int, text: str) -> None:
        self._jobs = jobs
        self._left = self._tries = tries
        self._text = text

    def __call__(self, request: Request) -> bytes:
        if request.verb not in ("LIST", "SHOW"):
            self._left -= 1
            if self._left:
                return refused("QUEUE_FULL", self._text)
            self._left = self._tries
        return self._jobs(request)


TOO_FAST = "you submit or change more than 2 jobs per second; retry in 0.250 s"


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry", "remove", "set"])
def test_request_over_the_rate_limit_is_repeated_after_the_wait(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    daemon = serve(RateLimited(JobScript(), 3, TOO_FAST))
    outcome = call(verb, *(("--label", "x", "7", "8") if verb == "set" else ("7", "8")))
    sent = [line for line in daemon.lines if line.startswith(verb.upper())]
    # The third request is accepted, and the sixth.
    assert [line.split()[1] for line in sent] == ["7", "8", "7", "8", "8", "8"]
    assert (outcome.code, waits) == (0, [0.25] * 3)
    assert outcome.stderr == (
        "taskq: rate limit: the daemon accepts the next change in 0.25 s; "
        "continuing at the speed that it allows\n"
    )


def test_request_over_another_limit_is_not_repeated(serve: Serve, call: Call) -> None:
    daemon = serve(
        RateLimited(JobScript(), 2, "100 jobs are pending (limit 100); retry when some have started")
    )
    outcome = call("retry", "7")
    assert (outcome.code, daemon.lines) == (1, ["RETRY 7"])


# confirmation


@pytest.mark.parametrize(
    "words, requests, is_new, question",
    [
        (("cancel", "7-8"), ["CANCEL 7", "CANCEL 8"], False, b"cancel 2 jobs? [y/N] "),
        (("cancel", "--queue", "q"), ["CANCEL --queue=q"], False, b"cancel 2 jobs of queue q? [y/N] "),
        (
            ("cancel", "--queue", "q", "--label", "x", "--owner", "ann", "--match", "m"),
            ["CANCEL --queue=q --label=x --owner=ann --match=m --progress"],
            True,
            b"cancel 2 jobs of queue q with the label x of user ann that contain 'm'? [y/N] ",
        ),
        (
            ("cancel", "--queue", "q", "--cascade"),
            ["CANCEL 7 --cascade", "CANCEL 8 --cascade"],
            True,
            b"cancel 2 jobs of queue q? [y/N] ",
        ),
    ],
)
@pytest.mark.parametrize("answer,is_done", [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_user_is_asked_before_several_jobs_are_changed(
    tmp_path: Path,
    words: tuple[str, ...],
    requests: list[str],
    is_new: bool,
    question: bytes,
    answer: bytes,
    is_done: bool,
) -> None:
    with (
        FakeDaemon(JobScript(job(7), job(8), is_new=is_new), tmp_path) as daemon,
        Process(daemon.address, *words, on_terminal=("stdin", "stderr")) as process,
    ):
        process.read("terminal", question)
        process.type(answer)
        end = process.end()
        assert [line for line in daemon.lines if "CANCEL" in line] == requests * is_done
    assert end.code == (0 if is_done else 1)
    assert (b"no job was changed" in end.terminal) is not is_done


@pytest.mark.parametrize(
    "is_new, number, request_",
    [(False, b"more than 1,000", "--limit=1001"), (True, b"1,204", "--count")],
)
def test_question_has_the_number_of_very_many_jobs(
    tmp_path: Path, is_new: bool, number: bytes, request_: str
) -> None:
    with (
        FakeDaemon(JobScript(*map(job, range(1, 1205)), is_new=is_new), tmp_path) as daemon,
        Process(daemon.address, "cancel", "--queue", "q", on_terminal=("stdin", "stderr")) as process,
    ):
        process.read("terminal", b"cancel %b jobs of queue q? [y/N] " % number)
        process.type(b"n\n")
        process.end()
        assert daemon.lines == ["HELLO", f"LIST --status=PENDING,RUNNING --queue=q {request_}"]


# Without an id.


@pytest.mark.parametrize("answer, is_done", [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_cancel_without_an_id_asks_about_the_latest_job(tmp_path: Path, answer: bytes, is_done: bool) -> None:
    with (
        FakeDaemon(JobScript(job(17, "RUNNING", command="make -j4")), tmp_path) as daemon,
        Process(daemon.address, "cancel", on_terminal=("stdin", "stderr")) as process,
    ):
        process.read("terminal", b"cancel job 17 `make -j4` (RUNNING)? [y/N] ")
        process.type(answer)
        end = process.end()
        listing = "LIST --owner=ann --status=PENDING,RUNNING --limit=1 --reverse"
        assert sorted(daemon.lines) == sorted(["HELLO", listing, *["CANCEL 17"] * is_done])
    assert end.code == (0 if is_done else 1)
    assert (b"the job was not cancelled" in end.terminal) is not is_done


def test_cancel_without_an_id_and_a_live_job_says_so(tmp_path: Path) -> None:
    with (
        FakeDaemon(JobScript(), tmp_path) as daemon,
        Process(daemon.address, "cancel", on_terminal=("stdin", "stderr")) as process,
    ):
        end = process.end()
    assert end.code == 2
    assert b"you (ann) have no job that is pending or running" in end.terminal


def test_cancel_without_an_id_and_a_terminal_is_a_usage_error(serve: Serve, call: Call) -> None:
    daemon = serve(JobScript(job(7)))
    outcome = call("cancel")
    assert (outcome.code, daemon.lines) == (2, [])
    assert "expected job IDs or filter options; without them, taskq cancel asks" in outcome.stderr


@pytest.mark.parametrize("words", [("cancel", "7", "8"), ("cancel", "7"), ("cancel", "--yes", "7-8")])
def test_named_jobs_and_yes_need_no_confirmation(tmp_path: Path, words: tuple[str, ...]) -> None:
    with (
        FakeDaemon(JobScript(job(7), job(8)), tmp_path) as daemon,
        Process(daemon.address, *words, on_terminal=("stdin", "stderr")) as process,
    ):
        end = process.end()
    assert end.code == 0
    assert b"[y/N]" not in end.terminal
