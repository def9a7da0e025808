"""Connections, refusals with hints, exit codes, and answers as text and JSON."""

import errno
import json
import os
import pty
import socket
import sys
from pathlib import Path

import pytest

from taskqd.cli.context import REFUSED, Session
from tests.fakes.daemon import FakeDaemon, data, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import AT, SUBMITTED, event


def test_missing_daemon_exits_with_69_and_says_how_to_start_one(call: Call, tmp_path: Path) -> None:
    outcome = call("--address", f"unix:{tmp_path}/none", "submit", "true")
    assert outcome == (
        69,
        b"",
        (
            f"taskq: cannot reach the daemon at unix:{tmp_path}/none: No such file or directory; "
            "is it running? Start one with `taskqd`, or set --address\n"
        ),
    )


def test_socket_that_does_not_admit_the_user_has_a_hint_who_may_use_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # the kernel never refuses root

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert call("--address", f"unix:{tmp_path}/theirs", "stats") == (
        69,
        b"",
        (
            f"taskq: cannot reach the daemon at unix:{tmp_path}/theirs: Permission denied; "
            "the modes of the socket and its directory say who may use it; "
            "ask the server's operator for access, or set --address\n"
        ),
    )


def test_output_that_a_lost_terminal_does_not_take_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        terminal.write("output")
        os.close(master)
        assert Session().run(lambda: 0) == REFUSED
    assert capsys.readouterr().err == f"taskq: {os.strerror(errno.EIO)}\n"


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


COUNTS = {"pending": 3, "running": 4, "completed": 5, "failed": 6, "cancelled": 7}


def slots(number: int, busy: int, set_to: int | None) -> bytes:
    """Return a reply to STATS with the slots of a daemon whose settings have 2."""
    facts = {"slots": number, "busy": busy, "slots_set": set_to, "slots_default": 2}
    return b"STATS %b\r\n" % json.dumps(facts).encode()


def lines_of(kind: str, *documents: object) -> bytes:
    """Return a reply of several lines and END."""
    lines = [f"{kind} {json.dumps(document)}\r\n" for document in documents]
    return "".join([*lines, f"END {len(lines)}\r\n"]).encode()


