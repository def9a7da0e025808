"""FOLLOW, WATCH and WAIT for several jobs with a real daemon (docs/protocol.md §3)."""

import json
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Wire, until


def follow(wire: Wire, request: str) -> tuple[bytes, bytes, str]:
    """Return the stdout and stderr that a FOLLOW sends, and its last line."""
    wire.send(f"{request}\r\n".encode())
    found = {"stdout": b"", "stderr": b""}
    while (line := wire.line()).startswith("DATA "):
        _, stream, _, length = line.split(" ")[:4]
        found[stream] += wire.read(int(length))
        assert wire.read(2) == b"\r\n"
    return found["stdout"], found["stderr"], line


def test_follow_sends_output_while_the_job_runs_then_the_status(wire: Wire, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = wire.submit(f"echo one; echo oh >&2; until [ -e {go} ]; do sleep 0.01; done; echo two; exit 4")
    wire.send(f"FOLLOW {job}\r\n".encode())
    first = [wire.block(), wire.block()]
    assert sorted((block.stream, block.offset, block.data) for block in first) == [
        ("stderr", 0, b"oh\n"),
        ("stdout", 0, b"one\n"),
    ]
    go.touch()
    block = wire.block()
    assert (block.stream, block.offset, block.data) == ("stdout", 4, b"two\n")
    assert wire.line() == "STATUS FAILED 0"


def test_follow_accepts_offsets_and_waits_for_the_start(wire: Wire) -> None:
    job = wire.submit("--delay=300ms seq 1 50000; seq 1 30000 >&2")
    expected = {"stdout": 50_000, "stderr": 30_000}
    out, err, last = follow(wire, f"FOLLOW {job}")
    assert out == b"".join(b"%d\n" % number for number in range(1, expected["stdout"] + 1))
    assert err == b"".join(b"%d\n" % number for number in range(1, expected["stderr"] + 1))
    assert last == "STATUS COMPLETED 100"
    again, rest, last = follow(wire, f"FOLLOW {job} --stdout=288000 --stderr={len(err)}")
    assert again == out[288_000:]
    assert rest == b""
    assert last == "STATUS COMPLETED 100"


def test_follower_that_does_not_read_blocks_no_one(daemon: DaemonFactory) -> None:
    one = daemon()
    slow, wire = one.connect(), one.connect()
    job = wire.submit("--max-output=1G head -c 200000000 /dev/zero")
    slow.send(f"FOLLOW {job}\r\n".encode())
    assert wire.wait(job) == "COMPLETED"
    assert one.memory()["VmHWM"] < 146 * 1024 * 1024
    total = 0
    while (line := slow.line()).startswith("DATA "):
        length = int(line.split(" ")[3])
        assert slow.read(length + 2) == bytes(length) + b"\r\n"
        total += length
    assert (total, line) == (200_000_000, "STATUS COMPLETED 100")


def test_follow_of_a_removed_job_is_gone(wire: Wire) -> None:
    job = wire.submit("true")
    wire.wait(job)
    wire.ask(f"REMOVE {job}")
    assert wire.ask(f"FOLLOW {job}").startswith("ERROR GONE ")


def test_follow_continues_with_a_retry(wire: Wire) -> None:
    job = wire.submit(
        "--retries=1 --retry-delay=100ms echo attempt $TASKQ_ATTEMPT; exit $((2 - TASKQ_ATTEMPT))"
    )
    out, _, last = follow(wire, f"FOLLOW {job}")
    assert out.endswith(b"attempt 2\n")
    assert last == "STATUS COMPLETED 100"
    assert wire.output(job, "stdout", "--attempt=1").data == b"attempt 1\n"
    assert wire.output(job, "stdout", "--attempt=2").data == b"attempt 2\n"
    assert [run["exit_code"] for run in wire.show(job)["runs"]] == [1, 0]


def test_watch_sends_every_event_and_ends_at_the_next_line(daemon: DaemonFactory, tmp_path: Path) -> None:
    go = tmp_path / "go"
    one = daemon()
    wire, watcher = one.connect(), one.connect()
    reply = watcher.ask("WATCH")
    assert reply.startswith("OK ")
    first = int(reply.split(" ")[1])
    job = wire.submit(f"until [ -e {go} ]; do sleep 0.01; done; exit 3")
    events = [watcher.event() for _ in range(3)]
    go.touch()
    wire.wait(job)
    events.append(watcher.event())
    assert [event["type"] for event in events] == ["submitted", "started", "spawned", "ended"]
    assert [event["seq"] for event in events] == list(range(first, first + 4))
    assert events[-1]["reason"] == "exit"
    watcher.send(b"PING\r\n")
    assert watcher.lines(2) == ["END", "OK"]
    assert watcher.ask(f"WATCH --since={first + 3}") == f"OK {first + 3}"
    assert watcher.event() == events[-1]
    watcher.send(b"\r\nPING\r\n")
    assert watcher.lines(2) == ["END", "OK"], "an empty line ends the watch too"


def test_watch_has_no_gap_after_a_restart(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    jobs = [wire.submit("true") for _ in range(20)]
    for job in jobs:
        wire.wait(job)
    one.kill()
    one.start()
    wire, watcher = one.connect(), one.connect()
    assert watcher.ask("WATCH --since=1") == "OK 1"
    more = [wire.submit("true") for _ in range(20)]
    for job in more:
        wire.wait(job)
    seen: dict[int, list[str]] = {}
    last = 0
    while len([kinds for kinds in seen.values() if "ended" in kinds]) < 40:
        event = watcher.event()
        assert event["seq"] > last
        last = event["seq"]
        if event["type"] != "spawned":  # not sent if the job had already ended
            seen.setdefault(event["id"], []).append(event["type"])
    assert all(kinds == ["submitted", "started", "ended"] for kinds in seen.values())
    assert sorted(seen) == sorted(jobs + more)


def test_watch_filters_by_job_and_queue(daemon: DaemonFactory, tmp_path: Path) -> None:
    lasting = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    one = daemon()
    wire, of_queue, of_job = one.connect(), one.connect(), one.connect()
    job = wire.submit(f"--hold {lasting}")
    of_queue.ask("WATCH --queue=q")
    of_job.ask(f"WATCH --job={job}")
    other = wire.submit(f"--queue=q {lasting}")
    wire.ask(f"RELEASE {job}")
    assert {of_queue.event()["id"] for _ in range(3)} == {other}
    assert [of_job.event()["type"] for _ in range(3)] == ["released", "started", "spawned"]
    (tmp_path / "go").touch()
    wire.wait(job)
    wire.wait(other)
    assert (of_queue.event()["id"], of_job.event()["type"]) == (other, "ended")


def test_wait_for_several_jobs(wire: Wire, tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow = wire.submit(f"until [ -e {go} ]; do sleep 0.01; done")
    quick, failing = wire.submit("true"), wire.submit("false")
    wire.send(f"WAIT {slow} {quick} {failing} --any\r\n".encode())
    replies = wire.lines(2)
    assert replies[0].split(" ")[3] in {str(quick), str(failing)}
    assert replies[1] == "END 1"
    wire.send(f"WAIT {slow} {quick} {failing} --timeout=300ms\r\n".encode())
    assert sorted(wire.lines(2)) == [f"STATUS COMPLETED 100 {quick}", f"STATUS FAILED 0 {failing}"]
    assert wire.line().startswith("ERROR TIMED_OUT ")
    go.touch()
    wire.send(f"WAIT {slow} {quick} {failing}\r\n".encode())
    assert f"STATUS COMPLETED 100 {slow}" in wire.lines(3)
    assert wire.line() == "END 3"


def test_resource_usage_of_a_job_is_shown(wire: Wire) -> None:
    job = wire.submit("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    assert wire.wait(job) == "COMPLETED"
    shown = wire.show(job)
    assert 0 < shown["cpu_user"] < 60
    assert shown["cpu_system"] >= 0
    assert shown["runs"][0]["cpu_user"] == shown["cpu_user"]


def test_limits_of_a_job_are_applied_by_the_system(wire: Wire) -> None:
    assert wire.run("--nofile=64 ulimit -n").stdout == b"64\n"
    assert wire.run("--memory=512M ulimit -v").stdout == b"524288\n"
    spinning = wire.submit("--cpu-time=1 while :; do :; done")
    assert wire.wait(spinning) == "FAILED"
    assert (wire.show(spinning)["reason"], wire.show(spinning)["signal"]) == ("signal", "XCPU")


def test_silent_job_times_out(wire: Wire) -> None:
    job = wire.submit("--idle-timeout=300ms echo begun; sleep 300")
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["detail"]) == ("timeout", "it printed nothing for 0.3 s")
    assert wire.run("--idle-timeout=2s for i in 1 2 3 4; do echo; sleep 0.1; done").exit_code == "0"


def test_retry_conditions_select_failures(wire: Wire) -> None:
    for options, attempts in (
        ("--retry-on=exit:75", 3),
        ("--retry-on=exit:74,signal:KILL", 1),
        ("--no-retry-on=exit:75", 1),
        ("--no-retry-on=timeout", 3),
    ):
        job = wire.submit(f"--retries=2 --retry-delay=0 {options} exit 75")
        assert wire.wait(job) == "FAILED"
        assert wire.show(job)["attempts"] == attempts, options


def test_events_name_the_initiator(wire: Wire) -> None:
    job = wire.submit("--hold true")
    wire.ask(f"SET {job} --priority=3")
    wire.ask(f"CANCEL {job}")
    kinds = {event["type"]: event for event in wire.history(job)}
    assert set(kinds) == {"submitted", "changed", "cancelled"}
    assert kinds["changed"]["spec"]["priority"] == 3
    assert json.dumps(kinds["changed"]["by"]) == json.dumps(kinds["submitted"]["owner"])
    until(lambda: wire.status(job) == "CANCELLED", "the cancel")
