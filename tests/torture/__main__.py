"""bin/torture: kill the daemon again and again while clients work, and hold every answer against a model."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.torture.campaign import Limits, torture


def main() -> int:
    """Read the command line and return the exit code: 0 if every rule held, 1 if one was broken."""
    parser = argparse.ArgumentParser(prog="bin/torture", description=__doc__)
    parser.add_argument("--minutes", type=float, help="stop after so many minutes (1, or none with --kills)")
    parser.add_argument("--kills", type=int, help="stop after so many kills")
    parser.add_argument("--seed", type=int, help="make the decisions of an earlier run (a new seed)")
    arguments = parser.parse_args()
    minutes, kills = arguments.minutes, arguments.kills
    if minutes is None and kills is None:
        minutes = 1.0
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    place = Path(tempfile.mkdtemp(prefix="torture-", dir="/tmp"))
    sys.stderr.write(f"seed {seed}, in {place}\n")
    return torture(place, seed, Limits(None if minutes is None else 60 * minutes, kills))


if __name__ == "__main__":
    sys.exit(main())
