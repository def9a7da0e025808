import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskqd import cli
from taskqd.cli import commands, terminal
from tests.fake_daemon import FakeDaemon, Request, Script, data, job, refused, replies


class Outcome(NamedTuple):
    """How a call of the command line ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Call = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TASKQ_ADDRESS", "TASKQ_TOKEN", "TASKQ_TOKEN_FILE", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="call")
def a_call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Return a function that calls the command line in this process."""

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["taskq", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        stdout, stderr = capfdbinary.readouterr()
        return Outcome(int(str(end.value.code)), stdout, stderr.decode())

    return call


@pytest.fixture(name="serve")
def a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], FakeDaemon]]:
    """Return a function that starts a fake daemon, where the command line looks for one."""
    opened: list[FakeDaemon] = []

    def serve(script: Script) -> FakeDaemon:
        daemon = FakeDaemon(script, tmp_path)
        opened.append(daemon)
        monkeypatch.setenv("TASKQ_ADDRESS", daemon.address)
        return daemon

    yield serve
    for daemon in opened:
        daemon.close()


Serve = Callable[[Script], FakeDaemon]


AT = "2026-11-24T07:00:00.000Z"
SUBMITTED = b"JOB_ID 7\r\n"
TRUE = {"SHOW": job(), "RESULT": b'RESULT "" "" 0\r\n', "WAIT": b"STATUS COMPLETED 100\r\n"}
PLAIN = ("--cwd", "/", "--umask", "022", "--env", "PATH=/bin")
"""What keeps our own surroundings out of a submission."""
BEFORE = "SUBMIT --cwd=/ --umask=022 --env=PATH=/bin "
"""How the line of such a submission begins."""


def event(sequence: int, kind: str, **more: object) -> bytes:
    """Return an EVENT reply."""
    return b"EVENT %d " % sequence + json.dumps({"at": AT, "type": kind, "id": 7, **more}).encode() + b"\r\n"


def submitted(daemon: FakeDaemon) -> str:
    """Return the one command line that came, without what PLAIN and a UNIX socket add to it."""
    (line,) = daemon.lines
    return re.sub(r" --(env=PATH|cwd|umask)=\S+", "", line)


# submit


@pytest.mark.parametrize(
    "words,line",
    [
        (("ls", "-la"), "SUBMIT ls -la"),
        (("ls", "-la", "my file", "it's"), """SUBMIT ls -la 'my file' 'it'"'"'s'"""),
        (("echo", "$HOME", "a|b", ""), "SUBMIT echo '$HOME' 'a|b' ''"),
        (("ls", "--json", "--", "-x"), "SUBMIT ls --json -- -x"),
        (("--", "--version"), "SUBMIT -- --version"),
        (("--", "-x", "y"), "SUBMIT -x y"),
    ],
)
def test_several_words_reach_the_program_as_they_were(
    serve: Serve, call: Call, words: tuple[str, ...], line: str
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *words) == (0, b"7\n", "")
    assert submitted(daemon) == line


def test_one_word_is_a_line_for_the_shell(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    call("submit", "sort < 'in' | uniq -c")
    assert submitted(daemon) == "SUBMIT sort < 'in' | uniq -c"


@pytest.mark.parametrize(
    "options,written",
    [
        (("--timeout", "10m", "--kill-after", "500ms"), "--timeout=10m --kill-after=500ms"),
        (("--retries", "3", "--retry-delay=2"), "--retries=3 --retry-delay=2"),
        (("--key", "a/b", "--label", "two words"), '--key=a/b --label="two words"'),
        (("--nice", "-5", "--max-output", "64k"), "--nice=-5 --max-output=64k"),
        (("--env", "A=1", "--env", "B=x=y", "--env", "C="), '--env=A=1 --env=B="x=y" --env=C=""'),
    ],
)
def test_options_have_their_names_on_the_wire(
    serve: Serve, call: Call, options: tuple[str, ...], written: str
) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *options, "x").code == 0
    (line,) = daemon.lines
    assert set(written.split(" --")[1:]) <= set(line.split(" --"))


def test_a_unix_socket_gets_our_directory_path_and_umask(serve: Serve, call: Call, tmp_path: Path) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    before = os.umask(0o027)
    try:
        call("submit", "make")
    finally:
        os.umask(before)
    words = daemon.lines[0].split(" ")
    assert {f"--cwd={tmp_path}", "--umask=027", "--env=PATH=/bin:/usr/bin"} <= set(words)


