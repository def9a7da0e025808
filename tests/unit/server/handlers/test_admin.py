"""The replies to HELLO, AUTH, PING, HELP, QUIT, STATS, DRAIN and SHUTDOWN."""

import json

import pytest
from msgspec.structs import asdict
from twisted.internet.defer import CancelledError

from taskqd import __version__
from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits, describe
from taskqd.config.settings import OnStop
from taskqd.errors import (
    AuthFailed,
    Draining,
    Forbidden,
)
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.protocol import parser, submit, verbs
from taskqd.server.handlers import admin
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness
from tests.support.requests import answer, ask, opened, refusal, shown


def test_stats_has_resources_and_their_use() -> None:
    harness = Harness(resources={"gpu": 2, "disk": 5})
    harness.engine.start()
    answer(harness, "SUBMIT --need=gpu:2 true")
    assert shown(harness, "STATS")["resources"] == {
        "gpu": {"total": 2, "busy": 2},
        "disk": {"total": 5, "busy": 0},
    }


def test_stats_has_counters_and_gauges() -> None:
    harness = opened(1)
    for _ in range(3):
        harness.submit()
    harness.finish(1)
    harness.clock.advance(12.5)
    stats = shown(harness, "STATS")
    assert stats["jobs"] == {"pending": 1, "running": 1, "completed": 1, "failed": 0, "cancelled": 0}
    assert (stats["slots"], stats["uptime"], stats["connections"]) == (1, 12.5, 0)
    assert stats["version"] == __version__
    assert (stats["counters"]["submitted"], stats["counters"]["started"]) == (3, 2)
    assert stats["store"] == {"failure": None, "segment": 1, "segment_bytes": 8}
    assert stats["draining"] is False
    assert (stats["on_stop"], stats["on_stop_reason"]) == ("leave", None)
    assert stats["limits"]["line"] == parser.MAX_LINE_LENGTH
    harness.journal.fail("no space left")
    assert shown(harness, "STATS")["store"]["failure"] == "no space left"


def test_stats_say_why_a_stop_will_not_leave_jobs() -> None:
    harness = opened()
    harness.shutdown.stop_mode = OnStop.INTERRUPT
    harness.shutdown.leave_obstacle = "taskqd.service has KillMode=mixed"
    stats = shown(harness, "STATS")
    assert (stats["on_stop"], stats["on_stop_reason"]) == ("interrupt", "taskqd.service has KillMode=mixed")


def test_hello_describes_server_and_client() -> None:
    harness = opened()
    word, version, text = answer(harness, "HELLO").split(" ", 2)
    hello = json.loads(text)
    assert (word, version) == ("TASKQ", "1")
    assert hello["verbs"] == list(verbs.VERBS)
    assert hello["options"] == [f"--{name}" for name in submit.SUBMIT_OPTIONS]
    assert hello["you"] == {"name": "ada", "role": "admin"}
    assert hello["auth"] == ["token"]
    stranger = result_of(ask(harness, "HELLO", FakeClient(None)))
    assert json.loads(stranger.split(b" ", 2)[2])["you"] is None


def test_auth_with_admin_token_makes_the_client_an_admin() -> None:
    harness = opened()
    client = FakeClient(None)
    assert isinstance(refusal(harness, "AUTH wrong", client), AuthFailed)
    assert (client.principal, client.failures) == (None, 1)
    assert result_of(ask(harness, "AUTH sesame", client)) == b"OK token admin\r\n"
    assert client.principal == Principal("token", Role.ADMIN)


@pytest.mark.parametrize(
    "principal, found",
    [
        (Principal("ann", Role.SUBMIT, "pid 1", uid=7), {"name": "ann", "role": "submit", "from": "pid 1"}),
        (
            Principal("ci", Role.READ, "10.0.0.5:1", queue="q", token="1"),
            {"name": "ci", "role": "read", "from": "10.0.0.5:1", "queue": "q"},
        ),
    ],
)
def test_hello_has_the_fields_of_the_principal(principal: Principal, found: dict[str, str]) -> None:
    reply = result_of(ask(opened(), "HELLO", FakeClient(principal)))
    assert json.loads(reply.split(b" ", 2)[2])["you"] == found


def test_hello_and_stats_have_every_limit() -> None:
    limits = Limits(connections=7, submissions=2.5, idle_time=None, output=1000, line=2048)
    harness = Harness(limits=limits)
    stats = shown(harness, "STATS")["limits"]
    hello = json.loads(answer(harness, "HELLO").split(" ", 2)[2])["limits"]
    assert hello == stats == {**admin.LIMITS, **describe(limits), "slots": 2, "max_slots": 10_000}
    assert set(asdict(limits)) - {"output"} | {"max_output"} <= set(stats)
    assert (stats["connections"], stats["submissions"], stats["idle_time"]) == (7, 2.5, None)
    assert (stats["max_output"], stats["line"]) == (1000, 2048)


def test_auth_answers_with_name_and_role() -> None:
    harness, client = opened(), FakeClient(None)
    harness.authenticator.tokens["t"] = Principal("ann", Role.SUBMIT, queue="q", token="1")
    assert result_of(ask(harness, "AUTH t", client)) == b"OK ann submit\r\n"
    assert client.principal == harness.authenticator.tokens["t"]


