"""The limits of submissions and changes, tested through the router."""

from typing import Any

import pytest

from taskqd.config.limits import Limits
from taskqd.model.footprint import JOB_BYTES
from taskqd.model.job import Status
from taskqd.model.roles import Role
from tests.fakes.client import Client
from tests.fakes.connections import FakeSocket
from tests.fakes.engine import Harness
from tests.fakes.processes import FAILED
from tests.support.clients import ANN, BOB, ROOT, Server


def test_default_priority_is_reduced_to_the_limit() -> None:
    server = Server(priority=-7)
    for who in (ANN, ROOT):
        server.ask(who, "SUBMIT --hold true")
        server.ask(who, "SCHEDULE --every=1h true")
    assert [server.harness.job(number).spec.priority for number in (1, 2)] == [-7, 0]
    assert [server.harness.queue_state.schedules.get(number).spec.priority for number in (1, 2)] == [-7, 0]
    assert server.ask(ANN, "SUBMIT --priority=-6 true") == "FORBIDDEN"
    assert server.ask(ANN, "SET 1 --label=x") == "JOB", "its priority is not changed"
    assert server.ask(ANN, "SET 1 --priority=-6") == "FORBIDDEN"


def test_pending_jobs_of_one_user_are_limited_except_for_admins() -> None:
    server = Server(pending_per_user=2)
    for _ in range(3):
        server.ask(ANN, "SUBMIT --hold true")
    assert server.harness.queue_state.pending_of("ann") == 2
    assert server.ask(ANN, "SUBMIT --array=1-3 true") == "QUEUE_FULL"
    assert [server.ask(ROOT, "SUBMIT --hold true") for _ in range(3)] == ["JOB_ID"] * 3
    server.ask(ANN, "CANCEL 1")
    assert server.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    assert server.ask(ANN, "RETRY 1") == "QUEUE_FULL"


def test_retry_beyond_the_pending_limit_is_refused() -> None:
    server = Server(pending_per_user=4, pending=5)
    server.ask(ANN, "SUBMIT --hold --array=1-3 true")
    assert server.ask(ANN, "RETRY 1") == "WRONG_STATE", "it has not ended"
    server.ask(ANN, "CANCEL 1")
    for _ in range(2):
        server.ask(ANN, "SUBMIT --hold true")
    assert server.whole(ANN, "RETRY 1") == (
        "QUEUE_FULL cannot add 3 jobs: ann has 2 pending jobs, "
        "the limit for one user is 4 (pending-per-user); retry when some have started"
    )
    assert server.ask(ANN, "RETRY 1.2") == "JOB_ID"
    server.harness.finish(3, FAILED)
    server.ask(BOB, "SUBMIT --hold true")
    assert server.whole(ROOT, "RETRY 1") == (
        "QUEUE_FULL cannot add 3 jobs: the daemon has 3 pending jobs, "
        "the limit for all users is 5 (pending); retry when some have started"
    )
    server.ask(BOB, "CANCEL 7")
    assert server.ask(ROOT, "RETRY 1") == "JOB_ID", "the limit of one user does not apply to admins"


def test_retry_of_array_counts_only_tasks_that_did_not_complete() -> None:
    server = Server(pending_per_user=2)
    server.ask(ANN, "SUBMIT --array=1-2 true")
    server.harness.finish(2)
    server.harness.finish(3, FAILED)
    server.ask(ANN, "SUBMIT true")
    server.ask(ANN, "SUBMIT --hold true")
    assert server.ask(ANN, "RETRY 1") == "JOB_ID"
    assert [server.status(number) for number in (2, 3)] == [Status.COMPLETED, Status.PENDING]
    server.ask(ANN, "CANCEL 1")
    assert server.ask(ANN, "RETRY 2") == "JOB_ID"
    done = Server(pending_per_user=2)
    done.ask(ANN, "SUBMIT --array=1-2 true")
    done.harness.finish(2)
    done.harness.finish(3)
    for _ in range(2):
        done.ask(ANN, "SUBMIT true")
    assert done.ask(ANN, "RETRY 1") == "QUEUE_FULL", "all tasks of a completed array run again"


