"""Links, files and modules that README.md and docs/ name must exist."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PAGES = [
    *(CHECKOUT / name for name in ("README.md", "CHANGELOG.md", "bench/RESULTS.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
RECORDS = ("CHANGELOG.md", "bench/RESULTS.md", "docs/decisions/", "docs/style.md")
"""They may name files that no longer exist."""

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:taskqd|tests|docs|bench|bin|etc|share|demo|requirements)/[\w./-]+)`")
_MODULE = re.compile(
    r"`((?:model|protocol|config|state|storage|execution|runner|auth|engine|server|speedups|daemon|client|cli)"
    r"(?:[./]\w+)+)`"
)


def page_name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def is_broken(link: str, page: Path) -> bool:
    if re.match(r"https?:|mailto:", link):
        return False
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_page_has_no_broken_relative_link(page: Path) -> None:
    links = _LINK.findall(page.read_text("utf-8"))
    assert [link for link in links if is_broken(link, page)] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if not page_name(page).startswith(RECORDS)], ids=page_name
)
def test_page_names_only_existing_files(page: Path) -> None:
    files = _FILE.findall(page.read_text("utf-8"))
    assert [file for file in files if not (CHECKOUT / file).exists()] == []


@pytest.mark.parametrize("name", ["architecture", "speedups"])
def test_page_names_only_existing_modules(name: str) -> None:
    modules = _MODULE.findall((CHECKOUT / "docs" / f"{name}.md").read_text("utf-8"))
    missing = []
    for module in modules:
        path = CHECKOUT / "taskqd" / module.replace(".", "/")
        has_definition = path.parent.with_suffix(".py").exists() and path.name in path.parent.with_suffix(
            ".py"
        ).read_text("utf-8")
        if not (path.is_dir() or path.with_suffix(".py").exists() or has_definition):
            missing.append(module)
    assert missing == []


def test_every_decision_is_in_the_index() -> None:
    folder = CHECKOUT / "docs" / "decisions"
    listed = set(_LINK.findall((folder / "README.md").read_text("utf-8")))
    assert {page.name for page in folder.glob("0*.md")} - listed == set()
