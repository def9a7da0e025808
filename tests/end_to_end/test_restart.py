"""Restarts after a crash, a stop or damage to the journal: no acknowledged job is lost or repeated."""

import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, until

CLEAN = (0, -signal.SIGTERM)
"""The exit codes of a stop: twistd may end itself by the signal that it has received."""

NOTE = "echo $TASKQ_JOB_ID >> {place}/$TASKQ_JOB_ID"


def _runs(place: Path) -> dict[int, int]:
    """Return how often each job has run: each run appends the job's id to a file of that name."""
    runs = {int(file.name): file.read_text().split() for file in place.iterdir()}
    assert all(set(lines) <= {str(job)} for job, lines in runs.items())
    return {job: len(lines) for job, lines in runs.items()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory in which jobs note their runs."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_every_acknowledged_job_ends_after_a_crash_and_none_runs_twice(
    daemon: DaemonFactory, place: Path
) -> None:
    one = daemon(slots=4)
    wire = one.connect()
    note = NOTE.format(place=place)
    finished = [wire.submit(f"{note}; echo {number}; exit {number}") for number in range(3)]
    for job in finished:
        wire.wait(job)
    running = [wire.submit(f"{note}; echo started; sleep 300") for _ in range(4)]
    wire.wait_running(*running)
    until(lambda: len(_runs(place)) == 7, "the four to have begun")
    wire.send(f"SUBMIT {note}; echo $TASKQ_JOB_ID\r\n".encode() * 200)
    pending = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(200)]
    assert {wire.status(job) for job in pending} == {"PENDING"}

    one.crash()
    one.start()

    wire = one.connect()
    assert {wire.wait(job) for job in pending} == {"COMPLETED"}
    assert all(wire.result(job) == (b"%d\n" % job, b"", "0") for job in pending)
    assert _runs(place) == dict.fromkeys(finished + running + pending, 1)
    for job in running:
        assert wire.ask(f"STATUS {job}") == "STATUS FAILED 0"
        shown = wire.show(job)
        assert (shown["reason"], shown["attempts"], shown.get("exit_code")) == ("interrupted", 1, None)
        assert wire.result(job).exit_code == "-"
    assert not [line for line in one.processes().values() if "sleep 300" in line]
    for number, job in enumerate(finished):
        assert wire.result(job) == (b"%d\n" % number, b"", str(number))
    assert wire.submit("true") == 3 + 4 + 200 + 1


def test_kills_among_many_short_jobs_neither_lose_nor_repeat_a_job(
    daemon: DaemonFactory, place: Path
) -> None:
    chance = random.Random(3)
    one = daemon(slots=4)
    wire = one.connect()
    wire.send(f"SUBMIT {NOTE.format(place=place)}; sleep 0.01; echo done\r\n".encode() * 300)
    jobs = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(300)]
    for round_ in range(1, 4):
        until(lambda: len(_runs(place)) >= 60 * round_, "some of the jobs to have run", pause=0.002)  # noqa: B023
        time.sleep(chance.uniform(0, 0.02))  # a random point
        one.kill()
        one.start()
    wire = one.connect()
    ends = {job: wire.wait(job) for job in jobs}
    runs = _runs(place)
    for job in jobs:
        if ends[job] == "COMPLETED":
            assert (wire.result(job).stdout, runs[job]) == (b"done\n", 1)
        else:
            assert wire.show(job)["reason"] == "interrupted"
            assert runs.get(job, 0) <= 1
    counted = Counter(ends.values())
    assert counted["COMPLETED"] >= 300 - 3 * 4
    assert sum(counted.values()) == 300


def test_acknowledged_submission_is_known_after_an_immediate_kill(daemon: DaemonFactory) -> None:
    one = daemon(slots=4)
    last = 0
    for count in (1, 7, 250):
        wire = one.connect()
        wire.send(b"SUBMIT --label=%d echo $TASKQ_JOB_ID\r\n" % count * 500)
        acknowledged = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(count)]
        one.kill()
        assert acknowledged == list(range(last + 1, last + 1 + count))
        one.start()
        wire = one.connect()
        assert {wire.show(job)["label"] for job in acknowledged} == {str(count)}
        last = wire.list("--reverse --limit=1")[0]["id"]
        assert last >= acknowledged[-1]
        wire.cancel(*(job["id"] for job in wire.list("--status=PENDING --limit=500")))


