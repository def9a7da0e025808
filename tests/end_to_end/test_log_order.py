"""LOG and taskq log with a real daemon: both streams in the order in which the job has written them."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TASKQ, environment
from tests.end_to_end.wire import DEADLINE, Wire, until

PUT = """
import fcntl, os, struct, sys, termios, time

def put(descriptor, data):
    os.write(descriptor, data)
    while struct.unpack('i', fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]:
        time.sleep(0.001)
"""
"""Writes into a pipe and waits until it is read, so that the order of the reads is that of the writes."""
ENCODER = (
    PUT
    + """
put(1, b'stream 0: video\\n')
for frame in range(%d):
    put(2, b'\\rframe=%%5d' %% frame)
    if frame %% 10 == 9:
        put(1, b'segment %%d\\n' %% (frame // 10))
    while frame == %d and not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
put(2, b'\\ndone\\n')
"""
)
"""A program with a bar on stderr and lines on stdout, as ffmpeg; it waits for a file at one frame."""
FLOOD = "import os\nfor n in range(%d):\n    os.write(1, b'o' * 65536)\n    os.write(2, b'e' * 65536)"


class Log(NamedTuple):
    """The reply to a LOG: pieces (stream, bytes, time), whether all are ordered, and the last line."""

    pieces: list[tuple[str, bytes, str]]
    is_ordered: bool
    end: str

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data, _ in self.pieces)


def log(wire: Wire, request: str) -> Log:
    wire.send(f"LOG {request}\r\n".encode())
    pieces, marks = [], []
    while (line := wire.line()).startswith("DATA "):
        _, stream, _, length, time, *mark = line.split(" ")
        pieces.append((stream, wire.read(int(length)), time))
        marks += mark
        assert wire.read(2) == b"\r\n"
    return Log(pieces, not marks, line)


def expected(frames: int) -> bytes:
    """Return what the encoder prints."""
    text = b"stream 0: video\n"
    for frame in range(frames):
        text += b"\rframe=%5d" % frame + (b"segment %d\n" % (frame // 10) if frame % 10 == 9 else b"")
    return text + b"\ndone\n"


def script(place: Path, text: str) -> str:
    """Return a command that runs a Python program."""
    (place / "program.py").write_text(text)
    return f"{sys.executable} {place}/program.py {place}/go"


def test_log_of_a_job_with_a_bar_is_in_order_also_while_it_runs(wire: Wire, tmp_path: Path) -> None:
    job = wire.submit(script(tmp_path, ENCODER % (30, 25)))
    bar = b"\rframe=   25"
    until(lambda: log(wire, str(job)).text.endswith(bar), "the frame")
    found = log(wire, str(job))
    assert found.text == expected(30)[: len(found.text)]
    assert found.is_ordered
    (tmp_path / "go").touch()
    assert wire.wait(job) == "COMPLETED"
    whole = log(wire, str(job))
    assert (whole.text, whole.is_ordered) == (expected(30), True)
    assert whole.end.startswith(f"END {len(whole.text)} 0 0 ")
    times = [time for _, _, time in whole.pieces]
    assert times == sorted(times)
    assert "-" not in times
    assert log(wire, f"{job} --tail-lines=1").text == b"done\n"


def test_followed_log_goes_on_in_order_after_a_restart(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon()
    job = one.connect().submit(script(tmp_path, ENCODER % (60, 20)))
    following = subprocess.Popen(
        [TASKQ, "log", "--follow", str(job)],
        env=environment() | {"TASKQ_ADDRESS": f"unix:{one.socket}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wire = one.connect()
    until(lambda: log(wire, str(job)).text.endswith(b"\rframe=   20"), "the frame")
    one.kill()
    (tmp_path / "go").touch()
    one.start()
    out, err = following.communicate(timeout=DEADLINE)
    assert out == expected(60)
    assert following.returncode == 0
    assert err.count(b"reconnect") == 2
    assert log(one.connect(), str(job)).text == out


def test_log_of_a_killed_runner_has_all_that_its_files_have(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(script(tmp_path, ENCODER % (30, 25)))
    until(lambda: log(wire, str(job)).text.endswith(b"\rframe=   25"), "the frame")
    one.kill_runner()
    assert wire.wait(job) == "FAILED"
    assert wire.show(job)["reason"] == "interrupted"
    whole = log(wire, str(job))
    assert whole.text == expected(30)[: len(whole.text)]
    assert whole.text.endswith(b"\rframe=   25")
    assert whole.is_ordered


def test_log_of_a_short_job_is_in_order(wire: Wire, tmp_path: Path) -> None:
    job = wire.submit(script(tmp_path, PUT + "put(2, b'one\\n'); put(1, b'two\\n'); put(2, b'three\\n')"))
    wire.wait(job)
    assert [(stream, data) for stream, data, _ in log(wire, str(job)).pieces] == [
        *(("stderr", b"one\n"), ("stdout", b"two\n"), ("stderr", b"three\n")),
    ]


def test_index_of_a_flood_on_both_streams_is_bounded(daemon: DaemonFactory, tmp_path: Path) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit(script(tmp_path, FLOOD % 200))
    assert wire.wait(job) == "COMPLETED"
    [index] = Path(one.state, "output").rglob("*.order")
    assert index.stat().st_size <= 64 * 1024
    size, position, total = 2 * 200 * 65536, 0, {b"o": 0, b"e": 0}
    while position < size:
        page = log(wire, f"{job} --since={position} --limit=4M")
        for stream, data, _ in page.pieces:
            letter = b"o" if stream == "stdout" else b"e"
            assert data == letter * len(data)
            total[letter] += len(data)
        position = int(page.end.split(" ")[1])
    assert total == {b"o": size // 2, b"e": size // 2}
    assert wire.ask(f"REMOVE {job}") == "OK"
    until(lambda: not list(Path(one.state, "output").rglob("*.*")), "the files to be removed")
