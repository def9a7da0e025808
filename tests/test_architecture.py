"""The packages of taskqd and what each may import; docs/architecture.md describes them.

``python -m tests.test_architecture`` prints the packages, the edges between them, and any cycle.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "taskqd"

MAY_IMPORT = {
    "errors": set[str](),
    "speedups": {"errors"},
    "model": {"errors"},
    "protocol": {"errors", "model"},
    "config": {"errors", "model", "protocol"},
    "state": {"errors", "model", "config"},
    "storage": {"errors", "model"},
    "execution": {"errors", "model", "storage"},
    "runner": {"errors", "model", "storage", "execution", "config.paths", "speedups.byte_socket"},
    "auth": {"errors", "model", "protocol", "config", "state", "storage"},
    "access": {"auth"},
    "engine": {"errors", "model", "config", "state", "storage", "execution"},
    "server": {"errors", "model", "protocol", "config", "state", "storage", "auth", "engine"},
    "client": {"errors", "protocol.values", "config.paths"},
    "cli": {
        "errors",
        "protocol.values",
        "config.paths",
        "model.durations",
        "model.sizes",
        "model.time_zones",
        "client",
        "cli.offline",
    },
    "cli.offline": {"errors", "model", "protocol.values", "config.paths", "state", "storage", "auth", "cli"},
}
"""For each package, the packages and modules that it may import; ``daemon`` may import all but ``client``."""

PURE = ("errors", "model", "protocol", "config", "state")
"""They wait for nothing, ask no clock and no source of chance, and touch no files."""

IMPURE = {
    *("twisted", "zope", "asyncio", "threading", "select", "selectors", "subprocess"),
    *("time", "sched", "random", "secrets", "uuid"),
    *("os", "io", "pathlib", "tempfile", "shutil", "glob", "fcntl", "mmap", "socket", "ssl"),
}
"""The modules that a pure package does not import. ``os.path`` is allowed: it only joins names."""

IMPURE_CALLS = {
    "open",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
}

SERIALIZERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}


def module_of(file: Path) -> str:
    """Return the dotted name of a file's module without ``taskqd.``, "" for ``taskqd`` itself."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_of(file): ast.parse(file.read_text("utf-8"), str(file)) for file in sorted(SOURCE.rglob("*.py"))
}
MODULES = sorted(TREES)


def is_within(module: str, package: str) -> bool:
    """Whether a module is a package or lies within it."""
    return module == package or module.startswith(package + ".")


def package_of(module: str) -> str:
    """Return the package of a module: its first part, ``cli.offline`` for what is loaded late."""
    return "cli.offline" if is_within(module, "cli.offline") else module.partition(".")[0]


def names_imported(tree: ast.AST) -> Iterator[str]:
    """Yield each dotted name that a module imports, at its top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules_imported(module: str) -> set[str]:
    """Return the modules of taskqd that a module imports."""
    found = set()
    for name in names_imported(TREES[module]):
        top, _, rest = name.partition(".")
        if top == "taskqd":
            found.add(rest if rest in TREES else rest.rpartition(".")[0])
    return found - {"", module}


EDGES = {module: modules_imported(module) for module in MODULES}


def package_edges() -> dict[str, set[str]]:
    """Return for each package the other packages that it imports."""
    edges: dict[str, set[str]] = {package_of(module): set() for module in MODULES if module}
    for module, imported in EDGES.items():
        if module:
            edges[package_of(module)] |= {package_of(other) for other in imported}
    return {package: others - {package} for package, others in edges.items()}


def modules_of(package: str) -> list[str]:
    return [module for module in MODULES if package_of(module) == package]


def loaded_by(module: str) -> set[str]:
    """Return the top names of all packages that are loaded when a module is."""
    seen = {module}
    todo = [module]
    while todo:
        new = EDGES[todo.pop()] - seen
        seen |= new
        todo += new
    return {name.partition(".")[0] for each in seen for name in names_imported(TREES[each])}


def cycle_of(edges: dict[str, set[str]]) -> list[str]:
    """Return the nodes of a cycle, an empty list if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_the_table_allows(package: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module in modules_of(package)
        for other in EDGES[module]
        if package_of(other) != package and not any(is_within(other, each) for each in MAY_IMPORT[package])
    ]
    assert not wrong


def test_every_package_is_in_the_table() -> None:
    assert {package_of(module) for module in MODULES if module} == {*MAY_IMPORT, "daemon"}


def test_packages_have_no_cycle() -> None:
    assert not cycle_of({a: b - {"cli"} if a == "cli.offline" else b for a, b in package_edges().items()})


def test_modules_have_no_cycle() -> None:
    assert not cycle_of(EDGES)


@pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) in PURE])
def test_pure_module_waits_for_nothing_and_touches_no_file(module: str) -> None:
    impure = {name for name in names_imported(TREES[module]) if name.partition(".")[0] in IMPURE}
    assert impure <= {"os.path"}
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    assert not IMPURE_CALLS & calls


@pytest.mark.parametrize("module", [*modules_of("client"), *modules_of("cli"), *modules_of("cli.offline")])
def test_command_loads_no_twisted(module: str) -> None:
    late = package_of(module) == "cli.offline" or "cli.offline" in {
        package_of(each) for each in EDGES[module]
    }
    assert not loaded_by(module) & {"twisted", "zope", *(() if late else ("msgspec",))}


@pytest.mark.parametrize("module", modules_of("cli"))
def test_offline_commands_are_imported_only_within_a_function(module: str) -> None:
    at_once = [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in at_once for name in names_imported(node)}
    assert not [name for name in names if is_within(name, "taskqd.cli.offline")]


def test_package_docstring_is_all_that_an_init_file_holds() -> None:
    inits = [module for module in MODULES if (SOURCE / module.replace(".", "/") / "__init__.py").exists()]
    public = {"", "client", "cli"}
    assert not [module for module in inits if module not in public and len(TREES[module].body) != 1]


def test_reactor_is_imported_only_where_the_daemon_is_put_together() -> None:
    importers = {module for module in MODULES if "twisted.internet.reactor" in names_imported(TREES[module])}
    assert importers <= {"daemon.tap", "runner.main"}


def test_nothing_is_pickled() -> None:
    assert not [
        module
        for module in MODULES
        for name in names_imported(TREES[module])
        if name.partition(".")[0] in SERIALIZERS
    ]


def main() -> None:
    """Print the packages, what each imports, and the cycles."""
    edges = package_edges()
    print(f"{len(MODULES)} modules, {sum(map(len, EDGES.values()))} imports between them")  # noqa: T201
    for package, others in edges.items():
        print(f"{package} ({len(modules_of(package))}) -> {', '.join(sorted(others)) or 'nothing'}")  # noqa: T201
    print(f"cycles of modules: {cycle_of(EDGES) or 'none'}")  # noqa: T201


if __name__ == "__main__":
    main()
