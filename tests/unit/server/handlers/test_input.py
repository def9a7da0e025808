"""The replies to SEND."""

import pytest
from twisted.internet.defer import CancelledError

from taskqd.errors import BadRequest, NoSuchJob, WrongState
from taskqd.execution.job_inputs import Delivery
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness
from tests.support.requests import answer, ask, opened, refusal


@pytest.fixture(name="harness")
def a_harness() -> Harness:
    harness = opened()
    answer(harness, "SUBMIT --interactive bc")
    return harness


def test_send_is_answered_with_the_bytes_that_were_written(harness: Harness) -> None:
    replied = ask(harness, "SEND 1 --data=4 --timeout=1m", blocks=[b"2+3\n"])
    assert harness.executor.inputs == [(1, b"2+3\n", False, 60.0)]
    harness.executor.delivered.callback(Delivery(4))
    assert result_of(replied) == b"OK 4\r\n"


def test_send_without_data_sends_the_end(harness: Harness) -> None:
    replied = ask(harness, "SEND 1 --eof")
    harness.executor.delivered.callback(Delivery(0))
    assert harness.executor.inputs == [(1, b"", True, 10.0)]
    assert result_of(replied) == b"OK 0\r\n"


def test_send_of_a_client_that_disconnects_is_withdrawn(harness: Harness) -> None:
    client = FakeClient()
    replied = ask(harness, "SEND 1 --data=1", client, blocks=[b"x"])
    client.held[0].cancel()
    assert isinstance(error_of(replied), CancelledError)
    assert harness.executor.delivered.called


def test_send_is_refused_for_other_jobs(harness: Harness) -> None:
    answer(harness, "SUBMIT true")
    assert isinstance(refusal(harness, "SEND 2 --eof"), WrongState)
    assert isinstance(refusal(harness, "SEND 9 --eof"), NoSuchJob)


def test_set_gives_an_interactive_job_no_retries(harness: Harness) -> None:
    answer(harness, "SUBMIT --hold --interactive bc")
    assert answer(harness, "SET 2 --retries=0 --priority=3").startswith("JOB ")
    why = refusal(harness, "SET 2 --retries=1")
    assert isinstance(why, BadRequest)
    assert "job 2 is interactive and can have no retries" in str(why)
