"""The daemon itself."""

import sys
import time
from collections.abc import Callable

import click

from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import text
from taskqd.client import Client, Facts

LOOK_EVERY = 0.5
"""``drain --wait`` asks so often, in seconds, whether something still runs."""


@taskq.command()
@click.pass_obj
def stats(session: Session) -> int:
    """Print the daemon's counters and limits."""
    return _say_facts(session, Client.stats)


@taskq.command()
@click.pass_obj
def hello(session: Session) -> int:
    """Print the daemon's version and what it knows.

    Its commands and limits, too, and who you are to it.
    """
    return _say_facts(session, Client.hello)


@taskq.command(
    epilog="""\b
Example:
  TASKQ_ADDRESS=$(taskq address) ./a-script-that-runs-elsewhere
"""
)
@click.pass_obj
def address(session: Session) -> int:
    """Print the daemon's address.

    That is the one of --address or TASKQ_ADDRESS, else the socket at which a daemon of yours answers, whether
    it was started in this session or by cron, ssh or su. Ends with 69 if no daemon answers there.
    """
    with session.connect() as client:
        session.say(client.address, {"address": client.address})
    return 0


@taskq.command(
    epilog="""\b
Example:
  taskq drain --wait && systemctl stop taskqd
"""
)
@click.option("--wait", is_flag=True, help="Wait until nothing runs any more.")
@click.pass_obj
def drain(session: Session, wait: bool) -> int:
    """Have the daemon start nothing more, before a planned stop.

    Until it is started again it refuses submissions (DRAINING), and leaves pending jobs pending. Prints how
    many jobs still run; they go on to their ends.
    """
    with session.connect() as client:
        client.drain()
        running = client.stats()["busy"]
        said = 0
        while wait and running:
            if running != said and sys.stderr.isatty():
                session.complain(f"waiting for {running} that still {'runs' if running == 1 else 'run'}")
            said = running
            time.sleep(LOOK_EVERY)
            running = client.stats()["busy"]
    session.say(f"draining: {running} running", {"draining": True, "running": running})
    return 0


def _say_facts(session: Session, ask: Callable[[Client], Facts]) -> int:
    with session.connect() as client:
        facts = ask(client)
    session.say("\n".join(text.lines(facts)), facts)
    return 0
