"""Authorization of requests by role, owner, queue of the token, and limits, tested through the router."""

import pytest
from msgspec.structs import replace

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import Forbidden
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.model.spec import Spec
from taskqd.protocol import verbs
from taskqd.protocol.parser import parse_line
from tests.fakes.client import Client, FakeClient
from tests.fakes.connections import FakeSocket
from tests.fakes.engine import Harness
from tests.support.clients import ANN, BOB, EVE, IN_Q, ROOT, Server
from tests.support.every_verb import LINES, WHO, code_for


def server_of_ann() -> Server:
    """Return a server on which ann has a running job 1, a pending job 2, an ended job 3 and a schedule 1."""
    server = Server()
    for line in ("SUBMIT sleep 9", "SUBMIT true", "SCHEDULE --every=1h true", "SUBMIT true"):
        server.ask(ANN, line)
    server.ask(ANN, "CANCEL 3")
    return server


@pytest.fixture(name="server")
def a_server() -> Server:
    return server_of_ann()


THINGS = {"job": 2, "ended": 3, "schedule": 1}


THOSE: dict[str, Principal | None] = {
    "a stranger": None,
    "a reader": EVE,
    "an owner who may only read": Principal("ann", Role.READ, "10.0.0.5:1", token="2"),
    "another": BOB,
    "the owner": ANN,
    "an admin": ROOT,
}


def test_table_has_a_request_of_every_verb() -> None:
    assert set(LINES) == set(verbs.VERBS)
    assert tuple(THOSE) == WHO


@pytest.mark.parametrize("verb", LINES)
def test_verb_is_allowed_as_the_table_says(verb: str) -> None:
    found: dict[str, str | None] = {}
    for who, principal in THOSE.items():
        server = server_of_ann()
        before = list(server.harness.journal.events), server.harness.engine.dispatcher.is_draining
        said = server.ask(principal, LINES[verb].format(**THINGS))
        found[who] = said if said in ("FORBIDDEN", "AUTH_REQUIRED") else None
        if found[who]:
            assert (server.harness.journal.events, server.harness.engine.dispatcher.is_draining) == before
    assert found == {who: code_for(verb, who) for who in WHO}


@pytest.mark.parametrize("line", ["PAUSE", "RESUME", "PAUSE q", "RESUME q"])
def test_pause_and_resume_of_queues_need_the_role_admin(server: Server, line: str) -> None:
    before = list(server.harness.journal.events)
    for who in (ANN, EVE, IN_Q):
        assert server.ask(who, line) == "FORBIDDEN"
    assert server.harness.journal.events == before
    assert server.ask(ROOT, line) == "OK"


@pytest.mark.parametrize("verb", ["WAIT", "CANCEL", "WATCH"])
def test_unknown_job_is_no_such_job_for_every_role(server: Server, verb: str) -> None:
    line = f"{verb} --job=99" if verb == "WATCH" else f"{verb} 99"
    assert [server.ask(who, line) for who in (ANN, BOB, ROOT)] == ["NO_SUCH_JOB"] * 3


def test_wait_for_a_job_of_another_user_is_refused_as_a_whole(server: Server) -> None:
    server.ask(BOB, "SUBMIT --hold b")
    assert server.ask(BOB, "WAIT 4 3 --any") == "FORBIDDEN"
    assert not server.harness.engine.waiter_count


def test_lists_contain_only_what_the_client_may_see(server: Server) -> None:
    for line, many in (("LIST", 3), ("SCHEDULES", 1)):
        counts = {who.name: server.whole(who, line).split()[-1] for who in (ANN, BOB, EVE, ROOT)}
        assert counts == {"ann": str(many), "bob": "0", "eve": str(many), "root": str(many)}


def test_filters_of_a_list_do_not_show_what_the_client_may_not_see(server: Server) -> None:
    server.ask(BOB, "SUBMIT --queue=q --hold true")
    server.ask(ANN, "SUBMIT --queue=q --hold true")
    listed = {
        (who, options): server.whole(who, f"LIST {options}").split()[-1]
        for who in (ANN, BOB, IN_Q, ROOT)
        for options in ("--owner=ann", "--owner=bob", "--queue=q", "--queue=default", "--status=PENDING")
    }
    assert list(listed.values()) == [
        *("4", "0", "1", "3", "2"),
        *("0", "1", "1", "0", "1"),
        *("1", "0", "1", "0", "1"),
        *("4", "1", "2", "3", "3"),
    ]


