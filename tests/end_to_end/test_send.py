"""Input for running jobs: programs that read their stdin, or do not, and what becomes of it at restarts."""

import os
import subprocess
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, Daemon
from tests.end_to_end.wire import Wire, until

PIPE = 65_536
"""Bytes that a pipe holds."""
WRITER = os.O_WRONLY


def begin_send(wire: Wire, job: int, data: bytes, options: str = "") -> None:
    """Send a SEND, and do not wait for its reply."""
    wire.send(f"SEND {job} --data={len(data)} {options}\r\n".encode() + data + b"\r\n")


def send(wire: Wire, job: int, data: bytes, options: str = "") -> str:
    begin_send(wire, job, data, options)
    return wire.line()


def wait_for_output(wire: Wire, job: int, expected: bytes) -> None:
    until(lambda: wire.output(job, "stdout").data == expected, f"the output {expected!r}")


def pipe_of(pid: int) -> str:
    """Return the name of the pipe that is the stdin of a process: ``pipe:[123]``."""
    return os.readlink(f"/proc/{pid}/fd/0")


def holders(one: Daemon, pipe: str) -> set[tuple[int, bool]]:
    """Return the processes of a daemon and its runner that have a pipe open, and whether for writing."""
    found = set()
    for pid in (one.pid, *one.runner_pids(), *one.processes()):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(entry) == pipe:
                flags = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0]
                found.add((pid, bool(int(flags, 8) & WRITER)))
    return found


def test_shell_executes_what_it_is_sent_until_the_end_of_its_input(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--interactive exec sh")
    other = wire.submit("--interactive exec cat")
    shell, cat = wire.process(job), wire.process(other)
    assert send(wire, job, b"echo $((2 + 3))\n") == "OK 16"
    wait_for_output(wire, job, b"5\n")
    assert send(wire, job, b"echo next; exec cat /dev/stdin\n") == "OK 31"
    wait_for_output(wire, job, b"5\nnext\n")
    assert send(wire, job, b"the rest\n") == "OK 9"
    assert holders(one, pipe_of(shell)) == {(one.runner, True), (shell, False)}
    assert holders(one, pipe_of(cat)) == {(one.runner, True), (cat, False)}
    assert wire.show(job)["interactive"] is True
    wire.send(f"SEND {job} --eof\r\n".encode())
    assert wire.line() == "OK 0"
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job).stdout == b"5\nnext\nthe rest\n"
    assert send(wire, job, b"x").startswith(f"ERROR WRONG_STATE job {job} is COMPLETED")
    assert send(wire, other, b"and eof", "--eof") == "OK 7"
    assert wire.wait(other) == "COMPLETED"
    assert wire.result(other).stdout == b"and eof"


def test_job_that_does_not_read_gets_as_much_as_its_pipe_holds(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--interactive exec sleep 300")
    wire.wait_running(job)
    assert send(wire, job, b"x" * (PIPE + 1)).startswith("ERROR TOO_LARGE --data=65537 is refused")
    assert send(wire, job, b"x" * PIPE) == f"OK {PIPE}"
    refused = send(wire, job, b"y" * 100, "--timeout=50ms")
    assert refused.startswith(f"ERROR TIMED_OUT 0 of 100 bytes were written: job {job} did not read more")
    waiting = one.connect()
    begin_send(waiting, job, b"\n123\n", "--eof")
    wire.cancel(job)
    wire.wait(job)
    assert waiting.line().startswith(f"ERROR WRONG_STATE job {job} ")
    closed = wire.submit("--interactive exec <&-; echo closed; exec sleep 60")
    wait_for_output(wire, closed, b"closed\n")
    assert send(wire, closed, b"x").startswith(f"ERROR WRONG_STATE job {closed} no longer reads its stdin")


def test_pipe_outlives_the_daemon_but_not_the_runner(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--interactive read go; exec cat")
    wire.wait_running(job)
    assert send(wire, job, b"\n" + b"a" * (PIPE - 1)) == f"OK {PIPE}"
    stuck = wire.submit("--interactive exec sleep 300")
    wire.wait_running(stuck)
    assert send(wire, stuck, b"a" * PIPE) == f"OK {PIPE}"
    begin_send(wire, stuck, b"lost with the daemon")
    one.kill()
    one.start()
    wire = one.connect()
    assert send(wire, job, b"after the kill") == "OK 14"
    until(lambda: wire.output(job, "stdout", "--tail=15").data == b"aafter the kill", "the output")
    other = one.connect()
    begin_send(wire, stuck, b"lost with the runner")
    assert [other.ask("PING"), other.ask("PING")] == ["OK", "OK"]  # the daemon has handled the SEND by then
    one.kill_runner()
    assert wire.line().startswith("ERROR TIMED_OUT 0 to 20 of 20 bytes were written: the runner of job")
    assert wire.wait(job) == "FAILED"
    assert send(wire, job, b"x").startswith(f"ERROR WRONG_STATE job {job} is FAILED")
    assert f"sent {PIPE} bytes to job {job}" in one.log


def test_run_sends_its_stdin_to_an_interactive_job(daemon: DaemonFactory) -> None:
    one = daemon()
    run: list[str | Path] = [TASKQ, "--address", f"unix:{one.socket}", "run", "--interactive"]
    done = subprocess.run(
        [*run, "sh"], input=b"echo hi\nexit 3\n", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"hi\n", b"")
    unread, writable = os.pipe()
    done = subprocess.run([*run, "true"], stdin=unread, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    os.close(unread)
    os.close(writable)
