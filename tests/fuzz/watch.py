"""What can be seen of a process from outside: memory, descriptors, threads, the CPU time that it takes."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.daemon import memory

_TICKS = os.sysconf("SC_CLK_TCK")


class Seen(NamedTuple):
    """A look at a process: bytes of memory, open descriptors, threads."""

    rss: int
    descriptors: int
    threads: int


def look(pid: int) -> Seen:
    """Return what a process has at this moment."""
    place = Path(f"/proc/{pid}")
    return Seen(memory(pid)["VmRSS"], len(os.listdir(place / "fd")), len(os.listdir(place / "task")))


def cpu(pid: int) -> float:
    """Return the CPU time that a process has taken so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def idle_cpu(pid: int, seconds: float) -> float:
    """Return which part of a processor a process takes, looked at for so many seconds."""
    before = cpu(pid)
    time.sleep(seconds)
    return (cpu(pid) - before) / seconds
