"""``--merge``, and output that the job writes to files of its user: ``--stdout`` and ``--stderr``."""

import subprocess
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, Daemon, environment
from tests.end_to_end.wire import Wire, until


def test_merged_streams_are_one_in_the_order_of_the_writes(wire: Wire) -> None:
    turns = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done"
    job = wire.submit(f"--merge {turns}; echo named >/dev/stderr")
    assert wire.wait(job) == "COMPLETED"
    numbers = b"".join(b"%d\n" % number for number in range(2000))
    assert wire.result(job) == (numbers + b"named\n", b"", "0")
    assert wire.show(job)["merge"] is True
    changed = wire.submit("--hold printf a; printf b >&2")
    assert wire.ask(f"SET {changed} --merge").startswith("JOB ")
    wire.ask(f"RELEASE {changed}")
    assert wire.wait(changed) == "COMPLETED"
    assert wire.result(changed) == (b"ab", b"", "0")


def test_each_attempt_writes_to_the_files_that_it_names(wire: Wire, tmp_path: Path) -> None:
    options = f"--stdout={tmp_path}/%j.%a.out --stderr={tmp_path}/%j.err --umask=077 --retries=1"
    job = wire.submit(f"{options} --retry-delay=0 echo out; echo err $TASKQ_ATTEMPT >&2; exit 3")
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (b"", b"", "3")
    assert [(tmp_path / f"{job}.{attempt}.out").read_text() for attempt in (1, 2)] == ["out\n"] * 2
    assert (tmp_path / f"{job}.err").read_text() == "err 2\n", "each attempt truncates its files"
    assert (tmp_path / f"{job}.err").stat().st_mode & 0o777 == 0o600
    shown = wire.show(job)
    assert (shown["stdout"], shown["stderr"]) == (f"{tmp_path}/%j.%a.out", f"{tmp_path}/%j.err")
    assert [run["stdout_file"] for run in shown["runs"]] == [
        f"{tmp_path}/{job}.{attempt}.out" for attempt in (1, 2)
    ]
    array = wire.submit(f"--array=5-6 --stdout={tmp_path}/%j --merge echo $TASKQ_INDEX; echo err >&2")
    assert wire.wait(array) == "COMPLETED"
    texts = [(tmp_path / str(array + number)).read_text() for number in (1, 2)]
    assert texts == ["5\nerr\n", "6\nerr\n"]


def test_job_whose_output_file_cannot_be_opened_is_not_started(wire: Wire, tmp_path: Path) -> None:
    for stream in ("stdout", "stderr"):
        path = tmp_path / "missing" / stream
        job = wire.submit(f"--{stream}={path} touch {tmp_path}/never")
        assert wire.wait(job) == "FAILED"
        shown = wire.show(job)
        assert shown["reason"] == "spawn"
        assert shown["detail"].startswith(f"could not be started: its output file {path} cannot be opened: ")
        assert wire.result(job).stderr.startswith(b"/bin/sh: ")
    assert not (tmp_path / "never").exists()


def test_command_resolves_names_and_says_where_output_is(running: Daemon, tmp_path: Path) -> None:
    (tmp_path / "100%").mkdir()

    def taskq(*words: str) -> "subprocess.CompletedProcess[str]":
        env = environment() | {"TASKQ_ADDRESS": f"unix:{running.socket}"}
        line = [str(TASKQ), *words]
        return subprocess.run(
            line, cwd=tmp_path / "100%", env=env, text=True, capture_output=True, check=False
        )

    assert taskq("run", "--stdout", "log", "--merge", "echo out; echo err >&2").stdout == ""
    assert (tmp_path / "100%" / "log").read_text() == "out\nerr\n"
    job = taskq("submit", "--stdout", "../%j", "echo out; echo err >&2").stdout.strip()
    assert taskq("wait", job).returncode == 0
    assert (tmp_path / job).read_text() == "out\n"
    where = f"taskq: job {job} writes its stdout to {tmp_path}/{job}\n"
    assert taskq("result", job).stderr == f"err\n{where}"
    for words in (("output",), ("follow",)):
        said = taskq(*words, job)
        assert where in said.stderr
        assert said.stdout == ""
    assert taskq("output", job, "stderr").stderr == ""


def test_files_are_written_through_a_kill_of_the_daemon_and_of_the_runner(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon()
    wire = one.connect()
    go, log = tmp_path / "go", tmp_path / "log"
    command = f"echo begun; until [ -e {go} ]; do sleep 0.02; done; echo done >&2"
    job = wire.submit(f"--stdout={log}.%a --merge --retries=1 --retry-delay=0 {command}")
    until(lambda: (tmp_path / "log.1").exists() and wire.show(job)["pid"], "the first attempt")
    one.kill()
    wire = one.start().connect()
    assert wire.status(job) == "RUNNING"
    one.kill_runner()
    until((tmp_path / "log.2").exists, "the second attempt")
    go.touch()
    assert wire.wait(job) == "COMPLETED"
    assert (tmp_path / "log.1").read_text() == "begun\n"
    assert (tmp_path / "log.2").read_text() == "begun\ndone\n"
    one.stop()
    assert one.start().connect().show(job)["runs"][1]["stderr_file"] == f"{log}.2"
