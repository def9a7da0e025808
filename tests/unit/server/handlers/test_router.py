"""Routing, authentication and errors of requests."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import (
    AuthRequired,
    BadRequest,
    Forbidden,
    NoSuchJob,
    TaskqError,
    TooLarge,
    UnknownCommand,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Output
from taskqd.model.roles import Role
from taskqd.protocol import parser, verbs
from taskqd.server.handlers import router
from tests.fakes.client import FakeClient
from tests.fakes.connections import FakeSocket, FakeTransport
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness
from tests.support.requests import answer, answer_of, ask, opened, refusal, shown


def test_router_has_a_handler_for_every_verb() -> None:
    assert opened().router.verbs == set(verbs.VERBS)


def test_submit_status_and_result_have_their_stable_format() -> None:
    harness = opened()
    assert answer(harness, "SUBMIT echo hello") == "JOB_ID 1\r\n"
    assert answer(harness, "STATUS 1") == "STATUS RUNNING 0\r\n"
    outcome = Outcome(
        reason=None, exit_code=0, stdout=Output.inline(b"hello\n"), stderr=Output.inline(b'a "b"\t\\\r\xff')
    )
    harness.finish(1, outcome)
    assert answer(harness, "STATUS 1") == "STATUS COMPLETED 100\r\n"
    assert answer(harness, "RESULT 1") == 'RESULT "hello\\n" "a \\"b\\"\\t\\\\\\r\\xFF" 0\r\n'


@pytest.mark.parametrize(
    "line", [f"{verb} 9" for verb in ("STATUS", "RESULT", "SHOW", "WAIT", "CANCEL", "RETRY")]
)
def test_unknown_id_is_no_such_job(line: str) -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, line), NoSuchJob)
    assert isinstance(refusal(harness, "OUTPUT 9 stdout"), NoSuchJob)


@pytest.mark.parametrize(
    "line, error",
    [
        ("STATUS x", BadRequest),
        ("FROB", UnknownCommand),
        ("SUBMIT --every=1h true", BadRequest),
        ("\xff", UnknownCommand),
    ],
)
def test_request_with_parse_error_raises_it(line: str, error: type[TaskqError]) -> None:
    assert isinstance(refusal(opened(), line), error)


def test_task_reference_is_accepted_in_place_of_an_id() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=5-7 true")
    assert answer(harness, "STATUS 1.5") == "STATUS RUNNING 0\r\n"
    assert shown(harness, "SHOW 1.6")["id"] == 3
    assert answer(harness, "HOLD 1.6") == "STATUS PENDING 0\r\n"
    assert harness.job(3).is_held
    assert answer(harness, "RELEASE 1.6") == "STATUS PENDING 0\r\n"
    assert not harness.job(3).is_held
    assert answer(harness, "CANCEL 1.7") == "STATUS CANCELLED 0\r\n"
    assert answer(harness, "RETRY 1.7") == "JOB_ID 4\r\n"
    assert answer(harness, "WHY 1.7").startswith("OK ")
    waiting = ask(harness, "WAIT 1.5")
    harness.finish(2)
    assert result_of(waiting) == b"STATUS COMPLETED 100\r\n"
    for verb in ("STATUS", "SHOW", "RESULT", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY", "WHY", "HOLD"):
        assert isinstance(refusal(harness, f"{verb} 1.8"), NoSuchJob), verb
    assert isinstance(refusal(harness, "SET 1.8 --nice=1"), NoSuchJob)
    assert isinstance(refusal(harness, "REMOVE 1.5"), WrongState)


def expected(harness: Harness, client: FakeClient, line: str) -> TaskqError | None:
    return harness.router.check_before_blocks(client, parser.parse_line(line.encode())).error


def test_check_before_blocks_refuses_forbidden_submissions() -> None:
    harness = Harness(limits=Limits(block=10))
    line = "SUBMIT --stdin=10 cat"
    reader, user = (FakeClient(Principal("ann", role)) for role in (Role.READ, Role.SUBMIT))
    assert expected(harness, user, line) is expected(harness, FakeClient(), line) is None
    assert isinstance(expected(harness, FakeClient(None), line), AuthRequired)
    assert isinstance(expected(harness, reader, line), Forbidden)
    for large in (
        "SUBMIT --stdin=11 cat",
        "SUBMIT --script=11",
        "SUBMIT --script=1 --stdin=11",
        "SCHEDULE --every=1h --stdin=11 cat",
        "SCHEDULE --set=3 --script=11",
    ):
        assert isinstance(expected(harness, FakeClient(), large), TooLarge)
    assert isinstance(expected(harness, reader, "SUBMIT --bogus --stdin=1 cat"), BadRequest)
    assert isinstance(expected(harness, user, "SCHEDULE --run-now=3 --stdin=1"), BadRequest)
    for line in ("SCHEDULE --every=1h --stdin=10 cat", "SCHEDULE --set=3 --script=10"):
        assert expected(harness, user, line) is None
        assert isinstance(expected(harness, reader, line), Forbidden)


def test_invalid_token_is_auth_required_for_every_request() -> None:
    harness = opened()
    client = FakeClient(Principal("ann", Role.ADMIN, token="1"))
    assert answer_of(harness, "STATS", client).startswith("STATS ")
    harness.authenticator.revoked.add("1")
    assert isinstance(expected(harness, client, "SUBMIT --stdin=1 cat"), AuthRequired)
    for line in ("STATS", "SUBMIT true", "STATUS x"):
        why = refusal(harness, line, client)
        assert str(why) == "the token of ann was revoked or changed, or has expired; AUTH with another"
    for line in ("PING", "HELLO", "AUTH sesame"):
        assert not answer_of(harness, line, client).startswith("ERROR")
    assert client.principal == Principal("token", Role.ADMIN)


def test_identify_peer_returns_the_user_of_the_socket() -> None:
    assert opened().router.identify_peer(FakeTransport(FakeSocket(uid=0))) == Principal(
        "root", Role.ADMIN, "pid 4711", uid=0
    )


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_unauthenticated_client_may_use_only_open_verbs(verb: str) -> None:
    harness = opened()
    line = {"AUTH": "AUTH sesame"}.get(verb, f"{verb} 1")
    replied: Deferred[Any] = ask(harness, line, FakeClient(None))
    errors: list[Any] = []
    replied.addErrback(lambda failure: errors.append(failure.value))
    assert (verb in router.OPEN_VERBS) is not any(isinstance(error, AuthRequired) for error in errors)
