"""Record a terminal session of each feature: ``python -m demo.transcripts`` writes docs/transcripts/.

FEATURES has the commands. A daemon of this checkout runs for each feature, and ``taskq`` prints to a
terminal. Times, pids and the user differ between recordings.
"""

import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).parents[1] / "docs" / "transcripts"
COLUMNS, ROWS = 100, 40
_ERASED = re.compile(r"[^\n]*\r?\n(?:\x1b\[\?25h)?\r?\x1b\[1A\x1b\[2K|[^\n]*\r\x1b\[2K")
"""A line that is erased later, such as a progress bar."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Feature(NamedTuple):
    """One page: its file name, title, introduction, the daemon's options, and the commands."""

    name: str
    title: str
    text: str
    options: str
    commands: tuple[str, ...]


FEATURES = (
    Feature(
        "order",
        "Order, queues, slots and resources",
        "One slot in queue `slow`, two slots in all, one GPU.",
        "--slots 2 --queue slow=1 --resource gpu=1",
        (
            "taskq submit --queue slow --label first sleep 2",
            "taskq submit --queue slow echo low",
            "taskq submit --queue slow --priority 10 echo high",
            "taskq submit --need gpu:1 --slots 2 echo both slots and the GPU",
            "taskq queues",
            "taskq why 2",
            "taskq why 4",
            "taskq submit --need gpu:2 echo never",
            "taskq set-queue slow --slots 2",
            "taskq wait 2 3 4",
            "taskq list",
        ),
    ),
    Feature(
        "time",
        "Times, timeouts and schedules",
        "",
        "--slots 2",
        (
            "taskq submit --delay 1h make backup",
            "taskq submit --at 2030-01-01T00:00:00Z echo happy new year",
            "taskq why 1",
            "taskq release 1",
            "taskq run --timeout 300ms 'echo begun; sleep 60'",
            "taskq show 3 | grep -E 'status|reason|detail'",
            "taskq run --idle-timeout 300ms 'echo begun; sleep 60'",
            "taskq show 4 | grep detail",
            "taskq schedule --every 1s --label tick date +%S",
            "taskq schedule --cron '30 4 * * 1-5' --label nightly ./backup",
            "sleep 2.2; taskq schedules",
            "taskq list --label tick",
            "taskq pause --schedule 1; taskq unschedule 2; taskq schedules",
        ),
    ),
    Feature(
        "dependencies",
        "Jobs that come after others",
        "",
        "--slots 2",
        (
            "taskq submit --hold --label build 'echo built'",
            "taskq submit --after 1 --label test 'echo tested; exit 1'",
            "taskq submit --after 2 --label deploy echo deployed",
            "taskq submit --after-fail 2 --label sorry echo sorry",
            "taskq why 3",
            "taskq release 1",
            "taskq wait 1 2 3 4",
            "taskq list",
            "taskq history 3",
        ),
    ),
    Feature(
        "arrays",
        "Arrays",
        "",
        "--slots 4",
        (
            "taskq submit --array '1-6%2' 'echo task $TASKQ_INDEX; exit $((TASKQ_INDEX == 4))'",
            "taskq wait 1",
            "taskq list",
            "taskq list --array 1",
            "taskq result 1.4",
            "taskq retry 1; taskq wait 1; taskq show 1.4 | grep attempts",
            "taskq cancel 1.2",
        ),
    ),
    Feature(
        "retries",
        "Retries, attempts and what they used",
        "",
        "--slots 2",
        (
            "taskq submit --retries 2 --retry-delay 9ms 'echo $TASKQ_ATTEMPT; exit $((3 - TASKQ_ATTEMPT))'",
            "taskq wait 1",
            "taskq output 1 --attempt 1",
            "taskq history 1",
            "taskq submit --retries 5 --retry-on exit:75,signal:KILL 'exit 2'",
            "taskq wait 2; taskq show 2 | grep attempts",
            "taskq run --memory 64M 'python3 -c \"bytearray(200 << 20)\"'",
            "taskq submit --cpu-time 1s 'while :; do :; done'; taskq wait 4",
            "taskq show 4 | grep -E 'signal|cpu_user'",
        ),
    ),
    Feature(
        "changes",
        "Holding, changing and cancelling, several jobs at once",
        "",
        "--slots 1",
        (
            "taskq submit sleep 600",
            "for n in 1 2 3 4 5; do taskq submit --label nightly echo $n; done",
            "taskq hold 3-4 --yes",
            "taskq set 5 --priority 5 --timeout 1m",
            "taskq list",
            "taskq cancel --label nightly --yes",
            "taskq pause; taskq submit true; taskq why 7; taskq resume",
        ),
    ),
    Feature(
        "live",
        "Following, watching, waiting",
        "",
        "--slots 3",
        (
            "taskq submit 'for i in 1 2 3; do echo a$i; sleep 0.2; done'",
            "taskq submit 'for i in 1 2 3; do echo b$i; sleep 0.2; done; exit 4'",
            'taskq follow 1 2; echo "ended with $?"',
            "taskq wait --any 1 2",
            "timeout 2 taskq watch --since 1",
            "taskq submit 'taskq progress 40; sleep 5'; sleep 0.5",
            "taskq status 3; taskq list --status RUNNING",
        ),
    ),
    Feature(
        "on-end",
        "A command at the end of each job",
        "The command gets the ended job's JSON on its stdin; here it prints some of it.",
        """--slots 2 --on-end-only failed --on-end-command 'grep -oE "\\"(id|status|exit_code)\\":[^,]*"'""",
        (
            "taskq submit true; taskq submit false; sleep 1",
            "taskq list --queue on_end",
            "taskq result 3",
        ),
    ),
)


