"""The table of commands and their help."""

import re

import pytest

from taskqd.cli import app
from tests.support.cli_calls import Call, a_call, plain_environment  # noqa: F401 - these are fixtures


def test_help_lists_every_command_in_its_section(call: Call) -> None:
    shown = call("--help").stdout.decode()
    at = [shown.index(f"\n{title}:\n") for title in app.SECTIONS]
    assert at == sorted(at)
    for names in app.SECTIONS.values():
        assert all(f"\n  {name} " in shown for name in names)


def test_help_does_not_truncate_summaries(call: Call) -> None:
    assert not re.search(r"^  [a-z].*\.\.\.$", call("--help").stdout.decode(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for names in app.SECTIONS.values() for name in names])
def test_every_command_has_a_help(call: Call, name: str) -> None:
    assert call(name, "--help").code == 0


def test_every_defined_command_is_in_a_section(call: Call) -> None:
    call("--help")
    assert set(app.taskq.commands) == {name for names in app.SECTIONS.values() for name in names}
