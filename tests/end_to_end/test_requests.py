"""The verbs, their replies and their error codes (docs/protocol.md §3, §4, §7)."""

import json
import os
import pwd
import re
from datetime import datetime

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ
from tests.end_to_end.wire import Data, Wire, until

CORE = [
    "SUBMIT",
    "STATUS",
    "RESULT",
    "SHOW",
    "LIST",
    "OUTPUT",
    "LOG",
    "WAIT",
    "CANCEL",
    "RETRY",
    "REMOVE",
    "HISTORY",
    "FOLLOW",
    "HOLD",
    "RELEASE",
    "SET",
    "WHY",
    "QUEUES",
    "SET-QUEUE",
    "PAUSE",
    "RESUME",
    "SCHEDULE",
    "SCHEDULES",
    "UNSCHEDULE",
    "WATCH",
    "DRAIN",
    "SHUTDOWN",
    "STATS",
    "HELLO",
    "AUTH",
    "PING",
    "HELP",
    "QUIT",
]

EXAMPLES = [
    # The request and its whole reply, with the ids of a new daemon.
    ("SUBMIT echo hello world", r"JOB_ID 1"),
    ("WAIT 1", r"STATUS COMPLETED 100"),
    ("STATUS 1", r"STATUS COMPLETED 100"),
    ("RESULT 1", r'RESULT "hello world\\n" "" 0'),
    ("submit echo out; echo err >&2; exit 3", r"JOB_ID 2"),
    ("wait 2 --timeout=1m", r"STATUS FAILED 0"),
    ("result 2", r'RESULT "out\\n" "err\\n" 3'),
    ("SUBMIT kill -9 $$", r"JOB_ID 3"),
    ("WAIT 3", r"STATUS FAILED 0"),
    ("RESULT 3", r'RESULT "" "" -9'),
    ('SUBMIT A=1 ./run "x y"', r"JOB_ID 4"),
    ("WAIT 4", r"STATUS FAILED 0"),
    ("SUBMIT --cwd=/nonexistent/directory true", r"JOB_ID 5"),
    ("WAIT 5", r"STATUS FAILED 0"),
    ("RESULT 5", r'RESULT "(.*)" "(.*)" -'),
    ("SUBMIT sleep 300", r"JOB_ID 6"),
    ("WAIT 6 --timeout=100ms", r"ERROR TIMED_OUT .+"),
    ("STATUS 6", r"STATUS RUNNING 0"),
    ("RESULT 6", r"ERROR NOT_FINISHED .+"),
    ("RETRY 6", r"ERROR WRONG_STATE .+"),
    ("CANCEL 6", r"STATUS RUNNING 0"),
    ("WAIT 6", r"STATUS CANCELLED 0"),
    ("CANCEL 6", r"STATUS CANCELLED 0"),
    ("CANCEL 1", r"ERROR WRONG_STATE .+"),
    ("CANCEL 2", r"ERROR WRONG_STATE .+"),
    ("RESULT 6", r'RESULT "" "" -15'),
    ("RETRY 1", r"JOB_ID 1"),
    ("WAIT 1", r"STATUS COMPLETED 100"),
    ("HISTORY 3", r'EVENT [0-9]+ \{"type":"submitted".*\}'),
    ("REMOVE 7", r"ERROR NO_SUCH_JOB .+"),
    ("HISTORY 7", r"ERROR NO_SUCH_JOB .+"),
    ("REMOVE 5", r"OK"),
    ("REMOVE 5", r"ERROR GONE .+"),
    ("HISTORY 5", r"ERROR GONE .+"),
    ("STATUS 7", r"ERROR NO_SUCH_JOB .+"),
    ("STATUS seven", r"ERROR BAD_REQUEST .+"),
    ("STATUS 1 2", r"ERROR BAD_REQUEST .+"),
    ("WAIT 1 --timeout=soon", r"ERROR BAD_REQUEST .+"),
    ("WAIT 1 --bogus=1", r"ERROR BAD_REQUEST .+"),
    ("SUBMIT", r"ERROR BAD_REQUEST .+"),
    ("SUBMIT --bogus=1 true", r"ERROR BAD_REQUEST .+"),
    ("OUTPUT 1", r"ERROR BAD_REQUEST .+"),
    ("OUTPUT 1 stdin", r"ERROR BAD_REQUEST .+"),
    ("OUTPUT 1 stdout --offset=x", r"ERROR BAD_REQUEST .+"),
    ("LIST --status=DONE", r"ERROR BAD_REQUEST .+"),
    ("LIST --limit=x", r"ERROR BAD_REQUEST .+"),
    ("LIST --bogus", r"ERROR BAD_REQUEST .+"),
    ("CANCEL 1 --signal=NOSUCH", r"ERROR (BAD_REQUEST|WRONG_STATE) .+"),
    ("EXPLODE", r"ERROR UNKNOWN_COMMAND .+"),
    ("SUBMITecho", r"ERROR UNKNOWN_COMMAND .+"),
    ("{}", r"ERROR UNKNOWN_COMMAND .+"),
    ("PING", r"OK.*"),
    ("HELLO", r"TASKQ 1 \{.*\}"),
    ("STATS", r"STATS \{.*\}"),
    ("QUIT", r"OK.*"),
]

MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
ME = pwd.getpwuid(os.getuid()).pw_name


def test_request_is_answered_as_the_protocol_says(daemon: DaemonFactory) -> None:
    wire = daemon().connect()
    for request, reply in EXAMPLES:
        if request == "STATUS 6":
            wire.wait_running(6)
        shown = wire.ask(request)
        assert re.fullmatch(reply, shown), f"{request}: {shown}"
        while shown.startswith("EVENT "):
            shown = wire.line()
    assert wire.rest() == b""


# STATUS and progress.


def test_progress_is_the_last_report_of_the_job(wire: Wire) -> None:
    job = wire.submit('for p in 10 20 40; do echo $p >> "$TASKQ_PROGRESS"; done; sleep 300')
    until(lambda: wire.ask(f"STATUS {job}") == "STATUS RUNNING 40", "the progress")
    assert wire.show(job)["progress"] == 40
    wire.cancel(job)
    job = wire.submit('echo 40 > "$TASKQ_PROGRESS"')
    assert wire.ask(f"WAIT {job}") == "STATUS COMPLETED 100"


def test_text_of_the_progress_is_shown_after_a_kill_of_the_daemon(daemon: DaemonFactory) -> None:
    one = daemon()
    job = one.connect().submit(f"{TASKQ} progress 40 epoch 5 of $(printf '100\\033'); sleep 300")
    expected = 'STATUS RUNNING 40 "epoch 5 of 100"'
    until(lambda: one.connect().ask(f"STATUS {job}") == expected, "the progress")
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.ask(f"STATUS {job}") == expected
    assert wire.show(job)["progress_text"] == "epoch 5 of 100"
    wire.cancel(job)
    assert wire.wait(job) == "CANCELLED"
    assert wire.history(job)[-1]["progress_text"] == "epoch 5 of 100"


def test_invalid_progress_report_does_not_fail_the_job(wire: Wire) -> None:
    job = wire.submit(r"""printf 'x\n-5\n1000\n\377\n\n30\n12' >> "$TASKQ_PROGRESS"; echo done""")
    assert wire.ask(f"WAIT {job}") == "STATUS COMPLETED 100"
    assert wire.result(job) == (b"done\n", b"", "0")


# RESULT and OUTPUT.


def test_result_over_1_mib_is_refused_with_its_size(wire: Wire) -> None:
    limit = 1 << 20
    for stream in ("", " >&2"):
        command = f"tr '\\0' x < /dev/zero | head -c {{}}{stream}"
        assert wire.run(command.format(limit))[bool(stream)] == b"x" * limit
        job = wire.submit(command.format(limit + 1))
        assert wire.wait(job) == "COMPLETED"
        refusal = wire.ask(f"RESULT {job}")
        assert refusal.startswith("ERROR TOO_LARGE ")
        assert str(limit + 1) in refusal.replace(",", "")


