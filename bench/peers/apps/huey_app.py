"""huey as it is measured. ``python huey_app.py JOBS`` submits and prints how many seconds they took."""

import os
import sys
import time

import shell
from huey import RedisHuey

huey = RedisHuey("bench", url=f"unix://{os.environ['BENCH_REDIS']}")
run = huey.task(name="run")(shell.run)


def main(jobs: int) -> None:
    """Each result is kept until it is asked for."""
    before = huey.result_count()
    began = time.perf_counter()
    for _ in range(jobs):
        run("true")
    shell.wait(lambda: huey.result_count() - before, jobs)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]))
