"""The environment, descriptors, signals and session of a job (docs/protocol.md §5)."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire

GIVEN = {"PATH", "HOME", "LANG", "USER", "SHELL"}
SET = {"TASKQ_JOB_ID", "TASKQ_ATTEMPT", "TASKQ_QUEUE", "TASKQ_PROGRESS", "TASKQ_ADDRESS"}
OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}


def _variables(wire: Wire, options: str = "") -> dict[str, str]:
    shown = wire.run(f"{options} env -0").stdout.decode().rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in shown)


def test_environment_is_small_and_clean(running: Daemon, wire: Wire) -> None:
    daemons = Path(f"/proc/{running.pid}/environ").read_bytes()
    assert len(daemons.split(b"\0")) > 6, "the daemon has variables that jobs must not get"
    variables = _variables(wire)
    others = set(variables) - GIVEN - OF_THE_SHELL
    assert {name for name in others if not name.startswith("TASKQ_")} == set()
    assert set(variables) >= SET | {"PATH", "HOME"}
    assert Path(variables["HOME"]).is_absolute()


def test_job_knows_its_id_and_its_attempt(wire: Wire) -> None:
    job = wire.submit('echo "$TASKQ_JOB_ID $TASKQ_ATTEMPT"')
    wire.wait(job)
    assert wire.result(job).stdout == f"{job} 1\n".encode()
    assert wire.ask(f"RETRY {job}") == f"JOB_ID {job}"
    wire.wait(job)
    assert wire.result(job).stdout.endswith(f"{job} 2\n".encode())
    assert _variables(wire, "--env=MINE=1")["MINE"] == "1"


def test_job_reaches_the_daemon_that_runs_it(running: Daemon, wire: Wire) -> None:
    submitted = wire.run("taskq submit --label inner true")
    assert (submitted.stderr, submitted.exit_code) == (b"", "0")
    [inner] = wire.list("--label=inner")
    assert submitted.stdout == b"%d\n" % inner["id"]
    assert wire.run("taskq address").stdout == f"unix:{running.socket}\n".encode()
    assert (running.state / "address").read_text() == f"unix:{running.socket}\n"


def _session(wire: Wire) -> tuple[int, int, int, int]:
    words = wire.run('read -r it < /proc/$$/stat; echo $$ "${it##*)}"').stdout.split()
    pid, (_, _, group, session, terminal, *_) = words[0], words[1:]
    return int(pid), int(group), int(session), int(terminal)


def test_job_has_a_new_session_and_group_and_no_terminal(running: Daemon, wire: Wire) -> None:
    pid, group, session, terminal = _session(wire)
    assert pid == group == session
    assert terminal == 0
    assert pid != running.pid


def test_stdin_is_empty_unless_given(wire: Wire) -> None:
    assert wire.run("cat; wc -c; read x; echo $?") == (b"0\n1\n", b"", "0")


def test_job_has_no_descriptor_but_0_1_and_2(wire: Wire) -> None:
    wire.submit("--env=A=1 sleep 0.5")  # runs at the same time
    shown = wire.run("ls /proc/$$/fd; true")
    assert shown.stdout.split() == [b"0", b"1", b"2"], wire.run("ls -l /proc/$$/fd; true").stdout


def test_job_ignores_and_blocks_no_signal(wire: Wire) -> None:
    lines = wire.run("grep -E 'Sig(Blk|Ign)' /proc/self/status").stdout.decode().splitlines()
    masks = {name: int(mask, 16) for name, mask in (line.split(":\t") for line in lines)}
    mine = Path(f"/proc/{os.getpid()}/status").read_text().split("SigIgn:\t")[1].split("\n")[0]
    python = 1 << 12 | 1 << 24  # SIGPIPE and SIGXFSZ, which Python ignores and must reset
    libc = 1 << 31 | 1 << 32  # its own two, which its posix_spawn ignores
    assert masks["SigBlk"] == 0
    ours = int(mine, 16) & ~python  # nohup(1) ignores SIGHUP for the tests, and plain Twisted passes that on
    assert not masks["SigIgn"] & ~libc & ~ours


def test_writer_to_a_closed_pipe_is_killed_by_sigpipe(wire: Wire) -> None:
    assert wire.run("yes | head -n 1") == (b"y\n", b"", "0")


@pytest.mark.parametrize("options", ["", "--cwd=/tmp", "--umask=077 --nice=1", "--timeout=60"])
def test_command_runs_in_the_process_of_the_shell(wire: Wire, options: str) -> None:
    """Signals and exit codes are those of the command's shell, not of a process between."""
    assert wire.run(f"{options} kill -TERM $$").exit_code == "-15"
    assert wire.run(f"{options} exit 143").exit_code == "143"
    assert wire.run(f"{options} exec sh -c 'kill -KILL $$'").exit_code == "-9"
