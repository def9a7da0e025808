"""SUBMIT (docs/protocol.md §3): options, keys and blocks."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, quote

MAX_SKIPPED = 64 << 20
"""Size of the largest block that the daemon reads and discards (bytes)."""


def test_umask_is_022_by_default(wire: Wire) -> None:
    for option, shown in [
        ("", "0022"),
        ("--umask=077", "0077"),
        ("--umask=0", "0000"),
        ("--umask=0027", "0027"),
    ]:
        assert wire.run(f"{option} umask").stdout == f"{shown}\n".encode()


def test_nice_is_added_to_that_of_the_daemon(wire: Wire) -> None:
    mine = os.nice(0)
    for nice in (0, 5, 19 - mine):
        assert wire.run(f"--nice={nice} nice").stdout == f"{mine + nice}\n".encode()


def test_job_starts_in_its_directory(wire: Wire, tmp_path: Path) -> None:
    for name in ("plain", "with space", "q\"uo'te\\ $HOME", "naïve", "-n", "a\nb"):
        place = tmp_path / name
        place.mkdir()
        for text in {quote(os.fsencode(place)), *([str(place)] if name in ("plain", "naïve", "-n") else [])}:
            assert wire.run(f"--cwd={text} pwd -P; echo > here").stdout == os.fsencode(place) + b"\n"
        assert (place / "here").exists()


@pytest.mark.parametrize("place", ["/nonexistent/directory", "/etc/passwd"])
def test_inaccessible_directory_is_a_spawn_failure(wire: Wire, tmp_path: Path, place: str) -> None:
    job = wire.submit(f"--cwd={place} touch {tmp_path}/ran")
    assert wire.wait(job) == "FAILED"
    assert wire.show(job)["reason"] == "spawn"
    assert wire.result(job).exit_code == "-"
    assert not (tmp_path / "ran").exists()


def test_variables_are_set_for_their_job_only(wire: Wire) -> None:
    assert wire.run(
        '--env=A=1 --env=B= --env=C="x  y" --env=D=a=b printf "%s|" "$A" "$B" "$C" "$D"'
    ).stdout == (b"1||x  y|a=b|")
    assert wire.run('--env=A=1 --env=A=2 printf %s "$A"').stdout == b"2"
    assert wire.run('--env=PATH=/nowhere printf %s "$PATH"').stdout == b"/nowhere"
    assert wire.run('printf %s "$A"').stdout == b""


def test_output_over_the_limit_is_dropped_and_counted(wire: Wire) -> None:
    job = wire.submit("--max-output=10 printf 0123456789abc; printf 0123456789 >&2; exit 0")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (b"0123456789", b"0123456789", "0")
    shown = wire.show(job)
    assert [shown[name] for name in ("stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped")] == [
        10,
        10,
        3,
        0,
    ]


def test_output_limit_of_zero_keeps_nothing(wire: Wire) -> None:
    job = wire.submit("--max-output=0 echo hi")
    assert wire.wait(job) == "COMPLETED"
    assert wire.result(job) == (b"", b"", "0")
    assert (wire.show(job)["stdout_bytes"], wire.show(job)["stdout_dropped"]) == (0, 3)


def test_repeated_submission_with_key_returns_the_same_job(
    running: Daemon, wire: Wire, tmp_path: Path
) -> None:
    text = f'--key=job:1/a@b --label="x y" --timeout=60 echo ran >> {tmp_path}/runs'
    job = wire.submit(text)
    assert wire.submit(text) == job
    assert running.connect().submit(text) == job
    wire.wait(job)
    assert wire.submit(text) == job
    assert wire.wait(job) == "COMPLETED"
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert wire.show(job)["key"] == "job:1/a@b"
    assert wire.submit(text.replace("job:1", "job:2")) != job


@pytest.mark.parametrize(
    "other",
    [
        "--key=K false",
        "--key=K true ",
        "--key=K --timeout=1 true",
        "--key=K --retries=1 true",
        "--key=K --env=A=1 true",
        '--key=K --label="x" true',
        "--key=K --cwd=/ true",
        "--key=K --umask=077 true",
        "--key=K --nice=1 true",
    ],
)
def test_different_submission_with_the_same_key_is_a_conflict(wire: Wire, other: str) -> None:
    key = hashlib.sha256(other.encode()).hexdigest()
    job = wire.submit(f"--key={key} true")
    assert wire.ask("SUBMIT " + other.replace("=K", f"={key}")).startswith("ERROR KEY_CONFLICT ")
    assert wire.submit(f"--key={key} true") == job


def test_different_block_with_the_same_key_is_a_conflict(wire: Wire) -> None:
    job = wire.submit("--key=block --stdin=3 cat", b"abc")
    assert wire.submit("--key=block --stdin=3 cat", b"abc") == job
    wire.send(b"SUBMIT --key=block --stdin=3 cat\r\nabd\r\n")
    assert wire.line().startswith("ERROR KEY_CONFLICT ")
    assert wire.ask("PING").startswith("OK")


def test_submission_sees_a_pipelined_one_with_the_label_of_its_unless(wire: Wire) -> None:
    wire.send(b"SUBMIT --hold --label=own true\r\nSUBMIT --unless=own true\r\nPING\r\n")
    first = wire.line()
    assert first.startswith("JOB_ID ")
    refusal = wire.line()
    assert refusal.startswith(f"ERROR WRONG_STATE nothing was submitted: job {first.split()[1]} ")
    assert wire.line() == "OK"
    assert [job["id"] for job in wire.list("--label=own")] == [int(first.split()[1])]


# blocks


@pytest.mark.parametrize(
    "data", [b"", b"x", b"no end of line", b"PING\r\nQUIT\r\n", b"\x00\xff\r\n.\r\n", b"\n" * 100]
)
def test_stdin_is_the_block_unchanged(wire: Wire, data: bytes) -> None:
    assert wire.run(f"--stdin={len(data)} cat", data) == (data, b"", "0")


def test_large_stdin_arrives_complete(wire: Wire) -> None:
    data = random.Random(1).randbytes(1_000_000)
    result = wire.run(f"--stdin={len(data)} sha256sum; wc -c", data)
    assert result.stdout.split() == [hashlib.sha256(data).hexdigest().encode(), b"-", b"0"]


def test_first_blocks_of_many_clients_are_accepted(daemon: DaemonFactory) -> None:
    """The daemon creates a directory for the first block of all, and for the first of each 1,000 jobs."""
    one = daemon(slots=1)
    wires = [one.connect() for _ in range(50)]
    wires[0].submit("sleep 300")
    for _ in range(5):
        for wire in wires:
            wire.send(b"SUBMIT --stdin=5 cat\r\nhello\r\n")
        assert {wire.line().split(" ")[0] for wire in wires} == {"JOB_ID"}
        wires[0].send(b"SUBMIT true\r\n" * 950)
        wires[0].lines(950)


@pytest.mark.parametrize("command", ["true", "head -c 1 >/dev/null", "exec <&-; sleep 0.1"])
def test_unread_stdin_is_no_error(wire: Wire, command: str) -> None:
    assert wire.run(f"--stdin=1000000 {command}", bytes(1_000_000)) == (b"", b"", "0")


SCRIPT = b"""\
name='a "b" $c'
cat <<'END'
unchanged: $name `x` "q" \\n
END
cat <<END
replaced: $name $((6 * 7))
END
if [ -t 0 ]; then echo terminal; fi
exit 5
"""


def test_script_replaces_the_command(wire: Wire) -> None:
    result = wire.run(f"--script={len(SCRIPT)}", SCRIPT)
    assert result == (b'unchanged: $name `x` "q" \\n\nreplaced: a "b" $c 42\n', b"", "5")


@pytest.mark.parametrize("start", [b"", b"#!/bin/sh -u\n"])
def test_text_after_a_script_is_its_arguments(wire: Wire, start: bytes) -> None:
    script = start + b'printf "<%s>" "$#" "$@"; exit 3'
    result = wire.run(f"--script={len(script)} --env=A=x 'a  b' \"$A $TASKQ_ATTEMPT\" \\*", script)
    assert result == (b"<3><a  b><x 1><*>", b"", "3")


def test_script_may_be_non_utf_8_and_is_not_its_own_stdin(wire: Wire) -> None:
    script = b"cat\nprintf '%s' 'caf\xe9 \xff'\nexit 0\n"
    assert wire.run(f"--script={len(script)}", script) == (b"caf\xe9 \xff", b"", "0")


def test_script_may_be_long(wire: Wire) -> None:
    script = b"# a comment\n" * 20_000 + b"echo the end"  # longer than the limit of a program's argument
    assert wire.run(f"--script={len(script)}", script).stdout == b"the end\n"


@pytest.mark.parametrize("order", ["--script={} --stdin={}", "--stdin={1} --script={0}"])
def test_script_block_precedes_stdin_block(wire: Wire, order: str) -> None:
    script, data = b"tr a-z A-Z", b"shout\r\n"
    assert wire.run(order.format(len(script), len(data)), script, data) == (b"SHOUT\r\n", b"", "0")


def test_pipelined_block_is_not_executed(wire: Wire, tmp_path: Path) -> None:
    block = f"SUBMIT touch {tmp_path}/never\r\nQUIT\r\n".encode()
    wire.send(b"SUBMIT --stdin=%d cat\r\n%b\r\nPING\r\n" % (len(block), block))
    job = int(wire.line().removeprefix("JOB_ID "))
    assert wire.line().startswith("OK")
    wire.wait(job)
    assert wire.result(job).stdout == block
    assert not (tmp_path / "never").exists()


REFUSED = [
    pytest.param("--explode=1-2 --stdin={0} cat", "BAD_REQUEST", id="unknown option before"),
    pytest.param("--stdin={0} --every=1h cat", "BAD_REQUEST", id="unknown option after"),
    pytest.param("--bogus=1 --stdin={0} cat", "BAD_REQUEST", id="unknown"),
    pytest.param("--bogus --stdin={0} cat", "BAD_REQUEST", id="unknown, without a value"),
    pytest.param("--timeout=soon --stdin={0} cat", "BAD_REQUEST", id="a bad value"),
    pytest.param("--stdin={0} --timeout=soon cat", "BAD_REQUEST", id="a bad value after"),
    pytest.param("--key=a,b --stdin={0} cat", "BAD_REQUEST", id="a bad name"),
    pytest.param('--label="x y" --umask=9 --stdin={0} cat', "BAD_REQUEST", id="after a quoted value"),
    pytest.param("--stdin={0}", "BAD_REQUEST", id="no command"),
    pytest.param("--stdin={0} --", "BAD_REQUEST", id="no command after --"),
    pytest.param("--key=taken --stdin={0} cat", "KEY_CONFLICT", id="a taken key"),
    pytest.param("--bogus=1 --script={0}", "BAD_REQUEST", id="a script"),
]


@pytest.mark.parametrize("text, code", REFUSED)
def test_block_of_a_refused_submission_is_discarded(wire: Wire, tmp_path: Path, text: str, code: str) -> None:
    wire.submit("--key=taken true")
    last = wire.submit("true")
    block = f"SUBMIT touch {tmp_path}/never\r\n".encode() * 50
    wire.send(b"SUBMIT %b\r\n%b\r\nPING\r\n" % (text.format(len(block)).encode(), block))
    assert wire.line().startswith(f"ERROR {code} ")
    assert wire.line().startswith("OK")
    assert wire.list(f"--from={last + 1}") == []


def test_both_blocks_of_a_refused_submission_are_discarded(wire: Wire) -> None:
    wire.send(b"SUBMIT --bogus --script=6 --stdin=8\r\nPING\r\n\r\nSTATS\r\n\n\r\nPING\r\n")
    assert wire.line().startswith("ERROR BAD_REQUEST ")
    assert wire.line().startswith("OK")
    assert wire.ask("STATUS x").startswith("ERROR BAD_REQUEST ")


def test_block_after_an_invalid_line_is_not_executed(running: Daemon, tmp_path: Path) -> None:
    wire = running.connect()
    block = f"SUBMIT touch {tmp_path}/never\r\n".encode()
    wire.send(b"SUBMIT --stdin=%d echo \xff\r\n%b\r\nPING\r\n" % (len(block), block))
    wire.half_close()
    refusal, *others = wire.rest().split(b"\r\n")[:-1]
    assert refusal.startswith(b"ERROR BAD_REQUEST ")
    assert len(others) <= 1, "answered, or closed"
    assert all(other.startswith(b"OK") for other in others)


def test_too_large_block_is_refused_before_it_arrives(running: Daemon, wire: Wire) -> None:
    wire.send(b"SUBMIT --stdin=%d cat\r\n" % MAX_SKIPPED)
    assert wire.line().startswith("ERROR TOO_LARGE ")
    before = running.memory()["VmRSS"]
    piece = b"SUBMIT exit 1\r\n" * 1024
    for _ in range(MAX_SKIPPED // len(piece)):
        wire.send(piece)
    wire.send(piece[: MAX_SKIPPED % len(piece)] + b"\r\nPING\r\n")
    assert wire.line().startswith("OK")
    assert running.memory()["VmRSS"] - before < 16 << 20
    assert wire.ask("STATUS x").startswith("ERROR BAD_REQUEST ")


@pytest.mark.parametrize("option", ["--stdin", "--script"])
@pytest.mark.parametrize("length", ["x", "", "-1", "1.5", str(MAX_SKIPPED + 1), "9" * 30])
def test_invalid_block_length_closes_the_connection(
    running: Daemon, wire: Wire, option: str, length: str
) -> None:
    last = wire.submit("true")
    other = running.connect()
    other.send(f"SUBMIT {option}={length} cat\r\nSUBMIT false\r\nPING\r\n".encode())
    replies = other.rest()
    assert replies.startswith((b"ERROR BAD_REQUEST ", b"ERROR TOO_LARGE "))
    assert replies.count(b"\r\n") == 1
    assert wire.list(f"--from={last + 1}") == []


def test_incomplete_block_at_end_of_connection_is_no_job(running: Daemon, wire: Wire) -> None:
    last = wire.submit("true")
    for request in (
        b"SUBMIT --stdin=10 cat\r\n",
        b"SUBMIT --stdin=10 cat\r\n12345",
        b"SUBMIT --stdin=5 cat\r\n12345",
    ):
        other = running.connect()
        other.send(request)
        other.half_close()
        assert b"JOB_ID" not in other.rest()
    assert wire.list(f"--from={last + 1}") == []
