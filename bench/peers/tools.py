"""task-spooler and nq: a command submits a job. Neither keeps its jobs over a crash."""

import subprocess
import time
from pathlib import Path

from bench.load import Programs
from bench.peers.install import program_missing
from bench.place import PATIENCE, environment

AT_ONCE = 2
QUEUES = 2
PAUSE = 0.005


class TaskSpooler:
    """tsp(1): a server that is started by the first job, and a client for each job."""

    name = "task-spooler"
    is_durable = False
    note = "2 slots, a client process for each submission; nothing on disk but output"

    def missing(self) -> str:
        """Return what is missing, or nothing."""
        return program_missing("tsp")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Submit one after the other, then wait for the last ones."""
        more = {
            "TS_SOCKET": str(home / "socket"),
            "TMPDIR": str(home),
            "TS_SLOTS": str(AT_ONCE),
            "TS_MAXFINISHED": str(jobs),
        }

        def tsp(*words: str) -> str:
            line = ["tsp", *words]
            done = subprocess.run(
                line,
                cwd=home,
                env=environment(**more),
                check=False,
                timeout=PATIENCE,
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
                time.sleep(PAUSE)
            return jobs / (time.perf_counter() - began)
        finally:
            tsp("-K")


class Nq:
    """nq(1): each job is a process that waits for the lock of the one before."""

    name = "nq"
    is_durable = False
    note = "two queues, since one runs one job at a time; nothing on disk but output"

    def missing(self) -> str:
        """Return what is missing, or nothing."""
        return program_missing("nq")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Submit to both queues in turn, then wait until nobody holds a lock."""
        queues = [str(home / f"queue-{number}") for number in range(QUEUES)]
        submit = [f"NQDIR={queue} nq -q sh -c true" for queue in queues]
        began = time.perf_counter()
        programs.spawn(jobs // QUEUES, 1, ["sh", "-c", " && ".join(submit)], home)
        for queue in queues:
            subprocess.run(["nq", "-w"], env=environment(NQDIR=queue), check=True, timeout=PATIENCE)
        return jobs / (time.perf_counter() - began)
