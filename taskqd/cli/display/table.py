"""A table of cells with colours for a terminal; to import the one of rich takes as long as Python itself."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_CODES = {"": "", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
"""The codes of the styles for the escape sequence SGR."""
GAP = "  "
ELLIPSIS = "…"


def cell_len(text: str) -> int:
    """Return how many columns of the terminal a text needs."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len as cell_len_of_any  # noqa: PLC0415 - only needed here

    return cell_len_of_any(text)


class Cell:
    """A line of text whose parts have styles."""

    def __init__(self, text: str = "", style: str = "") -> None:
        self.parts = [(text, style)] if text else []

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.parts)

    @property
    def width(self) -> int:
        """How many columns of the terminal the text needs."""
        return cell_len(self.plain)

    def append(self, text: str, style: str = "") -> None:
        """Add text."""
        self.parts.append((text, style))

    def extend(self, other: "Cell") -> None:
        """Add the text of another cell, with its styles."""
        self.parts.extend(other.parts)

    def truncate(self, width: int) -> None:
        """Cut the text to a width, with an ellipsis in place of the rest."""
        if self.width <= width:
            return
        left = width - cell_len(ELLIPSIS)
        parts = []
        for text, style in self.parts:
            end = len(text)
            while cell_len(text[:end]) > left:
                end -= 1 if cell_len(text[:end]) - left < 8 else (cell_len(text[:end]) - left) // 2
            parts.append((text[:end], style))
            left -= cell_len(text[:end])
            if end < len(text):
                break
        self.parts = [*parts, (ELLIPSIS, parts[-1][1])]

    def render(self, has_colours: bool) -> str:
        """Return the text, with escape sequences for its styles if ``has_colours``."""
        if not has_colours:
            return self.plain
        return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text for text, style in self.parts)


class Header(NamedTuple):
    """The title of a column, and whether its cells are numbers, which are aligned at the right."""

    title: str
    is_number: bool


class Table:
    """Rows of cells below titles, up to ``width`` columns of the terminal; the last cell of a row is cut."""

    def __init__(self, headers: Sequence[Header], rows: Sequence[Sequence[Cell]], width: int) -> None:
        self.headers = headers
        self._rows = rows
        self._width = width

    def lines(self, has_colours: bool) -> Iterator[str]:
        """Yield the lines, the titles first."""
        rows = [[Cell(header.title, "bold") for header in self.headers], *self._rows]
        widths = [max(cell.width for cell in column) for column in zip(*rows, strict=True)]
        for row in rows:
            line = Cell()
            for cell in self._padded(row, widths):
                line.extend(cell)
            line.truncate(self._width)
            yield line.render(has_colours).rstrip()

    def _padded(self, row: Sequence[Cell], widths: Iterable[int]) -> Iterator[Cell]:
        """Yield the cells of a row and the blanks between them."""
        last = row[-1]
        for cell, header, width in zip(row, self.headers, widths, strict=True):
            blanks = Cell(" " * (width - cell.width))
            yield from (blanks, cell) if header.is_number else (cell, blanks) if cell is not last else (cell,)
            if cell is not last:
                yield Cell(GAP)
