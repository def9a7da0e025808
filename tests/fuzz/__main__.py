"""bin/fuzz: two fuzzers send input to a real daemon over all transports, while another client measures it."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import Campaign, Rules, replay
from tests.fuzz.fuzzed_daemon import OVER_TLS, WAYS, has_tls
from tests.fuzz.session_maker import KINDS


def main() -> int:
    """Read the command line and return the exit code: 0 if every rule held, 1 if one was broken."""
    parser = argparse.ArgumentParser(prog="bin/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="stop after this many minutes (1)")
    parser.add_argument(
        "--seed", type=int, help="repeat the sessions of an earlier run (default: a new seed)"
    )
    parser.add_argument("--kind", choices=(*KINDS, "both"), default="both", help="which fuzzer (both)")
    parser.add_argument(
        "--over",
        help=f"transports, some of {','.join(WAYS)} (default: all; TLS only if taskqd[tls] is installed)",
    )
    parser.add_argument(
        "--bar", type=float, default=5.0, help="limit of another client's median reply in ms (5)"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play only the sessions of a file")
    arguments = parser.parse_args()
    here = [transport for transport in WAYS if has_tls() or transport not in OVER_TLS]
    over = arguments.over.split(",") if arguments.over else here
    if unknown := set(over) - set(here):
        parser.error(f"--over accepts some of {','.join(here)}, not {','.join(sorted(unknown))}")
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/tmp"))
    if arguments.replay:
        log(f"in {place}")
        is_ok = replay(place, arguments.replay, log)
    else:
        seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
        kinds = KINDS if arguments.kind == "both" else (arguments.kind,)
        ways = [(transport, login) for transport in over for login in WAYS[transport]]
        log(f"seed {seed}, in {place}")
        campaign = Campaign(
            place, seed, Rules(60 * arguments.minutes, kinds, ways, arguments.bar / 1000), log
        )
        is_ok = campaign.run()
        how = "every rule held" if is_ok else f"a rule was broken; see {place}"
        sys.stdout.write(f"{campaign.report.text()}\n\nseed {seed}: {how}\n")
    if is_ok:
        shutil.rmtree(place)
    return 0 if is_ok else 1


def log(line: str) -> None:
    """Report progress."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    # A SIGTERM must also end the daemon.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
