"""The replies to STATUS, SHOW, LIST, HISTORY and WHY."""

import json
from typing import Any

import pytest

from taskqd.errors import (
    NoSuchJob,
    StoreFailed,
    WrongState,
)
from taskqd.execution.run import Outcome
from taskqd.model.events import Ended, Output
from taskqd.model.job import Reason
from taskqd.server.handlers import job_list
from taskqd.state import job_index
from taskqd.state.job_index import CHUNK_SIZE
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import result_of
from tests.fakes.processes import FAILED
from tests.support.requests import answer, ask, listed, opened, refusal, shown, whole_answer


def test_text_of_the_progress_is_an_extra_word_of_status_and_a_field_while_running() -> None:
    harness = opened()
    answer(harness, "SUBMIT --retries=1 true")
    harness.spool.percentages[1] = 40
    harness.spool.texts[1] = "epoch 5"
    assert answer(harness, "STATUS 1") == 'STATUS RUNNING 40 "epoch 5"\r\n'
    assert answer(harness, "CANCEL 1 --signal=USR1") == "STATUS RUNNING 40\r\n"
    assert shown(harness, "SHOW 1")["progress_text"] == "epoch 5"
    assert '"progress_text":"epoch 5"' in whole_answer(harness, "LIST")[0]
    harness.finish(1, FAILED)
    ended = harness.journal.events[-1]
    assert isinstance(ended, Ended)
    assert (ended.progress, ended.progress_text) == (40, "epoch 5")
    assert answer(harness, "STATUS 1") == "STATUS CANCELLED 40\r\n"
    assert "progress_text" not in shown(harness, "SHOW 1")


def test_end_of_a_completed_job_has_no_text() -> None:
    harness = opened()
    answer(harness, "SUBMIT true")
    harness.spool.texts[1] = "almost"
    harness.finish(1)
    ended = harness.journal.events[-1]
    assert isinstance(ended, Ended)
    assert ended.progress_text == ""


def test_show_has_all_fields() -> None:
    harness = opened()
    answer(harness, "SUBMIT --label=x --retries=2 --env=A=1 echo hello")
    harness.spool.percentages[1] = 30
    harness.spool.writers[1].write(2, b"12345")
    job = shown(harness, "SHOW 1")
    assert {
        name: job[name] for name in ("id", "command", "status", "progress", "owner", "label", "retries")
    } == {
        "id": 1,
        "command": "echo hello",
        "status": "RUNNING",
        "progress": 30,
        "owner": "ada",
        "label": "x",
        "retries": 2,
    }
    assert (job["stdout_bytes"], job["stderr_bytes"], job["env"], job["attempts"]) == (0, 5, {"A": "1"}, 1)
    assert job["pid"] == 1001
    harness.finish(1, FAILED)
    job = shown(harness, "SHOW 1")
    assert (job["status"], job["reason"], job["exit_code"]) == ("PENDING", "retrying", None)


LISTS = [
    ("LIST", [1, 2, 3, 4, 5, 6]),
    ("LIST --limit=2", [1, 2]),
    ("LIST --limit=0", []),
    ("LIST --from=3", [3, 4, 5, 6]),
    ("LIST --from=3 --limit=2", [3, 4]),
    ("LIST --from=7", []),
    ("LIST --from=999999999999999999", []),
    ("LIST --reverse", [6, 5, 4, 3, 2, 1]),
    ("LIST --reverse --from=3", [3, 2, 1]),
    ("LIST --reverse --from=99 --limit=2", [6, 5]),
    ("LIST --status=RUNNING", [2]),
    ("LIST --order=start", [3, 5, 6]),
    ("LIST --order=ended --limit=2", [4, 1]),
    ("LIST --status=pending,completed", [1, 3, 5, 6]),
    ("LIST --status=FAILED", []),
    ("LIST --owner=ada", [1, 2, 3, 4, 5, 6]),
    ("LIST --owner=bob", []),
    ("LIST --label=blue", [3, 4]),
    ("LIST --label=blue --status=PENDING", [3]),
    ("LIST --key=k", [5]),
    ("LIST --key=other", []),
    ("LIST --key=k --from=5", [5]),
    ("LIST --key=k --from=6", []),
    ("LIST --key=k --from=4 --reverse", []),
    ("LIST --key=k --from=5 --reverse", [5]),
    ("LIST --key=k --from=6 --reverse", [5]),
    ("LIST --key=k --status=RUNNING", []),
    ("LIST --key=k --limit=0", []),
]


