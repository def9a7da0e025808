"""The measured huey application. ``python huey_app.py JOBS`` runs jobs and prints the seconds."""

import os
import sys
import time

import shell
from huey import RedisHuey

huey = RedisHuey("bench", url=f"unix://{os.environ['BENCH_REDIS']}")
run = huey.task(name="run")(shell.run)


def main(jobs: int) -> None:
    """Run the jobs. Each result is kept until it is read."""
    before = huey.result_count()
    began = time.perf_counter()
    for _ in range(jobs):
        run("true")
    shell.wait(lambda: huey.result_count() - before, jobs)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]))
