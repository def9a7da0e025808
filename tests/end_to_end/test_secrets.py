"""SUBMIT --secret (docs/protocol.md §3): only the job sees the value.

Also: jobs do not inherit the environment and descriptors of the daemon.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.test_run_as import shared
from tests.end_to_end.wire import DEADLINE, Wire, quote, until
from tests.support import other_users

TASKQ = Path(sys.executable).with_name("taskq")
VALUE = b"Zq8x-hunter2"
"""The secret that must not appear anywhere else."""
SECRET = f"--secret=KEY={VALUE.decode()}"


def files_with(directory: Path, text: bytes) -> list[Path]:
    """Return the files in a directory tree that contain a text."""
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


def command_lines() -> Iterator[bytes]:
    """Yield the command lines of all processes but this one."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with suppress(OSError):  # the process has ended meanwhile
                yield Path("/proc", entry, "cmdline").read_bytes()


def test_job_gets_its_secrets_unchanged(wire: Wire) -> None:
    value = bytes({*range(1, 256)})
    options = f"--secret=A={quote(value)} --secret=B= --secret=C=1 --env=D=2"
    assert wire.run(f'{options} printf \'%s|\' "$A" "$B" "$C" "$D"').stdout == value + b"||1|2|"
    assert wire.run('printf "%s" "$A$B$C"').stdout == b""


def test_script_with_stdin_gets_secrets(wire: Wire) -> None:
    script = b'printf "%s" "$KEY"; cat'
    assert wire.run(f"{SECRET} --stdin=2 --script={len(script)}", script, b"in").stdout == VALUE + b"in"


@pytest.mark.parametrize("options", ["", "--nice=1 --nofile=100 --umask=077 --cwd=/"])
def test_secret_is_only_in_its_file_and_in_the_job(
    daemon: DaemonFactory, tmp_path: Path, options: str
) -> None:
    one = daemon()
    wire, watcher = one.connect(), one.connect()
    watcher.send(b"WATCH --since=1\r\n")
    started, may_end = tmp_path / "begun", tmp_path / "go_on"
    os.mkfifo(may_end)
    command = f'[ "$KEY" = {VALUE.decode()[:4]}"-hunter2" ] && touch {started}; cat {may_end}'
    job = wire.submit(f"{SECRET} {options} --retries=1 {command}")
    until(started.exists, "the job to have found its secret")
    lines = list(command_lines())
    assert any(str(may_end).encode() in line for line in lines), "the job is in the process list"
    assert not [line for line in lines if VALUE in line]

    events = [watcher.line() for _ in range(4)]
    assert f'"id":{job}' in events[1]
    wire.send(f"SHOW {job}\r\nLIST\r\nHISTORY {job}\r\nSTATS\r\nHELLO\r\nQUEUES\r\nWHY {job}\r\n".encode())
    wire.half_close()
    shown = wire.rest() + "\n".join(events).encode()
    assert b'"secrets":["KEY"]' in shown
    assert VALUE not in shown

    (kept,) = files_with(one.place, VALUE)
    assert kept == one.state / "input" / "0" / f"{job}.secret"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert VALUE not in one.log.encode()
    may_end.write_bytes(b"")
    wire = one.connect()
    assert wire.wait(job) == "COMPLETED"
    one.restart()
    assert files_with(one.place, VALUE) == [kept]
    assert one.connect().ask(f"REMOVE {job}") == "OK"
    until(lambda: not files_with(one.place, VALUE), "the file to be removed with its job")


