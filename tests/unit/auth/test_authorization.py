"""Who is let do what, asked through the verbs: by role and owner, by a token's queue, by the limits."""

from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from taskqd.auth.principal import Principal
from taskqd.config.limits import Limits
from taskqd.errors import TaskqError
from taskqd.model.footprint import JOB_BYTES
from taskqd.model.job import Status
from taskqd.model.roles import Role
from taskqd.protocol import parser, verbs
from tests.fakes.client import Client, FakeClient
from tests.fakes.connections import FakeSocket
from tests.fakes.engine import Harness
from tests.fakes.processes import FAILED
from tests.support.every_verb import LINES, WHO, code_for

ANN = Principal("ann", Role.SUBMIT, "pid 1")
BOB = Principal("bob", Role.SUBMIT, "pid 2")
EVE = Principal("eve", Role.READ, "pid 3")
ROOT = Principal("root", Role.ADMIN, "pid 4", uid=0)
IN_Q = Principal("ann", Role.SUBMIT, "pid 5", queue="q", token="1")


class Place:
    """A house in which somebody asks, with what they were answered: the first word, or the error's code."""

    def __init__(self, **quotas: Any) -> None:
        self.harness = Harness(slots=1, limits=Limits(**quotas))
        self.harness.engine.start()

    def ask(self, who: Principal | None, line: str) -> str:
        return self.whole(who, line).split()[0]

    def whole(self, who: Principal | None, line: str) -> str:
        caller = FakeClient(who)
        request = parser.parse_line(line.encode())
        answer = maybeDeferred(self.harness.router.handle, caller, request, [])
        said: list[str] = []
        answer.addCallbacks(
            lambda reply: said.append(reply.decode()), lambda why: said.append(_code(why.value))
        )
        self.harness.settle()
        if not said:
            caller.listening.clear()
            answer.cancel()
            return caller.sent.decode() or "WAITS"
        return caller.sent.decode() + said[0]

    def status(self, job_id: int) -> Status:
        return self.harness.job(job_id).status


def _code(why: Exception) -> str:
    assert isinstance(why, TaskqError), why
    return f"{why.code} {why}"


def place_of_ann() -> Place:
    """Return one where ann has a running job 1 and a pending job 2, a schedule 1, and an ended job 3."""
    place = Place()
    for line in ("SUBMIT sleep 9", "SUBMIT true", "SCHEDULE --every=1h true", "SUBMIT true"):
        place.ask(ANN, line)
    place.ask(ANN, "CANCEL 3")
    return place


@pytest.fixture(name="place")
def a_place() -> Place:
    return place_of_ann()


THINGS = {"job": 2, "ended": 3, "schedule": 1}
THOSE: dict[str, Principal | None] = {
    "a stranger": None,
    "a reader": EVE,
    "an owner who may only read": Principal("ann", Role.READ, "10.0.0.5:1", token="2"),
    "another": BOB,
    "the owner": ANN,
    "an admin": ROOT,
}


def test_there_is_a_request_of_every_verb_and_each_is_of_somebody() -> None:
    assert set(LINES) == set(verbs.VERBS)
    assert tuple(THOSE) == WHO


@pytest.mark.parametrize("verb", LINES)
def test_who_may_do_what_and_what_is_refused_changes_nothing(verb: str) -> None:
    found: dict[str, str | None] = {}
    for who, principal in THOSE.items():
        place = place_of_ann()
        before = list(place.harness.journal.events), place.harness.engine.dispatcher.is_draining
        said = place.ask(principal, LINES[verb].format(**THINGS))
        found[who] = said if said in ("FORBIDDEN", "AUTH_REQUIRED") else None
        if found[who]:
            assert (place.harness.journal.events, place.harness.engine.dispatcher.is_draining) == before
    assert found == {who: code_for(verb, who) for who in WHO}


@pytest.mark.parametrize("line", ["PAUSE", "RESUME", "PAUSE q", "RESUME q"])
def test_what_stands_still_for_all_is_an_admin_s_matter(place: Place, line: str) -> None:
    before = list(place.harness.journal.events)
    for who in (ANN, EVE, IN_Q):
        assert place.ask(who, line) == "FORBIDDEN"
    assert place.harness.journal.events == before
    assert place.ask(ROOT, line) == "OK"


