"""docs/runner.md describes every message, and its examples are valid."""

import re
import typing
from pathlib import Path

import pytest
from msgspec import inspect

from taskqd.execution.messages import Message, ToDaemon, ToRunner, decode_to_daemon, decode_to_runner
from taskqd.model.events import Output
from taskqd.model.job import Usage

PAGE = (Path(__file__).parents[1] / "docs" / "runner.md").read_text("utf-8")
KEY = {"id", "attempt", "word"}
KINDS = typing.get_args(ToRunner | ToDaemon)


def rows() -> dict[str, set[str]]:
    """Return the fields that the tables of the page give to each message; K stands for those of a key."""
    found: dict[str, set[str]] = {}
    kind = ""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or cells[0] in ("`t`", "---"):
            continue
        kind = cells[0].strip("`") or kind
        names = set(re.findall(r"`(\w+)`", cells[1]))
        found.setdefault(kind, set()).update(names | (KEY if re.search(r"\bK\b", cells[1]) else set()))
    return found


def fields(kind: type) -> set[str]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return {field.encode_name for field in described.fields}


def test_page_has_every_message() -> None:
    assert set(rows()) == {kind.__struct_config__.tag for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_page_has_every_field_of_a_message(kind: type[Message]) -> None:
    assert rows()[str(kind.__struct_config__.tag)] == fields(kind)


@pytest.mark.parametrize("kind", [Output, Usage])
def test_page_has_every_field_of_output_and_usage(kind: type) -> None:
    assert [name for name in fields(kind) if f"`{name}`" not in PAGE] == []


def test_messages_of_the_example_are_valid() -> None:
    decoders = {">": decode_to_runner, "<": decode_to_daemon}
    lines = re.findall(r"^    ([<>]) (\{.*\})$", PAGE, re.MULTILINE)
    tags = [type(decoders[side](line.encode())).__name__ for side, line in lines]
    assert tags == ["Hello", "Welcome", "Start", "Spawned", "Ended", "Ack"]
