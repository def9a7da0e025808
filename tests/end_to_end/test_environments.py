"""SUBMIT --environment (docs/protocol.md §3): kept once for the jobs that have it, and seen by them alone."""

import random
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.test_run_as import shared
from tests.end_to_end.test_secrets import command_lines, files_with, taskq
from tests.end_to_end.wire import until
from tests.support import other_users

VALUE = b"Zq8x-hunter2"
"""The value that must not appear anywhere else."""
BLOCK = b"KEY=" + VALUE + b"\0PATH=/bin:/usr/bin\0"
SENT, HASH = f"--environment={len(BLOCK)}", sha256(BLOCK).hexdigest()
KNOWN = f"--environment={len(BLOCK)}:{HASH}"


def kept(one: Daemon) -> set[str]:
    """Return the names of the files of environments."""
    place = one.state / "input" / "environments"
    return {path.name for path in place.iterdir()} if place.exists() else set()


def test_environment_is_only_in_its_file_and_in_the_jobs_that_share_it(daemon: DaemonFactory) -> None:
    one = daemon(tcp=True)
    wire, watcher = one.connect(), one.connect()
    watcher.send(b"WATCH --since=1\r\n")
    command = 'printf "%s%s" "$KEY" "$TASKQ_INDEX" | tr Z X'
    array = wire.submit(f"{SENT} --array=1-2 {command}", BLOCK)
    job = wire.submit(f"{KNOWN} --env=KEY=mine {command}")
    assert [wire.wait(each) for each in (array, job)] == ["COMPLETED"] * 2
    assert wire.result(f"{array}.2").stdout == b"Xq8x-hunter22"
    assert wire.result(job).stdout == b"mine"
    remote = one.connect_tcp()
    remote.send(f"SUBMIT {SENT} true\r\n".encode() + BLOCK + f"\r\nSUBMIT {KNOWN} true\r\n".encode())
    assert [line.split(" ")[1] for line in remote.lines(2)] == ["FORBIDDEN", "FORBIDDEN"]

    events = "\n".join(watcher.lines(8))
    wire.send(f"SHOW {job}\r\nLIST\r\nHISTORY {job}\r\nSTATS\r\nWHY {job}\r\n".encode())
    wire.half_close()
    shown = wire.rest() + events.encode()
    assert b'"names":["KEY","PATH"]' in shown
    assert HASH.encode() in shown
    assert VALUE not in shown + one.log.encode()
    assert not [line for line in command_lines() if VALUE in line]
    (file,) = files_with(one.place, VALUE)
    assert file == one.state / "input" / "environments" / HASH
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    one.kill()
    one.start()
    assert files_with(one.place, VALUE) == [file]
    wire = one.connect()
    assert wire.ask(f"SUBMIT {KNOWN} true").startswith("ERROR BAD_REQUEST "), "another connection sent it"
    assert wire.ask(f"RETRY {array}.1") == f"JOB_ID {array + 1}"
    assert wire.wait(array) == "COMPLETED"
    assert wire.result(f"{array}.1").stdout == b"Xq8x-hunter21"
    assert wire.ask(f"REMOVE {array}") == "OK"
    assert kept(one) == {HASH}
    assert wire.ask(f"REMOVE {job}") == "OK"
    until(lambda: not kept(one), "the file to be removed with the last job")
    assert files_with(one.state, VALUE) == []


def test_environments_are_those_of_known_jobs_after_a_kill_in_the_middle(daemon: DaemonFactory) -> None:
    one, chance = daemon(), random.Random(16)
    blocks = [b"A=%d\0" % number for number in range(6)]
    for _ in range(3):
        wires = [one.connect() for _ in range(3)]
        for wire in wires:
            for number in range(60):
                block = chance.choice(blocks)
                wire.send(b"SUBMIT --environment=%d true\r\n%b\r\n" % (len(block), block))
                if number % 3 == 0:
                    wire.send(b"REMOVE --status=COMPLETED\r\n")
        wires[0].lines(chance.randrange(1, 70))
        one.kill()
        one.start()
        wire = one.connect()
        known = {each["environment"]["sha256"] for each in wire.list("--limit=1000")}
        assert kept(one) >= known, "no job has lost its environment"
        until(lambda: _known(one) == kept(one), "no other environment to be left")


def test_retry_after_the_death_of_the_runner_has_the_environment(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    command = '[ $TASKQ_ATTEMPT = 2 ] || exec sleep 100; printf "%s" "$KEY"'
    job = wire.submit(f"{SENT} --retries=1 --retry-delay=0 {command}", BLOCK)
    wire.wait_running(job)
    one.kill_runner()
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job).stdout == VALUE


def _known(one: Daemon) -> set[str]:
    return {each["environment"]["sha256"] for each in one.connect().list("--limit=1000")}


@pytest.mark.parametrize("content", [None, BLOCK.replace(b"q", b"x")])
def test_job_whose_environment_is_lost_does_not_run(
    daemon: DaemonFactory, tmp_path: Path, content: bytes | None
) -> None:
    one = daemon()
    job = one.connect().submit(f"{SENT} --hold touch {tmp_path}/ran", BLOCK)
    one.stop()
    file = one.state / "input" / "environments" / HASH
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    one.start()
    assert ("1 environments of jobs are missing" in one.log) is (content is None)
    wire = one.connect()
    wire.ask(f"RELEASE {job}")
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["pid"], shown["environment"]["names"]) == ("spawn", None, None)
    assert shown["detail"].startswith("could not be started: its environment cannot be read: ")
    assert VALUE.decode() not in shown["detail"]
    assert not (tmp_path / "ran").exists()
    if content is None:
        wire.submit(f"{SENT} true", BLOCK)
    else:  # only its hash tells that it is damaged
        file.write_bytes(BLOCK)
    wire.ask(f"RETRY {job}")
    assert wire.wait(job) == "COMPLETED"
    assert (tmp_path / "ran").exists()


def test_taskq_passes_the_users_environment_on(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon()
    (tmp_path / "jobs").write_text('printf %s "$KEY$MY_TOKEN"\n' * 3)
    variables = {"KEY": "k \udcff\n", "MY_TOKEN": VALUE.decode()}
    ended = taskq(one, "submit", "--inherit-env", "--from-file", str(tmp_path / "jobs"), **variables)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"1\n2\n3\n", b"")
    wire = one.connect()
    assert wire.wait(3) == "COMPLETED"
    assert wire.result(3).stdout == b"k \xff\n"
    assert len(kept(one)) == 1
    assert files_with(one.state, VALUE) == []


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
def test_environment_has_an_effect_only_as_the_owner() -> None:
    block = BLOCK + b"LD_PRELOAD=/nonexistent.so\0"
    with shared() as one:
        one.start()
        wire = one.connect_as("games")
        shown = wire.run(f'--environment={len(block)} --umask=077 printf %s "$KEY"; /bin/true', block)
        assert shown.stdout == VALUE
        assert shown.stderr.count(b"/nonexistent.so") == 1, (
            "by /bin/true, and neither by setpriv nor by the shell"
        )
        (file,) = files_with(one.state / "input", VALUE)
        assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
