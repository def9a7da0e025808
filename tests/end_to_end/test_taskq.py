"""taskq with a real daemon: its output and exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

TASKQ = Path(sys.executable).with_name("taskq")

NOT_FINISHED, NO_DAEMON, USAGE, REFUSED = 75, 69, 2, 1


class Outcome:
    """Exit code and output of a run of taskq."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]") -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def __repr__(self) -> str:
        return f"exit code {self.code}, stdout {self.out!r}, stderr {self.err!r}"


Taskq = Callable[..., Outcome]


@pytest.fixture
def taskq(running: Daemon, tmp_path: Path) -> Taskq:
    """Return a function that runs taskq in the directory of the test."""

    def run(
        *words: str, stdin: bytes = b"", address: str = f"unix:{running.socket}", **variables: str
    ) -> Outcome:
        return Outcome(
            subprocess.run(
                [TASKQ, *words],
                cwd=tmp_path,
                env=environment() | {"TASKQ_ADDRESS": address} | variables,
                input=stdin,
                capture_output=True,
                timeout=DEADLINE,
                check=False,
            )
        )

    return run


def _ids(shown: Outcome) -> list[int]:
    assert (shown.code, shown.err) == (0, b""), shown
    assert re.fullmatch(rb"([1-9][0-9]*\n)*", shown.out), shown
    return [int(line) for line in shown.out.split()]


def _submit(taskq: Taskq, *words: str, **more: Any) -> int:
    [job] = _ids(taskq("submit", *words, **more))
    return job


# submit


def test_submit_prints_only_the_id(taskq: Taskq, wire: Wire) -> None:
    job = _submit(taskq, "echo hi")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (b"hi\n", b"", "0")


@pytest.mark.parametrize(
    "words, printed",
    [
        (["echo a  b; echo c"], b"a b\nc\n"),
        (["printf %s, 'a  b' \"$((1+1))\""], b"a  b,2,"),
        (
            ["printf", "%s,", "a  b", "$HOME", "*", "'", '"', "\\", "", "é"],
            b"a  b,$HOME,*,',\",\\,,\xc3\xa9,",
        ),
        (["echo", ";", "exit", "1"], b"; exit 1\n"),
        (["echo", "-n", "hi"], b"hi"),
        (["env", "A=1", "sh", "-c", "echo $A"], b"1\n"),
        (["printf", "%s", "a\nb"], b"a\nb"),
        (["printf", "%s", "\udcff"], b"\xff"),
        (["printf 'a\nb'"], b"a\nb"),
        (["echo", "--json", "-n", "--", "-x"], b"--json -n -- -x\n"),
        (["--", "echo", "--json"], b"--json\n"),
        (["printf", "%s", "a\tb"], b"a\tb"),
    ],
)
def test_submit_runs_one_word_in_the_shell_and_several_as_a_program(
    taskq: Taskq, wire: Wire, words: list[str], printed: bytes
) -> None:
    job = _submit(taskq, *words)
    wire.wait(job)
    assert wire.result(job) == (printed, b"", "0")


@pytest.mark.parametrize("words", [["if", "true"], ["A=1", "true"], ["!", "true"], ["-x", "true"]])
def test_keywords_of_the_shell_are_names_of_programs(
    taskq: Taskq, wire: Wire, tmp_path: Path, words: list[str]
) -> None:
    program = tmp_path / words[0]
    program.write_text('#!/bin/sh\nprintf "%s " "${0##*/}" "$@"\n')
    program.chmod(0o755)
    job = _submit(taskq, "--env", f"PATH={tmp_path}:/bin:/usr/bin", "--", *words)
    wire.wait(job)
    assert wire.result(job) == (" ".join([*words, ""]).encode(), b"", "0")