def test_output_returns_raw_bytes_from_an_offset(wire: Wire) -> None:
    job = wire.submit(r"printf '0123456789\r\n\000\377'; printf oops >&2")
    wire.wait(job)
    whole = b"0123456789\r\n\x00\xff"
    wire.send(f"OUTPUT {job} stdout\r\nPING\r\n".encode())
    assert wire.line() == f"DATA stdout 0 {len(whole)}"
    assert wire.read(len(whole) + 2) == whole + b"\r\n"
    assert wire.line().startswith("OK")
    for options, expected in [
        ("", Data("stdout", 0, whole)),
        ("--offset=0", Data("stdout", 0, whole)),
        ("--offset=4", Data("stdout", 4, whole[4:])),
        ("--offset=4 --limit=3", Data("stdout", 4, b"456")),
        ("--limit=3", Data("stdout", 0, b"012")),
        ("--limit=1k", Data("stdout", 0, whole)),
        ("--tail=3", Data("stdout", len(whole) - 3, whole[-3:])),
        ("--tail=1k", Data("stdout", 0, whole)),
        (f"--offset={len(whole)}", Data("stdout", len(whole), b"")),
    ]:
        assert wire.output(job, "stdout", options) == expected, options
    assert wire.output(job, "stderr") == ("stderr", 0, b"oops")
    assert wire.output(job, "stdout", "--offset=1000").data == b""


def test_output_of_running_job_grows(wire: Wire) -> None:
    job = wire.submit("echo one; echo two >&2; sleep 300")
    until(lambda: wire.output(job, "stdout").data == b"one\n", "stdout")
    until(lambda: wire.output(job, "stderr").data == b"two\n", "stderr")
    assert wire.output(job, "stdout", "--offset=4") == ("stdout", 4, b"")
    wire.cancel(job)
    assert wire.result(job)[:2] == (b"one\n", b"two\n")