def on_terminal(command: str, environment: dict[str, str]) -> str:
    """Run a shell command on a new terminal and return its output without escape sequences."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    while True:
        if not select.select([ours], [], [], 30)[0]:
            break
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other end is closed: the command has ended
            break
        output += piece
    os.close(ours)
    process.wait()
    return _ESCAPE.sub("", _ERASED.sub("", output.decode("utf-8", "replace")))


def record(feature: Feature) -> str:
    """Run a feature's commands with a new daemon; return the page."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="taskq-") as place:
        address = f"unix:{place}/s"
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": place,
            "TASKQ_ADDRESS": address,
            "TERM": "xterm",
            "NO_COLOR": "1",
            "LANG": "C.UTF-8",
            "COLUMNS": str(COLUMNS),
        }
        line = f"exec twistd -n --pidfile {place}/pid taskq --state {place}/state --listen {address}"
        daemon = subprocess.Popen(
            ["bash", "-c", f"{line} --stop-grace 0 {feature.options}"],
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not os.path.exists(f"{place}/s"):
                if daemon.poll() is not None:
                    sys.exit(f"the daemon of {feature.name} does not start")
                time.sleep(0.05)
            lines = [f"# {feature.title}", ""]
            lines += [feature.text, ""] if feature.text else []
            lines += [f"    $ twistd -n taskq {feature.options} &"]
            for command in feature.commands:
                lines.append(f"    $ {command}")
                output = on_terminal(f"cd {place}; {command}", environment).replace(place, "/home/ana")
                lines += [f"    {each}".rstrip() for each in output.splitlines()]
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
    return "\n".join(lines) + "\n"


def main() -> None:
    """Record all features, or those named as arguments."""
    wanted = sys.argv[1:]
    TARGET.mkdir(parents=True, exist_ok=True)
    for feature in FEATURES:
        if not wanted or feature.name in wanted:
            (TARGET / f"{feature.name}.md").write_text(record(feature), "utf-8")
            print(f"recorded {feature.name}")
    index = [
        "# Recorded sessions",
        "",
        "Made by `python -m demo.transcripts` on a terminal of 100 columns.",
        "",
    ]
    index += [f"- [{feature.title}]({feature.name}.md)" for feature in FEATURES]
    index += ["- [The full screen](top.md), captured by hand"]
    (TARGET / "README.md").write_text("\n".join(index) + "\n", "utf-8")


if __name__ == "__main__":
    if shutil.which("bash") is None:
        sys.exit("bash is needed")
    main()
