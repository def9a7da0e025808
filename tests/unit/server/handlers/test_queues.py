"""The replies to QUEUES, SET-QUEUE, PAUSE, RESUME and those about schedules."""

import json
from typing import Any

import pytest

from taskqd.errors import (
    NoSuchJob,
    WrongState,
)
from taskqd.model.events import Configured, Resized
from taskqd.protocol import values
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import result_of
from tests.fakes.engine import Harness
from tests.support.requests import answer, ask, opened, refusal, shown, whole_answer


def queues(harness: Harness) -> dict[str, Any]:
    *lines, end = whole_answer(harness, "QUEUES")
    found = [json.loads(line.removeprefix("QUEUE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return {queue["name"]: queue for queue in found}


def test_queues_lists_slots_and_counts() -> None:
    harness = Harness(3, queues={"gpu": 1})
    harness.engine.start()
    for queue in ("gpu", "gpu", "mail"):
        answer(harness, f"SUBMIT --queue={queue} true")
    nothing = {"pending": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0}
    none = {"slots": None, "busy": 0, "paused": False, "fair": False, "rate": None, **nothing}
    assert queues(harness) == {
        "default": {"name": "default", **none},
        "gpu": {"name": "gpu", **none, "slots": 1, "busy": 1, "pending": 1, "running": 1},
        "mail": {"name": "mail", **none, "busy": 1, "running": 1},
    }


def test_set_queue_changes_slots_while_running() -> None:
    harness = Harness(3, queues={"gpu": 1})
    harness.engine.start()
    for _ in range(3):
        answer(harness, "SUBMIT --queue=gpu true")
    assert shown(harness, "SET-QUEUE gpu --slots=2")["slots"] == 2
    assert queues(harness)["gpu"]["running"] == 2
    assert shown(harness, "SET-QUEUE gpu --slots=none")["slots"] is None
    assert queues(harness)["gpu"]["running"] == 3
    assert shown(harness, "SET-QUEUE gpu --slots=default")["slots"] == 1
    assert harness.journal.events[-1] == Resized(at=harness.clock.now(), by="ada", queue="gpu", slots=None)


def test_set_queue_changes_several_settings_in_one_batch() -> None:
    harness = Harness(3, queues={"gpu": 1})
    harness.engine.start()
    queue = shown(harness, "SET-QUEUE gpu --rate=10/m --fair=true")
    assert (queue["slots"], queue["fair"], queue["rate"]) == (1, True, "10/m")
    at = harness.clock.now()
    assert harness.journal.events == [
        Configured(at=at, by="ada", queue="gpu", setting="rate", value="10/m"),
        Configured(at=at, by="ada", queue="gpu", setting="fair", value=True),
    ]
    queue = shown(harness, "SET-QUEUE gpu --rate=none --fair=default --slots=none")
    assert (queue["slots"], queue["fair"], queue["rate"]) == (None, False, None)


@pytest.mark.parametrize("words", ["", " gpu"])
def test_paused_queue_starts_nothing(words: str) -> None:
    harness = opened(1)
    assert answer(harness, f"PAUSE{words}") == "OK\r\n"
    answer(harness, "SUBMIT --queue=gpu true")
    assert shown(harness, "SHOW 1")["reason"] == "paused"
    assert shown(harness, "STATS")["paused"] is (words == "")
    assert queues(harness)["gpu"]["paused"] is (words != "")
    assert answer(harness, f"RESUME{words}") == "OK\r\n"
    assert answer(harness, "STATUS 1") == "STATUS RUNNING 0\r\n"


def schedules(harness: Harness) -> list[Any]:
    *lines, end = whole_answer(harness, "SCHEDULES")
    found = [json.loads(line.removeprefix("SCHEDULE ")) for line in lines]
    assert end == f"END {len(found)}\r\n"
    return found


def test_schedule_is_added_listed_paused_and_deleted() -> None:
    harness = opened()
    assert schedules(harness) == []
    assert answer(harness, "SCHEDULE --every=1h --queue=q echo hello") == "OK 1\r\n"
    assert answer(harness, 'SCHEDULE --cron="0 3 * * *" --overlap true') == "OK 2\r\n"
    first, second = schedules(harness)
    assert (first["schedule"], first["every"], first["command"], first["queue"]) == (
        1,
        3600.0,
        "echo hello",
        "q",
    )
    assert (first["owner"], first["next_run_at"]) == ("ada", values.timestamp(harness.clock.now() + 3600))
    assert (second["schedule"], second["cron"], second["overlap"]) == (2, "0 3 * * *", True)
    line, end = whole_answer(harness, "SCHEDULES 1")
    runs = json.loads(line.removeprefix("SCHEDULE "))["next_runs"]
    assert runs == [values.timestamp(harness.clock.now() + 3600 * hour) for hour in range(1, 6)]
    assert end == "END 1\r\n"
    with pytest.raises(NoSuchJob, match="there is no schedule 7"):
        answer(harness, "SCHEDULES 7")
    assert "next_runs" not in first
    assert answer(harness, "PAUSE --schedule=1") == "OK\r\n"
    assert [(one["paused"], one["next_run_at"] is None) for one in schedules(harness)] == [
        (True, True),
        (False, False),
    ]
    assert answer(harness, "RESUME --schedule=1") == "OK\r\n"
    assert schedules(harness)[0]["paused"] is False
    assert answer(harness, "UNSCHEDULE 1") == "OK\r\n"
    assert [one["schedule"] for one in schedules(harness)] == [2]
    for line in ("UNSCHEDULE 1", "PAUSE --schedule=1", "RESUME --schedule=3"):
        assert isinstance(refusal(harness, line), NoSuchJob), line


def test_schedule_with_blocks_shows_no_content_and_gives_it_to_its_jobs() -> None:
    harness = opened()
    line = "SCHEDULE --every=1h --script=14 --stdin=2 --secret=KEY=hunter2"
    made = ask(harness, line, blocks=[b"#!/bin/sh\nmake", b"in"])
    harness.settle()
    assert result_of(made) == b"OK 1\r\n"
    schedule = schedules(harness)[0]
    assert {name: schedule[name] for name in ("command", "script", "stdin", "script_line", "secrets")} == {
        "command": None,
        "script": 14,
        "stdin": 2,
        "script_line": "make",
        "secrets": ["KEY"],
    }
    assert answer(harness, "SCHEDULE --run-now=1") == "JOB_ID 1\r\n"
    assert harness.spool.blocks[1] == {
        "script": b"#!/bin/sh\nmake",
        "stdin": b"in",
        "secret": b"KEY=hunter2\0",
    }
    change = ask(harness, "SCHEDULE --set=1 --secret=KEY=hunter3 --stdin=3 ./run", blocks=[b"new"])
    harness.settle()
    assert result_of(change) == b"OK 1\r\n"
    schedule = schedules(harness)[0]
    assert (schedule["command"], schedule["stdin"], schedule["secrets"]) == ("./run", 3, ["KEY"])
    assert "script" not in schedule
    assert set(harness.spool.schedule_files.values()) == {b"new", b"KEY=hunter3\0"}
    assert "hunter" not in str([whole_answer(harness, "SCHEDULES"), harness.journal.events])


def test_queues_waits_for_the_client_to_read() -> None:
    harness = Harness(queues={"a": 1, "b": 1})
    client = FakeClient()
    client.can_send = False
    replied = ask(harness, "QUEUES", client)
    assert client.sent.count(b"QUEUE") == 1
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert (client.sent + result_of(replied)).count(b"QUEUE") == 3


def test_run_now_submits_the_next_job_of_a_schedule() -> None:
    harness = opened()
    answer(harness, "SCHEDULE --every=1h --label=x work")
    assert answer(harness, "SCHEDULE --run-now=1") == "JOB_ID 1\r\n"
    job = shown(harness, "SHOW 1")
    assert (job["command"], job["label"], job["schedule"], job["owner"]) == ("work", "x", 1, "ada")
    assert schedules(harness)[0]["last_job"] == 1
    running = refusal(harness, "SCHEDULE --run-now=1")
    assert isinstance(running, WrongState)
    assert "job 1, the last one of schedule 1, is RUNNING" in str(running)
    harness.finish(1)
    assert answer(harness, "SCHEDULE --run-now=1") == "JOB_ID 2\r\n"
    assert isinstance(refusal(harness, "SCHEDULE --run-now=7"), NoSuchJob)


def test_run_now_submits_beside_the_last_job_if_the_schedule_allows_overlap() -> None:
    harness = opened()
    answer(harness, "SCHEDULE --every=1h --overlap work")
    replies = [answer(harness, "SCHEDULE --run-now=1") for _ in range(2)]
    assert replies == ["JOB_ID 1\r\n", "JOB_ID 2\r\n"]


def test_set_changes_a_schedule_and_answers_with_its_number() -> None:
    harness = opened()
    answer(harness, "SCHEDULE --every=1h --label=x --timeout=5 work")
    assert answer(harness, "SCHEDULE --run-now=1") == "JOB_ID 1\r\n"
    assert answer(harness, "PAUSE --schedule=1") == "OK\r\n"
    assert answer(harness, "SCHEDULE --set=1 --cron=@daily --timeout=none play") == "OK 1\r\n"
    [shown] = schedules(harness)
    found = [
        shown.get(name) for name in ("every", "cron", "command", "label", "timeout", "last_job", "paused")
    ]
    assert found == [None, "@daily", "play", "x", None, 1, True]
    assert isinstance(refusal(harness, "SCHEDULE --set=7 --every=1h"), NoSuchJob)