def test_job_gets_directory_umask_and_path_of_the_caller(taskq: Taskq, wire: Wire, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        job = _submit(taskq, "umask; pwd -P; echo $PATH", PATH=f"{tmp_path}:{os.environ['PATH']}")
    finally:
        os.umask(before)
    wire.wait(job)
    place = os.path.realpath(tmp_path)
    searched = f"{tmp_path}:{os.environ['PATH']}"
    if shutil.which("taskq", path=searched) is None:
        searched += f":{TASKQ.parent}"
    assert wire.result(job).stdout.decode() == f"0027\n{place}\n{searched}\n"


def test_job_over_tcp_gets_defaults_of_the_daemon(
    running: Daemon, taskq: Taskq, wire: Wire, tmp_path: Path
) -> None:
    address = f"tcp:127.0.0.1:{running.port}"
    token_file = tmp_path / "my-token"
    token_file.write_text(running.token + "\n")
    for variables in ({"TASKQ_TOKEN": running.token}, {"TASKQ_TOKEN_FILE": str(token_file)}):
        job = _submit(taskq, "umask; pwd", address=address, **variables)
        wire.wait(job)
        umask, place = wire.result(job).stdout.decode().split()
        assert umask == "0022"
        assert place != str(tmp_path)
        assert wire.show(job)["owner"] == "token"
    for variables in ({}, {"TASKQ_TOKEN": "wrong"}):
        shown = taskq("submit", "true", address=address, **variables)
        assert (shown.code, shown.out) == (REFUSED, b""), shown
        assert re.search(rb"AUTH|token", shown.err)


def test_submit_and_run_exit_with_1_while_a_job_has_the_label_of_unless(taskq: Taskq, wire: Wire) -> None:
    first = _submit(taskq, "--unless", "nightly", "--hold", "true")
    for verb in ("submit", "run"):
        refused = taskq(verb, "--unless", "nightly", "true")
        assert (refused.code, refused.out) == (1, b"")
        assert f"job {first} with the label 'nightly' is PENDING" in refused.err.decode()
    wire.cancel(first)
    assert _submit(taskq, "--unless", "nightly", "true") == first + 1


def test_submit_sends_its_options(taskq: Taskq, wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\x00\xffin")
    job = _submit(
        taskq,
        "--timeout",
        "90s",
        "--kill-after=1s",
        "--retries",
        "2",
        "--retry-delay=10ms",
        "--key",
        "cli.key",
        "--label",
        'two "words"',
        "--cwd",
        "/",
        "--env",
        "A=a b",
        "--env",
        "B=",
        "--umask",
        "077",
        "--nice",
        "1",
        "--max-output",
        "1k",
        "--stdin",
        "in",
        "--",
        'cat; echo "$A$B"; umask; pwd',
    )
    wire.wait(job)
    assert wire.result(job).stdout == b"\x00\xffina b\n0077\n/\n"
    shown = wire.show(job)
    assert (shown["timeout"], shown["retries"], shown["key"], shown["label"]) == (
        90,
        2,
        "cli.key",
        'two "words"',
    )
    (tmp_path / "script").write_bytes(b"echo from the script\ncat\n")
    job = _submit(taskq, "--script", "script", "--stdin", "-", stdin=b"and stdin")
    wire.wait(job)
    assert wire.result(job).stdout == b"from the script\nand stdin"


def test_command_of_several_lines_is_shown_by_its_first_line_also_after_a_restart(
    daemon: DaemonFactory, taskq: Taskq
) -> None:
    made = daemon()
    address = f"unix:{made.socket}"
    command = "\ncafe=1\nexit $cafe\n"
    job = _submit(taskq, "--hold", "--key", "k", command, address=address)
    shown = made.connect().show(job)
    assert (shown["command"], shown["script"], shown["script_line"]) == (None, len(command), "cafe=1")
    made.restart()
    assert made.connect().show(job) == shown
    assert _submit(taskq, "--hold", "--key", "k", command, address=address) == job
    assert taskq("list", address=address).out.split(b"\t")[-1].decode() == "cafe=1 …\n"
    assert b"\nscript_line: cafe=1\n" in taskq("show", str(job), address=address).out


def test_job_finds_taskq_if_the_caller_has_none_in_path(taskq: Taskq, wire: Wire) -> None:
    shown = taskq("run", "taskq submit --label inner true", PATH="/bin:/usr/bin")
    [inner] = wire.list("--label=inner")
    assert (shown.code, shown.out, shown.err) == (0, b"%d\n" % inner["id"], b"")


def test_relative_directory_is_relative_to_the_caller(taskq: Taskq, wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "sub dir").mkdir()
    job = _submit(taskq, "--cwd", "sub dir", "pwd -P")
    wire.wait(job)
    assert wire.result(job).stdout.decode() == f"{os.path.realpath(tmp_path)}/sub dir\n"


def test_directory_with_non_utf8_name_is_kept(running: Daemon, wire: Wire, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/\xff \xc3\xa9"
    os.mkdir(place)
    job = subprocess.run(
        [TASKQ, "submit", "pwd -P; /bin/pwd"],
        cwd=place,
        env=environment() | {"TASKQ_ADDRESS": f"unix:{running.socket}"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (job.returncode, job.stderr) == (0, b"")
    wire.wait(number := int(job.stdout))
    assert wire.result(number) == ((os.path.realpath(place) + b"\n") * 2, b"", "0")
    assert wire.show(number)["cwd"].endswith("/\\xff é")


@pytest.mark.parametrize("source", ["jobs.txt", "-"])
def test_submit_from_file_submits_one_job_per_line(
    taskq: Taskq, wire: Wire, tmp_path: Path, source: str
) -> None:
    lines = "".join(f"echo job {number}\n" for number in range(120))
    (tmp_path / "jobs.txt").write_text(lines)
    jobs = _ids(taskq("submit", "--from-file", source, stdin=lines.encode() if source == "-" else b""))
    assert len(jobs) == 120
    for number in (0, 1, 60, 119):
        wire.wait(jobs[number])
        assert wire.result(jobs[number]).stdout == b"job %d\n" % number


# status, result, wait, show, list, output


def test_wait_and_result_exit_as_the_job(taskq: Taskq) -> None:
    for command, code in [("echo out; echo err >&2", 0), ("echo out; echo err >&2; exit 42", 42)]:
        job = str(_submit(taskq, command))
        assert taskq("wait", job).code == code
        shown = taskq("result", job)
        assert (shown.code, shown.out, shown.err) == (code, b"out\n", b"err\n")
    for number in (signal.SIGKILL, signal.SIGTERM):
        job = str(_submit(taskq, f"kill -{int(number)} $$"))
        assert taskq("wait", job).code == 128 + number
        assert taskq("result", job).code == 128 + number


def test_result_is_byte_exact(taskq: Taskq, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 10_000)
    job = str(_submit(taskq, "cat bytes; cat bytes | tail -c 300 >&2"))
    taskq("wait", job)
    shown = taskq("result", job)  # its stdout is beyond what one RESULT carries
    assert shown.err == (bytes(range(256)) * 2)[-300:]
    assert shown.out == bytes(range(256)) * 10_000


def test_unfinished_job_exits_with_75(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit("sleep 300")
    shown = taskq("result", str(job))
    assert (shown.code, shown.out) == (NOT_FINISHED, b""), shown
    assert str(job).encode() in shown.err
    assert taskq("wait", "--timeout", "50ms", str(job)).code == NOT_FINISHED


def test_status_prints_the_status(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit("true")
    wire.wait(job)
    shown = taskq("status", str(job))
    assert (shown.code, shown.err) == (0, b"")
    assert b"COMPLETED" in shown.out


def test_show_and_list_print_json_of_the_daemon(taskq: Taskq, wire: Wire) -> None:
    jobs = [wire.submit('--label="cli list" true') for _ in range(3)]
    for job in jobs:
        wire.wait(job)
    shown = taskq("show", "--json", str(jobs[0]))
    assert (shown.code, json.loads(shown.out)) == (0, wire.show(jobs[0]))
    shown = taskq("list", "--jsonl", "--label", "cli list")
    assert (shown.code, shown.err) == (0, b"")
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == jobs
    shown = taskq("list", "--label", "cli list", "--reverse", "--limit", "2")
    message = f"taskq: there are more jobs; --from {jobs[0]} lists the next ones\n"
    assert (shown.code, shown.err.decode()) == (0, message)
    assert str(jobs[2]).encode() in shown.out
    assert b"\x1b" not in shown.out, "no colours without a terminal"


def test_list_prints_more_than_one_page(taskq: Taskq, wire: Wire) -> None:
    wire.send(b'SUBMIT --label="pages" true\r\n' * 130)
    jobs = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(130)]
    wire.wait(jobs[-1])
    shown = taskq("list", "--jsonl", "--label", "pages", "--limit", "130")
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == jobs


@pytest.mark.parametrize(
    "verb, words",
    [
        ("status", []),
        ("result", []),
        ("wait", []),
        ("cancel", []),
        ("retry", []),
        ("history", []),
        ("remove", []),
        ("stats", None),
        ("hello", None),
    ],
)
def test_commands_print_json(taskq: Taskq, wire: Wire, verb: str, words: list[str] | None) -> None:
    job = wire.submit("sleep 300" if verb == "cancel" else "true")
    if verb != "cancel":
        wire.wait(job)
    shown = taskq(verb, *([str(job)] if words is not None else []), "--jsonl")
    assert (shown.code, shown.err) == (0, b""), shown
    assert all(isinstance(json.loads(line), dict) for line in shown.out.splitlines())


def test_output_prints_bytes_of_a_range(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit(r"printf '0123456789\377'; printf err >&2")
    wire.wait(job)
    assert taskq("output", str(job)).out == b"0123456789\xff"
    assert taskq("output", str(job), "stdout", "--offset", "8").out == b"89\xff"
    shown = taskq("output", str(job), "stderr")
    assert shown.out + shown.err == b"err"
    assert taskq("output", str(job), "stdout", "--tail", "2").out == b"9\xff"


def test_large_output_is_complete(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit("head -c 20M /dev/zero")
    wire.wait(job)
    assert taskq("output", str(job), "stdout").out == bytes(20 << 20)


# run


def test_run_prints_output_and_exits_as_the_job(taskq: Taskq) -> None:
    shown = taskq("run", "echo out; sleep 0.2; echo err >&2; exit 5")
    assert (shown.code, shown.out, shown.err) == (5, b"out\n", b"err\n")
    assert taskq("run", "kill -9 $$").code == 128 + 9
    assert taskq("run", "printf", "%s", "a  b").out == b"a  b"
    assert taskq("run", "--stdin", "-", "cat", stdin=b"\x00\xff").out == b"\x00\xff"
    assert taskq("run", "wc -c", stdin=b"data\n").out == b"5\n"


def test_run_prints_the_reason_of_a_timeout(taskq: Taskq) -> None:
    shown = taskq("run", "--timeout", "100ms", "sleep", "300")
    assert shown.code == 143
    assert re.fullmatch(
        rb"taskq: job \d+ is FAILED \(timeout, TERM, it ran for longer than 0.1 s\)\n", shown.err
    )


def test_run_prints_output_while_the_job_runs(running: Daemon, wire: Wire) -> None:
    with subprocess.Popen(
        [TASKQ, "run", "echo first; sleep 300"],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{running.socket}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"first\n"
        [job] = wire.list("--status=RUNNING")
        wire.cancel(job["id"])
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM


def test_interrupted_run_leaves_the_job(running: Daemon, wire: Wire) -> None:
    """Without a terminal no question is asked: the job continues, and taskq prints its id."""
    with subprocess.Popen(
        [TASKQ, "run", "echo first; sleep 300"],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{running.socket}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 128 + signal.SIGINT
        message = process.stderr.read()
    [job] = wire.list("--status=RUNNING")
    assert str(job["id"]).encode() in message
    assert b"Traceback" not in message


# cancel and retry


def test_cancel_and_retry_change_the_status(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit("sleep 300")
    wire.wait_running(job)
    assert taskq("cancel", str(job)).code == 0
    assert wire.wait(job) == "CANCELLED"
    shown = taskq("cancel", str(wire_done := wire.submit("true")))
    if wire.wait(wire_done) == "COMPLETED":
        shown = taskq("cancel", str(wire_done))
        assert (shown.code, shown.out) == (REFUSED, b"")
        assert b"Traceback" not in shown.err
    assert taskq("retry", str(job)).code == 0
    wire.wait_running(job)
    shown = taskq("retry", str(job))
    assert shown.code == REFUSED


def test_history_prints_events_with_causes(taskq: Taskq, wire: Wire) -> None:
    job = wire.submit("--retries=1 --retry-delay=10ms exit 3")
    wire.wait(job)
    shown = taskq("history", str(job))
    assert (shown.code, shown.err) == (0, b"")
    rows = [line.split("\t") for line in shown.out.decode().splitlines()]
    whole = [(kind, exit_code) for _, kind, _, exit_code in rows if kind != "spawned"]
    assert whole == [
        *(("submitted", "-"), ("started", "-"), ("ended", "3"), ("started", "-"), ("ended", "3"))
    ]
    assert rows[-1][2] == "FAILED, exit"
    documents = [json.loads(line) for line in taskq("history", "--jsonl", str(job)).out.splitlines()]
    assert documents == wire.history(job)


def test_removed_job_is_gone(taskq: Taskq, wire: Wire) -> None:
    jobs = [wire.submit("true") for _ in range(2)]
    for job in jobs:
        wire.wait(job)
    assert _ids(taskq("remove", *map(str, jobs))) == jobs
    shown = taskq("remove", str(jobs[0]))
    assert (shown.code, shown.out) == (REFUSED, b"")
    assert b"(GONE)" in shown.err


def test_journal_is_verified_and_dumped_while_its_daemon_runs(
    running: Daemon, taskq: Taskq, wire: Wire
) -> None:
    job = wire.submit(r"printf 'a\377'")
    wire.wait(job)
    shown = taskq("journal", "verify", str(running.state))
    assert (shown.code, shown.err) == (0, b""), shown
    shown = taskq("journal", "dump", str(running.state), "--job", str(job))
    documents = [json.loads(line) for line in shown.out.splitlines()]
    events = wire.history(job)
    assert [document["seq"] for document in documents] == [event["seq"] for event in events]
    assert documents[-1]["stdout"] == {"size": 2, "base64": "Yf8="}
    assert (documents[-1]["at"], documents[-1]["status"]) == (events[-1]["at"], "COMPLETED")


def test_stats_and_hello_print_the_version(taskq: Taskq) -> None:
    for verb in ("stats", "hello"):
        shown = taskq(verb)
        assert (shown.code, shown.err) == (0, b"")
        assert b"version" in shown.out.lower()


# errors


USAGES = [
    [],
    ["submit"],
    ["bogus"],
    ["submit", "--bogus", "true"],
    ["status", "x"],
    ["status", "0"],
    ["submit", "--timeout", "soon", "true"],
    ["submit", "--retries", "x", "true"],
    ["submit", "--key", "a b", "true"],
    ["submit", "--env", "A", "true"],
    ["output", "1", "stdin"],
    ["list", "--status", "DONE"],
    ["submit", "--stdin", "/nonexistent", "cat"],
    ["submit", "--from-file", "/nonexistent"],
    ["--address", "nonsense", "stats"],
]


@pytest.mark.parametrize("words", USAGES, ids=" ".join)
def test_usage_error_exits_with_2(taskq: Taskq, wire: Wire, words: list[str]) -> None:
    last = wire.submit("true")
    shown = taskq(*words)
    assert (shown.code, shown.out if words else b"") == (USAGE, b""), shown
    assert shown.err or not words
    assert b"Traceback" not in shown.err
    assert wire.list(f"--from={last + 1}") == []


@pytest.mark.parametrize(
    "verb", ["status", "result", "show", "wait", "cancel", "retry", "remove", "history", "output"]
)
def test_refused_request_exits_with_1_and_one_line(taskq: Taskq, verb: str) -> None:
    shown = taskq(verb, "999999999")
    assert (shown.code, shown.out) == (REFUSED, b""), shown
    assert b"999999999" in shown.err
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("words", [["submit", "true"], ["run", "true"], ["status", "1"], ["list"], ["hello"]])
def test_missing_daemon_exits_with_69(taskq: Taskq, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "dead").touch()
    for address in (f"unix:{tmp_path}/nothing", f"unix:{tmp_path}/dead", "tcp:127.0.0.1:1"):
        shown = taskq(*words, address=address)
        assert (shown.code, shown.out) == (NO_DAEMON, b""), shown
        assert len(shown.err.splitlines()) in (1, 2)
        assert b"Traceback" not in shown.err


def test_address_option_is_accepted_before_and_after_the_command(running: Daemon, taskq: Taskq) -> None:
    address = f"unix:{running.socket}"
    assert taskq("--address", address, "hello", address="unix:/nonexistent").code == 0
    assert taskq("hello", "--address", address, address="unix:/nonexistent").code == 0


@pytest.mark.parametrize(
    "verb", [[], ["submit"], ["run"], ["list"], ["output"], ["cancel"], ["drain"], ["journal", "dump"]]
)
def test_commands_have_help(taskq: Taskq, verb: list[str]) -> None:
    shown = taskq(*verb, "--help", address="unix:/nonexistent")
    assert (shown.code, shown.err) == (0, b"")
    assert " ".join(["taskq", *verb]).encode() in shown.out


def test_closed_stdout_is_no_error(running: Daemon, wire: Wire) -> None:
    job = wire.submit("head -c 20M /dev/zero")
    wire.wait(job)
    shown = subprocess.run(
        ["/bin/sh", "-c", f"{TASKQ} output {job} stdout | head -c 10 | wc -c"],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{running.socket}"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (shown.stdout.strip(), shown.stderr) == (b"10", b"")


def test_run_and_wait_continue_after_a_restart_of_the_daemon(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon("--stop-grace", "60s")
    wire = one.connect()
    before = wire.stats()["connections"]
    go = tmp_path / "go"
    job = f"echo first; while [ ! -e {go} ]; do sleep 0.1; done; echo last; exit 3"
    env = environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"}
    pipes: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with subprocess.Popen(
        [TASKQ, "run", "--retries", "1", "--retry-delay", "0", job], env=env, **pipes
    ) as run:
        assert run.stdout
        assert run.stdout.readline() == b"first\n"
        until(lambda: wire.stats()["connections"] == before + 1, "run to have closed its other connections")
        with subprocess.Popen([TASKQ, "wait", "1"], env=env, **pipes) as wait:
            until(lambda: wire.stats()["connections"] == before + 2, "both to be connected")
            one.kill()
            go.touch()
            one.start()
            _, waited = wait.communicate(timeout=DEADLINE)
        out, err = run.communicate(timeout=DEADLINE)
    assert (run.returncode, wait.returncode) == (3, 3)
    assert out.endswith(b"first\nlast\n")
    for messages in (err, waited):
        assert messages.count(b"taskq: reconnected to the daemon\n") == 1


def test_run_reports_that_the_daemon_died(daemon: DaemonFactory) -> None:
    one = daemon()
    with subprocess.Popen(
        [TASKQ, "run", "--reconnect", "1s", "echo first; sleep 300"],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"first\n"
        one.kill()
        assert process.wait(DEADLINE) == NO_DAEMON
        assert b"Traceback" not in process.stderr.read()
    until(lambda: not one.is_running, "the daemon to end")


def test_json_is_one_document_and_jsonl_one_per_line(taskq: Taskq, wire: Wire) -> None:
    jobs = [wire.submit("--label=documents true") for _ in range(3)]
    for job in jobs:
        wire.wait(job)
    whole = json.loads(taskq("list", "--json", "--label", "documents").out)
    lines = [json.loads(line) for line in taskq("list", "--jsonl", "--label", "documents").out.splitlines()]
    assert whole == lines
    assert [job["id"] for job in whole] == jobs


def test_label_and_range_select_jobs(taskq: Taskq, wire: Wire) -> None:
    jobs = [wire.submit("--hold --label=chosen true") for _ in range(4)]
    assert taskq("release", f"{jobs[0]}-{jobs[1]}").code == 0
    assert [wire.wait(job) for job in jobs[:2]] == ["COMPLETED", "COMPLETED"]
    cancelled = taskq("cancel", "--label", "chosen")
    assert (cancelled.code, cancelled.err) == (0, b"taskq: 2 jobs cancelled\n")
    assert [wire.status(job) for job in jobs[2:]] == ["CANCELLED", "CANCELLED"]


def test_follow_prefixes_the_lines_of_several_jobs(taskq: Taskq, wire: Wire) -> None:
    one, two = wire.submit("echo a; echo b"), wire.submit("echo c; exit 4")
    followed = taskq("follow", str(one), str(two))
    assert followed.code == 4
    lines = [line.lstrip() for line in followed.out.decode().splitlines()]  # ids are aligned
    assert sorted(lines) == sorted([f"{one}| a", f"{one}| b", f"{two}| c"])
