"""The language and the names of docs/style.md, counted in every file but the changelog and the decisions.

``python -m tests.test_style [PATH ...]`` prints each line that breaks a rule.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

EXEMPT = (
    "CHANGELOG.md",
    "bench/RESULTS.md",
    "bench/plots/",
    "docs/decisions/",
    "docs/style.md",
    "requirements/",
    "tests/stores/0",
    "tests/test_style.py",
)
"""Records of the past, and the two files that name the words."""

WORDS = (
    *("told", "so many", "so long", "nobody", "somebody", "whoever", "whomever", "takes? note", "take note"),
    *("bug of taskqd's", "anew", "lest", "mend(?:s|ed|ing)?", "deaf", "breathes?", "doomed", "has its turn"),
    *("of its own", "of their own", "as it is", "as they are", "lets? go of", "let go of"),
)
"""Words of a private language, in any case, also within identifiers."""

NAMES = r"(?:MOST|LONGEST|LARGEST|LOOK|SHORTEST|SMALLEST|HIGHEST|FEWEST)_[A-Z_]+|[A-Z_]+_AT_ONCE"
"""Prefixes of constants: limits are MAX_ and MIN_, periods _INTERVAL and _TIMEOUT."""

NOUN_CLAUSE = r'"""(?:What|Who|Whoever|Whom|Whose|Where)\b'
"""A docstring names its subject: it does not begin with a clause."""

MAX_TAKE_METHODS = 2
MAX_ANY = 5

_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)
_NAME = re.compile(rf"(?<![A-Z])(?:{NAMES})(?![A-Z])")
_CLAUSE = re.compile(NOUN_CLAUSE)
_ANY = re.compile(r"\b\w*(?:reactor|clock|transport)\w*: \"?Any\b")


def files(*suffixes: str) -> list[str]:
    """Return the text files of the checkout that the rules are about."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return [
        name
        for name in listed
        if name
        and not name.startswith(EXEMPT)
        and (CHECKOUT / name).is_file()
        and (not suffixes or name.endswith(suffixes))
    ]


def lines(pattern: re.Pattern[str], *suffixes: str) -> Iterator[str]:
    """Yield ``file:line: text`` of each line that matches."""
    for name in files(*suffixes):
        try:
            text = (CHECKOUT / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if pattern.search(line):
                yield f"{name}:{number}: {line.strip()[:120]}"


def take_methods() -> list[str]:
    """Return where methods called ``take`` are defined."""
    return [
        f"{name}:{node.lineno}"
        for name in files(".py")
        if name.startswith("taskqd/")
        for node in ast.walk(ast.parse((CHECKOUT / name).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "take"
    ]


def anys() -> list[str]:
    """Return where a reactor, a clock or a transport has no type but ``Any``."""
    return [line for line in lines(_ANY, ".py") if line.startswith("taskqd/")]


@pytest.mark.parametrize("pattern", [_WORD, _NAME, _CLAUSE], ids=["words", "names of limits", "docstrings"])
def test_text_is_in_plain_english(pattern: re.Pattern[str]) -> None:
    assert not list(lines(pattern))


def test_few_methods_are_called_take() -> None:
    assert len(take_methods()) <= MAX_TAKE_METHODS


def test_reactor_clock_and_transport_have_their_interfaces_as_types() -> None:
    assert len(anys()) <= MAX_ANY


def test_types_are_published() -> None:
    assert (CHECKOUT / "taskqd" / "py.typed").exists()


def main(paths: list[str]) -> None:
    """Print what breaks a rule, in the files under ``paths`` or in all."""
    found = [line for pattern in (_WORD, _NAME, _CLAUSE) for line in lines(pattern)]
    for line in [*found, *take_methods(), *anys()]:
        if not paths or line.startswith(tuple(paths)):
            print(line)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
