"""``taskq schedule``: requests for recurring submissions."""

import re
from pathlib import Path

import pytest

from tests.fakes.daemon import replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import PLAIN


def test_schedule_of_several_words_runs_the_program(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    assert call("schedule", "--every", "1m", *PLAIN, "echo", "-n", "hi").code == 0
    assert daemon.lines[0].endswith(" exec echo -n hi")
    assert call("schedule", "--every", "1m", "printf", "a\nb").code == 0
    assert daemon.requests[1].blocks == (b"exec printf 'a\nb'",)


def test_schedule_sends_options_of_its_submissions(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    words = ("schedule", *PLAIN, "--cron", "30 2 * * *", "--overlap", "--queue", "q", "--", "ls", "my file")
    assert call(*words) == (0, b"3\n", "")
    (line,) = daemon.lines
    options, _, command = line.partition(" ls ")
    assert command == "'my file'"
    assert options.startswith('SCHEDULE --cron="30 2 * * *" --overlap ')
    assert {"--queue=q", "--cwd=/", "--umask=022", "--env=PATH=/bin"} <= set(options.split(" "))


SCHEDULE = (
    b'SCHEDULE {"schedule":3,"every":null,"cron":"0 3 * * *","paused":%b,"next_run_at":null,'
    b'"last_run_at":null,"last_job":null,"command":"./poll"%b}\r\nEND 1\r\n'
)


@pytest.mark.parametrize(
    "is_paused, runs, shown",
    [
        (
            b"false",
            b',"next_runs":["2126-11-25T03:00:00.000Z","2126-11-26T03:00:00.000Z"]',
            [r"2126-11-25T03:00:00.000Z \(in [0-9].*\)", r"2126-11-26T03:00:00.000Z \(in [0-9].*\)"],
        ),
        (b"true", b',"next_runs":[]', ["paused"]),
        (b"false", b',"next_runs":[]', ["never runs"]),
    ],
)
def test_schedules_of_one_prints_its_next_runs(
    serve: Serve, call: Call, is_paused: bytes, runs: bytes, shown: list[str]
) -> None:
    daemon = serve(replies({"SCHEDULES": SCHEDULE % (is_paused, runs)}))
    outcome = call("schedules", "3")
    assert (outcome.code, daemon.lines) == (0, ["SCHEDULES 3"])
    first, *others = outcome.stdout.decode().splitlines()
    assert first == "schedule 3: 0 3 * * *: ./poll"
    assert [bool(re.fullmatch(form, line)) for form, line in zip(shown, others, strict=True)] == [True] * len(
        shown
    )


def test_run_now_prints_the_id_of_the_job(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"JOB_ID 7\r\n"}))
    assert call("schedule", "--run-now", "3") == (0, b"7\n", "")
    assert daemon.lines == ["SCHEDULE --run-now=3"]
    for words in (("--run-now", "3", "true"), ("--run-now", "3", "--every", "1h"), ("--run-now", "0")):
        assert call("schedule", *words).code == 2


def test_set_sends_what_the_command_line_names_and_no_defaults(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    settings = tmp_path / "taskqd" / "client.toml"
    settings.parent.mkdir()
    settings.write_text('queue = "mine"\n[options]\nretries = 5\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert call("schedule", "--set", "3", "--every", "1h30m", "--timeout", "none") == (0, b"3\n", "")
    files = ("--stdout", "none", "--stderr", "log", "--cwd", "/d")
    assert call("schedule", "--set", "3", "--no-merge", *files).code == 0
    assert call("schedule", "--no-overlap", "--env", "A=1", "--set", "3", "ls", "my file").code == 0
    assert daemon.lines == [
        "SCHEDULE --set=3 --every=5400 --timeout=none",
        "SCHEDULE --set=3 --merge=false --stdout=none --stderr=/d/log --cwd=/d",
        "SCHEDULE --set=3 --overlap=false --env=A=1 exec ls 'my file'",
    ]


@pytest.mark.parametrize(
    "words, part",
    [
        (("--set", "3"), "expected what to change"),
        (("--set", "3", "--every", "1h", "--cron", "@daily"), "expected either --every or --cron"),
        (("--set", "3", "--run-now", "3"), "--run-now takes no command"),
        (("--every", "1h", "--timeout", "none", "true"), "expected a duration"),
        (("--set", "0", "true"), "--set"),
    ],
)
def test_set_of_a_schedule_refuses_what_says_nothing_or_two_things(
    serve: Serve, call: Call, words: tuple[str, ...], part: str
) -> None:
    daemon = serve(replies({}))
    outcome = call("schedule", *words)
    assert (outcome.code, daemon.lines) == (2, [])
    assert part in outcome.stderr


def test_schedule_sends_its_script_stdin_and_secrets(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    monkeypatch.setenv("TOKEN", "hunter2")
    (tmp_path / "key").write_bytes(b"k \n")
    (tmp_path / "run").write_bytes(b"#!/bin/sh\ncat\n")
    (tmp_path / "in").write_bytes(b"in")
    files = ("--script", str(tmp_path / "run"), "--stdin", str(tmp_path / "in"))
    secrets = ("--secret", "TOKEN", "--secret-file", f"KEY={tmp_path / 'key'}")
    assert call("schedule", "--every", "1m", *PLAIN, *secrets, *files, "a b", "-c").code == 0
    assert call("schedule", "--set", "3", *secrets, *files).code == 0
    written = '--secret=TOKEN=hunter2 --secret=KEY="k " --stdin=2 --script=14'
    assert daemon.lines[0].endswith(f"{written} 'a b' -c")
    assert daemon.lines[1] == f"SCHEDULE --set=3 {written}"
    assert {request.blocks for request in daemon.requests} == {(b"#!/bin/sh\ncat\n", b"in")}


@pytest.mark.parametrize(
    "words, part",
    [
        (("--every", "1h"), "expected either a COMMAND or a --script"),
        (("--every", "1h", "--script", "-", "--stdin", "-"), "only one option can read stdin"),
        (("--set", "3", "--script", "-", "--stdin", "-"), "only one option can read stdin"),
        (("--every", "1h", "--secret", "HOME", "--env", "HOME=/", "true"), "HOME is set twice"),
        (("--set", "3", "--secret", "HOME", "--env", "HOME=/"), "HOME is set twice"),
        (("--run-now", "3", "--secret", "HOME"), "--run-now takes no command and no other options"),
    ],
)
def test_schedule_refuses_blocks_and_secrets_that_contradict(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], part: str
) -> None:
    monkeypatch.setenv("HOME", "/")
    daemon = serve(replies({}))
    outcome = call("schedule", *words)
    assert (outcome.code, daemon.lines) == (2, [])
    assert part in outcome.stderr
