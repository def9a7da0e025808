"""SUSPEND and CONTINUE with real processes: trees that fork, kills of daemon and runner, cancels."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, Daemon, environment
from tests.end_to_end.wire import Wire, until

TREE = """
setsid sh -c 'while :; do sleep 0.05; done' &
i=0
while [ $i -lt 20 ]; do
    sh -c 'for j in 1 2 3 4 5 6 7 8 9; do sleep 300 & done; while :; do sleep 0.05; done' &
    i=$((i + 1))
done
wait
"""
"""More than 200 processes: 21 shells that start others all the time, one of which has left the session."""
TREE_SIZE = 220


def states(daemon: Daemon) -> dict[int, str]:
    """Return the states of the jobs' processes (proc(5)), by pid."""
    found = {}
    for pid in daemon.processes():
        try:
            found[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended meanwhile
            continue
    return found


def wait_stopped(daemon: Daemon) -> set[int]:
    """Wait until all processes are stopped; return their pids.

    One that waits in vfork(2) for a child that is stopped is in state D.
    """
    last: dict[int, str] = {}

    def are_stopped() -> bool:
        nonlocal last
        before, last = last, states(daemon)
        return before == last and "T" in last.values() and set(last.values()) <= {"T", "D"}

    until(are_stopped, "all processes to be stopped", pause=0.1)
    return set(last)


def test_tree_of_forking_processes_is_stopped_through_a_kill_of_the_daemon(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon()
    script = tmp_path / "tree"
    script.write_text(TREE)
    wire = one.connect()
    job = wire.submit(f"sh {script}")
    until(lambda: len(one.processes()) >= TREE_SIZE, "the tree")
    assert wire.ask(f"SUSPEND {job}") == "STATUS RUNNING 0"
    stopped = wait_stopped(one)
    assert len(stopped) >= TREE_SIZE
    one.kill()
    wire = one.start().connect()
    assert wire.show(job)["suspended_at"].endswith("Z")
    assert wait_stopped(one) == stopped
    assert wire.ask(f"CONTINUE {job}") == "STATUS RUNNING 0"
    until(lambda: "T" not in states(one).values(), "all processes to go on")
    assert "suspended_at" not in wire.show(job)
    wire.ask(f"SUSPEND {job}")
    wait_stopped(one)
    wire.ask(f"CANCEL {job}")
    assert wire.wait(job) == "CANCELLED"
    assert one.processes() == {}


def test_suspended_job_is_interrupted_by_a_kill_of_its_runner(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--retries=1 --retry-delay=0 --retry-on=interrupted sleep 300")
    wire.wait_running(job)
    wire.ask(f"SUSPEND {job}")
    stopped = wait_stopped(one)
    one.kill_runner()
    until(lambda: wire.show(job)["attempts"] == 2 and states(one), "the second attempt")
    assert not stopped & states(one).keys()
    assert "T" not in states(one).values()
    assert "suspended_at" not in wire.show(job)


def test_stop_ends_a_suspended_job_by_sigterm(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon("--stop-grace", "0")
    wire = one.connect()
    job = wire.submit(f"trap 'echo ended > {tmp_path}/ended; exit' TERM; while :; do sleep 0.05; done")
    wire.wait_running(job)
    wire.ask(f"SUSPEND {job}")
    wait_stopped(one)
    one.stop()
    assert (tmp_path / "ended").read_text() == "ended\n"


@pytest.mark.needs("tmux")
def test_tmux_server_of_a_job_is_stopped_and_continued(running: Daemon, wire: Wire, tmp_path: Path) -> None:
    tmux = f"tmux -S {tmp_path}/socket -f /dev/null"
    job = wire.submit(
        f"{tmux} new-session -d 'while :; do date > {tmp_path}/beat; sleep 0.05; done'; sleep 300"
    )
    until((tmp_path / "beat").exists, "the session")
    wire.ask(f"SUSPEND {job}")
    assert any("tmux" in running.processes()[pid] for pid in wait_stopped(running))
    (tmp_path / "beat").unlink()
    wire.ask(f"CONTINUE {job}")
    until((tmp_path / "beat").exists, "the session to go on")
    wire.ask(f"CANCEL {job}")
    assert wire.wait(job) == "CANCELLED"
    running.wait_for_no_process()


def test_command_prints_the_status_of_a_suspended_job(running: Daemon, wire: Wire) -> None:
    def taskq(*words: str) -> str:
        line = [str(TASKQ), "--address", f"unix:{running.socket}", *words]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
        return str(done.stdout)

    job = wire.submit("sleep 300")
    wire.wait_running(job)
    assert taskq("suspend", str(job)) == "RUNNING (suspended)\n"
    assert taskq("status", str(job)) == "RUNNING (suspended)\n"
    assert json.loads(taskq("show", str(job), "--json"))["suspended_at"]
    assert taskq("continue", str(job)) == "RUNNING\n"
    taskq("cancel", str(job))
    assert wire.wait(job) == "CANCELLED"
    history = taskq("history", str(job))
    assert history.count("suspended\tby") == history.count("continued\tby") == 1
    assert history.count("CANCELLED, cancelled, suspended for ") == 1
