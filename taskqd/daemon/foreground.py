"""The console script ``taskqd``: the daemon in the foreground, without a pid file."""

import sys

from twisted.scripts import twistd

from taskqd.daemon.tap import Options

TWISTD_OPTIONS = ("--nodaemon", "--pidfile=")


def main() -> None:
    """Run ``twistd --nodaemon --pidfile= taskq`` with the arguments of this process."""
    Options.command = "taskqd"
    sys.argv[1:1] = [*TWISTD_OPTIONS, "taskq"]
    twistd.run()
