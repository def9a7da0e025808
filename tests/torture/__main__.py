"""bin/torture: kill the daemon and its runner while clients work, and check every reply against a model."""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.torture.campaign import Limits, torture


def main() -> int:
    """Read the command line and return the exit code: 0 if every rule held, 1 if one was broken."""
    parser = argparse.ArgumentParser(prog="bin/torture", description=__doc__)
    parser.add_argument("--minutes", type=float, help="minutes to run (default 1, or no limit with --kills)")
    parser.add_argument("--kills", type=int, help="number of kills to run")
    parser.add_argument("--seed", type=int, help="the seed of an earlier run, to repeat its decisions")
    parser.add_argument(
        "--hogs", type=int, default=os.cpu_count() or 1, help="busy loops beside it (default: one per core)"
    )
    arguments = parser.parse_args()
    minutes, kills = arguments.minutes, arguments.kills
    if minutes is None and kills is None:
        minutes = 1.0
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    place = Path(tempfile.mkdtemp(prefix="torture-", dir="/tmp"))
    sys.stderr.write(f"seed {seed}, in {place}\n")
    return torture(place, seed, Limits(None if minutes is None else 60 * minutes, kills, arguments.hogs))


if __name__ == "__main__":
    sys.exit(main())
