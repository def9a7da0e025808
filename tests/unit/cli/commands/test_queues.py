"""``taskq pause``, ``resume`` and ``set-queue``: messages about a mistyped name and about a drain."""

import json

import pytest

from tests.fakes.daemon import replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures

QUEUES = b'QUEUE {"name":"default"}\r\nQUEUE {"name":"nightly"}\r\nEND 2\r\n'
TABLE = {
    "QUEUES": QUEUES,
    "PAUSE": b"OK\r\n",
    "RESUME": b"OK\r\n",
    "SET-QUEUE": b'QUEUE {"slots":2}\r\n',
}


@pytest.mark.parametrize("words", [("pause",), ("resume",), ("set-queue", "--slots", "2")])
def test_queue_that_was_not_there_is_reported_with_the_known_ones(
    serve: Serve, call: Call, words: tuple[str, ...]
) -> None:
    serve(replies(TABLE))
    known, unknown = call(*words, "nightly"), call(*words, "nighty")
    assert (known.code, known.stderr) == (0, "")
    assert unknown.code == 0
    assert unknown.stderr == "taskq: there was no queue nighty yet; the queues are: default, nightly\n"


@pytest.mark.parametrize("command, of_jobs", [("pause", "suspend"), ("resume", "continue")])
def test_number_that_is_no_queue_is_answered_with_the_command_for_jobs(
    serve: Serve, call: Call, command: str, of_jobs: str
) -> None:
    serve(replies(TABLE))
    assert call(command, "7").stderr.endswith(f"nightly; for job 7: `taskq {of_jobs} 7`\n")


@pytest.mark.parametrize(
    "stats, message",
    [
        (
            {"draining": True},
            "taskq: the daemon is draining, so no job starts; `taskq drain --off` ends that\n",
        ),
        ({"draining": False}, ""),
    ],
)
def test_resume_of_a_draining_daemon_names_the_drain(
    serve: Serve, call: Call, stats: dict[str, bool], message: str
) -> None:
    serve(replies({**TABLE, "STATS": b"STATS " + json.dumps(stats).encode() + b"\r\n"}))
    assert call("resume") == (0, b"all resumed\n", message)