def test_output_of_pending_job_is_empty(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    wire.submit("sleep 300")
    assert wire.output(wire.submit("echo later"), "stdout") == ("stdout", 0, b"")


def test_output_returns_1_mib_by_default_and_at_most_16_mib(wire: Wire) -> None:
    job = wire.submit("head -c 20M /dev/zero")
    wire.wait(job)
    assert len(wire.output(job, "stdout").data) == 1 << 20
    assert len(wire.output(job, "stdout", "--limit=16M").data) == 16 << 20
    wire.send(f"OUTPUT {job} stdout --limit=17M\r\n".encode())
    reply = wire.line()
    if not reply.startswith("ERROR BAD_REQUEST "):
        assert reply == f"DATA stdout 0 {16 << 20}"
        wire.read((16 << 20) + 2)
    assert wire.ask("PING").startswith("OK")


# WAIT, CANCEL, RETRY.


def test_wait_is_answered_when_the_job_ends_or_has_ended(wire: Wire) -> None:
    job = wire.submit("sleep 0.2; exit 1")
    assert wire.ask(f"WAIT {job}") == "STATUS FAILED 0"
    assert wire.ask(f"WAIT {job} --timeout=0.001") == "STATUS FAILED 0"


def test_timed_out_wait_leaves_the_job_running(wire: Wire) -> None:
    job = wire.submit("sleep 300")
    assert wire.ask(f"WAIT {job} --timeout=50ms").startswith("ERROR TIMED_OUT ")
    assert wire.status(job) in ("PENDING", "RUNNING")


def test_wait_of_many_clients_is_answered(daemon: DaemonFactory) -> None:
    one = daemon()
    first = one.connect()
    job = first.submit("sleep 300")
    waiting = [one.connect() for _ in range(50)]
    for each in waiting:
        each.send(f"WAIT {job}\r\n".encode())
    first.wait_running(job)
    first.cancel(job)
    assert {each.line() for each in waiting} == {"STATUS CANCELLED 0"}


def test_cancel_ends_pending_job_at_once(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    blocker, job = wire.submit("sleep 300"), wire.submit("echo never")
    assert wire.ask(f"CANCEL {job}") == "STATUS CANCELLED 0"
    shown = wire.show(job)
    assert (shown["status"], shown["reason"]) == ("CANCELLED", "cancelled")
    assert wire.result(job) == (b"", b"", "-")
    assert wire.status(blocker) in ("PENDING", "RUNNING")


def test_cancel_of_finished_job_is_refused(wire: Wire) -> None:
    for command in ("true", "false"):
        job = wire.submit(command)
        status = wire.wait(job)
        assert wire.ask(f"CANCEL {job}").startswith("ERROR WRONG_STATE ")
        assert wire.status(job) == status


def test_repeated_cancel_changes_nothing(wire: Wire) -> None:
    job = wire.submit("--kill-after=500ms trap '' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    replies = [wire.ask(f"CANCEL {job}") for _ in range(3)]
    assert replies[0] == "STATUS RUNNING 0"
    assert set(replies) <= {"STATUS RUNNING 0", "STATUS CANCELLED 0"}
    assert wire.ask(f"WAIT {job}") == "STATUS CANCELLED 0"
    before = wire.show(job)
    assert wire.ask(f"CANCEL {job}") == "STATUS CANCELLED 0"
    assert wire.show(job) == before
    assert (before["reason"], before["exit_code"]) == ("cancelled", -9)


def test_cancel_sends_the_named_signal(wire: Wire) -> None:
    job = wire.submit("trap 'echo got USR1; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    assert wire.ask(f"CANCEL {job} --signal=USR1") == "STATUS RUNNING 0"
    assert wire.wait(job) == "CANCELLED"
    result = wire.result(job)  # stderr may have a message of the shell: its sleep got the signal too
    assert (result.stdout, result.exit_code) == (b"ready\ngot USR1\n", "3")


def test_cancelled_job_that_exits_with_0_is_cancelled(wire: Wire) -> None:
    job = wire.submit("--retries=3 trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    assert wire.ask(f"CANCEL {job}") == "STATUS RUNNING 0"
    assert wire.wait(job) == "CANCELLED"
    assert (wire.show(job)["attempts"], wire.show(job)["exit_code"]) == (1, 0)


@pytest.mark.parametrize(
    "command, status", [("true", "COMPLETED"), ("false", "FAILED"), ("sleep 300", "CANCELLED")]
)
def test_retry_runs_finished_job_again_under_its_id(wire: Wire, command: str, status: str) -> None:
    job = wire.submit(f"echo $TASKQ_ATTEMPT; {command}")
    if status == "CANCELLED":
        wire.wait_running(job)
        wire.cancel(job)
    assert wire.wait(job) == status
    assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"
    if status == "CANCELLED":
        wire.wait_running(job)
        until(lambda: wire.output(job, "stdout").data.endswith(b"2\n"), "its output")
        wire.cancel(job)
    assert wire.wait(job) == status
    assert wire.show(job)["attempts"] == 2
    assert wire.result(job).stdout.endswith(b"2\n")


def test_retry_of_unfinished_job_is_refused(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    jobs = [wire.submit("sleep 300"), wire.submit("true")]
    wire.wait_running(jobs[0])
    for job in jobs:
        assert wire.ask(f"RETRY {job}").startswith("ERROR WRONG_STATE ")
    assert [wire.status(job) for job in jobs] == ["RUNNING", "PENDING"]


# LIST.


def test_list_is_ordered_by_id_and_its_filters_combine(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    done = [wire.submit('--label="a b" true'), wire.submit("--key=k true"), wire.submit("false")]
    wire.wait(done[-1])
    wire.submit("sleep 300")
    wire.submit('--label="a b" true')
    wire.wait_running(4)
    for options, ids in [
        ("", [1, 2, 3, 4, 5]),
        ("--reverse", [5, 4, 3, 2, 1]),
        ("--limit=2", [1, 2]),
        ("--limit=2 --from=3", [3, 4]),
        ("--limit=2 --reverse", [5, 4]),
        ("--limit=2 --reverse --from=3", [3, 2]),
        ("--from=6", []),
        ("--status=COMPLETED", [1, 2]),
        ("--status=COMPLETED,FAILED", [1, 2, 3]),
        ("--status=PENDING,RUNNING", [4, 5]),
        ("--status=CANCELLED", []),
        ('--label="a b"', [1, 5]),
        ('--label="a b" --status=PENDING', [5]),
        ("--label=other", []),
        ("--key=k", [2]),
        ("--key=other", []),
        (f"--owner={ME}", [1, 2, 3, 4, 5]),
        ("--owner=another.user", []),
    ]:
        assert [job["id"] for job in wire.list(options)] == ids, options
    shown = wire.show(1)
    del shown["runs"]  # only SHOW has it
    assert wire.list("--from=1 --limit=1") == [shown]


def test_list_has_100_jobs_per_page_by_default(daemon: DaemonFactory) -> None:
    wire = daemon().connect()
    assert wire.list() == []
    for _ in range(230):
        wire.submit("true")
    seen: list[int] = []
    while page := [job["id"] for job in wire.list(f"--from={seen[-1] + 1 if seen else 1}")]:
        assert len(page) <= 100
        seen += page
    assert seen == list(range(1, 231))
    assert len(wire.list("--limit=200")) == 200


# SHOW.


def test_show_has_all_fields_of_a_job(wire: Wire) -> None:
    job = wire.submit(
        '--label="my label" --key=my.key --timeout=90 --retries=2 --cwd=/ printf abc; printf de >&2'
    )
    assert wire.wait(job) == "COMPLETED"
    shown = wire.show(job)
    expected = {
        "id": job,
        "command": "printf abc; printf de >&2",
        "status": "COMPLETED",
        "progress": 100,
        "exit_code": 0,
        "owner": ME,
        "label": "my label",
        "key": "my.key",
        "attempts": 1,
        "retries": 2,
        "timeout": 90,
        "cwd": "/",
        "stdout_bytes": 3,
        "stderr_bytes": 2,
        "stdout_dropped": 0,
        "stderr_dropped": 0,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert not shown.get("reason")
    assert shown.get("signal") is None
    moments = [shown["submitted_at"], shown["started_at"], shown["completed_at"]]
    assert all(MOMENT.fullmatch(moment) for moment in moments)
    assert moments == sorted(moments)
    seconds = datetime.fromisoformat(moments[0].replace("Z", "+00:00")).timestamp()
    assert abs(seconds - datetime.now().astimezone().timestamp()) < 600


def test_show_has_the_given_options(wire: Wire) -> None:
    plain = wire.show(wire.submit("true"))
    given = wire.show(
        wire.submit(
            '--umask=027 --nice=3 --max-output=1k --kill-after=2s --retry-delay=3s --env=MINE="a b" true'
        )
    )
    for name in ("umask", "nice", "max_output", "kill_after", "retry_delay", "env"):
        assert given[name] != plain.get(name)
    assert (given["nice"], given["max_output"], given["kill_after"], given["retry_delay"]) == (3, 1024, 2, 3)
    assert "MINE" in str(given["env"])


REASONS = [
    ("exit 4", "FAILED", "exit", 4),
    ("kill -TERM $$", "FAILED", "signal", -15),
    ("kill -SEGV $$", "FAILED", "signal", -11),
    ("--timeout=100ms sleep 300", "FAILED", "timeout", -15),
    ("--cwd=/nonexistent/directory true", "FAILED", "spawn", None),
]


@pytest.mark.parametrize("text, status, reason, exit_code", REASONS)
def test_show_has_the_reason_of_a_failure(
    wire: Wire, text: str, status: str, reason: str, exit_code: int | None
) -> None:
    job = wire.submit(text)
    assert wire.wait(job) == status
    shown = wire.show(job)
    assert (shown["status"], shown["reason"], shown.get("exit_code")) == (status, reason, exit_code)
    assert (shown.get("signal") is not None) == (exit_code is not None and exit_code < 0)
    assert wire.result(job).exit_code == ("-" if exit_code is None else str(exit_code))


def test_show_has_the_reason_for_waiting(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    failing = wire.submit("--retries=5 --retry-delay=1h exit 1")
    until(lambda: wire.show(failing).get("reason") == "retrying", "the job to fail")
    assert wire.ask(f"STATUS {failing}") == "STATUS PENDING 0"
    assert wire.ask(f"RESULT {failing}").startswith("ERROR NOT_FINISHED ")
    running, queued = wire.submit("sleep 300"), wire.submit("true")
    wire.wait_running(running)
    assert not wire.show(running).get("reason")
    assert wire.show(queued)["reason"] == "queued"
    assert wire.show(queued).get("started_at") is None
    assert wire.show(running).get("completed_at") is None
    assert wire.ask(f"CANCEL {failing}") == "STATUS CANCELLED 0"


# The server.


def test_hello_describes_the_server(wire: Wire) -> None:
    word, version, text = wire.ask("HELLO").split(" ", 2)
    assert (word, version) == ("TASKQ", "1")
    hello = json.loads(text)
    assert set(CORE) <= set(hello["verbs"])
    assert re.match(r"[0-9]+\.[0-9]+", hello["version"])
    assert hello["limits"]
    assert ME in text, "the name of the client's user"


def test_stats_counts_jobs(daemon: DaemonFactory) -> None:
    wire = daemon().connect()

    def stats() -> str:
        word, _, text = wire.ask("STATS").partition(" ")
        assert word == "STATS"
        assert isinstance(json.loads(text), dict)
        return text

    assert "version" in stats()
    assert "uptime" in stats()
    for _ in range(17):
        wire.wait(wire.submit("true"))
    assert re.search(r"\b17\b", stats()), "the jobs submitted, or completed"


def test_help_explains_every_verb(wire: Wire) -> None:
    def lines(request: str) -> list[str]:
        found = [wire.ask(request)]
        while found[-1] != "END":
            assert found[-1].startswith("OK "), found[-1]
            found.append(wire.line())
        return found[:-1]

    page = "\n".join(lines("HELP"))
    for verb in CORE:
        assert re.search(rf"\b{verb}\b", page), verb
        assert re.search(rf"\b{verb}\b", "\n".join(lines(f"HELP {verb}")))
        assert lines(f"HELP {verb.lower()}")
    assert wire.ask("HELP EXPLODE").startswith("ERROR ")
    assert wire.ask("PING").startswith("OK")


def test_requests_after_quit_are_ignored(wire: Wire) -> None:
    wire.send(b"PING\r\nQUIT\r\nSUBMIT --label=behind.quit true\r\n")
    assert re.fullmatch(rb"OK[^\r\n]*\r\nOK[^\r\n]*\r\n", wire.rest())


def test_refused_request_changes_nothing(daemon: DaemonFactory) -> None:
    wire = daemon().connect()
    wire.wait(wire.submit("--key=k true"))
    before = wire.list()
    for request in [
        "SUBMIT --bogus true",
        "SUBMIT --key=k false",
        "SUBMIT --array=2-1 true",
        "SUBMIT --after=2 true",
        "SUBMIT --slots=3 true",
        "SCHEDULE true",
        "SET 1 --priority=1",
        "HOLD 2",
        "CANCEL 1",
        "CANCEL 2",
        "RETRY 2",
        "RETRY x",
        "STATUS 2",
        "OUTPUT 1 x",
        "SUBMIT",
        "EXPLODE",
    ]:
        assert wire.ask(request).startswith("ERROR ")
    assert wire.list() == before
    assert wire.submit("true") == 2


def test_wait_ends_when_its_client_hangs_up(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("sleep 300")

    def connections() -> int:
        return int(json.loads(wire.ask("STATS").partition(" ")[2])["connections"])

    before = connections()
    for _ in range(5):
        waiting = one.connect()
        waiting.send(f"WAIT {job}\r\n".encode())
        waiting.close()
    until(lambda: connections() <= before, "the end of connections that hung up")
    wire.cancel(job)
