"""Statistics of a process from /proc: memory, descriptors, threads and CPU time."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.daemon import memory

_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessStats(NamedTuple):
    """Bytes of memory, open descriptors and threads of a process."""

    rss: int
    descriptors: int
    threads: int


def read_process_stats(pid: int) -> ProcessStats:
    """Read the statistics of a process."""
    place = Path(f"/proc/{pid}")
    return ProcessStats(memory(pid)["VmRSS"], len(os.listdir(place / "fd")), len(os.listdir(place / "task")))


def cpu(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def idle_cpu(pid: int, seconds: float) -> float:
    """Measure for some seconds which part of a processor a process uses."""
    before = cpu(pid)
    time.sleep(seconds)
    return (cpu(pid) - before) / seconds
