"""The picture of ``taskq top`` in README shows what ``taskq top`` shows now."""

import re
from html import unescape
from pathlib import Path

from demo import picture


def texts_of(svg: Path) -> list[str]:
    """Return the texts of a picture, from the top."""
    return [
        unescape(text).replace("\xa0", " ").strip()
        for text in re.findall("<text [^>]*>(.*?)</text>", svg.read_text("utf-8"))
    ]


def test_picture_made_again_has_the_same_text(tmp_path: Path) -> None:
    picture.draw(picture.lines(), tmp_path / "top.svg")
    assert texts_of(tmp_path / "top.svg") == texts_of(picture.TARGET)


def test_readme_shows_the_picture_which_loads_nothing_from_elsewhere() -> None:
    assert "](docs/top.svg)" in (picture.TARGET.parents[1] / "README.md").read_text("utf-8")
    svg = picture.TARGET.read_text("utf-8")
    assert re.findall('https?://[^"\\s]*', svg) == ["http://www.w3.org/2000/svg", "https://www.textualize.io"]
    assert "url(" not in svg.replace("url(#", "")
