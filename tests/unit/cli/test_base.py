"""Options of all commands, and usage errors."""

import os
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures


@pytest.mark.parametrize(
    "words,text",
    [
        (("submit",), "expected either a COMMAND or a --script; --script - reads one from stdin"),
        (("token", "add", "x"), "Missing option '--role'. Choose from: submit, read, admin"),
        (("submit", "--script", "-", "--stdin", "-"), "only one option can read stdin (-)"),
        (("submit", "--from-file", "-", "--stdin", "-"), "only one option can read stdin (-)"),
        (
            ("submit", "--from-file", "/dev/null", "x"),
            "--from-file cannot be combined with a COMMAND, --script, --key or --unless",
        ),
        (
            ("submit", "--from-file", "/dev/null", "--key", "k"),
            "--from-file cannot be combined with a COMMAND, --script, --key or --unless",
        ),
        (("submit", "--timeout", "10 parsecs", "x"), "expected a duration such as 90"),
        (("submit", "--max-output", "2X", "x"), "expected a size such as"),
        (("submit", "--retries", "many", "x"), "expected a whole number"),
        (("submit", "--nice", "20", "x"), "expected a whole number from -20 to 19"),
        (("submit", "--umask", "9", "x"), "expected an octal mask"),
        (("submit", "--key", "a b", "x"), "expected a name"),
        (
            ("submit", "--env", "NO_SUCH", "x"),
            "'NO_SUCH' is not in your environment; export it, or give NAME=VALUE",
        ),
        (("submit", "--secret", "NOWHERE", "x"), "NOWHERE is not in the environment of taskq; export it, or"),
        (("submit", "--secret-file", "A", "x"), "expected NAME=PATH, not 'A'"),
        (("submit", "--secret-file", "A=none", "x"), "cannot read none: No such file or directory"),
        (("submit", "--secret", "PATH", "--env", "PATH=1", "x"), "PATH is set twice"),
        (("run", "--secret", "PATH", "--secret-file", "PATH=/dev/null", "x"), "PATH is set twice"),
        (("schedule", "--every", "1h", "--secret", "PATH=x", "x"), "expected only a NAME"),
        (("submit", "--stdin", "none", "x"), "'none'"),
        (("list", "--status", "DONE"), "expected statuses from PENDING,RUNNING"),
        (("status", "0"), "expected a whole number from 1"),
        (("output", "7", "stdin"), "'stdin'"),
        (("--address", "nowhere", "stats"), "expected an address unix:PATH"),
        (("stats", "--address", "tcp:x"), "expected an address unix:PATH"),
        (("history", "x"), "expected a whole number from 1"),
        (("journal", "verify", "none"), "'none'"),
        (("journal", "dump", ".", "--job", "0"), "expected a whole number from 1"),
        (("journal", "dump", ".", "--since", "yesterday"), "expected a time such as"),
        (("journal", "dump", ".", "--since", "2026-11-24T07:00:00"), "expected a time such as"),
        (("juggle",), "no such command: 'juggle' (see taskq --help)"),
        (("cancle", "7"), "no such command: 'cancle'; did you mean 'cancel'?"),
        (("add", "x"), "no such command: 'add'; use `taskq submit`"),
        (("kill", "7"), "no such command: 'kill'; use `taskq cancel ID`"),
        (("help", "juggle"), "no such command: 'juggle'"),
        (("help", "submit", "x"), "the command submit has no subcommands"),
        (("show", "7-"), "expected a whole number from 1"),
        (("show", "7-3"), "expected an ascending range"),
        (("show", "1-999999"), "expected at most 100000 jobs"),
        (("history", "3-7"), "expected one job, not the range 3-7"),
        (("result", "7.x"), "expected a whole number from 0"),
        (("submit", "--need", "gpu", "x"), "expected RESOURCE:N, such as gpu:1, not 'gpu'"),
        (("submit", "--after", "3,x", "x"), "expected a whole number from 1"),
        (("submit", "--at", "soon", "x"), "expected a time such as 7:00"),
        (
            ("submit", "--at", "7:00", "--tz", "Mars/Olympus", "x"),
            "expected a time zone that this machine knows",
        ),
        (("submit", "--at", "7:00", "--delay", "1s", "x"), "expected either --delay or --at"),
        (("submit", "--at", "7:00", "--delay", "1s", "--from-file", "/dev/null"), "either --delay or --at"),
        (("submit", "--priority", "1000001", "x"), "from -1000000 to 1000000"),
        (("run", "--array", "1-3", "x"), "run accepts no --array; use `taskq submit`"),
        (("hold",), "expected either job IDs or filter options"),
        (("cancel",), "expected job IDs or filter options; without them"),
        (("cancel", "7", "--label", "x"), "expected either job IDs or filter options"),
        (("hold", "--status", "running"), "only jobs with the status PENDING can be held"),
        (("suspend", "--status", "pending"), "only jobs with the status RUNNING can be suspended"),
        (("set", "7"), "expected at least one option to change"),
        (("set", "--in-queue", "q", "--command", "x"), "--command is for jobs that are named by their IDs"),
        (("set", "7", "--timeout", "never"), "expected a duration such as"),
        (("set", "7", "--nice", "nice"), "expected a whole number from -20 to 19"),
        (("set-queue", "q"), "expected --slots, --fair or --rate"),
        (("set-queue", "q", "--rate", "10"), "expected a rate of 1 to 10000 starts"),
        (("set-queue", "q", "--slots", "0"), "expected a whole number from 1 to 10000"),
        (("set-queue", "a b", "--slots", "1"), "expected a name"),
        (("pause", "q", "--schedule", "3"), "expected either a QUEUE or a --schedule"),
        (("schedule", "x"), "expected either --every or --cron"),
        (("schedule", "--every", "1h", "--cron", "@daily", "x"), "expected either --every or --cron"),
        (("schedule", "--every", "1h"), "expected either a COMMAND or a --script"),
        (("unschedule", "x"), "expected a whole number from 1"),
        (("progress", "101"), "expected a whole number from 0 to 100"),
        (("progress", "40"), "TASKQ_PROGRESS is not set"),
    ],
)
def test_usage_error_prints_one_line_and_exits_with_2(
    serve: Serve, call: Call, words: tuple[str, ...], text: str
) -> None:
    daemon = serve(replies({}))
    outcome = call(*words)
    assert (outcome.code, outcome.stdout) == (2, b"")
    assert outcome.stderr.startswith("taskq: ")
    assert text in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert daemon.lines == []


def test_default_socket_is_used_without_address(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert f"unix:{tmp_path}/taskqd/taskq.sock" in call("stats").stderr


@pytest.mark.parametrize("words", [("--address", "{}", "stats"), ("stats", "--address", "{}")])
def test_address_option_is_accepted_before_and_after_the_command(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TASKQ_ADDRESS", "unix:/nowhere")
    with FakeDaemon(replies({"STATS": b"STATS {}\r\n"}), tmp_path) as daemon:
        assert call(*(word.format(daemon.address) for word in words)).code == 0
