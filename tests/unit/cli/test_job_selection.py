"""Which jobs an act is for: by id, by range, by filter; what is asked before and told after."""

import re
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon, Request, job, refused
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

CANCELLED = b"STATUS CANCELLED 0\r\n"


class QueryHandlers:
    """A script for a daemon with these jobs, which does all that it is asked but to job 13."""

    def __init__(self, *jobs: bytes) -> None:
        self._listed = b"".join(jobs) + b"END %d\r\n" % len(jobs)

    def __call__(self, request: Request) -> bytes:
        if request.verb == "LIST":
            return self._listed
        if " 13" in request.line:
            return refused("WRONG_STATE", "it has ended")
        return {
            "CANCEL": CANCELLED,
            "HOLD": b"STATUS PENDING 0\r\n",
            "RELEASE": b"STATUS PENDING 0\r\n",
            "SET": job(int(request.line.split(" ")[1].split(".")[0])),
            "RETRY": b"JOB_ID 7\r\n",
            "SHOW": job(7),
            "REMOVE": b"OK\r\n",
        }[request.verb]


@pytest.mark.parametrize(
    "words,listing,act",
    [
        (
            ("cancel", "--label", "a b"),
            'LIST --label="a b" --status=PENDING,RUNNING --limit=1000',
            "CANCEL 7",
        ),
        (("hold", "--queue", "q"), "LIST --queue=q --status=PENDING --limit=1000", "HOLD 7"),
        (("release", "--owner", "me"), "LIST --owner=me --status=PENDING --limit=1000", "RELEASE 7"),
        (
            ("retry", "--status", "failed,pending"),
            "LIST --status=FAILED --limit=1000",
            "RETRY 7",
        ),
        (
            ("remove", "--queue", "q", "--label", "x"),
            "LIST --queue=q --label=x --status=COMPLETED,FAILED,CANCELLED --limit=1000",
            "REMOVE 7",
        ),
        (
            ("set", "--in-queue", "a", "--with-label", "x", "--queue", "b"),
            "LIST --queue=a --label=x --status=PENDING --limit=1000",
            "SET 7 --queue=b",
        ),
    ],
)
def test_a_filter_finds_the_jobs_with_which_it_can_be_done(
    serve: Serve, call: Call, words: tuple[str, ...], listing: str, act: str
) -> None:
    daemon = serve(QueryHandlers(job(7)))
    outcome = call(*words)
    assert [line for line in daemon.lines if not line.startswith("SHOW")] == [listing, act]
    assert outcome.code == 0
    assert re.fullmatch(r"taskq: 1 job \w+\n", outcome.stderr)


def test_what_is_found_is_told_by_its_number_and_what_was_refused_too(serve: Serve, call: Call) -> None:
    serve(QueryHandlers(job(7), job(13), job(14)))
    assert call("cancel", "--queue", "q") == (
        1,
        b"7 CANCELLED 0\n14 CANCELLED 0\n",
        "taskq: job 13: it has ended (WRONG_STATE)\ntaskq: 2 jobs cancelled, 1 refused\n",
    )


def test_where_nothing_is_found_nothing_is_done_and_that_is_no_error(serve: Serve, call: Call) -> None:
    serve(QueryHandlers())
    assert call("cancel", "--label", "x") == (0, b"", "taskq: no job that could be cancelled\n")


def test_a_range_is_those_of_its_jobs_with_which_it_can_be_done(serve: Serve, call: Call) -> None:
    daemon = serve(QueryHandlers(job(4), job(7), job(9)))
    outcome = call("cancel", "3-8", "12.1", "4")
    assert daemon.lines == [
        "LIST --status=PENDING,RUNNING --from=3 --limit=1000 --tasks",
        *("CANCEL 4", "CANCEL 7", "CANCEL 12.1"),
    ]
    assert outcome.stderr == "taskq: 3 jobs cancelled\n"


def test_the_tasks_of_an_array_in_a_range_go_with_it(serve: Serve, call: Call) -> None:
    tasks = [job(number, array=array, index=number) for number, array in ((3, 2), (6, 5), (7, 5))]
    daemon = serve(QueryHandlers(tasks[0], job(5), *tasks[1:]))
    call("cancel", "3-8")
    assert daemon.lines[1:] == ["CANCEL 3", "CANCEL 5"]


# the rate


class Rated:
    """A script for a daemon that takes a change of a job only at its ``tries``-th request."""

    def __init__(self, jobs: QueryHandlers, tries: int, text: str) -> None:
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
def test_an_act_that_comes_too_fast_is_sent_again_after_the_wait(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    daemon = serve(Rated(QueryHandlers(), 3, TOO_FAST))
    outcome = call(verb, *(("--label", "x", "7", "8") if verb == "set" else ("7", "8")))
    sent = [line for line in daemon.lines if line.startswith(verb.upper())]
    assert [line.split()[1] for line in sent] == ["7"] * 3 + ["8"] * 3
    assert (outcome.code, waits) == (0, [0.25] * 4)
    assert outcome.stderr == (
        "taskq: the daemon takes no more changes from you for 0.25 s: "
        "waiting, and going on as fast as it takes them\n"
    )


def test_an_act_that_is_refused_for_another_limit_is_not_sent_again(serve: Serve, call: Call) -> None:
    daemon = serve(
        Rated(QueryHandlers(), 2, "100 jobs are pending (limit 100); retry when some have started")
    )
    outcome = call("retry", "7")
    assert (outcome.code, daemon.lines) == (1, ["RETRY 7"])


# the question


@pytest.mark.parametrize("words", [("cancel", "7-8"), ("cancel", "--queue", "q")])
@pytest.mark.parametrize("answer,is_done", [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_a_person_is_asked_before_it_is_done_to_several(
    tmp_path: Path, words: tuple[str, ...], answer: bytes, is_done: bool
) -> None:
    with (
        FakeDaemon(QueryHandlers(job(7), job(8)), tmp_path) as daemon,
        Process(daemon.address, *words, on_terminal=("stdin", "stderr")) as process,
    ):
        process.read("terminal", b"Cancel 2 jobs? [y/N] ")
        process.type(answer)
        end = process.end()
        assert [line for line in daemon.lines if "CANCEL" in line] == ["CANCEL 7", "CANCEL 8"] * is_done
    assert end.code == (0 if is_done else 1)
    assert (b"nothing was done" in end.terminal) is not is_done


@pytest.mark.parametrize("words", [("cancel", "7", "8"), ("cancel", "7"), ("cancel", "--yes", "7-8")])
def test_no_question_is_asked_about_named_jobs_or_with_yes(tmp_path: Path, words: tuple[str, ...]) -> None:
    with (
        FakeDaemon(QueryHandlers(job(7), job(8)), tmp_path) as daemon,
        Process(daemon.address, *words, on_terminal=("stdin", "stderr")) as process,
    ):
        end = process.end()
    assert end.code == 0
    assert b"[y/N]" not in end.terminal
