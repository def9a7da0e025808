"""A short run of bin/torture, which kills a daemon and its runner repeatedly while many clients use it."""

import subprocess
import sys

from tests.end_to_end.daemon import CHECKOUT, environment
from tests.end_to_end.wire import DEADLINE

KILLS = 10


def test_acknowledged_changes_survive_kills_at_random_moments() -> None:
    command = [sys.executable, "-m", "tests.torture", f"--kills={KILLS}", "--hogs=0", "--seed=7"]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": every rule held\n")
