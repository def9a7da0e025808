"""The profile of Snakemake in share/snakemake, with the real program (docs/recipes.md)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import CHECKOUT, TASKQ, Daemon, environment
from tests.end_to_end.wire import until

PROFILE = CHECKOUT / "share" / "snakemake"
SNAKEMAKE = CHECKOUT / ".venv-snakemake" / "bin" / "snakemake"
DEADLINE = 180.0
"""Seconds. Snakemake starts a Python with all of its modules for each job that it submits."""

WORKFLOW = """\
rule all:
    input: expand("out/{n}", n=range(36)), "limits", "waits", "after", "fails"

rule many:
    output: "out/{n}"
    group: "many"
    shell: "echo {wildcards.n} > {output}"

rule limited:
    output: "limits"
    threads: 2
    resources: mem_mb=4000, runtime=7, taskq_need="licence:1", taskq_queue="large", gpu=1
    shell: "touch {output}"

rule waits:
    output: "waits"
    shell: "touch running; until [ -e go ]; do sleep 0.1; done; echo $PPID > {output}"

rule after:
    input: "waits"
    output: "after"
    shell: "cat {input} > {output}"

rule fails:
    output: "fails"
    shell: "echo wrong >&2; exit 3"
"""


@pytest.fixture(scope="module", autouse=True)
def snakemake_is_installed() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Snakemake 9 needs Python 3.11")
    if not SNAKEMAKE.exists():
        text = "needs .venv-snakemake, which bin/test makes if it has no arguments"
        pytest.fail(text) if os.environ.get("CI") == "true" else pytest.skip(text)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "workflow"
    place.mkdir()
    (place / "Snakefile").write_text(WORKFLOW)
    return place


@contextmanager
def snakemake(one: Daemon, place: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run Snakemake with the profile in a session, so that a test can send a signal to all processes."""
    line: list[str | Path] = [SNAKEMAKE, "--profile", PROFILE, "--seconds-between-status-checks", "1", *words]
    variables = {
        "TASKQ_ADDRESS": f"unix:{one.socket}",
        "PATH": f"{TASKQ.parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    started = subprocess.Popen(
        line,
        cwd=place,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def test_workflow_runs_through_a_restart_and_a_failing_job(daemon: DaemonFactory, place: Path) -> None:
    one = daemon("--on-stop", "leave", "--resource", "gpu=1", "--resource", "licence=2")
    with snakemake(one, place, "--keep-going", "--group-components", "many=9") as workflow:
        until((place / "running").exists, "the job that waits", DEADLINE)
        one.restart()
        (place / "go").touch()
        output, _ = workflow.communicate(timeout=DEADLINE)
    assert workflow.returncode == 1, output
    wire = one.connect()
    jobs = {job["id"]: wire.show(job["id"]) for job in wire.list("--limit=100")}
    by_label: dict[str, list[str]] = {}
    for job in jobs.values():
        by_label.setdefault(job["label"].rpartition(" ")[0], []).append(job["status"])
    failed = [(job, wire.result(number)) for number, job in jobs.items() if job["status"] == "FAILED"]
    assert by_label == {
        "snakemake many": ["COMPLETED"] * 4,
        "snakemake limited": ["COMPLETED"],
        "snakemake waits": ["COMPLETED"],
        "snakemake after": ["COMPLETED"],
        "snakemake fails": ["FAILED"],
    }, f"{failed}\n{output}\n{one.log}"
    assert {file.name: file.read_text() for file in (place / "out").iterdir()} == {
        str(n): f"{n}\n" for n in range(36)
    }, output
    assert (place / "limits").exists(), output
    assert (place / "after").exists(), output
    assert (place / "after").read_text() == (place / "waits").read_text()
    assert not (place / "fails").exists()
    [limited] = [job for job in jobs.values() if "limited" in job["label"]]
    assert (limited["slots"], limited["queue"], limited["timeout"]) == (2, "large", 420)
    assert limited["memory_max"] == 4000 * 1024**2
    assert limited["need"] == {"gpu": 1, "licence": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupt_or_kill_of_snakemake_cancels_its_jobs(
    daemon: DaemonFactory, place: Path, number: signal.Signals
) -> None:
    one = daemon(slots=1)
    with snakemake(one, place, "waits", "out/1", "out/2") as workflow:
        until((place / "running").exists, "the job that waits", DEADLINE)
        wire = one.connect()
        if number == signal.SIGINT:
            os.killpg(workflow.pid, number)
        else:
            workflow.kill()
        output, _ = workflow.communicate(timeout=DEADLINE)
        assert workflow.returncode == (1 if number == signal.SIGINT else -number), output
        until(lambda: not wire.list("--status=PENDING,RUNNING"), "the jobs to end")
    assert "CANCELLED" in {job["status"] for job in wire.list()}


def test_submit_that_is_killed_cancels_the_job_that_snakemake_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "taskq").write_text(f"""#!/bin/sh
echo "$@" >>{tmp_path}/calls
[ "$1" != submit ] || {{ until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo 7; }}
""")
    (tmp_path / "taskq").chmod(0o755)
    script = tmp_path / "snakejob.sh"
    script.write_text('#!/bin/sh\n# properties = {"rule": "one", "threads": 1, "resources": {}}\n')
    calls = tmp_path / "calls"
    submit = subprocess.Popen(
        [PROFILE / "submit", script], env=environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    try:
        until(calls.exists, "the submission")
    finally:
        submit.kill()
        submit.wait()
    (tmp_path / "go").touch()
    until(lambda: calls.read_text().count("\n") == 2, "the cancel")
    first, second = calls.read_text().splitlines()
    assert first.startswith("submit --key=snakemake-")
    assert first.endswith(f"--label=snakemake one --slots=1 --script {script}")
    assert second == "cancel 7"


def test_submit_of_a_group_while_no_daemon_answers_asks_again_for_the_slots(tmp_path: Path) -> None:
    (tmp_path / "taskq").write_text(f"""#!/bin/sh
[ "$1" = stats ] || {{ echo "$@" >>{tmp_path}/calls; echo 7; exit; }}
[ -e {tmp_path}/again ] || {{ touch {tmp_path}/again; exit 69; }}
echo '{{"slots": 2}}'
""")
    (tmp_path / "taskq").chmod(0o755)
    script = tmp_path / "snakejob.sh"
    script.write_text('#!/bin/sh\n# properties = {"groupid": "many", "threads": 9, "resources": {}}\n')
    variables = environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([PROFILE / "submit", script], env=variables, check=True)
    assert "--slots=2 " in (tmp_path / "calls").read_text()
