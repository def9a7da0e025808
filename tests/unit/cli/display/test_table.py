"""Cells with styles, and tables of them."""

import pytest

from taskqd.cli.display.table import Cell, Header, Table


def two_parts() -> Cell:
    cell = Cell("FAILED", "red")
    cell.append(" timeout", "dim")
    return cell


@pytest.mark.parametrize(
    "width,plain",
    [(20, "FAILED timeout"), (14, "FAILED timeout"), (13, "FAILED timeo…"), (7, "FAILED…"), (3, "FA…")],
)
def test_cell_is_cut_to_a_width(width: int, plain: str) -> None:
    cell = two_parts()
    cell.truncate(width)
    assert (cell.plain, cell.width) == (plain, len(plain))


@pytest.mark.parametrize("width", range(1, 12))
def test_wide_characters_count_twice(width: int) -> None:
    cell = Cell("日本語の名前")
    assert cell.width == 12
    cell.truncate(width)
    assert cell.width in (width, width - 1)
    assert cell.plain.endswith("…")


def test_long_text_is_cut_quickly_and_exactly() -> None:
    cell = Cell("é" + "x" * 100_000)
    cell.truncate(50)
    assert cell.plain == "é" + "x" * 48 + "…"


def test_cell_has_escape_sequences_only_with_colours() -> None:
    assert two_parts().render(has_colours=False) == "FAILED timeout"
    assert two_parts().render(has_colours=True) == "\x1b[31mFAILED\x1b[0m\x1b[2m timeout\x1b[0m"


def test_table_aligns_numbers_right_and_cuts_the_last_column() -> None:
    headers = [Header("id", True), Header("日本", False), Header("command", False)]
    rows = [[Cell("7"), Cell("x"), Cell("make")], [Cell("1234"), Cell(""), Cell("c" * 30)]]
    assert list(Table(headers, rows, 20).lines(has_colours=False)) == [
        "  id  日本  command",
        "   7  x     make",
        "1234        ccccccc…",
    ]


def test_line_of_a_table_has_no_blanks_at_its_end() -> None:
    table = Table([Header("a", False), Header("b", False)], [[Cell("one"), Cell()]], 80)
    assert list(table.lines(has_colours=False)) == ["a    b", "one"]
