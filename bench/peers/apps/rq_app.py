"""The measured rq application. ``python rq_app.py JOBS`` runs jobs and prints the seconds."""

import os
import sys
import time

import shell
from redis import Redis
from rq import Queue
from rq.registry import FinishedJobRegistry


def main(jobs: int) -> None:
    """Run the jobs. Ended jobs are in a registry."""
    queue = Queue("bench", connection=Redis(unix_socket_path=os.environ["BENCH_REDIS"]))
    finished = FinishedJobRegistry(queue=queue)
    before = finished.get_job_count(cleanup=False)
    began = time.perf_counter()
    queue.enqueue_many([Queue.prepare_data(shell.run, ("true",)) for _ in range(jobs)])
    shell.wait(lambda: finished.get_job_count(cleanup=False) - before, jobs)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]))
