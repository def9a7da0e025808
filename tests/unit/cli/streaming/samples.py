"""Replies for the tests of follow and watch."""

from collections.abc import Iterator

from taskqd.client import reconnect

DONE = b"STATUS COMPLETED 100\r\n"

LOST = f"taskq: {reconnect.CONNECTION_LOST}\ntaskq: {reconnect.RECONNECTED}\n"


def cut(*parts: bytes) -> Iterator[bytes]:
    """Yield parts of a reply, then close the connection."""
    yield from parts
    raise ConnectionError
