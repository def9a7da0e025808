"""task-spooler and nq, which are used by their commands. Neither keeps its jobs over a crash."""

import subprocess
import time
from pathlib import Path

from bench.load import Programs
from bench.peers.install import program_missing
from bench.place import SERVER_TIMEOUT, environment

PARALLEL = 2
QUEUES = 2
POLL_INTERVAL = 0.005
"""Seconds."""


class TaskSpooler:
    """tsp(1): the first job starts a server; each job has a client process."""

    name = "task-spooler"
    is_durable = False
    note = "2 slots, a client process per submission; only output on disk"

    def missing(self) -> str:
        """Return the name of the missing package, "" if it is installed."""
        return program_missing("tsp")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Submit one after the other, then wait for the last ones."""
        more = {
            "TS_SOCKET": str(home / "socket"),
            "TMPDIR": str(home),
            "TS_SLOTS": str(PARALLEL),
            "TS_MAXFINISHED": str(jobs),
        }

        def tsp(*words: str) -> str:
            line = ["tsp", *words]
            done = subprocess.run(
                line,
                cwd=home,
                env=environment(**more),
                check=False,
                timeout=SERVER_TIMEOUT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            return done.stdout

        try:
            tsp("true")
            began = time.perf_counter()
            programs.spawn(jobs, 1, ["tsp", "sh", "-c", "true"], home, **more)
            tsp("-w")
            while " running " in (shown := tsp()) or " queued " in shown:
                time.sleep(POLL_INTERVAL)
            return jobs / (time.perf_counter() - began)
        finally:
            tsp("-K")


class Nq:
    """nq(1): each job is a process that waits for the lock of the previous one."""

    name = "nq"
    is_durable = False
    note = "two queues, since one runs one job at a time; only output on disk"

    def missing(self) -> str:
        """Return the name of the missing package, "" if it is installed."""
        return program_missing("nq")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Submit to both queues in turns, then wait until no job holds a lock."""
        queues = [str(home / f"queue-{number}") for number in range(QUEUES)]
        submit = [f"NQDIR={queue} nq -q sh -c true" for queue in queues]
        began = time.perf_counter()
        programs.spawn(jobs // QUEUES, 1, ["sh", "-c", " && ".join(submit)], home)
        for queue in queues:
            subprocess.run(["nq", "-w"], env=environment(NQDIR=queue), check=True, timeout=SERVER_TIMEOUT)
        return jobs / (time.perf_counter() - began)
