"""The manual page, which is generated from the help."""

import re
import subprocess

import pytest

from taskqd.cli import app, manual
from tests.support.cli_calls import Call, a_call, plain_environment  # noqa: F401 - these are fixtures

REQUESTS = {".TH", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".B", ".BR", ".nf", ".fi"}


@pytest.fixture(scope="module")
def page() -> str:
    return manual.page(app.taskq)


def test_manual_prints_the_page(call: Call, page: str) -> None:
    assert call("manual") == (0, page.encode() + b"\n", "")
    assert call("manual", "--json").documents == [{"manual": page}]


@pytest.mark.parametrize("name", [name for names in app.SECTIONS.values() for name in names])
def test_page_has_every_command(page: str, name: str) -> None:
    assert f"\n\\fBtaskq {name.replace('-', chr(92) + '-')}\\fR" in page


def test_page_has_every_section_of_the_help(page: str) -> None:
    assert re.findall(r"^\.SS (.*)$", page, re.MULTILINE) == list(app.SECTIONS)


def test_page_has_only_known_requests(page: str) -> None:
    assert {line.split(" ")[0] for line in page.split("\n") if line.startswith((".", "'"))} == REQUESTS


@pytest.mark.parametrize(
    "text,roff",
    [
        ("a-b `taskq why` c\n  d", [".PP", r"a\-b \fBtaskq why\fR c d"]),
        (".x", [".PP", r"\&.x"]),
        ("one\n\ntwo", [".PP", "one", ".PP", "two"]),
        (
            "\b\nExample:\n  printf '%s\\n' ~ ^",
            [".PP", ".nf", "Example:", r"  printf \(aq%s\en\(aq \(ti \(ha", ".fi"],
        ),
        ("\b\n.x\n'y", [".PP", ".nf", r"\&.x", r"\(aqy", ".fi"]),
    ],
)
def test_prose_is_converted_to_roff(text: str, roff: list[str]) -> None:
    assert list(manual.prose_to_roff(text)) == roff


@pytest.mark.needs("groff")
def test_groff_renders_page_without_warnings(page: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou"], input=page, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "taskq submit [OPTIONS] [COMMAND]..." in done.stdout
    assert re.search(r"--queue NAME\n +Queue of the job\.", done.stdout)
    assert r"convert \"$TASKQ_INDEX.png\"".replace("\\", "") in done.stdout
