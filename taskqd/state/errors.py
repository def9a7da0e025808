"""Errors of the state."""

from taskqd.model.events import RecordPosition


class InvalidTransition(Exception):
    """An event is not possible for its job or schedule: a bug, or a journal that was edited by hand.

    ``position`` is where the journal has it, None if that is not known.
    """

    position: RecordPosition | None = None
