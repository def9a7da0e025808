"""Order, queues, slots, resources, holds, changes and pauses, with a real daemon (docs/protocol.md §3)."""

import re
from datetime import datetime
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Wire, until


def order(wire: Wire, *jobs: int) -> list[int]:
    """Wait for jobs, and return them in the order of their starts."""
    for job in jobs:
        assert wire.wait(job) == "COMPLETED"
    return sorted(jobs, key=lambda job: str(wire.show(job)["started_at"]))


def test_higher_priority_starts_first_then_the_lower_id(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    blocker = wire.submit("sleep 300")
    wire.wait_running(blocker)
    low, first, high, second = (
        wire.submit(f"--priority={number} sleep 0.01") for number in (-3, 0, 1_000_000, 0)
    )
    wire.cancel(blocker)
    assert order(wire, low, first, high, second) == [high, first, second, low]


def test_slots_of_a_queue_are_enforced_and_survive_a_restart(daemon: DaemonFactory) -> None:
    one = daemon("--queue", "slow=1", slots=3)
    wire = one.connect()
    first, second = wire.submit("--queue=slow sleep 300"), wire.submit("--queue=slow sleep 300")
    other = wire.submit("sleep 300")
    wire.wait_running(first, other)
    assert wire.status(second) == "PENDING"
    assert re.fullmatch(
        r"OK needs 1 slot of queue slow, none of 1 is available; .*", wire.ask(f"WHY {second}")
    )
    assert wire.ask("SET-QUEUE slow --slots=2").startswith('QUEUE {"name":"slow","slots":2,"busy":')
    wire.wait_running(second)
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.queues()["slow"]["slots"] == 2
    assert wire.ask("SET-QUEUE slow --slots=default").startswith('QUEUE {"name":"slow","slots":1')
    assert wire.queues()["slow"]["failed"] == 2
    assert wire.queues()["default"]["slots"] is None


def test_slots_and_resources_are_never_exceeded(daemon: DaemonFactory) -> None:
    wire = daemon("--resource", "gpu=2", slots=4).connect()
    jobs = [
        wire.submit(f"{options} sleep 0.05")
        for options in ("--slots=3", "--need=gpu:1", "--need=gpu:2", "--slots=2 --need=gpu:1", "") * 4
    ]
    moments = []
    for job in jobs:
        assert wire.wait(job) == "COMPLETED"
        shown = wire.show(job)
        need = shown.get("need") or {}
        moments.append(
            (shown["started_at"], shown["completed_at"], shown.get("slots") or 1, need.get("gpu", 0))
        )
    for start, _, _, _ in moments:
        beside = [moment for moment in moments if moment[0] <= start < moment[1]]
        assert sum(moment[2] for moment in beside) <= 4
        assert sum(moment[3] for moment in beside) <= 2
    assert wire.ask("SUBMIT --slots=5 true").startswith("ERROR BAD_REQUEST the job could never start")
    assert wire.ask("SUBMIT --need=gpu:3 true").startswith("ERROR BAD_REQUEST the job could never start")
    assert wire.ask("SUBMIT --need=licence:1 true").startswith("ERROR BAD_REQUEST the job could never start")
    assert wire.stats()["resources"] == {"gpu": {"total": 2, "busy": 0}}


def test_named_units_differ_between_jobs_and_outlive_a_kill_and_a_change_of_their_names(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    config = tmp_path / "taskqd.toml"
    settings = '[resources.gpu]\nunits = {}\nenv = "CUDA_VISIBLE_DEVICES"\n'
    config.write_text(settings.format(["0", "1"]))
    one = daemon("--config", str(config), slots=9)
    wire = one.connect()
    command = 'echo "$TASKQ_NEED_GPU" "$CUDA_VISIBLE_DEVICES"; until [ -e go ]; do sleep 0.02; done'
    options = f"--need=gpu:1 --cwd={tmp_path} --env=CUDA_VISIBLE_DEVICES=9"
    jobs = [wire.submit(f"{options} {command}") for _ in range(3)]
    wire.wait_running(jobs[1])
    one.kill()
    config.write_text(settings.format(["1", "2"]))
    one.start()
    wire = one.connect()
    wire.wait_running(jobs[2])
    assert [wire.show(job)["units"] for job in jobs] == [{"gpu": [unit]} for unit in "012"]
    assert wire.stats()["resources"]["gpu"]["units"] == {"0": 1, "1": 2, "2": 3}
    (tmp_path / "go").touch()
    for job, unit in zip(jobs, "012", strict=True):
        assert wire.wait(job) == "COMPLETED", (wire.show(job), wire.history(job))
        assert wire.result(job).stdout.decode() == f"{unit} {unit}\n"
        assert wire.show(job)["runs"][0]["units"] == {"gpu": [unit]}
    assert wire.stats()["resources"]["gpu"] == {"total": 2, "busy": 0, "units": {"1": None, "2": None}}


def test_units_and_slots_hold_after_a_kill_of_the_runner_and_the_text_is_in_the_history(
    daemon: DaemonFactory,
) -> None:
    one = daemon("--resource", "tape=left,right", slots=1)
    wire = one.connect()
    assert wire.ask("SET-SLOTS 2") == "OK 2"
    command = "--need=tape:1 --retries=1 --retry-delay=0 echo 40 half > $TASKQ_PROGRESS; sleep 300"
    jobs = [wire.submit(command) for _ in range(2)]
    until(lambda: all(wire.show(job).get("progress_text") for job in jobs), "the reports")
    one.kill_runner()
    until(lambda: all(wire.show(job)["attempts"] == 2 for job in jobs), "the second attempts")
    for job in jobs:
        wire.wait_running(job)
        [interrupted] = (event for event in wire.history(job) if event["type"] == "ended")
        assert (interrupted["reason"], interrupted["progress_text"]) == ("interrupted", "half")
    shown = wire.stats()
    assert (shown["slots"], sorted(shown["resources"]["tape"]["units"].values())) == (2, jobs)
    assert sorted(wire.show(job)["units"]["tape"][0] for job in jobs) == ["left", "right"]


def test_hold_release_set(daemon: DaemonFactory) -> None:
    one = daemon(slots=1)
    wire = one.connect()
    held = wire.submit("--hold echo $TASKQ_QUEUE")
    assert wire.show(held)["reason"] == "held"
    assert wire.ask(f"WHY {held}") == f"OK held; RELEASE {held} lets it start"
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.ask(f'SET {held} --queue=other --label="a b" --timeout=9').startswith("JOB {")
    shown = wire.show(held)
    assert (shown["queue"], shown["label"], shown["timeout"]) == ("other", "a b", 9)
    assert wire.ask(f"RELEASE {held}").startswith("STATUS ")
    assert wire.wait(held) == "COMPLETED"
    assert wire.result(held).stdout == b"other\n"
    for verb in ("HOLD {}", "RELEASE {}", "SET {} --priority=1"):
        assert wire.ask(verb.format(held)).startswith("ERROR WRONG_STATE ")


def test_pause_survives_a_restart_and_stops_no_running_job(daemon: DaemonFactory) -> None:
    one = daemon(slots=3)
    wire = one.connect()
    running = wire.submit("sleep 0.5")
    wire.wait_running(running)
    assert wire.ask("PAUSE") == "OK"
    waiting, elsewhere = wire.submit("true"), wire.submit("--queue=q true")
    assert wire.show(waiting)["reason"] == "paused"
    assert wire.wait(running) == "COMPLETED"
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.ask("PAUSE q") == "OK"
    assert wire.status(waiting) == "PENDING"
    assert wire.ask(f"WHY {waiting}") == "OK everything is paused; RESUME ends the pause"
    assert wire.ask("RESUME") == "OK"
    assert wire.wait(waiting) == "COMPLETED"
    assert wire.ask(f"WHY {elsewhere}") == "OK queue q is paused; RESUME q ends the pause"
    assert wire.ask("RESUME q") == "OK"
    assert wire.wait(elsewhere) == "COMPLETED"


def test_slots_of_the_daemon_change_at_run_time_and_survive_a_kill(daemon: DaemonFactory) -> None:
    one = daemon(slots=1)
    wire = one.connect()
    jobs = [wire.submit("sleep 300") for _ in range(3)]
    wire.wait_running(jobs[0])
    assert wire.ask("SET-SLOTS 2") == "OK 2"
    wire.wait_running(jobs[1])
    wide = wire.submit("--slots=2 true")
    assert wire.ask("SET-SLOTS 1") == "OK 1"
    one.kill()
    one.start()
    wire = one.connect()
    stats = wire.stats()
    assert (stats["slots"], stats["slots_set"], stats["busy"]) == (1, 1, 2)
    assert "none of 1 is available; jobs 1 and 2 hold 2 until they end" in wire.ask(f"WHY {jobs[2]}")
    assert wire.ask(f"WHY {wide}") == "OK needs 2 slots, the daemon has 1; SET-SLOTS 2 lets it start"
    assert wire.ask("SUBMIT --slots=2 true").endswith("`taskq slots 2`")
    assert wire.ask("SET-SLOTS 3") == "OK 3"
    wire.wait_running(jobs[2])
    for job in jobs:
        wire.cancel(job)
    assert wire.wait(wide) == "COMPLETED"
    assert wire.ask("SET-SLOTS default") == "OK 1"


def test_why_shows_the_jobs_ahead_and_an_estimate_if_there_is_data(daemon: DaemonFactory) -> None:
    wire = daemon(slots=5).connect()
    blocker = wire.submit("--slots=5 sleep 300")
    wire.wait_running(blocker)
    jobs = [wire.submit("sleep 2") for _ in range(5)]
    text = wire.ask(f"WHY {jobs[3]}")
    assert text.startswith(f"OK needs 1 slot, none of 5 is available; job {blocker} holds all; 3 jobs ahead")
    assert "may start" not in text
    wire.cancel(blocker)
    for job in jobs:
        wire.wait(job)
    again = wire.submit("--slots=5 sleep 300")
    wire.wait_running(again)
    # An estimate is made while this job runs for a shorter time than those before.
    assert "may start in about " in wire.ask(f"WHY {wire.submit('true')}")


def test_delayed_job_starts_when_due_also_after_a_crash(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    soon = wire.submit("--delay=1s true")
    later = wire.submit("--delay=1h true")
    at = wire.submit("--at=2036-11-24T07:00:00Z true")
    past = wire.submit("--at=2016-11-24T07:00:00Z true")
    assert wire.show(soon)["reason"] == "delayed"
    assert wire.wait(past) == "COMPLETED"
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.wait(soon) == "COMPLETED"
    shown = wire.show(soon)
    assert shown["started_at"] >= wire.history(soon)[0]["at"][:19]
    assert wire.show(at)["not_before"] == "2036-11-24T07:00:00.000Z"
    assert wire.ask(f"RELEASE {later}").startswith("STATUS ")
    assert wire.wait(later) == "COMPLETED"
    assert wire.ask(f"WHY {at}").startswith("OK delayed until 2036-11-24T07:00:00Z (in ")


def test_big_job_is_overtaken_and_why_shows_its_shortage(daemon: DaemonFactory) -> None:
    wire = daemon(slots=2).connect()
    small = wire.submit("sleep 300")
    wire.wait_running(small)
    big = wire.submit("--slots=2 true")
    assert wire.wait(wire.submit("true")) == "COMPLETED"
    assert "needs 2 slots, 1 of 2 is available; " in wire.ask(f"WHY {big}")
    wire.cancel(small)
    assert wire.wait(big) == "COMPLETED"


def test_set_to_a_higher_priority_moves_a_job_forward(daemon: DaemonFactory) -> None:
    wire = daemon(slots=1).connect()
    blocker = wire.submit("sleep 300")
    wire.wait_running(blocker)
    first, second = wire.submit("sleep 0.01"), wire.submit("--key=k sleep 0.01")
    assert wire.ask(f"SET {second} --priority=1").startswith("JOB ")
    assert wire.submit("--key=k sleep 0.01") == second, "the key is that of the submission"
    wire.cancel(blocker)
    assert order(wire, first, second) == [second, first]
    until(lambda: wire.stats()["busy"] == 0, "nothing to run")


def test_queue_with_a_rate_starts_no_more_jobs_within_its_period_across_a_restart(
    daemon: DaemonFactory,
) -> None:
    one = daemon("--queue-rate", "mail=2/3s", slots=9)
    wire = one.connect()
    jobs = [wire.submit("--queue=mail true") for _ in range(5)]
    for job in jobs[:2]:
        assert wire.wait(job) == "COMPLETED"
    assert re.fullmatch(
        r"OK queue mail starts up to 2 per 3 seconds; the next may start at \S+Z \(in .* s\); "
        r"2 jobs ahead in queue mail; at 2 per 3 seconds it may start in about .* s",
        wire.ask(f"WHY {jobs[4]}"),
    )
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.queues()["mail"]["rate"] == "2/3s"
    for job in jobs:
        assert wire.wait(job) == "COMPLETED"
    times = [datetime.fromisoformat(str(wire.show(job)["started_at"]).replace("Z", "+00:00")) for job in jobs]
    for earlier, later in zip(times, times[2:], strict=False):
        assert (later - earlier).total_seconds() >= 2.999, "times are shown in milliseconds"
    assert (times[4] - times[0]).total_seconds() < 60.0
    assert wire.ask("SET-QUEUE mail --rate=none --fair=true").endswith('"fair":true,"rate":null}')
    waiting = [wire.submit("--queue=mail sleep 300") for _ in range(4)]
    wire.wait_running(*waiting)
