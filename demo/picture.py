"""Draw the picture of ``taskq top`` in README: ``python -m demo.picture`` writes docs/top.svg.

A daemon of this checkout runs jobs, and ``taskq top`` shows them on a terminal; the picture is that screen.
So that it is the same each time, the commands are programs that only wait, and times and the user are
replaced by others of the same length.
"""

import io
import os
import pty
import pwd
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parents[1] / "docs" / "top.svg"
BIN = Path(sys.executable).parent
COLUMNS, ROWS = 104, 19
DEADLINE = 30.0
"""Time for the daemon to answer, and for the screen to show all jobs (seconds)."""

PROGRAMS = {
    "flac": "exec sleep 600",
    "pytest": "echo 2 failed; exit 1",
    "mkdocs": "true",
    "train": "taskq progress 62; exec sleep 600",
    "rsync": "exec sleep 600",
}
"""The commands of the jobs, as scripts for the shell."""
SUBMISSIONS = (
    "-l docs 'mkdocs build'",
    "-l test 'pytest -q'",
    "--need gpu:1 -l model 'train --epochs 40'",
    "-q encode -l album 'flac --best 01.wav'",
    "-q encode -l album 'flac --best 02.wav'",
    "-q encode -l album 'flac --best 03.wav'",
    "-q encode -l album 'flac --best 04.wav'",
    "--need gpu:1 -l model 'train --epochs 80'",
    "--delay 3h -l backup 'rsync -a /srv nas:'",
)
ENDING = 2
"""The number of jobs that end, in the order of their submission."""
IS_SHOWN = ("pytest", "62%", "04.wav", "epochs 80", "nas:")
"""Texts of the screen when all jobs are where they stay."""
TIMES = {
    "taskq": ("4 d",),
    "3": ("48 min",),
    "4": ("6 min",),
    "5": ("5 min",),
    "6": ("7 min",),
    "7": ("7 min",),
    "8": ("31 min",),
    "9": ("2 min", "3 h"),
    "2": ("3 min ago", "87 s"),
    "1": ("9 min ago", "14 s"),
}
"""By the first word of a line, the times that replace those of the run."""
USER = "ana"
_TIME = re.compile(r" *\b(?:[0-9.]+ (?:ms|s|min|h)(?: ago)?|now)\b")


def _write_programs(place: Path) -> None:
    for name, script in PROGRAMS.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)


def capture(place: Path) -> list[str]:
    """Return the lines that ``taskq top`` shows of the jobs, with colours."""
    _write_programs(place)
    socket = f"unix:{place}/s"
    environment = {**os.environ, "TASKQ_ADDRESS": socket, "PATH": f"{place}:{BIN}:{os.environ['PATH']}"}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    options = ["--slots", "4", "--queue", "encode=2", "--resource", "gpu=1", "--stop-grace", "0"]
    daemon = subprocess.Popen(
        [BIN / "taskqd", "--state", place / "state", "--listen", socket, "--on-stop", "interrupt", *options],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for((place / "s").exists, "the daemon")
        for number, words in enumerate(SUBMISSIONS):
            verb = "run" if number < ENDING else "submit"
            line: list[str | Path] = [BIN / "taskq", verb, *shlex.split(words)]
            subprocess.run(line, cwd=place, env=environment, check=False, stdout=subprocess.DEVNULL)
        return _screen(environment, place)
    finally:
        daemon.terminate()
        daemon.wait()


def _wait_for(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {DEADLINE:.0f} s for {what}")
        time.sleep(0.05)


def _screen(environment: dict[str, str], place: Path) -> list[str]:
    """Run ``taskq top`` on a terminal until it shows all jobs; return the lines of its last frame."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    top = subprocess.Popen(
        [BIN / "taskq", "top"],
        cwd=place,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = ""
    end = time.monotonic() + DEADLINE
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.5)[0]:
                output += os.read(ours, 65536).decode()
            else:  # the screen is at rest
                frame = output.split("\x1b[H")[-1]
                if all(text in frame for text in IS_SHOWN):
                    return frame.replace("\r", "").split("\n")
        raise TimeoutError(f"the screen did not show {IS_SHOWN} within {DEADLINE:.0f} s:\n{output[-3000:]}")
    finally:
        top.kill()
        top.wait()
        os.close(ours)


def lines() -> list[Text]:
    """Return the lines of the picture."""
    place = Path(tempfile.mkdtemp(prefix="taskq-picture-"))
    try:
        return [_with_fixed_values(Text.from_ansi(line)) for line in capture(place)]
    finally:
        shutil.rmtree(place)


def _with_fixed_values(line: Text) -> Text:
    """Replace the times and the user of a line, without moving what stands beside them."""
    first = line.plain.removeprefix("▶").split(maxsplit=1)[:1]
    times = iter(TIMES.get(first[0], ()) if first else ())
    plain = _TIME.sub(lambda found: next(times).rjust(len(found[0])), line.plain) if first else line.plain
    user = pwd.getpwuid(os.geteuid()).pw_name
    plain = re.sub(rf"(?<= ){user} *(?= )", lambda found: USER.ljust(len(found[0])), plain)
    return Text(plain, spans=line.spans)


def draw(screen: list[Text], target: Path) -> None:
    """Write the picture, in a font of the reader's."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO())
    for line in screen:
        console.print(line, no_wrap=True, crop=True)
    svg = console.export_svg(title="taskq top", unique_id="top")
    target.write_text(re.sub(r"\n *@font-face \{.*?\}", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    draw(lines(), TARGET)
