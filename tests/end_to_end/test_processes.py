"""Processes of jobs: timeouts, cancels, leftovers, retries, slots and the order of starts."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, until

IGNORE_TERM = "trap '' TERM; "

TREES = {
    "one process": "sleep 301",
    "a tree": "sh -c 'sleep 301; sleep 302'; sleep 303",
    "children in the background": "sleep 301 & sleep 302 & wait",
    "a pipeline": "sleep 301 | sleep 302",
    "a child that ignores TERM": f'(sh -c "{IGNORE_TERM}sleep 301; sleep 302") & sleep 303',
    "a child that ignores TERM, waited for": f'sh -c "{IGNORE_TERM}sleep 301; sleep 302"; sleep 303',
    "all of them ignore TERM": f"{IGNORE_TERM}sleep 301 & sleep 302; sleep 303",
    "a loop that ignores TERM": f'exec sh -c "{IGNORE_TERM}while :; do sleep 0.1; done"',
    "a stopped one": "kill -STOP $$; sleep 301",
    "one without open streams": "exec >&- 2>&- <&-; sleep 301",
}


def _seconds(shown: dict[str, str]) -> float:
    start, end = (
        datetime.fromisoformat(shown[name].replace("Z", "+00:00")) for name in ("started_at", "completed_at")
    )
    return (end - start).total_seconds()


def test_timeout_kills_a_child_that_ignores_term_within_three_seconds(running: Daemon, wire: Wire) -> None:
    job = wire.submit(f"--timeout=1 --kill-after=1 {TREES['a child that ignores TERM']}")
    wire.wait_running(job)
    end = time.monotonic() + 3
    assert wire.ask(f"WAIT {job}") == "STATUS FAILED 0"
    running.wait_for_no_process(end - time.monotonic())
    assert wire.show(job)["reason"] == "timeout"
    assert _seconds(wire.show(job)) < 3


def test_timeout_ends_the_whole_tree(daemon: DaemonFactory) -> None:
    one = daemon(slots=len(TREES))
    wire = one.connect()
    jobs = {name: wire.submit(f"--timeout=1 --kill-after=1 {tree}") for name, tree in TREES.items()}
    assert {wire.wait(job) for job in jobs.values()} == {"FAILED"}
    one.wait_for_no_process()
    for name, job in jobs.items():
        shown = wire.show(job)
        assert (shown["reason"], shown["exit_code"] in (-15, -9)) == ("timeout", True), name
        assert 0.9 < _seconds(shown) < 10, name


def test_cancel_ends_the_whole_tree(daemon: DaemonFactory) -> None:
    one = daemon(slots=len(TREES))
    wire = one.connect()
    jobs = [wire.submit(f"--kill-after=300ms {tree}") for tree in TREES.values()]
    wire.wait_running(*jobs)
    until(lambda: len(one.processes()) >= 2 * len(jobs), "their processes")
    assert {wire.ask(f"CANCEL {job}") for job in jobs} == {"STATUS RUNNING 0"}
    assert {wire.wait(job) for job in jobs} == {"CANCELLED"}
    one.wait_for_no_process()


def test_job_that_ends_before_its_timeout_completes(wire: Wire) -> None:
    assert wire.run("--timeout=30 sleep 0.2; echo done").stdout == b"done\n"


def test_job_that_exits_with_0_after_its_timeout_has_timed_out(wire: Wire) -> None:
    job = wire.submit("--timeout=300ms trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.05; done")
    assert wire.wait(job) == "FAILED"
    result = wire.result(job)  # stderr may have the shell's message about sleep
    assert (result.stdout, result.exit_code) == (b"cleaned up\n", "0")
    assert wire.show(job)["reason"] == "timeout"


LEFTOVERS = [
    pytest.param("sleep 300 & echo hi", id="holding its streams"),
    pytest.param("sleep 300 >/dev/null 2>&1 </dev/null & echo hi", id="without its streams"),
    pytest.param(f"({IGNORE_TERM}sleep 300; sleep 301) & echo hi", id="ignoring TERM"),
    pytest.param("nohup sleep 300 2>/dev/null & echo hi", id="ignoring HUP"),
    pytest.param("(sleep 300 &) ; echo hi", id="a grandchild"),
]


@pytest.mark.parametrize("command", LEFTOVERS)
def test_leftover_neither_delays_the_end_nor_outlives_it(running: Daemon, wire: Wire, command: str) -> None:
    job = wire.submit(f"--kill-after=3 {command}")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (b"hi\n", b"", "0")
    assert _seconds(wire.show(job)) < 2.5
    running.wait_for_no_process()


def test_output_before_the_exit_is_kept_despite_a_leftover(wire: Wire) -> None:
    job = wire.submit("sleep 300 & head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (bytes(60000), bytes(60000), "0")


@pytest.mark.parametrize(
    "reason, failing", [("exit", "exit 1"), ("signal", "kill -9 $$"), ("timeout", "sleep 300")]
)
def test_failing_job_is_retried_as_requested(wire: Wire, tmp_path: Path, reason: str, failing: str) -> None:
    timeout = "--timeout=200ms" if reason == "timeout" else ""
    text = f"{timeout} --retries=2 --retry-delay=100ms echo $TASKQ_ATTEMPT >> {tmp_path}/attempts; {failing}"
    job = wire.submit(text)
    assert wire.wait(job) == "FAILED"
    assert (tmp_path / "attempts").read_text() == "1\n2\n3\n"
    shown = wire.show(job)
    assert (shown["reason"], shown["attempts"], shown["retries"]) == (reason, 3, 2)


def test_retries_end_with_the_first_success(wire: Wire, tmp_path: Path) -> None:
    command = f"cd {tmp_path}; echo x >> attempts; [ $(wc -l < attempts) = 2 ]"
    job = wire.submit(f"--retries=5 --retry-delay=50ms {command}")
    assert wire.wait(job) == "COMPLETED"
    assert (tmp_path / "attempts").read_text() == "x\nx\n"
    assert wire.show(job)["attempts"] == 2


def test_retry_command_renews_the_retries_and_keeps_counting_attempts(wire: Wire, tmp_path: Path) -> None:
    job = wire.submit(f"--retries=1 --retry-delay=50ms echo $TASKQ_ATTEMPT >> {tmp_path}/attempts; exit 1")
    assert wire.wait(job) == "FAILED"
    assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"
    assert wire.wait(job) == "FAILED"
    assert (tmp_path / "attempts").read_text() == "1\n2\n3\n4\n"
    assert wire.show(job)["attempts"] == 4


def test_retry_waits_for_its_delay(wire: Wire, tmp_path: Path) -> None:
    job = wire.submit(f"--retries=1 --retry-delay=1s date +%s%N >> {tmp_path}/moments; exit 1")
    assert wire.wait(job) == "FAILED"
    first, second = (int(line) / 1e9 for line in (tmp_path / "moments").read_text().split())
    assert 0.4 < second - first < 10, "a second, jittered"


@pytest.mark.parametrize("slots", [1, 3])
def test_running_jobs_never_exceed_the_slots(daemon: DaemonFactory, tmp_path: Path, slots: int) -> None:
    wire = daemon(slots=slots).connect()
    text = f"echo + >> {tmp_path}/log; sleep 0.1; echo - >> {tmp_path}/log"
    jobs = [wire.submit(text) for _ in range(slots * 4)]
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
    running = peak = 0
    for sign in (tmp_path / "log").read_text().split():
        running += 1 if sign == "+" else -1
        peak = max(peak, running)
    assert peak == slots


def test_jobs_start_in_the_order_of_their_ids(daemon: DaemonFactory, tmp_path: Path) -> None:
    wire = daemon(slots=1).connect()
    jobs = [wire.submit(f"echo $TASKQ_JOB_ID >> {tmp_path}/order") for _ in range(30)]
    wire.wait(jobs[-1])
    assert [int(line) for line in (tmp_path / "order").read_text().split()] == jobs


def test_many_short_jobs_leak_no_process_and_no_descriptor(running: Daemon, wire: Wire) -> None:
    wire.run("true")
    processes = running.pid, running.runner
    before = sum(map(_descriptors, processes))
    for _ in range(300):
        wire.send(b"SUBMIT echo hi\r\n")
    jobs = [int(wire.line().removeprefix("JOB_ID ")) for _ in range(300)]
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
    running.wait_for_no_process()
    until(lambda: sum(map(_descriptors, processes)) <= before + 3, "their descriptors to be closed")
    for pid in processes:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert children == [], "zombies"


def test_runner_has_not_loaded_the_libraries_of_tls(running: Daemon, wire: Wire) -> None:
    wire.run("true")
    maps = Path(f"/proc/{running.runner}/maps").read_text()
    assert "msgspec" in maps
    assert "cryptography" not in maps


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
