"""``taskq watch``, also across restarts of the daemon."""

import json
from collections.abc import Iterator

import pytest

from taskqd.cli.streaming import watch
from taskqd.client import reconnect
from tests.fakes.daemon import Request, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.streaming.samples import LOST, cut

AT = "2026-11-24T07:00:00.000Z"


@pytest.fixture(autouse=True)
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without delay."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


def event(sequence: int, kind: str = "started", **more: object) -> bytes:
    facts = {"at": AT, "type": kind, "id": 7, **more}
    if kind in ("paused", "resumed", "resized", "scheduled", "unscheduled"):
        del facts["id"]
    return b"EVENT %d " % sequence + json.dumps(facts).encode() + b"\r\n"


BROKEN = refused("BAD_REQUEST", "end of the test")
"""Ends a watch in these tests; a real watch has no end."""


def test_watch_prints_one_line_per_event(serve: Serve, call: Call) -> None:
    events = event(5, "submitted", owner="ana", spec={"command": "make\tall"})
    events += event(6, attempt=1) + event(7, "spawned", pid=99)
    events += event(8, "ended", status="FAILED", reason="exit", exit_code=3, progress_text="epoch 5")
    events += event(9, "paused", by="bob", queue="q") + event(10, "resumed", by="bob")
    events += event(11, "resized", by="bob", queue="q", slots=0) + event(12, "skipped", because=3)
    events += event(13, "scheduled", by="bob", schedule=2, spec={"command": "x"})
    serve(replies({"WATCH": b"OK 5\r\n" + events + BROKEN}))
    outcome = call("watch")
    assert [line.split("\t") for line in outcome.stdout.decode().splitlines()] == [
        [AT, "7", "submitted", r"by ana: make\tall"],
        [AT, "7", "started", "attempt 1"],
        [AT, "7", "spawned", "pid 99"],
        [AT, "7", "ended", "FAILED, exit, epoch 5, exit code 3"],
        [AT, "queue q", "paused", "by bob"],
        [AT, "all", "resumed", "by bob"],
        [AT, "queue q", "resized", "by bob, slots without a limit"],
        [AT, "7", "skipped", "because of job 3"],
        [AT, "schedule 2", "scheduled", "by bob: x"],
    ]
    assert outcome.code == 1


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_watch_with_json_prints_sequence_numbers(serve: Serve, call: Call, form: str) -> None:
    serve(replies({"WATCH": b"OK 5\r\n" + event(5, attempt=1) + BROKEN}))
    assert call("watch", form).documents[0] == {"seq": 5, "at": AT, "type": "started", "id": 7, "attempt": 1}


def test_watch_sends_its_filters(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"WATCH": BROKEN}))
    call("watch", "--since", "12", "--job", "7.1", "--queue", "q")
    assert daemon.lines == ["WATCH --since=12 --job=7.1 --queue=q"]


@pytest.mark.parametrize(
    "since,seen,next_number", [((), b"", 5), (("--since", "3"), b"", 3), ((), event(8), 9)]
)
def test_watch_continues_with_the_next_number_after_a_restart(
    serve: Serve, call: Call, since: tuple[str, ...], seen: bytes, next_number: int
) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if len(daemon.lines) > 1:
            return b"OK %d\r\n" % next_number + event(next_number, attempt=1) + BROKEN
        return cut(
            b"OK %d\r\n" % int(since[1] if since else 5),
            *([seen.replace(b"}", b',"attempt":1}')] if seen else []),
        )

    daemon = serve(answer)
    outcome = call("watch", *since, "--jsonl")
    assert daemon.lines[1] == f"WATCH --since={next_number}"
    assert outcome.stderr.startswith(LOST)


def test_watch_misses_no_event_after_two_losses(serve: Serve, call: Call) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes] | None":
        if len(daemon.lines) == 1:
            return cut(b"OK 5\r\n", event(5, attempt=1))
        return None if len(daemon.lines) == 2 else BROKEN

    daemon = serve(answer)
    call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=6", "WATCH --since=6"]


def test_watch_continues_after_lagged(serve: Serve, call: Call) -> None:
    answers = iter([b"OK 5\r\n" + refused("LAGGED", "90 is the next"), b"OK 90\r\n" + BROKEN])
    daemon = serve(lambda _: next(answers))
    outcome = call("watch")
    assert daemon.lines == ["WATCH", "WATCH --since=90"]
    assert "taskq: some events are missing; continuing with number 90\n" in outcome.stderr


def test_watch_without_daemon_fails(call: Call) -> None:
    assert call("watch", "--address", "unix:/nowhere").code == 69


def test_watch_does_not_reconnect_to_a_server_that_is_no_daemon(serve: Serve, call: Call) -> None:
    serve(lambda _: b"220 smtp\r\n")
    assert call("watch").code == 69


def test_watch_on_a_terminal_shows_short_time_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.cli.display.text.is_terminal", lambda: True)
    monkeypatch.setattr("taskqd.cli.display.text.has_colours", lambda _: True)
    facts = {"at": AT, "type": "ended", "id": 7, "status": "FAILED", "exit_code": 3}
    assert watch.event_line(facts, 0.0).endswith(
        "       7  \x1b[31m" + "ended    \x1b[0m  FAILED, exit code 3"
    )
