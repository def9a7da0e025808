"""The commands of taskq against a fake daemon: requests, output, exit codes."""

import json
import os
import re
from pathlib import Path

import pytest

from taskqd.cli import app
from taskqd.cli.commands import server as server_commands
from taskqd.cli.display import text as terminal
from tests.fakes.daemon import FakeDaemon, Request, Script, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures

AT = "2026-11-24T07:00:00.000Z"
SUBMITTED = b"JOB_ID 7\r\n"
TRUE = {"SHOW": job(), "RESULT": b'RESULT "" "" 0\r\n', "WAIT": b"STATUS COMPLETED 100\r\n"}
CONDITIONS = "--retry-on=exit:75,timeout --no-retry-on=exit:2"
AFTER = "--after=3,4,5,6 --after-any=7.1 --after-fail=8"
PLAIN = ("--cwd", "/", "--umask", "022", "--env", "PATH=/bin")
"""Options that override the defaults from the environment of taskq."""
BEFORE = "SUBMIT --cwd=/ --umask=022 --env=PATH=/bin "
"""The start of the request line of a submission with PLAIN."""


def event(sequence: int, kind: str, **more: object) -> bytes:
    """Return an EVENT reply."""
    return b"EVENT %d " % sequence + json.dumps({"at": AT, "type": kind, "id": 7, **more}).encode() + b"\r\n"


def submitted(daemon: FakeDaemon) -> str:
    """Return the only request line, without the options that are added for a UNIX socket."""
    (line,) = daemon.lines
    return re.sub(r" --(env=PATH|cwd|umask)=\S+", "", line)


# submit


@pytest.mark.parametrize(
    "words,line",
    [
        (("ls", "-la"), "SUBMIT exec ls -la"),
        (("ls", "-la", "my file", "it's"), """SUBMIT exec ls -la 'my file' 'it'"'"'s'"""),
        (("echo", "$HOME", "a|b", ""), "SUBMIT exec echo '$HOME' 'a|b' ''"),
        (("ls", "--json", "--", "-x"), "SUBMIT exec ls --json -- -x"),
        (("--", "--version"), "SUBMIT -- --version"),
        (("--", "-x", "y"), "SUBMIT exec env -- -x y"),
        (("if", "true"), "SUBMIT exec if true"),
        (("A=1", "x"), "SUBMIT exec A=1 x"),
        (("echo", "-n", "hi"), "SUBMIT exec echo -n hi"),
        (("~", "!"), "SUBMIT exec '~' '!'"),
    ],
)
def test_submit_passes_several_words_to_the_program_unchanged(
    serve: Serve, call: Call, words: tuple[str, ...], line: str
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *words) == (0, b"7\n", "")
    assert submitted(daemon) == line


@pytest.mark.parametrize("command", ["submit", "run"])
@pytest.mark.parametrize(
    "words,script",
    [
        (("printf", "a\nb"), b"exec printf 'a\nb'"),
        (("printf", "a\r"), b"exec printf 'a\r'"),
        (("ls", "\udcff"), b"exec ls '\xff'"),
        (("echo a\necho b",), b"echo a\necho b"),
        (("echo \udcff",), b"echo \xff"),
    ],
)
def test_command_that_is_no_line_of_text_is_sent_as_script(
    serve: Serve, call: Call, command: str, words: tuple[str, ...], script: bytes
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED, "FOLLOW": b"STATUS COMPLETED 100\r\n", "SHOW": job()}))
    assert call(command, *words).code == 0
    request = next(request for request in daemon.requests if request.verb == "SUBMIT")
    assert request.line.endswith(f" --script={len(script)}")
    assert request.blocks == (script,)


