"""A blocking client for scripts: one method per verb, plain values as results (docs/protocol.md §3).

::

    from taskqd.client import Client

    with Client("unix:/run/taskqd/taskq.sock") as client:
        job = client.submit("make -j4", timeout=3600, retries=2)
        client.wait(job)
        print(client.result(job).exit_code)

It needs only the standard library, so that importing it is fast.
"""

from taskqd.client.acts import ActFilters
from taskqd.client.address import Unreachable, Untrusted, parse_address
from taskqd.client.client import Client, Filters
from taskqd.client.decoder import Ended, Facts, LogPage, LogPiece, Output, Refused, Result, Shutdown, Status
from taskqd.client.discovery import find_address
from taskqd.client.encoder import Changes, Options, Recurring, Ref

__all__ = [
    "ActFilters",
    "Changes",
    "Client",
    "Ended",
    "Facts",
    "Filters",
    "LogPage",
    "LogPiece",
    "Options",
    "Output",
    "Recurring",
    "Ref",
    "Refused",
    "Result",
    "Shutdown",
    "Status",
    "Unreachable",
    "Untrusted",
    "find_address",
    "parse_address",
]
