"""taskq as a separate process: terminals, signals, pipes, imports at start."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskqd import __version__
from tests.fakes.daemon import FakeDaemon, Request, data, job, replies
from tests.support.command_line import CHECKOUT, Process

AT = "2026-11-24T07:00:00.000Z"
TERMINAL = ("stdin", "stderr")


class Sleeper:
    """A script for a daemon whose job 7 prints a word and sleeps until it is cancelled or ``is_over``."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.end = job(7, "COMPLETED", 0)

    def __call__(self, request: Request) -> bytes | Iterator[bytes]:
        if request.verb == "SUBMIT":
            return b"JOB_ID 7\r\n"
        if request.verb == "FOLLOW":
            return self._follow()
        if request.verb == "CANCEL":
            self.end = job(7, "CANCELLED", -15, reason="cancelled")
            self.is_over.set()
            return b"STATUS RUNNING 0\r\n"
        assert request.verb == "SHOW"
        return self.end if self.is_over.is_set() else job(7, "RUNNING", None)

    def _follow(self) -> Iterator[bytes]:
        yield data("stdout", 0, b"\0word\n")
        while not self.is_over.wait(0.1):
            yield b""
        yield b"STATUS COMPLETED 100\r\n"


# run


def test_run_prints_output_while_the_job_runs(tmp_path: Path) -> None:
    sleeper = Sleeper()
    with (
        FakeDaemon(sleeper, tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        assert process.read("stdout", b"word") == b"\0word\n"
        sleeper.is_over.set()
        assert process.end() == (0, b"\0word\n", b"", b"")


CONTINUES = b"taskq: job 7 continues; see `taskq wait 7`, or cancel it with `taskq cancel 7`"


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"what?\n", b"\x04"])
def test_ctrl_c_asks_and_any_answer_but_yes_leaves_the_job(tmp_path: Path, answer: bytes) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt()
        process.read("terminal", b"Cancel job 7? [y/N] ")
        process.type(answer)
        end = process.end()
        assert (end.code, end.stdout) == (130, b"\0word\n")
        assert CONTINUES in end.terminal
        assert "CANCEL 7" not in daemon.lines