def test_refusal_does_not_repeat_or_store_the_secret(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    for text in (
        f"{SECRET} --env=KEY=1 true",
        f"{SECRET} --after=999999 true",
        f"{SECRET} --bogus true",
        f'--secret=KEY="{VALUE.decode()}"x true',
        f"--secret={VALUE.decode()} true",
        f"--secret=TASKQ_KEY={VALUE.decode()} true",
    ):
        reply = wire.ask(f"SUBMIT {text}")
        assert reply.startswith("ERROR ")
        assert VALUE.decode() not in reply
    for line in (
        f"SCHEDULE --every=1h {SECRET} --env=KEY=1 true",
        f"SCHEDULE --every=1h {SECRET} --bogus true",
        f"SCHEDULE --run-now=1 {SECRET}",
        f"SET {wire.submit('--hold true')} {SECRET}",
    ):
        reply = wire.ask(line)
        assert reply.startswith("ERROR BAD_REQUEST ")
        assert VALUE.decode() not in reply
    assert files_with(one.place, VALUE) == []


def test_tasks_of_an_array_share_the_stored_secret(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(f'{SECRET} --array=1-3 printf "%s" "$KEY$TASKQ_INDEX"')
    assert wire.wait(job) == "COMPLETED"
    assert [wire.result(f"{job}.{index}").stdout for index in (1, 2, 3)] == [
        VALUE + b"%d" % n for n in (1, 2, 3)
    ]
    assert files_with(one.state / "input", VALUE) == [one.state / "input" / "0" / f"{job}.secret"]
    assert wire.ask(f"RETRY {job}.2") == f"JOB_ID {job + 2}"
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(f"{job}.2").stdout == VALUE + b"2"
    assert wire.ask(f"REMOVE {job}") == "OK"
    until(lambda: not files_with(one.place / "state" / "input", VALUE), "the file to be removed with its job")


def test_secret_of_a_schedule_is_only_in_its_files_and_in_its_jobs(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    script = b'printf "%s%s" "$KEY" "$1" | tr Z X; cat'
    request = f"SCHEDULE --every=1d {SECRET} --script={len(script)} --stdin=2 /arg\r\n".encode()
    wire.send(request + script + b"\r\nin\r\n")
    assert wire.line() == "OK 1"
    own = one.state / "input" / "schedules" / "1.1.secret"
    assert files_with(one.place, VALUE) == [own]
    assert stat.S_IMODE(own.stat().st_mode) == 0o600

    one.kill()
    one.start()
    wire = one.connect()
    jobs = []
    for _ in range(2):
        jobs.append(int(wire.ask("SCHEDULE --run-now=1").split(" ")[1]))
        assert wire.wait(jobs[-1]) == "COMPLETED"
        assert wire.result(jobs[-1]).stdout == b"Xq8x-hunter2/argin"
    wire.send(f"SHOW {jobs[0]}\r\nSCHEDULES\r\nHISTORY {jobs[0]}\r\nLIST\r\n".encode())
    wire.half_close()
    shown = wire.rest()
    assert shown.count(b'"secrets":["KEY"]') >= 3
    assert VALUE not in shown
    assert VALUE not in one.log.encode()
    watcher = one.connect()
    watcher.send(b"WATCH --since=1\r\n")
    event = watcher.lines(2)[1]
    assert '"type":"scheduled"' in event
    assert VALUE.decode() not in event

    wire = one.connect()
    wire.send(b"SCHEDULE --set=1 --secret=KEY=other --stdin=3\r\nnew\r\n")
    assert wire.line() == "OK 1"
    assert wire.ask(f"REMOVE {jobs[0]}") == "OK"
    kept = one.state / "input" / "0" / f"{jobs[1]}.secret"
    until(lambda: files_with(one.place, VALUE) == [kept], "only the second job to have the secret")
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.ask(f"RETRY {jobs[1]}") == f"JOB_ID {jobs[1]}"
    assert wire.wait(jobs[1]) == "COMPLETED"
    assert wire.result(jobs[1]).stdout == b"Xq8x-hunter2/argin"
    job = int(wire.ask("SCHEDULE --run-now=1").split(" ")[1])
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job).stdout == b"other/argnew"
    assert wire.ask("UNSCHEDULE 1") == "OK"
    until(lambda: not list((one.state / "input" / "schedules").iterdir()), "its files to be removed")


def test_files_of_a_schedule_that_was_not_recorded_are_removed_at_the_start(daemon: DaemonFactory) -> None:
    one = daemon()
    assert one.connect().ask(f"SCHEDULE --every=1d {SECRET} true") == "OK 1"
    directory = one.state / "input" / "schedules"
    one.kill()
    for name in ("1.2.secret", "2.1.secret", "1.1.script"):
        (directory / name).write_bytes(VALUE)
    one.start()
    assert files_with(one.state, VALUE) == [directory / "1.1.secret"]
    assert "removed 3 files" in one.log


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill])
def test_secrets_survive_a_restart_and_a_retry(daemon: DaemonFactory, end: object) -> None:
    one = daemon()
    job = one.connect().submit(f'{SECRET} --hold printf "%s" "$KEY"')
    assert callable(end)
    end(one)
    one.start()
    wire = one.connect()
    assert wire.ask(f"RELEASE {job}").startswith("STATUS ")
    for _ in range(2):
        assert wire.wait(job) == "COMPLETED"
        assert wire.result(job).stdout == VALUE
        assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"


