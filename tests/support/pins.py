"""Makes and checks the pins in ``requirements/``, one file per set and Python, from pyproject.toml by uv.

``bin/lock`` runs this module. A set that is added to ``SETS`` gets its files at the next ``bin/lock``. The
check reads only the files and pyproject.toml, so it needs no network. It covers direct dependencies; pip
checks that the others are pinned when it installs them with ``--require-hashes``.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # in the set "lock", and a dependency of taskqd

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "requirements"

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

SETS: Mapping[str, tuple[str, ...]] = {
    "test": ("dependencies", "test", "lint"),
    "run": ("dependencies",),
    "build": ("build-system",),
    "lock": ("lock",),
    "snakemake": ("snakemake",),
}
"""The groups that each set pins: the project's dependencies, its build system, or extras of pyproject.toml.

The first set is resolved first, and the others use its versions, so that any two sets install together.
"""

HEADER = """\
# Made by bin/lock from pyproject.toml, for {name} on Python {python}. Do not edit.
# digest: {digest}
"""
"""The first lines of each file, with the digest of the requirements that uv resolved."""

PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)((?: --hash=sha256:[0-9a-f]{64})+)")


def requirements_of(groups: tuple[str, ...], pyproject: Mapping[str, Any]) -> list[str]:
    """Return the sorted requirements of groups of pyproject.toml (see ``SETS``), own extras expanded."""
    project = pyproject["project"]
    lines: dict[str, list[str]] = {
        **project["optional-dependencies"],
        "dependencies": project["dependencies"],
        "build-system": pyproject["build-system"]["requires"],
    }

    def expand(group: str) -> Iterator[str]:
        for line in lines[group]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == canonicalize_name(project["name"]):
                for extra in requirement.extras:
                    yield from expand(extra)
            else:
                yield line

    return sorted({line for group in groups for line in expand(group)})


def digest_of(requirements: list[str]) -> str:
    """Return the digest of a set's requirements for the header of its files."""
    return hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:32]


def header(name: str, python: str, pyproject: Mapping[str, Any]) -> str:
    """Return the first lines of the file of a set for a Python."""
    return HEADER.format(name=name, python=python, digest=digest_of(requirements_of(SETS[name], pyproject)))


def pins_of(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the pinned versions of a file by name, and the lines that are not a pin with a hash."""
    lines = [line for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if not line.startswith("#")]
    found = [(line, PIN.fullmatch(line.strip())) for line in lines if line.strip()]
    pins: dict[str, str] = {canonicalize_name(match[1]): match[2] for _, match in found if match}
    return pins, [line for line, match in found if not match]


def complaints(pyproject: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
    """Return a line for each problem in ``files``, the texts of ``requirements/`` by name."""
    wanted = {f"{name}-{python}.txt": (name, python) for python in PYTHONS for name in SETS}
    found = [
        f"requirements/{file} belongs to no set of tests/support/pins.py"
        for file in sorted(files.keys() - wanted)
    ]
    for file, (name, python) in wanted.items():
        if file not in files:
            found.append(f"requirements/{file} is missing")
            continue
        if not files[file].startswith(header(name, python, pyproject)):
            found.append(f"requirements/{file} was made from another pyproject.toml")
        pins, others = pins_of(files[file])
        found += [
            f"requirements/{file} has a line that is not a pin with a hash: {line[:80]}" for line in others
        ]
        found += [
            f"requirements/{file} {problem}"
            for line in requirements_of(SETS[name], pyproject)
            for problem in _problems(Requirement(line), python, pins)
        ]
        first = f"{next(iter(SETS))}-{python}.txt"
        shared = pins_of(files.get(first, ""))[0]
        found += [
            f"requirements/{file} pins {package} {version}, and requirements/{first} {shared[package]}"
            for package, version in pins.items()
            if shared.get(package, version) != version
        ]
    return found


def _problems(requirement: Requirement, python: str, pins: Mapping[str, str]) -> Iterator[str]:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    if requirement.marker and not requirement.marker.evaluate(environment):
        return
    version = pins.get(canonicalize_name(requirement.name))
    if version is None:
        yield f"has no pin of {requirement.name}"
    elif not requirement.specifier.contains(version, prereleases=True):
        yield f"pins {requirement.name} {version}, and pyproject.toml requires {requirement}"


def resolve(requirements: list[str], python: str, *options: str | Path) -> None:
    """Resolve requirements for a Python by uv, with further ``options``, such as the output file."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-config",
        "--no-python-downloads",
    ]
    command += ["--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--python-platform", "linux", "--python-version", python, *map(str, options), "-"]
    done = subprocess.run(
        command, input="\n".join(requirements).encode(), stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(f"bin/lock: uv could not resolve the requirements for Python {python}; see above")


def make(pyproject: Mapping[str, Any], *, upgrade: bool) -> None:
    """Write all files. Pins that still fit are kept, unless ``upgrade`` requests the newest versions."""
    FOLDER.mkdir(exist_ok=True)
    first = next(iter(SETS))
    for python in PYTHONS:
        for name in SETS:
            file = FOLDER / f"{name}-{python}.txt"
            options: list[str | Path] = ["--generate-hashes", "--output-file", file]
            if upgrade:
                options.append("--upgrade")
            if name != first:
                options += ["--constraints", FOLDER / f"{first}-{python}.txt"]
            resolve(requirements_of(SETS[name], pyproject), python, *options)
            file.write_text(header(name, python, pyproject) + file.read_text())
    for file in FOLDER.glob("*.txt"):
        if file.stem.partition("-")[0] not in SETS or file.stem.partition("-")[2] not in PYTHONS:
            file.unlink()


def main(arguments: list[str]) -> None:
    """Make the pins, the newest ones with ``--upgrade``; with ``--check`` only print the problems.

    ``--lowest PYTHON FILE`` writes the lowest versions that pyproject.toml allows for running, testing and
    building with a Python.
    """
    pyproject = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    match arguments:
        case [] | ["--upgrade"]:
            make(pyproject, upgrade=bool(arguments))
        case ["--lowest", python, file]:
            asked = requirements_of(("dependencies", "test", "build-system"), pyproject)
            resolve(asked, python, "--resolution", "lowest-direct", "--output-file", file)
            return
        case ["--check"]:
            pass
        case _:
            sys.exit(f"bin/lock: expected nothing, --check or --upgrade, not {' '.join(arguments)}")
    found = complaints(pyproject, {file.name: file.read_text() for file in FOLDER.glob("*")})
    if found:
        sys.exit(
            "\n".join([*found, "bin/lock: requirements/ is out of date; run bin/lock and commit the changes"])
        )


if __name__ == "__main__":
    main(sys.argv[1:])