def test_output_of_an_interrupted_job_is_kept(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    text = b"x" * 100_000
    job = wire.submit(f"--stdin={len(text)} cat; printf complaint >&2; sleep 300", text)
    until(lambda: len(wire.output(job, "stdout").data) == len(text), "its output")
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert wire.output(job, "stdout").data == text
    result = wire.result(job)
    assert result.stdout == text
    assert b"complaint".startswith(result.stderr)  # a little that came a moment ago may be lost


def test_interrupted_job_with_retries_left_runs_again(daemon: DaemonFactory, place: Path) -> None:
    one = daemon()
    wire = one.connect()
    text = f"--retries=1 --retry-delay=100ms {NOTE.format(place=place)}; [ $TASKQ_ATTEMPT = 2 ] || sleep 300"
    job = wire.submit(text)
    until(lambda: job in _runs(place), "the job to begin")
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "COMPLETED"
    assert wire.show(job)["attempts"] == 2
    assert _runs(place) == {job: 2}
    one.wait_for_no_process()


def test_cancel_survives_a_crash(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--retries=5 --kill-after=1h trap '' TERM; echo ready; while :; do sleep 0.1; done")
    until(lambda: wire.output(job, "stdout").data, "the job to be ready")
    assert wire.ask(f"CANCEL {job}") == "STATUS RUNNING 0"
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "CANCELLED"
    assert wire.show(job)["attempts"] == 1
    one.wait_for_no_process()


def test_all_processes_of_a_killed_daemon_s_jobs_are_ended(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("trap '' TERM; (trap '' HUP; sleep 301) & sleep 302; sleep 303")
    until(lambda: len(one.processes()) >= 3, "its processes")
    one.crash()
    assert len(one.processes()) >= 3
    one.start()
    one.wait_for_no_process()
    assert one.connect().wait(job) == "FAILED"


def test_processes_of_another_daemon_are_left_alone(daemon: DaemonFactory) -> None:
    """A start kills only processes of this daemon's jobs, not similar ones of another daemon."""
    one = daemon()
    other = daemon()
    mine, theirs = one.connect(), other.connect()
    lost, kept = mine.submit("sleep 300"), theirs.submit("sleep 300")
    mine.wait_running(lost)
    theirs.wait_running(kept)
    one.crash()
    one.start()
    assert one.connect().wait(lost) == "FAILED"
    assert theirs.status(kept) == "RUNNING"
    assert other.processes()


def test_keys_results_and_options_of_jobs_survive_a_restart(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon(slots=1)
    wire = one.connect()
    binary = wire.submit(r"--key=first printf '\000\377\r\n'; printf err >&2; exit 3")
    wire.wait(binary)
    large = wire.submit("head -c 3M /dev/zero | tr '\\0' x")
    wire.wait(large)
    cancelled = wire.submit("sleep 300")
    wire.cancel(cancelled)
    blocker = wire.submit("sleep 300")
    wire.wait_running(blocker)
    script = b"umask; pwd; echo $V; nice; cat; printf '\xff'"
    options = f'--key=second --cwd={tmp_path} --umask=027 --nice=4 --env=V="a b" --label="l l" --retries=1'
    pending = wire.submit(f"{options} --script={len(script)} --stdin=4", script, b"\x00\xfe\r\n")
    before = [wire.show(job) for job in (binary, large, cancelled, pending)]
    for end in (one.kill, one.stop):
        end()
        one.start()
        wire = one.connect()
        assert [wire.show(job) for job in (binary, large, cancelled)] == before[:3]
    assert wire.result(binary) == (b"\x00\xff\r\n", b"err", "3")
    assert wire.output(large, "stdout", "--limit=16M").data == b"x" * (3 << 20)
    assert wire.submit(r"--key=first printf '\000\377\r\n'; printf err >&2; exit 3") == binary
    assert wire.ask("SUBMIT --key=second true").startswith("ERROR KEY_CONFLICT ")
    assert wire.wait(pending) == "COMPLETED"
    nice = str(os.nice(0) + 4).encode()
    assert wire.result(pending).stdout == b"0027\n%b\na b\n%b\n\x00\xfe\r\n\xff" % (
        os.fsencode(tmp_path),
        nice,
    )
    assert {name: wire.show(pending)[name] for name in ("command", "label", "submitted_at", "key")} == {
        name: before[3][name] for name in ("command", "label", "submitted_at", "key")
    }


def test_retrying_job_continues_after_a_restart(daemon: DaemonFactory, place: Path) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(f"--retries=2 --retry-delay=1s {NOTE.format(place=place)}; exit 1")
    until(lambda: wire.show(job)["attempts"] == 1 and wire.status(job) == "PENDING", "its first failure")
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "FAILED"
    assert (wire.show(job)["attempts"], wire.show(job)["reason"]) == (3, "exit")
    assert _runs(place) == {job: 3}


# Stops.


def test_term_stops_the_daemon_and_its_jobs(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    jobs = [wire.submit("sleep 300"), wire.submit("echo started; sleep 300 & sleep 301")]
    wire.wait_running(*jobs)
    waiting = one.connect()
    waiting.send(f"WAIT {jobs[0]}\r\n".encode())
    begin = time.monotonic()
    assert one.stop() in CLEAN
    assert time.monotonic() - begin < 10
    assert one.processes() == {}
    assert not one.pid_file.exists()
    assert not one.socket.exists()
    one.start()
    wire = one.connect()
    for job in jobs:
        assert wire.wait(job) == "FAILED"
        assert wire.show(job)["reason"] == "interrupted"


def test_idle_daemon_stops_at_once_on_int_and_term(daemon: DaemonFactory) -> None:
    one = daemon()
    for number in (signal.SIGTERM, signal.SIGINT):
        begin = time.monotonic()
        one.end(number)
        assert time.monotonic() - begin < 5
        one.start()


def test_stale_socket_is_replaced_by_a_start_and_removed_by_a_stop(daemon: DaemonFactory) -> None:
    one = daemon()
    one.kill()
    assert one.socket.exists()
    one.pid_file.write_text("999999999")
    one.start()
    assert one.connect().run("echo alive").stdout == b"alive\n"
    one.stop()
    assert not one.socket.exists()


# A second daemon.


@pytest.mark.parametrize("same_socket", [True, False])
def test_second_daemon_on_the_same_state_is_refused_and_the_first_continues(
    daemon: DaemonFactory, tmp_path: Path, same_socket: bool
) -> None:
    one = daemon()
    job = one.connect().submit("sleep 300")
    if not same_socket:
        one.options[one.options.index("--listen") + 1] = f"unix:{tmp_path}/other"
    code, output = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if str(one.state) in line]
    assert len(lines) == 1, output
    assert not (tmp_path / "other").exists()
    wire = one.connect()
    wire.wait_running(job)
    assert wire.run("echo alive").stdout == b"alive\n"


def test_second_daemon_on_the_same_socket_is_refused_and_the_first_continues(daemon: DaemonFactory) -> None:
    one, other = daemon(), daemon(start=False)
    other.options[other.options.index("--listen") + 1] = f"unix:{one.socket}"
    code, output = other.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if str(one.socket) in line], output
    assert one.connect().run("echo alive").stdout == b"alive\n"


# The journal.


def _journal(one: Daemon, wire: Wire) -> Path:
    """Return the newest segment of the journal, which has a job submitted just now."""
    token = f"token-{random.random()}"
    wire.wait(wire.submit(f"true {token}"))
    files = [file for file in one.state.rglob("*") if file.is_file() and token.encode() in file.read_bytes()]
    assert len(files) == 1, files
    return files[0]


def _written(segment: Path) -> bytes:
    """Return the lines of a segment, without the preallocated blanks."""
    return segment.read_bytes().rstrip(b"\n") + b"\n"


# tests/test_cuts.py cuts a journal at each byte.
@pytest.mark.parametrize(
    "torn, blanks", [("half of the last line", 0), ("garbage behind it", 100_000), ("zeros behind it", 0)]
)
def test_torn_last_line_is_cut_off_and_logged(daemon: DaemonFactory, torn: str, blanks: int) -> None:
    one = daemon()
    wire = one.connect()
    jobs = [wire.submit("echo kept") for _ in range(5)]
    for job in jobs:
        wire.wait(job)
    segment = _journal(one, wire)
    wire.submit("true the last one")
    one.kill()
    text = _written(segment)
    if torn == "half of the last line":
        start = text.rindex(b"\n", 0, len(text) - 1) + 1
        text = text[: (start + len(text)) // 2]
    elif torn == "garbage behind it":
        text += b'1f2e3d4c {"half": "a rec'
    segment.write_bytes(text + b"\n" * blanks + (bytes(5_000) if torn == "zeros behind it" else b""))
    log_size = len(one.log)
    one.start()
    assert segment.name in one.log[log_size:] or torn == "zeros behind it"
    wire = one.connect()
    assert [wire.result(job).stdout for job in jobs] == [b"kept\n"] * 5
    last = wire.submit("echo goes on")
    assert last > jobs[-1]
    assert wire.wait(last) == "COMPLETED"
    one.restart()
    assert one.connect().result(last).stdout == b"goes on\n"


def test_damaged_line_refuses_the_start_with_file_and_line_number(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    for number in range(10):
        wire.wait(wire.submit(f"true middle{number}"))
    segment = _journal(one, wire)
    one.kill()
    text = segment.read_bytes()
    at = text.index(b"middle4")
    line = text.count(b"\n", 0, at) + 1
    text = text.replace(b"middle4", b"middle5", 1)
    segment.write_bytes(text)
    code, output = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    shown = [each for each in output.splitlines() if segment.name in each]
    assert len(shown) == 1, output
    assert re.search(rf"\b{line}\b", shown[0].replace(segment.name, "")), shown[0]
    assert segment.read_bytes() == text, "a refused start changes nothing"


def test_job_that_expires_while_no_daemon_runs_is_cancelled_at_the_next_start(daemon: DaemonFactory) -> None:
    one = daemon(slots=1)
    wire = one.connect()
    wire.wait_running(wire.submit("sleep 300"))
    job = wire.submit("--expires=500ms true")
    held = wire.submit("--expires=1h --hold true")
    one.crash()
    time.sleep(0.5)  # the time is what is tested: it passes without a daemon
    one.start()
    wire = one.connect()
    assert wire.wait(job) == "CANCELLED"
    assert (wire.show(job)["reason"], wire.show(job)["attempts"]) == ("expired", 0)
    assert wire.ask(f"WHY {job}") == "OK not waiting: it has ended, CANCELLED (expired)"
    assert "expires at" in wire.ask(f"WHY {held}")
    assert wire.history(job)[-1]["reason"] == "expired"