def test_started_jobs_do_not_count_as_pending() -> None:
    server = Server(pending_per_user=1, pending=1)
    assert [server.ask(ANN, "SUBMIT true") for _ in range(3)] == ["JOB_ID", "JOB_ID", "QUEUE_FULL"]
    server.harness.finish(1)
    assert [server.ask(ANN, "SUBMIT true") for _ in range(2)] == ["JOB_ID", "QUEUE_FULL"]


def test_cascade_counts_as_one_change_per_job() -> None:
    server = Server(submissions=1.0)
    server.ask(ROOT, "SUBMIT --hold true")
    server.ask(ANN, "SUBMIT --hold true")
    for _ in range(8):
        assert server.ask(ANN, "SUBMIT --after=2 true") == "JOB_ID"
    assert server.ask(ANN, "HOLD 2") == "STATUS"
    assert server.ask(ANN, "CANCEL 2 --cascade") == "QUEUE_FULL", "its burst of ten is used up"
    server.harness.clock.advance(2)
    assert server.ask(ANN, "CANCEL 2 --cascade") == "STATUS"
    assert server.whole(ANN, "SUBMIT true").endswith("retry in 8.000 s"), "2 - (1 + 8) are left, 1 is needed"


@pytest.mark.parametrize(
    "line", ["HOLD 1", "RELEASE 1", "SET 1 --label=x", "PAUSE --schedule=1", "RESUME --schedule=1"]
)
def test_change_counts_as_a_submission(line: str) -> None:
    server = Server(submissions=1.0)
    server.ask(ROOT, "SUBMIT true")
    for asked in ("SUBMIT --hold true", "SCHEDULE --every=1h true"):
        server.ask(ANN, asked)
    mine = line.replace(" 1", " 2")
    answers = [server.ask(ANN, mine) for _ in range(9)]
    assert answers[:8] == [answers[0]] * 8
    assert (answers[0] == "QUEUE_FULL", answers[8]) == (False, "QUEUE_FULL")


def test_retry_remove_and_unschedule_count_as_submissions() -> None:
    server = Server(submissions=1.0)
    for asked in ("SUBMIT true", "SUBMIT --hold true", "CANCEL 2", "SCHEDULE --every=1h true"):
        server.ask(ANN, asked)
    for asked in ("RETRY 2", "CANCEL 2", "REMOVE 2", "UNSCHEDULE 1", "SUBMIT true", "SUBMIT true"):
        assert server.ask(ANN, asked) in ("JOB_ID", "STATUS", "OK")
    assert server.ask(ANN, "CANCEL 1") == "QUEUE_FULL"
    assert server.ask(ANN, "STATUS 1") == "STATUS", "requests that change nothing do not count"
    assert server.ask(ROOT, "CANCEL 1 --cascade") == "STATUS"


