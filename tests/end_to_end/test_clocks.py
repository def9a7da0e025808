"""The daemon while its time of day is set; libfaketime moves only that clock."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Command, Daemon
from tests.end_to_end.wire import Wire, until

pytestmark = pytest.mark.needs("faketime")

STEPS = ["+2h", "+8d", "-2h"]


class DaemonWithFakeTime(Daemon):
    """A daemon whose time of day can be set."""

    def command(self, pid_file: Path | None = None) -> Command:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        return [
            "env",
            f"LD_PRELOAD={library}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_NO_CACHE=1",
            "NO_FAKE_STAT=1",
            f"FAKETIME_TIMESTAMP_FILE={self.step_file}",
            *super().command(pid_file),
        ]

    @property
    def step_file(self) -> Path:
        return self.place / "step"

    def set_time(self, step: str) -> None:
        """Set its time of day to the real one and ``step``, and wait until it has detected that."""
        before = self.log.count("the time of day was set ")
        self.write(step)
        until(lambda: self.log.count("the time of day was set ") > before, "the jump to be detected")

    def write(self, step: str) -> None:
        new = self.step_file.with_suffix(".new")
        new.write_text(step + "\n")
        new.rename(self.step_file)


@pytest.fixture
def faked(tmp_path: Path) -> Iterator[DaemonWithFakeTime]:
    """Return a daemon whose time of day is the real one until it is set."""
    one = DaemonWithFakeTime(tmp_path, slots=8)
    one.write("+0")
    one.start()
    yield one
    assert one.close() == []


def events(daemon: Daemon, name: str) -> list[dict[str, float]]:
    """Return all records of a type in the journal."""
    lines = b"".join(
        path.read_bytes() for path in sorted(daemon.state.glob("journal/*.journal"))
    ).splitlines()
    records = [json.loads(line.split(b" ", 2)[2]) for line in lines if line]
    return [record for record in records if record["type"] == name]


def sleep(wire: Wire, options: str, seconds: float) -> int:
    return wire.submit(f"{options} sleep {seconds}")


def test_setting_the_time_of_day_ends_no_job_closes_no_connection_and_removes_nothing(
    faked: DaemonWithFakeTime,
) -> None:
    wire, waiting = faked.connect(), faked.connect()
    ended = wire.submit("echo here")
    assert wire.wait(ended) == "COMPLETED"
    jobs = [sleep(wire, options, 3) for options in ("--timeout=60s", "--idle-timeout=60s", "--cpu-time=60s")]
    delayed = wire.submit("--delay=120s true")
    wire.wait_running(*jobs)
    waiting.send(f"WAIT {jobs[0]} --timeout=60s\r\n".encode())
    for step in STEPS:
        faked.set_time(step)
        assert (wire.status(ended), wire.status(delayed)) == ("COMPLETED", "PENDING")
        assert {wire.status(job) for job in jobs} <= {"RUNNING", "COMPLETED"}
    assert waiting.line().startswith("STATUS COMPLETED ")
    assert [wire.wait(job) for job in jobs] == ["COMPLETED"] * 3
    assert wire.result(ended).stdout == b"here\n"
    jumps = [record.get("ahead", 0.0) for record in events(faked, "clocked")]
    assert jumps == pytest.approx([7200.0, 8 * 86400.0, -7200.0], abs=1.0)


@pytest.mark.parametrize("step", ["+8d", "-2h"])
def test_setting_the_time_of_day_changes_no_wait_and_no_timeout(faked: DaemonWithFakeTime, step: str) -> None:
    wire = faked.connect()
    wire.ask("SCHEDULE --every=1s true")
    delayed = wire.submit("--delay=1500ms true")
    retried = wire.submit("--retries=1 --retry-delay=1s exit $((TASKQ_ATTEMPT < 2))")
    timed = sleep(wire, "--timeout=1500ms", 60)
    idle = sleep(wire, "--idle-timeout=1500ms", 60)
    began = time.monotonic()
    faked.set_time(step)
    assert [wire.wait(job) for job in (delayed, retried, timed, idle)] == [
        "COMPLETED",
        "COMPLETED",
        "FAILED",
        "FAILED",
    ]
    assert time.monotonic() - began < 20.0
    assert wire.ask(f"WAIT {wire.submit('--hold true')} --timeout=200ms").startswith("ERROR TIMED_OUT ")
    until(lambda: wire.schedules()[1]["last_job"] is not None, "the schedule to run")


def test_at_and_cron_follow_the_time_of_day(faked: DaemonWithFakeTime) -> None:
    wire = faked.connect()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    dated = wire.submit(f"--at={at} true")
    wire.ask('SCHEDULE --cron="0 * * * *" true')
    assert wire.status(dated) == "PENDING"
    faked.set_time("+2h")
    assert wire.wait(dated) == "COMPLETED"
    until(lambda: wire.schedules()[1]["last_job"] is not None, "the schedule to run")


@pytest.mark.parametrize("step, end", [("+8d", "kill"), ("-2h", "stop")])
def test_restart_after_the_time_of_day_was_set_keeps_ages_and_waits(
    faked: DaemonWithFakeTime, step: str, end: str
) -> None:
    wire = faked.connect()
    ended, delayed, soon = wire.submit("true"), wire.submit("--delay=1h true"), wire.submit("--delay=3s true")
    assert wire.wait(ended) == "COMPLETED"
    getattr(faked, end)()
    faked.write(step)
    faked.start()
    wire = faked.connect()
    assert "the time of day was set " in faked.log
    assert wire.wait(soon) == "COMPLETED"
    assert (wire.status(ended), wire.status(delayed)) == ("COMPLETED", "PENDING")
    opened = events(faked, "opened")
    assert [opening["boot_clock"] > 0 for opening in opened] == [True, True]
    assert opened[1]["boot_clock"] > opened[0]["boot_clock"]


def test_time_zone_applies_to_schedules_and_jobs(faked: DaemonWithFakeTime) -> None:
    wire = faked.connect()
    assert wire.ask('SCHEDULE --cron="30 4 * * *" --tz=Asia/Kathmandu true') == "OK 1"
    shown = wire.schedules()[1]
    assert (shown["tz"], shown["next_run_at"][11:16]) == ("Asia/Kathmandu", "22:45")
    assert wire.run("--tz=Asia/Kathmandu date +%z").stdout == b"+0545\n"
    dated = wire.submit("--tz=Asia/Kathmandu --at=2038-01-01T04:30 true")
    assert (wire.show(dated)["tz"], wire.show(dated)["at"]) == (
        "Asia/Kathmandu",
        "2037-12-31T22:45:00.000Z",
    )
    assert wire.ask("SUBMIT --tz=Mars/Olympus true").startswith("ERROR BAD_REQUEST --tz: ")
    assert wire.ask(f"SET {dated} --tz=Asia/Tokyo --at=2038-01-01T04:30").startswith("JOB ")
    assert (wire.show(dated)["tz"], wire.show(dated)["at"]) == ("Asia/Tokyo", "2037-12-31T19:30:00.000Z")
    assert wire.ask(f"SET {dated} --tz=none --at=none").startswith("JOB ")
    assert wire.wait(dated) == "COMPLETED"
    assert wire.ask("SUBMIT --at=2038-01-01T04:30 true").startswith("ERROR BAD_REQUEST ")
    assert wire.ask('SCHEDULE --cron="@every 5m" true').startswith("ERROR BAD_REQUEST --cron: @every ")