QUEUES = lines_of(
    "QUEUE",
    {"name": "default", "slots": None, "busy": 2, "paused": False, **COUNTS},
    {"name": "q", "slots": 1, "busy": 0, "paused": True, **COUNTS, "fair": True, "rate": "10/m"},
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
        (("status", "7"), {"SHOW 7": job(7, "RUNNING", progress=40)}, b"RUNNING 40%\n"),
        (
            ("status", "7", "8"),
            {"SHOW 7": job(7, "RUNNING"), "SHOW 8": job(8, "PENDING", reason="held")},
            b"7 RUNNING\n8 PENDING (held)\n",
        ),
        (("cancel", "7"), {"CANCEL 7": b"STATUS CANCELLED 0\r\n"}, b"CANCELLED\n"),
        (
            ("cancel", "--signal", "INT", "7"),
            {"CANCEL 7 --signal=INT": b"STATUS RUNNING 0\r\n"},
            b"RUNNING (cancelling)\n",
        ),
        (("retry", "7"), {"RETRY 7": b"JOB_ID 7\r\n", "SHOW": job()}, b"7\n"),
        (("remove", "7", "8"), {"REMOVE 7": b"OK\r\n", "REMOVE 8": b"OK\r\n"}, b"7\n8\n"),
        (
            ("status", "7-8", "9.1"),
            {"SHOW": job(status="PENDING")},
            b"7 PENDING\n8 PENDING\n9.1 PENDING\n",
        ),
        (("hold", "7"), {"HOLD 7": b"STATUS PENDING 0\r\n"}, b"PENDING\n"),
        (("suspend", "7"), {"SUSPEND 7": b"STATUS RUNNING 0\r\n"}, b"RUNNING (suspended)\n"),
        (("continue", "7"), {"CONTINUE 7": b"STATUS RUNNING 0\r\n"}, b"RUNNING\n"),
        (("release", "7", "8"), {"RELEASE": b"STATUS PENDING 0\r\n"}, b"7 PENDING\n8 PENDING\n"),
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
        (
            ("set", "7", "8", "--command", "make -j8 > log"),
            {'SET 7 --command="make -j8 > log"': job(), 'SET 8 --command="make -j8 > log"': job(8)},
            b"7\n8\n",
        ),
        (("set", "7", "--tz", "none", "--at", "none"), {"SET 7 --at=none --tz=none": job()}, b"7\n"),
        (("cancel", "--cascade", "7"), {"CANCEL 7 --cascade": b"STATUS CANCELLED 0\r\n"}, b"CANCELLED\n"),
        (("why", "7"), {"WHY 7": b"OK 3rd in line \x1b\r\n"}, b"3rd in line \\x1B\n"),
        (("why", "7", "8"), {"WHY": b"OK held\r\n"}, b"7 held\n8 held\n"),
        (
            ("queues",),
            {"QUEUES": QUEUES},
            b"default\t2\t-\t3\t4\t5\t6\t7\t-\t-\t-\nq\t0\t1\t3\t4\t5\t6\t7\tpaused\tfair\t10/m\n",
        ),
        (
            ("set-queue", "q", "--slots", "2"),
            {"QUEUES": QUEUES, "SET-QUEUE q --slots=2": b'QUEUE {"slots":2}\r\n'},
            b"q 2\n",
        ),
        (
            ("set-queue", "q", "--slots", "none"),
            {"QUEUES": QUEUES, "SET-QUEUE": b'QUEUE {"slots":null}\r\n'},
            b"q -\n",
        ),
        (
            ("set-queue", "q", "--fair", "true", "--rate", "10/m"),
            {
                "QUEUES": QUEUES,
                "SET-QUEUE q --fair=true --rate=10/m": b'QUEUE {"slots":2,"fair":true,"rate":"10/m"}\r\n',
            },
            b"q 2 fair 10/m\n",
        ),
        (("slots", "8"), {"SET-SLOTS 8": b"OK 8\r\n"}, b"8\n"),
        (("slots", "default"), {"SET-SLOTS default": b"OK 2\r\n"}, b"2\n"),
        (("slots",), {"STATS": slots(2, 3, None)}, b"2\t3\tsettings\n"),
        (("slots",), {"STATS": slots(8, 3, 8)}, b"8\t3\tset\n"),
        (("slots",), {"STATS": slots(8, 3, 9)}, b"8\t3\tlimited\n"),
        (("pause",), {"PAUSE": b"OK\r\n"}, b"all paused\n"),
        (("pause", "q"), {"QUEUES": QUEUES, "PAUSE q": b"OK\r\n"}, b"queue q paused\n"),
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
        (("shutdown",), {"SHUTDOWN": b"OK 0 left\r\n"}, b"stopping: no running jobs\n"),
        (("shutdown",), {"SHUTDOWN": b"OK 1 left\r\n"}, b"stopping: 1 running job is left\n"),
        (
            ("shutdown", "--end"),
            {"SHUTDOWN --end": b"OK 2 ended\r\n"},
            b"stopping: 2 running jobs are ended\n",
        ),
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
    "shown,exit_code,reason,code,stderr",
    [
        ("COMPLETED", 0, None, 0, ""),
        ("FAILED (exit 3)", 3, "exit", 3, ""),
        ("FAILED (signal 9)", -9, "signal", 137, ""),
        ("CANCELLED (signal 15)", -15, "cancelled", 143, ""),
        ("CANCELLED", None, "cancelled", 1, "taskq: job 7 is CANCELLED (cancelled), without an exit code\n"),
        ("FAILED (spawn)", None, "spawn", 1, "taskq: job 7 is FAILED (spawn), without an exit code\n"),
        (
            "FAILED (timeout, exit 0)",
            0,
            "timeout",
            1,
            "taskq: job 7 is FAILED (timeout), although its exit code is 0\n",
        ),
    ],
)
def test_exit_code_is_that_of_the_job(
    serve: Serve, call: Call, shown: str, exit_code: int | None, reason: str | None, code: int, stderr: str
) -> None:
    status = shown.split(maxsplit=1)[0]
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
    assert call("wait", "7") == (code, f"{shown}\n".encode(), stderr)
    assert call("status", "7") == (0, f"{shown}\n".encode(), "")


@pytest.mark.parametrize(
    "tasks,shown,code,stderr",
    [
        ({"completed": 3, "failed": 0, "cancelled": 0}, "COMPLETED", 0, ""),
        (
            {"completed": 0, "failed": 2, "cancelled": 1},
            "FAILED (2 of 3 tasks failed, 1 of 3 tasks cancelled)",
            1,
            "taskq: job 7 is FAILED (2 tasks failed, 1 task cancelled)\n",
        ),
    ],
)
def test_exit_code_of_an_array_is_0_only_if_all_tasks_completed(
    serve: Serve, call: Call, tasks: dict[str, int], shown: str, code: int, stderr: str
) -> None:
    status = shown.split(maxsplit=1)[0]
    document = job(7, status, None, tasks={"count": 3, **tasks})
    serve(replies({"WAIT": f"STATUS {status} 0\r\n".encode(), "SHOW": document}))
    assert call("wait", "7") == (code, f"{shown}\n".encode(), stderr)


