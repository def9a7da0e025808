"""Removal, retention, history, compaction, orphaned files, and a full disk."""

import json
import re
import subprocess
import sys
import time
from math import inf
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment, fill
from tests.end_to_end.wire import DEADLINE, Wire, until

LONG = "head -c 10000 /dev/zero"
"""A command whose output is too long for the journal and goes to a file."""


def _is_gone(wire: Wire, job: int) -> bool:
    return wire.ask(f"STATUS {job}").startswith("ERROR GONE ")


def _verified(one: Daemon) -> "subprocess.CompletedProcess[str]":
    """Run ``taskq journal verify`` on a daemon's journal; fail if it reports an error."""
    shown = subprocess.run(
        [Path(sys.executable).with_name("taskq"), "journal", "verify", one.state],
        env=environment(),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        text=True,
    )
    assert shown.returncode == 0, shown
    return shown


# REMOVE


def test_removed_job_is_gone_with_its_files_and_its_key(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    kept = wire.submit(f"--key=k --stdin=2 {LONG}", b"in")
    wire.wait(kept)
    options = "--retries=1 --retry-delay=1ms --key=gone --stdin=2"
    job = wire.submit(f"{options} {LONG}; {LONG} >&2; false", b"in")
    assert wire.wait(job) == "FAILED"
    assert one.files("output") == sorted(
        [
            f"{kept}.1.stdout",
            *(f"{job}.{number}.{name}" for number in (1, 2) for name in ("order", "stdout", "stderr")),
        ]
    )
    assert wire.ask(f"REMOVE {job}") == "OK"
    for restart in (None, one.kill, one.stop):
        if restart:
            restart()
            one.start()
            wire = one.connect()
        for request in ("STATUS", "RESULT", "SHOW", "WAIT", "CANCEL", "RETRY", "REMOVE", "HISTORY"):
            assert re.match(rf"ERROR GONE .*\b{job}\b", wire.ask(f"{request} {job}")), request
        assert wire.ask(f"OUTPUT {job} stdout").startswith("ERROR GONE ")
        assert [shown["id"] for shown in wire.list()] == [kept]
        assert wire.list("--key=gone") == []
        until(
            lambda: one.files("output", "input") == [f"{kept}.1.stdout", f"{kept}.stdin"],
            "the files to be removed",
        )
    assert wire.submit("--key=gone true") == job + 1, "its key is free, its id is not"
    assert len(wire.output(kept, "stdout").data) == 10_000


def test_job_that_has_not_ended_cannot_be_removed(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    running, pending = wire.submit("sleep 300"), wire.submit("true")
    wire.wait_running(running)
    for job in (running, pending):
        assert wire.ask(f"REMOVE {job}").startswith("ERROR WRONG_STATE ")
    assert wire.ask("REMOVE 9").startswith("ERROR NO_SUCH_JOB ")
    assert wire.ask("REMOVE").startswith("ERROR BAD_REQUEST ")
    wire.cancel(pending, running)
    assert [wire.ask(f"REMOVE {job}") for job in (running, pending)] == ["OK", "OK"]
    assert wire.stats()["counters"]["removed"] == 2
    assert wire.stats()["jobs"]["cancelled"] == 0


def test_removed_job_that_waited_for_its_retry_blocks_no_other(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    job = wire.submit("--retries=1 --retry-delay=1h false")
    until(lambda: wire.show(job)["reason"] == "retrying", "its failure")
    assert wire.ask(f"CANCEL {job}") == "STATUS CANCELLED 0"
    assert wire.ask(f"REMOVE {job}") == "OK"
    assert wire.run("echo next").stdout == b"next\n"
    assert wire.run("echo and another").stdout == b"and another\n"


# HISTORY


def test_history_has_every_event_with_user_and_reason(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(
        "--retries=1 --retry-delay=1ms echo $TASKQ_ATTEMPT; [ $TASKQ_ATTEMPT != 1 ] || exit 3; sleep 300"
    )
    until(lambda: wire.show(job)["attempts"] == 2, "its second attempt")
    wire.wait_running(job)
    wire.cancel(job)
    assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"
    wire.wait_running(job)
    one.crash()
    one.start()
    wire = one.connect()
    events = wire.history(job)
    owner = wire.show(job)["owner"]
    shown = [event for event in events if event["type"] != "spawned"]
    assert [event["type"] for event in shown][:9] == [
        *("submitted", "started", "ended", "started", "cancelled", "ended", "retried", "started", "ended")
    ]
    assert [shown[at].get("by", shown[at].get("owner")) for at in (0, 4, 6)] == [owner] * 3
    ends = [(shown[at]["status"], shown[at].get("reason"), shown[at].get("exit_code")) for at in (2, 5, 8)]
    assert ends == [
        ("PENDING", "exit", 3),
        ("CANCELLED", "cancelled", None),
        ("PENDING", "interrupted", None),
    ]
    assert shown[2]["stdout"] == {"size": 2}
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert {event["id"] for event in events} == {job}
    assert all(re.fullmatch(r"2[0-9-]{9}T[0-9:]{8}\.[0-9]{3}Z", event["at"]) for event in events)


def test_history_has_only_events_of_its_job(daemon: DaemonFactory) -> None:
    wire = daemon().connect()
    first = wire.submit('--label="\\"id\\":2," : \'"id":2,\'')
    jobs = [first, *(wire.submit("true") for _ in range(20))]
    for job in jobs:
        wire.wait(job)
    for job in jobs[:2] + jobs[-2:]:
        assert {event["id"] for event in wire.history(job)} == {job}
    assert wire.ask("HISTORY 99").startswith("ERROR NO_SUCH_JOB ")


# Retention.


def test_retention_keeps_the_last_ended_jobs_up_to_the_count(daemon: DaemonFactory) -> None:
    one = daemon("--retention-count", "10", slots=2)
    wire = one.connect()
    blocker = wire.submit("sleep 300")
    waiting = wire.submit("--retries=1 --retry-delay=1h false")
    until(lambda: wire.show(waiting)["reason"] == "retrying", "its failure")
    jobs = [wire.submit(f"--stdin=2 {LONG}", b"in") for _ in range(60)]
    until(lambda: not wire.list("--status=PENDING --from=3"), "all to have started")
    until(lambda: len(wire.list()) == 12, "the older jobs to be removed")
    assert [job["id"] for job in wire.list()] == [blocker, waiting, *jobs[-10:]]
    assert _is_gone(wire, jobs[0])
    left = sorted(f"{job}.{name}" for job in jobs[-10:] for name in ("1.stdout", "stdin"))
    until(lambda: one.files("output", "input") == left, "their files to be removed")
    assert wire.stats()["counters"]["removed"] == 50
    one.crash()
    one.options += ["--retention-count", "3"]
    one.start()
    wire = one.connect()
    until(lambda: len(wire.list("--status=COMPLETED,FAILED")) == 3, "a smaller count to be kept")
    assert [job["id"] for job in wire.list("--status=COMPLETED")] == jobs[-2:]
    assert wire.status(blocker) == "FAILED", "it ended last"
    assert _is_gone(wire, jobs[0])
    _verified(one)


def test_retention_keeps_ended_jobs_up_to_the_memory(daemon: DaemonFactory) -> None:
    one = daemon("--retention-memory", "1M")
    wire = one.connect()
    commands = [f"true {number} {'x' * 60_000}" for number in range(40)]
    jobs = [wire.submit(f"--hold {command}") for command in commands]
    for job in jobs:
        assert wire.ask(f"CANCEL {job}").startswith("STATUS CANCELLED")
    kept = 1024**2 // 61_120
    until(lambda: len(wire.list()) == kept, "the older jobs to be removed")
    assert [job["id"] for job in wire.list()] == jobs[-kept:]
    one.kill()
    one.start()
    assert [job["id"] for job in one.connect().list()] == jobs[-kept:]
    _verified(one)


def test_retention_removes_jobs_above_the_age(daemon: DaemonFactory) -> None:
    one = daemon("--retention-age", "1s", slots=2)
    wire = one.connect()
    blocker = wire.submit("sleep 300")
    job = wire.submit("true")
    wire.wait(job)
    assert not _is_gone(wire, job)
    until(lambda: _is_gone(wire, job), "it to be old enough", deadline=20)
    assert wire.status(blocker) == "RUNNING"


def test_wait_is_answered_if_no_ended_job_is_kept(daemon: DaemonFactory) -> None:
    wire = daemon("--retention-count", "0").connect()
    for _ in range(20):
        wire.send(b"SUBMIT true\r\n")
        job = int(wire.line().removeprefix("JOB_ID "))
        assert re.match(rf"STATUS COMPLETED 100|ERROR GONE .*\b{job}\b", wire.ask(f"WAIT {job}"))
    until(lambda: wire.list() == [], "all jobs to be removed")


# Snapshots.


def _journal_bytes(one: Daemon) -> float:
    """Return the bytes of all records in the journal, without blanks; inf if a file was removed meanwhile."""
    try:
        contents = [file.read_bytes() for file in (one.state / "journal").glob("*[!d]")]
    except FileNotFoundError:
        return inf
    return sum(len(content.rstrip(b"\n")) + 1 for content in contents)


def test_snapshot_replaces_old_segments(daemon: DaemonFactory) -> None:
    one = daemon("--retention-count", "20", slots=1)
    wire = one.connect()
    old = wire.submit("--retries=1 --retry-delay=1h echo failed once; exit 7")
    until(lambda: wire.show(old)["reason"] == "retrying", "its failure")
    last = old
    for _ in range(3):
        wire.send((b"SUBMIT : " + b"x" * 60_000 + b"\r\n") * 300)
        last = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(300)][-1]
        until(lambda: not wire.list("--status=PENDING,RUNNING --from=2 --limit=1"), "all to run", pause=0.1)
        until(lambda: len(wire.list()) == 21, "the older jobs to be removed")
    until(lambda: wire.stats()["store"]["snapshot_bytes"], "a snapshot", pause=0.1)
    until(lambda: _journal_bytes(one) < 25 * 1024**2, "the old segments to be removed")
    sizes = ("segment_bytes", "closed_bytes", "snapshot_bytes")
    until(lambda: sum(wire.stats()["store"][size] for size in sizes) == _journal_bytes(one), "STATS to agree")
    assert wire.stats()["store"]["failure"] is None
    kept = [job["id"] for job in wire.list()]
    assert kept == [old, *range(last - 19, last + 1)]
    before = {job: (wire.show(job), wire.history(job)) for job in kept}
    assert before[old][1][0]["type"] == "submitted"
    assert wire.output(old, "stdout").data == b"failed once\n", "its record in the journal has moved"
    _verified(one)
    for end in (one.kill, one.stop):
        end()
        one.start()
        wire = one.connect()
        now = {job: (wire.show(job), wire.history(job)) for job in kept}
        assert now == before
        assert wire.output(old, "stdout").data == b"failed once\n"
        assert _is_gone(wire, last - 20)
    assert wire.submit("true") == last + 1


# Orphaned files.


def test_files_of_unknown_jobs_are_removed_at_the_start(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(f"--stdin=2 {LONG}", b"in")
    wire.wait(job)
    one.kill()
    mine = one.files("output", "input", "progress")
    for name in ("output/0/999.1.stdout", f"output/0/{job}.2.stderr", "input/0/999.script", "progress/999"):
        (one.state / name).write_text("left behind")
    (one.state / "output" / "0" / "README").write_text("not the daemon's")
    log_size = len(one.log)
    one.start()
    assert one.files("output", "input", "progress") == sorted([*mine, "README"])
    assert re.search(r"removed 4 files of jobs", one.log[log_size:])
    assert len(one.connect().output(job, "stdout").data) == 10_000


# A full disk.


def _refusal(wire: Wire) -> str:
    """Submit jobs until one is refused; return the refusal. The jobs accepted before may run."""
    while not (reply := wire.ask(f"SUBMIT : {'x' * 5000}")).startswith("ERROR "):
        pass
    return reply


def test_full_disk_refuses_commands_with_the_reason_until_there_is_space(
    small_disk: Path, daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon("--state", str(small_disk / "state"), start=False, slots=2)
    one.state = small_disk / "state"
    one.start()
    wire = one.connect()
    gate = tmp_path / "gate"
    done = wire.submit("echo done")
    wire.wait(done)
    running = wire.submit(f"until [ -e {gate} ]; do sleep 0.02; done; echo ended meanwhile; exit 5")
    wire.wait_running(running)
    ballast = fill(small_disk)
    assert _refusal(wire).startswith("ERROR STORE_FAILED ")
    for request in ("SUBMIT --key=k true", f"RETRY {done}", f"CANCEL {running}", f"REMOVE {done}"):
        refusal = wire.ask(request)
        assert refusal.startswith("ERROR STORE_FAILED "), refusal
        assert "No space left on device" in refusal
    assert "No space left on device" in wire.stats()["store"]["failure"]
    assert wire.result(done).stdout == b"done\n"
    waiting = one.connect()
    waiting.send(f"WAIT {running}\r\n".encode())
    gate.touch()
    time.sleep(1.5)
    assert wire.status(running) == "RUNNING", "its end is not durable, so it is not announced"
    known = [job["id"] for job in wire.list("--limit=1000")]
    ballast.unlink()
    assert waiting.line() == "STATUS FAILED 0"
    assert wire.result(running) == (b"ended meanwhile\n", b"", "5")
    assert wire.stats()["store"]["failure"] is None
    after = wire.submit("--key=k echo after")
    assert after > max(known)
    assert wire.wait(after) == "COMPLETED"
    assert {wire.wait(job) for job in known if job != running} == {"COMPLETED"}
    assert "cannot be written" in one.log
    assert "journal writable again" in one.log
    _verified(one)
    one.kill()
    one.start()
    wire = one.connect()
    assert {wire.status(job) for job in [*known, after] if job != running} == {"COMPLETED"}
    assert wire.result(running) == (b"ended meanwhile\n", b"", "5")
    assert [job["id"] for job in wire.list("--limit=1000")] == [*known, after]
    _verified(one)


def test_kill_with_a_full_disk_loses_no_acknowledged_job(small_disk: Path, daemon: DaemonFactory) -> None:
    one = daemon("--state", str(small_disk / "state"), start=False, slots=1)
    one.state = small_disk / "state"
    one.start()
    wire = one.connect()
    running = wire.submit("sleep 300")
    wire.wait_running(running)
    ballast = fill(small_disk)
    _refusal(wire)
    known = [job["id"] for job in wire.list("--limit=1000")]
    one.crash()
    code, output = one.refused()
    assert code == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    ballast.unlink()
    one.start()
    wire = one.connect()
    assert [job["id"] for job in wire.list("--limit=1000")] == known
    assert wire.wait(running) == "FAILED"
    assert {wire.wait(job) for job in known if job != running} <= {"COMPLETED"}
    _verified(one)


def test_stop_with_a_full_disk_completes(small_disk: Path, daemon: DaemonFactory) -> None:
    one = daemon("--state", str(small_disk / "state"), start=False, slots=1)
    one.state = small_disk / "state"
    one.start()
    wire = one.connect()
    running = wire.submit("sleep 300")
    wire.wait_running(running)
    ballast = fill(small_disk)
    _refusal(wire)
    begin = time.monotonic()
    one.stop()
    assert time.monotonic() - begin < 15
    assert one.processes() == {}
    ballast.unlink()
    one.start()
    assert one.connect().show(running)["reason"] == "interrupted"


def test_stats_show_the_sizes_of_the_journal(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    wire.wait(wire.submit("true"))
    store = wire.stats()["store"]
    size = (one.state / "journal" / "00000001.journal").stat().st_size
    assert store == {
        "failure": None,
        "segment": 1,
        "segment_bytes": size,
        "closed_bytes": 0,
        "snapshot_bytes": 0,
    }, json.dumps(store)
