"""Types and replies for the tests of the client."""

from collections.abc import Callable

from taskqd.client import Client
from tests.fakes.daemon import Request

Serve = Callable[..., tuple[Client, list[Request]]]

COMPLETED = b"STATUS COMPLETED 100\r\n"