@pytest.mark.parametrize(
    "facts, shown",
    [
        ({"progress": 40}, "RUNNING 40%"),
        ({"progress": 0}, "RUNNING"),
        ({"progress": 40, "cancelling": "TERM"}, "RUNNING (cancelling)"),
        ({"progress": 40, "suspended_at": "2026-11-24T14:31:26Z"}, "RUNNING (suspended)"),
        ({"tasks": {"count": 10, "completed": 2, "failed": 1, "cancelled": 0}}, "RUNNING 3/10"),
    ],
)
def test_status_of_a_running_job_has_its_progress(
    serve: Serve, call: Call, facts: dict[str, object], shown: str
) -> None:
    serve(replies({"SHOW": job(7, "RUNNING", None, **facts)}))
    assert call("status", "7") == (0, f"{shown}\n".encode(), "")


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
    "SHUTDOWN": b"OK 2 requeued\r\n",
    "HISTORY": event(1, "retried", by="ana") + b"END 1\r\n",
    "HELLO": b'TASKQ 1 {"you":"me"}\r\n',
    "QUEUES": b'QUEUE {"name":"q"}\r\nEND 1\r\n',
    "SET-QUEUE": b'QUEUE {"name":"q","slots":null}\r\n',
    "SET-SLOTS": b"OK 4\r\n",
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
        (
            ("status", "7"),
            [
                {"id": 7, "status": "COMPLETED", "progress": None, "reason": None}
                | {"exit_code": 0, "signal": None}
            ],
        ),
        (("why", "7"), [{"id": 7, "why": "3rd in line"}]),
        (("cancel", "7"), [{"id": 7, "status": "CANCELLED", "progress": 0}]),
        (("hold", "7"), [{"id": 7, "status": "PENDING", "progress": 0}]),
        (("release", "7"), [{"id": 7, "status": "PENDING", "progress": 0}]),
        (("set", "7", "--priority", "1"), [JOB]),
        (("retry", "7"), [{"id": 7}]),
        (("remove", "7"), [{"id": 7}]),
        (("drain",), [{"draining": True, "running": 0}]),
        (("shutdown",), [{"shutdown": True, "running": 2, "jobs": "requeued"}]),
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
        (("list", "--all"), [JOB]),
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
    assert call("list", "--all", "--json") == (0, b"[]\n", "")
    assert call("list", "--all", "--jsonl") == (0, b"", "")


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_refusal_is_a_json_document(serve: Serve, call: Call, form: str) -> None:
    serve(replies({**ANSWERS, "LIST": refused("GONE", "removed")}))
    outcome = call("show", form, "9")
    assert outcome.code == 1
    assert outcome.documents == [{"id": 9, "error": ERROR}]
    assert call("list", "--all", form).documents == [{"error": ERROR}]


def test_refusal_is_an_item_of_the_json_list(serve: Serve, call: Call) -> None:
    serve(replies(ANSWERS))
    outcome = call("show", "--json", "7", "9")
    assert json.loads(outcome.stdout) == [JOB, {"id": 9, "error": ERROR}]
    assert (outcome.code, outcome.stderr) == (1, "taskq: job 9: removed (GONE)\n")


LATEST = {
    "HELLO": b'TASKQ 1 {"you":{"name":"ana","role":"submit"}}\r\n',
    "LIST --owner=ana --limit=1 --reverse": job(12, "RUNNING", None, command="make\nx") + b"END 1\r\n",
}


@pytest.mark.parametrize("verb", ["status", "show", "why", "history", "wait", "result", "output", "follow"])
def test_command_without_an_id_is_about_the_latest_job(serve: Serve, call: Call, verb: str) -> None:
    table = {
        "SHOW 12": job(12),
        "WHY 12": b"OK done\r\n",
        "HISTORY 12": event(1, "retried", by="ana") + b"END 1\r\n",
        "WAIT 12": b"STATUS COMPLETED 100\r\n",
        "RESULT 12": b'RESULT "" "" 0\r\n',
        "OUTPUT 12 stdout": data("stdout", 0, b""),
        "FOLLOW 12": b"STATUS COMPLETED 100\r\n",
    }
    serve(replies({**LATEST, **table}))
    outcome = call(verb)
    assert (outcome.code, outcome.stderr) == (0, "taskq: job 12: make …\n")


def test_command_without_an_id_is_a_usage_error_if_there_are_no_jobs(serve: Serve, call: Call) -> None:
    serve(replies({**LATEST, "LIST --owner=ana --limit=1 --reverse": b"END 0\r\n"}))
    outcome = call("status")
    assert outcome.code == 2
    assert "you (ana) have no jobs; expected a job ID" in outcome.stderr