def test_pending_bytes_of_one_user_are_limited() -> None:
    server = Server(pending_bytes_per_user=2 * JOB_BYTES + 2000)
    long = "x" * 500
    assert server.ask(ANN, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    server.ask(ANN, "CANCEL 1")
    assert server.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    assert server.ask(ANN, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    refused = (
        "QUEUE_FULL cannot add 1604 bytes: ann has 2708 bytes of pending jobs, "
        "the limit for one user is 3000 bytes (pending-bytes-per-user); retry when some have started"
    )
    assert server.whole(ANN, f"SUBMIT --hold --label={long} true") == refused
    assert server.whole(ANN, "RETRY 1") == refused
    assert server.ask(ANN, f"SET 3 --label={long}{long}") == "QUEUE_FULL"
    assert server.harness.job(3).spec.label == long
    assert server.ask(ANN, "SET 3 --label=short") == "JOB"
    assert server.ask(BOB, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    assert server.ask(ROOT, f"SUBMIT --hold --label={long}{long} true") == "JOB_ID"
    shared = Server(pending_bytes=JOB_BYTES + 1500)
    asked = [shared.ask(who, f"SUBMIT --hold --label={long} true") for who in (ANN, ROOT)]
    assert asked == ["JOB_ID", "QUEUE_FULL"]


def test_submission_that_was_not_recorded_does_not_count() -> None:
    harness = Harness(slots=1, limits=Limits(pending_per_user=3, pending=4))
    harness.authenticator.roles["4000001"] = Role.SUBMIT
    client = Client(harness, FakeSocket(uid=4_000_001))
    for sent in (
        b"SUBMIT a\nSUBMIT b\nSUBMIT c\n",
        b"SUBMIT --array=1-3 a\n",
        b"SUBMIT --key=k a\n",
        b"SUBMIT --secret=A=1 a\n",
    ):
        client.send(sent)
        harness.journal.fail()
        harness.journal.recover()
    harness.spool.error = OSError(28, "No space left on device")
    client.send(b"SUBMIT --stdin=2 cat\nhi\r\n")
    harness.spool.error = None
    assert [line.split()[1] for line in client.lines()] == ["STORE_FAILED"] * 7
    client.send(b"SUBMIT --hold --array=1-3 true\nSUBMIT a\n")
    harness.settle()
    assert [line.split()[0] for line in client.lines()] == ["JOB_ID", "ERROR"]


def test_pending_jobs_of_all_users_are_limited_also_for_admins() -> None:
    server = Server(pending=2)
    assert [server.ask(who, "SUBMIT --hold true") for who in (ANN, BOB, ROOT)] == [
        "JOB_ID",
        "JOB_ID",
        "QUEUE_FULL",
    ]


def test_pending_limit_is_exact_for_pipelined_submissions() -> None:
    harness = Harness(slots=1, limits=Limits(pending_per_user=600, pending=1100))
    harness.authenticator.roles = dict.fromkeys(("4000001", "4000002"), Role.SUBMIT)
    clients = [Client(harness, FakeSocket(uid=uid)) for uid in (4_000_001, 4_000_001, 4_000_002)]
    for client in clients:
        client.send((b"SUBMIT --hold true\n" * 19 + b"SUBMIT --hold --array=1-10 true\n") * 50)
    while harness.journal.pending or harness.clock.getDelayedCalls()[0].getTime() <= harness.clock.seconds():
        harness.clock.advance(0)
        harness.settle()
    replies = [line.split()[:2] for client in clients for line in client.lines()]
    assert len(replies) == 3000
    assert {code for word, code in replies if word == "ERROR"} == {"QUEUE_FULL"}
    assert [harness.queue_state.pending_of(name) for name in ("4000001", "4000002")] == [600, 500]
    assert harness.engine.submissions.quota.is_empty


def test_submissions_above_the_rate_are_refused_with_the_wait() -> None:
    server = Server(submissions=2.0)
    assert [server.ask(ANN, "SUBMIT --hold true") for _ in range(20)] == ["JOB_ID"] * 20
    refused = server.whole(ANN, "SUBMIT --hold true")
    assert refused == "QUEUE_FULL you submit or change more than 2 jobs per second; retry in 0.500 s"
    assert server.ask(BOB, "SUBMIT --hold true") == "JOB_ID"
    assert [server.ask(ROOT, "SUBMIT --hold true") for _ in range(50)] == ["JOB_ID"] * 50
    server.harness.clock.advance(0.5)
    assert server.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    unlimited = Server(submissions=None)
    assert [unlimited.ask(ANN, "SUBMIT --hold true") for _ in range(50)] == ["JOB_ID"] * 50


def test_schedules_of_one_user_are_limited() -> None:
    server = Server(schedules_per_user=1)
    line = "SCHEDULE --every=1h true"
    assert [server.ask(who, line) for who in (ANN, ANN, BOB, ROOT, ROOT)] == [
        "OK",
        "QUEUE_FULL",
        "OK",
        "OK",
        "OK",
    ]
    server.ask(ANN, "UNSCHEDULE 1")
    assert server.ask(ANN, line) == "OK"


def test_memory_of_schedules_of_one_user_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.submission_limits.MAX_SCHEDULES_BYTES", 3200)
    server = Server()
    line = f"SCHEDULE --every=1h --env=A={'x' * 300} true"
    assert [server.ask(who, line) for who in (ANN, ANN)] == ["OK", "OK"]
    refusal = server.whole(ANN, line)
    assert refusal.startswith("QUEUE_FULL your 2 schedules take 31")
    assert refusal.endswith("the limit is 3200; UNSCHEDULE one of them")
    assert [server.ask(who, line) for who in (BOB, ROOT)] == ["OK", "OK"]
    server.ask(ANN, "UNSCHEDULE 1")
    assert server.ask(ANN, line) == "OK"


def test_blocks_of_schedules_of_one_user_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.submission_limits.MAX_SCHEDULES_BLOCKS", 10)
    server = Server()
    line = "SCHEDULE --every=1h --script=2 --stdin=4"
    blocks = [b"ls", b"1234"]
    assert server.ask(ANN, line, blocks) == "OK"
    refusal = server.whole(ANN, line, blocks)
    assert refusal.startswith("QUEUE_FULL the scripts and stdins of your schedules have 6 bytes and those of")
    assert [server.ask(who, line, blocks) for who in (BOB, ROOT, ROOT)] == ["OK"] * 3
    assert server.ask(ANN, "SCHEDULE --set=1 --stdin=8", [b"12345678"]) == "OK"
    assert server.ask(ANN, "SCHEDULE --set=1 --stdin=9", [b"123456789"]) == "QUEUE_FULL"
    assert server.ask(ANN, "SCHEDULE --every=1h true") == "OK"


def test_secrets_of_a_schedule_count_as_its_environment() -> None:
    server = Server(environment=20)
    assert server.ask(ANN, "SCHEDULE --every=1h --secret=A=123456 --secret=B=12345 true") == "OK"
    assert server.ask(ANN, "SCHEDULE --every=1h --secret=A=123456789012345678 true") == "TOO_LARGE"
    assert server.ask(ANN, "SCHEDULE --set=1 --secret=C=12345") == "TOO_LARGE"
    assert server.ask(ANN, "SCHEDULE --set=1 --env=C=12345") == "TOO_LARGE"
    assert server.ask(ANN, "SCHEDULE --set=1 --env=A=12345") == "OK"


def test_changed_schedule_counts_in_place_of_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskqd.auth.submission_limits.MAX_SCHEDULES_BYTES", 3200)
    server = Server(schedules_per_user=2)
    for _ in range(2):
        server.ask(ANN, f"SCHEDULE --every=1h --env=A={'x' * 300} true")
    assert server.ask(ANN, "SCHEDULE --set=1 false") == "OK"
    assert server.ask(ANN, f"SCHEDULE --set=1 --env=A={'x' * 2000}") == "QUEUE_FULL"
    assert server.ask(ANN, "SCHEDULE --set=1 --env=A=") == "OK"
    assert server.ask(ANN, f"SCHEDULE --set=2 --env=A={'x' * 500}") == "OK"


@pytest.mark.parametrize(
    "quota,fits,does_not",
    [
        ({"command": 5}, "SUBMIT hello", "SUBMIT h\u00e9llo"),
        ({"label": 3}, "SUBMIT --label=abc true", "SUBMIT --label=abcd true"),
        ({"environment": 5}, "SUBMIT --env=A=1 --env=B=22 true", "SUBMIT --env=A=1 --env=B=2\u00e9 true"),
        ({"environment": 4}, 'SUBMIT --env=A="\\xff12" true', 'SUBMIT --env=A="\\xff123" true'),
        ({"output": 1000}, "SUBMIT --max-output=1000 true", "SUBMIT --max-output=1001 true"),
        ({"label": 3}, "SCHEDULE --every=1h --label=abc true", "SCHEDULE --every=1h --label=abcd true"),
    ],
)
def test_sizes_are_limited_for_all_roles(quota: dict[str, Any], fits: str, does_not: str) -> None:
    server = Server(**quota)
    for who in (ROOT, ANN):
        assert server.ask(who, fits) in ("JOB_ID", "OK")
        assert server.ask(who, does_not) == "TOO_LARGE"


@pytest.mark.parametrize("option", ["label=abcd", "max-output=1001", "max-output=100000G"])
def test_set_is_limited_as_submit_is(option: str) -> None:
    server = Server(label=3, output=1000)
    server.ask(ANN, "SUBMIT --hold true")
    for who in (ANN, ROOT):
        assert server.ask(who, f"SET 1 --{option}") == "TOO_LARGE"
        assert server.ask(who, "SET 1 --label=abc --max-output=1000") == "JOB"
        assert server.ask(who, "SET 1 --label= --priority=-1") == "JOB"
    assert len(server.harness.journal.events) == 5
    unlimited = Server(output=None)
    unlimited.ask(ANN, "SUBMIT --hold true")
    assert unlimited.ask(ANN, "SET 1 --max-output=100000G") == "JOB"


def test_secrets_count_as_environment() -> None:
    server = Server(environment=8)
    assert server.ask(ROOT, "SUBMIT --secret=A=1234 true") == "JOB_ID"
    assert server.ask(ROOT, "SUBMIT --env=B=1 --secret=A=12345 true") == "TOO_LARGE"


def test_default_output_limit_is_reduced_to_the_setting() -> None:
    server = Server(output=1000)
    server.ask(ANN, "SUBMIT --hold true")
    assert server.harness.job(1).spec.max_output == 1000


def test_large_block_is_refused_before_it_arrives_and_skipped() -> None:
    harness = Harness(limits=Limits(block=10))
    client = Client(harness)
    for line in (b"SUBMIT --stdin=11 cat\n", b"SUBMIT --script=11\n"):
        client.send(line)
        assert client.lines() == [
            "ERROR TOO_LARGE a block of 11 bytes is refused, the limit is 10; let the job read a file",
        ]
        client.send(b"PING\nPING\nP\r\nPING\n")
        assert client.lines() == ["OK"]
    client.send(b"SUBMIT --stdin=10 cat\n0123456789\r\n")
    harness.settle()
    assert client.lines()[-1] == "JOB_ID 1"


def test_change_of_an_array_counts_as_one_per_task() -> None:
    server = Server(submissions=2.0)
    server.ask(ANN, "SUBMIT --hold --array=1-40 true")
    assert server.ask(ANN, "SET 1 --label=x") == "JOB"
    assert server.whole(ANN, "CANCEL 1").endswith("retry in 11.000 s")
    assert server.ask(ANN, "CANCEL 1.1") == "QUEUE_FULL", "changes of one job count as well"
    for line, word in (("STATUS 1", "STATUS"), ("WHY 1", "OK"), ("LIST --array=1", "JOB")):
        assert server.ask(ANN, line) == word
    assert [server.ask(ROOT, f"SET 1 --label={text}") for text in "abc"] == ["JOB"] * 3
    server.harness.clock.advance(11.0)
    assert server.ask(ANN, "CANCEL 1") == "STATUS"


@pytest.mark.parametrize(
    "line,code",
    [
        *(("RETRY 1", "WRONG_STATE"), ("REMOVE 1", "WRONG_STATE"), ("SET 1 --priority=5", "FORBIDDEN")),
        *(("SET 1 --label=toolong", "TOO_LARGE"), ("SET 1 --queue=on_end", "FORBIDDEN")),
        *(("RETRY 6", "QUEUE_FULL"), ("HOLD 6", "WRONG_STATE"), ("CANCEL 1 --cascade", "FORBIDDEN")),
    ],
)
def test_refused_change_of_an_array_does_not_count(line: str, code: str) -> None:
    server = Server(submissions=1.0, pending_per_user=5, label=3)
    server.ask(ANN, "SUBMIT --hold --array=1-4 true")
    server.ask(ANN, "SUBMIT --hold --array=1-1 true")
    server.ask(ROOT, "CANCEL 6")
    server.ask(ANN, "SUBMIT --hold true")
    server.ask(BOB, "SUBMIT --hold b")
    server.ask(ROOT, "SUBMIT --after=1 r")
    left = server.harness.authorizer.submission_limits.available_rate("ann")
    assert server.whole(ANN, line).startswith(code)
    assert server.harness.authorizer.submission_limits.available_rate("ann") == left