def test_watch_sends_only_events_of_own_jobs(server: Server) -> None:
    server.ask(BOB, "SUBMIT --hold b")
    server.ask(ROOT, "PAUSE q")
    counts = {who.name: server.whole(who, "WATCH --since=1").count("EVENT") for who in (ANN, BOB, EVE, ROOT)}
    assert counts["bob"] == 1
    assert counts["ann"] + 2 == counts["eve"] == counts["root"] == len(server.harness.journal.events)


def test_dependency_on_a_job_of_another_user_is_refused(server: Server) -> None:
    for option in ("after", "after-any", "after-fail"):
        assert server.ask(BOB, f"SUBMIT --{option}=2 true") == "FORBIDDEN"
        assert server.ask(ANN, f"SUBMIT --{option}=2 true") == "JOB_ID"


def test_cascade_over_jobs_of_another_user_is_refused_as_a_whole(server: Server) -> None:
    server.ask(ROOT, "SUBMIT --after=2 true")
    assert server.ask(ANN, "CANCEL 2 --cascade") == "FORBIDDEN"
    assert server.status(2) is Status.PENDING
    assert server.ask(ROOT, "CANCEL 2 --cascade") == "STATUS"
    assert server.ask(ANN, "CANCEL 1 --cascade") == "STATUS"


def test_task_has_the_owner_of_its_array(server: Server) -> None:
    server.ask(ANN, "SUBMIT --hold --array=1-3 true")
    assert [server.ask(who, "STATUS 4.2") for who in (ANN, BOB)] == ["STATUS", "FORBIDDEN"]
    assert [server.ask(who, "LIST --array=4").split()[0] for who in (ANN, BOB)] == ["JOB", "FORBIDDEN"]


def test_keys_of_different_owners_are_independent(server: Server) -> None:
    ids = {who.name: server.whole(who, "SUBMIT --key=k true") for who in (ANN, BOB, ANN)}
    assert ids["ann"] != ids["bob"]
    assert server.ask(BOB, "SUBMIT --key=k false") == "KEY_CONFLICT"
    assert [server.whole(who, "LIST --key=k").split()[-1] for who in (ANN, BOB, ROOT)] == ["1", "1", "2"]


def test_token_of_one_queue_is_refused_for_other_queues(server: Server) -> None:
    assert server.ask(IN_Q, "SUBMIT true") == "FORBIDDEN"
    assert server.ask(IN_Q, "SUBMIT --queue=q true") == "JOB_ID"
    assert server.ask(IN_Q, "SCHEDULE --queue=q --every=1h true") == "OK"
    assert [server.ask(IN_Q, line) for line in ("STATUS 2", "CANCEL 2", "UNSCHEDULE 1")] == ["FORBIDDEN"] * 3
    assert server.ask(IN_Q, "SET 4 --queue=default") == "FORBIDDEN"
    for option in ("after", "after-any", "after-fail"):
        assert server.ask(IN_Q, f"SUBMIT --queue=q --{option}=2 true") == "FORBIDDEN"
        assert server.ask(IN_Q, f"SUBMIT --queue=q --hold --{option}=4 true") == "JOB_ID"
    for line in ("CANCEL 5", "CANCEL 6", "CANCEL 7"):
        server.ask(ROOT, line)
    server.ask(ANN, "SUBMIT --after=4 true")
    assert server.whole(IN_Q, "CANCEL 4 --cascade").startswith(
        "FORBIDDEN permission denied: job 8, which comes after it, is in queue default, and "
        "your token is valid only for queue q"
    )
    for line in ("CANCEL 8", "REMOVE 8", "REMOVE 7", "REMOVE 6", "REMOVE 5"):
        server.ask(ROOT, line)
    assert server.whole(IN_Q, "LIST").split()[-1] == "1"
    assert server.whole(IN_Q, "SCHEDULES").split()[-1] == "1"
    assert [server.ask(IN_Q, f"SCHEDULES {number}") for number in (1, 2)] == ["END", "SCHEDULE"]
    assert server.whole(IN_Q, "WATCH --since=1").count("EVENT") == 1


