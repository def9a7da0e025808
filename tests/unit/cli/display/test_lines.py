"""Sanitized lines and ages."""

import pytest

from taskqd.cli.display import text as terminal


@pytest.mark.parametrize(
    "text,shown",
    [
        ("plain ü €", "plain ü €"),
        ("\x1b[2J", r"\x1B[2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b1m\x7f\0", r"\x9B1m\x7F\x00"),
        ("\u202egnp.exe", r"\u202Egnp.exe"),
        ("\ud800", r"\uD800"),
    ],
)
def test_sanitize_line_escapes_control_characters(text: str, shown: str) -> None:
    assert terminal.sanitize_line(text) == shown


@pytest.mark.parametrize(
    "at,text",
    [
        ("1970-01-12T13:46:40.000Z", "0 s"),
        ("1970-01-12T13:46:41.500Z", "0 s"),
        ("1970-01-12T13:46:00Z", "40 s"),
        ("1970-01-12T13:00:00Z", "46 min"),
        ("1970-01-12T01:00:00Z", "12 h"),
        ("1970-01-01T00:00:00Z", "11 d"),
    ],
)
def test_age_uses_the_largest_unit(at: str, text: str) -> None:
    assert terminal.age(at, 1_000_000.0) == text
