"""Queries and actions of ``taskq top`` against a fake daemon."""

import os
from queue import Empty, SimpleQueue

import pytest

from taskqd.cli.top import poller
from taskqd.cli.top.job_tracker import JobTracker
from taskqd.cli.top.poller import Poller, Update
from taskqd.cli.top.state import Action, OutputView, Snapshot, Verb
from taskqd.client import Client, Unreachable
from tests.fakes.daemon import data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import TIMEOUT
from tests.unit.cli.top.samples import ENDED, RUNNING, SNAPSHOT, answer, event, watch_reply


def test_poller_requests_lists_once_and_then_only_visible_jobs(serve: Serve) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        tracker = poller.load_jobs(client)
        tracker.forget(30)
        assert poller.query(client, None, tracker) == SNAPSHOT._replace(ended=ENDED[::-1])
        tracker.forget(30)
        assert poller.query(client, OutputView(1), tracker).output == b"hello from the job\n"
    assert daemon.lines[:7] == [
        "LIST --status=COMPLETED,FAILED,CANCELLED --limit=50 --tasks --reverse",
        "LIST --status=RUNNING --limit=100000 --tasks",
        "SHOW 1",
        "SHOW 2",
        "STATS",
        "QUEUES",
        "LIST --limit=50 --order=start",
    ]
    assert daemon.lines[7:] == [
        *("SHOW 1", "SHOW 2", "STATS", "QUEUES"),
        *("LIST --limit=50 --order=start", "OUTPUT 1 stdout --tail=65536"),
    ]


def test_query_omits_job_that_was_removed_meanwhile(serve: Serve) -> None:
    daemon = serve(
        lambda request: refused("GONE", "removed") if request.line == "SHOW 1" else answer(request)
    )
    tracker = JobTracker(5)
    tracker.load(RUNNING[:1])
    with Client(daemon.address) as client:
        assert poller.query(client, None, tracker).running == []


def test_query_skips_pending_list_when_nothing_is_pending(serve: Serve) -> None:
    daemon = serve(lambda request: b"END 0\r\n" if request.verb == "LIST" else answer(request))
    tracker = JobTracker(2)
    with Client(daemon.address) as client:
        assert [poller.query(client, None, tracker).pending for _ in range(2)] == [[], []]
    assert [line for line in daemon.lines if line.startswith("LIST")] == ["LIST --limit=50 --order=start"]


def test_poller_queries_soon_after_an_event(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "POLL_INTERVAL", 1e6)
    monkeypatch.setattr(poller, "EVENT_POLL_INTERVAL", 0.0)
    events = (event("started", 4), event("ended", 5, status="COMPLETED"))
    serve(lambda request: watch_reply(*events) if request.verb == "WATCH" else answer(request))
    updates: SimpleQueue[Update] = SimpleQueue()
    Poller(lambda: Client(os.environ["TASKQ_ADDRESS"]), updates.put).start()
    assert [type(updates.get(timeout=TIMEOUT)) for _ in range(3)] == [Snapshot] * 3


def test_poller_loads_jobs_again_after_lagged(serve: Serve) -> None:
    lagged = iter([refused("LAGGED", "9 is the next")])
    daemon = serve(
        lambda request: next(lagged, None) or watch_reply() if request.verb == "WATCH" else answer(request)
    )
    updates: SimpleQueue[Update] = SimpleQueue()
    Poller(lambda: Client(daemon.address), updates.put).start()
    assert isinstance(updates.get(timeout=TIMEOUT), Snapshot)


@pytest.mark.parametrize(
    "action,line,message",
    [
        (Action(Verb.CANCEL, ("30.5",)), "CANCEL 30.5", "job 30.5 cancelled"),
        (Action(Verb.HOLD, (4,)), "HOLD 4", "job 4 held"),
        (Action(Verb.SUSPEND, (4,)), "SUSPEND 4", "job 4 suspended"),
        (Action(Verb.CONTINUE, (4,)), "CONTINUE 4", "job 4 continued"),
        (Action(Verb.RELEASE, (3,)), "RELEASE 3", "job 3 released"),
        (Action(Verb.RETRY, (5,)), "RETRY 5", "job 5 pending again"),
        (Action(Verb.PAUSE, queue="q"), "PAUSE q", "queue q paused"),
        (Action(Verb.RESUME), "RESUME", "everything resumed"),
    ],
)
def test_perform_sends_request_and_returns_message(
    serve: Serve, action: Action, line: str, message: str
) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        assert poller.perform(client, action) == message
    assert daemon.lines == [line]


def test_perform_returns_text_of_refusal(serve: Serve) -> None:
    daemon = serve(lambda _: refused("WRONG_STATE", "job 4 is RUNNING"))
    with Client(daemon.address) as client:
        assert poller.perform(client, Action(Verb.HOLD, (4,))) == "job 4 is RUNNING"


def test_perform_on_several_jobs_tells_how_many_were_refused(serve: Serve) -> None:
    daemon = serve(
        lambda request: refused("GONE", "it is gone") if request.line == "HOLD 5" else answer(request)
    )
    with Client(daemon.address) as client:
        message = poller.perform(client, Action(Verb.HOLD, (3, 4, 5)))
        assert message == "2 of 3 jobs held; the last refusal: it is gone"
        assert poller.perform(client, Action(Verb.HOLD, (3, 4))) == "2 jobs held"


def test_details_have_what_happened_why_and_the_end_of_the_output(serve: Serve) -> None:
    table = {
        "SHOW 1": job(1, "FAILED", 3, reason="exit"),
        "WHY 1": b"OK it exited with 3\r\n",
        "OUTPUT 1 stdout --tail=65536": data("stdout", 0, b"".join(b"line %d\n" % n for n in range(30))),
        "OUTPUT 1 stderr --tail=65536": data("stderr", 0, b"oh no\n"),
    }
    daemon = serve(replies(table))
    with Client(daemon.address) as client:
        lines = poller.read_view(client, OutputView(1, "details")).decode().split("\n")
    assert lines[:3] == ["job 1 FAILED (exit 3)", "it exited with 3", ""]
    assert lines[-3:] == ["", "stderr:", "oh no"]
    assert lines[lines.index("stdout:") + 1] == "line 10"


def test_poller_reconnects_after_a_restart(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "POLL_INTERVAL", 0.01)
    daemon = serve(lambda request: None if len(daemon.lines) == 3 else answer(request))
    updates: SimpleQueue[Update] = SimpleQueue()
    thread = Poller(lambda: Client(daemon.address, reconnect=0), updates.put)
    assert thread.start() == daemon.address
    assert isinstance(updates.get(timeout=TIMEOUT), Unreachable)
    assert isinstance(updates.get(timeout=TIMEOUT), Snapshot)
    thread.perform(Action(Verb.HOLD, (4,)))
    while (update := updates.get(timeout=TIMEOUT)) != "job 4 held":
        assert isinstance(update, Snapshot)
    thread.show_output(OutputView(1))
    while not (isinstance(update := updates.get(timeout=TIMEOUT), Snapshot) and update.output):
        pass
    daemon.close()
    while not isinstance(updates.get(timeout=TIMEOUT), Unreachable):
        pass
    with pytest.raises(Empty):
        updates.get_nowait()