def test_schedule_of_several_words_runs_the_program(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    assert call("schedule", "--every", "1m", *PLAIN, "echo", "-n", "hi").code == 0
    assert daemon.lines[0].endswith(" exec echo -n hi")
    refusal = call("schedule", "--every", "1m", "printf", "a\nb")
    assert refusal.code == 1
    assert (
        "the command of a schedule must be a single line of UTF-8; let it run a script file" in refusal.stderr
    )


def test_submit_passes_one_word_to_the_shell(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    call("submit", "sort < 'in' | uniq -c")
    assert submitted(daemon) == "SUBMIT sort < 'in' | uniq -c"


@pytest.mark.parametrize(
    "options,written",
    [
        (("--timeout", "10m", "--kill-after", "500ms"), "--timeout=10m --kill-after=500ms"),
        (("--retries", "3", "--retry-delay=2"), "--retries=3 --retry-delay=2"),
        (("--key", "a/b", "--label", "two words"), '--key=a/b --label="two words"'),
        (("--queue", "q", "--priority", "-5", "--slots=2"), "--queue=q --priority=-5 --slots=2"),
        (("--need", "gpu:1,x:2", "--hold", "--notify-fail"), "--need=gpu:1,x:2 --hold --notify-fail"),
        (("--idle-timeout", "1m", "--retry-delay-max", "5m"), "--idle-timeout=1m --retry-delay-max=5m"),
        (("--retry-on", "exit:75,timeout", "--no-retry-on", "exit:2"), CONDITIONS),
        (("--after", "3,4-6", "--after-any=7.1", "--after-fail=8"), AFTER),
        (("--delay", "10m", "--array", "1-10%2"), "--delay=10m --array=1-10%2"),
        (("--at", "2026-11-24T07:00:00Z"), "--at=2026-11-24T07:00:00Z"),
        (
            ("--at", "2026-03-29 02:30", "--tz", "Europe/Berlin"),
            "--at=2026-03-29T03:00:00+02:00 --tz=Europe/Berlin",
        ),
        (("--memory", "1G", "--cpu-time", "1h", "--nofile=64"), "--memory=1G --cpu-time=1h --nofile=64"),
        (("--nice", "-5", "--max-output", "64k"), "--nice=-5 --max-output=64k"),
        (("--env", "A=1", "--env", "B=x=y", "--env", "C="), '--env=A=1 --env=B="x=y" --env=C=""'),
    ],
)
def test_submit_options_have_their_protocol_names(
    serve: Serve, call: Call, options: tuple[str, ...], written: str
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *options, "x").code == 0
    (line,) = daemon.lines
    assert set(written.split(" --")[1:]) <= set(line.split(" --"))


def test_submit_over_unix_socket_sends_directory_path_and_umask(
    serve: Serve, call: Call, tmp_path: Path
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    before = os.umask(0o027)
    try:
        call("submit", "make")
    finally:
        os.umask(before)
    words = daemon.lines[0].split(" ")
    assert {f"--cwd={tmp_path}", "--umask=027", "--env=PATH=/bin:/usr/bin"} <= set(words)


def test_submit_options_override_the_environment(serve: Serve, call: Call, tmp_path: Path) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    call("submit", "--cwd", "sub", "--umask", "2", "--env", "PATH=/x", "make")
    words = daemon.lines[0].split(" ")
    assert sorted(words) == sorted(
        ["SUBMIT", f"--cwd={tmp_path}/sub", "--umask=002", "--env=PATH=/x", "make"]
    )


def test_submit_over_tcp_sends_nothing_of_the_environment(call: Call) -> None:
    with FakeDaemon(replies({"SUBMIT": SUBMITTED})) as daemon:
        assert call("submit", "--address", daemon.address, "make").code == 0
        assert daemon.lines == ["SUBMIT make"]


def test_secrets_are_read_from_environment_and_files(
    serve: Serve, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"KEY", b"two words \xff")
    monkeypatch.setenv("OTHER", "not this one")
    (tmp_path / "crlf").write_bytes(b"line\n\r\n")
    (tmp_path / "bare").write_bytes(b"a=b")
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    options = ("--secret", "KEY", "--secret-file", "CRLF=crlf", "--secret-file=BARE=bare")
    assert call("submit", *PLAIN, *options, "x").code == 0
    written = r' --secret=KEY="two words \xFF" --secret=CRLF="line\n" --secret=BARE="a=b"'
    assert sorted(daemon.lines[0].split(" --")) == sorted((BEFORE.rstrip() + written + " x").split(" --"))


@pytest.mark.parametrize("command", ["submit", "run"])
def test_secret_value_on_command_line_is_rejected_and_not_printed(call: Call, command: str) -> None:
    outcome = call(command, "--secret", "KEY=hunter2", "x")
    assert (outcome.code, outcome.stdout) == (2, b"")
    assert "every user can read command lines" in outcome.stderr
    assert "--secret-file NAME=PATH" in outcome.stderr
    assert "hunter2" not in outcome.stderr


def test_secrets_apply_to_each_line_of_a_file(
    serve: Serve, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    (tmp_path / "jobs").write_bytes(b"a\nb\n")
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", "--secret", "KEY", "--from-file", "jobs").code == 0
    assert ["--secret=KEY=k" in line for line in daemon.lines] == [True, True]
    assert call("submit", "--secret", "KEY", "--env", "KEY=1", "--from-file", "jobs").code == 2


def test_script_and_stdin_are_read_from_files(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\nwc\n")
    (tmp_path / "in").write_bytes(b"\0\xff\r\n")
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *PLAIN, "--script", "script", "--stdin", "in").code == 0
    assert daemon.requests[0].blocks == (b"#!/bin/sh\nwc\n", b"\0\xff\r\n")


# submit --from-file


def test_from_file_submits_each_line(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(b"echo 1\n\n  \necho 2\r\n\xff\n--x\necho last")
    ids = iter(range(1, 100))
    daemon = serve(lambda _: b"JOB_ID %d\r\n" % next(ids))
    assert call("submit", *PLAIN, "--from-file", "jobs") == (0, b"1\n2\n3\n4\n5\n", "")
    assert [line.removeprefix(BEFORE) for line in daemon.lines] == [
        *("echo 1", "echo 2", "--script=1", "-- --x", "echo last")
    ]


def test_from_file_reports_refused_line_and_submits_the_others(
    serve: Serve, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_bytes(b"good\n\nbad\nwith\0nul\ngood\n")

    def answer(request: Request) -> bytes:
        return refused("BAD_REQUEST", "it is bad") if request.line.endswith("bad") else SUBMITTED

    serve(answer)
    assert call("submit", "--from-file", "jobs") == (
        1,
        b"7\n7\n",
        (
            "taskq: line 3: it is bad (BAD_REQUEST)\n"
            "taskq: line 4: a command cannot contain a NUL byte; this one has one at offset 4 (BAD_REQUEST)\n"
        ),
    )


def test_from_file_reports_last_answered_line_when_connection_is_lost(
    serve: Serve, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_bytes(b"one\ntwo\nthree\n")
    answers = iter([SUBMITTED, SUBMITTED, None])
    serve(lambda _: next(answers))
    outcome = call("submit", "--from-file", "jobs")
    assert (outcome.code, outcome.stdout) == (69, b"7\n7\n")
    assert "the last reply was for line 2" in outcome.stderr


# usage


@pytest.mark.parametrize(
    "words,text",
    [
        (("submit",), "expected either a COMMAND or a --script"),
        (("submit", "--script", "/dev/null", "x"), "expected either a COMMAND or a --script"),
        (("submit", "--script", "-", "--stdin", "-"), "only one option can read stdin (-)"),
        (("submit", "--from-file", "-", "--stdin", "-"), "only one option can read stdin (-)"),
        (
            ("submit", "--from-file", "/dev/null", "x"),
            "--from-file cannot be combined with a COMMAND, --script or --key",
        ),
        (
            ("submit", "--from-file", "/dev/null", "--key", "k"),
            "--from-file cannot be combined with a COMMAND, --script or --key",
        ),
        (("submit", "--timeout", "soon", "x"), "expected a duration such as 1.5"),
        (("submit", "--max-output", "1T", "x"), "expected a size such as"),
        (("submit", "--retries", "many", "x"), "expected a whole number"),
        (("submit", "--nice", "20", "x"), "expected a whole number from -20 to 19"),
        (("submit", "--umask", "9", "x"), "expected an octal mask"),
        (("submit", "--key", "a b", "x"), "expected a name"),
        (("submit", "--env", "A", "x"), "expected NAME=VALUE, not 'A'"),
        (("submit", "--secret", "NOWHERE", "x"), "NOWHERE is not in the environment of taskq; export it, or"),
        (("submit", "--secret-file", "A", "x"), "expected NAME=PATH, not 'A'"),
        (("submit", "--secret-file", "A=none", "x"), "cannot read none: No such file or directory"),
        (("submit", "--secret", "PATH", "--env", "PATH=1", "x"), "PATH is set twice"),
        (("run", "--secret", "PATH", "--secret-file", "PATH=/dev/null", "x"), "PATH is set twice"),
        (("schedule", "--every", "1h", "--secret", "PATH", "x"), "--secret"),
        (("submit", "--stdin", "none", "x"), "'none'"),
        (("list", "--status", "DONE"), "expected statuses from PENDING,RUNNING"),
        (("status",), "ID"),
        (("status", "0"), "expected a whole number from 1"),
        (("output", "7", "stdin"), "'stdin'"),
        (("--address", "nowhere", "stats"), "expected an address unix:PATH"),
        (("stats", "--address", "tcp:x"), "expected an address unix:PATH"),
        (("remove",), "ID"),
        (("history", "x"), "expected a whole number from 1"),
        (("journal", "verify", "none"), "'none'"),
        (("journal", "dump", ".", "--job", "0"), "expected a whole number from 1"),
        (("journal", "dump", ".", "--since", "yesterday"), "expected a time such as"),
        (("journal", "dump", ".", "--since", "2026-11-24T07:00:00"), "expected a time such as"),
        (("juggle",), "no such command: 'juggle' (see taskq --help)"),
        (("cancle", "7"), "no such command: 'cancle'; did you mean 'cancel'?"),
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
        (("cancel",), "expected either job IDs or filter options"),
        (("cancel", "7", "--label", "x"), "expected either job IDs or filter options"),
        (("hold", "--status", "running"), "only jobs with the status PENDING can be held"),
        (("set", "7"), "expected at least one option to change"),
        (("set", "7", "--timeout", "never"), "expected a duration such as"),
        (("set", "7", "--nice", "nice"), "expected a whole number from -20 to 19"),
        (("set-queue", "q"), "--slots"),
        (("set-queue", "q", "--slots", "0"), "expected a whole number from 1 to 10000"),
        (("set-queue", "a b", "--slots", "1"), "expected a name"),
        (("pause", "q", "--schedule", "3"), "expected either a QUEUE or a --schedule"),
        (("schedule", "x"), "expected either --every or --cron"),
        (("schedule", "--every", "1h", "--cron", "@daily", "x"), "expected either --every or --cron"),
        (("schedule", "--every", "1h"), "expected a COMMAND"),
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


def test_missing_current_directory_is_reported_before_sending(
    serve: Serve, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = serve(replies({}))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    outcome = call("submit", "x")
    monkeypatch.chdir(tmp_path)
    assert outcome.code == 2
    assert "the current directory does not exist any more; set --cwd" in outcome.stderr
    assert daemon.lines == []


# the daemon


def test_missing_daemon_exits_with_69_and_says_how_to_start_one(call: Call, tmp_path: Path) -> None:
    outcome = call("--address", f"unix:{tmp_path}/none", "submit", "true")
    assert outcome == (
        69,
        b"",
        (
            f"taskq: cannot reach the daemon at unix:{tmp_path}/none: No such file or directory; "
            "is it running? Start one with `twistd taskq`, or set --address\n"
        ),
    )


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


@pytest.mark.parametrize("name", ["TASKQ_TOKEN", "TASKQ_TOKEN_FILE"])
def test_token_of_the_environment_is_sent_over_tcp(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv(name, "secret" if name == "TASKQ_TOKEN" else str(tmp_path / "token"))
    with FakeDaemon(replies({"AUTH secret": b"OK token admin\r\n", "STATS": b"STATS {}\r\n"})) as daemon:
        assert call("--address", daemon.address, "stats").code == 0
        assert daemon.lines == ["AUTH secret", "STATS"]


def test_unreadable_token_file_is_a_usage_error(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_TOKEN_FILE", "/none")
    outcome = call("--address", "tcp:127.0.0.1:1", "stats")
    assert outcome.code == 2
    assert "cannot read the token file (TASKQ_TOKEN_FILE)" in outcome.stderr


def test_auth_required_names_the_variables_for_the_token(serve: Serve, call: Call) -> None:
    serve(replies({"STATS": refused("AUTH_REQUIRED", "send AUTH first")}))
    outcome = call("stats")
    assert outcome.code == 1
    assert outcome.stderr == (
        "taskq: send AUTH first (AUTH_REQUIRED); "
        "set TASKQ_TOKEN or TASKQ_TOKEN_FILE; `taskq token add` makes a token\n"
    )


@pytest.mark.parametrize(
    "code,hint",
    [
        ("AUTH_FAILED", "check the token in TASKQ_TOKEN or TASKQ_TOKEN_FILE"),
        ("FORBIDDEN", "`taskq hello` shows your identity and role"),
        ("QUEUE_FULL", "`taskq hello` shows the limits"),
    ],
)
def test_refusal_of_a_user_has_a_hint(code: str, hint: str, serve: Serve, call: Call) -> None:
    serve(replies({"STATS": refused(code, "no")}))
    assert call("stats") == (1, b"", f"taskq: no ({code}); {hint}\n")


# output of commands

COUNTS = {"pending": 3, "running": 4, "completed": 5, "failed": 6, "cancelled": 7}


def lines_of(kind: str, *documents: object) -> bytes:
    """Return a reply of several lines and END."""
    lines = [f"{kind} {json.dumps(document)}\r\n" for document in documents]
    return "".join([*lines, f"END {len(lines)}\r\n"]).encode()


QUEUES = lines_of(
    "QUEUE",
    {"name": "default", "slots": None, "busy": 2, "paused": False, **COUNTS},
    {"name": "q", "slots": 1, "busy": 0, "paused": True, **COUNTS},
)
SCHEDULES = lines_of(
    "SCHEDULE",
    {
        "schedule": 3,
        "every": 90.0,
        "paused": False,
        "next_run_at": AT,
        "last_run_at": None,
        "command": "a\tb",
    },
    {
        "schedule": 4,
        "cron": "30 2 * * *",
        "tz": "UTC",
        "paused": True,
        "next_run_at": None,
        "command": "x",
        "last_run_at": AT,
        "last_job": 12,
    },
)
SCHEDULES_SHOWN = (
    f"3\tevery 90 s\t{AT}\t-\t-\ta\\tb\n4\t30 2 * * * (UTC)\t- (paused)\t{AT}\t12\tx\n"
).encode()


@pytest.mark.parametrize(
    "words,table,stdout",
    [
        (("status", "7"), {"STATUS 7": b"STATUS RUNNING 40\r\n"}, b"RUNNING 40\n"),
        (
            ("status", "7", "8"),
            {"STATUS 7": b"STATUS RUNNING 40\r\n", "STATUS 8": b"STATUS PENDING 0\r\n"},
            b"7 RUNNING 40\n8 PENDING 0\n",
        ),
        (("cancel", "7"), {"CANCEL 7": b"STATUS CANCELLED 0\r\n"}, b"CANCELLED 0\n"),
        (
            ("cancel", "--signal", "INT", "7"),
            {"CANCEL 7 --signal=INT": b"STATUS RUNNING 0\r\n"},
            b"RUNNING 0\n",
        ),
        (("retry", "7"), {"RETRY 7": b"JOB_ID 7\r\n", "SHOW": job()}, b"7\n"),
        (("remove", "7", "8"), {"REMOVE 7": b"OK\r\n", "REMOVE 8": b"OK\r\n"}, b"7\n8\n"),
        (
            ("status", "7-8", "9.1"),
            {"STATUS": b"STATUS PENDING 0\r\n"},
            b"7 PENDING 0\n8 PENDING 0\n9.1 PENDING 0\n",
        ),
        (("hold", "7"), {"HOLD 7": b"STATUS PENDING 0\r\n"}, b"PENDING 0\n"),
        (("release", "7", "8"), {"RELEASE": b"STATUS PENDING 0\r\n"}, b"7 PENDING 0\n8 PENDING 0\n"),
        (
            ("set", "7", "--timeout", "none", "--priority=-3", "--label", ""),
            {'SET 7 --priority=-3 --label="" --timeout=none': job()},
            b"7\n",
        ),
        (
            ("set", "7", "--at", "2026-03-29 02:30", "--tz", "Europe/Berlin"),
            {"SET 7 --at=2026-03-29T03:00:00+02:00 --tz=Europe/Berlin": job()},
            b"7\n",
        ),
        (("set", "7", "--tz", "none", "--at", "none"), {"SET 7 --at=none --tz=none": job()}, b"7\n"),
        (("cancel", "--cascade", "7"), {"CANCEL 7 --cascade": b"STATUS CANCELLED 0\r\n"}, b"CANCELLED 0\n"),
        (("why", "7"), {"WHY 7": b"OK 3rd in line \x1b\r\n"}, b"3rd in line \\x1B\n"),
        (("why", "7", "8"), {"WHY": b"OK held\r\n"}, b"7 held\n8 held\n"),
        (
            ("queues",),
            {"QUEUES": QUEUES},
            b"default\t2\t-\t3\t4\t5\t6\t7\t-\nq\t0\t1\t3\t4\t5\t6\t7\tpaused\n",
        ),
        (("set-queue", "q", "--slots", "2"), {"SET-QUEUE q --slots=2": b'QUEUE {"slots":2}\r\n'}, b"q 2\n"),
        (("set-queue", "q", "--slots", "none"), {"SET-QUEUE": b'QUEUE {"slots":null}\r\n'}, b"q -\n"),
        (("pause",), {"PAUSE": b"OK\r\n"}, b"all paused\n"),
        (("pause", "q"), {"PAUSE q": b"OK\r\n"}, b"queue q paused\n"),
        (("resume", "--schedule", "3"), {"RESUME --schedule=3": b"OK\r\n"}, b"schedule 3 resumed\n"),
        (("schedules",), {"SCHEDULES": SCHEDULES}, SCHEDULES_SHOWN),
        (("unschedule", "3", "4"), {"UNSCHEDULE": b"OK\r\n"}, b"3\n4\n"),
        (
            ("output", "7", "--attempt", "1"),
            {
                "OUTPUT 7 stdout --attempt=1": data("stdout", 0, b"x"),
                "OUTPUT 7 stdout --offset=1 --attempt=1": data("stdout", 1, b""),
                "SHOW 7": job(),
            },
            b"x",
        ),
        (("drain",), {"DRAIN": b"OK\r\n", "STATS": b'STATS {"busy":2}\r\n'}, b"draining: 2 running\n"),
        (
            ("show", "7"),
            {"SHOW 7": job(label="\x1b", signal=None, env={"A": "1"}, runs=[{"attempt": 1, "exit_code": 0}])},
            (
                b"id: 7\ncommand: true\nstatus: COMPLETED\nexit_code: 0\nattempts: 1\n"
                b"label: \\x1B\nenv.A: 1\nruns.1.attempt: 1\nruns.1.exit_code: 0\n"
            ),
        ),
        (
            ("stats",),
            {"STATS": b'STATS {"jobs":{"PENDING":2},"verbs":["A","B"]}\r\n'},
            b"jobs.PENDING: 2\nverbs: A B\n",
        ),
        (
            ("hello",),
            {"HELLO": b'TASKQ 1 {"version":"0.1.0","tls":false}\r\n'},
            b"protocol: 1\nversion: 0.1.0\ntls: false\n",
        ),
    ],
)
def test_command_prints_the_reply(
    serve: Serve, call: Call, words: tuple[str, ...], table: dict[str, bytes], stdout: bytes
) -> None:
    serve(replies(table))
    assert call(*words) == (0, stdout, "")


@pytest.mark.parametrize(
    "verb,reply",
    [
        ("status", b"STATUS FAILED 0\r\n"),
        ("cancel", b"STATUS CANCELLED 0\r\n"),
        ("retry", SUBMITTED),
        ("remove", b"OK\r\n"),
        ("hold", b"STATUS PENDING 0\r\n"),
        ("release", b"STATUS PENDING 0\r\n"),
        ("show", job()),
        ("why", b"OK 3rd in line\r\n"),
    ],
)
def test_refusal_for_one_job_does_not_stop_the_others(
    serve: Serve, call: Call, verb: str, reply: bytes
) -> None:
    table = {"SHOW": job(), verb.upper(): reply, f"{verb.upper()} 8": refused("GONE", "removed")}
    daemon = serve(replies(table))
    outcome = call(verb, "7", "8", "9")
    requests = [line for line in daemon.lines if line.startswith(verb.upper())]
    assert requests == [f"{verb.upper()} {number}" for number in (7, 8, 9)]
    assert (outcome.code, outcome.stderr) == (1, "taskq: job 8: removed (GONE)\n")
    assert outcome.stdout


@pytest.mark.parametrize(
    "status,exit_code,reason,code,stderr",
    [
        ("COMPLETED", 0, None, 0, ""),
        ("FAILED", 3, "exit", 3, ""),
        ("FAILED", -9, "signal", 137, ""),
        ("CANCELLED", -15, "cancelled", 143, ""),
        ("CANCELLED", None, "cancelled", 1, "taskq: job 7 is CANCELLED (cancelled), without an exit code\n"),
        ("FAILED", None, "spawn", 1, "taskq: job 7 is FAILED (spawn), without an exit code\n"),
        ("FAILED", 0, "timeout", 1, "taskq: job 7 is FAILED (timeout), although its exit code is 0\n"),
    ],
)
def test_exit_code_is_that_of_the_job(
    serve: Serve, call: Call, status: str, exit_code: int | None, reason: str | None, code: int, stderr: str
) -> None:
    table = {
        "SUBMIT": SUBMITTED,
        "WAIT": f"STATUS {status} 0\r\n".encode(),
        "FOLLOW": f"STATUS {status} 0\r\n".encode(),
        "RESULT": f'RESULT "" "" {"-" if exit_code is None else exit_code}\r\n'.encode(),
        "SHOW": job(7, status, exit_code, reason=reason),
    }
    serve(replies(table))
    assert call("result", "7") == (code, b"", stderr)
    reason_line = "" if reason in (None, "exit") else f"taskq: job 7 is {status} ({reason})\n"
    assert call("run", "x") == (code, b"", stderr or reason_line)
    assert call("follow", "7") == (code, b"", stderr or reason_line)
    assert call("wait", "7") == (code, f"{status} 0\n".encode(), stderr)


@pytest.mark.parametrize(
    "tasks,status,code,stderr",
    [
        ({"completed": 3}, "COMPLETED", 0, ""),
        ({"failed": 2, "cancelled": 1}, "FAILED", 1, " (2 tasks failed, 1 tasks cancelled)"),
    ],
)
def test_exit_code_of_an_array_is_0_only_if_all_tasks_completed(
    serve: Serve, call: Call, tasks: object, status: str, code: int, stderr: str
) -> None:
    serve(replies({"WAIT": f"STATUS {status} 0\r\n".encode(), "SHOW": job(7, status, None, tasks=tasks)}))
    shown = f"taskq: job 7 is {status}{stderr}\n" if stderr else ""
    assert call("wait", "7") == (code, f"{status} 0\n".encode(), shown)


# waiting for several jobs


SEVERAL = {
    "SHOW 7": job(7, "FAILED", 3),
    "SHOW 8": job(8, "COMPLETED", 0),
    "SHOW 11": job(11, "FAILED", -9, array=10, index=1),
}


def test_wait_for_several_prints_ends_and_exits_as_the_first_given_that_failed(
    serve: Serve, call: Call
) -> None:
    ends = b"STATUS FAILED 0 11\r\nSTATUS COMPLETED 100 8\r\nSTATUS FAILED 0 7\r\nEND 3\r\n"
    daemon = serve(replies({**SEVERAL, "WAIT 8 7 10.1 --timeout=1h": ends}))
    outcome = call("wait", "8", "7", "10.1", "--timeout", "1h")
    assert outcome == (3, b"10.1 FAILED 0\n8 COMPLETED 100\n7 FAILED 0\n", "")
    assert daemon.lines[0] == "WAIT 8 7 10.1 --timeout=1h"


def test_wait_any_exits_as_the_first_job_that_ended(serve: Serve, call: Call) -> None:
    serve(replies({**SEVERAL, "WAIT 7 8 --any": b"STATUS COMPLETED 100 8\r\nEND 1\r\n"}))
    assert call("wait", "--any", "7-8") == (0, b"8 COMPLETED 100\n", "")


def test_wait_for_several_exits_with_75_after_timeout(serve: Serve, call: Call) -> None:
    table = {"WAIT": b"STATUS FAILED 0 7\r\nERROR TIMED_OUT 1 of 2 goes on\r\n"}
    serve(replies({**SEVERAL, **table}))
    outcome = call("wait", "7", "8", "--timeout", "1", "--json")
    assert outcome.code == 75
    assert outcome.stderr.startswith("taskq: 1 of 2 goes on (TIMED_OUT); ")
    assert [document.get("id") for document in json.loads(outcome.stdout)] == [7, None]


# hints about refusals


@pytest.mark.parametrize(
    "words,code,hint",
    [
        (("result", "7"), "NOT_FINISHED", "`taskq output` prints the output so far"),
        (("wait", "7"), "TIMED_OUT", "the job continues; `taskq why` shows what a pending job waits for"),
        (("why", "7"), "UNKNOWN_COMMAND", "the daemon has another version"),
        (("show", "7"), "NO_SUCH_JOB", "`taskq list` shows the jobs"),
        (("submit", "x"), "DRAINING", "the daemon accepts jobs again after a restart"),
    ],
)
def test_refusal_of_a_command_has_a_hint(
    serve: Serve, call: Call, words: tuple[str, ...], code: str, hint: str
) -> None:
    serve(replies({words[0].upper(): refused(code, "no"), "LIST": job() + b"END 1\r\n"}))
    assert f"no ({code}); {hint}" in call(*words).stderr


@pytest.mark.parametrize("words", [("unschedule", "7"), ("pause", "--schedule", "7")])
def test_refusal_with_sufficient_text_has_no_hint(serve: Serve, call: Call, words: tuple[str, ...]) -> None:
    serve(replies({words[0].upper(): refused("NO_SUCH_JOB", "no")}))
    assert call(*words).stderr == "taskq: no (NO_SUCH_JOB)\n"


def test_no_such_job_hints_at_the_wrong_daemon_if_it_has_no_jobs(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SHOW": refused("NO_SUCH_JOB", "no"), "LIST": b"END 0\r\n"}))
    hint = f"the daemon at {daemon.address} has no jobs; is it the right one?"
    assert call("--address", daemon.address, "show", "7").stderr == f"taskq: no (NO_SUCH_JOB); {hint}\n"


def test_no_such_job_has_general_hint_if_list_is_refused(serve: Serve, call: Call) -> None:
    serve(replies({"SHOW": refused("NO_SUCH_JOB", "no"), "LIST": refused("FORBIDDEN", "no")}))
    assert "`taskq list` shows" in call("show", "7").stderr


# schedules and progress


def test_schedule_sends_options_of_its_submissions(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SCHEDULE": b"OK 3\r\n"}))
    words = ("schedule", *PLAIN, "--cron", "30 2 * * *", "--overlap", "--queue", "q", "--", "ls", "my file")
    assert call(*words) == (0, b"3\n", "")
    (line,) = daemon.lines
    options, _, command = line.partition(" ls ")
    assert command == "'my file'"
    assert options.startswith('SCHEDULE --cron="30 2 * * *" --overlap ')
    assert {"--queue=q", "--cwd=/", "--umask=022", "--env=PATH=/bin"} <= set(options.split(" "))


def test_progress_appends_a_line_to_the_file_of_the_job(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_PROGRESS", str(tmp_path / "progress"))
    assert call("progress", "40") == (0, b"", "")
    assert call("progress", "41%", "--json") == (0, b'{"progress": 41}\n', "")
    assert (tmp_path / "progress").read_text() == "40\n41\n"


@pytest.mark.parametrize(
    "words,table",
    [
        (("result", "7"), {"RESULT": refused("NOT_FINISHED", "job 7 still runs")}),
        (("wait", "7", "--timeout", "1"), {"WAIT 7 --timeout=1": refused("TIMED_OUT", "job 7 still runs")}),
    ],
)
def test_not_finished_exits_with_75(
    serve: Serve, call: Call, words: tuple[str, ...], table: dict[str, bytes]
) -> None:
    serve(replies(table))
    outcome = call(*words)
    assert (outcome.code, outcome.stdout) == (75, b"")
    assert outcome.stderr.startswith("taskq: job 7 still runs (")


# history

HISTORY = [
    # an event, and its line without the time
    (event(1, "submitted", owner="ana", spec={"command": "x"}), "submitted\tby ana\t-"),
    (event(3, "started", attempt=1), "started\tattempt 1\t-"),
    (event(4, "spawned", pid=4711, started=12), "spawned\tpid 4711\t-"),
    (
        event(5, "ended", status="PENDING", reason="exit", exit_code=3, retry_at=AT, stdout={"size": 2}),
        f"ended\tPENDING, exit, again at {AT}\t3",
    ),
    (event(8, "cancelled", by="b\x1b[2Jen", signal=15), "cancelled\tby b\\x1B[2Jen, signal 15\t-"),
    (
        event(9, "ended", status="CANCELLED", reason="cancelled", signal=15),
        "ended\tCANCELLED, cancelled\t-15",
    ),
    (event(10, "retried", by="ana"), "retried\tby ana\t-"),
    (
        event(
            11, "ended", status="FAILED", reason="interrupted", detail="the daemon was killed while it ran"
        ),
        "ended\tFAILED, interrupted, the daemon was killed while it ran\t-",
    ),
    (event(12, "ended", status="COMPLETED", exit_code=0), "ended\tCOMPLETED\t0"),
    (event(13, "something.new", by="ben"), "something.new\tby ben\t-"),
]


def test_history_prints_one_line_per_event(serve: Serve, call: Call) -> None:
    serve(replies({"HISTORY 7": b"".join(line for line, _ in HISTORY) + b"END %d\r\n" % len(HISTORY)}))
    outcome = call("history", "7")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.decode().splitlines() == [f"{AT}\t{text}" for _, text in HISTORY]


@pytest.mark.parametrize(
    "skipped, message",
    [
        (0, ""),
        (1, "taskq: job 7: 1 job that failed because of it is not retried; see --cascade\n"),
        (2, "taskq: job 7: 2 jobs that failed because of it are not retried; see --cascade\n"),
    ],
)
def test_retry_reports_number_of_jobs_that_are_not_retried(
    serve: Serve, call: Call, skipped: int, message: str
) -> None:
    serve(replies({"RETRY 7": SUBMITTED, "SHOW": job(skipped=skipped)}))
    assert call("retry", "7") == (0, b"7\n", message)


def test_retry_cascade_is_sent(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"RETRY 7 --cascade": SUBMITTED, "SHOW": job()}))
    assert call("retry", "--cascade", "7") == (0, b"7\n", "")
    assert daemon.lines[0] == "RETRY 7 --cascade"


LINES = b"""#!/bin/taskq
echo 1
  # a comment \\
echo 2 \\
  and more \\
# no comment
echo 3 \\\\
echo '#' 4
echo 5 \\\r
end\r

"""


def test_from_file_skips_comments_and_joins_continued_lines(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(LINES)
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    outcome = call("--json", "submit", "--from-file", "jobs", *PLAIN)
    assert [line.removeprefix(BEFORE) for line in daemon.lines] == [
        *("echo 1", "echo 2   and more # no comment", "echo 3 \\\\", "echo '#' 4", "echo 5 end")
    ]
    assert [each["line"] for each in outcome.documents] == [2, 4, 7, 8, 9]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_from_file_does_not_submit_unfinished_last_line(
    serve: Serve, call: Call, tmp_path: Path, end: bytes
) -> None:
    (tmp_path / "jobs").write_bytes(b"echo 1\necho 2 \\" + end)
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", "--from-file", "jobs") == (
        *(1, b"7\n"),
        "taskq: line 2 was not submitted: it ends with \\ and no line follows\n",
    )
    assert len(daemon.lines) == 1


# list


@pytest.mark.parametrize("count,is_cut", [(100, False), (101, True)])
@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_list_that_is_cut_prints_a_message(
    serve: Serve, call: Call, count: int, is_cut: bool, form: tuple[str, ...]
) -> None:
    listed = b"".join(job(number, submitted_at=AT) for number in range(1, count + 1))
    daemon = serve(replies({"LIST": listed + b"END %d\r\n" % count}))
    outcome = call("list", *form)
    shown = json.loads(outcome.stdout) if form == ("--json",) else outcome.stdout.splitlines()
    assert (outcome.code, len(shown)) == (0, 100)
    message = "taskq: there are more than 100 jobs; use --from 101 or --limit to list them\n"
    assert outcome.stderr == (message if is_cut else "")
    assert daemon.lines == ["LIST --limit=101"]


# drain


def test_drain_wait_returns_when_no_job_is_running(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_commands, "POLL_INTERVAL", 0.01)
    left = iter([2, 2, 1, 0])

    def answer(request: Request) -> bytes:
        return b"OK\r\n" if request.verb == "DRAIN" else b'STATS {"busy":%d}\r\n' % next(left)

    daemon = serve(answer)
    assert call("drain", "--wait") == (0, b"draining: 0 running\n", "")
    assert daemon.lines == ["DRAIN", "STATS", "STATS", "STATS", "STATS"]


# output

BINARY = bytes(range(256))


def test_result_prints_both_streams_unchanged(serve: Serve, call: Call) -> None:
    quoted = "".join(f"\\x{byte:02X}" for byte in BINARY)
    serve(replies({**TRUE, "RESULT": f'RESULT "{quoted}" "err" 0\r\n'.encode()}))
    assert call("result", "7") == (0, BINARY, "err")


def stored(stdout: bytes, stderr: bytes, max_piece: int) -> Script:
    """Return a script for the finished job 7 with this output, in pieces of up to ``max_piece`` bytes."""
    streams = {"stdout": stdout, "stderr": stderr}

    def answer(request: Request) -> bytes:
        if request.verb == "OUTPUT":
            stream = request.line.split(" ")[2]
            given = dict(re.findall(r" --(offset|limit|tail)=([0-9]+)", request.line))
            start = int(given.get("offset", 0))
            if "tail" in given:
                start = max(0, len(streams[stream]) - int(given["tail"]))
            length = min(max_piece, int(given.get("limit", max_piece)))
            return data(stream, start, streams[stream][start : start + length])
        return {**TRUE, "RESULT": refused("TOO_LARGE", "read it with OUTPUT")}[request.verb]

    return answer


CUT = job(stdout_bytes=4, stdout_dropped=1000, stderr_dropped=0)
CUT_RUNS = [
    {"attempt": 1, "stdout_bytes": 4, "stdout_dropped": 0},
    {"attempt": 2, "stderr_bytes": 2, "stderr_dropped": 9},
]


@pytest.mark.parametrize("words", [("run", "x"), ("follow", "7"), ("result", "7"), ("output", "7")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_dropped_output_is_reported_and_exits_with_74(
    serve: Serve, call: Call, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    table = {
        "SUBMIT": SUBMITTED,
        "FOLLOW": data("stdout", 0, b"kept") + b"STATUS COMPLETED 100\r\n",
        "RESULT": b'RESULT "kept" "" 0\r\n',
        "OUTPUT 7 stdout": data("stdout", 0, b"kept"),
        "OUTPUT": data("stdout", 4, b""),
        "SHOW": CUT,
    }
    serve(replies(table))
    outcome = call(*form, *words)
    assert outcome.code == 74
    assert b"kept" in outcome.stdout
    assert outcome.stderr == (
        "taskq: stdout of job 7: 1000 bytes were dropped after the first 4 bytes; "
        "--max-output sets the limit\n"
    )


def test_failed_job_keeps_its_exit_code_when_output_was_dropped(serve: Serve, call: Call) -> None:
    serve(replies({**TRUE, "SHOW": job(7, "FAILED", 3, stderr_dropped=1)}))
    outcome = call("result", "7")
    assert (outcome.code, outcome.stderr.count("stderr of job 7: 1 bytes were dropped")) == (3, 1)


@pytest.mark.parametrize(
    "words,code", [((), 0), (("stderr",), 74), (("--attempt", "1"), 0), (("stderr", "--limit", "1"), 0)]
)
def test_output_reports_only_drops_of_the_printed_stream(
    serve: Serve, call: Call, words: tuple[str, ...], code: int
) -> None:
    piece = {"OUTPUT 7 stderr --limit=1": data("stderr", 0, b"x"), "OUTPUT": data("stdout", 0, b"")}
    serve(replies({**piece, "SHOW": job(stderr_dropped=9, runs=CUT_RUNS)}))
    assert call("output", "7", *words).code == code


def test_output_prints_stderr_of_the_job_to_stdout(serve: Serve, call: Call) -> None:
    serve(stored(b"out", BINARY, 100))
    assert call("output", "7", "stderr") == (0, BINARY, "")
    assert [each["stream"] for each in call("output", "7", "stderr", "--jsonl").documents] == ["stderr"] * 3


def test_result_too_large_for_one_reply_is_read_in_pieces(serve: Serve, call: Call) -> None:
    serve(stored(BINARY * 3, b"some errors", 100))
    assert call("result", "7") == (0, BINARY * 3, "some errors")


@pytest.mark.parametrize(
    "options,stdout",
    [
        ((), BINARY),
        (("stdout", "--offset", "250"), BINARY[250:]),
        (("--limit", "150"), BINARY[:150]),
        (("--limit", "0"), b""),
        (("--offset", "10", "--limit", "200"), BINARY[10:210]),
        (("--tail", "130"), BINARY[-130:]),
    ],
)
def test_output_prints_exactly_the_requested_range(
    serve: Serve, call: Call, options: tuple[str, ...], stdout: bytes
) -> None:
    serve(stored(BINARY, b"", 100))
    assert call("output", "7", *options) == (0, stdout, "")


# JSON

JOB = json.loads(job()[4:])
ERROR = {"code": "GONE", "text": "removed"}
ANSWERS = {
    "SUBMIT": SUBMITTED,
    "STATUS": b"STATUS RUNNING 40\r\n",
    "CANCEL": b"STATUS CANCELLED 0\r\n",
    "HOLD": b"STATUS PENDING 0\r\n",
    "RELEASE": b"STATUS PENDING 0\r\n",
    "SET": job(),
    "RETRY": SUBMITTED,
    "SHOW": job(),
    "SHOW 8": job(8),
    "SHOW 9": refused("GONE", "removed"),
    "WHY": b"OK 3rd in line\r\n",
    "WAIT": b"STATUS COMPLETED 100\r\n",
    "WAIT 7 8": b"STATUS COMPLETED 100 8\r\nSTATUS COMPLETED 100 7\r\nEND 2\r\n",
    "RESULT": b'RESULT "\\xC3\\xBC\\n" "\\xFF" 0\r\n',
    "OUTPUT 7 stdout": data("stdout", 0, b"x"),
    "OUTPUT 7 stdout --offset=1": data("stdout", 1, b""),
    "FOLLOW": data("stdout", 0, b"x") + b"STATUS COMPLETED 100\r\n",
    "LIST": job() + b"END 1\r\n",
    "STATS": b'STATS {"busy":0}\r\n',
    "REMOVE": b"OK\r\n",
    "DRAIN": b"OK\r\n",
    "HISTORY": event(1, "retried", by="ana") + b"END 1\r\n",
    "HELLO": b'TASKQ 1 {"you":"me"}\r\n',
    "QUEUES": b'QUEUE {"name":"q"}\r\nEND 1\r\n',
    "SET-QUEUE": b'QUEUE {"name":"q","slots":null}\r\n',
    "PAUSE": b"OK\r\n",
    "RESUME": b"OK\r\n",
    "SCHEDULE": b"OK 3\r\n",
    "UNSCHEDULE": b"OK\r\n",
}
QUEUE = {
    "name": "q",
    "slots": None,
    "busy": 0,
    "paused": False,
    **dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0),
}
SCHEDULE = {"schedule": 3, "every": 60.0, "cron": None, "paused": False, "command": "x"}
ANSWERS["QUEUES"] = b"QUEUE " + json.dumps(QUEUE).encode() + b"\r\nEND 1\r\n"
ANSWERS["SCHEDULES"] = b"SCHEDULE " + json.dumps(SCHEDULE).encode() + b"\r\nEND 1\r\n"


@pytest.mark.parametrize(
    "words,documents",
    [
        (("submit", "x"), [{"id": 7}]),
        (("submit", "--from-file", "jobs"), [{"line": 1, "id": 7}, {"line": 3, "id": 7}]),
        (("status", "7"), [{"id": 7, "status": "RUNNING", "progress": 40}]),
        (("why", "7"), [{"id": 7, "why": "3rd in line"}]),
        (("cancel", "7"), [{"id": 7, "status": "CANCELLED", "progress": 0}]),
        (("hold", "7"), [{"id": 7, "status": "PENDING", "progress": 0}]),
        (("release", "7"), [{"id": 7, "status": "PENDING", "progress": 0}]),
        (("set", "7", "--priority", "1"), [JOB]),
        (("retry", "7"), [{"id": 7}]),
        (("remove", "7"), [{"id": 7}]),
        (("drain",), [{"draining": True, "running": 0}]),
        (("show", "7"), [JOB]),
        (("wait", "7"), [JOB]),
        (
            ("result", "7"),
            [{"id": 7, "stdout": "ü\n", "stderr": None, "stderr_base64": "/w==", "exit_code": 0}],
        ),
        (("output", "7"), [{"stream": "stdout", "offset": 0, "data": "x"}]),
        (("run", "x"), [{"id": 7}, {"stream": "stdout", "offset": 0, "data": "x"}, JOB]),
        (("stats",), [{"busy": 0}]),
        (("hello",), [{"protocol": 1, "you": "me"}]),
        (("set-queue", "q", "--slots", "none"), [{"name": "q", "slots": None}]),
        (("pause",), [{"queue": None, "schedule": None, "paused": True}]),
        (("resume", "q"), [{"queue": "q", "schedule": None, "paused": False}]),
        (("schedule", "--every", "1h", "x"), [{"schedule": 3}]),
        (("unschedule", "3"), [{"schedule": 3}]),
    ],
)
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_json_of_one_result_or_a_stream_is_one_document_per_line(
    serve: Serve, call: Call, tmp_path: Path, words: tuple[str, ...], documents: object, where: int, form: str
) -> None:
    (tmp_path / "jobs").write_text("a\n\nb\n")
    serve(replies(ANSWERS))
    outcome = call(*words[:where], form, *words[where:])
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.documents == documents


@pytest.mark.parametrize(
    "words,documents",
    [
        (("list",), [JOB]),
        (("queues",), [QUEUE]),
        (("schedules",), [SCHEDULE]),
        (("history", "7"), [{"seq": 1, "at": AT, "type": "retried", "id": 7, "by": "ana"}]),
        (("show", "7", "8"), [JOB, {**JOB, "id": 8}]),
        (("wait", "7", "8"), [{**JOB, "id": 8}, JOB]),
        (("remove", "7", "8"), [{"id": 7}, {"id": 8}]),
        (("retry", "--label", "x"), [{"id": 7}]),
        (("cancel", "7-9"), [{"id": 7, "status": "CANCELLED", "progress": 0}]),
        (("unschedule", "3", "4"), [{"schedule": 3}, {"schedule": 4}]),
    ],
)
def test_json_of_several_results_is_a_list_and_jsonl_one_document_per_line(
    serve: Serve, call: Call, words: tuple[str, ...], documents: list[object]
) -> None:
    serve(replies(ANSWERS))
    outcome = call("--json", *words)
    assert json.loads(outcome.stdout) == documents
    assert outcome.code == 0
    assert call(*words, "--jsonl").documents == documents
    assert call("--json", *words, "--jsonl").documents == documents


def test_json_list_is_empty_without_results(serve: Serve, call: Call) -> None:
    serve(replies({"LIST": b"END 0\r\n"}))
    assert call("list", "--json") == (0, b"[]\n", "")
    assert call("list", "--jsonl") == (0, b"", "")


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_refusal_is_a_json_document(serve: Serve, call: Call, form: str) -> None:
    serve(replies({**ANSWERS, "LIST": refused("GONE", "removed")}))
    outcome = call("show", form, "9")
    assert outcome.code == 1
    assert outcome.documents == [{"id": 9, "error": ERROR}]
    assert call("list", form).documents == [{"error": ERROR}]


def test_refusal_is_an_item_of_the_json_list(serve: Serve, call: Call) -> None:
    serve(replies(ANSWERS))
    outcome = call("show", "--json", "7", "9")
    assert json.loads(outcome.stdout) == [JOB, {"id": 9, "error": ERROR}]
    assert (outcome.code, outcome.stderr) == (1, "taskq: job 9: removed (GONE)\n")


# list


def test_list_filters_have_their_protocol_names(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"LIST": b"END 0\r\n"}))
    words = [
        "--status",
        "FAILED,CANCELLED",
        "--owner",
        "me",
        "--key",
        "k",
        "--from",
        "5",
        "--limit",
        "9",
        "--reverse",
        "--queue",
        "q",
        "--array",
        "4",
        "--tasks",
        "--label",
    ]
    assert call("list", *words, "a b") == (0, b"", "")
    (line,) = daemon.lines
    assert line == (
        'LIST --status=FAILED,CANCELLED --owner=me --key=k --queue=q --array=4 --label="a b"'
        " --from=5 --limit=9 --tasks --reverse"
    )


JOBS = (
    job(7, "RUNNING", None, command="make\t-j4 \x1b]0;owned\x07", submitted_at=AT, progress=40)
    + job(8, "FAILED", -9, command="x" * 300, submitted_at=AT, progress=0)
    + job(9, "PENDING", None, command=None, script=12, submitted_at=AT, progress=0)
    + b"END 3\r\n"
)


def test_piped_list_prints_tab_separated_lines(serve: Serve, call: Call) -> None:
    serve(replies({"LIST": JOBS}))
    outcome = call("list")
    assert [line.split("\t") for line in outcome.stdout.decode().splitlines()] == [
        ["7", "RUNNING", "-", AT, r"make\t-j4 \x1B]0;owned\x07"],
        ["8", "FAILED", "-9", AT, "x" * 300],
        ["9", "PENDING", "-", AT, "(a script of 12 bytes)"],
    ]


@pytest.mark.parametrize(
    "text,shown",
    [
        ("plain ü €", "plain ü €"),
        ("\x1b[2J", r"\x1B[2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b1m\x7f\0", r"\x9B1m\x7F\x00"),
        ("\u202egnp.exe", r"\u202Egnp.exe"),
        ("\ud800", r"\uD800"),
    ],
)
def test_sanitize_line_escapes_control_characters(text: str, shown: str) -> None:
    assert terminal.sanitize_line(text) == shown


@pytest.mark.parametrize(
    "at,text",
    [
        ("1970-01-12T13:46:40.000Z", "0 s"),
        ("1970-01-12T13:46:41.500Z", "0 s"),
        ("1970-01-12T13:46:00Z", "40 s"),
        ("1970-01-12T13:00:00Z", "46 min"),
        ("1970-01-12T01:00:00Z", "12 h"),
        ("1970-01-01T00:00:00Z", "11 d"),
    ],
)
def test_age_uses_the_largest_unit(at: str, text: str) -> None:
    assert terminal.age(at, 1_000_000.0) == text


# the table of commands


def test_help_lists_every_command_in_its_section(call: Call) -> None:
    shown = call("--help").stdout.decode()
    at = [shown.index(f"\n{title}:\n") for title in app.SECTIONS]
    assert at == sorted(at)
    for names in app.SECTIONS.values():
        assert all(f"\n  {name} " in shown for name in names)


def test_help_does_not_truncate_summaries(call: Call) -> None:
    assert not re.search(r"^  [a-z].*\.\.\.$", call("--help").stdout.decode(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for names in app.SECTIONS.values() for name in names])
def test_every_command_has_a_help(call: Call, name: str) -> None:
    assert call(name, "--help").code == 0


def test_every_defined_command_is_in_a_section(call: Call) -> None:
    call("--help")
    assert set(app.taskq.commands) == {name for names in app.SECTIONS.values() for name in names}
