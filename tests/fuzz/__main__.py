"""bin/fuzz: two fuzzers at the real daemon, over all transports, while somebody else asks how it is."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import Campaign, Rules, replay
from tests.fuzz.makers import KINDS
from tests.fuzz.victim import OVER_TLS, WAYS, has_tls


def main() -> int:
    """Read the command line and return the exit code: 0 if every rule held, 1 if one was broken."""
    parser = argparse.ArgumentParser(prog="bin/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="stop after so many minutes (1)")
    parser.add_argument("--seed", type=int, help="make the sessions of an earlier run (a new seed)")
    parser.add_argument("--kind", choices=(*KINDS, "both"), default="both", help="which fuzzer (both)")
    parser.add_argument(
        "--over",
        help=f"transports, some of {','.join(WAYS)} (all, but for TLS where taskqd[tls] is not installed)",
    )
    parser.add_argument(
        "--bar", type=float, default=5.0, help="others' median reply, in ms, is below this (5)"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="play the sessions of a file, and no others"
    )
    arguments = parser.parse_args()
    here = [transport for transport in WAYS if has_tls() or transport not in OVER_TLS]
    over = arguments.over.split(",") if arguments.over else here
    if unknown := set(over) - set(here):
        parser.error(f"--over takes some of {','.join(here)}, not {','.join(sorted(unknown))}")
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/tmp"))
    if arguments.replay:
        tell(f"in {place}")
        is_well = replay(place, arguments.replay, tell)
    else:
        seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
        kinds = KINDS if arguments.kind == "both" else (arguments.kind,)
        ways = [(transport, login) for transport in over for login in WAYS[transport]]
        tell(f"seed {seed}, in {place}")
        campaign = Campaign(
            place, seed, Rules(60 * arguments.minutes, kinds, ways, arguments.bar / 1000), tell
        )
        is_well = campaign.run()
        how = "every rule held" if is_well else f"broken, {place} has it all"
        sys.stdout.write(f"{campaign.report.text()}\n\nseed {seed}: {how}\n")
    if is_well:
        shutil.rmtree(place)
    return 0 if is_well else 1


def tell(line: str) -> None:
    """Say how it goes."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    # Whoever ends it so has the daemon ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