@pytest.mark.parametrize("verb", ["WAIT", "CANCEL", "WATCH"])
def test_of_what_is_not_there_it_is_said_so_to_everybody(place: Place, verb: str) -> None:
    line = f"{verb} --job=99" if verb == "WATCH" else f"{verb} 99"
    assert [place.ask(who, line) for who in (ANN, BOB, ROOT)] == ["NO_SUCH_JOB"] * 3


def test_a_wait_for_several_of_which_one_is_another_s_waits_for_none(place: Place) -> None:
    place.ask(BOB, "SUBMIT --hold b")
    assert place.ask(BOB, "WAIT 4 3 --any") == "FORBIDDEN"
    assert not place.harness.engine.waiter_count


def test_lists_show_what_may_be_seen_and_nothing_else(place: Place) -> None:
    for line, many in (("LIST", 3), ("SCHEDULES", 1)):
        counts = {who.name: place.whole(who, line).split()[-1] for who in (ANN, BOB, EVE, ROOT)}
        assert counts == {"ann": str(many), "bob": "0", "eve": str(many), "root": str(many)}


def test_a_watch_tells_of_one_s_own_alone(place: Place) -> None:
    place.ask(BOB, "SUBMIT --hold b")
    place.ask(ROOT, "PAUSE q")
    told = {who.name: place.whole(who, "WATCH --since=1").count("EVENT") for who in (ANN, BOB, EVE, ROOT)}
    assert told["bob"] == 1
    assert told["ann"] + 2 == told["eve"] == told["root"] == len(place.harness.journal.events)


def test_what_comes_after_a_job_of_another_s_is_refused(place: Place) -> None:
    for option in ("after", "after-any", "after-fail"):
        assert place.ask(BOB, f"SUBMIT --{option}=2 true") == "FORBIDDEN"
        assert place.ask(ANN, f"SUBMIT --{option}=2 true") == "JOB_ID"


def test_a_cascade_over_jobs_of_another_s_is_refused_whole(place: Place) -> None:
    place.ask(ROOT, "SUBMIT --after=2 true")
    assert place.ask(ANN, "CANCEL 2 --cascade") == "FORBIDDEN"
    assert place.status(2) is Status.PENDING
    assert place.ask(ROOT, "CANCEL 2 --cascade") == "STATUS"
    assert place.ask(ANN, "CANCEL 1 --cascade") == "STATUS"


def test_a_tasks_owner_is_that_of_its_array(place: Place) -> None:
    place.ask(ANN, "SUBMIT --hold --array=1-3 true")
    assert [place.ask(who, "STATUS 4.2") for who in (ANN, BOB)] == ["STATUS", "FORBIDDEN"]
    assert [place.ask(who, "LIST --array=4").split()[0] for who in (ANN, BOB)] == ["JOB", "FORBIDDEN"]


def test_a_key_is_its_owner_s(place: Place) -> None:
    ids = {who.name: place.whole(who, "SUBMIT --key=k true") for who in (ANN, BOB, ANN)}
    assert ids["ann"] != ids["bob"]
    assert place.ask(BOB, "SUBMIT --key=k false") == "KEY_CONFLICT"
    assert [place.whole(who, "LIST --key=k").split()[-1] for who in (ANN, BOB, ROOT)] == ["1", "1", "2"]


def test_a_token_of_one_queue_is_good_for_that_alone(place: Place) -> None:
    assert place.ask(IN_Q, "SUBMIT true") == "FORBIDDEN"
    assert place.ask(IN_Q, "SUBMIT --queue=q true") == "JOB_ID"
    assert place.ask(IN_Q, "SCHEDULE --queue=q --every=1h true") == "OK"
    assert [place.ask(IN_Q, line) for line in ("STATUS 2", "CANCEL 2", "UNSCHEDULE 1")] == ["FORBIDDEN"] * 3
    assert place.ask(IN_Q, "SET 4 --queue=default") == "FORBIDDEN"
    for option in ("after", "after-any", "after-fail"):
        assert place.ask(IN_Q, f"SUBMIT --queue=q --{option}=2 true") == "FORBIDDEN"
        assert place.ask(IN_Q, f"SUBMIT --queue=q --hold --{option}=4 true") == "JOB_ID"
    for line in ("CANCEL 5", "CANCEL 6", "CANCEL 7"):
        place.ask(ROOT, line)
    place.ask(ANN, "SUBMIT --after=4 true")
    assert place.whole(IN_Q, "CANCEL 4 --cascade").startswith(
        "FORBIDDEN permission denied: job 8, which comes after it, is in queue default, and "
        "your token is valid only for queue q"
    )
    for line in ("CANCEL 8", "REMOVE 8", "REMOVE 7", "REMOVE 6", "REMOVE 5"):
        place.ask(ROOT, line)
    assert place.whole(IN_Q, "LIST").split()[-1] == "1"
    assert place.whole(IN_Q, "SCHEDULES").split()[-1] == "1"
    assert place.whole(IN_Q, "WATCH --since=1").count("EVENT") == 1