def test_what_is_given_goes_before_our_surroundings(serve: Serve, call: Call, tmp_path: Path) -> None:
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    call("submit", "--cwd", "sub", "--umask", "2", "--env", "PATH=/x", "make")
    words = daemon.lines[0].split(" ")
    assert sorted(words) == sorted(
        ["SUBMIT", f"--cwd={tmp_path}/sub", "--umask=002", "--env=PATH=/x", "make"]
    )


def test_tcp_gets_nothing_of_our_surroundings(call: Call) -> None:
    with FakeDaemon(replies({"SUBMIT": SUBMITTED})) as daemon:
        assert call("submit", "--address", daemon.address, "make").code == 0
        assert daemon.lines == ["SUBMIT make"]


def test_blocks_come_from_files(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\nwc\n")
    (tmp_path / "in").write_bytes(b"\0\xff\r\n")
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    assert call("submit", *PLAIN, "--script", "script", "--stdin", "in").code == 0
    assert daemon.requests[0].blocks == (b"#!/bin/sh\nwc\n", b"\0\xff\r\n")


# submit --from-file


def test_each_line_of_a_file_is_a_job(serve: Serve, call: Call, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(b"echo 1\n\n  \necho 2\r\n\xff\n--x\necho last")
    ids = iter(range(1, 100))
    daemon = serve(lambda _: b"JOB_ID %d\r\n" % next(ids))
    assert call("submit", *PLAIN, "--from-file", "jobs") == (0, b"1\n2\n3\n4\n5\n", "")
    assert [line.removeprefix(BEFORE) for line in daemon.lines] == [
        *("echo 1", "echo 2", "--script=1", "-- --x", "echo last")
    ]


def test_a_refused_line_is_told_by_its_number_and_the_others_are_submitted(
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
            "taskq: line 4: a command cannot hold a NUL byte; this one has it after 4 bytes (BAD_REQUEST)\n"
        ),
    )


def test_a_connection_lost_among_many_tells_the_last_line_that_was_answered(
    serve: Serve, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_bytes(b"one\ntwo\nthree\n")
    answers = iter([SUBMITTED, SUBMITTED, None])
    serve(lambda _: next(answers))
    outcome = call("submit", "--from-file", "jobs")
    assert (outcome.code, outcome.stdout) == (69, b"7\n7\n")
    assert "line 2 was the last to be answered" in outcome.stderr


# usage


@pytest.mark.parametrize(
    "words,text",
    [
        (("submit",), "expected either a COMMAND or a --script"),
        (("submit", "--script", "/dev/null", "x"), "expected either a COMMAND or a --script"),
        (("submit", "--script", "-", "--stdin", "-"), "only one of the options can read from -"),
        (("submit", "--from-file", "-", "--stdin", "-"), "only one of the options can read from -"),
        (("submit", "--from-file", "/dev/null", "x"), "no COMMAND, --script or --key beside it"),
        (("submit", "--from-file", "/dev/null", "--key", "k"), "no COMMAND, --script or --key beside it"),
        (("submit", "--timeout", "soon", "x"), "expected a duration such as 1.5"),
        (("submit", "--max-output", "1T", "x"), "expected a size such as"),
        (("submit", "--retries", "many", "x"), "expected a whole number"),
        (("submit", "--nice", "20", "x"), "expected a whole number from -20 to 19"),
        (("submit", "--umask", "9", "x"), "expected an octal mask"),
        (("submit", "--key", "a b", "x"), "expected a name"),
        (("submit", "--env", "A", "x"), "expected NAME=VALUE, not 'A'"),
        (("submit", "--stdin", "none", "x"), "'none'"),
        (("list", "--status", "DONE"), "expected some of PENDING,RUNNING"),
        (("status",), "ID"),
        (("status", "0"), "expected a whole number from 1"),
        (("output", "7", "stdin"), "'stdin' is not one of"),
        (("--address", "nowhere", "stats"), "expected unix:PATH"),
        (("stats", "--address", "tcp:x"), "expected unix:PATH"),
        (("remove",), "ID"),
        (("history", "x"), "expected a whole number from 1"),
        (("journal", "verify", "none"), "'none'"),
        (("journal", "dump", ".", "--job", "0"), "expected a whole number from 1"),
        (("journal", "dump", ".", "--since", "yesterday"), "expected a time such as"),
        (("journal", "dump", ".", "--since", "2026-11-24T07:00:00"), "expected a time such as"),
        (("dance",), "'dance'"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_exit_code_2(
    serve: Serve, call: Call, words: tuple[str, ...], text: str
) -> None:
    daemon = serve(replies({}))
    outcome = call(*words)
    assert (outcome.code, outcome.stdout) == (2, b"")
    assert outcome.stderr.startswith("taskq: ")
    assert text in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert daemon.lines == []


def test_a_directory_that_is_gone_is_told_before_anything_is_sent(
    serve: Serve, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = serve(replies({}))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    outcome = call("submit", "x")
    monkeypatch.chdir(tmp_path)
    assert outcome.code == 2
    assert "say with --cwd where to run the job" in outcome.stderr
    assert daemon.lines == []


# the daemon


def test_no_daemon_is_exit_code_69_and_says_where_and_how_to_start_one(call: Call, tmp_path: Path) -> None:
    outcome = call("--address", f"unix:{tmp_path}/none", "submit", "true")
    assert outcome == (
        69,
        b"",
        (
            f"taskq: no daemon answers at unix:{tmp_path}/none: No such file or directory; "
            "start one with `twistd taskq` or give its --address\n"
        ),
    )


def test_without_an_address_the_daemons_default_socket_is_tried(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert f"unix:{tmp_path}/taskqd/taskq.sock" in call("stats").stderr


@pytest.mark.parametrize("words", [("--address", "{}", "stats"), ("stats", "--address", "{}")])
def test_the_address_stands_before_or_behind_the_command_and_goes_before_the_environment(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TASKQ_ADDRESS", "unix:/nowhere")
    with FakeDaemon(replies({"STATS": b"STATS {}\r\n"}), tmp_path) as daemon:
        assert call(*(word.format(daemon.address) for word in words)).code == 0


@pytest.mark.parametrize("name", ["TASKQ_TOKEN", "TASKQ_TOKEN_FILE"])
def test_the_token_of_the_environment_is_sent_over_tcp(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv(name, "secret" if name == "TASKQ_TOKEN" else str(tmp_path / "token"))
    with FakeDaemon(replies({"AUTH secret": b"OK token admin\r\n", "STATS": b"STATS {}\r\n"})) as daemon:
        assert call("--address", daemon.address, "stats").code == 0
        assert daemon.lines == ["AUTH secret", "STATS"]


def test_a_token_file_that_cannot_be_read_is_a_usage_error(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_TOKEN_FILE", "/none")
    outcome = call("--address", "tcp:127.0.0.1:1", "stats")
    assert outcome.code == 2
    assert "cannot read the token that TASKQ_TOKEN_FILE names" in outcome.stderr


def test_who_is_not_authenticated_is_told_where_the_token_goes(serve: Serve, call: Call) -> None:
    serve(replies({"STATS": refused("AUTH_REQUIRED", "say AUTH first")}))
    outcome = call("stats")
    assert outcome.code == 1
    assert outcome.stderr == (
        "taskq: say AUTH first (AUTH_REQUIRED); "
        "set TASKQ_TOKEN or TASKQ_TOKEN_FILE to the token in the daemon's state directory\n"
    )


# one job or several


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
        (("retry", "7"), {"RETRY 7": b"JOB_ID 7\r\n"}, b"7\n"),
        (("remove", "7", "8"), {"REMOVE 7": b"OK\r\n", "REMOVE 8": b"OK\r\n"}, b"7\n8\n"),
        (("drain",), {"DRAIN": b"OK\r\n", "STATS": b'STATS {"busy":2}\r\n'}, b"draining: 2 running\n"),
        (
            ("show", "7"),
            {"SHOW 7": job(label="\x1b", signal=None, env={"A": "1"})},
            b"id: 7\ncommand: true\nstatus: COMPLETED\nexit_code: 0\nattempts: 1\nlabel: \\x1B\nenv.A: 1\n",
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
def test_a_command_prints_what_it_was_told(
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
        ("show", job()),
    ],
)
def test_one_refused_keeps_the_others_from_nothing(serve: Serve, call: Call, verb: str, reply: bytes) -> None:
    daemon = serve(replies({verb.upper(): reply, f"{verb.upper()} 8": refused("NO_SUCH_JOB", "none")}))
    outcome = call(verb, "7", "8", "9")
    assert daemon.lines == [f"{verb.upper()} {number}" for number in (7, 8, 9)]
    assert (outcome.code, outcome.stderr) == (1, "taskq: job 8: none (NO_SUCH_JOB)\n")
    assert outcome.stdout


@pytest.mark.parametrize(
    "status,exit_code,reason,code,stderr",
    [
        ("COMPLETED", 0, None, 0, ""),
        ("FAILED", 3, "exit", 3, ""),
        ("FAILED", -9, "signal", 137, ""),
        ("CANCELLED", -15, "cancelled", 143, ""),
        ("CANCELLED", None, "cancelled", 1, "taskq: job 7 is CANCELLED (cancelled): it has no exit code\n"),
        ("FAILED", None, "spawn", 1, "taskq: job 7 is FAILED (spawn): it has no exit code\n"),
        ("FAILED", 0, "timeout", 1, "taskq: job 7 is FAILED (timeout), though its exit code is 0\n"),
    ],
)
def test_the_exit_code_is_the_jobs(
    serve: Serve, call: Call, status: str, exit_code: int | None, reason: str | None, code: int, stderr: str
) -> None:
    table = {
        "SUBMIT": SUBMITTED,
        "WAIT": f"STATUS {status} 0\r\n".encode(),
        "OUTPUT": data("stdout", 0, b""),
        "RESULT": f'RESULT "" "" {"-" if exit_code is None else exit_code}\r\n'.encode(),
        "SHOW": job(7, status, exit_code, reason=reason),
    }
    serve(replies(table))
    assert call("result", "7") == (code, b"", stderr)
    assert call("run", "x") == (code, b"", stderr)
    assert call("wait", "7") == (code, f"{status} 0\n".encode(), stderr)


@pytest.mark.parametrize(
    "words,table",
    [
        (("result", "7"), {"RESULT": refused("NOT_FINISHED", "job 7 still runs")}),
        (("wait", "7", "--timeout", "1"), {"WAIT 7 --timeout=1": refused("TIMED_OUT", "job 7 still runs")}),
    ],
)
def test_not_finished_is_exit_code_75(
    serve: Serve, call: Call, words: tuple[str, ...], table: dict[str, bytes]
) -> None:
    serve(replies(table))
    outcome = call(*words)
    assert (outcome.code, outcome.stdout) == (75, b"")
    assert outcome.stderr.startswith("taskq: job 7 still runs (")


# what happened to a job

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


def test_a_history_has_a_line_an_event(serve: Serve, call: Call) -> None:
    serve(replies({"HISTORY 7": b"".join(line for line, _ in HISTORY) + b"END %d\r\n" % len(HISTORY)}))
    outcome = call("history", "7")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.decode().splitlines() == [f"{AT}\t{text}" for _, text in HISTORY]


# drain


def test_drain_waits_until_no_slot_is_taken(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOK_EVERY", 0.01)
    left = iter([2, 2, 1, 0])

    def answer(request: Request) -> bytes:
        return b"OK\r\n" if request.verb == "DRAIN" else b'STATS {"busy":%d}\r\n' % next(left)

    daemon = serve(answer)
    assert call("drain", "--wait") == (0, b"draining: 0 running\n", "")
    assert daemon.lines == ["DRAIN", "STATS", "STATS", "STATS", "STATS"]


# what a job prints

BINARY = bytes(range(256))


def test_a_result_goes_to_our_own_streams_byte_for_byte(serve: Serve, call: Call) -> None:
    quoted = "".join(f"\\x{byte:02X}" for byte in BINARY)
    serve(replies({**TRUE, "RESULT": f'RESULT "{quoted}" "err" 0\r\n'.encode()}))
    assert call("result", "7") == (0, BINARY, "err")


def stored(stdout: bytes, stderr: bytes, largest: int) -> Script:
    """Return a script for the finished job 7 with this output, sent in pieces of that length."""
    streams = {"stdout": stdout, "stderr": stderr}

    def answer(request: Request) -> bytes:
        if request.verb == "OUTPUT":
            stream = request.line.split(" ")[2]
            given = dict(re.findall(r" --(offset|limit|tail)=([0-9]+)", request.line))
            start = int(given.get("offset", 0))
            if "tail" in given:
                start = max(0, len(streams[stream]) - int(given["tail"]))
            length = min(largest, int(given.get("limit", largest)))
            return data(stream, start, streams[stream][start : start + length])
        return {**TRUE, "RESULT": refused("TOO_LARGE", "read it with OUTPUT")}[request.verb]

    return answer


def test_a_result_too_large_for_one_reply_is_read_in_pieces(serve: Serve, call: Call) -> None:
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
def test_output_is_never_cut_short_in_silence(
    serve: Serve, call: Call, options: tuple[str, ...], stdout: bytes
) -> None:
    serve(stored(BINARY, b"", 100))
    assert call("output", "7", *options) == (0, stdout, "")


# JSON


@pytest.mark.parametrize(
    "words,documents",
    [
        (("submit", "x"), [{"id": 7}]),
        (("submit", "--from-file", "jobs"), [{"line": 1, "id": 7}, {"line": 3, "id": 7}]),
        (("status", "7"), [{"id": 7, "status": "RUNNING", "progress": 40}]),
        (("cancel", "7"), [{"id": 7, "status": "CANCELLED", "progress": 0}]),
        (("retry", "7"), [{"id": 7}]),
        (("remove", "7"), [{"id": 7}]),
        (("history", "7"), [{"seq": 1, "at": AT, "type": "retried", "id": 7, "by": "ana"}]),
        (("drain",), [{"draining": True, "running": 0}]),
        (("show", "7"), [json.loads(job()[4:])]),
        (("wait", "7"), [json.loads(job()[4:])]),
        (
            ("result", "7"),
            [{"id": 7, "stdout": "ü\n", "stderr": None, "stderr_base64": "/w==", "exit_code": 0}],
        ),
        (("output", "7"), [{"stream": "stdout", "offset": 0, "data": "x"}]),
        (
            ("run", "x"),
            [{"id": 7}, {"stream": "stdout", "offset": 0, "data": "x"}, json.loads(job()[4:])],
        ),
        (("list",), [json.loads(job()[4:])]),
        (("stats",), [{"busy": 0}]),
        (("hello",), [{"protocol": 1, "you": "me"}]),
    ],
)
@pytest.mark.parametrize("where", [0, 1])
def test_every_command_answers_in_json(
    serve: Serve, call: Call, tmp_path: Path, words: tuple[str, ...], documents: list[object], where: int
) -> None:
    (tmp_path / "jobs").write_text("a\n\nb\n")
    serve(
        replies(
            {
                "SUBMIT": SUBMITTED,
                "STATUS": b"STATUS RUNNING 40\r\n",
                "CANCEL": b"STATUS CANCELLED 0\r\n",
                "RETRY": SUBMITTED,
                "SHOW": job(),
                "WAIT": b"STATUS COMPLETED 100\r\n",
                "RESULT": b'RESULT "\\xC3\\xBC\\n" "\\xFF" 0\r\n',
                "OUTPUT 7 stdout": data("stdout", 0, b"x"),
                "OUTPUT 7 stdout --offset=0": data("stdout", 0, b"x"),
                "OUTPUT 7 stdout --offset=1": data("stdout", 1, b""),
                "OUTPUT 7 stderr --offset=0": data("stderr", 0, b""),
                "LIST": job() + b"END 1\r\n",
                "STATS": b'STATS {"busy":0}\r\n',
                "REMOVE": b"OK\r\n",
                "DRAIN": b"OK\r\n",
                "HISTORY": event(1, "retried", by="ana") + b"END 1\r\n",
                "HELLO": b'TASKQ 1 {"you":"me"}\r\n',
            }
        )
    )
    outcome = call(*words[:where], "--json", *words[where:])
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.documents == documents


def test_a_refusal_is_a_document_too(serve: Serve, call: Call) -> None:
    serve(replies({"STATUS": refused("NO_SUCH_JOB", "there is no job 9")}))
    outcome = call("status", "--json", "9")
    assert outcome.code == 1
    assert outcome.documents == [{"id": 9, "error": {"code": "NO_SUCH_JOB", "text": "there is no job 9"}}]


# list


def test_filters_have_their_names_on_the_wire(serve: Serve, call: Call) -> None:
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
        "--label",
    ]
    assert call("list", *words, "a b") == (0, b"", "")
    (line,) = daemon.lines
    assert line == (
        'LIST --status=FAILED,CANCELLED --owner=me --label="a b" --key=k --from=5 --limit=9 --reverse'
    )


JOBS = (
    job(7, "RUNNING", None, command="make\t-j4 \x1b]0;owned\x07", submitted_at=AT, progress=40)
    + job(8, "FAILED", -9, command="x" * 300, submitted_at=AT, progress=0)
    + job(9, "PENDING", None, command=None, script=12, submitted_at=AT, progress=0)
    + b"END 3\r\n"
)


def test_a_list_that_is_piped_has_a_line_a_job_with_tabs(serve: Serve, call: Call) -> None:
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
def test_text_of_jobs_is_made_harmless(text: str, shown: str) -> None:
    assert terminal.harmless(text) == shown


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
def test_an_age_is_told_in_its_largest_unit(at: str, text: str) -> None:
    assert terminal.age(at, 1_000_000.0) == text
