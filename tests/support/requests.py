"""Requests to a Router in memory, and their replies."""

import json
from typing import Any

from twisted.internet.defer import maybeDeferred

from taskqd.protocol import parser
from tests.fakes.client import FakeClient
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness


def opened(slots: int = 2) -> Harness:
    harness = Harness(slots)
    harness.engine.start()
    return harness


def ask(
    harness: Harness, line: str, client: FakeClient | None = None, blocks: list[bytes] | None = None
) -> Any:
    """Return the Deferred of the reply to a request."""
    request = parser.parse_line(line.encode())
    return maybeDeferred(harness.router.handle, client or FakeClient(), request, blocks or [])


def answer(harness: Harness, line: str) -> str:
    """Return the reply to a request once everything is durable."""
    replied = ask(harness, line)
    harness.settle()
    return bytes(result_of(replied)).decode()


def answer_of(harness: Harness, line: str, client: FakeClient) -> str:
    """Return the reply to a client that is answered at once."""
    return bytes(result_of(ask(harness, line, client))).decode()


def refusal(harness: Harness, line: str, client: FakeClient | None = None) -> BaseException:
    return error_of(ask(harness, line, client))


def shown(harness: Harness, line: str) -> Any:
    """Return the JSON document of a reply."""
    return json.loads(answer(harness, line).split(" ", 1)[1])


def whole_answer(harness: Harness, line: str, client: FakeClient | None = None) -> list[str]:
    """Return the lines of a reply that is sent in parts."""
    client = client or FakeClient()
    end = result_of(ask(harness, line, client))
    return (client.sent + bytes(end)).decode().splitlines(keepends=True)


def listed(harness: Harness, line: str) -> tuple[list[int], str]:
    """Return the ids that LIST returns, and its last line."""
    *lines, end = whole_answer(harness, line)
    return [json.loads(text.removeprefix("JOB "))["id"] for text in lines], end
