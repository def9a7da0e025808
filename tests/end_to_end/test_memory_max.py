"""Jobs that are ended because all of their processes together use too much memory."""

import sys
from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import until

MIB = 1024**2

TREE = """
import os, time
for _ in range(9):
    if os.fork() == 0:
        break
while not os.path.exists({gate!r}):
    time.sleep(0.02)
data = bytearray(b"x") * ({each} << 20)
time.sleep(300)
"""
"""Ten processes that fill memory when there is a file; they share none."""

SHARED = """
import mmap, os, time
data = mmap.mmap(-1, {size} << 20)
for at in range(0, len(data), 4096):
    data[at] = 1
for _ in range(9):
    if os.fork() == 0:
        sum(data[::4096])
        break
time.sleep(300)
"""
"""Ten processes that share memory."""


def python(place: Path, program: str) -> str:
    place.write_text(program)
    return f"exec {sys.executable} -S {place}"


def test_tree_whose_sum_is_too_large_is_ended_although_the_daemon_was_killed(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one, gate = daemon(), tmp_path / "gate"
    wire = one.connect()
    tree = python(tmp_path / "tree.py", TREE.format(gate=str(gate), each=20))
    job = wire.submit(f"--memory-max=150M --retries=1 --retry-on=signal {tree}")
    until(lambda: "memory_used" in wire.show(job), "a reading of its memory")
    one.kill()
    gate.touch()
    until(lambda: not one.processes(), "the end of its processes")
    wire = one.start().connect()
    assert wire.wait(job) == "FAILED"
    shown = wire.show(job)
    assert (shown["reason"], shown["signal"], shown["attempts"]) == ("memory", "TERM", 1)
    assert shown["detail"].startswith("it used ")
    assert shown["detail"].endswith(" of 150 MiB")
    assert 150 * MIB < shown["memory_used_peak"] == shown["runs"][0]["memory_used_peak"] < 400 * MIB
    assert shown["memory_peak"] is None or shown["memory_peak"] < 150 * MIB, "that of a single process"


def test_memory_that_processes_share_counts_once_also_for_a_daemon_that_was_restarted(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    one = daemon("--on-stop", "leave")
    wire = one.connect()
    job = wire.submit("--memory-max=150M " + python(tmp_path / "shared.py", SHARED.format(size=50)))
    until(lambda: wire.show(job).get("memory_used", 0) > 50 * MIB, "a reading of its memory")
    one.restart()
    wire = one.connect()
    until(lambda: "memory_used" in wire.show(job), "the reading, which the runner sends again")
    shown = wire.show(job)
    assert 50 * MIB < shown["memory_used"] <= shown["memory_used_peak"] < 150 * MIB
    assert shown["status"] == "RUNNING"
    wire.cancel(job)
    assert wire.wait(job) == "CANCELLED"
    assert wire.show(job)["memory_used_peak"] < 150 * MIB