def test_ping_and_quit_answer_ok_and_quit_closes() -> None:
    harness = opened()
    client = FakeClient()
    assert result_of(ask(harness, "PING", client)) == b"OK\r\n"
    assert not client.is_finished
    assert result_of(ask(harness, "QUIT", client)) == b"OK\r\n"
    assert client.is_finished


def test_help_has_a_line_for_every_verb() -> None:
    harness = opened()
    lines = answer(harness, "HELP").split("\r\n")
    assert [line.split()[1] for line in lines[:-2]] == list(verbs.VERBS)
    assert lines[-2:] == ["END", ""]
    for verb in verbs.VERBS:
        first, *_, end, _ = answer(harness, f"HELP {verb}").split("\r\n")
        assert first.startswith(f"OK {verb}")
        assert end == "END"


@pytest.mark.parametrize("verb", ["SUBMIT", "SET", "SCHEDULE"])
def test_help_of_verb_lists_its_options(verb: str) -> None:
    lines = answer(opened(), f"HELP {verb}").split("\r\n")[1:-2]
    assert all(line.startswith("OK ") and len(line) <= 103 for line in lines)
    forms = " ".join(line.removeprefix("OK ") for line in lines).removeprefix("Options: ").split(" ")
    assert forms == [
        f"--{name}" if option.usage is None else f"--{name}={option.usage}"
        for name, option in verbs.VERBS[verb].options.items()
    ]


def test_drain_refuses_and_starts_no_jobs(caplog: pytest.LogCaptureFixture) -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    client = FakeClient(Principal("ann", Role.ADMIN, "pid 7"))
    assert result_of(ask(harness, "DRAIN", client)) == b"OK\r\n"
    assert caplog.messages == ["ann (pid 7) drained the daemon"]
    assert isinstance(refusal(harness, "SUBMIT true"), Draining)
    assert shown(harness, "STATS")["draining"] is True
    harness.finish(1)
    assert harness.statuses() == [Status.COMPLETED, Status.PENDING]
    assert answer(harness, "DRAIN") == "OK\r\n"
    caplog.clear()
    assert result_of(ask(harness, "DRAIN --off", client)) == b"OK\r\n"
    assert caplog.messages == ["ann (pid 7) ended the drain of the daemon"]
    harness.settle()
    assert harness.statuses() == [Status.COMPLETED, Status.RUNNING]


ROOT = Principal("root", Role.ADMIN, "pid 7")


@pytest.mark.parametrize(
    "line, mode, asked, reply, logged",
    [
        ("SHUTDOWN", OnStop.LEAVE, None, b"OK 1 left\r\n", "1 running job is left"),
        ("SHUTDOWN", OnStop.REQUEUE, None, b"OK 1 requeued\r\n", "1 running job is requeued"),
        ("SHUTDOWN --end", OnStop.LEAVE, True, b"OK 1 ended\r\n", "1 running job is ended"),
    ],
)
def test_shutdown_stops_the_daemon_and_answers_at_once(
    line: str, mode: OnStop, asked: bool | None, reply: bytes, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness = opened()
    harness.shutdown.stop_mode = mode
    harness.submit()
    assert result_of(ask(harness, line, FakeClient(ROOT))) == reply
    assert harness.shutdown.requests == [asked]
    assert caplog.messages == [f"root (pid 7) shut the daemon down: {logged}"]


def test_shutdown_with_wait_is_answered_when_the_jobs_have_ended() -> None:
    harness = opened()
    for _ in range(2):
        harness.submit()
    replied = ask(harness, "SHUTDOWN --end --wait", FakeClient(ROOT))
    assert harness.shutdown.requests == [True]
    assert not replied.called
    harness.shutdown.stopped.callback(None)
    assert result_of(replied) == b"OK 2 ended\r\n"


def test_shutdown_goes_on_if_the_client_that_waits_for_it_disconnects() -> None:
    harness, client = opened(), FakeClient(ROOT)
    replied = ask(harness, "SHUTDOWN --wait", client)
    client.held[0].cancel()
    assert isinstance(error_of(replied), CancelledError)
    harness.shutdown.stopped.callback(None)


@pytest.mark.parametrize("role", [Role.READ, Role.SUBMIT])
def test_shutdown_needs_an_admin(role: Role) -> None:
    harness = opened()
    client = FakeClient(Principal("ann", role, "pid 7"))
    assert isinstance(refusal(harness, "SHUTDOWN", client), Forbidden)
    assert harness.shutdown.requests == []


def test_shutdown_over_tcp_is_refused_unless_remote_control_allows_it() -> None:
    client = FakeClient(ROOT)
    client.is_local = False
    harness = opened()
    why = refusal(harness, "SHUTDOWN --end", client)
    assert isinstance(why, Forbidden)
    assert "only over the daemon's UNIX socket" in str(why)
    assert "remote-control = true" in str(why)
    assert harness.shutdown.requests == []
    harness = Harness(limits=Limits(remote_control=True))
    assert result_of(ask(harness, "SHUTDOWN --end", client)) == b"OK 0 ended\r\n"
