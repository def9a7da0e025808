"""``taskq submit``: requests, options, files and secrets."""

import os
import re
import time
from pathlib import Path

import pytest

from taskqd.protocol.values import timestamp
from tests.fakes.daemon import FakeDaemon, Request, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import PLAIN, SUBMITTED

CONDITIONS = "--retry-on=exit:75,timeout --no-retry-on=exit:2"

AFTER = "--after=3,4,5,6 --after-any=7.1 --after-fail=8"

BEFORE = "SUBMIT --cwd=/ --umask=022 --env=PATH=/bin "
"""The start of the request line of a submission with PLAIN."""


def submitted(daemon: FakeDaemon) -> str:
    """Return the only request line, without the options that are added for a UNIX socket."""
    (line,) = daemon.lines
    return re.sub(r" --(env=PATH|cwd|umask)=\S+", "", line)


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
        (("--expires", "1h30m"), "--expires=90m"),
        (("--unless", "two words"), '--unless="two words"'),
        (("--queue", "q", "--priority", "-5", "--slots=2"), "--queue=q --priority=-5 --slots=2"),
        (("--need", "gpu:1,x:2", "--hold", "--notify-fail"), "--need=gpu:1,x:2 --hold --notify-fail"),
        (("--idle-timeout", "1m", "--retry-delay-max", "5m"), "--idle-timeout=1m --retry-delay-max=5m"),
        (("--retry-on", "exit:75,timeout", "--no-retry-on", "exit:2"), CONDITIONS),
        (
            ("--after-label", "a b", "--after-key=x,y", "--after-any-label=c"),
            '--after-label="a b" --after-key=x,y --after-any-label=c',
        ),
        (("--after", "3,4-6", "--after-any=7.1", "--after-fail=8"), AFTER),
        (("--delay", "10m", "--array", "1-10%2"), "--delay=10m --array=1-10%2"),
        (("--at", "2126-11-24T07:00:00Z"), "--at=2126-11-24T07:00:00Z"),
        (
            ("--at", "2027-03-28 02:30", "--tz", "Europe/Berlin"),
            "--at=2027-03-28T03:00:00+02:00 --tz=Europe/Berlin",
        ),
        (("--memory", "1G", "--cpu-time", "1h", "--nofile=64"), "--memory=1G --cpu-time=1h --nofile=64"),
        (("--memory-max", "2GB"), "--memory-max=2147483648"),
        (("--merge", "--stdout", "/log/%j"), "--merge --stdout=/log/%j"),
        (("--stdout", "../a/log", "--stderr", "-", "--cwd", "/d"), "--stdout=/a/log --stderr=/d/-"),
        (("--stderr", "%j.log", "--cwd", "/100%"), "--stderr=/100%%/%j.log"),
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
    outcome = call("submit", "--cwd", "sub", "--umask", "2", "--env", "PATH=/x", "make")
    assert f"there is no directory {tmp_path}/sub yet" in outcome.stderr
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


def test_words_after_a_script_are_its_arguments(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"echo $1")
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *PLAIN, "--script", "script", "a b", "$c", "--x").code == 0
    assert daemon.lines[0].endswith(" --script=7 'a b' '$c' --x")
    assert daemon.requests[0].blocks == (b"echo $1",)


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


PAST = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("words", [("submit", "x"), ("run", "x"), ("submit", "--from-file", "/dev/null")])
def test_start_time_that_is_past_is_refused(call: Call, words: tuple[str, ...]) -> None:
    outcome = call(words[0], "--at", PAST, *words[1:])
    assert outcome.code == 2
    assert re.match(r"taskq: --at is [0-9]+ d.* ago, so the job would start at once;", outcome.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ("--at", PAST, "--at-past=run"),
        ("--at", PAST, "--key", "nightly-1"),
        ("--at", "30 seconds ago"),
    ],
    ids=["allowed", "key", "just now"],
)
def test_start_time_that_is_past_is_sent_if_that_is_meant(
    serve: Serve, call: Call, words: tuple[str, ...]
) -> None:
    at = timestamp(time.time() - 30) if words[1] == "30 seconds ago" else words[1]
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", "--at", str(at), *words[2:], "x") == (0, b"7\n", "")
    assert f" --at={at} " in submitted(daemon)
