"""Imports go down only: the floors of ``tests/floors.py``, held by reading every import of taskqd."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.floors import BESIDE, DOORS, FLOORS, LATE, floor

PACKAGE = Path(__file__).parent.parent / "taskqd"

IMPURE = {
    *("twisted", "zope", "asyncio", "threading", "select", "selectors", "subprocess"),
    *("time", "sched", "random", "secrets", "uuid"),
    *("os", "io", "pathlib", "tempfile", "shutil", "glob", "fcntl", "mmap", "socket", "ssl"),
}
"""What floor 0 does not import: they wait, ask a clock or chance, or touch files. ``os.path`` only joins."""

IMPURE_CALLS = {
    "open",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
}

SERIALIZERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}


def room(file: Path) -> str:
    """Return the name under which a file stands in the table: its module, or the package that it is in."""
    name = str(file.relative_to(PACKAGE).with_suffix(""))
    return name if name in LATE else name.partition("/")[0]


FILES = {
    file: ast.parse(file.read_text("utf-8"), str(file))
    for file in sorted(PACKAGE.rglob("*.py"))
    if file != PACKAGE / "__init__.py"
}
ROOMS = sorted({room(file) for file in FILES})
LISTED = {*BESIDE, *LATE, *(module for modules in FLOORS for module in modules)}


def imported(file: Path) -> Iterator[str]:
    """Yield each dotted name that a file imports, wherever in it, as ``package.module.name``."""
    here = ["taskqd", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = here[: len(here) - node.level + 1] if node.level else []
            origin = [*origin, *([node.module] if node.module else [])]
            yield from (".".join([*origin, name.name]) for name in node.names)


def imports_of(name: str) -> set[str]:
    """Return the dotted names that the files of a room import."""
    return {found for file in FILES if room(file) == name for found in imported(file)}


def rooms_below(name: str) -> set[str]:
    """Return the other rooms of taskqd that a room imports."""
    parts = (found.split(".") for found in imports_of(name))
    found = {words[1] for words in parts if words[0] == "taskqd" and len(words) > 1}
    return (found & set(ROOMS)) - {name}


def packages_of(name: str) -> set[str]:
    """Return the packages that a room and all that it imports of taskqd import."""
    seen = {name}
    todo = [name]
    while todo:
        todo += (new := rooms_below(todo.pop()) - seen)
        seen |= new
    return {found.split(".")[0] for each in seen for found in imports_of(each)}


def test_every_module_has_its_floor() -> None:
    assert set(ROOMS) <= LISTED, "add the new module to its floor in tests/floors.py"


def test_every_listed_module_is_there() -> None:
    assert set(ROOMS) >= LISTED, "take the module that is gone out of tests/floors.py"


@pytest.mark.parametrize("name", [name for name in ROOMS if name not in (*BESIDE, *LATE)])
def test_imports_go_down_only(name: str) -> None:
    mine = floor(name)
    assert mine is not None, f"{name} is on no floor of tests/floors.py"
    for other in rooms_below(name):
        theirs = floor(other)
        assert theirs is not None, f"{name} imports {other}, which is on no floor"
        assert theirs <= mine, f"{name} on floor {mine} imports {other} on floor {theirs}"


def test_no_import_goes_in_a_circle() -> None:
    TopologicalSorter({name: rooms_below(name) for name in ROOMS}).prepare()


@pytest.mark.parametrize("name", FLOORS[0])
def test_floor_0_is_pure(name: str) -> None:
    found = {found for found in imports_of(name) if found.split(".")[0] in IMPURE}
    assert found <= {"os.path"}, f"{name} is on floor 0: no Twisted, no clock, no files"


@pytest.mark.parametrize("name", FLOORS[0])
def test_floor_0_opens_no_file_and_asks_no_clock(name: str) -> None:
    calls = (
        ast.unparse(node.func)
        for file, tree in FILES.items()
        if room(file) == name
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )
    assert not IMPURE_CALLS & set(calls)


@pytest.mark.parametrize("door", DOORS)
def test_doors_know_each_other_by_their_interfaces_only(door: tuple[str, ...]) -> None:
    others = {name for names in DOORS if names != door for name in names}
    for name in door:
        assert not rooms_below(name) & others, name


@pytest.mark.parametrize("name", BESIDE)
def test_the_client_starts_without_the_daemon(name: str) -> None:
    assert rooms_below(name) <= {*BESIDE, *FLOORS[0]}
    assert not packages_of(name) & {"twisted", "zope", "msgspec"}


@pytest.mark.parametrize("name", LATE)
def test_what_reads_the_files_of_the_daemon_needs_none_of_its_machinery(name: str) -> None:
    assert rooms_below(name) <= {*BESIDE, *FLOORS[0], "disk", "segments", "private", "token_file"}
    assert not packages_of(name) & {"twisted", "zope"}


@pytest.mark.parametrize("name", LATE)
def test_what_is_slow_to_load_is_loaded_only_within_a_function(name: str) -> None:
    dotted = "taskqd." + name.replace("/", ".")
    for file, tree in FILES.items():
        at_once = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not [line for line in at_once if dotted in line], file


def test_the_reactor_is_imported_only_where_the_daemon_is_put_together() -> None:
    importers = {room(file) for file in FILES if "twisted.internet.reactor" in imported(file)}
    assert importers <= {"service"}


def test_nothing_is_pickled() -> None:
    assert not {file.name for file in FILES for name in imported(file) if name.split(".")[0] in SERIALIZERS}
