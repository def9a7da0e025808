"""Schedules and the on_end command, with a real daemon (docs/protocol.md §3)."""

import json
import time
from typing import Any

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Wire, until


def pause(seconds: float) -> None:
    """Let time pass while the daemon is stopped, so that runs are missed."""
    time.sleep(seconds)


def runs(wire: Wire, label: str) -> list[dict[str, Any]]:
    return [job for job in wire.list("--limit=1000") if job["label"] == label]


def test_schedule_submits_jobs_until_it_ends(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    assert wire.ask("SCHEDULE --every=1s --label=tick --queue=q echo $TASKQ_SCHEDULE") == "OK 1"
    until(lambda: len(runs(wire, "tick")) >= 2, "two runs")
    first = runs(wire, "tick")[0]
    assert (first["schedule"], first["queue"]) == (1, "q")
    assert wire.wait(first["id"]) == "COMPLETED"
    assert wire.result(first["id"]).stdout == b"1\n"
    shown = wire.schedules()[1]
    assert (shown["every"], shown["cron"], shown["paused"], shown["command"]) == (
        1.0,
        None,
        False,
        "echo $TASKQ_SCHEDULE",
    )
    assert shown["next_run_at"] > shown["last_run_at"] > shown["created_at"]
    assert wire.ask("PAUSE --schedule=1") == "OK"
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.schedules()[1]["paused"]
    assert wire.schedules()[1]["next_run_at"] is None
    count = len(runs(wire, "tick"))
    assert wire.ask("RESUME --schedule=1") == "OK"
    until(lambda: len(runs(wire, "tick")) > count, "another run")
    latest = wire.schedules()[1]["last_job"]
    assert wire.wait(latest) == "COMPLETED"
    assert wire.ask("UNSCHEDULE 1") == "OK"
    assert wire.schedules() == {}
    assert wire.ask("UNSCHEDULE 1").startswith("ERROR NO_SUCH_JOB ")
    assert wire.ask('SCHEDULE --cron="@daily" true') == "OK 2"


def test_runs_missed_while_the_daemon_was_stopped_become_one(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    assert wire.ask("SCHEDULE --every=1s --label=tick true") == "OK 1"
    until(lambda: runs(wire, "tick"), "a run")
    one.kill()
    pause(3.5)
    one.start()
    wire = one.connect()
    until(lambda: len(runs(wire, "tick")) >= 2, "the run for those that were missed")
    assert len(runs(wire, "tick")) <= 3, "and one or two that have become due since"


def test_runs_overlap_only_with_the_option(daemon: DaemonFactory) -> None:
    wire = daemon(slots=4).connect()
    assert wire.ask("SCHEDULE --every=1s --label=alone sleep 300") == "OK 1"
    assert wire.ask("SCHEDULE --every=1s --overlap --label=beside sleep 300") == "OK 2"
    until(lambda: len(runs(wire, "beside")) >= 3, "three runs beside each other")
    assert len(runs(wire, "alone")) == 1
    wire.ask("UNSCHEDULE 2")
    wire.ask("UNSCHEDULE 1")


def test_invalid_schedule_is_refused(wire: Wire) -> None:
    for wrong in (
        "true",
        "--every=1h --cron=@daily true",
        "--every=1ms true",
        '--cron="61 * * * *" true',
        '--cron="0 0 30 2 *" true',
        "--every=1h --key=k true",
        "--every=1h --after=1 true",
        "--every=1h --slots=9999 true",
        "--every=1h",
    ):
        assert wire.ask(f"SCHEDULE {wrong}").startswith("ERROR BAD_REQUEST "), wrong
    assert wire.ask("SUBMIT --every=1h true").startswith("ERROR BAD_REQUEST ")
    assert "SCHEDULE" in wire.ask("SUBMIT --cron=@daily true")
    wire.send(b"SCHEDULE --every=1h --key=k --script=4\r\nPING\r\nPING\r\n")
    assert wire.line().startswith("ERROR BAD_REQUEST ")
    assert wire.line() == "OK"


def test_on_end_command_reads_the_job_s_json_and_is_a_job_itself(daemon: DaemonFactory) -> None:
    one = daemon("--on-end-command", "cat; echo $TASKQ_QUEUE; taskq address", "--on-end-timeout", "10s")
    wire = one.connect()
    job = wire.submit("--label=mine exit 3")
    wire.wait(job)
    hook = until(lambda: wire.list("--queue=on_end"), "the hook")[0]
    assert wire.wait(hook["id"]) == "COMPLETED"
    document, queue, address = wire.result(hook["id"]).stdout.splitlines()
    shown = json.loads(document)
    assert (shown["id"], shown["status"], shown["exit_code"], shown["label"]) == (job, "FAILED", 3, "mine")
    assert queue == b"on_end"
    assert address == f"unix:{one.socket}".encode(), "the command reaches the daemon that runs it"
    assert (hook["owner"], hook["label"]) == ("[on_end]", f"on_end {job}")
    quiet = wire.submit("--notify-fail true")
    wire.wait(quiet)
    array = wire.submit("--array=1-5 true")
    wire.wait(array)
    until(lambda: len(wire.list("--queue=on_end --status=COMPLETED")) == 2, "one hook for the array")
    assert [each["label"] for each in wire.list("--queue=on_end")] == [f"on_end {job}", f"on_end {array}"]


def test_run_now_is_the_last_run_of_its_schedule(wire: Wire) -> None:
    number = int(wire.ask("SCHEDULE --every=1h echo $TASKQ_SCHEDULE").split()[1])
    job = int(wire.ask(f"SCHEDULE --run-now={number}").split()[1])
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job).stdout == b"%d\n" % number
    assert wire.schedules()[number]["last_job"] == job
    wire.ask(f"UNSCHEDULE {number}")


def test_changed_schedule_is_the_same_after_a_crash(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    wire.ask("SCHEDULE --every=1d --label=first echo before")
    wire.wait(int(wire.ask("SCHEDULE --run-now=1").split()[1]))
    assert wire.ask("SCHEDULE --set=1 --cron=@yearly echo after").split() == ["OK", "1"]
    before = wire.schedules()
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.schedules() == before
    job = int(wire.ask("SCHEDULE --run-now=1").split()[1])
    assert (wire.wait(job), wire.result(job).stdout) == ("COMPLETED", b"after\n")
    assert (wire.show(job)["label"], wire.show(job)["schedule"]) == ("first", 1)