def test_priority_above_the_limit_needs_the_role_admin(server: Server) -> None:
    assert server.ask(ANN, "SUBMIT --priority=1 true") == "FORBIDDEN"
    assert server.ask(ANN, "SET 2 --priority=1") == "FORBIDDEN"
    assert server.ask(ANN, "SUBMIT --priority=-5 true") == "JOB_ID"
    assert server.ask(ROOT, "SUBMIT --priority=1 true") == "JOB_ID"
    assert Server(priority=None).ask(ANN, "SUBMIT --priority=1000000 true") == "JOB_ID"


def test_on_end_queue_is_refused_to_all_but_admins(server: Server) -> None:
    assert server.ask(ANN, "SUBMIT --queue=on_end true") == "FORBIDDEN"
    assert server.ask(ANN, "SET 2 --queue=on_end") == "FORBIDDEN"


def test_forbidden_submission_is_refused_before_its_block_arrives() -> None:
    harness = Harness()
    harness.authenticator.roles["4000001"] = Role.READ
    client = Client(harness, FakeSocket(uid=4_000_001))
    client.send(b"SUBMIT --stdin=2 cat\n")
    assert client.transport.received.startswith(b"ERROR FORBIDDEN permission denied: SUBMIT needs the")
    client.send(b"hi\r\nPING\n")
    assert client.transport.received.endswith(b"\r\nOK\r\n")


def test_batch_refuses_single_submissions() -> None:
    harness = Harness(limits=Limits(command=5))
    client = Client(harness)
    client.send(b"SUBMIT true\nSUBMIT too long\nSUBMIT false\nSUBMIT --after=99 x\nSUBMIT x\n")
    harness.settle()
    words = [line.split()[:2] for line in client.transport.received.decode().splitlines()]
    assert words == [
        *(["JOB_ID", "1"], ["ERROR", "TOO_LARGE"], ["JOB_ID", "2"], ["ERROR", "NO_SUCH_JOB"], ["JOB_ID", "3"])
    ]
    client.send(b"SUBMIT x\nSUBMIT y\n")
    harness.journal.fail()
    assert client.transport.received.count(b"ERROR STORE_FAILED") == 2
    assert harness.engine.submissions.quota.is_empty


