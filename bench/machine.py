"""Describes the machine and the programs of a measurement."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from bench.peers import install
from bench.place import CHECKOUT

LIBRARIES = ("twisted", "msgspec", "click")
SYNCS = 200
RECORD = b"x" * 200


def describe(place: Path) -> dict[str, str]:
    """Return facts about machine, disk and programs, by name."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{_file_system(place)}; {_sync_latency(place)}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "ours": f"taskqd {version('taskqd')} at {revision()}",
        "with": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "peers": ", ".join(f"{name} {number}" for name, number in install.versions().items()) or "none",
        "load generator": _compiler(),
    }


def revision() -> str:
    """Return the checked-out commit, with a suffix if files were changed."""
    line = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    if not shutil.which("git"):
        return "an unknown commit"
    done = subprocess.run(line, capture_output=True, check=False, text=True)
    return done.stdout.strip() or "an unknown commit"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(place: Path) -> str:
    if not shutil.which("findmnt"):
        return str(place.parent)
    line = ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", str(place)]
    done = subprocess.run(line, capture_output=True, check=False, text=True)
    return f"{place.parent} on {' '.join(done.stdout.split())}"


def _sync_latency(place: Path) -> str:
    took = []
    with (place / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(RECORD)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1e6 * (time.perf_counter() - began))
    ninetieth = statistics.quantiles(took, n=10)[-1]
    return f"append and fdatasync: median {statistics.median(took):.0f} µs, 90 % under {ninetieth:.0f} µs"


def _compiler() -> str:
    compiler = shutil.which("cc")
    if not compiler:
        return "missing: cc (Python replaces it for one client, loads of more clients are skipped)"
    done = subprocess.run([compiler, "--version"], capture_output=True, check=False, text=True)
    return f"bench/c/load.c, {done.stdout.splitlines()[0]}"


def command_line() -> str:
    """Return the command line of this run."""
    return " ".join(["bench/run", *sys.argv[1:]])