def test_ctrl_c_and_yes_cancels_the_job_and_follows_it_to_its_end(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt()
        process.read("terminal", b"[y/N] ")
        process.type(b"y\n")
        assert process.end().code == 143
        assert "CANCEL 7" in daemon.lines


def test_ctrl_c_at_the_question_leaves_the_job(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt()
        process.read("terminal", b"[y/N] ")
        process.interrupt_until("terminal", CONTINUES)
        assert process.end().code == 130
        assert "CANCEL 7" not in daemon.lines


def test_ctrl_c_during_the_final_message_has_no_effect(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt_until("stderr", CONTINUES)
        process.interrupt_to_the_end()
        assert process.end() == (130, b"\0word\n", CONTINUES + b"\n", b"")


def test_ctrl_c_without_terminal_leaves_the_job(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt()
        assert process.end() == (130, b"\0word\n", CONTINUES + b"\n", b"")
        assert "CANCEL 7" not in daemon.lines


def test_second_ctrl_c_ends_run_while_the_daemon_does_not_reply(tmp_path: Path) -> None:
    hangs, may_continue = threading.Event(), threading.Event()
    sleeper = Sleeper()

    def hang() -> Iterator[bytes]:
        yield b"DATA stdout 0 5\r\nhal"
        hangs.set()
        may_continue.wait()

    def answer(request: Request) -> bytes | Iterator[bytes]:
        return hang() if request.verb == "FOLLOW" else sleeper(request)

    with (
        FakeDaemon(answer, tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        hangs.wait()
        process.interrupt_until("stderr", CONTINUES)
        may_continue.set()
        end = process.end()
    assert (end.code, end.stderr) == (130, CONTINUES + b"\n")


def test_closed_stdout_ends_run_and_leaves_the_job(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        process.close("stdout")
        assert process.end() == (141, b"", CONTINUES + b"\n", b"")


def test_lost_connection_of_run_names_the_job(tmp_path: Path) -> None:
    sleeper = Sleeper()
    script = lambda request: sleeper(request) if request.verb == "SUBMIT" else None  # noqa: E731
    with (
        FakeDaemon(script, tmp_path) as daemon,
        Process(daemon.address, "run", "--reconnect", "0", "x", has_stdin=False) as process,
    ):
        end = process.end()
    assert end.code == 69
    assert b"job 7 is submitted: see `taskq wait 7`" in end.stderr


# terminals and pipes

JOBS = (
    job(7, "RUNNING", None, command="make\t-j4 [red] \x1b]0;owned\x07", submitted_at=AT, progress=40)
    + job(8, "FAILED", -9, command="x" * 300, submitted_at=AT, progress=0)
    + job(9, "PENDING", None, command=None, script=12, submitted_at=AT, progress=0)
)


def test_list_on_a_terminal_fits_its_width_and_is_sanitized(tmp_path: Path) -> None:
    with (
        FakeDaemon(replies({"LIST": JOBS + b"END 3\r\n"}), tmp_path) as daemon,
        Process(
            daemon.address, "list", "--limit", "3", on_terminal=("stdout", "stderr"), COLUMNS="70"
        ) as process,
    ):
        shown = process.end().terminal.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = plain.splitlines()
    assert not {"\x1b", "\x07"} & set(plain)
    assert lines[0].split()[0] == "id"
    assert lines[0].split()[-1] == "command"
    assert max(map(len, lines)) <= 70
    assert "RUNNING" in lines[1]
    assert "40%" in lines[1]
    assert r"make\t-j4 [red] \x1B]0;" in lines[1]
    assert lines[2].rstrip().endswith("x…")


def test_history_on_a_terminal_is_aligned_under_titles(tmp_path: Path) -> None:
    events = (
        f'EVENT 1 {{"type":"submitted","at":"{AT}","id":7,"owner":"ana"}}\r\n'
        f'EVENT 2 {{"type":"ended","at":"{AT}","id":7,"status":"COMPLETED","exit_code":0}}\r\nEND 2\r\n'
    )
    with (
        FakeDaemon(replies({"HISTORY": events.encode()}), tmp_path) as daemon,
        Process(daemon.address, "history", "7", on_terminal=("stdout",), TZ="Europe/Berlin") as process,
    ):
        lines = process.end().terminal.decode().splitlines()
    local = "2026-11-24 08:00:00"
    assert lines == [
        "time                 event      by or why  exit",
        f"{local}  submitted  by ana     -",
        f"{local}  ended      COMPLETED  0",
    ]


@pytest.mark.parametrize(
    "attempts,lines",
    [
        ([{"attempt": 1, "exit_code": 0, "stderr_dropped": 0}], []),
        (
            [{"attempt": 1, "exit_code": 3, "stderr_dropped": 0}, {"attempt": 2, "exit_code": 0}],
            ["runs.1.attempt: 1", "runs.1.exit_code: 3", "runs.2.attempt: 2", "runs.2.exit_code: 0"],
        ),
    ],
)
def test_show_on_a_terminal_omits_what_says_nothing(
    tmp_path: Path, attempts: list[dict[str, int]], lines: list[str]
) -> None:
    facts = {"id": 7, "status": "COMPLETED", "exit_code": 0, "held": False, "retries": 0, "runs": attempts}
    answers = {"SHOW": f"JOB {json.dumps(facts)}\r\n".encode(), "WHY": b"OK it has ended\r\n"}
    with (
        FakeDaemon(replies(answers), tmp_path) as daemon,
        Process(daemon.address, "show", "7", on_terminal=("stdout",)) as process,
    ):
        shown = process.end().terminal.decode().splitlines()
    assert shown[3:] == ["id: 7", "status: COMPLETED", "exit_code: 0", *lines]


@pytest.mark.parametrize(
    "verb,document,titles,cells",
    [
        (
            "queues",
            (
                '{"name":"q","slots":null,"busy":1,"paused":true,"pending":10,"running":1,"completed":0,'
                '"failed":0,"cancelled":0}'
            ),
            ["queue", "pending", "running"],
            ["q", "10", "paused"],
        ),
        (
            "schedules",
            (
                '{"schedule":3,"every":60,"cron":null,"paused":true,"next_run_at":null,"last_run_at":null,'
                '"last_job":5,"command":"x"}'
            ),
            ["schedule", "command"],
            ["3", "paused", "5", "x"],
        ),
    ],
)
def test_tables_on_a_terminal_have_titles(
    tmp_path: Path, verb: str, document: str, titles: list[str], cells: list[str]
) -> None:
    reply = f"{verb.upper().removesuffix('S')} {document}\r\nEND 1\r\n".encode()
    with (
        FakeDaemon(replies({verb.upper(): reply}), tmp_path) as daemon,
        Process(daemon.address, verb, on_terminal=("stdout", "stderr"), COLUMNS="100") as process,
    ):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", process.end().terminal.decode())
    head, row = shown.splitlines()
    assert set(titles) <= set(head.split())
    assert set(cells) <= set(row.replace("(", "").replace(")", "").split())


def test_drain_wait_reports_running_jobs_on_a_terminal(tmp_path: Path) -> None:
    left = iter([2, 1, 0])

    def answer(request: Request) -> bytes:
        return b"OK\r\n" if request.verb == "DRAIN" else b'STATS {"busy":%d}\r\n' % next(left)

    with (
        FakeDaemon(answer, tmp_path) as daemon,
        Process(daemon.address, "drain", "--wait", on_terminal=("stderr",)) as process,
    ):
        end = process.end()
    assert (end.code, end.stdout) == (0, b"draining: 0 running\n")
    assert end.terminal.decode().splitlines() == [
        "taskq: waiting for 2 running jobs",
        "taskq: waiting for 1 running job",
    ]


def test_closed_stdout_ends_list_silently(tmp_path: Path) -> None:
    with (
        FakeDaemon(replies({"LIST": JOBS * 1000 + b"END 3000\r\n"}), tmp_path) as daemon,
        Process(daemon.address, "list") as process,
    ):
        process.close("stdout")
        assert process.end() == (141, b"", b"", b"")


def test_from_file_submits_lines_before_the_end_of_a_pipe(tmp_path: Path) -> None:
    with (
        FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon,
        Process(daemon.address, "submit", "--from-file", "-") as process,
    ):
        process.type(b"one\ntwo\n")
        process.read("stdout", b"7\n7\n")
        process.type(b"three\n")
        process.read("stdout", b"7\n7\n7\n")
        assert process.end() == (0, b"7\n7\n7\n", b"", b"")


@pytest.mark.parametrize("on_terminal", [("stderr",), ("stdout", "stderr")])
def test_from_file_shows_progress_bar_and_every_id_on_a_terminal(
    tmp_path: Path, on_terminal: tuple[str, ...]
) -> None:
    (tmp_path / "jobs").write_text("".join(f"echo {number}\n" for number in range(300)) + "bad\0line\n")
    with (
        FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon,
        Process(
            daemon.address, "submit", "--from-file", str(tmp_path / "jobs"), on_terminal=on_terminal
        ) as process,
    ):
        end = process.end()
    terminal = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", end.terminal)
    assert end.code == 1
    assert b"300 jobs" in terminal
    assert b"taskq: line 301: a command cannot contain a NUL byte" in terminal
    ids = end.stdout.split(b"\n") if end.stdout else re.split(rb"[\r\n]+", terminal)
    assert ids.count(b"7") == 300


# imports at start


SLOW = {
    "twisted",
    "zope",
    "msgspec",
    "rich",
    "attr",
    "asyncio",
    "dataclasses",
    "ssl",
    "zoneinfo",
    "subprocess",
}
SLOW |= {"importlib.metadata", "typing_extensions", "taskqd.cli.display.sanitize", "taskqd.cli.streaming"}
"""Modules that a short command must not import: they are slow, or only needed for other tasks."""


def loaded_modules(daemon: FakeDaemon, *words: str) -> set[str]:
    """Return the modules that a successful command has loaded when it exits."""
    code = (
        f"import atexit, sys; from taskqd.cli import main; sys.argv = {['taskq', *words]!r};"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    environment = {**os.environ, "TASKQ_ADDRESS": daemon.address}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, check=True
    )
    return set(shown.stderr.decode().split())


@pytest.mark.parametrize(
    "words, module",
    [
        (("submit", "true"), "submit"),
        (("status", "7"), "query"),
        (("result", "7"), "output"),
        (("wait", "7"), "wait"),
    ],
)
def test_short_command_imports_no_slow_modules_and_no_other_commands(
    words: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    answers = {
        "SUBMIT": b"JOB_ID 7\r\n",
        "STATUS": b"STATUS COMPLETED 100\r\n",
        "WAIT": b"STATUS COMPLETED 100\r\n",
        "RESULT": b'RESULT "" "" 0\r\n',
        "SHOW": job(7, "COMPLETED", 0),
    }
    with FakeDaemon(replies(answers), tmp_path) as daemon:
        loaded = loaded_modules(daemon, *words)
    assert not loaded & SLOW
    prefix = "taskqd.cli.commands."
    assert {name for name in loaded if name.startswith(prefix)} == {prefix + module}


def test_garbage_collection_is_on_and_ignores_imported_modules_during_a_command(tmp_path: Path) -> None:
    code = (
        "import atexit, gc, sys; from taskqd.cli import main; sys.argv = ['taskq', 'submit', 'x'];"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 1000)); main()"
    )
    with FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon:
        environment = {**os.environ, "TASKQ_ADDRESS": daemon.address}
        shown = subprocess.run(
            [sys.executable, "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, check=True
        )
    assert shown.stdout == b"7\nTrue True\n"


def run_from_checkout(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command: list[str | Path] = [CHECKOUT / "bin" / "taskq", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)


def test_checkout_has_a_taskq() -> None:
    assert run_from_checkout("--version").stdout == f"taskq {__version__}\n".encode()


def test_checkout_without_click_reports_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    end = run_from_checkout("stats", PYTHONPATH=str(tmp_path))
    assert end.returncode == 1
    assert b"has no click; bin/demo and bin/test make" in end.stderr


# signals, streams and stdin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_run_and_leaves_the_job(tmp_path: Path, number: signal.Signals) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt(number)
        end = process.end()
    assert end.code == 128 + number
    assert CONTINUES in end.terminal
    assert "CANCEL 7" not in daemon.lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_cancels_the_job_with_on_interrupt_cancel(tmp_path: Path, number: signal.Signals) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "--on-interrupt", "cancel", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt(number)
        end = process.end()
    assert (end.code, "CANCEL 7" in daemon.lines) == (143, True)
    assert b"taskq: job 7 is cancelled; waiting for its end\r\n" in end.terminal
    assert b"[y/N]" not in end.terminal


def test_ctrl_c_does_not_ask_with_on_interrupt_leave(tmp_path: Path) -> None:
    with (
        FakeDaemon(Sleeper(), tmp_path) as daemon,
        Process(daemon.address, "run", "--on-interrupt", "leave", "x", on_terminal=TERMINAL) as process,
    ):
        process.read("stdout", b"word")
        process.interrupt()
        end = process.end()
    assert (end.code, b"[y/N]" in end.terminal, CONTINUES in end.terminal) == (130, False, True)


def test_ctrl_c_while_reconnecting_leaves_the_job(tmp_path: Path) -> None:
    sleeper = Sleeper()
    with (
        FakeDaemon(sleeper, tmp_path) as daemon,
        Process(daemon.address, "run", "x", has_stdin=False) as process,
    ):
        process.read("stdout", b"word")
        daemon.close()
        process.read("stderr", b"reconnecting")
        process.interrupt()
        end = process.end()
    assert end.code == 130
    assert end.stderr.endswith(CONTINUES + b"\n")


STREAMS = [(">&-",), ("2>&-",), ("<&-",), ("<&-", ">&-", "2>&-")]


@pytest.mark.parametrize("closed", STREAMS, ids=" ".join)
@pytest.mark.parametrize(
    "words", ["submit true", "run true", "list", "status 8", "show 7", "wait 7", "follow 7 9", "stats"]
)
def test_commands_work_with_closed_streams(tmp_path: Path, closed: tuple[str, ...], words: str) -> None:
    table = {
        "SUBMIT": b"JOB_ID 7\r\n",
        "FOLLOW": data("stdout", 0, b"out") + data("stderr", 0, b"err") + b"STATUS COMPLETED 100\r\n",
        "SHOW": job(),
        "SHOW 8": b"ERROR NO_SUCH_JOB there is no job 8\r\n",
        "LIST": b"END 0\r\n",
        "WAIT": b"STATUS COMPLETED 100\r\n",
        "STATS": b"STATS {}\r\n",
    }
    code = "from taskqd.cli import main; main()"
    with FakeDaemon(replies(table), tmp_path) as daemon:
        end = subprocess.run(
            [
                "/bin/sh",
                "-c",
                f'exec "$@" {" ".join(closed)}',
                "sh",
                sys.executable,
                "-c",
                code,
                *words.split(),
            ],
            cwd=CHECKOUT,
            env={**os.environ, "TASKQ_ADDRESS": daemon.address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert daemon.lines
    assert end.returncode == (1 if words == "status 8" else 0)
    assert b"Traceback" not in end.stdout + end.stderr


def test_piped_stdin_of_run_is_sent_to_the_job(tmp_path: Path) -> None:
    sleeper = Sleeper()
    sleeper.is_over.set()
    with FakeDaemon(sleeper, tmp_path) as daemon, Process(daemon.address, "run", "x") as process:
        process.type(b"one\0two")
        process.close("stdin")
        assert process.end().code == 0
    assert daemon.requests[0].line.endswith(" --stdin=7 x")
    assert daemon.requests[0].blocks == (b"one\0two",)


@pytest.mark.parametrize("words", [("run", "--no-stdin", "x"), ("run", "-n", "x"), ("submit", "x")])
def test_stdin_that_is_not_for_the_job_is_not_read(tmp_path: Path, words: tuple[str, ...]) -> None:
    sleeper = Sleeper()
    sleeper.is_over.set()
    with FakeDaemon(sleeper, tmp_path) as daemon, Process(daemon.address, *words) as process:
        process.read("stdout", b"7\n" if words[0] == "submit" else b"word")
        assert process.end().code == 0
    assert "--stdin" not in daemon.lines[0]


def test_reading_stdin_is_reported_and_ctrl_c_submits_nothing(tmp_path: Path) -> None:
    with FakeDaemon(Sleeper(), tmp_path) as daemon, Process(daemon.address, "run", "x") as process:
        process.read("stderr", b"reading stdin for the job; use --no-stdin to start the job without it\n")
        process.interrupt()
        process.close("stdin")
        assert process.end().code == 130
    assert daemon.lines == []


def test_ctrl_c_at_any_moment_of_submit_is_silent_and_consistent(tmp_path: Path) -> None:
    """From the point where the installed script handles signals; before that, Python itself starts."""
    script = (CHECKOUT / "bin/taskq.installed").read_text("utf-8")
    code = script.replace("\nfrom taskqd.cli", "\nprint(flush=True)\nfrom taskqd.cli")
    assert code != script
    with FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon:
        for moment in range(25):
            before = len(daemon.lines)
            with subprocess.Popen(
                [sys.executable, "-c", code, "submit", "x"],
                cwd=CHECKOUT,
                env={**os.environ, "TASKQ_ADDRESS": daemon.address},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                assert process.stdout
                process.stdout.readline()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.004 * moment + 0.004)
                process.send_signal(signal.SIGINT)
                stdout, stderr = process.communicate()
            assert stderr == b"", moment
            assert process.returncode in (0, 130, -2)
            assert stdout == b"7\n" * (len(daemon.lines) - before)


@pytest.mark.parametrize(
    "change, is_submitted", [("SIG_DFL to give_up", False), ("record to default_int_handler", True)]
)
def test_ctrl_c_just_before_or_after_the_submission_is_silent(
    tmp_path: Path, change: str, is_submitted: bool
) -> None:
    """At the call of signal(2) that begins or ends the time in which Ctrl-C is deferred."""
    code = f"""
import signal, types
from taskqd.cli import interrupts, main

def set_handler(number, handler):
    before = signal.signal(number, handler)
    names = [getattr(each, "__name__", None) or each.name for each in (before, handler)]
    if names == "{change}".split(" to "):
        signal.raise_signal(signal.SIGINT)
    return before

interrupts.signal = types.SimpleNamespace(**vars(signal) | {{"signal": set_handler}})
main()
"""
    with FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon:
        end = subprocess.run(
            [sys.executable, "-c", code, "submit", "x"],
            cwd=CHECKOUT,
            env={**os.environ, "TASKQ_ADDRESS": daemon.address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    assert (end.returncode, end.stdout, end.stderr) == (130, b"7\n" if is_submitted else b"", b"")
    assert len(daemon.lines) == is_submitted


def test_ctrl_c_ends_submit_while_the_daemon_does_not_reply(tmp_path: Path) -> None:
    hangs = threading.Event()

    def answer(_: Request) -> Iterator[bytes]:
        while not hangs.wait(0.1):
            yield b""

    with FakeDaemon(answer, tmp_path) as daemon, Process(daemon.address, "submit", "x") as process:
        while not daemon.lines:
            pass
        process.interrupt()
        end = process.end()
        hangs.set()
    assert (end.code, end.stdout) == (130, b"")
    assert (
        end.stderr == b"taskq: the daemon has not replied yet; the job may or may not have been submitted\n"
    )


def test_ctrl_c_ends_from_file_with_ids_of_submitted_lines(tmp_path: Path) -> None:
    with (
        FakeDaemon(replies({"SUBMIT": b"JOB_ID 7\r\n"}), tmp_path) as daemon,
        Process(daemon.address, "submit", "--from-file", "-") as process,
    ):
        process.type(b"one\ntwo\n")
        process.read("stdout", b"7\n7\n")
        process.interrupt()
        process.type(b"three\n")
        end = process.end()
    assert end.code == 130
    assert end.stdout == b"7\n" * len(daemon.lines)
    assert end.stderr == b""
