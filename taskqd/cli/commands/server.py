"""The commands stats, hello, address, drain and shutdown."""

import sys
import time
from collections.abc import Callable

import click

from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import text
from taskqd.client import Client, Facts

POLL_INTERVAL = 0.5
"""Interval at which ``drain --wait`` queries the number of running jobs (seconds)."""


@taskq.command()
@click.pass_obj
def stats(session: Session) -> int:
    """Print the daemon's counters and limits."""
    return _print_facts(session, Client.stats)


@taskq.command()
@click.pass_obj
def hello(session: Session) -> int:
    """Print the daemon's version and limits, and your identity."""
    return _print_facts(session, Client.hello)


@taskq.command(
    epilog="""\b
Example:
  TASKQ_ADDRESS=$(taskq address) ./a-script-that-runs-elsewhere
"""
)
@click.pass_obj
def address(session: Session) -> int:
    """Print the daemon's address.

    This is --address or TASKQ_ADDRESS, else the socket of your running daemon, whether it was started in this
    session or by cron, ssh or su. The exit code is 69 if no daemon answers.
    """
    with session.connect() as client:
        session.print_answer(client.address, {"address": client.address})
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq drain --wait && systemctl stop taskqd
  taskq drain --off      after all, go on
"""
)
@click.option("--wait", is_flag=True, help="Wait until no job is running.")
@click.option("--off", is_flag=True, help="End the drain: accept and start jobs again.")
@click.pass_obj
def drain(session: Session, wait: bool, off: bool) -> int:
    """Start no more jobs, to prepare a stop of the daemon.

    Until it is restarted, or `taskq drain --off`, the daemon refuses submissions (DRAINING) and pending jobs
    stay pending. Prints the number of running jobs, which continue.
    """
    if off and wait:
        raise click.UsageError("expected either --wait or --off")
    with session.connect() as client:
        client.drain(off=off)
        if off:
            session.print_answer("not draining: jobs start again", {"draining": False})
            return 0
        running = client.stats()["busy"]
        reported = 0
        while wait and running:
            if running != reported and sys.stderr.isatty():
                session.print_message(f"waiting for {running} running job{'' if running == 1 else 's'}")
            reported = running
            time.sleep(POLL_INTERVAL)
            running = client.stats()["busy"]
    session.print_answer(f"draining: {running} running", {"draining": True, "running": running})
    return 0


@taskq.command(
    epilog="""\b
Examples:
  taskq shutdown
  taskq shutdown --end --wait && cp -a STATE BACKUP
"""
)
@click.option("--end", is_flag=True, help="End the running jobs, after the daemon's grace period.")
@click.option("--wait", is_flag=True, help="Wait until the daemon has stopped.")
@click.pass_obj
def shutdown(session: Session, end: bool, wait: bool) -> int:
    """Stop the daemon.

    Without --end, the daemon's setting `on-stop` says what becomes of running jobs. Prints how many there
    were, and what becomes of them. Needs the role admin, and the daemon's UNIX socket unless its settings
    allow remote control.

    With --wait, the command returns when the jobs that are ended have been recorded and the daemon's process
    has ended, so that its state directory can be copied. Over TCP and TLS, and if systemd listens at the
    socket, it returns when the daemon has closed its ports and the connection. Ctrl-C ends the command, not
    the stop.
    """
    with session.connect() as client:
        running, fate = client.shutdown(end=end, wait=wait)
    facts = {"shutdown": True, "running": running, "jobs": fate}
    jobs = "no running jobs"
    if running:
        jobs = f"{running} running job{' is' if running == 1 else 's are'} {fate}"
    session.print_answer(f"{'stopped' if wait else 'stopping'}: {jobs}", facts)
    return 0


def _print_facts(session: Session, request: Callable[[Client], Facts]) -> int:
    with session.connect() as client:
        facts = request(client)
    session.print_answer("\n".join(text.fact_lines(facts)), facts)
    return 0
