"""Measures what an inherited environment of 8 KiB costs: disk and memory per job, and CPU time to run it.

The peer is the same daemon, with jobs that have none. All jobs have the same environment, which is sent once.
"""

from contextlib import closing
from hashlib import sha256
from pathlib import Path

from bench.bench import Bench
from bench.daemon import BODY, Daemon, running
from bench.place import Failed
from bench.results import Goal, Measured, Row
from bench.steady import cpu

JOBS = 10_000
SIZE = 8192
"""Bytes of the environment, which has variables of 64 bytes."""
LAPS = 5
BATCH = 500
"""Submissions that are sent before their replies are read."""
WITHOUT = "jobs without one"
DISK_GOAL = Goal(300, is_most=True, is_ratio=False)
MEMORY_GOAL = Goal(1.2, is_most=True)
RUN_GOAL = Goal(1.25, is_most=True)


def measure(bench: Bench) -> Measured:
    """Submit jobs with and without an environment, and run some; return what each job costs."""
    jobs = bench.many(JOBS, 1000)
    block = "".join(f"VARIABLE_{number:03}={'x' * 50}\0" for number in range(SIZE // 64))
    disk, memory, run = [[], []], [[], []], [[], []]
    for _ in bench.turns(LAPS):
        for each, environment in enumerate((block, "")):
            with running(bench.home("environment"), bench.programs) as server:
                grown = _submit(server, jobs, "--hold", BODY, environment)
                disk[each].append(grown[0] / jobs)
                memory[each].append(grown[1] / jobs)
            with running(bench.home("run"), bench.programs) as server:
                server.round_trips(1)  # the runner has started
                before = cpu(server.pid) + cpu(server.runner)
                _submit(server, jobs, "", "true", environment)
                with closing(server.wire()) as wire:
                    wire.one(f"WAIT {jobs + 1}")
                run[each].append((cpu(server.pid) + cpu(server.runner) - before) / jobs * 1e6)
    about = f"{jobs:,} jobs with one inherited environment of {SIZE // 1024} KiB"
    return Measured(
        [
            Row(f"disk per pending job, {about}", WITHOUT, "bytes", *disk, goal=DISK_GOAL),
            Row(f"memory per pending job, {about}", WITHOUT, "bytes", *memory, goal=MEMORY_GOAL),
            Row(f"CPU time per `true`, daemon and runner, {about}", WITHOUT, "µs", *run, goal=RUN_GOAL),
        ]
    )


def _submit(server: Daemon, jobs: int, options: str, command: str, environment: str) -> tuple[int, int]:
    """Submit jobs; return by how many bytes the files and the memory of the daemon have grown."""
    before = _size(server.home / "state"), server.memory
    known = f"--environment={len(environment)}:{sha256(environment.encode()).hexdigest()}"
    first = f"SUBMIT {options} --environment={len(environment)} {command}\r\n{environment}"
    line = f"SUBMIT {options} {known} {command}\r\n"
    if not environment:
        first, line = f"SUBMIT {options} {command}", f"SUBMIT {options} {command}\r\n"
    with closing(server.wire()) as wire:
        last = int(wire.one(first).split()[1]) + jobs - 1
        for sent in range(1, jobs, BATCH):
            count = min(BATCH, jobs - sent)
            wire.send(line * count)
            for _ in range(count):
                reply = wire.line()
    if reply != f"JOB_ID {last}":
        raise Failed(f"expected job {last} to be the last one, not {reply}")
    return _size(server.home / "state") - before[0], server.memory - before[1]


def _size(directory: Path) -> int:
    """Return the bytes of all files, without the blanks that the journal prepares."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sum(len(path.read_bytes().rstrip(b"\n")) for path in files)
