"""The command slots."""

import click

from taskqd.cli import parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from taskqd.cli.display import text
from taskqd.client import Facts


def _number(word: str) -> int | str:
    return word if word == "default" else parameters.parse_slots(word)


@taskq.command(
    epilog="""\b
Examples:
  taskq slots           how many slots there are, and why
  taskq slots 8         run jobs on 8 slots from now on
  taskq slots default   the value of the daemon's settings
"""
)
@click.argument("slots", metavar="[N|default]", required=False, callback=parameters.parsed_by(_number))
@click.pass_obj
def slots(session: Session, slots: int | str | None) -> int:
    """Show or change the number of slots of the daemon.

    The number survives a restart of the daemon and takes precedence over its settings until `taskq slots
    default`. More slots start waiting jobs at once. With fewer slots than are busy, the running jobs go on,
    and none starts until enough of them have ended. Prints the slots; without an argument also the busy ones,
    and `set`, `settings` or `limited` (the limit of descriptors allows no more of those that were set).
    """
    with session.connect() as client:
        if slots is not None:
            number = client.set_slots(None if slots == "default" else int(slots))
            session.print_answer(str(number), {"slots": number})
            return 0
        stats = client.stats()
    facts = {name: stats[name] for name in ("slots", "busy", "slots_set", "slots_default")}
    if text.is_terminal():
        line = f"{facts['slots']} slots, {facts['busy']} busy; {_explain(facts)}"
    else:
        line = f"{facts['slots']}\t{facts['busy']}\t{_source(facts)}"
    session.print_answer(line, facts)
    return 0


def _source(facts: Facts) -> str:
    if facts["slots_set"] is None:
        return "settings"
    return "set" if facts["slots"] == facts["slots_set"] else "limited"


def _explain(facts: Facts) -> str:
    """Return where the number of slots comes from."""
    source = _source(facts)
    if source == "settings":
        return "as in the settings"
    text = f"set by `taskq slots {facts['slots_set']}` (the settings have {facts['slots_default']})"
    return text if source == "set" else f"{text}, as many as the limit of descriptors allows"
