"""The reply to SUBMIT."""

from taskqd.auth.principal import Principal
from taskqd.model.roles import Role
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import result_of
from tests.support.requests import ask, opened


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
