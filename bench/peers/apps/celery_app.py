"""The measured Celery application. ``python celery_app.py JOBS`` runs jobs and prints the seconds."""

import os
import sys
import time

import shell
from celery import Celery
from redis import Redis

PATH = os.environ["BENCH_REDIS"]

app = Celery("bench", broker=f"redis+socket://{PATH}", backend=f"redis+socket://{PATH}?virtual_host=1")
app.conf.worker_prefetch_multiplier = 64  # as its guide advises for many short tasks
run = app.task(name="run")(shell.run)


def main(jobs: int) -> None:
    """Run the jobs. Each result is a key in the second database."""
    results = Redis(unix_socket_path=PATH, db=1)
    results.flushdb()
    began = time.perf_counter()
    for _ in range(jobs):
        run.delay("true")
    shell.wait(results.dbsize, jobs)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]))
