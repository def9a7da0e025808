"""Measures a gigabyte of output from one job: speed, the daemon's memory, reply times of other clients."""

import os
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from bench import daemon
from bench.bench import Bench
from bench.daemon import Daemon
from bench.place import Failed, memory
from bench.results import Goal, Measured, Row
from bench.wire import Wire

BYTES = 1024**3
MIB = 1024**2
LAPS = 3
REQUEST_INTERVAL = 0.002
"""Seconds."""


class Others:
    """Other clients. Each repeats one request while the job prints."""

    REQUESTS = ("SUBMIT --hold true", "STATUS 1")

    def __init__(self, server: Daemon) -> None:
        self.took: dict[str, list[float]] = {request: [] for request in self.REQUESTS}
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(server.wire(), request)) for request in self.REQUESTS
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, wire: Wire, request: str) -> None:
        with closing(wire):
            while not self._is_over.is_set():
                began = time.perf_counter()
                wire.one(request)
                self.took[request].append(1000 * (time.perf_counter() - began))
                time.sleep(REQUEST_INTERVAL)


def measure(bench: Bench) -> Measured:
    """Measure taskqd and a pipe of head and cat into a file, in turns, beside the same requests."""
    size = bench.many(BYTES, 8 * MIB)
    ours: list[float] = []
    theirs: list[float] = []
    synced: list[float] = []
    restarted: list[float] = []
    growth: list[float] = []
    replies: dict[str, list[float]] = {request: [] for request in Others.REQUESTS}
    for _ in bench.turns(LAPS):
        with daemon.running(bench.home("ours"), bench.programs) as server:
            server.round_trips(10)
            rate, grown, took = _of_ours(server, size)
            ours.append(rate)
            growth.append(grown)
            for request, values in took.items():
                replies[request].append(percentile_99(values))
            for values, then in ((theirs, "cat > file"), (synced, "cat > file; sync -d file")):
                with Others(server):
                    values.append(_bare(bench, size, then))
        restarted.append(_through_a_restart(bench, size))
    title = "1 GiB of output from one job"
    bare = "`head -c 1G /dev/zero | cat > file`"
    under = Goal(2, is_most=True, is_ratio=False)
    soon = Goal(20, is_most=True, is_ratio=False)
    note = "both beside two other clients, one of which submits jobs"
    return Measured(
        [
            Row(title, f"{bare}, then synced", "MiB/s", ours, synced, Goal(0.8), note=note),
            Row(title, bare, "MiB/s", ours, theirs, note="for comparison: cat's output is not on disk"),
            Row(
                f"{title}, with a kill and a start of the daemon in its midst",
                "without",
                "MiB/s",
                restarted,
                ours,
                note="every byte is there",
            ),
            Row(f"{title}: growth of the daemon", "", "MiB", growth, goal=under),
            *(
                Row(f"{title}: others' 99th percentile of {request.split()[0]}", "", "ms", values, goal=soon)
                for request, values in replies.items()
            ),
        ]
    )


def percentile_99(values: list[float]) -> float:
    """Return the value that at most 1 % of the values exceed."""
    return sorted(values)[-1 - len(values) // 100]


def _of_ours(server: Daemon, size: int) -> tuple[float, float, dict[str, list[float]]]:
    with closing(server.wire()) as wire:
        os.sync()
        before = server.memory
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # resets the peak
        with (others := Others(server)):
            began = time.perf_counter()
            job = wire.one(f"SUBMIT --max-output=2G head -c {size} /dev/zero").split()[1]
            wire.one(f"WAIT {job}")
            took = time.perf_counter() - began
        grown = memory(server.pid, "VmHWM") - before
        return size / MIB / took, grown / MIB, others.took


def _through_a_restart(bench: Bench, size: int) -> float:
    """Return the MiB per second of a job that prints while the daemon is killed and started again."""
    with daemon.running(bench.home("restarted"), bench.programs) as server:
        server.round_trips(10)
        began = time.perf_counter()
        command = f"SUBMIT --max-output=2G head -c {size} /dev/zero; exit 3"
        job = server.ask(command).split()[1]
        while size > MIB * 100 and _shown(server, job)["stdout_bytes"] < size // 10:
            time.sleep(daemon.POLL_INTERVAL)
        server.kill()
        server.start()
        server.ask(f"WAIT {job}")
        took = time.perf_counter() - began
        shown = _shown(server, job)
        if (shown["stdout_bytes"], shown["exit_code"], shown["attempts"]) != (size, 3, 1):
            raise Failed(f"the job has not run through: {shown}")
        return size / MIB / took


def _shown(server: Daemon, job: str) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.json.decode(server.ask(f"SHOW {job}").removeprefix("JOB "))
    return shown


def _bare(bench: Bench, size: int, then: str) -> float:
    home = bench.home("bare")
    os.sync()
    began = time.perf_counter()
    subprocess.run(["sh", "-c", f"head -c {size} /dev/zero | {then}"], cwd=home, check=True)
    took = time.perf_counter() - began
    (home / "file").unlink()
    return size / MIB / took
