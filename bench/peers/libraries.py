"""Celery, rq and huey: two workers each, huey also with 4 and 8 threads, and a redis-server as broker.

Their task runs ``sh -c true``.

Their applications are in bench/peers/apps and run in the venv of the peers.
"""

import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench.load import Programs
from bench.peers import redis
from bench.peers.install import APPS, VENV, library_missing, program_missing
from bench.place import SERVER_TIMEOUT, Failed, environment, served

PYTHON = VENV / "bin" / "python"
WORKERS = 2
ALONE = "--without-gossip --without-mingle --without-heartbeat"


class Library:
    """A task queue written in Python."""

    def __init__(self, name: str, worker: list[str], processes: int, how: str, is_durable: bool) -> None:
        self.library = name.split(maxsplit=1)[0]
        self._worker: list[str | Path] = [PYTHON, "-m", *worker]
        self._processes = processes
        self._options = redis.DURABLE if is_durable else redis.IN_MEMORY
        self.name = f"{name}, {'redis syncs always' if is_durable else 'redis keeps nothing'}"
        self.is_durable = is_durable
        self.note = how

    def missing(self) -> str:
        """Return the names of the missing packages, "" if there are none."""
        lacking = (program_missing("redis-server"), library_missing(self.library, "redis"))
        return ", ".join(one for one in lacking if one)

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Start redis and the workers, run some jobs to check that they work, and measure."""
        with ExitStack() as stack:
            path = stack.enter_context(redis.running(home, self._options))
            more = {"BENCH_REDIS": str(path), "RQ_REDIS_URL": f"unix://{path}", "PYTHONPATH": str(APPS)}
            for _ in range(self._processes):
                stack.enter_context(served(self._worker, home, lambda: True, **more))
            self._ask(home, 2 * WORKERS, more)
            return jobs / self._ask(home, jobs, more)

    def _ask(self, home: Path, jobs: int, more: dict[str, str]) -> float:
        """Run ``jobs`` jobs, and return the seconds that they took."""
        done = subprocess.run(
            [PYTHON, APPS / f"{self.library}_app.py", str(jobs)],
            cwd=home,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=2 * SERVER_TIMEOUT,
        )
        if done.returncode:
            raise Failed(f"{self.library}: {done.stderr.decode('utf-8', 'replace')[-1000:]}")
        return float(done.stdout)


def _huey(threads: int) -> tuple[str, int, str]:
    words = f"huey.bin.huey_consumer huey_app.huey -k thread -w {threads} --no-periodic --quiet"
    return words, 1, f"{threads} threads, results in redis"


def _library(name: str, is_durable: bool) -> Library:
    worker, processes, how = {
        "celery": (
            f"celery -A celery_app worker --pool prefork --concurrency {WORKERS} --loglevel ERROR {ALONE}",
            1,
            f"prefork {WORKERS}, a prefetch of 64 per worker, results in redis",
        ),
        "rq": (
            "rq.cli worker --worker-class rq.worker.SimpleWorker --quiet bench",
            WORKERS,
            f"{WORKERS} workers of the class that does not fork",
        ),
        "huey": (
            f"huey.bin.huey_consumer huey_app.huey -k process -w {WORKERS} --no-periodic --quiet",
            1,
            f"{WORKERS} processes, results in redis",
        ),
        "huey 4": _huey(4),
        "huey 8": _huey(8),
    }[name]
    return Library(name, worker.split(), processes, how, is_durable)


NAMES = ("celery", "rq", "huey", "huey 4", "huey 8")
LIBRARIES = [_library(name, is_durable) for name in NAMES for is_durable in (True, False)]