@pytest.mark.parametrize("line, ids", LISTS)
def test_list_has_matching_jobs_and_their_number(line: str, ids: list[int]) -> None:
    harness = opened(1)
    harness.submit()
    harness.finish(1)
    harness.submit()
    harness.submit(label="blue")
    harness.submit(label="blue")
    harness.submit(key="k")
    harness.submit()
    harness.cancel(4)
    harness.settle()
    assert listed(harness, line) == (ids, f"END {len(ids)}\r\n")


ARRAY_LISTS = [
    ("LIST", [1, 2, 6, 7, 10]),
    ("LIST --reverse", [10, 7, 6, 2, 1]),
    ("LIST --from=2", [2, 6, 7, 10]),
    ("LIST --from=4", [6, 7, 10]),
    ("LIST --from=5", [6, 7, 10]),
    ("LIST --from=9", [10]),
    ("LIST --from=9 --reverse", [7, 6, 2, 1]),
    ("LIST --from=4 --reverse", [2, 1]),
    ("LIST --from=2 --reverse --limit=1", [2]),
    ("LIST --limit=3", [1, 2, 6]),
    ("LIST --tasks", list(range(1, 11))),
    ("LIST --tasks --from=5 --reverse", [5, 4, 3, 2, 1]),
    ("LIST --array=2", [3, 4, 5]),
    ("LIST --array=2 --reverse", [5, 4, 3]),
    ("LIST --array=2 --from=1", [3, 4, 5]),
    ("LIST --array=2 --from=4", [4, 5]),
    ("LIST --array=2 --from=4 --reverse", [4, 3]),
    ("LIST --array=2 --from=9 --reverse --limit=2", [5, 4]),
    ("LIST --array=2 --from=6", []),
    ("LIST --array=2 --from=2 --reverse", []),
    ("LIST --array=2 --status=CANCELLED", [4]),
    ("LIST --key=k", [7]),
    ("LIST --key=k --tasks", [7, 8, 9]),
    ("LIST --queue=q", [2, 6]),
    ("LIST --queue=q --array=2", [3, 4, 5]),
    ("LIST --queue=none", []),
]


@pytest.mark.parametrize("line, ids", ARRAY_LISTS)
def test_list_has_tasks_only_on_request(line: str, ids: list[int]) -> None:
    harness = opened(0)
    for words in ("", "--array=1-3 --queue=q", "--queue=q", "--array=0-1 --key=k", ""):
        answer(harness, f"SUBMIT {words} true")
    answer(harness, "CANCEL 2.2")
    assert listed(harness, line) == (ids, f"END {len(ids)}\r\n")


def test_list_of_tasks_needs_an_array() -> None:
    harness = opened()
    harness.submit()
    assert isinstance(refusal(harness, "LIST --array=1"), WrongState)
    assert isinstance(refusal(harness, "LIST --array=2"), NoSuchJob)


def test_list_without_matches_is_empty() -> None:
    assert listed(opened(), "LIST") == ([], "END 0\r\n")
    assert listed(opened(), "LIST --reverse") == ([], "END 0\r\n")


def test_list_has_100_jobs_by_default() -> None:
    harness = opened(0)
    for _ in range(130):
        harness.submit()
    assert listed(harness, "LIST") == (list(range(1, 101)), "END 100\r\n")
    assert listed(harness, "LIST --limit=1000")[1] == "END 130\r\n"


def _times_yielded(client: FakeClient) -> int:
    """Let the reply to a client continue whenever it waits for the reactor; return how often that was."""
    times = 0
    while client.writable_waiters:
        times += 1
        client.writable_waiters.pop().callback(None)
    return times


def test_list_yields_to_the_reactor_after_some_parts_of_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_index, "CHUNKS_PER_STEP", 1)
    harness, client = opened(0), FakeClient()
    for _ in range(2 * CHUNK_SIZE):
        harness.submit()
    client.can_send = False
    replied = ask(harness, "LIST --queue=other", client)
    assert (_times_yielded(client), client.sent, result_of(replied)) == (3, b"", b"END 0\r\n")


def test_list_with_a_text_yields_to_the_reactor_after_each_job() -> None:
    harness, client = opened(0), FakeClient()
    for _ in range(10):
        harness.submit()
    client.can_send = False
    replied = ask(harness, "LIST --match=other", client)
    assert (_times_yielded(client), client.sent, result_of(replied)) == (10, b"", b"END 0\r\n")


MATCHES = [
    ("make", [1, 3]),
    ("MAKE", [1, 3]),
    ("site", [2, 3]),
    ('"make site"', [3]),
    ("other", []),
    ("site --status=RUNNING", [2]),
    ("site --label=Site", [2]),
    ("make --reverse --limit=1", [3]),
]