def test_submission_may_depend_on_one_of_the_same_read() -> None:
    harness = Harness(slots=1)
    client = Client(harness)
    client.send(b"SUBMIT --hold true\nSUBMIT --after=1 true\nSUBMIT --key=k true\nSUBMIT true\n")
    for _ in range(4):
        harness.settle()
    words = [line.split() for line in client.transport.received.decode().splitlines()]
    assert words == [["JOB_ID", str(number)] for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("content, blocks", [("--command=id", []), ("--script=2", [b"id"])])
def test_command_of_a_job_is_changed_by_its_owner_alone(
    server: Server, content: str, blocks: list[bytes]
) -> None:
    for who in (BOB, EVE, IN_Q):
        assert server.ask(who, f"SET 2 {content}", blocks) == "FORBIDDEN"
    refused = server.whole(ROOT, f"SET 2 --nice=1 {content}", blocks)
    assert refused.startswith("FORBIDDEN permission denied: job 2 belongs to ann, who alone may change its ")
    assert server.ask(ROOT, "SET 2 --priority=5") == "JOB"
    assert server.ask(ANN, f"SET 2 {content}", blocks) == "JOB"
    assert server.harness.job(2).spec.priority == 5


def test_script_is_read_by_its_owner_alone(server: Server) -> None:
    server.ask(ANN, "SUBMIT --script=2", [b"id"])
    assert [server.ask(who, "OUTPUT 4 script") for who in (BOB, EVE, ROOT, ANN)] == [
        *["FORBIDDEN"] * 3,
        "DATA",
    ]


def test_script_for_a_job_of_another_user_is_refused_before_it_is_received(server: Server) -> None:
    client, request = FakeClient(ROOT), parse_line(b"SET 2 --script=2")
    assert isinstance(server.harness.router.check_before_blocks(client, request).error, Forbidden)


def test_script_for_a_job_that_is_not_known_yet_is_received(server: Server) -> None:
    client, request = FakeClient(ANN), parse_line(b"SET 99 --script=5")
    assert server.harness.router.check_before_blocks(client, request).error is None


def test_job_whose_command_is_changed_runs_as_its_owner_may_run_jobs_then(server: Server) -> None:
    """A job that root itself submitted does not run as the daemon once a token of that name changes it."""
    seen: list[tuple[str, bool]] = []

    def check_run(who: Principal, spec: Spec) -> Spec:
        seen.append((who.name, spec.as_daemon))
        return replace(spec, as_daemon=who.uid == 0)

    server.harness.authorizer._check_run = check_run
    server.ask(ROOT, "SUBMIT --hold true")
    assert server.harness.job(4).spec.as_daemon
    server.ask(ROOT, "SET 4 --command=id")
    assert server.harness.job(4).spec.as_daemon
    server.ask(Principal("root", Role.ADMIN, "10.0.0.5:1", token="9"), "SET 4 --command=sh")
    assert not server.harness.job(4).spec.as_daemon
    assert seen == [("root", False)] * 3


def test_schedule_is_run_by_its_owner_or_an_admin(server: Server) -> None:
    assert [server.ask(who, "SCHEDULE --run-now=1") for who in (BOB, EVE, IN_Q)] == ["FORBIDDEN"] * 3
    assert server.ask(ROOT, "SCHEDULE --run-now=1") == "JOB_ID"
    assert server.ask(ANN, "SCHEDULE --run-now=1") == "WRONG_STATE"


def test_schedule_is_changed_by_its_owner_or_an_admin_and_keeps_its_owner(server: Server) -> None:
    assert [server.ask(who, "SCHEDULE --set=1 false") for who in (BOB, EVE, IN_Q)] == ["FORBIDDEN"] * 3
    assert server.ask(ANN, "SCHEDULE --set=1 --queue=q false") == "OK"
    assert server.ask(IN_Q, "SCHEDULE --set=1 --label=x") == "OK"
    assert server.ask(ROOT, "SCHEDULE --set=1 --priority=5") == "OK"
    schedule = server.harness.queue_state.schedules.get(1)
    assert (schedule.owner, schedule.command, schedule.spec.priority) == ("ann", "false", 5)
    assert server.ask(IN_Q, "SCHEDULE --set=1 --queue=default") == "FORBIDDEN"


@pytest.mark.parametrize(
    "content", ["id", "--env=PATH=/tmp/x", "--cwd=/tmp", "--umask=0", "--secret=A=1", "--stderr=/x"]
)
def test_schedule_of_another_user_keeps_what_it_executes(server: Server, content: str) -> None:
    assert server.ask(ROOT, f"SCHEDULE --set=1 {content}") == "FORBIDDEN"
    assert server.ask(ANN, f"SCHEDULE --set=1 {content}") == "OK"


def test_schedule_that_another_user_changes_runs_as_its_owner(server: Server) -> None:
    """A change by root does not make the jobs of another user run as root, and keeps none that did."""
    checked: list[tuple[str, bool]] = []

    def check_run(who: Principal, spec: Spec) -> Spec:
        checked.append((who.name, spec.as_daemon))
        return replace(spec, as_daemon=who.name == "root")

    server.harness.authorizer._check_run = check_run
    server.ask(ROOT, "SCHEDULE --set=1 --label=x")
    assert not server.harness.queue_state.schedules.get(1).spec.as_daemon
    server.ask(ROOT, "SCHEDULE --every=1h true")
    server.ask(ROOT, "SCHEDULE --set=2 false")
    assert checked == [("ann", False), ("root", False), ("root", False)]
    assert server.harness.queue_state.schedules.get(2).spec.as_daemon