@pytest.mark.parametrize("what", ["missing", "truncated", "of another job", "a directory"])
def test_job_with_unreadable_secrets_does_not_run(
    running: Daemon, wire: Wire, tmp_path: Path, what: str
) -> None:
    job = wire.submit(f"{SECRET} --hold touch {tmp_path}/ran")
    (kept,) = (running.state / "input").rglob(f"{job}.secret")
    content = kept.read_bytes()
    kept.unlink()
    if what == "a directory":
        kept.mkdir()
    elif what != "missing":
        kept.write_bytes(content[:-3] if what == "truncated" else b"OTHER=1\0")
    wire.ask(f"RELEASE {job}")
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["exit_code"], shown["pid"]) == ("spawn", None, None)
    assert shown["detail"].startswith("could not be started: its secrets cannot be read: ")
    assert VALUE.decode() not in shown["detail"]
    assert not (tmp_path / "ran").exists()
    if what == "a directory":
        kept.rmdir()
    kept.write_bytes(content)
    wire.ask(f"RETRY {job}")
    assert wire.wait(job) == "COMPLETED"
    assert (tmp_path / "ran").exists()


def test_different_secrets_with_the_same_key_are_a_conflict(running: Daemon, wire: Wire) -> None:
    text = f"--key=secrets {SECRET} --secret=B=2 true"
    job = wire.submit(text)
    assert wire.submit(f"--key=secrets --secret=B=2 {SECRET} true") == job
    for other in (text.replace("B=2", "B=3"), text.replace("B=2", "C=2"), "--key=secrets true"):
        assert wire.ask(f"SUBMIT {other}").startswith("ERROR KEY_CONFLICT ")
    (kept,) = (running.state / "input").rglob(f"{job}.secret")
    assert b"B=2" in kept.read_bytes()
    kept.unlink()
    assert wire.ask(f"SUBMIT {text}").startswith("ERROR STORE_FAILED ")


def test_submissions_with_secrets_can_be_pipelined(wire: Wire) -> None:
    first = wire.submit("true")
    wire.send(b"".join(b"SUBMIT --secret=A=%d printf $A\r\nSUBMIT printf x\r\n" % n for n in range(50)))
    assert wire.lines(100) == [f"JOB_ID {first + number}" for number in range(1, 101)]
    assert wire.wait(first + 100) == "COMPLETED"
    assert wire.wait(first + 99) == "COMPLETED"
    assert wire.result(first + 99).stdout == b"49"