def test_priorities_above_the_limit_are_for_admins(place: Place) -> None:
    assert place.ask(ANN, "SUBMIT --priority=1 true") == "FORBIDDEN"
    assert place.ask(ANN, "SET 2 --priority=1") == "FORBIDDEN"
    assert place.ask(ANN, "SUBMIT --priority=-5 true") == "JOB_ID"
    assert place.ask(ROOT, "SUBMIT --priority=1 true") == "JOB_ID"
    assert Place(priority=None).ask(ANN, "SUBMIT --priority=1000000 true") == "JOB_ID"


def test_who_asks_for_no_priority_gets_none_that_is_for_admins() -> None:
    place = Place(priority=-7)
    for who in (ANN, ROOT):
        place.ask(who, "SUBMIT --hold true")
        place.ask(who, "SCHEDULE --every=1h true")
    assert [place.harness.job(number).spec.priority for number in (1, 2)] == [-7, 0]
    assert [place.harness.queue_state.schedules.get(number).spec.priority for number in (1, 2)] == [-7, 0]
    assert place.ask(ANN, "SUBMIT --priority=-6 true") == "FORBIDDEN"
    assert place.ask(ANN, "SET 1 --label=x") == "JOB", "of the priority nothing was asked"
    assert place.ask(ANN, "SET 1 --priority=-6") == "FORBIDDEN"


def test_the_operator_s_queue_is_nobody_else_s(place: Place) -> None:
    assert place.ask(ANN, "SUBMIT --queue=on_end true") == "FORBIDDEN"
    assert place.ask(ANN, "SET 2 --queue=on_end") == "FORBIDDEN"


def test_one_user_s_pending_jobs_have_a_limit_and_an_admin_s_have_none() -> None:
    place = Place(pending_per_user=2)
    for _ in range(3):
        place.ask(ANN, "SUBMIT --hold true")
    assert place.harness.queue_state.pending_of("ann") == 2
    assert place.ask(ANN, "SUBMIT --array=1-3 true") == "QUEUE_FULL"
    assert [place.ask(ROOT, "SUBMIT --hold true") for _ in range(3)] == ["JOB_ID"] * 3
    place.ask(ANN, "CANCEL 1")
    assert place.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    assert place.ask(ANN, "RETRY 1") == "QUEUE_FULL"


def test_what_is_retried_has_to_have_room_of_an_array_as_many_as_would_be_pending() -> None:
    place = Place(pending_per_user=4, pending=5)
    place.ask(ANN, "SUBMIT --hold --array=1-3 true")
    assert place.ask(ANN, "RETRY 1") == "WRONG_STATE", "it has not ended, whatever the room"
    place.ask(ANN, "CANCEL 1")
    for _ in range(2):
        place.ask(ANN, "SUBMIT --hold true")
    assert place.whole(ANN, "RETRY 1") == (
        "QUEUE_FULL cannot add 3 jobs: ann has 2 pending jobs, "
        "the limit for one user is 4 (pending-per-user); retry when some have started"
    )
    assert place.ask(ANN, "RETRY 1.2") == "JOB_ID"
    place.harness.finish(3, FAILED)
    place.ask(BOB, "SUBMIT --hold true")
    assert place.whole(ROOT, "RETRY 1") == (
        "QUEUE_FULL cannot add 3 jobs: the daemon has 3 pending jobs, "
        "the limit for all users is 5 (pending); retry when some have started"
    )
    place.ask(BOB, "CANCEL 7")
    assert place.ask(ROOT, "RETRY 1") == "JOB_ID", "one user's limit is none for an admin"


