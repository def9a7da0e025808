"""Lists in the order of starts or ends, and what takes their place with a daemon before 0.9."""

from collections.abc import Sequence

from taskqd.cli.statuses import FINISHED
from taskqd.client import Client, Facts, Refused


def list_in_line(client: Client, count: int) -> Sequence[Facts]:
    """Return the pending jobs that start next; of a daemon before 0.9, those with the lowest ids."""
    try:
        return client.list(order="start", limit=count)
    except Refused as refusal:
        _check_is_old(refusal)
        return client.list(status="PENDING", limit=count)


def list_latest_ended(client: Client, count: int) -> Sequence[Facts]:
    """Return the jobs that ended last, latest first; of a daemon before 0.9, those with the highest ids."""
    try:
        return client.list(order="ended", limit=count)
    except Refused as refusal:
        _check_is_old(refusal)
        return client.list(status=",".join(FINISHED), limit=count, reverse=True)


def _check_is_old(refusal: Refused) -> None:
    """Raise a refusal again, unless the daemon does not know the order of a list."""
    if refusal.code != "BAD_REQUEST":
        raise refusal