@pytest.mark.parametrize("options, ids", MATCHES)
def test_list_with_a_text_finds_it_in_commands_and_labels_in_any_case(options: str, ids: list[int]) -> None:
    harness = opened(2)
    harness.submit("cd /; Make -j2")
    harness.submit(label="Site")
    harness.submit("make site")
    assert listed(harness, f"LIST --match={options}") == (ids, f"END {len(ids)}\r\n")


@pytest.mark.parametrize("maximum", ["MAX_SEARCHED_JOBS", "MAX_SEARCHED_CHARACTERS"])
def test_list_with_a_text_ends_with_the_next_id_when_it_has_searched_its_maximum(
    monkeypatch: pytest.MonkeyPatch, maximum: str
) -> None:
    monkeypatch.setattr(job_list, maximum, 3)
    harness = opened(0)
    for number in range(1, 8):
        harness.submit(str(number % 2))
    assert listed(harness, "LIST --match=1") == ([1, 3], "END 2 4\r\n")
    assert listed(harness, "LIST --match=1 --from=4") == ([5], "END 1 7\r\n")
    assert listed(harness, "LIST --match=1 --from=7") == ([7], "END 1\r\n")
    assert listed(harness, "LIST --match=0 --reverse") == ([6], "END 1 4\r\n")
    assert listed(harness, "LIST --match=1 --limit=1") == ([1], "END 1\r\n")
    assert listed(harness, "LIST --match=1 --count") == ([], "END 2 4\r\n")
    assert listed(harness, "LIST --match=1 --count --from=7") == ([], "END 1\r\n")
    assert listed(harness, "LIST --count --status=PENDING,RUNNING") == ([], "END 7\r\n")


def test_list_waits_for_the_client_to_read() -> None:
    harness = opened(0)
    for _ in range(3):
        harness.submit()
    client = FakeClient()
    client.can_send = False
    replied = ask(harness, "LIST", client)
    assert client.sent.count(b"JOB") == 1
    client.can_send = True
    client.writable_waiters.pop().callback(None)
    assert (client.sent + result_of(replied)).count(b"JOB") == 3


def test_why_explains_a_pending_job_in_one_line() -> None:
    harness = opened(1)
    harness.submit()
    harness.submit()
    reply = answer(harness, "WHY 2")
    assert reply.startswith("OK needs 1 slot, none of 1 is available")
    assert reply.count("\r\n") == 1
    assert answer(harness, "WHY 1") == "OK not waiting: it is running\r\n"


def test_history_has_all_events_of_a_job() -> None:
    harness = opened()
    harness.submit("echo 1")
    harness.submit("echo 2")
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"secret")))
    lines = answer(harness, "HISTORY 1").split("\r\n")
    assert lines[-2:] == ["END 4", ""]
    words = [line.split(" ", 2) for line in lines[:-2]]
    assert [word for word, _, _ in words] == ["EVENT"] * 4
    numbers = [int(number) for _, number, _ in words]
    assert numbers == sorted(numbers)
    events = [json.loads(text) for _, _, text in words]
    assert [event["type"] for event in events] == ["submitted", "started", "spawned", "ended"]
    assert all(event["id"] == 1 for event in events)
    assert events[0]["owner"] == "ada"
    assert "secret" not in "".join(lines)
    assert isinstance(refusal(harness, "HISTORY 3"), NoSuchJob)
    harness.journal.fail()
    assert isinstance(refusal(harness, "HISTORY 1"), StoreFailed)


def test_history_of_task_has_events_of_its_array() -> None:
    harness = opened(1)
    answer(harness, "SUBMIT --array=1-2 true")
    answer(harness, "CANCEL 1")

    def found(line: str) -> list[Any]:
        events = [json.loads(line.split(" ", 2)[2]) for line in answer(harness, line).split("\r\n")[:-2]]
        return [(event["type"], event["id"]) for event in events]

    started = [("started", 2), ("spawned", 2)]
    assert found("HISTORY 1") == [("submitted", 1), ("cancelled", 1)]
    assert found("HISTORY 1.1") == [("submitted", 1), *started, ("cancelled", 1)]
    assert found("HISTORY 3") == [("submitted", 1), ("cancelled", 1)]


def test_show_has_all_attempts_with_current_sizes() -> None:
    harness = opened()
    harness.submit(retries=1, retry_delay=0.0)
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"one")))
    harness.clock.advance(0)
    harness.settle()
    harness.spool.writers[1].write(1, b"12345")
    runs = shown(harness, "SHOW 1")["runs"]
    assert [(run["attempt"], run["exit_code"], run["stdout_bytes"]) for run in runs] == [
        (1, 1, 3),
        (2, None, 5),
    ]
    assert '"runs"' not in "".join(whole_answer(harness, "LIST"))