def test_of_an_array_that_partly_completed_the_rest_needs_room() -> None:
    place = Place(pending_per_user=2)
    place.ask(ANN, "SUBMIT --array=1-2 true")
    place.harness.finish(2)
    place.harness.finish(3, FAILED)
    place.ask(ANN, "SUBMIT true")
    place.ask(ANN, "SUBMIT --hold true")
    assert place.ask(ANN, "RETRY 1") == "JOB_ID"
    assert [place.status(number) for number in (2, 3)] == [Status.COMPLETED, Status.PENDING]
    place.ask(ANN, "CANCEL 1")
    assert place.ask(ANN, "RETRY 2") == "JOB_ID"
    done = Place(pending_per_user=2)
    done.ask(ANN, "SUBMIT --array=1-2 true")
    done.harness.finish(2)
    done.harness.finish(3)
    for _ in range(2):
        done.ask(ANN, "SUBMIT true")
    assert done.ask(ANN, "RETRY 1") == "QUEUE_FULL", "of one that completed all are run again"


def test_what_has_started_makes_room() -> None:
    place = Place(pending_per_user=1, pending=1)
    assert [place.ask(ANN, "SUBMIT true") for _ in range(3)] == ["JOB_ID", "JOB_ID", "QUEUE_FULL"]
    place.harness.finish(1)
    assert [place.ask(ANN, "SUBMIT true") for _ in range(2)] == ["JOB_ID", "QUEUE_FULL"]


def test_a_cascade_counts_as_a_cancel_of_each_job() -> None:
    place = Place(submissions=1.0)
    place.ask(ROOT, "SUBMIT --hold true")
    place.ask(ANN, "SUBMIT --hold true")
    for _ in range(8):
        assert place.ask(ANN, "SUBMIT --after=2 true") == "JOB_ID"
    assert place.ask(ANN, "HOLD 2") == "STATUS"
    assert place.ask(ANN, "CANCEL 2 --cascade") == "QUEUE_FULL", "its burst of ten is used up"
    place.harness.clock.advance(2)
    assert place.ask(ANN, "CANCEL 2 --cascade") == "STATUS"
    assert place.whole(ANN, "SUBMIT true").endswith("retry in 8.000 s"), "2 - (1 + 8) are left, 1 is needed"


@pytest.mark.parametrize(
    "line", ["HOLD 1", "RELEASE 1", "SET 1 --label=x", "PAUSE --schedule=1", "RESUME --schedule=1"]
)
def test_a_verb_that_writes_a_record_counts_as_a_submission(line: str) -> None:
    place = Place(submissions=1.0)
    place.ask(ROOT, "SUBMIT true")
    for asked in ("SUBMIT --hold true", "SCHEDULE --every=1h true"):
        place.ask(ANN, asked)
    mine = line.replace(" 1", " 2")
    answers = [place.ask(ANN, mine) for _ in range(9)]
    assert answers[:8] == [answers[0]] * 8
    assert (answers[0] == "QUEUE_FULL", answers[8]) == (False, "QUEUE_FULL")


def test_retry_remove_and_unschedule_count_as_submissions_too() -> None:
    place = Place(submissions=1.0)
    for asked in ("SUBMIT true", "SUBMIT --hold true", "CANCEL 2", "SCHEDULE --every=1h true"):
        place.ask(ANN, asked)
    for asked in ("RETRY 2", "CANCEL 2", "REMOVE 2", "UNSCHEDULE 1", "SUBMIT true", "SUBMIT true"):
        assert place.ask(ANN, asked) in ("JOB_ID", "STATUS", "OK")
    assert place.ask(ANN, "CANCEL 1") == "QUEUE_FULL"
    assert place.ask(ANN, "STATUS 1") == "STATUS", "what changes nothing is not counted"
    assert place.ask(ROOT, "CANCEL 1 --cascade") == "STATUS"


