"""Installing the wheel in an empty environment, and running the daemon and taskq from it."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.end_to_end.daemon import CHECKOUT, Daemon, environment

VERBS = [
    "submit",
    "run",
    "status",
    "result",
    "show",
    "list",
    "output",
    "wait",
    "cancel",
    "retry",
    "stats",
    "hello",
]

PIP_TIMEOUT = 300.0
"""Time limit of a call of pip, which may download dependencies (seconds)."""


def _run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd="/",
        env=environment() | {"PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PIP_TIMEOUT,
        check=False,
    )


def _pip(python: str | Path, *arguments: str | Path) -> None:
    shown = _run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)
    is_offline = re.search("No matching distribution|Connection|Temporary failure|timed out", shown.stderr)
    if shown.returncode and is_offline and os.environ.get("CI") != "true":
        pytest.skip(f"pip finds no package index: {shown.stderr.strip().splitlines()[-1]}")
    assert shown.returncode == 0, shown.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    has_backend = importlib.util.find_spec("hatchling") is not None
    _pip(sys.executable, "wheel", "--no-deps", *["--no-build-isolation"] * has_backend, "-w", place, CHECKOUT)
    [built] = place.glob("taskqd-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin directory of a new environment with the wheel installed.

    Dependencies are pinned if those of the tests are; otherwise they have the versions of the tests.
    """
    place = tmp_path_factory.mktemp("installed") / "venv"
    assert _run(sys.executable, "-m", "venv", place).returncode == 0
    python = place / "bin/python"
    if Path(sys.prefix, "locked-run").exists():
        pins = CHECKOUT / "requirements" / "run-{}.{}.txt".format(*sys.version_info)
        _pip(python, "install", "--require-hashes", "-r", pins)
        _pip(python, "install", "--no-deps", wheel)
    else:
        versions = place / "versions"
        versions.write_text(
            "".join(f"{it.name}=={it.version}\n" for it in importlib.metadata.distributions())
        )
        _pip(python, "install", "--constraint", versions, wheel)
    return place / "bin"


def test_wheel_has_the_package_and_only_the_plugin_below_twisted(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert "twisted/plugins/taskq_plugin.py" in names
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/taskq_plugin.py"]
    others = [
        name for name in names if ".dist-info/" not in name and not name.startswith(("taskqd/", "twisted/"))
    ]
    assert [name.partition(".data/")[2] for name in others] == ["scripts/taskq"]
    assert "taskqd/py.typed" in names
    sources = {str(file.relative_to(CHECKOUT)) for file in (CHECKOUT / "taskqd").rglob("*.py")}
    assert sources <= set(names)


def test_installed_twistd_lists_taskq_and_taskq_has_help(installed: Path) -> None:
    shown = _run(installed / "twistd", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"^\s+taskq\s+\S", shown.stdout, re.MULTILINE)
    assert _run(installed / "twistd", "taskq", "--help").returncode == 0
    shown = _run(installed / "taskqd", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--on-stop=" in shown.stdout
    shown = _run(installed / "taskq", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for verb in VERBS:
        assert re.search(rf"^\s+{verb}\b", shown.stdout, re.MULTILINE), verb


@pytest.mark.parametrize("program", ["twistd", "taskqd"])
def test_installed_daemon_runs_jobs_of_the_installed_client(
    installed: Path, tmp_path: Path, program: str
) -> None:
    one = Daemon(tmp_path, twistd=installed / program)
    try:
        one.start()
        shown = _run(installed / "taskq", "--address", f"unix:{one.socket}", "run", "echo hi; exit 3")
        assert (shown.returncode, shown.stdout, shown.stderr) == (3, "hi\n", "")
    finally:
        complaints = one.close()
    assert complaints == []


def test_editable_install_is_found_by_twistd() -> None:
    """bin/test makes an editable install for the tests; twistd must find it in any directory."""
    shown = _run(Path(sys.executable).with_name("twistd"), "--help")
    assert re.search(r"^\s+taskq\s+\S", shown.stdout, re.MULTILINE), shown.stderr