def taskq(one: Daemon, *words: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [TASKQ, *words],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"} | variables,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def test_taskq_passes_secrets_from_environment_and_files(running: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(VALUE + b"\n")
    ended = taskq(
        running,
        "run",
        "--secret",
        "KEY",
        "--secret-file",
        f"FILE={file}",
        'printf "%s " "$KEY" "$FILE"',
        KEY="k y",
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"k y " + VALUE + b" ", b"")
    refused = taskq(running, "run", "--secret", f"KEY={VALUE.decode()}", "true")
    assert refused.returncode == 2
    assert b"every user can read command lines" in refused.stderr
    assert VALUE not in refused.stderr


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
def test_secret_reaches_only_processes_of_the_owner() -> None:
    with shared() as one:
        one.start()
        wire = one.connect_as("games")
        options = f"{SECRET} --secret=LD_PRELOAD=/nonexistent.so --umask=077"
        job = wire.submit(f"{options} /bin/true; printf '%s ' \"$KEY\"; exec sleep 300")
        until(lambda: VALUE in wire.output(job, "stdout").data, "the job to have found its secret")
        assert not [line for line in command_lines() if VALUE in line]
        preloaded = b"/nonexistent.so"
        until(
            lambda: wire.output(job, "stderr").data.count(preloaded) > 1,
            "true and sleep to have used LD_PRELOAD",
        )
        assert wire.output(job, "stderr").data.count(preloaded) == 2, (
            "neither the shell nor processes of root have used it"
        )
        pid = wire.process(job)
        assert os.stat(f"/proc/{pid}/environ").st_uid == other_users.user("games").uid
        assert VALUE in Path(f"/proc/{pid}/environ").read_bytes()
        (kept,) = files_with(one.state / "input", VALUE)
        assert (kept.stat().st_uid, stat.S_IMODE(kept.stat().st_mode)) == (0, 0o600)
        wire.cancel(job)


# the environment of the daemon


def launched(one: Daemon, before: str) -> Wire:
    """Start a daemon from a shell that runs ``before``, and connect to it."""
    command = [str(word) for word in one.command()]
    process = one.launch(["/bin/sh", "-c", f'{before} exec "$@"', "sh", *command])
    one.started_elsewhere(process.pid)
    until(one.answers, "the daemon to answer")
    one._process = process
    return one.connect()


def test_token_and_supervisor_variables_never_reach_a_job(daemon: DaemonFactory) -> None:
    variables = (
        "TASKQ_TOKEN=Zq8x",
        "TASKQ_TOKEN_FILE=/x",
        "LISTEN_PID=$$",
        "LISTEN_FDS=1",
        "LISTEN_FDNAMES=taskq",
    )
    before = f"exec 3</etc/passwd; export {' '.join(variables)} NOTIFY_SOCKET=/x INVOCATION_ID=Zq8x;"
    one = daemon(start=False)
    wire = launched(one, before)
    assert b"TASKQ_TOKEN=Zq8x" in Path(f"/proc/{one.pid}/environ").read_bytes(), "the daemon has it"
    for options in ("", "--nice=1 --nofile=100"):
        shown = wire.run(f"{options} env").stdout
        assert b"TASKQ_JOB_ID=" in shown
        names = {line.split(b"=")[0] for line in shown.splitlines()}
        assert not names & {b"TASKQ_TOKEN", b"TASKQ_TOKEN_FILE", b"NOTIFY_SOCKET", b"INVOCATION_ID"}
        assert not [name for name in names if name.startswith(b"LISTEN_")]
        assert b"Zq8x" not in shown


def test_inherited_descriptors_of_the_daemon_are_closed_in_jobs(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    wire = launched(one, "exec 3</etc/passwd 7</etc/group 9>>/dev/null;")
    inherited = {os.readlink(f"/proc/{one.pid}/fd/{number}") for number in (3, 7, 9)}
    assert inherited == {"/etc/passwd", "/etc/group", "/dev/null"}, "the daemon has them"
    for options in ("", "--nice=1 --nofile=100"):
        assert wire.run(f"{options} ls /proc/$$/fd; true").stdout.split() == [b"0", b"1", b"2"]