def test_submit_retry_and_set_beyond_the_bytes_of_one_user_are_refused_and_change_nothing() -> None:
    place = Place(pending_bytes_per_user=2 * JOB_BYTES + 2000)
    long = "x" * 500
    assert place.ask(ANN, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    place.ask(ANN, "CANCEL 1")
    assert place.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    assert place.ask(ANN, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    refused = (
        "QUEUE_FULL cannot add 1604 bytes: ann has 2708 bytes of pending jobs, "
        "the limit for one user is 3000 bytes (pending-bytes-per-user); retry when some have started"
    )
    assert place.whole(ANN, f"SUBMIT --hold --label={long} true") == refused
    assert place.whole(ANN, "RETRY 1") == refused
    assert place.ask(ANN, f"SET 3 --label={long}{long}") == "QUEUE_FULL"
    assert place.harness.job(3).spec.label == long
    assert place.ask(ANN, "SET 3 --label=short") == "JOB"
    assert place.ask(BOB, f"SUBMIT --hold --label={long} true") == "JOB_ID"
    assert place.ask(ROOT, f"SUBMIT --hold --label={long}{long} true") == "JOB_ID"
    shared = Place(pending_bytes=JOB_BYTES + 1500)
    asked = [shared.ask(who, f"SUBMIT --hold --label={long} true") for who in (ANN, ROOT)]
    assert asked == ["JOB_ID", "QUEUE_FULL"]


def test_what_could_not_be_recorded_takes_no_room() -> None:
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


def test_all_pending_jobs_have_a_limit_for_everybody() -> None:
    place = Place(pending=2)
    assert [place.ask(who, "SUBMIT --hold true") for who in (ANN, BOB, ROOT)] == [
        "JOB_ID",
        "JOB_ID",
        "QUEUE_FULL",
    ]


def test_the_limit_is_exact_for_a_pipelined_flood() -> None:
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


def test_who_submits_too_fast_is_told_when_to_try_again() -> None:
    place = Place(submissions=2.0)
    assert [place.ask(ANN, "SUBMIT --hold true") for _ in range(20)] == ["JOB_ID"] * 20
    refused = place.whole(ANN, "SUBMIT --hold true")
    assert refused == "QUEUE_FULL you submit or change more than 2 jobs per second; retry in 0.500 s"
    assert place.ask(BOB, "SUBMIT --hold true") == "JOB_ID"
    assert [place.ask(ROOT, "SUBMIT --hold true") for _ in range(50)] == ["JOB_ID"] * 50
    place.harness.clock.advance(0.5)
    assert place.ask(ANN, "SUBMIT --hold true") == "JOB_ID"
    unlimited = Place(submissions=None)
    assert [unlimited.ask(ANN, "SUBMIT --hold true") for _ in range(50)] == ["JOB_ID"] * 50


def test_one_user_has_so_many_schedules() -> None:
    place = Place(schedules_per_user=1)
    line = "SCHEDULE --every=1h true"
    assert [place.ask(who, line) for who in (ANN, ANN, BOB, ROOT, ROOT)] == [
        "OK",
        "QUEUE_FULL",
        "OK",
        "OK",
        "OK",
    ]
    place.ask(ANN, "UNSCHEDULE 1")
    assert place.ask(ANN, line) == "OK"


def test_the_memory_of_one_user_s_schedules_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.submission_limits.MAX_SCHEDULES_BYTES", 3200)
    place = Place()
    line = f"SCHEDULE --every=1h --env=A={'x' * 300} true"
    assert [place.ask(who, line) for who in (ANN, ANN)] == ["OK", "OK"]
    refusal = place.whole(ANN, line)
    assert refusal.startswith("QUEUE_FULL your 2 schedules take 31")
    assert refusal.endswith("the limit is 3200; UNSCHEDULE one of them")
    assert [place.ask(who, line) for who in (BOB, ROOT)] == ["OK", "OK"]
    place.ask(ANN, "UNSCHEDULE 1")
    assert place.ask(ANN, line) == "OK"


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
def test_sizes_have_limits_for_everybody(quota: dict[str, Any], fits: str, does_not: str) -> None:
    place = Place(**quota)
    for who in (ROOT, ANN):
        assert place.ask(who, fits) in ("JOB_ID", "OK")
        assert place.ask(who, does_not) == "TOO_LARGE"


@pytest.mark.parametrize("option", ["label=abcd", "max-output=1001", "max-output=100000G"])
def test_a_set_gives_a_job_no_more_than_a_submission(option: str) -> None:
    place = Place(label=3, output=1000)
    place.ask(ANN, "SUBMIT --hold true")
    for who in (ANN, ROOT):
        assert place.ask(who, f"SET 1 --{option}") == "TOO_LARGE"
        assert place.ask(who, "SET 1 --label=abc --max-output=1000") == "JOB"
        assert place.ask(who, "SET 1 --label= --priority=-1") == "JOB"
    assert len(place.harness.journal.events) == 5
    unlimited = Place(output=None)
    unlimited.ask(ANN, "SUBMIT --hold true")
    assert unlimited.ask(ANN, "SET 1 --max-output=100000G") == "JOB"


def test_secrets_count_with_the_environment() -> None:
    place = Place(environment=8)
    assert place.ask(ROOT, "SUBMIT --secret=A=1234 true") == "JOB_ID"
    assert place.ask(ROOT, "SUBMIT --env=B=1 --secret=A=12345 true") == "TOO_LARGE"


def test_who_asks_for_no_output_limit_gets_no_more_than_the_setting() -> None:
    place = Place(output=1000)
    place.ask(ANN, "SUBMIT --hold true")
    assert place.harness.job(1).spec.max_output == 1000


def test_a_block_that_is_too_large_is_refused_before_it_comes_and_the_connection_stays_in_step() -> None:
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


def test_who_may_not_submit_is_told_before_the_block_comes() -> None:
    harness = Harness()
    harness.authenticator.roles["4000001"] = Role.READ
    client = Client(harness, FakeSocket(uid=4_000_001))
    client.send(b"SUBMIT --stdin=2 cat\n")
    assert client.transport.received.startswith(b"ERROR FORBIDDEN permission denied: SUBMIT needs the")
    client.send(b"hi\r\nPING\n")
    assert client.transport.received.endswith(b"\r\nOK\r\n")


def test_submissions_that_come_together_are_refused_one_by_one() -> None:
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


def test_an_act_on_an_array_counts_as_one_on_each_of_its_tasks() -> None:
    place = Place(submissions=2.0)
    place.ask(ANN, "SUBMIT --hold --array=1-40 true")
    assert place.ask(ANN, "SET 1 --label=x") == "JOB"
    assert place.whole(ANN, "CANCEL 1").endswith("retry in 11.000 s")
    assert place.ask(ANN, "CANCEL 1.1") == "QUEUE_FULL", "an act on one job is rated as well"
    for line, word in (("STATUS 1", "STATUS"), ("WHY 1", "OK"), ("LIST --array=1", "JOB")):
        assert place.ask(ANN, line) == word
    assert [place.ask(ROOT, f"SET 1 --label={text}") for text in "abc"] == ["JOB"] * 3
    place.harness.clock.advance(11.0)
    assert place.ask(ANN, "CANCEL 1") == "STATUS"


@pytest.mark.parametrize(
    "line,code",
    [
        *(("RETRY 1", "WRONG_STATE"), ("REMOVE 1", "WRONG_STATE"), ("SET 1 --priority=5", "FORBIDDEN")),
        *(("SET 1 --label=toolong", "TOO_LARGE"), ("SET 1 --queue=on_end", "FORBIDDEN")),
        *(("RETRY 6", "QUEUE_FULL"), ("HOLD 6", "WRONG_STATE"), ("CANCEL 1 --cascade", "FORBIDDEN")),
    ],
)
def test_an_act_on_an_array_that_is_refused_is_not_counted(line: str, code: str) -> None:
    place = Place(submissions=1.0, pending_per_user=5, label=3)
    place.ask(ANN, "SUBMIT --hold --array=1-4 true")
    place.ask(ANN, "SUBMIT --hold --array=1-1 true")
    place.ask(ROOT, "CANCEL 6")
    place.ask(ANN, "SUBMIT --hold true")
    place.ask(BOB, "SUBMIT --hold b")
    place.ask(ROOT, "SUBMIT --after=1 r")
    left = place.harness.authorizer.submission_limits.available_rate("ann")
    assert place.whole(ANN, line).startswith(code)
    assert place.harness.authorizer.submission_limits.available_rate("ann") == left


def test_a_submission_sees_those_that_came_with_it() -> None:
    harness = Harness(slots=1)
    client = Client(harness)
    client.send(b"SUBMIT --hold true\nSUBMIT --after=1 true\nSUBMIT --key=k true\nSUBMIT true\n")
    for _ in range(4):
        harness.settle()
    words = [line.split() for line in client.transport.received.decode().splitlines()]
    assert words == [["JOB_ID", str(number)] for number in (1, 2, 3, 4)]
