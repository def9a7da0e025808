"""The reply to SUBMIT, and who may pass on an environment."""

import json

import pytest

from taskqd.auth.principal import Principal
from taskqd.errors import BadRequest, Forbidden, TooLarge
from taskqd.model.environment import MAX_ENVIRONMENT_SIZE, environment_of, sort_block
from taskqd.model.roles import Role
from taskqd.protocol.parser import parse_line
from tests.fakes.client import Client, FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness
from tests.support.requests import ask, opened, shown


def test_submit_passes_blocks_by_name() -> None:
    harness = opened()
    result = ask(harness, "SUBMIT --stdin=2 --script=6", blocks=[b"echo 1", b"in"])
    harness.settle()
    assert result_of(result) == b"JOB_ID 1\r\n"
    assert harness.spool.blocks == {1: {"script": b"echo 1", "stdin": b"in"}}
    ask(harness, "SUBMIT --stdin=0 cat", blocks=[b""])
    assert harness.spool.blocks[2] == {"stdin": b""}


def test_submitted_job_belongs_to_the_client() -> None:
    harness = opened()
    ask(harness, "SUBMIT true", FakeClient(Principal("grace", Role.ADMIN)))
    harness.settle()
    assert harness.job(1).owner == "grace"


# Environments.

UNSORTED, BLOCK = b"B=hunter2\0A=1\0", b"A=1\0B=hunter2\0"
ENVIRONMENT = environment_of(BLOCK)
KNOWN = f"SUBMIT --environment={ENVIRONMENT.size}:{ENVIRONMENT.sha256}"


def submit_with_environment(harness: Harness, client: FakeClient, block: bytes = UNSORTED) -> bytes:
    replied = ask(harness, f"SUBMIT --hold --environment={len(block)} x", client, [block])
    harness.settle()
    return bytes(result_of(replied))


def test_environment_is_stored_sorted_and_shown_without_its_values() -> None:
    harness = opened()
    assert submit_with_environment(harness, FakeClient()) == b"JOB_ID 1\r\n"
    assert harness.spool.environments.blocks == {ENVIRONMENT.sha256: BLOCK}
    assert harness.job(1).spec.environment == ENVIRONMENT
    document = shown(harness, "SHOW 1")
    hash_and_size = {"sha256": ENVIRONMENT.sha256, "size": len(BLOCK)}
    assert document["environment"] == {**hash_and_size, "names": ["A", "B"]}
    listed = harness.job_view.describe(harness.job(1))
    assert listed["environment"] == hash_and_size
    assert "hunter2" not in json.dumps([document, listed]) + repr(harness.journal.events)


def test_names_of_a_lost_environment_are_unknown() -> None:
    harness = opened()
    submit_with_environment(harness, FakeClient())
    harness.spool.environments.blocks.clear()
    assert shown(harness, "SHOW 1")["environment"]["names"] is None


@pytest.mark.parametrize("block", [b"A=1", b"TASKQ_TOKEN=hunter2\0", b"A=1\0A=2\0"])
def test_invalid_environment_is_refused_and_not_stored(block: bytes) -> None:
    harness = opened()
    replied = ask(harness, f"SUBMIT --environment={len(block)} x", blocks=[block])
    assert isinstance(error_of(replied), BadRequest)
    assert harness.spool.environments.blocks == {}
    assert harness.queue_state.last_id == 0


def test_environment_is_only_for_clients_on_this_machine() -> None:
    harness, remote = opened(), FakeClient()
    submit_with_environment(harness, local := FakeClient())
    remote.is_local, remote.pin = False, local.pin
    line = f"SUBMIT --environment={len(BLOCK)} x"
    assert isinstance(error_of(ask(harness, line, remote, [BLOCK])), Forbidden)
    refused = harness.router.check_before_blocks(remote, parse_line(line.encode())).error
    assert isinstance(refused, Forbidden)
    assert "is allowed only over the daemon's UNIX socket" in str(refused)
    assert isinstance(error_of(ask(harness, f"{KNOWN} x", remote)), Forbidden)
    assert harness.router.check_before_blocks(local, parse_line(line.encode())).error is None


def test_environment_is_known_to_the_client_that_has_sent_it_and_to_no_other() -> None:
    harness, client = opened(), FakeClient()
    submit_with_environment(harness, client)
    assert client.environment == ENVIRONMENT
    replied = ask(harness, f"{KNOWN} --key=k x", client)
    harness.settle()
    assert result_of(replied) == b"JOB_ID 2\r\n"
    assert harness.job(2).spec.environment == ENVIRONMENT
    refused = error_of(ask(harness, f"{KNOWN} --key=k x", FakeClient()))
    assert isinstance(refused, BadRequest)
    assert "is not the last one that was accepted on this connection" in str(refused)


def test_environment_over_the_limit_is_refused_before_it_arrives() -> None:
    harness = opened()
    request = parse_line(b"SUBMIT --environment=%d x" % (MAX_ENVIRONMENT_SIZE + 1))
    assert isinstance(harness.router.check_before_blocks(FakeClient(), request).error, TooLarge)


def test_many_submissions_name_the_environment_that_was_sent_once() -> None:
    harness = opened()
    client, other = Client(harness), Client(harness)
    client.send(b"SUBMIT --environment=%d a\n%b\n" % (len(UNSORTED), UNSORTED) + f"{KNOWN} b\n".encode() * 3)
    harness.settle()
    other.send(f"{KNOWN} b\nSUBMIT c\n".encode())
    harness.settle()
    client.read()
    other.read()
    assert client.lines() == ["JOB_ID 1", "JOB_ID 2", "JOB_ID 3", "JOB_ID 4"]
    assert [line.split(" ")[1] for line in other.lines()] == ["BAD_REQUEST", "5"]
    assert [harness.job(each).spec.environment for each in range(1, 6)] == [ENVIRONMENT] * 4 + [None]
    assert harness.spool.environments.stored == [ENVIRONMENT.sha256]


def test_environment_of_a_connection_is_kept_until_it_sends_another_or_ends() -> None:
    harness = opened()
    client = Client(harness)
    for block in (UNSORTED, b"C=3\0"):
        client.send(b"SUBMIT --hold --environment=%d a\n%b\n" % (len(block), block))
        harness.settle()
        harness.cancel(harness.queue_state.last_id)
        harness.settle()
        harness.remove(harness.queue_state.last_id)
        harness.settle()
        assert list(harness.spool.environments.blocks) == [environment_of(sort_block(block)).sha256]
    client.transport.lose()
    assert harness.spool.environments.blocks == {}


def test_environment_of_a_client_that_has_disconnected_is_kept_for_its_job_only() -> None:
    harness = opened()
    client = Client(harness)
    client.send(b"SUBMIT --hold --environment=%d a\n%b\n" % (len(BLOCK), BLOCK))
    client.transport.lose()
    harness.settle()
    assert harness.job(1).spec.environment == ENVIRONMENT
    assert harness.engine.environments.pinned == frozenset()
