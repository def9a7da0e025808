"""The commands of README.md work in the order in which they stand, and print what stands there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 60.0
"""Seconds for all commands; one of them sleeps for 6."""
_TIME = re.compile(r"\b(?:[0-9.]+ (?:ms|s|min)(?: ago)?|now)\b")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
AS_ROOT = ["unshare", "--user", "--map-root-user", "--mount"]
"""Programs that run another as an ordinary user, and as a root whose /run and /var/lib are its own."""
_HIDE = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && "


class Step(NamedTuple):
    """A command of the page, and the lines that stand below it."""

    command: str
    output: list[str]


def steps_of(section: str) -> list[Step]:
    """Return the commands in the indented blocks of a section of README.md, with shorter sleeps."""
    text = (CHECKOUT / "README.md").read_text("utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    steps: list[Step] = []
    for line in re.findall(r"^    (.*)$", text, re.MULTILINE):
        if line.startswith("$ "):
            steps.append(Step(line[2:].replace("sleep 5", "sleep 2"), []))
        else:
            steps[-1].output.append(line.replace("sleep 5", "sleep 2"))
    return steps


def normalized(lines: list[str]) -> list[str]:
    """Return lines without control sequences and times, with one blank between words; without empty lines."""
    plain = (_TIME.sub("", _CONTROL.sub("", line)).split() for line in lines)
    return [" ".join(words) for words in plain if words]


def _pause_before(command: str) -> str:
    """Return a command that lasts until a job has ended whose result is asked next: a person types slowly."""
    return f"taskq wait {command.split()[2]} >/dev/null; " if command.startswith("taskq result ") else ""


def run_page(
    place: Path, who: list[str], commands: list[str], environ: dict[str, str], before: str = ""
) -> list[list[str]]:
    """Start ``taskqd`` and run commands on a terminal, as a user; return the lines of each."""
    terminal = [
        f"{_pause_before(command)}printf '\\001'; script -qec {shlex.quote(command)} /dev/null </dev/null"
        for command in commands
    ]
    # A person types more slowly than a busy disk syncs the start of the first job.
    terminal.insert(1, "until taskq status 1 | grep -qv PENDING; do sleep 0.05; done")
    script = "\n".join(
        [
            f"{before}true || exit 77",
            "taskqd >log 2>&1 &",
            "daemon=$!",
            "trap 'kill $daemon; wait $daemon' EXIT",
            "until taskq stats 2>/dev/null | grep -q ^runner.name; do sleep 0.05; done",
            *terminal,
        ]
    )
    variables = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "COLUMNS": "100",
        "LINES": "30",
        **environ,
    }
    done = subprocess.run(
        [*who, "bash", "-c", script],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"needs user namespaces: {done.stderr.strip()[:200]}")
    return [part.splitlines() for part in done.stdout.split("\x01")[1:]]


@pytest.mark.parametrize(
    "who, before, has_runtime_directory",
    [(AS_USER, "", True), (AS_USER, "", False), (AS_ROOT, _HIDE, False)],
    ids=["user", "user without XDG_RUNTIME_DIR", "root"],
)
def test_commands_of_readme_print_the_output_of_readme(
    tmp_path: Path, who: list[str], before: str, has_runtime_directory: bool
) -> None:
    shutil.copy(CHECKOUT / "README.md", tmp_path)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    steps = [step for step in steps_of("Six commands") if not step.command.startswith(". ")]
    environ = {"XDG_RUNTIME_DIR": str(runtime)} if has_runtime_directory else {}
    outputs = run_page(tmp_path, who, [step.command for step in steps], environ, before)
    shown = [(step.command, normalized(output)) for step, output in zip(steps, outputs, strict=True)]
    assert shown == [(step.command, normalized(step.output)) for step in steps]
