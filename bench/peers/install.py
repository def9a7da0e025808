"""Installs the peers: from Debian by apt, from PyPI into the venv bench/.venv-peers.

With ``--quick`` nothing is installed, and a peer that is not installed is named as missing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.place import CHECKOUT

PROGRAMS = {
    "beanstalkd": "beanstalkd",
    "tsp": "task-spooler",
    "nq": "nq",
    "redis-server": "redis-server",
    "parallel": "parallel",
    "xargs": "findutils",
    "cc": "gcc libc6-dev",
    "setpriv": "util-linux",
}
"""The Debian package of each program."""
LIBRARIES = ("celery", "redis", "rq", "huey", "scrapyd")
VENV = CHECKOUT / "bench" / ".venv-peers"
APPS = Path(__file__).parent / "apps"
_MARK = VENV / "installed"


def program_missing(name: str) -> str:
    """Return the name of the missing Debian package, "" if the program is installed."""
    return "" if shutil.which(name) else f"{PROGRAMS[name]} (Debian)"


def library_missing(*names: str) -> str:
    """Return the names of the missing libraries, "" if all are installed."""
    lib = VENV / "lib"
    lacking = [name for name in names if not list(lib.glob(f"python*/site-packages/{name}"))]
    return f"{' '.join(lacking)} (PyPI)" if lacking else ""


def install(say: Callable[[str], None]) -> None:
    """Install the missing packages as far as possible; report failures by ``say``."""
    _install_programs(say)
    _install_libraries(say)


def _install_programs(say: Callable[[str], None]) -> None:
    packages = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"missing, and only root can install them: {' '.join(packages)}")
        return
    say(f"apt-get install {' '.join(packages)}")
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # starts no service
    words = " ".join(packages).split()
    for line in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *words],
    ):
        done = subprocess.run(line, env=variables, capture_output=True, check=False, text=True)
        if done.returncode:
            say(f"{' '.join(line[:2])} failed: {done.stderr.strip()[-300:]}")


def _install_libraries(say: Callable[[str], None]) -> None:
    wanted = " ".join(LIBRARIES)
    if _MARK.exists() and _MARK.read_text() == wanted:
        return
    say(f"pip install {wanted}, into {VENV}")
    for line in (
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [str(VENV / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check", *LIBRARIES],
    ):
        done = subprocess.run(line, capture_output=True, check=False, text=True)
        if done.returncode:
            say(f"{' '.join(line[:3])} failed: {done.stderr.strip()[-300:]}")
            return
    _MARK.write_text(wanted)


def versions() -> dict[str, str]:
    """Return the versions of the installed peers."""
    found = {package: _debian_version(package) for name, package in PROGRAMS.items() if name != "cc"}
    python = VENV / "bin" / "python"
    if python.exists():
        code = (
            "import sys; from importlib.metadata import version; [print(n, version(n)) for n in sys.argv[1:]]"
        )
        line = [str(python), "-c", code, *LIBRARIES]
        done = subprocess.run(line, capture_output=True, check=False, text=True)
        found.update(line.split() for line in done.stdout.splitlines())  # type: ignore[misc]
    return {name: version for name, version in found.items() if version and name != "util-linux"}


def _debian_version(package: str) -> str:
    if not shutil.which("dpkg-query"):
        return ""
    line = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(line, capture_output=True, check=False, text=True).stdout.strip()
